"""Builds behind URLs: memory, and a real S3 server on this machine; the same bytes as on a local disk."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner

import wordweave
from corpus import files
from corpus.audio import decode, probe
from corpus.records import Reject, Utterance
from pipelines import settings
from pipelines.build import run_step
from pipelines.engines.beam import BeamEngine
from pipelines.execution.runner import run_stage
from pipelines.operations import prune
from tests.helpers.builds import LOCAL, build_settings, fit_units, hashes, run_build
from tests.helpers.busy_store import busy_proxy
from tests.helpers.stage import Copy, copies
from tests.pipelines.test_engines import COMMANDS, begun, everything, invoke, one_line
from tests.pipelines.test_prune import LEFT, MINE, put

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """URL of an empty bucket of an S3 server that runs here."""
    pytest.importorskip("moto", reason="the dev extra brings an S3 server")
    log = tmp_path_factory.mktemp("s3") / "log"
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("w") as file:
        server = subprocess.Popen(words, stderr=file)
    while "Running on http://" not in log.read_text() and server.poll() is None:
        time.sleep(0.1)
    endpoint = "http://" + log.read_text().split("Running on http://")[1].split()[0]
    before = dict(os.environ)
    os.environ.update(
        AWS_ENDPOINT_URL=endpoint,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION="us-east-1",
    )
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(use_listings_cache=False).mkdir("speech")
    yield "s3://speech"
    s3fs.S3FileSystem.clear_instance_cache()
    os.environ.clear()
    os.environ.update(before)
    server.kill()
    server.wait()


@pytest.fixture
def aws_anew():
    """Credentials are looked for anew, before and after."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def uploaded(manifest: Path, folder: Path) -> Path:
    """A copy of a corpus behind a URL."""
    for path in sorted((manifest.parent / "audio").glob("*")):
        files.write(folder / "audio" / path.name, path.read_bytes())
    rows = [{**json.loads(line), "alignment": None} for line in manifest.read_text().splitlines()]
    files.write(folder / manifest.name, "\n".join(map(json.dumps, rows)).encode())
    return folder / manifest.name


def downloaded(build: Path, folder: Path) -> Path:
    """A local copy of a build."""
    for name in files.names_in(build) or ():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files.read(build / name))
    return folder


def test_a_recording_behind_a_url_sounds_as_on_the_disk(spoken_corpus):
    row = json.loads(spoken_corpus.read_text().splitlines()[0])
    local = spoken_corpus.parent / row["audio"]
    url = files.to_path("memory://sounds") / local.name
    files.write(url, local.read_bytes())
    header = probe(local)
    assert probe(str(url))._replace(stamp=header.stamp) == header
    for first, frames in ((0, header.frames), (4000, 9000)):
        here = Utterance("a", str(local), frames, header.sample_rate, first)
        there = Utterance("a", str(url), frames, header.sample_rate, first)
        assert decode(here).tobytes() == decode(there).tobytes()
    with pytest.raises(Reject, match=r"audio\.missing"):
        probe(str(url.with_name("gone.flac")))
    files.write(url, local.read_bytes()[:20_000])
    with pytest.raises(Reject, match=r"audio\.truncated"):
        decode(Utterance("a", str(url), header.frames, header.sample_rate))


def test_a_store_that_fails_is_no_broken_recording(spoken_corpus, monkeypatch):
    row = json.loads(spoken_corpus.read_text().splitlines()[0])
    local = spoken_corpus.parent / row["audio"]
    url = files.to_path("memory://sounds") / "fails.flac"
    files.write(url, local.read_bytes())
    monkeypatch.setattr("corpus.audio.Remote.tell", lambda self: 0)

    def broken(self, count=-1):
        self.error = OSError("connection reset")
        return b""

    monkeypatch.setattr("corpus.audio.Remote.read", broken)
    with pytest.raises(ValueError, match="cannot be read: connection reset"):
        probe(str(url))


def test_what_a_store_holds_is_planned_as_on_the_disk(tmp_path):
    build = files.to_path("memory://builds") / "toy"
    stage = Copy(str(tmp_path / "log"))
    tasks = copies(build, stage, 5)
    assert run_stage(stage, build, tasks, LOCAL, quiet=True)["done"] == 5
    (build / "out" / "2").unlink()
    (build / "out" / "3.done").unlink()
    files.write(build / "out" / "4.done", b'{"key": "')
    assert run_stage(stage, build, tasks, LOCAL, quiet=True)["done"] == 3
    assert [files.read(build / "out" / str(n)) for n in range(5)] == [str(n).encode() * 2 for n in range(5)]


def test_a_store_is_read_ahead_and_the_caller_alone_makes_the_names():
    folder = files.to_path("memory://builds") / "ahead"
    for name in "abc":
        files.write(folder / name, name.encode())
    requested, threads = [], set()

    def names():
        for name in ("a", "b", "none", "c"):
            requested.append(name)
            threads.add(threading.current_thread())
            yield name

    contents = files.read_each(folder, names(), at_once=1)
    assert (next(contents), requested) == (
        b"a",
        ["a", "b"],
    )  # the second is requested before the first is given
    assert list(contents) == [b"b", None, b"c"]
    assert threads == {threading.current_thread()}


def test_a_small_file_on_s3_is_read_in_one_request(bucket, monkeypatch):
    import s3fs

    folder = files.to_path(f"{bucket}/requests")
    for name in "ab":
        files.write(folder / name, name.encode())
    files.write(folder / "empty", b"")
    requests, call = [], s3fs.S3FileSystem._call_s3

    async def counted(self, method, *arguments, **settings):
        requests.append(method)
        return await call(self, method, *arguments, **settings)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    assert (files.read(folder / "a"), files.read(folder / "empty")) == (b"a", b"")
    assert list(files.read_each(folder, ["b", "none"])) == [b"b", None]
    assert requests == ["get_object"] * 4


@pytest.fixture
def failures(bucket, monkeypatch):
    """The requests that failed: each 30th to the bucket's server does."""
    import s3fs

    with busy_proxy(os.environ["AWS_ENDPOINT_URL"], every=30) as (url, failed):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield failed
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_build_on_a_store_that_fails_requests_has_the_bytes_of_one_on_the_disk_and_trains(
    bucket, failures, spoken_corpus, tmp_path
):
    from shards.read import open_stream
    from shards.verify import verify

    store = files.to_path(bucket)
    uploaded(spoken_corpus, store / "corpus")
    config = build_settings(spoken_corpus, units={"clusters": 50, "fit_frames": 5000})
    run_build(tmp_path / "here", config, LOCAL)
    build = store / "build"
    there = settings.replace(config, "corpus", source=f"{bucket}/corpus/manifest.jsonl")
    run_step("ingest", build, there)
    fit_units(build, there, LOCAL)
    run_step("units", build, there, BeamEngine(2))
    run_step("align", build, there, LOCAL)
    run_step("interleave", build, there, LOCAL)
    run_step("report", build, there)
    copy = hashes(downloaded(build, tmp_path / "copy"))
    here = hashes(tmp_path / "here")
    # these name where the recordings are
    manifests = {name for name in here if name.startswith(("manifest", "outcomes"))}
    assert {name: copy[name] for name in here.keys() - manifests} == {
        name: here[name] for name in here.keys() - manifests
    }
    assert verify(str(build)) == []
    streams = [
        open_stream(
            where, {"speech": 1.0, "interleaved": 1.0}, seed=0, sequence_length=64, rank=0, world_size=1
        )
        for where in (str(build), str(tmp_path / "here"))
    ]
    for _ in range(5):
        one, other = (next(stream) for stream in streams)
        assert one.tokens.tolist() == other.tokens.tolist()
    again = CliRunner().invoke(wordweave.cli, ["units", str(build), "--engine", "local", "--json"])
    assert json.loads(again.stdout.strip().splitlines()[-1])["done"] == 0
    kinds = {failure.split()[0] for failure in failures}
    assert len(failures) > 20, failures
    assert {"GET", "PUT", "HEAD"} <= kinds


WRONG = [
    ("s3://no-such-bucket/b", "test", "no such bucket"),
    ("s3://speech/b", "", "Unable to locate credentials"),
    ("what://b/c", "test", "fsspec"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("url", "keys", "line"), WRONG)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_place_is_one_line_before_any_work(
    command, bucket, tmp_path, url, keys, line, monkeypatch, aws_anew
):
    monkeypatch.setenv("HOME", str(tmp_path))
    if not keys:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    _, config = begun(tmp_path)
    before = everything(tmp_path)
    result = one_line(invoke(command, url, config))
    assert url in result
    assert line in result
    assert everything(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_bucket_that_may_only_be_read_is_one_line_before_any_work(command, bucket, tmp_path, monkeypatch):
    import s3fs

    def refused(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", refused)
    _, config = begun(tmp_path)
    result = one_line(invoke(command, f"{bucket}/read-only", config))
    assert "s3://speech/read-only: cannot be written: Access Denied" in result


@pytest.mark.slow
def test_prune_takes_from_a_bucket_what_it_takes_from_a_disk(bucket, built, tmp_path):
    store = files.to_path(bucket) / "pruned"
    local = shutil.copytree(built, tmp_path / "build")
    (local / ".lock").unlink()
    put(local, *LEFT, *MINE)
    for name, _ in prune.list_files(local):
        files.write(store / name, (local / name).read_bytes())
    result = CliRunner().invoke(wordweave.cli, ["prune", str(store)])
    assert result.exit_code == 0, result.output
    assert {line.split()[0] for line in result.output.splitlines() if " bytes: " in line} == set(LEFT)
    assert files.names_in(store) == {name for name, _ in prune.list_files(local)}  # dry
    result = CliRunner().invoke(wordweave.cli, ["prune", str(store), "--yes"])
    assert result.exit_code == 0, result.output
    assert files.names_in(store) == {name for name, _ in prune.list_files(local)} - set(LEFT)


@pytest.mark.slow
def test_two_processes_train_from_and_to_s3_and_one_resumes(bucket, tmp_path):
    from lm.model import Model
    from tests.helpers.lm import toy_build, toy_vocabulary

    build = toy_build(tmp_path, toy_vocabulary(tmp_path))
    url = files.to_path(f"{bucket}/training")
    for path in sorted((build / "shards").rglob("*")):
        if path.is_file():
            files.write(url / "build" / path.relative_to(build).as_posix(), path.read_bytes())
    config = tmp_path / "tiny.toml"
    table = {
        "preset": "pico", "sequence_length": 64, "batch_tokens": 256, "save_every": 4, "evaluate_every": 4, "keep": 3,
        "sharding": "shard", "optimiser": "adamw", "schedule": "constant", "warmup": 0.0, "dropout": 0.0,
        "log_every": 1, "device": "cpu",
    }  # fmt: skip
    config.write_text(tomli_w.dumps(table))
    words = ["train", f"--config={config}"]
    many = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "wordweave",
    ]
    many += [*words, f"{url}/build", f"--output={url}/run", "--tokens=1024"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(many, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((url / "run" / "step-000004" / "shards").glob("*.safetensors"))) == 2
    for target, more in (
        (f"{url}/run", ["--tokens=2048", "--resume"]),
        (str(tmp_path / "run"), ["--tokens=2048"]),
    ):
        build_url = f"{url}/build" if target.startswith("s3") else str(build)
        result = CliRunner().invoke(wordweave.cli, [*words, build_url, f"--output={target}", *more])
        assert result.exit_code == 0, result.output
    here, there = (
        Model.from_pretrained(folder).weights()
        for folder in (tmp_path / "run" / "best", url / "run" / "best")
    )
    assert max(float((here[name] - there[name]).abs().max()) for name in here) < 5e-3
    lines = [json.loads(line) for line in files.read(url / "run" / "log.jsonl").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
