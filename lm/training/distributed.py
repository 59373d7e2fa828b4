"""The processes that train together, as torchrun started them; without it there is one."""

import os
from typing import Any

import torch
from torch import Tensor, distributed


def processes(device: str, threads: int | None) -> tuple[int, int, torch.device]:
    """This process's number, how many there are (torchrun says), and its device."""
    if threads:
        torch.set_num_threads(threads)
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    name = device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(name, local) if name == "cuda" else torch.device(name)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return (distributed.get_rank() if world > 1 else 0), world, place


def together(tensor: Tensor) -> Tensor:
    """The sum over all processes."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


def everyone(thing: Any) -> list[Any]:
    """The thing of every process, in the order of their numbers."""
    if not distributed.is_initialized():
        return [thing]
    things = [None] * distributed.get_world_size()
    distributed.all_gather_object(things, thing)
    return things


def leave() -> None:
    """Leave the other processes, at the end of the work."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
