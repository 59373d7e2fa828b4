"""What style tokens are made from: 27 numbers for each second of a recording.

    F0, spectra every 10 ms ── pooled around each second ── features

All levels are relative to the loudest sample: the recording level does not matter.
"""

import math
from functools import lru_cache

import numpy as np
import torch

from corpus.records import SAMPLE_RATE
from units.prosody.f0 import F0, extract
from units.waveform import check_waveform

CONTEXT = 0.6  # seconds before its own second that a token depends on

FEATURES = (
    "f0_median", "f0_p10", "f0_p90", "f0_range", "f0_deviation", "f0_slope_size", "f0_slope",
    "alpha", "alpha_deviation", "hammarberg", "slope_0_500", "slope_500_1500", "centroid", "h1_h2", "above_4k",
    "energy_deviation", "energy_range", "energy_change",
    "flux", "flux_deviation", "peaks", "modulation", "cepstral_change",
    "f0_roughness", "energy_roughness", "periodicity", "periodicity_deviation",
)  # fmt: skip
"""Of a window: F0 in semitones, spectral tilt, changes of energy, tempo, roughness."""

_SHIFT = 160  # samples from frame to frame
_SIZE = 640  # samples of a frame: two periods of the lowest voices
_FFT = 1024
_BLOCK = 6_000  # frames transformed at a time: bounded memory
_LAGS = SAMPLE_RATE // 50 + 1


@lru_cache(maxsize=1)
def _tables() -> dict[str, np.ndarray]:
    """Constant matrices, float32."""
    hertz = np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT
    window = np.hanning(_SIZE)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, _FFT)) ** 2)[:_LAGS]
    mel = np.linspace(0, 2595 * np.log10(1 + 7600 / 700), 26)
    edges = 700 * (10 ** (mel / 2595) - 1)
    lower, middle, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.clip(
        np.minimum((hertz - lower) / (middle - lower), (upper - hertz) / (upper - middle)), 0, None
    )
    bands = len(bank)
    cosines = np.cos(np.pi / bands * np.arange(1, 13)[:, None] * (np.arange(bands) + 0.5)) * np.sqrt(
        2 / bands
    )
    tables = {
        "hertz": hertz,
        "window": window,
        # autocorrelation at a lag is a row times the power spectrum; the window's own decay is divided out
        "lags": np.cos(2 * np.pi * np.outer(np.arange(_LAGS), np.arange(_FFT // 2 + 1)) / _FFT)
        * np.where((hertz == 0) | (hertz == hertz[-1]), 1, 2)
        / (own / own[0])[:, None],
        "bank": bank.T,
        "cosines": cosines.T,
    }
    return {name: np.ascontiguousarray(table, np.float32) for name, table in tables.items()}


def frame_features(waveform: np.ndarray, f0: F0) -> dict[str, np.ndarray]:
    """Features of frames of 40 ms every 10 ms, each centred on its time, (frames,) float64 each.

    `voiced` marks voiced frames, `loud` those less than 45 dB below the loudest one.
    """
    tables = _tables()
    frames = len(waveform) // _SHIFT + 1
    nearest = np.minimum(np.arange(frames) * (_SHIFT // 80), len(f0) - 1)
    hertz, voiced = f0.hertz[nearest].astype(np.float64), f0.voiced[nearest]
    lags = np.clip(np.rint(SAMPLE_RATE / hertz), 1, _LAGS - 1).astype(int)
    loudest = float(np.abs(waveform).max(initial=0.0))
    padded = np.pad(waveform / (loudest or 1.0), (_SIZE // 2, _SIZE)).astype(np.float32)
    pieces = [
        _spectral(padded, start, min(frames, start + _BLOCK), hertz, lags, tables)
        for start in range(0, frames, _BLOCK)
    ]
    features = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    cepstra = features.pop("cepstra")
    bands = features.pop("bands")
    features["cepstral_change"] = _norm(_difference(cepstra, 2))
    features["flux"] = np.maximum(_difference(bands, 1), 0).mean(axis=1)
    energy = features["energy"]
    features["loud"] = (energy > energy.max(initial=-math.inf) - 45) & (loudest > 0)
    features["voiced"] = voiced & features["loud"]
    features["semitones"] = 12 * np.log2(hertz / 100)
    return {name: x if x.dtype == bool else x.astype(np.float64) for name, x in features.items()}


def _spectral(
    padded: np.ndarray,
    start: int,
    stop: int,
    hertz: np.ndarray,
    lags: np.ndarray,
    tables: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Frames [start, stop): spectral tilt, and the spectra whose changes are computed later."""
    views = np.lib.stride_tricks.sliding_window_view(padded, _SIZE)[start * _SHIFT : stop * _SHIFT : _SHIFT]
    spectrum = torch.fft.rfft(torch.from_numpy(views * tables["window"]), _FFT)
    power = (spectrum.real.square() + spectrum.imag.square() + 1e-10).numpy()
    bin = SAMPLE_RATE / _FFT
    level = 10 * np.log10(power[:, : round(5000 / bin)])  # no level above is used

    def band(low: float, high: float) -> slice:
        return slice(round(low / bin), round(high / bin))

    def slope(part: slice) -> np.ndarray:
        x = tables["hertz"][part] / 1000
        x = x - x.mean()
        return level[:, part] @ x / (x @ x)

    total = power.sum(axis=1)
    rows = np.arange(stop - start)
    first = np.rint(hertz[start:stop] / bin).astype(int)
    harmonic = [
        np.max([level[rows, np.minimum(k * first + i, level.shape[1] - 1)] for i in (-1, 0, 1)], axis=0)
        for k in (1, 2)
    ]
    bands = np.log(power @ tables["bank"] + np.float32(1e-8))
    return {
        "energy": 10 * np.log10(total),
        "alpha": 10 * np.log10(power[:, band(1000, 5000)].sum(axis=1) / power[:, band(50, 1000)].sum(axis=1)),
        "hammarberg": level[:, band(0, 2000)].max(axis=1) - level[:, band(2000, 5000)].max(axis=1),
        "slope_0_500": slope(band(0, 500)),
        "slope_500_1500": slope(band(500, 1500)),
        "centroid": np.log2(power @ tables["hertz"] / total),
        "h1_h2": harmonic[0] - harmonic[1],
        "above_4k": 10 * np.log10(power[:, band(4000, 8000)].sum(axis=1) / total),
        "periodicity": np.einsum("fk,fk->f", tables["lags"][lags[start:stop]], power)
        / np.einsum("k,fk->f", tables["lags"][0], power),
        "bands": bands,
        "cepstra": bands @ tables["cosines"],
    }


def _difference(x: np.ndarray, reach: int) -> np.ndarray:
    """Change per frame over `reach` frames to either side; the ends repeat."""
    padded = np.concatenate([x[:1]] * reach + [x] + [x[-1:]] * reach)
    return (padded[2 * reach :] - padded[: -2 * reach]) / (2 * reach)


def _norm(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(x).sum(axis=1))


def windows(samples: int, *, hop: float = 1.0) -> np.ndarray:
    """(S, 2) first and last + 1 frame (10 ms) that each token depends on; S = seconds, the started one included.

    A token depends on what precedes its second, not on what follows. One near the end covers at least the last second,
    as a remainder of a few frames is too short. A `hop` of less than a second gives windows in between, for training.

    >>> windows(36_000).tolist()
    [[0, 100], [40, 200], [125, 226]]
    """
    frames = samples // _SHIFT + 1
    second, context = SAMPLE_RATE // _SHIFT, round(CONTEXT * SAMPLE_RATE / _SHIFT)
    starts = np.arange(0, -(-samples // _SHIFT), round(hop * second))
    stops = np.minimum(starts + second, frames)
    starts = np.maximum(np.minimum(starts - context, stops - second - 1), 0)
    return np.stack([starts, stops], axis=1)


def pool(waveform: np.ndarray, f0: F0 | None = None, *, hop: float = 1.0) -> np.ndarray:
    """The features of each second of a recording: (S, 27) float32; an unvoiced second is NaN.

    Args:
        waveform: (T,) float32 at 16 kHz.
        f0: of this waveform; default: extracted.
        hop: seconds from window to window.
    """
    waveform = check_waveform(waveform)
    f0 = extract(waveform) if f0 is None else f0
    if len(f0) != len(waveform) // 80 + 1:
        raise ValueError(
            f"f0: need {len(waveform) // 80 + 1} frames for {len(waveform)} samples, got {len(f0)}"
        )
    spans = windows(len(waveform), hop=hop)
    features = np.full((len(spans), len(FEATURES)), np.nan, np.float32)
    if not f0.voiced.any():
        return features
    frames = frame_features(waveform, f0)
    for row, (start, stop) in enumerate(spans):
        pooled = _pool({name: x[start:stop] for name, x in frames.items()})
        if pooled is not None:
            features[row] = pooled
    return features


def _pool(x: dict[str, np.ndarray]) -> list[float] | None:
    """The 27 numbers of one window, or None where fewer than 8 frames (80 ms) are voiced."""
    voiced, loud = x["voiced"], x["loud"]
    if voiced.sum() < 8:
        return None
    pitch, energy = x["semitones"][voiced], x["energy"][loud]
    low, median, high = np.percentile(pitch, (10, 50, 90))
    within = voiced[1:] & voiced[:-1]
    steps = np.diff(x["semitones"])[within]
    steps = steps[np.abs(steps) < 3]  # not octave jumps of the extractor
    bends = np.diff(x["semitones"], 2)[voiced[2:] & voiced[1:-1] & voiced[:-2]]
    bends = bends[np.abs(bends) < 3]
    time = np.flatnonzero(voiced) * 0.01
    time = time - time.mean()
    slope = float(time @ pitch / max(time @ time, 1e-6))
    inside = loud[1:] & loud[:-1]
    change = np.diff(x["energy"])[inside]
    around = loud[2:] & loud[1:-1] & loud[:-2]
    rough = np.diff(x["energy"], 2)[around]
    bottom, top = np.percentile(energy, (10, 90))
    smooth = np.convolve(x["energy"].clip(energy.max() - 45), np.ones(5) / 5, "valid")
    inner = smooth[1:-1]
    peaks = ((inner > smooth[:-2]) & (inner >= smooth[2:]) & (inner > np.median(energy))).sum()
    spectrum = np.abs(np.fft.rfft((smooth - smooth.mean()) * np.hanning(len(smooth)), 400))  # 0.25 Hz a bin
    seconds = len(voiced) / 100
    return [
        median, low, high, high - low, pitch.std(), mean(np.abs(steps)), slope,
        mean(x["alpha"][voiced]), x["alpha"][voiced].std(), mean(x["hammarberg"][voiced]),
        mean(x["slope_0_500"][voiced]), mean(x["slope_500_1500"][voiced]), mean(x["centroid"][voiced]),
        mean(x["h1_h2"][voiced]), mean(x["above_4k"][voiced]),
        energy.std(), top - bottom, mean(np.abs(change)),
        mean(x["flux"][loud]), x["flux"][loud].std(), peaks / seconds,
        float(np.log(spectrum[12:33].sum() + 1e-3) - np.log(spectrum[1:81].sum() + 1e-3)),
        mean(x["cepstral_change"][loud]),
        mean(np.abs(bends)), mean(np.abs(rough)), mean(x["periodicity"][voiced]), x["periodicity"][voiced].std(),
    ]  # fmt: skip


def mean(x: np.ndarray) -> float:
    """Mean, 0 of an empty array."""
    return float(x.mean()) if len(x) else 0.0
