"""Resynthesis: bits, F0, labels and a vocoder's output; what was not run has no number."""

import sys

import numpy as np
import pytest
import soundfile

from lm.evaluation.resynthesis import Recording, TokenizedRecording, Tokenizers, bit_rates, f0_errors, measure
from units.prosody import pitch as pitches
from units.prosody import style as styles
from units.prosody.f0 import F0

RATE = 16_000


def hum(path, hertz: float, seconds: float = 1.2):
    """A voiced sound: harmonics of a gliding pitch."""
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.1 * np.sin(4 * time))) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 9)) * 0.1
    soundfile.write(path, wave.astype(np.float32), RATE, subtype="FLOAT")
    return path


def frames_of(wave: np.ndarray) -> np.ndarray:
    """Units for a test: the loudness of 40 ms in 16 steps."""
    blocks = wave[: len(wave) // 640 * 640].reshape(-1, 640)
    return np.minimum((np.abs(blocks).mean(1) * 100).astype(int), 15)


@pytest.fixture
def recordings(tmp_path):
    return [Recording(f"r{i}", hum(tmp_path / f"r{i}.wav", 110 + 30 * i), f"hum {i}") for i in range(3)]


@pytest.fixture(scope="module")
def expressive():
    return Tokenizers(frames_of, 640, 16, pitches.load(), styles.load())


PLAIN = Tokenizers(frames_of, 640, 16)


def row(result, name):
    return next(one for one in result["rows"] if one["measure"] == name)


def test_bits_are_counted_as_the_paper_counts_them():
    class Codes:
        def __init__(self, codes, rate):
            self.codes, self.rate = codes, rate

    assert bit_rates([tokenized([1, 1, 2])], Tokenizers(frames_of, 640, 501))["nominal"] == 225
    one = tokenized([1, 2], pitch=[3], style=[4])
    assert (
        bit_rates([one], Tokenizers(frames_of, 640, 501, Codes(64, 12.5), Codes(100, 1.0)))["nominal"] == 307
    )


def tokenized(units, pitch=None, style=None, seconds=1.0):
    f0 = F0(np.full(201, 120.0, np.float32), np.ones(201, bool))
    arrays = [None if x is None else np.array(x) for x in (units, pitch, style)]
    return TokenizedRecording(Recording("x", None), seconds, f0, *arrays)


def test_measured_bits_are_the_entropy_of_the_tokens_after_deduplication():
    result = bit_rates([tokenized([1, 1, 2, 2, 2, 1, 2]), tokenized([1, 2])], PLAIN)
    assert result["tokens_per_second"] == {"units": 3.0}  # 1 2 1 2, 1 2: six in two seconds, half of them 1
    assert result["measured"] == pytest.approx(3.0)


def test_frame_errors_are_wrong_voicing_and_pitch_more_than_a_fifth_off():
    true = F0(np.full(10, 100.0, np.float32), np.array([True] * 8 + [False] * 2))
    hertz = np.array([100, 119, 121, 79, 81, 200, 100, 100, 100, 100], np.float32)
    made = F0(hertz, np.array([True] * 7 + [False, True, False]))
    result = f0_errors([(true, made)])
    assert (result["voicing_error"], result["gross_error"]) == (20.0, 30.0)
    assert result["frame_error"]["value"] == 50.0
    assert result["frames"] == 10


def test_pitch_tokens_preserve_the_pitch_of_a_voiced_sound(recordings, expressive):
    result = measure(recordings, expressive, name="hums")
    error = row(result, "F0 frame error")
    assert error["low"] <= error["value"] <= error["high"] < 20
    assert result["f0"]["cents"] < 100
    assert row(result, "bits per second")["value"] == 25 * 4 + 12.5 * 6 + 7
    assert row(result, "WER")["items"] == 3
    assert row(result, "WER")["not_run"] == "needs a vocoder"
    assert all(("value" in one) != ("not_run" in one) for one in result["rows"])


def test_a_build_without_pitch_has_a_reason_and_no_number(recordings):
    result = measure(recordings, PLAIN, name="hums")
    assert row(result, "F0 frame error")["not_run"].startswith("this build has no pitch tokens")


def test_labels_are_predicted_from_units_and_from_all_tokens(tmp_path, expressive):
    some = []
    for i in range(8):
        label = ("low", "high")[i % 2]
        path = hum(tmp_path / f"{i}.wav", 100 if label == "low" else 240)
        some.append(Recording(str(i), path, None, label, "train" if i < 4 else "test"))
    result = measure(some, expressive, name="hums")
    assert row(result, "label predicted from tokens: all tokens")["value"] == 100.0
    assert row(result, "label predicted from tokens: units")["chance"] == 50.0
    untold = measure(some[4:], expressive, name="hums")
    assert "labels" in row(untold, "label predicted from tokens")["not_run"]


def test_a_vocoder_that_returns_the_recording_preserves_everything_and_the_words_are_compared(
    recordings, expressive, tmp_path
):
    vocoder = tmp_path / "vocoder.py"
    vocoder.write_text(
        "import json, shutil, sys\nrequest = json.load(sys.stdin)\n"
        "assert len(request['frames']) == len(request['units']) == len(request['pitch']) and request['hop'] == 640\n"
        f"shutil.copyfile({str(recordings[0].path)!r}, sys.argv[1])\n"
    )
    writer = tmp_path / "writer.py"
    writer.write_text("import sys; print('hum 0' if 'vocoded' in sys.argv[1] else 'hum hum 0')")
    programs = {"vocoder": f"{sys.executable} {vocoder}", "recogniser": f"{sys.executable} {writer}"}
    result = measure(recordings[:1], expressive, name="hums", **programs)
    assert row(result, "F0 frame error after a vocoder")["value"] == 0.0
    assert row(result, "style agreement after a vocoder")["value"] == 100.0
    assert row(result, "WER")["value"] == 0.0
    assert row(result, "WER of the recordings")["value"] == 50.0
    other = measure(recordings[:2], expressive, name="hums", **programs)
    assert row(other, "WER")["value"] == 25.0
    assert row(other, "F0 frame error after a vocoder")["value"] > 20


def test_no_recording_and_a_broken_one_are_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="hums: need at least one recording of split test, got none"):
        measure([], PLAIN, name="hums")
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"a\.wav: audio\.unreadable") as caught:
        measure([Recording("a", tmp_path / "a.wav")], PLAIN, name="hums")
    assert "\n" not in str(caught.value)
