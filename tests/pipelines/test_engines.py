"""Engines: whoever runs the tasks, the bytes are the same, nothing is done twice, and what is missing is said."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import numpy as np
import psutil
import pytest
import soundfile
import torch
from click.testing import CliRunner

import wordweave
from corpus import files
from corpus.records import Unusable
from corpus.speaker_embeddings import SIZE
from corpus.toml import write_toml
from pipelines import settings
from pipelines.engines import spark
from pipelines.engines.beam import BeamEngine
from pipelines.engines.requirements import java
from pipelines.engines.spark import SparkEngine, slice_count
from pipelines.execution.runner import build_lock, run_stage
from pipelines.layout import part_names
from pipelines.settings import write_settings
from tests.helpers.builds import LOCAL, build_command, build_settings, hashes, run_build
from tests.helpers.stage import Copy, copies

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = "local-cluster[2,1,1024]"
HERE = str(ROOT)


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> str:
    """A folder with a package like Resemblyzer, of random weights, for processes of every engine."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("packages")
    lstm, linear = torch.nn.LSTM(40, SIZE, 3, batch_first=True), torch.nn.Linear(SIZE, SIZE)
    layers = {"lstm": lstm.state_dict(), "linear": linear.state_dict()}
    state = {f"{layer}.{name}": values for layer, one in layers.items() for name, values in one.items()}
    (folder / "resemblyzer").mkdir()
    (folder / "resemblyzer" / "__init__.py").touch()
    torch.save({"model_state": state}, folder / "resemblyzer" / "pretrained.pt")
    return str(folder)


@pytest.fixture(scope="module")
def cluster(packages) -> SparkEngine:
    """Two executors, each a JVM of its own with its own Python workers."""
    try:
        java()
    except Unusable as error:
        pytest.skip(f"Spark: {error}")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([HERE, packages])
    engine = SparkEngine(2, ("--conf", "spark.executor.memory=700m"), CLUSTER)
    engine.check()
    yield engine
    spark.SESSION.pop("spark").stop()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def outputs(build):
    return {path.name: path.read_bytes() for path in (build / "out").glob("*") if path.suffix == ""}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_spark_gives_the_bytes_of_a_plain_loop_and_loads_models_once_per_worker(cluster, tmp_path):
    hashes_of = {}
    for engine in (LOCAL, cluster):
        build = tmp_path / engine.name
        stage = Copy(str(tmp_path / f"{engine.name}.log"), 0.05)
        tasks = copies(build, stage, 8)
        assert run_stage(stage, build, tasks, engine, quiet=True) == {"tasks": 8, "done": 8, "skipped": 0}
        assert run_stage(stage, build, tasks, engine, quiet=True) == {"tasks": 8, "done": 0, "skipped": 8}
        hashes_of[engine.name] = outputs(build)
    assert hashes_of["spark"] == hashes_of["local"] != {}
    notes = stage.notes()
    workers = {pid for _, pid in notes}
    assert len(workers) == 2
    assert sorted(pid for word, pid in notes if word == "open") == sorted(workers)
    assert os.getpid() not in workers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_executor_costs_no_part_and_no_finished_work(cluster, tmp_path):
    stage = Copy(str(tmp_path / "log"), 0.5)
    tasks = copies(tmp_path, stage, 12)

    def kill():
        while len(outputs(tmp_path)) < 3 if (tmp_path / "out").exists() else True:
            time.sleep(0.05)
        executors = [
            process
            for process in psutil.Process().children(recursive=True)
            if process.name() == "java" and "CoarseGrainedExecutorBackend" in " ".join(process.cmdline())
        ]
        os.kill(executors[0].pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    run_stage(stage, tmp_path, tasks, cluster, quiet=True)
    thread.join()
    assert outputs(tmp_path) == {str(n): str(n).encode() * 2 for n in range(12)}
    made = [word for word, _ in stage.notes() if word != "open"]
    assert len(made) <= 12 + 1  # what the dead one had in hand, once more; nothing that was finished
    assert run_stage(stage, tmp_path, tasks, cluster, quiet=True)["done"] == 0


def with_repeats(manifest, folder):
    """A manifest with a recording of three utterances without speaker, one utterance twice, and settings for these."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        row["audio"] = str(manifest.parent / row["audio"])
    waves = [soundfile.read(row["audio"], dtype="int16") for row in rows[:3]]
    soundfile.write(folder / "talk.wav", np.concatenate([wave for wave, _ in waves]), waves[0][1])
    start = 0.0
    for row, (wave, rate) in zip(rows, waves, strict=False):
        end = start + len(wave) / rate
        row |= {"audio": str(folder / "talk.wav"), "start": start, "end": end, "speaker": None}
        start = end
    rows.append({**rows[5], "id": "again"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "evaluation.txt").write_text(f"{rows[8]['text']}\n")
    (folder / "documents.txt").write_text(f"It says: {rows[8]['text']}\nA page of its own.\n")
    return build_settings(
        folder / "manifest.jsonl",
        units={"clusters": 50, "fit_frames": 5000},
        speakers={"enabled": True},
        duplicates={
            "enabled": True,
            "remove": ["audio", "evaluation"],
            "evaluation": [str(folder / "evaluation.txt")],
        },
        text={"documents": [str(folder / "documents.txt")]},
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_whole_build_on_spark_and_beam_has_the_bytes_of_a_plain_loop(
    cluster, packages, spoken_corpus, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setattr("pipelines.engines.beam_forkserver.CONNECTION", [])  # one that knows the packages
    config = with_repeats(spoken_corpus, tmp_path)
    for engine in (LOCAL, cluster, BeamEngine(2)):
        report = run_build(tmp_path / engine.name, config, engine)
    assert hashes(tmp_path / "spark") == hashes(tmp_path / "beam") == hashes(tmp_path / "local")
    assert report["reasons"].keys() >= {"duplicate.audio", "duplicate.evaluation"}
    assert report["documents"] == {"compared": 2, "evaluation": 1, "removed": 1}
    manifest = files.read_tables(tmp_path / "local" / "manifest", part_names(tmp_path / "local"), ["speaker"])
    speakers = {speaker for table in manifest for speaker in table["speaker"].to_pylist()}
    assert any(speaker.startswith("estimated:") for speaker in speakers)


@pytest.mark.slow
def test_each_stage_has_workers_of_its_own_as_the_driver_is_then_and_those_before_are_gone(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", HERE)
    monkeypatch.setattr("pipelines.engines.beam_forkserver.CONNECTION", [])
    made = []
    for number in range(2):
        build = tmp_path / str(number)
        build.mkdir()
        monkeypatch.chdir(build)
        monkeypatch.setenv("NUMBER", str(number))
        stage = Copy("log-$NUMBER", 0.1)
        run_stage(stage, build, copies(build, stage, 6), BeamEngine(2), quiet=True)
        pids = {int(pid) for word, pid in stage.notes() if word == "open"}
        assert len(pids) == 2
        assert (build / f"log-{number}").is_file()
        assert not any(psutil.pid_exists(pid) for pid in pids)
        made.append(pids)
    assert not made[0] & made[1]


def hears_ctrl_c() -> None:
    """In a new process: a shell that starts tests in the background has them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "status"), [("group", 1), ("driver", -signal.SIGKILL), ("parent", 1), ("worker", 1)]
)
def test_stopped_or_killed_a_run_says_one_line_at_most_and_leaves_no_worker(who, status, tmp_path):
    script = (
        "import pathlib; from commands.cli import cli, command; from tests.helpers.stage import Copy, copies\n"
        "from pipelines.engines.beam import BeamEngine; from pipelines.execution.runner import run_stage\n"
        "def toy():\n"
        "    build = pathlib.Path('.').resolve(); stage = Copy(str(build / 'log'), 5.0)\n"
        "    return run_stage(stage, build, copies(build, stage, 4), BeamEngine(2), quiet=True)\n"
        "command(cli, 'doctor')(toy); cli()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "doctor"], cwd=tmp_path, start_new_session=True, text=True,
        env={**os.environ, "PYTHONPATH": HERE}, stderr=subprocess.PIPE, preexec_fn=hears_ctrl_c,
    )  # fmt: skip
    log = tmp_path / "log"
    while not (log.exists() and len(log.read_text().splitlines()) == 2):  # both workers are at work
        assert process.poll() is None
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 3
    if who == "group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        victim = {"driver": process, "parent": workers[0], "worker": workers[1]}[who]
        victim.send_signal(signal.SIGKILL)
    _, result = process.communicate(timeout=20)
    assert process.returncode == status
    assert ("interrupted; finished parts are kept" in result) == (who == "group")
    assert ("a worker process died" in result) == (who in ("parent", "worker"))
    assert len(result.strip().splitlines()) == (0 if who == "driver" else 1), result
    assert not psutil.wait_procs(workers, timeout=3)[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "words", [("--workers", "2"), ("--engine", "spark", "--workers", "2", "--master", CLUSTER)]
)
def test_a_build_stopped_by_ctrl_c_says_one_line_leaves_no_process_and_goes_on(
    words, spoken_corpus, tmp_path
):
    if "spark" in words:
        try:
            java()
        except Unusable as error:
            pytest.skip(f"Spark: {error}")
    config, build, whole = tmp_path / "x.toml", tmp_path / "build", tmp_path / "whole"
    config.write_text(write_toml(build_settings(spoken_corpus, units={"clusters": 50, "fit_frames": 5000})))
    start = [sys.executable, "-m", "wordweave", "build", str(config), "--build"]
    process = subprocess.Popen(
        [*start, str(build), *words], cwd=ROOT, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hears_ctrl_c,
    )  # fmt: skip
    while not list(build.glob("words/*.done")):
        assert process.poll() is None
        time.sleep(0.05)
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) >= 3
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, result = process.communicate(timeout=60)
    assert process.returncode == 1
    assert printed == ""
    lines = [
        line for line in result.splitlines() if " tasks, " not in line and not line.startswith("ingest:")
    ]
    assert lines[-1] == "wordweave: interrupted; finished parts are kept; run the same command to resume"
    assert "Traceback" not in result
    assert not psutil.wait_procs(others, timeout=15)[1]
    stood = {path: path.stat().st_mtime_ns for path in build.glob("*/*.done")}
    assert not (build / "shards").exists()
    subprocess.run([*start, str(build), *words], cwd=ROOT, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in stood} == stood
    subprocess.run([*start, str(whole), "--engine", "local"], cwd=ROOT, check=True, capture_output=True)
    assert hashes(build) == hashes(whole)


@pytest.fixture
def pool() -> str:
    """A Beam worker pool in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": HERE,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    words = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    process = subprocess.Popen(words, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as requested:
            if requested.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"localhost:{port}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_external_worker_pool_of_beam_gives_the_bytes_of_a_plain_loop(pool, tmp_path):
    engine = BeamEngine(2, ("--environment_type=EXTERNAL", f"--environment_config={pool}"))
    engine.check()
    stage = Copy(str(tmp_path / "log"), 0.2)
    tasks = copies(tmp_path, stage, 8)
    run_stage(stage, tmp_path, tasks, engine, quiet=True)
    assert outputs(tmp_path) == {str(n): str(n).encode() * 2 for n in range(8)}
    assert str(os.getpid()) not in {pid for _, pid in stage.notes()}


def stage_commands(group=wordweave.cli, before=()) -> dict[str, list[str]]:
    """Every command that takes an engine's options, by name, with the words that start it."""
    commands: dict[str, list[str]] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            commands |= stage_commands(command, (*before, name))
        elif any(parameter.name == "engine_arguments" for parameter in command.params):
            commands[" ".join((*before, name))] = [*before, name]
    return commands


COMMANDS = stage_commands()


def begun(folder: Path, device: str = "cpu") -> tuple[Path, Path]:
    """A build that was begun, and a settings file that asks for it."""
    build, config = folder / "build", folder / "asked.toml"
    text = f'build = "{build}"\n[corpus]\nsource = "{folder}"\n[units]\ndevice = "{device}"\n'
    config.write_text(text)
    files.write(build / "settings.toml", text.encode())
    files.write(build / "manifest" / "manifest.json", b'{"parts": [], "version": 2}')
    return build, config


def invoke(command: str, build: Path | str, config: Path, *words: str):
    """Run a command on a build with changed settings, which it would write down if it began."""
    if command in ("build", "preview"):
        places = [str(config), "--build", str(build)]
    else:
        places = [*source_of(command, config), str(build), "--config", str(config)]
    return CliRunner().invoke(wordweave.cli, [*COMMANDS[command], *places, *words])


def source_of(command: str, path: Path) -> list[str]:
    """What `ingest` reads: any file that is there."""
    return ["jsonl", str(path)] if command == "ingest" else []


def everything(folder: Path) -> dict[str, int]:
    """Each file and folder with the time of its last change."""
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def one_line(result) -> str:
    """What a command that was not begun says; it must be one line, and bad usage."""
    assert result.exit_code == 2, result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith("wordweave: ")
    return line


def test_the_commands_that_take_an_engine_are_those_of_a_stage():
    assert set(COMMANDS) == {
        "ingest", "cut", "transcribe", "speakers", "quality", "fit units", "fit pitch", "fit style", "units", "hashes",
        "pitch", "style", "align", "duplicates", "interleave", "build", "preview",
    }  # fmt: skip


LACKS = [
    ("--runner=SparkRunner", "SparkRunner needs its job server, --spark_job_server_jar=JAR"),
    ("--runner=spark", "SparkRunner needs its job server"),
    ("--runner=FlinkRunner --flink_job_server_jar=gone.jar", "got no file gone.jar"),
    ("--runner=FlinkRunner --job_endpoint=localhost:1", "need a job server at --job_endpoint=HOST:PORT, got"),
    ("--runner=PortableRunner", "need a job server at --job_endpoint=HOST:PORT, got ''"),
    ("--runner=DaskRunner", "drops rows silently"),
    ("--runner=Dataflo", "need one of the runners DataflowRunner"),
    ("--runner", "beam: argument --runner: expected one argument"),
    ("--environment_tpye=EXTERNAL", "no option --environment_tpye, did you mean --environment_type?"),
    ("--environment_type=EXTERNAL --environment_config=localhost:1", "need a worker pool"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_an_engine_lacks_is_one_line_before_any_work(command, tmp_path):
    build, config = begun(tmp_path)
    before = everything(tmp_path)
    for words, line in LACKS:
        assert line in one_line(invoke(command, build, config, "--", *words.split()))
    for words, line in (
        ("--engine local -- --runner=X", "local takes no options after --"),
        ("--master local[2]", "beam takes no --master"),
        ("--engine spark -- --runner=X", "--conf spark.NAME=VALUE"),
    ):
        assert line in one_line(invoke(command, build, config, *words.split()))
    assert everything(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_spark_without_java_is_one_line(command, tmp_path, monkeypatch):
    pytest.importorskip("pyspark", reason="the extra spark")
    monkeypatch.setattr("pipelines.engines.spark.SESSION", {})
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    build, config = begun(tmp_path)
    before = everything(tmp_path)
    line = one_line(invoke(command, build, config, "--engine", "spark"))
    assert line.startswith(f"wordweave: java: none in JAVA_HOME={tmp_path}; install a JDK 17 or newer")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("question", ["check", "check_access"])
def test_every_command_asks_the_engine_before_any_work(command, question, tmp_path, monkeypatch):
    requested = []

    def refuse(engine, *of):
        requested.append(of)
        raise Unusable("the workers are on strike")

    monkeypatch.setattr(BeamEngine, question, refuse)
    build, config = begun(tmp_path, "cuda:1")
    before = everything(tmp_path)
    assert "the workers are on strike" in one_line(invoke(command, build, config))
    assert everything(tmp_path) == before
    assert requested == ([()] if question == "check" else [(build, "cuda:1")])
    if command not in ("build", "preview"):  # the settings that the build has
        result = CliRunner().invoke(
            wordweave.cli, [*COMMANDS[command], *source_of(command, config), str(build)]
        )
        assert "the workers are on strike" in one_line(result)
        assert requested[1] == requested[0]


@pytest.mark.slow
def test_another_python_on_spark_s_workers_is_one_line(tmp_path):
    try:
        java()
    except Unusable as error:
        pytest.skip(f"Spark: {error}")
    other = shutil.which("python3", path="/usr/bin:/bin")
    if other is None:
        pytest.skip("no second Python on this machine")
    words = [sys.executable, "-m", "wordweave", "units", str(tmp_path / "b"), "--engine", "spark"]
    environment = {**os.environ, "PYSPARK_PYTHON": other, "PYSPARK_DRIVER_PYTHON": sys.executable}
    result = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("wordweave: spark: ")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [None, 0, 1], ids=["unbroken", "first killed", "second killed"])
def test_several_local_runs_share_one_build_and_give_the_bytes_of_one_run(killed, spoken_corpus, tmp_path):
    """As the tasks of a Slurm array do: the same command, started in any order and ended at any time."""
    wanted = build_settings(
        spoken_corpus, units={"clusters": 50, "fit_frames": 5000}, corpus={"part_minutes": 0.1}
    )
    (tmp_path / "config.toml").write_text(
        write_toml(dataclasses.replace(wanted, build=str(tmp_path / "shared")))
    )
    run_build(tmp_path / "alone", wanted)
    command = build_command(tmp_path / "config.toml", tmp_path / "shared", "--engine", "local")
    environment = {**os.environ, "PYTHONPATH": HERE}
    runs = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    if killed is not None:
        while not list((tmp_path / "shared" / "units").glob("*.done")) and runs[killed].poll() is None:
            time.sleep(0.05)
        runs[killed].kill()
        runs.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
    ends = [(run.wait(), run.stderr.read()) for run in runs]
    assert [status for status, _ in ends] == [
        0 if n != killed else -signal.SIGKILL for n in range(len(runs))
    ], ends
    one, shared = hashes(tmp_path / "alone"), hashes(tmp_path / "shared")
    assert {name: digest for name, digest in shared.items() if name in one} == one
    assert not list((tmp_path / "shared" / ".claims").glob("*"))


def test_a_run_with_other_settings_may_not_join(spoken_corpus, tmp_path):
    wanted = build_settings(spoken_corpus)
    with build_lock(tmp_path) as lock:
        write_settings(tmp_path, wanted)
        lock.share()
        other = settings.replace(wanted, "units", seed=5)
        code = (
            "import sys; from pathlib import Path; from corpus.toml import read_toml; from pipelines import build;"
            "from pipelines.settings import Settings;"
            "build.build(Path(sys.argv[1]), read_toml(Path(sys.argv[2]), Settings))"
        )
        (tmp_path / "other.toml").write_text(write_toml(other))
        joined = subprocess.run(
            [sys.executable, "-c", code, tmp_path, tmp_path / "other.toml"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert "another run with other settings works on this build" in joined.stderr


def test_spark_gives_several_parts_to_a_task_where_a_worker_overlaps_them(monkeypatch):
    counts = [(parts, slice_count(Copy("log"), parts, cores=10)) for parts in (5, 1000, 10**6)]
    assert counts == [(5, 5), (1000, 1000), (10**6, 100_000)]
    monkeypatch.setattr(Copy, "tasks_at_once", 2)
    counts = [(parts, slice_count(Copy("log"), parts, cores=10)) for parts in (5, 100, 1000, 10**6)]
    assert counts == [(5, 5), (100, 80), (1000, 125), (10**6, 100_000)]
