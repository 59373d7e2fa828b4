"""torch on one thread at a time, so that results do not depend on the number of cores."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: sums come out the same on machines with other numbers of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def single_threaded_pool(threads: int) -> Iterator[Callable[..., Iterable]]:
    """A `map` of parallel calls, each on one thread of torch: the same bits for any number of threads."""
    if threads == 1:
        yield map
        return
    try:
        with ThreadPoolExecutor(threads, "encode", torch.set_num_threads, (1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)  # MKL's number is one for all threads
