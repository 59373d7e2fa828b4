"""Recordings decoded by one worker for another: a CPU decodes and resamples, a GPU only reads.

In between is a manifest part like the first one's, whose rows point into WAV files of 16 kHz mono: the stage that maps
them makes the same bytes. The files are named by the task's key, are in `decoded/` of the build, and are removed when
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
from pipelines.execution.task import Task, is_done
from pipelines.steps.audio import AudioRunner, Row, decode_batch, iterate_rows
from pipelines.steps.base import batches


def listing_path(build: Path, task: Task) -> Path:
    """The manifest part that points to a task's decoded recordings; written last."""
    return build / "decoded" / f"{task.key[:32]}.parquet"


def decode_task(build: Path, task: Task) -> None:
    """Decode the recordings of a task, unless it is done or they are there."""
    path = listing_path(build, task)
    if is_done(build, task) or path.exists():
        return
    files.make_folder(path.parent)
    table = files.read_table(build / task.inputs[0])
    rows = list(write_decoded(path, table))
    temporary = files.temporary_name(path)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), temporary)
    files.publish(temporary, path)


def write_decoded(listing: Path, table: pa.Table) -> Iterator[dict[str, Any]]:
    """Write the recordings of each batch to a file of its own; each row with its place there, or its reason."""
    for index, batch in enumerate(batches(table)):
        path = listing.with_name(f"{listing.stem}-{index:03d}.wav")
        waves, filled = [], 0
        for row, (_, wave, reject) in zip(batch.to_pylist(), iterate_rows(batch), strict=True):
            if wave is None:
                yield {**row, "reject": reject and reject.reason, "detail": reject and reject.detail}
                continue
            path_of = {
                "audio": path.name,
                "first_frame": filled,
                "frames": len(wave),
                "sample_rate": SAMPLE_RATE,
                "channel": None,
                "audio_stamp": "",
            }
            yield {**row, **path_of}
            waves.append(wave)
            filled += len(wave)
        if waves:
            temporary = files.temporary_name(path)
            samples = np.concatenate(waves)
            integers = to_int16(samples)
            kind = "FLOAT" if integers is None else "PCM_16"
            content = samples if integers is None else integers
            soundfile.write(temporary, content, SAMPLE_RATE, kind, format="RF64")
            files.publish(temporary, path)


def to_int16(samples: np.ndarray) -> np.ndarray | None:
    """(T,) float32 as 16-bit integers where those are exactly the same, as of 16-bit recordings at 16 kHz; else None.

    >>> to_int16(np.array([0.5, -1.0], np.float32)), to_int16(np.array([1e-6], np.float32))
    (array([ 16384, -32768], dtype=int16), None)
    """
    integers = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
    return integers if np.array_equal(integers.astype(np.float32) / 32768, samples) else None


class PredecodedAudio:
    """The decoded recordings of one task, as an audio source."""

    def __init__(self, listing: Path, folder: Path):
        """Copy the recordings from beside `listing` to the local `folder`."""
        table = files.read_table(listing)
        present = set(wav_names(table))
        for name in present:
            (folder / name).write_bytes(files.read(listing.with_name(name)))
        names = table.column("audio").to_pylist()
        audio = pa.array([str(folder / name) if name in present else name for name in names], pa.string())
        column = table.column_names.index("audio")
        local = table.set_column(column, table.schema.field("audio"), audio)
        self._batches = {tuple(batch.column("id").to_pylist()): batch for batch in batches(local)}

    def __call__(self, batch: pa.RecordBatch, threads: int = 1) -> list[Row]:
        return decode_batch(self._batches[tuple(batch.column("id").to_pylist())], threads)


def run_decoded(worker: AudioRunner, build: Path, task: Task) -> str:
    """Run a task on its decoded recordings, or on the recordings themselves where those are gone."""
    listing = listing_path(build, task)
    if is_done(build, task) or not listing.exists():
        result = worker.run(build, task)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = worker.run(build, task, PredecodedAudio(listing, Path(folder)))
    if result != "failed" and listing.exists():
        delete_listing(listing)
    return result


def wav_names(table: pa.Table) -> list[str]:
    """Names of the WAV files that a listing points to."""
    rows = zip(table.column("audio").to_pylist(), table.column("reject").to_pylist(), strict=True)
    return sorted({name for name, reject in rows if reject is None})


def delete_listing(listing: Path) -> None:
    """Remove a listing, then its recordings: what has no listing is decoded again."""
    names = wav_names(files.read_table(listing))
    listing.unlink(missing_ok=True)
    for name in names:
        listing.with_name(name).unlink(missing_ok=True)
