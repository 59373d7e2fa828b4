"""What is installed: every import declared, every requirement pinned, a wheel that works by itself."""

import ast
import functools
import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.helpers.requirements import PROJECT, PYPROJECT, PYTHONS, ROOT, names, pins, required

PACKAGES = PYPROJECT["tool"]["setuptools"]["packages"]
FOLDERS = sorted({name.split(".")[0] for name in PACKAGES})
FIRST_PARTY = {*FOLDERS, "wordweave", "tests", "benchmarks", "docs"}


@functools.cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported with the file) of each third-party import of a source file."""
    third_party = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        modules = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
        for module in modules:
            if module.split(".")[0] not in FIRST_PARTY | sys.stdlib_module_names:
                third_party.append((module, id(node) in at_once))
    return third_party


INSTALLED = importlib.metadata.packages_distributions()
BROUGHT_BY = {
    "google.protobuf": "protobuf",  # google is shared by many
    "google.auth": "google-auth",
    "google.api_core": "google-api-core",
    "hibari": "hibari-tts",  # an extra that is not installed for development
    "pyworld": "pyworld-prebuilt",
}


def distributions(module: str) -> set[str]:
    """The distributions that bring a module."""
    known = BROUGHT_BY.get(".".join(module.split(".")[:2]))
    owners = [known] if known else INSTALLED.get(module.split(".")[0], [module])
    return {canonicalize_name(name) for name in owners}


def undeclared(folders: list[str], declared: set[str], optional: set[str]) -> list[str]:
    """Imports that no requirement brings; `optional` ones may be imported inside a function only."""
    missing = []
    for path in [ROOT / "wordweave.py", *(p for folder in folders for p in (ROOT / folder).rglob("*.py"))]:
        for module, at_once in imports(path):
            owners = distributions(module)
            if not owners & (declared if at_once else declared | optional):
                missing.append(f"{path.relative_to(ROOT)}: {module} of {', '.join(sorted(owners))}")
    return missing


def test_every_import_of_the_packages_is_declared():
    extras = [name for name in PROJECT["optional-dependencies"] if name not in ("dev", "docs")]
    assert undeclared(FOLDERS, names(required()), names(required(*extras))) == []


def test_every_import_of_tests_benchmarks_and_docs_is_declared():
    declared = names(required("demo", "dev", "docs"))
    assert undeclared(["tests", "benchmarks", "docs"], declared, set()) == []


def test_every_requirement_is_imported_by_the_packages():
    imported = {
        owner
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for module, _ in imports(path)
        for owner in distributions(module)
    }
    # their wheels hold the weights of F0 and of voice activity, which are read as files
    assert names(required()) - imported == {"silero-vad", "torchfcpe"}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_pin_within_its_range_for_each_python(python):
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    pinned = pins(python)
    for requirement in required(*PROJECT["optional-dependencies"]):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_pythons_outside_the_range_are_refused():
    for python in ("3.10", "3.14"):
        assert not SpecifierSet(PROJECT["requires-python"]).contains(python)


def test_what_is_installed_here_is_what_is_pinned():
    pinned = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    for name in names(required("demo", "dev", "docs")):
        assert importlib.metadata.version(name).partition("+")[0] == pinned[name]


def test_every_folder_of_sources_is_a_listed_package():
    sources = {path.parent.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert sorted(PACKAGES) == sorted(".".join(folder.parts) for folder in sources)


def test_benchmarks_change_no_search_path_and_say_how_they_are_run():
    for path in (ROOT / "benchmarks").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "sys.path" not in text, path.name
        assert f"python -m benchmarks.{path.stem}" in text, path.name


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built with the setuptools installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", folder]
    # from a copy: setuptools keeps a build folder beside the sources, and files deleted since would come from it
    copy = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("no git checkout: the list of tracked files is not known")
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    result = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, copy], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("wordweave-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    sources = {
        path
        for path in tracked.stdout.splitlines()
        if path == "wordweave.py" or (path.split("/")[0] in FOLDERS and (ROOT / path).exists())
    }
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == sources


@pytest.mark.slow
def test_the_wheel_installed_into_a_bare_folder_runs_by_itself(wheel, tmp_path):
    target = tmp_path / "target"
    options = ["--quiet", "--no-deps", "--target", target]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, wheel], check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(target)}

    def run(*command):
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "Usage: wordweave" in run(target / "bin" / "wordweave", "--help")
    program = "import units.encoders as e; e.load_encoder('compact'); print(e.__file__)"
    assert run(sys.executable, "-c", program).strip() == str(target / "units" / "encoders.py")
