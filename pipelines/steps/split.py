"""Which utterances are held out: a rule chosen once and kept."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from corpus import files
from corpus.keyed import fraction
from pipelines.execution.task import FileWorker, Stage, Task
from pipelines.layout import SPLIT, SUMS, origin, part_names, part_tasks
from pipelines.steps.base import Run, run_quick_stage


@dataclass(frozen=True)
class Split:
    """The held-out rule of a build: whole speakers by name, everything without one of them by hash of its id."""

    speakers: tuple[str, ...]  # held-out speakers; empty when utterances are held out by hash
    share: float  # of utterances (and documents) held out by hash
    seed: int
    smallest: str = ""  # this id is held out where no hash falls below the share

    @functools.cached_property
    def speaker_set(self) -> frozenset[str]:
        """The held-out speakers, for lookups: there may be tens of thousands."""
        return frozenset(self.speakers)

    def split_of(self, name: str, speaker: str | None = None) -> str:
        """The split of an utterance or document: "train" or "valid"."""
        if self.speakers and speaker is not None:
            return "valid" if speaker in self.speaker_set else "train"
        return "valid" if name == self.smallest or hash_fraction(self.seed, name) < self.share else "train"


def hash_fraction(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on (seed, name) alone."""
    return fraction(seed, "split", name)


def choose_held_out(
    rows: Iterable[tuple[str, str | None, int]], *, by: str, share: float, seed: int
) -> Split:
    """Choose what is held out from (id, speaker, samples) of the usable utterances, in one pass and bounded memory.

    By speaker: speakers in the order of their hash are held out while their total hours stay within the share; one that
    would exceed it is passed over. Where no speaker fits, or there are fewer than two, utterances are held out by hash
    instead. By hash: an utterance is held out when its hash falls below the share; at least one is.

    >>> choose_held_out([("a", "s", 9), ("b", "t", 1)], by="speaker", share=0.2, seed=0).speakers
    ('t',)
    """
    hours: dict[str, int] = {}
    total, smallest, least = 0, "", 2.0
    for name, speaker, samples in rows:
        total += samples
        if speaker is not None:
            hours[speaker] = hours.get(speaker, 0) + samples
        if name and least >= share:  # only needed where no hash falls below the share
            value = hash_fraction(seed, name)
            if value < least:
                smallest, least = name, value
    speakers, filled = [], 0
    if by == "speaker" and len(hours) > 1 and share > 0:
        for speaker in sorted(hours, key=lambda speaker: hash_fraction(seed, speaker)):
            if filled + hours[speaker] <= share * total:
                speakers.append(speaker)
                filled += hours[speaker]
    return Split(tuple(sorted(speakers)), share, seed, smallest if share > 0 and least >= share else "")


def usable_rows(table: pa.Table) -> Iterator[tuple[str, str | None, int]]:
    """(id, speaker, samples) of the rows of a manifest part that ingest did not reject."""
    for row in table.to_pylist():
        if row["reject"] is None:
            yield row["id"], row["speaker"], row["samples"]


@dataclass(frozen=True)
class SumUsable(Stage):
    """Manifest -> a few rows of (id, speaker, samples) per part from which `choose_held_out` chooses the same."""

    seed: int
    name: ClassVar[str] = "split"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """Nothing to load."""
        return FileWorker(self, self.write)

    def write(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the sums of one part as JSON."""
        table = files.read_table(build / task.inputs[0], ["id", "speaker", "samples", "reject"])
        rows = sum_rows(usable_rows(table), self.seed)
        files.write(temporary, json.dumps(rows).encode())
        return {}


def sum_rows(rows: Iterable[tuple[str, str | None, int]], seed: int) -> list[tuple[str, str | None, int]]:
    """One row for each speaker, with all its samples, the first with the id of smallest hash.

    >>> sum_rows([("a", "s", 9), ("b", "t", 1), ("c", "s", 2)], seed=0)
    [('c', 's', 11), ('', 't', 1)]
    """
    samples: dict[str | None, int] = {}
    names = []
    for name, speaker, length in rows:
        names.append(name)
        samples[speaker] = samples.get(speaker, 0) + length
    smallest = min(names, key=functools.partial(hash_fraction, seed), default="")
    return [("" if i else smallest, speaker, length) for i, (speaker, length) in enumerate(samples.items())]


def read_sums(run: Run) -> Iterator[tuple[str, str | None, int]]:
    """The rows of `SumUsable` of every part; workers make them first."""
    stage = SumUsable(run.settings.shards.seed)
    tasks = part_tasks(run.folder, stage, SUMS)
    run_quick_stage(run, stage, tasks)
    for content in files.read_each(run.folder, (task.output for task in tasks)):
        yield from json.loads(content or b"")


def held_out(run: Run) -> Split:
    """The held-out rule, chosen from the manifest alone and written to split.json.

    Once chosen it is kept, whatever recordings come later, as long as its settings are the same and it holds out
    something: what a model was not trained on stays so.
    """
    build, shards = run.folder, run.settings.shards
    settings = {"by": shards.hold_out_by, "share": shards.valid, "seed": shards.seed, "origin": origin(build)}
    path = build / SPLIT
    try:
        fields = json.loads(path.read_bytes())
        earlier = Split(tuple(fields["speakers"]), fields["share"], fields["seed"], fields["smallest"])
        same = {name: fields.get(name) for name in settings} == settings
        if same and (not earlier.share or holds_out(build, earlier)):
            return earlier
    except (OSError, ValueError, KeyError):  # none yet, or of an earlier version
        pass
    split = choose_held_out(read_sums(run), by=shards.hold_out_by, share=shards.valid, seed=shards.seed)
    files.write(path, json.dumps({**dataclasses.asdict(split), **settings}, indent=1).encode())
    files.remove_folder(build / SUMS)
    return split


def holds_out(build: Path, split: Split) -> bool:
    """Whether a rule holds out an utterance of a build; reads until the first."""
    paths = [f"manifest/{name}" for name in part_names(build)]
    return any(
        split.split_of(name, speaker) == "valid"
        for table in files.read_tables(build, paths, ["id", "speaker", "samples", "reject"])
        for name, speaker, _ in usable_rows(table)
    )
