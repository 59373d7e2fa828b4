"""The paper's main claim at small scale: models of several mixtures with equal token budgets, on the same test sets.

`Row` is one mixture, trained once for each of its seeds under one frozen training config; `train_and_score` computes
its numbers, `tabulate` the table, `plot_study` the plot. The caller makes the training and test data.

Intervals are of two kinds and both are shown: of each run over test items (Wilson), and over the seeds of a row
(Student's t on their means), which a claim about the recipe has to rest on.
"""

import hashlib
import json
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lm.evaluation.evaluate import write_results
from lm.evaluation.scaling import curve_lines
from lm.evaluation.tasks import TASKS
from lm.evaluation.tasks.base import TaskOptions
from lm.evaluation.tasks.sentiment_preservation import SHORT
from lm.evaluation.testset import TestSet
from lm.generate import load
from lm.training.train import TrainSettings, train
from shards.samples import read_index

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Number of seeds -> quantile of Student's t for a two-sided 95 % interval."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what is trained on, and how often."""

    name: str
    mixture: Mapping[str, float]
    strategy: str | None = None
    seeds: int = 1
    build: str = "topics"  # which corpus
    testsets: tuple[str, ...] = ("stories",)
    tokens: int | None = None  # a budget of its own
    train: Mapping[str, Any] = field(default_factory=dict)  # other training settings of its own
    start_from: str = ""  # a row whose last model this one continues from, seed by seed
    task_markers: bool = (
        False  # cross-modal prompts with [ASR] and [TTS]: such a model has seen no other switch
    )

    def __post_init__(self) -> None:
        if self.seeds < 1 or not self.testsets:
            raise ValueError(
                f"row {self.name!r}: need seeds >= 1 and a test set, got {self.seeds} and {self.testsets}"
            )


@dataclass(frozen=True)
class Job:
    """One run of one row: all a worker process needs."""

    row: Row
    seed: int
    build: str
    output: str
    train: Mapping[str, Any]
    testsets: tuple[TestSet, ...] = field(repr=False)
    speech_tokens: Mapping[str, Mapping[str, str]] = field(repr=False)  # test set -> recording -> unit names
    start_from: str = ""  # the output of the run to continue from

    @property
    def key(self) -> str:
        """What decides the numbers: settings, shards, test sets and their units."""
        settings = [asdict(self.row), self.seed, dict(self.train), read_index(self.build)["streams"]]
        settings += (
            [json.loads((Path(self.start_from) / SCORES).read_text())["key"]] if self.start_from else []
        )
        settings += [
            [testset.hash for testset in self.testsets],
            {name: dict(self.speech_tokens[name]) for name in sorted(self.speech_tokens)},
        ]
        return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


SCORES = "scores.json"


def last_model(output: Path) -> Path:
    """The last checkpoint of a run."""
    return max(output.glob("step-[0-9]*"), key=lambda path: int(path.name[5:]))


def train_and_score(job: Job) -> dict[str, Any]:
    """Train one run and score its last model; a finished run is read back if nothing changed."""
    output = Path(job.output)
    path = output / SCORES
    if path.is_file():
        finished = json.loads(path.read_text())
        if finished.get("key") == job.key:
            return finished
    changes = dict(job.row.train) | ({"tokens": job.row.tokens} if job.row.tokens else {})
    if job.start_from:
        changes["start_from"] = str(last_model(Path(job.start_from)))
    settings = TrainSettings(
        build=job.build, output=job.output, mixture=job.row.mixture, strategy=job.row.strategy, seed=job.seed,
        **{"patience": 0, "keep": 1, "save_every": 10**9, "threads": 1, **job.train, **changes},
    )  # fmt: skip
    summary = train(settings)
    model, vocabulary = load(last_model(output))
    options = TaskOptions(new_tokens=SHORT, task_markers=job.row.task_markers)
    rows = []
    for testset in job.testsets:
        for direction in testset.directions:
            speech_tokens = job.speech_tokens[testset.name]
            row = TASKS[testset.task].run(model, vocabulary, testset, direction, speech_tokens, options)
            rows.append({"testset": testset.name, "direction": direction, **row})
    scores = {
        "key": job.key,
        "row": job.row.name,
        "start_from": job.row.start_from,
        "seed": job.seed,
        "tokens": tokens_seen(output),
        "held_out": {name: values["loss"] for name, values in summary["final"]["streams"].items()},
        "minutes": summary["minutes"],
        "parameters": summary["parameters"],
        "rows": rows,
    }
    write_results(path, scores)
    return scores


def tokens_seen(output: Path) -> dict[str, int]:
    """Predicted tokens of each stream over a whole run, from its log."""
    seen: dict[str, float] = defaultdict(float)
    before = 0
    for text in (output / "log.jsonl").read_text().splitlines():
        line = json.loads(text)
        if "mixture" in line:
            for name, share in line["mixture"].items():
                seen[name] += share * (line["tokens"] - before)
            before = line["tokens"]
    return {name: round(count) for name, count in seen.items()}


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; of a single value the interval is undefined.

    >>> [round(number, 1) for number in over_seeds([90.0, 95.0, 100.0])]
    [95.0, 82.6, 100.0]
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = STUDENT[min(len(values), max(STUDENT))] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, max(0.0, mean - half), min(100.0, mean + half)


MEASURES = ("sum", "mean", "paired", "kept")


def measures_of(row: Mapping[str, Any]) -> dict[str, list[float]]:
    """Each measure that a row of results has, with its interval over items.

    >>> measures_of({"value": 71.0, "low": 61.5, "high": 79.1})
    {'kept': [71.0, 61.5, 79.1]}
    """
    accuracy = row.get("accuracy", {})
    numbers = {
        "sum": accuracy.get("ending.sum.free"),
        "mean": accuracy.get("ending.mean.free"),
        "paired": row.get("paired_accuracy"),
        "kept": [row["value"], row["low"], row["high"]] if "value" in row else None,
    }
    return {name: list(value) for name, value in numbers.items() if value is not None}


def by_row(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Row -> "test set direction" -> measure -> its mean and interval over seeds, and the runs' own with theirs."""
    table: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in runs:
        for row in run["rows"]:
            for name, value in measures_of(row).items():
                table[run["row"]][f"{row['testset']} {row['direction']}"][name].append(value)
    return {
        name: {
            cell: {
                measure: {
                    "mean": over_seeds([one[0] for one in runs])[0],
                    "over_seeds": list(over_seeds([one[0] for one in runs])[1:]),
                    "over_items": [
                        float(np.mean([one[1] for one in runs])), float(np.mean([one[2] for one in runs]))
                    ],
                    "runs": runs,
                }
                for measure, runs in measures.items()
            }
            for cell, measures in cells.items()
        }
        for name, cells in table.items()
    }  # fmt: skip


def verdict(table: Mapping[str, Any], *, full: str = "full", without: str = "no interleaving") -> list[str]:
    """The goals of the study, each met or missed, for every row and kind of voice: see `docs/study.md`.

    A row belongs to `full` or `without` if its name begins so.
    """
    lines = []
    cells = [cell for row in table.values() for cell in row if cell.startswith("stories") and "->" in cell]
    for cell in dict.fromkeys(cells):
        for name, row in table.items():
            if cell not in row or not name.startswith((full, without)):
                continue
            one = row[cell]["paired"]
            number = f"{name}, {cell}: paired accuracy {one['mean']:.1f}"
            known = [bounds for bounds in (one["over_items"], one["over_seeds"]) if not math.isnan(bounds[0])]
            low, high = min(bounds[0] for bounds in known), max(bounds[1] for bounds in known)
            if name.startswith(full):
                met = one["mean"] > 80 and low > 60
                lines.append(
                    f"{number}, lower bound {low:.1f} (goal above 80, lower bound above 60): {_met(met)}"
                )
            else:
                lines.append(
                    f"{number} [{low:.1f}, {high:.1f}] (goal contains 50): {_met(low <= 50 <= high)}"
                )
    return lines


def _met(goal: bool) -> str:
    return "met" if goal else "MISSED"


def tabulate(table: Mapping[str, Any]) -> str:
    """A Markdown table: sum, mean and paired accuracy of each row and cell, means over seeds with their range."""
    cells = list(next(iter(table.values())))
    seeds = {
        name: max(len(measure["runs"]) for cell in row.values() for measure in cell.values())
        for name, row in table.items()
    }
    lines = ["| model | seeds | " + " | ".join(cells) + " |", "|---" * (len(cells) + 2) + "|"]
    for name, row in table.items():
        shown = [
            " / ".join(_format(measure, row[cell]) for measure in MEASURES if measure in row[cell])
            for cell in cells
        ]
        lines.append(f"| {name} | {seeds[name]} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _format(measure: str, cell: Mapping[str, Any]) -> str:
    number = cell[measure]
    if measure in ("sum", "mean"):
        return f"{number['mean']:.0f}"
    low, high = number["over_items"]
    if len(number["runs"]) > 1:
        values = [run[0] for run in number["runs"]]
        return (
            f"**{number['mean']:.1f}** [{low:.0f}, {high:.0f}] seeds {min(values):.0f} to {max(values):.0f}"
        )
    return f"**{number['mean']:.1f}** [{low:.0f}, {high:.0f}]"


def groups(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows grouped by their cells: each group is a table, in order.

    >>> [list(group) for group in groups({"full": {"a": 1}, "moods": {"b": 1}, "text": {"a": 2}})]
    [['full', 'text'], ['moods']]
    """
    by_cells: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
    for name, row in table.items():
        by_cells[tuple(row)][name] = row
    return list(by_cells.values())


def plotted_cells(group: Mapping[str, Any]) -> list[str]:
    """The cells of a group that carry the claim: paired accuracy across modalities, or of moods in the voice."""
    row = next(iter(group.values()))
    return [cell for cell, one in row.items() if "paired" in one and ("->" in cell or "-voice" in cell)]


def plot_study(table: Mapping[str, Any], path: Path, title: str) -> None:
    """Bars of the paired accuracy, a panel per group, with mean intervals over items and a dot for every seed."""
    from matplotlib.figure import Figure

    shown = [(group, cells) for group in groups(table) if (cells := plotted_cells(group))]
    if not shown:
        return
    figure = Figure(figsize=(1.6 * max(len(group) for group, _ in shown) + 2, 4 * len(shown)))
    panels = figure.subplots(len(shown), squeeze=False)
    for axes, (group, cells) in zip(panels[:, 0], shown, strict=True):
        width = 0.8 / len(cells)
        for number, cell in enumerate(cells):
            for position, row in enumerate(group.values()):
                one = row[cell]["paired"]
                x = position + (number - (len(cells) - 1) / 2) * width
                low, high = one["over_items"]
                error = [[max(0.0, one["mean"] - low)], [max(0.0, high - one["mean"])]]
                axes.bar(
                    x, one["mean"], width * 0.9, yerr=error, color=f"C{number}", capsize=3,
                    label="" if position else cell,
                )  # fmt: skip
                axes.plot(
                    [x] * len(one["runs"]), [run[0] for run in one["runs"]], ".", color="black", markersize=5
                )
        axes.axhline(50, color="grey", linestyle="--", linewidth=1)
        axes.set(
            xticks=range(len(group)), ylim=(0, 122), yticks=range(0, 101, 20), ylabel="paired accuracy, %"
        )
        axes.set_xlim(-0.6, max(len(group), 2) - 0.4)
        axes.set_xticklabels([textwrap.fill(name, 14) for name in group])
        axes.legend(loc="upper right", ncols=len(cells), fontsize=8)
    panels[0, 0].set_title(title)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def text_kept(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, float, float]]:
    """Rows that continue from another: name, seed, and the perplexity per token of held-out text before and after."""
    losses = {(run["row"], run["seed"]): run["held_out"].get("text") for run in runs}
    kept = []
    for run in runs:
        before, after = losses.get((run.get("start_from"), run["seed"])), run["held_out"].get("text")
        if before is not None and after is not None:
            kept.append((run["row"], run["seed"], math.exp(before), math.exp(after)))
    return kept


def to_markdown(results: Mapping[str, Any]) -> str:
    """The study as a Markdown page: a table per group, the goals, and the runs and builds behind them."""
    lines = [
        "# The paper's main claim at small scale",
        "",
        "Generated by `make study`. Cells: accuracy of the ending by sum / by mean per token / **paired accuracy** of "
        "twin items, with its 95 % interval over test items and, for several seeds, their range; of sentiments: "
        "**share of continuations that keep it** (STSP). "
        "Synthetic stories and synthetic speech: this shows a mechanism, it does not reproduce the paper's numbers.",
        "",
        "![paired accuracy of twin items, by model](study.png)",
        "",
        "\n\n".join(tabulate(group) for group in groups(results["table"])),
        "",
        *(f"- {line}" for line in results["verdict"]),
        "",
        "| model | seed | tokens by stream | held-out loss, nats | training, minutes |",
        "|---|---|---|---|---|",
    ]
    for run in results["runs"]:
        seen = ", ".join(f"{name} {count}" for name, count in run["tokens"].items())
        loss = ", ".join(f"{name} {value:.2f}" for name, value in run["held_out"].items())
        lines.append(f"| {run['row']} | {run['seed']} | {seen} | {loss} | {run['minutes']:.1f} |")
    if kept := text_kept(results["runs"]):
        lines += [
            "",
            "| continued from a text model | seed | text perplexity before | after | ratio |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row} | {seed} | {before:.2f} | {after:.2f} | {after / before:.3f} |"
            for row, seed, before, after in kept
        ]
    for number, curve in enumerate(results.get("curves", ())):
        lines += [
            "",
            *([] if number else ["![loss and paired accuracy with fitted curves](scaling.png)", ""]),
        ]
        lines += curve_lines(curve)
    test = results["test"]
    lines += [
        "",
        f"{test['stories']} test stories, of which {test['of them trained on']} are in the training data.",
    ]
    for name, facts in results["builds"].items():
        numbers = ", ".join(
            f"{key} {value:.3g}" for key, value in facts.items() if isinstance(value, int | float)
        )
        lines.append(f"Build {name}: {numbers}.")
    duration = f"{results['minutes']:.1f} minutes, {results['cpu_minutes']:.1f} CPU minutes"
    lines.append(f"{duration}, not counting the pipeline's workers.")
    return "\n".join(lines) + "\n"
