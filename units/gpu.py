"""Work on a GPU: launched one batch ahead, with results that come back while it computes.

On a CPU the same functions do nothing of their own.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

LAUNCHING = threading.RLock()
"""Held while work is launched on a GPU: cuDNN's flags are the process's, and two batches need twice the memory."""


class HostCopy:
    """A tensor on its way to the host: from a GPU through pinned memory, while the GPU computes the next batch."""

    def __init__(self, tensor: torch.Tensor):
        self._event: torch.cuda.Event | None = None
        if tensor.device.type != "cuda":
            self._host = tensor.cpu()
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(tensor.device))

    def array(self) -> np.ndarray:
        """The values, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


def map_one_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """As `map`, one call ahead: a GPU works on the next item while the host handles the result of this one."""
    waiting: list[Result] = []
    for item in items:
        waiting.append(function(item))
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; to a GPU through pinned memory, without waiting."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def can_compile(device: torch.device) -> bool:
    """Whether `torch.compile` works here and helps: on a GPU, where it fuses small kernels."""
    if device.type != "cuda":
        return False
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception:  # whatever its tool chain lacks: without it the units are the same
        return False
    return True


def usable_device(name: str) -> torch.device:
    """The device of that name, or ValueError."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # `meta` has no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"encoder.device: need one that torch can use here, got {name!r}: {reason}"
        ) from error
    return device


@contextmanager
def single_precision(device: torch.device) -> Iterator[None]:
    """On a GPU: convolutions of float32 in float32, which torch otherwise rounds to TF32, by a fixed algorithm."""
    if device.type != "cuda":
        yield
        return
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with LAUNCHING, flags:
        yield
