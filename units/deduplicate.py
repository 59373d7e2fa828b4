"""Runs of equal units: collapse them, and bring them back."""

import numpy as np


def deduplicate(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Collapse runs of equal units into one unit and a run length.

    A held vowel repeats its unit every frame. A language model wants it once; `repeat` wants its length back.

    Args:
        units: (F,) integers, one unit per frame.

    Returns:
        kept: (N,) of the same dtype, N <= F, no two neighbours equal.
        lengths: (N,) int64, length of each run in frames; sums to F.

    Raises:
        ValueError: units is not one-dimensional.

    Source: Lakhotia et al. 2021 (GSLM), arXiv:2102.01192.

    >>> deduplicate(np.array([7, 7, 7, 2, 7]))
    (array([7, 2, 7]), array([3, 1, 1]))
    """
    units = np.asarray(units)
    if units.ndim != 1:
        raise ValueError(f"units: need shape (F,), got {units.shape}")
    starts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]])[: len(units)])
    return units[starts], np.diff(starts, append=len(units))


def repeat(kept: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Undo `deduplicate`: (N,) units and (N,) run lengths in frames -> (F,) units, one per frame.

    Raises:
        ValueError: shapes differ, or a length is negative.

    >>> repeat(np.array([7, 2, 7]), np.array([3, 1, 1]))
    array([7, 7, 7, 2, 7])
    """
    kept, lengths = np.asarray(kept), np.asarray(lengths)
    if kept.ndim != 1 or kept.shape != lengths.shape:
        raise ValueError(f"kept, lengths: need the same shape (N,), got {kept.shape} and {lengths.shape}")
    if (lengths < 0).any():
        raise ValueError(f"lengths: need >= 0, got {lengths.min()}")
    return np.repeat(kept, lengths.astype(np.int64))
