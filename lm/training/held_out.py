"""Held-out documents: packing, scoring, and the n-gram baselines that a model should beat on them.

The loss and the entropies count the same tokens: every token of a held-out document but its first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.model import IGNORE, Model
from lm.training.distributed import all_reduce_sum
from shards.vocabulary import KINDS


@dataclass(frozen=True)
class HeldOut:
    """One stream's held-out documents, packed into N rows of L tokens.

    `ngram_baselines` maps a name to the cost in nats, under an n-gram, of every predicted token in row order:
    `unigram_entropy` (the held-out tokens' own frequencies: no unigram is better on them), `unigram` (frequencies in
    training), `bigram` (pairs in training, of this stream alone) and `mixture_bigram` (pairs of all streams in the
    proportions of the mixture). A model of a mixture does not know a document's stream: it can only guess whether
    `[Text]` or `[Speech]` follows BOS, and whether a text will switch to speech at all, while `bigram` knows. So for
    markers and first tokens `mixture_bigram` is the fair baseline.
    """

    stream: str
    tokens: Tensor  # (N, L) int64
    positions: Tensor  # (N, L) int64
    documents: Tensor  # (N, L) int64, -1 in padding
    targets: Tensor  # (N, L) int64, IGNORE in padding
    ngram_baselines: dict[str, np.ndarray]  # each (P,) float64, P the predicted tokens


def prepare(
    stream: str,
    held_out: Iterable[np.ndarray],
    training: Iterable[np.ndarray],
    *,
    vocabulary_size: int,
    sequence_length: int,
    max_tokens: int = 100_000,
    max_training_tokens: int = 5_000_000,
    mixture: "NGrams | None" = None,
) -> HeldOut:
    """Pack held-out documents and count the n-grams of the training documents.

    Args:
        held_out, training: documents, each (n,) int.
        vocabulary_size: ids in use; each is counted once more than it occurs in the unigram of the training documents.
        sequence_length: L; a longer document is cut, and every token but its first is still predicted once.
        max_tokens, max_training_tokens: read at most this many (whole documents).
        mixture: n-grams of all streams (`mix_ngrams`); None: this stream is the only one.

    Raises:
        ValueError: no held-out document has two tokens.
    """
    documents = list(_up_to(held_out, max_tokens))
    tokens, positions, numbers, targets = pack_rows(documents, sequence_length)
    if not len(tokens):
        raise ValueError(
            f"stream {stream!r}: need a held-out document of two tokens, got none; hold out a larger share of the build"
        )
    predicted = targets != IGNORE
    before, after = tokens[predicted], targets[predicted]
    pairs = NGrams(_up_to(training, max_training_tokens), vocabulary_size)
    own = np.bincount(after, minlength=vocabulary_size) / len(after)
    return HeldOut(
        stream,
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(numbers),
        torch.from_numpy(targets),
        {
            "unigram_entropy": -np.log(own[after]),
            "unigram": -np.log(pairs.unigram(after)),
            "bigram": -np.log(pairs.bigram(before, after)),
            "mixture_bigram": -np.log((mixture or pairs).bigram(before, after)),
        },
    )


def evaluate(
    model: Model,
    test: HeldOut,
    kind_of: Tensor,
    *,
    rows: int,
    chunk: int = 0,
    rank: int = 0,
    world: int = 1,
) -> dict[str, Any]:
    """Loss on held-out documents next to the n-gram baselines, in nats per predicted token, in total and per kind.

    Args:
        kind_of: (V,) int, kind of each id, on the model's device.
        rows: number of rows at a time on each of `world` processes.
    """
    losses = torch.zeros(test.targets.shape, dtype=torch.float64, device=kind_of.device)
    count = len(test.tokens)
    for start in range(0, count, rows * world):
        mine = start + rank * rows
        first = min(
            mine, count - 1
        )  # past the end: repeat the last row, because the other processes wait for this one
        part = slice(first, first + rows)
        tokens, positions, documents, targets = (
            getattr(test, name)[part].to(losses.device)
            for name in ("tokens", "positions", "documents", "targets")
        )
        result = model(tokens, positions, documents, targets=targets, chunk=chunk)
        if mine < count:
            losses[part] = result.double()
    predicted = test.targets != IGNORE
    kind = kind_of.cpu()[test.targets[predicted]].numpy()
    before = kind_of.cpu()[test.tokens[predicted]].numpy()
    costs = {"loss": all_reduce_sum(losses).cpu()[predicted].numpy(), **test.ngram_baselines}

    def mean(chosen: np.ndarray) -> dict[str, Any]:
        return {name: float(cost[chosen].mean()) for name, cost in costs.items()} | {
            "tokens": int(chosen.sum())
        }

    groups = {name: kind == code for code, name in enumerate(KINDS)}
    groups["after_switch"] = before == KINDS.index("marker")
    return mean(kind >= 0) | {
        "kinds": {name: mean(chosen) for name, chosen in groups.items() if chosen.any()}
    }


def mean_loss(scores: Mapping[str, Any], mixture: Mapping[str, float]) -> float:
    """One number of an evaluation: the streams' losses, weighted as in the mixture."""
    return sum(scores[name]["loss"] * weight for name, weight in mixture.items()) / sum(mixture.values())


def sentence(stream: str, score: Mapping[str, Any]) -> str:
    """An evaluation in words.

    >>> sentence("text", {"loss": 4.1, "unigram_entropy": 5.3, "unigram": 5.5, "bigram": 4.2, "tokens": 2100})
    'held-out text: loss 4.100 < unigram entropy 5.300 nats (from training: unigram 5.500, bigram 4.200; 2100 tokens)'
    """
    sign = "<" if score["loss"] < score["unigram_entropy"] else ">="
    return (
        f"held-out {stream}: loss {score['loss']:.3f} {sign} unigram entropy {score['unigram_entropy']:.3f} nats "
        f"(from training: unigram {score['unigram']:.3f}, bigram {score['bigram']:.3f}; {score['tokens']} tokens)"
    )


def pack_rows(
    documents: Iterable[np.ndarray], length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pack documents one after the other into rows of `length`; only one longer than a row crosses its end.

    Returns:
        tokens, positions, documents (-1 in padding), targets (IGNORE in padding): each (N, length) int64.

    >>> tokens, positions, documents, targets = pack_rows([np.array([1, 2, 3]), np.array([4, 5, 6, 7, 8])], 3)
    >>> tokens.tolist(), targets.tolist()
    ([[1, 2, 0], [4, 5, 6], [7, 0, 0]], [[2, 3, -1], [5, 6, 7], [8, -1, -1]])
    """
    rows: list[list[np.ndarray]] = []
    room = 0
    for document in documents:
        for start in range(0, len(document) - 1, length):
            piece = document[start : start + length + 1]  # inputs and, one further, targets
            if len(piece) - 1 > room:
                rows.append([])
                room = length
            rows[-1].append(piece)
            room -= len(piece) - 1
    out = np.zeros((4, len(rows), length), np.int64)
    out[2:] = -1
    for row, pieces in enumerate(rows):
        start = 0
        for number, piece in enumerate(pieces):
            n = len(piece) - 1
            out[:, row, start : start + n] = piece[:-1], np.arange(n), np.full(n, number), piece[1:]
            start += n
    return out[0], out[1], out[2], out[3]


def mix_ngrams(
    streams: Mapping[str, Iterable[np.ndarray]],
    mixture: Mapping[str, float],
    vocabulary_size: int,
    *,
    max_tokens: int = 5_000_000,
) -> "NGrams":
    """N-grams of several streams, each weighted by its share of the mixture.

    >>> one, two = [np.array([0, 1])] * 3, [np.array([0, 2])]
    >>> mix_ngrams({"a": one, "b": two}, {"a": 0.5, "b": 0.5}, 3).unigram(np.array([1, 2])).tolist()
    [0.42857142857142855, 0.42857142857142855]
    """
    read = {name: list(_up_to(streams[name], max_tokens)) for name in mixture}
    predicted = {name: sum(max(len(one) - 1, 0) for one in documents) for name, documents in read.items()}
    total, weights = sum(predicted.values()), sum(mixture.values())
    documents, counts = [], []
    for name, own in read.items():
        documents += own
        counts += [mixture[name] / weights * total / max(predicted[name], 1)] * len(own)
    return NGrams(documents, vocabulary_size, counts)


class NGrams:
    """Unigram and bigram probabilities of a corpus.

    The unigram adds one to every count; a document's first token, which is not predicted, does not count. The bigram
    mixes pair frequencies with the unigram after Witten and Bell: the more different tokens followed `a`, the more
    probability is reserved for unseen ones.

    Source: Witten & Bell 1991, "The zero-frequency problem", method C.

    >>> model = NGrams([np.array([0, 1, 0, 1, 0])], 3)
    >>> model.unigram(np.array([0, 1, 2])).tolist()
    [0.42857142857142855, 0.42857142857142855, 0.14285714285714285]
    >>> float(model.bigram(np.array([1]), np.array([0]))[0])  # (2 + 1 * 3 / 7) / (2 + 1)
    0.8095238095238094
    """

    def __init__(
        self, documents: Iterable[np.ndarray], vocabulary_size: int, times: Sequence[float] | None = None
    ):
        """`times`: weight of each document; None: 1."""
        self.size = vocabulary_size
        counts = np.zeros(vocabulary_size)
        pairs, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
        for number, document in enumerate(documents):
            document = document.astype(np.int64)
            weight = 1.0 if times is None else times[number]
            counts += weight * np.bincount(document[1:], minlength=vocabulary_size)
            pairs.append(document[:-1] * vocabulary_size + document[1:])
            weights.append(np.full(len(pairs[-1]), weight))
        self.probabilities = (counts + 1) / (counts + 1).sum()
        self.pairs, index = np.unique(np.concatenate(pairs), return_inverse=True)
        self.pair_counts = np.bincount(index, np.concatenate(weights), minlength=len(self.pairs))
        first = self.pairs // vocabulary_size
        self.seen = np.bincount(first, weights=self.pair_counts, minlength=vocabulary_size)
        self.followers = np.bincount(first, minlength=vocabulary_size)

    def unigram(self, tokens: np.ndarray) -> np.ndarray:
        return self.probabilities[tokens]

    def bigram(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        unigram = self.unigram(after)
        pair = before * self.size + after
        if not len(self.pairs):
            return unigram
        at = np.minimum(np.searchsorted(self.pairs, pair), len(self.pairs) - 1)
        count = np.where(self.pairs[at] == pair, self.pair_counts[at], 0)
        seen, followers = self.seen[before], self.followers[before]
        smoothed = (count + followers * unigram) / np.maximum(seen + followers, 1)
        return np.where(seen > 0, smoothed, unigram)


def _up_to(documents: Iterable[np.ndarray], max_tokens: int) -> Iterable[np.ndarray]:
    read = 0
    for document in documents:
        yield document
        read += len(document)
        if read >= max_tokens:
            return
