"""The stage that writes shards: rows of manifest, units and words -> webdataset tars of one stream and split."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq

from aligners.normalise import normalise
from corpus.records import SAMPLE_RATE, Word
from pipelines.split import Split, fates
from pipelines.stage import Task
from shards.interleave import Strategy
from shards.text import Tokenizer
from shards.utterance import TokenizedUtterance
from shards.vocabulary import Vocabulary
from shards.write import speech_sample, text_sample, interleaved_sample, write_shard


@dataclass(frozen=True)
class WriteShard:
    """Accepted rows -> one shard. Which rows is decided by what became of them and by the held-out rule alone."""

    vocabulary: str
    vocabulary_hash: str
    writing: str
    unaligned: str
    split: Split
    frames: tuple[int, int]  # (hop, centre of the first unit frame), samples at 16 kHz
    strategy: str
    text_words: list[int]
    speech_words: list[int]
    seed: int
    eos: bool
    name: ClassVar[str] = "interleave"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("vocabulary",)

    def setup(self) -> None:
        object.__setattr__(self, "_vocabulary", Vocabulary.load(self.vocabulary))

    def accepted(self, build: Path, table: str, name: str, stream: str, part: str) -> list[tuple[int, int]]:
        """(row, samples) of the rows of one part that belong to a stream and split."""
        if table == "text":
            columns = pq.read_table(build / "text" / name, columns=["id", "reject"]).to_pylist()
            rows = [(row, 0) for row, said in enumerate(columns) if said["reject"] is None]
            return [(row, 0) for row, _ in rows if self.split.of(columns[row]["id"]) == part]
        tables = [
            pq.read_table(
                build / "manifest" / name, columns=["id", "speaker", "samples", "reject", "detail"]
            ),
            pq.read_table(build / "units" / name, columns=["reject", "detail"]),
            pq.read_table(build / "words" / name, columns=["reject", "detail"]),
        ]
        kept = ("interleaved", "speech") if stream == "speech" else ("interleaved",)
        found = fates(*tables, unaligned=self.unaligned)
        return [
            (row, said["samples"])
            for row, said in enumerate(tables[0].to_pylist())
            if found[row][0] in kept and self.split.of(said["id"], said["speaker"]) == part
        ]

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write one tar; the done marker remembers its line of the index."""
        stream, part, pieces = task.arguments
        entry = write_shard(temporary, self.samples(build, stream, part, pieces), self._vocabulary)  # type: ignore[attr-defined]
        return {"entry": {**entry, "file": Path(task.output).name}}

    def samples(self, build: Path, stream: str, part: str, pieces: tuple) -> Iterator[dict[str, Any]]:
        """The examples of the named rows, in order, a part at a time."""
        for table, name, start, stop in pieces:
            rows = [row for row, _ in self.accepted(build, table, name, stream, part) if start <= row < stop]
            tables = [pq.read_table(build / path).take(rows).to_pylist() for path in inputs_of(table, name)]
            for columns in zip(*tables, strict=True):
                yield self.sample(stream, *columns)

    def sample(
        self, stream: str, row: dict, units: dict | None = None, words: dict | None = None
    ) -> dict[str, Any]:
        """One example of one stream."""
        raise AssertionError


def inputs_of(table: str, name: str) -> tuple[str, ...]:
    """The tables an example of this part is made from."""
    return (f"text/{name}",) if table == "text" else (f"manifest/{name}", f"units/{name}", f"words/{name}")


def spoken(text: str, writing: str) -> list[str]:
    """The words of a text in the chosen writing: "spoken" is lower case without punctuation, "original" as it stands."""
    if writing == "original":
        return text.split()
    return [word for token in normalise(text) for word in token.spoken]
