"""MinHash and locality-sensitive hashing: near-duplicates among many sets of n-grams, without comparing all pairs.

    words or units -> hashes of n-grams -> signature (128 minima) -> band keys: sets that share one are compared

Source: Broder 1997, On the resemblance and containment of documents; Indyk and Motwani 1998; Li and König 2010, b-bit
minwise hashing.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

HASHES = 128
"""Minima of one signature: the share of equal ones estimates a Jaccard similarity with a standard error <= 0.045."""

_CHUNK = 1 << 15  # n-grams hashed at once: they stay in the cache of a core
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64, Steele et al. 2014


def words_of(text: str) -> list[str]:
    """The words two texts are compared by: letters and digits in lower case, compatibility forms made one.

    >>> words_of("They went -- out, TOGETHER\\u00a0!")
    ['they', 'went', 'out', 'together']
    """
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def text_grams(text: str, n: int = 5) -> np.ndarray:
    """Hashes of the n-word sequences of a text, as `grams`."""
    return word_grams(words_of(text), n)


def word_grams(words: Sequence[str], n: int) -> np.ndarray:
    """Hashes of the sequences of n words, as `grams`."""
    return grams(np.array([_hash(word) for word in words], dtype=np.uint64), n)


def unit_grams(units: np.ndarray, n: int) -> np.ndarray:
    """Hashes of the n-grams of (T,) integers >= 0, as `grams`."""
    return grams(mixed(units.astype(np.uint64) + np.uint64(1)), n)


def grams(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hashes of the n-grams of a sequence of hashes, (T,) uint64 -> (max(1, T - n + 1),) uint64.

    A shorter sequence is one n-gram, so that no set is empty.
    """
    values = np.zeros(max(1, len(hashes) - n + 1), dtype=np.uint64)
    for offset in range(min(n, len(hashes))):
        values = mixed(values + hashes[offset : offset + len(values)])
    return values


def signatures(sets: Sequence[np.ndarray]) -> np.ndarray:
    """MinHash of N sets of hashes, each (T,) uint64 with T >= 1: (N, 128) uint64.

    >>> one, other = unit_grams(np.arange(100), 3), unit_grams(np.arange(10, 110), 3)
    >>> float(similarity(*signatures([one, other])).round(2)), round(88 / 108, 2)
    (0.8, 0.81)
    """
    result = np.empty((len(sets), HASHES), dtype=np.uint64)
    first = 0
    while first < len(sets):
        stop, filled = first, 0
        while stop < len(sets) and (stop == first or filled + len(sets[stop]) <= _CHUNK):
            filled += len(sets[stop])
            stop += 1
        result[first:stop] = _signatures(sets[first:stop])
        first = stop
    return result


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of signatures (..., 128), in [0, 1]; of `sketches`, the chance matches removed."""
    share = np.mean(one == other, axis=-1)
    return np.maximum(0.0, (share * 256 - 1) / 255) if one.dtype == np.uint8 else share


def sketches(signatures: np.ndarray) -> np.ndarray:
    """(N, 128) uint64 -> (N, 128) uint8: eight bits of each minimum are enough to estimate the similarity."""
    return (mixed(signatures) >> np.uint64(56)).astype(np.uint8)


def band_keys(signatures: np.ndarray, bands: int) -> np.ndarray:
    """One key for each band of 128 / `bands` minima: (N, 128) -> (N, bands) uint64.

    Two sets of similarity s share a key with probability 1 - (1 - s^(128 / bands))^bands.
    """
    rows = signatures.reshape(len(signatures), bands, HASHES // bands)
    keys = mixed(np.arange(bands, dtype=np.uint64))[None, :].repeat(len(signatures), axis=0)
    for row in range(rows.shape[2]):
        keys = mixed(keys + rows[:, :, row])
    return keys


def candidate_pairs(keys: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Pairs that share a key, linear in their number: each entry with the first of its key, and with the one before it.

    Args:
        keys: (E,) uint64, one entry for each set and band.
        order: (E,) int64, which set the entry is of; the lower one is the earlier one.

    Returns:
        (P, 2) int64, [earlier, later] of `order`, each pair once, sorted by the later and then the earlier.
    """
    sorted_by = np.lexsort((order, keys))
    keys, order = keys[sorted_by], order[sorted_by]
    new = np.diff(keys, prepend=keys[:1] + np.uint64(1)) != 0
    first = np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))
    later = np.flatnonzero(~new)
    pairs = np.concatenate([
        np.stack([order[first[later]], order[later]], axis=1),
        np.stack([order[later - 1], order[later]], axis=1),
    ])  # fmt: skip
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.unique(pairs[:, ::-1], axis=0)[:, ::-1]


def mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that leaves no pattern."""
    for shift, factor in zip((np.uint64(30), np.uint64(27)), _MIX, strict=True):
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> np.uint64(31))


def _signatures(sets: Sequence[np.ndarray]) -> np.ndarray:
    values = np.concatenate(sets)
    lengths = np.array([len(one) for one in sets])
    starts = np.cumsum(lengths) - lengths
    result = np.empty((HASHES, len(sets)), dtype=np.uint64)
    product = np.empty_like(values)
    for number, (factor, term) in enumerate(zip(*_linear(), strict=True)):
        np.multiply(values, factor, out=product)  # modulo 2^64
        product += term
        np.minimum.reduceat(product, starts, out=result[number])
    return result.T


@functools.lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


@functools.cache
def _linear() -> tuple[np.ndarray, np.ndarray]:
    """(128,) odd factors and terms of the 128 hash functions, always the same."""
    values = mixed(np.arange(1, 2 * HASHES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return values[:HASHES] | np.uint64(1), values[HASHES:]
