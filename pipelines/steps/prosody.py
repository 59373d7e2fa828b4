"""The steps `prosody`, `pitch` and `style`: one decode and one F0 per recording, then tokens relative to speaker means.

    manifest ── prosody (F0 and style features) ──┬── speakers.json ──┬── pitch
                                                  └───────────────────┴── style

The means are a global part: sums per speaker, which the done markers of the prosody parts hold.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from corpus import files
from corpus.keyed import fraction
from pipelines.execution.gpus import worker_device
from pipelines.execution.runner import run_stage
from pipelines.execution.task import Stage, Task, marker_path, publish_model, read_marker
from pipelines.layout import SPEAKERS, finished_parts, origin, part_names, part_tasks, parts, table_tasks
from pipelines.settings import Settings
from pipelines.steps.audio import AudioStage, AudioWorker, Row, decode_batch
from pipelines.steps.base import Run, Step, TableWorker, reject_columns, token_batch, token_schema
from pipelines.steps.codebook import fit_key
from units.prosody import pitch as pitches
from units.prosody import pitch_training
from units.prosody import style as styles
from units.prosody.f0 import F0, extract_batch, identity
from units.prosody.style import ENOUGH
from units.prosody.style_features import FEATURES, pool
from units.prosody.wav2vec2_style import Wav2Vec2Style

PROSODY = pa.schema(
    [
        ("id", pa.string()),
        ("speaker", pa.string()),
        ("samples", pa.int64()),
        ("hertz", pa.list_(pa.float32())),
        ("voiced", pa.list_(pa.bool_())),
        ("style", pa.list_(pa.float32())),  # seconds x features
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
PITCH, STYLE = token_schema("pitch"), token_schema("style")


@dataclass(frozen=True)
class MeasureProsody(AudioStage):
    """Utterances -> F0 every 5 ms and style features every second: all that pitch and style tokens are made from."""

    device: str
    extractor_identity: str
    name: ClassVar[str] = "prosody"
    version: ClassVar[int] = 3  # 3: done markers hold the sums of each speaker
    outside_key: ClassVar[tuple[str, ...]] = ("device",)

    def open(self) -> AudioWorker:
        """One thread each: workers share the cores. Each done marker keeps the sums of the part's speakers."""
        import torch

        torch.set_num_threads(1)
        measure = functools.partial(measure_batch, worker_device(self.device))
        return AudioWorker(self, PROSODY, measure, add_notes=note_speakers)


def measure_batch(device: str, batch: pa.RecordBatch, rows: list[Row]) -> pa.RecordBatch:
    """The prosody of a batch of decoded recordings."""
    waves = [wave for _, wave, _ in rows if wave is not None]
    contours = iter(extract_batch(waves, device=device))
    measured = [None if wave is None else measure(wave, next(contours)) for _, wave, _ in rows]
    columns = [[None if row is None else row[i] for row in measured] for i in range(3)]
    names = ("hertz", "voiced", "style")
    arrays = [pa.array(column, PROSODY.field(name).type) for name, column in zip(names, columns, strict=True)]
    manifest = [batch.column(name) for name in ("id", "speaker", "samples")]
    rejects = reject_columns([reject for _, _, reject in rows])
    return pa.record_batch([*manifest, *arrays, *rejects], schema=PROSODY)


def measure(wave: np.ndarray, f0: F0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F0, voicing and style features of one recording."""
    return f0.hertz, f0.voiced, pool(wave, f0).ravel()


@dataclass(frozen=True)
class MakePitch(Stage):
    """Prosody -> pitch tokens."""

    model: str
    model_hash: str
    speakers: str  # path of their means; those that a part needs are in its task's arguments, by their hash
    name: ClassVar[str] = "pitch"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("model", "speakers")

    def open(self) -> TableWorker:
        """Load the tokenizer; each done marker keeps its number of codes and its rate for vocabulary and shards."""
        tokenizer = pitches.load(files.local(self.model))
        speakers = read_speakers(files.to_path(self.speakers))
        notes = {"codes": tokenizer.codes, "rate": tokenizer.rate}
        return TableWorker(self, PITCH, functools.partial(pitch_batch, tokenizer, speakers), notes=notes)


def pitch_batch(
    tokenizer: pitches.PitchTokenizer, speakers: dict[str, dict[str, Any]], batch: pa.RecordBatch
) -> pa.RecordBatch:
    """Pitch tokens of a batch of the prosody table."""
    tokens = []
    for row in batch.to_pylist():
        mean, f0 = speakers.get(row["speaker"], {}).get("pitch_mean"), row_f0(row)
        tokens.append(None if f0 is None else tokenizer.encode(f0, mean))
    return token_batch(batch, tokens, PITCH)


@dataclass(frozen=True)
class MakeStyle(Stage):
    """Prosody -> style tokens; for a wav2vec2 classifier manifest -> style tokens."""

    codebook: str
    codebook_hash: str
    speakers: str
    name: ClassVar[str] = "style"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("codebook", "speakers")

    def open(self) -> TableWorker:
        """Load the tokenizer; each done marker keeps its number of codes for the vocabulary."""
        import torch

        torch.set_num_threads(1)
        tokenizer = styles.load(files.local(self.codebook))
        speakers = read_speakers(files.to_path(self.speakers))
        if isinstance(tokenizer, Wav2Vec2Style):
            process = functools.partial(classified_style_batch, tokenizer)
        else:
            process = functools.partial(style_batch, tokenizer, speakers)
        return TableWorker(self, STYLE, process, notes={"codes": tokenizer.codes, "rate": 1.0})


def style_batch(
    tokenizer: styles.StyleTokenizer, speakers: dict[str, dict[str, Any]], batch: pa.RecordBatch
) -> pa.RecordBatch:
    """Style tokens of a batch of the prosody table."""
    tokens = []
    for row in batch.to_pylist():
        speaker = speakers.get(row["speaker"])
        mean = None
        if speaker:
            sums = np.array(speaker["style_sum"])
            mean = styles.shrink(sums, speaker["style_seconds"], tokenizer.corpus_mean)
        tokens.append(None if row["style"] is None else tokenizer.assign(row_style(row), mean))
    return token_batch(batch, tokens, STYLE)


def classified_style_batch(tokenizer: Wav2Vec2Style, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Style tokens of a batch of the manifest, by a classifier of waveforms."""
    rows = decode_batch(batch)
    tokens = [None if wave is None else tokenizer.encode(wave) for _, wave, _ in rows]
    rejects = reject_columns([reject for _, _, reject in rows])
    return pa.record_batch(
        [batch.column("id"), pa.array(tokens, STYLE.field(1).type), *rejects], schema=STYLE
    )


def row_f0(row: dict[str, Any]) -> F0 | None:
    """F0 of a row of prosody."""
    if row["hertz"] is None:
        return None
    return F0(np.array(row["hertz"], np.float32), np.array(row["voiced"], bool))


def row_style(row: dict[str, Any]) -> np.ndarray:
    """(S, 27) style features of a row of prosody."""
    return np.array(row["style"], np.float32).reshape(-1, len(FEATURES))


def prosody_tasks(run: Run) -> tuple[Stage, list[Task]]:
    """One task per manifest part."""
    stage = MeasureProsody(run.settings.units.device, identity())
    return stage, part_tasks(run.folder, stage, "prosody")


def read_rows(build: Path, columns: list[str], rows: int = 64) -> Iterator[dict[str, Any]]:
    """Rows of the prosody table in order, a few in memory at a time."""
    for name in part_names(build):
        for batch in files.open_table(build / "prosody" / name).iter_batches(rows, columns=columns):
            yield from batch.to_pylist()


def prepare_tokens(run: Run) -> None:
    """Bring the prosody table and the speakers' means up to date."""
    stage, tasks = prosody_tasks(run)
    run_stage(stage, run.build, tasks, run.engine)
    write_speaker_means(run)


def write_speaker_means(run: Run) -> Path:
    """Sum F0 and style features per speaker over all parts; written to speakers.json.

    `pitch_mean` (Hz) is null for a speaker without a voiced frame; `style_share` is the weight of the speaker's own
    mean, 1 from 16 s of voiced seconds on, the rest being the mean of the codebook's corpus. Utterances without a
    speaker are not in it: their pitch is relative to their own mean, their style to the corpus's.

    A speaker with that much speech keeps these sums when recordings are added: else ten more recordings of each speaker
    would change every token of the build.
    """
    build = run.build
    path = build / SPEAKERS
    fields = [MeasureProsody.name, MeasureProsody.version, identity(), origin(build)]
    key = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    before = read_speakers(path) if path.exists() and (read_marker(path) or {}).get("key") == key else {}
    measured = sum_speakers(marker for _, marker in finished_parts(build, "prosody", "pitch"))
    unchanged = {name: sums for name, sums in before.items() if name in measured and has_enough(sums)}
    changed = sum(measured[name] != sums for name, sums in unchanged.items())
    if changed:
        run.say(
            f"speakers: the means of {changed} are kept, measured before the corpus changed; remove {path} to "
            "measure them again"
        )
    marker_path(path).unlink(missing_ok=True)
    files.write(path, json.dumps(measured | unchanged, indent=0, sort_keys=True).encode())
    files.write(marker_path(path), json.dumps({"key": key}).encode())
    return path


SUMS = ("utterances", "hertz", "frames", "seconds", "style")
"""Of a speaker in a part: utterances, sum of F0 over voiced frames, their number, voiced seconds, style features."""


def note_speakers(notes: dict[str, Any], result: pa.RecordBatch) -> None:
    """Add the rows of a prosody table to `SUMS` of their speakers."""
    speakers = notes.setdefault("speakers", {})
    for row in result.select(["speaker", "hertz", "voiced", "style"]).to_pylist():
        f0 = row_f0(row)
        if row["speaker"] is None or f0 is None:
            continue
        style, seconds = styles.sum_voiced([row_style(row)])
        hertz = float(f0.hertz[f0.voiced].sum(dtype=np.float64))
        add_sums(speakers, row["speaker"], (1, hertz, int(f0.voiced.sum()), seconds, style.tolist()))


def add_sums(speakers: dict[str, Any], name: str, sums: Sequence[Any]) -> None:
    """Add `SUMS` to those that a speaker has."""
    own = speakers.setdefault(name, [0, 0.0, 0, 0, [0.0] * len(FEATURES)])
    *counts, style = sums
    own[:-1] = [before + more for before, more in zip(own[:-1], counts, strict=True)]
    own[-1] = (np.array(own[-1]) + style).tolist()


def sum_speakers(markers: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Speaker -> what speakers.json holds, from the done markers of the prosody table in order."""
    totals: dict[str, Any] = {}
    for marker in markers:
        for name, sums in marker["speakers"].items():
            add_sums(totals, name, sums)
    return {
        name: {
            "utterances": utterances,
            "pitch_mean": hertz / frames if frames else None,
            "voiced_seconds": frames / 200,
            "style_sum": style,
            "style_seconds": seconds,
            "style_share": min(1.0, seconds / ENOUGH),
        }
        for name, (utterances, hertz, frames, seconds, style) in sorted(totals.items())
    }


def has_enough(sums: dict[str, Any]) -> bool:
    """Whether a speaker's means are based on so much speech that more would hardly move them."""
    return min(sums["voiced_seconds"], sums["style_seconds"]) >= ENOUGH


def read_speakers(path: Path) -> dict[str, dict[str, Any]]:
    """What `write_speaker_means` wrote.

    Raises:
        ValueError: there is no such file.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: no speaker means; run `wordweave pitch {path.parent}` first") from None


def model_path(build: Path, setting: str, kind: str) -> str:
    """The model tokens are made with: the settings' own, else the build's, else (empty) the bundled one."""
    fitted = build / "codebooks" / f"{kind}.safetensors"
    return setting or (str(fitted) if fitted.is_file() else "")


def load_pitch(build: Path, settings: Settings) -> pitches.PitchTokenizer:
    """The pitch tokenizer of a build."""
    return pitches.load(files.local(model_path(build, settings.pitch.model, "pitch")))


def load_style(build: Path, settings: Settings) -> styles.StyleTokenizer | Wav2Vec2Style:
    """The style tokenizer of a build."""
    return styles.load(files.local(model_path(build, settings.style.codebook, "style")))


def pitch_tasks(run: Run) -> tuple[Stage, list[Task]]:
    """One task per part of the prosody table."""
    model = model_path(run.folder, run.settings.pitch.model, "pitch")
    digest = load_pitch(run.folder, run.settings).hash
    stage = MakePitch(model, digest, str(run.build / SPEAKERS))
    return stage, token_tasks(run, stage, "prosody")


def style_tasks(run: Run) -> tuple[Stage, list[Task]]:
    """One task per part of the prosody table; of the manifest, for a wav2vec2 classifier."""
    tokenizer = load_style(run.folder, run.settings)
    codebook = model_path(run.folder, run.settings.style.codebook, "style")
    stage = MakeStyle(codebook, tokenizer.hash, str(run.build / SPEAKERS))
    return stage, token_tasks(run, stage, "manifest" if isinstance(tokenizer, Wav2Vec2Style) else "prosody")


def token_tasks(run: Run, stage: MakePitch | MakeStyle, source: str) -> list[Task]:
    """One task per part; its key covers the means of the part's own speakers."""
    speakers = read_speakers(run.build / SPEAKERS)

    def means(names: Iterable[str]) -> str:
        own = {name: speakers.get(name) for name in names}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    arguments = ((means(marker["speakers"]),) for _, marker in finished_parts(run.build, "prosody", "pitch"))
    return table_tasks(run.build, stage, stage.name, source, "pitch", arguments)


# Fitting -----------------------------------------------------------------------------------------------------------


def fit_pitch(run: Run) -> Path:
    """Train the VQ-VAE on F0 sampled from every part; an up-to-date one is kept."""
    settings, path = run.settings.pitch, run.build / "codebooks" / "pitch.safetensors"
    key = prosody_fit_key(run, "pitch")
    if is_fitted(path, key):
        return path
    speakers, contours = read_speakers(write_speaker_means(run)), []
    limit, filled = int(settings.fit_hours * 3600 * 200), 0
    for row in sampled_prosody(run, ["hertz", "voiced"], settings.fit_hours, settings.seed):
        f0 = row_f0(row)
        if f0 is not None and filled < limit:
            contours.append((f0, speakers.get(row["speaker"], {}).get("pitch_mean")))
            filled += len(f0)
    run.say(f"fit pitch: {settings.steps} steps on {filled / 200 / 3600:.2f} h of F0")
    model = pitch_training.fit(contours, steps=settings.steps, seed=settings.seed)
    publish_model(model.save, path, {"key": key})
    return path


def fit_style(run: Run) -> Path:
    """Cluster seconds sampled from every part; they are placed among the styles of the bundled codebook."""
    settings, path = run.settings.style, run.build / "codebooks" / "style.safetensors"
    key = prosody_fit_key(run, "style")
    if is_fitted(path, key):
        return path
    features, speakers = [], []
    for row in sampled_prosody(run, ["style"], settings.fit_hours, settings.seed):
        if row["style"] is not None:
            features.append(row_style(row))
            speakers.append(row["speaker"])
    bundled = styles.load()
    assert isinstance(bundled, styles.StyleTokenizer)
    run.say(f"fit style: k-means of {sum(map(len, features))} seconds into {settings.clusters} clusters")
    model = styles.fit(features, speakers, like=bundled, clusters=settings.clusters, seed=settings.seed)
    publish_model(model.save, path, {"key": key})
    return path


def prosody_fit_key(run: Run, kind: str) -> str:
    """The key of a pitch or style model to fit; the prosody table is brought up to date for it."""
    stage, tasks = prosody_tasks(run)
    run_stage(stage, run.build, tasks, run.engine)
    settings = getattr(run.settings, kind)
    return fit_key(run.build, stage, settings, without=("enabled", "model", "codebook"), more=(identity(),))


def is_fitted(path: Path, key: str) -> bool:
    """Whether a model was fitted with this key."""
    return path.exists() and (read_marker(path) or {}).get("key") == key


def sampled_prosody(run: Run, columns: list[str], hours: float, seed: int) -> Iterator[dict[str, Any]]:
    """A share of the rows that holds about `hours` hours; whether a row is in it depends on (seed, id) alone."""
    samples = sum(part.samples for part in parts(run.build))
    share = min(1.0, hours * 3600 * 16_000 / max(samples, 1))
    for row in read_rows(run.build, ["id", "speaker", *columns]):
        if fraction(seed, "prosody", row["id"]) < share:
            yield row


# Steps -------------------------------------------------------------------------------------------------------------


def any_enabled(settings: Settings) -> bool:
    """Whether pitch or style tokens go into speech."""
    return settings.pitch.enabled or settings.style.enabled


PROSODY_STEP = Step(
    "prosody",
    "Measure F0 and style features",
    table="prosody",
    after=("ingest",),
    wanted=any_enabled,
    tasks=prosody_tasks,
    uses_gpu=True,
    decodes=True,
)
PITCH_STEP = Step(
    "pitch",
    "Make pitch tokens",
    table="pitch",
    after=("ingest", "prosody"),
    wanted=lambda settings: settings.pitch.enabled,
    prepare=prepare_tokens,
    tasks=pitch_tasks,
    reads_all=True,
    member="pitch.npy",
)
STYLE_STEP = Step(
    "style",
    "Make style tokens",
    table="style",
    after=("ingest", "prosody"),
    wanted=lambda settings: settings.style.enabled,
    prepare=prepare_tokens,
    tasks=style_tasks,
    reads_all=True,
    member="style.npy",
)
