"""The processes that train together, as torchrun starts them; without torchrun there is one."""

import os
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor


def start(device: str, threads: int | None) -> tuple[int, int, torch.device]:
    """Join the other processes: the rank of this one, their number, and its device."""
    if threads:
        torch.set_num_threads(threads)
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    own = torch.device(device, local) if device == "cuda" else torch.device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo")
    return (distributed.get_rank() if world > 1 else 0), world, own


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


def all_gather(value: Any) -> list[Any]:
    """The value of every process, in the order of ranks."""
    if not distributed.is_initialized():
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def full_tensor(tensor: Any) -> Any:
    """A tensor that is sharded over processes as a whole one; any other value unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shutdown() -> None:
    """Leave the process group, at the end of the work."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
