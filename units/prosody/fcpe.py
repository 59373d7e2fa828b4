"""FCPE, the network behind the F0 contours: mel spectra through convolutions to a distribution over 360 pitches.

    python -m units.prosody.fcpe [OUTPUT]

The weights are those in the wheel of torchfcpe (MIT). The command above converts them once to a safetensors file of
named weights (43 MB, which is why it is not bundled); where that file lies in units/data, torchfcpe is not needed.

The network is convolutions along time and one group norm over all of it, so a recording of any length is computed in
blocks that give exactly what the whole would: the norm's statistics are computed first, and every block gets as many
frames of context as the convolutions reach. On a GPU, blocks of many recordings are computed at once, with
frames of zeros between them and always the same number of rows, so that no result depends on its neighbours.
"""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from corpus.records import SAMPLE_RATE
from units.hubert.convolutions import convolve
from units.tensor_files import hash_tensors, load_weights_only, read_safetensors, write_safetensors
from units.threads import one_thread

CONVERTED = Path(__file__).parents[1] / "data" / "fcpe.safetensors"
SHIFT = 160  # samples from frame to frame
THRESHOLD = 0.05  # of confidence; below it a frame is unvoiced

WINDOW = 1024  # samples of a spectrum
BANDS = 128
BLOCKS = 6
TAPS = 31  # of the convolution along time in each block
GROUPS = 4  # of the group norm
EPSILON = 1e-5  # torch's own for norms
REACH = 2 + BLOCKS * (TAPS // 2)  # frames to either side that a frame depends on
FRAMES = 3_000  # computed at a time: bounded memory
DEVICE_ROWS = 16_384  # computed at a time on a GPU


def read_weights() -> dict[str, torch.Tensor]:
    """The network's weights by name, float32.

    Raises:
        ValueError: neither the converted file nor torchfcpe is installed.
    """
    if CONVERTED.exists():
        return read_safetensors(CONVERTED)[0]
    package = importlib.util.find_spec("torchfcpe")
    if package is None or not package.submodule_search_locations:
        raise ValueError("f0: need the weights of FCPE for pitch and style; pip install torchfcpe")
    file = Path(package.submodule_search_locations[0]) / "assets" / "fcpe_c_v001.pt"
    return rename_weights(load_weights_only(file)["model"])


def rename_weights(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchfcpe's weights under our names, with the weight norm of the last layer multiplied out."""
    names = {
        "first": "input_stack.0",
        "group_norm": "input_stack.1",
        "second": "input_stack.3",
        "norm": "norm",
    }
    for i in range(BLOCKS):
        for name, layer in {"norm": "0", "widen": "2", "depthwise": "4.conv", "narrow": "6"}.items():
            names[f"blocks.{i}.{name}"] = f"net.encoder_layers.{i}.conformer.net.{layer}"
    weights = {
        f"{name}.{part}": theirs[f"{layer}.{part}"]
        for name, layer in names.items()
        for part in ("weight", "bias")
    }
    direction = theirs["output_proj.weight_v"]
    scale = theirs["output_proj.weight_g"] / direction.norm(dim=1, keepdim=True)
    weights |= {"output.weight": direction * scale, "output.bias": theirs["output_proj.bias"]}
    return weights | {"cents": theirs["cent_table"]}


@lru_cache(maxsize=1)
def weights_hash() -> str:
    """SHA-256 of the weights."""
    return hash_tensors(read_weights())


@dataclass(frozen=True, slots=True)
class Fcpe:
    """The network on a device: `weights` by name, and mel filters (128, 513)."""

    weights: dict[str, torch.Tensor]
    filters: torch.Tensor

    def pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of a layer."""
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    @torch.inference_mode()
    def hertz(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(T,) float32 at 16 kHz each -> (T // 160 + 1,) float32 Hz each, 0 where the network is not confident."""
        device = self.filters.device
        blocks: list[list[torch.Tensor]] = [[] for _ in waveforms]
        with one_thread():
            spectra = (log_mel(torch.from_numpy(x).to(device), self.filters) for x in waveforms)
            pieces = (piece for i, mel in enumerate(spectra) for piece in self.pieces(i, mel))
            for batch in batches(pieces, 1 if device.type == "cpu" else DEVICE_ROWS):
                rows = 0 if device.type == "cpu" else DEVICE_ROWS
                for piece, hertz in zip(batch, self.decode([piece.x for piece in batch], rows), strict=True):
                    blocks[piece.recording].append(hertz[piece.first : piece.first + piece.kept])
            return [torch.cat(several).cpu().numpy() for several in blocks]

    def pieces(self, recording: int, mel: torch.Tensor) -> "Iterator[Piece]":
        """A recording's mel spectra (frames, 128) in blocks with context, through the first convolution and norm."""
        frames = len(mel)
        starts = range(0, frames, FRAMES)
        sums = sum(group_sums(self.first(mel, start, min(frames, start + FRAMES))) for start in starts)
        assert isinstance(sums, torch.Tensor)
        scale, shift = group_norm(self.pair("group_norm"), sums, frames)
        for start in starts:
            stop, first = min(frames, start + FRAMES), max(0, start - REACH)
            x = self.first(mel, first, min(frames, stop + REACH))
            x = F.leaky_relu(torch.addcmul(shift, x, scale))
            yield Piece(recording, x, start - first, stop - start)

    def first(self, mel: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """(stop - start, 512): the first convolution, with zeros outside the recording."""
        before, after = int(start > 0), int(stop < len(mel))
        padded = F.pad(mel[start - before : stop + after], (0, 0, 1 - before, 1 - after))
        return self.convolve3(padded, "first")

    def convolve3(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """(frames + 2, C) -> (frames, C out): a convolution of three frames."""
        kernel, bias = self.pair(name)
        return convolve(x, kernel.permute(2, 1, 0).flatten(0, 1), bias, 3, 1)

    def decode(self, pieces: list[torch.Tensor], rows: int) -> list[torch.Tensor]:
        """(frames, 512) after the first norm -> (frames,) Hz of each; frames near a cut edge are not to be used.

        Args:
            pieces: one, or several that are computed as one signal, with gaps of zeros between them.
            rows: at least; the signal is padded with zeros.
        """
        gap = TAPS // 2
        spans, total = [], 0
        for piece in pieces:
            spans.append(slice(total, total + len(piece)))
            total += len(piece) + gap
        total = max(rows, total - gap)
        inside = pieces[0].new_zeros(total, 1)
        x = pieces[0].new_zeros(total + 2, pieces[0].shape[1])
        for piece, span in zip(pieces, spans, strict=True):
            x[1 + span.start : 1 + span.stop] = piece
            inside[span] = 1
        x = self.convolve3(x, "second")
        for i in range(BLOCKS):
            x = x + self.block(f"blocks.{i}", x, inside)
        x = F.layer_norm(x, x.shape[1:], *self.pair("norm"))
        hertz = self.peak(torch.sigmoid(F.linear(x, *self.pair("output"))))
        return [hertz[span] for span in spans]

    def block(self, name: str, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Norm, gated widening, convolution along time channel by channel, narrowing: (rows, 512) -> (rows, 512)."""
        x = F.layer_norm(x, x.shape[1:], *self.pair(f"{name}.norm"))
        weight, bias = self.pair(f"{name}.widen")
        wide = F.glu(F.linear(x, weight[:, :, 0], bias)).mul_(inside)
        kernel, bias = self.pair(f"{name}.depthwise")
        # as an image one pixel high with its channels last, which is how it lies in memory: 27 times as fast on a CPU
        image = wide[None, None].permute(0, 3, 1, 2)
        image = F.conv2d(image, kernel[:, :, None], bias, padding=(0, TAPS // 2), groups=len(bias))
        weight, bias = self.pair(f"{name}.narrow")
        return F.linear(F.silu(image[0, :, 0].T), weight[:, :, 0], bias)

    def peak(self, probabilities: torch.Tensor) -> torch.Tensor:
        """(rows, 360) -> (rows,) Hz: the mean pitch around the best one, 0 below the threshold."""
        confidence, best = probabilities.max(dim=1, keepdim=True)
        around = (best + torch.arange(-4, 5, device=best.device)).clamp(0, probabilities.shape[1] - 1)
        near = probabilities.gather(1, around)
        cents = (self.weights["cents"][around] * near).sum(1) / near.sum(1)
        return torch.where(confidence[:, 0] > THRESHOLD, 10.0 * 2 ** (cents / 1200.0), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Frames of a recording, of which `kept` from `first` on count: `x` (frames, 512) after the first norm."""

    recording: int
    x: torch.Tensor
    first: int
    kept: int


@lru_cache(maxsize=2)
def load(device: str = "cpu") -> Fcpe:
    """The network on a device."""
    weights = {name: tensor.to(device) for name, tensor in read_weights().items()}
    return Fcpe(weights, torch.from_numpy(mel_filters()).to(device))


def batches(pieces: Iterator[Piece], rows: int) -> Iterator[list[Piece]]:
    """Pieces in order, as many at a time as `rows` hold with gaps between them, and at least one."""
    batch: list[Piece] = []
    used = 0
    for piece in pieces:
        if batch and used + len(piece.x) > rows:
            yield batch
            batch, used = [], 0
        batch.append(piece)
        used += len(piece.x) + TAPS // 2
    if batch:
        yield batch


def log_mel(waveform: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """(T // 160 + 1, 128) log mel spectra; the last frame is repeated."""
    samples = len(waveform)
    left = (WINDOW - SHIFT) // 2
    right = max(left, WINDOW - samples - left)
    mode = "reflect" if right < samples else "constant"
    padded = F.pad(waveform[None, None], (left, right), mode=mode)[0, 0]
    window = torch.hann_window(WINDOW, device=waveform.device)
    frames = (len(padded) - WINDOW) // SHIFT + 1
    blocks = []
    for start in range(0, frames, FRAMES):
        stop = min(frames, start + FRAMES)
        part = padded[start * SHIFT : (stop - 1) * SHIFT + WINDOW]
        spectrum = torch.stft(part, WINDOW, SHIFT, window=window, center=False, return_complex=True)
        magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
        blocks.append(torch.log(torch.clamp(filters @ magnitude, min=1e-5)).T)
    blocks.append(blocks[-1][-1:])
    return torch.cat(blocks)[: samples // SHIFT + 1]


def mel_filters() -> np.ndarray:
    """(128, 513) float32 triangles of equal area on Slaney's mel scale: linear to 1 kHz, then logarithmic."""
    linear, step = 1000 * 3 / 200, np.log(6.4) / 27  # mel at 1 kHz; growth of the logarithm per mel
    top = linear + np.log(SAMPLE_RATE / 2 / 1000) / step
    mel = np.linspace(0, top, BANDS + 2)
    edges = np.where(mel < linear, mel * 200 / 3, 1000 * np.exp(step * (mel - linear)))
    hertz = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return triangles.astype(np.float32)


def group_sums(x: torch.Tensor) -> torch.Tensor:
    """(2, groups) float64 sums and sums of squares of each group of channels."""
    groups = x.view(len(x), GROUPS, -1).double()
    return torch.stack([groups.sum((0, 2)), groups.square().sum((0, 2))])


def group_norm(
    pair: tuple[torch.Tensor, torch.Tensor], sums: torch.Tensor, frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) scale and shift of each channel, to which the group norm over all frames amounts."""
    weight, bias = pair
    channels = len(weight) // GROUPS
    mean, square = sums / (channels * frames)
    scale = 1 / torch.sqrt((square - mean.square()).clamp(min=0) + EPSILON)
    mean, scale = (x.float().repeat_interleave(channels) for x in (mean, scale))
    return scale * weight, bias - mean * scale * weight


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else CONVERTED
    write_safetensors(target, read_weights(), {"source": "torchfcpe, fcpe_c_v001, MIT licence"})
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB of weights, SHA-256 {weights_hash()}")
