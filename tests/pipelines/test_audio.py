"""Decoding the rows of a manifest: in order, and each recording once."""

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from corpus import audio as recordings
from corpus.audio import decode
from corpus.manifest import SCHEMA
from corpus.records import Utterance
from pipelines.steps.audio import iterate_rows

FIRST = [(0, 0), (0, 20_000), (0, 40_000), (1, 0), (1, 8_000), (0, 60_000)]  # recording, first frame


@pytest.fixture
def batch(tmp_path) -> pa.RecordBatch:
    """Stretches of half a second from two recordings, and one of a recording that is not there."""
    rng = np.random.default_rng(0)
    for number in (0, 1):
        soundfile.write(tmp_path / f"{number}.mp3", rng.standard_normal(80_000) / 10, 16000)
    rows = [
        {
            "id": f"u{number}", "key": f"u{number}", "audio": str(tmp_path / f"{recording}.mp3"), "first_frame": first,
            "frames": 8000, "sample_rate": 16000, "samples": 8000, "audio_stamp": "", "alignment_stamp": "",
        }
        for number, (recording, first) in enumerate([*FIRST, (2, 0)])
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


@pytest.mark.parametrize("threads", [1, 3])
def test_neighbouring_rows_of_a_recording_are_decoded_in_one_pass(batch, threads, monkeypatch):
    opened: list[str] = []
    open_recording = recordings._open
    monkeypatch.setattr(
        recordings, "_open", lambda path, whole: opened.append(path) or open_recording(path, whole=whole)
    )
    rows = list(iterate_rows(batch, threads))
    assert len(opened) == 4  # 0, 1, 0 again, and the one that is not there
    monkeypatch.undo()
    assert [utterance.id for utterance, _, _ in rows] == [f"u{number}" for number in range(7)]
    assert rows[-1][2].reason == "audio.missing"
    for utterance, waveform, _ in rows[:-1]:
        assert isinstance(utterance, Utterance)
        assert np.array_equal(waveform, decode(utterance))
