"""Interleavings of many samples drawn anew at once: what a loader does for every window of every epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shards.interleave import Strategy, document, generator, spans, strategy_of, weave_all
from shards.lanes import Sample
from shards.tar import decode
from shards.utterance import within
from shards.vocabulary import Vocabulary

_MEMBERS = {"text.npy": np.int32, "ends.npy": np.int32, "units.npy": np.int16, "times.npy": np.float64}


def redraw_all(
    samples: Sequence[Sample],
    epoch: int,
    vocabulary: Vocabulary,
    seed: int,
    strategy: Strategy | None,
    shared: Mapping[str, Any],
) -> list[np.ndarray] | None:
    """Documents of all samples, interleaved anew; None if that cannot be done for all of them together.

    That is so where anything is wrong with one: going through them one by one finds and names it. What is checked
    here is what a `TokenizedUtterance` checks.

    Args:
        strategy: how to draw; None for that of the samples.
        shared: what all samples share, as the index of their build says.
    """
    try:
        if strategy is None:
            strategy = strategy_of(shared["strategy"])
        columns = [[decode(name, members[name], key) for _, key, members in samples] for name in _MEMBERS]
        texts, text_ends, units, times = columns
        if not _sound(texts, text_ends, units, times, vocabulary):
            return None
        expressive: dict[str, Any] = {}
        for name in ("pitch", "style"):
            if any(f"{name}.npy" in members for _, _, members in samples):
                found = [decode(f"{name}.npy", members[f"{name}.npy"], key) for _, key, members in samples]
                known = within(np.concatenate(found), getattr(vocabulary, name))
                if not known or any((one.dtype, one.ndim) != (np.int16, 1) for one in found):
                    return None
                expressive |= {name: found, f"{name}_rate": shared[f"{name}_rate"]}
        keys = [key for _, key, _ in samples]
        plans = [
            spans(len(one), strategy, generator(seed, epoch, key))
            for one, key in zip(text_ends, keys, strict=True)
        ]
        rates = {name: shared[name] for name in ("unit_rate", "unit_centre")}
        woven = weave_all(texts, text_ends, units, times, plans, vocabulary=vocabulary, **rates, **expressive)
        return [document(ids, vocabulary, eos=shared["eos"]) for ids in woven]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _sound(
    texts: list[np.ndarray],
    text_ends: list[np.ndarray],
    units: list[np.ndarray],
    times: list[np.ndarray],
    vocabulary: Vocabulary,
) -> bool:
    """Whether every sample follows the schema and has words and frames."""
    for arrays, dtype in zip((texts, text_ends, units, times), _MEMBERS.values(), strict=True):
        if any(one.dtype != dtype for one in arrays):
            return False
    if any(one.ndim != 1 or not len(one) for arrays in (texts, text_ends, units) for one in arrays):
        return False
    if any(one.shape != (2, len(ends)) for one, ends in zip(times, text_ends, strict=True)):
        return False
    if any(ends[-1] != len(text) for ends, text in zip(text_ends, texts, strict=True)):
        return False
    last = np.cumsum([len(ends) for ends in text_ends]) - 1
    first = np.append(0, last[:-1] + 1)
    ends, (starts, stops) = np.concatenate(text_ends), np.concatenate(times, axis=1)

    def rise(values: np.ndarray) -> bool:
        rising = values[1:] >= values[:-1]
        rising[last[:-1]] = True  # from one utterance to the next they may fall
        return bool(values[first].min() >= 0 and rising.all())

    in_order = rise(ends) and rise(starts) and rise(stops)
    finite = bool((starts < stops).all() and np.isfinite(stops[last]).all())
    ids = within(np.concatenate(texts), vocabulary.text_size) and within(
        np.concatenate(units), vocabulary.units
    )
    return in_order and finite and ids
