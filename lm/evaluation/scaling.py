"""Scaling curves of the study: held-out loss and paired accuracy against tokens or model size, with fitted curves.

Loss: floor + scale * x ** -power (as in Hoffmann et al. 2022, arXiv:2203.15556, for one variable at a time). Paired
accuracy across modalities: chance, 50 %, plus 50 % of a logistic function of log x; `half` is where it has passed half
of the way. Both by least squares; where there are fewer points than parameters, there is no fit.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

AGAINST = ("tokens", "parameters")
GOALS = (80, 95)
"""Paired accuracies, per cent, whose x is stated."""
CLAIM = ("stories T->S", "stories S->T")


@dataclass(frozen=True)
class Curve:
    """[[curves]]: rows of a study in a figure."""

    name: str
    rows: tuple[str, ...]
    against: str = "tokens"

    def __post_init__(self) -> None:
        if self.against not in AGAINST:
            raise ValueError(
                f"curve {self.name!r}: against: need one of {', '.join(AGAINST)}, got {self.against!r}"
            )
        if len(self.rows) < 2:
            raise ValueError(f"curve {self.name!r}: need at least 2 rows, got {len(self.rows)}")


class UndefinedCurve(ValueError):
    """A curve that these points do not define."""


def fit_curve(curve: Curve, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Points of a curve, means over seeds, and the fits to them.

    Returns:
        JSON-able: `name`, `against`, `points` (`row`, `x`, `paired`, the mean of both directions in per cent, `loss` by
        stream), `loss_fits` by stream and `paired_fit`: the parameters and `needs`, x by goal. Without what the points
        do not define.
    """
    points: list[dict[str, Any]] = []
    for name in curve.rows:
        own = [run for run in runs if run["row"] == name]
        size = [
            sum(run["tokens"].values()) if curve.against == "tokens" else run["parameters"] for run in own
        ]
        paired = [
            row["paired_accuracy"][0]
            for run in own
            for row in run["rows"]
            if f"{row['testset']} {row['direction']}" in CLAIM
        ]
        streams = set.intersection(*(set(run["held_out"]) for run in own))
        loss = {
            stream: float(np.mean([run["held_out"][stream] for run in own])) for stream in sorted(streams)
        }
        points.append(
            {"row": name, "x": float(np.mean(size)), "paired": float(np.mean(paired)), "loss": loss}
        )
    points.sort(key=lambda point: point["x"])
    result: dict[str, Any] = {"name": curve.name, "against": curve.against, "points": points}
    x = np.array([point["x"] for point in points])
    result["loss_fits"] = {}
    for stream in points[0]["loss"]:
        if all(stream in point["loss"] for point in points):
            try:
                result["loss_fits"][stream] = fit_power(
                    x, np.array([point["loss"][stream] for point in points])
                )
            except UndefinedCurve:
                continue
    with contextlib.suppress(UndefinedCurve):
        result["paired_fit"] = fit_logistic_curve(x, np.array([point["paired"] for point in points]))
    return result


def fit_power(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """floor >= 0, scale >= 0 and power > 0 of y = floor + scale * x ** -power, by least squares; `rmse` of y.

    Raises:
        UndefinedCurve: fewer than three different x, or y does not fall.

    >>> fit = fit_power(np.array([1.0, 4.0, 16.0, 64.0]), 2 + 3 * np.array([1.0, 4.0, 16.0, 64.0]) ** -0.5)
    >>> [round(fit[name], 3) for name in ("floor", "scale", "power")]
    [2.0, 3.0, 0.5]
    """
    if len(np.unique(x)) < 3:
        raise UndefinedCurve(f"power law: need at least 3 different x, got {len(np.unique(x))}")
    relative = x / x.min()

    def solve(power: float) -> tuple[float, float, float]:
        basis = relative**-power
        scale = float(((basis - basis.mean()) * (y - y.mean())).sum() / ((basis - basis.mean()) ** 2).sum())
        floor = float(y.mean() - scale * basis.mean())
        if floor < 0:
            floor, scale = 0.0, float((basis * y).sum() / (basis**2).sum())
        return float(((floor + scale * basis - y) ** 2).sum()), floor, scale

    power = minimise(lambda power: solve(power)[0], 0.01, 4.0)
    error, floor, scale = solve(power)
    if scale <= 0:
        raise UndefinedCurve("power law: need y that falls with x")
    return {
        "floor": floor,
        "scale": scale * float(x.min()) ** power,
        "power": power,
        "rmse": math.sqrt(error / len(x)),
    }


def fit_logistic_curve(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """half > 0 and slope > 0 of y = 50 + 50 / (1 + (half / x) ** slope), by least squares; `rmse`; `needs`, x by goal.

    Raises:
        UndefinedCurve: fewer than two different x; no y above chance and below 100, so that any steep curve fits; or
            y does not rise with x.

    >>> sizes = np.array([1e4, 4e4, 2e5])
    >>> fit = fit_logistic_curve(sizes, 50 + 50 / (1 + (5e4 / sizes) ** 2))
    >>> round(fit["half"]), round(fit["slope"], 3), round(fit["needs"]["80"])
    (50000, 2.0, 61237)
    """
    if len(np.unique(x)) < 2:
        raise UndefinedCurve(f"logistic: need at least 2 different x, got {len(np.unique(x))}")
    if not ((y > 50) & (y < 100)).any():
        raise UndefinedCurve("logistic: need a paired accuracy between 50 and 100, got none")
    logs = np.log(x)

    def error(half: float, slope: float) -> float:
        return float(((50 + 50 / (1 + np.exp(np.clip(slope * (half - logs), -60, 60))) - y) ** 2).sum())

    low, high = logs.min() - math.log(10), logs.max() + math.log(10)

    def best_half(slope: float) -> float:
        return minimise(lambda half: error(half, slope), low, high)

    slope = minimise(lambda slope: error(best_half(slope), slope), 0.1, 12.0)
    half = math.exp(best_half(slope))
    if not low + 0.01 < math.log(half) < high - 0.01:
        raise UndefinedCurve("logistic: need a paired accuracy that rises with x")
    needs = {str(goal): half * ((goal - 50) / (100 - goal)) ** (1 / slope) for goal in GOALS}
    rmse = math.sqrt(error(math.log(half), slope) / len(x))
    return {"half": half, "slope": slope, "rmse": rmse, "needs": needs}


def minimise(function: Any, low: float, high: float, *, points: int = 25, rounds: int = 12) -> float:
    """Where a function of one variable is least: a grid, again around the best point, until it is fine."""
    for _ in range(rounds):
        grid = np.linspace(low, high, points)
        best = int(np.argmin([function(value) for value in grid]))
        low, high = grid[max(0, best - 1)], grid[min(points - 1, best + 1)]
    return float((low + high) / 2)


def curve_lines(curve: Mapping[str, Any]) -> list[str]:
    """A curve as lines of Markdown: its points, and what the fits say."""
    streams = sorted({stream for point in curve["points"] for stream in point["loss"]})
    lines = [
        f"| {curve['name']}: {curve['against']} | paired accuracy across, % | "
        + " | ".join(f"loss, {stream}" for stream in streams) + " |",
        "|---" * (len(streams) + 2) + "|",
    ]  # fmt: skip
    for point in curve["points"]:
        losses = " | ".join(
            f"{point['loss'][stream]:.3f}" if stream in point["loss"] else "" for stream in streams
        )
        lines.append(f"| {point['x']:,.0f} | {point['paired']:.1f} | {losses} |")
    lines.append("")
    for stream, fit in curve["loss_fits"].items():
        lines.append(
            f"- loss of {stream}: {fit['floor']:.3f} + {fit['scale']:.4g} * {curve['against']} ** -{fit['power']:.3f} "
            f"(rmse {fit['rmse']:.3f})"
        )
    if fit := curve.get("paired_fit"):
        needs = ", ".join(f"{goal} % at {x:,.0f}" for goal, x in fit["needs"].items())
        lines.append(f"- paired accuracy: {needs} {curve['against']} (fitted; rmse {fit['rmse']:.1f})")
    return lines


def plot_curves(curves: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Points and fitted curves: the loss on the left, the paired accuracy on the right, a line of panels for each x."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter

    kinds = list(dict.fromkeys(curve["against"] for curve in curves))
    figure = Figure(figsize=(11, 4 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), 2, squeeze=False)
    for (left, right), kind in zip(panels, kinds, strict=True):
        number = 0
        for own, curve in enumerate(one for one in curves if one["against"] == kind):
            x = np.array([point["x"] for point in curve["points"]])
            fine = np.geomspace(x.min() / 1.5, x.max() * 1.5, 100)
            for stream in curve["points"][0]["loss"]:
                y = [point["loss"].get(stream, np.nan) for point in curve["points"]]
                left.plot(x, y, "o", color=f"C{number}", markersize=4, label=f"{curve['name']}, {stream}")
                if fit := curve["loss_fits"].get(stream):
                    left.plot(
                        fine, fit["floor"] + fit["scale"] * fine ** -fit["power"], "-", color=f"C{number}"
                    )
                number += 1
            paired = [point["paired"] for point in curve["points"]]
            right.plot(x, paired, "o", color=f"C{own}", markersize=4, label=curve["name"])
            if fit := curve.get("paired_fit"):
                line = 50 + 50 / (1 + (fit["half"] / fine) ** fit["slope"])
                right.plot(fine, line, "-", color=f"C{own}")
        right.axhline(50, color="grey", linestyle="--", linewidth=1)
        left.set(xscale="log", xlabel=kind, ylabel="held-out loss, nats per token")
        right.set(xscale="log", xlabel=kind, ylabel="paired accuracy across modalities, %", ylim=(30, 103))
        for axes in (left, right):
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
        left.legend(fontsize=7)
        right.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
