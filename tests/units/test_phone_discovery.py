"""Measures of the phoneme discovery benchmark against slow implementations by their definitions."""

import math
from itertools import groupby, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from units.phone_discovery import (
    UndefinedMeasure,
    boundaries,
    boundary_scores,
    pair_one_to_one,
    phone_discovery,
    phone_error,
    repeat_units,
)

times = st.lists(st.integers(0, 60), max_size=12, unique=True).map(lambda ts: np.array(sorted(ts), int) * 5)
label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=12)


def slow_scores(reference, found, tolerance):
    """Every found boundary goes to the reference boundary whose region it lies in, one by one."""
    hit, wanted, given = 0, 0, 0
    for true, guesses in zip(reference, found):
        wanted, given = wanted + len(true), given + len(guesses)
        for i, time in enumerate(true):
            lowest, highest = time - tolerance, time + tolerance
            if i > 0:
                lowest = max(lowest, math.floor((true[i - 1] + time) / 2) + 1)
            if i + 1 < len(true):
                highest = min(highest, math.floor((time + true[i + 1]) / 2))
            hit += any(lowest <= guess <= highest for guess in guesses)
    recall, precision, over = hit / wanted, hit / given, given / wanted - 1
    one, other = math.sqrt((1 - recall) ** 2 + over**2), (-over + recall - 1) / math.sqrt(2)
    return {
        "precision": precision, "recall": recall, "over_segmentation": over,
        "f1": 2 * precision * recall / (precision + recall) if hit else 0,
        "r_value": 1 - (abs(one) + abs(other)) / 2,
    }  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(times, times), min_size=1, max_size=3), st.sampled_from([10, 20, 50]))
def test_boundary_scores_are_those_of_a_loop_over_regions(pairs, tolerance):
    reference, found = zip(*pairs)
    if not sum(map(len, reference)) or not sum(map(len, found)):
        with pytest.raises(UndefinedMeasure, match="boundaries: need at least one"):
            boundary_scores(reference, found, tolerance=tolerance)
        return
    scores = boundary_scores(reference, found, tolerance=tolerance)
    assert scores == pytest.approx(slow_scores(reference, found, tolerance))


def edits(one, other):
    """Edit distance by its recursion."""
    if not one or not other:
        return len(one) + len(other)
    if one[0] == other[0]:
        return edits(one[1:], other[1:])
    return 1 + min(edits(one[1:], other), edits(one, other[1:]), edits(one[1:], other[1:]))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(label_lists.map(lambda x: x[:6]), label_lists.map(lambda x: x[:6])), min_size=1, max_size=2
    )
)
def test_phone_error_is_the_edit_distance_of_runs(pairs):
    reference, found = ([[label for label, _ in groupby(labels)] for labels in each] for each in zip(*pairs))
    expected = sum(map(edits, reference, found)) / sum(map(len, reference))
    reference, found = ([np.array(labels) for labels in each] for each in zip(*pairs))
    assert phone_error(reference, found) == pytest.approx(expected)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_one_to_one_pairs_are_the_best_of_all_permutations(size, seed):
    table = np.random.default_rng(seed).integers(0, 9, (size, size))
    columns = pair_one_to_one(table)
    assert sorted(columns) == list(range(size))
    best = max(sum(table[i, j] for i, j in enumerate(order)) for order in permutations(range(size)))
    assert table[np.arange(size), columns].sum() == best


def test_one_to_one_pairs_are_as_good_as_those_of_scipy():
    assign = pytest.importorskip("scipy.optimize").linear_sum_assignment
    for seed in range(3):
        table = np.random.default_rng(seed).poisson(3, (40, 40))
        expected = table[assign(table, maximize=True)].sum()
        assert table[np.arange(40), pair_one_to_one(table)].sum() == expected


@settings(deadline=None)
@given(label_lists, st.sampled_from([320, 640, 800]), st.integers(0, 900))
def test_every_10_ms_has_the_unit_centred_nearest(units, hop, centre):
    repeated = repeat_units(np.array(units), hop, centre)
    assert len(repeated) == len(units) * hop // 160
    for m, unit in enumerate(repeated):
        distances = [abs(80 + 160 * m - centre - hop * k) for k in range(len(units))]
        assert unit in [units[k] for k in range(len(units)) if distances[k] == min(distances)]


def test_units_that_are_phones_have_no_error_whatever_their_numbers():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    phones = [("abcd"[label], 0.04 * k, 0.04 * k + 0.04) for k, label in enumerate(labels)]
    scores = phone_discovery([3 - labels], [phones], hop=640, centre=320)
    assert scores["phone_error"] == scores["phone_error_one_to_one"] == 0
    assert scores["segmentation"] == scores["unit_segmentation"]
    assert scores["segmentation"]["r_value"] == scores["segmentation"]["f1"] == 1
    # two units for each phone: the map repairs the phones, not the boundaries of the units themselves
    halves = 2 * labels + rng.integers(0, 2, 200)
    scores = phone_discovery([halves], [phones], hop=640, centre=320)
    assert scores["phone_error"] == 0
    assert "phone_error_one_to_one" not in scores
    assert scores["segmentation"]["r_value"] == 1 > scores["unit_segmentation"]["precision"]
    assert scores["unit_segmentation"]["recall"] == 1


def test_silence_between_phones_is_a_label():
    phones = [("a", 0.04, 0.08), ("a", 0.12, 0.16)]
    scores = phone_discovery([np.array([0, 1, 0, 1])], [phones], hop=640, centre=320)
    assert scores["phone_error"] == 0
    assert phone_discovery([np.array([1, 1, 0, 1])], [phones], hop=640, centre=320)["phone_error"] == 0.25


def test_what_is_not_defined_is_an_error_with_a_name():
    phones = [("a", 0.0, 0.16)]
    with pytest.raises(UndefinedMeasure, match="one frame"):
        phone_discovery([np.zeros(0, int)], [phones], hop=640, centre=320)
    with pytest.raises(UndefinedMeasure, match="in the reference and one found, got 0 and 0"):
        phone_discovery([np.array([0, 1, 1, 1])], [phones], hop=640, centre=320)
    with pytest.raises(UndefinedMeasure, match="as many units as phones"):
        pair_one_to_one(np.ones((2, 3)))
    with pytest.raises(UndefinedMeasure, match="phones: need at least one label"):
        phone_error([np.zeros(0, int)], [np.zeros(0, int)])
    assert boundaries(np.zeros(0, int)).tolist() == []
