"""Low-rank adapters (LoRA): each matrix of the layers is frozen, and two thin matrices next to it are trained.

Written here rather than imported from peft, which renames every weight that it adapts: these sixty lines keep Hugging
Face's names, so that code that saves, loads or shards a model needs no special case.
"""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of a layer, each of which can be adapted."""


class Adapted(nn.Linear):
    """A frozen linear map plus a trained change of low rank: x W' + scale (x down') up'.

    `down` (rank, inputs) starts random and `up` (outputs, rank) at 0, so that nothing changes before the first step.

    Source: Hu et al. 2021 (LoRA), arXiv:2106.09685; the initial scale of `down` as in its released code.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        outputs, inputs = linear.weight.shape
        super().__init__(inputs, outputs, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        self.lora_down = nn.Parameter(torch.empty(rank, inputs, device=linear.weight.device))
        self.lora_up = nn.Parameter(torch.empty(outputs, rank, device=linear.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        change = F.linear(F.linear(x, self.lora_down), self.lora_up)
        return F.linear(x, self.weight, self.bias) + self.scale * change


def adapt(layers: nn.Module, *, rank: int, alpha: float, targets: Collection[str] = TARGETS) -> None:
    """Freeze `layers` and add adapters to the matrices named in `targets`, in place."""
    layers.requires_grad_(False)
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if name in targets and isinstance(child, nn.Linear):
                setattr(parent, name, Adapted(child, rank, alpha))
    if not any(parameter.is_meta for parameter in layers.parameters()):
        initialise_adapters(layers)


def initialise_adapters(model: nn.Module) -> None:
    """Give adapters their start values from torch's generator: no change to the model; sharded or not."""
    for module in model.modules():
        if isinstance(module, Adapted):
            with initialised(module.lora_down) as whole:
                nn.init.kaiming_uniform_(whole, a=math.sqrt(5))
            nn.init.zeros_(module.lora_up)


@contextmanager
def initialised(parameter: Tensor) -> Iterator[Tensor]:
    """A whole tensor for the block to fill in place; a sharded parameter then gets its part of it."""
    if not isinstance(parameter, DTensor):
        yield parameter
        return
    whole = torch.empty(parameter.shape, dtype=parameter.dtype)
    yield whole
    with torch.no_grad():
        parameter.copy_(shard_like(whole, parameter))


def shard_like(tensor: Tensor, parameter: DTensor) -> DTensor:
    """The part of a whole tensor that a process has of a parameter, without communication."""
    mesh = parameter.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)


def merge(model: nn.Module, weights: dict[str, Any]) -> None:
    """In named weights of an adapted model, add every adapter's change to its matrix and drop the adapter."""
    for name, module in model.named_modules():
        if isinstance(module, Adapted) and f"{name}.weight" in weights:
            down, up = weights.pop(f"{name}.lora_down"), weights.pop(f"{name}.lora_up")
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.scale * (up @ down)
