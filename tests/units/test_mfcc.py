"""MFCC as an encoder."""

import numpy as np
import pytest
import torch

from tests.helpers.hubert import speech_like
from units.encoders import load_encoder


@pytest.mark.parametrize(
    ("name", "rate", "hop", "minimum"), [("mfcc", 25, 640, 720), ("mfcc-50hz", 50, 320, 400)]
)
def test_mfcc_frames_are_where_a_hubert_of_that_rate_has_them(huberts, name, rate, hop, minimum):
    encoder = load_encoder(name)
    assert (encoder.frame_rate, encoder.hop, encoder.minimum, encoder.centre) == (
        rate,
        hop,
        minimum,
        minimum // 2,
    )
    theirs = load_encoder(huberts["25 Hz" if rate == 25 else "base"][1], 0)
    for samples in (0, minimum - 1, minimum, minimum + hop - 1, minimum + hop, 16_000):
        waveform = np.random.default_rng(0).normal(size=samples).astype(np.float32)
        assert len(encoder.encode([waveform])[0]) == len(theirs.encode([waveform])[0])


def test_a_click_shows_in_the_mfcc_frame_whose_centre_it_is():
    for name in ("mfcc", "mfcc-50hz", "mfcc-100hz"):
        encoder = load_encoder(name)
        waveform = np.random.default_rng(0).normal(size=32_000).astype(np.float32) * 1e-3
        waveform[encoder.centre + 10 * encoder.hop] = 1.0
        loudness = encoder.encode([waveform])[0][:, 0]
        assert loudness.argmax() == 10
        assert loudness[9] == pytest.approx(loudness[11], abs=0.1 * float(np.ptp(loudness)))


def test_mfcc_is_normalised_per_utterance_and_does_not_hear_loudness():
    waveform = speech_like(np.random.default_rng(0), 50_000)
    features = load_encoder("mfcc-100hz").encode([waveform])[0]
    assert np.allclose(features.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(features.std(axis=0), 1, atol=1e-5)
    assert np.allclose(load_encoder("mfcc-100hz").encode([waveform * 2])[0], features, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_mfcc_of_a_constant_is_zero(value):
    assert not load_encoder("mfcc").encode([np.full(16_000, value, np.float32)])[0].any()


def test_mfcc_agrees_with_kaldi_and_deltas_of_the_whole_waveform(monkeypatch):
    import torchaudio

    monkeypatch.setattr("units.mfcc.BLOCK", 50)
    waveform = speech_like(np.random.default_rng(0), 40_000)
    cepstra = torchaudio.compliance.kaldi.mfcc(torch.from_numpy(waveform)[None].double(), use_energy=False)
    deltas = torchaudio.functional.compute_deltas(cepstra.T).T
    both = torch.cat([cepstra, deltas], dim=1).numpy()
    expected = (both - both.mean(axis=0)) / both.std(axis=0)
    assert np.allclose(load_encoder("mfcc-100hz").encode([waveform])[0][:, :26], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "first", "step", "width"), [("mfcc", 1, 4, 5), ("mfcc-50hz", 0, 2, 3)])
def test_slower_mfcc_are_means_of_those_at_100_hz_around_the_same_centre(name, first, step, width):
    waveform = speech_like(np.random.default_rng(0), 20_000)
    slow, fast = (load_encoder(rate).encode([waveform])[0] for rate in (name, "mfcc-100hz"))
    for k in (3, len(slow) - 2):
        middle = first + step * k
        expected = fast[middle - width // 2 : middle + width // 2 + 1].mean(axis=0)
        assert np.allclose(slow[k], expected, rtol=0, atol=1e-5)


def test_mfcc_takes_no_settings_of_other_encoders():
    with pytest.raises(ValueError, match="encoder mfcc: has no layer"):
        load_encoder("mfcc", 6)


def test_mfcc_has_the_same_bytes_on_any_number_of_threads(threads):
    waveform = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    results = set()
    for number in (1, 2, 3):
        threads(number)
        results.add(load_encoder("mfcc").encode([waveform])[0].tobytes())
    assert len(results) == 1
