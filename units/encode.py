"""Waveforms to units in one step."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np

from units.encoders import Encoder
from units.hubert.encoder import HubertEncoder
from units.kmeans import UNDECIDED, Codebook
from units.whisper import WhisperEncoder

BATCH_TOLERANCE = 1e-5
"""A bound on the difference that a batch makes to a feature in single precision on a GPU, as a share of its length."""


class Quantizer(Protocol):
    """Maps frames to units: a `Codebook` or a `LinearQuantizer`."""

    def assign(self, features: np.ndarray) -> np.ndarray:
        """(F, D) -> (F,) units."""
        ...


def encode_units(encoder: Encoder, codebook: Quantizer, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Units of each waveform; on a GPU, features stay on the device, one batch at a time.

    The units of a waveform are those it has alone. On a CPU features are the same to the last bit in any batch. A GPU
    sums in another order for another batch; so a waveform with a frame almost midway between two centroids is encoded
    again there, in a batch of its own. (In single precision: in half precision batches make a larger difference.)
    With a Whisper it is encoded again in double precision on any device, so that no unit depends on the CPU either.

    Args:
        encoder: as from `load_encoder`.
        codebook: fitted on its features.
        waveforms: each (T,) float32, mono at 16 kHz.

    Returns:
        One (F,) int32 array per waveform, in order: the same as `codebook.assign` of `encoder.encode`.

    >>> from units.encoders import load_encoder
    >>> encode_units(load_encoder("mfcc"), Codebook(np.eye(39)), [np.zeros(2000, np.float32)])
    [array([0, 0, 0], dtype=int32)]
    """
    if not isinstance(encoder, HubertEncoder | WhisperEncoder) or not isinstance(codebook, Codebook):
        return [codebook.assign(features) for features in encoder.encode(waveforms)]
    if isinstance(encoder, WhisperEncoder) and encoder.dtype == "float32":
        units = encoder.map(waveforms, partial(codebook.assign_on_device, tolerance=BATCH_TOLERANCE))
        again = [i for i, sequence in enumerate(units) if (sequence == UNDECIDED).any()]
        exact = encoder.precise.encode([waveforms[i] for i in again])
        for i, features in zip(again, exact, strict=True):
            units[i] = codebook.assign(features)
        return units
    if encoder.exact and encoder.device.type == "cpu":  # all features are on the host
        return encoder.map(waveforms, lambda x: x, lambda _, features: codebook.assign(features))
    half = encoder.dtype != "float32"
    if isinstance(encoder, WhisperEncoder):  # in half precision: each window by itself
        return encoder.map(waveforms, codebook.assign_on_device, codebook.decide, alone=True)
    if encoder.exact or half or len(waveforms) < 2:
        return encoder.map(waveforms, codebook.assign_on_device, codebook.decide)
    units = encoder.map(waveforms, partial(codebook.assign_on_device, tolerance=BATCH_TOLERANCE))
    again = [i for i, sequence in enumerate(units) if (sequence == UNDECIDED).any()]
    alone = encoder.map([waveforms[i] for i in again], codebook.assign_on_device, codebook.decide, alone=True)
    for i, sequence in zip(again, alone, strict=True):
        units[i] = sequence
    return units
