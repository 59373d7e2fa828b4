"""The worker image, held against what it must agree with; no Docker engine is needed to find most mistakes."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of each line of the Dockerfile, continuation lines joined, comments left out."""
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def default_of(name: str) -> str:
    (found,) = {
        rest.partition("=")[2]
        for word, rest in instructions()
        if word == "ARG" and rest.startswith(f"{name}=")
    }
    return found


def test_the_image_has_the_launchers_python_and_beam():
    assert default_of("BEAM_VERSION") == PINS["apache-beam"] == importlib.metadata.version("apache-beam")
    assert PYPROJECT["project"]["requires-python"].startswith(f">={default_of('PYTHON_VERSION')}")
    assert default_of("PYTHON_VERSION") == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_image_ends_in_beams_boot_program():
    assert instructions()[-1] == ("ENTRYPOINT", '["/opt/apache/beam/boot"]')
    assert ("COPY", "--from=beam /opt/apache/beam /opt/apache/beam") in instructions()


def test_every_stage_and_argument_that_is_named_was_declared_before():
    stages, arguments = set(), set()
    for word, rest in instructions():
        used = set(re.findall(r"\$\{(\w+)\}", rest)) - {"PATH"}
        if word == "FROM":
            assert used <= arguments
            stages |= {rest.split(" AS ")[1]} if " AS " in rest else set()
        elif word == "ARG":
            arguments.add(rest.partition("=")[0])
        else:
            assert used <= arguments, rest
        assert set(re.findall(r"--from=(\w+)", rest)) <= stages


def test_everything_that_is_installed_has_a_pin():
    """Each requirement of the project, its dataflow extra and Beam's gcp extra stands in constraints.txt."""

    def name_of(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()

    pinned = {name_of(name) for name in PINS}
    asked = [
        *PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"]["dataflow"],
    ]
    asked += [
        requirement
        for requirement in importlib.metadata.requires("apache-beam") or []
        if "extra == 'gcp'" in requirement.replace('"', "'") and "python_version < " not in requirement
    ]
    assert len(asked) > 40
    assert {name_of(one) for one in asked} <= pinned


def sent_to_the_builder() -> list[str]:
    """Tracked files that docker/Dockerfile.dockerignore lets through."""
    lines = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().split("\n")
    let_in = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    assert all((ROOT / name).exists() for name in let_in)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in tracked.stdout.splitlines() if path.split("/")[0] in let_in]


@pytest.mark.slow
def test_the_wheel_built_from_what_the_builder_gets_holds_every_module_and_data_file(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: the list of tracked files is not known")
    sent = sent_to_the_builder()
    for path in sent:
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / "source" / path)
    words = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        tmp_path / "wheels",
        tmp_path / "source",
    ]
    made = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (wheel,) = (tmp_path / "wheels").glob("wordweave-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {path for path in sent if path.endswith(".py") or "/data/" in path} <= held
