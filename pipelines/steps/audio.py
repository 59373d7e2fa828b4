"""Stages that map decoded recordings: decoding, a cache of it, and the worker that both share."""

import abc
import itertools
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from corpus import files
from corpus.audio import Decoder
from corpus.keyed import fraction
from corpus.prefetch import prefetch
from corpus.records import SAMPLE_RATE, Reject, Utterance
from pipelines.execution.task import Stage, Task, run_task
from pipelines.layout import part_names
from pipelines.steps.base import AddNotes, add_nothing, batches, row_utterance, write_results

Row = tuple[Utterance | None, np.ndarray | None, Reject | None]
"""A manifest row decoded: its utterance and waveform, or the reason why it has none."""
AudioSource = Callable[[pa.RecordBatch, int], list[Row]]
"""(batch of the manifest, threads) -> its rows, decoded."""


def decode_row(row: Mapping[str, Any], decoder: Decoder) -> Row:
    """One manifest row with its waveform, or with the reason why it has none."""
    if row["reject"] is not None:
        return None, None, Reject(row["reject"], row["detail"])
    utterance = row_utterance(row)
    try:
        return utterance, decoder.decode(utterance), None
    except Reject as reject:
        return utterance, None, reject


def decode_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Manifest rows, decoded in their order: neighbours from one recording in one pass over it."""
    with closing(Decoder()) as decoder:
        for row in rows:
            yield decode_row(row, decoder)


def iterate_rows(batch: pa.RecordBatch, threads: int = 1) -> Iterator[Row]:
    """The rows of a batch, decoded one after another, or by threads, a recording by one of them."""
    rows = batch.to_pylist()
    if threads == 1:
        yield from decode_rows(rows)
        return
    recordings = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row["audio"])]
    with ThreadPoolExecutor(threads, "decode") as pool:
        yield from itertools.chain.from_iterable(pool.map(lambda rows: list(decode_rows(rows)), recordings))


READS_AT_ONCE = 16
"""Recordings behind URLs that a worker requests at the same time: a store answers after 20 to 50 ms."""


def decoding_threads(stage: Stage, table: pa.Table) -> int:
    """Threads that decode a part: workers on CPUs share the cores, a GPU waits for all the cores that there are."""
    cores = len(os.sched_getaffinity(0)) // stage.tasks_at_once if stage.uses_gpu else 1
    remote = any(map(files.is_url, table.column("audio").to_pylist()))
    return max(1, cores, READS_AT_ONCE if remote else 1)


def decode_batch(batch: pa.RecordBatch, threads: int = 1) -> list[Row]:
    """The rows of a batch, decoded."""
    return list(iterate_rows(batch, threads))


class DecodedCache:
    """Decoded recordings of a part, for the next stage that maps it. Memory is bounded: the rest is decoded again."""

    def __init__(self, source: AudioSource = decode_batch, samples: int = 30 * 60 * SAMPLE_RATE):
        self._source = source
        self._left = samples
        self._rows: dict[tuple[str, ...], list[Row]] = {}

    def __call__(self, batch: pa.RecordBatch, threads: int = 1) -> list[Row]:
        ids = tuple(batch.column("id").to_pylist())
        rows = self._rows.get(ids)
        if rows is None:
            rows = self._source(batch, threads)
            size = sum(len(wave) for _, wave, _ in rows if wave is not None)
            if size <= self._left:
                self._left -= size
                self._rows[ids] = rows
        return rows


class AudioRunner(Protocol):
    """The worker of a stage that `decodes`."""

    def run(self, build: Path, task: Task, audio: AudioSource = decode_batch) -> str: ...


class AudioStage(Stage):
    """A stage made of decoded recordings; `pipelines.steps.fused` runs several on one decode."""

    device: str

    @abc.abstractmethod
    def open(self) -> "AudioWorker":
        """Load the models."""

    @property
    def uses_gpu(self) -> bool:
        """Whether its device is a GPU."""
        return self.device.startswith("cuda")

    @property
    def decodes(self) -> bool:
        """Every recording of a part is decoded."""
        return True


@dataclass(frozen=True)
class AudioWorker:
    """Maps decoded recordings to the rows of a table; the next batch is decoded while it works on this one."""

    stage: AudioStage
    schema: pa.Schema
    process: Callable[[pa.RecordBatch, list[Row]], pa.RecordBatch]
    notes: Mapping[str, Any] = field(default_factory=dict)  # kept in each done marker
    batch_minutes: float = 5.0  # of audio in one batch
    add_notes: AddNotes = add_nothing
    # held while a part is computed; a semaphore where `process` may run for two parts at a time
    turn: AbstractContextManager = field(default_factory=threading.Lock)

    def run(self, build: Path, task: Task, audio: AudioSource = decode_batch) -> str:
        """Do one task unless it is done, with the recordings that `audio` gives."""

        def make(build: Path, task: Task, temporary: Path) -> dict[str, Any]:
            return self.make(build, task, temporary, audio)

        return run_task(self.stage, make, build, task)

    def make(
        self, build: Path, task: Task, temporary: Path, audio: AudioSource = decode_batch
    ) -> dict[str, Any]:
        """Map the task's manifest part batch by batch."""
        table = files.read_table(build / task.inputs[0])
        threads = decoding_threads(self.stage, table)

        def results() -> Generator[tuple[pa.RecordBatch, pa.RecordBatch], None, None]:
            first = next(decoded, None)  # decoded while other parts are computed
            with self.turn:
                for batch, rows in itertools.chain([first] if first else [], decoded):
                    yield batch, self.process(batch, rows)

        with (
            closing(
                prefetch((batch, audio(batch, threads)) for batch in batches(table, self.batch_minutes))
            ) as decoded,
            closing(results()) as computed,
        ):
            return write_results(temporary, self.schema, computed, self.notes, self.add_notes)


def sampled_rows(build: Path, count: int, table: str = "manifest") -> list[tuple[str, int]]:
    """(part, row) of the `count` utterances of lowest hash that have no reject in `table`, in order of the manifest."""
    chosen: list[tuple[float, str, int]] = []
    for name in part_names(build):
        ids = files.read_table(build / "manifest" / name, columns=["id"])["id"].to_pylist()
        rejects = files.read_table(build / table / name, columns=["reject"])["reject"].to_pylist()
        chosen += [
            (fraction(0, "sample", one), name, row) for row, one in enumerate(ids) if rejects[row] is None
        ]
        chosen = sorted(chosen)[:count]
    return sorted((name, row) for _, name, row in chosen)


def sampled_speech(
    build: Path, count: int, table: str = "manifest"
) -> Iterator[tuple[Utterance, np.ndarray]]:
    """The utterances of `sampled_rows` with their waveforms, but for those that cannot be decoded."""
    for name, places in itertools.groupby(sampled_rows(build, count, table), key=lambda sampled: sampled[0]):
        rows = files.read_table(build / "manifest" / name).take([row for _, row in places]).to_pylist()
        for utterance, wave, _ in decode_rows(rows):
            if utterance is not None and wave is not None:  # the stage that meets the others reports them
                yield utterance, wave
