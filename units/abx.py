"""ABX discriminability: is a sound nearer to another of its kind than to one of another kind?

A token x of phone p is compared with a, another token of p, and b, a token of phone q. The error is the share of
triples with b nearer to x than a; equal distances count half. Phones before and after (the context) are the same for
all three. Within speakers, one speaker said all three; across speakers, one said a and b, another one x.

Source: Schatz et al. 2013 (Interspeech), "Evaluating speech features with the minimal-pair ABX task"; slices, distances
and averages as in fastabx 0.9 (arXiv:2505.02692), with which a test compares the numbers.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus.keyed import generator
from corpus.records import SAMPLE_RATE
from units.phone_discovery import UndefinedMeasure

SILENCES = ("", "sil", "sp", "spn", "<sil>", "<p:>", "SIL", "SP", "SPN")
TOUCHING = 0.001  # seconds between two phones that follow one another
PAIRS = 2_048  # compared at a time
GROUP = 10  # tokens of a phone in a context by a speaker, as ZeroSpeech limits them
DISTANCES = ("angular", "identical")


@dataclass(frozen=True, slots=True)
class Token:
    """A phone in its context, spoken once: the slice [start, end] of an utterance, in seconds."""

    utterance: int
    start: float
    end: float
    phone: str
    context: tuple[str, str]
    speaker: str


def triphones(phones: Sequence[Sequence[tuple[str, float, float]]], speakers: Sequence[str]) -> list[Token]:
    """Tokens of all phones with a phone on both sides; a slice spans all three.

    Args:
        phones: (name, start, end) of each utterance, in seconds, in order; silence by a label of SILENCES or by a gap.
        speakers: of each utterance.

    >>> spoken = [("HH", 0.0, 0.1), ("AY", 0.1, 0.3), ("T", 0.3, 0.4), ("sil", 0.4, 0.6)]
    >>> [(one.phone, one.context, one.start, one.end) for one in triphones([spoken], ["anna"])]
    [('AY', ('HH', 'T'), 0.0, 0.4)]
    """
    tokens = []
    for number, (known, speaker) in enumerate(zip(phones, speakers, strict=True)):
        for (before, start, first), (phone, own, last), (after, next_start, end) in zip(
            known, known[1:], known[2:], strict=False
        ):
            touch = abs(first - own) <= TOUCHING and abs(last - next_start) <= TOUCHING
            if touch and not {before, phone, after} & set(SILENCES):
                tokens.append(Token(number, start, end, phone, (before, after), speaker))
    return tokens


def read_items(path: Path, names: Sequence[str]) -> list[Token]:
    """Tokens of an item file of ZeroSpeech, Libri-Light or discophon.

    Args:
        path: with a header, then `file onset offset phone previous next speaker` per line.
        names: of the utterances, in order; tokens of other files are left out.

    Raises:
        ValueError: another header or a broken line; or no token of any of the names.
    """
    numbers = {name: number for number, name in enumerate(names)}
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].split()[:4] != ["#file", "onset", "offset", "#phone"]:
        raise ValueError(
            f"{path}: need the header '#file onset offset #phone prev-phone next-phone speaker', got {lines[:1]}"
        )
    tokens = []
    for row, line in enumerate(lines[1:], start=2):
        try:
            name, start, end, phone, before, after, speaker = line.split()
            span = float(start), float(end)
        except ValueError as error:
            raise ValueError(
                f"{path}: line {row}: need seven fields, two of them times, got {line!r}"
            ) from error
        if name in numbers:
            tokens.append(Token(numbers[name], *span, phone, (before, after), speaker))
    if not tokens:
        raise ValueError(
            f"{path}: need an item of {len(names)} recordings such as {list(names)[:2]}, got none"
        )
    return tokens


def abx(
    features: Sequence[np.ndarray],
    tokens: Sequence[Token],
    *,
    hop: int,
    centre: int,
    distance: str = "angular",
    group: int | None = GROUP,
    seed: int = 0,
) -> dict[str, Any]:
    """ABX errors within and across speakers.

    Errors of cells are averaged over contexts (across: and the speakers of x), then over the speakers of a, then over
    pairs of phones, so that frequent ones weigh no more than others.

    Args:
        features: (F, D) of each utterance; for "identical" (F,) or (F, 1), one unit per frame.
        hop: samples from one frame to the next; centre: of frame 0; as in the encoder. A slice has the frames whose
            centres lie in it; tokens without any are left out.
        distance: of frames: "angular" (0 to 1) or "identical" (0 or 1); slices are aligned by dynamic time warping.
        group: tokens of one phone in one context by one speaker, drawn at random where there are more; None: all.

    Returns:
        JSON-able: `within` and `across`, shares of wrong triples (chance: 0.5), each only where the tokens define it;
        `tokens`, `cells_within`, `cells_across`, and `empty`, tokens without a frame.

    Raises:
        UndefinedMeasure: there is not one triple, within or across.
        ValueError: an unknown distance, or features that are not finite.

    >>> frames = [np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])]
    >>> tokens = [Token(0, 0.02 * i, 0.02 * i + 0.019, p, ("s", "t"), "anna") for i, p in enumerate("aab")]
    >>> abx(frames, tokens, hop=320, centre=160)["within"]
    0.0
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance: need one of {', '.join(DISTANCES)}, got {distance!r}")
    slices, kept = [], []
    ready = [
        unit_length(frames) if distance == "angular" else np.reshape(frames, (-1, 1)) for frames in features
    ]
    for token in tokens:
        first = int(np.ceil((token.start * SAMPLE_RATE - centre) / hop - 1e-6))
        last = int(np.floor((token.end * SAMPLE_RATE - centre) / hop + 1e-6))
        frames = ready[token.utterance][max(0, first) : last + 1]
        if last >= 0 and len(frames):
            slices.append(frames)
            kept.append(token)
    chosen = limit_groups(kept, group, seed)
    within, across = cells(kept, chosen)
    every = (*within.values(), *across.values())
    wanted = sorted({pair for a, b, x in every for one in x for pair in pairs_of(a, b, one)})
    known = dict(zip(wanted, distances(slices, wanted, FRAME_DISTANCES[distance]), strict=True))
    result: dict[str, Any] = {"tokens": len(chosen), "empty": len(tokens) - len(kept)}
    for name, found in (("within", within), ("across", across)):
        result[f"cells_{name}"] = len(found)
        if found:
            errors = {key: cell_error(*cell, known) for key, cell in found.items()}
            result[name] = average(errors)
    if not within and not across:
        raise UndefinedMeasure(
            f"ABX: need two phones in one context by one speaker, one of them twice, got {len(tokens)} tokens without"
        )
    return result


def unit_length(frames: np.ndarray) -> np.ndarray:
    """(F, D) frames of length 1; where a frame is zero, it is at a right angle to every other one but zeros."""
    frames = np.asarray(frames, np.float64)
    if not np.isfinite(frames).all():
        raise ValueError("features: need finite numbers, got NaN or infinity")
    length = np.linalg.norm(frames, axis=1, keepdims=True)
    zero = length[:, 0] == 0
    scaled = np.hstack([frames / np.where(length == 0, 1, length), zero[:, None].astype(np.float64)])
    return scaled.astype(np.float32)


def limit_groups(tokens: Sequence[Token], group: int | None, seed: int) -> list[int]:
    """Indices of at most `group` tokens of each phone, context and speaker, drawn at random, in order."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, token in enumerate(tokens):
        groups[token.context, token.phone, token.speaker].append(number)
    chosen: list[int] = []
    for key, numbers in groups.items():
        if group is not None and len(numbers) > group:
            rng = generator(seed, "abx", " ".join((*key[0], key[1], key[2])))
            numbers = [numbers[i] for i in rng.choice(len(numbers), group, replace=False)]
        chosen += numbers
    return sorted(chosen)


Cell = tuple[list[int], list[int], list[int]]
"""Tokens a, b and x."""
Cells = dict[tuple, Cell]


def cells(tokens: Sequence[Token], chosen: Sequence[int]) -> tuple[Cells, Cells]:
    """The cells that have a triple, within and across speakers: (phones, speaker of a, context) -> tokens a, b and x.

    Across speakers the context holds the speaker of x, too.
    """
    spoken: dict[tuple, dict[str, dict[str, list[int]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for number in chosen:
        token = tokens[number]
        spoken[token.context][token.speaker][token.phone].append(number)
    within, across = Cells(), Cells()
    for context, speakers in spoken.items():
        for speaker, phones in speakers.items():
            others = [other for other in speakers if other != speaker]
            for p, a in phones.items():
                for q, b in phones.items():
                    if p == q:
                        continue
                    if len(a) > 1:
                        within[(p, q), (speaker,), context] = a, b, a
                    for other in others:
                        if p in speakers[other]:
                            across[(p, q), (speaker,), (*context, other)] = a, b, speakers[other][p]
    return within, across


def pairs_of(a: Sequence[int], b: Sequence[int], x: int) -> list[tuple[int, int]]:
    """Pairs of x with every a but itself, then with every b; x first, because warping breaks ties by side."""
    return [(x, other) for other in (*a, *b) if other != x]


def cell_error(
    a: Sequence[int], b: Sequence[int], x: Sequence[int], known: Mapping[tuple[int, int], float]
) -> float:
    """The share of triples with b nearer than a; ties count half."""
    wrong = triples = 0.0
    for one in x:
        values = np.array([known[pair] for pair in pairs_of(a, b, one)])
        near, far = values[: -len(b), None], values[None, -len(b) :]
        wrong += float((far < near).sum() + 0.5 * (far == near).sum())
        triples += near.size * far.size
    return wrong / triples


def average(errors: Mapping[tuple, float]) -> float:
    """The mean over contexts, then over speakers, then over pairs of phones."""
    for level in (2, 1):
        grouped: dict[tuple, list[float]] = defaultdict(list)
        for key, error in errors.items():
            grouped[key[:level]].append(error)
        errors = {key: float(np.mean(values)) for key, values in grouped.items()}
    return float(np.mean(list(errors.values())))


def angular(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(P, N, D) and (P, M, D) frames of length 1 -> (P, N, M) angles between them, over pi."""
    return np.arccos(np.clip(x @ y.swapaxes(1, 2), -1, 1)) / np.pi


def identical(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(P, N, 1) and (P, M, 1) units -> (P, N, M) 0 where they are equal, else 1."""
    return (x != y.swapaxes(1, 2)).astype(np.float32)


FRAME_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "angular": angular,
    "identical": identical,
}


def distances(
    slices: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]], between: Callable
) -> list[float]:
    """The warped distance of each pair of slices; pairs of the same two lengths are computed together."""
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (one, other) in enumerate(pairs):
        by_size[len(slices[one]), len(slices[other])].append(number)
    result = np.zeros(len(pairs))
    for numbers in by_size.values():
        for start in range(0, len(numbers), PAIRS):
            block = numbers[start : start + PAIRS]
            x, y = (np.stack([slices[pairs[n][side]] for n in block]) for side in (0, 1))
            result[block] = warp(between(x, y))
    return result.tolist()


def warp(costs: np.ndarray) -> np.ndarray:
    """(P, N, M) distances of frames -> (P,) sums along the cheapest path from corner to corner, over its length.

    A path moves by one frame in one or both; of equally cheap ways back the diagonal is taken, then along the second.

    >>> warp(np.array([[[0.0, 1.0], [1.0, 0.5]]])).tolist()
    [0.25]
    """
    _, rows, columns = costs.shape
    total = np.empty_like(costs)
    length = np.ones(costs.shape, np.int32)
    total[:, 0] = np.cumsum(costs[:, 0], axis=1)
    total[:, :, 0] = np.cumsum(costs[:, :, 0], axis=1)
    length[:, 0], length[:, :, 0] = 1 + np.arange(columns), 1 + np.arange(rows)
    for i in range(1, rows):
        for j in range(1, columns):
            up, left, both = total[:, i - 1, j], total[:, i, j - 1], total[:, i - 1, j - 1]
            diagonal = (both <= left) & (both <= up)
            before = np.where(diagonal, both, np.where(left <= up, left, up))
            steps = np.where(left <= up, length[:, i, j - 1], length[:, i - 1, j])
            total[:, i, j] = costs[:, i, j] + before
            length[:, i, j] = 1 + np.where(diagonal, length[:, i - 1, j - 1], steps)
    return total[:, -1, -1] / length[:, -1, -1]
