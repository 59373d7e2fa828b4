"""Where a long recording is cut into utterances: at pauses, so that no word is cut; what nobody speaks in is cut away.

Everything here counts in frames of `corpus.voice_activity`, 32 ms. The stretches of a recording, kept or cut away,
follow each other without gap or overlap from its first frame to its last.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from corpus.records import SAMPLE_RATE
from corpus.voice_activity import HOP

RATE = SAMPLE_RATE / HOP
"""Frames per second."""

HYSTERESIS = 0.15  # a frame stays speech down to this much below the threshold
SHORTEST_PAUSE = 3  # frames; a shorter gap is part of a word
SHORTEST_SPEECH = 2  # frames; a shorter one is a click
NEIGHBOURS = 8  # frames on either side; a frame inside speech may be cut at where none of them is quieter
EACH, PAUSE, SPEECH = 1.0, 1.0, 100.0
"""Cost of a cut: for the cut itself, in a pause of 0.1 s (less in a longer one), and inside speech of medium level."""
SENTENCE = 0.3  # times the cost of a cut between words, at the end of a sentence
HOLE_PADDING = 3  # frames kept at speech of which the transcript lacks the text
EDGE = 6  # frames after and before a word in which the detector still finds it
NO_TRANSCRIPT = 0.3  # seconds of other speech from which on what is cut away lacks a transcript
QUIET = -50.0  # dB of full scale: below it is silence, whatever else is in the recording
BELOW_SPEECH = 20.0  # dB below the speech of the recording from which on a stretch is silence


@dataclass(frozen=True)
class CutRules:
    """How recordings are cut. Lengths are seconds.

    min_seconds, max_seconds: length of an utterance.
    pause: a longer one ends an utterance, and its middle is cut away.
    padding: kept before and after the speech at a pause that is cut away.
    threshold: probability of speech from which on a frame is speech.
    """

    min_seconds: float = 1.0
    max_seconds: float = 30.0
    pause: float = 1.0
    padding: float = 0.25
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < 3 * self.min_seconds <= self.max_seconds or self.max_seconds < 3:
            raise ValueError(
                f"need 0 < 3 * min_seconds <= max_seconds and max_seconds >= 3, "
                f"got {self.min_seconds} and {self.max_seconds}"
            )
        if not 0 <= 2 * self.padding <= self.pause:
            raise ValueError(f"need 0 <= 2 * padding <= pause, got {self.padding} and {self.pause}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold: need more than 0 and less than 1, got {self.threshold}")


class Stretch(NamedTuple):
    """Frames [first, last) of a recording: an utterance, or with the reason why they are cut away."""

    first: int
    last: int
    reason: str | None = None


def cut_at_pauses(probability: np.ndarray, level: np.ndarray, rules: CutRules) -> list[Stretch]:
    """Cut a recording into utterances and what is cut away.

    Speech with pauses of at most `rules.pause` becomes one utterance where that is not too long; else it is cut at the
    pauses that cost least together, of which long ones cost little, and only where there is none at the quietest frame.

    Args:
        probability, level: (F,) of every frame, as `speech_frames` gives them.

    Returns:
        Stretches in order that cover [0, F). Utterances are min_seconds to max_seconds long, to a frame.

    >>> speech = np.array([0.0] * 50 + [1.0] * 100 + [0.0] * 100 + [1.0] * 60 + [0.0] * 10)
    >>> cut_at_pauses(speech, np.where(speech > 0, -20.0, -90.0), CutRules())
    [Stretch(first=0, last=42, reason='cut.silence'), Stretch(first=42, last=158, reason=None),
     Stretch(first=158, last=242, reason='cut.silence'), Stretch(first=242, last=320, reason=None)]
    """
    speech = find_speech(probability, rules.threshold)
    islands = group(speech, rules, len(probability))
    cuts = pauses(probability, level, rules)
    kept = [piece for first, last in islands for piece in divide(first, last, cuts, rules)]
    loud = level_of_speech(level, speech)
    return fill(kept, rules, level, lambda first, last: reason_of(level[first:last], loud))


def fill(
    kept: Sequence[tuple[int, int]],
    rules: CutRules,
    level: np.ndarray,
    reason: Callable[[int, int], str],
) -> list[Stretch]:
    """The stretches of a whole recording: the kept ones, and between them what is cut away, with its reason."""
    shortest = math.ceil(rules.min_seconds * RATE)
    stretches: list[Stretch] = []
    end = 0
    for first, last in [*kept, (len(level), len(level))]:
        if first > end:
            stretches.append(Stretch(end, first, reason(end, first)))
        if last > first:
            stretches.append(Stretch(first, last, None if last - first >= shortest else "cut.too_short"))
        end = last
    return stretches


class Spoken(NamedTuple):
    """A word of a transcript in frames [first, last).

    sentence: a sentence ends with it. hole: speech follows of which the transcript lacks the text.
    """

    first: int
    last: int
    sentence: bool = False
    hole: bool = False


def cut_at_words(
    words: Sequence[Spoken], probability: np.ndarray, level: np.ndarray, rules: CutRules
) -> list[Stretch]:
    """Cut a recording of which the words are known: between words, at long pauses and ends of sentences.

    Speech outside words, of which the transcript lacks the text, is cut away as `cut.no_transcript`.

    Args:
        words: in order.
        probability, level: (F,) of every frame, as `speech_frames` gives them.

    Returns:
        Stretches as of `cut_at_pauses`.

    >>> speech, level = np.array([0.0] * 50 + [1.0] * 150 + [0.0] * 50), np.full(250, -20.0)
    >>> cut_at_words([Spoken(60, 80), Spoken(82, 120, hole=True)], speech, level, CutRules())
    [Stretch(first=0, last=52, reason='cut.noise'), Stretch(first=52, last=123, reason=None),
     Stretch(first=123, last=250, reason='cut.no_transcript')]
    """
    frames = len(probability)
    speech = find_speech(probability, rules.threshold)
    spoken = np.zeros(frames + 1, bool)
    for first, last in speech:
        spoken[first:last] = True
    islands = lengthen(_spans(words, rules, frames), rules, frames)
    cuts = gaps(words, level)
    kept = [piece for first, last in islands for piece in divide(first, last, cuts, rules)]
    loud = level_of_speech(level, speech)

    def reason(first: int, last: int) -> str:
        unknown = np.count_nonzero(spoken[first + EDGE : last - EDGE]) > NO_TRANSCRIPT * RATE
        return "cut.no_transcript" if unknown else reason_of(level[first:last], loud)

    return fill(kept, rules, level, reason)


def _spans(words: Sequence[Spoken], rules: CutRules, frames: int) -> list[tuple[int, int]]:
    """Frames of the words between long pauses and holes, with padding: little of it at a hole."""
    pause, padding = round(rules.pause * RATE), round(rules.padding * RATE)
    groups: list[list[Spoken]] = []
    for word in words:
        before = groups[-1][-1] if groups else None
        if before is None or before.hole or word.first - before.last > pause:
            groups.append([])
        groups[-1].append(word)
    spans: list[tuple[int, int]] = []
    for number, group in enumerate(groups):
        start = spans[-1][1] if spans else 0
        end = groups[number + 1][0].first - HOLE_PADDING if number + 1 < len(groups) else frames
        before_hole, at_hole = number > 0 and groups[number - 1][-1].hole, group[-1].hole
        first = group[0].first - (HOLE_PADDING if before_hole else padding)
        last = group[-1].last + (HOLE_PADDING if at_hole else padding)
        spans.append((max(start, first), max(group[-1].last, min(last, end))))
    return spans


def find_speech(probability: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Frames [first, last) of speech: begun above the threshold, and ended where it stays below for 0.1 s.

    >>> find_speech(np.array([0.1, 0.6, 0.4, 0.6, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1]), 0.5)
    [(1, 4)]
    """
    possible = _runs(probability >= max(threshold - HYSTERESIS, threshold / 2))
    sure = np.concatenate([[0], np.cumsum(probability >= threshold)])
    merged: list[tuple[int, int]] = []
    for first, last in possible:
        if sure[last] == sure[first]:
            continue
        if merged and first - merged[-1][1] < SHORTEST_PAUSE:
            first = merged.pop()[0]
        merged.append((first, last))
    return [(first, last) for first, last in merged if last - first >= SHORTEST_SPEECH]


def group(speech: Sequence[tuple[int, int]], rules: CutRules, frames: int) -> list[tuple[int, int]]:
    """Join speech over pauses of at most `rules.pause`, with padding; what is too short is lengthened."""
    pause, padding = round(rules.pause * RATE), round(rules.padding * RATE)
    joined: list[list[int]] = []
    for first, last in speech:
        if joined and first - joined[-1][1] <= pause:
            joined[-1][1] = last
        else:
            joined.append([first, last])
    spans = [[max(0, first - padding), min(frames, last + padding)] for first, last in joined]
    if spans and spans[0][0] < padding:
        spans[0][0] = 0
    if spans and frames - spans[-1][1] < padding:
        spans[-1][1] = frames
    return lengthen([(first, last) for first, last in spans], rules, frames)


def lengthen(spans: Sequence[tuple[int, int]], rules: CutRules, frames: int) -> list[tuple[int, int]]:
    """Lengthen what is shorter than min_seconds where there is room, else join it with its neighbour."""
    shortest = math.ceil(rules.min_seconds * RATE)
    islands: list[tuple[int, int]] = []
    for place, (first, last) in enumerate(spans):
        before = islands[-1][1] if islands else 0
        after = spans[place + 1][0] if place + 1 < len(spans) else frames
        last = min(after, last + max(0, shortest - (last - first) + 1) // 2)
        first = max(before, min(first, last - shortest))
        last = min(after, max(last, first + shortest))
        short = last - first < shortest or (islands and before - islands[-1][0] < shortest)
        if islands and short:
            first = islands.pop()[0]
        islands.append((first, last))
    return islands


Cuts = tuple[np.ndarray, np.ndarray]
"""Frames at which a recording may be cut, increasing, and what each costs."""


def divide(first: int, last: int, cuts: Cuts, rules: CutRules) -> Iterator[tuple[int, int]]:
    """Cut frames [first, last) into pieces of at most max_seconds, by the cuts of least cost together."""
    longest, shortest = int(rules.max_seconds * RATE), math.ceil(rules.min_seconds * RATE)
    if last - first <= longest:
        yield first, last
        return
    inside = slice(*np.searchsorted(cuts[0], [first + 1, last]))
    places, costs = np.append(cuts[0][inside], last), np.append(cuts[1][inside], 0.0)
    starts = np.concatenate([[first], places])
    best = np.full(len(starts), np.inf)
    best[0] = 0.0
    came = np.zeros(len(starts), np.int64)
    for number, place in enumerate(places.tolist(), start=1):
        low, high = np.searchsorted(starts[:number], [place - longest, place - shortest + 1])
        if low < high:
            came[number] = low + int(np.argmin(best[low:high]))
            best[number] = best[came[number]] + costs[number - 1] + EACH
    edges, number = [last], int(came[-1])
    while number:
        edges.append(int(starts[number]))
        number = int(came[number])
    yield from itertools.pairwise([first, *reversed(edges)])


def pauses(probability: np.ndarray, level: np.ndarray, rules: CutRules) -> Cuts:
    """Where a recording may be cut: in a pause at its quietest frame, inside speech where no neighbour is quieter.

    There is a place in any half second.
    """
    found: dict[int, float] = {}
    end = 0
    for begin, stop in find_speech(probability, rules.threshold):
        if begin - end >= SHORTEST_PAUSE:
            found[quietest(level, end, begin)] = pause_cost(begin - end)
        end = stop
    return _with_every_half_second(found, level)


def gaps(words: Sequence[Spoken], level: np.ndarray) -> Cuts:
    """Where a recording may be cut: between words, at the quietest frame."""
    found = {
        quietest(level, word.last - 1, following.first): pause_cost(following.first - word.last)
        * (SENTENCE if word.sentence else 1.0)
        for word, following in itertools.pairwise(words)
    }
    return _with_every_half_second(found, level)


def pause_cost(frames: int) -> float:
    """The cost of a cut in a pause."""
    return PAUSE * 0.1 * RATE / max(frames, 0.5)


def quietest(level: np.ndarray, first: int, last: int) -> int:
    """The frame of [first + 1, last], at least one, at which a cut is in the least sound."""
    middle = level[first + 1 : max(last, first + 2)]
    return first + 1 + int(np.argmin(middle)) if len(middle) else first + 1


def _with_every_half_second(found: dict[int, float], level: np.ndarray) -> Cuts:
    """Add dearer places to cut at, in case there are no others: the quietest ones inside speech."""
    medium = float(np.median(level))
    padded = np.pad(level, NEIGHBOURS, constant_values=np.inf)
    lowest = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURS + 1).min(1)
    for place in np.flatnonzero(level <= lowest).tolist():
        found.setdefault(place, SPEECH * min(2.0, 10 ** ((float(level[place]) - medium) / 20)))
    for place in range(NEIGHBOURS, len(level), 2 * NEIGHBOURS):  # of equal levels too
        found.setdefault(place, 4 * SPEECH)
    places = np.array(sorted(found), np.int64)
    return places, np.array([found[place] for place in places.tolist()])


def level_of_speech(level: np.ndarray, speech: Sequence[tuple[int, int]]) -> float:
    """Median level of the frames with speech, dB; -inf where there are none."""
    parts = [level[first:last] for first, last in speech]
    return float(np.median(np.concatenate(parts))) if parts else -math.inf


def reason_of(level: np.ndarray, speech: float) -> str:
    """Why a stretch without speech is cut away: it is silence, or it holds music or noise.

    >>> reason_of(np.array([-70.0, -65.0]), -20.0), reason_of(np.array([-25.0, -30.0]), -20.0)
    ('cut.silence', 'cut.noise')
    """
    return "cut.noise" if np.median(level) > max(QUIET, speech - BELOW_SPEECH) else "cut.silence"


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Frames [first, last) of every run of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def to_sample(frame: int, rate: int) -> int:
    """The start of a frame of 32 ms, counted in samples of a recording of `rate` Hz; the next one before it.

    It is one at which a whole number of samples at 16 kHz begins, so that the lengths of the pieces add up to that of
    the recording; of rates whose samples meet those of 16 kHz less than 20 times a second, the nearest one.

    >>> to_sample(1, 44_100), to_sample(1, 48_000), to_sample(2, 44_101)
    (1323, 1536, 2822)
    """
    step = rate // math.gcd(rate, SAMPLE_RATE)
    if step * 20 > rate:
        step = 1
    return frame * HOP * rate // SAMPLE_RATE // step * step
