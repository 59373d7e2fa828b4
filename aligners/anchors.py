"""Where the words of a long transcript are in a recording, though either may lack what the other has.

A model of the backend `ctc` gives the most probable tokens of the sound. Stretches of six of them that the transcript
has too, in the same order, are anchors: there are about two in a second of speech. Between anchors 20 s apart the words
are aligned; between all words stands a token that fits any sound worse than the right one, so that speech which
the transcript lacks does not go to the words around it. Words for which there is no time between their anchors are
dropped: the recording lacks them.

Source: Moreno et al. 1998, A recursive algorithm for the forced alignment of very long audio segments, for the idea of
anchors; the rest is ours.
"""

import bisect
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from aligners.acoustics import AcousticModel, WindowSettings
from aligners.ctc import LETTERS
from aligners.normalise import Token, normalise
from corpus.records import SAMPLE_RATE, Reject

GRAM = 6  # tokens in a row that sound and transcript share
MOST = 20  # times that they may occur in either; more often they tell nothing
NEAR, DRIFT, SUPPORT = 60, 8, 4
"""An anchor counts where this many others within 60 tokens of sound are at most 8 tokens off its place."""
PIECE = 20.0  # seconds between the anchors that a piece is aligned between
GAP, GAP_WORDS = 3.0, 12  # seconds or words without anchor: pieces end at either side
ANY = 2.0  # by which the log probability of the token for any sound is below the best token's
HOLE = 1.0  # seconds of such sound between two words that are speech which the transcript lacks
SPLITS = 40  # words of a piece with a hole that are tried as the last one before it
CELLS = 4e8  # frames times tokens of the largest piece that is aligned


class Placed(NamedTuple):
    """A token of the transcript and its time in the recording, in samples at 16 kHz.

    `hole`: speech that the transcript lacks follows it.
    """

    token: int
    start: int
    end: int
    hole: bool


class LongAlignment(NamedTuple):
    """The tokens of a transcript, the placed ones among them, in order, and those that the recording lacks.

    Tokens that the model cannot spell are in neither.
    """

    tokens: tuple[Token, ...]
    placed: list[Placed]
    dropped: list[int]


class Sound(NamedTuple):
    """Log probabilities of the stretches of a recording, one after the other.

    log_probs: (F, C) float16.
    starts: (N,) first frame of each stretch.
    samples: (N,) sample at which each begins in the recording.
    """

    log_probs: np.ndarray
    starts: np.ndarray
    samples: np.ndarray


def align_long(
    stretches: Iterable[tuple[int, np.ndarray]], text: str, language: str | None, acoustics: AcousticModel
) -> LongAlignment:
    """Place the words of a transcript in a recording.

    Args:
        stretches: (first sample, waveform at 16 kHz) of the parts with speech, in order.
        text: of the whole recording.
        language: of the text.

    Raises:
        Reject: text.empty, align.out_of_vocabulary, align.unalignable: transcript and recording share nothing.
    """
    tokens = normalise(text, language or "en")
    spelled = [spell(token, language, acoustics) for token in tokens]
    known = [place for place, letters in enumerate(spelled) if letters]
    if not tokens:
        raise Reject("text.empty")
    if not known:
        raise Reject("align.out_of_vocabulary", "the model can spell no word of the transcript")
    sound = encode_speech(stretches, acoustics)
    words = [spelled[place] for place in known]
    anchors = find_anchors(sound.log_probs, words, acoustics)
    if not anchors and len(sound.log_probs) / acoustics.rate > 2 * PIECE:
        raise Reject("align.unalignable", "transcript and recording have no words in common")
    placed: list[Placed] = []
    dropped: list[int] = []
    edges = [(0, 0), *anchors, (len(sound.log_probs), len(words))]
    for (first, word), (last, end) in itertools.pairwise(edges):
        spans = align_piece(sound.log_probs[first:last], words[word:end], acoustics)
        if spans is None:
            dropped += known[word:end]
            if placed and (last - first) / acoustics.rate > HOLE:
                placed[-1] = placed[-1]._replace(hole=True)
            continue
        if placed and spans[0].before > HOLE * acoustics.rate:
            placed[-1] = placed[-1]._replace(hole=True)
        for place, span in zip(known[word:end], spans, strict=True):
            start, stop = to_samples(sound, first + span.first, first + span.last, acoustics)
            placed.append(Placed(place, start, stop, span.after > HOLE * acoustics.rate))
    if not placed:
        raise Reject("align.unalignable", "no word of the transcript fits into the recording")
    return LongAlignment(tokens, placed, dropped)


def spell(token: Token, language: str | None, acoustics: AcousticModel) -> Sequence[int]:
    """The tokens of the model for a token of the transcript; none where it cannot spell it."""
    try:
        return [letter for word in token.spoken for letter in acoustics.spell(word, language)]
    except Reject:
        return ()


def encode_speech(stretches: Iterable[tuple[int, np.ndarray]], acoustics: AcousticModel) -> Sound:
    """Log probabilities of every stretch that is long enough for a frame."""
    parts, starts, samples, frames = [], [], [], 0
    for sample, waveform in stretches:
        if len(waveform) < acoustics.receptive:
            continue
        (log_probs,) = acoustics.log_probs([waveform], WindowSettings(20.0, 2.0, 1))
        parts.append(log_probs.astype(np.float16))
        starts.append(frames)
        samples.append(sample)
        frames += len(log_probs)
    if not parts:
        raise Reject("align.unalignable", "the recording holds no speech")
    return Sound(np.concatenate(parts), np.array(starts), np.array(samples))


def to_samples(sound: Sound, first: int, last: int, acoustics: AcousticModel) -> tuple[int, int]:
    """Frames [first, last) as samples of the recording."""

    def sample(frame: int, of: int) -> int:
        place = int(np.searchsorted(sound.starts, of, side="right")) - 1
        return int(
            sound.samples[place] + max(0, (frame - sound.starts[place]) * acoustics.hop + acoustics.begin)
        )

    return sample(first, first), sample(last, last - 1) + round(acoustics.tail * SAMPLE_RATE)


# Anchors -----------------------------------------------------------------------------------------------------------


def find_anchors(
    log_probs: np.ndarray, words: Sequence[Sequence[int]], acoustics: AcousticModel
) -> list[tuple[int, int]]:
    """(frame, word) of words that certainly begin at that frame, about every 20 s and on either side of gaps."""
    phones, frames = most_probable(log_probs, acoustics)
    letters = np.array([letter for word in words for letter in word])
    owners = np.repeat(np.arange(len(words)), [len(word) for word in words])
    begins = np.diff(owners, prepend=-1) != 0
    distinct = np.diff(letters, prepend=-1) != 0
    letters, owners, begins = letters[distinct], owners[distinct], begins[distinct]
    hits = supported(longest_chain(shared(phones, letters)))
    found: dict[int, int] = {}
    for sound, text in hits:
        for offset in range(1, GRAM):
            if begins[text + offset]:
                found.setdefault(int(owners[text + offset]), int(frames[sound + offset]))
    candidates = sorted((frame, word) for word, frame in found.items() if word)
    return spaced(candidates, acoustics.rate)


def spaced(candidates: Sequence[tuple[int, int]], rate: float) -> list[tuple[int, int]]:
    """Of anchors in order, those that pieces end at."""
    chosen: list[tuple[int, int]] = []
    for place, (frame, word) in enumerate(candidates):
        if chosen and (frame <= chosen[-1][0] or word <= chosen[-1][1]):
            continue
        before = candidates[place - 1][0] if place else 0
        after = candidates[place + 1][0] if place + 1 < len(candidates) else frame
        skipped = word - (candidates[place - 1][1] if place else 0)
        following = candidates[place + 1][1] - word if place + 1 < len(candidates) else 0
        at_gap = max(frame - before, after - frame) > GAP * rate or max(skipped, following) > GAP_WORDS
        if at_gap or frame - (chosen[-1][0] if chosen else 0) > PIECE * rate:
            chosen.append((frame, word))
    return chosen


def most_probable(log_probs: np.ndarray, acoustics: AcousticModel) -> tuple[np.ndarray, np.ndarray]:
    """The most probable token of every frame, repetitions and blanks left out, and the first frame of each."""
    best = np.concatenate(
        [block.argmax(1) for block in np.array_split(log_probs, len(log_probs) // 10_000 + 1)]
    )
    first = np.flatnonzero(np.diff(best, prepend=-1))
    length = np.diff(np.append(first, len(best)))
    needed = 2 if acoustics.rate > 60 else 1  # of frames of 10 ms, one alone is noise
    kept = (best[first] != acoustics.blank) & (length >= needed)
    if acoustics.delimiter is not None:
        kept &= best[first] != acoustics.delimiter
    tokens, frames = best[first[kept]], first[kept]
    distinct = np.diff(tokens, prepend=-1) != 0
    return tokens[distinct], frames[distinct]


def shared(sound: np.ndarray, text: np.ndarray) -> np.ndarray:
    """(N, 2) places in sound and text at which the same `GRAM` tokens begin, without those that are everywhere.

    >>> shared(np.arange(8), np.arange(1, 9)).tolist()
    [[1, 0], [2, 1]]
    """
    grams = [hashes(tokens) for tokens in (sound, text)]
    rare = [np.isin(one, common(other)) for one, other in zip(grams, reversed(grams), strict=True)]
    left, right = np.flatnonzero(rare[0]), np.flatnonzero(rare[1])
    order = right[np.argsort(grams[1][right], kind="stable")]
    keys = grams[1][order]
    low, high = (np.searchsorted(keys, grams[0][left], side=side) for side in ("left", "right"))
    counts = high - low
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([np.repeat(left, counts), order[np.repeat(low, counts) + inside]], axis=1)


def hashes(tokens: np.ndarray) -> np.ndarray:
    """One number for each run of `GRAM` tokens."""
    if len(tokens) < GRAM:
        return np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.int64), GRAM)
    return windows @ (1009 ** np.arange(GRAM, dtype=np.int64))


def common(grams: np.ndarray) -> np.ndarray:
    """The grams that occur, but at most `MOST` times."""
    values, counts = np.unique(grams, return_counts=True)
    return values[counts <= MOST]


def longest_chain(hits: np.ndarray) -> np.ndarray:
    """The most hits in a row that increase in sound and in text, (M, 2).

    >>> longest_chain(np.array([[0, 0], [1, 5], [2, 1], [3, 2], [3, 9]])).tolist()
    [[0, 0], [2, 1], [3, 2]]
    """
    order = np.lexsort((-hits[:, 1], hits[:, 0]))
    tails: list[int] = []  # the lowest place in the text at which a chain of this length ends
    ends: list[int] = []
    came = np.full(len(hits), -1)
    for number in order.tolist():
        text = int(hits[number, 1])
        place = bisect.bisect_left(tails, text)
        tails[place : place + 1] = [text]
        ends[place : place + 1] = [number]
        came[number] = ends[place - 1] if place else -1
    chain = []
    number = ends[-1] if ends else -1
    while number >= 0:
        chain.append(number)
        number = int(came[number])
    return hits[chain[::-1]]


def supported(hits: np.ndarray) -> np.ndarray:
    """The hits of a chain that have enough others near them at nearly the same distance of sound and text."""
    drift = hits[:, 1] - hits[:, 0]
    kept = np.zeros(len(hits), bool)
    low, high = (np.searchsorted(hits[:, 0], hits[:, 0] + shift) for shift in (-NEAR, NEAR))
    for number in range(len(hits)):
        near = drift[low[number] : high[number]]
        kept[number] = np.count_nonzero(np.abs(near - drift[number]) <= DRIFT) > SUPPORT
    return hits[kept]


# Pieces ------------------------------------------------------------------------------------------------------------


class PieceSpan(NamedTuple):
    """Frames [first, last) of a word, and frames of other speech before and after it, up to the next word."""

    first: int
    last: int
    before: int
    after: int


def align_piece(
    log_probs: np.ndarray, words: Sequence[Sequence[int]], acoustics: AcousticModel
) -> list[PieceSpan] | None:
    """Frames of every word of a piece, between which other speech may be; None where they do not fit into it."""
    letters = sum(len(word) for word in words)
    labels = letters + len(words) + 1
    spoken = np.count_nonzero(log_probs.argmax(1) != acoustics.blank) if len(log_probs) else 0
    if not words or letters > LETTERS * max(spoken, 1) / acoustics.rate + GRAM:
        return None
    if len(log_probs) < labels + letters or len(log_probs) * labels > CELLS:
        return None
    scores = log_probs.astype(np.float32)
    others = np.delete(scores, acoustics.blank, axis=1).max(1) - ANY
    emissions = np.concatenate([scores, others[:, None]], axis=1)
    spans, _ = force(emissions, words, range(len(words) + 1), acoustics.blank)
    if max(max(span.before, span.after) for span in spans) > HOLE * acoustics.rate:
        # one hole, with all words before it and all after it in a row: else some would be scattered over it
        places = np.unique(np.linspace(0, len(words), SPLITS).round().astype(int)).tolist()
        tried = [force(emissions, words, [place], acoustics.blank) for place in places]
        spans, _ = max(tried, key=lambda one: one[1])
    return spans


def force(
    emissions: np.ndarray, words: Sequence[Sequence[int]], gaps: Iterable[int], blank: int
) -> tuple[list[PieceSpan], float]:
    """Frames of every word, and the log probability of the path.

    Args:
        emissions: (F, C) log probabilities; the last token fits any sound.
        gaps: words before which, and the number of words after which, that token stands.
    """
    import torch
    from torchaudio.functional import forced_align

    anything, gaps = emissions.shape[1] - 1, set(gaps)
    targets: list[int] = []
    owners: list[int] = []  # -1 - n: the gap before word n
    for number, word in enumerate([*words, ()]):
        if number in gaps:
            targets.append(anything)
            owners.append(-1 - number)
        targets += word
        owners += [number] * len(word)
    paths, scores = forced_align(
        torch.from_numpy(emissions)[None], torch.tensor([targets], dtype=torch.int32), blank=blank
    )
    path = paths[0].numpy()
    filled = path != blank
    begins = filled & np.concatenate([[True], path[1:] != path[:-1]])
    owner = np.array(owners)[np.maximum(np.cumsum(begins) - 1, 0)]
    lengths = np.bincount(-1 - owner[filled & (owner < 0)], minlength=len(words) + 1)
    spans = []
    for number in range(len(words)):
        frames = np.flatnonzero(filled & (owner == number))
        spans.append(
            PieceSpan(int(frames[0]), int(frames[-1]) + 1, int(lengths[number]), int(lengths[number + 1]))
        )
    return spans, float(scores.sum())
