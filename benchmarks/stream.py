"""Tokens a second through merge and split, one core, CPU time.

python -m benchmarks.stream
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from shards.stream import merge, split


def spent(run: Callable[[], Any]) -> float:
    """Least CPU time of three runs, seconds."""
    times = []
    for _ in range(3):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    rng = np.random.default_rng(0)
    for utterances, seconds in ((1_000, 12), (1, 20_000)):
        streams = [
            (
                rng.integers(0, 501, seconds * 25),
                rng.integers(0, 64, round(seconds * 12.5)),
                rng.integers(0, 100, seconds),
            )
            for _ in range(utterances)
        ]
        merged = [merge(*one, unit_rate=24.99) for one in streams]
        texts = ["".join(one) for one in merged]
        tokens = sum(map(len, merged))
        runs: dict[str, Callable[[], Any]] = {
            "merge": lambda streams=streams: [merge(*one, unit_rate=24.99) for one in streams],
            "split of a list": lambda merged=merged: [split(one) for one in merged],
            "split of a string": lambda texts=texts: [split(one) for one in texts],
        }
        print(f"{utterances} utterances of {seconds} s, {tokens} tokens")
        for name, run in runs.items():
            print(f"  {name:20}{tokens / spent(run) / 1e6:6.1f} M tokens/s")


if __name__ == "__main__":
    main()
