"""Likelihoods of sequences under a model: one pass over packed documents of any lengths.

A sequence is a prompt and an ending. The log-probabilities of all tokens but the first are summed, over the whole
sequence and over the ending alone, both over the whole vocabulary (as the paper does) and with the other modality's
logits left out: a text token over text ids, a unit, pitch or style token over those, a marker over everything.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm.model import Model
from shards.vocabulary import Vocabulary


class Likelihood(NamedTuple):
    """Nats of one sequence, and the tokens they are of."""

    ending: float
    whole: float
    ending_masked: float  # the other modality's logits left out
    whole_masked: float
    ending_tokens: int
    whole_tokens: int  # all but the first, which nothing predicts


def likelihoods(
    model: Model,
    vocabulary: Vocabulary,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_tokens: int = 8192,
) -> list[Likelihood]:
    """Log-likelihoods of (prompt, ending) pairs of ids.

    Equal sequences are read once, so that they tie exactly. What a batch holds beside a sequence does not change its
    likelihood but in the last bits: each document attends to itself alone.

    Args:
        batch_tokens: approximate number of tokens of one forward pass; a longer sequence is a batch of its own.

    Raises:
        ValueError: a sequence without a prompt or an ending, an id the model does not know, or more positions than it
            was made for; the message says which sequence.
    """
    check(model, vocabulary, sequences)
    pairs = [(tuple(prompt), tuple(ending)) for prompt, ending in sequences]
    distinct = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    scores: dict[tuple, Likelihood] = {}
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in batches(distinct, batch_tokens):
            scores |= zip(batch, _score(model, vocabulary, batch, batch_tokens), strict=True)
    model.train(was_training)
    return [scores[pair] for pair in pairs]


def check(
    model: Model, vocabulary: Vocabulary, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> None:
    """Refuse sequences that cannot be scored."""
    rows, most = model.settings.vocab_size, model.settings.max_position_embeddings
    if rows != vocabulary.padded_size:
        raise ValueError(
            f"model: has {rows} rows, the vocabulary {vocabulary.padded_size}; they do not match"
        )
    for number, (prompt, ending) in enumerate(sequences):
        if not len(prompt) or not len(ending):
            raise ValueError(
                f"sequence {number}: need a prompt and an ending, got {len(prompt)} and {len(ending)} ids"
            )
        low, high = min(min(prompt), min(ending)), max(max(prompt), max(ending))
        if low < 0 or high >= vocabulary.size:
            raise ValueError(f"sequence {number}: need ids in [0, {vocabulary.size}), got {low} .. {high}")
        if len(prompt) + len(ending) > most:
            raise ValueError(
                f"sequence {number}: {len(prompt) + len(ending)} tokens are more than the model's {most} positions"
            )


def batches(pairs: Iterable[tuple[tuple, tuple]], tokens: int) -> Iterable[list[tuple[tuple, tuple]]]:
    """Consecutive pairs, as many per batch as `tokens` allows."""
    batch: list[tuple[tuple, tuple]] = []
    room = tokens
    for pair in pairs:
        length = len(pair[0]) + len(pair[1]) - 1
        if batch and length > room:
            yield batch
            batch, room = [], tokens
        batch.append(pair)
        room -= length
    if batch:
        yield batch


def _score(
    model: Model, vocabulary: Vocabulary, batch: Sequence[tuple[tuple, tuple]], batch_tokens: int
) -> list[Likelihood]:
    """Likelihoods of the sequences of one batch, packed one after the other in one row."""
    row, targets, lengths = packed(batch, model.device, batch_tokens)
    logits = model(*row)[0, : len(targets)]
    free, masked = log_probabilities(logits, torch.from_numpy(targets).to(model.device), vocabulary)
    nats = torch.stack((free, masked)).double().cpu().numpy()
    ends = lengths.cumsum()
    result = []
    for (_, ending), length, end in zip(batch, lengths, ends, strict=True):
        whole = nats[:, end - length : end]
        last = whole[:, -len(ending) :]
        (ending_free, ending_masked), (whole_free, whole_masked) = last.sum(1).tolist(), whole.sum(1).tolist()
        result.append(
            Likelihood(ending_free, whole_free, ending_masked, whole_masked, len(ending), int(length))
        )
    return result


def packed(
    batch: Sequence[tuple[tuple, tuple]], device: torch.device, batch_tokens: int
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Sequences packed one after the other in one row.

    Returns:
        tokens, positions and documents, (3, 1, L) int64, as the model takes them; targets (N,) int64, N <= L; and the
        number of targets of each sequence.
    """
    ids = [np.array(prompt + ending) for prompt, ending in batch]
    lengths = np.array([len(row) - 1 for row in ids])
    tokens = np.concatenate([row[:-1] for row in ids])
    targets = np.concatenate([row[1:] for row in ids])
    numbers = np.arange(len(ids)).repeat(lengths)
    positions = np.concatenate([np.arange(length) for length in lengths])
    row = torch.from_numpy(np.stack((tokens, positions, numbers)))[:, None].to(device)
    if row.device.type == "cuda":  # one shape for all batches: flex_attention is compiled for it
        row = torch.nn.functional.pad(row, (0, -row.shape[-1] % batch_tokens))
        row[2, 0, len(tokens) :] = -1
    return row, targets, lengths


def log_probabilities(logits: Tensor, targets: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Log-probabilities of targets, over all ids and over their own modality's.

    Args:
        logits: (N, V).
        targets: (N,) int64.

    Returns:
        Both (N,) float32.
    """
    logits = logits.float()
    chosen = logits.gather(1, targets[:, None])[:, 0]
    everything = logits.logsumexp(1)
    own = everything.clone()
    text = targets < vocabulary.text_size
    first, last = vocabulary.first_unit, vocabulary.first_style + vocabulary.style
    speech = (targets >= first) & (targets < last)
    own[text] = logits[text, : vocabulary.text_size].logsumexp(1)
    own[speech] = logits[speech, first:last].logsumexp(1)
    return chosen - everything, chosen - own
