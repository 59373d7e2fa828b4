"""Word boundaries moved to where the sound changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligners import boundaries
from aligners.boundaries import moved_to_changes
from corpus.records import SAMPLE_RATE


def tones(changes: list[float], seconds: float = 2.0) -> np.ndarray:
    """A tone that jumps to another pitch and level at the given times."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    part = np.searchsorted(changes, time)
    noise = np.random.default_rng(0).normal(0, 1e-3, len(time))
    return (0.2 / (1 + part % 2) * np.sin(2 * np.pi * (300 + 900 * (part % 3)) * time) + noise).astype(
        np.float32
    )


@pytest.mark.parametrize("off", [-0.02, -0.01, 0.0, 0.01, 0.02])
def test_a_boundary_comes_nearer_to_a_change_of_the_sound(off):
    changes = [0.5, 1.0, 1.5]
    after = moved_to_changes(np.array(changes) + off, tones(changes))
    assert np.all(np.abs(after - changes) <= max(0.003, 0.6 * abs(off)))


def test_a_boundary_stays_where_nothing_changes():
    times = np.array([0.3, 0.61, 1.7])
    for waveform in (np.zeros(2 * SAMPLE_RATE, np.float32), tones([])):
        assert moved_to_changes(times, waveform) == pytest.approx(times, abs=0.003)


def test_the_first_word_begins_where_the_sound_does_if_the_search_left_no_silence():
    waveform = tones([])
    waveform[: SAMPLE_RATE * 6 // 100] *= 1e-3
    waveform[-SAMPLE_RATE * 6 // 100 :] *= 1e-3
    assert moved_to_changes(np.array([0.0, 2.0]), waveform) == pytest.approx([0.06, 1.94], abs=0.01)


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=30),
    st.integers(0, 32_000),
    st.integers(0, 2**32 - 1),
)
def test_order_is_kept_and_every_time_is_inside(steps, samples, seed):
    rng = np.random.default_rng(seed)
    waveform = rng.normal(0, 0.1, samples).astype(np.float32) * (rng.random(samples) < rng.random())
    times = np.minimum(np.array(sorted(steps)) / 100, samples / SAMPLE_RATE)
    after = moved_to_changes(times, waveform)
    assert np.all(np.diff(after) >= 0)
    assert np.all((after >= 0) & (after <= samples / SAMPLE_RATE))


def test_times_in_blocks_are_those_of_one_block(monkeypatch):
    waveform, times = tones([0.2, 0.7, 1.1]), np.linspace(0.1, 1.9, 60).reshape(-1, 2)
    whole = moved_to_changes(times, waveform)
    monkeypatch.setattr(boundaries, "BLOCK", 7)
    assert np.array_equal(moved_to_changes(times, waveform), whole)
