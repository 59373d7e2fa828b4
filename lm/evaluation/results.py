"""Our numbers next to the paper's for the same task; every line states where the data differ."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PAPER = Path(__file__).parents[1] / "data" / "paper.json"
PAPER_MODELS = ("Base", "Expressive")
"""The paper's models that are shown."""

ANALOGUES = {
    "words": "swuggy",
    "sentences": "sblimp",
    "stories": "tstorycloze",
    "sentiment-text": "stsp",
    "sentiment-voice": "stsp",
}
"""Synthetic test set -> the task it imitates."""
SETS = {"asr": "librispeech", "tts": "librispeech", "intent": "fluent"}
SENTIMENT = ("expresso", "emov", "sentiment")


class Comparison(NamedTuple):
    """One of our own numbers and the paper's."""

    testset: str
    direction: str
    measure: str
    ours: float | None
    low: float | None
    high: float | None
    paper: dict[str, float | None]  # by model
    note: str

    def to_text(self) -> str:
        """A line of the table."""
        own = "not run" if self.ours is None else f"{self.ours:6.1f} [{self.low:5.1f}, {self.high:5.1f}]"
        paper = "  ".join("     –" if value is None else f"{value:6.1f}" for value in self.paper.values())
        return f"{self.testset:<16} {self.direction:<4} {self.measure:<33} {own:<22} {paper}  {self.note}".rstrip()


def heading() -> str:
    """The heading of the table."""
    paper = "  ".join(f"{name[:6]:>6}" for name in PAPER_MODELS)
    return f"{'test set':<16} {'':<4} {'measure':<33} {'ours [95 %]':<22} {paper}  data"


def read_paper(path: Path = PAPER) -> list[dict[str, Any]]:
    """The paper's numbers, one row each."""
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"])


def compare(
    rows: Iterable[Mapping[str, Any]], paper: Sequence[Mapping[str, Any]] | None = None
) -> list[Comparison]:
    """Lines of a table for the rows of an evaluation, in their order."""
    known = read_paper() if paper is None else paper
    return [line for row in rows for line in _compare_row(row, known)]


def _compare_row(row: Mapping[str, Any], paper: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    name, direction = row["testset"], row.get("direction", "")
    task, setting = paper_task(row)
    note = compare_note(row, task)
    if "not_run" in row:
        return [_compare(name, task, direction, row["measure"], setting, None, paper, str(row["not_run"]))]
    if "accuracy" not in row:
        own = [row["value"], row["low"], row["high"]]
        return [_compare(name, task, direction, row["measure"], setting, own, paper, note)]
    numbers = {kind: row["accuracy"][f"ending.{kind}.free"] for kind in ("sum", "mean")}
    if task == "mmlu":
        return [_compare(name, task, direction, "accuracy", setting, numbers["sum"], paper, note)]
    lines = [
        _compare(name, task, direction, kind, setting, own, paper, note) for kind, own in numbers.items()
    ]
    if "paired_accuracy" in row:
        own = row["paired_accuracy"]
        lines.append(_compare(name, "", direction, "paired accuracy", "", own, paper, "not in the paper"))
    return lines


def _compare(
    name: str,
    task: str,
    direction: str,
    measure: str,
    setting: str,
    own: Sequence[float] | None,
    paper: Sequence[Mapping[str, Any]],
    note: str,
) -> Comparison:
    def number_of(model: str) -> float | None:
        for row in paper:
            same = (row["model"], row["task"], row["direction"], row["measure"])
            if same == (model, task, direction, measure) and row["setting"].startswith(setting):
                return float(row["value"])
        return None

    numbers = {model: number_of(model) for model in PAPER_MODELS}
    if not any(numbers.values()) and task and own is not None:
        note = "not in the paper" if note == "same set" else f"not in the paper; {note}"
    value, low, high = own if own is not None else (None, None, None)
    return Comparison(name, direction, measure, value, low, high, numbers, note)


def paper_task(row: Mapping[str, Any]) -> tuple[str, str]:
    """The paper's task and setting that a row is compared with."""
    name = row["testset"]
    task = row.get("task", "")
    if task == "generation":
        return task, ""
    if task == "resynthesis":
        return "resynthesis", "mean over"
    if task == "stsp":
        return "stsp", f"{row['settings']['shots']}-shot"
    if task in ("asr", "tts"):
        return task, "test-other" if "other" in str(row["version"]) else "test-clean"
    if task == "intent":
        return task, "30-shot"
    return ANALOGUES.get(name, name), "5-shot" if name == "mmlu" else ""


def compare_note(row: Mapping[str, Any], task: str) -> str:
    """What limits the comparison."""
    name, version = row["testset"], str(row.get("version", ""))
    notes = []
    if task == "generation":
        return f"other prompts: {name}"
    if task == "resynthesis":
        return f"other data: {name}; the paper's went through a vocoder"
    if name in ANALOGUES:
        notes.append(f"other data: synthetic analogue of {task}")
    elif task == "stsp":
        notes.append("other selection than the paper's" if name in SENTIMENT else f"other data: {name}")
    elif task in SETS:
        shots = f"{row['settings']['shots']} examples of our own choice"
        notes.append(f"same set, {shots}" if name == SETS[task] else f"other data: {name}, {shots}")
    elif task == name and task in ("swuggy", "sblimp"):
        notes.append("same set" if version.split()[-1] == "dev" else f"split {version}")
    elif task == name:
        notes.append("same set")
    if "partial" in version:
        notes.append("INCOMPLETE SET")
    return "; ".join(notes)
