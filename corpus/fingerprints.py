"""Utterances that repeat an earlier one: the same sound, nearly the same units, or nearly the same text.

    fingerprints (one row per utterance) -> entries (one per hash or band) -> matches (pairs, the earlier one first)

Entries are sorted into buckets by their key, so that equal keys meet in one bucket and each bucket fits into memory.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from corpus.minhash import (
    HASHES,
    band_keys,
    candidate_pairs,
    mixed,
    signatures,
    similarity,
    sketches,
    text_grams,
    unit_grams,
    words_of,
)

KINDS = ("audio", "units", "text")
"""How two utterances can be the same; an entry holds the index."""
GRAM = 3  # units, consecutive equal ones counted once, or words
BANDS = 32
"""32 bands of 4 minima: of pairs of similarity 0.5 share one 87 %, of 0.6 99 %."""
MIN_WORDS = 5
"""Shorter texts recur by chance and are not compared."""
MIN_RUNS = 20
"""Utterances of fewer runs of units, less than about a second, are compared by their sound alone."""

FINGERPRINTS = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.uint64()),  # null: not compared by it, as the others
        ("units", pa.binary(HASHES)),  # sketch
        ("units_bands", pa.binary(8 * BANDS)),  # uint64, as the machine holds them: little-endian
        ("text", pa.binary(HASHES)),
        ("text_bands", pa.binary(8 * BANDS)),
    ]
)
ENTRIES = pa.schema(
    [
        ("key", pa.uint64()),
        ("kind", pa.int8()),
        ("position", pa.int64()),  # part << 32 | row; below 0 in an evaluation set
        ("id", pa.string()),
        ("sketch", pa.binary(HASHES)),
    ]
)
MATCHES = pa.schema(
    [
        ("later", pa.int64()),  # position
        ("earlier", pa.int64()),
        ("kind", pa.int8()),
        ("id", pa.string()),  # of the earlier one
        ("similarity", pa.float32()),  # Jaccard, estimated
    ]
)
_CHUNK = 1 << 16  # pairs compared at once


class Thresholds(NamedTuple):
    """The least similarity of two utterances that repeat each other."""

    units: float
    text: float


def fingerprint(
    ids: Sequence[str],
    hashes: Sequence[str | None],
    units: Sequence[np.ndarray | None],
    texts: Sequence[str | None],
) -> pa.Table:
    """One row of `FINGERPRINTS` for each utterance.

    Args:
        hashes: of the decoded audio, hexadecimal, at least 16 digits; None in any sequence: not compared by it.
        units: (F,) integers, one per frame.
    """
    runs = [None if one is None else one[np.flatnonzero(np.diff(one, prepend=-1))] for one in units]
    columns = [
        pa.array(ids, pa.string()),
        pa.array([None if one is None else int(one[:16], 16) for one in hashes], pa.uint64()),
        *sketch_columns(
            [None if one is None or len(one) < MIN_RUNS else unit_grams(one, GRAM) for one in runs]
        ),
        *sketch_columns(
            [
                None if one is None or len(words_of(one)) < MIN_WORDS else text_grams(one, GRAM)
                for one in texts
            ]
        ),
    ]
    return pa.Table.from_arrays(columns, schema=FINGERPRINTS)


def sketch_columns(sets: Sequence[np.ndarray | None]) -> tuple[pa.Array, pa.Array]:
    """Sketches and band keys of sets of n-grams, null where there is none."""
    values = signatures([one for one in sets if one is not None])
    return (
        fixed_size(sketches(values), [one is not None for one in sets]),
        fixed_size(band_keys(values, BANDS), [one is not None for one in sets]),
    )


def fixed_size(values: np.ndarray, valid: Sequence[bool]) -> pa.Array:
    """Rows of numbers as fixed-size binary values, spread over the valid places."""
    size = values.shape[1] * values.itemsize
    whole = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )
    places = np.cumsum(valid) - 1
    return whole.take(pa.array(places, pa.int64(), mask=~np.asarray(valid, bool)))


def numbers(column: pa.ChunkedArray | pa.Array, dtype: type[np.generic]) -> np.ndarray:
    """The reverse of `fixed_size`, of a column without nulls: (N, numbers per value)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    size = array.type.byte_width
    data = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    rows = data[array.offset * size : (array.offset + len(array)) * size]
    return rows.view(dtype).reshape(len(array), size // np.dtype(dtype).itemsize)


def entries(table: pa.Table, part: int) -> Iterator[pa.Table]:
    """The entries of one part of fingerprints, kind by kind; of every bucket."""
    position = (np.int64(part) << 32) + np.arange(table.num_rows)
    for kind, name in enumerate(KINDS):
        rows = np.flatnonzero(table.column(name).is_valid())
        chosen = table.take(rows)
        if name == "audio":
            keys, count = chosen.column(name).to_numpy(), 1
            sketch = fixed_size(np.zeros((0, HASHES), np.uint8), [False] * len(rows))
        else:
            keys, count = numbers(chosen.column(f"{name}_bands"), np.uint64).ravel(), BANDS
            sketch = chosen.column(name).combine_chunks()
        of_row = np.repeat(np.arange(len(rows)), count)
        columns = [
            pa.array(mixed(keys + np.uint64(kind))),
            pa.array(np.full(len(keys), kind, np.int8)),
            pa.array(position[rows][of_row]),
            chosen.column("id").combine_chunks().take(of_row),
            sketch.take(of_row),
        ]
        yield pa.Table.from_arrays(columns, schema=ENTRIES)


def buckets(tables: Iterable[pa.Table], count: int) -> Iterator[pa.Table]:
    """Entries by bucket, of `count` buckets, a power of two: the first bits of the key."""
    table = pa.concat_tables([ENTRIES.empty_table(), *tables])
    bits = count.bit_length() - 1
    bucket = (
        table.column("key").to_numpy() >> np.uint64(64 - bits)
        if bits
        else np.zeros(table.num_rows, np.uint64)
    )
    order = np.argsort(bucket, kind="stable")
    ends = np.searchsorted(bucket[order], np.arange(count + 1))
    for first, stop in itertools.pairwise(ends):
        yield table.take(order[first:stop])


def find_matches(table: pa.Table, thresholds: Thresholds) -> pa.Table:
    """The pairs of one bucket's entries that repeat each other, sorted: within the corpus, and with evaluation sets."""
    found = [MATCHES.empty_table()]
    for kind, least in enumerate((1.0, *thresholds)):
        one = table.filter(pa.array(table.column("kind").to_numpy() == kind))
        position = one.column("position").to_numpy()
        keys = one.column("key").to_numpy()
        if (position < 0).any():
            overlapping = np.isin(keys, keys[position < 0])
            found.append(_matches(one.filter(pa.array(overlapping)), kind, least, evaluation=True))
        found.append(_matches(one.filter(pa.array(position >= 0)), kind, least))
    joined = pa.concat_tables(found)
    return joined.sort_by([(name, "ascending") for name in ("later", "earlier", "kind")])


def _matches(table: pa.Table, kind: int, least: float, *, evaluation: bool = False) -> pa.Table:
    """The pairs of one kind; with `evaluation` only those of an utterance with an evaluation set."""
    position = table.column("position").to_numpy()
    places, index, order = np.unique(position, return_index=True, return_inverse=True)
    pairs = candidate_pairs(table.column("key").to_numpy(), order)
    if evaluation:
        pairs = pairs[(places[pairs[:, 0]] < 0) & (places[pairs[:, 1]] >= 0)]
    alike = np.ones(len(pairs), np.float32)
    if KINDS[kind] != "audio":
        sketch = numbers(table.column("sketch").combine_chunks().take(pa.array(index)), np.uint8)
        for first in range(0, len(pairs), _CHUNK):
            earlier, later = pairs[first : first + _CHUNK].T
            alike[first : first + _CHUNK] = similarity(sketch[earlier], sketch[later])
    pairs, alike = pairs[alike >= least], alike[alike >= least]
    columns = [
        pa.array(places[pairs[:, 1]]),
        pa.array(places[pairs[:, 0]]),
        pa.array(np.full(len(pairs), kind, np.int8)),
        table.column("id").combine_chunks().take(pa.array(index[pairs[:, 0]])),
        pa.array(alike),
    ]
    return pa.Table.from_arrays(columns, schema=MATCHES)


def first_matches(table: pa.Table) -> pa.Table:
    """Of matches from all buckets, for each utterance and kind the one with the first utterance that it repeats.

    Evaluation sets are apart: with them, there may be one more.
    """
    table = table.sort_by([(name, "ascending") for name in ("later", "kind", "earlier")])
    later, kind = table.column("later").to_numpy(), table.column("kind").to_numpy()
    outside = table.column("earlier").to_numpy() < 0
    new = np.ones(len(later), bool)
    new[1:] = (np.diff(later) != 0) | (np.diff(kind) != 0) | (np.diff(outside.astype(np.int8)) != 0)
    return table.filter(pa.array(new))
