"""The registry of tasks: every task of a test set is run, and what cannot be run has a reason."""

import pytest
import torch

from lm.evaluation.evaluate import evaluate, summary
from lm.evaluation.results import compare
from lm.evaluation.tasks import TASKS
from lm.evaluation.tasks.base import TaskOptions
from lm.evaluation.tasks.sentiment_preservation import classifiers_for
from lm.evaluation.testset import TASKS as TESTSET_TASKS
from lm.evaluation.testset import Segment, TestItem, write_testset
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


def make_testset(folder, task, directions, splits="test train train", **more):
    words = [("the cat sat", "[Hu1][Hu2]"), ("one dog ran", "[Hu3][Hu4]"), ("they went home", "[Hu5][Hu6]")]
    items = [
        TestItem(
            f"i{n}", (Segment(text, units=units),), label=more.get("labels", [None] * 9)[n % 2], split=split
        )
        for n, ((text, units), split) in enumerate(zip(words * 2, splits.split()))
    ]
    facts = {"name": task, "task": task, "version": "1", "licence": "CC0", "source": "ours"}
    return write_testset(folder / task, items, directions=directions, **facts, **more)


def test_the_registry_has_every_task_that_a_test_set_may_name():
    assert tuple(TASKS) == TESTSET_TASKS


def test_every_task_gives_a_score_or_the_reason_why_not(saved, tmp_path):
    folder, vocabulary = saved
    testsets = [
        make_testset(tmp_path, "transcribe", ("S->T", "T->S")),
        make_testset(tmp_path, "classify", ("S->T", "T"), labels=LABELS),
        make_testset(tmp_path, "continue", ("T", "S->T"), "test test train train train train", labels=LABELS),
    ]
    lines = []
    options = TaskOptions(shots=0, samples_per_prompt=1)
    results = evaluate(folder, testsets, None, vocabulary=vocabulary, options=options, say=lines.append)
    rows = {(row["testset"], row["direction"]): row for row in results["rows"]}
    assert {key for key, row in rows.items() if "value" in row} == {
        ("transcribe", "S->T"),
        ("classify", "S->T"),
        ("continue", "T"),
        ("continue", "S->T"),
    }
    for key in (("transcribe", "T->S"), ("classify", "T")):
        assert rows[key]["not_run"]
        assert "value" not in rows[key]
    assert lines == [summary(row) for row in results["rows"]]
    assert len(compare(results["rows"])) == len(rows)


def test_without_train_items_there_is_no_fitted_classifier(tmp_path):
    some = make_testset(tmp_path, "continue", ("T", "S"), "test test test", labels=LABELS)
    reason = classifiers_for(some, "T", {}, TaskOptions())
    assert reason == "need a classifier of text, or train items in the test set to fit one; got neither"
    reason = classifiers_for(some, "S", {}, TaskOptions(speech_classifier=tmp_path))
    assert reason == "a classifier of recordings needs a vocoder for speech tokens, got none"
