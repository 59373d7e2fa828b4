"""Stage contract and part runner: what a piece of work is, when it is done, and how it survives a crash.

A stage is a frozen dataclass of settings with `setup` (once per worker process) and `make` (one task in, one file out).
The runner alone knows temporary names and done markers; the engine alone knows workers.

    data  -> temporary name -> fsync -> old marker removed -> os.replace -> done marker
    on an object store: data -> local disk -> old marker removed -> put -> done marker put

A file counts only while its done marker holds the key of the present settings and inputs, so a kill at any instant
leaves either the finished file or work to do, never half a file that is read.
"""

import abc
import hashlib
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files
from corpus.records import Utterance

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work, retry and resume: make `output` from `inputs` (paths relative to the build)."""

    output: str
    inputs: tuple[str, ...]
    key: str  # sha256 of stage, settings, models and input bytes: equal key, equal bytes
    samples: int  # 16 kHz samples it covers, for progress
    arguments: tuple = ()
    hashes: tuple[str, ...] = ()  # sha256 of each input, for the marker to remember


class Stage(Protocol):
    """What an engine runs: `setup` once per worker process, then `make` per task."""

    name: ClassVar[str]
    version: ClassVar[int]  # raised when the same settings give other bytes
    outside_key: ClassVar[tuple[str, ...]]  # fields that cannot change a byte: places, devices

    def setup(self) -> None: ...

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write `temporary`; return what the done marker shall remember (JSON-able, no clock, no host)."""
        ...


class TableStage(abc.ABC):
    """A stage that maps the rows of one table, in order, to the rows of another: one row out for each row in."""

    schema: ClassVar[pa.Schema]

    @property
    def batch_minutes(self) -> float:
        """Minutes of audio in one record batch."""
        return 5.0

    @abc.abstractmethod
    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One row out per row in, in order; what cannot be used carries its reason in the column `reject`."""

    def processed(self, cut: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
        """Each batch with what `process` makes of it; a stage that can read ahead says so here."""
        return ((batch, self.process(batch)) for batch in cut)

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Map the task's only input table batch by batch and count rows, samples and rejects."""
        table = files.read_table(build / task.inputs[0])
        rows = 0
        rejects: dict[str, int] = {}
        with pq.ParquetWriter(temporary, self.schema, compression="zstd") as writer:
            for batch, made in self.processed(batches(table, self.batch_minutes)):
                if made.schema != self.schema or made.num_rows != batch.num_rows:
                    raise AssertionError(
                        f"{type(self).__name__}: need one row out per row in with its schema"
                    )
                writer.write_batch(made)
                rows += made.num_rows
                for reason in made.column("reject").to_pylist():
                    if reason is not None:
                        rejects[reason] = rejects.get(reason, 0) + 1
        return {"rows": rows, "rejects": dict(sorted(rejects.items()))}


def batches(table: pa.Table, minutes: float = 5.0) -> Iterator[pa.RecordBatch]:
    """Cut a part into record batches of at most `minutes` of audio, at least one row: a rule of the data alone."""
    limit, start, filled = int(minutes * 60 * 16_000), 0, 0
    samples = table.column("samples").to_pylist() if "samples" in table.column_names else [0] * table.num_rows
    for row, length in enumerate([*samples, limit + 1]):
        if row > start and (row == table.num_rows or filled + length > limit):
            yield table.slice(start, row - start).combine_chunks().to_batches()[0]
            start, filled = row, 0
        filled += length


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order, the next one made by a thread while the present one is worked on.

    One item waits at most, so that memory holds two. What making an item raises is raised here.

    >>> list(ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    over = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(next, items, over)
        while (item := coming.result()) is not over:
            coming = thread.submit(next, items, over)
            yield item  # type: ignore[misc]


def utterance(row: dict[str, Any]) -> Utterance:
    """The utterance of one manifest row."""
    return Utterance(**{name: row[name] for name in Utterance.__dataclass_fields__})


def made_of(stage: Stage, inputs: Sequence[str], arguments: tuple = ()) -> dict[str, Any]:
    """Everything that decides a task's bytes: the stage with its settings, the hashes of its inputs, its arguments."""
    settings = {name: value for name, value in asdict(stage).items() if name not in stage.outside_key}  # type: ignore[call-overload]
    return {
        "stage": stage.name,
        "version": stage.version,
        "settings": settings,
        "inputs": list(inputs),
        "arguments": list(arguments),
    }


def key(stage: Stage, inputs: Sequence[str], arguments: tuple = ()) -> str:
    """sha256 of everything that decides a task's bytes."""
    said = list(made_of(stage, inputs, arguments).values())
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def keys(stage: Stage) -> Callable[[str], str]:
    """`key` for many tasks of one input and no arguments: the stage is written down once, not a million times."""
    mark = "the sha256 of an input"
    before, after = json.dumps(list(made_of(stage, [mark]).values()), sort_keys=True, default=str).split(mark)
    return lambda digest: hashlib.sha256(f"{before}{digest}{after}".encode()).hexdigest()


def task_of(stage: Stage, output: str, inputs: dict[str, str], samples: int, arguments: tuple = ()) -> Task:
    """The task that makes `output`; `inputs` are paths with their sha256."""
    hashes = tuple(inputs.values())
    return Task(output, tuple(inputs), key(stage, hashes, arguments), samples, arguments, hashes)


def remembered(stage: Stage, task: Task) -> dict[str, Any]:
    """What the done marker keeps of `made_of`, so that a later plan can say what has changed; long values by hash."""

    if hasattr(stage, "last"):  # several stages in one go: the file is the last one's
        stage, task = stage.last(task)

    def short(value: Any) -> Any:
        said = json.dumps(value, sort_keys=True, default=str)
        return json.loads(said) if len(said) <= 120 else hashlib.sha256(said.encode()).hexdigest()

    made = made_of(stage, task.hashes, task.arguments)
    made["settings"] = {name: short(value) for name, value in made["settings"].items()}
    made["inputs"] = {path: digest[:16] for path, digest in zip(task.inputs, task.hashes, strict=False)}
    return {**made, "arguments": short(made["arguments"])}


def marker_of(path: Path) -> Path:
    """The name of the done marker beside `path`."""
    return path.with_name(path.name + ".done")


def marker(path: Path) -> dict[str, Any] | None:
    """The done marker beside `path`, or None where there is none or it cannot be read."""
    try:
        return json.loads(marker_of(path).read_bytes())
    except (OSError, ValueError):
        return None


def done(build: Path, task: Task) -> bool:
    """Whether the task's output stands, made from the present settings and inputs."""
    path = build / task.output
    found = marker(path)
    return found is not None and found.get("key") == task.key and path.exists()


def sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


write_atomically = files.write


def run_task(stage: Stage, build: Path, task: Task) -> str:
    """Do one task unless it is done; "done", "skipped" or "failed".

    Safe under retries, speculation and kills. A failure is written beside the output as `.failed`, so that the other
    tasks go on and the driver finds it on any engine.
    """
    path = build / task.output
    failure = path.with_name(path.name + ".failed")
    if done(build, task):
        return "skipped"
    files.make_folder(path.parent)
    temporary = files.temporary_name(path)
    try:
        said = stage.make(build, task, temporary)
        note = {"key": task.key, "sha256": sha256(temporary), "bytes": temporary.stat().st_size, **said}
        note["made"] = remembered(stage, task)
        # first the old marker goes: new data under an old marker would pass for the old settings' work;
        # one of the same key is of another attempt at this task, which ended with the same bytes
        if (marker(path) or {}).get("key") != task.key:
            marker_of(path).unlink(missing_ok=True)
        files.publish(temporary, path)
        write_atomically(marker_of(path), json.dumps(note, sort_keys=True).encode())
        failure.unlink(missing_ok=True)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        line = (
            f"{type(error).__name__}: {error}" if not isinstance(error, ValueError | OSError) else str(error)
        )
        write_atomically(
            failure, json.dumps({"error": line, "traceback": traceback.format_exc()}, indent=1).encode()
        )
        return "failed"
    return "done"
