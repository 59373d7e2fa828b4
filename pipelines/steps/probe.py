"""Headers of recordings, read by workers: the part of the step `ingest` that grows with the corpus.

The driver lists the rows of a source and writes them in chunks into `recordings/listed`, before any recording is looked
at. The tasks of this stage, one for each chunk, read the headers into `recordings/probed`, and the driver makes the
manifest of these, in the order of the source: the same bytes as from headers read one after the other.

Where a chunk ends depends on the ids in it, and its name on its content, which holds size and modification time of
local files: a file that is added or changed makes one chunk new. What a store would have to be asked for each file is
not kept: chunks with such files count until the manifest is written, so that a run can be resumed.
"""

import hashlib
import itertools
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files, manifest
from corpus.adapters import ADAPTERS, ChannelCheck, Intake, MeasuredRow, Row
from corpus.adapters.base import Unmeasured, known_of, measure, measure_each, with_known
from corpus.embedded import container_of
from corpus.manifest import RejectedRow, one_line, storable
from corpus.pseudonyms import pseudonym, read_salt
from corpus.records import Reject, Utterance
from pipelines.engines.local import LocalEngine
from pipelines.execution.runner import run_stage
from pipelines.execution.task import FileWorker, Stage, Task, is_done, make_task, read_marker
from pipelines.layout import RECORDINGS
from pipelines.settings import CorpusSettings
from pipelines.steps.base import Run

LISTED, PROBED = f"{RECORDINGS}/listed", f"{RECORDINGS}/probed"
FEW = 1000
"""As many rows are measured in the driver, without tasks."""
FEW_CHUNKS = 5
"""Fewer chunks are measured in the driver."""
EVERY, FEWEST, MOST = 2048, 256, 8192  # rows of a chunk: on average, at least and at most
CHUNK_BYTES = 16 << 20  # most text of a chunk, before the row that makes it longer
CHECKED = 4  # recordings of a chunk whose channels are compared, and every 50th of the others

FIELDS = list(Utterance.__dataclass_fields__)
ROWS = pa.schema(
    [
        *(field for field in (*manifest.SCHEMA, *manifest.OPTIONAL) if field.name in FIELDS),
        pa.field("reject", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("measured", pa.bool_()),  # else a row before its header is read, with what follows
        pa.field("start", pa.float64()),  # seconds
        pa.field("end", pa.float64()),
        pa.field("duration", pa.float64()),
        pa.field("instead", pa.string()),
        pa.field("stamps", pa.string()),  # of its files; null: not known
    ]
)


@dataclass(frozen=True)
class ProbeHeaders(Stage):
    """Listed rows -> rows with the length of their recordings, or with the reason why they cannot be used."""

    duration_tolerance: float
    channels: str
    checksum: bool
    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """A worker; it has no model."""
        return FileWorker(self, self.make)

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Read the headers of one chunk."""
        check = ChannelCheck(CHECKED)
        intake = Intake(self.duration_tolerance, self.channels, self.checksum, check)
        rows = list(measure_each(read_rows(build / task.inputs[0]), intake))
        write_records(temporary, [record for row in rows for record in to_records(row, intake)])
        rejects = Counter(row.reject.reason for row in rows if isinstance(row, RejectedRow))
        channels = {"checked": check.checked, "different": check.different}
        return {"rows": len(rows), "rejects": dict(sorted(rejects.items())), "channels": channels}


class Chunk(NamedTuple):
    """Some neighbouring rows of a source."""

    task: Task
    measured: bool  # nothing of it is left to read
    lasting: bool  # its name changes when one of its files does


def probe(run: Run, channels: ChannelCheck) -> tuple[Iterator[MeasuredRow], list[Chunk]]:
    """The rows of the source, in its order, with the length of every recording; and the chunks they were measured in.

    Few are measured in this process, without chunks, more of them by the engine's workers.
    """
    corpus = run.settings.corpus
    intake = Intake(corpus.duration_tolerance, corpus.channels, corpus.checksum, channels, corpus.probe)
    rows = state_origin(ADAPTERS[corpus.adapter].unmeasured(files.to_path(corpus.source), intake), corpus)
    first = list(itertools.islice(rows, FEW + 1))
    if len(first) <= FEW:
        return measure_each(first, intake), []
    stage = ProbeHeaders(corpus.duration_tolerance, corpus.channels, corpus.checksum)
    chunks = [list_chunk(run, stage, intake, chunk) for chunk in chunks_of(itertools.chain(first, rows))]
    # a dry run finds most of them in the build, and does the rest in its copy
    todo = {
        chunk.task.output: chunk.task
        for chunk in chunks
        if not chunk.measured and not (run.work and is_done(run.build, chunk.task))
    }
    engine = LocalEngine() if run.work or len(todo) < FEW_CHUNKS else run.engine
    run_stage(stage, run.folder, list(todo.values()), engine, quiet=run.work is not None)

    def read() -> Iterator[MeasuredRow]:
        for chunk in chunks:
            path = run.folder / chunk.task.inputs[0]
            if not chunk.measured:
                path = (run.folder if chunk.task.output in todo else run.build) / chunk.task.output
                found = (read_marker(path) or {}).get("channels", {})
                channels.add(found.get("checked", 0), found.get("different", []))
            yield from (row for row in read_rows(path) if not isinstance(row, Unmeasured))

    return read(), chunks


def state_origin(rows: Iterator[Row], corpus: CorpusSettings) -> Iterator[Row]:
    """Rows with the licence and source of the settings where they have none, and salted hashes of their speakers."""
    salt = read_salt(files.to_path(corpus.speaker_salt)) if corpus.speaker_salt else None
    if not (corpus.licence or corpus.source_name or salt):
        yield from rows
        return
    for row in rows:
        known = known_of(row)
        known = replace(
            known,
            licence=known.licence or corpus.licence or None,
            source=known.source or corpus.source_name or None,
            speaker=known.speaker and pseudonym(known.speaker, salt) if salt else known.speaker,
        )
        yield with_known(row, known)


def chunks_of(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Neighbouring rows; where a chunk ends depends on the ids in it alone, so that a new row changes one or two."""
    chunk: list[Row] = []
    size = 0
    for row in rows:
        known = known_of(row)
        chunk.append(row)
        size += len(known.text or "")
        ends = len(chunk) >= FEWEST and zlib.crc32(known.id.encode("utf-8", "replace")) % EVERY == 0
        if ends or len(chunk) == MOST or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def list_chunk(run: Run, stage: ProbeHeaders, intake: Intake, rows: list[Row]) -> Chunk:
    """Write the rows of a chunk, unless what comes of them is there, and name the task that measures them."""
    records = [record for row in rows for record in to_records(row, intake)]
    sink = pa.BufferOutputStream()
    write_records(sink, records)
    content = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(content).hexdigest()
    listing = f"{LISTED}/{digest[:32]}.parquet"
    task = make_task(stage, f"{PROBED}/{digest[:32]}.parquet", {listing: digest}, 0)
    todo = [record for record in records if not record["measured"]]
    if not todo or not is_done(run.build, task):
        files.make_folder(run.folder / LISTED)
        files.write(run.folder / listing, content)
    lasting = not stage.checksum and all(record["stamps"] is not None for record in todo)
    return Chunk(task, not todo, lasting)


def to_records(row: Row, intake: Intake) -> Iterator[dict[str, Any]]:
    """The dicts of `ROWS` of a row: one, or, of a row that UTF-8 cannot hold and which is measured here, several."""
    known, unstorable = storable(known_of(row))
    if unstorable:
        for result in measure(row, intake):
            known, _ = storable(known_of(result))
            yield to_record(
                RejectedRow(known, result.reject if isinstance(result, RejectedRow) else unstorable)
            )
    else:
        yield to_record(row)


def to_record(row: Row) -> dict[str, Any]:
    """The dict of `ROWS` of a row."""
    known, reject = known_of(row), None if isinstance(row, Utterance) else row.reject
    record = {name: getattr(known, name) for name in FIELDS}
    record |= {
        "reject": reject and reject.reason,
        "detail": reject and one_line(reject.detail),
        "measured": True,
    }
    if isinstance(row, Unmeasured):
        record |= {"start": row.start, "end": row.end, "duration": row.duration, "instead": row.instead}
        record |= {"measured": False, "stamps": stamps_of(row)}
    return record


def write_records(target: Any, records: list[dict[str, Any]]) -> None:
    """Write dicts of `ROWS` as Parquet."""
    pq.write_table(pa.Table.from_pylist(records, ROWS), target, compression="zstd")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file of `write_records`."""
    for record in files.read_table(path).to_pylist():
        known = Utterance(**{name: record[name] for name in FIELDS})
        reject = Reject(record["reject"], record["detail"]) if record["reject"] else None
        if not record["measured"]:
            yield Unmeasured(
                known, record["start"], record["end"], record["duration"], reject, record["instead"]
            )
        else:
            yield RejectedRow(known, reject) if reject else known


def stamps_of(row: Unmeasured) -> str | None:
    """What changes when a file of a row does; None where that takes a request, or a file is missing."""
    stamps = []
    for path in filter(None, (row.known.audio, row.known.alignment, row.instead)):
        if files.is_url(path):
            return None
        try:
            stamps.append(files.stamp(container_of(path)))
        except (OSError, ValueError):
            if path != row.instead:
                return None
    return " ".join(stamps)


def remove_listings(build: Path, chunks: list[Chunk]) -> None:
    """Remove what a finished manifest makes needless: listings, and headers of files that may change unnoticed."""
    keep = {chunk.task.output for chunk in chunks if chunk.lasting and not chunk.measured}
    for table in (LISTED, PROBED):
        folder: Any = build / table
        names = files.names_in(folder)
        if names is None:
            names = {path.name for path in folder.glob("*")}
        surplus = sorted(name for name in names if f"{table}/{name.split('.')[0]}.parquet" not in keep)
        if files.is_url(folder) and surplus:
            folder.fs.rm([(folder / name).path for name in surplus])
        elif not files.is_url(folder):
            for name in surplus:
                (folder / name).unlink()
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
