"""No sample is lost on the way in: what recordings hold is kept, cut away or rejected, whatever adapter and cutter."""

import gzip
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.adapters import ADAPTERS
from corpus.cutting import CutRules, Spoken, cut_at_pauses, cut_at_words
from corpus.manifest import write_manifest
from corpus.records import SAMPLE_RATE, Utterance
from corpus.voice_activity import HOP
from pipelines.steps.cut import stretch_dict, utterances_of

RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
Recordings = dict[str, tuple[int, int]]
"""Name -> frames and sample rate."""


def wav(frames: int, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(frames, np.int16), rate, format="WAV")
    return file.getvalue()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def put_all(recordings: Recordings, path_of: Callable[[str], Path]) -> None:
    for name, made in recordings.items():
        put(path_of(name), wav(*made))


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def jsonl(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / f"{name}.wav")
    put(folder / "m.jsonl", lines([{"id": name, "audio": f"{name}.wav", "text": "x"} for name in recordings]))
    return folder / "m.jsonl"


def table(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / f"{name}.wav")
    put(folder / "m.csv", "id,audio,text\n" + "".join(f"{name},{name}.wav,x\n" for name in recordings))
    return folder / "m.csv"


def folder(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / "s" / f"{name}.wav")
    return folder


def librispeech(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / "1" / "2" / f"{name}.wav")
    put(folder / "1" / "2" / "1-2.trans.txt", "".join(f"{name} X\n" for name in recordings))
    return folder


def mls(folder: Path, recordings: Recordings) -> Path:
    names = {f"1_2_{name}": made for name, made in recordings.items()}
    put_all(names, lambda name: folder / "audio" / "1" / "2" / f"{name}.flac")
    put(folder / "transcripts.txt", "".join(f"{name}\tx\n" for name in names))
    return folder


def ljspeech(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / "wavs" / f"{name}.wav")
    put(folder / "metadata.csv", "".join(f"{name}|X|x\n" for name in recordings))
    return folder


def vctk(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / "wav48" / "p1" / f"{name}.wav")
    return folder


def common_voice(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / "clips" / f"{name}.mp3")
    header = "client_id\tpath\tsentence\tlocale\n"
    put(folder / "validated.tsv", header + "".join(f"a\t{name}.mp3\tx\ten\n" for name in recordings))
    return folder


def kaldi(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / f"{name}.wav")
    put(folder / "wav.scp", "".join(f"{name} {folder}/{name}.wav\n" for name in recordings))
    return folder


def nemo(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / f"{name}.wav")
    rows = [
        {"audio_filepath": f"{name}.wav", "duration": frames / rate, "text": "x"}
        for name, (frames, rate) in recordings.items()
    ]
    put(folder / "m.json", lines(rows))
    return folder / "m.json"


def recording_of(name: str, source: str, frames: int, rate: int) -> dict:
    facts = {
        "id": name,
        "sampling_rate": rate,
        "num_samples": frames,
        "duration": frames / rate,
        "channel_ids": [0],
    }
    return facts | {"sources": [{"type": "file", "channels": [0], "source": source}]}


def cut_of(name: str, source: str, frames: int, rate: int) -> dict:
    recording = recording_of(name, source, frames, rate)
    return {
        "id": name,
        "start": 0,
        "duration": frames / rate,
        "channel": 0,
        "type": "MonoCut",
        "recording": recording,
    }


def lhotse(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / f"{name}.wav")
    rows = [recording_of(name, f"{name}.wav", *made) for name, made in recordings.items()]
    put(folder / "recordings.jsonl.gz", gzip.compress(lines(rows).encode()))
    return folder


def put_tar(path: Path, contents: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def shar(folder: Path, recordings: Recordings) -> Path:
    rows = [cut_of(name, "", *made) for name, made in recordings.items()]
    put(folder / "cuts.000000.jsonl.gz", gzip.compress(lines(rows).encode()))
    members = {f"{name}.wav": wav(*made) for name, made in recordings.items()}
    put_tar(folder / "recording.000000.tar", members)
    return folder


def webdataset(folder: Path, recordings: Recordings) -> Path:
    put_tar(folder / "a.tar", {f"{name}.wav": wav(*made) for name, made in recordings.items()})
    return folder


def parquet(folder: Path, recordings: Recordings) -> Path:
    audio = [{"bytes": wav(*made), "path": f"{name}.wav"} for name, made in recordings.items()]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": list(recordings), "audio": audio}), folder / "a.parquet")
    return folder


def gigaspeech(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / "audio" / f"{name}.wav")
    audios = [
        {
            "path": f"audio/{name}.wav",
            "segments": [{"sid": name, "text_tn": "X", "begin_time": 0, "end_time": frames / rate}],
        }
        for name, (frames, rate) in recordings.items()
    ]
    put(folder / "GigaSpeech.json", json.dumps({"audios": audios}))
    return folder


def peoples_speech(folder: Path, recordings: Recordings) -> Path:
    put_all(recordings, lambda name: folder / f"{name}.wav")
    clips = {
        "name": [f"{name}.wav" for name in recordings],
        "label": ["x" for _ in recordings],
        "duration_ms": [1000 * frames / rate for frames, rate in recordings.values()],
    }
    put(folder / "m.jsonl", lines([{"training_data": clips}]))
    return folder / "m.jsonl"


def libritts(path: Path, recordings: Recordings) -> Path:
    return folder(path, recordings)


LAYOUTS = {
    name: globals()[name.replace("-", "_")] for name in ADAPTERS
}  # each adapter has one; a new one fails here


@pytest.mark.parametrize("adapter", ADAPTERS)
@given(made=st.lists(st.tuples(st.integers(1, 9_000), st.sampled_from(RATES)), min_size=1, max_size=5))
@settings(max_examples=4, deadline=None)
def test_a_manifest_holds_every_sample_of_every_recording(adapter, made):
    recordings = {f"r{number}": one for number, one in enumerate(made)}
    base = Path(tempfile.mkdtemp())
    try:
        source = LAYOUTS[adapter](base / "source", recordings)
        summary = write_manifest(
            ADAPTERS[adapter](source), base / "manifest", max_seconds=0.4, transcripts="optional"
        )
    finally:
        shutil.rmtree(base)
    assert summary.samples_in == sum(-(-frames * SAMPLE_RATE // rate) for frames, rate in recordings.values())


@given(
    lengths=st.lists(st.tuples(st.sampled_from([0.05, 0.95]), st.integers(1, 400)), min_size=1, max_size=12),
    rate=st.sampled_from(RATES),
    words=st.booleans(),
    more=st.integers(0, HOP - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_recording_that_is_cut_becomes_rows_of_all_its_samples(lengths, rate, words, more):
    probability = np.concatenate([np.full(length, value) for value, length in lengths])
    level = 60 * probability - 80
    count, rules = len(probability), CutRules()
    recording = Utterance(
        "r", "r.wav", (count - 1) * HOP * rate // SAMPLE_RATE + 1 + more * rate // SAMPLE_RATE, rate
    )
    if words:
        places = range(0, count - 1, 9)
        stretches = cut_at_words([Spoken(one, one + 3) for one in places], probability, level, rules)
    else:
        stretches = cut_at_pauses(probability, level, rules)
    cut = {"stretches": [stretch_dict(recording, one, count) for one in stretches], "reject": None}
    rows = [row if isinstance(row, Utterance) else row.utterance for row in utterances_of(recording, cut)]
    assert [row.first_frame for row in rows] == [0, *np.cumsum([row.frames for row in rows])[:-1]]
    assert sum(row.frames for row in rows) == recording.frames
    assert sum(row.samples for row in rows) == recording.samples
