"""Proof by repetition: encode again, one by one, and count the units that differ."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from units.encoders import Encoder


class Quantizer(Protocol):
    """What maps frames to units: a `Codebook` or a `LinearQuantizer`."""

    def assign(self, features: np.ndarray) -> np.ndarray:
        """(F, D) -> (F,) units."""
        ...


def verify(
    encoder: Encoder,
    codebook: Quantizer,
    waveforms: Sequence[np.ndarray],
    *,
    reference: Encoder | None = None,
) -> float:
    """Share of units that differ between encoding the waveforms together and one by one.

    Args:
        encoder: encodes all waveforms in one call, in an order of its own.
        codebook: maps its features to units.
        waveforms: each (T,) float32 at 16 kHz.
        reference: encodes them one by one; default: the encoder itself. With the float32 encoder of the same model it
            tells what half precision costs.

    Returns:
        In [0, 1]; 0 if there are no frames. Frames that only one of the two has count as different.

    >>> from units.encoders import load_encoder
    >>> from units.kmeans import Codebook
    >>> waveforms = [np.random.default_rng(i).normal(size=9000).astype(np.float32) for i in range(3)]
    >>> verify(load_encoder("mfcc"), Codebook(np.eye(39)), waveforms)
    0.0
    """
    reference = reference or encoder
    together = [codebook.assign(features) for features in encoder.encode(waveforms)]
    alone = [codebook.assign(reference.encode([waveform])[0]) for waveform in waveforms]
    frames = sum(max(len(a), len(b)) for a, b in zip(together, alone, strict=True))
    equal = sum(int((a[: len(b)] == b[: len(a)]).sum()) for a, b in zip(together, alone, strict=True))
    return (frames - equal) / frames if frames else 0.0
