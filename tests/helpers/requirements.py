"""What pyproject.toml and constraints.txt ask for, read as pip reads them."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PYTHONS = ("3.11", "3.12", "3.13")


def required(*extras: str) -> list[Requirement]:
    """The project's own requirements with these extras; requirements of the project itself are not followed."""
    listed = [*PROJECT["dependencies"], *(r for e in extras for r in PROJECT["optional-dependencies"][e])]
    return [Requirement(line) for line in listed]


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def pins(python: str) -> dict[str, str]:
    """Distribution -> version that constraints.txt pins for this Python."""
    lines = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
    kept = [line for line in lines if line.marker is None or line.marker.evaluate({"python_version": python})]
    assert len(names(kept)) == len(kept), "a package is pinned twice"
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in kept}
