"""The step `cut`: long recordings to utterances, before everything else works on them.

With `[cut] enabled`, ingest writes the recordings as they are into `recordings/manifest`. The tasks of this step, one
for each of its parts, write where each recording is cut into `recordings/cuts`; the manifest of the build is then the
recordings with every stretch in its place. What is cut away is a row of its own, with its reason in `reject`, so that
the hours of the report still add up to the sample.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from corpus import files
from corpus.audio import Decoder
from corpus.cutting import CutRules, cut_at_pauses, to_sample
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance
from corpus.voice_activity import identity, speech_frames
from pipelines.execution.planner import Plan, plan
from pipelines.execution.task import Stage, Task, key_function
from pipelines.layout import RECORDINGS, part_names, parts
from pipelines.settings import Settings
from pipelines.steps.base import Run, Step, TableWorker, reject_columns, row_utterance
from pipelines.steps.ingest import add_manifest_changes, say_manifest, write_build_manifest

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
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
WINDOW = 60  # seconds decoded at once


@dataclass(frozen=True)
class CutRecordings(Stage):
    """Recordings -> stretches, of those longer than the longest utterance."""

    rules: CutRules
    detector: str  # hash of its weights
    name: ClassVar[str] = "cut"
    version: ClassVar[int] = 1

    def open(self) -> TableWorker:
        """A worker; the detector loads its weights when it is first used."""
        return TableWorker(self, CUTS, self.process)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The stretches of each recording of a batch."""
        stretches: list[list[dict[str, Any]] | None] = []
        rejects: list[Reject | None] = []
        for row in batch.to_pylist():
            reject = Reject(row["reject"], row["detail"]) if row["reject"] else None
            found = None
            try:
                if reject is None:
                    found = cut_recording(row_utterance(row), self.rules)
            except Reject as raised:
                reject = raised
            stretches.append(found)
            rejects.append(reject)
        columns = [batch.column("id"), pa.array(stretches, CUTS.field("stretches").type)]
        return pa.record_batch([*columns, *reject_columns(rejects)], schema=CUTS)


def cut_recording(recording: Utterance, rules: CutRules) -> list[dict[str, Any]] | None:
    """The stretches of a recording in order, as dicts of `STRETCH`; None where it is short enough.

    They cover the recording without gap or overlap.

    Raises:
        Reject: it cannot be decoded.
    """
    if recording.seconds <= rules.max_seconds:
        return None
    stretches = cut_at_pauses(*speech_frames(decode_windows(recording)), rules)
    starts = [to_sample(one.first, recording.sample_rate) for one in stretches]
    ends = [*starts[1:], recording.frames]
    return [
        {"first_frame": start, "frames": end - start, "text": None, "reject": one.reason, "detail": None}
        for one, start, end in zip(stretches, starts, ends, strict=True)
    ]


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


def manifest_rows(run: Run) -> Iterator[Utterance | RejectedRow]:
    """The rows of the manifest, from the recordings and where they are cut; a part at a time."""
    for name in part_names(run.folder / RECORDINGS):
        recordings = files.read_table(run.folder / RECORDINGS / "manifest" / name).to_pylist()
        cuts = files.read_table(run.build / CUTS_FOLDER / name).to_pylist()
        for row, cut in zip(recordings, cuts, strict=True):
            yield from utterances_of(row_utterance(row), cut)


def cut_tasks(run: Run) -> tuple[CutRecordings, list[Task]]:
    """One task per part of the recordings."""
    stage = CutRecordings(run.settings.cut.rules, identity())
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
    summary = write_build_manifest(run, manifest_rows(run))
    say_manifest(run, "cut", summary)


def plan_cut(run: Run) -> Plan:
    """What the step would do; where nothing is to be cut, how the manifest changes."""
    stage, tasks = cut_tasks(run)
    result = plan(stage, run.build, tasks)
    if not result.todo:
        write_cut_manifest(run, stage, tasks)
        add_manifest_changes(run, result, "manifest")
    return result


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
    plan=plan_cut,
    writes_manifest=True,
)
