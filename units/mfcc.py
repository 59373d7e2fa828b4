"""Mel cepstra: the features of HuBERT's first iteration, and the encoder that needs no download."""

from collections.abc import Sequence

import numpy as np
import torch
import torchaudio

from corpus.records import SAMPLE_RATE
from units.tensor_files import hash_settings
from units.waveform import check_waveform

FRAME = 400  # samples: 25 ms
SHIFT = 160  # samples: 10 ms
BLOCK = 6_000  # frames transformed at a time: bounded memory for hours-long recordings
# Rate -> 10 ms frames from one feature frame to the next, index of the first, frames averaged around it. Averaging
# helps: PNMI of 501 units with MFA's phones (35 utterances of one voice, k-means on 150 others) at 25 Hz was 0.525 from
# single frames, 0.546, 0.565, 0.565 and 0.555 from means of 3, 5, 7 and 9; shuffled 0.29 to 0.28.
GRIDS = {25: (4, 1, 5), 50: (2, 0, 3), 100: (1, 0, 1)}


class MfccEncoder:
    """13 mel cepstra with first and second differences: 39 numbers, normalised to mean 0 and variance 1 per utterance.

    Frame k of the 25 Hz features is the mean of the five 10 ms frames around the centre of frame k of a HuBERT of that
    rate, sample 640 k + 360; at 50 Hz it is the mean of three around 320 k + 200, at 100 Hz a single one. There are as
    many frames as that HuBERT gives, so the two encoders can be swapped; at the edges the outermost frame is repeated.

    Fields as in `units.encoders.Encoder`.
    """

    def __init__(self, frame_rate: int = 25):
        if frame_rate not in GRIDS:
            raise ValueError(f"mfcc.frame_rate: need one of {list(GRIDS)} Hz, got {frame_rate}")
        self._step, self._first, self._width = GRIDS[frame_rate]
        self.frame_rate = float(frame_rate)
        self.hop = SHIFT * self._step
        self.minimum = FRAME + 2 * SHIFT * self._first
        self.centre = self.minimum // 2
        self.dimension = 39
        self.provenance = {"encoder": "mfcc", "version": 1, "frame_rate": self.frame_rate, "layer": None}
        self.identity = hash_settings(self.provenance)

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(F, 39) float32 per waveform, F = (T - minimum) // hop + 1; (0, 39) where it is shorter than `minimum`.

        A constant coefficient, as in silence, is 0.

        >>> [features.shape for features in MfccEncoder().encode([np.zeros(16_000), np.zeros(719)])]
        [(24, 39), (0, 39)]
        """
        return [self._encode(check_waveform(waveform, i)) for i, waveform in enumerate(waveforms)]

    def _encode(self, waveform: np.ndarray) -> np.ndarray:
        if len(waveform) < self.minimum:
            return np.zeros((0, self.dimension), np.float32)
        cepstra = mel_cepstra(waveform).T
        first = torchaudio.functional.compute_deltas(cepstra)
        second = torchaudio.functional.compute_deltas(first)
        features = torch.cat([cepstra, first, second]).T.numpy()
        features -= features.mean(axis=0)
        spread = features.std(axis=0)
        # 1e-6 is far below any speech and above the rounding of a constant
        features /= np.where(spread < 1e-6, np.inf, spread)
        centres = self._step * np.arange((len(waveform) - self.minimum) // self.hop + 1) + self._first
        around = range(-(self._width // 2), self._width // 2 + 1)
        shifted = [features[np.clip(centres + i, 0, len(features) - 1)] for i in around]
        return np.mean(shifted, axis=0).astype(np.float32)


def mel_cepstra(waveform: np.ndarray) -> torch.Tensor:
    """(F, 13) float64 cepstra every 10 ms, as Kaldi computes them.

    In double precision, so that differences by the number of threads are rounded away. No dither: the same waveform has
    to give the same units.
    """
    frames = (len(waveform) - FRAME) // SHIFT + 1
    blocks = []
    for start in range(0, frames, BLOCK):
        stop = min(frames, start + BLOCK)
        samples = torch.from_numpy(waveform[start * SHIFT : (stop - 1) * SHIFT + FRAME]).double()
        settings = {"sample_frequency": SAMPLE_RATE, "use_energy": False, "dither": 0.0}
        blocks.append(torchaudio.compliance.kaldi.mfcc(samples[None], **settings))
    return torch.cat(blocks)
