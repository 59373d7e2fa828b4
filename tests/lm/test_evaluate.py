"""Synthetic test sets, a model evaluated on them, and the study's table."""

import json
import re
import sys
import types

import numpy as np
import pytest
import torch

from corpus.keyed import generator
from corpus.synthetic.grammar import MOODS, TOPICS
from corpus.synthetic.pairs import sentence_pairs, topical_words, twin_moods, twin_stories, word_pairs
from corpus.synthetic.stories import make_text, speak_miniature, stories
from lm.evaluation.datasets.synthetic import NAMES, VOICES, dictionary, make_testsets
from lm.evaluation.evaluate import evaluate, write_results
from lm.evaluation.study import Row, by_row, over_seeds, tabulate, tokens_seen, verdict
from lm.evaluation.tasks.base import TaskOptions
from lm.evaluation.testset import Segment, TestItem, read_testset, write_testset
from lm.model import Model, preset
from lm.training.checkpoint import save_model
from shards.vocabulary import Vocabulary
from tests.helpers.lm import toy_vocabulary


def rng(name):
    return generator(0, "test", name)


def test_no_non_word_is_a_word():
    pairs = word_pairs(rng("words"), 120, dictionary())
    assert {pair.right for pair in pairs} <= set(topical_words())
    assert not {pair.wrong for pair in pairs} & dictionary()
    assert all(len(pair.right) == len(pair.wrong) for pair in pairs)
    assert len({pair.wrong for pair in pairs}) == 120


def test_wrong_sentences_say_the_same_words_in_another_order_or_another_pronoun():
    for pair in sentence_pairs(rng("sentences"), 80):
        right, wrong = (re.findall(r"\w+", text) for text in pair[:2])
        if pair.group == "pronoun":
            assert sum(a != b for a, b in zip(right, wrong)) == 1
            assert {"he", "she"} & set(wrong)
        else:
            assert sorted(right) == sorted(wrong)
            assert right != wrong


def test_twin_stories_differ_in_topic_and_repeat_no_topical_word():
    topical = set(topical_words())
    avoid = frozenset(text for text, _ in zip(stories("topics", 0, "text"), range(2000)))
    for twins in twin_stories(rng("stories"), 60, short=True, avoid=avoid):
        assert twins.first.topic != twins.second.topic
        for story in twins:
            context, ending = (
                set(re.findall(r"\w+", text)) & topical
                for text in (" ".join(story.sentences[:-1]), story.sentences[-1])
            )
            assert not context & ending
            assert len(ending) == 4
            assert ending <= {word for words in TOPICS[story.topic] for word in words}
            assert story.text not in avoid


def test_a_plain_beginning_says_nothing_of_its_mood():
    telling = {word for mood in MOODS.values() for words in mood[:3] for word in words}
    for first, second in twin_moods(rng("moods"), 30):
        assert first.plain == second.plain
        assert first.mood != second.mood
        assert not set(re.findall(r"\w+", first.plain)) & telling


def test_training_and_test_stories_come_from_different_streams():
    spoken = {make_text("topics", 0, "speech", number)[0] for number in range(500)}
    written = {text for text, _ in zip(stories("topics", 0, "text"), range(500))}
    assert len(spoken & written) < 5


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    pytest.importorskip("espeakng_loader", reason="the demo extra synthesises the test sets")
    folder = tmp_path_factory.mktemp("testsets")
    return folder, make_testsets(folder, items=2, seed=3)


def test_every_synthetic_test_set_is_complete_and_is_made_once(synthetic):
    folder, testsets = synthetic
    assert tuple(testsets) == NAMES
    for name, testset in testsets.items():
        assert read_testset(folder / name) == testset
        assert len(testset.recordings) > 0
    before = (folder / "words" / "testset.json").stat().st_mtime_ns
    assert make_testsets(folder, items=2, seed=3) == testsets
    assert (folder / "words" / "testset.json").stat().st_mtime_ns == before


def test_another_avoided_story_makes_the_test_set_anew(tmp_path):
    pytest.importorskip("espeakng_loader", reason="the demo extra synthesises the test sets")

    def texts(testset):
        return {" ".join(one.text for one in (*i.context, *i.choices[i.right])) for i in testset.items}

    first = make_testsets(tmp_path, names=["stories"], items=1, seed=3)["stories"]
    story, other = sorted(texts(first))
    again = make_testsets(tmp_path, names=["stories"], items=1, seed=3, avoid=frozenset([story]))["stories"]
    assert story not in texts(again)
    swapped = make_testsets(tmp_path, names=["stories"], items=1, seed=3, avoid=frozenset(["x"]))["stories"]
    assert texts(swapped) == {story, other}  # as many stories avoided, but others


def test_twins_share_endings_and_differ_in_the_right_one(synthetic):
    for name in ("stories", "recall", "moods-text", "moods-voice"):
        first, second, *_ = synthetic[1][name].items
        assert (first.choices, first.family) == (second.choices, second.family)
        assert (first.right, second.right) == (0, 1)


def test_the_same_seed_gives_the_same_bytes_in_voices_of_no_training_corpus(synthetic, tmp_path):
    folder, testsets = synthetic
    again = make_testsets(tmp_path, names=["words"], items=2, seed=3)["words"]
    assert again.hash == testsets["words"].hash
    for name in again.recordings:
        assert (tmp_path / "words" / name).read_bytes() == (folder / "words" / name).read_bytes()
    manifest = speak_miniature(
        tmp_path / "corpus", transcribed=2, untranscribed=1, text_only=3, voices=2, seed=3
    )
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["speaker"] for row in rows] == ["synth00", "synth01", "synth00"]
    assert min(VOICES) >= 8
    assert sum("text" in row for row in rows) == 2


@pytest.fixture
def saved(tmp_path):
    vocabulary = toy_vocabulary(tmp_path)
    torch.manual_seed(0)
    model = Model(preset("pico", vocabulary.padded_size))
    save_model(tmp_path / "model", model, vocabulary, 0)
    return tmp_path / "model", vocabulary


def toy_testset(folder):
    choices = ((Segment("cat sat", "a.flac"),), (Segment("dog ran", "a.flac"),))
    import numpy as np
    import soundfile

    folder.mkdir()
    soundfile.write(folder / "a.flac", np.zeros(1600), 16_000)
    items = [
        TestItem(str(n), (Segment("a cat", "a.flac"),), choices, right=n % 2, family="x") for n in range(2)
    ]
    facts = {"name": "toy", "task": "choose", "version": "1", "licence": "CC0-1.0", "source": "here"}
    return write_testset(folder, items, directions=["T", "T->S"], **facts)


def test_results_hold_every_direction_and_everything_that_decides_them(saved, tmp_path):
    directory, vocabulary = saved
    testset = toy_testset(tmp_path / "testset")
    result = evaluate(
        directory, [testset], lambda path: "[Hu3][Hu4]", vocabulary=vocabulary, facts={"encoder": "toy"}
    )
    write_results(tmp_path / "results.json", result)
    again = json.loads((tmp_path / "results.json").read_text())
    assert [(row["testset"], row["direction"]) for row in again["rows"]] == [("toy", "T"), ("toy", "T->S")]
    assert again["rows"][1]["accuracy"]["ending.sum.free"][0] == 50.0  # both endings sound alike
    assert again["tokenizers"] == {"encoder": "toy"}
    assert again["vocabulary"]["hash"] == vocabulary.hash
    assert len(again["model"]["sha256"]) == 64


def test_sentiment_is_classified_by_a_fit_on_the_train_items(saved, tmp_path):
    directory, _ = saved
    items = [
        TestItem(f"t{n}", (Segment(word),), label=word, split="train")
        for n, word in enumerate(["cat", "dog"] * 3)
    ]
    items += [
        TestItem("a", (Segment("a cat"),), label="cat"),
        TestItem("b", (Segment("a dog"),), label="dog"),
    ]
    facts = {
        "task": "continue",
        "version": "1",
        "licence": "CC0-1.0",
        "source": "here",
        "labels": ["cat", "dog"],
    }
    testset = write_testset(tmp_path / "testset", items, name="words", directions=["T"], **facts)
    options = TaskOptions(samples_per_prompt=1, new_tokens={"T": 5})
    result = evaluate(directory, [testset], None, options=options)["rows"][0]
    assert 0 <= result["low"] <= result["value"] <= result["high"] <= 100
    assert result["prompts"]["value"] == 100.0


def test_a_model_of_another_vocabulary_is_refused(saved, tmp_path):
    directory, vocabulary = saved
    other = Vocabulary(vocabulary.tokenizer, units=41)
    with pytest.raises(ValueError, match="evaluate it with the build it was trained on"):
        evaluate(directory, [toy_testset(tmp_path / "testset")], None, vocabulary=other)


def run_of(row, seed, paired):
    accuracy = {"ending.sum.free": [70.0, 60.0, 80.0], "ending.mean.free": [75.0, 65.0, 85.0]}
    interval = [paired, paired - 5, paired + 3]
    rows = [
        {"testset": "stories", "direction": name, "accuracy": accuracy, "paired_accuracy": interval}
        for name in ("T->S", "S->T")
    ]
    return {"row": row, "seed": seed, "rows": rows}


def test_the_verdict_needs_the_lower_bound_over_seeds_too():
    steady = by_row([run_of("full", seed, 95.0 + seed) for seed in range(3)])
    assert all(line.endswith("met") for line in verdict(steady))
    shaky = by_row([run_of("full", seed, value) for seed, value in enumerate((99.0, 70.0, 95.0))])
    assert all(line.endswith("MISSED") for line in verdict(shaky))
    apart = by_row([run_of("no interleaving", seed, value) for seed, value in enumerate((80.0, 81.0, 80.5))])
    assert all(line.endswith("MISSED") for line in verdict(apart))
    assert "**96.0**" in tabulate(steady)
    assert over_seeds([50.0])[0] == 50.0


def test_kept_moods_are_in_the_table_with_paired_accuracies():
    run = run_of("full", 0, 95.0)
    run["rows"].append(
        {"testset": "sentiment-text", "direction": "S", "value": 62.0, "low": 52.0, "high": 71.0}
    )
    run["rows"].append({"testset": "sentiment-text", "direction": "T", "not_run": "no judge"})
    table = tabulate(by_row([run]))
    assert "**62.0** [52, 71]" in table
    assert "**95.0**" in table


def test_tokens_by_stream_add_up_to_the_budget(tmp_path):
    lines = [{"tokens": 100, "mixture": {"text": 0.4, "speech": 0.6}}, {"tokens": 100, "held_out": {}}]
    lines.append({"tokens": 300, "mixture": {"text": 0.5, "speech": 0.5}})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tokens_seen(tmp_path) == {"text": 140, "speech": 160}


def test_a_row_needs_seeds():
    with pytest.raises(ValueError, match="need seeds >= 1"):
        Row("full", {"text": 1.0}, seeds=0)


TINY = """
[test]
items = 3
seed = 1
[corpora.topics]
kind = "topics"
transcribed = 12
untranscribed = 8
text_only = 60
voices = 2
seed = 0
[pipeline.corpus]
keep_unaligned = true
[pipeline.units]
clusters = 20
[pipeline.align]
options = { minimum_score = -60.0 }
[pipeline.text]
size = 400
[pipeline.interleave]
text_words = [3, 8]
speech_words = [2, 5]
tasks = true
[pipeline.shards]
valid = 0.4
hold_out_by = "hash"
[builds.topics]
corpus = "topics"
[train]
preset = "pico"
sequence_length = 512
batch_tokens = 512
tokens = 2048
evaluate_every = 100
[[rows]]
name = "full"
testsets = ["stories", "sentiment-text"]
mixture = { text = 1.0, speech = 1.0, interleaved = 1.0 }
[[rows]]
name = "pairs"
mixture = { text = 1.0, speech = 1.0, interleaved = 1.0 }
strategy = "concatenated"
task_markers = true
"""


@pytest.mark.slow
def test_a_study_runs_from_its_config_to_its_table(tmp_path):
    pytest.importorskip("espeakng_loader", reason="the demo extra synthesises the study")
    from wordweave import cli

    config = tmp_path / "tiny.toml"
    config.write_text(TINY)
    words = ["study", str(tmp_path / "study"), "--config", str(config), "--workers", "1"]
    for _ in range(2):  # the second time everything is up to date
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
    results = json.loads((tmp_path / "study" / "study.json").read_text())
    assert set(results["table"]) == {"full", "pairs"}
    directions = ("T", "S", "T->S", "S->T")
    assert set(results["table"]["full"]) == {
        f"{testset} {way}" for testset in ("stories", "sentiment-text") for way in directions
    }
    assert 0 <= results["table"]["full"]["sentiment-text S"]["kept"]["mean"] <= 100
    assert results["test"] == {"stories": 6, "of them trained on": 0}
    assert (tmp_path / "study" / "study.png").stat().st_size > 1000
    assert sum(results["runs"][0]["tokens"].values()) == pytest.approx(2048, abs=4)


def refusal(capsys, *words):
    """Exit code and the one line of a command that refuses."""
    from wordweave import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    lines = capsys.readouterr().err.strip().splitlines()
    return ended.value.code, lines[-1]


def test_the_command_refuses_a_broken_test_set_in_one_line(saved, tmp_path, capsys):
    _, vocabulary = saved
    vocabulary.save(tmp_path / "build" / "shards")
    toy_testset(tmp_path / "testset")
    (tmp_path / "testset" / "a.flac").unlink()
    code, line = refusal(capsys, "evaluate", str(tmp_path / "build"), "--testset", str(tmp_path / "testset"))
    assert code == 1
    assert "row 1 ('0'): audio.missing" in line
    code, line = refusal(capsys, "evaluate", str(tmp_path / "build"), "--testset", str(tmp_path))
    assert code == 1
    assert "is no test set" in line


def test_the_command_scores_test_sets_and_writes_the_results(saved, tmp_path, capsys, monkeypatch):
    import pipelines.operations.evaluate
    from wordweave import cli

    directory, vocabulary = saved
    vocabulary.save(tmp_path / "build" / "shards")
    toy_testset(tmp_path / "testset")
    monkeypatch.setattr(
        pipelines.operations.evaluate, "make_tokenizer", lambda build: lambda path: "[Hu3][Hu4]"
    )
    monkeypatch.setattr(pipelines.operations.evaluate, "describe_tokenizer", lambda build: {"encoder": "toy"})
    monkeypatch.setattr(pipelines.operations.evaluate, "speaker_of", lambda *_: (None, "none for toy units"))
    words = [
        "evaluate",
        str(tmp_path / "build"),
        "--model",
        str(directory),
        "--testset",
        str(tmp_path / "testset"),
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--compare"])
    assert ended.value.code == 0
    results = json.loads((tmp_path / "build" / "evaluation" / "results.json").read_text())
    assert [row["direction"] for row in results["rows"]] == ["T", "T->S"]
    assert "toy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "pairs"', 'name = "pairs"\nseeds = 0', "need seeds >= 1"),
        ('strategy = "concatenated"', 'stratagem = "concatenated"', "stratagem"),
        ('corpus = "topics"', 'corpus = "sports"', "need one of topics, got 'sports'"),
        ("text_only = 60", "written = 60", "[corpora.topics]: unknown key 'written'; known: transcribed, "),
        ("[test]", "[tests]", "unknown key 'tests'; known: test, "),
        ("batch_tokens = 512", "batch_tokens = 500", "multiple of sequence_length"),
    ],
)
def test_a_study_with_a_mistake_in_its_config_is_bad_usage(tmp_path, capsys, old, new, message):
    config = tmp_path / "tiny.toml"
    config.write_text(TINY.replace(old, new))
    code, line = refusal(capsys, "study", str(tmp_path / "study"), "--config", str(config))
    assert code == 2
    assert message in line


def test_a_test_set_can_be_spoken_by_the_second_synthesiser(tmp_path, monkeypatch):
    class Hibari:
        sample_rate = 24_000

        def __call__(self, text, speed, seed):
            assert text[0].isupper()
            return np.sin(np.arange(round(200 * len(text) / speed))).astype(np.float32)

    monkeypatch.setattr("corpus.synthetic.neural.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs hibari-tts; pip install \"wordweave\[voices\]\""):
        make_testsets(tmp_path, names=["stories@hibari"], items=1)
    monkeypatch.setattr("corpus.synthetic.neural.find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "hibari", types.SimpleNamespace(Hibari=Hibari))
    spoken = make_testsets(tmp_path, names=["stories@hibari"], items=1, seed=3)["stories@hibari"]
    assert spoken.source.endswith("spoken by hibari-tts")
    assert len(spoken.items) == 2
    assert all((spoken.folder / name).is_file() for name in spoken.recordings)
    for name, message in (
        ("moods-text@hibari", "only espeak-ng speaks in moods"),
        ("stories@festival", "synthesiser: need one of espeak, hibari, got 'festival'"),
    ):
        with pytest.raises(ValueError, match=message):
            make_testsets(tmp_path / "other", names=[name], items=1)


def test_the_goals_are_stated_for_every_kind_of_voice():
    cell = {"paired": {"mean": 98.0, "over_items": [91.0, 99.0], "over_seeds": [94.0, 100.0]}}
    low = {"paired": {"mean": 55.0, "over_items": [48.0, 61.0], "over_seeds": [float("nan")] * 2}}
    table = {
        "full, trained on espeak": {"stories T->S": cell, "stories@hibari T->S": low},
        "no interleaving, trained on espeak": {"stories@hibari T->S": low},
    }
    assert verdict(table) == [
        "full, trained on espeak, stories T->S: paired accuracy 98.0, lower bound 91.0 "
        "(goal above 80, lower bound above 60): met",
        "full, trained on espeak, stories@hibari T->S: paired accuracy 55.0, lower bound 48.0 "
        "(goal above 80, lower bound above 60): MISSED",
        "no interleaving, trained on espeak, stories@hibari T->S: paired accuracy 55.0 [48.0, 61.0] "
        "(goal contains 50): met",
    ]


def test_every_study_config_of_the_project_can_be_read():
    from pathlib import Path

    from pipelines.operations.study import read_study

    for path in sorted(Path("config/study").glob("*.toml")):
        study = read_study(path)
        if path.stem in ("quick", "full", "gpu"):
            assert {row.name for row in study.rows} >= {"full", "no interleaving", "ASR+TTS pairs"}
        for name in study.builds:
            assert study.build_settings(name, Path("b"), Path("m.jsonl")).interleave.tasks
