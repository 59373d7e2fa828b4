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
    with dead_worker_ends_the_run():
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
def dead_worker_ends_the_run() -> Iterator[None]:
    """Beam's local runner waits for ever on a killed worker: leave with one clear line instead.

    Beam waits for each worker in a thread, which raises when the worker ends with another status than 0. Nothing is
    lost: finished parts keep their done markers, the other workers end with this process, and the same command goes on.
    """
    before = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if not str(raised.exc_value).startswith("Worker subprocess exited"):
            before(raised)
            return
        line = "a worker process died, killed or out of memory; finished parts are kept: run the same command again"
        os.write(2, f"\nwordweave: {line}, or with fewer --workers\n".encode())
        os._exit(1)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
