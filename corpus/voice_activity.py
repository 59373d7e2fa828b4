"""Where somebody speaks: the probability of speech in every 32 ms, by Silero VAD, on sound of any length.

The network and its weights are those of the package silero-vad (MIT), whose weights lie in its wheel. It is computed
here a block of frames at a time, which is tens of times faster than frame by frame, with the same values.

Source: https://github.com/snakers4/silero-vad, version 6.
"""

import functools
import hashlib
import importlib.util
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

HOP = 512
"""Samples at 16 kHz of one frame: 32 ms."""

CONTEXT = 64  # samples before a frame that the network sees too
MIRRORED = 64  # samples at its end that are repeated in reverse
BLOCK = 1024  # frames computed at once
FLOOR = 1e-10  # lowest mean square, -100 dB


def weights_path() -> Path:
    """The file of the weights inside the package.

    Raises:
        ValueError: silero-vad is not installed.
    """
    found = importlib.util.find_spec("silero_vad")  # not imported: its own imports are not needed
    if found is None or not found.submodule_search_locations:
        raise ValueError("cut: needs the package silero-vad; run `pip install silero-vad`")
    return Path(found.submodule_search_locations[0]) / "data" / "silero_vad.jit"


@functools.cache
def identity() -> str:
    """Hash of the weights."""
    return hashlib.sha256(weights_path().read_bytes()).hexdigest()[:16]


@functools.cache
def load_weights() -> "tuple[Mapping[str, torch.Tensor], torch.nn.LSTM]":
    """The weights, and its recurrent layer; read once per process."""
    import torch

    # its safetensors file holds the weights of version 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, in which the package ships them
        weights = torch.jit.load(weights_path(), map_location="cpu").state_dict()
    weights = {name.removeprefix("_model."): tensor for name, tensor in weights.items()}
    lstm = torch.nn.LSTM(128, 128)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    lstm.load_state_dict({f"{name}_l0": weights[f"decoder.rnn.{name}"] for name in names})
    return weights, lstm.eval()


def speech_frames(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Probability of speech, and level, of every frame of 32 ms.

    The values do not depend on how the sound is divided into blocks; memory holds one block and 8 bytes a frame.

    Args:
        blocks: the sound in pieces, (T,) float32 at 16 kHz each.

    Returns:
        probability: (F,) float32 in [0, 1], F = ceil(all samples / 512); the last frame is filled with zeros.
        level: (F,) float32, dB of full scale, at least -100.
    """
    state: tuple[torch.Tensor, torch.Tensor] | None = None
    probabilities, levels = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    context = np.zeros(CONTEXT, np.float32)
    for block in _whole_blocks(blocks):
        frames = block.reshape(-1, HOP)
        before = np.concatenate([context[None], frames[:-1, -CONTEXT:]])
        found, state = _forward(np.concatenate([before, frames], axis=1), state)
        context = frames[-1, -CONTEXT:]
        probabilities.append(found)
        power = np.einsum("fh,fh->f", frames, frames, dtype=np.float64) / HOP
        levels.append((10 * np.log10(np.maximum(power, FLOOR))).astype(np.float32))
    return np.concatenate(probabilities), np.concatenate(levels)


def _whole_blocks(pieces: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """The same samples in blocks of `BLOCK` frames; the last is shorter and filled up to a whole frame."""
    waiting, size = [np.zeros(0, np.float32)], 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        while size >= BLOCK * HOP:
            whole = np.concatenate(waiting)
            yield whole[: BLOCK * HOP]
            waiting, size = [whole[BLOCK * HOP :]], size - BLOCK * HOP
    if size:
        yield np.pad(np.concatenate(waiting), (0, -size % HOP))


def _forward(
    frames: np.ndarray, state: "tuple[torch.Tensor, torch.Tensor] | None"
) -> "tuple[np.ndarray, tuple[torch.Tensor, torch.Tensor]]":
    """(F, 576) frames with their context -> (F,) probabilities, and the state of the recurrent layer."""
    import torch
    from torch.nn import functional

    weights, lstm = load_weights()
    with torch.inference_mode():
        x = functional.pad(torch.from_numpy(frames), (0, MIRRORED), mode="reflect")
        x = functional.conv1d(x[:, None], weights["stft.forward_basis_buffer"], stride=128)
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for number, stride in enumerate((1, 2, 2, 1)):
            layer = f"encoder.{number}.reparam_conv"
            x = functional.conv1d(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], stride, 1).relu()
        hidden, state = lstm(x.permute(0, 2, 1), state)
        final = "decoder.decoder.2"
        scores = functional.conv1d(
            hidden.relu().permute(0, 2, 1), weights[f"{final}.weight"], weights[f"{final}.bias"]
        )
        return torch.sigmoid(scores).numpy().ravel(), state
