"""Plan one stage and run what is to do, with progress on stderr, on any engine."""

import fcntl
import hashlib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from corpus import files
from corpus.records import SAMPLE_RATE
from pipelines.execution.engine import Engine
from pipelines.execution.planner import NEW, plan, read_markers
from pipelines.execution.progress import Show, is_quiet, progress_bar
from pipelines.execution.task import NO_MESSAGE, Stage, Task, failure_of

CLAIMS = ".claims"
"""Folder of the claims of tasks that runs which share a build are working on."""


def run_stage(
    stage: Stage,
    build: Path,
    tasks: list[Task],
    engine: Engine,
    *,
    plan_as: Stage | None = None,
    quiet: bool = False,
) -> dict[str, int]:
    """Bring every task's output up to date; raises ValueError naming the first failed one after all others are done.

    Args:
        plan_as: the stage whose settings the tasks' keys hold, where that is another one than runs them.

    Returns:
        counts: {"tasks", "done", "skipped"}, where `done` were made in this run.
    """
    keyed = plan_as or stage
    with build_lock(build, shared=engine.shares_builds):
        planned = plan(keyed, build, tasks)
        if not quiet and planned.todo and planned.reasons.keys() != {NEW}:
            print(planned, file=sys.stderr)
        left = planned.todo
        with progress(stage.name, build, left, quiet):
            for _ in range(2):  # once more where a worker was killed between two attempts and left no message
                if left:
                    engine.run(stage, build, stage.bundle(left))
                left = plan(keyed, build, left).todo
                if any(failure_of(build, task) != NO_MESSAGE for task in left):
                    break
    if left:
        raise ValueError(
            f"{stage.name}: {len(left)} of {len(tasks)} tasks failed; first {left[0].output}: "
            f"{failure_of(build, left[0])}; the others are kept, run again to retry"
        )
    return {"tasks": len(tasks), "done": len(planned.todo), "skipped": planned.up_to_date}


LOCKED: set[str] = set()
"""Builds that this process has locked."""


@dataclass
class BuildLock:
    """How this process holds a build."""

    first: bool = True  # nobody else works on it, so far
    file: IO[str] | None = None

    def share(self) -> None:
        """Let runs of engines that share builds join."""
        if self.file is not None:
            fcntl.flock(self.file, fcntl.LOCK_SH)


@contextmanager
def build_lock(build: Path, *, sweep: bool = True, shared: bool = False) -> Iterator[BuildLock]:
    """Lock the build: two drivers would remove each other's temporary files.

    The lock ends with the process, however it ends; `sweep` removes what a killed run left half-written. An object
    store has no lock to rely on: there, one driver at a time is the user's responsibility, and nothing half-written is
    ever visible.

    Args:
        shared: wait until the first run shares the build, and join it, instead of refusing.
    """
    name = str(build if files.is_url(build) else build.resolve())
    if name in LOCKED:
        yield BuildLock()
        return
    if files.is_url(build):
        files.check_reachable(build, writing=True)
        LOCKED.add(name)
        try:
            yield BuildLock()
        finally:
            LOCKED.discard(name)
        return
    build.mkdir(parents=True, exist_ok=True)
    with open(build / ".lock", "a") as file:
        lock = BuildLock(file=file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not shared:
                raise ValueError(
                    f"{build}: another run works on this build; wait for it, or end it"
                ) from None
            fcntl.flock(file, fcntl.LOCK_SH)
            lock.first = False
        for stale in build.glob("**/.*.tmp-*") if sweep and lock.first else ():
            stale.unlink(missing_ok=True)
        LOCKED.add(name)
        try:
            yield lock
        finally:
            LOCKED.discard(name)


@contextmanager
def driver_lock(build: Path, engine: Engine) -> Iterator[None]:
    """Held while a step does what is done once, not per part: other runs that share the build wait."""
    if not engine.shares_builds or files.is_url(build) or not build.exists():
        yield
        return
    with open(build / ".driver-lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claim(build: Path, task: Task) -> Iterator[bool]:
    """Claim a task for this process, unless another one has it; the claim ends with the process.

    Two processes that claim one task after all, on a store without locks, write the same bytes.
    """
    if files.is_url(build):
        yield True
        return
    path = build / CLAIMS / hashlib.sha256(task.output.encode()).hexdigest()[:32]
    path.parent.mkdir(exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def progress(name: str, build: Path, todo: list[Task], quiet: bool) -> Iterator[None]:
    """Show tasks, hours and real-time factor on stderr while the engine works, by watching done markers."""
    if not todo:
        yield
        return
    hours = sum(task.samples for task in todo) / SAMPLE_RATE / 3600
    started, over = time.monotonic(), threading.Event()
    left = list(todo)

    def update(show: Show) -> None:
        nonlocal left
        left = [task for task, marker in read_markers(build, left) if (marker or {}).get("key") != task.key]
        finished = hours - sum(task.samples for task in left) / SAMPLE_RATE / 3600
        speed = finished * 3600 / max(time.monotonic() - started, 1e-9)
        show(len(todo) - len(left), f"{finished:.2f}/{hours:.2f} h, {speed:.0f}x real time" if hours else "")

    def watch(show: Show) -> None:
        pause = 0.5
        while not over.wait(pause):
            before = time.monotonic()
            update(show)
            pause = max(0.5, 20 * (time.monotonic() - before))  # many tasks: update less often

    with progress_bar(name, len(todo), "task", quiet=quiet) as show:
        if quiet or is_quiet():
            yield
            return
        thread = threading.Thread(target=watch, args=(show,), daemon=True, name="progress")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            update(show)
