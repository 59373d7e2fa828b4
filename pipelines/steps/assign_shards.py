"""Deal the accepted rows of a build to shards: one pass over the parts, whatever made them.

Shards of a stream and split follow the manifest; a shard holds rows of the manifest or documents, not both, and
documents come first, so that recordings added later touch the last shards alone. Memory holds the list of shards.
"""

from pathlib import Path

from pipelines.execution.task import Task, marker, task_of
from pipelines.layout import hashes_of, part_names
from pipelines.steps.interleave import WriteShard, inputs_of
from shards.write import SPLITS, STREAMS

Piece = tuple[str, str, int, int]
"""Table, part, first row and row after the last one."""


def deal(build: Path, stage: WriteShard, *, samples_per_shard: int) -> list[Task]:
    """One task per shard, named by the row ranges it takes from each part."""
    hands = {(stream, split): Hand(samples_per_shard) for stream in STREAMS for split in SPLITS}
    for table in ("text", "manifest"):
        for name in part_names(build, table):
            for place, rows in stage.accepted(build, table, name).items():
                hands[place].take(table, name, rows)
    hashes = part_hashes(build, stage.expressive)
    tasks = []
    for (stream, split), hand in hands.items():
        for number, (pieces, samples) in enumerate(zip(hand.shards, hand.samples, strict=True)):
            paths = [
                path for table, name, _, _ in pieces for path in inputs_of(table, name, stage.expressive)
            ]
            inputs = {path: hashes[path] for path in paths}
            output = f"shards/{stream}/{split}-{number:06d}.tar"
            tasks.append(task_of(stage, output, inputs, samples, (stream, split, tuple(pieces))))
    return tasks


class Hand:
    """The shards of one stream and split, filled one after another."""

    def __init__(self, samples_per_shard: int):
        self.shards: list[list[Piece]] = []
        self.samples: list[int] = []  # of audio, at 16 kHz, in each shard
        self._most = self._filled = samples_per_shard

    def take(self, table: str, name: str, rows: list[tuple[int, int]]) -> None:
        """Put (row, samples) of one part into shards, in order."""
        for row, samples in rows:
            if self._filled == self._most or self.shards[-1][-1][0] != table:
                self.shards.append([])
                self.samples.append(0)
                self._filled = 0
            pieces = self.shards[-1]
            if pieces and pieces[-1][:2] == (table, name):
                pieces[-1] = (table, name, pieces[-1][2], row + 1)
            else:
                pieces.append((table, name, row, row + 1))
            self._filled += 1
            self.samples[-1] += samples


def part_hashes(build: Path, expressive: tuple[str, ...] = ()) -> dict[str, str]:
    """sha256 of every finished part, from the notes made when it was written; an unfinished one is said in one line."""
    hashes = hashes_of(build, "manifest") | hashes_of(build, "text")
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
