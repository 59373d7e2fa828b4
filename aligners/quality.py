"""Measures of an alignment that need no reference, limits on them, and the distance of two alignments."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from aligners.coverage import uncovered
from corpus.records import SAMPLE_RATE, Reject, Word

MEASURES = {
    "words_per_second": "words of the writing per second of the recording",
    "letters_per_second": "letters of the spoken words per second inside words",
    "speech_fraction": "share of the recording inside words",
    "leading_silence": "seconds before the first word",
    "trailing_silence": "seconds after the last word",
    "longest_silence": "longest pause between two words, seconds",
    "longest_word": "length of the longest word, seconds",
    "mean_confidence": "mean confidence of the words",
    "lowest_confidence": "lowest confidence of a word",
    "short_phones": "share of phones of 30 ms and less, the least a phone's model allows",
    "short_run": "most neighbouring phones of 30 ms and less",
    "snr": "level inside words over the level outside, dB",
    "uncovered_seconds": "most voiced seconds in one gap between words, or in one word beyond its longest time",
    "uncovered_share": "share of the voiced time outside words or beyond their longest time, less 0.25 s",
    "agreement_ms": "median distance of the boundaries from those of the second aligner, ms",
}
"""Measure of an utterance, in the words of `[align.limits]`; backends add their own."""

DEFAULT_LIMITS = {"uncovered_seconds": (0.0, 1.5), "uncovered_share": (0.0, 0.05)}
"""Limits of every backend that `[align.limits]` does not set otherwise.

Measured on 249 real recordings with pocketsphinx and ctc: of right transcripts 99.2 and 100 % stay, also of joined
recordings and at 10 dB SNR; of 160 recordings with one transcript too few, before, between or after the others, 100 and
99.4 % go; of 56 transcripts without 40 % of their words in a row, 98 and 91 %."""

SHORT = 0.0301  # seconds
MIN_OUTSIDE = SAMPLE_RATE // 10  # samples outside words; the level of fewer is not measured


def measure(
    words: Sequence[Word], phones: Sequence[tuple[float, float]] | None, waveform: np.ndarray
) -> dict[str, float]:
    """The measures of one utterance, all but the agreement; those that cannot be computed are left out.

    Args:
        words: as aligned, at least one.
        phones: start and end of every phone, seconds; None where there are none.
        waveform: (T,) float32, 16 kHz.

    >>> wave = np.zeros(32_000, np.float32)
    >>> found = measure([Word("hi", 0.5, 1.0, "hi", 0.5), Word("you", 1.2, 1.5, "you", 0.75)], None, wave)
    >>> {name: round(value, 3) for name, value in found.items() if "silence" in name or "confidence" in name}
    {'leading_silence': 0.5, 'trailing_silence': 0.5, 'longest_silence': 0.2,
     'mean_confidence': 0.625, 'lowest_confidence': 0.5}
    """
    seconds = len(waveform) / SAMPLE_RATE
    starts, ends = np.array([(word.start, word.end) for word in words]).T
    inside = float(np.sum(ends - starts))
    measures = {
        "words_per_second": len(words) / seconds,
        "letters_per_second": sum(map(str.isalnum, "".join(word.spoken for word in words))) / inside,
        "speech_fraction": min(1.0, inside / seconds),
        "leading_silence": float(starts[0]),
        "trailing_silence": max(0.0, seconds - float(ends[-1])),
        "longest_silence": max(0.0, float(np.max(starts[1:] - ends[:-1], initial=0.0))),
        "longest_word": float(np.max(ends - starts)),
    }
    sure = [word.confidence for word in words if word.confidence is not None]
    if sure:
        measures |= {"mean_confidence": float(np.mean(sure)), "lowest_confidence": float(min(sure))}
    if phones:
        short = np.array([end - start <= SHORT for start, end in phones])
        measures |= {"short_phones": float(short.mean()), "short_run": float(longest_run(short))}
    measures["uncovered_seconds"], measures["uncovered_share"] = uncovered(words, waveform)
    snr = signal_to_noise(starts, ends, waveform)
    return measures if snr is None else measures | {"snr": snr}


def longest_run(flags: np.ndarray) -> int:
    """Most neighbouring flags that are set.

    >>> longest_run(np.array([True, False, True, True]))
    2
    """
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return int(np.max(edges[:, 1] - edges[:, 0], initial=0))


def signal_to_noise(starts: np.ndarray, ends: np.ndarray, waveform: np.ndarray) -> float | None:
    """Level inside the words over the level outside, dB; None with too little outside, or digital silence there."""
    cuts = np.round(np.stack([starts, ends], 1).ravel() * SAMPLE_RATE).astype(int)
    blocks = np.split(waveform, cuts)  # outside and inside by turns
    inside, outside = (
        (
            sum(map(len, some)),
            sum(float(np.einsum("t,t->", block, block, dtype=np.float64)) for block in some),
        )
        for some in (blocks[1::2], blocks[::2])
    )
    if outside[0] < MIN_OUTSIDE or outside[1] <= 1e-12 * outside[0] or inside[1] <= 0:
        return None
    return 10 * math.log10(inside[1] / inside[0] / (outside[1] / outside[0]))


def differences(words: Sequence[Word], others: Sequence[Word]) -> np.ndarray:
    """How far each word's boundaries are apart in two alignments of the same words, (N,) ms, mean of start and end.

    >>> differences([Word("hi", 0.1, 0.2)], [Word("hi", 0.12, 0.2)]).round(3).tolist()
    [10.0]
    """
    one, two = (np.array([(word.start, word.end) for word in some]) for some in (words, others))
    return np.abs(one - two).mean(1) * 1000


def agreement(words: Sequence[Word], others: Sequence[Word]) -> float:
    """Median distance of all boundaries of two alignments of the same words, ms."""
    one, two = (np.array([(word.start, word.end) for word in some]) for some in (words, others))
    return float(np.median(np.abs(one - two))) * 1000


Limits = Mapping[str, Sequence[float]]
"""Measure -> [min, max]; both bounds are allowed."""


def check_limits(limits: Limits, known: Iterable[str]) -> None:
    """Refuse limits on unknown measures, and limits that nothing can meet.

    Raises:
        ValueError: names the measure and the known ones.
    """
    names = sorted({*MEASURES, *known})
    for name, bounds in limits.items():
        if name not in names:
            raise ValueError(f"align.limits.{name}: unknown measure; known: {', '.join(names)}")
        numbers = isinstance(bounds, list | tuple) and all(type(bound) in (int, float) for bound in bounds)
        if not numbers or len(bounds) != 2 or not bounds[0] <= bounds[1]:
            raise ValueError(f"align.limits.{name}: need [min, max] with min <= max, got {bounds}")


def judge(quality: Mapping[str, float], limits: Limits) -> Reject | None:
    """The reason why an utterance is outside the limits, None if it is inside.

    >>> judge({"snr": 3.0}, {"snr": [10, 100]})
    Reject('align.low_quality: snr 3 is not in [10, 100] (level inside words over the level outside, dB)')
    """
    for name, (low, high) in limits.items():
        value = quality.get(name)
        meaning = f" ({MEASURES[name]})" if name in MEASURES else ""
        if value is None:
            return Reject("align.low_quality", f"{name} was not measured, and align.limits has a limit on it")
        if not low <= value <= high:
            return Reject("align.low_quality", f"{name} {value:.4g} is not in [{low:g}, {high:g}]{meaning}")
    return None
