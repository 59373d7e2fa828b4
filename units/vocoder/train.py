"""Training a vocoder for the units of an encoder and a codebook, on recordings without transcripts.

A step cuts crops of a few recordings, encoded at a random shift of less than a unit, drops some of their units and now
and then all pitch or style tokens, and renders the middle of each crop. The lengths of runs are learnt beside.
A step is made from (seed, step) alone, so that a run resumes exactly from any checkpoint.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from corpus.keyed import generator
from units.pretraining.checkpoint import open_log, read_checkpoint, write_checkpoint
from units.pretraining.train import Recording, crop_weights, data_hash
from units.vocoder import losses
from units.vocoder.data import EDGE, Batch, Crops, Example, Tokenizers, fit_voices, make_examples
from units.vocoder.network import DurationNetwork, NetworkSettings, VocoderNetwork
from units.vocoder.signal import FFT, HOP, render
from units.vocoder.vocoder import Vocoder, Voice

Progress = Callable[[dict[str, Any]], None]
CHECKS = 4  # batches of the validation
UNLEARNT = ("end", "report_every", "checkpoint_every", "voices")  # settings that change no weight


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses."""

    spectral: float = 1.0
    mel: float = 0.5
    encoder: float = 1.0  # of `compact` and its kind; 0 for others
    f0: float = 1.0
    voicing: float = 0.3
    durations: float = 0.3
    adversarial: float = 0.1
    matching: float = 0.5


@dataclass(frozen=True)
class VocoderSettings:
    """Settings of `fit`; as TOML in config/vocoder/compact.toml."""

    steps: int = 4_000
    end: int = 0  # step it ends at while rates are still as for `steps`; 0: at `steps`
    adversarial_from: int = 0  # step from which discriminators are trained and believed; 0: never
    warmup: int = 50
    rate: float = 2e-3
    discriminator_rate: float = 5e-4
    discriminator_width: int = 24  # channels
    weight_decay: float = 0.05
    batch: int = 12
    crop: int = 48  # units
    margin: int = 8  # of them at either side that are not rendered
    unit_dropout: float = 0.1
    pitch_dropout: float = 0.3  # of all pitch tokens of a crop
    style_dropout: float = 0.3
    voice_noise: float = 0.3
    leave_out: tuple[str, ...] = ()  # recordings not to learn from, by how ids or speakers begin
    validation: tuple[str, ...] = ()  # the same, for the log
    shares: dict[str, float] = field(default_factory=dict)  # how speakers' names begin -> share of crops
    voices: dict[str, str] = field(default_factory=dict)  # name -> speaker; empty: the two with most speech
    seed: int = 0
    device: str = "cpu"
    report_every: int = 50
    checkpoint_every: int = 200
    loss: LossSettings = field(default_factory=LossSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "crop", "report_every", "checkpoint_every", "discriminator_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"vocoder.{name}: need at least 1, got {getattr(self, name)}")
        if not 0 <= self.end <= self.steps:
            raise ValueError(f"vocoder.end: need a step up to steps, {self.steps}, got {self.end}")
        most = (self.crop - 8) // 2
        if not 1 <= self.margin <= most:
            raise ValueError(f"vocoder.margin: need 1 to {most} of {self.crop} units, got {self.margin}")
        for name in ("unit_dropout", "pitch_dropout", "style_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"vocoder.{name}: need 0 <= share < 1, got {getattr(self, name)}")
        if sum(self.shares.values()) > 1 or min(self.shares.values(), default=0) < 0:
            raise ValueError(f"vocoder.shares: need shares from 0 that sum to at most 1, got {self.shares}")

    @property
    def last_step(self) -> int:
        """Where it ends."""
        return self.end or self.steps


class Trained(nn.Module):
    """Everything that learns."""

    def __init__(self, settings: VocoderSettings, centroids: torch.Tensor):
        super().__init__()
        self.vocoder = VocoderNetwork(settings.network, centroids)
        self.durations = DurationNetwork(settings.network)
        self.discriminators = None
        if settings.adversarial_from:
            self.discriminators = losses.Discriminators(settings.discriminator_width)


def is_named(recording: Recording | Example, names: tuple[str, ...]) -> bool:
    """Whether an id or a speaker begins with one of the names."""
    return bool(names) and (recording.id.startswith(names) or recording.speaker.startswith(names))


def rate_at(step: int, settings: VocoderSettings) -> float:
    """Share of the learning rate: a ramp, then a cosine."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def render_batch(
    network: VocoderNetwork, batch: Batch, settings: VocoderSettings
) -> tuple[torch.Tensor, ...]:
    """(B, T) waveforms of the middles of the crops, and the prediction of F0 and voicing of all their frames."""
    up, margin = settings.network.upsampling, settings.margin
    f0, voicing, harmonic, aperiodic = network(batch.tokens, batch.source)
    frames = slice(margin * up - EDGE, (settings.crop - margin) * up + 1)
    made = render(harmonic[:, frames], aperiodic[:, frames], batch.excitation, batch.breath)
    first = FFT - HOP + HOP // 2
    return made[:, first : first + batch.target.shape[1]], f0, voicing


def loss_of(
    model: Trained, batch: Batch, settings: VocoderSettings, encoder: losses.EncoderLoss | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The waveforms of a step and its losses by name."""
    made, f0, voicing = render_batch(model.vocoder, batch, settings)
    voiced = batch.source[..., 1]
    known = batch.lengths > 0
    scores = model.durations(batch.deduplicated)
    parts = {
        "spectral": losses.spectral_loss(made, batch.target),
        "mel": losses.mel_loss(made, batch.target),
        "f0": ((f0 - batch.source[..., 0]).abs() * voiced).sum() / voiced.sum().clamp(min=1),
        "voicing": F.binary_cross_entropy_with_logits(voicing, voiced),
        "durations": F.cross_entropy(scores[known], batch.lengths[known] - 1),
    }
    if encoder is not None:
        parts["encoder"] = encoder(made, batch.target)
    return made, parts


def weighted(parts: dict[str, torch.Tensor], settings: VocoderSettings) -> torch.Tensor:
    """Their sum."""
    return torch.stack([getattr(settings.loss, name) * value for name, value in parts.items()]).sum()


def train_step(
    model: Trained, optimizer: torch.optim.Optimizer, batch: Batch, step: int, settings: VocoderSettings,
    encoder: losses.EncoderLoss | None,
) -> dict[str, float]:  # fmt: skip
    """One step of both sides; the discriminators learn from what the vocoder made before it."""
    torch.manual_seed(int(generator(settings.seed, "vocoder dropout", str(step)).integers(2**62)))
    for group in optimizer.param_groups:
        group["lr"] = group["full"] * rate_at(step, settings)
    made, parts = loss_of(model, batch, settings, encoder)
    judges = model.discriminators if settings.adversarial_from and step >= settings.adversarial_from else None
    if judges is not None:
        with torch.no_grad():
            true = judges(batch.target)
        verdicts = judges(made)
        parts["adversarial"] = losses.adversarial_loss(verdicts)
        parts["matching"] = losses.matching_loss(verdicts, true)
    loss = weighted(parts, settings)
    if not torch.isfinite(loss):
        raise ValueError(f"vocoder: the loss is {loss.item()} at step {step}; lower `rate`")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if judges is not None:
        judges.zero_grad(set_to_none=True)
        verdict = losses.discriminator_loss(judges(made.detach()), judges(batch.target))
        verdict.backward()
        parts["discriminator"] = verdict
        nn.utils.clip_grad_norm_(judges.parameters(), 1.0)
    nn.utils.clip_grad_norm_([*model.vocoder.parameters(), *model.durations.parameters()], 1.0)
    optimizer.step()
    return {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in parts.items()}


@torch.no_grad()
def check(
    model: Trained, batches: Sequence[Batch], settings: VocoderSettings, encoder: Any
) -> dict[str, float]:
    """Losses on the validation, with nothing dropped."""
    model.eval()
    lines = [loss_of(model, batch, settings, encoder)[1] for batch in batches]
    model.train()
    return {
        f"validation_{name}": float(sum(line[name] for line in lines)) / len(lines)
        for name in (lines or [{}])[0]
    }


def optimizer_of(model: Trained, settings: VocoderSettings) -> torch.optim.Optimizer:
    """AdamW; matrices decay, the rest does not."""
    own = [p for part in (model.vocoder, model.durations) for p in part.parameters()]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in own if p.ndim > 1],
            "weight_decay": settings.weight_decay,
            "full": settings.rate,
        },
        {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, "full": settings.rate},
    ]
    if model.discriminators is not None:
        judges = list(model.discriminators.parameters())
        groups.append({"params": judges, "weight_decay": 0.0, "full": settings.discriminator_rate})
    return torch.optim.AdamW(groups, lr=settings.rate, betas=(0.8, 0.98))


def speaker_voices(examples: Sequence[Example]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """(10,) of each speaker, and the mean and components that give those of any spectrum."""
    spectra: dict[str, list[np.ndarray]] = {}
    for example in examples:
        spectra.setdefault(example.speaker, []).append(example.spectrum)
    means = {speaker: np.mean(rows, axis=0) for speaker, rows in spectra.items()}
    mean, components = fit_voices(np.stack(list(means.values())))
    return {speaker: (x - mean) @ components for speaker, x in means.items()}, mean, components


def fit(
    recordings: Sequence[Recording],
    tokenizers: Tokenizers,
    centroids: np.ndarray,
    settings: VocoderSettings,
    output: str | Path,
    *,
    encoder: Any = None,
    identity: dict[str, Any] | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    progress: Progress = lambda line: None,
    examples: Sequence[Example] | None = None,
) -> dict[str, Any]:
    """Train a vocoder and write it to a directory.

    Args:
        recordings: what to learn from, held-out ones included.
        tokenizers: what makes tokens of them.
        centroids: (K, D) of the codebook.
        encoder: for the loss of that name.
        identity: of encoder, codebook, pitch and style, for the vocoder's `config.json`.
        examples: of the recordings, where they were made before.

    Returns:
        JSON-able summary.

    Raises:
        ValueError: too little speech, or a checkpoint of other settings or data.
    """
    output = Path(output)
    hop = tokenizers.hop
    if hop % HOP:
        raise ValueError(f"vocoder: need an encoder with a hop of a multiple of {HOP} samples, got {hop}")
    if settings.loss.encoder and encoder is None:
        raise ValueError("vocoder.loss.encoder: needs an encoder; set it to 0")
    fitting = replace(
        settings.network, units=len(centroids), features=centroids.shape[1], upsampling=hop // HOP,
        styles=0 if tokenizers.style is None else tokenizers.style.centroids.shape[1],
    )  # fmt: skip
    settings = replace(settings, network=fitting)
    used = [r for r in recordings if not is_named(r, settings.leave_out)]
    requested = {
        "settings": {n: v for n, v in asdict(settings).items() if n not in UNLEARNT},
        "data": {"recordings": data_hash(used), **(identity or {})},
    }
    requested = json.loads(json.dumps(requested))
    if examples is None:
        examples = make_examples(used, tokenizers, settings.crop - 2 * settings.margin)
    train = [e for e in examples if not is_named(e, settings.leave_out + settings.validation)]
    held = [e for e in examples if is_named(e, settings.validation) and not is_named(e, settings.leave_out)]
    if not train:
        raise ValueError(
            f"vocoder: need recordings of at least {settings.crop - 2 * settings.margin} units, got none"
        )
    device = torch.device(settings.device)
    voices, mean, components = speaker_voices(train)
    named = settings.voices or {v: v for v in sorted(voices, key=lambda v: -seconds_of(train, v))[:2]}
    if unknown := sorted(set(named.values()) - set(voices)):
        raise ValueError(f"vocoder.voices: need speakers that it learnt from, got {', '.join(unknown)}")
    seconds = np.array([len(e.waveform) for e in train]) / 16_000
    weights = seconds * crop_weights(seconds, [e.speaker for e in train], settings.shares)
    crops = Crops(train, voices, weights, settings)
    held_voices = {e.speaker: (e.spectrum - mean) @ components for e in held}
    checks = []
    if held:
        durations = np.array([len(e.waveform) for e in held], float)
        checks = [
            Crops(held, voices | held_voices, durations, settings).batch(-1 - n, plain=True).to(device)
            for n in range(CHECKS)
        ]
    torch.manual_seed(settings.seed)
    model = Trained(settings, torch.from_numpy(np.array(centroids))).to(device)
    optimizer = optimizer_of(model, settings)
    step, spent, sums = 0, 0.0, dict[str, float]()
    output.mkdir(parents=True, exist_ok=True)
    if resume:
        step, spent, sums = read_checkpoint(output, model, optimizer, requested)
    perceived = losses.EncoderLoss(encoder, device) if settings.loss.encoder else None
    begun, last = time.monotonic(), dict[str, Any]()
    end = min(settings.last_step, stop_after or settings.last_step)
    model.train()
    with open_log(output / "log.jsonl", step) as log:
        while step < end:
            parts = train_step(model, optimizer, crops.batch(step).to(device), step, settings, perceived)
            step += 1
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            if step % settings.report_every == 0 or step == settings.last_step:
                count = (step - 1) % settings.report_every + 1
                last = {"step": step, "seconds": round(spent + time.monotonic() - begun, 1)}
                last |= {name: value / count for name, value in sums.items()} | check(
                    model, checks, settings, perceived
                )
                log.write(json.dumps(last) + "\n")
                log.flush()
                progress(last)
                sums = {}
            if step % settings.checkpoint_every == 0 or step == end:
                write_checkpoint(
                    output, model, optimizer, step, spent + time.monotonic() - begun, requested, sums
                )
    model.eval()
    vocoder = Vocoder(
        model.vocoder.cpu(), model.durations.cpu(), mean, components,
        {name: Voice(voices[speaker].astype(np.float32), mean_f0(train, speaker)) for name, speaker in named.items()},
        identity or {}, pitch=tokenizers.pitch,
        style=None if tokenizers.style is None else tokenizers.style.centroids,
    )  # fmt: skip
    vocoder.save(output)
    summary = {
        **requested,
        "steps": step,
        "seconds": round(spent + time.monotonic() - begun, 1),
        "last": last,
    }
    (output / "training.json").write_text(
        json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return summary


def seconds_of(examples: Sequence[Example], speaker: str) -> float:
    """Seconds of a speaker."""
    return sum(len(e.waveform) for e in examples if e.speaker == speaker) / 16_000


def mean_f0(examples: Sequence[Example], speaker: str) -> float:
    """Mean F0 of a speaker, Hz."""
    means = [e.f0.mean for e in examples if e.speaker == speaker and e.f0.mean]
    return float(np.mean(means)) if means else 160.0
