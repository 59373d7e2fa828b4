"""Pitch tokens: F0 through a small VQ-VAE, 12.5 tokens per second by default, and back.

    F0 (200 Hz) ── minus mean ──┐                                              ┌── plus mean ── F0
    voiced (200 Hz) ────────────┴─ encoder /16 ─> nearest of 64 ─> decoder x16 ┴── > 0.5 ────── voiced

The network and the names of its weights are those of the released tokenizer (SPEC 2 and 11), so that its checkpoint
loads; `units.prosody.pitch_training` trains one. Its input is F0 in Hz minus the speaker's mean (or, for an unknown
speaker, the utterance's), interpolated where unvoiced, and whether the frame is voiced.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from units.prosody.f0 import F0, RATE, UNVOICED_HERTZ, extract
from units.tensor_files import hash_file, load_weights_only, read_artifact, write_artifact
from units.threads import one_thread

FORMAT = "wordweave pitch 1"
BUNDLED = Path(__file__).parents[1] / "data" / "pitch.safetensors"
CODES = 64
MAX_HALVINGS = 8  # of F0 frames per token: a token per 1.28 s
CHUNK = 4_096  # tokens computed at a time: bounded memory for hours-long recordings
CONTEXT = 128  # tokens of context on either side of a chunk, at least; more where the network reaches further


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

    @property
    def context(self) -> int:
        """Tokens of context that a chunk needs on either side.

        Dilated convolutions reach as many frames at every level, and each level has half the frames of the one before:
        less than twice that in tokens, and a few for the other convolutions.
        """
        return max(CONTEXT, 2 * sum(self.growth**i for i in range(self.depth)) + 8)


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


class LevelNetwork(nn.Module):
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
    """The VQ-VAE: (B, 2, R P) F0 and voicing <-> (B, P) codes; R = F0 frames per token."""

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
        self.encoder = LevelNetwork([*down, nn.Conv1d(width, embedding, 3, padding=1)])
        up: list[nn.Module] = []
        for i in range(settings.halvings):
            wide = embedding if i == settings.halvings - 1 else width
            doubling = nn.ConvTranspose1d(width, wide, kernel, stride=2, padding=1)
            up.append(nn.Sequential(Residual(settings, settings.reverse), doubling))
        self.decoder = LevelNetwork(
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
        """(B, 2, n) -> (B, n // R) codes."""
        latent = self.encoder(x)
        codes = self.nearest(latent.transpose(1, 2).flatten(0, 1))
        return codes.view(len(latent), -1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, P) codes -> (B, 2, R P) F0 and voicing."""
        return self.decoder(self.codebook[codes].transpose(1, 2))


@dataclass(frozen=True, eq=False)
class PitchTokenizer:
    """F0 to tokens and back.

    `provenance` is a JSON-able dict: data, seed, recipe, attribution of the recordings it was trained on.
    """

    network: PitchNetwork
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Tokens per second: 12.5 with the default settings."""
        return RATE / self.network.settings.per_token

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
            (P,) int16 in [0, codes), P = (T // 80 + 1) // F0 frames per token: one for each whole 1 / `rate` seconds.
            Speech without a voiced frame gives the tokens of a flat unvoiced contour.
        """
        f0 = speech if isinstance(speech, F0) else extract(speech)
        x = torch.from_numpy(features(f0, speaker_mean))
        per_token, context = self.network.settings.per_token, self.network.settings.context
        tokens = x.shape[1] // per_token
        if tokens == 0:
            return np.zeros(0, np.int16)
        codes = []
        with torch.inference_mode(), one_thread():
            for first, start, stop, last in chunks(tokens, context):
                # frames after the last token belong to the last chunk: convolutions read them, as in one piece
                piece = x[None, :, first * per_token : x.shape[1] if last == tokens else last * per_token]
                codes.append(self.network.encode(piece)[0, start - first : stop - first])
        return torch.cat(codes).numpy().astype(np.int16)

    def decode(self, tokens: np.ndarray, speaker_mean: float | None = None) -> F0:
        """F0 of pitch tokens, as many frames for each as the encoder reads.

        Args:
            tokens: (P,) integers in [0, codes).
            speaker_mean: mean F0 of the voice to decode for, Hz; default 150.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or (tokens.size and not (tokens.min() >= 0 and tokens.max() < self.codes)):
            raise ValueError(
                f"pitch tokens: need (P,) in [0, {self.codes}), got shape {tokens.shape}: {tokens}"
            )
        codes = torch.from_numpy(tokens.astype(np.int64))
        per_token, context = self.network.settings.per_token, self.network.settings.context
        pieces = [torch.zeros(2, 0)]
        with torch.inference_mode(), one_thread():
            for first, start, stop, last in chunks(len(codes), context):
                decoded = self.network.decode(codes[None, first:last])[0]
                pieces.append(decoded[:, (start - first) * per_token : (stop - first) * per_token])
        hertz, voiced = torch.cat(pieces, dim=1).numpy()
        mean = UNVOICED_HERTZ if speaker_mean is None else speaker_mean
        return F0(np.maximum(hertz + np.float32(mean), 1.0), voiced > 0.5)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the settings and provenance in its metadata, all of it or nothing."""
        arrays = {name: tensor.numpy() for name, tensor in self.network.state_dict().items()}
        settings = asdict(self.network.settings)
        write_artifact(path, arrays, {"format": FORMAT, "settings": settings, "provenance": self.provenance})


def features(f0: F0, speaker_mean: float | None = None) -> np.ndarray:
    """(2, n) float32, the network's input: F0 minus the mean in Hz, and voicing as 0 or 1.

    Without a voiced frame the contour is flat at 0, whatever the speaker's mean.
    """
    mean = f0.mean
    if mean is None:
        return np.zeros((2, len(f0)), np.float32)
    if speaker_mean is not None:
        if not (math.isfinite(speaker_mean) and speaker_mean > 0):
            raise ValueError(f"speaker_mean: need a finite mean above 0 Hz, got {speaker_mean}")
        mean = speaker_mean
    return np.stack([f0.hertz - np.float32(mean), f0.voiced.astype(np.float32)])


def chunks(tokens: int, context: int) -> Iterator[tuple[int, int, int, int]]:
    """Pieces of a long recording: (first computed, first kept, end of kept, end of computed), in tokens.

    >>> list(chunks(5000, 128))
    [(0, 0, 4096, 4224), (3968, 4096, 5000, 5000)]
    """
    for start in range(0, tokens, CHUNK):
        stop = min(tokens, start + CHUNK)
        yield max(0, start - context), start, stop, min(tokens, stop + context)


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
    """The layout of SPEC 11: `config.yaml` and `model.pt`."""
    import yaml  # a dependency of transformers

    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        encoder, vq, decoder = (config[f"{part}_params"] for part in ("encoder", "vq", "decoder"))
        inputs = str(config.get("features", "norm_f0_interp,vuv")).split(",")
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{folder / 'config.yaml'}: need encoder_params, vq_params and decoder_params: {error}"
        ) from error
    strides, downs = (x if isinstance(x, list) else [x] for x in (encoder["strides_t"], encoder["downs_t"]))
    if inputs != ["norm_f0_interp", "vuv"] or strides != [2] or len(downs) != 1 or vq.get("levels", 1) != 1:
        raise ValueError(
            f"{folder / 'config.yaml'}: need features norm_f0_interp,vuv, strides of 2 and one level, got {config}"
        )
    if type(downs[0]) is not int or not 1 <= downs[0] <= MAX_HALVINGS:
        raise ValueError(
            f"{folder / 'config.yaml'}: encoder_params.downs_t: need an integer from 1 to {MAX_HALVINGS}, "
            f"got {downs[0]!r}"
        )
    settings = PitchSettings(
        width=encoder["width"],
        depth=encoder["depth"],
        growth=encoder.get("dilation_growth_rate", 1),
        embedding=vq["emb_width"],
        codes=vq["l_bins"],
        halvings=downs[0],
        reverse=bool(decoder.get("reverse_decoder_dilation", False)),
        scaled=bool(encoder.get("res_scale", False)),
    )
    file = folder / "model.pt"
    content = load_weights_only(file)
    weights = content.get("model", content) if isinstance(content, dict) else {}
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return PitchTokenizer(fill(settings, weights), {"imported": file.name, "sha256": hash_file(file)})


def fill(settings: PitchSettings, weights: Mapping[str, torch.Tensor]) -> PitchNetwork:
    """A network with these weights; further ones are ignored, missing ones are an error."""
    network = PitchNetwork(settings)
    own = network.state_dict()
    for name, tensor in own.items():
        given = weights.get(name)
        if given is None or given.shape != tensor.shape:
            got = "nothing" if given is None else tuple(given.shape)
            raise ValueError(f"weight {name}: need shape {tuple(tensor.shape)}, got {got}")
        if not torch.isfinite(given).all():
            raise ValueError(f"weight {name}: need finite numbers")
    network.load_state_dict({name: weights[name].float() for name in own})
    return network.requires_grad_(False).eval()
