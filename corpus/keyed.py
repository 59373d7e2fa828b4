"""Randomness that depends on a name, not on the order of the work: the same on every engine and worker count."""

import hashlib

import numpy as np


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
    return (_number(seed, purpose, name) >> 203) / 2**53  # the first 53 of 256 bits: exact in a float


def generator(seed: int, purpose: str, name: str = "") -> np.random.Generator:
    """A generator (PCG64) for one named thing; same arguments as `fraction`.

    >>> generator(0, "frames", "u1").integers(100, size=5)
    array([75, 34, 46, 94, 61])
    """
    return np.random.Generator(np.random.PCG64(_number(seed, purpose, name)))


def _number(seed: int, purpose: str, name: str) -> int:
    """The sha256 of the three as an integer below 2^256, big-endian."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{purpose}|{name}".encode()).digest(), "big")
