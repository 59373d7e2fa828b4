"""The paper's numbers next to ours, never without stating what data they are from."""

import json

import pytest

from lm.evaluation.results import Comparison, compare, heading, read_paper

ACCURACY = {"ending.sum.free": [70.0, 60.0, 80.0], "ending.mean.free": [65.0, 55.0, 75.0]}


def select(rows, **values):
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


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
        assert select(rows, model=model, task=task, direction=direction, measure=measure)[0]["value"] == value
    assert select(rows, model="Base", task="asr")[1]["value"] == 29.2
    assert select(rows, model="Expressive", task="stsp", direction="S", setting="9-shot")[0]["value"] == 40.0
    keys = [tuple(row[name] for name in ("model", "task", "direction", "measure", "setting")) for row in rows]
    assert len(keys) == len(set(keys))
    assert all(0 < row["value"] < 115 or row["measure"] == "bits per second" for row in rows)


@pytest.mark.parametrize(
    ("testset", "version", "note", "base"),
    [
        ("swuggy", "1 dev", "same set", [71.4, 69.0]),
        ("swuggy", "1 dev partial", "INCOMPLETE SET", [71.4, 69.0]),
        ("words", "1", "other data: synthetic analogue of swuggy", [71.4, 69.0]),
        ("mine", "1", "not in the paper", [None, None]),
    ],
)
def test_a_line_states_what_it_is_compared_with(testset, version, note, base):
    row = {"testset": testset, "version": version, "direction": "S", "accuracy": ACCURACY}
    lines = compare([row])
    assert [(line.measure, line.ours) for line in lines] == [("sum", 70.0), ("mean", 65.0)]
    assert [line.paper["Base"] for line in lines] == base
    assert all(note in line.note for line in lines)
    assert ("other data" in lines[0].note) == (testset == "words")


def test_paired_accuracy_has_no_number_in_the_paper():
    row = {"testset": "stories", "version": "1", "direction": "S->T", "accuracy": ACCURACY}
    line = compare([row | {"paired_accuracy": [98.0, 95.0, 99.0]}])[-1]
    assert (line.measure, line.ours, set(line.paper.values())) == ("paired accuracy", 98.0, {None})


def test_a_test_set_that_the_paper_does_not_have_is_not_called_the_same():
    row = {"testset": "recall", "version": "1", "direction": "S", "accuracy": ACCURACY}
    assert {line.note for line in compare([row])} == {"not in the paper"}


def test_few_shot_and_sentiment_are_compared_with_their_own_settings():
    asr = {
        "task": "asr",
        "testset": "librispeech",
        "version": "1 test-other",
        "direction": "S->T",
        "measure": "WER",
    }
    asr |= {"value": 90.0, "low": 80.0, "high": 99.0, "settings": {"shots": 4}}
    assert compare([asr])[0].paper["Base"] == 29.2
    assert compare([asr])[0].note == "same set, 4 examples of our own choice"
    mood = {
        "task": "stsp",
        "testset": "sentiment-text",
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
        "testset": "librispeech",
        "version": "1 test-clean",
        "direction": "T->S",
        "measure": "CER",
    }
    line = compare([row | {"not_run": "needs a vocoder", "settings": {"shots": 10}}])[0]
    assert (line.ours, line.note, line.paper["Base"]) == (None, "needs a vocoder", 45.5)
    assert line.to_text().split()[:5] == ["librispeech", "T->S", "CER", "not", "run"]


def test_the_table_is_printed_in_columns():
    row = {"testset": "swuggy", "version": "1 dev", "direction": "S", "accuracy": ACCURACY}
    table = [heading(), *(line.to_text() for line in compare([row]))]
    columns = (0, 17, 22, 56, 79, 87, 94)  # test set, direction, measure, ours, Base, Expressive, data
    cells = [[line[a:b].strip() for a, b in zip(columns, (*columns[1:], None))] for line in table]
    assert cells == [
        ["test set", "", "measure", "ours [95 %]", "Base", "Expres", "data"],
        ["swuggy", "S", "sum", "70.0 [ 60.0,  80.0]", "71.4", "66.2", "same set"],
        ["swuggy", "S", "mean", "65.0 [ 55.0,  75.0]", "69.0", "65.0", "same set"],
    ]


def test_a_line_survives_json():
    row = {"testset": "swuggy", "version": "1 dev", "direction": "S", "accuracy": ACCURACY}
    line = compare([row])[0]
    assert Comparison(**json.loads(json.dumps(line._asdict()))) == line
