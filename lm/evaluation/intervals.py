"""95 % intervals: of a share (Wilson), and of a ratio of sums over items (bootstrap)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from corpus.keyed import generator

Z = 1.959964
"""Quantile of the normal distribution for a two-sided 95 % interval."""


class Estimate(NamedTuple):
    """A share in per cent with its 95 % interval."""

    value: float
    low: float
    high: float


def share(values: Sequence[float], items: int) -> Estimate:
    """Mean of independent values in [0, 1], in per cent, with Wilson's 95 % interval, which is never empty.

    The number of trials is the one that gives the observed spread, p (1 - p) / SE squared: the number of values where
    they are 0 and 1, more where they are means of several items, at most `items`.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> [round(number, 1) for number in share([1.0] * 5 + [0.0] * 5, 10)]
    [50.0, 23.7, 76.3]
    >>> [round(number, 1) for number in share([1.0] * 100, 100)]
    [100.0, 96.3, 100.0]
    """
    count, mean = len(values), float(np.mean(values))
    error = float(np.var(values, ddof=1)) / count if count > 1 else 0.0
    trials = min(max(mean * (1 - mean) * (count - 1) / count / error if error else 0.0, count), items)
    centre = (mean + Z * Z / (2 * trials)) / (1 + Z * Z / trials)
    half = Z / (1 + Z * Z / trials) * math.sqrt(mean * (1 - mean) / trials + Z * Z / (4 * trials * trials))
    return Estimate(100 * mean, 100 * max(0.0, centre - half), 100 * min(1.0, centre + half))


def bootstrap(
    errors: np.ndarray, lengths: np.ndarray, *, repeats: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of sum(errors) / sum(lengths) in per cent, by resampling items."""
    rows = generator(seed, "bootstrap").integers(len(errors), size=(repeats, len(errors)))
    rates = 100 * errors[rows].sum(1) / lengths[rows].sum(1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)
