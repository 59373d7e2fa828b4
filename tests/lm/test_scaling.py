"""Fitted scaling curves: parameters are found again, and what points do not define is refused by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.evaluation.scaling import (
    Curve,
    UndefinedCurve,
    curve_lines,
    fit_curve,
    fit_logistic_curve,
    fit_power,
    plot_curves,
)
from lm.evaluation.study import text_kept

X = np.array([3e4, 6e4, 1.2e5, 2.4e5])


@settings(max_examples=15, deadline=None)
@given(st.floats(0.1, 3), st.floats(0.1, 2), st.floats(0.1, 2))
def test_a_power_law_is_found_again(floor, first, power):
    fit = fit_power(X, floor + first * (X / X[0]) ** -power)
    assert fit["rmse"] < 1e-3
    assert fit["floor"] + fit["scale"] * X[0] ** -fit["power"] == pytest.approx(floor + first, abs=1e-2)
    assert fit["power"] == pytest.approx(power, rel=0.02)


def test_a_slow_search_finds_no_better_power_law():
    y = np.array([2.1, 1.6, 1.4, 1.35])
    best = min(
        ((floor + scale * (X / X[0]) ** -power - y) ** 2).sum()
        for floor in np.linspace(0, 2, 41) for scale in np.linspace(0, 2, 41) for power in np.linspace(0.1, 4, 40)
    )  # fmt: skip
    assert len(X) * fit_power(X, y)["rmse"] ** 2 <= best + 1e-9


def test_curves_that_points_do_not_define_are_refused_by_name():
    with pytest.raises(UndefinedCurve, match="need at least 3 different x, got 2"):
        fit_power(X[:2], X[:2])
    with pytest.raises(UndefinedCurve, match="need y that falls with x"):
        fit_power(X, np.log(X))
    with pytest.raises(UndefinedCurve, match="need a paired accuracy between 50 and 100, got none"):
        fit_logistic_curve(X, np.array([50.0, 50.0, 100.0, 100.0]))
    with pytest.raises(UndefinedCurve, match="need at least 2 different x"):
        fit_logistic_curve(X[:1], np.array([70.0]))
    with pytest.raises(UndefinedCurve, match="need a paired accuracy that rises with x"):
        fit_logistic_curve(X, np.array([60.0, 55.0, 59.0, 40.0]))
    with pytest.raises(ValueError, match="against: need one of tokens, parameters, got 'hours'"):
        Curve("mine", ("a", "b"), "hours")


def runs_of(paired):
    return [
        {"row": f"{n} tokens", "seed": seed, "tokens": {"text": n / 2, "speech": n / 2}, "parameters": 10,
         "held_out": {"text": 1 + 1e4 / n}, "start_from": "",
         "rows": [{"testset": "stories", "direction": way, "paired_accuracy": [value, 0, 100]}
                  for way in ("S", "T->S", "S->T")]}
        for n, value in paired for seed in (0, 1)
    ]  # fmt: skip


def test_a_curve_of_runs_has_points_fits_lines_and_a_figure(tmp_path):
    runs = runs_of([(30_000, 60.0), (60_000, 75.0), (120_000, 90.0)])
    curve = fit_curve(Curve("tokens", tuple(f"{n} tokens" for n in (120_000, 30_000, 60_000))), runs)
    assert [(point["x"], point["paired"]) for point in curve["points"]] == [
        (30_000, 60),
        (60_000, 75),
        (120_000, 90),
    ]
    assert curve["loss_fits"]["text"]["power"] == pytest.approx(1, abs=0.01)
    assert 60_000 < curve["paired_fit"]["needs"]["80"] < 120_000 < curve["paired_fit"]["needs"]["95"]
    assert "| 60,000 | 75.0 | 1.167 |" in curve_lines(curve)
    sizes = fit_curve(Curve("sizes", ("30000 tokens", "60000 tokens"), "parameters"), runs)
    assert "paired_fit" not in sizes
    plot_curves([curve, sizes], tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_what_text_is_kept_is_the_perplexity_before_and_after():
    runs = [
        {"row": "text", "start_from": "", "seed": 0, "held_out": {"text": 1.0}},
        {"row": "then speech", "start_from": "text", "seed": 0, "held_out": {"text": 2.0}},
        {"row": "then nothing", "start_from": "text", "seed": 0, "held_out": {}},
    ]
    assert text_kept(runs) == [("then speech", 0, pytest.approx(np.e), pytest.approx(np.e**2))]
