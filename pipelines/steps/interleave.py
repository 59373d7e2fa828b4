"""The step `interleave`: rows of manifest, units, words and tokens -> webdataset shards, their vocabulary and index."""

import dataclasses
import functools
import itertools
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from corpus import files
from corpus.provenance import commit, versions
from corpus.records import SAMPLE_RATE, Word
from pipelines.execution.planner import plan, read_markers
from pipelines.execution.task import FileWorker, Stage, Task, make_task, marker_path, sha256
from pipelines.layout import INDEX, finished_part, part_hashes, part_names, parts
from pipelines.steps.align import FIELDS
from pipelines.steps.base import Run, Step, row_utterance
from pipelines.steps.codebook import codebook_path, measured_dtype, units_dtype
from pipelines.steps.document_overlaps import removed_documents
from pipelines.steps.outcomes import accepted_rows, extend, make_outcomes, outcome_summaries
from pipelines.steps.quality import TABLE as QUALITY
from pipelines.steps.split import Split, held_out
from pipelines.steps.vocabulary import build_vocabulary, text_words, token_kinds
from shards.interleave import interleave, speech_tokens
from shards.sequence import make_document
from shards.strategies import Strategy, span_generator
from shards.utterance import TokenizedUtterance
from shards.vocabulary import Vocabulary
from shards.write import SPLITS, STREAMS, metadata, sample, text_metadata, write_index, write_shard

Piece = tuple[str, str, tuple[tuple[int, int], ...]]
"""Table, part, and ranges [first, last) of its rows."""


@dataclass(frozen=True)
class Rates:
    """The time grids of a build's tokens."""

    hop: int  # samples at 16 kHz between two units
    centre: int  # sample at 16 kHz in the middle of the first unit
    pitch: float = 12.5  # Hz
    style: float = 1.0  # Hz


@dataclass(frozen=True)
class WriteShard(Stage):
    """Accepted rows -> one shard; which rows is in the arguments of its task."""

    vocabulary: str
    vocabulary_hash: str
    normalisation: str
    rates: Rates
    strategy: Strategy
    seed: int
    eos: bool
    members: tuple[tuple[str, str], ...] = (("units", "units"),)  # table, its column that becomes a member
    measures: str = ""  # table of what the samples of utterances carry in their JSON
    name: ClassVar[str] = "interleave"
    version: ClassVar[int] = 3  # 3: randomness of corpus.keyed, each strategy with its own numbers only
    outside_key: ClassVar[tuple[str, ...]] = ("vocabulary", "measures")  # the inputs tell of measures

    def open(self) -> FileWorker:
        """Load the vocabulary."""
        vocabulary = Vocabulary.load(self.vocabulary)
        return FileWorker(self, functools.partial(self.write, vocabulary, {}))

    def tables_of(self, stream: str, table: str) -> tuple[str, ...]:
        """The tables that samples of a stream from rows of manifest or text are made from, that one first."""
        measures = [self.measures] if self.measures and table == "manifest" else []
        if stream == "text":
            return (table, *measures)
        words = ["words"] if stream == "interleaved" else []
        return tuple(dict.fromkeys(["manifest", *words, *(name for name, _ in self.members), *measures]))

    def write(
        self, vocabulary: Vocabulary, last: dict[str, pa.Table], build: Path, task: Task, temporary: Path
    ) -> dict[str, Any]:
        """Write one tar; the done marker keeps its entry of the index."""
        stream, _split, pieces = task.arguments
        entry = write_shard(temporary, self.samples(vocabulary, last, build, stream, pieces), vocabulary)
        return {"entry": {**entry, "file": Path(task.output).name}}

    def samples(
        self,
        vocabulary: Vocabulary,
        last: dict[str, pa.Table],
        build: Path,
        stream: str,
        pieces: Sequence[Piece],
    ) -> Iterator[dict[str, Any]]:
        """The samples of these rows, in order, a part at a time."""
        for (table, _, ranges), tables in zip(pieces, self.read(last, build, stream, pieces), strict=True):
            named = dict(zip(self.tables_of(stream, table), tables, strict=True))
            numbers = [row for first, stop in ranges for row in range(first, stop)]
            for number, row in zip(numbers, tables[0].take(numbers).to_pylist(), strict=True):
                quality = measures_of(named.get(self.measures), number)
                if stream == "text":
                    yield self.text_sample(vocabulary, row, quality)
                else:
                    words = named["words"].column("words")[number].as_py() if stream == "interleaved" else []
                    columns = {
                        column: named[owner].column(column)[number].values for owner, column in self.members
                    }
                    yield self.speech_sample(vocabulary, stream, row, words, columns, quality)

    def read(
        self, last: dict[str, pa.Table], build: Path, stream: str, pieces: Sequence[Piece]
    ) -> Iterator[list[pa.Table]]:
        """The tables of each piece, requested many at a time and each once.

        Args:
            last: the tables of the last piece that this worker read, by path: consecutive shards share a part.
        """
        paths_of = [[f"{one}/{name}" for one in self.tables_of(stream, table)] for table, name, _ in pieces]
        known = dict(last)
        missing = [path for paths in paths_of for path in paths if path not in known]
        contents = files.read_tables(build, missing)
        for paths in paths_of:
            tables = [known[path] if path in known else next(contents) for path in paths]
            last.clear()
            last.update(zip(paths, tables, strict=True))
            yield tables

    def text_sample(
        self, vocabulary: Vocabulary, row: dict[str, Any], quality: dict[str, Any]
    ) -> dict[str, Any]:
        """A transcript or document as text alone."""
        ids = vocabulary.tokenizer.encode_text(text_words(row["text"], self.normalisation))
        marker = vocabulary.marker_arrays[False, False]
        tokens = make_document(np.concatenate([marker, ids]), vocabulary, eos=self.eos)
        facts = {name: row.get(name) for name in ("language", "licence")}
        facts |= {name: row[name] for name in ("source", "source_split") if row.get(name) is not None}
        facts |= {"quality": quality} if quality else {}
        key = row.get("key", row["id"])
        return sample(text_metadata(key, vocabulary, eos=self.eos, text=row["text"], **facts), tokens)

    def speech_sample(
        self,
        vocabulary: Vocabulary,
        stream: str,
        manifest: dict[str, Any],
        timed: list[dict[str, Any]],
        columns: dict[str, pa.Array | None],
        quality: dict[str, Any],
    ) -> dict[str, Any]:
        """An utterance as speech alone, or interleaved by the strategy.

        Args:
            manifest, timed: its row and its words.
            columns: its values of each column that becomes a member; None where it has none.
            quality: its measures.
        """
        arrays = {column: values.to_numpy() for column, values in columns.items() if values is not None}
        words = [Word(**{name: word[name] for name in FIELDS}) for word in timed]
        ids, ends = vocabulary.tokenizer.encode_words(
            [word.spoken if self.normalisation == "spoken" else word.text for word in words]
        )
        utterance = replace(row_utterance(manifest), id=manifest["key"])
        tokenized = TokenizedUtterance(
            id=utterance.id,
            units=arrays.pop("units"),
            unit_rate=SAMPLE_RATE / self.rates.hop,
            unit_centre=self.rates.centre / SAMPLE_RATE,
            text=ids,
            text_ends=ends,
            starts=np.array([word.start for word in words]),
            ends=np.array([word.end for word in words]),
            seconds=utterance.seconds,
            vocabulary=vocabulary,
            pitch=arrays.pop("pitch", None),
            style=arrays.pop("style", None),
            pitch_rate=self.rates.pitch,
            style_rate=self.rates.style,
        )
        more: dict[str, Any] = {"quality": quality} if quality else {}
        tokens: Sequence[int] | np.ndarray
        if stream == "interleaved":
            more |= {"strategy": self.strategy, "seed": self.seed, "words": words}
            tokens = interleave(tokenized, self.strategy, span_generator(self.seed, 0, utterance.id))
        else:
            tokens = speech_tokens(tokenized)
        record = metadata(
            utterance,
            vocabulary,
            stream=stream,
            tokenized=tokenized,
            unit_hop=self.rates.hop,
            eos=self.eos,
            source_id=manifest["id"],
            **more,
        )
        members = {f"{column}.npy": array for column, array in arrays.items()}
        return sample(record, make_document(tokens, vocabulary, eos=self.eos), tokenized, members=members)


def measures_of(table: pa.Table | None, number: int) -> dict[str, Any]:
    """The measures that the step `quality` has of a row, and the language of its text; empty without such a table."""
    if table is None:
        return {}
    (row,) = table.slice(number, 1).drop_columns(["id", "reject", "detail"]).to_pylist()
    return {name: value for name, value in row.items() if value is not None}


# Assignment of rows to shards --------------------------------------------------------------------------------------


class ShardAssignment:
    """The shards of one stream and split, filled one after another: 24 bytes for each range of rows."""

    def __init__(self, samples_per_shard: int):
        self.samples: list[int] = []  # of audio, at 16 kHz, in each shard
        self._begins = array("q")  # the first range of each shard
        self._tables: list[str] = []  # of each range, with the name of its part and its rows [first, stop)
        self._names: list[str] = []
        self._firsts, self._stops = array("I"), array("I")
        self._capacity = self._filled = samples_per_shard

    def add(self, table: str, name: str, ranges: Sequence[Sequence[int]], samples: int) -> None:
        """Put the rows of one part into shards, in order; each is counted with an equal share of the samples."""
        rows = sum(stop - first for first, stop in ranges)
        for first, stop in ranges:
            while first < stop:
                if self._filled == self._capacity or self._tables[-1] != table:
                    self._begins.append(len(self._names))
                    self.samples.append(0)
                    self._filled = 0
                count = min(stop - first, self._capacity - self._filled)
                self._tables.append(table)
                self._names.append(name)
                self._firsts.append(first)
                self._stops.append(first + count)
                share = samples * count // rows
                self._filled += count
                self.samples[-1] += share
                first, rows, samples = first + count, rows - count, samples - share

    @property
    def shards(self) -> Iterator[list[Piece]]:
        """The pieces of each shard."""
        for begin, end in itertools.pairwise([*self._begins, len(self._names)]):
            parts = zip(self._tables[begin:end], self._names[begin:end], strict=True)
            rows = zip(self._firsts[begin:end], self._stops[begin:end], strict=True)
            ranges = itertools.groupby(zip(parts, rows, strict=True), key=lambda one: one[0])
            yield [(table, name, tuple(rows for _, rows in group)) for (table, name), group in ranges]


def assign_shards(run: Run, stage: WriteShard, split: Split) -> list[Task]:
    """One task per shard, named by the row ranges it takes from each part: one pass over done markers.

    Shards of a stream and split follow the manifest; a shard holds rows of the manifest or documents, not both, and
    documents come first, so that recordings added later touch the last shards alone. Memory holds the list of shards.
    """
    build, size = run.build, run.settings.shards.samples
    assignments = {(stream, part): ShardAssignment(size) for stream in STREAMS for part in SPLITS}
    names = {"text": part_names(build, "text"), "manifest": part_names(run.folder)}
    read = stage.tables_of("interleaved", "manifest")
    # of each table, one per line: a million strings among what is read would leave gaps in the memory
    lines = {one: bytearray() for one in ("text", *read)}
    lines["text"] += to_lines(part.sha256 for part in parts(build, "text"))
    for name, removed in zip(names["text"], removed_documents(build, run.settings), strict=True):
        for part, ranges in accepted_documents(build, name, split, removed).items():
            assignments["text", part].add("text", name, ranges, 0)
    for name, (task, summary) in zip(names["manifest"], outcome_summaries(run), strict=True):
        for path, digest in zip(task.inputs, task.hashes, strict=True):
            if (one := path.partition("/")[0]) in lines:
                lines[one] += to_lines([digest])
        for key, ranges, samples in accepted_rows(summary):
            assignments[key].add("manifest", name, ranges, samples)
    commands = {str(step.table): step.name for step in run.steps if step.table and not step.rejects}
    for one in commands.keys() & set(read):
        for digest in part_hashes(build, one, commands[one]):
            lines[one] += to_lines([digest])
    # the tasks of three streams share each hash, path and piece
    digests = {one: lines.pop(one).decode().split("\n") for one in list(lines)}
    paths = {
        one: [f"{one}/{name}" for name in names[one if one == "text" else "manifest"]] for one in digests
    }
    shared: dict[str, list[Piece | None]] = {table: [None] * len(listed) for table, listed in names.items()}
    tasks = []
    for (stream, part), assigned in assignments.items():
        at = dict.fromkeys(names, 0)  # pieces follow the parts
        for number, (pieces, samples) in enumerate(zip(assigned.shards, assigned.samples, strict=True)):
            hashes: dict[str, str] = {}
            for place, piece in enumerate(pieces):
                table, name, _ = piece
                while names[table][at[table]] != name:
                    at[table] += 1
                index, before = at[table], shared[table]
                if before[index] != piece:
                    before[index] = piece
                pieces[place] = before[index] or piece
                hashes |= {paths[one][index]: digests[one][index] for one in stage.tables_of(stream, table)}
            output = f"shards/{stream}/{part}-{number:06d}.tar"
            tasks.append(make_task(stage, output, hashes, samples, (stream, part, tuple(pieces))))
    return tasks


def to_lines(texts: Iterable[str]) -> bytes:
    """Texts, each with the end of its line."""
    return "".join(f"{text}\n" for text in texts).encode()


def accepted_documents(build: Path, name: str, split: Split, removed: set[int]) -> dict[str, list[list[int]]]:
    """Split -> ranges of the usable documents of one part of the text table, but for the rows that are removed."""
    ranges: dict[str, list[list[int]]] = {}
    for number, row in enumerate(files.read_table(build / "text" / name, ["id", "reject"]).to_pylist()):
        if row["reject"] is None and number not in removed:
            extend(ranges.setdefault(split.split_of(row["id"]), []), number)
    return ranges


# The step ----------------------------------------------------------------------------------------------------------


def shard_stage(run: Run, split: Split) -> WriteShard:
    """The stage that writes shards; builds the vocabulary."""
    vocabulary, settings = build_vocabulary(run, split), run.settings
    tables = [step for step in run.steps if step.table]
    return WriteShard(
        vocabulary=str(run.folder / "shards"), vocabulary_hash=vocabulary.hash,
        normalisation=settings.text.normalisation, rates=token_rates(run),
        strategy=settings.interleave.make_strategy(), seed=settings.interleave.seed, eos=settings.interleave.eos,
        members=tuple((str(step.table), step.column) for step in tables if step.column),
        measures=QUALITY if settings.quality.enabled else "",
    )  # fmt: skip


def token_rates(run: Run) -> Rates:
    """The time grids of units, pitch and style tokens, as their stages noted them."""
    first = part_names(run.build)[0]
    units = finished_part(run.build, "units", first, "units")
    rates = Rates(units["hop"], units["centre"])
    for kind in token_kinds(run):
        rate = finished_part(run.build, kind, first, kind).get("rate")
        rates = rates if rate is None else replace(rates, **{kind: rate})
    return rates


def interleave_tasks(run: Run) -> tuple[WriteShard, list[Task]]:
    """One task per shard."""
    split = held_out(run)
    stage = shard_stage(run, split)
    return stage, assign_shards(run, stage, split)


def drop_index(run: Run, stage: Stage, tasks: list[Task]) -> None:
    """No index over half-rewritten shards."""
    if plan(stage, run.build, tasks).todo:
        (run.build / INDEX).unlink(missing_ok=True)


def finish_shards(run: Run, stage: Stage, tasks: list[Task]) -> None:
    """Write the index and provenance.json; remove shards of an earlier plan, which a glob would read."""
    build = run.build
    entries: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for task, marker in read_markers(build, tasks):
        stream, part = task.arguments[0], task.arguments[1]
        assert marker
        entries.setdefault(stream, {}).setdefault(part, []).append(marker["entry"])
    vocabulary = Vocabulary.load(build / "shards")
    write_index(build / "shards", entries, vocabulary)
    current = {build / task.output for task in tasks}
    for path in (build / "shards").glob("*/*.tar"):
        if path not in current:
            path.unlink()
            marker_path(path).unlink(missing_ok=True)
    write_provenance(run, vocabulary.hash)


def write_provenance(run: Run, vocabulary_hash: str) -> None:
    """Write provenance.json: versions, commit, hashes of models, codebook and vocabulary."""
    build, settings = run.build, run.settings
    content = {
        "versions": versions(),
        "commit": commit(),
        "codebook": sha256(codebook_path(build, settings)),
        "units_dtype": units_dtype(build, settings),
        "units_dtype_measured": measured_dtype(build) if settings.units.dtype == "auto" else None,
        "vocabulary": vocabulary_hash,
        "settings": dataclasses.asdict(settings),
    }
    files.write(build / "provenance.json", json.dumps(content, indent=1, sort_keys=True).encode())


INTERLEAVE_STEP = Step(
    "interleave",
    "Write the shards",
    after=None,
    tasks=interleave_tasks,
    prepare=make_outcomes,
    before=drop_index,
    finish=finish_shards,
    reads_all=True,
)
