"""How well sounds fit the phones that an aligner placed on them: confidence for aligners that give none.

Goodness of pronunciation (Witt and Young 2000, doi:10.1016/S0167-6393(99)00044-8): the log probability of the aligned
phone given the sound. Every third of every phone is one Gaussian of mel cepstra with a diagonal covariance; they are
fitted on the aligner's own alignments of a build, so that the measure works in any language and with any phone set.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aligners.alignment import Phone
from units.logistic import fit_logistic
from units.mfcc import SHIFT, MfccEncoder
from units.tensor_files import read_artifact, write_artifact

FORMAT = "wordweave-goodness-1"
PARTS = 3  # Gaussians per phone, one after the other
FLOOR = 0.05  # lowest variance; features have variance 1
FEWEST = 10.0  # frames a Gaussian is mixed with, of the background: rare phones are uncertain
LOWEST = -12.0  # a frame's log probability is at least this: one burst of noise does not decide


def features(waveform: np.ndarray) -> np.ndarray:
    """(F, 39) mel cepstra every 10 ms."""
    return MfccEncoder(100).encode([waveform])[0]


def frames_of(phone: Phone, count: int) -> tuple[int, int]:
    """[first, last) of the frames of a phone, at least one where there is any."""
    centre = 200  # samples: middle of the first frame
    first, last = ((time * 16_000 - centre) / SHIFT for time in (phone.start, phone.end))
    begin = min(max(0, math.ceil(first)), max(0, count - 1))
    return begin, min(count, max(begin + 1, math.ceil(last)))


@dataclass(frozen=True)
class Goodness:
    """The Gaussians, and the calibration of scores.

    phones: names; means, variances: (PARTS * P, 39); slope, offset: of the logistic curve from a word's score to its
    confidence; minimum: mean score per frame below which an utterance has another transcript.
    """

    phones: tuple[str, ...]
    means: np.ndarray
    variances: np.ndarray
    slope: float = 1.0
    offset: float = 0.0
    minimum: float = -math.inf

    def log_probabilities(self, frames: np.ndarray) -> np.ndarray:
        """(F, PARTS * P) log probability of every part of every phone given a frame, all alike beforehand."""
        inverse = 1 / self.variances
        constant = np.sum(np.log(self.variances), 1) + np.sum(self.means**2 * inverse, 1)
        square = frames.astype(np.float64) ** 2 @ inverse.T - 2 * (frames @ (self.means * inverse).T)
        logs = -0.5 * (square + constant)
        highest = logs.max(1, keepdims=True)
        return np.maximum(logs - highest - np.log(np.exp(logs - highest).sum(1, keepdims=True)), LOWEST)

    def scores(self, phones: Sequence[Phone], waveform: np.ndarray) -> list[tuple[float, int]]:
        """(sum of log probabilities, frames) of every phone."""
        logs = self.log_probabilities(features(waveform))
        offset_of = {name: PARTS * number for number, name in enumerate(self.phones)}
        scores = []
        for phone in phones:
            first, last = frames_of(phone, len(logs))
            if phone.text in offset_of and last > first:
                rows = np.arange(first, last)
                columns = offset_of[phone.text] + parts_of(last - first)
                scores.append((float(logs[rows, columns].sum()), last - first))
            else:
                scores.append((0.0, 0))  # noise and unknown words are not judged
        return scores

    def confidence(self, score: float, phones: int) -> float:
        """Probability that a word of some phones with a mean score per frame is the right one."""
        return 1 / (1 + math.exp(-np.clip(self.slope * score * math.sqrt(phones) + self.offset, -50, 50)))

    def save(self, path: Path) -> None:
        record: dict[str, Any] = {
            "format": FORMAT,
            "phones": list(self.phones),
            "provenance": {"feature": "mfcc 100 Hz"},
        }
        record |= {"slope": self.slope, "offset": self.offset, "minimum": self.minimum}
        write_artifact(path, {"means": self.means, "variances": self.variances}, record)


def load_goodness(path: Path) -> Goodness:
    """What `Goodness.save` wrote. Raises ValueError."""
    arrays, record = read_artifact(path, FORMAT, kind="phone statistics", command="wordweave fit aligner")
    curve = (record["slope"], record["offset"], record["minimum"])
    return Goodness(tuple(record["phones"]), arrays["means"], arrays["variances"], *curve)


def parts_of(frames: int) -> np.ndarray:
    """Which third of its phone every frame belongs to.

    >>> parts_of(5).tolist()
    [0, 0, 1, 1, 2]
    """
    return np.arange(frames) * PARTS // frames


Aligned = tuple[Sequence[Phone], np.ndarray]
"""Phones of an utterance, and its waveform."""


def fit_gaussians(aligned: Sequence[Aligned]) -> Goodness:
    """The Gaussians of every phone in alignments."""
    names = tuple(sorted({phone.text for phones, _ in aligned for phone in phones}))
    offset_of = {name: PARTS * number for number, name in enumerate(names)}
    size = PARTS * len(names)
    counts = np.zeros(size)
    sums, squares = np.zeros((size, 39)), np.zeros((size, 39))
    for phones, waveform in aligned:
        frames = features(waveform).astype(np.float64)
        for phone in phones:
            first, last = frames_of(phone, len(frames))
            columns = offset_of[phone.text] + parts_of(max(1, last - first))
            for column, frame in zip(columns, frames[first:last], strict=False):
                counts[column] += 1
                sums[column] += frame
                squares[column] += frame**2
    # the background: mean 0 and variance 1, as features are normalised
    total = (counts + FEWEST)[:, None]
    means = sums / total
    return Goodness(names, means, np.maximum((squares + FEWEST) / total - means**2, FLOOR))


Word = tuple[float, int]
"""Mean score per frame of a word, and its number of phones."""


def calibrate(
    goodness: Goodness,
    right: Sequence[Sequence[Word]],
    wrong: Sequence[Sequence[Word]],
    rejected: float = 0.01,
) -> Goodness:
    """Set the logistic curve and the minimum from words of right and of wrong transcripts, by utterance.

    Args:
        rejected: share of right utterances that the minimum may cost; it is lower where wrong ones are far below.
    """
    rows = [
        (score * math.sqrt(phones), label)
        for label, some in ((1, right), (0, wrong))
        for u in some
        for score, phones in u
    ]
    x, labels = np.array([row[0] for row in rows])[:, None], np.array([row[1] for row in rows])
    slopes, offsets = fit_logistic(x, labels, strength=1.0, balanced=True)
    slope, offset = float(slopes[0, 1] - slopes[0, 0]), float(offsets[1] - offsets[0])
    good, bad = ([float(np.mean([score for score, _ in u])) for u in some if u] for some in (right, wrong))
    low, high = float(np.quantile(good, rejected)), float(np.quantile(bad, 1 - rejected))
    minimum = (low + high) / 2 if high < low else low
    return Goodness(goodness.phones, goodness.means, goodness.variances, slope, offset, minimum)
