"""What Dataflow needs beyond Beam: GPUs for the stages that use one, many tasks listed in files, decoding apart.

    Tasks > Spread > units                          no GPU, or machines with a GPU that decode what they encode
    Tasks > Spread > Decode > Decoded > units       --decode_apart: machines without a GPU decode

A stage with a GPU gets its resource hints, for which Dataflow starts a pool of workers of its own. `Decoded` is a
Reshuffle: without it both steps would be fused, and recordings decoded by the machines with the GPU. A job of very many
tasks names files of the build that list them, because a job's own description may not be large.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
)

from corpus import files
from pipelines.engines.predecode import decode_task, run_decoded
from pipelines.execution.task import Stage, Task, TaskThreads

RUNNER = "DataflowRunner"
BLOCK = 1_000  # tasks in one listed file


class GpuOptions(PipelineOptions):
    """Our own options, after `--` like Beam's. They apply to stages that use a GPU (`device = "cuda"`)."""

    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        parser.add_argument("--gpu_accelerator", help="type:nvidia-l4;count:1;install-nvidia-driver")
        parser.add_argument("--gpu_min_ram", help="Memory of a worker with a GPU: 24GB.")
        parser.add_argument(
            "--gpu_max_active_bundles",
            type=int,
            default=1,
            help="Parts that a worker with a GPU works on at once.",
        )
        parser.add_argument(
            "--decode_apart", action="store_true", help="Decode recordings on workers without a GPU, before."
        )


def hints(stage: Stage, options: PipelineOptions) -> dict[str, str]:
    """Resource hints of a stage: none unless it uses a GPU and one is asked for. Beam needs strings."""
    gpu = options.view_as(GpuOptions)
    if not stage.uses_gpu or not gpu.gpu_accelerator:
        return {}
    hints = {"accelerator": gpu.gpu_accelerator, "min_ram": gpu.gpu_min_ram}
    hints["max_active_bundles_per_worker"] = str(gpu.gpu_max_active_bundles)
    return {name: value for name, value in hints.items() if value}


def decodes_apart(stage: Stage, options: PipelineOptions) -> bool:
    """Whether other workers decode the stage's recordings first: of a stage that maps all of them on a GPU."""
    return stage.decodes and stage.uses_gpu and bool(options.view_as(GpuOptions).decode_apart)


def fill_options(options: PipelineOptions, stage: Stage, build: str) -> PipelineOptions:
    """Fill in what a submission needs and the user need not give.

    The job is named after stage and build, so that Dataflow itself refuses a second driver while one is at work. The
    image holds the code: nothing is installed when a worker starts. One process per machine with a GPU: each would load
    a model of its own.
    """
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    if not cloud.job_name:
        digest = hashlib.sha256(build.encode()).hexdigest()[:10]
        cloud.job_name = f"wordweave-{re.sub('[^a-z0-9]+', '-', stage.name.lower())}-{digest}"
    if not setup.sdk_location or setup.sdk_location == "default":
        setup.sdk_location = "container"
    debug = options.view_as(DebugOptions)
    if stage.uses_gpu and not any("multiple_sdk_containers" in name for name in debug.experiments or ()):
        debug.add_experiment("no_use_multiple_sdk_containers")
    return options


def task_collection(
    pipeline: beam.Pipeline, build: Path, todo: list[Task], *, block: int = BLOCK
) -> beam.PCollection:
    """The tasks as a collection: in the job itself, or in files of the build where there are many."""
    if len(todo) <= block:
        return pipeline | "Tasks" >> beam.Create(todo, reshuffle=False) | "Spread" >> beam.Reshuffle()
    return (
        pipeline
        | "Blocks" >> beam.Create(write_blocks(build, todo, block), reshuffle=False)
        | "Apart" >> beam.Reshuffle()
        | "Tasks" >> beam.ParDo(ReadBlock(str(build)))
        | "Spread" >> beam.Reshuffle()
    )


def write_blocks(build: Path, todo: list[Task], block: int) -> list[str]:
    """Write tasks as JSON lines into files of `block` tasks; their paths, relative to the build."""
    names = []
    for first in range(0, len(todo), block):
        content = "\n".join(json.dumps(to_json(task)) for task in todo[first : first + block]).encode()
        names.append(f"todo/{hashlib.sha256(content).hexdigest()[:32]}.jsonl")
        files.write(build / names[-1], content)
    return names


def to_json(value: Any) -> Any:
    """A task as JSON can hold it: of lists, texts and numbers; a task within its arguments is an object."""
    if isinstance(value, Task):
        return {"task": [to_json(getattr(value, field.name)) for field in fields(Task)]}
    return [to_json(one) for one in value] if isinstance(value, tuple) else value


def from_json(value: Any) -> Any:
    """The value that `to_json` was given.

    >>> inner = Task("units/p", ("manifest/p",), "k", 7)
    >>> task = Task("prosody/p", ("manifest/p",), "m", 7, (inner, ("train", (0, 9))))
    >>> from_json(json.loads(json.dumps(to_json(task)))) == task
    True
    """
    if isinstance(value, dict):
        return Task(*map(from_json, value["task"]))
    return tuple(map(from_json, value)) if isinstance(value, list) else value


def read_block(content: bytes) -> Iterator[Task]:
    """The tasks of a file that `write_blocks` wrote."""
    yield from (from_json(json.loads(line)) for line in content.splitlines())


class ReadBlock(beam.DoFn):
    """A listed file -> its tasks."""

    def __init__(self, build: str):
        self.build = build

    def process(self, name: str) -> Iterator[Task]:
        yield from read_block(files.read(files.to_path(self.build) / name))


def wait(result: Any, stage: Stage) -> None:
    """Wait for a job; a driver that is stopped stops its job, which would otherwise continue to cost money.

    Raises:
        ValueError: the job failed, in one line.
    """
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        with contextlib.suppress(
            Exception
        ):  # the service may not answer; the user sees the interrupt either way
            result.cancel()
        raise
    except Exception as error:
        if type(error).__name__ != "DataflowRuntimeException":
            raise
        raise ValueError(
            f"{stage.name}: the Dataflow job failed: {' '.join(str(error).split())[:500]}"
        ) from error


class DecodeTask(beam.DoFn):
    """Decode a task's recordings and hand the task on."""

    def __init__(self, build: str):
        self.build = build

    def process(self, task: Task) -> Iterator[Task]:
        decode_task(files.to_path(self.build), task)
        yield task


class RunDecoded(beam.DoFn):
    """Run one stage's tasks on recordings that other workers have decoded."""

    def __init__(self, stage: Stage, build: str):
        self.stage = stage
        self.build = build

    def setup(self) -> None:
        self.worker = self.stage.open()

    def start_bundle(self) -> None:
        self.threads = TaskThreads(self.stage.tasks_at_once)

    def process(self, task: Task) -> None:
        self.threads.submit(run_decoded, self.worker, files.to_path(self.build), task)

    def finish_bundle(self) -> None:
        with self.threads:
            pass
