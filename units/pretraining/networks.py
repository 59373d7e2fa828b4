"""The networks that are trained: a HuBERT, or the slim kind of Whisper; `load_encoder` reads what they end in.

A student maps waveforms to frames and knows the grid of its frames. Heads on top of it belong to the training alone.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from corpus.records import SAMPLE_RATE
from units.whisper import (
    POSITIONS,
    SHIFT,
    SLIM,
    WINDOW,
    WhisperNetwork,
    WhisperSettings,
    is_whisper,
    log_mel,
    read_whisper,
    sinusoids,
)

KINDS = ("hubert", "whisper")
NORMALIZE_EPSILON = 1e-7  # as in transformers' feature extractor


@dataclass(frozen=True)
class NetworkSettings:
    """Kind and size of the network. 25 Hz: the strides multiply to 640 samples, or two frames of 20 ms are averaged."""

    kind: str = "hubert"
    channels: tuple[int, ...] = (256, 128, 256)  # of a HuBERT, as kernels and strides
    kernels: tuple[int, ...] = (400, 3, 4)
    strides: tuple[int, ...] = (160, 2, 2)
    width: int = 256
    layers: int = 5
    heads: int = 4
    wide: int = 1024
    pre_norm: bool = False  # of a HuBERT: each norm before its block
    position_kernel: int = 32  # of a HuBERT
    dropout: float = 0.0  # of a HuBERT
    averaged: int = 2  # of a Whisper: frames of 20 ms averaged before the blocks
    level: float = 0.05  # of a Whisper: root mean square that every waveform is brought to
    floor: float = -6.5  # of a Whisper: log10 of the least mel power

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"network.kind: need one of {list(KINDS)}, got {self.kind!r}")


@dataclass(frozen=True)
class Grid:
    """Where the frames of a network are, in samples: frame k is centred at `centre + k * hop`."""

    hop: int
    minimum: int
    centre: int

    def frames(self, samples: int) -> int:
        """Number of frames of N samples."""
        return max(0, (samples - self.minimum) // self.hop + 1)


def frame_grid(network: NetworkSettings) -> Grid:
    """The frames of a network."""
    if network.kind == "whisper":
        settings = whisper_settings(network)
        return Grid(settings.hop, settings.hop, settings.centre)
    reach, hop = 1, 1
    for kernel, stride in zip(network.kernels, network.strides, strict=True):
        reach, hop = reach + (kernel - 1) * hop, hop * stride
    return Grid(hop, reach, reach // 2)


class Student(Protocol):
    """What `train` needs of a network besides being a `torch.nn.Module`."""

    def features(self, waveforms: torch.Tensor, mask: torch.Tensor, place: float = 0.0) -> torch.Tensor:
        """(B, T) float32 of mean 0 and variance about 1, (B, F) bool -> (B, F, D).

        Args:
            place: of a network with absolute positions, where among them the frames are, from 0 to 1.
        """
        ...

    def save(self, folder: Path) -> dict[str, torch.Tensor]:
        """Write the settings beside the weights, which are returned."""
        ...

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the encoder, by the names that they have in its file."""
        ...


def make_student(network: NetworkSettings) -> Any:
    """A network with random weights."""
    return HubertStudent(network) if network.kind == "hubert" else WhisperStudent(network)


class HubertStudent(torch.nn.Module):
    """A transformers `HubertModel`."""

    def __init__(self, network: NetworkSettings):
        super().__init__()
        from transformers import HubertModel

        self.hubert = HubertModel(hubert_config(network))
        with torch.no_grad():
            layers: Any = self.hubert.feature_extractor.conv_layers
            first = layers[0].conv.weight
            first.copy_(mel_kernels(*first.shape[::2]).unsqueeze(1))

    def features(self, waveforms: torch.Tensor, mask: torch.Tensor, place: float = 0.0) -> torch.Tensor:
        """(B, T), (B, F) -> (B, F, D). transformers masks only a model in training; validation masks too."""
        training, self.hubert.training = self.hubert.training, True
        features: torch.Tensor = self.hubert(waveforms, mask_time_indices=mask).last_hidden_state
        self.hubert.training = training
        return features

    def weights(self) -> dict[str, torch.Tensor]:
        """As transformers names them."""
        return dict(self.hubert.state_dict())

    def take_blocks(self, network: WhisperNetwork) -> int:
        """Copy the blocks of a Whisper of the same sizes; how many there were."""
        layers: Any = self.hubert.encoder.layers
        blocks: Any = network.layers
        for layer, block in zip(layers, blocks, strict=False):
            pairs = [
                (layer.attention.q_proj, block.self_attn.q_proj),
                (layer.attention.k_proj, block.self_attn.k_proj),
                (layer.attention.v_proj, block.self_attn.v_proj),
                (layer.attention.out_proj, block.self_attn.out_proj),
                (layer.layer_norm, block.self_attn_layer_norm),
                (layer.feed_forward.intermediate_dense, block.fc1),
                (layer.feed_forward.output_dense, block.fc2),
                (layer.final_layer_norm, block.final_layer_norm),
            ]
            for own, theirs in pairs:
                own.weight.copy_(theirs.weight)
                own.bias.copy_(torch.zeros_like(own.bias) if theirs.bias is None else theirs.bias)
        return min(len(layers), len(blocks))

    def save(self, folder: Path) -> dict[str, torch.Tensor]:
        """`config.json` and `preprocessor_config.json`, as transformers reads them."""
        config = json.loads(self.hubert.config.to_json_string(use_diff=False))
        config |= {"architectures": ["HubertModel"], "dtype": "float16"}
        config.pop("transformers_version", None)
        preprocessor = {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "feature_size": 1,
            "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True,
            "sampling_rate": SAMPLE_RATE,
        }  # fmt: skip
        write_json(folder / "config.json", config)
        write_json(folder / "preprocessor_config.json", preprocessor)
        return self.weights()


class WhisperStudent(torch.nn.Module):
    """The slim kind of Whisper: see `units.whisper`."""

    def __init__(self, network: NetworkSettings):
        super().__init__()
        self.settings = whisper_settings(network)
        self.network = WhisperNetwork(self.settings)
        self.masked = torch.nn.Parameter(torch.zeros(network.width))
        positions = self.network.embed_positions.weight.requires_grad_(False)
        positions.copy_(sinusoids(*positions.shape))

    def features(self, waveforms: torch.Tensor, mask: torch.Tensor, place: float = 0.0) -> torch.Tensor:
        """(B, T), (B, F) -> (B, F, D)."""
        settings = self.settings
        frames = waveforms.shape[1] // settings.hop
        before = WINDOW // 2 - settings.delay
        after = frames * settings.hop + WINDOW - SHIFT - before - waveforms.shape[1]
        samples = F.pad(waveforms * (settings.level or 1.0), (before, 0), mode="reflect")
        mels = log_mel(F.pad(samples, (0, after)), settings.mels, settings.floor)
        x = self.network.front(mels, int(place * (settings.positions - frames * settings.averaged)))
        x = torch.where(mask.unsqueeze(-1), self.masked, x)
        return self.network.blocks(x)[-1]

    def weights(self) -> dict[str, torch.Tensor]:
        """As transformers names those of Whisper's encoder; positions are computed, not stored."""
        weights = self.network.state_dict()
        del weights[POSITIONS]
        return dict(weights)

    def save(self, folder: Path) -> dict[str, torch.Tensor]:
        """`config.json` of our own kind."""
        write_json(folder / "config.json", {"model_type": SLIM, "dtype": "float16", **asdict(self.settings)})
        return self.weights()


def whisper_settings(network: NetworkSettings) -> WhisperSettings:
    """The slim kind of Whisper that a network of kind "whisper" is."""
    return WhisperSettings(
        width=network.width, layers=network.layers, heads=network.heads, wide=network.wide,
        averaged=network.averaged, level=network.level, floor=network.floor,
    )  # fmt: skip


@torch.no_grad()
def start_from_whisper(student: Any, folder: Path) -> list[str]:
    """Begin with what a Whisper has in the same sizes: front end and blocks, or, for a HuBERT, the blocks alone.

    Returns:
        The parts that were copied.

    Raises:
        ValueError: the directory holds no Whisper, or one of other sizes.
    """
    if not is_whisper(folder):
        raise ValueError(f"{folder}: need a Whisper to start from its weights")
    settings, weights = read_whisper(folder)
    theirs = WhisperNetwork(settings)
    theirs.load_state_dict(weights)
    try:
        if isinstance(student, HubertStudent):
            return [f"blocks 1 to {student.take_blocks(theirs)}"]
        own = student.weights()
        student.network.load_state_dict({name: weights[name] for name in own}, strict=False)
    except (KeyError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"{folder}: need the sizes of [network] to start from its weights: {error}"
        ) from error
    return ["front end", f"blocks 1 to {student.settings.layers}"]


class CosineHead(torch.nn.Module):
    """Scores by the cosine to one direction per class, over a temperature of 0.1, as in HuBERT, but without projection.

    A linear head finds a class in directions of little variance, which k-means does not see. Here every component that
    distinguishes no class makes all cosines smaller: features turn towards their classes.
    """

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(classes, width) / math.sqrt(width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., K)."""
        return F.linear(F.normalize(features.float(), dim=-1), F.normalize(self.weight, dim=-1)) / 0.1


def hubert_config(network: NetworkSettings) -> Any:
    """The `HubertConfig` of a network."""
    from transformers import HubertConfig

    return HubertConfig(
        hidden_size=network.width, num_hidden_layers=network.layers, num_attention_heads=network.heads,
        intermediate_size=network.wide, conv_dim=network.channels, conv_kernel=network.kernels,
        conv_stride=network.strides, conv_bias=False, feat_extract_norm="group",
        do_stable_layer_norm=network.pre_norm, num_conv_pos_embeddings=network.position_kernel,
        num_conv_pos_embedding_groups=16, hidden_dropout=network.dropout, attention_dropout=0.0,
        activation_dropout=0.0, feat_proj_dropout=network.dropout, layerdrop=0.0, mask_time_prob=0.5,
        mask_time_length=5, final_dropout=0.0,
    )  # fmt: skip


def mel_kernels(channels: int, size: int) -> torch.Tensor:
    """(channels, size): windowed cosines at mel-spaced frequencies, each in four phases a quarter apart.

    Behind a GELU, four phases give about the amplitude of the band, whatever the phase of the sound: the network begins
    with a filter bank instead of noise, and changes it as it likes. (Masked accuracy after 200 steps .079, from random
    kernels .051.)
    """
    bands = -(-channels // 4)
    mel = torch.linspace(1127 * math.log(1 + 60 / 700), 1127 * math.log(1 + 7600 / 700), bands)
    frequency = 700 * (torch.exp(mel / 1127) - 1)
    angle = 2 * math.pi * frequency[:, None] * (torch.arange(size) - size / 2) / SAMPLE_RATE
    phases = torch.stack([torch.cos(angle + quarter * math.pi / 2) for quarter in range(4)], dim=1)
    kernels = (phases * torch.hann_window(size)).flatten(0, 1)[:channels]
    return kernels / kernels.norm(dim=1, keepdim=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON object with sorted keys."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
