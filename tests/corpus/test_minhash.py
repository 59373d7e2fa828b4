"""Near-duplicates by MinHash: signatures against the true similarity, candidates against all pairs."""

import itertools

import numpy as np
import pytest

from corpus.minhash import (
    HASHES,
    band_keys,
    candidate_pairs,
    grams,
    signatures,
    similarity,
    sketches,
    unit_grams,
)


def jaccard(one, other):
    return len(np.intersect1d(one, other)) / len(np.union1d(one, other))


def changed_pairs(changed, count=60):
    """Sets of 3-grams of random units, and of the same units with a share of them changed."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        units = rng.integers(0, 501, 250)
        other = np.where(rng.random(250) < changed, rng.integers(0, 501, 250), units)
        yield unit_grams(units, 3), unit_grams(other, 3)


@pytest.mark.parametrize("changed", [0.0, 0.03, 0.1, 0.3])
def test_signatures_and_sketches_estimate_the_true_similarity(changed):
    pairs = list(changed_pairs(changed))
    true = np.array([jaccard(*pair) for pair in pairs])
    one, other = signatures([one for one, _ in pairs]), signatures([other for _, other in pairs])
    for estimate in (similarity(one, other), similarity(sketches(one), sketches(other))):
        assert np.abs(estimate - true).max() < 4 * 0.045
        assert abs(np.mean(estimate - true)) < 0.02


def test_a_signature_does_not_depend_on_what_is_computed_with_it():
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 2**63, size, dtype=np.uint64) for size in (1, 40_000, 3, 20_000, 20_000, 1)]
    alone = np.concatenate([signatures([one]) for one in sets])
    assert np.array_equal(signatures(sets), alone)
    assert signatures([]).shape == (0, HASHES)


def test_a_sequence_shorter_than_an_n_gram_is_one_n_gram():
    values = np.arange(2, dtype=np.uint64)
    assert len(grams(values, 5)) == len(grams(values[:0], 5)) == 1
    assert grams(values, 5) != grams(values[:1], 5)


def test_sets_share_a_band_as_often_as_the_formula_says():
    similarities = np.array([jaccard(*pair) for pair in changed_pairs(0.1, 400)])
    keys = [band_keys(signatures(one), 32) for one in zip(*changed_pairs(0.1, 400), strict=True)]
    share = np.mean((keys[0] == keys[1]).any(axis=1))
    assert share == pytest.approx(np.mean(1 - (1 - similarities**4) ** 32), abs=0.05)


def test_candidates_are_entries_of_one_key_with_its_first_and_the_one_before():
    rng = np.random.default_rng(0)
    keys, order = rng.integers(0, 40, 300).astype(np.uint64), rng.integers(0, 100, 300)
    expected = set()
    for _, group in itertools.groupby(sorted(zip(keys, order, strict=True)), key=lambda entry: entry[0]):
        members = [int(number) for _, number in group]
        for before, number in itertools.pairwise(members):
            expected |= {(members[0], number), (before, number)}
    expected = sorted({pair for pair in expected if pair[0] != pair[1]}, key=lambda pair: pair[::-1])
    assert [tuple(pair) for pair in candidate_pairs(keys, order).tolist()] == expected
    assert candidate_pairs(keys[:0], order[:0]).shape == (0, 2)
