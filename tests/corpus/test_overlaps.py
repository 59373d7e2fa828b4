"""Texts of evaluation sets in documents: against a slow search, planted ones, and across chunks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import overlaps
from corpus.overlaps import GRAM, find_overlap, index_texts, stretches

words = st.lists(st.sampled_from("abcdefghijkl"), min_size=8, max_size=40)


def grams(sequence):
    return [tuple(sequence[first : first + GRAM]) for first in range(max(1, len(sequence) - GRAM + 1))]


def slow_share(document, stretch):
    """The share of a stretch's word sequences, counted with their places, within 1.5 times its length."""
    theirs, mine = grams(stretch), grams(document)
    width = len(theirs) * 3 // 2
    windows = [mine[first : first + width] for first in range(len(mine))]
    most = max(sum(gram in window for gram in theirs) for window in windows)
    return most / min(len(theirs), len(mine))


@given(words, st.lists(words, min_size=1, max_size=3), st.integers(0, 20))
@settings(deadline=None, max_examples=200)
def test_the_share_is_that_of_a_slow_search(document, texts, at):
    document = document[:at] + texts[0][3:] + document[at:]
    index = index_texts((str(number), " ".join(text)) for number, text in enumerate(texts))
    known = [
        (slow_share(document, stretch), str(number))
        for number, text in enumerate(texts)
        for stretch in stretches(text)
    ]
    found = find_overlap(" ".join(document), index, 0.5)
    best = max(share for share, _ in known)
    if best < 0.5:
        assert found is None
    else:
        assert found is not None
        assert (found.similarity, found.id) == next(one for one in known if one[0] == best)


def prose(rng, count):
    return [f"w{number}" for number in rng.zipf(1.15, count) % 5000]


def test_planted_texts_are_found_and_nothing_else():
    rng = np.random.default_rng(0)
    texts = [prose(rng, rng.integers(8, 60)) for _ in range(400)]
    index = index_texts((str(number), " ".join(text)) for number, text in enumerate(texts))
    found = []
    for number, text in enumerate(texts):
        document = prose(rng, 400)
        if number % 2:
            changed = [word if place % 15 else "other" for place, word in enumerate(text, 7)]
            document[100:100] = changed if len(text) >= 20 else text
        found.append(find_overlap(" ".join(document), index, 0.7))
    right = [one is not None and one.id == str(number) for number, one in enumerate(found)]
    assert sum(right[1::2]) >= 199
    assert not any(one for one in found[::2])


def test_a_text_is_found_wherever_it_lies_in_a_long_document(monkeypatch):
    monkeypatch.setattr(overlaps, "_CHUNK", 100)
    text = [f"t{number}" for number in range(30)]
    index = index_texts([("e", " ".join(text))])
    for at in range(0, 400, 7):
        document = [f"d{number}" for number in range(400)]
        document[at:at] = text
        assert find_overlap(" ".join(document), index, 1.0) == ("e", 1.0)


def test_a_short_text_is_not_looked_for_and_a_short_document_counts_as_a_whole():
    text = " ".join(f"t{number}" for number in range(40))
    assert find_overlap("a b c d e f g", index_texts([("e", "a b c d e f g")]), 0.5) is None
    assert find_overlap(text[: text.index("t12")], index_texts([("e", text)]), 0.7) == ("e", 1.0)
    assert find_overlap(text, index_texts([]), 0.5) is None
