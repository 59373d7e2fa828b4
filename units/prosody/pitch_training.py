"""Training a pitch tokenizer on F0 contours; the recipe is our own."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from units.prosody.f0 import F0, RATE
from units.prosody.pitch import PitchNetwork, PitchSettings, PitchTokenizer, features
from units.threads import one_thread

DEFAULTS = PitchSettings()
UNIT = 50.0  # Hz; the network is trained on F0 in this unit


def fit(
    contours: Sequence[tuple[F0, float | None]],
    *,
    steps: int = 9_000,
    batch: int = 24,
    tokens: int = 24,
    learning_rate: float = 2e-3,
    commitment: float = 0.02,
    decay: float = 0.99,
    seed: int = 0,
    settings: PitchSettings = DEFAULTS,
    provenance: Mapping[str, Any] | None = None,
) -> PitchTokenizer:
    """Train a pitch tokenizer. The same contours and seed give the same weights (on one kind of machine).

    The codebook follows the moving average of the latents assigned to each code; a code that few latents use is set to
    a random latent of the batch. The loss is relative to the speaker's mean, so that low voices count as much as high
    ones: an L1 distance of F0 on voiced frames (weighted by 0.03 on interpolated ones), a cross-entropy of voicing, and
    the commitment.

    Args:
        contours: F0 of each utterance with its speaker's mean F0 (Hz), or None where unknown.
        steps, batch, tokens: steps of `batch` pieces of `tokens` tokens each.
        learning_rate: at the start; it decays to 0 along a cosine.
        commitment: weight of the commitment loss.
        decay: of the codebook's moving averages.

    Raises:
        ValueError: no contour is as long as a piece.
    """
    frames = tokens * settings.per_token
    usable = [(features(f0, mean), mean or f0.mean) for f0, mean in contours if len(f0) >= frames and f0.mean]
    if not usable:
        raise ValueError(f"pitch: need voiced speech of at least {frames / RATE:.2f} s, got none")
    generator = torch.Generator().manual_seed(seed)
    network = random_network(settings, seed)
    starts = torch.tensor([float(x.shape[1] - frames + 1) for x, _ in usable])
    means = torch.tensor([mean for _, mean in usable], dtype=torch.float32)
    data = [torch.from_numpy(x) for x, _ in usable]
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, betas=(0.8, 0.99), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    book = CodebookAverages(network, decay, generator)
    with one_thread():
        for step in range(steps):
            chosen = torch.multinomial(starts, batch, replacement=True, generator=generator)
            offsets = (torch.rand(batch, generator=generator) * starts[chosen]).long()
            x = torch.stack(
                [data[i][:, p : p + frames] for i, p in zip(chosen.tolist(), offsets.tolist(), strict=True)]
            )
            x[:, 0] /= UNIT
            latent = network.encoder(x)
            flat = latent.transpose(1, 2).flatten(0, 1)
            quantized = book.update(flat, first=step == 0)
            distance = F.mse_loss(flat, quantized)
            # gradients pass the quantizer straight through
            passed = (flat + (quantized - flat).detach()).view(batch, -1, settings.embedding).transpose(1, 2)
            loss = pitch_loss(network.decoder(passed), x, means[chosen]) + commitment * distance
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    use_hertz(network)
    recipe = {
        "seed": seed, "steps": steps, "batch": batch, "tokens": tokens, "learning_rate": learning_rate,
        "commitment": commitment, "decay": decay, "contours": len(usable), "torch": torch.__version__,
        "hours": round(sum(x.shape[1] for x, _ in usable) / RATE / 3600, 3), "data": data_hash(usable),
    }  # fmt: skip
    return PitchTokenizer(network.requires_grad_(False).eval(), {**recipe, **(provenance or {})})


def random_network(settings: PitchSettings, seed: int) -> PitchNetwork:
    """A network with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PitchNetwork(settings)


def pitch_loss(decoded: torch.Tensor, x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """The reconstruction loss of (B, 2, n) with speakers' means (B,) in Hz."""
    voiced = x[:, 1]
    weight = 0.03 + 0.97 * voiced
    relative = (decoded[:, 0] - x[:, 0]).abs() * (150.0 / means)[:, None]
    contour = (weight * relative).sum() / weight.sum()
    return contour + 0.1 * F.binary_cross_entropy_with_logits(8 * (decoded[:, 1] - 0.5), voiced)


class CodebookAverages:
    """The codebook's moving averages."""

    def __init__(self, network: PitchNetwork, decay: float, generator: torch.Generator):
        self.network, self.decay, self.generator = network, decay, generator
        self.sums = torch.zeros_like(network.codebook)
        self.counts = torch.zeros(len(network.codebook))

    @torch.no_grad()
    def update(self, latents: torch.Tensor, *, first: bool) -> torch.Tensor:
        """(N, D) latents -> (N, D) their nearest codes, which then move towards them."""
        book = self.network.codebook
        codes = len(book)
        replacements = latents[torch.randint(len(latents), (codes,), generator=self.generator)]
        if first:
            book.copy_(replacements)
            self.sums.copy_(replacements)
            self.counts.fill_(1.0)
        chosen = self.network.nearest(latents)
        quantized = book[chosen]
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, latents)
        counts = torch.bincount(chosen, minlength=codes).float()
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        dead = self.counts < 1.0
        book.copy_(torch.where(dead[:, None], replacements, self.sums / self.counts[:, None].clamp(min=1e-9)))
        self.sums[dead] = replacements[dead]
        self.counts[dead] = 1.0
        return quantized


@torch.no_grad()
def use_hertz(network: PitchNetwork) -> None:
    """Let the trained network work in Hz: scale its first and its last convolution by its unit."""
    first: Any = network.encoder.level_blocks[0]
    last: Any = network.decoder.out
    first.model[0][0].weight[:, 0] /= UNIT
    last.weight[0] *= UNIT
    last.bias[0] *= UNIT


def data_hash(contours: Sequence[tuple[np.ndarray, float | None]]) -> str:
    """SHA-256 of the training contours."""
    digest = hashlib.sha256()
    for x, mean in contours:
        digest.update(x.astype("<f4").tobytes() + str(mean).encode())
    return digest.hexdigest()
