"""Which GPU a worker process of this machine uses, and how many such workers the machine's GPUs can hold."""

import fcntl
import functools
import itertools
import os
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

WORKER_MEMORY = 6 * 2**30
"""Bytes of GPU memory for one worker: a batch of 160 s in hubert-base takes about 2 GB, in hubert-large about 4 GB."""

LOCKS: list[IO[str]] = []
"""The lock of this process, once it has one; the system releases it when the process ends, however it ends."""


class Gpu(NamedTuple):
    """A GPU that this process sees."""

    name: str  # its UUID: processes may see the same GPU under different numbers
    memory: int  # bytes


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process sees, in torch's order."""
    import torch

    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [Gpu(str(getattr(one, "uuid", index)), one.total_memory) for index, one in enumerate(properties)]


def count_places() -> int:
    """How many workers the GPUs of this machine can hold, at least one for each GPU; 0 without a GPU."""
    return sum(max(1, gpu.memory // WORKER_MEMORY) for gpu in visible_gpus())


def worker_device(name: str) -> str:
    """The device of a worker process for the setting `device`: "cuda" becomes the GPU with the fewest workers."""
    if name != "cuda":
        return name
    gpus = visible_gpus()
    return f"cuda:{claim_gpu(tuple(gpu.name for gpu in gpus))}" if len(gpus) > 1 else name


@functools.cache
def claim_gpu(names: tuple[str, ...]) -> int:
    """The number of the GPU that this process computes on until it ends: the first place that nobody has locked."""
    folder = Path(tempfile.gettempdir()) / f"wordweave-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for place, (index, name) in ((place, gpu) for place in itertools.count() for gpu in enumerate(names)):
        file = open(folder / f"{name}-{place}", "w")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        LOCKS.append(file)
        return index
    raise AssertionError("itertools.count ends")
