import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corpus.keyed import fraction, generator

seeds = st.integers(0, 2**63)
names = st.text(st.characters(exclude_categories=["Cs"]))


@given(seeds, names, names)
def test_a_fraction_is_at_least_0_and_below_1_and_always_the_same(seed, purpose, name):
    assert 0 <= fraction(seed, purpose, name) < 1
    assert fraction(seed, purpose, name) == fraction(seed, purpose, name)


def test_a_fraction_is_the_start_of_the_sha256_read_as_a_binary_fraction():
    digits = hashlib.sha256(b"7|split|u-12").hexdigest()
    assert abs(fraction(7, "split", "u-12") - int(digits, 16) / 16**64) <= 2**-53


def test_fractions_of_many_names_are_uniform():
    values = np.sort([fraction(0, "split", f"u{number}") for number in range(5000)])
    assert np.abs(values - np.linspace(0, 1, 5000)).max() < 0.03  # Kolmogorov and Smirnov: p < 0.001


@given(seeds, names, names)
def test_the_draws_of_a_generator_depend_on_seed_purpose_and_name_only(seed, purpose, name):
    draws = generator(seed, purpose, name).integers(2**62, size=4)
    assert np.array_equal(draws, generator(seed, purpose, name).integers(2**62, size=4))
    for other in (
        generator(seed + 1, purpose, name),
        generator(seed, purpose + "x", name),
        generator(seed, purpose, name + "x"),
    ):
        assert not np.array_equal(draws, other.integers(2**62, size=4))


def test_a_generator_is_pcg64_with_the_sha256_as_its_start_and_its_sequence():
    number = int.from_bytes(hashlib.sha256(b"3|frames|u1").digest(), "big")
    start, sequence = divmod(number, 2**128)
    increment = (2 * sequence + 1) % 2**128
    pcg = np.random.PCG64()  # its state as O'Neill's pcg64_srandom sets it
    state = ((increment + start) * 0x2360ED051FC65DA44385DF649FCCF645 + increment) % 2**128
    pcg.state = pcg.state | {"state": {"state": state, "inc": increment}}
    expected = np.random.Generator(pcg).random(8)
    assert np.array_equal(generator(3, "frames", "u1").random(8), expected)
