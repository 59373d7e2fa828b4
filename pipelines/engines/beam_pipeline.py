"""Tasks as a Beam pipeline: all that Beam does here is to hand tasks to workers."""

import contextlib
import io
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import ExternalEnvironment

from corpus import files
from corpus.provenance import versions
from corpus.records import Unusable
from pipelines.engines import dataflow, dataflow_preflight
from pipelines.engines.beam_workers import ForkedEnvironment, silence_lost_connections
from pipelines.engines.requirements import check_versions, java
from pipelines.execution.task import DeviceError, Stage, Task, TaskThreads


class RunTask(beam.DoFn):
    """Run one stage's tasks; models are loaded once per worker process, not once per task."""

    def __init__(self, stage: Stage, build: str):
        self.stage = stage
        self.build = build

    def setup(self) -> None:
        self.worker = self.stage.open()

    def start_bundle(self) -> None:
        self.threads = TaskThreads(self.stage.tasks_at_once)

    def process(self, task: Task) -> None:
        self.threads.submit(self.worker.run, files.to_path(self.build), task)

    def finish_bundle(self) -> None:
        with self.threads:
            pass


def run(
    stage: Stage,
    build: Path,
    todo: list[Task],
    *,
    workers: int,
    extra: tuple[str, ...] = (),
    preload: Sequence[str] = (),
) -> None:
    """Run the tasks of one stage as a Beam pipeline."""
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    runner, options = make_runner(build, workers, extra, preload)
    if runner_name(options) == dataflow.RUNNER:
        dataflow.fill_options(options, stage, str(build))
    pipeline = beam.Pipeline(runner=runner, options=options)
    make_graph(pipeline, stage, build, balance(todo, workers), options)
    try:
        with silence_lost_connections():
            dataflow.wait(pipeline.run(), stage)
    except Exception as error:  # of the local runner, at the end of a long report
        lines = [line for line in str(error).splitlines() if "DeviceError: " in line]
        if not lines:
            raise
        raise DeviceError(lines[-1].partition("DeviceError: ")[2].split(" [while running")[0]) from error


def balance(todo: list[Task], workers: int) -> list[Task]:
    """Long tasks first, every second round reversed, because the local runner hands them out in turn.

    >>> [task.samples for task in balance([Task("", (), "", n) for n in (1, 9, 5, 4, 7)], 2)]
    [9, 7, 4, 5, 1]
    """
    longest = sorted(todo, key=lambda task: -task.samples)
    rounds = [longest[first : first + workers] for first in range(0, len(longest), workers)]
    return [task for i, tasks in enumerate(rounds) for task in (tasks[::-1] if i % 2 else tasks)]


def make_graph(
    pipeline: beam.Pipeline, stage: Stage, build: Path, todo: list[Task], options: PipelineOptions
) -> beam.PCollection:
    """The steps of one stage: tasks spread over the workers, and run. A GPU's are in pipelines/dataflow.py."""
    tasks, folder = dataflow.task_collection(pipeline, build, todo), str(build)
    step: beam.PTransform
    if dataflow.decodes_apart(stage, options):
        tasks = tasks | "Decode" >> beam.ParDo(dataflow.DecodeTask(folder)) | "Decoded" >> beam.Reshuffle()
        step = beam.ParDo(dataflow.RunDecoded(stage, folder))
    else:
        step = beam.ParDo(RunTask(stage, folder))
    return tasks | stage.name >> step.with_resource_hints(**dataflow.hints(stage, options))


def make_runner(
    build: Path, workers: int, extra: tuple[str, ...], preload: Sequence[str] = ()
) -> tuple[FnApiRunner | None, PipelineOptions]:
    """The runner and its options: the one named in `extra`, else the pinned local one.

    The local runner is named because Beam's default one tries a download first. Its workers are processes whose
    messages go to beam.log in the build, not over the progress on stderr; with `--environment_type=EXTERNAL
    --environment_config=HOST:PORT` they are those of a worker pool that runs elsewhere.
    """
    options = PipelineOptions([f"--direct_num_workers={workers}", *extra])
    portable = options.view_as(PortableOptions)
    if runner_name(options):
        return None, options
    if portable.environment_type == "EXTERNAL":
        return FnApiRunner(default_environment=ExternalEnvironment.from_options(portable)), options
    if workers == 1:
        return FnApiRunner(), options
    log = "/dev/null" if files.is_url(build) else str(build.absolute() / "beam.log")
    return FnApiRunner(default_environment=ForkedEnvironment(log, preload)), options


RUNNERS = {name.lower(): name for name in StandardOptions.KNOWN_RUNNER_NAMES}


def runner_name(options: PipelineOptions) -> str:
    """The full name of the runner that the user named: Beam takes `spark` for SparkRunner."""
    name = options.view_as(StandardOptions).runner or ""
    return RUNNERS.get(name.lower()) or RUNNERS.get(f"{name.lower()}runner", name)


JOB_SERVERS = {"SparkRunner": "spark", "FlinkRunner": "flink"}
LOSES_DATA = ("DaskRunner", "RayRunner", "PySparkRunner")


def check_runner(workers: int, extra: tuple[str, ...]) -> None:
    """Preflight check of what the runner in `extra` needs; workers elsewhere report their versions.

    Raises:
        Unusable: it is missing; one line, with the way out.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            options = PipelineOptions([f"--direct_num_workers={workers}", *extra])
            portable = options.view_as(PortableOptions)
            unknown = options.get_all_options(retain_unknown_options=True)
    except SystemExit as error:  # argparse prints the reason after all the options it knows
        raise Unusable(f"beam: {printed.getvalue().strip().rpartition('error: ')[2]}") from error
    runner = runner_name(options)
    if runner in LOSES_DATA:
        raise Unusable(f"beam: {runner} drops rows silently (we measured it); use --engine spark")
    if runner and runner not in RUNNERS.values() and "." not in runner:
        raise Unusable(f"beam: need one of the runners {', '.join(RUNNERS.values())}, got {runner}")
    if runner in ("", "FnApiRunner"):
        dataflow_preflight.refuse_unknown_options(extra, "beam")
    if runner == dataflow.RUNNER:
        dataflow_preflight.check_submission(extra)
    if runner == "PortableRunner" and portable.job_endpoint != "embed":
        check_reachable("job server", "--job_endpoint", portable.job_endpoint or "")
    if runner in JOB_SERVERS:
        engine = JOB_SERVERS[runner]
        jar = unknown.get(f"{engine}_job_server_jar")
        if portable.job_endpoint:
            check_reachable("job server", "--job_endpoint", portable.job_endpoint)
            return
        if jar is None or not Path(jar).is_file():
            got = f"no file {jar}" if jar else "neither"
            way = "or use --engine spark, which needs none" if engine == "spark" else "or another engine"
            raise Unusable(
                f"beam: {runner} needs its job server, --{engine}_job_server_jar=JAR on this disk or "
                f"--job_endpoint=HOST:PORT, got {got}; {way}"
            )
        java()
    if not runner and portable.environment_type == "EXTERNAL":
        check_worker_pool(portable, options)


def check_workers(build: Path, device: str, extra: tuple[str, ...]) -> None:
    """Check that workers elsewhere can read the build and have the device."""
    options = PipelineOptions(list(extra))
    if runner_name(options) == dataflow.RUNNER:
        dataflow_preflight.check_workers(build, device, options)


def check_reachable(server: str, option: str, address: str) -> None:
    """Check that a server accepts connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host or "localhost", int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise Unusable(f"beam: need a {server} at {option}=HOST:PORT, got {address!r}: {error}") from error


def check_worker_pool(portable: PortableOptions, options: PipelineOptions) -> None:
    """Check that a worker of the pool runs the driver's versions."""
    check_reachable("worker pool", "--environment_config", portable.environment_config or "")
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    try:
        with beam.Pipeline(
            runner=FnApiRunner(default_environment=ExternalEnvironment.from_options(portable)),
            options=options,
        ) as pipeline:
            _ = pipeline | beam.Create([versions()]) | beam.Reshuffle() | beam.Map(check_versions)
    except Exception as error:  # whatever the worker raised, at the end of a long report
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise Unusable(
            f"beam: the worker pool cannot run this project: {last.split(' [while running')[0]}"
        ) from error
