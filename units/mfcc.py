"""Mel cepstra: the features of HuBERT's first iteration, and the encoder that needs no download."""

from collections.abc import Sequence

import numpy as np
import torch
import torchaudio

from corpus.records import SAMPLE_RATE
from units.hubert import check_waveform, hash_settings

FRAME = 400  # samples: 25 ms
SHIFT = 160  # samples: 10 ms
BLOCK = 6_000  # frames transformed at a time: bounded memory for hours-long recordings
TAKE = {25: (3, 4), 50: (1, 2), 100: (1, 1)}  # rate -> 10 ms frames averaged into one, and step


class MfccEncoder:
    """13 mel cepstra with first and second differences: 39 numbers, normalised to mean 0 and variance 1 per utterance.

    Frame k of the 25 Hz features is the mean of the 10 ms frames 4k to 4k + 2, at 50 Hz it is frame 2k. So it covers
    exactly the samples that frame k of a HuBERT of that rate covers, [640 k, 640 k + 720) or [320 k, 320 k + 400),
    frame counts are equal, and the two encoders can be swapped.

    Fields as in `units.encoders.Encoder`.
    """

    def __init__(self, frame_rate: int = 25):
        if frame_rate not in TAKE:
            raise ValueError(f"mfcc.frame_rate: need one of {list(TAKE)} Hz, got {frame_rate}")
        self._mean_of, self._step = TAKE[frame_rate]
        self.frame_rate = float(frame_rate)
        self.hop = SHIFT * self._step
        self.minimum = FRAME + SHIFT * (self._mean_of - 1)
        self.centre = self.minimum // 2
        self.dimension = 39
        self.provenance = {"encoder": "mfcc", "version": 1, "frame_rate": self.frame_rate, "layer": None}
        self.identity = hash_settings(self.provenance)

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(F, 39) float32 per waveform, F = (T - minimum) // hop + 1; (0, 39) where it is shorter than `minimum`.

        A coefficient that never changes, as in silence, is 0.

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
        spread = features.std(axis=0)
        still = spread < 1e-6  # far below any speech, above what rounding leaves of a constant
        features = np.where(still, 0, (features - features.mean(axis=0)) / np.where(still, 1, spread))
        frames = (len(features) - self._mean_of) // self._step + 1
        taken = [features[i :: self._step][:frames] for i in range(self._mean_of)]
        return np.mean(taken, axis=0).astype(np.float32)


def mel_cepstra(waveform: np.ndarray) -> torch.Tensor:
    """(F, 13) float64 cepstra every 10 ms, as Kaldi computes them.

    In double precision, so that what the number of threads moves is rounded away. No dither: the same waveform has to
    give the same units.
    """
    samples = torch.from_numpy(waveform).double().unsqueeze(0)
    frames = (len(waveform) - FRAME) // SHIFT + 1
    blocks = []
    for start in range(0, frames, BLOCK):
        stop = min(frames, start + BLOCK)
        block = samples[:, start * SHIFT : (stop - 1) * SHIFT + FRAME]
        blocks.append(
            torchaudio.compliance.kaldi.mfcc(
                block, sample_frequency=SAMPLE_RATE, use_energy=False, dither=0.0
            )
        )
    return torch.cat(blocks)
