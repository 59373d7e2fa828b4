"""The tree is the architecture: imports run one way, and the front door and the README name the same commands."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "corpus": set(),
    "units": {"corpus"},
    "aligners": {"corpus", "units"},
    "shards": {"corpus"},
    "lm": {"shards", "units", "corpus"},
    "pipelines": {"corpus", "units", "aligners", "shards", "lm"},
    "commands": {"corpus", "units", "aligners", "shards", "lm", "pipelines"},
}
ENGINES = {"apache_beam", "pyspark"}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    found = {name for path in (ROOT / package).rglob("*.py") for name in imported_packages(path)}
    assert found & (MAY_IMPORT.keys() | {"wordweave"}) <= MAY_IMPORT[package] | {package}
    assert package == "pipelines" or not found & ENGINES


def test_every_package_is_listed_in_pyproject():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("__init__.py")
    )


def test_help_needs_no_heavy_import():
    import subprocess
    import sys

    code = "import sys, wordweave; print(sorted({'torch', 'apache_beam', 'faiss', 'transformers'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert said.stdout.strip() == "[]"


def commands(group, prefix=()):
    for name, found in group.commands.items():
        yield from commands(found, (*prefix, name)) if hasattr(found, "commands") else [(*prefix, name)]


def test_every_command_is_in_the_readme_and_has_help():
    import wordweave

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for words in commands(wordweave.cli):
        assert f"wordweave {' '.join(words)}" in readme
        found = wordweave.cli
        for word in words:
            found = found.commands[word]
        assert found.help


def test_no_code_unpickles_or_loads_weights_unsafely():
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for word in ("import pickle", "pickle.load", "allow_pickle=True", "weights_only=False"):
                assert word not in text, f"{path}: {word}"
