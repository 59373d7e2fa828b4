"""The documentation: what is generated is whole, links lead somewhere, and the site builds without a warning."""

import ast
import dataclasses
import importlib
import itertools
import os
import re
import shlex
import subprocess
import sys

import click
import numpy as np
import pytest
import soundfile

from corpus.records import REASONS
from docs import generate
from docs.steps import NOTES
from docs.worked_row import worked_row_page
from pipelines.build import STEPS
from pipelines.settings import Settings, replace
from tests.helpers.builds import build_settings, run_build
from tests.helpers.requirements import ROOT
from wordweave import cli

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_section_and_key_of_the_settings_is_on_the_page_with_its_default():
    page = generate.settings_page()
    for section in dataclasses.fields(Settings):
        if dataclasses.is_dataclass(section.type):
            assert f"## [{section.name}]" in page
            table = page.partition(f"## [{section.name}]")[2].partition("\n## ")[0]
            keys = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
            assert keys == [field.name for field in dataclasses.fields(section.type)]
    assert "| `clusters` | int | `501` |" in page


def test_every_reason_is_on_the_page_with_its_meaning():
    page = generate.reasons_page()
    assert re.findall(r"^\| `([\w.]+)` \| \S", page, re.MULTILINE) == list(REASONS)


def test_every_command_is_on_the_page_with_its_help():
    def names(group: click.Group, before: str) -> list[str]:
        inside = [
            (f"{before} {name}", command) for name, command in group.commands.items() if not command.hidden
        ]
        return [name for name, _ in inside] + [
            deeper
            for name, command in inside
            if isinstance(command, click.Group)
            for deeper in names(command, name)
        ]

    page = generate.commands_page()
    for name in names(cli, "wordweave"):
        text = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert f"Usage: {name}" in text


def test_every_public_function_with_a_docstring_is_on_a_page_of_the_api():
    pages = generate.api_pages()
    assert set(pages) == set(generate.PACKAGES)
    assert "### decode\n" in pages["corpus"]
    assert "def decode(" in pages["corpus"]
    assert "### class Reject\n" in pages["corpus"]


def test_a_docstring_becomes_markdown():
    text = "One line.\n\nArgs:\n    path: of a file,\n        or a folder\n\n>>> 1 + 1\n2\n\nMore."
    assert "\n".join(filter(None, generate.docstring(text))) == (
        "One line.\n**Args**\n- path: of a file,\nor a folder\n```pycon\n>>> 1 + 1\n2\n```\nMore."
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_within_the_repository_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
            assert heading in slugs, f"{page.name}: {target}"


def test_every_step_setting_and_reason_is_on_the_page_of_the_steps():
    page = generate.steps_page()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == [step.name for step in STEPS] == list(NOTES)
    sections = [item.name for item in dataclasses.fields(Settings) if dataclasses.is_dataclass(item.type)]
    assert {name for note in NOTES.values() for name in note.settings} == set(sections)
    assert set(re.findall(r"^\| `(\w+\.\w+)` \|", page, re.MULTILINE)) == set(REASONS)


def test_the_evaluation_page_is_what_the_code_writes():
    from docs.evaluation_page import COMPARED, PAGE, evaluation_page
    from lm.evaluation.datasets.published import PUBLISHED

    assert list(COMPARED) == list(PUBLISHED)

    def without_scores(text):  # the last digit of a score may depend on the CPU
        return re.sub(r"-\d+\.\d+", "-", text)

    assert without_scores(PAGE.read_text(encoding="utf-8")) == without_scores(evaluation_page())


def test_the_worked_row_is_drawn_from_the_code():
    page = worked_row_page()
    units = page.partition("```text\n")[2].partition("\n```")[0].split()
    runs = [run.split("x") for run in page.split("```text\n")[2].partition("\n```")[0].split()]
    assert units == [unit for unit, length in runs for _ in range(int(length))]
    assert page.count("| - |") == 2  # the last token of each document predicts nothing
    rows = re.findall(r"^\| (\d+) \| (\d) \| `(.*)` \| (\d+) \| (-|\d+) \|$", page, re.MULTILINE)
    assert [int(row[4]) for row in rows[:-1] if row[4] != "-"] == [
        int(after[3]) for before, after in itertools.pairwise(rows) if before[1] == after[1]
    ]


def blocks(language: str, page) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_in_a_code_block_exists_with_its_options(page):
    for line in re.sub(r"\\\n\s*", " ", "\n".join(blocks("bash", page))).splitlines():
        words = shlex.split(line, comments=True)
        for index in [number for number, word in enumerate(words) if word == "wordweave"]:
            command, rest = cli, words[index + 1 :]
            while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
                command = command.get_command(click.Context(command), rest[0])
                assert command is not None, f"{page.name}: {line}"
                rest = rest[1:]
            end = next((n for n, word in enumerate(rest) if word in ("&&", ";", "|", "--")), len(rest))
            known = {name for param in command.params for name in param.opts}
            known |= {"--help", "-h", "--version"}
            given = {word.partition("=")[0] for word in rest[:end] if re.match(r"--?[a-z]", word)}
            assert given <= known, f"{page.name}: {line}"
        if words[:1] == ["make"]:
            targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            assert [
                word for word in words[1:] if word.islower() and "=" not in word and word not in targets
            ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_python_in_a_code_block_can_be_parsed_and_its_imports_exist(page):
    for code in blocks("python", page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in generate.PACKAGES:
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.parametrize("page", ["README.md", "docs/format.md"])
def test_the_code_that_reads_a_shard_runs(page, inspected, tmp_path, monkeypatch, capsys):
    pytest.importorskip("webdataset", reason="the dev extra")
    (tmp_path / "build").mkdir()
    for name in ("build/demo", "build/shards"):
        (tmp_path / name).symlink_to(inspected if name == "build/demo" else inspected / "shards")
    monkeypatch.chdir(tmp_path)
    for code in blocks("python", ROOT / page):
        exec(code, {})
    assert capsys.readouterr().out.startswith("u")


@pytest.mark.slow
def test_the_code_about_extensions_runs(tmp_path):
    code = "\n".join(blocks("python", ROOT / "docs" / "extending.md"))
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_commands_of_the_pages_run_unless_they_are_marked(spoken_corpus, tmp_path):
    """A build, a model and a recording under the names that the pages use; `make` runs the same commands."""
    from lm.training.train import TrainSettings, train

    build = tmp_path / "build" / "mine"
    run_build(build, replace(build_settings(spoken_corpus), "units", encoder="compact"))
    for name in ("demo", "new", "old"):
        (build.parent / name).symlink_to(build)
    train(TrainSettings(str(build), str(build / "model"), preset="pico", tokens=4096, evaluate_tokens=500))
    soundfile.write(tmp_path / "me.wav", np.sin(np.arange(48_000) / 20) * 0.1, 16_000)
    wordweave = tmp_path / "bin" / "wordweave"
    wordweave.parent.mkdir()
    wordweave.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "wordweave.py"} "$@"\n')
    wordweave.chmod(0o755)
    environment = {**os.environ, "PATH": f"{wordweave.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ran = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for mark, block in re.findall(r"(<!-- [^\n]* -->\n)?```bash\n(.*?)```", text, re.DOTALL):
            if mark:
                assert re.fullmatch(r"<!-- not run in the tests: needs [^.]+ -->\n", mark), page.name
                continue
            for line in block.splitlines():
                if not line.startswith("make "):
                    result = subprocess.run(
                        line,
                        shell=True,
                        cwd=tmp_path,
                        env=environment,
                        capture_output=True,
                        text=True,
                        check=False,
                    )
                    assert result.returncode == 0, f"{page.name}: {line}: {result.stderr}"
                    ran.append(line)
    assert len(ran) >= 7


@pytest.mark.slow
def test_the_notebook_runs(inspected, monkeypatch):
    nbformat, nbclient = (
        pytest.importorskip(name, reason="the extra dev") for name in ("nbformat", "nbclient")
    )
    monkeypatch.setenv("WORDWEAVE_BUILD", str(inspected))
    monkeypatch.setenv("WORDWEAVE_MINUTES", "0.05")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs" / "first_look.ipynb", 4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    nbclient.NotebookClient(notebook, timeout=120).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "interleaved" in printed
    assert "speech | " in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert "text/html" in next(o.data for o in outputs if "Audio" in str(o.get("data", "")))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the extra docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", tmp_path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "afk-mc2" in (tmp_path / "reference" / "settings.html").read_text()
