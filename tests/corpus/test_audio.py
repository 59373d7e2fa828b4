"""Audio: headers, decoding, and files that are not what they say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.adapters import ADAPTERS
from corpus.audio import decode, probe, read_header
from corpus.records import SAMPLE_RATE, Reject, Utterance

SEED = np.random.default_rng(0)


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def written(path: Path, waveform: np.ndarray, rate: int = SAMPLE_RATE, **options: str) -> Path:
    soundfile.write(path, waveform, rate, **options)
    return path


def whole(path: Path) -> Utterance:
    header = read_header(path)
    return Utterance("u", str(path), header.frames, header.sample_rate)


def reason(function, argument) -> str | None:
    """Reason code with which a call is refused; None where it succeeds. Anything else it raises fails the test."""
    try:
        function(argument)
    except Reject as reject:
        return reject.reason
    return None


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff"])
def test_probe_tells_what_the_header_says(tmp_path, suffix):
    path = written(tmp_path / f"a.{suffix}", np.zeros((22050, 2)), 22050)
    header = probe(path)
    assert header[:4] == (22050, 22050, 2, path.stat().st_size)
    assert header.problem is None


def test_samples_at_16_khz_come_back_unchanged(tmp_path):
    waveform = SEED.integers(-(2**15), 2**15, 4000).astype(np.int16)
    path = written(tmp_path / "a.flac", waveform)
    decoded = decode(whole(path))
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, waveform / np.float32(2**15))


def test_channels_are_averaged(tmp_path):
    left, right = tone(0.1, SAMPLE_RATE), tone(0.1, SAMPLE_RATE, 990)
    path = written(tmp_path / "a.wav", np.stack([left, right], 1), subtype="FLOAT")
    assert np.allclose(decode(whole(path)), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 11127, 22050, 22051, 22255, 24000, 44100, 44101, 48000, 96000])
def test_resampling_keeps_a_tone_and_gives_the_length_of_the_record(tmp_path, rate):
    utterance = whole(written(tmp_path / "a.wav", tone(0.5 + 1 / rate, rate), rate, subtype="FLOAT"))
    decoded = decode(utterance)
    assert len(decoded) == utterance.samples == -(-utterance.frames * 16000 // rate)
    middle = slice(800, -800)  # the ends ring: outside is silence
    assert np.allclose(decoded[middle], tone(len(decoded) / 16000, 16000)[middle], atol=2e-3)


@given(rate=st.sampled_from([8000, 11025, 22050, 44100, 48000]), frames=st.integers(1, 3000))
@settings(deadline=None, max_examples=50)
def test_every_length_comes_out_exact(tmp_path_factory, rate, frames):
    utterance = whole(written(tmp_path_factory.getbasetemp() / "exact.wav", np.ones(frames) / 2, rate))
    assert len(decode(utterance)) == utterance.samples


def test_a_length_that_float32_cannot_hold_comes_out_exact(tmp_path):
    frames = 1_323_102
    assert np.ceil(np.float32(frames * 160 / 441)) < -(-frames * 160 // 441)  # what torchaudio computes
    utterance = whole(written(tmp_path / "a.wav", np.zeros(frames), 44100))
    assert len(decode(utterance)) == utterance.samples


def test_a_stretch_sounds_like_a_file_of_its_own(tmp_path):
    waveform = (0.1 * SEED.standard_normal(44100)).astype(np.float32)
    long = written(tmp_path / "long.flac", waveform, 44100)
    short = written(tmp_path / "short.flac", waveform[10_000:30_000], 44100)
    stretch = Utterance("u", str(long), frames=20_000, sample_rate=44100, first_frame=10_000)
    assert np.array_equal(decode(stretch), decode(whole(short)))


def test_the_number_of_threads_changes_no_bit(tmp_path):
    import torch

    utterance = whole(written(tmp_path / "a.wav", SEED.standard_normal(44100 * 5) / 10, 44100))
    before, results = torch.get_num_threads(), set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.add(decode(utterance).tobytes())
    torch.set_num_threads(before)
    assert len(results) == 1


def test_what_is_not_there_is_missing(tmp_path):
    assert reason(probe, tmp_path / "none.wav") == "audio.missing"
    assert reason(probe, tmp_path) == "audio.missing"
    assert reason(probe, "a\0b") == "audio.missing"
    assert reason(probe, tmp_path / ("x" * 5000)) == "audio.missing"


def test_what_holds_nothing_is_empty(tmp_path):
    (tmp_path / "zero.wav").touch()
    assert reason(probe, tmp_path / "zero.wav") == "audio.empty"
    for suffix in ("wav", "flac"):
        assert reason(probe, written(tmp_path / f"a.{suffix}", np.zeros(0))) == "audio.empty"


@pytest.mark.parametrize("name", ["text.wav", "text.mp3", "text.raw", "text.flac"])
def test_what_is_no_audio_is_unreadable_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_text("These are not samples.\n" * 50)
    assert reason(probe, tmp_path / name) == "audio.unreadable"


@pytest.mark.parametrize("rate", [999, 2_000_000])
def test_a_rate_that_no_speech_has_is_unreadable(tmp_path, rate):
    assert reason(probe, written(tmp_path / "a.wav", np.zeros(100), rate)) == "audio.unreadable"


def test_a_wav_that_lacks_more_than_60_ms_is_truncated_wherever_it_breaks(tmp_path):
    content = written(tmp_path / "a.wav", SEED.standard_normal(8000) / 10).read_bytes()
    for cut in range(44, len(content) - 1920, 997):
        (tmp_path / "cut.wav").write_bytes(content[:cut])
        assert reason(probe, tmp_path / "cut.wav") == "audio.truncated"
        assert read_header(tmp_path / "cut.wav").frames == (cut - 44) // 2


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_that_was_streamed_is_read_to_its_end(tmp_path, length):
    content = bytearray(written(tmp_path / "a.wav", np.ones(1000) / 2).read_bytes())
    content[40:44] = length.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert probe(tmp_path / "a.wav").frames == 1000
    assert len(decode(whole(tmp_path / "a.wav"))) == 1000


def test_a_flac_that_breaks_off_is_truncated_wherever_it_breaks(tmp_path):
    path = written(tmp_path / "a.flac", SEED.standard_normal(40_000) / 10)
    utterance, content = whole(path), path.read_bytes()
    for cut in range(200, len(content), 3001):
        path.write_bytes(content[:cut])
        assert reason(decode, utterance) == "audio.truncated"


def test_an_mp3_that_breaks_off_is_truncated(tmp_path):
    path = written(tmp_path / "a.mp3", tone(2, 16000))
    utterance, content = whole(path), path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert reason(decode, utterance) == "audio.truncated"


def test_a_stretch_beyond_the_end_is_truncated(tmp_path):
    path = written(tmp_path / "a.flac", tone(1, 16000))
    assert reason(decode, Utterance("u", str(path), frames=9000, first_frame=8000)) == "audio.truncated"


def test_a_header_that_claims_a_century_costs_no_memory(tmp_path):
    path = written(tmp_path / "a.flac", tone(1, 16000))
    content = bytearray(path.read_bytes())
    content[22:26] = b"\xff\xff\xff\xf0"  # the lower 32 bits of the number of frames
    path.write_bytes(content)
    assert reason(decode, whole(path)) == "audio.truncated"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_nan_and_infinity_are_not_finite(tmp_path, bad, channels, rate):
    waveform = np.zeros((1000, channels), np.float32)
    waveform[500] = bad
    path = written(tmp_path / "a.wav", waveform, rate, subtype="FLOAT")
    assert reason(decode, whole(path)) == "audio.not_finite"


def test_a_recording_that_was_replaced_is_noticed(tmp_path):
    path = written(tmp_path / "a.wav", tone(1, 16000))
    utterance = whole(path)
    written(path, tone(1, 8000), 8000)
    assert reason(decode, utterance) == "audio.unreadable"


def decode_whole(path: Path) -> None:
    utterance = whole(path)
    assert len(decode(utterance)) == utterance.samples


@given(
    head=st.sampled_from([b"", b"RIFF\x24\x10\0\0WAVE", b"fLaC\0\0\0\x22", b"OggS", b"FORM", b"\xff\xfb"]),
    tail=st.binary(),
)
@settings(deadline=None, max_examples=100)
def test_no_bytes_raise_anything_but_a_reject(tmp_path_factory, head, tail):
    path = tmp_path_factory.getbasetemp() / "random.bin"
    path.write_bytes(head + tail)
    reason(decode_whole, path)


@given(
    suffix=st.sampled_from(["wav", "flac", "ogg", "aiff"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    kept=st.floats(0, 1),
)
@settings(deadline=None, max_examples=100)
def test_no_damage_raises_anything_but_a_reject(tmp_path_factory, suffix, changes, kept):
    path = written(tmp_path_factory.getbasetemp() / f"damaged.{suffix}", tone(0.2, 22050), 22050)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[int(place**3 * (len(content) - 1))] = value  # mostly in the header
    path.write_bytes(content[: int(kept * len(content)) + 1])
    reason(decode_whole, path)


def test_reading_headers_does_not_import_torch():
    program = "import sys, corpus.adapters, corpus.manifest; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root).returncode == 0


@pytest.mark.parametrize(
    ("frames", "rate", "reason"),
    [
        (8000, 16_000, "audio.truncated"),
        (32_000, 16_000, "audio.length_mismatch"),
        (16_000, 8000, "audio.unreadable"),
    ],
)
def test_a_file_that_changed_since_it_was_listed_is_rejected(tmp_path, frames, rate, reason):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.ones(16_000) / 4, 16_000)
    (tmp_path / "m.jsonl").write_text('{"id": "a", "audio": "a.wav"}')
    (listed,) = ADAPTERS["jsonl"](tmp_path / "m.jsonl")
    assert len(decode(listed)) == 16_000
    soundfile.write(path, np.ones(frames) / 4, rate)
    with pytest.raises(Reject, match=reason.replace(".", r"\.")):
        decode(listed)
