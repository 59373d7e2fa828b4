"""The stage that writes shards: rows of manifest, units and words -> webdataset tars of one stream and split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from aligners.normalise import normalise
from corpus import files
from corpus.records import SAMPLE_RATE, Word
from pipelines.execution.task import Task, utterance
from pipelines.steps.split import Split, fates
from pipelines.steps.units import FIELDS
from shards.interleave import interleave, speech_tokens
from shards.sequence import make_document
from shards.strategies import Strategy, span_generator
from shards.utterance import TokenizedUtterance
from shards.vocabulary import Vocabulary
from shards.write import metadata, sample, text_metadata, write_shard

STREAMS_OF: dict[str, tuple[str, ...]] = {
    "interleaved": ("interleaved", "speech", "text"), "speech": ("speech",), "rejected": (),
}  # fmt: skip
"""Where a row goes by what became of it."""


@dataclass(frozen=True)
class WriteShard:
    """Accepted rows -> one shard. Which rows is decided by what became of them and by the held-out rule alone."""

    vocabulary: str
    vocabulary_hash: str
    writing: str
    unaligned: str
    split: Split
    frames: tuple[int, int]  # (hop, centre of the first unit frame), samples at 16 kHz
    strategy: Strategy
    seed: int
    eos: bool
    expressive: tuple[str, ...] = ()  # tables beside units whose tokens go into speech: pitch, style
    name: ClassVar[str] = "interleave"
    version: ClassVar[int] = 3  # 3: spans drawn by corpus.keyed, a strategy without the numbers of others
    outside_key: ClassVar[tuple[str, ...]] = ("vocabulary",)

    def setup(self) -> None:
        object.__setattr__(self, "_vocabulary", Vocabulary.load(self.vocabulary))

    def accepted(self, build: Path, table: str, name: str) -> dict[tuple[str, str], list[tuple[int, int]]]:
        """(stream, split) -> (row, samples) of the rows of one part that belong there."""
        found: dict[tuple[str, str], list[tuple[int, int]]] = {}
        if table == "text":
            columns = files.read_table(build / "text" / name, ["id", "reject"]).to_pylist()
            for row, said in enumerate(columns):
                if said["reject"] is None:
                    found.setdefault(("text", self.split.of(said["id"])), []).append((row, 0))
            return found
        tables = [
            files.read_table(build / "manifest" / name, ["id", "speaker", "samples", "reject", "detail"]),
            files.read_table(build / "units" / name, ["reject", "detail"]),
            files.read_table(build / "words" / name, ["reject", "detail"]),
        ]
        became = fates(*tables, unaligned=self.unaligned)
        for row, said in enumerate(tables[0].to_pylist()):
            split = self.split.of(said["id"], said["speaker"])
            for stream in STREAMS_OF[became[row][0]]:
                found.setdefault((stream, split), []).append((row, said["samples"]))
        return found

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write one tar; the done marker remembers its line of the index."""
        stream, part, pieces = task.arguments
        entry = write_shard(temporary, self.samples(build, stream, part, pieces), self._vocabulary)  # type: ignore[attr-defined]
        return {"entry": {**entry, "file": Path(task.output).name}}

    def samples(self, build: Path, stream: str, part: str, pieces: tuple) -> Iterator[dict[str, Any]]:
        """The examples of the named rows, in order, a part at a time."""
        for table, name, start, stop in pieces:
            accepted = self.accepted(build, table, name).get((stream, part), [])
            rows = [row for row, _ in accepted if start <= row < stop]
            paths = inputs_of(table, name, self.expressive)
            tables = [files.read_table(build / path).take(rows).to_pylist() for path in paths]
            for columns in zip(*tables, strict=True):
                yield self.text_sample(*columns) if stream == "text" else self.speech_sample(stream, *columns)

    def text_sample(self, row: dict[str, Any], *_: Any) -> dict[str, Any]:
        """A transcript or document as text alone."""
        vocabulary = self._vocabulary  # type: ignore[attr-defined]
        ids, _ends = vocabulary.tokenizer.encode_words(in_writing(row["text"], self.writing))
        tokens = make_document([vocabulary.text_marker, *ids], vocabulary, eos=self.eos)
        facts = {name: row.get(name) for name in ("language", "licence")}
        key = row.get("key", row["id"])
        return sample(text_metadata(key, vocabulary, eos=self.eos, text=row["text"], **facts), tokens)

    def speech_sample(
        self,
        stream: str,
        row: dict[str, Any],
        units: dict[str, Any],
        words: dict[str, Any],
        *expressive: dict[str, Any],
    ) -> dict[str, Any]:
        """An utterance as speech alone, or interleaved by the strategy."""
        vocabulary = self._vocabulary  # type: ignore[attr-defined]
        hop, centre = self.frames
        timed = words["words"] if stream == "interleaved" else []
        said = [Word(**{name: word[name] for name in FIELDS}) for word in timed]
        ids, ends = vocabulary.tokenizer.encode_words(
            [word.spoken if self.writing == "spoken" else word.text for word in said]
        )
        item = replace(utterance(row), id=row["key"])
        tokens_of = {
            name: np.array(found[name], np.int16)
            for name, found in zip(self.expressive, expressive, strict=True)
        }
        tokenized = TokenizedUtterance(
            id=item.id,
            units=np.array(units["units"], np.int16),
            unit_rate=SAMPLE_RATE / hop,
            unit_centre=centre / SAMPLE_RATE,
            text=ids,
            text_ends=ends,
            starts=np.array([word.start for word in said]),
            ends=np.array([word.end for word in said]),
            seconds=item.seconds,
            vocabulary=vocabulary,
            pitch=tokens_of.get("pitch"),
            style=tokens_of.get("style"),
        )
        drawn: dict[str, Any] = {}
        tokens: Sequence[int] | np.ndarray
        if stream == "interleaved":
            drawn = {"strategy": self.strategy, "seed": self.seed, "words": said}
            tokens = interleave(tokenized, self.strategy, span_generator(self.seed, 0, item.id))
        else:
            tokens = speech_tokens(tokenized)
        record = metadata(
            item,
            vocabulary,
            stream=stream,
            tokenized=tokenized,
            unit_hop=hop,
            eos=self.eos,
            source_id=row["id"],
            **drawn,
        )
        return sample(record, make_document(tokens, vocabulary, eos=self.eos), tokenized)


def inputs_of(table: str, name: str, expressive: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The tables an example of this part is made from."""
    tables = ("text",) if table == "text" else ("manifest", "units", "words", *expressive)
    return tuple(f"{table}/{name}" for table in tables)


def in_writing(text: str, writing: str) -> list[str]:
    """The words of a text: "spoken" in lower case without punctuation, "original" as they stand."""
    if writing == "original":
        return text.split()
    return [word for token in normalise(text) for word in token.spoken]
