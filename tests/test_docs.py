"""The documentation: what is generated is whole, links lead somewhere, and the site builds without a warning."""

import dataclasses
import re
import subprocess
import sys

import click
import pytest

from corpus.records import REASONS
from docs import generate
from pipelines.settings import Settings
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


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the extra docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", tmp_path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "afk-mc2" in (tmp_path / "reference" / "settings.html").read_text()
