"""Test sets: written and read back the same, and refused with their row when anything is missing."""

import json

import numpy as np
import pytest
import soundfile

from lm.evaluation.testset import (
    Segment,
    TestItem,
    as_prompt,
    read_testset,
    tokenize_recordings,
    write_testset,
)

PAIR = (Segment("he served the soup", "audio/a.wav"),), (Segment("he fed the horse", "audio/b.wav"),)
ITEM = TestItem(
    "s-1", (Segment("the cook was here", "audio/c.wav"),), PAIR, right=0, family="s", group="food"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "audio").mkdir()
    for name in "abc":
        soundfile.write(tmp_path / "audio" / f"{name}.wav", np.zeros(1600), 16_000)
    return tmp_path


def write(folder, items, **changes):
    facts = {"name": "stories", "task": "choose", "version": "1", "licence": "CC0-1.0", "source": "here"}
    return write_testset(folder, items, **{**facts, "directions": ["T", "S", "T->S", "S->T"], **changes})


def test_a_pack_is_read_as_it_was_written(folder):
    written = write(folder, [ITEM], note="small")
    assert read_testset(folder) == written
    assert (written.items, written.facts["note"]) == ((ITEM,), "small")
    assert written.recordings == ["audio/c.wav", "audio/a.wav", "audio/b.wav"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": PAIR[:1]}, "needs at least 2 choices, got 1"),
        ({"choices": (PAIR[0], ())}, "a choice is empty"),
        ({"choices": (PAIR[0], (Segment("he fed the horse"),))}, "needs speech in choice 1"),
        ({"context": (Segment(None, "audio/c.wav"),)}, "needs text in context"),
        ({"right": 2}, "right: need a number below 2, got 2"),
        ({"split": "valid"}, "split: need one of"),
        ({"choices": (PAIR[0], (Segment("he fed", "audio/gone.wav"),))}, "audio.missing"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_by_its_number(folder, change, message):
    bad = TestItem(
        **{
            **{name: getattr(ITEM, name) for name in ("context", "choices", "right", "family", "group")},
            "id": "s-2",
            **change,
        }
    )
    with pytest.raises(ValueError, match=r"row 2 \('s-2'\)") as caught:
        write(folder, [ITEM, bad])
    assert message in str(caught.value)


def test_an_unreadable_recording_is_refused_with_its_row(folder):
    write(folder, [ITEM])
    (folder / "audio" / "b.wav").write_bytes(b"RIFF no wave")
    with pytest.raises(ValueError, match=r"row 1 \('s-1'\): audio\.unreadable"):
        read_testset(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.splitlines(keepends=True)[0], "has items 1, testset.json states 2"),
        (lambda text: text.replace("soup", "stew"), "the file was changed"),
        (lambda text: text.replace('"s-2"', '"s-1"'), "row 2 ('s-1'): an earlier row has this id"),
        (lambda text: text[:-20] + "\n", "row 2"),
        (lambda text: text.replace('"right"', '"correct"'), "row 1 ('s-1'): unknown keys ['correct']"),
    ],
)
def test_a_file_that_was_damaged_is_refused(folder, damage, message):
    write(folder, [ITEM, TestItem("s-2", ITEM.context, PAIR, right=1)])
    path = folder / "items.jsonl"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError) as caught:
        read_testset(folder)
    assert message in str(caught.value)


def test_a_manifest_of_another_task_or_none_is_refused(folder):
    with pytest.raises(ValueError, match="is no test set"):
        read_testset(folder)
    write(folder, [ITEM])
    message = json.loads((folder / "testset.json").read_text())
    (folder / "testset.json").write_text(json.dumps(message | {"task": "guess"}))
    with pytest.raises(ValueError, match="task: need one of choose"):
        read_testset(folder)
    with pytest.raises(ValueError, match="label: need one of happy, got 'sad'"):
        write(folder, [TestItem("a", ITEM.context, label="sad")], task="continue", labels=["happy"])


def test_recordings_are_encoded_once_and_a_failure_names_its_row(folder):
    testset = write(folder, [ITEM])
    calls = []
    speech_tokens = tokenize_recordings(
        testset, testset.items, lambda path: calls.append(path.name) or f"[Hu{len(calls)}]"
    )
    assert speech_tokens == {"audio/c.wav": "[Hu1]", "audio/a.wav": "[Hu2]", "audio/b.wav": "[Hu3]"}
    assert as_prompt(ITEM.choices[1], "speech", speech_tokens) == [("speech", "[Hu3]")]

    def deaf(path):
        raise ValueError("no frames")

    with pytest.raises(ValueError, match=r"row 1 \('s-1'\): no frames"):
        tokenize_recordings(testset, testset.items, deaf)
