"""The convolutions in front of a HuBERT, on recordings of any length, without a padded sample.

A convolution without padding does the same everywhere. So recordings can be joined, each starting at a multiple of the
hop, and convolved as one signal: a recording's own frames come out as if it were alone, and the few frames that overlap
two recordings are left out.

    | recording a      |..| recording b        |..|    ..: up to the next multiple of the hop
      a0  a1  a2  a3    x   b0  b1  b2  b3  b4   x     x: left out

On a GPU a whole batch is one such signal. On a CPU a signal is `BLOCK_FRAMES` of one recording, so that the tensors
between two convolutions stay in the cache.

The group norm after the first convolution is the only operation over all of a recording. It is a scale and a shift per
channel and recording, folded into the first kernel; see `output_moments`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from units.hubert.settings import HubertSettings

BLOCK_FRAMES = 128  # frames computed at a time on a CPU
STATISTICS_SAMPLES = 1 << 21  # read at once for the statistics of a recording: bounded memory
STATISTICS_ROWS = 256  # the same, where the output is read: few, as they are summed in single precision
FEW_TAPS = 32  # up to this number the covariance of windows is cheaper than the convolution itself
SHORT_SUM = 256  # windows summed by one product on a GPU
EPSILON = 1e-5  # torch's own for group norm


class FirstConvolution(NamedTuple):
    """The first convolution for one recording: gain and offset of its samples, kernel and bias.

    Or all of its output, where its statistics needed that and the recording is short enough to keep it.
    """

    scaling: tuple[torch.Tensor, torch.Tensor] | None  # None: raw samples
    kernel: torch.Tensor
    bias: torch.Tensor | None
    output: torch.Tensor | None = None  # with norm and activation


class Convolutions:
    """All convolutions of a HuBERT, with their norms and activations."""

    def __init__(
        self,
        settings: HubertSettings,
        weights: dict[str, torch.Tensor],
        dtype: torch.dtype,
        activation: Callable[[torch.Tensor], torch.Tensor],
    ):
        self.settings, self.dtype, self.activation = settings, dtype, activation
        self.kernels: list[torch.Tensor] = []
        self.biases: list[torch.Tensor | None] = []
        self.norms: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        for i in range(len(settings.conv_kernel)):
            name = f"feature_extractor.conv_layers.{i}"
            kernel = weights[f"{name}.conv.weight"].permute(2, 1, 0).flatten(0, 1)  # (taps x in, out)
            # the first reads the waveform, which half precision would distort, and is a small part of the work
            self.kernels.append((kernel if i == 0 else kernel.to(dtype)).contiguous())
            self.biases.append(weights.get(f"{name}.conv.bias"))
            normed = settings.conv_norm == "layer" or i == 0
            names = (f"{name}.layer_norm.weight", f"{name}.layer_norm.bias")
            self.norms.append((weights[names[0]], weights[names[1]]) if normed else None)

    def first(self, recording: torch.Tensor, *, keep: bool = False) -> FirstConvolution:
        """The first convolution for this recording, (T,) float32, by statistics of its whole length.

        With `keep`, its output is kept where that saves computing it twice.
        """
        s, scaling = self.settings, None
        if s.normalize is not None:
            mean, variance = sample_moments(recording)
            gain = torch.rsqrt(variance + s.normalize)
            scaling = gain, -mean * gain
        if s.conv_norm != "group":
            return FirstConvolution(scaling, self.kernels[0], self.biases[0])
        norm, kernel = self.norms[0], self.kernels[0].double()
        assert norm is not None
        output = None
        if keep and s.conv_kernel[0] > FEW_TAPS and len(recording) <= STATISTICS_SAMPLES:
            output = recording.new_empty(
                (len(recording) - s.conv_kernel[0]) // s.conv_stride[0] + 1, kernel.shape[1]
            )
        mean, variance = output_moments(recording, kernel, s.conv_kernel[0], s.conv_stride[0], output)
        if scaling is not None:  # of gain * x + offset, from the moments of x
            gain, offset = scaling
            mean, variance = gain * mean + offset * kernel.sum(dim=0), gain * gain * variance
        scale = norm[0].double() / torch.sqrt(variance.clamp(min=0) + EPSILON)
        bias = norm[1].double() - mean * scale
        if output is not None:
            if scaling is not None:
                scale, bias = scale * scaling[0], bias + scaling[1] * kernel.sum(dim=0) * scale
            torch.addcmul(bias.float(), output, scale.float(), out=output)
            return FirstConvolution(scaling, self.kernels[0], None, self.activate(output, 0))
        return FirstConvolution(scaling, (kernel * scale).float(), bias.float())

    def first_of_batch(self, recordings: list[torch.Tensor]) -> list[FirstConvolution]:
        """As `first` for each recording, all at once: on a GPU, few large kernels instead of many small ones."""
        s = self.settings
        if s.conv_norm != "group" or s.conv_kernel[0] > FEW_TAPS:
            return [self.first(recording) for recording in recordings]
        lengths = torch.tensor([len(x) for x in recordings], dtype=torch.float64)[:, None]
        samples = torch.nn.utils.rnn.pad_sequence(recordings, batch_first=True).double()
        lengths = lengths.to(samples.device, non_blocking=True)
        size, stride = s.conv_kernel[0], s.conv_stride[0]
        places = torch.arange(samples.shape[1], device=samples.device)
        pivot = samples.sum(1, keepdim=True) / lengths
        centred = (samples - pivot) * (places < lengths)
        windows = centred.unfold(1, size, stride)
        complete = places[: windows.shape[1]] * stride + size <= lengths
        count = complete.sum(1)[:, None]
        windows = windows * complete[:, :, None]  # zeros, where they reach beyond their recording
        mean = windows.sum(1) / count
        # a product of two small matrices over a long sum is slow on a GPU: many short sums, then their sum
        short = F.pad(windows, (0, 0, 0, -windows.shape[1] % SHORT_SUM)).unflatten(1, (-1, SHORT_SUM))
        covariance = (short.mT @ short).sum(1) / count[:, :, None] - mean[:, :, None] * mean[:, None]
        kernel = self.kernels[0].double()
        means = mean @ kernel + pivot * kernel.sum(dim=0)
        variances = ((covariance @ kernel) * kernel).sum(dim=1)
        scalings: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(recordings)
        if s.normalize is not None:
            gains = torch.rsqrt(centred.square().sum(1, keepdim=True) / lengths + s.normalize)
            offsets = -pivot * gains
            means, variances = gains * means + offsets * kernel.sum(dim=0), gains * gains * variances
            scalings = list(zip(gains[:, 0].unbind(), offsets[:, 0].unbind(), strict=True))
        norm = self.norms[0]
        assert norm is not None
        scales = norm[0].double() / torch.sqrt(variances.clamp(min=0) + EPSILON)
        biases = (norm[1].double() - means * scales).float()
        kernels = (kernel * scales[:, None]).float()
        return [
            FirstConvolution(scaling, one, bias)
            for scaling, one, bias in zip(scalings, kernels.unbind(), biases.unbind(), strict=True)
        ]

    def frames(self, samples: torch.Tensor, first: FirstConvolution) -> torch.Tensor:
        """(T,) float32 of one recording -> (F, C), a block at a time."""
        s, blocks = self.settings, []
        frames = s.frames(len(samples))
        for start in range(0, frames, BLOCK_FRAMES):
            stop = min(frames, start + BLOCK_FRAMES)
            if first.output is None:
                block = samples[start * s.hop : (stop - 1) * s.hop + s.receptive_field]
                blocks.append(self.convolve([normalise(block, first)], [first]))
            else:
                stride = s.conv_stride[0]
                last = ((stop - 1) * s.hop + s.receptive_field - s.conv_kernel[0]) // stride
                blocks.append(self.after_first(first.output[start * s.hop // stride : last + 1]))
        return torch.cat(blocks)

    def frames_of_batch(
        self, recordings: list[torch.Tensor], firsts: list[FirstConvolution]
    ) -> list[torch.Tensor]:
        """(T,) float32 of each recording -> (F, C) of each, all of them in one signal."""
        s, slots, spans = self.settings, [], []
        total = 0
        for recording, first in zip(recordings, firsts, strict=True):
            count = s.frames(len(recording))
            used = recording[: (count - 1) * s.hop + s.receptive_field]
            slot = -(-len(used) // s.hop)  # frames from this recording's start to the next one's
            slots.append(F.pad(normalise(used, first), (0, slot * s.hop - len(used))))
            spans.append(slice(total, total + count))
            total += slot
        slots[-1] = F.pad(slots[-1], (0, s.receptive_field))  # so that the last slot has all of its rows
        rows = self.convolve(slots, firsts)
        return [rows[span] for span in spans]

    def convolve(self, slots: list[torch.Tensor], firsts: list[FirstConvolution]) -> torch.Tensor:
        """Samples of each recording -> rows of all of them, in order."""
        s = self.settings
        size, stride = s.conv_kernel[0], s.conv_stride[0]
        windows = (slots[0] if len(slots) == 1 else torch.cat(slots)).unfold(0, size, stride)
        x = windows.new_empty(len(windows), self.kernels[0].shape[1])
        start = 0
        for i, (slot, first) in enumerate(zip(slots, firsts, strict=True)):
            stop = len(windows) if i == len(slots) - 1 else start + len(slot) // stride
            # copying the windows is cheaper than several narrow products
            multiply(windows[start:stop].contiguous(), first.kernel, first.bias, x[start:stop])
            start = stop
        return self.after_first(self.activate(x, 0))

    def after_first(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the first convolution, with norm and activation -> that of the last."""
        s = self.settings
        for i in range(1, len(self.kernels)):
            x = convolve(x, self.kernels[i], self.biases[i], s.conv_kernel[i], s.conv_stride[i])
            x = self.activate(x, i)
        return x

    def activate(self, x: torch.Tensor, i: int) -> torch.Tensor:
        norm = self.norms[i]
        if norm is not None and self.settings.conv_norm == "layer":
            x = F.layer_norm(x.float(), x.shape[1:], *norm)
        return self.activation(x.to(self.dtype))


def normalise(samples: torch.Tensor, first: FirstConvolution) -> torch.Tensor:
    """The samples with the gain and offset of their recording."""
    if first.scaling is None:
        return samples
    gain, offset = first.scaling
    return samples * gain.float() + offset.float()


def multiply(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """out = x @ kernel + bias."""
    if bias is None:
        torch.mm(x, kernel, out=out)
    else:
        torch.addmm(bias.to(x.dtype), x, kernel, out=out)


def convolve(
    x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, size: int, stride: int
) -> torch.Tensor:
    """One-dimensional convolution without padding, as matrix products on overlapping views of its input.

    On a CPU this takes 0.9 (float32) to 0.3 (bfloat16) of the time of `conv1d` at 512 channels.

    Args:
        x: (T, C) contiguous.
        kernel: (size x C, channels out), tap by tap.
        bias: (channels out,) or None.

    Returns:
        ((T - size) // stride + 1, channels out).

    >>> x = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    >>> convolve(x, torch.tensor([[1.0], [1.0], [1.0]]), None, 3, 1).flatten()
    tensor([ 7., 14.])
    """
    channels = x.shape[1]
    frames = (len(x) - size) // stride + 1
    out = None
    # taps [tap, tap + stride) of neighbouring frames do not overlap: a plain matrix
    for tap in range(0, size, stride):
        width = min(stride, size - tap) * channels
        rows = x.as_strided((frames, width), (stride * channels, 1), x.storage_offset() + tap * channels)
        part = kernel[tap * channels : tap * channels + width]
        if out is None:
            out = rows @ part if bias is None else torch.addmm(bias.to(x.dtype), rows, part)
        else:
            out.addmm_(rows, part)
    assert out is not None
    return out


def sample_moments(recording: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of all samples, in double precision."""
    total = squares = recording.new_zeros((), dtype=torch.float64)
    pivot = recording[:STATISTICS_SAMPLES].mean(
        dtype=torch.float64
    )  # so that an offset does not cost precision
    for block in recording.split(STATISTICS_SAMPLES):
        centred = block.double() - pivot
        total, squares = total + centred.sum(), squares + centred.square().sum()
    mean = total / len(recording)
    return pivot + mean, squares / len(recording) - mean * mean


def output_moments(
    recording: torch.Tensor,
    kernel: torch.Tensor,
    size: int,
    stride: int,
    output: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance over time, (C,) each in double precision, of each channel of a convolution's output.

    With few taps they follow from mean and covariance of the windows that the convolution reads (size x size numbers),
    which is far less work than its output; with many taps the output itself is less.

    Args:
        recording: (T,) float32.
        kernel: (size, C) float64.
        output: (windows, C) float32, filled with the output; only for many taps.

    >>> mean, variance = output_moments(torch.tensor([0.0, 1.0, 0.0, 3.0]), torch.ones(2, 1).double(), 2, 2)
    >>> mean.tolist(), variance.tolist()
    ([2.0], [1.0])
    """
    # so that an offset does not cost precision
    pivot = recording[:STATISTICS_SAMPLES].mean(dtype=torch.float64).float()
    windows = recording.unfold(0, size, stride)
    few = size <= FEW_TAPS
    width, single = size if few else kernel.shape[1], kernel.float()
    total = kernel.new_zeros(width)
    products = kernel.new_zeros((width, width) if few else width)
    shift = pivot.double() * kernel.sum(dim=0)
    step = max(1, STATISTICS_SAMPLES // size) if few else STATISTICS_ROWS
    for start in range(0, len(windows), step):
        centred = windows[start : start + step] - pivot
        if few:
            centred = centred.double()
            total += centred.sum(dim=0)
            products += centred.T @ centred
        else:
            rows = centred @ single
            total += rows.sum(dim=0)
            products += rows.square().sum(dim=0)
            if output is not None:
                torch.add(rows, shift.float(), out=output[start : start + step])
    mean = total / len(windows)
    if few:
        covariance = products / len(windows) - torch.outer(mean, mean)
        return mean @ kernel + shift, ((covariance @ kernel) * kernel).sum(dim=0)
    return mean + shift, products / len(windows) - mean.square()
