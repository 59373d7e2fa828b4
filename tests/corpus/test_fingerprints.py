"""Utterances that repeat an earlier one: what is found, of which kind, whatever the number of buckets."""

import numpy as np
import pyarrow as pa
import pytest

from corpus.fingerprints import KINDS, Thresholds, buckets, entries, find_matches, fingerprint, first_matches

COUNT = 300


def utterances(seed, prefix="u"):
    """Random hashes, units and texts that have nothing in common."""
    rng = np.random.default_rng(seed)
    return (
        [f"{prefix}{number}" for number in range(COUNT)],
        [rng.bytes(16).hex() for _ in range(COUNT)],
        [rng.integers(0, 501, 300) for _ in range(COUNT)],
        [" ".join(f"w{word}" for word in rng.integers(0, 5000, 25)) for _ in range(COUNT)],
    )


def matches(tables, count):
    """{(later, earlier, kind)} by (part, row), from all buckets."""
    parts = [one for part, table in tables.items() for one in entries(table, part)]
    found = pa.concat_tables([find_matches(one, Thresholds(0.5, 0.7)) for one in buckets(parts, count)])
    return {
        (divmod(row["later"], 1 << 32), divmod(row["earlier"], 1 << 32), KINDS[row["kind"]]): row["id"]
        for row in first_matches(found).to_pylist()
    }


@pytest.mark.parametrize("count", [1, 2, 16])
def test_the_first_of_the_utterances_that_are_the_same_is_named_for_each_kind(count):
    ids, hashes, units, texts = utterances(0)
    hashes[250] = hashes[40] = hashes[3]
    units[100] = np.repeat(units[7], 2)  # the same runs, spoken more slowly
    units[101] = np.where(np.random.default_rng(1).random(300) < 0.05, 0, units[7])
    texts[200] = texts[8].upper() + "!"
    whole = fingerprint(ids, hashes, units, texts)
    parts = {0: whole.slice(0, 100), 1: whole.slice(100, 200)}
    assert matches(parts, count) == {
        ((0, 40), (0, 3), "audio"): "u3",
        ((1, 150), (0, 3), "audio"): "u3",
        ((1, 0), (0, 7), "units"): "u7",
        ((1, 1), (0, 7), "units"): "u7",
        ((1, 100), (0, 8), "text"): "u8",
    }


def test_utterances_of_an_evaluation_set_are_found_beside_those_of_the_corpus():
    corpus, (ids, hashes, units, texts) = utterances(0), utterances(1, "eval")
    hashes[5], units[6], texts[7] = corpus[1][0], corpus[2][1], corpus[3][2]
    texts[8] = texts[7]  # twice in the evaluation set
    corpus[3][9] = corpus[3][2]
    found = matches({-1: fingerprint(ids, hashes, units, texts), 0: fingerprint(*corpus)}, 4)
    assert found == {
        ((0, 0), (-1, 5), "audio"): "eval5",
        ((0, 1), (-1, 6), "units"): "eval6",
        ((0, 2), (-1, 7), "text"): "eval7",
        ((0, 9), (-1, 7), "text"): "eval7",
        ((0, 9), (0, 2), "text"): "u2",
    }


def test_short_texts_short_utterances_and_what_is_missing_are_not_compared():
    units, texts = np.arange(12), ["yes it is", None, "yes it is"]
    table = fingerprint(["a", "b", "c"], [None, "0" * 32, "0" * 32], [units, units, None], texts)
    assert matches({0: table}, 1) == {((0, 2), (0, 1), "audio"): "b"}
