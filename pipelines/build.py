"""The build, step by step: manifest -> codebook -> units and words -> shards. Each step plans its tasks and runs them.

Steps that are more than a map over parts (choosing what is held out, k-means, the text tokenizer, dealing examples to
shards) run here in the driver, once, over part outputs, in bounded memory.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corpus import files, manifest
from corpus.adapters import ADAPTERS, ChannelCheck, Intake
from corpus.audio import decode
from corpus.documents import read_documents, write_documents
from corpus.records import Reject, Utterance
from pipelines import settings as toml
from pipelines.engines.requirements import versions
from pipelines.execution.planner import markers, plan
from pipelines.execution.runner import Engine, run_stage
from pipelines.execution.task import Task, marker, marker_of, sha256, utterance, write_atomically
from pipelines.layout import corpus_hash, map_tasks, origin, part_names, parts
from pipelines.settings import Settings, one_of
from pipelines.steps.assign_shards import deal
from pipelines.steps.interleave import WriteShard, in_writing
from pipelines.steps.split import Split, choose, draw
from pipelines.steps.units import AlignWords, EncodeUnits, SampleFrames

if TYPE_CHECKING:
    from shards.vocabulary import Vocabulary
    from units.encoders import Encoder
    from units.kmeans import Codebook
    from units.quantizers import LinearQuantizer

Say = Callable[[str], None]


def ingest(build: Path, settings: Settings, *, say: Say = lambda line: None) -> dict[str, Any]:
    """Read the source into manifest parts, and text documents into text parts."""
    corpus = settings.corpus
    one_of("corpus.adapter", corpus.adapter, tuple(ADAPTERS))
    channels = ChannelCheck()
    intake = Intake(corpus.duration_tolerance, corpus.channels, corpus.checksum, channels)
    rows = ADAPTERS[corpus.adapter](files.to_path(corpus.source), intake)
    files.make_folder(build)
    summary = manifest.write_manifest(
        rows,
        build / "manifest",
        part_minutes=corpus.part_minutes,
        min_seconds=corpus.min_seconds,
        max_seconds=corpus.max_seconds,
        ids=corpus.ids,
        transcripts="required" if corpus.unaligned == "reject" else "optional",
        growing=True,
    )
    documents = write_documents(
        read_documents([files.to_path(name) for name in settings.text.documents]),
        build / "text",
        duplicates=settings.text.duplicates,
    )
    remember(build, settings)
    said: dict[str, Any] = {
        "utterances": summary.utterances,
        "samples": summary.samples,
        "parts": summary.parts,
    }
    said |= {"rejected": summary.rejected, "documents": documents.documents}
    said |= {"documents_rejected": documents.rejected}
    say(
        f"ingest: {said['utterances']} utterances in {said['parts']} parts, {rejected(summary.rejected)}; "
        f"{documents.documents} documents, {rejected(documents.rejected)}"
    )
    if warning := channels.warning():
        say(f"ingest: warning: {warning}")
    if not summary.utterances:
        first = f"; the first: {summary.first_reject}" if summary.first_reject else ""
        raise ValueError(
            f"{corpus.source}: need a usable utterance, got {summary.rows}, {rejected(summary.rejected)}{first}"
        )
    return said


def rejected(reasons: dict[str, int]) -> str:
    """Counts by reason in words.

    >>> rejected({"audio.missing": 2, "text.empty": 1}), rejected({})
    ('3 rejected (audio.missing 2, text.empty 1)', '0 rejected')
    """
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    return f"{sum(reasons.values())} rejected" + (f" ({told})" if told else "")


def remember(build: Path, settings: Settings) -> None:
    """Write the settings beside what they made."""
    write_atomically(build / "settings.toml", toml.write(settings).encode())


def recall(build: Path) -> Settings:
    """The settings a build was made with."""
    path = build / "settings.toml"
    if not path.is_file():
        raise ValueError(
            f"{build}: no build here (no settings.toml); start one with `wordweave ingest` or `wordweave build`"
        )
    return toml.read(path)


def ready_codebook(build: Path, settings: Settings, engine: Engine, *, say: Say = lambda line: None) -> Path:
    """The codebook of a build that does not ask for a fit: given, fitted or imported before, bundled, or fitted now."""
    if not settings.units.is_bundled:
        return fit_units(build, settings, engine, say=say)
    place_bundled(build, settings)
    path = codebook_path(build, settings)
    open_codebook(path, settings)
    return path


def place_bundled(build: Path, settings: Settings) -> None:
    """Copy the bundled codebook into a build that has none for the bundled encoder."""
    from units.encoders import bundled_codebook, load_encoder
    from units.quantizers import load_codebook

    target = build / "codebooks" / "units.safetensors"
    layer = settings.units.layer_or_last
    content = bundled_codebook(layer).read_bytes()
    digest, held = hashlib.sha256(content).hexdigest(), marker(target) or {}
    if target.exists() and held:
        if held.get("sha256") == digest:
            return
        try:  # fitted or imported here: kept where it fits the encoder
            load_codebook(files.local(target), encoder=load_encoder(settings.units.encoder, layer=layer))
            return
        except ValueError:
            pass
    files.make_folder(target.parent)
    marker_of(target).unlink(missing_ok=True)  # before the data, as in stage.run_task
    write_atomically(target, content)
    write_atomically(marker_of(target), json.dumps({"key": "bundled", "sha256": digest}).encode())


def kept_codebook(build: Path, settings: Settings, *, say: Say = lambda line: None) -> Path | None:
    """The codebook that is given, imported or fitted with these settings; None where one is to be fitted."""
    target = build / "codebooks" / "units.safetensors"
    if settings.units.codebook:
        open_codebook(files.to_path(settings.units.codebook), settings)
        return files.to_path(settings.units.codebook)
    held = marker(target) or {}
    if target.exists() and "imported" in held:
        open_codebook(target, settings)
        say(f"fit units: {target} was imported ({held['imported']}) and stays; remove it to fit one")
        return target
    if target.exists() and held.get("key") == fit_key(frame_sampling(build, settings)[0], build, settings):
        if held.get("corpus") != corpus_hash(build):
            say(f"fit units: {target} stays, fitted before the corpus changed; remove it to fit it anew")
        return target
    return None


def fit_key(stage: SampleFrames, build: Path, settings: Settings) -> str:
    """What decides a fitted codebook: the encoder, the settings of the fit, and where the corpus began."""
    places = ("device", "codebook", "trust_pickle", "encoder", "dtype")
    asked = {name: value for name, value in dataclasses.asdict(settings.units).items() if name not in places}
    said: list[Any] = [stage.name, stage.version, stage.encoder_identity, stage.dtype, asked, origin(build)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def fit_units(build: Path, settings: Settings, engine: Engine, *, say: Say = lambda line: None) -> Path:
    """Draw frames from every part and fit the codebook; an up-to-date, given or imported one is left as it is."""

    from units import kmeans

    kept = kept_codebook(build, settings, say=say)
    if kept is not None:
        return kept
    units, target = settings.units, build / "codebooks" / "units.safetensors"
    stage, encoder = frame_sampling(build, settings)
    fitted, corpus = fit_key(stage, build, settings), corpus_hash(build)
    tasks = map_tasks(build, stage, "frames")
    run_stage(stage, build, tasks, engine)
    features = gather_frames(build, tasks, encoder.dimension, limit=units.fit_frames, seed=units.seed)
    count = len(features)
    if count < units.clusters:
        raise ValueError(
            f"units.clusters: {units.clusters} clusters need at least as many frames, the corpus gave {count}; "
            "add recordings or ask for fewer clusters"
        )
    numbers = f"{count} frames of {encoder.dimension} numbers into {units.clusters} clusters"
    on = "by faiss on the CPU" if kmeans.fit_device() == "cpu" else "by torch on the GPU"
    say(f"fit units: k-means of {numbers}, {on}")
    codebook, reference = (
        kmeans.fit(
            features,
            clusters=units.clusters,
            seed=seed,
            encoder=encoder,
            seeding=units.seeding,
            restarts=units.restarts,
        )
        for seed in (units.seed, units.seed + 1)  # the second says how far inertia hangs on the seed
    )
    save(codebook, target)
    inertias = {
        name: book.provenance["inertia"] for name, book in (("own", codebook), ("second seed", reference))
    }
    said = {"key": fitted, "corpus": corpus, "inertia": inertias, "frames": count}
    write_atomically(marker_of(target), json.dumps(said).encode())
    files.remove_folder(build / "frames")  # features are large and made again at need
    return target


def save(model: Any, target: Path) -> None:
    """Write a fitted model without its done marker, which goes before the data does, as in `stage.run_task`."""
    files.make_folder(target.parent)
    temporary = files.temporary_name(target)
    model.save(temporary)
    marker_of(target).unlink(missing_ok=True)
    files.publish(temporary, target)


def frame_sampling(build: Path, settings: Settings) -> "tuple[SampleFrames, Encoder]":
    """The stage that draws frames for k-means, in single precision whatever units are made with, and its encoder."""
    from units.encoders import load_encoder

    units = settings.units
    dtype = "float32" if units.dtype == "auto" else units.dtype
    encoder = load_encoder(units.encoder, layer=units.layer_or_last, device=units.device, dtype=dtype)
    samples = sum(part.samples for part in parts(build))
    share = min(1.0, units.fit_hours * 3600 * 16_000 / max(samples, 1))
    frames = samples * share / encoder.hop
    stage = SampleFrames(
        units.encoder, units.layer_or_last, dtype, units.device, encoder.identity, units.seed,
        utterance_share=share, frame_share=min(1.0, units.fit_frames / max(frames, 1)),
    )  # fmt: skip
    return stage, encoder


def gather_frames(build: Path, tasks: list[Task], dimension: int, *, limit: int, seed: int) -> np.ndarray:
    """The drawn frames of all parts, (rows, D) float32, rows <= limit: of more, an equal chance for each.

    Memory holds `limit` rows and one block, however many were drawn.
    """
    counts = [(marker(build / task.output) or {}).get("frames", 0) for task in tasks]
    kept = draw_rows(sum(counts), limit, seed)
    features, filled, seen = np.empty((len(kept), dimension), np.float32), 0, 0
    for task in tasks:
        for batch in files.open_table(build / task.output).iter_batches(50_000):
            block = batch.column("frame").flatten().to_numpy().reshape(-1, dimension)
            rows = kept[filled : np.searchsorted(kept, seen + len(block))] - seen
            features[filled : filled + len(rows)] = block[rows]
            filled, seen = filled + len(rows), seen + len(block)
    return features


def draw_rows(count: int, limit: int, seed: int) -> np.ndarray:
    """At most `limit` of the rows 0 to count - 1, in order, every such choice as likely as any other.

    >>> draw_rows(3, 5, 0).tolist(), len(draw_rows(9, 5, 0))
    ([0, 1, 2], 5)
    """
    if count <= limit:
        return np.arange(count)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}|rows".encode()).digest(), "big"))
    return np.sort(rng.choice(count, limit, replace=False, shuffle=False))


def open_codebook(
    path: Path, settings: Settings, dtype: str = "float32"
) -> "tuple[Encoder, Codebook | LinearQuantizer]":
    """The encoder a build's settings name and the codebook in `path`, of ours or of others, if they fit.

    Raises:
        ValueError: the file cannot be read or trusted, was made for another encoder, or has not `units.clusters` units.
    """
    from units.encoders import load_encoder
    from units.quantizers import load_codebook

    units = settings.units
    encoder = load_encoder(units.encoder, layer=units.layer_or_last, device=units.device, dtype=dtype)
    codebook = load_codebook(files.local(path), encoder=encoder, trust_pickle=units.trust_pickle)
    if codebook.clusters != units.clusters:
        raise ValueError(
            f"{path}: has {codebook.clusters} units, units.clusters asks for {units.clusters}; "
            f"set `clusters = {codebook.clusters}`, or fit or import another with `wordweave fit units`"
        )
    return encoder, codebook


def units_stage(build: Path, settings: Settings) -> EncodeUnits:
    """The units stage with the identities of its models."""
    units, codebook = settings.units, codebook_path(build, settings)
    dtype = units_dtype(build, settings)
    encoder, book = open_codebook(codebook, settings, dtype)
    return EncodeUnits(
        units.encoder,
        units.layer_or_last,
        dtype,
        units.device,
        encoder.identity,
        str(codebook),
        book.hash,
        units.trust_pickle,
    )


def units_dtype(build: Path, settings: Settings) -> str:
    """What units are computed in: as asked; "auto" is decided once per model, codebook and device, by measurement."""
    asked = settings.units.dtype
    return measured_dtype(build, settings)["dtype"] if asked == "auto" else asked


def measured_dtype(build: Path, settings: Settings) -> dict[str, Any]:
    """What `dtype = "auto"` comes to, and why; kept in codebooks/dtype.json.

    The first of float16 and bfloat16 in which the device computes fast and fewer than 0.5 % of the units of some
    utterances differ from those of float32.
    """
    from units.encoders import load_encoder
    from units.verify import HALF_LIMIT, choose_dtype, device_name

    units = settings.units
    exact, codebook = open_codebook(codebook_path(build, settings), settings)
    path = build / "codebooks" / "dtype.json"
    device = device_name(units.device)
    asked = [exact.identity, codebook.hash, device, HALF_LIMIT]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError):
        held = {}
    if held.get("key") != key:
        waves = [wave for _, wave in drawn_speech(build, count=16)]
        load = functools.partial(load_encoder, units.encoder, units.layer_or_last, units.device)
        held = {"key": key, "device": device, **choose_dtype(exact, codebook, waves, load)}
        write_atomically(path, json.dumps(held, indent=1, sort_keys=True).encode())
    return held


def drawn_rows(build: Path, count: int, table: str = "manifest") -> list[tuple[str, int]]:
    """(part, row) of the `count` utterances of lowest hash that have no reject in `table`, in order of the manifest."""
    chosen: list[tuple[float, str, int]] = []
    for name in part_names(build):
        ids = files.read_table(build / "manifest" / name, columns=["id"])["id"].to_pylist()
        rejects = files.read_table(build / table / name, columns=["reject"])["reject"].to_pylist()
        chosen += [(draw(0, one), name, row) for row, one in enumerate(ids) if rejects[row] is None]
        chosen = sorted(chosen)[:count]
    return sorted((name, row) for _, name, row in chosen)


def drawn_speech(build: Path, count: int, table: str = "manifest") -> Iterator[tuple[Utterance, np.ndarray]]:
    """The utterances of `drawn_rows` with their waveforms, but for those that cannot be decoded."""
    for name, rows in itertools.groupby(drawn_rows(build, count, table), key=lambda place: place[0]):
        for row in files.read_table(build / "manifest" / name).take([row for _, row in rows]).to_pylist():
            try:
                yield utterance(row), decode(utterance(row))
            except Reject:  # said by the stage that meets it
                continue


def codebook_path(build: Path, settings: Settings) -> Path:
    """The codebook units are made with."""
    path = files.to_path(settings.units.codebook or build / "codebooks" / "units.safetensors")
    if not path.is_file() and settings.units.is_bundled:
        place_bundled(build, settings)
    if not path.is_file():
        raise ValueError(f"{path}: no codebook here; run `wordweave fit units {build}` first")
    return path


def encode(build: Path, settings: Settings, engine: Engine) -> dict[str, int]:
    """Units of every part."""
    stage = units_stage(build, settings)
    return run_stage(stage, build, map_tasks(build, stage, "units"), engine)


def align(build: Path, settings: Settings, engine: Engine) -> dict[str, int]:
    """Word times of every part."""
    stage = align_stage(settings)
    return run_stage(stage, build, map_tasks(build, stage, "words"), engine)


def align_stage(settings: Settings) -> AlignWords:
    """The alignment stage with the identities of its aligners.

    Raises:
        ValueError: no such backend, setting or measure; a tool or model of a backend is not there.
    """
    from aligners import load_aligner
    from aligners.quality import check_limits

    asked = settings.align
    options, second_options = (tuple(sorted(some.items())) for some in (asked.options, asked.second_options))
    first = load_aligner(asked.backend, **dict(options))
    second = load_aligner(asked.second, **dict(second_options)) if asked.second else None
    check_limits(asked.limits, first.measures)
    if "agreement_ms" in asked.limits and second is None:
        raise ValueError("align.limits.agreement_ms: needs a second aligner, set align.second")
    return AlignWords(
        (asked.backend, options),
        first.identity,
        (asked.second, second_options) if second else None,
        second.identity if second else "",
        tuple(sorted((name, tuple(map(float, bounds))) for name, bounds in asked.limits.items())),
    )


def interleave(
    build: Path, settings: Settings, engine: Engine, *, say: Say = lambda line: None
) -> dict[str, Any]:
    """Write the shards: choose what is held out, build the vocabulary, deal examples to shards, write, index."""
    from shards.write import write_index

    stage, vocabulary = shard_stage(build, settings, say=say)
    tasks = deal(build, stage, samples_per_shard=settings.shards.samples)
    if plan(stage, build, tasks).todo:
        (build / "shards" / "index.json").unlink(missing_ok=True)  # no index over half-rewritten shards
    counts = run_stage(stage, build, tasks, engine)
    entries: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for task, entry in markers(build, tasks):
        stream, part = task.arguments[0], task.arguments[1]
        assert entry
        entries.setdefault(stream, {}).setdefault(part, []).append(entry["entry"])
    write_index(build / "shards", entries, vocabulary)
    sweep(build / "shards", {build / task.output for task in tasks})
    provenance(build, settings, stage)
    return counts


def shard_stage(
    build: Path, settings: Settings, *, say: Say = lambda line: None
) -> "tuple[WriteShard, Vocabulary]":
    """The stage that writes shards, and the vocabulary it writes with."""
    split = held_out(build, settings)
    vocabulary = build_vocabulary(build, settings, split, say=say)
    stage = WriteShard(
        vocabulary=str(build / "shards"), vocabulary_hash=vocabulary.hash, writing=settings.text.writing,
        unaligned=settings.corpus.unaligned, split=split, frames=unit_frames(build),
        strategy=settings.interleave.drawn(), seed=settings.interleave.seed, eos=settings.interleave.eos,
        expressive=expressive_tables(settings),
    )  # fmt: skip
    return stage, vocabulary


def held_out(build: Path, settings: Settings) -> Split:
    """The held-out rule, chosen from the manifest alone and written to split.json.

    Once chosen it is kept, whatever recordings come later, as long as its settings are the same and it holds out
    something: what a model was not trained on stays so.
    """

    def usable() -> Iterator[tuple[str, str | None, int]]:
        for name in part_names(build):
            columns = files.read_table(
                build / "manifest" / name, columns=["id", "speaker", "samples", "reject"]
            )
            for row in columns.to_pylist():
                if row["reject"] is None:
                    yield row["id"], row["speaker"], row["samples"]

    shards = settings.shards
    asked = {"by": shards.by, "share": shards.valid, "seed": shards.seed, "origin": origin(build)}
    path = build / "split.json"
    try:
        held = json.loads(path.read_bytes())
        kept = Split(tuple(held["speakers"]), held["share"], held["seed"], held["smallest"])
        same = {name: held.get(name) for name in asked} == asked
        if same and (
            not kept.share or any(kept.of(name, speaker) == "valid" for name, speaker, _ in usable())
        ):
            return kept
    except (OSError, ValueError, KeyError):  # none yet, or of an earlier version
        pass
    split = choose(usable(), by=shards.by, share=shards.valid, seed=shards.seed)
    write_atomically(path, json.dumps({**dataclasses.asdict(split), **asked}, indent=1).encode())
    return split


def unit_frames(build: Path) -> tuple[int, int]:
    """(hop, centre of the first frame) of the units, in samples at 16 kHz, as the units stage noted them."""
    name = part_names(build)[0]
    said = marker(build / "units" / name)
    if said is None:
        raise ValueError(f"{build}: no units here; run `wordweave units {build}` first")
    return said["hop"], said["centre"]


def expressive_tables(settings: Settings) -> tuple[str, ...]:
    """Which of pitch and style go into speech."""
    return tuple(table for table in ("pitch", "style") if getattr(settings, table).use)


def token_codes(build: Path, table: str) -> int:
    """Number of different pitch or style tokens, as their stage noted it."""
    said = marker(build / table / part_names(build)[0])
    if said is None:
        raise ValueError(f"{build}: no {table} here; run `wordweave {table} {build}` first")
    return said["codes"]


def build_vocabulary(build: Path, settings: Settings, split: Split, *, say: Say = lambda line: None) -> Any:
    """The vocabulary in shards/vocabulary.json; trains a BPE on the training texts where no tokenizer is given."""
    from shards.text import load_tokenizer, train_bpe
    from shards.vocabulary import Vocabulary

    text = settings.text
    path = files.to_path(text.tokenizer) if text.tokenizer else build / "tokenizer" / "tokenizer.json"
    if not text.tokenizer:
        asked = [text.size, text.writing, dataclasses.asdict(split), origin(build)]
        wanted, corpus = hashlib.sha256(json.dumps(asked).encode()).hexdigest(), corpus_hash(build)
        held = (marker(path) or {}) if path.exists() else {}
        if held.get("key") != wanted:
            say(f"text: training a BPE of {text.size} pieces on the transcripts and documents")
            temporary = files.temporary_name(path)
            files.make_folder(path.parent)
            train_bpe(training_texts(build, settings, split), temporary, size=text.size)
            marker_of(path).unlink(missing_ok=True)
            files.publish(temporary, path)
            write_atomically(marker_of(path), json.dumps({"key": wanted, "corpus": corpus}).encode())
        elif held.get("corpus") != corpus:
            say(f"text: {path} stays, trained before the corpus changed; remove it to train it anew")
    vocabulary = Vocabulary(
        load_tokenizer(files.local(path)),
        units=settings.units.clusters,
        tasks=settings.interleave.tasks or settings.interleave.strategy == "concatenated",
        **{table: token_codes(build, table) for table in expressive_tables(settings)},
    )
    vocabulary.save(build / "shards")
    return vocabulary


def training_texts(build: Path, settings: Settings, split: Split) -> Iterator[str]:
    """Transcripts and documents that are not held out, in the writing the text stream has."""
    for table in ("manifest", "text"):
        for name in part_names(build, table):
            for row in files.read_table(build / table / name).to_pylist():
                if (
                    row["reject"] is None
                    and row["text"]
                    and split.of(row["id"], row.get("speaker")) == "train"
                ):
                    yield " ".join(in_writing(row["text"], settings.text.writing))


def sweep(folder: Path, wanted: set[Path]) -> None:
    """Remove shards of an earlier plan: a shard that no index names would be read by a glob."""
    for path in folder.glob("*/*.tar"):
        if path not in wanted:
            path.unlink()
            path.with_name(path.name + ".done").unlink(missing_ok=True)


def provenance(build: Path, settings: Settings, stage: WriteShard) -> None:
    """Write provenance.json: versions, commit, hashes of models, codebook and vocabulary."""
    import subprocess

    here = Path(__file__).resolve().parent
    git = subprocess.run(
        ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    codebook = codebook_path(build, settings)
    said = {
        "versions": versions(),
        "commit": git.stdout.strip() or None,
        "codebook": sha256(codebook),
        "units_dtype": units_dtype(build, settings),
        "units_dtype_measured": measured_dtype(build, settings) if settings.units.dtype == "auto" else None,
        "vocabulary": stage.vocabulary_hash,
        "settings": dataclasses.asdict(settings),
    }
    write_atomically(build / "provenance.json", json.dumps(said, indent=1, sort_keys=True).encode())
