"""What Dataflow asks for beyond Beam: a GPU for the stages that use one, and a check before anything starts.

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
    StandardOptions,
    WorkerOptions,
)

from corpus import files
from corpus.records import Unusable
from pipelines.engines import predecode as waves
from pipelines.engines.google_client import client_missing
from pipelines.execution.task import Stage, Task
from pipelines.steps.fused import Together
from pipelines.steps.units import ListeningStage

RUNNER = "DataflowRunner"
BLOCK = 1_000  # tasks in one listed file


class GpuOptions(PipelineOptions):
    """Options of ours, after `--` like Beam's own. They count for stages that use a GPU (`device = "cuda"`)."""

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


def uses_gpu(stage: Stage) -> bool:
    """Whether the stage, or one of those it runs together, computes on a GPU."""
    devices = [getattr(one, "device", "cpu") for one in (stage, *getattr(stage, "stages", ()))]
    return any(str(device).startswith("cuda") for device in devices)


def hints(stage: Stage, options: PipelineOptions) -> dict[str, str]:
    """Resource hints of a stage: none unless it uses a GPU and one is asked for. Beam wants strings."""
    asked = options.view_as(GpuOptions)
    if not uses_gpu(stage) or not asked.gpu_accelerator:
        return {}
    found = {"accelerator": asked.gpu_accelerator, "min_ram": asked.gpu_min_ram}
    found["max_active_bundles_per_worker"] = str(asked.gpu_max_active_bundles)
    return {name: value for name, value in found.items() if value}


def decodes_apart(stage: Stage, options: PipelineOptions) -> bool:
    """Whether the stage's recordings are decoded by other workers first: those of a stage that listens to them all."""
    listens = isinstance(stage, ListeningStage | Together)
    return listens and uses_gpu(stage) and bool(options.view_as(GpuOptions).decode_apart)


def complete(options: PipelineOptions, stage: Stage, build: str) -> PipelineOptions:
    """Fill in what a submission needs and the user need not say.

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
    if uses_gpu(stage) and not any("multiple_sdk_containers" in said for said in debug.experiments or ()):
        debug.add_experiment("no_use_multiple_sdk_containers")
    return options


def ready(words: tuple[str, ...]) -> None:
    """Ask, before anything starts, what a submission needs: client, options, image, credentials, bucket.

    Raises:
        Unusable: the first thing that is missing or wrong, in one line, with the way out.
    """
    missing = client_missing()
    if missing:
        raise Unusable(f"{RUNNER}: need {missing}; pip install 'wordweave[dataflow]'")
    options = PipelineOptions(list(words))
    unknown_options(words, RUNNER)
    needed(options)
    gpu(options)
    if not options.view_as(GoogleCloudOptions).no_auth:
        credentials()
    cloud = options.view_as(GoogleCloudOptions)
    for path in sorted({place for place in (cloud.temp_location, cloud.staging_location) if place}):
        bucket(path, options)
    valid(options)


def unknown_options(words: tuple[str, ...], who: str) -> None:
    """Refuse what no option is: Beam would drop it without a word, and the job would run as if it had not been said."""
    import argparse
    import difflib

    from apache_beam.options.pipeline_options import _BeamArgumentParser

    parser = _BeamArgumentParser(allow_abbrev=False)
    for record in {str(found): found for found in PipelineOptions.__subclasses__()}.values():
        with contextlib.suppress(argparse.ArgumentError):  # a name that two of them have
            record._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(words))
    if unknown:
        name = unknown[0].partition("=")[0]
        known = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(name, known, 1)
        raise Unusable(f"{who}: no option {name}{f', did you mean {near[0]}?' if near else ''}")


def needed(options: PipelineOptions) -> None:
    """Options without which no job can be submitted, and values that the service would refuse."""
    cloud, worker = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    for name, value, example in (
        ("project", cloud.project, "my-project"),
        ("region", cloud.region, "europe-west4"),
        ("temp_location", cloud.temp_location, "gs://my-bucket/tmp"),
        (
            "sdk_container_image",
            worker.sdk_container_image,
            "REGION-docker.pkg.dev/PROJECT/REPOSITORY/wordweave:TAG",
        ),
    ):
        if not value:
            raise Unusable(f"{RUNNER}: need --{name}, for example --{name}={example}")
    for name in ("temp_location", "staging_location"):
        value = getattr(cloud, name)
        if value and not re.fullmatch(r"gs://[a-z0-9][-_.a-z0-9]+[a-z0-9](/.*)?", value):
            raise Unusable(f"{RUNNER}: --{name}: need gs://BUCKET/FOLDER, got {value}")
    if not re.fullmatch(r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]", cloud.project):
        raise Unusable(
            f"{RUNNER}: --project: need a project's id, not its number or name, got {cloud.project}"
        )
    if cloud.job_name and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", cloud.job_name):
        raise Unusable(f"{RUNNER}: --job_name: need a-z, 0-9 and '-', a letter first, got {cloud.job_name!r}")
    if options.view_as(StandardOptions).streaming:
        raise Unusable(f"{RUNNER}: a build is a batch job; leave --streaming out")


def valid(options: PipelineOptions) -> None:
    """What Beam itself finds wrong; asked last, because it asks the bucket too, and would go on asking for minutes."""
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    wrong = PipelineOptionsValidator(options, DataflowRunner()).validate()
    if wrong:
        raise Unusable(f"{RUNNER}: {' '.join(str(wrong[0]).split())}")


def gpu(options: PipelineOptions) -> None:
    """GPU options fit each other: hints exclude the accelerator of a whole job, and FlexRS knows no hints."""
    asked, cloud = options.view_as(GpuOptions), options.view_as(GoogleCloudOptions)
    given = asked.gpu_accelerator
    if given is not None and not re.fullmatch(r"type:[a-z0-9-]+;count:[1-9]\d*(;.+)?", given):
        raise Unusable(
            f"{RUNNER}: --gpu_accelerator: need type:TYPE;count:N;install-nvidia-driver (in quotes), got {given!r}"
        )
    if asked.gpu_min_ram and not re.fullmatch(r"[1-9]\d*(\.\d+)?\s*[KMGT]i?B", asked.gpu_min_ram):
        raise Unusable(f"{RUNNER}: --gpu_min_ram: need a size, for example 24GB, got {asked.gpu_min_ram!r}")
    if asked.gpu_max_active_bundles < 1:
        raise Unusable(
            f"{RUNNER}: --gpu_max_active_bundles: need at least 1, got {asked.gpu_max_active_bundles}"
        )
    whole = [said for said in cloud.dataflow_service_options or () if said.startswith("worker_accelerator=")]
    if given and whole:
        raise Unusable(
            f"{RUNNER}: --gpu_accelerator gives GPUs to the stages that use one; leave {whole[0]} out"
        )
    if given and cloud.flexrs_goal:
        raise Unusable(
            f"{RUNNER}: --flexrs_goal knows no pools of workers per stage; leave it or --gpu_accelerator out"
        )


def reaches(build: Path | str, device: str, options: PipelineOptions) -> None:
    """The workers must see the build, and a build that asks for a GPU must get one.

    Raises:
        Unusable: they do not, or it does not.
    """
    if not str(build).startswith("gs://"):
        raise Unusable(
            f"{RUNNER}: its workers cannot see {build}; need a build on gs://, say gs://BUCKET/NAME"
        )
    cloud = options.view_as(GoogleCloudOptions)
    whole = any(said.startswith("worker_accelerator=") for said in cloud.dataflow_service_options or ())
    if device.startswith("cuda") and not options.view_as(GpuOptions).gpu_accelerator and not whole:
        raise Unusable(
            f'{RUNNER}: units.device is "{device}"; need a GPU for it, for example '
            '"--gpu_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"'
        )


def credentials() -> None:
    """Find credentials as a submission would; Beam would go on without them and fail much later.

    Raises:
        Unusable: there are none, or they cannot be read.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        google.auth.default()
    except GoogleAuthError as error:
        said = " ".join(str(error).split()).split(". ")[0]
        raise Unusable(
            f"{RUNNER}: no credentials: {said}; run `gcloud auth application-default login`, or set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file"
        ) from error


def bucket(path: str, options: PipelineOptions) -> None:
    """Ask once whether a bucket is there and open to these credentials.

    Raises:
        Unusable: it is not.
    """
    from apache_beam.io.gcp.gcsio import create_storage_client
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    name = path.removeprefix("gs://").partition("/")[0]
    client = create_storage_client(options, not options.view_as(GoogleCloudOptions).no_auth)
    try:
        found = client.lookup_bucket(name, timeout=20, retry=None)
    except (GoogleAPIError, GoogleAuthError, OSError) as error:
        raise Unusable(f"{RUNNER}: gs://{name}: cannot be opened: {' '.join(str(error).split())}") from error
    if found is None:
        raise Unusable(f"{RUNNER}: gs://{name}: no such bucket; make it, or name another")


def tasks_of(
    pipeline: beam.Pipeline, build: Path, todo: list[Task], *, block: int = BLOCK
) -> beam.PCollection:
    """The tasks as a collection: in the job itself, or in files of the build where they are many."""
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
        content = "\n".join(json.dumps(plain(task)) for task in todo[first : first + block]).encode()
        names.append(f"todo/{hashlib.sha256(content).hexdigest()[:32]}.jsonl")
        files.write(build / names[-1], content)
    return names


def plain(value: Any) -> Any:
    """A task as JSON can hold it: of lists, texts and numbers; a task within its arguments is an object."""
    if isinstance(value, Task):
        return {"task": [plain(getattr(value, field.name)) for field in fields(Task)]}
    return [plain(one) for one in value] if isinstance(value, tuple) else value


def made_of_plain(value: Any) -> Any:
    """What `plain` was given.

    >>> inner = Task("units/p", ("manifest/p",), "k", 7)
    >>> task = Task("prosody/p", ("manifest/p",), "m", 7, (inner, ("train", (0, 9))))
    >>> made_of_plain(json.loads(json.dumps(plain(task)))) == task
    True
    """
    if isinstance(value, dict):
        return Task(*map(made_of_plain, value["task"]))
    return tuple(map(made_of_plain, value)) if isinstance(value, list) else value


def read_block(content: bytes) -> Iterator[Task]:
    """The tasks of a file that `write_blocks` wrote."""
    yield from (made_of_plain(json.loads(line)) for line in content.splitlines())


class ReadBlock(beam.DoFn):
    """A listed file -> its tasks."""

    def __init__(self, build: str):
        self.build = build

    def process(self, name: str) -> Iterator[Task]:
        yield from read_block(files.read(files.to_path(self.build) / name))


def wait(result: Any, stage: Stage) -> None:
    """Wait for a job; a driver that is stopped stops its job, which would go on being paid for.

    Raises:
        ValueError: the job failed, in one line.
    """
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        with contextlib.suppress(
            Exception
        ):  # the service may not answer; the user hears of the stop either way
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
        waves.decode_task(files.to_path(self.build), task)
        yield task


class RunDecoded(beam.DoFn):
    """Run one stage's tasks on recordings that others have decoded."""

    def __init__(self, stage: ListeningStage | Together, build: str):
        self.stage = stage
        self.build = build

    def setup(self) -> None:
        self.stage.setup()

    def process(self, task: Task) -> Iterator[tuple[str, str]]:
        yield task.output, waves.run_decoded(self.stage, files.to_path(self.build), task)
