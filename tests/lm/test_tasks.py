"""lm/askers.py: every task of a pack has somebody who asks it, and what cannot be asked is said."""

import pytest
import torch

from lm.evaluation.evaluate import evaluate, line
from lm.evaluation.results import compare
from lm.evaluation.tasks import Asking, askers, judges_of
from lm.evaluation.testset import Item, Part, write_pack
from lm.model import Model, preset
from tests.helpers.lm import toy_vocabulary

LABELS = ("negative", "positive")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    vocabulary = toy_vocabulary(folder)
    torch.manual_seed(0)
    Model(preset("pico", vocabulary.padded_size, num_hidden_layers=1)).save_pretrained(
        folder, vocabulary_hash=vocabulary.hash
    )
    vocabulary.save(folder)
    return folder, vocabulary


def pack(folder, task, directions, splits="test train train", **more):
    words = [("the cat sat", "[Hu1][Hu2]"), ("one dog ran", "[Hu3][Hu4]"), ("they went home", "[Hu5][Hu6]")]
    items = [
        Item(f"i{n}", (Part(text, units=units),), label=more.get("labels", [None] * 9)[n % 2], split=split)
        for n, ((text, units), split) in enumerate(zip(words * 2, splits.split()))
    ]
    facts = {"name": task, "task": task, "version": "1", "licence": "CC0", "source": "ours"}
    return write_pack(folder / task, items, directions=directions, **facts, **more)


def test_every_task_gives_a_score_or_says_why_not(saved, tmp_path):
    folder, vocabulary = saved
    packs = [
        pack(tmp_path, "transcribe", ("S->T", "T->S")),
        pack(tmp_path, "classify", ("S->T", "T"), labels=LABELS),
        pack(tmp_path, "continue", ("T", "S->T"), "test test train train train train", labels=LABELS),
    ]
    said = []
    found = evaluate(
        folder, packs, None, vocabulary=vocabulary, askers=askers(Asking(shots=0, runs=1)), say=said.append
    )
    rows = {(row["pack"], row["direction"]): row for row in found["rows"]}
    assert {key for key, row in rows.items() if "value" in row} == {
        ("transcribe", "S->T"),
        ("classify", "S->T"),
        ("continue", "T"),
        ("continue", "S->T"),
    }
    for key in (("transcribe", "T->S"), ("classify", "T")):
        assert rows[key]["not_run"]
        assert "value" not in rows[key]
    assert said == [line(row) for row in found["rows"]]
    assert len(compare(found["rows"])) == len(rows)


def test_a_pack_without_train_items_has_no_learned_judge(tmp_path):
    some = pack(tmp_path, "continue", ("T", "S"), "test test test", labels=LABELS)
    why = judges_of(some, "T", {}, Asking())
    assert why == "no classifier of text was named, and the pack has no train items to learn one from"
    named = judges_of(some, "S", {}, Asking(speech_judge=tmp_path))
    assert named == "a classifier of recordings judges a model's speech through a vocoder, none was named"
