"""Tasks, done markers, and how one task gets done: the same on every engine, and after any crash.

A stage is a frozen dataclass of settings. `open()` loads its models, once per worker process, and returns a worker,
whose `make` turns one task into one file. The engine alone knows worker processes; `run_task` alone knows temporary
names and done markers.

    data  -> temporary name -> fsync -> old marker removed -> os.replace -> done marker
    on an object store: data -> local disk -> old marker removed -> put -> done marker put

A file counts only while its done marker holds the key of the present settings and inputs, so that a kill at any instant
leaves either the finished file or work to do, never a half-written file that is read.
"""

import hashlib
import json
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from corpus import files

# oneDNN keeps a compiled kernel for each shape of input, 1024 of them: recordings of a thousand lengths hold half a
# gigabyte. It reads this when the first one is made.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work, retry and resume: make `output` from `inputs` (paths relative to the build)."""

    output: str
    inputs: tuple[str, ...]
    key: str  # sha256 of stage, settings, models and input bytes: equal key, equal bytes
    samples: int  # 16 kHz samples it covers, for progress
    arguments: tuple = ()
    hashes: tuple[str, ...] = ()  # sha256 of each input, kept in the marker


GPU_TASKS = 3
"""Tasks that a worker with a GPU works on: one or two are computed, another is decoded or written."""

Make = Callable[[Path, Task, Path], dict[str, Any]]
"""(build, task, temporary) -> notes for the done marker (JSON-able, no clock, no host); writes `temporary`."""


class Worker(Protocol):
    """A stage in a worker process, with its models loaded."""

    def run(self, build: Path, task: Task) -> str:
        """Do one task unless it is done; "done", "skipped" or "failed"."""
        ...


class Stage(Protocol):
    """What an engine runs: picklable settings, opened once per worker process."""

    name: ClassVar[str]
    version: ClassVar[int]  # raised when the same settings give other bytes
    outside_key: ClassVar[tuple[str, ...]] = ()  # fields that cannot change a byte: paths, devices

    def open(self) -> Worker:
        """Load the models."""
        ...

    @property
    def uses_gpu(self) -> bool:
        """Whether its models run on a GPU."""
        return False

    @property
    def decodes(self) -> bool:
        """Whether it maps decoded recordings: its worker is a `steps.audio.AudioRunner`."""
        return False

    @property
    def tasks_at_once(self) -> int:
        """How many tasks a worker process works on: while a GPU computes one, another is decoded or written."""
        return GPU_TASKS if self.uses_gpu and self.decodes else 1

    def bundle(self, tasks: list[Task]) -> list[Task]:
        """Tasks as an engine gets them: one may stand for several, which it carries as its arguments."""
        return tasks


@dataclass(frozen=True)
class FileWorker:
    """A worker that makes one file per task."""

    stage: Stage
    make: Make

    def run(self, build: Path, task: Task) -> str:
        """Do one task unless it is done."""
        return run_task(self.stage, self.make, build, task)


class TaskThreads:
    """Does tasks in order, at most `at_once` of them at a time: in threads of their own where that is more than one.

    Each is done by `run_task`, so that its table is complete before its done marker appears, whatever the others do.
    As a context manager it waits for all tasks, also when it is interrupted, and raises the first error of one.
    """

    def __init__(self, at_once: int):
        self._at_once = at_once
        self._threads = ThreadPoolExecutor(at_once, "task") if at_once > 1 else None
        self._pending: set[Future] = set()

    def submit(self, run: Callable[..., Any], *arguments: Any) -> None:
        """Call `run(*arguments)`, once fewer than `at_once` calls are left."""
        if self._threads is None:
            run(*arguments)
            return
        if len(self._pending) == self._at_once:
            self._wait(FIRST_COMPLETED)
        self._pending.add(self._threads.submit(run, *arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            if self._threads is not None:
                self._threads.shutdown()

    def _wait(self, until: str = ALL_COMPLETED) -> None:
        over, self._pending = wait(self._pending, return_when=until)
        for call in over:
            call.result()


def key_fields(stage: Stage, inputs: Sequence[str], arguments: tuple = ()) -> dict[str, Any]:
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
    values = list(key_fields(stage, inputs, arguments).values())
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def key_function(stage: Stage) -> Callable[..., str]:
    """`key` of inputs for many tasks without arguments: the stage is serialised once, not a million times."""
    mark = ["the sha256 of each input"]
    fields = json.dumps(list(key_fields(stage, mark).values()), sort_keys=True, default=str)
    before, after = fields.split(json.dumps(mark))
    return lambda *inputs: hashlib.sha256(f"{before}{json.dumps(inputs)}{after}".encode()).hexdigest()


def make_task(stage: Stage, output: str, inputs: dict[str, str], samples: int, arguments: tuple = ()) -> Task:
    """The task that makes `output`; `inputs` are paths with their sha256."""
    hashes = tuple(inputs.values())
    return Task(output, tuple(inputs), key(stage, hashes, arguments), samples, arguments, hashes)


def marker_fields(stage: Stage, task: Task) -> dict[str, Any]:
    """What the done marker keeps of `key_fields`, so that a later plan can name the change; long values by hash."""

    def short(value: Any) -> Any:
        text = json.dumps(value, sort_keys=True, default=str)
        return json.loads(text) if len(text) <= 120 else hashlib.sha256(text.encode()).hexdigest()

    fields = key_fields(stage, task.hashes, task.arguments)
    fields["settings"] = {name: short(value) for name, value in fields["settings"].items()}
    fields["inputs"] = {path: digest[:16] for path, digest in zip(task.inputs, task.hashes, strict=False)}
    return {**fields, "arguments": short(fields["arguments"])}


def marker_path(path: Path) -> Path:
    """The name of the done marker beside `path`."""
    return path.with_name(path.name + ".done")


def read_marker(path: Path) -> dict[str, Any] | None:
    """The done marker beside `path`, or None where there is none or it cannot be read."""
    try:
        return json.loads(marker_path(path).read_bytes())
    except (OSError, ValueError):
        return None


def is_done(build: Path, task: Task) -> bool:
    """Whether the task's output exists, made from the present settings and inputs."""
    path = build / task.output
    marker = read_marker(path)
    return marker is not None and marker.get("key") == task.key and path.exists()


def publish_model(write: Callable[[Path], Any], target: Path, marker: dict[str, Any]) -> None:
    """Write a fitted model and its done marker in the order of `run_task`: old marker removed, data, new marker."""
    files.make_folder(target.parent)
    temporary = files.temporary_name(target)
    with files.full_disk_named(target):
        write(temporary)
    marker_path(target).unlink(missing_ok=True)
    files.publish(temporary, target)
    files.write(marker_path(target), json.dumps(marker).encode())


def sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DeviceError(ValueError):
    """The device of this process is in a bad state: every later task would fail too, so that the process must end."""


def is_device_error(error: BaseException) -> bool:
    """Whether a GPU is in a bad state; out of memory is not: another batch may fit."""
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )


def run_task(stage: Stage, make: Make, build: Path, task: Task) -> str:
    """Do one task unless it is done; "done", "skipped" or "failed".

    Safe under retries, speculation and kills. A failure is written beside the output as `.failed`, so that the other
    tasks continue and the driver finds it on any engine.

    Raises:
        DeviceError: the GPU is in a bad state; the engine ends this process, and its own retries use another one.
    """
    path = build / task.output
    failure_path = path.with_name(path.name + ".failed")
    if is_done(build, task):
        return "skipped"
    files.make_folder(path.parent)
    temporary = files.temporary_name(path)
    try:
        with files.full_disk_named(path):
            notes = make(build, task, temporary)
        marker = {"key": task.key, "sha256": sha256(temporary), "bytes": temporary.stat().st_size, **notes}
        marker["made"] = marker_fields(stage, task)
        # The old marker goes first: new data under an old marker would pass for the work of the old settings.
        # One with the same key belongs to another attempt at this task, which ended with the same bytes.
        if (read_marker(path) or {}).get("key") != task.key:
            marker_path(path).unlink(missing_ok=True)
        files.publish(temporary, path)
        files.write(marker_path(path), json.dumps(marker, sort_keys=True).encode())
        failure_path.unlink(missing_ok=True)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        line = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        content = {"error": line, "traceback": traceback.format_exc()}
        files.write(failure_path, json.dumps(content, indent=1).encode())
        if is_device_error(error):
            raise DeviceError(
                f"{stage.name}: {task.output}: {line}; run the same command to resume"
            ) from error
        return "failed"
    return "done"


NO_MESSAGE = "no output and no message"


def failure_of(build: Path, task: Task) -> str:
    """The error of a failed task, in one line."""
    path = build / (task.output + ".failed")
    try:
        return json.loads(path.read_bytes())["error"] + f" (traceback in {path})"
    except (OSError, ValueError, KeyError):
        return NO_MESSAGE
