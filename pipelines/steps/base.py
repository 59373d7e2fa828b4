"""What a step of the build is, and the contract of stages that map a table to a table."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files
from corpus.records import SAMPLE_RATE, Reject, Utterance
from pipelines.engines.local import LocalEngine
from pipelines.execution.engine import Engine
from pipelines.execution.planner import Plan
from pipelines.execution.runner import driver_lock, run_stage
from pipelines.execution.task import Stage, Task, run_task
from pipelines.layout import part_names
from pipelines.settings import Settings

Item = TypeVar("Item")
Say = Callable[[str], None]


def silent(line: str) -> None:
    """Print nothing."""


@dataclass(frozen=True)
class Run:
    """One run of the build: what every step receives."""

    build: Path  # whose tables and done markers are read
    settings: Settings
    engine: Engine
    steps: "tuple[Step, ...]"  # of the build that these settings ask for, in order
    say: Say = silent
    work: Path | None = (
        None  # where manifest and models are written, if not in `build`: the copy of a dry run
    )

    @property
    def folder(self) -> Path:
        """Where manifest, codebooks, split and vocabulary are."""
        return self.work or self.build


@dataclass(frozen=True)
class Step:
    """One step of the build; `pipelines.build.STEPS` is the only list of them.

    A step has per-part tasks (`tasks`), with what is done once before (`prepare`) and after them (`finish`), or it does
    all of its work once, in the driver (`once`, with its own dry run in `plan`).
    """

    name: str  # the command, the progress bar, the done marker: "align"
    summary: str = ""
    table: str | None = None  # the folder it writes: "words"
    after: tuple[str, ...] | None = ()  # steps it reads; None: every step before it
    wanted: Callable[[Settings], bool] = lambda settings: True
    tasks: Callable[[Run], tuple[Stage, list[Task]]] | None = None
    prepare: Callable[[Run], Any] | None = None
    before: Callable[[Run, Stage, list[Task]], Any] | None = None  # of its tasks, once they are known
    finish: Callable[[Run, Stage, list[Task]], Any] | None = None
    once: Callable[[Run], Any] | None = None
    plan: Callable[[Run], Plan] | None = None
    reads_all: bool = (
        False  # its tasks depend on whole tables: a dry run knows them only when those are up to date
    )
    rejects: bool = False  # its column `reject` decides what became of a row
    member: str | None = None  # the member that it adds to a sample: "pitch.npy"
    uses_gpu: bool = False  # can run on `units.device`
    decodes: bool = False  # its stage maps decoded recordings: one decode serves several such steps
    writes_manifest: bool = False  # every later step that reads `ingest` reads what this one made of it

    @property
    def column(self) -> str | None:
        """The column of its table that becomes the member of a sample."""
        return self.member and self.member.removesuffix(".npy")

    def run(self, run: Run) -> dict[str, Any]:
        """Bring the step up to date."""
        with driver_lock(run.build, run.engine):
            if self.once is not None:
                return self.once(run)
            assert self.tasks is not None
            if self.prepare is not None:
                self.prepare(run)
            stage, tasks = self.tasks(run)
            if self.before is not None:
                self.before(run, stage, tasks)
        counts = run_stage(stage, run.build, tasks, run.engine)
        if self.finish is not None:
            with driver_lock(run.build, run.engine):
                self.finish(run, stage, tasks)
        if self.rejects and self.table is not None:
            refuse_total_loss(run.build, self.name, self.table)
        return counts


Process = Callable[[pa.RecordBatch], pa.RecordBatch]
AddNotes = Callable[[dict[str, Any], pa.RecordBatch], None]
"""(notes so far, result) -> adds to the notes what the driver needs of a part, so that it need not read the table."""


def add_nothing(notes: dict[str, Any], result: pa.RecordBatch) -> None:
    """Nothing more than rows and rejects."""


@dataclass(frozen=True)
class TableWorker:
    """Maps the rows of one table, in order, to the rows of another: one row out for each row in.

    `process` maps a record batch; a row that cannot be used carries its reason in the column `reject`.
    """

    stage: Stage
    schema: pa.Schema
    process: Process
    batch_minutes: float = 5.0  # of audio in one record batch
    notes: Mapping[str, Any] = field(default_factory=dict)  # kept in each done marker

    def run(self, build: Path, task: Task) -> str:
        """Do one task unless it is done."""
        return run_task(self.stage, self.make, build, task)

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Map the task's only input table batch by batch."""
        table = files.read_table(build / task.inputs[0])
        results = ((batch, self.process(batch)) for batch in batches(table, self.batch_minutes))
        return write_results(temporary, self.schema, results, self.notes)


def write_results(
    path: Path,
    schema: pa.Schema,
    results: Iterator[tuple[pa.RecordBatch, pa.RecordBatch]],
    notes: Mapping[str, Any],
    add_notes: AddNotes = add_nothing,
) -> dict[str, Any]:
    """Write the second of each pair of batches; the notes of a done marker, with counts of rows and rejects.

    `add_notes` adds what it counts in each batch to the notes.
    """
    rows = 0
    counts: dict[str, Any] = {}
    rejects: dict[str, int] = {}
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch, result in results:
            if result.schema != schema or result.num_rows != batch.num_rows:
                raise AssertionError("process: need one row out per row in, with the stage's schema")
            writer.write_batch(result)
            rows += result.num_rows
            add_notes(counts, result)
            for reason in result.column("reject").to_pylist():
                if reason is not None:
                    rejects[reason] = rejects.get(reason, 0) + 1
    return {"rows": rows, "rejects": dict(sorted(rejects.items())), **notes, **counts}


def batches(table: pa.Table, minutes: float = 5.0) -> Iterator[pa.RecordBatch]:
    """Cut a part into record batches of at most `minutes` of audio, at least one row: a rule of the data alone."""
    limit, start, filled = int(minutes * 60 * SAMPLE_RATE), 0, 0
    samples = table.column("samples").to_pylist() if "samples" in table.column_names else [0] * table.num_rows
    for row, length in enumerate([*samples, limit + 1]):
        if row > start and (row == table.num_rows or filled + length > limit):
            yield table.slice(start, row - start).combine_chunks().to_batches()[0]
            start, filled = row, 0
        filled += length


def row_utterance(row: Mapping[str, Any]) -> Utterance:
    """The utterance of one manifest row."""
    return Utterance(**{name: row[name] for name in Utterance.__dataclass_fields__ if name in row})


def reject_columns(rejects: list[Reject | None]) -> tuple[pa.Array, pa.Array]:
    """The columns `reject` and `detail`."""
    codes = pa.array([reject.reason if reject else None for reject in rejects], pa.string())
    return codes, pa.array([reject.detail if reject else None for reject in rejects], pa.string())


def token_schema(name: str, *more: tuple[str, pa.DataType]) -> pa.Schema:
    """Of a table with one sequence of tokens per row, in a column named as the table."""
    tokens = (name, pa.list_(pa.int16()))
    return pa.schema([("id", pa.string()), tokens, *more, ("reject", pa.string()), ("detail", pa.string())])


def token_batch(batch: pa.RecordBatch, tokens: list[np.ndarray | None], schema: pa.Schema) -> pa.RecordBatch:
    """Rows of tokens; what was rejected in `batch` keeps its reason."""
    columns = [batch.column("id"), pa.array(tokens, schema.field(1).type)]
    return pa.record_batch([*columns, batch.column("reject"), batch.column("detail")], schema=schema)


FEW_PARTS = 100
"""As many parts of a quick stage are done in this process while worker processes start."""


def run_quick_stage(run: Run, stage: Stage, tasks: list[Task]) -> None:
    """Run a stage of milliseconds a part, few parts in this process, more of them by the engine."""
    engine = LocalEngine() if len(tasks) <= FEW_PARTS else run.engine
    run_stage(stage, run.folder, tasks, engine, quiet=run.work is not None or len(tasks) <= FEW_PARTS)


def refuse_total_loss(build: Path, step: str, table: str) -> None:
    """Fail a step in which every utterance with a transcript was rejected for one reason: not the data is wrong then.

    Stops reading at the first utterance that was not.

    Raises:
        ValueError: names the reason and the first detail.
    """
    reason = detail = None
    count = 0
    for name in part_names(build):
        earlier = files.read_table(build / "manifest" / name, columns=["reject"])["reject"].to_pylist()
        rows = files.read_table(build / table / name, columns=["reject", "detail"]).to_pylist()
        for before, row in zip(earlier, rows, strict=True):
            code = row["reject"]
            if before is not None or (code or "").startswith("text."):
                continue
            if code is None or reason not in (None, code):
                return
            reason, detail, count = code, detail or row["detail"], count + 1
    if reason is not None:
        because = f", the first because: {detail}" if detail else ""
        raise ValueError(f"{step}: need a usable utterance, got {count} rejected as {reason}{because}")
