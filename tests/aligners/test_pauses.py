"""Long pauses are taken out, and times find their way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligners.pauses import HOP, KEPT, LONGEST, shorten

RNG = np.random.default_rng(0)


def speech(frames, amplitude=0.1):
    """Noise whose level goes up and down as that of syllables does."""
    envelope = np.repeat(0.55 + 0.45 * np.sin(np.arange(frames) / 4), HOP)
    return (RNG.normal(0, amplitude, frames * HOP) * envelope).astype(np.float32)


def pause(frames, room):
    return RNG.normal(0, room, frames * HOP).astype(np.float32)


@pytest.mark.parametrize("room", [0.0, 1e-4, 3e-3])
def test_minutes_of_silence_become_two_seconds_and_times_come_back(room):
    parts = [pause(9_000, room), speech(500), pause(300, room), speech(400), pause(18_000, room), speech(600)]
    whole = np.concatenate(parts)
    short = shorten(whole)
    assert len(short.waveform) // HOP == pytest.approx(KEPT + 500 + 300 + 400 + 2 * KEPT + 600, abs=150)
    intervals = {short.interval(at, at + 1): at for at in range(len(short.waveform) // HOP)}
    for first in (9_000, 9_499, 9_900, 28_200, 28_799):
        at = intervals[first, first + 1]
        assert np.array_equal(
            short.waveform[at * HOP : at * HOP + HOP], whole[first * HOP : first * HOP + HOP]
        )


@pytest.mark.parametrize("frames", [10, LONGEST, 3_000])
def test_speech_without_long_pauses_is_left_as_it_is(frames):
    whole = np.concatenate([speech(frames), pause(LONGEST - 20, 1e-4), speech(frames)])
    assert shorten(whole).waveform is whole


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 1200)), min_size=1, max_size=8), st.integers(0, 159))
@settings(deadline=None, max_examples=60)
def test_every_frame_kept_is_the_one_it_says_it_is(parts, tail):
    whole = np.concatenate(
        [speech(frames) if spoken else pause(frames, 1e-4) for spoken, frames in parts]
        + [np.zeros(tail, np.float32)]
    )
    short = shorten(whole)
    before = 0
    for at in range(0, len(short.waveform) // HOP, 7):
        first, last = short.interval(at, at + 1)
        assert last == first + 1
        assert first >= before
        before = first
        assert np.array_equal(
            short.waveform[at * HOP : at * HOP + HOP], whole[first * HOP : first * HOP + HOP]
        )


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_all_silence_and_all_noise_come_through(level):
    whole = pause(2_000, level)
    short = shorten(whole)
    assert short.waveform is whole  # a recording of nothing but silence is no pause between words
    assert short.interval(0, 1) == (0, 1)
