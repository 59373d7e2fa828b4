"""Whisper's speech encoder, and the slimmer kind of it that is bundled as `compact`.

    waveform ──> log-mel, 100 Hz ──> 2 convolutions, 50 Hz ──> + positions ──> mean of `averaged` ──> blocks ──> frames

Whisper averages nothing (50 Hz) and clips the log-mel 8 decades below the loudest frame of its input, so a click moves
every frame. `compact` averages two frames (25 Hz), brings the waveform to one level first and clips at a fixed value:
its log-mel frames depend on the samples under them and on the level of the recording, on nothing else.

Every window of every recording goes through the network by itself, so that batches, padding and the number of threads
cannot change a frame. Recordings longer than the window are encoded in overlapping windows of which the middle is kept.
On a GPU, which one window keeps waiting, `map` joins windows in batches if its caller allows that.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio

from corpus.records import SAMPLE_RATE
from units.gpu import HostCopy, map_one_ahead, single_precision, to_device, usable_device
from units.hubert.checkpoints import NORMALIZE_EPSILON, check_weights, read_json, read_weights
from units.hubert.encoder import DEVICE_BATCH_SECONDS, DTYPES
from units.tensor_files import hash_settings, hash_tensors
from units.threads import single_threaded_pool
from units.waveform import check_waveform
from units.windows import Window, window_frames, windows

SLIM = "wordweave-whisper"
"""`model_type` of our own kind; transformers' is "whisper"."""
POSITIONS = "embed_positions.weight"
"""The weight that a slim encoder does not store: its positions are computed."""
WINDOW = 400  # samples of a log-mel frame
SHIFT = 160  # samples from one to the next
DECADES = 8.0  # Whisper's clipping, below the loudest frame
QUIETEST = 1e-10  # the least mel power that has a logarithm
WINDOW_SECONDS = 30.0  # as many positions as Whisper has
CONTEXT_SECONDS = 5.0  # of a window, discarded at either inner edge
WHISPER_OPTIONS = {"window_seconds", "context_seconds"}
"""What `load_encoder` takes for a Whisper besides layer, device and dtype."""


@dataclass(frozen=True)
class WhisperSettings:
    """The part of a configuration that the forward pass depends on; the keys of our own `config.json`."""

    width: int = 384
    layers: int = 3
    heads: int = 6
    wide: int = 1536
    mels: int = 80
    positions: int = 1500  # of 20 ms
    averaged: int = 2  # frames of 20 ms that are averaged before the blocks
    level: float | None = 0.05  # root mean square that a waveform is brought to; None: as it is
    floor: float | None = -6.5  # log10 of the least mel power; None: 8 decades below the loudest frame
    delay: int = 160  # sample in the middle of log-mel frame 0
    final_norm: bool = False  # a layer norm after the last block

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "wide", "mels", "positions", "averaged"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 65_536:
                raise ValueError(f"{name}: need an integer from 1 to 65536, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"heads: need a divisor of width {self.width}, got {self.heads}")
        if type(self.delay) is not int or not 0 <= self.delay < WINDOW:
            raise ValueError(f"delay: need an integer from 0 to {WINDOW - 1}, got {self.delay!r}")
        if self.level is not None and not 0 < self.level <= 1:
            raise ValueError(f"level: need null or 0 < level <= 1, got {self.level!r}")
        if self.positions < self.averaged:
            raise ValueError(f"positions: need at least `averaged`, {self.averaged}, got {self.positions}")

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return 2 * SHIFT * self.averaged

    @property
    def centre(self) -> int:
        """Sample in the middle of frame 0: of the first `averaged` frames of 20 ms.

        >>> WhisperSettings().centre, WhisperSettings(averaged=1, delay=0).centre
        (320, 0)
        """
        return self.delay + (self.averaged - 1) * SHIFT


@functools.cache
def mel_filters(mels: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(400,) window of a frame and (201, mels) filters over its power spectrum."""
    with torch.inference_mode(False):  # they are kept, and a loss may need them
        filters = torchaudio.functional.melscale_fbanks(
            WINDOW // 2 + 1, 0.0, SAMPLE_RATE / 2, mels, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        return torch.hann_window(WINDOW).to(device), filters.to(device)


def log_mel(samples: torch.Tensor, mels: int, floor: float | None) -> torch.Tensor:
    """(B, T) samples, frame m beginning at sample 160 m -> (B, mels, (T - 400) // 160 + 1), as Whisper scales it.

    Args:
        floor: log10 of the least power; None: 8 decades below the loudest frame of each row.
    """
    window, filters = mel_filters(mels, samples.device)
    power = torch.fft.rfft(samples.unfold(1, WINDOW, SHIFT) * window).abs().square()
    energies = (power @ filters.to(power.dtype)).transpose(1, 2).clamp(min=QUIETEST).log10()
    if floor is None:
        least = energies.amax(dim=(1, 2), keepdim=True) - DECADES
    else:
        least = torch.full((), floor, device=energies.device)
    return (torch.maximum(energies, least) + 4.0) / 4.0


class WhisperNetwork(torch.nn.Module):
    """Log-mel frames to hidden states; weights are named as in transformers' `WhisperEncoder`."""

    def __init__(self, settings: WhisperSettings, layers: int | None = None):
        super().__init__()
        s = self.settings = settings
        self.conv1 = torch.nn.Conv1d(s.mels, s.width, 3, padding=1)
        self.conv2 = torch.nn.Conv1d(s.width, s.width, 3, stride=2, padding=1)
        self.embed_positions = torch.nn.Embedding(s.positions, s.width)
        self.layers = torch.nn.ModuleList(Block(s) for _ in range(s.layers if layers is None else layers))
        normalised = s.final_norm and len(self.layers) == s.layers
        self.layer_norm = torch.nn.LayerNorm(s.width) if normalised else None

    def front(self, mels: torch.Tensor, first: int = 0) -> torch.Tensor:
        """(B, mels, M) -> (B, M // (2 averaged), D): the input of the blocks; `first`: position of the first frame."""
        x = F.gelu(self.conv1(mels))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        averaged = self.settings.averaged
        frames = x.shape[1] // averaged
        x = x[:, : frames * averaged] + self.embed_positions.weight[first : first + frames * averaged]
        return x.unflatten(1, (frames, averaged)).mean(dim=2) if averaged > 1 else x

    def forward(self, mels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, mels, M) -> (B, F, D) the output of the last block that there is; `mask` as for `blocks`."""
        return self.blocks(self.front(mels), mask)[-1]

    def blocks(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The input and the output of every block; the last one is normalised where the settings say so.

        Frames where `mask`, (B, 1, 1, F) bool, is false are padding: no other frame attends to them.
        """
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        if self.layer_norm is not None:
            states[-1] = self.layer_norm(states[-1])
        return states


class Block(torch.nn.Module):
    """A transformer block with norms before its parts."""

    def __init__(self, settings: WhisperSettings):
        super().__init__()
        width = settings.width
        self.self_attn = Attention(width, settings.heads)
        self.self_attn_layer_norm = torch.nn.LayerNorm(width)
        self.fc1 = torch.nn.Linear(width, settings.wide)
        self.fc2 = torch.nn.Linear(settings.wide, width)
        self.final_layer_norm = torch.nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, F, D) -> (B, F, D)."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class Attention(torch.nn.Module):
    """Self-attention of all frames to all frames; keys have no bias, as it would change nothing."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = torch.nn.Linear(width, width)
        self.k_proj = torch.nn.Linear(width, width, bias=False)
        self.v_proj = torch.nn.Linear(width, width)
        self.out_proj = torch.nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, F, D) -> (B, F, D)."""
        query, key, value = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class WhisperEncoder:
    """The first `layer` blocks of a Whisper encoder; build one with `units.encoders.load_encoder`.

    Fields as in `units.encoders.Encoder`; `exact`: features are the same to the last bit in any batch.
    """

    exact = True

    def __init__(
        self,
        settings: WhisperSettings,
        weights: dict[str, torch.Tensor],
        *,
        layer: int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        window_seconds: float = WINDOW_SECONDS,
        context_seconds: float = CONTEXT_SECONDS,
    ):
        self.layer = settings.layers if layer is None else layer
        if dtype not in DTYPES:
            raise ValueError(f"encoder.dtype: need one of {list(DTYPES)}, got {dtype!r}")
        self.settings, self.dtype, self.device = settings, dtype, usable_device(device)
        self._on_device = self.device.type != "cpu"
        self.hop, self.centre, self.minimum = settings.hop, settings.centre, settings.hop
        self.dimension = settings.width
        self.frame_rate = SAMPLE_RATE / self.hop
        longest = settings.positions // settings.averaged / self.frame_rate
        self._window, self._context = window_frames(window_seconds, context_seconds, self.frame_rate, longest)
        self.provenance = {
            "encoder": "whisper",
            "weights": hash_tensors(weights),
            "layer": self.layer,
            "frame_rate": self.frame_rate,
            **{key: value for key, value in asdict(settings).items() if key != "layers"},
            "dtype": dtype,
            "window_seconds": window_seconds,
            "context_seconds": context_seconds,
        }
        self.identity = hash_settings(self.provenance)
        network = WhisperNetwork(settings, self.layer)
        network.load_state_dict(weights)
        self._network = network.to(self.device).eval()

    @functools.cached_property
    def precise(self) -> "WhisperEncoder":
        """The same encoder with its arithmetic in double precision; its features are rounded to single precision."""
        twin = copy.copy(self)
        twin._network = copy.deepcopy(self._network).double()
        return twin

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features of each waveform; the same whatever else is in the list.

        Args:
            waveforms: each (T,) float32, mono at 16 kHz.

        Returns:
            One (F, D) float32 array per waveform, in order, F = T // hop.

        Raises:
            ValueError: a waveform is not one-dimensional, not of floating point, or holds NaN or infinite samples.
        """
        return self.map(waveforms, lambda features: features, alone=True)

    def map(
        self,
        waveforms: Sequence[np.ndarray],
        function: Callable[[torch.Tensor], torch.Tensor],
        finish: Callable[[torch.Tensor, np.ndarray], np.ndarray] = lambda features, values: values,
        *,
        alone: bool = False,
    ) -> list[np.ndarray]:
        """As `encode`, with `function` applied to the features of each window while they are on the device.

        Args:
            waveforms: as for `encode`.
            function: (F, D) float32 tensor -> (F, ...) tensor on the same device, frame by frame.
            finish: the same features and, on the host, what `function` returned for them -> (F, ...) array.
            alone: put no two windows in one batch, on a GPU either; on a CPU no two ever are.

        Returns:
            One (F, ...) array per waveform, in order.
        """
        recordings = [check_waveform(waveform, i) for i, waveform in enumerate(waveforms)]
        levels = [Level.of(recording, self.settings.level) for recording in recordings]
        places = [
            (index, window)
            for index, recording in enumerate(recordings)
            for window in windows(len(recording) // self.hop, self._window, self._context)
        ]
        batches = self._batches(places, alone=alone or not self._on_device)

        def launch(batch: list[tuple[int, Window]]) -> tuple[torch.Tensor, HostCopy]:
            samples = [
                levels[index].apply(self._samples(recordings[index], window, levels[index].mean))
                for index, window in batch
            ]
            features = torch.cat(
                [
                    whole[window.first : window.first + window.kept]
                    for whole, (_, window) in zip(self._features(samples), batch, strict=True)
                ]
            )
            return features, HostCopy(function(features))

        def complete(launched: tuple[torch.Tensor, HostCopy]) -> np.ndarray:
            features, values = launched
            return finish(features, values.array())

        empty = complete(
            (nothing := torch.zeros(0, self.dimension, device=self.device), HostCopy(function(nothing)))
        )
        results = [
            np.zeros((len(recording) // self.hop, *empty.shape[1:]), empty.dtype) for recording in recordings
        ]
        with single_threaded_pool(1 if self._on_device else torch.get_num_threads()) as run:
            computed: Iterable[np.ndarray] = (
                map(complete, map_one_ahead(launch, batches))
                if self._on_device
                else run(lambda batch: complete(launch(batch)), batches)
            )
            for batch, values in zip(batches, computed, strict=True):
                start = 0
                for index, window in batch:
                    results[index][window.place : window.place + window.kept] = values[
                        start : start + window.kept
                    ]
                    start += window.kept
        return results

    def _batches(self, places: list[tuple[int, Window]], *, alone: bool) -> list[list[tuple[int, Window]]]:
        """Each window by itself, or windows of similar length together, longest first, as many as a GPU should have."""
        if alone:
            return [[place] for place in places]
        places = sorted(places, key=lambda place: place[1].begin - place[1].end)
        frames = DEVICE_BATCH_SECONDS * self.frame_rate
        batches: list[list[tuple[int, Window]]] = []
        for place in places:  # the first window of a batch is its longest: all are padded to it
            longest = batches[-1][0][1] if batches else None
            if longest is None or (len(batches[-1]) + 1) * (longest.end - longest.begin) > frames:
                batches.append([])
            batches[-1].append(place)
        return batches

    def _samples(self, recording: np.ndarray, window: Window, silence: np.float32) -> np.ndarray:
        """The samples under the log-mel frames of a window; mirrored before the recording, silent after it."""
        return cut_mirrored(
            recording,
            window.begin * self.hop + self.settings.delay - WINDOW // 2,
            (window.end - window.begin) * self.hop + WINDOW - SHIFT,
            silence,
        )

    @torch.inference_mode()
    def _features(self, windows: list[np.ndarray]) -> list[torch.Tensor]:
        """(F, D) float32 of the samples of each window; several are padded to the longest."""
        kind, precision = DTYPES[self.dtype], self._network.conv1.weight.dtype
        frames = [(len(samples) - WINDOW + SHIFT) // self.hop for samples in windows]
        padded = np.zeros((len(windows), max(map(len, windows))), windows[0].dtype)
        for row, samples in zip(padded, windows, strict=True):
            row[: len(samples)] = samples
        tensor = to_device(torch.from_numpy(padded), self.device).to(precision)
        mask = None
        with single_precision(self.device):
            mels = log_mel(tensor, self.settings.mels, self.settings.floor)
            if len(windows) > 1:  # after a window, the convolutions see zeros and the attention sees nothing
                lengths = torch.tensor(frames)
                inside = torch.arange(max(frames)) < lengths[:, None]
                mask = to_device(inside, self.device)[:, None, None]
                mels = mels * mask[:, 0].repeat_interleave(self.hop // SHIFT, dim=2)
            with torch.autocast(self.device.type, kind, enabled=kind != torch.float32):
                features = self._network(mels, mask).float()
        return [one[:count] for one, count in zip(features, frames, strict=True)]


@dataclass(frozen=True)
class Level:
    """Mean of a recording, and the factor that brings it to one level."""

    mean: np.float32
    scale: np.float32

    @classmethod
    def of(cls, recording: np.ndarray, level: float | None) -> "Level":
        """Of the whole recording, in double precision; (0, 1) where waveforms are left as they are."""
        if level is None or not len(recording):
            return cls(np.float32(0), np.float32(1))
        variance = float(np.var(recording, dtype=np.float64))
        return cls(
            np.float32(np.mean(recording, dtype=np.float64)),
            np.float32(level / (variance + NORMALIZE_EPSILON) ** 0.5),
        )

    def apply(self, samples: np.ndarray) -> np.ndarray:
        """(T,) float32 -> (T,) float32."""
        return (samples - self.mean) * self.scale


def cut_mirrored(
    recording: np.ndarray, start: int, count: int, silence: np.floating | float = 0.0
) -> np.ndarray:
    """(count,) samples from `start` on; mirrored before the first sample, `silence` wherever there is nothing.

    >>> cut_mirrored(np.array([1.0, 2.0, 3.0]), -2, 6).tolist()
    [3.0, 2.0, 1.0, 2.0, 3.0, 0.0]
    """
    before = min(max(0, -start), max(0, len(recording) - 1))
    parts = [recording[1 : before + 1][::-1], recording[max(0, start) : max(0, start + count)]]
    joined = np.concatenate(parts)[:count]
    missing = max(0, -start) - before
    return np.pad(joined, (missing, max(0, count - missing - len(joined))), constant_values=silence)[:count]


def is_whisper(folder: Path) -> bool:
    """Whether a directory holds a Whisper or one of our own kind."""
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("model_type") in ("whisper", SLIM)


def read_whisper(folder: Path, layer: int | None = None) -> tuple[WhisperSettings, dict[str, torch.Tensor]]:
    """Settings and the weights of the first `layer` blocks.

    Raises:
        ValueError: a file is missing, broken or incomplete; names the file.
    """
    config = read_json(folder / "config.json")
    try:
        settings = settings_from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    layer = settings.layers if layer is None else layer
    if not 0 <= layer <= settings.layers:
        raise ValueError(f"encoder.layer: need an integer from 0 to {settings.layers}, got {layer}")
    with torch.device("meta"):
        needed = WhisperNetwork(settings, layer).state_dict()
    slim = config["model_type"] == SLIM
    if slim:
        del needed[POSITIONS]
    source, names = str(folder), list(needed)
    weights = read_weights(folder, names, canonical_name)
    check_weights(source, weights, names)
    for name, tensor in needed.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(
                f"{source}: weight {name}: need shape {tuple(tensor.shape)} by its settings, "
                f"got {tuple(weights[name].shape)}"
            )
    weights = {name: weights[name].float() for name in needed}
    if slim:
        weights[POSITIONS] = sinusoids(settings.positions, settings.width)
    return settings, weights


def settings_from_config(config: dict[str, Any]) -> WhisperSettings:
    """Settings of a `config.json`, of our own kind or of transformers'."""
    if config["model_type"] == SLIM:
        names = WhisperSettings.__dataclass_fields__
        return WhisperSettings(**{name: config[name] for name in names})
    return WhisperSettings(
        width=config["d_model"],
        layers=config["encoder_layers"],
        heads=config["encoder_attention_heads"],
        wide=config["encoder_ffn_dim"],
        mels=config["num_mel_bins"],
        positions=config["max_source_positions"],
        averaged=1,
        level=None,
        floor=None,
        delay=0,
        final_norm=True,
    )


def sinusoids(length: int, width: int) -> torch.Tensor:
    """(length, width): sines and cosines of the position, wavelengths from 2 pi to 20,000 pi, as in Whisper.

    In double precision, so that every processor gives the same single-precision numbers.
    """
    rates = np.exp(-math.log(10_000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(length)[:, None] * rates
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32))


def canonical_name(name: str) -> str:
    """A weight's name without the prefixes of whole models; decoders' weights keep theirs."""
    return name.removeprefix("model.").removeprefix("encoder.")
