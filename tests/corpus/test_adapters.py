"""Adapters: good lines become utterances, bad ones rejects that keep what is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.adapters import ADAPTERS, read_jsonl, read_librispeech
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
    assert read(folder, given_line) == [
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
    assert rows == [Utterance("a", f"{folder}/two.flac", 44100, 22050, language="de", licence="x")]


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
        ({"start": 0.5, "end": 1.5, "duration": 9}, 11025, 22050),
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
    ],
    ids=str,
)
def test_a_stretch_outside_the_recording_is_rejected(folder, fields, code, frames):
    assert rejected(read(folder, line(**fields))[0]) == ("a", code, frames)


def test_a_wav_that_breaks_off_counts_what_it_holds(folder):
    soundfile.write(folder / "a.wav", np.zeros(1000), 16000)
    (folder / "a.wav").write_bytes((folder / "a.wav").read_bytes()[:-1000])
    assert rejected(read(folder, line(audio="a.wav"))[0]) == ("a", "audio.truncated", 500)


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


@given(
    st.lists(
        st.binary(max_size=30)
        | st.dictionaries(
            st.sampled_from(["id", "audio", "text", "start", "end", "duration", "speaker"]), json_values
        )
    )
)
@settings(deadline=None, max_examples=100)
def test_no_line_raises_and_every_line_gives_one_row(tmp_path_factory, lines):
    lines = [line.replace(b"\n", b"") if isinstance(line, bytes) else line for line in lines]
    rows = read(tmp_path_factory.getbasetemp(), *lines)
    assert len(rows) == sum(not isinstance(line, bytes) or bool(line.strip()) for line in lines)


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
    rows = list(read_librispeech(librispeech))
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
