"""Waveforms to units in one step."""

from collections.abc import Sequence

import numpy as np

from units.encoders import Encoder
from units.hubert import HubertEncoder
from units.kmeans import Codebook
from units.verify import Quantizer


def encode_units(encoder: Encoder, codebook: Quantizer, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Units of each waveform; on a GPU, features do not travel to the host, and no more than a batch is held.

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
    if isinstance(encoder, HubertEncoder) and isinstance(codebook, Codebook):
        return encoder.map(waveforms, codebook.assign_on_device)
    return [codebook.assign(features) for features in encoder.encode(waveforms)]
