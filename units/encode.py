"""Waveforms to units in one step."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np

from units.encoders import Encoder
from units.hubert.encoder import HubertEncoder
from units.kmeans import Codebook
from units.whisper import WhisperEncoder

MOVED = 1e-5
"""More than batches move a feature in single precision on any device, as a share of its length."""


class Quantizer(Protocol):
    """What maps frames to units: a `Codebook` or a `LinearQuantizer`."""

    def assign(self, features: np.ndarray) -> np.ndarray:
        """(F, D) -> (F,) units."""
        ...


def encode_units(encoder: Encoder, codebook: Quantizer, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Units of each waveform; on a GPU, features do not travel to the host, and no more than a batch is held.

    The units of a waveform are those it has alone. On a CPU features are the same to the last bit in any batch. A GPU
    sums in another order for another batch; so a waveform with a frame almost midway between two centroids is encoded
    again on its own there. (In single precision: half precision moves features too far for that.)

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
    if encoder.exact or encoder.dtype != "float32" or len(waveforms) < 2:
        return encoder.map(waveforms, codebook.assign_on_device)
    found = encoder.map(waveforms, partial(codebook.assign_on_device, moved=MOVED))
    for i, units in enumerate(found):
        if (units < 0).any():
            (found[i],) = encoder.map([waveforms[i]], codebook.assign_on_device)
    return found
