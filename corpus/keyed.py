"""Randomness that depends on a name, not on the order of the work: the same on every engine and worker count."""

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


def fraction(seed: int, purpose: str, name: str) -> float:
    """A number in [0, 1) for one named thing, uniform over names.

    Args:
        seed: the seed of the settings.
        purpose: what the number is for, so that two choices about one thing are independent.
        name: the thing, for instance the id of an utterance.

    >>> fraction(0, "split", "u1")
    0.37463298520814414
    >>> fraction(0, "split", "u1") == fraction(0, "split", "u1") != fraction(1, "split", "u1")
    True
    """
    number = int.from_bytes(_digest(seed, purpose, name)[:8], "big")
    return (number >> 11) / 2**53  # the first 53 of 256 bits: exact in a float


def generator(seed: int, purpose: str, name: str = "") -> np.random.Generator:
    """A generator (PCG64) for one named thing; same arguments as `fraction`.

    >>> generator(0, "frames", "u1").integers(100, size=5)
    array([32, 47, 38, 91, 59])
    """
    state: Any = _Digest(_digest(seed, purpose, name))  # numpy takes any ISeedSequence
    return np.random.Generator(np.random.PCG64(state))


class _Digest(ISeedSequence):
    """A sha256 as the 256 bits that PCG64 starts from, big-endian. An integer seed costs six times as much."""

    def __init__(self, digest: bytes):
        self.state = np.frombuffer(digest, dtype=">u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        assert (n_words, dtype) == (4, np.uint64)
        return self.state


def _digest(seed: int, purpose: str, name: str) -> bytes:
    """The sha256 of the three."""
    return hashlib.sha256(f"{seed}|{purpose}|{name}".encode()).digest()
