"""Cutting: every frame is in one stretch, lengths keep their bounds, and words are not cut."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cutting import RATE, CutRules, cut_at_pauses, to_sample
from corpus.voice_activity import HOP, speech_frames, weights_path

RULES = CutRules()
spans = st.lists(
    st.tuples(st.integers(1, 2000), st.sampled_from([0.0, 0.4, 0.6, 1.0])), min_size=1, max_size=12
)


def frames_of(lengths, rng):
    """Probabilities and levels of spans of (frames, probability)."""
    probability = np.concatenate([np.full(length, value) for length, value in lengths])
    return probability, np.where(probability > 0.5, -20.0, -70.0) + rng.normal(0, 3, len(probability))


@given(spans, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_stretches_cover_the_recording_and_utterances_keep_their_length(lengths, seed):
    probability, level = frames_of(lengths, np.random.default_rng(seed))
    stretches = cut_at_pauses(probability, level, RULES)
    assert [one.first for one in stretches] == [0, *(one.last for one in stretches[:-1])]
    assert stretches[-1].last == len(probability)
    for one in stretches:
        assert one.last > one.first
        if one.reason is None:
            assert math.ceil(RULES.min_seconds * RATE) <= one.last - one.first <= RULES.max_seconds * RATE


@given(
    st.lists(st.integers(1, 999), min_size=1, max_size=9),
    st.sampled_from([8, 11.025, 16, 22.05, 44.1, 48, 96]),
)
def test_no_sample_is_lost_between_stretches_at_any_usual_rate(lengths, khz):
    rate = int(khz * 1000)
    edges = [to_sample(frame, rate) for frame in np.cumsum([0, *lengths]).tolist()]
    samples = [-(-(after - before) * 16_000 // rate) for before, after in itertools.pairwise(edges)]
    assert sum(samples) == -(-edges[-1] * 16_000 // rate)


def test_a_cut_lies_in_the_longest_pauses_and_not_in_a_word():
    lengths = [(300, 1.0), (10, 0.0), (300, 1.0), (25, 0.0), (200, 1.0), (10, 0.0), (650, 1.0)]
    stretches = cut_at_pauses(*frames_of(lengths, np.random.default_rng(0)), RULES)
    assert {one.reason for one in stretches} == {None}
    assert len(stretches) == 2
    assert 610 < stretches[0].last < 635


def test_speech_without_a_pause_is_cut_at_its_quietest_frames():
    probability = np.ones(2000)
    level = np.full(2000, -20.0)
    level[[700, 1500]] = -40.0
    assert [one.last for one in cut_at_pauses(probability, level, RULES)] == [700, 1500, 2000]


def test_a_short_word_alone_gets_room_and_what_is_cut_away_says_why():
    probability = np.zeros(400)
    probability[200:205] = 1.0
    level = np.where(probability > 0, -20.0, -80.0)
    level[300:] = -22.0
    stretches = cut_at_pauses(probability, level, RULES)
    assert [one.reason for one in stretches] == ["cut.silence", None, "cut.noise"]
    assert stretches[1].last - stretches[1].first >= RATE
    assert stretches[1].first < 200 < 205 < stretches[1].last


def test_rules_that_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="3 \\* min_seconds <= max_seconds"):
        CutRules(min_seconds=11)
    with pytest.raises(ValueError, match="2 \\* padding <= pause"):
        CutRules(padding=0.6)
    with pytest.raises(ValueError, match="threshold"):
        CutRules(threshold=1.0)


@pytest.fixture(scope="module")
def sound():
    rng = np.random.default_rng(3)
    time = np.arange(16_000 * 35) / 16_000
    buzz = np.sign(np.sin(2 * np.pi * (120 + 10 * np.sin(3 * time)) * time)) * (
        np.sin(2 * np.pi * 2 * time) > 0
    )
    return (0.1 * buzz + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def test_probabilities_do_not_depend_on_how_the_sound_is_divided(sound):
    whole, levels = speech_frames([sound])
    pieces, others = speech_frames(np.split(sound, [5, 1000, 1001, 300_000, 524_288]))
    assert len(whole) == -(-len(sound) // HOP)
    assert np.array_equal(whole, pieces)
    assert np.array_equal(levels, others)
    assert len(speech_frames([])[0]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_probabilities_are_those_of_the_package(sound):
    model = torch.jit.load(weights_path())
    with torch.inference_mode():
        theirs = [
            float(model(torch.from_numpy(piece)[None], 16_000))
            for piece in sound[: HOP * 100].reshape(-1, HOP)
        ]
    ours, _ = speech_frames([sound])
    assert np.ptp(theirs) > 0.05
    assert np.abs(ours[:100] - theirs).max() < 1e-4
