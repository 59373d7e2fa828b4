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

from tqdm import tqdm

from corpus.records import SAMPLE_RATE
from pipelines.stage import Stage, Task, done, run_task

ENGINES = ("beam", "local")


@dataclass(frozen=True)
class Engine:
    """Who runs the tasks: `beam` (worker processes of Beam's local runner, or any runner named after `--`) or `local`
    (a plain loop in this process)."""

    name: str = "beam"
    workers: int = 1
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise ValueError(f"engine: need one of {', '.join(ENGINES)}, got {self.name!r}")
        if self.workers < 1:
            raise ValueError(f"workers: need at least 1, got {self.workers}")


def run_stage(
    stage: Stage, build: Path, tasks: list[Task], engine: Engine, *, quiet: bool = False
) -> dict[str, int]:
    """Bring every task's output up to date; raises ValueError naming the first failed one after all others are done.

    Returns:
        counts: {"tasks", "done", "skipped"}, where `done` were made in this run.
    """
    todo = [task for task in tasks if not done(build, task)]
    with alone(build), progress(stage.name, build, todo, quiet):
        if todo and engine.name == "beam":
            logging.disable(logging.WARNING)  # while Beam is imported, which warns of what it can do without
            from pipelines import beam  # imported here: other engines and `--help` need no Beam

            logging.disable(logging.NOTSET)
            beam.run(stage, build, todo, workers=min(engine.workers, len(todo)), extra=engine.extra)
        elif todo:
            stage.setup()
            for task in todo:
                run_task(stage, build, task)
    failed = [task for task in todo if not done(build, task)]
    if failed:
        raise ValueError(
            f"{stage.name}: {len(failed)} of {len(tasks)} tasks failed; first {failed[0].output}: "
            f"{failure(build, failed[0])}; the others are kept, run again to retry"
        )
    return {"tasks": len(tasks), "done": len(todo), "skipped": len(tasks) - len(todo)}


HELD: set[Path] = set()
"""Builds this process holds."""


@contextmanager
def alone(build: Path) -> Iterator[None]:
    """Hold the build: two drivers would remove each other's temporary files.

    The lock goes with the process, however it ends; what a killed run left half-written is swept first.
    """
    place = build.resolve()
    if place in HELD:
        yield
        return
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{build}: another run works on this build; wait for it, or end it") from None
        for stale in build.glob("**/.*.tmp-*"):
            stale.unlink(missing_ok=True)
        HELD.add(place)
        try:
            yield
        finally:
            HELD.discard(place)


def failure(build: Path, task: Task) -> str:
    """What a failed task said."""
    path = build / (task.output + ".failed")
    try:
        return json.loads(path.read_text())["error"] + f" (traceback in {path})"
    except (OSError, ValueError, KeyError):
        return "no output and no message"


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
        left = [task for task in left if not done(build, task)]
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
