"""Spark engine: parts as tasks of a Spark job. docs/engines.md says how to submit one to a cluster.

A task may run twice at once (speculation) or again (retry): `run_task` gives the same bytes whichever ends first.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from corpus import files
from corpus.records import Unusable
from pipelines.engines.requirements import java, same_versions, versions
from pipelines.execution.task import Stage, Task, run_task

MOST_SLICES = 100_000  # of a job: the driver holds something for each
HELD: dict[str, Any] = {}
"""The driver's session; on a worker the stage that is set up, under "stage"."""


def session(workers: int, master: str, extra: tuple[str, ...]) -> Any:
    """The Spark session of this process: started once, its workers asked for their Python and packages.

    Without a master: the one of spark-submit, else worker processes on this machine. `extra` are `--conf KEY=VALUE` as
    spark-submit takes them; what they say goes before what is said here.

    Raises:
        Unusable: no pyspark, no Java, an option that is none, or workers that cannot run this project.
    """
    if "spark" in HELD:
        return HELD["spark"]
    conf = confs(extra)
    try:
        import pyspark
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise Unusable(f"spark: {error}; install the extra: pip install 'wordweave[spark]'") from error
    java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else executors take another python
    submitted = pyspark.SparkContext._active_spark_context or "PYSPARK_GATEWAY_PORT" in os.environ
    master = master or ("" if submitted else f"local[{workers}]")
    ours = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    if master.startswith("local"):
        ours |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        root = str(Path(__file__).resolve().parents[2])  # where a checkout is not installed
        ours["spark.executorEnv.PYTHONPATH"] = os.pathsep.join(
            filter(None, [root, os.environ.get("PYTHONPATH")])
        )
    builder = SparkSession.builder.appName("wordweave")
    builder = builder.master(master) if master else builder
    for name, value in {**({} if submitted else ours), **conf}.items():
        builder = builder.config(name, value)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # at Ctrl-C it reports what it was asked last
    heard = signal.getsignal(signal.SIGINT)
    try:
        spark = builder.getOrCreate()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, heard)  # Spark's own would call Java in the middle of a call
        spark.sparkContext.setLogLevel("ERROR")
        asked = spark.sparkContext.parallelize(range(workers), workers)
        asked.map(Ask(versions())).collect()
    except Exception as error:
        raise Unusable(f"spark: {cause(error)}") from error
    HELD["spark"] = spark
    return spark


def confs(extra: tuple[str, ...]) -> dict[str, str]:
    """`--conf KEY=VALUE` and `--conf=KEY=VALUE` as a dict.

    >>> confs(("--conf", "spark.task.cpus=2", "--conf=spark.speculation=true"))
    {'spark.task.cpus': '2', 'spark.speculation': 'true'}
    """
    found, words = {}, [part for word in extra for part in word.split("--conf=", 1) if part]
    for word in (word for word in words if word != "--conf"):
        name, equals, value = word.partition("=")
        if not equals or not name.startswith("spark."):
            raise Unusable(f"spark: options after -- are --conf spark.NAME=VALUE, got {word!r}")
        found[name] = value
    return found


def cause(error: BaseException) -> str:
    """The one line of a Spark error that says what went wrong, often on a worker, deep in a Java trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error: " in line or "Unusable: " in line or "Exception: " in line]
    python = [line for line in told if not line.startswith(("at ", "org.", "java.", "py4j.", ":"))]
    return (python or told or lines or [type(error).__name__])[-1].removeprefix("corpus.records.Unusable: ")


class Ask:
    """On a worker: are the versions those of the driver?"""

    def __init__(self, driver: dict[str, str]):
        self.driver = driver

    def __call__(self, _: int) -> str:
        return same_versions(self.driver)


class RunTasks:
    """On a worker: run tasks of one stage; its models are loaded once per Python process, not once per task."""

    def __init__(self, stage: Stage, build: str):
        self.stage, self.build = stage, build

    def __call__(self, tasks: Iterable[Task]) -> Iterator[str]:
        from pyspark import TaskContext

        context = TaskContext.get()
        gpu = context.resources().get("gpu") if context else None
        if gpu and "stage" not in HELD:  # before torch looks for one
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.addresses)
        if repr(HELD.get("stage")) != repr(self.stage):
            HELD.pop("stage", None)  # the models of the stage before
            self.stage.setup()
            HELD["stage"] = self.stage
        for task in tasks:
            yield run_task(HELD["stage"], files.to_path(self.build), task)


def hush(context: Any) -> None:
    """Let Java say nothing more of all that is lost while it stops, neither in its log nor past it."""
    context.setLogLevel("OFF")
    java = context._jvm.java
    java.lang.System.setErr(java.io.PrintStream(java.io.OutputStream.nullOutputStream()))


def run(
    stage: Stage, build: Path, todo: list[Task], workers: int, master: str, extra: tuple[str, ...]
) -> None:
    """Run the tasks of one stage as a Spark job: one part a task, or a few where there are very many."""
    context = session(workers, master, extra).sparkContext
    try:
        slices = context.parallelize(todo, min(len(todo), MOST_SLICES))
        job = slices.mapPartitions(RunTasks(stage, str(build)))
        with ThreadPoolExecutor(1, "spark") as thread:  # Ctrl-C finds this one between two calls of Java
            waited = thread.submit(job.count)
            try:
                waited.result()
            except KeyboardInterrupt:
                hush(context)
                context.cancelAllJobs()
                raise
    except Exception as error:
        raise ValueError(
            f"{stage.name}: spark gave up: {cause(error)}; finished parts are kept, run again"
        ) from error
