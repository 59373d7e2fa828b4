"""The scoreboard: our own numbers beside published ones, with the source of each and whether the data are the same.

Published numbers are in lm/data/scoreboard.json and, of Spirit LM, in lm/data/paper.json. Ours come from the files that
`wordweave evaluate`, `compare --output`, `generation` and lm-evaluation-harness write; without any, those in
scoreboard.json are shown. Two numbers are compared where task, setting and measure are the same.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.evaluation.evaluate import FORMAT
from lm.evaluation.results import compare_note, paper_task, read_paper

SCOREBOARD = Path(__file__).parents[1] / "data" / "scoreboard.json"
UNITS = {
    "abx_within": "ABX, features, within",
    "abx_across": "ABX, features, across",
    "abx_units_within": "ABX, units, within",
    "abx_units_across": "ABX, units, across",
    "pnmi": "PNMI",
    "phone_error": "phone error",
    "phone_error_one_to_one": "phone error, one-to-one",
    "boundary_precision": "boundary precision",
    "boundary_recall": "boundary recall",
    "boundary_f1": "boundary F1",
    "boundary_r_value": "R-value",
    "bitrate": "bits per second",
}
"""Column of `wordweave compare` -> measure. All but the bitrate are shares there, per cent here."""
LOWER = (
    "ABX",
    "phone error",
    "bits",
    "GenPPL",
    "auto-BLEU",
    "VERT",
    "WER",
    "CER",
    "perplexity",
    "F0 frame error",
)
HARNESS = {"mmlu": "mmlu"}
"""Task of lm-evaluation-harness -> the paper's, where it is the same."""
SHOWN = {
    "Base": "Spirit LM Base 7B", "Expressive": "Spirit LM Expressive 7B",
    **{name: name for name in ("GSLM", "AudioLM", "TWIST-13B", "VoxtLM")},
}  # fmt: skip
"""Models of the paper's tables that are shown."""


@dataclass(frozen=True)
class Score:
    """One number, per cent unless its measure says otherwise."""

    task: str
    setting: str  # direction, or shots
    measure: str
    value: float
    system: str
    data: str
    source: str
    low: float | None = None
    high: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What is compared with what."""
        return self.task, self.setting, self.measure


def published_scores() -> list[Score]:
    """All published numbers."""
    scores = [Score(**row) for row in _table()["published"]]
    for row in read_paper():
        if row["model"] not in SHOWN:
            continue
        source = f"Spirit LM, arXiv:2402.05755v2, table {row['table']}"
        system = SHOWN[row["model"]] + (f", {row['setting']}" if row["setting"] else "")
        data = _data(row["task"], row["setting"])
        key = row["task"], row["direction"], row["measure"]
        scores.append(Score(*key, float(row["value"]), system, data, source))
    return scores


def _data(task: str, setting: str) -> str:
    """A task's data, with the part of LibriSpeech where the setting names one.

    >>> _data("asr", "test-clean, 10-shot"), _data("tstorycloze", "")
    ('asr, test-clean', 'tstorycloze')
    """
    return f"{task}, {setting.partition(',')[0]}" if setting.startswith("test-") else task


def own_scores() -> list[Score]:
    """Our own numbers that the package states."""
    return [Score(**row) for row in _table()["ours"]]


def _table() -> dict[str, Any]:
    return dict(json.loads(SCOREBOARD.read_text(encoding="utf-8")))


def read_scores(path: Path) -> list[Score]:
    """The numbers of a file of results.

    Raises:
        ValueError: not JSON, or results of no kind that is known; names the file.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: need JSON of results, got: {error}") from error
    readers = {"format": _of_evaluation, "encoders": _of_units, "results": _of_harness}
    for mark, reader in readers.items():
        if isinstance(results, dict) and mark in results:
            try:
                scores = reader(results, path.name)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: results are damaged: {type(error).__name__} {error}") from error
            if not scores:
                raise ValueError(f"{path}: need results with a number, got none")
            return scores
    raise ValueError(
        f"{path}: need results of wordweave evaluate, compare --output, generation or lm-evaluation-harness, got others"
    )


def _of_evaluation(results: Mapping[str, Any], name: str) -> list[Score]:
    if results["format"] != FORMAT:
        raise ValueError(f"need format {FORMAT!r}, got {results['format']!r}")
    scores = []
    for row in results["rows"]:
        if "not_run" in row:
            continue
        task, setting = paper_task(row)
        note = compare_note(row, task)
        data = _data(task, setting) if note.startswith("same set") else note
        numbers = {
            kind: row["accuracy"][f"ending.{kind}.free"] for kind in ("sum", "mean") if "accuracy" in row
        }
        if "paired_accuracy" in row:
            numbers["paired accuracy"] = row["paired_accuracy"]
        if "value" in row:
            numbers[row["measure"]] = [row["value"], row["low"], row["high"]]
        for group, kinds in row.get("groups", {}).items():
            if task == "salmon":
                numbers[group] = kinds["ending.sum.free"]
        for measure, (value, low, high) in numbers.items():
            if task == "mmlu":
                measure = "accuracy"
            scores.append(
                Score(
                    task,
                    row["direction"],
                    measure,
                    value,
                    results["model"]["directory"],
                    data,
                    name,
                    low,
                    high,
                )
            )
    return scores


def _of_units(results: Mapping[str, Any], name: str) -> list[Score]:
    scores = []
    for row in results["rows"]:
        system = f"{row['encoder']}, {row['codebook']} units"
        values = {
            measure: row[key] if key == "bitrate" else 100 * row[key]
            for key, measure in UNITS.items()
            if key in row
        }
        if "abx_within" in row and "abx_across" in row:
            values["ABX, features, mean of within and across"] = 50 * (row["abx_within"] + row["abx_across"])
        scores += [
            Score("units", "", measure, value, system, results["data"], name)
            for measure, value in values.items()
        ]
    return scores


def _of_harness(results: Mapping[str, Any], name: str) -> list[Score]:
    """Numbers of lm-evaluation-harness: "acc,none" and its like, with their standard errors."""
    scores = []
    model = results.get("model_name") or results.get("config", {}).get("model_args", "model")
    for task, row in results["results"].items():
        shots = results.get("n-shot", {}).get(task)
        for key, value in row.items():
            measure, comma, _ = key.partition(",")
            if not comma or measure.endswith("_stderr") or not isinstance(value, int | float):
                continue
            share = measure in ("acc", "acc_norm", "exact_match", "f1")
            error = row.get(key.replace(",", "_stderr,", 1))
            spread = 1.96 * error if isinstance(error, int | float) else None
            value, spread = (100 * value, spread and 100 * spread) if share else (value, spread)
            low, high = (None, None) if spread is None else (value - spread, value + spread)
            if share and low is not None and high is not None:
                low, high = max(0.0, low), min(100.0, high)
            same = HARNESS.get(task)
            scores.append(
                Score(
                    same or task, "T" if same else f"{shots}-shot" if shots is not None else "",
                    "accuracy" if same and measure == "acc" else measure, value, str(model), same or task,
                    f"{name} (lm-evaluation-harness)", low, high,
                )
            )  # fmt: skip
    return scores


def scoreboard(ours: Sequence[Score], published: Sequence[Score] | None = None) -> str:
    """A Markdown table for each task: ours, then what others published for the same measure.

    >>> own = Score("units", "", "PNMI", 67.0, "compact", "dev", "x.json")
    >>> print(scoreboard([own], [Score("units", "", "PNMI", 48.3, "HuBERT", "discophon", "leaderboard")]))
    ## units
    <BLANKLINE>
    | measure | system | value | data | source |
    |---|---|---|---|---|
    | PNMI | **compact** | **67.0** | dev | x.json |
    | | HuBERT | 48.3 | other data: discophon | leaderboard |
    """
    known = published_scores() if published is None else published
    lines: list[str] = []
    for task in dict.fromkeys(score.task for score in ours):
        lines += [*([""] if lines else []), f"## {task}", ""]
        lines += ["| measure | system | value | data | source |", "|---|---|---|---|---|"]
        keys = dict.fromkeys(score.key for score in ours if score.task == task)
        for key in keys:
            own = [score for score in ours if score.key == key]
            name = " ".join(filter(None, (key[1], key[2]))) + (
                " (lower is better)" if key[2].startswith(LOWER) else ""
            )
            for number, score in enumerate(own):
                first = "" if number else name
                value = f"**{_number(score)}**"
                lines.append(f"| {first} | **{score.system}** | {value} | {score.data} | {score.source} |")
            for score in (one for one in known if one.key == key):
                same = all(score.data == one.data for one in own)
                data = f"{'same data' if same else 'other data'}: {score.data}"
                lines.append(f"| | {score.system} | {_number(score)} | {data} | {score.source} |")
    return "\n".join(line.replace("|  |", "| |", 1) for line in lines)


def _number(score: Score) -> str:
    interval = "" if score.low is None or score.high is None else f" [{score.low:.1f}, {score.high:.1f}]"
    return f"{score.value:.1f}{interval}"


def all_scores(paths: Iterable[Path]) -> list[Score]:
    """Of every file; without one, our own that the package states."""
    paths = list(paths)
    return [score for path in paths for score in read_scores(path)] if paths else own_scores()
