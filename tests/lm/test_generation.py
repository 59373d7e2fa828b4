"""Measures of spoken continuations against slow versions and NLTK's numbers, and the whole way from prompt to row."""

import math
import sys
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.evaluation.generation import (
    UndefinedMeasure,
    auto_bleu,
    bleu,
    diversity,
    measure_generation,
    text_model_perplexity,
)
from lm.evaluation.resynthesis import speaker_agreement
from lm.evaluation.tasks.base import TaskOptions
from lm.evaluation.testset import Segment, TestItem, write_testset
from lm.export import export
from lm.generate import load, prompt
from lm.model import Model, preset
from tests.helpers.lm import toy_vocabulary

TEXTS = [
    "the cat saw the cat on the mat", "the dog saw the cat", "a dog ran out of the house and a dog ran", "it rained",
]  # fmt: skip
# nltk 3.10.4: sentence_bleu(all others, text, weights=(0.5, 0.5))
NLTK = [0.377964, 0.707107, 0.0, 0.0]
WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=9)


def test_bleu_is_that_of_nltk():
    words = [text.split() for text in TEXTS]
    values = [bleu(one, words[:i] + words[i + 1 :]) for i, one in enumerate(words)]
    assert values == pytest.approx(NLTK, abs=1e-6)


def slow_auto_bleu(words):
    shares = []
    for n in (1, 2):
        grams = [words[i : i + n] for i in range(len(words) - n + 1)]
        repeated = [gram for i, gram in enumerate(grams) if gram in grams[:i] + grams[i + 1 :]]
        shares.append(len(repeated) / len(grams))
    return math.sqrt(shares[0] * shares[1])


def slow_bleu(words, references):
    precisions = []
    for n in (1, 2):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        hits = 0
        for gram in set(grams):
            most = max(
                sum(tuple(one[i : i + n]) == gram for i in range(len(one) - n + 1)) for one in references
            )
            hits += min(grams.count(gram), most)
        precisions.append(hits / len(grams))
    sizes = Counter(
        {len(one): -abs(len(one) - len(words)) for one in sorted(references, key=len, reverse=True)}
    )
    closest = min(size for size, distance in sizes.items() if distance == max(sizes.values()))
    penalty = 1.0 if len(words) >= closest else math.exp(1 - closest / len(words))
    return penalty * math.sqrt(precisions[0] * precisions[1])


@given(WORDS, st.lists(WORDS, min_size=1, max_size=4))
def test_the_measures_are_those_of_slow_versions(words, references):
    assert auto_bleu(words) == pytest.approx(slow_auto_bleu(words))
    assert bleu(words, references) == pytest.approx(slow_bleu(words, references))


def test_diversity_leaves_out_what_has_no_bigram_and_is_undefined_for_one_text():
    numbers = diversity([*TEXTS, "", "rain"])
    auto = [auto_bleu(text.split()) for text in TEXTS]
    assert numbers["auto-BLEU"][0] == pytest.approx(25 * sum(auto))
    assert numbers["self-BLEU"][0] == pytest.approx(25 * sum(NLTK), abs=1e-4)
    assert numbers["VERT"][0] == pytest.approx(25 * math.sqrt(sum(auto) * sum(NLTK)), abs=1e-4)
    assert all(low <= value <= high for value, low, high in numbers.values())
    with pytest.raises(UndefinedMeasure, match="need 2 transcripts of at least 2 words, got 1 of 3"):
        diversity(["it rained", "", "rain"])
    with pytest.raises(UndefinedMeasure, match="need at least 2 words, got 1"):
        auto_bleu(["rain"])
    with pytest.raises(UndefinedMeasure, match="need at least 2 words and a reference, got 2 and 0"):
        bleu(["it", "rained"], [])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation")
    torch.manual_seed(1)
    vocabulary = toy_vocabulary(folder)
    model = Model(preset("pico", vocabulary.padded_size, hidden_size=32, num_hidden_layers=1)).eval()
    model.save_pretrained(folder / "model", vocabulary_hash=vocabulary.hash)
    vocabulary.save(folder / "model")
    return folder / "model"


def test_genppl_is_that_of_a_loop_over_tokens(saved, tmp_path):
    folder = export(saved, tmp_path / "out")
    model, vocabulary = load(saved)
    nats = count = 0
    for text in TEXTS[:2]:
        ids = [vocabulary.bos, *vocabulary.tokenizer.encode(text)]
        with torch.no_grad():
            scores = model(torch.tensor([ids]))[0].log_softmax(-1)
        nats -= sum(float(scores[i - 1, ids[i]]) for i in range(1, len(ids)))
        count += len(ids) - 1
    value, low, high = text_model_perplexity(folder, [f" {text}" for text in TEXTS[:2]] + [""])
    assert value == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert low <= value <= high
    with pytest.raises(UndefinedMeasure, match="need a transcript with at least one word"):
        text_model_perplexity(folder, ["", ""])
    with pytest.raises(ValueError, match="need a text model in Hugging Face format"):
        text_model_perplexity(tmp_path, ["a"])


def test_continuations_are_spoken_transcribed_and_measured(saved, tmp_path):
    model, vocabulary = load(saved)
    items = [TestItem(str(i), (Segment(units="[Hu3][Hu4]" * 9),), label="x") for i in range(3)]
    testset = write_testset(
        tmp_path / "testset", items, name="mine", task="continue", version="1", licence="CC0-1.0", source="here",
        directions=["S"], labels=["x"],
    )  # fmt: skip
    vocoder, recogniser = tmp_path / "vocoder.py", tmp_path / "recogniser.py"
    vocoder.write_text(
        "import json, sys, wave\nunits = json.load(sys.stdin)['units']\nf = wave.open(sys.argv[1], 'wb')\n"
        "f.setparams((1, 2, 16000, 0, 'NONE', ''))\nf.writeframes(b'\\0\\0' * 640 * len(units))\nf.close()\n"
    )
    recogniser.write_text(
        "import sys, wave\nprint('a b a b c d e'[: 3 + wave.open(sys.argv[1]).getnframes() // 640])\n"
    )
    options = TaskOptions(vocoder=f"{sys.executable} {vocoder}")
    rows = measure_generation(
        model, vocabulary, testset, {}, recogniser=f"{sys.executable} {recogniser}", prompt_units=5, new_tokens=8,
        options=options,
    )  # fmt: skip
    assert [row["measure"] for row in rows] == ["GenPPL", "auto-BLEU", "self-BLEU", "VERT"]
    assert rows[0]["not_run"] == "needs a text model, named with --text-model"
    assert [answer["id"] for answer in rows[0]["answers"]] == ["0", "1", "2"]
    assert (
        rows[1]["value"] == diversity([answer["transcript"] for answer in rows[0]["answers"]])["auto-BLEU"][0]
    )
    with pytest.raises(ValueError, match="need at most the model's"):
        measure_generation(model, vocabulary, testset, {}, recogniser="x", new_tokens=10**6, options=options)
    with pytest.raises(ValueError, match="generation: needs a vocoder"):
        measure_generation(model, vocabulary, testset, {}, recogniser="x")
    silent = tmp_path / "silent.py"
    silent.write_text("print()")
    rows = measure_generation(
        model, vocabulary, testset, {}, recogniser=f"{sys.executable} {silent}", new_tokens=8, options=options
    )
    assert all("not_run" in row and "value" not in row for row in rows)
    assert "need 2 transcripts" in rows[3]["not_run"]
    assert len(prompt([("speech", "[Hu3][Hu4][Hu3][Hu4][Hu3]")], vocabulary, "speech")) == 7


def test_a_voice_is_recognised_only_where_there_is_another():
    assert speaker_agreement([])["not_run"] == "needs at least 2 recordings with voiced speech, got 0"
