"""Speech that no word covers, with synthetic voices: the default limits of every backend."""

import numpy as np
import pytest

from aligners.alignment import AlignerOutput, TimedWord
from aligners.coverage import is_voiced, uncovered
from aligners.quality import DEFAULT_LIMITS
from corpus.records import SAMPLE_RATE, Utterance, Word
from tests.aligners.test_alignment import Fake


def voice(seconds, pitch=120.0, level=0.1):
    """A buzz whose loudness rises and falls four times a second, as syllables do."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    buzz = np.sign(np.sin(2 * np.pi * pitch * time)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))
    return (level * buzz).astype(np.float32)


def pause(seconds, level=1e-4):
    return np.random.default_rng(0).normal(0, level, round(seconds * SAMPLE_RATE)).astype(np.float32)


ONE = np.concatenate([pause(0.5), voice(2.0), pause(0.5)])
TWO = np.concatenate([ONE, voice(2.0, 200.0), pause(0.5)])
TEXT = "one two three four five six"


def align(wave, starts, ends, limits=DEFAULT_LIMITS):
    words = [TimedWord(word, start, end) for word, start, end in zip(TEXT.split(), starts, ends, strict=True)]
    utterance = Utterance("u", "u.wav", len(wave), text=TEXT)
    (result,) = Fake(lambda item: AlignerOutput(words)).align([(utterance, wave)], limits)
    return result


EVEN = np.linspace(0.5, 2.5, 7)


def test_words_that_cover_their_speech_stay():
    result = align(ONE, EVEN[:-1], EVEN[1:])
    assert result.reject is None
    assert result.quality["uncovered_seconds"] < 0.1
    assert result.quality["uncovered_share"] == 0


@pytest.mark.parametrize("where", ["after", "before", "in a long last word", "between"])
def test_speech_without_words_is_a_reject_wherever_it_is(where):
    starts, ends = EVEN[:-1].copy(), EVEN[1:].copy()
    if where == "before":
        starts, ends = starts + 2.5, ends + 2.5
    if where == "in a long last word":
        ends[-1] = 5.2
    if where == "between":
        starts[3:], ends[3:] = starts[3:] + 2.5, ends[3:] + 2.5
        starts[0], ends[2] = 0.5, 1.5
    result = align(TWO, starts, ends)
    assert result.reject.reason == "align.low_quality"
    assert "uncovered" in result.reject.detail
    assert result.words == ()
    assert align(TWO, starts, ends, {}).reject is None


@pytest.mark.parametrize("rest", [pause(8.0), pause(8.0, 0.02), np.zeros(8 * SAMPLE_RATE, np.float32)])
def test_silence_and_noise_after_the_words_are_no_speech(rest):
    assert align(np.concatenate([ONE, rest]), EVEN[:-1], EVEN[1:]).reject is None


def test_voiced_frames_are_those_of_the_voice_at_any_level():
    for level in (0.5, 0.01):
        voiced = is_voiced(
            np.concatenate([pause(1.0, level / 1000), voice(1.0, level=level), pause(1.0, level / 1000)])
        )
        assert voiced[110:190].mean() > 0.9
        assert voiced[:90].mean() + voiced[210:].mean() < 0.1


def test_an_empty_and_a_short_recording_have_nothing_uncovered():
    assert uncovered([Word("a", 0.0, 0.001)], np.zeros(16, np.float32)) == (0.0, 0.0)
    assert uncovered([Word("a", 0.0, 0.02)], voice(0.02)) == (0.0, 0.0)
