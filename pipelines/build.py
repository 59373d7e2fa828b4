"""The build, step by step: manifest -> codebook -> units and words -> shards. Each step plans its tasks and runs them.

Steps that are more than a map over parts (choosing what is held out, k-means, the text tokenizer, dealing examples to
shards) run here in the driver, once, over part outputs, in bounded memory.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from corpus import manifest
from corpus.adapters import ADAPTERS
from corpus.audio import decode
from corpus.documents import read_documents, write_documents
from corpus.records import Reject, Utterance
from pipelines import settings as toml
from pipelines.run import Engine, run_stage
from pipelines.settings import Settings, one_of
from pipelines.shard import WriteShard, in_writing, inputs_of
from pipelines.split import Split, choose, draw
from pipelines.stage import Stage, Task, done, key, marker, sha256, utterance, write_atomically
from pipelines.stages import AlignWords, EncodeUnits, SampleFrames

if TYPE_CHECKING:
    from units.encoders import Encoder
    from units.kmeans import Codebook
    from units.quantizers import LinearQuantizer

Say = Callable[[str], None]


def ingest(build: Path, settings: Settings, *, say: Say = lambda line: None) -> dict[str, Any]:
    """Read the source into manifest parts, and text documents into text parts."""
    corpus = settings.corpus
    one_of("corpus.adapter", corpus.adapter, tuple(ADAPTERS))
    rows = ADAPTERS[corpus.adapter](Path(corpus.source))
    build.mkdir(parents=True, exist_ok=True)
    summary = manifest.write_manifest(
        rows,
        build / "manifest",
        part_minutes=corpus.part_minutes,
        min_seconds=corpus.min_seconds,
        max_seconds=corpus.max_seconds,
        ids=corpus.ids,
        transcripts="required" if corpus.unaligned == "reject" else "optional",
    )
    documents = write_documents(
        read_documents([Path(name) for name in settings.text.documents]),
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
    if not summary.utterances:
        raise ValueError(
            f"{corpus.source}: need a usable utterance, got {summary.rows}, {rejected(summary.rejected)}; "
            f"each stands with its reason in {build / 'manifest'}"
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


def part_names(build: Path, table: str = "manifest") -> list[str]:
    """Names of a table's parts, in order; a missing or broken manifest is said in one line."""
    try:
        listed = json.loads((build / table / f"{table}.json").read_text())["parts"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{build}: no finished {table} here; run `wordweave ingest` first") from error
    return [entry["name"] for entry in listed]


def listed(build: Path, table: str = "manifest") -> dict[str, dict[str, Any]]:
    """Part name -> what the table's summary says of it (rows, samples, sha256)."""
    part_names(build, table)
    return {
        entry["name"]: entry for entry in json.loads((build / table / f"{table}.json").read_text())["parts"]
    }


def map_tasks(build: Path, stage: Stage, table: str) -> list[Task]:
    """One task per manifest part."""
    return [
        Task(f"{table}/{name}", (f"manifest/{name}",), key(stage, [entry["sha256"]]), entry["samples"])
        for name, entry in listed(build).items()
    ]


def fit_units(build: Path, settings: Settings, engine: Engine, *, say: Say = lambda line: None) -> Path:
    """Draw frames from every part and fit the codebook; an up-to-date, given or imported one is left as it is."""
    import faiss

    from units import kmeans

    units = settings.units
    target = build / "codebooks" / "units.safetensors"
    if units.codebook:
        open_codebook(Path(units.codebook), settings)
        return Path(units.codebook)
    held = marker(target) or {}
    if target.exists() and "imported" in held:
        open_codebook(target, settings)
        say(f"fit units: {target} was imported ({held['imported']}) and stays; remove it to fit one")
        return target
    stage, encoder = frame_sampling(build, settings)
    tasks = map_tasks(build, stage, "frames")
    asked = [[task.key for task in tasks], units.clusters, units.seed]
    fitted = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    if target.exists() and held.get("key") == fitted:
        return target
    run_stage(stage, build, tasks, engine)
    features = gather_frames(build, tasks, encoder.dimension, limit=units.fit_frames, seed=units.seed)
    count = len(features)
    if count < units.clusters:
        raise ValueError(
            f"units.clusters: {units.clusters} clusters need at least as many frames, the corpus gave {count}; "
            "add recordings or ask for fewer clusters"
        )
    where = "GPU" if kmeans.fits_on(faiss) == "gpu" else "CPU"
    numbers = f"{count} frames of {encoder.dimension} numbers into {units.clusters} clusters"
    say(f"fit units: k-means of {numbers}, by faiss on the {where}")
    codebook, reference = (
        kmeans.fit(features, clusters=units.clusters, seed=seed, encoder=encoder)
        for seed in (units.seed, units.seed + 1)  # the second says how far inertia hangs on the seed
    )
    target.parent.mkdir(exist_ok=True)
    target.with_name(target.name + ".done").unlink(missing_ok=True)  # before the data, as in stage.run_task
    codebook.save(target)
    inertias = {
        name: book.provenance["inertia"] for name, book in (("own", codebook), ("second seed", reference))
    }
    said = {"key": fitted, "inertia": inertias, "frames": count}
    write_atomically(target.with_name(target.name + ".done"), json.dumps(said).encode())
    shutil.rmtree(build / "frames", ignore_errors=True)  # features are large and made again at need
    return target


def frame_sampling(build: Path, settings: Settings) -> "tuple[SampleFrames, Encoder]":
    """The stage that draws frames for k-means, in single precision whatever units are made with, and its encoder."""
    from units.encoders import load_encoder

    units = settings.units
    dtype = "float32" if units.dtype == "auto" else units.dtype
    encoder = load_encoder(units.encoder, layer=units.layer_or_last, device=units.device, dtype=dtype)
    samples = sum(entry["samples"] for entry in listed(build).values())
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
        for batch in pq.ParquetFile(build / task.output).iter_batches(50_000):
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
    codebook = load_codebook(path, encoder=encoder, trust_pickle=units.trust_pickle)
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
    """What units are computed in: as asked; "auto" is decided once per model, codebook and device, by measurement.

    bfloat16 is taken where the device computes in it and under 0.5 % of the units of some utterances differ from those
    of float32. codebooks/dtype.json holds what was measured.
    """
    from units.encoders import load_encoder
    from units.verify import HALF_LIMIT, choose_dtype, device_name

    units = settings.units
    if units.dtype != "auto":
        return units.dtype
    exact, codebook = open_codebook(codebook_path(build, settings), settings)
    path = build / "codebooks" / "dtype.json"
    device = device_name(units.device)
    asked = [exact.identity, codebook.hash, device, HALF_LIMIT]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    try:
        held = json.loads(path.read_text())
    except (OSError, ValueError):
        held = {}
    if held.get("key") != key:
        waves = [wave for _, wave in drawn_speech(build, count=16)]
        load = functools.partial(load_encoder, units.encoder, units.layer_or_last, units.device)
        held = {"key": key, "device": device, **choose_dtype(exact, codebook, waves, load)}
        write_atomically(path, json.dumps(held, indent=1, sort_keys=True).encode())
    return held["dtype"]


def drawn_rows(build: Path, count: int, table: str = "manifest") -> list[tuple[str, int]]:
    """(part, row) of the `count` utterances of lowest hash that have no reject in `table`, in order of the manifest."""
    chosen: list[tuple[float, str, int]] = []
    for name in part_names(build):
        ids = pq.read_table(build / "manifest" / name, columns=["id"])["id"].to_pylist()
        rejects = pq.read_table(build / table / name, columns=["reject"])["reject"].to_pylist()
        chosen += [(draw(0, one), name, row) for row, one in enumerate(ids) if rejects[row] is None]
        chosen = sorted(chosen)[:count]
    return sorted((name, row) for _, name, row in chosen)


def drawn_speech(build: Path, count: int, table: str = "manifest") -> Iterator[tuple[Utterance, np.ndarray]]:
    """The utterances of `drawn_rows` with their waveforms, but for those that cannot be decoded."""
    for name, rows in itertools.groupby(drawn_rows(build, count, table), key=lambda place: place[0]):
        for row in pq.read_table(build / "manifest" / name).take([row for _, row in rows]).to_pylist():
            try:
                yield utterance(row), decode(utterance(row))
            except Reject:  # said by the stage that meets it
                continue


def codebook_path(build: Path, settings: Settings) -> Path:
    """The codebook units are made with."""
    path = Path(settings.units.codebook or build / "codebooks" / "units.safetensors")
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
    from shards.write import SPLITS, STREAMS, write_index

    split = held_out(build, settings)
    vocabulary = build_vocabulary(build, settings, split, say=say)
    stage = WriteShard(
        vocabulary=str(build / "shards"), vocabulary_hash=vocabulary.hash, writing=settings.text.writing,
        unaligned=settings.corpus.unaligned, split=split, frames=unit_frames(build),
        strategy=settings.interleave.drawn(), seed=settings.interleave.seed, eos=settings.interleave.eos,
        expressive=expressive_tables(settings),
    )  # fmt: skip
    hashes = part_hashes(build, stage.expressive)
    tasks = [
        task
        for stream in STREAMS
        for part in SPLITS
        for task in deal(build, settings, stage, stream, part, hashes)
    ]
    if not all(done(build, task) for task in tasks):
        (build / "shards" / "index.json").unlink(missing_ok=True)  # no index over half-rewritten shards
    counts = run_stage(stage, build, tasks, engine)
    entries: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for task in tasks:
        stream, part = task.arguments[0], task.arguments[1]
        entry = marker(build / task.output)
        assert entry is not None
        entries.setdefault(stream, {}).setdefault(part, []).append(entry["entry"])
    write_index(build / "shards", entries, vocabulary)
    sweep(build / "shards", {build / task.output for task in tasks})
    provenance(build, settings, stage)
    return counts


def held_out(build: Path, settings: Settings) -> Split:
    """The held-out rule, chosen from the manifest alone and written to split.json."""

    def usable() -> Iterator[tuple[str, str | None, int]]:
        for name in part_names(build):
            columns = pq.read_table(build / "manifest" / name, columns=["id", "speaker", "samples", "reject"])
            for row in columns.to_pylist():
                if row["reject"] is None:
                    yield row["id"], row["speaker"], row["samples"]

    shards = settings.shards
    split = choose(usable(), by=shards.by, share=shards.valid, seed=shards.seed)
    write_atomically(build / "split.json", json.dumps(dataclasses.asdict(split), indent=1).encode())
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
    path = Path(text.tokenizer) if text.tokenizer else build / "tokenizer" / "tokenizer.json"
    if not text.tokenizer:
        parts = [entry["sha256"] for table in ("manifest", "text") for entry in listed(build, table).values()]
        asked = [text.size, text.writing, dataclasses.asdict(split), parts]
        wanted = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        if not path.exists() or (marker(path) or {}).get("key") != wanted:
            say(f"text: training a BPE of {text.size} pieces on the transcripts and documents")
            path.with_name(path.name + ".done").unlink(missing_ok=True)
            path.parent.mkdir(exist_ok=True)
            train_bpe(training_texts(build, settings, split), path, size=text.size)
            write_atomically(path.with_name(path.name + ".done"), json.dumps({"key": wanted}).encode())
    vocabulary = Vocabulary(
        load_tokenizer(path),
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
            for row in pq.read_table(build / table / name).to_pylist():
                if (
                    row["reject"] is None
                    and row["text"]
                    and split.of(row["id"], row.get("speaker")) == "train"
                ):
                    yield " ".join(in_writing(row["text"], settings.text.writing))


def deal(
    build: Path, settings: Settings, stage: WriteShard, stream: str, part: str, hashes: dict[str, str]
) -> list[Task]:
    """Deal the examples of one stream and split to shards of equal size, in manifest order.

    A shard is named by the row ranges it takes from each part, so that planning needs a few columns and no memory that
    grows with the corpus but the list of shards.
    """
    shards: list[list[tuple[str, str, int, int]]] = []
    lengths: list[int] = []
    filled = settings.shards.samples
    sources = [("manifest", name) for name in part_names(build)]
    sources += [("text", name) for name in part_names(build, "text")] if stream == "text" else []
    for table, name in sources:
        for row, samples in stage.accepted(build, table, name, stream, part):
            if filled == settings.shards.samples:
                shards.append([])
                lengths.append(0)
                filled = 0
            pieces = shards[-1]
            if pieces and pieces[-1][:2] == (table, name):
                pieces[-1] = (table, name, pieces[-1][2], row + 1)
            else:
                pieces.append((table, name, row, row + 1))
            filled += 1
            lengths[-1] += samples
    tasks = []
    for index, (pieces, samples) in enumerate(zip(shards, lengths, strict=True)):
        inputs = tuple(
            path for table, name, _, _ in pieces for path in inputs_of(table, name, stage.expressive)
        )
        arguments = (stream, part, tuple(pieces))
        made = key(stage, [hashes[path] for path in inputs], arguments)
        tasks.append(Task(f"shards/{stream}/{part}-{index:06d}.tar", inputs, made, samples, arguments))
    return tasks


def part_hashes(build: Path, expressive: tuple[str, ...] = ()) -> dict[str, str]:
    """sha256 of every finished part, from the notes made when it was written; an unfinished one is said in one line."""
    hashes: dict[str, str] = {}
    for table in ("manifest", "text"):
        hashes |= {f"{table}/{name}": entry["sha256"] for name, entry in listed(build, table).items()}
    for name in part_names(build):
        for table, command in (
            ("units", "units"),
            ("words", "align"),
            *zip(expressive, expressive, strict=True),
        ):
            said = marker(build / table / name)
            if said is None:
                raise ValueError(f"{table}/{name}: not finished; run `wordweave {command} {build}` first")
            hashes[f"{table}/{name}"] = said["sha256"]
    return hashes


def sweep(folder: Path, wanted: set[Path]) -> None:
    """Remove shards of an earlier plan: a shard that no index names would be read by a glob."""
    for path in folder.glob("*/*.tar"):
        if path not in wanted:
            path.unlink()
            path.with_name(path.name + ".done").unlink(missing_ok=True)


def provenance(build: Path, settings: Settings, stage: WriteShard) -> None:
    """Write provenance.json: versions, commit, hashes of models, codebook and vocabulary."""
    import importlib.metadata
    import subprocess

    names = (
        "wordweave",
        "torch",
        "torchaudio",
        "apache-beam",
        "faiss-cpu",
        "pocketsphinx",
        "webdataset",
        "numpy",
        "pyarrow",
    )
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    here = Path(__file__).resolve().parent
    git = subprocess.run(
        ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    codebook = codebook_path(build, settings)
    said = {
        "versions": versions,
        "commit": git.stdout.strip() or None,
        "codebook": sha256(codebook),
        "units_dtype": units_dtype(build, settings),
        "vocabulary": stage.vocabulary_hash,
        "settings": dataclasses.asdict(settings),
    }
    write_atomically(build / "provenance.json", json.dumps(said, indent=1, sort_keys=True).encode())
