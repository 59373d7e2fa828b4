"""Plan one stage and run what is left of it, with progress on stderr, whatever the engine."""

import fcntl
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from corpus import files
from corpus.records import SAMPLE_RATE
from pipelines.execution.planner import NEW, markers, plan
from pipelines.execution.task import Stage, Task, run_task

ENGINES = ("beam", "local", "spark")


@dataclass(frozen=True)
class Engine:
    """Who runs the tasks.

    `beam`: worker processes of Beam's local runner, or any runner named in `extra`. `spark`: a Spark cluster, the one
    that `master` names. `local`: a plain loop in this process.
    """

    name: str = "beam"
    workers: int = 1
    extra: tuple[str, ...] = ()  # the engine's own options, what stands after `--`
    master: str = ""  # of Spark

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise ValueError(f"engine: need one of {', '.join(ENGINES)}, got {self.name!r}")
        if self.workers < 1:
            raise ValueError(f"workers: need at least 1, got {self.workers}")
        for value, owner, said in (
            (self.master, "spark", "--master"),
            (self.extra, None, "options after --"),
        ):
            if value and (self.name != owner if owner else self.name == "local"):
                raise ValueError(f"engine: {self.name} takes no {said}, got {value!r}")

    def ready(self) -> None:
        """Ask, before any work, what the engine needs and this machine may lack.

        Raises:
            Unusable: no Java, no job server, another Python on the workers, ..., in one line.
        """
        if self.name == "spark":
            from pipelines.engines import spark

            spark.session(self.workers, self.master, self.extra)
        elif self.name == "beam" and self.extra:
            beam_engine().ready(self.workers, self.extra)
        elif self.name == "beam" and self.workers > 1:
            from pipelines.engines import beam_forkserver as worker

            worker.parent()  # imports what workers need while this process reads the source

    def reaches(self, build: Path, device: str) -> None:
        """Ask, before any work, whether the build can be written, and the engine's workers see it and have its device.

        Raises:
            Unusable: it cannot or they do not, in one line.
        """
        files.check_reachable(build, writing=True)
        if self.name == "beam" and self.extra:
            beam_engine().reaches(build, device, self.extra)


def beam_engine() -> ModuleType:
    """The Beam engine, imported here: other engines and `--help` need no Beam."""
    logging.disable(logging.WARNING)  # it warns of what it can do without
    try:
        from pipelines.engines import beam
    finally:
        logging.disable(logging.NOTSET)
    return beam


def run_stage(
    stage: Stage, build: Path, tasks: list[Task], engine: Engine, *, quiet: bool = False
) -> dict[str, int]:
    """Bring every task's output up to date; raises ValueError naming the first failed one after all others are done.

    Returns:
        counts: {"tasks", "done", "skipped"}, where `done` were made in this run.
    """
    with alone(build):
        found = plan(stage, build, tasks)
        if not quiet and found.todo and found.reasons.keys() != {NEW}:
            print(found, file=sys.stderr)
        left = found.todo
        with progress(stage.name, build, left, quiet):
            for _ in range(
                2
            ):  # again, where a worker was killed between two attempts at one task and left no word
                if left:
                    run_tasks(stage, build, left, engine)
                left = plan(stage, build, left).todo
                if any(failure(build, task) != SILENT for task in left):
                    break
    if left:
        raise ValueError(
            f"{stage.name}: {len(left)} of {len(tasks)} tasks failed; first {left[0].output}: "
            f"{failure(build, left[0])}; the others are kept, run again to retry"
        )
    return {"tasks": len(tasks), "done": len(found.todo), "skipped": found.standing}


def run_tasks(stage: Stage, build: Path, todo: list[Task], engine: Engine) -> None:
    """Hand the tasks to the engine; returns when each was tried."""
    workers = min(engine.workers, len(todo))
    if engine.name == "beam":
        beam_engine().run(stage, build, todo, workers=workers, extra=engine.extra)
    elif engine.name == "spark":
        from pipelines.engines import spark

        spark.run(stage, build, todo, engine.workers, engine.master, engine.extra)
    else:
        stage.setup()
        for task in todo:
            run_task(stage, build, task)


HELD: set[str] = set()
"""Builds this process holds."""


@contextmanager
def alone(build: Path, *, sweep: bool = True) -> Iterator[None]:
    """Hold the build: two drivers would remove each other's temporary files.

    The lock goes with the process, however it ends; `sweep` removes what a killed run left half-written. An object
    store has no lock to rely on: there, one driver at a time is the user's promise, and nothing half-written is
    ever seen.
    """
    place = str(build if files.is_url(build) else build.resolve())
    if place in HELD:
        yield
        return
    if files.is_url(build):
        files.check_reachable(build, writing=True)
        HELD.add(place)
        try:
            yield
        finally:
            HELD.discard(place)
        return
    build.mkdir(parents=True, exist_ok=True)
    with open(build / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{build}: another run works on this build; wait for it, or end it") from None
        for stale in build.glob("**/.*.tmp-*") if sweep else ():
            stale.unlink(missing_ok=True)
        HELD.add(place)
        try:
            yield
        finally:
            HELD.discard(place)


SILENT = "no output and no message"


def failure(build: Path, task: Task) -> str:
    """What a failed task said."""
    path = build / (task.output + ".failed")
    try:
        return json.loads(path.read_bytes())["error"] + f" (traceback in {path})"
    except (OSError, ValueError, KeyError):
        return SILENT


@contextmanager
def progress(name: str, build: Path, todo: list[Task], quiet: bool) -> Iterator[None]:
    """Show tasks, hours and real-time factor on stderr while the engine works, by watching done markers."""
    if quiet or not todo:
        yield
        return
    hours = sum(task.samples for task in todo) / SAMPLE_RATE / 3600
    terminal = sys.stderr.isatty()  # into a file: one line when the stage is over, not one every half second
    bar = tqdm(
        total=len(todo), desc=name, unit="task", file=sys.stderr, dynamic_ncols=True, disable=not terminal
    )
    started, over = time.monotonic(), threading.Event()
    left, said = list(todo), ""

    def look() -> None:
        nonlocal left, said
        left = [task for task, found in markers(build, left) if (found or {}).get("key") != task.key]
        made = hours - sum(task.samples for task in left) / SAMPLE_RATE / 3600
        speed = made * 3600 / max(time.monotonic() - started, 1e-9)
        said = f"{made:.2f}/{hours:.2f} h, {speed:.0f}x real time" if hours else ""
        bar.set_postfix_str(said, refresh=False)
        bar.n = len(todo) - len(left)
        bar.refresh()

    def watch(look: Callable[[], None]) -> None:
        pause = 0.5
        while not over.wait(pause):
            before = time.monotonic()
            look()
            pause = max(0.5, 20 * (time.monotonic() - before))  # many tasks: look less often

    thread = threading.Thread(target=watch, args=(look,), daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()
        bar.close()
        if not terminal:
            print(f"{name}: {len(todo) - len(left)}/{len(todo)} tasks, {said}", file=sys.stderr)
