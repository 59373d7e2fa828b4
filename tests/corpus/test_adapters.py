"""Adapters: good lines become utterances, bad ones rejects that keep what is known."""

import bz2
import gzip
import json
import lzma
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.adapters import ADAPTERS, Intake, read_jsonl, read_librispeech
from corpus.adapters.base import ChannelCheck
from corpus.manifest import RejectedRow
from corpus.records import Utterance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two seconds of audio in `two.flac`, at 22050 Hz."""
    soundfile.write(tmp_path / "two.flac", np.zeros(44100), 22050)
    return tmp_path


def read(folder: Path, *lines: object) -> list[Utterance | RejectedRow]:
    """Rows of a manifest with these lines; what is not bytes is written as JSON."""
    source = folder / "m.jsonl"
    source.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    )
    return list(read_jsonl(source))


def unstamped(rows: Iterable[Utterance | RejectedRow]) -> list[Utterance | RejectedRow]:
    """Rows without what changes with the time at which the test ran."""
    return [
        replace(row, audio_stamp="", alignment_stamp="") if isinstance(row, Utterance) else row
        for row in rows
    ]


def line(**fields: object) -> dict[str, object]:
    return {"id": "a", "audio": "two.flac", **fields}


def rejected(row: Utterance | RejectedRow) -> tuple[str, str, int]:
    """Id, reason and known length in frames of a rejected row."""
    assert isinstance(row, RejectedRow)
    return row.utterance.id, row.reject.reason, row.utterance.frames


def test_every_field_arrives(folder):
    given_line = line(
        text="Hi there.",
        speaker="s",
        lang="en",
        license="CC0-1.0",
        duration_s=2.0,
        alignment="x/a.TextGrid",
        colour="red",
    )
    assert unstamped(read(folder, given_line)) == [
        Utterance(
            id="a",
            audio=f"{folder}/two.flac",
            frames=44100,
            sample_rate=22050,
            text="Hi there.",
            speaker="s",
            language="en",
            licence="CC0-1.0",
            alignment=f"{folder}/x/a.TextGrid",
        )
    ]


def test_other_spellings_and_null_are_understood(folder):
    rows = read(folder, line(language="de", licence="x", duration=2, text=None, lang=None, alignment=None))
    assert unstamped(rows) == [Utterance("a", f"{folder}/two.flac", 44100, 22050, language="de", licence="x")]


def test_blank_lines_and_a_byte_order_mark_are_skipped(folder):
    rows = read(folder, b"\xef\xbb\xbf" + json.dumps(line()).encode(), b"", b"  \r", line(id="b"), b"")
    assert [row.id for row in rows] == ["a", "b"]


def test_an_absolute_path_stays(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert read(elsewhere, line(audio=str(folder / "two.flac")))[0].frames == 44100


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"[1]",
        b"7",
        b"null",
        b'"a"',
        b"\xff\xfe",
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900,
        b"1" * 5000,
        b'{"a":}',
    ],
    ids=lambda bad: bad[:8].hex(),
)
def test_a_line_that_is_no_json_object_is_named_by_its_place(folder, bad):
    assert rejected(read(folder, b"", bad)[0]) == ("m.jsonl:2", "manifest.not_json", 0)


@pytest.mark.parametrize(
    ("fields", "name", "code"),
    [
        ({"audio": "two.flac"}, "m.jsonl:1", "manifest.missing_field"),
        ({"id": "", "audio": "two.flac"}, "m.jsonl:1", "manifest.missing_field"),
        ({"id": None, "audio": "two.flac"}, "m.jsonl:1", "manifest.missing_field"),
        ({"id": 7, "audio": "two.flac"}, "m.jsonl:1", "manifest.bad_field"),
        ({"id": "a"}, "a", "manifest.missing_field"),
        ({"id": "a", "audio": ["two.flac"]}, "a", "manifest.bad_field"),
        ({"id": "a", "audio": "gone.flac"}, "a", "audio.missing"),
        ({"id": "a", "audio": "."}, "a", "audio.missing"),
    ],
)
def test_a_line_without_usable_id_or_audio_says_so(folder, fields, name, code):
    assert rejected(read(folder, fields)[0]) == (name, code, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"text": 5},
        {"speaker": 84},
        {"lang": ["en"]},
        {"license": {}},
        {"alignment": True},
        {"duration": "2"},
        {"duration": True},
        {"duration": float("nan")},
        {"duration": float("inf")},
        {"duration": -1},
        {"duration": 10**400},
    ],
    ids=str,
)
def test_a_field_of_the_wrong_type_is_rejected_and_the_length_still_counts(folder, fields):
    assert rejected(read(folder, line(**fields))[0]) == ("a", "manifest.bad_field", 44100)


@pytest.mark.parametrize(
    ("fields", "first", "frames"),
    [
        ({"start": 0.5, "end": 1.5}, 11025, 22050),
        ({"start": 0.5}, 11025, 33075),
        ({"start": 0.5, "duration": 1}, 11025, 22050),
        ({"end": 0.5}, 0, 11025),
        ({"start": 0, "end": 2.04}, 0, 44100),
        ({"start": 0.5, "end": 1.5, "duration": 2}, 11025, 22050),
        ({"offset": 0.5, "duration": 1}, 11025, 22050),
        ({"offset": 0.5, "start": 0.5, "end": 1.5}, 11025, 22050),
    ],
    ids=str,
)
def test_start_and_end_select_a_stretch(folder, fields, first, frames):
    (row,) = read(folder, line(**fields))
    assert (row.first_frame, row.frames) == (first, frames)


@pytest.mark.parametrize(
    ("fields", "code", "frames"),
    [
        ({"start": 1.5, "end": 1.5}, "manifest.bad_field", 0),
        ({"start": 1.5, "end": 0.5}, "manifest.bad_field", 0),
        ({"start": -1, "end": 0.5}, "manifest.bad_field", 0),
        ({"start": 2.0, "end": 3.0}, "manifest.bad_field", 0),
        ({"start": "0"}, "manifest.bad_field", 0),
        ({"start": 1.5, "end": 2.1}, "audio.truncated", 11025),
        ({"start": 1.5, "duration": 1}, "audio.truncated", 11025),
        ({"duration": 2.06}, "audio.truncated", 44100),
        ({"duration": 1.4}, "audio.length_mismatch", 44100),
        ({"start": 0.5, "end": 1.5, "duration": 9}, "audio.truncated", 22050),
        ({"start": 0.5, "end": 1.5, "duration": 0.2}, "audio.length_mismatch", 22050),
        ({"start": 0.5, "offset": 0.6}, "manifest.bad_field", 0),
    ],
    ids=str,
)
def test_a_stretch_outside_the_recording_is_rejected(folder, fields, code, frames):
    assert rejected(read(folder, line(**fields))[0]) == ("a", code, frames)


def test_a_wav_that_breaks_off_counts_what_it_holds(folder):
    soundfile.write(folder / "a.wav", np.zeros(10_000), 16000)
    (folder / "a.wav").write_bytes((folder / "a.wav").read_bytes()[:-5000])
    assert rejected(read(folder, line(audio="a.wav"))[0]) == ("a", "audio.truncated", 7500)


def test_an_address_that_no_store_has_is_one_reject(folder):
    wrong, good = read(folder, line(audio="foo://x.wav"), line(id="b"))
    assert rejected(wrong) == ("a", "audio.unreadable", 0)
    assert "need an fsspec that supports foo://" in wrong.reject.detail
    assert isinstance(good, Utterance)


def test_one_bad_line_leaves_the_others_and_their_order(folder):
    rows = read(folder, line(id="a"), b"{", line(id="b", audio="gone"), line(id="c"))
    assert [row.id if isinstance(row, Utterance) else row.reject.reason for row in rows] == [
        "a",
        "manifest.not_json",
        "audio.missing",
        "c",
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2),
)
names = st.sampled_from(["id", "audio", "text", "start", "end", "duration", "speaker", "offset", "channel"])


letters = st.characters(exclude_categories=["Cc", "Cs"])


@given(st.lists(st.text(letters, max_size=30).map(str.encode) | st.dictionaries(names, json_values)))
@settings(deadline=None, max_examples=100)
def test_no_line_raises_and_every_line_gives_one_row(tmp_path_factory, lines):
    first: list[object] = [line(id="first")]  # or the file may be in another encoding, an array, or no text
    lines = [line.translate(None, b"\n\r") if isinstance(line, bytes) else line for line in lines]
    rows = read(tmp_path_factory.getbasetemp(), *first, *lines)
    assert len(rows) == 1 + sum(not isinstance(line, bytes) or bool(line.strip()) for line in lines)


def test_a_manifest_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl: need a JSON Lines file, there is none"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="there is a folder"):
        read_jsonl(tmp_path)


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """Two chapters: one with a line too many and a word-time file, one without transcripts."""
    for chapter, numbers in (("84/121", ["0001", "0000"]), ("19/198", ["0000"])):
        (tmp_path / "dev" / chapter).mkdir(parents=True)
        for number in numbers:
            name = f"{chapter.replace('/', '-')}-{number}.flac"
            soundfile.write(tmp_path / "dev" / chapter / name, np.zeros(16000), 16000)
    chapter = tmp_path / "dev" / "84" / "121"
    (chapter / "84-121.trans.txt").write_text(
        "84-121-0000 HELLO THERE\n84-121-0001 AGAIN\n84-121-0002 LOST\n"
    )
    (chapter / "84-121.alignment.txt").touch()
    return tmp_path


def test_librispeech_is_read_in_order_with_its_transcripts(librispeech):
    rows = unstamped(read_librispeech(librispeech))
    chapter = librispeech / "dev" / "84" / "121"
    expected = {"language": "en", "licence": "CC-BY-4.0"}
    times = str(chapter / "84-121.alignment.txt")
    good = {"speaker": "84", "alignment": times, **expected}
    assert rows[:3] == [
        Utterance(
            "19-198-0000", f"{librispeech}/dev/19/198/19-198-0000.flac", 16000, speaker="19", **expected
        ),
        Utterance("84-121-0000", f"{chapter}/84-121-0000.flac", 16000, text="HELLO THERE", **good),
        Utterance("84-121-0001", f"{chapter}/84-121-0001.flac", 16000, text="AGAIN", **good),
    ]
    assert [rejected(row) for row in rows[3:]] == [("84-121-0002", "audio.missing", 0)]


def test_a_librispeech_line_that_is_not_utf8_is_rejected(librispeech):
    path = librispeech / "dev" / "84" / "121" / "84-121.trans.txt"
    path.write_bytes(b"84-121-0000 HELLO\n84-121-0001 \xff\n")
    rows = list(read_librispeech(librispeech))
    assert [rejected(row) for row in rows if isinstance(row, RejectedRow)] == [
        ("84-121.trans.txt:2", "manifest.bad_field", 0)
    ]


def test_a_folder_without_librispeech_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        read_librispeech(tmp_path)
    with pytest.raises(ValueError, match="need a folder"):
        read_librispeech(tmp_path / "none")


@pytest.mark.parametrize("name", ["dev", "unlabelled", "emotion"])
def test_real_speech_is_read_without_a_reject(real_speech, name):
    rows = list(ADAPTERS["jsonl"](real_speech / name / "manifest.jsonl"))
    assert {type(row) for row in rows} == {Utterance}
    expected = {"dev": (249, 29_402_535), "unlabelled": (251, 50_251_839), "emotion": (80, 2_560_000)}
    assert (len(rows), sum(row.samples for row in rows)) == expected[name]


@pytest.mark.parametrize(
    "fields",
    [
        {"Start": 0, "End": 1},
        {"start_time": 0},
        {"end_time": 1.0},
        {"begin": 0.5},
        {"startSec": 0.5},
        {"t_start": 0.5},
        {"segment_start": 0.5},
        {"audio_duration": 1.0},
        {"duration_ms": 1000},
        {"audio_channel": 1},
        {"segments": [[0, 1]]},
    ],
    ids=str,
)
def test_a_field_about_time_or_channel_that_is_not_known_is_named_and_rejected(folder, fields):
    (row,) = read(folder, line(text="hello", **fields))
    assert rejected(row)[1] == "manifest.bad_field"
    assert next(iter(fields)) in row.reject.detail


@pytest.mark.parametrize("name", ["transcript", "sentence", "Text", "transcription", "raw_text"])
def test_a_transcript_under_another_name_is_rejected_unless_there_is_one(folder, name):
    assert rejected(read(folder, line(**{name: "hello"}))[0])[1] == "manifest.bad_field"
    assert read(folder, line(**{name: "hello", "text": "hello"}))[0].text == "hello"


def test_other_fields_are_ignored(folder):
    fields = {
        "sampling_rate": 16000,
        "num_channels": 1,
        "emotion": "calm",
        "text_id": 7,
        "created": "2024-01-01",
    }
    assert isinstance(read(folder, line(text="hello", **fields))[0], Utterance)


@pytest.mark.parametrize(("channel", "expected"), [(1, 1), ([1], 1), (0, 0), (None, None), ("average", None)])
def test_a_channel_is_a_number_from_0_on(folder, channel, expected):
    soundfile.write(folder / "s.wav", np.zeros((16000, 2)), 16000)
    assert read(folder, line(audio="s.wav", channel=channel))[0].channel == expected


@pytest.mark.parametrize("channel", [2, -1, True, "left", [0, 1], 1.0])
def test_a_channel_that_the_recording_lacks_is_rejected(folder, channel):
    soundfile.write(folder / "s.wav", np.zeros((16000, 2)), 16000)
    assert rejected(read(folder, line(audio="s.wav", channel=channel))[0]) == (
        "a",
        "manifest.bad_field",
        16000,
    )


def test_one_utterance_for_each_channel_where_asked(folder):
    soundfile.write(folder / "s.wav", np.zeros((16000, 2)), 16000)
    source = folder / "m.jsonl"
    rows = [line(audio="s.wav"), line(id="b", audio="s.wav", channel=1), line(id="c")]
    source.write_text("\n".join(map(json.dumps, rows)))
    read_rows = list(read_jsonl(source, Intake(channels="separate")))
    assert [(row.id, row.channel) for row in read_rows] == [("a-c0", 0), ("a-c1", 1), ("b", 1), ("c", None)]


def test_recordings_whose_channels_differ_are_noticed_when_they_are_averaged(folder):
    noise = np.random.default_rng(0).standard_normal((2, 32000)) / 10
    soundfile.write(folder / "same.wav", np.stack([noise[0], noise[0] / 2], 1), 16000)
    soundfile.write(folder / "other.wav", noise.T, 16000)
    soundfile.write(folder / "one.wav", np.stack([noise[0], 0 * noise[0]], 1), 16000)
    source = folder / "m.jsonl"
    names = ("same.wav", "other.wav", "one.wav", "two.flac")
    source.write_text("\n".join(json.dumps(line(id=name[:3], audio=name)) for name in names))
    check = ChannelCheck()
    assert len(list(read_jsonl(source, Intake(on_several_channels=check)))) == 4
    assert [os.path.basename(path) for path in check.different] == ["other.wav", "one.wav"]
    assert "2 of 3 recordings differ" in check.warning()
    assert ChannelCheck().warning() == ""


def test_a_lossy_recording_may_be_a_little_shorter_than_declared(folder):
    soundfile.write(folder / "a.mp3", np.zeros(176_000), 16000)
    reasons = []
    for duration in (11.0, 11.04, 11.06, 11.5, 10.0, 3.0):
        (row,) = read(folder, line(audio="a.mp3", duration=duration))
        reasons.append(row.reject.reason if isinstance(row, RejectedRow) else None)
    assert reasons == [None, None, None, "audio.truncated", "audio.length_mismatch", "audio.length_mismatch"]


def test_the_stamp_changes_with_the_file_and_a_checksum_with_its_content_alone(folder):
    (folder / "a.TextGrid").write_text("one")
    source = folder / "m.jsonl"
    source.write_text(json.dumps(line(alignment="a.TextGrid")))

    def stamps(**options: bool) -> tuple[str, str]:
        (row,) = read_jsonl(source, Intake(**options))
        return row.audio_stamp, row.alignment_stamp

    plain, checksums = stamps(), stamps(checksum=True)
    os.utime(folder / "two.flac", (1, 1))
    (folder / "a.TextGrid").write_text("two")
    os.utime(folder / "a.TextGrid", (1, 1))
    assert all(map(str.__ne__, stamps(), plain))
    assert stamps(checksum=True)[0] == checksums[0]
    assert stamps(checksum=True)[1] != checksums[1]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_with_accents_is_found_however_they_are_written(folder, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    there = folder / unicodedata.normalize(other, "é") / unicodedata.normalize(other, "ü.flac")
    there.parent.mkdir()
    (folder / "two.flac").rename(there)
    (row,) = read(folder, line(audio=unicodedata.normalize(form, "é/ü.flac")))
    assert row.audio == str(there)


def test_a_name_with_accents_that_is_not_there_is_missing(folder):
    assert rejected(read(folder, line(audio="é/ü.flac"))[0])[1] == "audio.missing"


def encoded(rows: list[dict[str, object]], how: str) -> bytes:
    """A manifest as other programs save it."""
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return {
        "bom": b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode(),
        "utf-16": lines.encode("utf-16"),
        "utf-16 without mark": lines.encode("utf-16-le"),
        "carriage returns": lines.replace("\n", "\r").encode(),
        "array": json.dumps(rows, indent=2).encode(),
        "gzip": gzip.compress(lines.encode(), mtime=0),
        "bzip2": bz2.compress(lines.encode()),
        "xz": lzma.compress(lines.encode()),
        "zstd": pa.compress(lines.encode(), "zstd", asbytes=True),
    }[how]


WAYS = ["bom", "utf-16", "utf-16 without mark", "carriage returns", "array", "gzip", "bzip2", "xz", "zstd"]


@pytest.mark.parametrize("how", WAYS)
def test_a_manifest_is_read_whatever_its_encoding_and_its_name(folder, how):
    rows = [line(text="Grüße"), line(id="b", text="two")]
    (folder / "m.data").write_bytes(encoded(rows, how))
    assert [row.text for row in read_jsonl(folder / "m.data")] == ["Grüße", "two"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04" + bytes(50), "a ZIP archive"),
        (b"%PDF-1.4 " + bytes(50), "a PDF document"),
        (bytes(range(256)) * 9, "binary data"),
        (gzip.compress(b'{"id": "a"}' * 9000, mtime=0)[:60], "cannot be read as text"),
        (b'[{"id": "a"}, ', "cannot be parsed"),
    ],
)
def test_a_manifest_that_is_no_text_is_named_in_one_line(folder, content, what):
    (folder / "m.jsonl").write_bytes(content)
    with pytest.raises(
        ValueError, match=f"m.jsonl: cannot be read as text: .*{what}|m.jsonl: {what}"
    ) as raised:
        list(read_jsonl(folder / "m.jsonl"))
    assert "\n" not in str(raised.value)


def test_a_comma_after_a_line_is_named(folder):
    (row,) = read(folder, json.dumps(line()).encode() + b",")
    assert "a comma follows the object" in row.reject.detail


def test_a_table_is_recognised(folder):
    assert "use the adapter table" in read(folder, b"id,audio,text")[0].reject.detail


def test_a_nemo_line_is_recognised(folder):
    (row,) = read(folder, {"audio_filepath": "two.flac", "offset": 0, "duration": 1})
    assert "use the adapter nemo" in row.reject.detail


def test_librispeech_follows_links_and_reads_any_audio_once(librispeech):
    outside = librispeech.parent / f"{librispeech.name}-elsewhere"
    (librispeech / "dev" / "19").rename(outside)
    (librispeech / "dev" / "19").symlink_to(outside)
    (outside / "loop").symlink_to(librispeech)
    chapter = librispeech / "dev" / "84" / "121"
    (chapter / "84-121-0000.flac").unlink()
    soundfile.write(chapter / "84-121-0000.WAV", np.zeros(16000), 16000, format="WAV")
    soundfile.write(chapter / "84-121-0001.wav", np.zeros(16000), 16000)
    rows = list(read_librispeech(librispeech))
    assert [row.id for row in rows if isinstance(row, Utterance)] == [
        "19-198-0000",
        "84-121-0000",
        "84-121-0001",
    ]
    assert [rejected(row) for row in rows if isinstance(row, RejectedRow)] == [
        ("84-121-0001.wav", "id.duplicate", 16000),
        ("84-121-0002", "audio.missing", 0),
    ]


def test_transcripts_of_librispeech_may_have_tabs_and_a_mark_and_doubled_ids_are_reported(librispeech):
    path = librispeech / "dev" / "84" / "121" / "84-121.trans.txt"
    path.write_bytes(
        b"\xef\xbb\xbf84-121-0000\tHELLO THERE\n84-121-0001 AGAIN\n84-121-0001 OTHER\n84-121-0000 HELLO THERE\n"
    )
    rows = list(read_librispeech(librispeech))
    texts = {row.id: row.text for row in rows if isinstance(row, Utterance)}
    assert texts == {"19-198-0000": None, "84-121-0000": "HELLO THERE", "84-121-0001": "AGAIN"}
    assert [rejected(row) for row in rows if isinstance(row, RejectedRow)] == [
        ("84-121.trans.txt:3", "id.duplicate", 0)
    ]


def test_a_table_without_a_column_of_audio_is_refused_in_one_line(folder):
    (folder / "t.csv").write_bytes(b'id,"sound\r\nfile",text\nu,a.wav,hi\n')
    with pytest.raises(ValueError, match="need a column 'audio', got id, sound file, text"):
        list(ADAPTERS["table"](folder / "t.csv"))
