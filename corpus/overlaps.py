"""Which documents hold a text of an evaluation set, or most of one: by sequences of three words, wherever they lie."""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from corpus.minhash import word_grams, words_of

GRAM = 3  # words
MIN_WORDS = 8
"""Shorter texts recur by chance in long documents and are not looked for."""
STRETCH = 30
"""Longer evaluation texts are looked for in stretches of at most as many words: a part of one is a leak, too."""
_CHUNK = 1 << 15  # words of a document that are compared at once


class EvaluationTexts(NamedTuple):
    """The word sequences of all stretches of evaluation texts, sorted: G sequences of N stretches."""

    ids: list[str]  # N, of the text that the stretch is from
    sizes: np.ndarray  # (N,) int64, sequences in each stretch
    keys: np.ndarray  # (G,) uint64, hashes of the sequences, sorted
    stretch: np.ndarray  # (G,) int32, which stretch each is from
    place: np.ndarray  # (G,) int32, and where in it


class Overlap(NamedTuple):
    """The evaluation text that a document holds."""

    id: str
    similarity: float
    """Share of the sequences of a stretch, or of the document if that is shorter, that is in the other."""


def index_texts(texts: Iterable[tuple[str, str]]) -> EvaluationTexts:
    """The index of evaluation texts, pairs of id and text; about 16 bytes a word."""
    ids: list[str] = []
    grams: list[np.ndarray] = []
    for id, text in texts:
        for words in stretches(words_of(text)):
            ids.append(id)
            grams.append(word_grams(words, GRAM))
    sizes = np.array([len(one) for one in grams], np.int64)
    keys = np.concatenate([np.empty(0, np.uint64), *grams])
    place = np.arange(len(keys)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    order = np.argsort(keys, kind="stable")
    stretch = np.repeat(np.arange(len(ids), dtype=np.int32), sizes)
    return EvaluationTexts(ids, sizes, keys[order], stretch[order], place[order].astype(np.int32))


def stretches(words: list[str]) -> Iterator[list[str]]:
    """The words of a text in pieces of 8 to 30, of about equal length; of a shorter text, none.

    >>> [len(piece) for piece in stretches(["word"] * 70)], list(stretches(["word"] * 7))
    ([23, 23, 24], [])
    """
    count = math.ceil(len(words) / STRETCH)
    edges = [len(words) * number // max(1, count) for number in range(count + 1)]
    if len(words) >= MIN_WORDS:
        yield from (words[first:last] for first, last in pairwise(edges))


def find_overlap(text: str, index: EvaluationTexts, least: float) -> Overlap | None:
    """The evaluation text of which most is in a document, None if it is less than `least` of each stretch.

    >>> index = index_texts([("e1", "the quick brown fox jumps over the lazy dog at noon")])
    >>> find_overlap("Well: the quick brown fox jumps over the lazy cat at noon, they said.", index, 0.6)
    Overlap(id='e1', similarity=0.6666666666666666)
    """
    words = words_of(text)
    if len(words) < MIN_WORDS or not index.ids:
        return None
    best: tuple[float, int] | None = None
    step = _CHUNK - 2 * STRETCH  # chunks overlap by more than a stretch takes
    for first in range(0, max(1, len(words) - 2 * STRETCH), step):
        grams = word_grams(words[first : first + _CHUNK], GRAM)
        for stretch, share in shares(grams, index, least):
            if best is None or (share, -stretch) > best:
                best = share, -stretch
    return None if best is None else Overlap(index.ids[-best[1]], best[0])


def shares(grams: np.ndarray, index: EvaluationTexts, least: float) -> Iterator[tuple[int, float]]:
    """(stretch, share) of the stretches of which at least that share lies together in (T,) word sequences."""
    begin = np.searchsorted(index.keys, grams)
    hits = np.flatnonzero(index.keys[np.minimum(begin, len(index.keys) - 1)] == grams)
    begin = begin[hits]
    counts = np.searchsorted(index.keys, grams[hits], "right") - begin
    where = np.repeat(hits, counts)
    entry = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - begin, counts)
    stretch, place = index.stretch[entry].astype(np.int64), index.place[entry]
    different = np.unique(stretch * (2 * STRETCH) + place) // (2 * STRETCH)
    candidates, numbers = np.unique(different, return_counts=True)
    wholes = np.minimum(index.sizes[candidates], len(grams))
    likely = numbers >= least * wholes
    order = np.argsort(stretch, kind="stable")  # within one by where it is
    for one, whole in zip(candidates[likely].tolist(), wholes[likely].tolist(), strict=True):
        first, last = np.searchsorted(stretch, [one, one + 1], sorter=order)
        width = int(index.sizes[one]) * 3 // 2
        chosen = order[first:last]
        share = most_together(where[chosen].tolist(), place[chosen].tolist(), width) / whole
        if share >= least:
            yield one, share


def most_together(where: list[int], place: list[int], width: int) -> int:
    """The most different places within `width` of each other; `where` is sorted.

    >>> most_together([0, 1, 2, 90, 91], [0, 1, 1, 2, 3], 10)
    2
    """
    counts: dict[int, int] = {}
    first = most = 0
    for last, here in enumerate(where):
        counts[place[last]] = counts.get(place[last], 0) + 1
        while where[first] <= here - width:
            counts[place[first]] -= 1
            if not counts[place[first]]:
                del counts[place[first]]
            first += 1
        most = max(most, len(counts))
    return most
