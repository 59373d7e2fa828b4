"""The transformer of a HuBERT, on the frames of several recordings at once, without padding where possible.

    frames of each ──> rows of all ──> linear layers, norms: a row does not depend on its neighbours
                             └───────> positional convolution, attention: each recording within itself

Operations along time run on one recording after the other on a CPU. On a GPU that would be many small kernels, so
recordings of different lengths are padded to a block there: with zeros after them for the positional convolution, and
with a mask for the attention.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from units.hubert.settings import HubertSettings

MIN_ROWS = 16  # with fewer, matrix products use other kernels, whose rows differ in their last bits

Pair = tuple[torch.Tensor, torch.Tensor]  # weight and bias
Activation = Callable[[torch.Tensor], torch.Tensor]


class Transformer:
    """Everything of a HuBERT after its convolutions, up to block `layer`."""

    def __init__(
        self,
        settings: HubertSettings,
        weights: dict[str, torch.Tensor],
        layer: int,
        dtype: torch.dtype,
        activations: dict[str, Activation],
        *,
        padded: bool,
        compiled: bool,
    ):
        s = self.settings = settings
        self.dtype, self.padded = dtype, padded

        def pair(name: str) -> Pair:
            return weights[f"{name}.weight"], weights[f"{name}.bias"]

        def linear(*names: str) -> Pair:
            matrices, biases = zip(*map(pair, names), strict=True)
            return torch.cat(matrices).to(dtype), torch.cat(biases).to(dtype)

        self.projection_norm = pair("feature_projection.layer_norm") if s.projection_norm else None
        self.projection = linear("feature_projection.projection")
        position = "encoder.pos_conv_embed"
        if s.position_batch_norm:  # with its running statistics it is one scale and one shift
            scale, shift = pair(f"{position}.batch_norm")
            scale = scale / torch.sqrt(weights[f"{position}.batch_norm.running_var"] + 1e-5)
            self.position_affine = scale, shift - weights[f"{position}.batch_norm.running_mean"] * scale
        kernel, bias = pair(f"{position}.conv")
        self.position_spectrum, self.position_bias = (
            spectrum(kernel.to(dtype), s.position_groups),
            bias.to(dtype),
        )
        self.position_activation = activations[s.conv_activation]
        self.norm = pair("encoder.layer_norm") if not s.pre_norm else None
        self.blocks = []
        for i in range(layer):
            name = f"encoder.layers.{i}"
            self.blocks.append(
                (
                    pair(f"{name}.layer_norm"),
                    linear(*(f"{name}.attention.{x}_proj" for x in "qkv")),
                    linear(f"{name}.attention.out_proj"),
                    pair(f"{name}.final_layer_norm"),
                    linear(f"{name}.feed_forward.intermediate_dense"),
                    linear(f"{name}.feed_forward.output_dense"),
                )
            )
        self.dimension = len(self.projection[1])
        self.after = after_attention(s, activations[s.activation])
        if compiled:
            self.after = torch.compile(self.after, dynamic=True)

    def __call__(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """(F, C) of each recording -> (rows, D) float32 of all, in order."""
        s = self.settings
        layout = RowLayout([len(x) for x in inputs], inputs[0].device, padded=self.padded)
        x = torch.cat(inputs).float()
        short = MIN_ROWS - len(x)
        if short > 0:
            x = F.pad(x, (0, 0, 0, short))
        if self.projection_norm:
            x = F.layer_norm(x, x.shape[1:], *self.projection_norm, s.epsilon)
        x = linear(x, self.projection).float()
        x = x[: layout.rows] + self.positions(x[: layout.rows], layout)
        if short > 0:
            x = F.pad(x, (0, 0, 0, short))
        if self.norm:
            x = F.layer_norm(x, x.shape[1:], *self.norm, s.epsilon)
        for block in self.blocks:
            norm, qkv = block[:2]
            normed = F.layer_norm(x, x.shape[1:], *norm, s.epsilon) if s.pre_norm else x
            attended = self.attention(linear(normed, qkv)[: layout.rows], layout)
            if short > 0:
                attended = F.pad(attended, (0, 0, 0, short))
            x = self.after(x, attended, *block)
        return x[: layout.rows]

    def positions(self, x: torch.Tensor, layout: "RowLayout") -> torch.Tensor:
        """(rows, D) -> (rows, D): the positional convolution, with zeros outside a recording."""
        if self.settings.position_batch_norm:
            x = x * self.position_affine[0] + self.position_affine[1]
        blocks = [self.position_convolution(block) for block in layout.to_blocks(x)]
        return self.position_activation(layout.to_rows(blocks))

    def position_convolution(self, x: torch.Tensor) -> torch.Tensor:
        """(B, F, D) float32 -> (B, F, D): by fast Fourier transforms of overlapping segments.

        On a CPU this takes 0.15 of the time of `conv1d` at 128 taps, and is more accurate. On a GPU it needs no
        algorithm that cuDNN chooses for grouped convolutions.
        """
        bins, groups, width, _ = self.position_spectrum.shape
        kernel, size = self.settings.position_kernel, 2 * (bins - 1)
        step = size - kernel + 1  # outputs of a segment that do not wrap around
        recordings, length, _ = x.shape
        segments = -(-length // step)
        before = kernel // 2
        after = segments * step + kernel - 1 - before - length
        parts = torch.fft.rfft(F.pad(x.transpose(1, 2), (before, after)).unfold(2, size, step))
        parts = parts.view(recordings, groups, width, segments, bins).permute(4, 1, 0, 3, 2)
        parts = parts.reshape(bins, groups, -1, width) @ self.position_spectrum
        parts = parts.view(bins, groups, recordings, segments, width).permute(2, 1, 4, 3, 0)
        y = torch.fft.irfft(parts.reshape(recordings, -1, segments, bins), size)[..., :step].flatten(2)
        return y[:, :, :length].transpose(1, 2) + self.position_bias

    def attention(self, rows: torch.Tensor, layout: "RowLayout") -> torch.Tensor:
        """(rows, 3 D), queries, keys and values -> (rows, D): each recording attends within itself."""
        blocks = []
        for block in layout.to_blocks(rows):
            recordings, length, _ = block.shape
            heads = block.view(recordings, length, 3, self.settings.heads, -1)
            query, key, value = heads.permute(2, 0, 3, 1, 4)
            result = F.scaled_dot_product_attention(query, key, value, attn_mask=layout.mask)
            blocks.append(result.transpose(1, 2).flatten(2))
        return layout.to_rows(blocks)


def spectrum(kernel: torch.Tensor, groups: int) -> torch.Tensor:
    """(D, D / groups, size) kernel -> (bins, groups, in, out) complex, as a correlation multiplies by it."""
    size = 2 << (kernel.shape[2] - 1).bit_length()  # at least twice the kernel
    bins = torch.fft.rfft(kernel.double(), size).conj().to(torch.complex64)
    return bins.unflatten(0, (groups, -1)).permute(3, 0, 2, 1).contiguous()


class RowLayout:
    """Which rows belong to which recording, one after the other or, `padded`, in a block (recordings, longest, D)."""

    def __init__(self, lengths: list[int], device: torch.device, *, padded: bool):
        self.lengths, self.padded = lengths, padded
        self.rows = sum(lengths)
        self.mask = self.inside = None
        if padded and len(set(lengths)) > 1:
            longest = max(lengths)
            mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
            self.inside = mask.flatten().nonzero()[:, 0].to(device, non_blocking=True)
            self.mask = mask[:, None, None].to(device, non_blocking=True)

    def to_blocks(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """(rows, D) -> blocks (recordings, F, D)."""
        if not self.padded:
            return [part.unsqueeze(0) for part in rows.split(self.lengths)]
        if self.inside is None:
            return [rows.view(len(self.lengths), -1, rows.shape[1])]
        block = rows.new_zeros(len(self.lengths) * max(self.lengths), rows.shape[1])
        block[self.inside] = rows
        return [block.view(len(self.lengths), -1, rows.shape[1])]

    def to_rows(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        """Blocks (recordings, F, D) -> (rows, D)."""
        rows = torch.cat([block.flatten(0, 1) for block in blocks])
        return rows if self.inside is None else rows[self.inside]


def linear(x: torch.Tensor, layer: Pair) -> torch.Tensor:
    """A linear layer, in the precision of its matrix."""
    matrix, bias = layer
    return F.linear(x.to(matrix.dtype), matrix, bias)


def after_attention(s: HubertSettings, activation: Activation) -> Callable[..., Any]:
    """What a block does with the result of attention: all row by row, so that a compiler can fuse it."""

    def after(
        x: torch.Tensor,
        attended: torch.Tensor,
        norm: Pair,
        qkv: Pair,
        out: Pair,
        final_norm: Pair,
        wide: Pair,
        narrow: Pair,
    ) -> torch.Tensor:
        x = x + linear(attended, out)
        if s.pre_norm:
            normed = F.layer_norm(x, x.shape[1:], *final_norm, s.epsilon)
            return x + linear(activation(linear(normed, wide)), narrow)
        x = F.layer_norm(x, x.shape[1:], *norm, s.epsilon)
        return F.layer_norm(
            x + linear(activation(linear(x, wide)), narrow), x.shape[1:], *final_norm, s.epsilon
        )

    return after
