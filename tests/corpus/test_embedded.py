"""Audio inside tars and Parquet files is read in place, with the samples that a file of its own gives."""

import gzip
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from corpus.adapters import ADAPTERS
from corpus.adapters.gigaspeech import entries
from corpus.audio import decode
from corpus.embedded import members
from corpus.manifest import RejectedRow
from corpus.records import Utterance


def audio(seconds, seed, ending="flac"):
    file = io.BytesIO()
    noise = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16_000))
    soundfile.write(file, noise, 16_000, format=ending.upper())
    return file.getvalue()


def add(tar, name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def read(adapter, source):
    return list(ADAPTERS[adapter](source))


def alone(tmp_path, content):
    path = tmp_path / "alone.audio"
    path.write_bytes(content)
    return decode(Utterance("a", str(path), frames=soundfile.info(str(path)).frames))


@pytest.mark.parametrize("ending", ["flac", "wav", "ogg", "mp3"])
def test_a_member_of_a_tar_has_the_samples_of_a_file(tmp_path, ending):
    content = [audio(1.0 + seed, seed, ending) for seed in range(2)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for seed in range(2):
            add(tar, f"x/{seed}.{ending}", content[seed])
            add(tar, f"x/{seed}.txt", f"hello {seed}\n".encode())
    rows = read("webdataset", tmp_path / "a.tar")
    assert [(row.id, row.text) for row in rows] == [("x-0", "hello 0"), ("x-1", "hello 1")]
    for row, one in zip(rows, content):
        assert np.array_equal(decode(row), alone(tmp_path, one))


def test_a_sample_with_json_and_a_folder_of_tars(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            fields = {"text": "hi there", "speaker_id": 7, "lang": "en", "license": "CC0-1.0", "other": [1]}
            add(tar, f"s{shard}.json", json.dumps(fields).encode())
            add(tar, f"s{shard}.seg.wav", audio(1, shard, "wav"))
            add(tar, f"s{shard}.units.npy", b"x")
    rows = read("webdataset", tmp_path)
    assert [row.id for row in rows] == ["s0", "s1"]
    assert (rows[0].text, rows[0].speaker, rows[0].language, rows[0].licence) == (
        "hi there",
        "7",
        "en",
        "CC0-1.0",
    )
    assert "#bytes=" in rows[0].audio


def test_links_and_names_that_leave_an_archive_are_rejected_by_name(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "../out.flac", audio(1, 0))
        add(tar, "/etc/absolute.flac", audio(1, 0))
        add(tar, "link.flac", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.flac", type=tarfile.LNKTYPE, linkname="../out.flac")
        add(tar, "good.flac", audio(1, 0))
        add(tar, "pipe.flac", type=tarfile.FIFOTYPE)
        add(tar, "none.flac")
    *rows, pipe, none = read("webdataset", tmp_path / "a.tar")
    assert (pipe.reject.reason, none.reject.reason) == ("audio.unreadable", "audio.empty")
    assert "no ordinary file" in pipe.reject.detail
    reasons = [row.reject.detail for row in rows if isinstance(row, RejectedRow)]
    assert [row.id for row in rows if isinstance(row, Utterance)] == ["good"]
    assert [("leaves the archive" in one, "is followed" in one) for one in reasons] == [
        (True, False), (True, False), (False, True), (False, True),
    ]  # fmt: skip


def test_compressed_and_broken_tars_are_refused_in_one_line(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.flac", audio(2, 0))
        add(tar, "b.flac", audio(2, 1))
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "z.tar").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="need a tar that is not compressed"):
        read("webdataset", tmp_path / "z.tar")
    (tmp_path / "n.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match="cannot be read as a tar"):
        read("webdataset", tmp_path / "n.tar")
    (tmp_path / "t.tar").write_bytes(content[: len(content) // 2])
    rows = read("webdataset", tmp_path / "t.tar")
    assert [row.reject.reason for row in rows if isinstance(row, RejectedRow)] == ["audio.truncated"] * 2
    assert "breaks off after" in rows[-1].reject.detail


def test_a_member_that_is_gone_when_it_is_decoded_is_a_reject(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.flac", audio(1, 0))
    (row,) = read("webdataset", tmp_path / "a.tar")
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ValueError, match=r"audio\.missing"):
        decode(row)


@pytest.fixture
def table(tmp_path):
    content = [audio(1 + number / 2, number) for number in range(5)]
    columns = {
        "segment_id": [f"s{number}.flac" for number in range(5)],
        "audio": [{"bytes": one, "path": "x.flac"} for one in content],
        "sentence": ["a", "b", None, "d", "e"],
        "speaker_id": [1, 2, 3, 4, 5],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=2)
    return tmp_path / "t.parquet", content


def test_a_cell_of_a_parquet_file_has_the_samples_of_a_file(table, tmp_path):
    path, content = table
    rows = read("parquet", path)
    assert [(row.id, row.text, row.speaker) for row in rows] == [
        ("s0", "a", "1"), ("s1", "b", "2"), ("s2", None, "3"), ("s3", "d", "4"), ("s4", "e", "5"),
    ]  # fmt: skip
    for row, one in zip(reversed(rows), reversed(content)):
        assert np.array_equal(decode(row), alone(tmp_path, one))


def test_parquet_without_audio_or_with_paths_only(tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="need a column of audio"):
        read("parquet", tmp_path)
    (tmp_path / "a.flac").write_bytes(audio(1, 0))
    cells = [{"bytes": None, "path": "a.flac"}, {"bytes": None, "path": "gone.flac"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"audio": pa.array(cells, kind)}), tmp_path / "t.parquet")
    good, bad = read("parquet", tmp_path / "t.parquet")
    assert (good.id, good.audio) == ("t-000000", str(tmp_path / "a.flac"))
    assert bad.reject.reason == "audio.missing"


def test_tarred_nemo_is_read_in_place(tmp_path):
    with tarfile.open(tmp_path / "audio_3.tar", "w") as tar:
        add(tar, "a.wav", audio(2, 0, "wav"))
    lines = [
        {"audio_filepath": "a.wav", "duration": 1.0, "offset": 0.5, "text": "hi", "shard_id": 3},
        {"audio_filepath": "b.wav", "duration": 1.0, "shard_id": 3},
        {"audio_filepath": "b.wav", "duration": 1.0, "shard_id": 4},
    ]
    (tmp_path / "m.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    good, *bad = read("nemo", tmp_path / "m.json")
    assert (good.id, good.first_frame, good.frames, good.text) == ("a-00000500", 8000, 16_000, "hi")
    assert decode(good).shape == (16_000,)
    assert [row.reject.reason for row in bad] == ["audio.missing", "audio.missing"]


def recording(name, seconds, **source):
    sources = [{"type": "file", "channels": [0], "source": f"{name}.wav", **source}]
    return {
        "id": name,
        "sources": sources,
        "sampling_rate": 16_000,
        "num_samples": 16_000 * seconds,
        "duration": seconds,
    }


def supervision(name, of, start, seconds):
    return {
        "id": name, "recording_id": of, "start": start, "duration": seconds, "channel": 0, "text": name.upper(),
        "speaker": "s", "language": "en",
    }  # fmt: skip


def write_lines(path, rows):
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def fields_of(rows):
    return [
        (row.id, row.text, row.first_frame, row.frames) if isinstance(row, Utterance) else row.reject.reason
        for row in rows
    ]


def test_lhotse_cuts_and_recordings_with_supervisions(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(audio(3, 0, "wav"))
    recordings = [recording("a", 3), recording("b", 3), recording("c", 3, type="command", source="cat x")]
    write_lines(tmp_path / "x_recordings.jsonl.gz", recordings)
    write_lines(
        tmp_path / "x_supervisions.jsonl.gz", [supervision("u", "a", 0.5, 1.0), supervision("v", "z", 0, 1)]
    )
    assert fields_of(read("lhotse", tmp_path)) == [
        ("u", "U", 8000, 16_000), "audio.unreadable", ("b", None, 0, 48_000), "audio.unreadable",
    ]  # fmt: skip
    cuts = [
        {"id": "one", "start": 1.0, "duration": 1.5, "channel": 0, "recording": recordings[0], "type": "MonoCut",
         "supervisions": [supervision("u", "a", -0.5, 1.0)]},
        {"id": "two", "start": 0.5, "duration": 2.0, "channel": 0, "recording": recordings[1], "type": "MonoCut",
         "supervisions": [supervision("p", "b", 0.0, 0.5), supervision("q", "b", 1.0, 0.5)]},
        {"id": "mixed", "type": "MixedCut", "tracks": []},
    ]  # fmt: skip
    write_lines(tmp_path / "cuts.jsonl.gz", cuts)
    assert fields_of(read("lhotse", tmp_path)) == [
        ("one", "U", 16_000, 24_000), ("p", "P", 8000, 8000), ("q", "Q", 24_000, 8000), "manifest.bad_field",
    ]  # fmt: skip


def test_lhotse_and_its_shar_as_lhotse_itself_writes_them(tmp_path, monkeypatch):
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed: pip install lhotse")
    SharWriter = pytest.importorskip("lhotse.shar").SharWriter

    monkeypatch.chdir(tmp_path)
    for number in range(3):
        (tmp_path / f"r{number}.wav").write_bytes(audio(2 + number, number, "wav"))
    recordings = lhotse.RecordingSet.from_recordings(
        lhotse.Recording.from_file(f"r{n}.wav") for n in range(3)
    )
    pieces = [
        lhotse.SupervisionSegment(f"s{n}", f"r{n}", 0.5, 1.0, text=f"text {n}", speaker=f"p{n}")
        for n in range(3)
    ]
    cuts = lhotse.CutSet.from_manifests(
        recordings, lhotse.SupervisionSet.from_segments(pieces)
    ).trim_to_supervisions()
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}, shard_size=2) as writer:
        for cut in cuts:
            writer.write(cut)
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    for adapter, source in (("lhotse", tmp_path), ("shar", tmp_path / "shar")):
        rows = read(adapter, source)
        theirs = [(c.id, c.duration, c.supervisions[0].text, c.supervisions[0].speaker) for c in cuts]
        assert [(row.id, row.seconds, row.text, row.speaker) for row in rows] == theirs
        for row, cut in zip(rows, cuts):
            assert np.abs(decode(row) - cut.load_audio()[0]).max() < 1e-4


def test_a_data_set_that_the_library_datasets_wrote(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install datasets")
    cells = [{"bytes": audio(1, number), "path": None} for number in range(3)]
    made = datasets.Dataset.from_dict({"id": list("abc"), "audio": cells, "text": ["x", "y", "z"]})
    made.cast_column("audio", datasets.Audio(decode=False)).to_parquet(str(tmp_path / "train.parquet"))
    rows = read("parquet", tmp_path)
    assert [(row.id, row.text) for row in rows] == [("a", "x"), ("b", "y"), ("c", "z")]
    for row, cell in zip(rows, cells):
        assert np.array_equal(decode(row), alone(tmp_path, cell["bytes"]))


def test_gigaspeech_is_read_one_recording_at_a_time(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "p.flac").write_bytes(audio(5, 0))
    segments = [
        {
            "sid": "p_1",
            "speaker": "N/A",
            "begin_time": 0.5,
            "end_time": 2.0,
            "text_tn": "YES <COMMA> IT IS <PERIOD>",
        },
        {"sid": "p_2", "speaker": "x", "begin_time": 2.0, "end_time": 3.0, "text_tn": "<MUSIC>"},
    ]
    audios = [{"aid": "p", "path": "audio/p.flac", "segments": segments}, {"aid": "q"}]
    (tmp_path / "GigaSpeech.json").write_text(
        json.dumps({"dataset": "GigaSpeech", "audios": audios, "x": 1}, indent=1)
    )
    one, two, three = read("gigaspeech", tmp_path)
    assert (one.id, one.text, one.speaker, one.first_frame, one.frames) == (
        "p_1",
        "YES, IT IS.",
        None,
        8000,
        24_000,
    )
    assert (two.text, two.speaker) == ("", "x")
    assert three.reject.reason == "manifest.bad_field"
    (tmp_path / "cut.json").write_text(json.dumps({"audios": audios})[:-30])
    with pytest.raises(ValueError, match="breaks off"):
        list(entries(tmp_path / "cut.json", "audios"))


def test_the_peoples_speech(tmp_path):
    (tmp_path / "doc").mkdir()
    (tmp_path / "doc" / "1.flac").write_bytes(audio(2, 0))
    data = {"duration_ms": [2000, 1000], "label": ["hello", "gone"], "name": ["doc/1.flac", "doc/2.flac"]}
    (tmp_path / "m.jsonl").write_text(json.dumps({"identifier": "doc", "training_data": data}) + "\n{}\n")
    one, two, three = read("peoples-speech", tmp_path / "m.jsonl")
    assert (one.id, one.text, one.seconds) == ("doc-1", "hello", 2.0)
    assert (two.reject.reason, three.reject.reason) == ("audio.missing", "manifest.not_json")


def test_members_are_listed_without_unpacking(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a", b"abc")
    (one,) = members(str(tmp_path / "a.tar"))
    assert one.address == f"{tmp_path}/a.tar#bytes=512+3"


def test_an_archive_that_declares_more_than_a_disk_holds_breaks_off_by_name(tmp_path):
    info = tarfile.TarInfo("big.flac")
    info.size = 1 << 50
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + audio(1, 0))
    reasons = [row.reject.reason for row in read("webdataset", tmp_path / "a.tar")]
    assert reasons == ["audio.truncated", "audio.truncated"]


def test_an_address_in_what_is_no_parquet_file_is_one_reject(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 1000)
    lines = [{"id": "a", "audio": "a.tar#row=1&column=audio"}, {"id": "b", "audio": "a.tar#bytes=0+99999"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read("jsonl", tmp_path / "m.jsonl")
    assert [row.reject.reason for row in rows] == ["audio.unreadable", "audio.truncated"]
    assert "cannot be read as Parquet" in rows[0].reject.detail


def test_a_kaldi_directory_as_kaldiio_reads_it(tmp_path):
    kaldiio = pytest.importorskip("kaldiio", reason="kaldiio is not installed: pip install kaldiio")
    for name, seed in (("r", 0), ("s", 1)):
        (tmp_path / f"{name}.wav").write_bytes(audio(3, seed, "wav"))
    (tmp_path / "wav.scp").write_text(f"r {tmp_path}/r.wav\ns {tmp_path}/s.wav\n")
    (tmp_path / "segments").write_text("a r 0.5 1.5\nb r 1.5 2.25\nc s 0 3\n")
    theirs = list(kaldiio.ReadHelper(f"scp:{tmp_path}/wav.scp", segments=str(tmp_path / "segments")))
    rows = read("kaldi", tmp_path)
    assert [row.id for row in rows] == [id for id, _ in theirs]
    for row, (_, (rate, samples)) in zip(rows, theirs):
        assert row.sample_rate == rate
        assert np.array_equal(decode(row), (samples / 32768).astype(np.float32))
