"""Fundamental frequency (F0) of a recording every 5 ms, and where it is voiced.

The default extractor is FCPE (see `units.prosody.fcpe`) with the settings of Spirit LM's release.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corpus.records import SAMPLE_RATE
from units.prosody import fcpe
from units.waveform import check_waveform

HOP = 80  # samples: 5 ms
RATE = SAMPLE_RATE / HOP  # Hz
LOWEST, HIGHEST = 50.0, 1100.0  # Hz; below: unvoiced, above: cut
UNVOICED_HERTZ = 150.0
"""F0 of a recording without one voiced frame: a flat contour here, between the usual voices of men and women."""

EXTRACTORS = ("fcpe", "autocorrelation")

_BLOCK = 3_000  # frames computed at a time: bounded memory


@dataclass(frozen=True, slots=True, eq=False)
class F0:
    """F0 of one recording, every 5 ms from its first sample on: n = samples // 80 + 1 frames.

    `hertz` is (n,) float32, finite, interpolated over unvoiced stretches and held at both ends; `voiced` is (n,) bool.
    """

    hertz: np.ndarray
    voiced: np.ndarray

    def __post_init__(self) -> None:
        if self.hertz.ndim != 1 or self.hertz.shape != self.voiced.shape:
            raise ValueError(
                f"f0: need hertz and voiced of one shape (n,), got {self.hertz.shape} and {self.voiced.shape}"
            )

    def __len__(self) -> int:
        return len(self.hertz)

    @property
    def mean(self) -> float | None:
        """Mean of the voiced frames, Hz; None where there is none."""
        return float(self.hertz[self.voiced].mean(dtype=np.float64)) if self.voiced.any() else None


def extract(waveform: np.ndarray, *, extractor: str = "fcpe", device: str = "cpu") -> F0:
    """F0 of a recording, as from `extract_batch`."""
    return extract_batch([waveform], extractor=extractor, device=device)[0]


def extract_batch(
    waveforms: Sequence[np.ndarray], *, extractor: str = "fcpe", device: str = "cpu"
) -> list[F0]:
    """F0 of each recording. A result depends neither on its neighbours nor on the number of threads.

    Args:
        waveforms: each (T,) float32 at 16 kHz, any length and level.
        extractor: "fcpe", or "autocorrelation" for cross-checks: another method, with other mistakes.
        device: where FCPE runs; on a GPU, many recordings at once.

    Returns:
        T // 80 + 1 frames each. Without one voiced frame (silence, whisper) the contour is flat at UNVOICED_HERTZ.

    Raises:
        ValueError: no such extractor, or a waveform that is not (T,) or not finite.

    Source: torchfcpe (MIT); settings of SPEC 2.

    >>> (silence,) = extract_batch([np.zeros(1264, np.float32)], extractor="autocorrelation")
    >>> len(silence), silence.voiced.any().item(), silence.hertz[0].item()
    (16, False, 150.0)
    """
    if extractor not in EXTRACTORS:
        raise ValueError(f"f0.extractor: need one of {', '.join(EXTRACTORS)}, got {extractor!r}")
    waveforms = [check_waveform(waveform, i) for i, waveform in enumerate(waveforms)]
    if extractor == "autocorrelation":
        return [F0(*fill_unvoiced(_autocorrelation(waveform))) for waveform in waveforms]
    contours = []
    for waveform, hertz in zip(waveforms, fcpe.load(device).hertz(waveforms), strict=True):
        hertz, voiced = fill_unvoiced(hertz)
        frames = np.arange(len(waveform) // HOP + 1)
        # from every 10 ms to every 5, as the reference: the nearest one at or before
        frames = frames * len(hertz) // len(frames)
        contours.append(F0(hertz[frames], voiced[frames]))
    return contours


def fill_unvoiced(hertz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 (n,), 0 or NaN where unvoiced -> F0 interpolated there, and where it is voiced."""
    voiced = hertz >= LOWEST
    return interpolate(hertz, voiced), voiced


def interpolate(hertz: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """Fill unvoiced frames: straight lines between voiced ones, the nearest one at the ends, (n,) float32.

    >>> interpolate(np.array([0, 100, 0, 120, 0]), np.array([False, True, False, True, False])).tolist()
    [100.0, 100.0, 110.0, 120.0, 120.0]
    """
    if not voiced.any():
        return np.full(len(hertz), UNVOICED_HERTZ, np.float32)
    frames = np.arange(len(hertz))
    filled = np.interp(frames, frames[voiced], hertz[voiced].astype(np.float64))
    return np.minimum(filled, HIGHEST).astype(np.float32)


def identity(extractor: str = "fcpe") -> str:
    """What decides an extractor's results: its name, version, weights and settings."""
    if extractor != "fcpe":
        return f"{extractor} 1"
    return f"fcpe 2 {fcpe.weights_hash()[:16]} local_argmax {fcpe.THRESHOLD} {LOWEST:g}-{HIGHEST:g} Hz"


# Autocorrelation ---------------------------------------------------------------------------------------------------


def _autocorrelation(waveform: np.ndarray) -> np.ndarray:
    """(T // 80 + 1,) float64 Hz, 0 where unvoiced: the strongest peak of each frame's normalised autocorrelation.

    Frames of 40 ms; the autocorrelation of the windowed frame is divided by that of the window. A lag of an octave
    more must score better by 0.03. No smoothing from frame to frame.

    Source: Boersma 1993, without the path search.
    """
    size, lags = 640, np.arange(SAMPLE_RATE // 600, SAMPLE_RATE // 60 + 1)
    window = np.hanning(size)
    padded = np.pad(waveform.astype(np.float64), size // 2)
    loudest = np.abs(waveform).max(initial=0.0)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * size)) ** 2)[: size // 2]
    hertz = np.zeros(len(waveform) // HOP + 1)
    for start in range(0, len(hertz), _BLOCK):
        samples = np.arange(start, min(len(hertz), start + _BLOCK))[:, None] * HOP + np.arange(size)
        frames = padded[samples]
        loud = np.abs(frames).max(axis=1) > 0.03 * loudest
        frames = (frames - frames.mean(axis=1, keepdims=True)) * window
        power = np.abs(np.fft.rfft(frames, 2 * size)) ** 2
        correlation = np.fft.irfft(power)[:, : size // 2]
        correlation = correlation / np.maximum(correlation[:, :1], 1e-12) / (own / own[0])
        score = correlation[:, lags] - 0.03 * np.log2(lags)
        score[
            (correlation[:, lags] < correlation[:, lags - 1])
            | (correlation[:, lags] < correlation[:, lags + 1])
        ] = -math.inf
        lag = lags[score.argmax(axis=1)]
        rows = np.arange(len(lag))
        before, peak, after = (correlation[rows, lag + i] for i in (-1, 0, 1))
        bend = before - 2 * peak + after
        shift = np.where(bend < 0, (before - after) / (2 * np.where(bend < 0, bend, -1)), 0)
        voiced = loud & (peak > 0.45) & np.isfinite(score.max(axis=1))
        hertz[start : start + len(lag)] = np.where(voiced, SAMPLE_RATE / (lag + np.clip(shift, -0.5, 0.5)), 0)
    return hertz
