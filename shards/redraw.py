"""Documents of a buffer of samples: as the shard holds them, or with new spans in every epoch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from shards.interleave import interleave_batch, interleave_spans
from shards.lanes import Sample
from shards.samples import read_utterance
from shards.sequence import make_document
from shards.strategies import Strategy, draw_spans, span_generator, strategy_of
from shards.tar import decode
from shards.utterance import within
from shards.vocabulary import Vocabulary

MATERIALISED = frozenset({"tokens.npy"})
"""The members that `materialised_documents` reads."""

_ARRAYS = {"text.npy": np.int32, "ends.npy": np.int32, "units.npy": np.int16, "times.npy": np.float64}
REDRAWN = frozenset({"json", "pitch.npy", "style.npy", *_ARRAYS})
"""The members that `redrawn_documents` reads."""


def materialised_documents(samples: list[Sample], epoch: int) -> list[np.ndarray]:
    """The documents as the shard holds them."""
    return _one_by_one(lambda key, members: decode("tokens.npy", members["tokens.npy"], key), samples)


def redrawn_documents(
    vocabulary: Vocabulary,
    seed: int,
    strategy: Strategy | None,
    shared: Mapping[str, Any],
    samples: list[Sample],
    epoch: int,
) -> list[np.ndarray]:
    """The utterances with new spans for this epoch: in one pass if possible, else one by one.

    Args:
        strategy: how to draw; None for that of the samples.
        shared: what all samples share, from the index of their build.

    Raises:
        ValueError: a sample cannot be used; the message names it and its shard.
    """
    documents = redraw_batch(samples, epoch, vocabulary, seed, strategy, shared)
    return documents or _one_by_one(partial(redraw_sample, vocabulary, seed, strategy, epoch), samples)


def redraw_sample(
    vocabulary: Vocabulary,
    seed: int,
    strategy: Strategy | None,
    epoch: int,
    key: str,
    members: Mapping[str, bytes],
) -> np.ndarray:
    """The document of one utterance with new spans for this epoch."""
    sample = {name: decode(name, content, key) for name, content in members.items()}
    utterance = read_utterance({"__key__": key, **sample}, vocabulary)
    record = sample["json"]
    if strategy is None and record["strategy"] is None:
        raise ValueError(f"sample {key}: has no strategy to draw its spans with; give the stream one")
    spans = draw_spans(
        utterance.words, strategy or strategy_of(record["strategy"]), span_generator(seed, epoch, key)
    )
    return make_document(interleave_spans(utterance, spans), vocabulary, eos=record["eos"])


def redraw_batch(
    samples: Sequence[Sample],
    epoch: int,
    vocabulary: Vocabulary,
    seed: int,
    strategy: Strategy | None,
    shared: Mapping[str, Any],
) -> list[np.ndarray] | None:
    """What `redraw_sample` gives for each sample, in one pass; None if anything is wrong with one of them.

    Going through them one by one then finds and names it. Checked here is what a `TokenizedUtterance` checks.
    """
    try:
        if strategy is None:
            strategy = strategy_of(shared["strategy"])
        columns = [[decode(name, members[name], key) for _, key, members in samples] for name in _ARRAYS]
        texts, text_ends, units, times = columns
        if not _is_valid(texts, text_ends, units, times, vocabulary):
            return None
        prosody: dict[str, Any] = {}
        for name in ("pitch", "style"):
            if any(f"{name}.npy" in members for _, _, members in samples):
                values = [decode(f"{name}.npy", members[f"{name}.npy"], key) for _, key, members in samples]
                known = within(np.concatenate(values), getattr(vocabulary, name))
                if not known or any((array.dtype, array.ndim) != (np.int16, 1) for array in values):
                    return None
                prosody |= {name: values, f"{name}_rate": shared[f"{name}_rate"]}
        spans = [
            draw_spans(len(ends), strategy, span_generator(seed, epoch, key))
            for ends, (_, key, _) in zip(text_ends, samples, strict=True)
        ]
        rates = {name: shared[name] for name in ("unit_rate", "unit_centre")}
        sequences = interleave_batch(
            texts, text_ends, units, times, spans, vocabulary=vocabulary, **rates, **prosody
        )
        return [make_document(ids, vocabulary, eos=shared["eos"]) for ids in sequences]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _one_by_one(
    document_of: Callable[[str, Mapping[str, bytes]], np.ndarray], samples: list[Sample]
) -> list[np.ndarray]:
    """The documents of samples; errors name the shard."""
    documents = []
    for path, key, members in samples:
        try:
            documents.append(document_of(key, members))
        except KeyError as error:
            raise ValueError(f"{path}: sample {key} lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
    return documents


def _is_valid(
    texts: list[np.ndarray],
    text_ends: list[np.ndarray],
    units: list[np.ndarray],
    times: list[np.ndarray],
    vocabulary: Vocabulary,
) -> bool:
    """Whether all samples follow the schema and have words and frames."""
    for arrays, dtype in zip((texts, text_ends, units, times), _ARRAYS.values(), strict=True):
        if any(array.dtype != dtype for array in arrays):
            return False
    if any(array.ndim != 1 or not len(array) for arrays in (texts, text_ends, units) for array in arrays):
        return False
    if any(array.shape != (2, len(ends)) for array, ends in zip(times, text_ends, strict=True)):
        return False
    if any(ends[-1] != len(text) for ends, text in zip(text_ends, texts, strict=True)):
        return False
    last = np.cumsum([len(ends) for ends in text_ends]) - 1
    first = np.append(0, last[:-1] + 1)
    ends, (starts, stops) = np.concatenate(text_ends), np.concatenate(times, axis=1)

    def is_rising(values: np.ndarray) -> bool:
        rising = values[1:] >= values[:-1]
        rising[last[:-1]] = True  # from one utterance to the next they may fall
        return bool(values[first].min() >= 0 and rising.all())

    in_order = is_rising(ends) and is_rising(starts) and is_rising(stops)
    finite = bool((starts < stops).all() and np.isfinite(stops[last]).all())
    ids = within(np.concatenate(texts), vocabulary.text_size) and within(
        np.concatenate(units), vocabulary.units
    )
    return in_order and finite and ids
