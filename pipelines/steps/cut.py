"""The step `cut`: long recordings to utterances, before everything else works on them.

A recording without transcript is cut at its pauses; one with a transcript of the whole between the words, which are
found in it first (`aligners.anchors`), so that each utterance gets its own text.

With `[cut] enabled`, ingest writes the recordings as they are into `recordings/manifest`. The tasks of this step, one
for each of its parts, write where each recording is cut into `recordings/cuts`; the manifest of the build is then the
recordings with every stretch in its place. What is cut away is a row of its own, with its reason in `reject`, so that
the hours of the report still add up to the sample.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from aligners.acoustics import AcousticModel, load
from aligners.anchors import LongAlignment, align_long
from aligners.normalise import is_english
from corpus import files
from corpus.audio import Decoder
from corpus.cutting import CutRules, Spoken, Stretch, cut_at_pauses, cut_at_words, to_sample
from corpus.manifest import RejectedRow
from corpus.records import SAMPLE_RATE, Reject, Utterance
from corpus.voice_activity import HOP, identity, speech_frames
from pipelines.execution.task import Stage, Task, key_function
from pipelines.layout import RECORDINGS, part_names, parts
from pipelines.settings import Settings
from pipelines.steps.base import Run, Step, TableWorker, reject_columns, row_utterance
from pipelines.steps.ingest import (
    plan_manifest,
    say_manifest,
    utterance_folder,
    write_utterances,
)

CUTS_FOLDER = f"{RECORDINGS}/cuts"
STRETCH = pa.struct(
    [
        ("first_frame", pa.int64()),  # of the recording, counted at its sample rate, like `frames`
        ("frames", pa.int64()),
        ("text", pa.string()),
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
CUTS = pa.schema(
    [
        ("id", pa.string()),
        ("stretches", pa.list_(STRETCH)),  # null: the recording is one utterance
        ("missing", pa.list_(pa.string())),  # words of the transcript that the recording lacks
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
SENTENCE_ENDS = ".!?\u2026\u3002\uff01\uff1f"
WINDOW = 60  # seconds decoded at once


@dataclass(frozen=True)
class CutRecordings(Stage):
    """Recordings -> stretches, of those longer than the longest utterance."""

    rules: CutRules
    detector: str  # hash of its weights
    model: str  # of the backend `ctc`, that finds the words of transcripts
    model_identity: str
    device: str = "cpu"
    name: ClassVar[str] = "cut"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("model", "device")

    def open(self) -> TableWorker:
        """A worker; the models are loaded when they are first used."""
        return TableWorker(self, CUTS, self.process)

    @property
    def uses_gpu(self) -> bool:
        """Whether its device is a GPU."""
        return self.device.startswith("cuda")

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The stretches of each recording of a batch."""
        results: list[CutResult] = []
        rejects: list[Reject | None] = []
        for row in batch.to_pylist():
            reject = Reject(row["reject"], row["detail"]) if row["reject"] else None
            result = CutResult(None)
            try:
                if reject is None:
                    result = cut_recording(row_utterance(row), self.rules, self.load_model)
            except Reject as raised:
                reject = raised
            results.append(result)
            rejects.append(reject)
        columns = [
            batch.column("id"),
            pa.array([one.stretches for one in results], CUTS.field("stretches").type),
            pa.array([one.missing for one in results], CUTS.field("missing").type),
        ]
        return pa.record_batch([*columns, *reject_columns(rejects)], schema=CUTS)

    def load_model(self) -> AcousticModel:
        """The acoustic model, loaded once per process."""
        return load(self.model, self.device)


class CutResult(NamedTuple):
    """Where a recording is cut: dicts of `STRETCH` that cover it, None where it is one utterance."""

    stretches: list[dict[str, Any]] | None
    missing: list[str] | None = None  # words of the transcript that the recording lacks


def cut_recording(
    recording: Utterance, rules: CutRules, load_model: Callable[[], AcousticModel]
) -> CutResult:
    """The stretches of a recording in order; they cover it without gap or overlap.

    Raises:
        Reject: it cannot be decoded, or has nothing in common with its transcript.
    """
    if recording.seconds <= rules.max_seconds:
        return CutResult(None)
    probability, level = speech_frames(decode_windows(recording))
    stretches = cut_at_pauses(probability, level, rules)
    if recording.text is None:
        return CutResult([stretch_dict(recording, one, len(level)) for one in stretches])
    acoustics = load_model()
    if acoustics.english and recording.language is not None and not is_english(recording.language):
        raise Reject("align.language", f"cut.model supports English only, got {recording.language!r}")
    waveforms = decode_stretches(recording, [one for one in stretches if one.reason is None], len(level))
    aligned = align_long(waveforms, recording.text, recording.language, acoustics)
    words = spoken_words(aligned, recording.text, len(level))
    stretches = cut_at_words(words, probability, level, rules)
    texts, details = assign_text(stretches, words, aligned, recording.text)
    cut = [
        stretch_dict(recording, one, len(level)) | {"text": text, "detail": detail}
        for one, text, detail in zip(stretches, texts, details, strict=True)
    ]
    return CutResult(cut, [word_text(aligned, recording.text, place) for place in aligned.dropped])


def stretch_dict(recording: Utterance, stretch: Stretch, frames: int) -> dict[str, Any]:
    """A stretch of a recording of `frames` frames of 32 ms, in samples of the recording."""
    start = to_sample(stretch.first, recording.sample_rate)
    end = recording.frames if stretch.last == frames else to_sample(stretch.last, recording.sample_rate)
    return {
        "first_frame": start, "frames": end - start, "text": None, "reject": stretch.reason, "detail": None
    }  # fmt: skip


def decode_stretches(
    recording: Utterance, stretches: Sequence[Stretch], frames: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample at 16 kHz, waveform) of every stretch."""
    with closing(Decoder()) as decoder:
        for one in stretches:
            place = stretch_dict(recording, one, frames)
            first = recording.first_frame + place["first_frame"]
            waveform = decoder.decode(replace(recording, first_frame=first, frames=place["frames"]))
            yield place["first_frame"] * SAMPLE_RATE // recording.sample_rate, waveform


def spoken_words(aligned: LongAlignment, text: str, frames: int) -> list[Spoken]:
    """The words that were found, in frames of 32 ms, in order and without overlap."""
    words: list[Spoken] = []
    end = 0
    for one in aligned.placed:
        first = min(max(end, one.start // HOP), frames - 1)
        end = min(max(first + 1, -(-one.end // HOP)), frames)
        sentence = any(mark in SENTENCE_ENDS for mark in word_text(aligned, text, one.token))
        words.append(Spoken(first, end, sentence, one.hole))
    return words


def word_text(aligned: LongAlignment, text: str, place: int) -> str:
    """A word of the transcript with the punctuation that follows it."""
    tokens = aligned.tokens
    end = tokens[place + 1].first if place + 1 < len(tokens) else len(text)
    return text[tokens[place].first : end].strip()


def assign_text(
    stretches: Sequence[Stretch], words: Sequence[Spoken], aligned: LongAlignment, text: str
) -> tuple[list[str | None], list[str | None]]:
    """The text of every stretch, and of those that lack one between which words they are.

    A word that the model cannot spell goes with the one before it.
    """
    firsts = np.array([one.first for one in stretches])
    owner: dict[int, int] = {}
    for word, one in zip(words, aligned.placed, strict=True):
        owner[one.token] = int(np.searchsorted(firsts, (word.first + word.last) / 2, side="right")) - 1
    dropped, place = set(aligned.dropped), min(owner.values())
    texts: list[list[str]] = [[] for _ in stretches]
    for token in range(len(aligned.tokens)):
        place = owner.get(token, place)
        if token not in dropped:
            texts[place].append(word_text(aligned, text, token))
    joined = [
        " ".join(one) if one and not stretch.reason else None
        for one, stretch in zip(texts, stretches, strict=True)
    ]
    details: list[str | None] = []
    for number, stretch in enumerate(stretches):
        before = next((one[-1] for one in reversed(texts[:number]) if one), "")
        after = next((one[0] for one in texts[number + 1 :] if one), "")
        named = stretch.reason == "cut.no_transcript"
        details.append(f"speech between {before!r} and {after!r} of the transcript" if named else None)
    return joined, details


def decode_windows(recording: Utterance) -> Iterator[np.ndarray]:
    """The sound of a recording, a minute at a time: memory does not grow with its length."""
    step = WINDOW * recording.sample_rate
    with closing(Decoder()) as decoder:
        for first in range(0, recording.frames, step):
            length = min(step, recording.frames - first)
            yield decoder.decode(replace(recording, first_frame=recording.first_frame + first, frames=length))


def utterances_of(recording: Utterance, cut: dict[str, Any]) -> Iterator[Utterance | RejectedRow]:
    """The rows of the manifest that a recording becomes; their ids end in the milliseconds at which they begin."""
    if cut["reject"] is not None:
        yield RejectedRow(recording, Reject(cut["reject"], cut["detail"]))
        return
    if cut["stretches"] is None:
        yield recording
        return
    for one in cut["stretches"]:
        first = recording.first_frame + one["first_frame"]
        utterance = replace(
            recording,
            id=f"{recording.id}-{one['first_frame'] * 1000 // recording.sample_rate:08d}",
            first_frame=first,
            frames=one["frames"],
            text=one["text"],
            alignment=None,
            alignment_stamp="",
        )
        if one["reject"] is None:
            yield utterance
        else:
            yield RejectedRow(utterance, Reject(one["reject"], one["detail"] or ""))


def cut_utterance(
    recording: Utterance, rules: CutRules, load_model: Callable[[], AcousticModel]
) -> Iterator[Utterance | RejectedRow]:
    """The rows of the manifest that a recording becomes."""
    try:
        cut = cut_recording(recording, rules, load_model)
    except Reject as reject:
        yield RejectedRow(recording, reject)
        return
    yield from utterances_of(recording, {"stretches": cut.stretches, "reject": None})


def manifest_rows(run: Run) -> Iterator[Utterance | RejectedRow]:
    """The rows of the manifest, from the recordings and where they are cut; a part at a time."""
    for name in part_names(run.folder / RECORDINGS):
        recordings = files.read_table(run.folder / RECORDINGS / "manifest" / name).to_pylist()
        cuts = files.read_table(run.build / CUTS_FOLDER / name).to_pylist()
        for row, cut in zip(recordings, cuts, strict=True):
            yield from utterances_of(row_utterance(row), cut)


def cut_tasks(run: Run) -> tuple[CutRecordings, list[Task]]:
    """One task per part of the recordings."""
    cut = run.settings.cut
    stage = CutRecordings(cut.rules, identity(), cut.model, load(cut.model, cut.device).weights, cut.device)
    key_of = key_function(stage)
    tasks = [
        Task(
            f"{CUTS_FOLDER}/{part.name}", (f"{RECORDINGS}/manifest/{part.name}",), key_of(part.sha256),
            part.samples, hashes=(part.sha256,),
        )
        for part in parts(run.folder / RECORDINGS)
    ]  # fmt: skip
    return stage, tasks


def write_cut_manifest(run: Run, stage: Stage, tasks: list[Task]) -> None:
    """Write the manifest of the build once all recordings are cut."""
    summary = write_utterances(run, manifest_rows(run))
    say_manifest(run, "cut", summary)


def is_wanted(settings: Settings) -> bool:
    """Whether recordings are cut."""
    return settings.cut.enabled


CUT_STEP = Step(
    "cut",
    "Cut long recordings into utterances",
    after=("ingest",),
    wanted=is_wanted,
    tasks=cut_tasks,
    finish=write_cut_manifest,
    plan=functools.partial(plan_manifest, tasks=cut_tasks, write=write_cut_manifest, table=utterance_folder),
    writes_manifest=True,
)
