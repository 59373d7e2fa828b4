"""The engine `spark`: parts as tasks of a Spark job. docs/engines.md describes how to submit one to a cluster.

A task may run twice at once (speculation) or again (retry): `run_task` gives the same bytes whichever ends first.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from corpus import files
from corpus.provenance import versions
from corpus.records import Unusable
from pipelines.engines.requirements import check_versions, java
from pipelines.execution.engine import EngineOption
from pipelines.execution.task import Stage, Task, TaskThreads, Worker

MAX_SLICES = 100_000  # of a job: the driver holds something for each
SESSION: dict[str, Any] = {}
"""The driver's session, under "spark"."""
OPENED: list[tuple[str, Worker]] = []
"""On a worker: the stage that is open, and its worker."""


@dataclass(frozen=True)
class SparkEngine:
    """A Spark cluster, or worker processes on this machine."""

    workers: int = 1
    extra: tuple[str, ...] = ()  # `--conf NAME=VALUE ...`
    master: str = ""
    shares_builds: ClassVar[bool] = False
    name: ClassVar[str] = "spark"
    summary: ClassVar[str] = "a Spark cluster, or worker processes on this machine"
    options: ClassVar[tuple[EngineOption, ...]] = (
        EngineOption(
            "master",
            "Spark master URL: spark://HOST:PORT, yarn, ...; default this machine, or spark-submit's.",
        ),
    )

    @classmethod
    def parse(cls, workers: int, options: Mapping[str, str], extra: tuple[str, ...]) -> "SparkEngine":
        """The engine; the words after `--` are spark-submit's `--conf` options."""
        return cls(workers, extra, options.get("master", ""))

    def check(self) -> None:
        """Start the session and ask its workers for their versions."""
        session(self.workers, self.master, self.extra)

    def check_access(self, build: Path, device: str) -> None:
        """The build can be written."""
        files.check_reachable(build, writing=True)

    def run(self, stage: Stage, build: Path, tasks: list[Task]) -> None:
        """Run the tasks as a Spark job: one part per task, or a few where there are very many or a GPU does them."""
        context = session(self.workers, self.master, self.extra).sparkContext
        try:
            slices = context.parallelize(tasks, slice_count(stage, len(tasks), context.defaultParallelism))
            job = slices.mapPartitions(RunTasks(stage, str(build)))
            with ThreadPoolExecutor(
                1, "spark"
            ) as thread:  # Ctrl-C reaches this one between two calls of Java
                count = thread.submit(job.count)
                try:
                    count.result()
                except KeyboardInterrupt:
                    silence_jvm(context)
                    context.cancelAllJobs()
                    raise
        except Exception as error:
            raise ValueError(
                f"{stage.name}: the Spark job failed: {cause(error)}; finished parts are kept, run again"
            ) from error


def slice_count(stage: Stage, tasks: int, cores: int) -> int:
    """Spark tasks for a stage's tasks: one each; up to eight, in eight rounds or more, where a worker overlaps them."""
    return min(tasks, MAX_SLICES, tasks if stage.tasks_at_once == 1 else max(8 * cores, tasks // 8))


def session(workers: int, master: str, extra: tuple[str, ...]) -> Any:
    """The Spark session of this process: started once, the versions of its workers checked.

    Without a master: that of spark-submit, else worker processes on this machine. `extra` are `--conf NAME=VALUE` as
    spark-submit takes them; they override what is set here.

    Raises:
        Unusable: no pyspark, no Java, an unknown option, or workers that cannot run this project.
    """
    if "spark" in SESSION:
        return SESSION["spark"]
    conf = parse_conf(extra)
    try:
        import pyspark
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise Unusable(f"spark: {error}; install the extra: pip install 'wordweave[spark]'") from error
    java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else executors take another python
    submitted = pyspark.SparkContext._active_spark_context or "PYSPARK_GATEWAY_PORT" in os.environ
    master = master or ("" if submitted else f"local[{workers}]")
    defaults = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    if master.startswith("local"):
        defaults |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        root = str(Path(__file__).resolve().parents[2])  # where a checkout is not installed
        defaults["spark.executorEnv.PYTHONPATH"] = os.pathsep.join(
            filter(None, [root, os.environ.get("PYTHONPATH")])
        )
    builder = SparkSession.builder.appName("wordweave")
    builder = builder.master(master) if master else builder
    for name, value in {**({} if submitted else defaults), **conf}.items():
        builder = builder.config(name, value)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # at Ctrl-C it reports its last call
    handler = signal.getsignal(signal.SIGINT)
    try:
        spark = builder.getOrCreate()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Spark's own would call Java in the middle of a call
        spark.sparkContext.setLogLevel("ERROR")
        numbers = spark.sparkContext.parallelize(range(workers), workers)
        numbers.map(CheckVersions(versions())).collect()
    except Exception as error:
        raise Unusable(f"spark: {cause(error)}") from error
    SESSION["spark"] = spark
    return spark


def parse_conf(extra: tuple[str, ...]) -> dict[str, str]:
    """`--conf KEY=VALUE` and `--conf=KEY=VALUE` as a dict.

    >>> parse_conf(("--conf", "spark.task.cpus=2", "--conf=spark.speculation=true"))
    {'spark.task.cpus': '2', 'spark.speculation': 'true'}
    """
    conf, arguments = {}, [part for word in extra for part in word.split("--conf=", 1) if part]
    for word in (word for word in arguments if word != "--conf"):
        name, equals, value = word.partition("=")
        if not equals or not name.startswith("spark."):
            raise Unusable(f"spark: options after -- are --conf spark.NAME=VALUE, got {word!r}")
        conf[name] = value
    return conf


def cause(error: BaseException) -> str:
    """The one line of a Spark error that names what went wrong, often on a worker, deep in a Java trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    errors = [line for line in lines if "Error: " in line or "Unusable: " in line or "Exception: " in line]
    python = [line for line in errors if not line.startswith(("at ", "org.", "java.", "py4j.", ":"))]
    return (python or errors or lines or [type(error).__name__])[-1].removeprefix("corpus.records.Unusable: ")


class CheckVersions:
    """On a worker: check that the versions are the driver's."""

    def __init__(self, driver: dict[str, str]):
        self.driver = driver

    def __call__(self, _: int) -> str:
        return check_versions(self.driver)


class RunTasks:
    """On a worker: run tasks of one stage; its models are loaded once per Python process, not once per task."""

    def __init__(self, stage: Stage, build: str):
        self.stage, self.build = stage, build

    def __call__(self, tasks: Iterable[Task]) -> Iterator[None]:
        from pyspark import TaskContext

        context = TaskContext.get()
        gpu = context.resources().get("gpu") if context else None
        if gpu and not OPENED:  # before torch looks for one
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.addresses)
        if not OPENED or OPENED[0][0] != repr(self.stage):
            OPENED.clear()  # the models of the stage before
            OPENED.append((repr(self.stage), self.stage.open()))
        with TaskThreads(self.stage.tasks_at_once) as threads:
            for task in tasks:
                threads.submit(OPENED[0][1].run, files.to_path(self.build), task)
        return iter(())


def silence_jvm(context: Any) -> None:
    """Silence Java while it stops: its log, and its stderr."""
    context.setLogLevel("OFF")
    java = context._jvm.java
    java.lang.System.setErr(java.io.PrintStream(java.io.OutputStream.nullOutputStream()))
