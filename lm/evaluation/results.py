"""Our numbers beside the paper's, for the same task; where the data are other data, that is said in every line."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PAPER = Path(__file__).parents[1] / "data" / "paper.json"
BESIDE = ("Base", "Expressive")
"""The paper's models that stand beside ours."""

ANALOGUES = {
    "words": "swuggy",
    "sentences": "sblimp",
    "stories": "tstorycloze",
    "sentiment-said": "stsp",
    "sentiment-heard": "stsp",
}
"""Synthetic pack -> the task it imitates."""
SETS = {"asr": "librispeech", "tts": "librispeech", "intent": "fluent"}
SENTIMENT = ("expresso", "emov", "sentiment")


class Line(NamedTuple):
    """One number of ours beside the paper's."""

    task: str
    direction: str
    measure: str
    ours: float | None
    low: float | None
    high: float | None
    paper: dict[str, float | None]  # by model
    note: str

    def said(self) -> str:
        """The line as the table prints it."""
        own = "not run" if self.ours is None else f"{self.ours:6.1f} [{self.low:5.1f}, {self.high:5.1f}]"
        beside = "  ".join("     –" if value is None else f"{value:6.1f}" for value in self.paper.values())
        return (
            f"{self.task:<16} {self.direction:<4} {self.measure:<33} {own:<22} {beside}  {self.note}".rstrip()
        )


def heading() -> str:
    """What stands over the lines."""
    beside = "  ".join(f"{name[:6]:>6}" for name in BESIDE)
    return f"{'pack':<16} {'':<4} {'measure':<33} {'ours [95 %]':<22} {beside}  beside what"


def read_paper(path: Path = PAPER) -> list[dict[str, Any]]:
    """The paper's numbers, one row each."""
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"])


def compare(
    rows: Iterable[Mapping[str, Any]], paper: Sequence[Mapping[str, Any]] | None = None
) -> list[Line]:
    """Lines of a table for the rows of an evaluation, in their order."""
    known = read_paper() if paper is None else paper
    return [line for row in rows for line in _lines(row, known)]


def _lines(row: Mapping[str, Any], paper: Sequence[Mapping[str, Any]]) -> list[Line]:
    name, direction = row["pack"], row.get("direction", "")
    task, setting = _task(row)
    note = _note(row, task)
    if "not_run" in row:
        return [_line(name, task, direction, row["measure"], setting, None, paper, str(row["not_run"]))]
    if "accuracy" not in row:
        found = [row["value"], row["low"], row["high"]]
        return [_line(name, task, direction, row["measure"], setting, found, paper, note)]
    numbers = {kind: row["accuracy"][f"ending.{kind}.free"] for kind in ("sum", "mean")}
    if task == "mmlu":
        return [_line(name, task, direction, "accuracy", setting, numbers["sum"], paper, note)]
    lines = [
        _line(name, task, direction, kind, setting, found, paper, note) for kind, found in numbers.items()
    ]
    if "contrast" in row:
        lines.append(
            _line(name, "", direction, "contrast", "", row["contrast"], paper, "no such number there")
        )
    return lines


def _line(
    name: str,
    task: str,
    direction: str,
    measure: str,
    setting: str,
    found: Sequence[float] | None,
    paper: Sequence[Mapping[str, Any]],
    note: str,
) -> Line:
    own = tuple(found) if found is not None else (None, None, None)

    def theirs(model: str) -> float | None:
        for row in paper:
            same = (row["model"], row["task"], row["direction"], row["measure"])
            if same == (model, task, direction, measure) and row["setting"].startswith(setting):
                return float(row["value"])
        return None

    beside = {model: theirs(model) for model in BESIDE}
    if not any(beside.values()) and task and found is not None:
        note = f"no such number there; {note}"
    return Line(name, direction, measure, own[0], own[1], own[2], beside, note)


def _task(row: Mapping[str, Any]) -> tuple[str, str]:
    """The paper's task and setting that a row stands beside."""
    name = row["pack"]
    task = row.get("task", "")
    if task == "resynthesis":
        return "resynthesis", "mean over"
    if task == "stsp":
        return "stsp", f"{row['settings']['shots']}-shot"
    if task in ("asr", "tts"):
        return task, "test-other" if "other" in str(row["version"]) else "test-clean"
    if task == "intent":
        return task, "30-shot"
    return ANALOGUES.get(name, name), "5-shot" if name == "mmlu" else ""


def _note(row: Mapping[str, Any], task: str) -> str:
    """What a reader has to know before comparing."""
    name, version = row["pack"], str(row.get("version", ""))
    notes = []
    if task == "resynthesis":
        return f"other data: {name}; the paper's went through a vocoder"
    if name in ANALOGUES:
        notes.append(f"other data: synthetic, beside {task}")
    elif task == "stsp":
        notes.append("other selection than the paper's" if name in SENTIMENT else f"other data: {name}")
    elif task in SETS:
        shots = f"{row['settings']['shots']} examples of ours"
        notes.append(f"same set, {shots}" if name == SETS[task] else f"other data: {name}, {shots}")
    elif task == name and task in ("swuggy", "sblimp"):
        notes.append("same set" if version.split()[-1] == "dev" else f"part {version}")
    elif task == name:
        notes.append("same set")
    if "partial" in version:
        notes.append("PART OF THE SET")
    return "; ".join(notes)
