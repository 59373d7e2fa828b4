"""Measures of quality: each says what was done to the sound or the text."""

import itertools

import numpy as np
import pytest
import soxr
import torch
from torchaudio.functional import resample

from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.quality import (
    MEASURES,
    Filter,
    Subject,
    k_filters,
    language_probabilities,
    loudness,
    make_filters,
    measure,
)
from corpus.records import REASONS


@pytest.fixture(scope="module")
def voices(spoken_corpus):
    return [decode(one) for one in itertools.islice(read_jsonl(spoken_corpus), 4)]


def value(name, wave, text=None, language=None):
    return measure(Subject(wave.astype(np.float32), text, language), [name])[name]


@pytest.mark.parametrize(("rate", "volume"), [(16_000, 1.0), (16_000, 0.3), (44_100, 0.5)])
def test_clipping_shows_at_any_volume_and_after_resampling(voices, rate, volume):
    for wave in voices:
        assert value("clipping", wave) < 0.001
        sound = soxr.resample(wave, 16_000, rate)
        limit = np.quantile(np.abs(sound), 0.98)
        clipped = soxr.resample(volume * np.clip(sound, -limit, limit), rate, 16_000)
        assert 0.008 < value("clipping", clipped) < 0.022


UPSAMPLED = {
    "soxr": lambda wave: soxr.resample(wave, 8_000, 16_000),
    "torchaudio": lambda wave: resample(torch.from_numpy(wave), 8_000, 16_000).numpy(),
    "linear": lambda wave: np.interp(np.arange(2 * len(wave)) / 2, np.arange(len(wave)), wave),
    "repeated": lambda wave: np.repeat(wave, 2),
}


@pytest.mark.parametrize("kind", UPSAMPLED)
def test_a_recording_at_8_khz_is_found_by_its_bandwidth(voices, kind):
    for wave in voices:
        narrow = UPSAMPLED[kind](soxr.resample(wave, 16_000, 8_000))
        assert value("bandwidth", np.round(narrow * 32767) / 32767) < 4_800
        assert value("bandwidth", wave) > 6_500


def test_the_offset_of_the_mean_is_measured(voices):
    assert value("dc_offset", voices[0] - voices[0].mean() - 0.01) == pytest.approx(0.01, abs=1e-6)


def test_noise_lowers_the_signal_to_noise_ratio_to_its_level(real_speech):
    rng = np.random.default_rng(0)
    for one in itertools.islice(read_jsonl(real_speech / "dev" / "manifest.jsonl"), 1, 6):
        wave = decode(one)
        speech, level = Subject(wave).voice
        power = np.mean(10 ** (level[speech] / 10))
        clean = value("snr", wave)
        for wanted in (20, 5):
            noisy = wave + rng.normal(size=len(wave)) * np.sqrt(power / 10 ** (wanted / 10))
            assert value("snr", noisy) == pytest.approx(min(wanted, clean), abs=2)


def test_silence_halves_the_share_of_speech(voices):
    quiet = np.concatenate([voices[0], np.zeros_like(voices[0])])
    assert value("speech_share", quiet) == pytest.approx(value("speech_share", voices[0]) / 2, abs=0.05)


def test_loudness_is_that_of_the_recommendation():
    """The coefficients of ITU-R BS.1770-4, tables 1 and 2, and -3.01 LUFS of a full-scale sine of 997 Hz."""
    (shelf, poles), (high, high_poles) = k_filters(48_000)
    assert np.allclose(shelf, [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-9)
    assert np.allclose(poles, [1, -1.69065929318241, 0.73248077421585], atol=1e-9)
    assert high == [1, -2, 1]
    assert np.allclose(high_poles, [1, -1.99004745483398, 0.99007225036621], atol=1e-9)
    sine = np.sin(2 * np.pi * 997 * np.arange(48_000) / 16_000)
    assert value("loudness", sine) == pytest.approx(-3.01, abs=0.06)
    assert value("loudness", 0.1 * sine) == pytest.approx(-23.01, abs=0.06)
    # gated: a pause changes nothing, but for the blocks at its edge
    assert value("loudness", np.concatenate([0.1 * sine, 0 * sine])) == pytest.approx(-23.1, abs=0.2)
    assert loudness(Subject(np.zeros(16_000, np.float32))) is None
    assert value("loudness", sine[:4_000]) is None


def test_the_language_of_the_text_is_compared_with_the_declared_one():
    text = "Der Lappen liegt auf dem Eisschrank, und heute abend könnte ich es ihm sagen."
    assert value("language_score", np.zeros(1600), text, "de-DE") > 0.9
    assert value("language_score", np.zeros(1600), text, "en") < 0.1
    assert value("language_score", np.zeros(1600), text) is None
    assert value("language_score", np.zeros(1600), "...", "de") is None
    assert sum(language_probabilities(text).values()) == pytest.approx(1)


def test_text_is_counted_by_words_and_letters_of_any_script():
    assert value("words_per_second", np.zeros(32_000), "They went -- out!") == 1.5
    assert value("characters_per_second", np.zeros(32_000), "They went -- out!") == 5.5
    assert value("words_per_second", np.zeros(16_000), "你好") == 2
    assert value("words_per_second", np.zeros(16_000), "---") is None
    assert value("repetition", np.zeros(16_000), " ".join(["you know"] * 30)) > 0.9
    assert value("repetition", np.zeros(16_000), "好好好好好好好好") > 0.7


def test_no_measure_fails_on_an_extreme_recording():
    rng = np.random.default_rng(0)
    for wave in (
        np.zeros(1),
        np.zeros(100_000),
        np.ones(20_000),
        rng.normal(size=600),
        1e-30 * rng.normal(size=9_000),
    ):
        values = measure(
            Subject(wave.astype(np.float32)), [name for name, one in MEASURES.items() if one.of][:10]
        )
        assert all(one is None or np.isfinite(one) for one in values.values())


def test_dnsmos_prefers_clean_speech(real_speech):
    pytest.importorskip("onnxruntime", reason="the extra dnsmos")
    pytest.importorskip("speechmos", reason="the extra dnsmos")
    (one,) = itertools.islice(read_jsonl(real_speech / "dev" / "manifest.jsonl"), 1, 2)
    wave = decode(one)
    noisy = (wave + np.random.default_rng(0).normal(size=len(wave)) * 0.05).astype(np.float32)
    good, bad = Subject(wave).dnsmos, Subject(noisy).dnsmos
    assert all(1 < bad[name] < good[name] < 5 for name in ("speech", "background", "overall"))


def test_every_measure_has_its_reason_and_nothing_else_does():
    assert {f"quality.{name}" for name in MEASURES} == {one for one in REASONS if one.startswith("quality.")}


def test_filters_keep_their_bounds_and_what_has_no_value():
    (one,) = make_filters({"snr": 10}, {"snr": 20})
    assert [one.reject({"snr": number}) is None for number in (9.9, 10, 20, 20.1)] == [
        False,
        True,
        True,
        False,
    ]
    assert one.reject({"snr": None}) is None
    assert str(one.reject({"snr": 20.5})) == "quality.snr: snr 20.5 dB, need at most 20"
    assert make_filters({}, {"repetition": 1, "clipping": 1}) == (
        Filter("clipping", high=1), Filter("repetition", high=1),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"unknown measure 'snrr'; known: clipping, .*"):
        make_filters({"snrr": 1}, {})
