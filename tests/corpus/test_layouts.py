"""Adapters of published layouts: trees made in the true layout, and the rows that they hold."""

import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus.adapters import ADAPTERS
from corpus.manifest import RejectedRow, parts, read_part, write_manifest
from corpus.records import Utterance


def sound(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * 16000)), 16000)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def rows(adapter: str, source: Path) -> list[tuple]:
    """Id, text, speaker, language, first frame and frames of each row; of a reject, its id and reason."""
    return [
        (row.id, row.text, row.speaker, row.language, row.first_frame, row.frames)
        if isinstance(row, Utterance)
        else (row.utterance.id, row.reject.reason)
        for row in ADAPTERS[adapter](source)
    ]


def test_every_adapter_says_in_a_line_what_it_reads_and_what_it_expects():
    for name, adapter in ADAPTERS.items():
        assert name == name.lower()
        assert 0 < len(adapter.description) < 90, name
        assert "\n" not in adapter.description
        assert adapter.expects, name


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_not_there_is_one_line_for_every_adapter(tmp_path, name):
    for source in (tmp_path / "none", tmp_path):  # a folder where a file is expected, or an empty one
        with pytest.raises(ValueError, match=f"{source}: ") as raised:
            list(ADAPTERS[name](source))
        assert "\n" not in str(raised.value)


def test_a_table_is_read_by_its_column_names(tmp_path):
    sound(tmp_path / "a.wav", 2.0)
    text(
        tmp_path / "t.csv",
        'id,audio,text,speaker,start,end\none,a.wav,"Hello, there",s,0.5,1.5\ntwo,a.wav,,s,,\n'
        "three,a.wav,x,s,late,2\nfour,gone.wav,x,,,\nfive,a.wav,x,s,,,more\n",
    )
    assert rows("table", tmp_path / "t.csv") == [
        ("one", "Hello, there", "s", None, 8000, 16000),
        ("two", None, "s", None, 0, 32000),
        ("three", "manifest.bad_field"),
        ("four", "audio.missing"),
        ("t.csv:6", "manifest.bad_field"),
    ]


def test_a_table_may_have_tabs_and_no_ids(tmp_path):
    sound(tmp_path / "a.wav")
    text(tmp_path / "t.tsv", "audio\ttext\na.wav\tit's 5 o'clock; \"now\n")
    text(tmp_path / "t2.tsv", "path\ttext\na.wav\tx\n")
    assert rows("table", tmp_path / "t.tsv")[0][0] == "a"
    with pytest.raises(ValueError, match="need a column 'audio', got path, text"):
        rows("table", tmp_path / "t2.tsv")


def test_a_folder_is_read_with_what_is_beside_each_recording(tmp_path):
    sound(tmp_path / "anna" / "x" / "1.wav")
    text(tmp_path / "anna" / "x" / "1.txt", "\ufeffHello\nthere\n")
    sound(tmp_path / "bob" / "1.FLAC".lower())
    text(tmp_path / "bob" / "1.lab", "again")
    text(tmp_path / "bob" / "1.TextGrid", "")
    sound(tmp_path / "loose.wav")
    (tmp_path / "bob" / "2.wav").write_bytes(b"no sound")
    utterances = list(ADAPTERS["folder"](tmp_path))
    assert rows("folder", tmp_path) == [
        ("loose", None, None, None, 0, 16000),
        ("anna-x-1", "Hello there", "anna", None, 0, 16000),
        ("bob-1", "again", "bob", None, 0, 16000),
        ("bob-2", "audio.unreadable"),
    ]
    assert utterances[2].alignment == str(tmp_path / "bob" / "1.TextGrid")


def test_a_transcript_of_a_folder_that_is_not_utf8_is_rejected(tmp_path):
    sound(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    assert rows("folder", tmp_path) == [("a", "manifest.bad_field")]


def test_libritts(tmp_path):
    chapter = tmp_path / "train-clean-100" / "103" / "1240"
    sound(chapter / "103_1240_000000_000001.wav")
    text(chapter / "103_1240_000000_000001.normalized.txt", "Chapter one.")
    text(chapter / "103_1240_000000_000001.original.txt", "Chapter I.")
    text(chapter / "103_1240.trans.tsv", "103_1240_000000_000001\tChapter I.\tChapter one.\n")
    assert rows("libritts", tmp_path) == [("103_1240_000000_000001", "Chapter one.", "103", "en", 0, 16000)]


def test_multilingual_librispeech(tmp_path):
    for split in ("dev", "train"):
        sound(tmp_path / split / "audio" / "10" / "20" / "10_20_000001.flac")
        text(tmp_path / split / "transcripts.txt", '10_20_000001\tguten "tag\n10_20_000002\tverloren\n')
    expected = [("10_20_000001", 'guten "tag', "10", None, 0, 16000), ("10_20_000002", "audio.missing")]
    assert rows("mls", tmp_path / "dev") == expected
    assert rows("mls", tmp_path) == expected * 2


def test_lj_speech(tmp_path):
    sound(tmp_path / "wavs" / "LJ001-0001.wav")
    text(tmp_path / "metadata.csv", 'LJ001-0001|In 1455 "he|In fourteen fifty-five "he\n')
    assert rows("ljspeech", tmp_path) == [("LJ001-0001", 'In fourteen fifty-five "he', "lj", "en", 0, 16000)]


@pytest.mark.parametrize(("folder", "ending"), [("wav48_silence_trimmed", "_mic1.flac"), ("wav48", ".wav")])
def test_vctk(tmp_path, folder, ending):
    sound(tmp_path / folder / "p225" / f"p225_001{ending}")
    if "mic1" in ending:
        sound(tmp_path / folder / "p225" / "p225_001_mic2.flac")
    sound(tmp_path / folder / "s5" / f"s5_002{ending}")
    text(tmp_path / "txt" / "p225" / "p225_001.txt", "Please call Stella.\n")
    assert rows("vctk", tmp_path) == [
        ("p225_001", "Please call Stella.", "p225", "en", 0, 16000),
        ("s5_002", None, "s5", "en", 0, 16000),
    ]


def test_common_voice(tmp_path):
    sound(tmp_path / "clips" / "common_voice_de_1.mp3")
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tdown_votes\tage\tlocale\tsegment\n"
    lines = (
        'abc\tcommon_voice_de_1.mp3\tx\tSie sagte: "Ja\t2\t0\t\tde\t\nabc\tgone.mp3\tx\tNein\t2\t0\t\tde\t\n'
    )
    text(tmp_path / "validated.tsv", header + lines)
    expected = [
        ("common_voice_de_1", 'Sie sagte: "Ja', "abc", "de", 0, 16000),
        ("gone", "audio.missing"),
    ]
    assert rows("common-voice", tmp_path) == expected
    assert rows("common-voice", tmp_path / "validated.tsv") == expected


def test_a_kaldi_directory_with_segments(tmp_path):
    sound(tmp_path / "r.wav", 3.0)
    text(tmp_path / "wav.scp", f"rec {tmp_path}/r.wav\npiped sph2pipe -f wav x.sph |\nrel r.wav\n")
    text(
        tmp_path / "segments",
        "a rec 0.5 1.5\nb rec 2.0 -1\nc piped 0 1\nd rel 0 1\ne gone 0 1\nf rec 1 what\n",
    )
    text(tmp_path / "text", "a HELLO THERE\nb AGAIN\nz LOST\n")
    text(tmp_path / "utt2spk", "a anna\nb bob\n")
    assert rows("kaldi", tmp_path) == [
        ("a", "HELLO THERE", "anna", None, 8000, 16000),
        ("b", "AGAIN", "bob", None, 32000, 16000),
        ("c", "audio.unreadable"),
        ("d", None, None, None, 0, 16000),
        ("e", "audio.missing"),
        ("f", "manifest.bad_field"),
        ("z", "audio.missing"),
    ]
    rejected = [row for row in ADAPTERS["kaldi"](tmp_path) if isinstance(row, RejectedRow)]
    assert "none is run" in rejected[0].reject.detail


def test_a_kaldi_directory_without_segments(tmp_path):
    sound(tmp_path / "r.wav")
    text(tmp_path / "wav.scp", f"rec\t{tmp_path}/r.wav\n")
    text(tmp_path / "text", "rec HELLO\n")
    assert rows("kaldi", tmp_path) == [("rec", "HELLO", None, None, 0, 16000)]


def test_a_nemo_manifest_with_and_without_offsets(tmp_path):
    sound(tmp_path / "r.wav", 3.0)
    lines = [
        '{"audio_filepath": "r.wav", "offset": 0, "duration": 1.0, "text": "one"}',
        '{"audio_filepath": "r.wav", "offset": 1.0, "duration": 2.0, "text": "two", "channel_selector": 0}',
        '{"audio_filepath": "r.wav", "duration": 3.0, "text": "all"}',
        '{"audio_filepath": "r.wav", "duration": 9.0, "text": "too long"}',
    ]
    text(tmp_path / "m.json", "\n".join(lines))
    assert rows("nemo", tmp_path / "m.json") == [
        ("r-00000000", "one", None, None, 0, 16000),
        ("r-00001000", "two", None, None, 16000, 32000),
        ("r", "all", None, None, 0, 48000),
        ("r", "audio.truncated"),
    ]


def test_subtitles_and_json_beside_a_recording_are_its_transcript(tmp_path):
    for name in ("a", "b", "c", "d"):
        sound(tmp_path / f"{name}.wav")
    text(
        tmp_path / "a.srt",
        "1\r\n00:00:00,000 --> 00:00:01,000\r\n{\\an8}<b>Hello</b>,\r\nthere\r\n\r\n2\r\n00:00:01,0 --> x\r\nyou",
    )
    text(tmp_path / "b.vtt", "WEBVTT\n\nSTYLE\n::cue{}\n\n00:00.000 --> 00:01.000\n<v Bob>It's R&amp;D\n")
    text(tmp_path / "c.json", '{"text": "from json", "language": "en"}')
    text(tmp_path / "d.json", '{"text": "x", "words": []}')
    assert [(row[0], row[1]) for row in rows("folder", tmp_path)] == [
        ("a", "Hello, there you"), ("b", "It's R&D"), ("c", "from json"), ("d", None),
    ]  # fmt: skip
    alignments = [row.alignment for row in ADAPTERS["folder"](tmp_path)]
    assert alignments == [None, None, None, str(tmp_path / "d.json")]


def test_transcripts_and_tables_that_never_end_or_are_no_files_are_rejected_by_name(tmp_path):
    for name in ("ok", "pipe", "device", "loop", "folder", "large", "deep"):
        sound(tmp_path / f"{name}.wav")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "folder.txt").mkdir()
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "deep.json").symlink_to("/dev/zero")
    tracemalloc.start()
    found = {
        row.utterance.id if isinstance(row, RejectedRow) else row.id: row
        for row in ADAPTERS["folder"](tmp_path)
    }
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    for name in ("pipe", "device", "loop"):
        assert found[name].reject.reason == "manifest.bad_field"
        assert re.search(rf"{name}\.txt: cannot be read: need an ordinary file", found[name].reject.detail)
    assert "need a transcript of at most 1048576 bytes" in found["large"].reject.detail
    assert isinstance(found["ok"], Utterance)
    os.mkfifo(tmp_path / "1-2.trans.txt")
    details = [row.reject.detail for row in ADAPTERS["librispeech"](tmp_path) if isinstance(row, RejectedRow)]
    assert any("1-2.trans.txt: need an ordinary file" in detail for detail in details)


def test_a_folder_that_links_to_itself_is_read_once(tmp_path):
    sound(tmp_path / "x" / "a.wav")
    (tmp_path / "x" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    found = rows("folder", tmp_path)
    assert [row[0] for row in found] == ["loop", "x-a"]
    assert found[0][1] == "audio.missing"


def test_transcripts_may_be_utf16_and_a_table_of_mixed_encodings_loses_only_that_row(tmp_path):
    sound(tmp_path / "a.wav")
    (tmp_path / "a.srt").write_bytes("1\n00:00:00,000 --> 00:00:01,000\nna\u00efve\n".encode("utf-16"))
    assert rows("folder", tmp_path)[0][1] == "na\u00efve"
    (tmp_path / "t.csv").write_bytes(b"id,audio,text\na,a.wav,caf\xe9\nb,a.wav,fine\n")
    write_manifest(ADAPTERS["table"](tmp_path / "t.csv"), tmp_path / "manifest")
    found = read_part(parts(tmp_path / "manifest")[0]).select(["id", "reject", "samples"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [("a", "manifest.bad_field", 16000), ("b", None, 16000)]
