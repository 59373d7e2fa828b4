"""The losses of a vocoder: distances of spectra, of an encoder's features, and a discriminator's verdict.

Source: spectral losses of several sizes of Yamamoto et al. 2020, arXiv:1910.11480; adversarial and feature-matching
losses of Kong et al. 2020 (HiFi-GAN), arXiv:2010.05646, with the spectrogram discriminators of Jang et al. 2021
(UnivNet), arXiv:2106.07889.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from units.vocoder.signal import HOP, log_mel
from units.whisper import WINDOW, WhisperEncoder
from units.whisper import log_mel as whisper_mel

SIZES = (256, 512, 1024)
QUIET = 1e-3  # added to magnitudes before the logarithm


def spectrogram(waveforms: torch.Tensor, size: int) -> torch.Tensor:
    """(B, T) -> (B, J, size / 2 + 1) magnitudes, a quarter of a window apart."""
    window = torch.hann_window(size, device=waveforms.device)
    return torch.fft.rfft(waveforms.unfold(1, size, size // 4) * window).abs()


def spectral_loss(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of log and of root magnitudes, over three sizes of window."""
    total = made.new_zeros(())
    for size in SIZES:
        a, b = spectrogram(made, size), spectrogram(true, size)
        total = total + F.l1_loss((a + QUIET * size / 256).log(), (b + QUIET * size / 256).log())
        total = total + F.l1_loss((a + 1e-6).sqrt(), (b + 1e-6).sqrt())
    return total / len(SIZES)


def mel_loss(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of log-mel."""
    return F.l1_loss(log_mel(made), log_mel(true))


class EncoderLoss:
    """Distance of the features of an encoder: what a listener of its kind makes of two waveforms.

    Raises:
        ValueError: the encoder cannot be differentiated through.
    """

    def __init__(self, encoder: object, device: torch.device):
        if not isinstance(encoder, WhisperEncoder) or encoder.settings.floor is None:
            raise ValueError("vocoder.loss.encoder: needs an encoder of the kind of `compact`; set it to 0")
        self.settings, self.hop = encoder.settings, encoder.hop
        self.network = encoder._network.to(device).requires_grad_(False)

    def features(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, T) at the encoder's level -> (B, T // hop, D)."""
        before = WINDOW // 2 - self.settings.delay
        after = WINDOW - HOP - before
        mels = whisper_mel(F.pad(waveforms, (before, after)), self.settings.mels, self.settings.floor)
        return self.network(mels)

    def __call__(self, made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """Smooth absolute difference, and 1 - cosine."""
        with torch.no_grad():
            target = self.features(true)
        features = self.features(made)
        return F.smooth_l1_loss(features, target) + (1 - F.cosine_similarity(features, target, dim=2)).mean()


class Discriminators(nn.Module):
    """One small network of 2-D convolutions for each size of spectrogram."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.networks = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Conv2d(1, width, (3, 9), padding=(1, 4)),
                    nn.Conv2d(width, width, (3, 9), stride=(1, 2), padding=(1, 4)),
                    nn.Conv2d(width, width, (3, 9), stride=(1, 2), padding=(1, 4)),
                    nn.Conv2d(width, width, 3, padding=1),
                    nn.Conv2d(width, 1, 3, padding=1),
                ]
            )
            for _ in SIZES
        )

    def forward(self, waveforms: torch.Tensor) -> list[list[torch.Tensor]]:
        """(B, T) -> of each network the output of every layer, the last one being the verdict."""
        outputs = []
        for size, layers in zip(SIZES, self.networks, strict=True):
            x = (spectrogram(waveforms, size) + QUIET * size / 256).log()[:, None]
            assert isinstance(layers, nn.ModuleList)
            states: list[torch.Tensor] = []
            for layer in layers:
                x = layer(F.leaky_relu(x, 0.1) if states else x)
                states.append(x)
            outputs.append(states)
        return outputs


Verdicts = Sequence[Sequence[torch.Tensor]]


def discriminator_loss(made: Verdicts, true: Verdicts) -> torch.Tensor:
    """Least squares: 1 for recordings, 0 for what was made."""
    losses = [(1 - t[-1]).square().mean() + m[-1].square().mean() for m, t in zip(made, true, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(made: Verdicts) -> torch.Tensor:
    """Least squares: what was made taken for a recording."""
    return torch.stack([(1 - m[-1]).square().mean() for m in made]).mean()


def matching_loss(made: Verdicts, true: Verdicts) -> torch.Tensor:
    """Difference of the discriminators' inner layers, by their size on recordings."""
    losses = [
        F.l1_loss(a, b.detach()) / b.detach().abs().mean().clamp(min=1e-3)
        for m, t in zip(made, true, strict=True)
        for a, b in zip(m[:-1], t[:-1], strict=True)
    ]
    return torch.stack(losses).mean()
