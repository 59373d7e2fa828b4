"""Preflight check of a submission to Dataflow: everything that would fail it later, found before anything starts."""

import argparse
import contextlib
import difflib
import re
from pathlib import Path

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    WorkerOptions,
)

from corpus.records import Unusable
from pipelines.engines.dataflow import RUNNER, GpuOptions
from pipelines.engines.requirements import missing_google_packages


def check_submission(arguments: tuple[str, ...]) -> None:
    """Check client, options, image, credentials and buckets.

    Raises:
        Unusable: the first thing that is missing or wrong, in one line, with the way out.
    """
    missing = missing_google_packages()
    if missing:
        raise Unusable(f"{RUNNER}: need {missing}; pip install 'wordweave[dataflow]'")
    options = PipelineOptions(list(arguments))
    refuse_unknown_options(arguments, RUNNER)
    check_required(options)
    check_gpu(options)
    if not options.view_as(GoogleCloudOptions).no_auth:
        check_credentials()
    cloud = options.view_as(GoogleCloudOptions)
    for path in sorted({path for path in (cloud.temp_location, cloud.staging_location) if path}):
        check_bucket(path, options)
    validate(options)


def refuse_unknown_options(arguments: tuple[str, ...], engine: str) -> None:
    """Refuse what is not an option: Beam would drop it silently, and the job would run without it."""
    from apache_beam.options.pipeline_options import _BeamArgumentParser

    parser = _BeamArgumentParser(allow_abbrev=False)
    for record in {str(options): options for options in PipelineOptions.__subclasses__()}.values():
        with contextlib.suppress(argparse.ArgumentError):  # a name that two classes have
            record._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        name = unknown[0].partition("=")[0]
        known = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(name, known, 1)
        raise Unusable(f"{engine}: no option {name}{f', did you mean {near[0]}?' if near else ''}")


def check_required(options: PipelineOptions) -> None:
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


def validate(options: PipelineOptions) -> None:
    """What Beam itself finds wrong; last, because it tries the bucket too, and would retry for minutes."""
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    wrong = PipelineOptionsValidator(options, DataflowRunner()).validate()
    if wrong:
        raise Unusable(f"{RUNNER}: {' '.join(str(wrong[0]).split())}")


def check_gpu(options: PipelineOptions) -> None:
    """GPU options fit each other: hints exclude the accelerator of a whole job, and FlexRS does not support hints."""
    gpu, cloud = options.view_as(GpuOptions), options.view_as(GoogleCloudOptions)
    given = gpu.gpu_accelerator
    if given is not None and not re.fullmatch(r"type:[a-z0-9-]+;count:[1-9]\d*(;.+)?", given):
        raise Unusable(
            f"{RUNNER}: --gpu_accelerator: need type:TYPE;count:N;install-nvidia-driver (in quotes), got {given!r}"
        )
    if gpu.gpu_min_ram and not re.fullmatch(r"[1-9]\d*(\.\d+)?\s*[KMGT]i?B", gpu.gpu_min_ram):
        raise Unusable(f"{RUNNER}: --gpu_min_ram: need a size, for example 24GB, got {gpu.gpu_min_ram!r}")
    if gpu.gpu_max_active_bundles < 1:
        raise Unusable(
            f"{RUNNER}: --gpu_max_active_bundles: need at least 1, got {gpu.gpu_max_active_bundles}"
        )
    whole = [
        option for option in cloud.dataflow_service_options or () if option.startswith("worker_accelerator=")
    ]
    if given and whole:
        raise Unusable(
            f"{RUNNER}: --gpu_accelerator gives GPUs to the stages that use one; leave {whole[0]} out"
        )
    if given and cloud.flexrs_goal:
        raise Unusable(
            f"{RUNNER}: --flexrs_goal has no pools of workers per stage; leave it or --gpu_accelerator out"
        )


def check_workers(build: Path | str, device: str, options: PipelineOptions) -> None:
    """The workers must be able to read the build, and a build that asks for a GPU must get one.

    Raises:
        Unusable: they cannot, or it does not.
    """
    if not str(build).startswith("gs://"):
        raise Unusable(
            f"{RUNNER}: its workers cannot read {build}; need a build on gs://, for example gs://BUCKET/NAME"
        )
    cloud = options.view_as(GoogleCloudOptions)
    whole = any(option.startswith("worker_accelerator=") for option in cloud.dataflow_service_options or ())
    if device.startswith("cuda") and not options.view_as(GpuOptions).gpu_accelerator and not whole:
        raise Unusable(
            f'{RUNNER}: units.device is "{device}"; need a GPU for it, for example '
            '"--gpu_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"'
        )


def check_credentials() -> None:
    """Find credentials as a submission would; Beam would continue without them and fail much later.

    Raises:
        Unusable: there are none, or they cannot be read.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        google.auth.default()
    except GoogleAuthError as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise Unusable(
            f"{RUNNER}: no credentials: {reason}; run `gcloud auth application-default login`, or set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file"
        ) from error


def check_bucket(path: str, options: PipelineOptions) -> None:
    """Check that a bucket exists and that these credentials open it.

    Raises:
        Unusable: it is not.
    """
    from apache_beam.io.gcp.gcsio import create_storage_client
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    name = path.removeprefix("gs://").partition("/")[0]
    client = create_storage_client(options, not options.view_as(GoogleCloudOptions).no_auth)
    try:
        bucket = client.lookup_bucket(name, timeout=20, retry=None)
    except (GoogleAPIError, GoogleAuthError, OSError) as error:
        raise Unusable(f"{RUNNER}: gs://{name}: cannot be opened: {' '.join(str(error).split())}") from error
    if bucket is None:
        raise Unusable(f"{RUNNER}: gs://{name}: no such bucket; make it, or name another")
