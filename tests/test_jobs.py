"""The job scripts of jobs/, run with recording stand-ins for the programs of each cluster."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from tests.helpers.requirements import ROOT
from wordweave import cli

SCRIPTS = sorted((ROOT / "jobs").glob("*.sh"))
CONFIG = str(ROOT / "config" / "corpus.toml")
CLOUD = {
    "PROJECT": "my-project",
    "REGION": "europe-west4",
    "BUCKET": "my-bucket",
    "IMAGE": "registry/image:1",
}
PLACES = ["memory://my-bucket/manifest.jsonl", "memory://my-bucket/build"]  # parsed without a network
PROGRAM = """#!{python}
import json, sys, time
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv) + "\\n")
{then}
"""


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Puts programs on the PATH that only record how they were called; gives a function that reads the calls."""
    log = tmp_path / "calls"
    log.touch()

    def install(*names: str, then: str = ""):
        for name in names:
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(PROGRAM.format(python=sys.executable, log=str(log), then=then))
            path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    calls = lambda: [[Path(c[0]).name, *c[1:]] for c in map(json.loads, log.read_text().splitlines())]  # noqa: E731
    return install, calls


def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | variables
    command = [ROOT / "jobs" / name, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def parsed(arguments: list[str]) -> dict:
    """The options of `wordweave build` as the command line reads them; nothing is run."""
    assert arguments[0] == "build"
    with click.Context(cli) as parent:
        return cli.commands["build"].make_context("build", arguments[1:], parent=parent).params


def confs(arguments: list[str]) -> dict[str, str]:
    return dict(value.split("=", 1) for flag, value in itertools.pairwise(arguments) if flag == "--conf")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_bash_and_says_what_it_needs(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert os.access(script, os.X_OK)
    result = run(script.name, CONFIG, **CLOUD, MASTER="k8s://https://host:443")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{script.name}: need CONFIG MANIFEST BUILD, got 1 arguments" in result.stderr


def test_slurm_runs_one_local_engine_a_task(recorded):
    install, calls = recorded
    install("wordweave")
    result = run("slurm.sh", CONFIG, "/data/manifest.jsonl", "/data/build", WORDWEAVE="wordweave")
    assert result.returncode == 0, result.stderr
    ((_, *words),) = calls()
    options = parsed(words)
    assert (options["engine"], str(options["build"])) == ("local", "/data/build")
    assert str(options["source"]) == "/data/manifest.jsonl"


def test_slurm_asks_for_one_gpu_a_task_and_for_a_signal_before_the_limit():
    text = (ROOT / "jobs" / "slurm.sh").read_text()
    requested = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert (requested["ntasks"], requested["gpus-per-task"], requested["signal"]) == ("1", "1", "B:TERM@180")
    assert "requeue" in requested
    lines = text.splitlines()
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:]), (
        "Slurm reads none after the first command"
    )


def test_a_slurm_task_at_its_time_limit_interrupts_the_build_and_queues_itself_again(recorded, tmp_path):
    install, calls = recorded
    path = tmp_path / "build"
    waits = f"""
try:
    open({str(path) + ".started"!r}, "w").close()
    time.sleep(60)
except KeyboardInterrupt:
    open({str(path)!r}, "w").write("interrupted")
    sys.exit(1)
"""
    install("wordweave", then=waits)
    install("scontrol")
    environment = os.environ | {"WORDWEAVE": "wordweave", "SLURM_JOB_ID": "7"}
    command = [ROOT / "jobs" / "slurm.sh", CONFIG, "/data/manifest.jsonl", "/data/build"]
    task = subprocess.Popen(command, env=environment, cwd=tmp_path)
    while not Path(f"{path}.started").exists():
        assert task.poll() is None
        time.sleep(0.02)
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=60) == 0
    assert path.read_text() == "interrupted"
    assert calls()[-1] == ["scontrol", "requeue", "7"]


def test_a_slurm_task_whose_build_fails_fails(recorded):
    install, calls = recorded
    install("wordweave", then="sys.exit(1)")
    install("scontrol")
    places = ["/data/manifest.jsonl", "/data/build"]
    assert run("slurm.sh", CONFIG, *places, WORDWEAVE="wordweave", SLURM_JOB_ID="7").returncode == 1
    assert [call[0] for call in calls()] == ["wordweave"]


@pytest.mark.parametrize("gpus", ["0", "1"])
def test_kubernetes_gets_the_settings_and_a_driver_that_runs_the_spark_engine(recorded, gpus):
    install, calls = recorded
    install("kubectl", "spark-submit")
    variables = {
        "MASTER": "k8s://https://host:443",
        "IMAGE": "registry/image:1",
        "GPUS": gpus,
        "EXECUTORS": "16",
    }
    result = run("spark_kubernetes.sh", CONFIG, *PLACES, "--workers", "16", **variables)
    assert result.returncode == 0, result.stderr
    submitted = calls()[-1]
    assert submitted[:5] == ["spark-submit", "--master", "k8s://https://host:443", "--deploy-mode", "cluster"]
    conf = confs(submitted)
    assert all(name.startswith("spark.") and value for name, value in conf.items())
    assert conf["spark.executor.instances"] == "16"
    assert conf.get("spark.executor.resource.gpu.amount", "0") == gpus
    assert conf.get("spark.task.cpus", "4") == conf["spark.executor.cores"]
    program = submitted.index("local:///opt/wordweave/wordweave.py")
    words = submitted[program + 1 :]
    (created,) = [call for call in calls() if "create" in call]
    name = next(word for word in created if word.startswith("wordweave-"))
    assert f"--from-file=settings.toml={CONFIG}" in created
    assert submitted[submitted.index("--name") + 1] == name
    assert words[1] == "/etc/wordweave/settings.toml"
    options = parsed([words[0], CONFIG, *words[2:]])
    assert (options["engine"], options["workers"]) == ("spark", 16)


@pytest.mark.parametrize("gpu", ["", "l4"])
def test_dataproc_gets_the_settings_as_a_file_beside_the_driver(recorded, gpu):
    install, calls = recorded
    install("gcloud")
    result = run("dataproc.sh", CONFIG, *PLACES, **CLOUD, GPU=gpu)
    assert result.returncode == 0, result.stderr
    (call,) = calls()
    assert call[:6] == ["gcloud", "dataproc", "batches", "submit", "pyspark", "wordweave.py"]
    separator = call.index("--")
    flags = dict(word.removeprefix("--").split("=", 1) for word in call[6:separator])
    assert flags["files"] == CONFIG
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{2,61}[a-z0-9]", flags["batch"])
    properties = dict(pair.split("=", 1) for pair in flags["properties"].split(","))
    assert properties.get("spark.dataproc.executor.resource.accelerator.type", "") == gpu
    words = call[separator + 1 :]
    assert words[1] == "corpus.toml"
    assert parsed([words[0], CONFIG, *words[2:]])["engine"] == "spark"


@pytest.mark.parametrize("driver", ["here", "cloud-run"])
def test_dataflow_gets_options_that_beam_knows(recorded, driver):
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

    from pipelines.engines import dataflow_preflight

    install, calls = recorded
    install("wordweave", "gcloud")
    result = run(
        "dataflow.sh",
        CONFIG,
        *PLACES,
        "--number_of_worker_harness_threads=2",
        **CLOUD,
        GPU="nvidia-l4",
        DRIVER=driver,
    )
    assert result.returncode == 0, result.stderr
    call = calls()[-1]
    if driver == "cloud-run":
        assert calls()[0][:4] == ["gcloud", "storage", "cp", CONFIG]
        object_name = calls()[0][4].removeprefix("gs://my-bucket/")
        words = (
            next(word for word in call if word.startswith("--args=")).removeprefix("--args=^|^").split("|")
        )
        assert words[1] == f"/settings/{object_name}"
    else:
        words = call[1:]
    options = parsed([words[0], CONFIG, *words[2:]])
    assert options["engine"] == "beam"
    beam_words = tuple(words[words.index("--") + 1 :])
    dataflow_preflight.refuse_unknown_options(beam_words, "dataflow.sh")
    options = PipelineOptions(list(beam_words))
    dataflow_preflight.check_required(options)
    dataflow_preflight.check_gpu(options)
    assert options.view_as(GoogleCloudOptions).project == "my-project"
