"""The tree is the architecture: imports run one way and in no circle, and every list equals its registry."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wordweave
from aligners import BACKENDS
from corpus.adapters import ADAPTERS
from pipelines.build import STEPS
from pipelines.engines.registry import ENGINES

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
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in MAY_IMPORT
    for path in (ROOT / package).rglob("*.py")
} | {"wordweave": ROOT / "wordweave.py"}


def imported_modules(path: Path) -> set[str]:
    """Names of the modules that a file imports anywhere, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else node.module for name in inner}
    return names


GRAPH = {name: imported_modules(path) for name, path in FILES.items()}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    violations = {
        one.split(".")[0]
        for name, imports in GRAPH.items()
        if name.split(".")[0] == package
        for one in imports
    }
    assert violations & (MAY_IMPORT.keys() | {"wordweave"}) <= MAY_IMPORT[package] | {package}
    assert package == "pipelines" or not violations & {"apache_beam", "pyspark"}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The names on one circle of a graph, none where there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        violations = next(
            (ring for other in sorted(graph[name] & graph.keys()) if (ring := visit(other, [*path, name]))),
            [],
        )
        done.add(name)
        return violations

    return next((ring for name in graph if (ring := visit(name, []))), [])


def test_no_files_import_each_other_in_a_circle():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({name: imports - {name} for name, imports in GRAPH.items()}) == []


def test_no_object_is_given_hidden_attributes():
    """A frozen record may bring its own fields into shape when it is made; nobody else sets or probes attributes."""
    for name, path in FILES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = [node for node in ast.walk(tree) if getattr(node, "name", "") == "__post_init__"]
        text = "".join(map(ast.unparse, own))
        assert ast.unparse(tree).count("object.__setattr__") == text.count("object.__setattr__"), name
        if name.startswith("pipelines."):
            probes = [
                node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == "hasattr"
            ]
            assert [
                ast.unparse(node) for node in probes if ast.unparse(node.args[0]) not in ("os", "faiss")
            ] == [], name
            assert not re.search(r"getattr\([^)]*, '_", ast.unparse(tree)), name


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def test_only_the_engines_know_beam_and_spark_and_execution_knows_no_stage():
    for name, imports in GRAPH.items():
        if not name.startswith("pipelines.engines"):
            assert not {one.split(".")[0] for one in imports} & {"apache_beam", "pyspark"}, name
        if name.startswith("pipelines.execution"):
            assert not any(one.startswith(("pipelines.steps", "pipelines.engines")) for one in imports), name


def test_every_package_is_listed_in_pyproject():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("__init__.py")
    )


def test_help_needs_no_heavy_import():
    code = "import sys, wordweave; print(sorted({'torch', 'apache_beam', 'faiss', 'transformers'} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert answer.stdout.strip() == "[]"


def commands(group, prefix=()):
    for name, violations in group.commands.items():
        yield from (
            commands(violations, (*prefix, name)) if hasattr(violations, "commands") else [(*prefix, name)]
        )


def find_command(names):
    violations = wordweave.cli
    for name in names:
        violations = violations.commands[name]
    return violations


def choices(names, option):
    (parameter,) = [one for one in find_command(names).params if option in (*one.opts, one.name)]
    return list(parameter.type.choices)


def test_every_command_is_in_the_readme_and_has_help():
    written = set(
        re.findall(r"`wordweave ([a-z0-9 -]*[a-z0-9])", (ROOT / "README.md").read_text(encoding="utf-8"))
    )
    for names in commands(wordweave.cli):
        assert " ".join(names) in written
        assert find_command(names).help


def test_the_command_line_lists_what_the_registries_hold():
    assert choices(["ingest"], "adapter") == list(ADAPTERS)
    assert choices(["align"], "--backend") == choices(["align"], "--second-backend") == list(BACKENDS)
    assert {step.name for step in STEPS} - {"fit units", "prosody", "card"} <= wordweave.cli.commands.keys()
    for names in (["build"], ["units"], ["fit", "units"]):
        (engine,) = [one for one in find_command(names).params if one.name == "engine"]
        assert engine.type.get_metavar(engine) == f"[{'|'.join(ENGINES)}]"
        declared = {f"--{option.name}" for one in ENGINES.values() for option in one.options}
        assert declared <= {opt for one in find_command(names).params for opt in one.opts}


def test_no_code_unpickles_or_loads_weights_unsafely():
    for name, path in FILES.items():
        text = path.read_text(encoding="utf-8")
        for word in ("import pickle", "pickle.load", "allow_pickle=True", "weights_only=False"):
            assert word not in text, f"{name}: {word}"
