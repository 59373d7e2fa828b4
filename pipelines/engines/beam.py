"""Beam engine: the whole of what Beam does for us is to hand tasks to workers."""

import contextlib
import io
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import ExternalEnvironment

from corpus import files
from corpus.records import Unusable
from pipelines.engines import beam_workers as local
from pipelines.engines import dataflow
from pipelines.engines.requirements import java, same_versions, versions
from pipelines.execution.task import Stage, Task, run_task


class RunTask(beam.DoFn):
    """Run one stage's tasks; models are loaded once per worker process, not once per task."""

    def __init__(self, stage: Stage, build: str):
        self.stage = stage
        self.build = build

    def setup(self) -> None:
        self.stage.setup()

    def process(self, task: Task) -> Iterator[tuple[str, str]]:
        yield task.output, run_task(self.stage, files.to_path(self.build), task)


def run(stage: Stage, build: Path, todo: list[Task], *, workers: int, extra: tuple[str, ...] = ()) -> None:
    """Run the tasks of one stage as a Beam pipeline."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    runner, options = choose(build, workers, extra)
    if named(options) == dataflow.RUNNER:
        dataflow.complete(options, stage, str(build))
    pipeline = beam.Pipeline(runner=runner, options=options)
    graph(pipeline, stage, build, balanced(todo, workers), options)
    with local.no_talk_of_lost_connections():
        dataflow.wait(pipeline.run(), stage)


def balanced(todo: list[Task], workers: int) -> list[Task]:
    """Long tasks first and each round the other way, because the local runner deals them out in turn.

    >>> [task.samples for task in balanced([Task("", (), "", n) for n in (1, 9, 5, 4, 7)], 2)]
    [9, 7, 4, 5, 1]
    """
    longest = sorted(todo, key=lambda task: -task.samples)
    rounds = [longest[first : first + workers] for first in range(0, len(longest), workers)]
    return [task for i, hand in enumerate(rounds) for task in (hand[::-1] if i % 2 else hand)]


def graph(
    pipeline: beam.Pipeline, stage: Stage, build: Path, todo: list[Task], options: PipelineOptions
) -> beam.PCollection:
    """The steps of one stage: tasks spread over the workers, and run. A GPU's are in pipelines/dataflow.py."""
    tasks, place = dataflow.tasks_of(pipeline, build, todo), str(build)
    step: beam.PTransform
    if dataflow.decodes_apart(stage, options):
        tasks = tasks | "Decode" >> beam.ParDo(dataflow.DecodeTask(place)) | "Decoded" >> beam.Reshuffle()
        step = beam.ParDo(dataflow.RunDecoded(stage, place))  # type: ignore[arg-type]
    else:
        step = beam.ParDo(RunTask(stage, place))
    return tasks | stage.name >> step.with_resource_hints(**dataflow.hints(stage, options))


def choose(build: Path, workers: int, extra: tuple[str, ...]) -> tuple[FnApiRunner | None, PipelineOptions]:
    """The runner and its options: the one named in `extra`, else the pinned local one.

    The local runner is named because Beam's default one looks for a download first. Its workers are processes that
    write their talk to beam.log in the build, not over the progress on stderr; with `--environment_type=EXTERNAL
    --environment_config=HOST:PORT` they are those of a worker pool that runs elsewhere.
    """
    options = PipelineOptions([f"--direct_num_workers={workers}", *extra])
    place = options.view_as(PortableOptions)
    if named(options):
        return None, options
    if place.environment_type == "EXTERNAL":
        return FnApiRunner(default_environment=ExternalEnvironment.from_options(place)), options
    if workers == 1:
        return FnApiRunner(), options
    log = "/dev/null" if files.is_url(build) else str(build.absolute() / "beam.log")
    return FnApiRunner(default_environment=local.ForkedEnvironment(log)), options


RUNNERS = {name.lower(): name for name in StandardOptions.KNOWN_RUNNER_NAMES}


def named(options: PipelineOptions) -> str:
    """The runner that the user asked for, in full: Beam takes `spark` for SparkRunner."""
    said = options.view_as(StandardOptions).runner or ""
    return RUNNERS.get(said.lower()) or RUNNERS.get(f"{said.lower()}runner", said)


JOB_SERVERS = {"SparkRunner": "spark", "FlinkRunner": "flink"}
LOSES_DATA = ("DaskRunner", "RayRunner", "PySparkRunner")


def ready(workers: int, extra: tuple[str, ...]) -> None:
    """Ask, before any work, what the runner in `extra` needs; workers elsewhere are asked for their Python.

    Raises:
        Unusable: it is missing; one line, with the way out.
    """
    why = io.StringIO()
    try:
        with contextlib.redirect_stderr(why):
            options = PipelineOptions([f"--direct_num_workers={workers}", *extra])
            place, unknown = (
                options.view_as(PortableOptions),
                options.get_all_options(retain_unknown_options=True),
            )
    except SystemExit as error:  # argparse says why after all the options it knows
        raise Unusable(f"beam: {why.getvalue().strip().rpartition('error: ')[2]}") from error
    runner = named(options)
    if runner in LOSES_DATA:
        raise Unusable(f"beam: {runner} loses rows without a word, measured; use --engine spark")
    if runner and runner not in RUNNERS.values() and "." not in runner:
        raise Unusable(f"beam: need one of the runners {', '.join(RUNNERS.values())}, got {runner}")
    if runner in ("", "FnApiRunner"):
        dataflow.unknown_options(extra, "beam")
    if runner == dataflow.RUNNER:
        dataflow.ready(extra)
    if runner == "PortableRunner" and place.job_endpoint != "embed":
        answers("job server", "--job_endpoint", place.job_endpoint or "")
    if runner in JOB_SERVERS:
        engine = JOB_SERVERS[runner]
        jar = unknown.get(f"{engine}_job_server_jar")
        if place.job_endpoint:
            answers("job server", "--job_endpoint", place.job_endpoint)
            return
        if jar is None or not Path(jar).is_file():
            got = f"no file {jar}" if jar else "neither"
            way = "or use --engine spark, which needs none" if engine == "spark" else "or another engine"
            raise Unusable(
                f"beam: {runner} needs its job server, --{engine}_job_server_jar=JAR on this disk or "
                f"--job_endpoint=HOST:PORT, got {got}; {way}"
            )
        java()
    if not runner and place.environment_type == "EXTERNAL":
        ask_pool(place, options)


def reaches(build: Path, device: str, extra: tuple[str, ...]) -> None:
    """Whether workers far away see the build and have the device."""
    options = PipelineOptions(list(extra))
    if named(options) == dataflow.RUNNER:
        dataflow.reaches(build, device, options)


def answers(who: str, option: str, address: str) -> None:
    """Whether somebody listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host or "localhost", int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise Unusable(f"beam: need a {who} at {option}=HOST:PORT, got {address!r}: {error}") from error


def ask_pool(place: PortableOptions, options: PipelineOptions) -> None:
    """Let a worker of the pool say what it runs on; it must be what the driver runs on."""
    answers("worker pool", "--environment_config", place.environment_config or "")
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    try:
        with beam.Pipeline(
            runner=FnApiRunner(default_environment=ExternalEnvironment.from_options(place)), options=options
        ) as pipeline:
            _ = pipeline | beam.Create([versions()]) | beam.Reshuffle() | beam.Map(same_versions)
    except Exception as error:  # whatever the worker said, at the end of a long report
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise Unusable(
            f"beam: the worker pool cannot run this project: {last.split(' [while running')[0]}"
        ) from error
