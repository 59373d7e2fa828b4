"""Dataflow: hints, image, names and pickles of what is submitted, and the submission itself to a loopback stub."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms.environments import DockerEnvironment

from corpus import files
from corpus.records import Unusable
from pipelines.engines import beam_pipeline, dataflow, dataflow_preflight, predecode
from pipelines.execution.task import Task, is_done
from pipelines.layout import part_tasks
from tests.helpers.dataflow import HashWaveforms, services, submitted
from tests.pipelines.test_engines import COMMANDS, begun, everything, invoke, one_line

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "europe-west4-docker.pkg.dev/project-1/images/wordweave:1"
GPU = ("--gpu_accelerator=type:nvidia-l4;count:1;install-nvidia-driver", "--gpu_min_ram=24GB")
CLOUD = (
    "--runner=DataflowRunner", "--project=project-1", "--region=europe-west4", "--temp_location=gs://bucket/tmp",
    f"--sdk_container_image={IMAGE}", "--no_auth",
)  # fmt: skip
HINTS = {
    "beam:resources:accelerator:v1": b"type:nvidia-l4;count:1;install-nvidia-driver",
    "beam:resources:min_ram_bytes:v1": b"24000000000",
    "beam:resources:max_active_bundles_per_worker:v1": b"1",
}


@pytest.fixture(autouse=True)
def no_proxies_or_logs(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    logging.getLogger("apache_beam").setLevel(logging.ERROR)


def tasks(stage, count=3):
    return [
        Task(f"out/part-{i:05d}", (f"manifest/part-{i:05d}.parquet",), f"{i:064d}", 1) for i in range(count)
    ]


def proto(stage, words, todo=None, block=dataflow.BLOCK):
    """The pipeline of one stage as Dataflow would get it."""
    options = PipelineOptions([*words, "--runner=DataflowRunner"])
    pipeline = beam.Pipeline(runner="FnApiRunner", options=options)
    beam_pipeline.make_graph(pipeline, stage, Path("/nowhere"), todo or tasks(stage), options)
    return pipeline.to_runner_api(default_environment=DockerEnvironment.from_container_image(IMAGE))


def leaves(graph):
    """Name -> transform, for those without inner transforms."""
    transforms = graph.components.transforms.values()
    return {one.unique_name: one for one in transforms if not one.subtransforms}


def environment(graph, transform):
    return graph.components.environments[transform.environment_id]


def test_the_stage_on_the_gpu_alone_has_hints_and_every_step_has_the_image():
    graph = proto(HashWaveforms(), (*GPU, "--decode_apart"))
    hinted = {
        name: dict(environment(graph, one).resource_hints)
        for name, one in leaves(graph).items()
        if one.environment_id
    }
    assert hinted.pop("hash") == HINTS
    assert len(hinted) >= 3
    assert not any(hinted.values())
    for one in graph.components.environments.values():
        assert beam_runner_api_pb2.DockerPayload.FromString(one.payload).container_image == IMAGE


def test_a_stage_that_needs_no_gpu_gets_none():
    graph = proto(HashWaveforms(device="cpu"), (*GPU, "--decode_apart"))
    assert not any(one.resource_hints for one in graph.components.environments.values())
    assert not any("Decode" in name for name in leaves(graph))


def test_a_reshuffle_stands_between_decoding_and_the_gpu():
    graph = proto(HashWaveforms(), (*GPU, "--decode_apart"))
    (inputs_hash,) = leaves(graph)["hash"].inputs.values()
    makers = {
        one.unique_name
        for one in graph.components.transforms.values()
        if inputs_hash in one.outputs.values() and one.spec.urn == "beam:transform:reshuffle:v1"
    }
    assert makers == {"Decoded"}
    (given,) = next(
        one for one in graph.components.transforms.values() if one.unique_name == "Decoded"
    ).inputs.values()
    assert given in leaves(graph)["Decode"].outputs.values()


def test_two_builds_of_the_graph_have_the_same_names():
    first, second = (proto(HashWaveforms(), (*GPU, "--decode_apart")) for _ in range(2))
    names = [
        sorted(one.unique_name for one in graph.components.transforms.values()) for graph in (first, second)
    ]
    assert names[0] == names[1]
    assert {"Tasks", "Spread", "Decode", "Decoded", "hash"} <= set(names[0])


def real_stages():
    from pipelines.steps.align import AlignWords
    from pipelines.steps.codebook import SampleFrames
    from pipelines.steps.interleave import Rates, WriteShard
    from pipelines.steps.prosody import MakePitch, MakeStyle, MeasureProsody
    from pipelines.steps.units import EncodeUnits
    from shards.strategies import make_strategy

    return [
        EncodeUnits("hubert", 9, "bfloat16", "cuda", "id", "gs://b/codebook", "hash"),
        SampleFrames("hubert", 9, "float32", "cuda", "id", 0, 0.5, 0.5),
        AlignWords("pocketsphinx", (("minimum_score", -42.0),), "id"),
        MeasureProsody("cuda", "id"),
        MakePitch("", "hash", "gs://b/speakers.json"),
        MakeStyle("", "hash", "gs://b/speakers.json"),
        WriteShard("gs://b/shards", "hash", "spoken", Rates(640, 360), make_strategy("spirit"), 0, True),
    ]


def test_every_function_of_every_stage_is_unpickled_in_a_fresh_process(tmp_path):
    for index, stage in enumerate(real_stages()):
        graph = proto(stage, (*GPU, "--decode_apart"), [Task("o", ("manifest/p",), "k", 1, ("a", (1, 2)))])
        (tmp_path / f"{index}.pb").write_bytes(graph.SerializeToString())
    code = """
import sys
from pathlib import Path
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2
for path in sorted(Path(sys.argv[1]).glob("*.pb")):
    made = beam_runner_api_pb2.Pipeline.FromString(path.read_bytes())
    for one in made.components.transforms.values():
        if one.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(one.spec.payload)
            function = pickler.loads(payload.do_fn.payload)[0]
            stage = getattr(function, "stage", None)
            if stage is not None:
                print(one.unique_name, type(stage).__name__, type(function).__name__)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:-1] == [
        "units EncodeUnits RunDecoded", "fit units SampleFrames RunTask", "align AlignWords RunTask",
        "prosody MeasureProsody RunDecoded", "pitch MakePitch RunTask", "style MakeStyle RunTask",
        "interleave WriteShard RunTask",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(spoken_corpus, tmp_path_factory):
    """A manifest of one-minute parts with a recording that is gone, one that is not 16-bit, one of another rate."""
    import json

    import numpy as np
    import soundfile

    from corpus import manifest
    from corpus.adapters import read_jsonl

    folder = tmp_path_factory.mktemp("corpus")
    rows = [json.loads(line) for line in spoken_corpus.read_text().splitlines()[:8]]
    for row in rows:
        row["audio"] = str(spoken_corpus.parent / row["audio"])
    wave, rate = soundfile.read(rows[0]["audio"], dtype="float32")
    for name, sound, hertz in (("float", wave * np.float32(0.7), rate), ("slow", wave, 11_025)):
        soundfile.write(folder / f"{name}.wav", sound, hertz, "FLOAT")
        rows.append({**rows[0], "id": name, "audio": str(folder / f"{name}.wav")})
    broken = Path(rows[1]["audio"]).read_bytes()
    (folder / "gone.wav").write_bytes(broken)
    rows.insert(3, {**rows[1], "id": "gone", "audio": str(folder / "gone.wav")})
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = manifest.write_manifest(
        read_jsonl(folder / "manifest.jsonl"), folder / "build" / "manifest", part_minutes=0.5
    )
    assert summary.parts >= 2
    (folder / "gone.wav").unlink()  # after the manifest was written: decoding rejects it
    return folder / "build"


def plain(stage, build):
    """The bytes of every output of a plain loop."""
    todo, worker = part_tasks(build, stage, "plain"), stage.open()
    worker = stage.open()
    assert "failed" not in [worker.run(build, task) for task in todo]
    return {task.output.split("/")[1]: (build / task.output).read_bytes() for task in todo}


def test_recordings_decoded_by_another_worker_give_the_same_bytes_and_leave_nothing_behind(corpus):
    import pyarrow.parquet as pq

    stage, wanted = HashWaveforms(), plain(HashWaveforms(), corpus)
    todo = part_tasks(corpus, stage, "apart")
    for task in todo:
        predecode.decode_task(corpus, task)
    assert list((corpus / "decoded").glob("*.wav"))
    for task in todo:
        assert predecode.run_decoded(stage.open(), corpus, task) == "done"
        assert is_done(corpus, task)
        assert (corpus / task.output).read_bytes() == wanted[Path(task.output).name]
    assert not list((corpus / "decoded").iterdir())
    rejects = [
        reason for task in todo for reason in pq.read_table(corpus / task.output)["reject"].to_pylist()
    ]
    assert rejects.count("audio.missing") == 1
    assert [predecode.run_decoded(stage.open(), corpus, task) for task in todo] == ["skipped"] * len(todo)


def test_an_external_pool_of_workers_decodes_and_encodes_to_the_bytes_of_a_plain_loop(corpus, tmp_path):
    """The whole GPU graph, every function pickled and sent to processes that share nothing with this one."""
    import socket
    import time

    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import ExternalEnvironment

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    words = ["-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    with open(tmp_path / "pool.log", "w") as log:
        pool = subprocess.Popen(
            [sys.executable, *words], env=environment, stderr=log, stdout=log, cwd=tmp_path
        )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    break
            time.sleep(0.1)
        stage, wanted = HashWaveforms(), plain(HashWaveforms(), corpus)
        todo = part_tasks(corpus, stage, "pool")
        options = PipelineOptions(["--direct_num_workers=2", "--decode_apart"])  # local runners know no hints
        runner = FnApiRunner(default_environment=ExternalEnvironment(f"localhost:{port}"))
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            beam_pipeline.make_graph(pipeline, stage, corpus, todo, options)
    finally:
        pool.terminate()
        pool.wait()
    assert {Path(task.output).name: (corpus / task.output).read_bytes() for task in todo} == wanted
    assert not list((corpus / "decoded").iterdir())


def test_many_tasks_are_listed_in_files_and_not_in_the_job(tmp_path, corpus):
    stage = HashWaveforms(device="cpu")
    many = [
        Task(f"out/{i:07d}", ("manifest/p",), f"{i:064d}", 1, ("train", (("manifest", "p", 0, i),)), ("h",))
        for i in range(3000)
    ]
    pipeline = beam.Pipeline(runner="FnApiRunner", options=PipelineOptions())
    dataflow.task_collection(pipeline, tmp_path, many)
    assert len(pipeline.to_runner_api().SerializeToString()) < 100_000
    listed = [
        task
        for path in sorted((tmp_path / "todo").iterdir())
        for task in dataflow.read_block(path.read_bytes())
    ]
    assert sorted(listed, key=lambda task: task.output) == many
    todo = part_tasks(corpus, stage, "blocks")
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions()) as pipeline:
        graph = dataflow.task_collection(pipeline, corpus, todo, block=1)
        _ = graph | beam.ParDo(beam_pipeline.RunTask(stage, str(corpus)))
    assert all(is_done(corpus, task) for task in todo)


@pytest.fixture
def cloud(monkeypatch):
    with services() as found:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{found.port}")
        yield found


def submit(cloud, stage, *words):
    build = files.to_path("gs://bucket/build")
    beam_pipeline.run(
        stage,
        build,
        tasks(stage),
        workers=1,
        extra=(*CLOUD, f"--dataflow_endpoint=http://localhost:{cloud.port}", *words),
    )


def test_a_submission_uploads_the_pipeline_and_names_image_hints_and_job(cloud):
    submit(cloud, HashWaveforms(), *GPU, "--decode_apart", "--machine_type=g2-standard-8")
    (job,) = cloud.jobs
    assert job["name"].startswith("wordweave-hash-")
    (pool,) = job["environment"]["workerPools"]
    assert pool["machineType"] == "g2-standard-8"
    assert {image["containerImage"] for image in pool["sdkHarnessContainerImages"]} == {IMAGE}
    assert "no_use_multiple_sdk_containers" in job["environment"]["experiments"]
    assert not any(name.endswith((".whl", ".tar.gz")) for name in cloud.objects)  # the image has the code
    graph = submitted(cloud)
    hinted = {
        name: dict(environment(graph, one).resource_hints)
        for name, one in leaves(graph).items()
        if one.environment_id
    }
    assert hinted.pop("hash") == HINTS
    assert not any(hinted.values())


def test_the_same_stage_of_the_same_build_is_the_same_job(cloud):
    submit(cloud, HashWaveforms(device="cpu"))
    submit(cloud, HashWaveforms(device="cpu"))
    assert len({job["name"] for job in cloud.jobs}) == 1


def test_a_job_that_fails_is_said_in_one_line(cloud):
    cloud.state = "JOB_STATE_CANCELLED"
    with pytest.raises(ValueError, match="hash: the Dataflow job failed"):
        submit(cloud, HashWaveforms(device="cpu"))


@pytest.mark.parametrize(
    ("drop", "add", "result"),
    [
        ("--project", (), "need --project"),
        ("--region", (), "need --region"),
        ("--temp_location", (), "need --temp_location"),
        ("--sdk_container_image", (), "need --sdk_container_image"),
        ("--temp_location", ("--temp_location=/tmp/x",), "need gs://BUCKET/FOLDER, got /tmp/x"),
        ("--temp_location", ("--temp_location=gs://other/x",), "gs://other: no such bucket"),
        ("--project", ("--project=12345",), "not its number or name, got 12345"),
        ("--region", ("--regoin=x", "--region=y"), "no option --regoin, did you mean --region"),
        ("--none", ("--job_name=Not A Name",), "job_name"),
        ("--none", ("--gpu_accelerator=nvidia-l4",), "need type:TYPE;count:N"),
        ("--none", ("--gpu_min_ram=24",), "--gpu_min_ram: need a size"),
        (
            "--none",
            (GPU[0], "--dataflow_service_options=worker_accelerator=type:t4;count:1"),
            "leave worker_accelerator",
        ),
        ("--none", (GPU[0], "--flexrs_goal=COST_OPTIMIZED"), "--flexrs_goal"),
        ("--none", ("--streaming",), "batch job"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_starts(cloud, drop, add, result):
    words = tuple(word for word in CLOUD if not word.startswith(drop))
    with pytest.raises(Unusable) as raised:
        dataflow_preflight.check_submission(
            (*words, f"--dataflow_endpoint=http://localhost:{cloud.port}", *add)
        )
    assert result in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not cloud.jobs
    assert not cloud.objects


def test_what_is_whole_passes(cloud):
    dataflow_preflight.check_submission((*CLOUD, f"--dataflow_endpoint=http://localhost:{cloud.port}", *GPU))


def test_a_build_on_this_disk_is_refused():
    with pytest.raises(Unusable, match=r"its workers cannot read build/x; need a build on gs://"):
        dataflow_preflight.check_workers("build/x", "cpu", PipelineOptions(list(CLOUD)))


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_a_submission_lacks_before_any_work(command, cloud, no_credentials, tmp_path):
    build, config = begun(tmp_path)
    before = everything(tmp_path)
    words = ("--", *CLOUD, f"--dataflow_endpoint=http://localhost:{cloud.port}")
    for change, result in (
        (words, f"its workers cannot read {build}; need a build on gs://"),
        ((*words, "--temp_location=gs://other/x"), "gs://other: no such bucket"),
        ([word for word in words if word != "--no_auth"], "no credentials: "),
    ):
        assert result in one_line(invoke(command, build, config, *change))
    assert everything(tmp_path) == before
    assert not cloud.jobs
    assert not cloud.objects


def test_missing_credentials_are_said(no_credentials, monkeypatch, tmp_path):
    words = tuple(word for word in CLOUD if word != "--no_auth")
    with pytest.raises(Unusable, match=r"no credentials: .*gcloud auth application-default login"):
        dataflow_preflight.check_submission(words)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    with pytest.raises(Unusable, match=r"no credentials: .*gone\.json"):
        dataflow_preflight.check_submission(words)


def test_a_build_on_a_gpu_without_one_is_refused():
    with pytest.raises(Unusable, match=r'units.device is "cuda"; need a GPU'):
        dataflow_preflight.check_workers("gs://bucket/build", "cuda", PipelineOptions(list(CLOUD)))
    dataflow_preflight.check_workers("gs://bucket/build", "cuda", PipelineOptions([*CLOUD, *GPU]))


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(dataflow_preflight, "missing_google_packages", lambda: "google-cloud-dataflow-client")
    with pytest.raises(Unusable, match=r"pip install 'wordweave\[dataflow\]'"):
        dataflow_preflight.check_submission(CLOUD)
