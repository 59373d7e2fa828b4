"""Word times that came with the data."""

import gzip
import json
import os

import numpy as np
import pytest

from aligners import load_aligner
from aligners.alignment import Phone
from aligners.match import Label, match
from aligners.normalise import normalise
from corpus.records import Reject, Utterance

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 2
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.3
            text = ""
        intervals [2]:
            xmin = 0.3
            xmax = 0.7
            text = "forty"
        intervals [3]:
            xmin = 0.7
            xmax = 1.1
            text = "two"
        intervals [4]:
            xmin = 1.1
            xmax = 2
            text = "<unk>"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 2
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.3
            text = "sil"
        intervals [2]:
            xmin = 0.3
            xmax = 0.5
            text = "F"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
2
<exists>
1
"IntervalTier"
"anna - words"
0
2
2
0
1
"hi"
1
2
"there"
"""


def align(path, text, id="u", first_frame=0, seconds=2, **settings):
    utterance = Utterance(
        id, "u.wav", seconds * 16_000, 16_000, first_frame, text=text, alignment=path and str(path)
    )
    return load_aligner("given", **settings).align([(utterance, np.zeros(seconds * 16_000, np.float32))])[0]


def times(result):
    assert result.reject is None, result.reject
    return [(word.text, word.start, word.end) for word in result.words]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_long_textgrid_gives_words_and_phones(tmp_path, encoding):
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG, encoding=encoding)
    result = align(path, "Forty-two Zyxels.")
    assert times(result) == [("Forty-two", 0.3, 1.1), ("Zyxels.", 1.1, 2.0)]
    assert result.phones == (Phone("F", 0.3, 0.5),)


def test_a_tier_of_phones_may_be_empty(tmp_path):
    path = tmp_path / "a.json"
    words = {"type": "interval", "entries": [[0.5, 0.9, "hi"]]}
    path.write_text(json.dumps({"tiers": {"words": words, "phones": {"type": "interval", "entries": []}}}))
    result = align(path, "Hi")
    assert times(result) == [("Hi", 0.5, 0.9)]
    assert result.phones == ()


def test_a_short_textgrid_with_a_speakers_tier_is_read(tmp_path):
    path = tmp_path / "a.textgrid"
    path.write_text(SHORT)
    result = align(path, "Hi there")
    assert times(result) == [("Hi", 0.0, 1.0), ("there", 1.0, 2.0)]
    assert result.phones is None


def test_times_of_a_whole_recording_are_cut_to_the_utterance(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(SHORT)
    assert times(align(path, "there", first_frame=16_000, seconds=1, origin="recording")) == [
        ("there", 0.0, 1.0)
    ]


def test_files_that_are_missing_broken_or_of_another_text_are_rejected_by_reason(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG)
    broken = tmp_path / "b.TextGrid"
    broken.write_bytes(b"File type\xff\xfe\x00garbage")
    cut = tmp_path / "c.TextGrid"
    cut.write_text(LONG[: len(LONG) // 2])
    other = tmp_path / "d.docx"
    other.write_text("")
    pipe = tmp_path / "e.TextGrid"
    os.mkfifo(pipe)
    cases = [
        (pipe, "hi", "align.unreadable"),
        (None, "hi", "align.missing"),
        (tmp_path / "none.TextGrid", "hi", "align.missing"),
        (tmp_path, "hi", "align.missing"),
        (broken, "hi", "align.unreadable"),
        (cut, "forty two", "align.unreadable"),
        (other, "hi", "align.unreadable"),
        (path, "forty-three zyxels", "align.token_mismatch"),
        (path, "forty-two", "align.token_mismatch"),
        (path, "forty-two zyxels more", "align.token_mismatch"),
    ]
    assert [(text, align(path, text).reject.reason) for path, text, _ in cases] == [
        (text, reason) for _, text, reason in cases
    ]


def test_a_tier_of_another_name_is_found_by_its_setting(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG.replace('"words"', '"Wörter"'))
    assert times(align(path, "forty two x", words_tier="Wörter"))[0] == ("forty", 0.3, 0.7)
    assert "no tier 'words'" in align(path, "forty two x").reject.detail


HI = [("Hi", 0.5, 0.75), ("there", 0.75, 1.5)]
FORMATS = {
    "a.json": json.dumps(
        {
            "start": 0,
            "end": 2.0,
            "tiers": {
                "words": {"type": "interval", "entries": [[0.5, 0.75, "hi"], [0.75, 1.5, "there"]]},
                "phones": {"type": "interval", "entries": [[0.5, 0.6, "HH"], [1.5, 1.6, "sil"]]},
            },
        }
    ),
    "list.json": json.dumps(
        [{"word": "hi", "start": 0.5, "end": 0.75}, {"word": "there", "start": 0.75, "end": 1.5}]
    ),
    "a.csv": "Begin,End,Label,Type,Speaker\n0.5,0.75,hi,words,anna\n0.75,1.5,there,words,anna\n"
    "0.5,0.6,HH,phones,anna\n",
    "a.ctm": ";; comment\nother 1 0.0 1.0 no 0.5\nu 1 0.75 0.75 there NA\nu 1 0.5 0.25 hi 0.9\n",
    "c.alignment.txt": 'v "NO" "1.0"\nu ",HI,THERE," "0.5,0.75,1.5,2.0"\n',
    "s.jsonl": json.dumps({"id": "u", "alignment": {"word": [["hi", 0.5, 0.25, 0.9], ["there", 0.75, 0.75]]}})
    + "\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_words(tmp_path, name):
    path = tmp_path / name
    path.write_text(FORMATS[name])
    result = align(path, "Hi there")
    assert times(result) == HI
    if name in ("a.json", "a.csv"):
        assert result.phones == (Phone("HH", 0.5, 0.6),)
    if name in ("a.ctm", "s.jsonl"):
        assert [word.confidence for word in result.words] == [0.9, None]


def test_lhotse_may_be_zipped_and_counts_from_the_start_of_the_recording(tmp_path):
    path = tmp_path / "s.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(FORMATS["s.jsonl"])
    assert times(align(path, "there", first_frame=12_000, seconds=1)) == [("there", 0.0, 0.75)]


@pytest.mark.parametrize("name", ["a.ctm", "c.alignment.txt", "s.jsonl"])
def test_an_utterance_that_a_file_does_not_name_is_missing(tmp_path, name):
    path = tmp_path / name
    path.write_text(FORMATS[name])
    assert align(path, "Hi there", id="w").reject.reason == "align.missing"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_a_file_that_breaks_off_is_a_reject(tmp_path, name, keep):
    path = tmp_path / name
    path.write_bytes(FORMATS[name].encode()[: int(len(FORMATS[name]) * keep)] + b"\x00\xff")
    assert align(path, "Hi there").reject.reason in (
        "align.unreadable",
        "align.missing",
        "align.token_mismatch",
    )


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "a.ctm"
    path.write_text("u 1 0 1 hi\n")
    assert times(align(path, "hi")) == [("hi", 0.0, 1.0)]
    path.write_text("u 1 0 2 hi\n")
    assert times(align(path, "hi")) == [("hi", 0.0, 2.0)]


WORDS = [("Hi", 0.5, 0.75), ("there", 0.75, 1.5)]
ROWS = [{"word": " hi", "start": 0.5, "end": 0.75}, {"word": "there", "start": "0.75", "end": 1.5}]
QWEN = [
    {"text": "hi", "start_time": 0.5, "end_time": 0.75},
    {"text": "there", "start_time": 0.75, "end_time": 1.5},
]
ENTRIES = [[0.5, 0.75, "hi"], [0.75, 1.5, "there"]]
STRUCTURES = {
    "whisperx": {"segments": [{"text": "x", "words": ROWS[:1]}, {"words": ROWS[1:]}], "word_segments": ROWS},
    "whisper-timestamped": {
        "text": "x",
        "segments": [{"words": [{"text": "hi", "start": 0.5, "end": 0.75, "confidence": 0.9}, ROWS[1]]}],
    },
    "openai": {"text": "x", "words": ROWS},
    "gentle": {"transcript": "x", "words": [{"case": "success", **row} for row in ROWS]},
    "moshi": {"alignments": [["hi", [0.5, 0.75], "MAIN"], ["there", [0.75, 1.5], "MAIN"]]},
    "qwen": QWEN,
    "qwen batch": [QWEN],
    "transformers": {
        "chunks": [{"text": "hi", "timestamp": [0.5, 0.75]}, {"text": "there", "timestamp": [0.75, 1.5]}]
    },
    "rows": [["hi", 0.5, 0.75], ["there", 0.75, 1.5]],
    "rows of times": ENTRIES,
    "mfa": {"tiers": {"anna - words": {"entries": ENTRIES}}},
    "praatio": {"tiers": [{"name": "words", "class": "IntervalTier", "entries": ENTRIES}]},
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_json_is_recognised_by_its_content(tmp_path, name):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(STRUCTURES[name]))
    assert times(align(path, "Hi there")) == WORDS


def test_phones_of_gentle_follow_each_other(tmp_path):
    path = tmp_path / "a.json"
    phones = [{"phone": "hh_B", "duration": 0.1}, {"phone": "ay_E", "duration": 0.15}]
    path.write_text(json.dumps({"words": [{**ROWS[0], "phones": phones}, ROWS[1]]}))
    assert align(path, "Hi there").phones == (Phone("hh_B", 0.5, 0.6), Phone("ay_E", 0.6, 0.75))


@pytest.mark.parametrize(
    ("name", "content", "detail"),
    [
        ("a.json", json.dumps([ROWS[0], {"word": "there"}]), "word 2, 'there': has no start and end"),
        (
            "a.json",
            json.dumps([ROWS[0], {"word": "there", "start": None, "end": 1}]),
            "word 2, 'there': has no start",
        ),
        (
            "a.json",
            json.dumps([ROWS[0], {"start": 0, "end": 1}]),
            "word 2: need a text under one of word, text",
        ),
        (
            "a.json",
            json.dumps({"words": [{"word": "hi", "start": "x", "end": 1}]}),
            "word 1, 'hi': need seconds, got 'x'",
        ),
        (
            "a.json",
            json.dumps({"language": "en"}),
            "no words in an object with the keys 'language'; known: 'tiers', words",
        ),
        ("a.json", "7", "need an object or a list of words, got 7"),
        ("a.json", '[\n{"word": "hi",\n}]', "line 3: not JSON"),
        ("a.json", json.dumps({"tiers": {"words": 3}}), "'tiers': need objects with 'entries'"),
        (
            "a.csv",
            "Begin,End,Label,Type\n0,0.5,hi,words\n0.5,x,there,words\n",
            "line 3: word 3, 'there': need seconds",
        ),
        ("a.csv", "a,b\n1,2\n", "line 1: need the columns"),
        ("a.ctm", "u 1 0 1 hi\nu 1 0\n", "line 2: "),
        ("a.alignment.txt", 'u "A" "1.0"\nu "A,B" "1.0"\n', "line 2: "),
        ("a.jsonl", '{"id": "u", "words": []}\n[1]\n', "line 2: need an object with the key 'id'"),
        ("a.TextGrid", LONG.replace("xmin = 0.7", "xmin = soon"), "line 26: need a number, got"),
        ("a.TextGrid", LONG[: LONG.index("intervals [4]")], "the file ends inside tier"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line_or_word(tmp_path, name, content, detail):
    path = tmp_path / name
    path.write_text(content)
    reject = align(path, "Hi there").reject
    assert (reject.reason, detail in reject.detail) == ("align.unreadable", True), reject


def test_one_json_object_per_utterance_may_hold_words_in_any_known_structure(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": id, "words": ROWS}) + "\n" for id in ("v", "u")))
    assert times(align(path, "Hi there")) == WORDS


@pytest.mark.parametrize("overlap", [1e-9, 1e-4, 0.01])
def test_overlaps_of_rounding_size_are_clipped(tmp_path, overlap):
    path = tmp_path / "a.TextGrid"
    path.write_text(SHORT.replace('1\n2\n"there"', f'{1 - overlap:.12f}\n2\n"there"'))
    assert times(align(path, "Hi there")) == [("Hi", 0.0, 1 - overlap), ("there", 1 - overlap, 2.0)]


def test_an_overlap_of_a_quarter_of_a_second_is_a_reject(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(SHORT.replace('1\n2\n"there"', '0.75\n2\n"there"'))
    assert align(path, "Hi there").reject.reason == "align.bad_times"


def test_a_tier_that_is_not_needed_may_hold_anything(tmp_path):
    path = tmp_path / "a.TextGrid"
    notes = '"IntervalTier"\n"notes"\n0\n2\n2\n0\n1.5\n"x"\n1.0\n0.5\n"y ""z"""\n'
    points = '"TextTier"\n"points"\n0\n2\n1\n0.5\n"p"\n'
    path.write_text(SHORT.replace("<exists>\n1\n", f"<exists>\n3\n{notes}{points}"))
    assert times(align(path, "Hi there")) == [("Hi", 0.0, 1.0), ("there", 1.0, 2.0)]


def test_phones_that_overlap_are_clipped_and_those_without_length_left_out(tmp_path):
    path = tmp_path / "a.TextGrid"
    tier = '"IntervalTier"\n"phones"\n0\n2\n3\n0\n0.5\n"HH"\n0.4999\n0.7\n"AY"\n0.7\n0.7\n"X"\n'
    path.write_text(SHORT.replace("<exists>\n1\n", f"<exists>\n2\n{tier}"))
    assert align(path, "Hi there").phones == (Phone("HH", 0.0, 0.4999), Phone("AY", 0.4999, 0.7))


@pytest.mark.parametrize("pause", ["#", "-", "...", "(.)", "sil", "SP", "<p:>", " ", "[laughter]", "!SIL"])
def test_labels_of_pauses_are_no_words(tmp_path, pause):
    path = tmp_path / "a.TextGrid"
    path.write_text(
        LONG.replace('text = ""', f'text = "{pause}"').replace(
            "xmin = 0\n            xmax = 0.3", "xmin = 5e-05\n            xmax = 0.3"
        )
    )
    assert times(align(path, "Forty-two Zyxels.")) == [("Forty-two", 0.3, 1.1), ("Zyxels.", 1.1, 2.0)]


def test_an_unknown_label_may_stand_for_a_tag_of_the_text():
    labels = [Label("hi", 0, 1), Label("<unk>", 1, 2), Label("there", 2, 3), Label("<unk>", 3, 4)]
    text = "hi <unk> there <unk>"
    assert [(word.start, word.end) for word in match(labels, normalise(text), text)] == [(0, 1), (2, 3)]


def test_a_textgrid_without_its_ending_and_in_latin_1_is_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(SHORT.replace("there", "thère").encode("latin-1"))
    assert times(align(path, "Hi thère")) == [("Hi", 0.0, 1.0), ("thère", 1.0, 2.0)]


def test_times_that_are_no_numbers_never_come_through(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('[{"word": "hi", "start": NaN, "end": 1.0}]')
    assert align(path, "hi").reject.reason == "align.bad_times"


@pytest.mark.parametrize(
    ("labels", "text", "expected"),
    [
        ("s j c 's law", "SJC's law", [("SJC's", 0, 4), ("law", 4, 5)]),
        ("<unk> 's law", "Zyx's law", [("Zyx's", 0, 2), ("law", 2, 3)]),
        ("fourteen fifty five", "1455", [("1455", 0, 3)]),
        ("1455", "1455!", [("1455!", 0, 1)]),
        ("dr smith", "Dr. Smith", [("Dr.", 0, 1), ("Smith", 1, 2)]),
        ("doctor smith", "Dr. Smith", [("Dr.", 0, 1), ("Smith", 1, 2)]),
        ("<unk> <unk> <unk>", "ab-cd ef", [("ab-cd", 0, 2), ("ef", 2, 3)]),
        (
            "a <unk> plus ultra",
            "a ne plus ultra",
            [("a", 0, 1), ("ne", 1, 2), ("plus", 2, 3), ("ultra", 3, 4)],
        ),
        ("sp hi sil there <eps>", "hi there", [("hi", 1, 2), ("there", 3, 4)]),
    ],
)
def test_labels_are_joined_to_our_words(labels, text, expected):
    given = [Label(label, i, i + 1) for i, label in enumerate(labels.split())]
    tokens = normalise(text)
    words = match(given, tokens, text)
    assert [(text[t.first : t.last], w.start, w.end) for t, w in zip(tokens, words)] == expected


def test_a_mismatch_names_the_word_and_the_label():
    with pytest.raises(Reject, match="'there': the alignment has 'their'"):
        match([Label("hi", 0, 1), Label("their", 1, 2)], normalise("hi there"), "hi there")
