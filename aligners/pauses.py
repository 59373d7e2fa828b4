"""Long pauses removed from a recording, with the mapping back to its times.

Aligners normalise features by their mean over the recording and search with beams; minutes of silence spoil both. One
second is left at either end of a pause, so that no word loses its edges.
"""

from dataclasses import dataclass

import numpy as np

from corpus.records import SAMPLE_RATE

HOP = SAMPLE_RATE // 100
"""Samples of the frames that levels are measured in and pauses are cut at: 10 ms."""

LONGEST = 400  # frames: a longer pause is shortened
KEPT = 100  # frames left at either end of it
SMOOTHED = 5  # frames that a level is averaged over
FLOOR = 1e-10  # lowest mean square, -100 dB
DIGITAL = -90.0  # dB: below it is digital silence
LEAST_GAP = 6.0  # dB from background to speech; with less, only digital silence is quiet
MOST_GAP = 15.0  # dB above the background up to which a frame may be quiet
STEADY = 2.0  # dB: lower spread of the level than speech has in any second (syllables: 5 and more)
BELOW_SPEECH = 10.0  # dB below the loudest second that steady noise must lie to be a pause


@dataclass(frozen=True)
class Shortened:
    """A recording without its long pauses.

    waveform: (T,) float32, 16 kHz; the recording's own array where nothing was removed.
    starts: (N,) int, frames of `waveform`, increasing, at which kept stretches begin; the first is 0.
    moves: (N,) int, frames to add from there on to be in the recording's time.
    """

    waveform: np.ndarray
    starts: np.ndarray
    moves: np.ndarray

    def interval(self, first: float, last: float) -> tuple[float, float]:
        """Frames [first, last) of the shortened recording as frames of the recording; parts of frames are allowed.

        An interval over a cut stays on the side that holds more of it.
        """
        index = int(np.searchsorted(self.starts, first, side="right")) - 1
        inside = [
            (min(last, after) - max(first, before), at) for before, after, at in self._stretches(index, last)
        ]
        _, at = max(inside, key=lambda one: (one[0], -one[1]))
        begin, end = self.starts[at], self.starts[at + 1] if at + 1 < len(self.starts) else last
        return max(first, int(begin)) + int(self.moves[at]), min(last, int(end)) + int(self.moves[at])

    def _stretches(self, index: int, last: float) -> list[tuple[float, float, int]]:
        edges: list[float] = [*self.starts.tolist(), max(last, int(self.starts[-1]) + 1)]
        return [(edges[at], edges[at + 1], at) for at in range(index, len(self.starts)) if edges[at] < last]


def shorten(waveform: np.ndarray) -> Shortened:
    """Remove the middle of every pause of more than 4 s.

    Args:
        waveform: (T,) float32, 16 kHz.

    >>> tone = np.sin(np.arange(16_000)).astype(np.float32)
    >>> whole = np.concatenate([tone, np.zeros(160_000, np.float32), tone])
    >>> short = shorten(whole)
    >>> len(short.waveform) / 16_000, short.interval(320, 350)
    (4.04, (1116, 1146))
    """
    nothing = Shortened(waveform, np.zeros(1, np.int64), np.zeros(1, np.int64))
    if len(waveform) <= LONGEST * HOP:
        return nothing
    quiet = is_quiet(levels(waveform))
    if quiet.all():  # silence only: the reject must not be "too short"
        return nothing
    edges = np.flatnonzero(np.diff(quiet.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    cuts = [(first + KEPT, last - KEPT) for first, last in edges.tolist() if last - first > LONGEST]
    if not cuts:
        return nothing
    begins = np.array([0, *(last for _, last in cuts)])
    ends = [*(first for first, _ in cuts), None]
    kept = [
        waveform[first * HOP : None if last is None else last * HOP]
        for first, last in zip(begins.tolist(), ends, strict=True)
    ]
    removed = np.cumsum([0, *(last - first for first, last in cuts)])
    return Shortened(np.concatenate(kept), begins - removed, removed)


def levels(waveform: np.ndarray) -> np.ndarray:
    """Level of every whole frame, (F,) dB, smoothed over 50 ms; without copies of the waveform."""
    frames = waveform[: len(waveform) // HOP * HOP].reshape(-1, HOP)
    centred = (
        np.einsum("fh,fh->f", frames, frames, dtype=np.float64) / HOP - frames.mean(1, dtype=np.float64) ** 2
    )
    padded = np.pad(np.maximum(centred, 0.0), SMOOTHED // 2, mode="edge")
    smooth = np.convolve(padded, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
    return 10 * np.log10(np.maximum(smooth, FLOOR))


def is_quiet(level: np.ndarray) -> np.ndarray:
    """Which frames are background: little above its level, or steadier than speech and well below the loudest second.

    Digital silence is always quiet and does not enter the estimate of the background.
    """
    audible = np.sort(level[level > DIGITAL])
    if not len(audible):
        return np.ones(len(level), bool)
    background, loudest = np.percentile(audible, 5), audible[-min(100, len(audible))]
    gap = loudest - background
    limit = background + min(gap / 2, MOST_GAP) if gap >= LEAST_GAP else DIGITAL
    steady = (spread(level) < STEADY) & (level < loudest - BELOW_SPEECH)
    return (level < max(limit, DIGITAL)) | steady


def spread(level: np.ndarray, frames: int = 100) -> np.ndarray:
    """Standard deviation of the level in the second around every frame, (F,) dB."""
    padded = np.pad(level, (frames // 2, frames - frames // 2 - 1), mode="edge")
    sums = [np.cumsum(np.concatenate([[0.0], padded**power])) for power in (1, 2)]
    first, second = ((total[frames:] - total[:-frames]) / frames for total in sums)
    return np.sqrt(np.maximum(second - first**2, 0.0))
