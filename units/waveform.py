"""Waveforms as every function of this package expects them: (T,) float32, mono, 16 kHz."""

import numpy as np

MAX_AMPLITUDE = 1e9  # a sample beyond it is no sound at any scale, and its square exceeds single precision


def check_waveform(waveform: np.ndarray, index: int = 0) -> np.ndarray:
    """The waveform as contiguous float32, or ValueError that names its place in the list.

    >>> check_waveform(np.array([0.5, -0.5])).dtype
    dtype('float32')
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"waveform {index}: need shape (T,), got {waveform.shape}; average the channels")
    if len(waveform) and waveform.dtype.kind != "f":
        raise ValueError(
            f"waveform {index}: need floating point samples in [-1, 1], got {waveform.dtype}; "
            "divide 16-bit integers by 32768"
        )
    with np.errstate(over="ignore"):  # what single precision cannot hold becomes infinite
        waveform = np.require(waveform, np.float32, ["C", "W"])
    loudest = max(waveform.max(initial=0), -waveform.min(initial=0))  # NaN if there is one
    if not np.isfinite(loudest):
        raise ValueError(f"waveform {index}: need finite samples, got NaN or infinity")
    if loudest > MAX_AMPLITUDE:
        raise ValueError(f"waveform {index}: need samples in [-1, 1], got {loudest:.3g}")
    return waveform
