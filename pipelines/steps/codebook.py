"""The step `fit units`: the codebook, given, imported, bundled or fitted on frames sampled from all parts."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files
from corpus.keyed import fraction, generator
from corpus.prefetch import prefetch
from corpus.records import SAMPLE_RATE
from pipelines.execution.gpus import worker_device
from pipelines.execution.planner import Plan, plan
from pipelines.execution.runner import build_lock, run_stage
from pipelines.execution.task import (
    FileWorker,
    Stage,
    Task,
    make_task,
    publish_model,
    read_marker,
    sha256,
)
from pipelines.layout import CODEBOOK, DTYPE, FRAMES, Part, corpus_hash, origin, part_tasks, parts
from pipelines.settings import Settings, replace, write_settings
from pipelines.steps.audio import Row, decode_batch, sampled_speech
from pipelines.steps.base import Run, Step, batches

if TYPE_CHECKING:
    from units.encoders import Encoder
    from units.kmeans import Codebook
    from units.quantizers import LinearQuantizer


@dataclass(frozen=True)
class SampleFrames(Stage):
    """Utterances -> a random share of their feature frames, for k-means: (rows, D) float32.

    Whether an utterance and a frame is sampled depends on (seed, id) alone, so that any engine and worker count samples
    the same frames.
    """

    encoder: str
    layer: int | None
    dtype: str
    device: str
    encoder_identity: str
    seed: int
    utterance_share: float
    frame_share: float
    name: ClassVar[str] = "fit units"
    version: ClassVar[int] = 3  # 3: randomness of corpus.keyed
    outside_key: ClassVar[tuple[str, ...]] = ("encoder", "device")

    @property
    def uses_gpu(self) -> bool:
        """Whether its device is a GPU."""
        return self.device.startswith("cuda")

    def open(self) -> FileWorker:
        """Load the encoder."""
        encoder = single_threaded_encoder(self.encoder, self.layer, self.device, self.dtype)
        return FileWorker(self, functools.partial(self.write_frames, encoder))

    def write_frames(self, encoder: Any, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the sampled frames of one manifest part as a Parquet column of fixed-size lists."""
        column = pa.list_(pa.float32(), encoder.dimension)
        schema, count = pa.schema([("frame", column)]), 0
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for rows in prefetch(map(self.sample_rows, batches(files.read_table(build / task.inputs[0])))):
                features = encode_frames(encoder, [wave for _, wave, _ in rows if wave is not None])
                for (utterance, _, _), frames in zip(rows, features, strict=True):
                    assert utterance is not None
                    rng = generator(self.seed, "frames", utterance.id)
                    chosen = rng.random(len(frames)) < self.frame_share
                    chosen_frames = np.ascontiguousarray(frames[chosen], np.float32)
                    flat = pa.FixedSizeListArray.from_arrays(pa.array(chosen_frames.ravel()), type=column)
                    writer.write_batch(pa.record_batch([flat], schema=schema))
                    count += len(chosen_frames)
        return {"frames": count}

    def sample_rows(self, batch: pa.RecordBatch) -> list[Row]:
        """The sampled utterances of a batch that can be decoded."""
        ids = batch.column("id").to_pylist()
        chosen = [fraction(self.seed, "fit units", name) < self.utterance_share for name in ids]
        return [row for row in decode_batch(batch.filter(pa.array(chosen))) if row[1] is not None]


def single_threaded_encoder(name: str, layer: int | None, device: str, dtype: str) -> Any:
    """Load an encoder in a worker, one thread each: workers share the cores, and results depend on no core count."""
    import torch

    from units.encoders import load_encoder

    torch.set_num_threads(1)
    return load_encoder(name, layer=layer, device=worker_device(device), dtype=dtype)


def encode_frames(encoder: Any, waves: list[np.ndarray]) -> list[np.ndarray]:
    """Frames of each recording; none of one that the units stage will reject."""
    try:
        features = encoder.encode(waves)
    except ValueError:  # one of them
        if len(waves) == 1:
            return [np.zeros((0, encoder.dimension), np.float32)]
        features = [frames for wave in waves for frames in encode_frames(encoder, [wave])]
    return [frames if np.isfinite(frames).all() else frames[:0] for frames in features]


def ready_codebook(run: Run) -> dict[str, Any]:
    """The codebook of a build that does not ask for a fit: given, fitted or imported before, bundled, or fitted now."""
    if not run.settings.units.is_bundled:
        return {"codebook": str(fit_units(run))}
    place_bundled(run.folder, run.settings)
    path = codebook_path(run.folder, run.settings)
    open_codebook(path, run.settings)
    return {"codebook": str(path)}


def plan_codebook(run: Run) -> Plan:
    """What the step would do: nothing, or sample frames and fit."""
    if run.settings.units.is_bundled:
        place_bundled(run.folder, run.settings)
    elif kept_codebook(run) is None:
        stage, _ = frame_sampling(run)
        return plan(stage, run.build, frame_tasks(run, stage))
    return Plan("fit units", up_to_date=1)


def place_bundled(build: Path, settings: Settings) -> None:
    """Copy the bundled codebook into a build that has none for the bundled encoder."""
    from units.encoders import bundled_codebook, load_encoder
    from units.quantizers import load_codebook

    target = build / CODEBOOK
    layer = settings.units.layer_or_last
    content = bundled_codebook(layer, settings.units.encoder).read_bytes()
    digest, marker = hashlib.sha256(content).hexdigest(), read_marker(target) or {}
    if target.exists() and marker:
        if marker.get("sha256") == digest:
            return
        try:  # fitted or imported here: kept where it fits the encoder
            load_codebook(files.local(target), encoder=load_encoder(settings.units.encoder, layer=layer))
            return
        except ValueError:
            pass
    publish_model(lambda path: path.write_bytes(content), target, {"key": "bundled", "sha256": digest})


def kept_codebook(run: Run) -> Path | None:
    """The codebook that is given, imported or fitted with these settings; None where one is to be fitted."""
    build, settings = run.folder, run.settings
    target = build / CODEBOOK
    if settings.units.codebook:
        path = files.to_path(settings.units.codebook)
        open_codebook(path, settings)
        return path
    marker = (read_marker(target) or {}) if target.exists() else {}
    if "imported" in marker:
        open_codebook(target, settings)
        run.say(f"fit units: {target} was imported ({marker['imported']}) and is kept; remove it to fit one")
        return target
    if marker and marker.get("key") == codebook_key(run, frame_sampling(run)[0]):
        if marker.get("corpus") != corpus_hash(build):
            run.say(
                f"fit units: {target} is kept, fitted before the corpus changed; remove it to fit it again"
            )
        return target
    return None


def fit_key(build: Path, stage: Stage, settings: Any, *, without: tuple[str, ...], more: tuple = ()) -> str:
    """What decides a fitted model: the stage its data come from, the settings of the fit, and the corpus's origin.

    A model that was fitted is kept when recordings are added; it is fitted again when what decides it changes.

    Args:
        without: names of settings that cannot change the model, such as whether its tokens are used.
    """
    used = {name: value for name, value in dataclasses.asdict(settings).items() if name not in without}
    fields = [stage.name, stage.version, used, origin(build), *more]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def codebook_key(run: Run, stage: SampleFrames) -> str:
    """What decides a fitted codebook."""
    without = ("device", "codebook", "trust_pickle", "encoder", "dtype")
    more = (stage.encoder_identity, stage.dtype)
    return fit_key(run.folder, stage, run.settings.units, without=without, more=more)


def fit_units(run: Run) -> Path:
    """Sample frames from every part and fit the codebook; an up-to-date, given or imported one is kept."""
    from units import kmeans

    earlier = kept_codebook(run)
    if earlier is not None:
        return earlier
    build, units, target = run.build, run.settings.units, run.build / CODEBOOK
    stage, encoder = frame_sampling(run)
    key, corpus = codebook_key(run, stage), corpus_hash(build)
    tasks = frame_tasks(run, stage)
    run_stage(stage, build, tasks, run.engine)
    features = gather_frames(build, tasks, encoder.dimension, limit=units.fit_frames, seed=units.seed)
    count = len(features)
    if count < units.clusters:
        raise ValueError(
            f"units.clusters: {units.clusters} clusters need at least as many frames, the corpus gave {count}; "
            "add recordings or set fewer clusters"
        )
    device = "by faiss on the CPU" if kmeans.fit_device() == "cpu" else "by torch on the GPU"
    run.say(
        f"fit units: k-means of {count} frames of {encoder.dimension} numbers into {units.clusters} clusters, "
        f"{device}"
    )
    codebook, reference = (
        kmeans.fit(
            features,
            clusters=units.clusters,
            seed=seed,
            encoder=encoder,
            seeding=units.seeding,
            restarts=units.restarts,
        )
        for seed in (units.seed, units.seed + 1)  # the second shows how far inertia depends on the seed
    )
    fits = {"own": codebook, "second seed": reference}
    inertia = {name: fit.provenance["inertia"] for name, fit in fits.items()}
    marker = {"key": key, "corpus": corpus, "inertia": inertia, "frames": count}
    publish_model(codebook.save, target, marker)
    files.remove_folder(build / FRAMES)  # features are large and made again at need
    return target


def import_codebook(
    build: Path, settings: Settings, source: Path, *, trust_pickle: bool = False, tap: str = "after-residual"
) -> dict[str, Any]:
    """Check an existing codebook and copy it to codebooks/units.safetensors, bound to the build's encoder.

    The build's settings then name its number of units. `fit_units` keeps it.

    Args:
        tap: of `units.kmeans.TAPS`: where its features were taken, which its file may not state.

    Raises:
        ValueError: it was fitted on features of another tap than the encoder's; it cannot be read, needs trust, or does
            not fit the encoder; names the file.
    """
    from units.encoders import load_encoder
    from units.kmeans import TAPS, check_encoder
    from units.quantizers import load_codebook

    units = settings.units
    encoder = load_encoder(units.encoder, units.layer_or_last, dtype=fit_dtype(settings))
    codebook = load_codebook(source, encoder=encoder, trust_pickle=trust_pickle)
    source_fields = {"imported": source.name, "sha256": sha256(source)}
    if tap != TAPS[0]:
        check_encoder(dataclasses.replace(codebook, provenance={**codebook.provenance, "tap": tap}), encoder)
    codebook = dataclasses.replace(codebook, provenance={**codebook.provenance, **source_fields})
    with build_lock(build):
        publish_model(codebook.save, build / CODEBOOK, {"key": "imported", **source_fields})
        write_settings(build, replace(settings, "units", clusters=codebook.clusters, codebook=""))
    return {"codebook": str(build / CODEBOOK), "imported": str(source), "clusters": codebook.clusters}


def fit_dtype(settings: Settings) -> str:
    """What frames for k-means are computed in: single precision where units may be made in less."""
    return "float32" if settings.units.dtype == "auto" else settings.units.dtype


def frame_sampling(run: Run) -> "tuple[SampleFrames, Encoder]":
    """The stage that samples frames for k-means, and its encoder."""
    from units.encoders import load_encoder

    units, dtype = run.settings.units, fit_dtype(run.settings)
    encoder = load_encoder(units.encoder, layer=units.layer_or_last, dtype=dtype)
    samples = sum(part.samples for part in sampled_parts(run))
    share = min(1.0, units.fit_hours * 3600 * SAMPLE_RATE / max(samples, 1))
    frames = samples * share / encoder.hop
    stage = SampleFrames(
        units.encoder, units.layer_or_last, dtype, units.device, encoder.identity, units.seed,
        utterance_share=share, frame_share=min(1.0, units.fit_frames / max(frames, 1)),
    )  # fmt: skip
    return stage, encoder


def sampled_parts(run: Run) -> list[Part]:
    """The parts that frames are sampled from, in order: of lowest hash, until they hold 5 x `fit_hours`.

    A large corpus is not mapped whole for 20 hours of it; a small one is.
    """
    units, listed = run.settings.units, parts(run.folder)
    chosen, samples = set(), 0
    for part in sorted(listed, key=lambda part: fraction(units.seed, "fit parts", part.name)):
        if samples >= 5 * units.fit_hours * 3600 * SAMPLE_RATE:
            break
        chosen.add(part.name)
        samples += part.samples
    return [part for part in listed if part.name in chosen]


def frame_tasks(run: Run, stage: SampleFrames) -> list[Task]:
    """One task per sampled part."""
    names = {f"{FRAMES}/{part.name}" for part in sampled_parts(run)}
    return [task for task in part_tasks(run.folder, stage, FRAMES) if task.output in names]


def gather_frames(build: Path, tasks: list[Task], dimension: int, *, limit: int, seed: int) -> np.ndarray:
    """The sampled frames of all parts, (rows, D) float32, rows <= limit: of more, an equal chance for each.

    Memory holds `limit` rows and one block, however many were sampled.
    """
    counts = [(read_marker(build / task.output) or {}).get("frames", 0) for task in tasks]
    chosen = subsample_rows(sum(counts), limit, seed)
    features, filled, seen = np.empty((len(chosen), dimension), np.float32), 0, 0
    for task in tasks:
        for batch in files.open_table(build / task.output).iter_batches(50_000):
            block = batch.column("frame").flatten().to_numpy().reshape(-1, dimension)
            rows = chosen[filled : np.searchsorted(chosen, seen + len(block))] - seen
            features[filled : filled + len(rows)] = block[rows]
            filled, seen = filled + len(rows), seen + len(block)
    return features


def subsample_rows(count: int, limit: int, seed: int) -> np.ndarray:
    """At most `limit` of the rows 0 to count - 1, in order, every such choice as likely as any other.

    >>> subsample_rows(3, 5, 0).tolist(), len(subsample_rows(9, 5, 0))
    ([0, 1, 2], 5)
    """
    if count <= limit:
        return np.arange(count)
    return np.sort(generator(seed, "rows").choice(count, limit, replace=False, shuffle=False))


def open_codebook(
    path: Path, settings: Settings, dtype: str = "float32", device: str = "cpu"
) -> "tuple[Encoder, Codebook | LinearQuantizer]":
    """The encoder a build's settings name and the codebook in `path`, of any known format, if they fit.

    Identities, hop and dimension need no device: the driver loads models on its CPU, workers on `units.device`.

    Raises:
        ValueError: the file cannot be read or trusted, was made for another encoder, or has not `units.clusters` units.
    """
    from units.encoders import load_encoder
    from units.quantizers import load_codebook

    units = settings.units
    encoder = load_encoder(units.encoder, layer=units.layer_or_last, device=device, dtype=dtype)
    codebook = load_codebook(files.local(path), encoder=encoder, trust_pickle=units.trust_pickle)
    if codebook.clusters != units.clusters:
        raise ValueError(
            f"{path}: has {codebook.clusters} units, units.clusters is {units.clusters}; "
            f"set `clusters = {codebook.clusters}`, or fit or import another with `wordweave fit units`"
        )
    return encoder, codebook


def codebook_path(build: Path, settings: Settings) -> Path:
    """The codebook units are made with."""
    path = files.to_path(settings.units.codebook or build / CODEBOOK)
    if not path.is_file() and settings.units.is_bundled:
        place_bundled(build, settings)
    if not path.is_file():
        raise ValueError(f"{path}: no codebook here; run `wordweave fit units {build}` first")
    return path


def open_models(build: Path, settings: Settings) -> "tuple[Encoder, Codebook | LinearQuantizer]":
    """The encoder and codebook a build's units are made with, on `units.device` where this process has it."""
    import torch

    device = settings.units.device
    device = "cpu" if device.startswith("cuda") and not torch.cuda.is_available() else device
    return open_codebook(codebook_path(build, settings), settings, units_dtype(build, settings), device)


@dataclass(frozen=True)
class ChooseDtype(Stage):
    """What `dtype = "auto"` resolves to, measured by a worker on its device: codebooks/dtype.json.

    The first of float16 and bfloat16 in which the device computes fast and fewer than 0.5 % of the units of some
    utterances differ from those of float32.
    """

    encoder: str
    layer: int | None
    device: str
    encoder_identity: str
    codebook: str
    codebook_hash: str
    trust_pickle: bool
    limit: float
    name: ClassVar[str] = "units.dtype"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("encoder", "codebook", "trust_pickle")

    @property
    def uses_gpu(self) -> bool:
        """Whether its device is a GPU."""
        return self.device.startswith("cuda")

    def open(self) -> FileWorker:
        """Models are loaded by the only task."""
        return FileWorker(self, self.measure)

    def measure(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Encode some utterances of the build in each precision."""
        from units.quantizers import load_codebook
        from units.verify import choose_dtype, device_name

        load = functools.partial(single_threaded_encoder, self.encoder, self.layer, self.device)
        codebook = load_codebook(files.local(files.to_path(self.codebook)), trust_pickle=self.trust_pickle)
        waves = [wave for _, wave in sampled_speech(build, count=16)]
        result = {"device": device_name(self.device), **choose_dtype(load("float32"), codebook, waves, load)}
        temporary.write_bytes(json.dumps(result, indent=1, sort_keys=True).encode())
        return {}


def dtype_task(run: Run) -> tuple[ChooseDtype, list[Task]]:
    """The one task that measures the dtype."""
    from units.verify import HALF_LIMIT

    units, path = run.settings.units, codebook_path(run.folder, run.settings)
    encoder, codebook = open_codebook(path, run.settings)
    stage = ChooseDtype(
        units.encoder, units.layer_or_last, units.device, encoder.identity, str(path), codebook.hash,
        units.trust_pickle, HALF_LIMIT,
    )  # fmt: skip
    return stage, [make_task(stage, DTYPE, {}, 0)]


def measure_dtype(run: Run) -> None:
    """Bring the measurement of `dtype = "auto"` up to date."""
    if run.settings.units.dtype == "auto":
        stage, tasks = dtype_task(run)
        run_stage(stage, run.build, tasks, run.engine)


def units_dtype(build: Path, settings: Settings) -> str:
    """What units are computed in; "auto" is measured once per model, codebook and device.

    Raises:
        ValueError: it is not measured yet.
    """
    if settings.units.dtype != "auto":
        return settings.units.dtype
    return measured_dtype(build)["dtype"]


def measured_dtype(build: Path) -> dict[str, Any]:
    """The result of `ChooseDtype`."""
    try:
        return json.loads((build / DTYPE).read_bytes())
    except (OSError, ValueError):
        raise ValueError(
            f'{build / DTYPE}: units.dtype = "auto" is not measured yet; run `wordweave units {build}` first'
        ) from None


CODEBOOK_STEP = Step(
    "fit units",
    "Fit or take the codebook of units",
    after=("ingest",),
    once=ready_codebook,
    plan=plan_codebook,
    uses_gpu=True,
)
