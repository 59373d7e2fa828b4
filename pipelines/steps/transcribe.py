"""The step `transcribe`: utterances without text get that of a recogniser, before the steps that need text.

With `[transcribe] enabled`, ingest or cut writes the utterances as they are into `untranscribed/manifest`. The tasks of
this step, one for each of its parts, write words, confidence and measures into `untranscribed/transcripts`; the
manifest of the build is then the utterances with the transcripts that meet the rules. An utterance whose transcript
does not is rejected with its reason, or stays without text where the build keeps such speech.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa

from aligners.recognisers import load_recogniser
from aligners.recognisers.command import LIST
from aligners.recognisers.transcript import Recogniser, Recording, Transcript, agreement
from corpus import files
from corpus.manifest import RejectedRow
from corpus.quality import TRANSCRIPT_MEASURES, Subject, measure, tokens_of
from corpus.records import Reject, Utterance
from corpus.voice_activity import identity
from pipelines.execution.gpus import worker_device
from pipelines.execution.task import Stage, Task, key_function
from pipelines.layout import UNTRANSCRIBED, part_names, parts
from pipelines.settings import Settings, TranscribeSettings
from pipelines.steps.audio import AudioStage, AudioWorker, Row
from pipelines.steps.base import Run, Step, reject_columns, row_utterance
from pipelines.steps.ingest import plan_manifest, say_manifest, transcribed_folder, write_transcribed

TABLE = f"{UNTRANSCRIBED}/transcripts"
WORD = pa.struct([("text", pa.string()), ("confidence", pa.float32())])
TRANSCRIPTS = pa.schema(
    [
        ("id", pa.string()),
        ("words", pa.list_(WORD)),  # null: not transcribed
        ("second", pa.string()),  # the second recogniser's transcript
        *((name, pa.float64()) for name in TRANSCRIPT_MEASURES),
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
OF_TEXT = ("speech_share", "repetition", "words_per_second")
"""Measures of sound and text alone."""
LIST_MINUTES = 30.0
"""Of audio at a time for commands that take lists: enough for long ones."""
Named = tuple[str, str]
"""A recogniser: its model, its command; one of them is empty."""


@dataclass(frozen=True)
class TranscribeUtterances(AudioStage):
    """Utterances without text -> words, confidence and measures; or a reason in `reject`."""

    recogniser: Named
    identity: str
    second: Named
    second_identity: str
    detector: str  # hash of the weights of voice activity
    dtype: str = "float32"
    device: str = "cpu"
    batch: int = 0
    timeout: float = 120.0
    name: ClassVar[str] = "transcribe"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("recogniser", "second", "device", "batch")

    def open(self) -> AudioWorker:
        """Load the recognisers."""
        import torch

        if not self.uses_gpu:
            torch.set_num_threads(1)  # sums of several threads have other last bits
        load = functools.partial(
            load_recogniser, dtype=self.dtype, device=worker_device(self.device), timeout=self.timeout,
            batch=self.batch or None,
        )  # fmt: skip
        first, second = load(*self.recogniser), load(*self.second) if any(self.second) else None
        lists = any(LIST in command for _, command in (self.recogniser, self.second))
        minutes = LIST_MINUTES if lists else AudioWorker.batch_minutes
        process = functools.partial(transcribe_batch, first, second)
        return AudioWorker(self, TRANSCRIPTS, process, batch_minutes=minutes)


def transcribe_batch(
    first: Recogniser, second: Recogniser | None, batch: pa.RecordBatch, rows: list[Row]
) -> pa.RecordBatch:
    """The transcripts of those rows of a batch that have no text."""
    todo = [
        Recording(wave, one.language) if one is not None and wave is not None and one.text is None else None
        for one, wave, _ in rows
    ]
    recordings = [one for one in todo if one is not None]
    transcripts = first.transcribe(recordings)
    results = iter(transcripts)
    usable = [
        one for one, result in zip(recordings, transcripts, strict=True) if isinstance(result, Transcript)
    ]
    others = iter(second.transcribe(usable) if second else itertools.repeat(None, len(usable)))
    columns: dict[str, list[Any]] = {name: [] for name in TRANSCRIPTS.names[1:-2]}
    rejects: list[Reject | None] = []
    for recording, (_, _, reject) in zip(todo, rows, strict=True):
        row: dict[str, Any] = {}
        if recording is not None:
            result = next(results)
            if isinstance(result, Reject):
                reject = result
            else:
                row = transcript_row(recording, result, next(others))
        rejects.append(reject)
        for name, values in columns.items():
            values.append(row.get(name))
    arrays = [pa.array(values, TRANSCRIPTS.field(name).type) for name, values in columns.items()]
    return pa.record_batch([batch.column("id"), *arrays, *reject_columns(rejects)], schema=TRANSCRIPTS)


def transcript_row(
    recording: Recording, transcript: Transcript, other: Transcript | Reject | None
) -> dict[str, Any]:
    """The columns of one transcript; a second recogniser that fails agrees with nothing."""
    row: dict[str, Any] = {"words": [word._asdict() for word in transcript.words]}
    row["confidence"] = None if transcript.confidence is None else float(f"{transcript.confidence:.6g}")
    row |= measure(Subject(recording.waveform, transcript.text), OF_TEXT)
    if other is not None:
        row["second"] = None if isinstance(other, Reject) else other.text
        row["agreement"] = float(f"{agreement(transcript.text, row['second'] or ''):.6g}")
    return row


def judge(row: dict[str, Any], settings: TranscribeSettings) -> Reject | None:
    """Why a transcript is not used, None if it is."""
    if row["reject"] is not None:
        return Reject(row["reject"], row["detail"])
    text = text_of(row)
    if not tokens_of(text):
        return Reject("transcribe.empty", f"transcript {text!r}")
    rejects = (one.reject(row) for one in settings.filters)
    reject = next(filter(None, rejects), None)
    return reject and Reject(reject.reason, f"{reject.detail}: {text[:200]!r}")


def text_of(row: dict[str, Any]) -> str:
    """The text of a row of transcripts."""
    return " ".join(word["text"] for word in row["words"] or [])


def manifest_rows(run: Run) -> Iterator[Utterance | RejectedRow]:
    """The rows of the manifest, from the utterances and their transcripts; a part at a time."""
    keep = run.settings.corpus.keep_unaligned
    for row, transcript in transcript_rows(run):
        utterance = row_utterance(row)
        if row["reject"] is not None:
            yield RejectedRow(utterance, Reject(row["reject"], row["detail"]))
        elif utterance.text is not None:
            yield utterance
        elif (reject := judge(transcript, run.settings.transcribe)) is None:
            yield replace(utterance, text=text_of(transcript))
        elif keep and reject.reason.startswith("transcribe."):
            yield utterance  # as speech alone
        else:
            yield RejectedRow(utterance, reject)


def transcript_rows(run: Run) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row of the manifest before transcription, and its row of transcripts."""
    for name in part_names(run.folder / UNTRANSCRIBED):
        rows = files.read_table(run.folder / UNTRANSCRIBED / "manifest" / name).to_pylist()
        yield from zip(rows, files.read_table(run.build / TABLE / name).to_pylist(), strict=True)


def transcribe_tasks(run: Run) -> tuple[TranscribeUtterances, list[Task]]:
    """One task per part of the utterances.

    Raises:
        ValueError: transcription is not enabled; a recogniser cannot be loaded.
    """
    settings = run.settings.transcribe
    if not settings.enabled:
        raise ValueError(
            "transcribe: need [transcribe] enabled = true when the source is ingested, got false; "
            "run `wordweave ingest` again with it"
        )
    named = ((settings.model, settings.command), (settings.second_model, settings.second_command))
    stage = TranscribeUtterances(
        named[0], identity_of(named[0], settings), named[1], identity_of(named[1], settings), identity(),
        settings.dtype, settings.device, settings.batch, settings.timeout if settings.has_command else 0.0,
    )  # fmt: skip
    key_of = key_function(stage)
    tasks = [
        Task(
            f"{TABLE}/{part.name}", (f"{UNTRANSCRIBED}/manifest/{part.name}",), key_of(part.sha256),
            part.samples, hashes=(part.sha256,),
        )
        for part in parts(run.folder / UNTRANSCRIBED)
    ]  # fmt: skip
    return stage, tasks


def identity_of(named: Named, settings: TranscribeSettings) -> str:
    """What decides the transcripts of a recogniser; empty where none is named."""
    if not any(named):
        return ""
    # on the CPU: the driver may have no GPU
    return load_recogniser(
        *named, device="cpu", dtype=settings.dtype, batch=None, timeout=settings.timeout
    ).identity


def write_transcribed_manifest(run: Run, stage: Stage, tasks: Sequence[Task]) -> None:
    """Write the manifest of the build once all utterances are transcribed."""
    refused: dict[str, int] = {}
    count = 0
    for row, transcript in transcript_rows(run):
        if row["reject"] is None and row["text"] is None:
            count += 1
            if reject := judge(transcript, run.settings.transcribe):
                refused[reject.reason] = refused.get(reject.reason, 0) + 1
    summary = write_transcribed(run, manifest_rows(run))
    listed = ", ".join(f"{reason} {number}" for reason, number in sorted(refused.items()))
    line = f"{count - sum(refused.values())} of {count} transcripts used"
    say_manifest(run, "transcribe", summary, f"{line} ({listed})" if listed else line)


def is_wanted(settings: Settings) -> bool:
    """Whether utterances are transcribed."""
    return settings.transcribe.enabled


TRANSCRIBE_STEP = Step(
    "transcribe",
    "Transcribe utterances without text",
    after=("ingest",),
    wanted=is_wanted,
    tasks=transcribe_tasks,
    finish=write_transcribed_manifest,
    plan=functools.partial(
        plan_manifest, tasks=transcribe_tasks, write=write_transcribed_manifest, table=transcribed_folder
    ),
    uses_gpu=True,
    writes_manifest=True,
)
