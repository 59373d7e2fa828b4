"""Speech that no word covers: another speaker, a sentence that the transcript lacks.

Forced alignment places the words it is given, whatever else is in the recording; other speech becomes a pause or part
of a very long word. Both are measured here: voiced sound outside words, and inside words beyond the time that they can
last. The measure needs no model and depends on no language. Limits are those of `aligners.quality.DEFAULT_LIMITS`.
"""

from collections.abc import Sequence

import numpy as np

from aligners.pauses import HOP, is_quiet, levels
from corpus.records import SAMPLE_RATE, Word

WORD_SECONDS, LETTER_SECONDS = 0.35, 0.09
"""Longest time of a word: a constant and a time per letter; one word in a thousand of real speech is longer."""
ALLOWANCE = 0.25
"""Seconds of uncovered speech that do not count: boundaries are not exact, and speakers clear their throats."""
DECIMATION = 4  # periods are looked for at 4 kHz
WINDOW = 160  # samples at 4 kHz that one frame looks at: 40 ms
LAGS = (10, 67)  # samples at 4 kHz: 400 to 60 Hz
SPECTRUM = (
    256  # samples with zeros behind the window: at least WINDOW + the longest lag, so that no product wraps
)
PERIODIC = 0.5  # autocorrelation, of 1, from which a frame is voiced
NEAR = 501  # frames: a voiced frame is at most `QUIETER` dB below the loudest of the 5 s around it, else it is hum
QUIETER = 16.0
BLOCK = 1000  # frames whose spectra are in memory at a time: about 10 MB


def uncovered(words: Sequence[Word], waveform: np.ndarray) -> tuple[float, float]:
    """Speech outside words.

    Args:
        words: as aligned, in order.
        waveform: (T,) float32, 16 kHz.

    Returns:
        Most voiced seconds in one gap between words, or in one word beyond the time that it can last; and the share of
        all voiced time that is in such places, less `ALLOWANCE`.

    >>> buzz = np.sign(np.sin(np.arange(32_000) * 2 * np.pi * 100 / 16_000)).astype(np.float32)
    >>> wave = np.concatenate([buzz, np.zeros(16_000, np.float32)])
    >>> [round(value, 1) for value in uncovered([Word("hi", 0.0, 0.5)], wave)]
    [1.5, 0.7]
    """
    voiced = np.concatenate([[0.0], np.cumsum(is_voiced(waveform))]) * (HOP / SAMPLE_RATE)
    edges = np.array([0.0, *(edge for word in words for edge in (word.start, word.end)), np.inf])
    frames = np.minimum(np.round(np.minimum(edges, 1e9) * (SAMPLE_RATE / HOP)), len(voiced) - 1).astype(int)
    inside = np.diff(voiced[frames])
    most = np.zeros(len(inside))  # of the time between two edges, outside and inside words by turns
    most[1::2] = [longest(word.spoken) for word in words]
    lengths = np.append(np.diff(edges[:-1]), np.inf)
    beyond = np.clip(lengths - most, 0.0, None)
    missed = np.minimum(inside, beyond)
    return float(missed.max()), float(max(0.0, missed.sum() - ALLOWANCE) / max(voiced[-1], ALLOWANCE))


def longest(spoken: str) -> float:
    """Seconds that words can last at most.

    >>> round(longest("hi"), 2), round(longest("你好"), 2)
    (0.53, 0.89)
    """
    return WORD_SECONDS * (1 + spoken.count(" ")) + LETTER_SECONDS * sum(map(sounds, spoken))


def sounds(char: str) -> int:
    """How many sounds a character stands for: one for a letter of an alphabet, three for a syllable or digit."""
    if not char.isalnum():
        return 0
    return 3 if char.isdigit() or "\u3040" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7ff" else 1


def is_voiced(waveform: np.ndarray) -> np.ndarray:
    """Which frames of 10 ms are voiced speech, (F,) bool: periodic, no background, and not far below what is near."""
    frames = len(waveform) // HOP
    if not frames:
        return np.zeros(0, bool)
    level = levels(waveform)
    loud = ~is_quiet(level) & (level > highest_near(level, NEAR) - QUIETER)
    voiced = loud.copy()
    voiced[loud] = periodicity(waveform, np.flatnonzero(loud)) > PERIODIC
    return np.convolve(np.pad(voiced, 2, mode="edge"), np.ones(5), mode="valid") > 2  # the median of 5


def highest_near(values: np.ndarray, width: int) -> np.ndarray:
    """Maximum of the `width` values around every value, (F,) float; van Herk's method, two passes for any width.

    >>> highest_near(np.array([1.0, 5.0, 2.0, 0.0, 0.0, 3.0]), 3).tolist()
    [5.0, 5.0, 5.0, 2.0, 3.0, 3.0]
    """
    padded = np.full(-(-(len(values) + width) // width) * width, -np.inf)
    padded[width // 2 : width // 2 + len(values)] = values
    blocks = padded.reshape(-1, width)
    up = np.maximum.accumulate(blocks, axis=1).ravel()
    down = np.maximum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
    return np.maximum(down[: len(values)], up[width - 1 : width - 1 + len(values)])


def periodicity(waveform: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Highest autocorrelation between 60 and 400 Hz of some frames, (F,) -> (F,) at most about 1."""
    low = waveform[: len(waveform) // DECIMATION * DECIMATION].reshape(-1, DECIMATION).mean(1)
    hop = HOP // DECIMATION
    padded = np.pad(low, (WINDOW // 2 - hop // 2, WINDOW)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop]
    fewer = WINDOW / (WINDOW - np.arange(*LAGS))  # a long lag leaves fewer products
    peaks = []
    for first in range(0, len(frames), BLOCK):
        block = windows[frames[first : first + BLOCK]]
        spectrum = np.fft.rfft(block - block.mean(1, keepdims=True), SPECTRUM)
        correlation = np.fft.irfft(np.abs(spectrum) ** 2)
        peaks.append((correlation[:, slice(*LAGS)] * fewer).max(1) / np.maximum(correlation[:, 0], 1e-12))
    return np.concatenate([np.zeros(0), *peaks])
