"""The networks: tokens to F0 and spectral envelopes, and de-duplicated units to their lengths.

    units, style, voice ──> 25 Hz blocks ──> upsampled to 100 Hz ──┬──> + pitch ──> blocks ──> F0, voicing ──┐
                                                                   └──> + F0, voicing ──> blocks ──> envelopes

Blocks are those of ConvNeXt along time: a frame depends on a bounded number of frames around it.

Source: Liu et al. 2022 (ConvNeXt), arXiv:2201.03545; as a vocoder's trunk Siuzdak 2023 (Vocos), arXiv:2306.00814.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from units.vocoder.signal import BANDS

RUN = 16  # places in a run, and lengths of a run, that are distinguished
KERNEL = 7
VOICE_BANDS = 10
"""Numbers of a voice besides its F0: principal components of its mean log-mel."""


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes. `upsampling`: frames of 10 ms per unit; `features`: numbers of a centroid; `styles`: of a style's."""

    units: int = 501
    features: int = 384
    styles: int = 6
    upsampling: int = 4
    width: int = 248
    blocks: int = 6
    fine_width: int = 160
    fine_blocks: int = 4
    pitch_blocks: int = 1
    expansion: int = 3
    dropout: float = 0.1
    duration_width: int = 128
    duration_blocks: int = 2

    def __post_init__(self) -> None:
        for name in ("units", "features", "upsampling", "width", "blocks", "fine_width", "fine_blocks", "pitch_blocks",
                     "expansion", "duration_width", "duration_blocks"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"vocoder.network.{name}: need at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"vocoder.network.dropout: need 0 <= dropout < 1, got {self.dropout}")

    @property
    def context(self) -> int:
        """Units on either side that the envelopes of a unit depend on."""
        fine = (self.fine_blocks + self.pitch_blocks) * (KERNEL // 2)
        return self.blocks * (KERNEL // 2) + -(-fine // self.upsampling) + 1


class Block(nn.Module):
    """(B, N, D) -> (B, N, D): convolution of each channel along time, then two layers for each frame."""

    def __init__(self, width: int, expansion: int, dropout: float):
        super().__init__()
        self.along = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        y = self.norm(self.along(x.transpose(1, 2)).transpose(1, 2))
        return x + self.scale * self.dropout(self.narrow(F.gelu(self.wide(y))))


def blocks(count: int, width: int, settings: NetworkSettings) -> nn.Sequential:
    """`count` blocks."""
    return nn.Sequential(*(Block(width, settings.expansion, settings.dropout) for _ in range(count)))


@dataclass
class Tokens:
    """Input of the network for B stretches of N units.

    `units` (B, N) int64, -1: dropped; `runs` (B, N) int64, place in the run; `voice` (B, 11); `style` (B, N, styles),
    0 for none; `pitch` (B, N * upsampling, 3): log2 of F0 over the voice's by pitch tokens, voicing, and 1 where there
    are pitch tokens.
    """

    units: torch.Tensor
    runs: torch.Tensor
    voice: torch.Tensor
    style: torch.Tensor
    pitch: torch.Tensor


class VocoderNetwork(nn.Module):
    """Tokens to F0, voicing and envelopes."""

    centroids: torch.Tensor

    def __init__(self, settings: NetworkSettings, centroids: torch.Tensor | None = None):
        super().__init__()
        s = self.settings = settings
        self.register_buffer(
            "centroids", torch.zeros(s.units, s.features) if centroids is None else centroids.float()
        )
        self.from_centroid = nn.Linear(s.features, s.width)
        self.unit = nn.Embedding(s.units + 1, s.width)
        self.run = nn.Embedding(RUN, s.width)
        self.voice = nn.Linear(VOICE_BANDS + 1, s.width)
        self.style = nn.Linear(s.styles, s.width, bias=False) if s.styles else None
        self.trunk = blocks(s.blocks, s.width, s)
        self.norm = nn.LayerNorm(s.width)
        self.upsample = nn.Linear(s.width, s.upsampling * s.fine_width)
        self.pitch = nn.Linear(3, s.fine_width)
        self.pitch_blocks = blocks(s.pitch_blocks, s.fine_width, s)
        self.f0 = nn.Linear(s.fine_width, 2)
        self.source = nn.Linear(3, s.fine_width)
        self.fine_blocks = blocks(s.fine_blocks, s.fine_width, s)
        self.fine_norm = nn.LayerNorm(s.fine_width)
        self.envelopes = nn.Linear(s.fine_width, 2 * BANDS)
        for embedding in (self.unit, self.run):
            nn.init.normal_(embedding.weight, std=0.3)
        nn.init.constant_(self.envelopes.bias, -6.0)
        nn.init.normal_(self.envelopes.weight, std=0.02)
        nn.init.normal_(self.f0.weight, std=0.02)

    def trunk_features(self, tokens: Tokens) -> torch.Tensor:
        """(B, N * upsampling, fine_width)."""
        dropped = tokens.units < 0
        kept = (~dropped)[..., None]
        x = self.from_centroid(self.centroids[tokens.units.clamp(min=0)]) * kept
        x = x + self.unit(torch.where(dropped, self.settings.units, tokens.units))
        x = x + self.run(tokens.runs.clamp(max=RUN - 1)) + self.voice(tokens.voice)[:, None]
        if self.style is not None:
            x = x + self.style(tokens.style)
        x = self.upsample(self.norm(self.trunk(x)))
        return x.unflatten(2, (self.settings.upsampling, -1)).flatten(1, 2)

    def forward(
        self, tokens: Tokens, source: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Everything that the signal is made from.

        Args:
            tokens: the input.
            source: (B, J, 2) log2 of F0 over the voice's and voicing 0 or 1, to be used in place of the prediction.

        Returns:
            f0: (B, J) log2 of F0 over the voice's. voicing: (B, J) log-odds. harmonic, aperiodic: (B, J, 80) natural
            log of amplitudes.
        """
        x = self.trunk_features(tokens)
        predicted = self.f0(self.pitch_blocks(x + self.pitch(tokens.pitch)))
        f0, voicing = predicted[..., 0] + tokens.pitch[..., 0], predicted[..., 1]
        if source is None:
            source = torch.stack([f0, (voicing > 0).to(f0.dtype)], dim=2)
        absolute = source[..., :1] + tokens.voice[:, None, -1:]
        y = x + self.source(torch.cat([source, absolute], dim=2))
        harmonic, aperiodic = self.envelopes(self.fine_norm(self.fine_blocks(y))).chunk(2, dim=2)
        return f0, voicing, harmonic, aperiodic


class DurationNetwork(nn.Module):
    """(B, R) de-duplicated units -> (B, R, 16) log-odds of lengths 1 to 16, in frames of the encoder."""

    def __init__(self, settings: NetworkSettings):
        super().__init__()
        width = settings.duration_width
        self.unit = nn.Embedding(settings.units + 1, width)
        self.blocks = blocks(settings.duration_blocks, width, settings)
        self.norm = nn.LayerNorm(width)
        self.length = nn.Linear(width, RUN)
        nn.init.normal_(self.unit.weight, std=0.3)

    def forward(self, units: torch.Tensor) -> torch.Tensor:
        """-1: a dropped unit."""
        dropped = torch.full_like(units, self.unit.num_embeddings - 1)
        return self.length(self.norm(self.blocks(self.unit(torch.where(units < 0, dropped, units)))))
