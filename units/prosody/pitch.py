"""Pitch tokens: F0 through a small VQ-VAE, 12.5 tokens a second, and back.

    F0 (200 Hz) ── minus mean ──┐                                              ┌── plus mean ── F0
    voiced (200 Hz) ────────────┴─ encoder /16 ─> nearest of 64 ─> decoder x16 ┴── > 0.5 ────── voiced

The network and its weights' names are those of the released tokenizer (SPEC 2 and 11), so that its checkpoint loads;
the training recipe is ours. What the network sees is F0 in Hz minus the speaker's mean (or, for an unknown speaker, the
utterance's), interpolated where unvoiced, and whether the frame is voiced.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from corpus.records import SAMPLE_RATE
from units.prosody.f0 import F0, RATE, UNVOICED_HERTZ, extract
from units.tensor_files import hash_file, load_weights_only, read_artifact, write_artifact
from units.threads import one_thread

FORMAT = "wordweave pitch 1"
BUNDLED = Path(__file__).parents[1] / "data" / "pitch.safetensors"
CODES = 64
PER_TOKEN = 16  # F0 frames
TOKEN_RATE = RATE / PER_TOKEN  # Hz
CHUNK = 4_096  # tokens computed at a time: bounded memory for hours-long recordings
CONTEXT = 128  # tokens of context on either side of a chunk, more than the network reaches
LOUD = 50.0  # Hz; the network is trained on F0 in this unit and saved with it multiplied out


@dataclass(frozen=True)
class PitchSettings:
    """Sizes of the network; the defaults are those of SPEC 2."""

    width: int = 32
    depth: int = 4
    growth: int = 3  # of the dilation, from block to block
    embedding: int = 128
    codes: int = CODES
    halvings: int = 4
    kernel: int = 4  # of the halving convolutions
    reverse: bool = False  # the decoder's dilations in falling order
    scaled: bool = False  # residual branches times 1 / sqrt(depth)

    @property
    def per_token(self) -> int:
        """F0 frames per token."""
        return 2**self.halvings


class Residual(nn.Module):
    """x + convolutions of x, `depth` times with growing dilation."""

    def __init__(self, settings: PitchSettings, reverse: bool):
        super().__init__()
        blocks: list[nn.Module] = []
        for i in range(settings.depth):
            dilation, width = settings.growth**i, settings.width
            along = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
            block = nn.Module()
            block.model = nn.Sequential(nn.ReLU(), along, nn.ReLU(), nn.Conv1d(width, width, 1))
            blocks.append(block)
        self.model = nn.Sequential(*(blocks[::-1] if reverse else blocks))
        self.scale = 1 / math.sqrt(settings.depth) if settings.scaled else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.model:
            branch: Any = block.model
            x = x + self.scale * branch(x)
        return x


class Half(nn.Module):
    """Encoder or decoder; weights are named `level_blocks.0.model.*`, the decoder's last one `out.*`."""

    def __init__(self, layers: list[nn.Module], out: nn.Module | None = None):
        super().__init__()
        level = nn.Module()
        level.model = nn.Sequential(*layers)
        self.level_blocks = nn.ModuleList([level])
        self.out = out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level: Any = self.level_blocks[0]
        x = level.model(x)
        return self.out(x) if self.out is not None else x


class PitchNetwork(nn.Module):
    """The VQ-VAE: (B, 2, 16 P) F0 and voicing <-> (B, P) codes."""

    def __init__(self, settings: PitchSettings = PitchSettings()):
        super().__init__()
        self.settings = settings
        width, kernel, embedding = settings.width, settings.kernel, settings.embedding
        down: list[nn.Module] = [
            nn.Sequential(
                nn.Conv1d(2 if i == 0 else width, width, kernel, stride=2, padding=1),
                Residual(settings, False),
            )
            for i in range(settings.halvings)
        ]
        self.encoder = Half([*down, nn.Conv1d(width, embedding, 3, padding=1)])
        up: list[nn.Module] = []
        for i in range(settings.halvings):
            wide = embedding if i == settings.halvings - 1 else width
            doubling = nn.ConvTranspose1d(width, wide, kernel, stride=2, padding=1)
            up.append(nn.Sequential(Residual(settings, settings.reverse), doubling))
        self.decoder = Half(
            [nn.Conv1d(embedding, width, 3, padding=1), *up], nn.Conv1d(embedding, 2, 3, padding=1)
        )
        level = nn.Module()
        level.register_buffer("k", torch.zeros(settings.codes, embedding))
        self.vq = nn.Module()
        self.vq.level_blocks = nn.ModuleList([level])

    @property
    def codebook(self) -> torch.Tensor:
        """(codes, embedding)."""
        return self.vq.level_blocks[0].k  # type: ignore[union-attr,index]

    def nearest(self, latent: torch.Tensor) -> torch.Tensor:
        """(N, embedding) -> (N,) codes."""
        scores = self.codebook.square().sum(1) - 2 * latent @ self.codebook.T
        return scores.argmin(dim=1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 2, n) -> (B, n // 16) codes."""
        latent = self.encoder(x)
        codes = self.nearest(latent.transpose(1, 2).flatten(0, 1))
        return codes.view(len(latent), -1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, P) codes -> (B, 2, 16 P) F0 and voicing."""
        return self.decoder(self.codebook[codes].transpose(1, 2))


@dataclass(frozen=True, eq=False)
class PitchTokenizer:
    """F0 to tokens and back.

    `provenance` is a JSON-able dict: data, seed, recipe, attribution of the recordings it was trained on.
    """

    network: PitchNetwork
    provenance: dict[str, Any] = field(default_factory=dict)

    rate = TOKEN_RATE
    """Hz."""

    @property
    def codes(self) -> int:
        """Number of different tokens."""
        return self.network.settings.codes

    @cached_property
    def hash(self) -> str:
        """SHA-256 of settings and weights."""
        digest = hashlib.sha256(json.dumps(asdict(self.network.settings)).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().astype("<f4").tobytes())
        return digest.hexdigest()

    def encode(self, speech: np.ndarray | F0, speaker_mean: float | None = None) -> np.ndarray:
        """Pitch tokens of a recording.

        Args:
            speech: (T,) float32 at 16 kHz, or its F0.
            speaker_mean: mean F0 of the speaker's voiced frames, Hz; default: the recording's own.

        Returns:
            (P,) int16 in [0, 64), P = (T // 80 + 1) // 16: one per 80 ms, none for less.
            Speech without a voiced frame gives the tokens of a flat unvoiced contour.
        """
        f0 = speech if isinstance(speech, F0) else extract(speech)
        x = torch.from_numpy(features(f0, speaker_mean))
        per_token = self.network.settings.per_token
        tokens = x.shape[1] // per_token
        if tokens == 0:
            return np.zeros(0, np.int16)
        found = []
        with torch.inference_mode(), one_thread():
            for first, start, stop, last in chunks(tokens):
                # what is left over after the last token is seen as far as it fills convolutions, as in one piece
                piece = x[None, :, first * per_token : x.shape[1] if last == tokens else last * per_token]
                found.append(self.network.encode(piece)[0, start - first : stop - first])
        return torch.cat(found).numpy().astype(np.int16)

    def decode(self, tokens: np.ndarray, speaker_mean: float | None = None) -> F0:
        """F0 of pitch tokens: 16 frames each.

        Args:
            tokens: (P,) integers in [0, 64).
            speaker_mean: what to add, Hz; default 150.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or (tokens.size and not (tokens.min() >= 0 and tokens.max() < self.codes)):
            raise ValueError(
                f"pitch tokens: need (P,) in [0, {self.codes}), got shape {tokens.shape}: {tokens}"
            )
        codes = torch.from_numpy(tokens.astype(np.int64))
        per_token = self.network.settings.per_token
        found = [torch.zeros(2, 0)]
        with torch.inference_mode(), one_thread():
            for first, start, stop, last in chunks(len(codes)):
                made = self.network.decode(codes[None, first:last])[0]
                found.append(made[:, (start - first) * per_token : (stop - first) * per_token])
        hertz, voiced = torch.cat(found, dim=1).numpy()
        mean = UNVOICED_HERTZ if speaker_mean is None else speaker_mean
        return F0(np.maximum(hertz + np.float32(mean), 1.0), voiced > 0.5)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the settings and provenance in its metadata, all of it or nothing."""
        tensors = {name: tensor.numpy() for name, tensor in self.network.state_dict().items()}
        said = {"format": FORMAT, "settings": asdict(self.network.settings), "provenance": self.provenance}
        write_artifact(path, tensors, said)


def features(f0: F0, speaker_mean: float | None = None) -> np.ndarray:
    """(2, n) float32, what the network sees: F0 minus the mean in Hz, and voicing as 0 or 1.

    Without a voiced frame the contour is flat at 0, whoever speaks.
    """
    mean = f0.mean
    if mean is None:
        return np.zeros((2, len(f0)), np.float32)
    if speaker_mean is not None:
        if not (math.isfinite(speaker_mean) and speaker_mean > 0):
            raise ValueError(f"speaker_mean: need a finite mean above 0 Hz, got {speaker_mean}")
        mean = speaker_mean
    return np.stack([f0.hertz - np.float32(mean), f0.voiced.astype(np.float32)])


def chunks(tokens: int) -> Iterator[tuple[int, int, int, int]]:
    """Pieces of a long recording: (first seen, first kept, end of kept, end of seen), in tokens.

    >>> list(chunks(5000))
    [(0, 0, 4096, 4224), (3968, 4096, 5000, 5000)]
    """
    for start in range(0, tokens, CHUNK):
        stop = min(tokens, start + CHUNK)
        yield max(0, start - CONTEXT), start, stop, min(tokens, stop + CONTEXT)


def load(path: str | Path | None = None) -> PitchTokenizer:
    """The bundled tokenizer, one that `PitchTokenizer.save` wrote, or the released one.

    Args:
        path: default: the bundled one; a `.safetensors` file; or a folder with `config.yaml` and `model.pt` in the
            layout of SPEC 11 (the released F0 quantizer), of which nothing but tensors is read.

    Raises:
        ValueError: no such file, or not a whole one of these; names it.
    """
    path = BUNDLED if path is None or str(path) == "" else Path(path)
    try:
        if path.is_dir():
            return load_released(path)
        arrays, record = read_artifact(path, FORMAT, kind="pitch model", command="wordweave fit pitch")
        weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return PitchTokenizer(fill(PitchSettings(**record["settings"]), weights), record["provenance"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: need a whole pitch model, got: {error}") from error
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error


def load_released(folder: Path) -> PitchTokenizer:
    """The layout of SPEC 11: `config.yaml` beside `model.pt`."""
    import yaml  # comes with transformers

    try:
        said = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        encoder, vq, decoder = (said[f"{part}_params"] for part in ("encoder", "vq", "decoder"))
        wanted = str(said.get("features", "norm_f0_interp,vuv")).split(",")
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{folder / 'config.yaml'}: need encoder_params, vq_params and decoder_params: {error}"
        ) from error
    one = lambda value: value[0] if isinstance(value, list) else value  # noqa: E731
    if wanted != ["norm_f0_interp", "vuv"] or one(encoder["strides_t"]) != 2 or vq.get("levels", 1) != 1:
        raise ValueError(
            f"{folder / 'config.yaml'}: need features norm_f0_interp,vuv, strides of 2 and one level, got {said}"
        )
    settings = PitchSettings(
        width=encoder["width"],
        depth=encoder["depth"],
        growth=encoder.get("dilation_growth_rate", 1),
        embedding=vq["emb_width"],
        codes=vq["l_bins"],
        halvings=one(encoder["downs_t"]),
        reverse=bool(decoder.get("reverse_decoder_dilation", False)),
        scaled=bool(encoder.get("res_scale", False)),
    )
    file = folder / "model.pt"
    content = load_weights_only(file)
    weights = content.get("model", content) if isinstance(content, dict) else {}
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return PitchTokenizer(fill(settings, weights), {"imported": file.name, "sha256": hash_file(file)})


def fill(settings: PitchSettings, weights: Mapping[str, torch.Tensor]) -> PitchNetwork:
    """A network with these weights; more of them do no harm, fewer are an error."""
    network = PitchNetwork(settings)
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        found = weights.get(name)
        if found is None or found.shape != tensor.shape:
            got = "nothing" if found is None else tuple(found.shape)
            raise ValueError(f"weight {name}: need shape {tuple(tensor.shape)}, got {got}")
        if not torch.isfinite(found).all():
            raise ValueError(f"weight {name}: need finite numbers")
    network.load_state_dict({name: weights[name].float() for name in wanted})
    return network.requires_grad_(False).eval()


def plot(
    waveform: np.ndarray,
    f0: F0,
    reconstruction: F0,
    tokens: np.ndarray,
    path: str | Path,
    *,
    style: np.ndarray | None = None,
) -> None:
    """A picture to look at: F0, what tokens keep of it, and the tokens, over the spectrogram.

    Args:
        waveform: (T,) float32 at 16 kHz.
        f0, reconstruction: before and after the tokens; drawn where they are voiced.
        tokens: (P,) pitch tokens, each written where its run begins.
        path: of a .png or whatever else matplotlib writes.
        style: (S,) style tokens.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = len(waveform) / SAMPLE_RATE
    figure = Figure(figsize=(min(40.0, max(8.0, 2.6 * seconds)), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    lower, upper = figure.subplots(2, 1, sharex=True, height_ratios=[1, 5])
    size = 640
    padded = np.pad(waveform, (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[: len(waveform) + 1 : 160]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), 2048)) ** 2
    top = max(300.0, 1.3 * float(np.max(f0.hertz, initial=0.0, where=f0.voiced)))
    kept = round(top / SAMPLE_RATE * 2048) + 1
    level = 10 * np.log10(power[:, :kept].T + 1e-9)
    peak = float(level.max(initial=-90.0))
    upper.imshow(
        level, origin="lower", aspect="auto", cmap="gray_r", vmin=peak - 60, vmax=peak + 10,
        extent=(0, len(frames) * 0.01, 0, (kept - 1) * SAMPLE_RATE / 2048),
    )  # fmt: skip
    for contour, colour, width, name in (
        (f0, "tab:blue", 3.5, "F0"),
        (reconstruction, "tab:orange", 1.5, "from pitch tokens"),
    ):
        hertz = np.where(contour.voiced, contour.hertz, np.nan)
        upper.plot(np.arange(len(contour)) / RATE, hertz, color=colour, linewidth=width, label=name)
    upper.set(xlabel="seconds", ylabel="Hz", xlim=(0, max(seconds, 0.01)), ylim=(0, top))
    upper.legend(loc="upper right")
    first = [i for i, token in enumerate(tokens) if i == 0 or token != tokens[i - 1]]
    for row, i in enumerate(first):
        lower.axvline(i / TOKEN_RATE, color="lightgray", linewidth=0.5)
        lower.text(i / TOKEN_RATE, 0.08 + 0.3 * (row % 2), f"Pi{tokens[i]}", fontsize=7)
    for i, token in enumerate(() if style is None else style):
        lower.text(i, 0.72, f"St{token}", fontsize=9, color="tab:red")
    lower.set(ylim=(0, 1), yticks=[])
    figure.savefig(path, dpi=110)


# Training ----------------------------------------------------------------------------------------------------------


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
    settings: PitchSettings = PitchSettings(),
    provenance: Mapping[str, Any] | None = None,
) -> PitchTokenizer:
    """Train a pitch tokenizer. The same contours and seed give the same weights (on one kind of machine).

    The codebook follows the mean of what falls to each code (EMA); a code that few latents use is set on a random
    latent of the batch. The loss is relative to the speaker's mean, so that low voices count as much as high ones: an
    L1 distance of F0 on voiced frames (3 % of it on interpolated ones), a cross-entropy of voicing, and the
    commitment.

    Args:
        contours: F0 of each utterance with its speaker's mean F0 (Hz), or None where unknown.
        steps, batch, tokens: steps of `batch` pieces of `tokens` tokens each.
        learning_rate: at the start; it falls to 0 along a cosine.
        commitment: weight of the commitment loss.
        decay: of the codebook's moving averages.

    Raises:
        ValueError: no contour is as long as a piece.
    """
    frames = tokens * settings.per_token
    kept = [(features(f0, mean), mean or f0.mean) for f0, mean in contours if len(f0) >= frames and f0.mean]
    if not kept:
        raise ValueError(f"pitch: need voiced speech of at least {frames / RATE:.2f} s, got none")
    generator = torch.Generator().manual_seed(seed)
    network = seeded(settings, seed)
    starts = torch.tensor([float(x.shape[1] - frames + 1) for x, _ in kept])
    means = torch.tensor([mean for _, mean in kept], dtype=torch.float32)
    data = [torch.from_numpy(x) for x, _ in kept]
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, betas=(0.8, 0.99), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    book = Averages(network, decay, generator)
    with one_thread():
        for step in range(steps):
            chosen = torch.multinomial(starts, batch, replacement=True, generator=generator)
            places = (torch.rand(batch, generator=generator) * starts[chosen]).long()
            x = torch.stack(
                [data[i][:, p : p + frames] for i, p in zip(chosen.tolist(), places.tolist(), strict=True)]
            )
            x[:, 0] /= LOUD
            latent = network.encoder(x)
            flat = latent.transpose(1, 2).flatten(0, 1)
            quantized = book.update(flat, first=step == 0)
            away = F.mse_loss(flat, quantized)
            passed = (flat + (quantized - flat).detach()).view(batch, -1, settings.embedding).transpose(1, 2)
            made = network.decoder(passed)
            loss = pitch_loss(made, x, means[chosen]) + commitment * away
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    multiply_out(network)
    said = {
        "seed": seed, "steps": steps, "batch": batch, "tokens": tokens, "learning_rate": learning_rate,
        "commitment": commitment, "decay": decay, "contours": len(kept), "torch": torch.__version__,
        "hours": round(sum(x.shape[1] for x, _ in kept) / RATE / 3600, 3), "data": data_hash(kept),
    }  # fmt: skip
    return PitchTokenizer(network.requires_grad_(False).eval(), {**said, **(provenance or {})})


def seeded(settings: PitchSettings, seed: int) -> PitchNetwork:
    """A network with random weights that hang on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PitchNetwork(settings)


def pitch_loss(made: torch.Tensor, x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """The reconstruction loss of (B, 2, n) with speakers' means (B,) in Hz."""
    voiced = x[:, 1]
    weight = 0.03 + 0.97 * voiced
    relative = (made[:, 0] - x[:, 0]).abs() * (150.0 / means)[:, None]
    contour = (weight * relative).sum() / weight.sum()
    return contour + 0.1 * F.binary_cross_entropy_with_logits(8 * (made[:, 1] - 0.5), voiced)


class Averages:
    """The codebook's moving averages."""

    def __init__(self, network: PitchNetwork, decay: float, generator: torch.Generator):
        self.network, self.decay, self.generator = network, decay, generator
        self.sums = torch.zeros_like(network.codebook)
        self.counts = torch.zeros(len(network.codebook))

    @torch.no_grad()
    def update(self, latents: torch.Tensor, *, first: bool) -> torch.Tensor:
        """(N, D) latents -> (N, D) the codes they fall to, which then move towards them."""
        book = self.network.codebook
        codes = len(book)
        drawn = latents[torch.randint(len(latents), (codes,), generator=self.generator)]
        if first:
            book.copy_(drawn)
            self.sums.copy_(drawn)
            self.counts.fill_(1.0)
        chosen = self.network.nearest(latents)
        quantized = book[chosen]
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, latents)
        counts = torch.bincount(chosen, minlength=codes).float()
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        dead = self.counts < 1.0
        book.copy_(torch.where(dead[:, None], drawn, self.sums / self.counts[:, None].clamp(min=1e-9)))
        self.sums[dead] = drawn[dead]
        self.counts[dead] = 1.0
        return quantized


@torch.no_grad()
def multiply_out(network: PitchNetwork) -> None:
    """Let the trained network speak Hz: its unit goes into the first and the last convolution."""
    first: Any = network.encoder.level_blocks[0]
    last: Any = network.decoder.out
    first.model[0][0].weight[:, 0] /= LOUD
    last.weight[0] *= LOUD
    last.bias[0] *= LOUD


def data_hash(contours: Sequence[tuple[np.ndarray, float | None]]) -> str:
    """sha256 over what the network was trained on."""
    digest = hashlib.sha256()
    for x, mean in contours:
        digest.update(x.astype("<f4").tobytes() + str(mean).encode())
    return digest.hexdigest()
