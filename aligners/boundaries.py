"""Word boundaries moved towards the moments at which the sound changes most.

The frames of an acoustic model are 10 ms apart and its words begin and end where its states do, somewhat off the
changes that people label by. A boundary becomes the mean of the times around it, weighted by how much the
spectrum changes there and by how near they are. Measured in `benchmarks/boundaries.py`.
"""

import functools

import numpy as np

from corpus.records import SAMPLE_RATE

STEP = SAMPLE_RATE // 200  # samples between frames and between the times tried: 5 ms
WINDOW = SAMPLE_RATE // 100  # samples of a frame: 10 ms
SIDE = 4  # frames compared on each side: 20 ms
REACH = 20  # steps tried each way: 100 ms
SPREAD = 0.008  # seconds: standard deviation of how far boundaries are off
SPREAD_AT_END = (
    0.04  # seconds: the same at the ends of a recording, where a search found no silence beside the word
)
BANDS = 24
FLOOR = 1e-6  # power below which a band counts as silent
NO_CHANGE = 0.01  # added to every change: where nothing changes a boundary stays
NEARER = 0.45  # of the distance to the next boundary may be gone
BLOCK = 32  # boundaries at a time, which bounds the memory: 20 MB


def moved_to_changes(times: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """Times moved to where the sound changes, less than half-way to the next, so that their order stays.

    Args:
        times: (...) float64, seconds.
        waveform: (T,) float32, 16 kHz.

    Returns:
        float64 of the same shape, inside the recording, rounded to 0.1 ms.

    >>> noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    >>> noise[:8000] *= 0.01
    >>> moved_to_changes(np.array([0.49, 0.515, 0.8]), noise).round(2).tolist()
    [0.49, 0.5, 0.8]
    """
    distinct, at = np.unique(times, return_inverse=True)
    blocks = [moved(distinct[first : first + BLOCK], waveform) for first in range(0, len(distinct), BLOCK)]
    room = NEARER * np.diff(distinct, prepend=-np.inf, append=np.inf)
    after = np.clip(np.concatenate(blocks), distinct - room[:-1], distinct + room[1:])
    return np.clip(np.round(after, 4), 0, len(waveform) / SAMPLE_RATE)[at].reshape(times.shape)


def moved(times: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """(B,) seconds to (B,) seconds, at most `REACH` steps away."""
    seconds = len(waveform) / SAMPLE_RATE
    spread = np.where((times <= 0) | (times >= seconds), SPREAD_AT_END, SPREAD)[:, None]
    offsets = np.arange(-REACH, REACH + 1) * STEP
    samples = np.rint(times * SAMPLE_RATE).astype(np.int64)[:, None] + offsets
    weights = (changes(waveform, samples) + NO_CHANGE) * np.exp(-0.5 * (offsets / SAMPLE_RATE / spread) ** 2)
    return times + weights @ offsets / SAMPLE_RATE / weights.sum(1)


def changes(waveform: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """How much the spectrum changes at samples `STEP` apart: mean square over bands of the difference in log power.

    Args:
        waveform: (T,) float32, 16 kHz; beyond its ends its first and last frames are repeated.
        samples: (B, N) int, rows of samples `STEP` apart.

    Returns:
        (B, N) float64, from `SIDE` frames before each sample to `SIDE` frames after it.
    """
    around = np.arange(-SIDE, SIDE) * STEP + STEP // 2
    starts = np.concatenate(
        [samples[:, :1] + around[:SIDE], samples[:, :-1] + STEP // 2, samples[:, -1:] + around[SIDE:]], 1
    )
    starts = np.clip(starts - WINDOW // 2, 0, max(0, len(waveform) - WINDOW))
    if len(waveform) < WINDOW:
        waveform = np.pad(waveform, (0, WINDOW - len(waveform)))
    power = (
        np.abs(np.fft.rfft(waveform[starts[..., None] + np.arange(WINDOW)] * np.hanning(WINDOW), 512)) ** 2
    )
    sums = np.cumsum(np.log(power @ bands() + FLOOR), axis=1)
    sums = np.concatenate([np.zeros_like(sums[:, :1]), sums], 1)
    middle = slice(SIDE, -SIDE)
    return (((sums[:, 2 * SIDE :] - sums[:, middle]) - (sums[:, middle] - sums[:, : -2 * SIDE])) ** 2).mean(2)


@functools.cache
def bands() -> np.ndarray:
    """Filters of mel bands, (257, BANDS) float64."""
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(257, 0.0, SAMPLE_RATE / 2, BANDS, SAMPLE_RATE).double().numpy()
