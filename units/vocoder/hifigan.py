"""Unit HiFi-GAN vocoders as others trained them: of textlesslib and speech-resynthesis, and Spirit LM's two.

A directory holds `config.json`, the generator (`generator.pt`, another `*.pt`, or `g_*` of a training run) and, where
there are several, `speakers.txt` and `styles.txt`. Of the checkpoint nothing but tensors is read.

Per unit, embeddings are concatenated in the order of the reference: units, pitch tokens, style tokens, F0, speaker,
style of speaking; transposed convolutions bring them to the rate of samples.

Source: Kong et al. 2020 (HiFi-GAN), arXiv:2010.05646; Polyak et al. 2021, arXiv:2104.00355; layouts of textlesslib
(MIT) and SPEC 10 and 11.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from corpus.records import SAMPLE_RATE
from units.deduplicate import deduplicate
from units.tensor_files import hash_tensors, load_weights_only, read_safetensors
from units.threads import one_thread

SLOPE = 0.1  # of the leaky rectifiers inside; the last one has torch's default
CHUNK = 200  # units synthesised at a time
NEEDED = (
    "num_embeddings", "embedding_dim", "model_in_dim", "upsample_rates", "upsample_kernel_sizes",
    "upsample_initial_channel", "resblock_kernel_sizes", "resblock_dilation_sizes",
)  # fmt: skip


class ResidualBlock(nn.Module):
    """x + pairs of convolutions of x, the first of each pair dilated."""

    def __init__(self, width: int, kernel: int, dilations: list[int]):
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(width, width, kernel, dilation=d, padding=(kernel - 1) * d // 2) for d in dilations
        )
        self.convs2 = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2) for _ in dilations
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D, N) -> (B, D, N)."""
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class DurationPredictor(nn.Module):
    """(B, N, D) embeddings of de-duplicated units -> (B, N) log of 1 + length in frames."""

    def __init__(self, width: int, hidden: int, kernel: int):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv1d(width, hidden, kernel, padding=(kernel - 1) // 2))
        self.ln1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Sequential(nn.Conv1d(hidden, hidden, kernel, padding=1))
        self.ln2 = nn.LayerNorm(hidden)
        self.proj = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N)."""
        for convolution, norm in ((self.conv1, self.ln1), (self.conv2, self.ln2)):
            x = norm(F.relu(convolution(x.transpose(1, 2))).transpose(1, 2))
        return self.proj(x)[..., 0]


class UnitGenerator(nn.Module):
    """The network; weights are named as in the checkpoints, weight normalisation folded in."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        c, width = config, config["embedding_dim"]
        self.kernels = len(c["resblock_kernel_sizes"])
        self.dict = nn.Embedding(c["num_embeddings"], width)
        inputs = width
        self.f0_dict = self.style_dict = self.f0_quant_embed = self.style = None
        self.spkr: nn.Embedding | nn.Linear | None = None
        self.raw_f0 = bool(c.get("f0")) and not c.get("f0_quant_num_bin")
        if c.get("num_f0_tokens"):
            self.f0_dict = nn.Embedding(c["num_f0_tokens"], width)
        if c.get("num_style_tokens"):
            self.style_dict = nn.Embedding(c["num_style_tokens"], width)
        if c.get("f0") and not self.raw_f0:
            self.f0_quant_embed = nn.Embedding(c["f0_quant_num_bin"], width)
        if c.get("embedder_params"):
            self.spkr = nn.Linear(c.get("embedder_dim", 256), width)
        elif c.get("multispkr"):
            self.spkr = nn.Embedding(c.get("num_speakers", 200), width)
        if c.get("multistyle"):
            self.style = nn.Embedding(c.get("num_styles", 100), width)
        extra = (self.f0_dict, self.style_dict, self.f0_quant_embed, self.spkr, self.style)
        inputs += width * sum(one is not None for one in extra) + self.raw_f0
        if inputs != c["model_in_dim"]:
            raise ValueError(f"model_in_dim: need {inputs} for these embeddings, got {c['model_in_dim']}")
        self.dur_predictor = None
        if parameters := c.get("dur_predictor_params"):
            self.dur_predictor = DurationPredictor(
                parameters["encoder_embed_dim"],
                parameters["var_pred_hidden_dim"],
                parameters["var_pred_kernel_size"],
            )
        first = c["upsample_initial_channel"]
        self.conv_pre = nn.Conv1d(inputs, first, 7, padding=3)
        steps = list(zip(c["upsample_rates"], c["upsample_kernel_sizes"], strict=True))
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(first >> i, first >> (i + 1), kernel, rate, padding=(kernel - rate) // 2)
            for i, (rate, kernel) in enumerate(steps)
        )
        self.resblocks = nn.ModuleList(
            ResidualBlock(first >> (i + 1), kernel, dilations)
            for i in range(len(steps))
            for kernel, dilations in zip(
                c["resblock_kernel_sizes"], c["resblock_dilation_sizes"], strict=True
            )
        )
        self.conv_post = nn.Conv1d(first >> len(steps), 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, model_in_dim, N) embeddings -> (B, N * hop) samples."""
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            blocks = self.resblocks[i * self.kernels : (i + 1) * self.kernels]
            x = torch.stack([block(x) for block in blocks]).sum(dim=0) / self.kernels
        return torch.tanh(self.conv_post(F.leaky_relu(x)))[:, 0]


class UnitHifiGan:
    """A unit HiFi-GAN, used as `units.vocoder.vocoder.Vocoder` is.

    Attributes:
        speakers, styles: names, where the directory lists them.
        hop: samples of a unit.
    """

    def __init__(
        self, network: UnitGenerator, config: Mapping[str, Any], speakers: list[str], styles: list[str]
    ):
        self.network, self.config = network.requires_grad_(False).eval(), config
        self.speakers, self.styles = speakers, styles
        self.hop = math.prod(config["upsample_rates"])
        self.sample_rate = int(config.get("sampling_rate", SAMPLE_RATE))
        self.identity: dict[str, Any] = {}

    @property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        return hash_tensors(dict(self.network.state_dict()))

    def check(self, **identity: str | None) -> None:
        """Its checkpoint does not say which encoder and codebook its units are of: nothing can be refused."""

    def voice(self, name: str | None = None) -> dict[str, int]:
        """Numbers of a speaker and a style: "SPEAKER" or "SPEAKER/STYLE", each a name or a number; default 0.

        Raises:
            ValueError: there is no such speaker or style.
        """
        speaker, _, style = (name or "").partition("/")
        return {
            "speaker": self._number("speaker", speaker, self.speakers, self.network.spkr),
            "style": self._number("style", style, self.styles, self.network.style),
        }

    def _number(self, kind: str, name: str, names: list[str], table: nn.Module | None) -> int:
        count = table.num_embeddings if isinstance(table, nn.Embedding) else 1
        number = names.index(name) if name in names else int(name) if name.isdigit() else -1 if name else 0
        if not 0 <= number < count:
            known = f"one of {', '.join(names)}" if names else f"a number from 0 to {count - 1}"
            raise ValueError(f"voice: {kind}: need {known}, got {name!r}")
        return number

    def lengths(self, units: np.ndarray) -> np.ndarray:
        """Predicted length of each de-duplicated unit, in frames; ones without a duration predictor."""
        if self.network.dur_predictor is None:
            return np.ones(len(units), np.int64)
        with torch.inference_mode(), one_thread():
            logs = self.network.dur_predictor(self.network.dict(torch.from_numpy(units)[None]))[0]
            return torch.round(torch.exp(logs) - 1).clamp(min=1).long().numpy()

    def speak(self, *arguments: Any, **named: Any) -> np.ndarray:
        """In one piece; see `stream`."""
        return np.concatenate(list(self.stream(*arguments, **named)))

    def stream(
        self, units: np.ndarray, pitch: np.ndarray | None = None, style: np.ndarray | None = None,
        voice: dict[str, int] | None = None, lengths: np.ndarray | None = None, *,
        f0: np.ndarray | None = None, speaker_vector: np.ndarray | None = None,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """As `Vocoder.stream`, with

        Args:
            f0: (F,) of each frame of the encoder after lengths are applied, for a generator with F0: Hz or what it was
                trained on, or integers where its F0 is quantised.
            speaker_vector: (D,) for a generator that takes one in place of a speaker's number.
        """
        units = np.asarray(units, np.int64)
        codes = self.network.dict.num_embeddings
        if not len(units) or units.min() < 0 or units.max() >= codes:
            got = "none" if not len(units) else units[(units < 0) | (units >= codes)][0]
            raise ValueError(f"vocoder: need units from 0 to {codes - 1}, got {got}")
        if lengths is None:
            whole = len(deduplicate(units)[0]) == len(units)
            lengths = self.lengths(units) if whole else np.ones(len(units), np.int64)
        repeats = torch.from_numpy(np.asarray(lengths, np.int64))
        columns: list[tuple[str, nn.Module | None, np.ndarray | None]] = [
            ("pitch", self.network.f0_dict, pitch), ("style", self.network.style_dict, style)
        ]  # fmt: skip
        voice = voice or self.voice()
        with torch.inference_mode(), one_thread():
            parts = [self.network.dict(torch.from_numpy(units))]
            for name, table, tokens in columns:
                if isinstance(table, nn.Embedding):
                    parts.append(table(checked(name, tokens, len(units), table.num_embeddings)))
            x = torch.cat(parts, dim=1).repeat_interleave(repeats, dim=0)
            rows = len(x)
            if self.network.raw_f0 or self.network.f0_quant_embed is not None:
                if f0 is None or len(f0) != rows:
                    raise ValueError(
                        f"vocoder: need F0 of {rows} frames for this generator, got {0 if f0 is None else len(f0)}"
                    )
                table = self.network.f0_quant_embed
                values = torch.from_numpy(np.asarray(f0))
                x = torch.cat([x, values.float()[:, None] if table is None else table(values.long())], dim=1)
            if isinstance(self.network.spkr, nn.Linear):
                if speaker_vector is None:
                    raise ValueError("vocoder: need the vector of a speaker for this generator, got none")
                speaker = self.network.spkr(torch.from_numpy(np.asarray(speaker_vector, np.float32)))
                x = torch.cat([x, speaker.expand(rows, -1)], dim=1)
            elif self.network.spkr is not None:
                x = torch.cat([x, self.network.spkr.weight[voice["speaker"]].expand(rows, -1)], dim=1)
            if self.network.style is not None:
                x = torch.cat([x, self.network.style.weight[voice["style"]].expand(rows, -1)], dim=1)
        context = self.context
        for start in range(0, rows, CHUNK):
            stop = min(rows, start + CHUNK)
            first = max(0, start - context)
            with torch.inference_mode(), one_thread():
                made = self.network(x[first : min(rows, stop + context)].T[None])[0]
            yield made[(start - first) * self.hop : (stop - first) * self.hop].numpy()

    @property
    def context(self) -> int:
        """Units on either side that a sample depends on, or a few more."""
        reach, rate = 4.0, 1
        for i, up in enumerate(self.config["upsample_rates"]):
            reach += self.config["upsample_kernel_sizes"][i] / (rate * up) + 1
            rate *= up
            sizes = zip(
                self.config["resblock_kernel_sizes"], self.config["resblock_dilation_sizes"], strict=True
            )
            reach += max((k - 1) / 2 * (sum(d) + len(d)) for k, d in sizes) / rate
        return math.ceil(reach)


def checked(name: str, tokens: np.ndarray | None, count: int, codes: int) -> torch.Tensor:
    """(N,) tokens as a tensor, or ValueError."""
    if tokens is None or len(tokens) != count:
        raise ValueError(
            f"vocoder: need a {name} token for each of {count} units, got {0 if tokens is None else len(tokens)}"
        )
    tokens = np.asarray(tokens, np.int64)
    if tokens.min() < 0 or tokens.max() >= codes:
        raise ValueError(
            f"vocoder: need {name} tokens from 0 to {codes - 1}, got {tokens.min()} to {tokens.max()}"
        )
    return torch.from_numpy(tokens)


def fold_weight_norm(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights without weight normalisation: direction times length, the length of each first index.

    >>> fold_weight_norm({"a.weight_g": torch.tensor([[10.0]]), "a.weight_v": torch.tensor([[3.0, 4.0]])})
    {'a.weight': tensor([[6., 8.]])}
    """
    folded = {}
    for name, tensor in weights.items():
        base = re.sub(r"(weight_v|parametrizations\.weight\.original1)$", "", name)
        if base == name:
            if not re.search(r"(weight_g|parametrizations\.weight\.original0)$", name):
                folded[name] = tensor.float()
            continue
        other = name.replace("weight_v", "weight_g").replace("original1", "original0")
        if other not in weights:
            raise ValueError(f"weight {name}: need {other} beside it")
        v = tensor.float()
        lengths = v.flatten(1).norm(dim=1).view(-1, *[1] * (v.ndim - 1))
        folded[f"{base}weight"] = v * (weights[other].float().view_as(lengths) / lengths)
    return folded


def load_hifigan(folder: str | Path) -> UnitHifiGan:
    """A generator from a directory.

    Raises:
        ValueError: a file is missing, broken, holds code or does not fit the config; names it.
    """
    folder = Path(folder)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if missing := [name for name in NEEDED if name not in config]:
            raise ValueError(f"missing {', '.join(missing)}")
        with torch.device("meta"):
            network = UnitGenerator(config)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: need the config of a unit HiFi-GAN: {error}") from error
    file = find_generator(folder)
    content: Any = read_safetensors(file)[0] if file.suffix == ".safetensors" else load_weights_only(file)
    content = content.get("generator", content) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not all(isinstance(one, torch.Tensor) for one in content.values()):
        raise ValueError(f"{file}: need the weights of a generator")
    try:
        weights = fold_weight_norm(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for name, tensor in network.state_dict().items():
        if name not in weights or weights[name].shape != tensor.shape:
            got = tuple(weights[name].shape) if name in weights else "nothing"
            raise ValueError(f"{file}: weight {name}: need shape {tuple(tensor.shape)}, got {got}")
    network.load_state_dict({name: weights[name] for name in network.state_dict()}, assign=True)
    lists = [
        (folder / name).read_text(encoding="utf-8").split("\n") if (folder / name).is_file() else []
        for name in ("speakers.txt", "styles.txt")
    ]
    return UnitHifiGan(network, config, *([one.strip() for one in names if one.strip()] for names in lists))


def find_generator(folder: Path) -> Path:
    """The file of weights: generator.pt, the only other one, or the last g_* of a training run."""
    files = sorted(path for pattern in ("*.pt", "*.pth", "*.safetensors") for path in folder.glob(pattern))
    runs = sorted(path for path in folder.glob("g_*") if path.suffix == "")
    for path in files:
        if path.stem == "generator":
            return path
    if len(files) == 1:
        return files[0]
    if runs and not files:
        return runs[-1]
    raise ValueError(f"{folder}: need generator.pt, got {len(files)} files of weights")
