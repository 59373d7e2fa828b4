"""Settings of a HuBERT that its features depend on, and the activations it may have."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

# in place, as their inputs are large and not used again
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": torch.ops.aten.gelu_,
    "relu": torch.relu_,
}


@dataclass(frozen=True)
class HubertSettings:
    """The part of a checkpoint's configuration that the forward pass depends on.

    Frame count, hop, centre and minimum all follow from the kernels and strides:

    >>> base = HubertSettings(conv_kernel=(10, 3, 3, 3, 3, 2, 2), conv_stride=(5, 2, 2, 2, 2, 2, 2))
    >>> base.hop, base.receptive_field, base.frames(16_000)
    (320, 400, 49)
    >>> slow = HubertSettings(conv_kernel=(10, 3, 3, 3, 3, 2, 2, 2), conv_stride=(5, 2, 2, 2, 2, 2, 2, 2))
    >>> slow.hop, slow.receptive_field, slow.frames(146_160)
    (640, 720, 228)
    """

    conv_kernel: tuple[int, ...]
    conv_stride: tuple[int, ...]
    conv_norm: str = (
        "group"  # group: one group norm after the first convolution; layer: a layer norm after each
    )
    conv_activation: str = "gelu"
    projection_norm: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    position_batch_norm: bool = False
    layers: int = 12
    heads: int = 12
    activation: str = "gelu"
    pre_norm: bool = False  # "stable layer norm": each norm before its block, as in hubert-large
    epsilon: float = 1e-5
    normalize: float | None = (
        None  # epsilon of the waveform's own mean/variance normalisation, None: raw waveform
    )

    def __post_init__(self) -> None:
        for name, activation in (("conv_activation", self.conv_activation), ("activation", self.activation)):
            if activation not in ACTIVATIONS:
                raise ValueError(f"hubert.{name}: need one of {sorted(ACTIVATIONS)}, got {activation!r}")
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"hubert.conv_norm: need 'group' or 'layer', got {self.conv_norm!r}")
        if not self.conv_kernel or len(self.conv_kernel) != len(self.conv_stride):
            raise ValueError(
                f"hubert: need as many kernels as strides, got {self.conv_kernel} and {self.conv_stride}"
            )

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame depends on; the fewest that give one."""
        strides = [math.prod(self.conv_stride[:i]) for i in range(len(self.conv_stride))]
        return 1 + sum(
            (kernel - 1) * stride for kernel, stride in zip(self.conv_kernel, strides, strict=True)
        )

    def frames(self, samples: int) -> int:
        """Frames that `samples` samples give."""
        return max(0, (samples - self.receptive_field) // self.hop + 1)
