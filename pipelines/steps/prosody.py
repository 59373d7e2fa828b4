"""Pitch and style of a build: one decode and one F0 per recording, then tokens measured from each speaker's means.

    manifest ── prosody (F0 and style features) ──┬── speakers.json ──┬── pitch
                                                  └───────────────────┴── style

The means are a global step: sums per speaker over part outputs, read a batch at a time.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from corpus import files
from pipelines.build import Say, save, units_stage
from pipelines.execution.runner import Engine, run_stage
from pipelines.execution.task import TableStage, Task, marker, marker_of, task_of, write_atomically
from pipelines.layout import map_tasks, origin, part_names, parts
from pipelines.settings import Settings
from pipelines.steps.fused import run_together
from pipelines.steps.units import ListeningStage, Row, decoded, reasons
from units.prosody import pitch as pitches
from units.prosody import pitch_training
from units.prosody import style as styles
from units.prosody.f0 import F0, extract, identity
from units.prosody.style import ENOUGH, FEATURES
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
SPEAKERS = "speakers.json"


def token_schema(name: str) -> pa.Schema:
    """Of the tables pitch and style."""
    return pa.schema(
        [("id", pa.string()), (name, pa.list_(pa.int16())), ("reject", pa.string()), ("detail", pa.string())]
    )


@dataclass(frozen=True)
class MeasureProsody(ListeningStage):
    """Utterances -> F0 every 5 ms and style features every second: all that pitch and style tokens are made from."""

    device: str
    extractor_identity: str
    name: ClassVar[str] = "prosody"
    version: ClassVar[int] = 2
    outside_key: ClassVar[tuple[str, ...]] = ("device",)
    schema: ClassVar[pa.Schema] = PROSODY

    def setup(self) -> None:
        import torch

        torch.set_num_threads(1)

    def made(self, batch: pa.RecordBatch, rows: list[Row]) -> pa.RecordBatch:
        """The prosody of a batch whose recordings are decoded."""
        found = [None if wave is None else self.measure(wave) for _, wave, _ in rows]
        columns = [[None if row is None else row[i] for row in found] for i in range(3)]
        names = ("hertz", "voiced", "style")
        arrays = [
            pa.array(column, PROSODY.field(name).type) for name, column in zip(names, columns, strict=True)
        ]
        said = [batch.column(name) for name in ("id", "speaker", "samples")]
        return pa.record_batch([*said, *arrays, *reasons([reject for _, _, reject in rows])], schema=PROSODY)

    def measure(self, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """F0, voicing and style features of one recording."""
        f0 = extract(wave, device=self.device)
        return f0.hertz, f0.voiced, styles.pool(wave, f0).ravel()


@dataclass(frozen=True)
class MakePitch(TableStage):
    """Prosody -> pitch tokens."""

    model: str
    model_hash: str
    speakers: (
        str  # place of the speakers' means; the ones a part needs are in its task's arguments, by their hash
    )
    name: ClassVar[str] = "pitch"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("model", "speakers")
    schema: ClassVar[pa.Schema] = token_schema("pitch")

    def setup(self) -> None:
        object.__setattr__(self, "_tokenizer", pitches.load(files.local(self.model)))
        object.__setattr__(self, "_speakers", read_speakers(files.to_path(self.speakers)))

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Note the number of codes beside the part: the vocabulary needs it."""
        return {**super().make(build, task, temporary), "codes": self._tokenizer.codes}  # type: ignore[attr-defined]

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        found = []
        for row in batch.to_pylist():
            mean = self._speakers.get(row["speaker"], {}).get("pitch_mean")  # type: ignore[attr-defined]
            f0 = contour(row)
            found.append(None if f0 is None else self._tokenizer.encode(f0, mean))  # type: ignore[attr-defined]
        return token_batch(batch, found, self.schema)


@dataclass(frozen=True)
class MakeStyle(TableStage):
    """Prosody -> style tokens; for a wav2vec2 classifier manifest -> style tokens."""

    codebook: str
    codebook_hash: str
    speakers: str
    name: ClassVar[str] = "style"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("codebook", "speakers")
    schema: ClassVar[pa.Schema] = token_schema("style")

    def setup(self) -> None:
        import torch

        torch.set_num_threads(1)
        object.__setattr__(self, "_tokenizer", styles.load(files.local(self.codebook)))
        object.__setattr__(self, "_speakers", read_speakers(files.to_path(self.speakers)))

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Note the number of codes beside the part: the vocabulary needs it."""
        return {**super().make(build, task, temporary), "codes": self._tokenizer.codes}  # type: ignore[attr-defined]

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        tokenizer = self._tokenizer  # type: ignore[attr-defined]
        if isinstance(tokenizer, Wav2Vec2Style):
            rows = list(decoded(batch))
            found = [None if wave is None else tokenizer.encode(wave) for _, wave, _ in rows]
            return pa.record_batch(
                [
                    batch.column("id"),
                    pa.array(found, pa.list_(pa.int16())),
                    *reasons([row[2] for row in rows]),
                ],
                schema=self.schema,
            )
        found = []
        for row in batch.to_pylist():
            if row["style"] is None:
                found.append(None)
                continue
            said = self._speakers.get(row["speaker"])  # type: ignore[attr-defined]
            mean = said and styles.shrunk(
                np.array(said["style_sum"]), said["style_seconds"], tokenizer.corpus_mean
            )
            found.append(tokenizer.assign(style_features(row), mean))
        return token_batch(batch, found, self.schema)


def contour(row: dict[str, Any]) -> F0 | None:
    """F0 of a row of prosody."""
    if row["hertz"] is None:
        return None
    return F0(np.array(row["hertz"], np.float32), np.array(row["voiced"], bool))


def style_features(row: dict[str, Any]) -> np.ndarray:
    """(S, 27) of a row of prosody."""
    return np.array(row["style"], np.float32).reshape(-1, len(FEATURES))


def token_batch(batch: pa.RecordBatch, tokens: list[np.ndarray | None], schema: pa.Schema) -> pa.RecordBatch:
    """Rows of tokens; what was rejected before stays so, with its reason."""
    columns = [batch.column("id"), pa.array(tokens, schema.field(1).type)]
    return pa.record_batch([*columns, batch.column("reject"), batch.column("detail")], schema=schema)


# Steps -------------------------------------------------------------------------------------------------------------


def units_and_prosody(build: Path, settings: Settings, engine: Engine) -> None:
    """Units, F0 and style features of every part that has neither, from one decode of each recording."""
    stages = units_stage(build, settings), prosody_stage(settings)
    tasks = [map_tasks(build, stage, stage.name) for stage in stages]
    run_together(build, list(zip(stages, tasks, strict=True)), engine)


def prosody_stage(settings: Settings) -> MeasureProsody:
    """The stage that measures F0 and style features."""
    return MeasureProsody(settings.units.device, identity())


def prosody(build: Path, settings: Settings, engine: Engine) -> list[Task]:
    """F0 and style features of every part."""
    stage = prosody_stage(settings)
    tasks = map_tasks(build, stage, "prosody")
    run_stage(stage, build, tasks, engine)
    return tasks


def read_rows(build: Path, columns: list[str], rows: int = 64) -> Iterator[dict[str, Any]]:
    """Rows of the prosody table in order, a few in memory at a time."""
    for name in part_names(build):
        for batch in files.open_table(build / "prosody" / name).iter_batches(rows, columns=columns):
            yield from batch.to_pylist()


def speaker_means(build: Path, *, say: Say = lambda line: None) -> Path:
    """Sum F0 and style features per speaker over all parts; written to speakers.json.

    `pitch_mean` (Hz) is null for a speaker without a voiced frame; `style_share` says how far the speaker's own mean
    counts, 1 from 16 s of voiced seconds on, the rest being the mean of the codebook's corpus. Utterances without a
    speaker are not in it: their pitch is measured from their own mean, their style from the corpus's.

    Who was heard for that long keeps the sums of then, whatever recordings come later: else ten more recordings of
    everybody would change every token of the build.
    """
    path = build / SPEAKERS
    asked = [MeasureProsody.name, MeasureProsody.version, identity(), origin(build)]
    measured = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    held = read_speakers(path) if path.exists() and (marker(path) or {}).get("key") == measured else {}
    found: dict[str, dict[str, Any]] = {}
    for row in read_rows(build, ["speaker", "hertz", "voiced", "style"]):
        f0 = contour(row)
        if row["speaker"] is None or f0 is None:
            continue
        said = found.setdefault(
            row["speaker"],
            {
                "utterances": 0,
                "hertz": 0.0,
                "frames": 0,
                "style_sum": np.zeros(len(FEATURES)),
                "style_seconds": 0,
            },
        )
        sums, seconds = styles.total([style_features(row)])
        said["utterances"] += 1
        said["hertz"] += float(f0.hertz[f0.voiced].sum(dtype=np.float64))
        said["frames"] += int(f0.voiced.sum())
        said["style_sum"] += sums
        said["style_seconds"] += seconds
    told = {
        name: {
            "utterances": said["utterances"],
            "pitch_mean": said["hertz"] / said["frames"] if said["frames"] else None,
            "voiced_seconds": said["frames"] / 200,
            "style_sum": said["style_sum"].tolist(),
            "style_seconds": said["style_seconds"],
            "style_share": min(1.0, said["style_seconds"] / ENOUGH),
        }
        for name, said in sorted(found.items())
    }
    kept = {name: said for name, said in held.items() if name in told and heard_enough(said)}
    changed = sum(told[name] != said for name, said in kept.items())
    if changed:
        say(
            f"speakers: the means of {changed} stay, measured before the corpus changed; remove {path} to measure "
            "them anew"
        )
    marker_of(path).unlink(missing_ok=True)
    write_atomically(path, json.dumps(told | kept, indent=0, sort_keys=True).encode())
    write_atomically(marker_of(path), json.dumps({"key": measured}).encode())
    return path


def heard_enough(said: dict[str, Any]) -> bool:
    """Whether a speaker's means rest on so much speech that more would hardly move them."""
    return min(said["voiced_seconds"], said["style_seconds"]) >= ENOUGH


def read_speakers(path: Path) -> dict[str, dict[str, Any]]:
    """What `speaker_means` wrote."""
    return json.loads(path.read_bytes())


def token_tasks(build: Path, stage: MakePitch | MakeStyle, table: str = "prosody") -> list[Task]:
    """One task per part; its key covers the means of the part's own speakers."""
    speakers, tasks = read_speakers(build / SPEAKERS), []
    for part in parts(build):
        name = part.name
        column = files.read_table(build / "manifest" / name, columns=["speaker"]).column(0)
        own = {speaker: speakers.get(speaker) for speaker in column.unique().to_pylist() if speaker}
        means = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
        said = part._asdict() if table == "manifest" else marker(build / table / name)
        assert said is not None
        source = {f"{table}/{name}": said["sha256"]}
        tasks.append(task_of(stage, f"{stage.name}/{name}", source, part.samples, (means,)))
    return tasks


def model_path(build: Path, named: str, kind: str) -> str:
    """The model tokens are made with: the settings' own, else the build's, else (empty) the bundled one."""
    fitted = build / "codebooks" / f"{kind}.safetensors"
    return named or (str(fitted) if fitted.is_file() else "")


def pitch(build: Path, settings: Settings, engine: Engine, *, say: Say = lambda line: None) -> dict[str, int]:
    """Pitch tokens of every part."""
    return tokens(build, settings, engine, "pitch", say=say)


def style(build: Path, settings: Settings, engine: Engine, *, say: Say = lambda line: None) -> dict[str, int]:
    """Style tokens of every part."""
    return tokens(build, settings, engine, "style", say=say)


def tokens(build: Path, settings: Settings, engine: Engine, table: str, *, say: Say) -> dict[str, int]:
    """Pitch or style tokens of every part."""
    prosody(build, settings, engine)
    speaker_means(build, say=say)
    stage, source = token_stage(build, settings, table)
    return run_stage(stage, build, token_tasks(build, stage, source), engine)


def token_stage(build: Path, settings: Settings, table: str) -> tuple[MakePitch | MakeStyle, str]:
    """The stage that makes pitch or style tokens, and the table it makes them of."""
    speakers = str(build / SPEAKERS)
    if table == "pitch":
        model = model_path(build, settings.pitch.model, "pitch")
        return MakePitch(model, pitches.load(files.local(model)).hash, speakers), "prosody"
    codebook = model_path(build, settings.style.codebook, "style")
    tokenizer = styles.load(files.local(codebook))
    source = "manifest" if isinstance(tokenizer, Wav2Vec2Style) else "prosody"
    return MakeStyle(codebook, tokenizer.hash, speakers), source


def fit_pitch(build: Path, settings: Settings, engine: Engine, *, say: Say = lambda line: None) -> Path:
    """Train the VQ-VAE on F0 drawn from every part; an up-to-date one is left as it is."""
    wanted, path = fit_key(build, settings, engine, "pitch")
    if wanted is None:
        return path
    speakers, taken = read_speakers(speaker_means(build)), []
    limit, filled = int(settings.pitch.fit_hours * 3600 * 200), 0
    for row in drawn(
        build, settings, ["id", "speaker", "samples", "hertz", "voiced"], settings.pitch.fit_hours
    ):
        f0 = contour(row)
        if f0 is not None and filled < limit:
            taken.append((f0, speakers.get(row["speaker"], {}).get("pitch_mean")))
            filled += len(f0)
    say(f"fit pitch: {settings.pitch.steps} steps on {filled / 200 / 3600:.2f} h of F0")
    made = pitch_training.fit(taken, steps=settings.pitch.steps, seed=settings.pitch.seed)
    return keep(made, path, wanted)


def fit_style(build: Path, settings: Settings, engine: Engine, *, say: Say = lambda line: None) -> Path:
    """Cluster seconds drawn from every part; they are placed among the styles of the bundled one."""
    wanted, path = fit_key(build, settings, engine, "style")
    if wanted is None:
        return path
    features, names = [], []
    for row in drawn(build, settings, ["id", "speaker", "samples", "style"], settings.style.fit_hours):
        if row["style"] is not None:
            features.append(style_features(row))
            names.append(row["speaker"])
    bundled = styles.load()
    assert isinstance(bundled, styles.StyleTokenizer)
    say(f"fit style: k-means of {sum(map(len, features))} seconds into {settings.style.clusters} clusters")
    made = styles.fit(
        features, names, like=bundled, clusters=settings.style.clusters, seed=settings.style.seed
    )
    return keep(made, path, wanted)


def fit_key(build: Path, settings: Settings, engine: Engine, kind: str) -> tuple[str | None, Path]:
    """The key of a model to fit, None where it stands; and its place."""
    from dataclasses import asdict

    tasks = prosody(build, settings, engine)
    path = build / "codebooks" / f"{kind}.safetensors"
    asked = [kind, asdict(getattr(settings, kind)), [task.key for task in tasks]]
    wanted = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    stands = path.exists() and (marker(path) or {}).get("key") == wanted
    return (None if stands else wanted), path


def keep(model: pitches.PitchTokenizer | styles.StyleTokenizer, path: Path, wanted: str) -> Path:
    """Write a fitted model and its done marker."""
    save(model, path)
    write_atomically(marker_of(path), json.dumps({"key": wanted}).encode())
    return path


def drawn(build: Path, settings: Settings, columns: list[str], hours: float) -> Iterator[dict[str, Any]]:
    """A share of the rows that holds about so many hours; whether a row is in it hangs on its id alone."""
    samples = sum(part.samples for part in parts(build))
    share = min(1.0, hours * 3600 * 16_000 / max(samples, 1))
    for row in read_rows(build, columns):
        digest = hashlib.sha256(f"{settings.pitch.seed}|prosody|{row['id']}".encode()).digest()
        if int.from_bytes(digest[:8], "little") / 2**64 < share:
            yield row
