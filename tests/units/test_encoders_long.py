"""Long recordings: windows of them, and the chunks of the released tokenizer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.hubert import speech_like
from units.encoders import load_encoder
from units.hubert import encoder as hubert


def test_windows_of_a_long_recording_keep_every_frame_in_its_place(huberts):
    waveform = speech_like(np.random.default_rng(0), 16_000 * 12 + 77)
    whole = load_encoder(huberts["base"][1], 2, chunking="none").encode([waveform])[0]
    windowed = load_encoder(huberts["base"][1], 2, window_seconds=4, context_seconds=1).encode([waveform])[0]
    assert windowed.shape == whole.shape
    scale = np.abs(whole).max()
    assert np.abs(windowed - whole).max() < 0.5 * scale  # attention spans less: near, not equal
    before_attention = load_encoder(huberts["base"][1], 0, window_seconds=4, context_seconds=1).encode(
        [waveform]
    )[0]
    expected = load_encoder(huberts["base"][1], 0, chunking="none").encode([waveform])[0]
    assert np.allclose(before_attention, expected, rtol=0, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 3_000_000), st.integers(3, 40), st.integers(0, 1))
def test_windows_are_bounded_in_order_and_keep_each_frame_once(huberts, samples, window, context):
    encoder = load_encoder(huberts["25 Hz"][1], 0, window_seconds=window, context_seconds=context)
    pieces = encoder._pieces(0, samples)
    kept = [k for p in pieces for k in range(p.start // 640 + p.first, p.start // 640 + p.first + p.kept)]
    assert kept == list(range(encoder.settings.frames(samples)))
    assert kept == [k for p in pieces for k in range(p.frame, p.frame + p.kept)]
    assert all(encoder.settings.frames(p.stop - p.start) <= window * 25 for p in pieces)
    for piece in pieces[1:]:
        assert piece.first == context * 25


def test_up_to_the_window_chunking_changes_nothing(huberts):
    waveform = speech_like(np.random.default_rng(0), 30_000)
    results = [load_encoder(huberts["25 Hz"][1], chunking=c).encode([waveform])[0] for c in hubert.CHUNKINGS]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_reference_chunks_are_those_of_the_released_tokenizer(huberts, monkeypatch):
    encoder = load_encoder(huberts["25 Hz"][1], chunking="reference")
    counts = [
        sum(p.kept for p in encoder._pieces(0, n)) for n in (1_600_000, 1_601_279, 1_601_280, 1279, 1280)
    ]
    assert counts == [2499, 2499, 2500, 0, 1]
    monkeypatch.setattr(hubert, "REFERENCE_CHUNK", 20_000)
    waveform = speech_like(np.random.default_rng(0), 41_279)
    expected = [encoder.encode([waveform[start : start + 20_000]])[0] for start in (0, 20_000)]
    assert np.array_equal(encoder.encode([waveform])[0], np.concatenate(expected))


def test_windows_that_leave_no_middle_are_refused(huberts):
    with pytest.raises(
        ValueError, match="window_seconds: need more than twice context_seconds, got 10 and 5"
    ):
        load_encoder(huberts["base"][1], window_seconds=10, context_seconds=5)
