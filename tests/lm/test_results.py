"""lm/scoreboard.py: the paper's numbers as they are, beside ours, and never without saying what data they are of."""

import json

import pytest

from lm.evaluation.results import BESIDE, compare, heading, read_paper

ACCURACY = {"ending.sum.free": [70.0, 60.0, 80.0], "ending.mean.free": [65.0, 55.0, 75.0]}


def of(rows, **wanted):
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_the_table_holds_the_paper_s_numbers():
    rows = read_paper()
    known = [
        (("Base", "sstorycloze", "S->T", "mean"), 64.6),
        (("Expressive", "tstorycloze", "T->S", "sum"), 57.7),
        (("Text only", "swuggy", "S", "mean"), 46.8),
        (("Base", "asr", "S->T", "WER"), 21.9),
        (("Expressive", "resynthesis", "S", "F0 frame error"), 16.0),
    ]
    for (model, task, direction, measure), value in known:
        assert of(rows, model=model, task=task, direction=direction, measure=measure)[0]["value"] == value
    assert of(rows, model="Base", task="asr")[1]["value"] == 29.2
    assert of(rows, model="Expressive", task="stsp", direction="S", setting="9-shot")[0]["value"] == 40.0
    keys = [tuple(row[name] for name in ("model", "task", "direction", "measure", "setting")) for row in rows]
    assert len(keys) == len(set(keys))
    assert all(0 < row["value"] < 115 or row["measure"] == "bits per second" for row in rows)


@pytest.mark.parametrize(
    ("pack", "version", "note", "base"),
    [
        ("swuggy", "1 dev", "same set", [71.4, 69.0]),
        ("swuggy", "1 dev partial", "PART OF THE SET", [71.4, 69.0]),
        ("words", "1", "other data: synthetic, beside swuggy", [71.4, 69.0]),
        ("mine", "1", "no such number there", [None, None]),
    ],
)
def test_a_line_says_what_it_stands_beside(pack, version, note, base):
    row = {"pack": pack, "version": version, "direction": "S", "accuracy": ACCURACY}
    lines = compare([row])
    assert [(line.measure, line.ours) for line in lines] == [("sum", 70.0), ("mean", 65.0)]
    assert [line.paper["Base"] for line in lines] == base
    assert all(note in line.note for line in lines)
    assert ("other data" in lines[0].note) == (pack == "words")


def test_a_contrast_has_nothing_beside_it():
    row = {"pack": "stories", "version": "1", "direction": "S->T", "accuracy": ACCURACY}
    line = compare([row | {"contrast": [98.0, 95.0, 99.0]}])[-1]
    assert (line.measure, line.ours, set(line.paper.values())) == ("contrast", 98.0, {None})


def test_few_shot_and_sentiment_stand_beside_their_settings():
    asr = {
        "task": "asr",
        "pack": "librispeech",
        "version": "1 test-other",
        "direction": "S->T",
        "measure": "WER",
    }
    asr |= {"value": 90.0, "low": 80.0, "high": 99.0, "settings": {"shots": 4}}
    assert compare([asr])[0].paper["Base"] == 29.2
    assert compare([asr])[0].note == "same set, 4 examples of ours"
    mood = {
        "task": "stsp",
        "pack": "sentiment-said",
        "version": "1",
        "direction": "T->S",
        "measure": "accuracy",
    }
    mood |= {"value": 40.0, "low": 30.0, "high": 50.0, "settings": {"shots": 6}}
    line = compare([mood])[0]
    assert (line.paper["Base"], line.paper["Expressive"]) == (None, 39.0)
    assert "other data: synthetic" in line.note


def test_what_was_not_run_has_no_number():
    row = {
        "task": "tts",
        "pack": "librispeech",
        "version": "1 test-clean",
        "direction": "T->S",
        "measure": "CER",
    }
    line = compare([row | {"not_run": "needs a vocoder", "settings": {"shots": 10}}])[0]
    assert (line.ours, line.note, line.paper["Base"]) == (None, "needs a vocoder", 45.5)
    assert "not run" in line.said()


def test_lines_stand_under_their_heading():
    row = {"pack": "swuggy", "version": "1 dev", "direction": "S", "accuracy": ACCURACY}
    said = [heading(), *(line.said() for line in compare([row]))]
    assert {line.index("71.4") for line in said[1:2]} == {said[0].index("Base")}
    assert BESIDE == ("Base", "Expressive")
    json.dumps([line._asdict() for line in compare([row])])
