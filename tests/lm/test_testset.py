"""Packs: written and read back the same, and refused with their row when anything is missing."""

import json

import numpy as np
import pytest
import soundfile

from lm.evaluation.testset import Item, Part, as_prompt, hear, read_pack, write_pack

PAIR = (Part("he served the soup", "audio/a.wav"),), (Part("he fed the horse", "audio/b.wav"),)
ITEM = Item("s-1", (Part("the cook was here", "audio/c.wav"),), PAIR, right=0, family="s", group="food")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "audio").mkdir()
    for name in "abc":
        soundfile.write(tmp_path / "audio" / f"{name}.wav", np.zeros(1600), 16_000)
    return tmp_path


def write(folder, items, **changes):
    facts = {"name": "stories", "task": "choose", "version": "1", "licence": "CC0-1.0", "source": "here"}
    return write_pack(folder, items, **{**facts, "directions": ["T", "S", "T->S", "S->T"], **changes})


def test_a_pack_is_read_as_it_was_written(folder):
    written = write(folder, [ITEM], note="small")
    assert read_pack(folder) == written
    assert (written.items, written.facts["note"]) == ((ITEM,), "small")
    assert written.recordings == ["audio/c.wav", "audio/a.wav", "audio/b.wav"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choices": PAIR[:1]}, "needs at least 2 choices, got 1"),
        ({"choices": (PAIR[0], ())}, "a choice is empty"),
        ({"choices": (PAIR[0], (Part("he fed the horse"),))}, "needs speech in choice 1"),
        ({"context": (Part(None, "audio/c.wav"),)}, "needs text in context"),
        ({"right": 2}, "right: need a number below 2, got 2"),
        ({"split": "valid"}, "split: one of"),
        ({"choices": (PAIR[0], (Part("he fed", "audio/gone.wav"),))}, "audio.missing"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_by_its_number(folder, change, said):
    bad = Item(**{**{name: getattr(ITEM, name) for name in ITEM.__slots__}, "id": "s-2", **change})
    with pytest.raises(ValueError, match=r"row 2 \('s-2'\)") as caught:
        write(folder, [ITEM, bad])
    assert said in str(caught.value)


def test_an_unreadable_recording_is_refused_with_its_row(folder):
    write(folder, [ITEM])
    (folder / "audio" / "b.wav").write_bytes(b"RIFF no wave")
    with pytest.raises(ValueError, match=r"row 1 \('s-1'\): audio\.unreadable"):
        read_pack(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.splitlines(keepends=True)[0], "has items 1, pack.json says 2"),
        (lambda text: text.replace("soup", "stew"), "the file was changed"),
        (lambda text: text.replace('"s-2"', '"s-1"'), "row 2 ('s-1'): an earlier row has this id"),
        (lambda text: text[:-20] + "\n", "row 2"),
        (lambda text: text.replace('"right"', '"correct"'), "row 1 ('s-1'): has no ['correct']"),
    ],
)
def test_a_file_that_was_damaged_is_refused(folder, damage, said):
    write(folder, [ITEM, Item("s-2", ITEM.context, PAIR, right=1)])
    path = folder / "items.jsonl"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError) as caught:
        read_pack(folder)
    assert said in str(caught.value)


def test_a_manifest_of_another_task_or_none_is_refused(folder):
    with pytest.raises(ValueError, match="is no pack"):
        read_pack(folder)
    write(folder, [ITEM])
    said = json.loads((folder / "pack.json").read_text())
    (folder / "pack.json").write_text(json.dumps(said | {"task": "guess"}))
    with pytest.raises(ValueError, match="task: one of choose"):
        read_pack(folder)
    with pytest.raises(ValueError, match="label: one of happy, got 'sad'"):
        write(folder, [Item("a", ITEM.context, label="sad")], task="continue", labels=["happy"])


def test_recordings_are_encoded_once_and_a_failure_names_its_row(folder):
    pack = write(folder, [ITEM])
    calls = []
    heard = hear(pack, pack.items, lambda path: calls.append(path.name) or f"[Hu{len(calls)}]")
    assert heard == {"audio/c.wav": "[Hu1]", "audio/a.wav": "[Hu2]", "audio/b.wav": "[Hu3]"}
    assert as_prompt(ITEM.choices[1], "speech", heard) == [("speech", "[Hu3]")]

    def deaf(path):
        raise ValueError("no frames")

    with pytest.raises(ValueError, match=r"row 1 \('s-1'\): no frames"):
        hear(pack, pack.items, deaf)
