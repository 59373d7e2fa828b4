"""Pages of the documentation that are written from the code: settings, reasons for rejects, commands and the API.

`docs/conf.py` writes them into docs/reference/ each time the site is built; they are not in the repository.
"""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
import tomllib
from pathlib import Path

import click

from docs.worked_row import worked_row_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = Path(__file__).resolve().parent / "reference"
NOTEBOOK = Path(__file__).resolve().parent / "first_look.ipynb"
PACKAGES = ("corpus", "aligners", "units", "shards", "pipelines", "lm")


def write_pages() -> None:
    """Write every page, and the table of contents over them."""
    pages = {
        "steps": steps_page(),
        "worked-row": worked_row_page(),
        "first-look": notebook_page(),
        "settings": settings_page(),
        "reasons": reasons_page(),
        "commands": commands_page(),
        **api_pages(),
    }
    PAGES.mkdir(exist_ok=True)
    for page in PAGES.glob("*.md"):
        if page.stem not in pages:
            page.unlink()
    for name, text in pages.items():
        path = PAGES / f"{name}.md"
        if (
            not path.exists() or path.read_text(encoding="utf-8") != text
        ):  # unchanged pages are not built again
            path.write_text(text, encoding="utf-8")


def notebook_page() -> str:
    """The notebook as a page."""
    lines = []
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        lines += [source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```", ""]
    return "\n".join([*lines, "As a notebook: `docs/first_look.ipynb` of the repository.", ""])


def comments(record: type) -> dict[str, str]:
    """Field of a dataclass -> the comment beside it in the source."""
    source = textwrap.dedent(inspect.getsource(record))
    lines = source.splitlines()
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    notes = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            after = [line.partition("  # ")[2] for line in lines[node.lineno - 1 : node.end_lineno]]
            notes[node.target.id] = " ".join(filter(None, after))
    return notes


def sample_comments() -> dict[tuple[str, str], str]:
    """(section, key) -> the comment beside it in config/corpus.toml."""
    notes, section = {}, ""
    for line in (ROOT / "config" / "corpus.toml").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.partition("]")[0].strip("[")
        elif "=" in line.partition("#")[0]:
            notes[section, line.partition("=")[0].strip()] = line.partition("#")[2].strip()
    return notes


def settings_page() -> str:
    """Every section and key of a build's settings, with its type, default and meaning."""
    lines = ["# Settings of a build", "", "One TOML file; keys that are left out have these defaults.", ""]
    for name, table in settings_tables().items():
        lines += [f"## [{name}]", "", *table]
    return "\n".join(lines)


def settings_tables() -> dict[str, list[str]]:
    """Section -> its description and the table of its keys, as lines of Markdown."""
    from pipelines.settings import Settings

    samples = sample_comments()
    tables = {}
    for section in dataclasses.fields(Settings):
        if not dataclasses.is_dataclass(section.type):
            continue
        lines = [(section.type.__doc__ or "").split("\n")[0], ""]
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        notes = comments(section.type)
        for field in dataclasses.fields(section.type):
            default = field.default_factory() if callable(field.default_factory) else field.default
            kind = (
                getattr(field.type, "__name__", str(field.type))
                if isinstance(field.type, type)
                else str(field.type)
            )
            note = samples.get((section.name, field.name)) or notes.get(field.name, "")
            lines.append(f"| `{field.name}` | {cell(kind)} | `{toml_value(default)}` | {cell(note)} |")
        tables[section.name] = [*lines, ""]
    return tables


def steps_page() -> str:
    """Every step of the build: what it reads and writes, its settings and reasons, and what it costs."""
    from corpus.records import REASONS
    from docs.steps import NOTES
    from pipelines.build import STEPS

    tables = settings_tables()
    lines = [
        "# The steps of a build",
        "",
        "In the order of the build. A step works part by part; a part is done when its done marker exists, and "
        "stale when the step's version, settings, "
        "models or inputs have changed. `wordweave plan CONFIG` estimates what each will cost on your corpus, "
        "from a few minutes of it.",
        "",
    ]
    for step in STEPS:
        note = NOTES[step.name]
        reads = "every step before it" if step.after is None else ", ".join(step.after) or "the source"
        reasons = [reason for reason in REASONS if reason.split(".")[0] in note.reasons]
        lines += [f"## {step.name}", "", f"{step.summary or note.summary}.", "", "| | |", "|---|---|"]
        lines += [f"| in | {cell(note.reads)} |", f"| out | {cell(note.writes)} |", f"| after | {reads} |"]
        lines += [f"| cost | {cell(note.cost)} |"]
        uses = [
            text
            for flag, text in ((step.decodes, "decodes every recording"), (step.uses_gpu, "can use a GPU"))
            if flag
        ]
        lines += [f"| uses | {', '.join(uses)} |"] if uses else []
        lines += [f"| adds to samples | `{step.member}` |"] if step.member else []
        lines.append("")
        for section in note.settings:
            lines += [f"### [{section}] of {step.name}", "", *tables[section]]
        if reasons:
            lines += [f"### Reasons for rejects of {step.name}", "", "| reason | meaning |", "|---|---|"]
            lines += [f"| `{reason}` | {cell(REASONS[reason])} |" for reason in reasons]
            lines.append("")
    return "\n".join(lines)


def toml_value(value: object) -> str:
    """A default as it is written in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {toml_value(item)}' for key, item in value.items())}}}"
    return str(value)


def cell(text: str) -> str:
    """Text that fits into one cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def reasons_page() -> str:
    """Every reason for which an utterance is rejected."""
    from corpus.records import REASONS

    head = [
        "# Reasons for rejects",
        "",
        "What cannot be used keeps its row in the build, with one of these reasons.",
        "",
    ]
    rows = [f"| `{reason}` | {cell(meaning)} |" for reason, meaning in REASONS.items()]
    return "\n".join([*head, "| reason | meaning |", "|---|---|", *rows, ""])


def commands_page() -> str:
    """The help of every command, as `wordweave COMMAND --help` prints it."""
    from wordweave import cli

    lines = ["# Commands", "", "As `wordweave COMMAND --help` prints them.", ""]

    def add(command: click.Command, names: tuple[str, ...]) -> None:
        context = click.Context(command, info_name=" ".join(names), max_content_width=100, terminal_width=100)
        if len(names) > 1:
            lines.extend([f"## {' '.join(names)}", "", "```text", command.get_help(context), "```", ""])
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child is not None and not child.hidden:
                    add(child, (*names, name))

    add(cli, ("wordweave",))
    return "\n".join(lines)


def api_pages() -> dict[str, str]:
    """One page per package: the public functions and classes of each module, read from the source."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    pages = {}
    for package in PACKAGES:
        head = ast.get_docstring(parsed(ROOT / package / "__init__.py"))
        lines = [f"# {package}", "", head or "", ""]
        for name in (name for name in listed if name.split(".")[0] == package):
            for path in sorted((ROOT / name.replace(".", "/")).glob("*.py")):
                if path.stem != "__init__":
                    lines += [f"## {name}.{path.stem}", "", *described(parsed(path), "")]
        pages[package] = "\n".join(lines)
    return pages


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def described(node: ast.Module | ast.ClassDef, prefix: str) -> list[str]:
    """The docstring of a module or class, then its public members with theirs."""
    lines = docstring(ast.get_docstring(node) or "")
    for member in node.body:
        if not isinstance(member, ast.FunctionDef | ast.ClassDef) or member.name.startswith("_"):
            continue
        if not ast.get_docstring(member):
            continue
        name = f"{prefix}{member.name}"
        if isinstance(member, ast.ClassDef):
            lines += [f"### class {name}", "", *described(member, f"{name}.")]
        else:
            returns = f" -> {ast.unparse(member.returns)}" if member.returns else ""
            signature = f"def {name}({ast.unparse(member.args)}){returns}"
            lines += [
                f"### {name}",
                "",
                "```python",
                signature,
                "```",
                "",
                *docstring(ast.get_docstring(member) or ""),
            ]
    return lines


def docstring(text: str) -> list[str]:
    """A docstring as Markdown: examples fenced, sections such as Raises as lists."""
    lines: list[str] = []
    section = example = False
    for line in text.splitlines():
        if line.startswith(">>>") and not example:
            lines, example = [*lines, "", "```pycon"], True
        elif example and not line.strip():
            lines, example = [*lines, "```"], False
        if re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples):", line):
            lines, section = [*lines, "", f"**{line.removesuffix(':')}**", ""], True
        elif section and line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {line.strip()}")
        else:
            section = section and (not line or line.startswith(" "))
            lines.append(line.strip() if section else line)
    return [*lines, *(["```"] if example else []), ""]
