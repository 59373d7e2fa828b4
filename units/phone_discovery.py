"""Units scored as the phoneme discovery benchmark scores them: phone error and boundaries, once units name phones.

Labels are taken every 10 ms, silence between phones among them. Each unit stands for the phone that it occurs with most
often (many-to-one); with as many units as phones they can be paired so that the most frames agree (one-to-one).

Source of the definitions: the benchmark discophon 0.0.3 (github.com/bootphon/discophon); for boundaries Räsänen, Laine
and Altosaar 2009, "An improved speech segmentation quality measure: the R-value", section 2.3.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from corpus.records import SAMPLE_RATE
from units.quality import contingency, phones_at_frames

STEP_MS = 10
STEP = SAMPLE_RATE * STEP_MS // 1000  # samples
TOLERANCE_MS = 20

Phones = Sequence[tuple[str, float, float]]


class UndefinedMeasure(ValueError):
    """A measure that these data do not define."""


def phone_discovery(
    units: Sequence[np.ndarray], phones: Sequence[Phones], *, hop: int, centre: int
) -> dict[str, Any]:
    """Score units against phones with times.

    Args:
        units: (F,) integers of each utterance, one unit per frame.
        phones: (name, start, end) of each utterance, half-open intervals in seconds, in order; gaps are silence.
        hop: samples from one frame to the next; centre: of frame 0; as in the encoder.

    Returns:
        `phone_error`: edits from the phones of the units to the true ones, runs counted once, over the number of true
        ones (many-to-one); `phone_error_one_to_one` if there are as many different units as phones, silence included;
        `segmentation`: `boundary_scores` of the phones of the units; `unit_segmentation`: of the units themselves.

    Raises:
        UndefinedMeasure: no frame, or as `boundary_scores`.

    >>> scores = phone_discovery([np.array([7, 7, 4, 4])], [[("a", 0.0, 0.08), ("b", 0.08, 0.16)]], hop=640, centre=320)
    >>> scores["phone_error"], scores["segmentation"]["r_value"]
    (0.0, 1.0)
    """
    each = [repeat_units(sequence, hop, centre) for sequence in units]
    names = [
        phones_at_frames(known, frames=len(sequence), centre=STEP // 2, hop=STEP)
        for known, sequence in zip(phones, each, strict=True)
    ]
    if not sum(map(len, each)):
        raise UndefinedMeasure("units: need at least one frame, got none")
    lengths = np.cumsum([len(sequence) for sequence in each])[:-1]
    unit, truth = (np.unique(np.concatenate(labels), return_inverse=True)[1] for labels in (each, names))
    table = contingency(unit, truth)
    unit_of, truth_of = np.split(unit, lengths), np.split(truth, lengths)
    mapped = np.split(table.argmax(axis=1)[unit], lengths)
    true_boundaries = [boundaries(labels) for labels in truth_of]
    scores: dict[str, Any] = {
        "phone_error": phone_error(truth_of, mapped),
        "segmentation": boundary_scores(true_boundaries, [boundaries(labels) for labels in mapped]),
        "unit_segmentation": boundary_scores(true_boundaries, [boundaries(labels) for labels in unit_of]),
    }
    if table.shape[0] == table.shape[1]:
        scores["phone_error_one_to_one"] = phone_error(
            truth_of, np.split(pair_one_to_one(table)[unit], lengths)
        )
    return scores


def repeat_units(units: np.ndarray, hop: int, centre: int) -> np.ndarray:
    """(F,) units -> (F hop // 160,) the unit whose frame is centred nearest, every 10 ms.

    >>> repeat_units(np.array([5, 6]), hop=320, centre=160).tolist()
    [5, 5, 6, 6]
    """
    units = np.asarray(units, np.int64)
    times = STEP // 2 + STEP * np.arange(len(units) * hop // STEP)
    index = (times - centre + hop // 2) // hop
    return units[np.clip(index, 0, max(0, len(units) - 1))]


def boundaries(labels: np.ndarray) -> np.ndarray:
    """(N,) labels every 10 ms -> milliseconds at which they change.

    >>> boundaries(np.array([1, 1, 2, 2, 2, 1])).tolist()
    [20, 50]
    """
    return (np.flatnonzero(labels[1:] != labels[:-1]) + 1) * STEP_MS


def boundary_scores(
    reference: Sequence[np.ndarray], found: Sequence[np.ndarray], *, tolerance: int = TOLERANCE_MS
) -> dict[str, float]:
    """How well boundaries are found.

    A reference boundary is hit where a found one is within the tolerance; where two reference boundaries are nearer to
    each other than that, each has the times up to the middle between them. Further found ones are insertions.

    Args:
        reference, found: (N,) ascending integers of each utterance, in milliseconds (of words, phones or units).
        tolerance: milliseconds.

    Returns:
        `precision`, `recall`, `f1`, `over_segmentation` (found / reference - 1) and `r_value` (1 is perfect; with many
        insertions it is negative, unlike F1), over all utterances.

    Raises:
        UndefinedMeasure: no reference boundary, or none found.

    >>> boundary_scores([np.array([100, 200])], [np.array([110, 150, 300])])["recall"]
    0.5
    """
    hits = 0
    for true, guesses in zip(reference, found, strict=True):
        lower, upper = true - tolerance, true + tolerance
        if len(true) > 1:
            middles = (true[:-1] + true[1:]) // 2
            upper[:-1] = np.minimum(upper[:-1], middles)
            lower[1:] = np.maximum(lower[1:], middles + 1)
        first, last = np.searchsorted(guesses, lower), np.searchsorted(guesses, upper, side="right")
        hits += int((last > first).sum())
    wanted, given = sum(map(len, reference)), sum(map(len, found))
    if not wanted or not given:
        raise UndefinedMeasure(
            f"boundaries: need at least one in the reference and one found, got {wanted} and {given}"
        )
    recall, over = hits / wanted, given / wanted - 1
    off = math.hypot(1 - recall, over) + abs(recall - 1 - over) / math.sqrt(2)
    return {
        "precision": hits / given, "recall": recall, "f1": 2 * hits / (wanted + given),
        "over_segmentation": over, "r_value": 1 - off / 2,
    }  # fmt: skip


def phone_error(reference: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Insertions, deletions and substitutions over the number of reference labels, repeated labels counted once.

    Args:
        reference, found: (N,) integers of each utterance.

    Raises:
        UndefinedMeasure: no reference label.

    >>> phone_error([np.array([1, 1, 2, 3])], [np.array([1, 2, 2, 4])])
    0.3333333333333333
    """
    import jiwer

    pairs = [
        (" ".join(str(label) for label, _ in groupby(labels.tolist())) for labels in pair)
        for pair in zip(reference, found, strict=True)
        if len(pair[0])
    ]
    if not pairs:
        raise UndefinedMeasure("phones: need at least one label in the reference, got none")
    true, guesses = zip(*pairs, strict=True)
    return float(jiwer.wer(list(true), list(guesses)))


def pair_one_to_one(table: np.ndarray) -> np.ndarray:
    """(K, K) counts -> (K,) the column of each row, each used once, so that the sum of the counts is largest.

    The Hungarian method with shortest augmenting paths, O(K**3).

    Raises:
        UndefinedMeasure: the table is not square.

    >>> pair_one_to_one(np.array([[9, 8], [9, 1]])).tolist()
    [1, 0]
    """
    size = len(table)
    if table.shape != (size, size):
        raise UndefinedMeasure(f"one-to-one: need as many units as phones, got {table.shape}")
    cost = np.vstack([np.zeros(size), table.max(initial=0) - table.astype(np.float64)])
    cost = np.hstack([np.zeros((size + 1, 1)), cost])  # row 0 and column 0 mean "none"
    of_row, of_column = np.zeros(size + 1), np.zeros(size + 1)  # the dual variables
    row_of = np.zeros(size + 1, np.int64)  # by column
    for row in range(1, size + 1):
        row_of[0], column = row, 0
        least, before = np.full(size + 1, np.inf), np.zeros(size + 1, np.int64)
        done = np.zeros(size + 1, bool)
        while row_of[column]:
            done[column] = True
            reduced = cost[row_of[column]] - of_row[row_of[column]] - of_column
            nearer = ~done & (reduced < least)
            least[nearer], before[nearer] = reduced[nearer], column
            following = int(np.where(done, np.inf, least).argmin())
            step = least[following]
            of_row[row_of[done]] += step
            of_column[done] -= step
            least[~done] -= step
            column = following
        while column:
            row_of[column], column = row_of[before[column]], int(before[column])
    columns = np.empty(size, np.int64)
    columns[row_of[1:] - 1] = np.arange(size)
    return columns
