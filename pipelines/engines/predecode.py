"""Recordings decoded by one worker for another: a CPU decodes and resamples, a GPU only reads.

In between lies a manifest part like the first one's, whose rows point into WAV files of 16 kHz mono: the stage that
listens to them makes the same bytes. The files are named by the task's key, lie in `waves/` of the build and go when
the task is done.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from corpus import files
from corpus.records import SAMPLE_RATE
from pipelines.execution.task import Task, batches, done, run_task
from pipelines.steps.fused import Together
from pipelines.steps.units import ListeningStage, Row, decoded


def listing(build: Path, task: Task) -> Path:
    """The manifest part that points to a task's decoded recordings; written last."""
    return build / "waves" / f"{task.key[:32]}.parquet"


def decode_task(build: Path, task: Task) -> None:
    """Decode the recordings of a task, unless it is done or they are there."""
    place = listing(build, task)
    if done(build, task) or place.exists():
        return
    files.make_folder(place.parent)
    table = files.read_table(build / task.inputs[0])
    rows = list(written(place, table))
    temporary = files.temporary_name(place)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), temporary)
    files.publish(temporary, place)


def written(place: Path, table: pa.Table) -> Iterator[dict[str, Any]]:
    """Write the recordings of each batch to a file of its own; each row with its place there, or its reason."""
    for index, batch in enumerate(batches(table)):
        path = place.with_name(f"{place.stem}-{index:03d}.wav")
        waves, filled = [], 0
        for row, (_, wave, reject) in zip(batch.to_pylist(), decoded(batch), strict=True):
            if wave is None:
                yield {**row, "reject": reject and reject.reason, "detail": reject and reject.detail}
                continue
            yield {
                **row,
                "audio": path.name,
                "first_frame": filled,
                "frames": len(wave),
                "sample_rate": SAMPLE_RATE,
                "channel": None,
            }
            waves.append(wave)
            filled += len(wave)
        if waves:
            temporary = files.temporary_name(path)
            samples = np.concatenate(waves)
            whole = as_whole_numbers(samples)
            kind = "FLOAT" if whole is None else "PCM_16"
            soundfile.write(temporary, samples if whole is None else whole, SAMPLE_RATE, kind, format="RF64")
            files.publish(temporary, path)


def as_whole_numbers(samples: np.ndarray) -> np.ndarray | None:
    """(T,) float32 as 16-bit numbers where those are exactly the same, as of 16-bit recordings at 16 kHz; else None.

    >>> as_whole_numbers(np.array([0.5, -1.0], np.float32)), as_whole_numbers(np.array([1e-6], np.float32))
    (array([ 16384, -32768], dtype=int16), None)
    """
    whole = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
    return whole if np.array_equal(whole.astype(np.float32) / 32768, samples) else None


class Fetched:
    """The recordings of one task, as a stage that listens asks for them."""

    def __init__(self, place: Path, folder: Path):
        """Bring the recordings from beside `place` to the local `folder`."""
        table = files.read_table(place)
        there = set(names_of(table))
        for name in there:
            (folder / name).write_bytes(files.read(place.with_name(name)))
        names = table.column("audio").to_pylist()
        audio = pa.array([str(folder / name) if name in there else name for name in names], pa.string())
        column = table.column_names.index("audio")
        local = table.set_column(column, table.schema.field("audio"), audio)
        self._batches = {tuple(batch.column("id").to_pylist()): batch for batch in batches(local)}

    def rows(self, batch: pa.RecordBatch, threads: int = 1) -> list[Row]:
        """As `decoded`, of the manifest's batch with the same ids."""
        return list(decoded(self._batches[tuple(batch.column("id").to_pylist())], threads))


def run_decoded(stage: ListeningStage | Together, build: Path, task: Task) -> str:
    """`run_task` with the decoded recordings of a task, or with the recordings themselves where those are gone."""
    place = listing(build, task)
    if done(build, task) or not place.exists():
        said = run_task(stage, build, task)
    else:
        with tempfile.TemporaryDirectory() as folder:
            object.__setattr__(stage, "_kept", Fetched(place, Path(folder)))
            try:
                said = run_task(stage, build, task)
            finally:
                object.__setattr__(stage, "_kept", None)
    if said != "failed" and place.exists():
        throw_away(place)
    return said


def names_of(table: pa.Table) -> list[str]:
    """Names of the wave files that a listing points to."""
    rows = zip(table.column("audio").to_pylist(), table.column("reject").to_pylist(), strict=True)
    return sorted({name for name, reject in rows if reject is None})


def throw_away(place: Path) -> None:
    """Remove a listing, then its recordings: what has no listing is decoded again."""
    names = names_of(files.read_table(place))
    place.unlink(missing_ok=True)
    for name in names:
        place.with_name(name).unlink(missing_ok=True)
