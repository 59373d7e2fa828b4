"""The worker image, held against what it must agree with: parsed, not built, as that takes a Docker engine."""

import importlib.metadata
import importlib.util
import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.requirements import PYPROJECT, PYTHONS, ROOT, pins, required


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of each line of the Dockerfile, continuation lines joined, comments left out."""
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def default_of(name: str) -> str:
    (value,) = {
        rest.partition("=")[2]
        for word, rest in instructions()
        if word == "ARG" and rest.startswith(f"{name}=")
    }
    return value


def test_the_images_have_a_supported_python_and_the_pinned_beam_and_spark():
    assert default_of("PYTHON_VERSION") == PYTHONS[-1]
    for argument, package in (("BEAM_VERSION", "apache-beam"), ("SPARK_VERSION", "pyspark")):
        pinned = {pins(python)[package] for python in PYTHONS}
        assert pinned == {default_of(argument)} == {importlib.metadata.version(package)}


def test_the_default_image_runs_beams_boot_program_and_the_other_what_kubernetes_starts():
    assert instructions()[-1] == ("ENTRYPOINT", '["/opt/apache/beam/boot"]')
    assert ("COPY", "--from=beam-sdk /opt/apache/beam /opt/apache/beam") in instructions()
    assert ("ENTRYPOINT", '["/opt/entrypoint.sh"]') in instructions()
    assert ("COPY", "--from=spark-distribution /opt/entrypoint.sh /opt/entrypoint.sh") in instructions()


def test_every_stage_and_argument_that_is_named_was_declared_before():
    stages, arguments = set(), set()
    for word, rest in instructions():
        used = set(re.findall(r"\$\{(\w+)\}", rest)) - {"PATH"}
        if word == "FROM":
            assert used <= arguments
            assert ":" in rest or rest.split(" AS ")[0] in stages
            stages |= {rest.split(" AS ")[1]} if " AS " in rest else set()
        elif word == "ARG":
            arguments.add(rest.partition("=")[0])
        else:
            assert used <= arguments, rest
        assert set(re.findall(r"--from=([\w-]+)", rest)) <= stages


def test_everything_that_the_image_installs_has_a_pin():
    """What Beam's gcp extra brings, too; the project's own requirements are compared in test_packaging."""
    assert {"gcp"} in [requirement.extras for requirement in required("dataflow")]
    listed = [Requirement(line) for line in importlib.metadata.requires("apache-beam") or []]
    for python in PYTHONS:
        environment = {"python_version": python, "extra": "gcp"}
        requested = [r for r in listed if r.marker is None or r.marker.evaluate(environment)]
        assert len(requested) > 40
        for requirement in requested:
            assert requirement.specifier.contains(pins(python)[canonicalize_name(requirement.name)]), (
                requirement
            )


def test_what_the_image_imports_to_prove_itself_is_there():
    named = re.findall(r'python -c "import ([\w., ]+)"', " ".join(rest for _, rest in instructions()))
    assert len(named) == 1
    assert all(importlib.util.find_spec(module) for module in named[0].split(", "))


def test_the_builder_gets_every_file_of_the_packages():
    lines = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().split("\n")
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert all((ROOT / name).exists() for name in let_in)
    packages = {name.split(".")[0] for name in PYPROJECT["tool"]["setuptools"]["packages"]}
    needed = {
        "wordweave.py",
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        *PYPROJECT["project"]["license-files"],
    }
    assert let_in == packages | needed
