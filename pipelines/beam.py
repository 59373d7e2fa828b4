"""Beam engine: the whole of what Beam does for us is to hand tasks to workers."""

import contextlib
import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipelines.stage import Stage, Task, run_task


class RunTask(beam.DoFn):
    """Run one stage's tasks; models are loaded once per worker process, not once per task."""

    def __init__(self, stage: Stage, build: str):
        self.stage = stage
        self.build = build

    def setup(self) -> None:
        self.stage.setup()

    def process(self, task: Task) -> Iterator[tuple[str, str]]:
        yield task.output, run_task(self.stage, Path(self.build), task)


def run(stage: Stage, build: Path, todo: list[Task], *, workers: int, extra: tuple[str, ...] = ()) -> None:
    """Run the tasks of one stage as a Beam pipeline."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    runner, options = choose(build, workers, extra)
    with dead_worker_ends_the_run(workers):
        pipeline = beam.Pipeline(runner=runner, options=options)
        _ = (
            pipeline
            | "Tasks" >> beam.Create(todo, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | stage.name >> beam.ParDo(RunTask(stage, str(build)))
        )
        pipeline.run().wait_until_finish()


def choose(build: Path, workers: int, extra: tuple[str, ...]) -> tuple[FnApiRunner | None, PipelineOptions]:
    """The runner and its options: the one named in `extra`, else the pinned local one.

    The local runner is named because Beam's default one looks for a download first. Its workers are processes that
    write their talk to beam.log in the build, not over the progress on stderr.
    """
    options = PipelineOptions([f"--direct_num_workers={workers}", *extra])
    if any(word.startswith("--runner") for word in extra):
        return None, options
    if workers == 1:
        return FnApiRunner(), options
    log = shlex.quote(str(build / "beam.log"))
    command = f"exec {shlex.quote(sys.executable)} -m pipelines.worker {os.getpid()} 2>>{log}"
    return FnApiRunner(default_environment=SubprocessSDKEnvironment.from_command_string(command)), options


@contextlib.contextmanager
def dead_worker_ends_the_run(workers: int) -> Iterator[None]:
    """Beam's local runner waits for ever on a killed worker: watch the children, and leave with one clear line.

    Nothing is lost: finished parts keep their done markers, and the same command goes on from there.
    """
    over = threading.Event()

    def watch() -> None:
        seen: set[int] = set()
        while not over.wait(0.5):
            living = beam_workers(os.getpid())
            gone = seen - living
            if gone and not over.wait(2.0):  # a normal end closes the pipeline within a moment
                message = f"a worker process (pid {min(gone)}) died, killed or out of memory; finished parts are kept"
                os.write(
                    2,
                    f"\nwordweave: {message}: run the same command again, or with fewer --workers\n".encode(),
                )
                for pid in living:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)
                os._exit(1)
            seen |= living

    if workers > 1 and Path("/proc").is_dir():
        threading.Thread(target=watch, daemon=True, name="worker-watch").start()
    try:
        yield
    finally:
        over.set()


def beam_workers(parent: int) -> set[int]:
    """Process ids of this process's living Beam workers (Linux; elsewhere the watch sees none)."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if (
                int(fields[1]) == parent
                and fields[0] != "Z"
                and b"pipelines.worker" in (stat.parent / "cmdline").read_bytes()
            ):
                found.add(int(stat.parent.name))
        except (OSError, IndexError, ValueError):
            continue
    return found
