"""Perplexity of text against a loop over tokens through transformers, and what it refuses."""

import math

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

import wordweave
from lm.evaluation.text_loss import UndefinedPerplexity, perplexity
from lm.export import export
from lm.generate import load, prompt
from lm.model import Model, preset
from tests.helpers.lm import toy_vocabulary

TEXTS = ["the cat sat on the mat", "a dog ran out of the house and the cat", "", "they went out together"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text_loss")
    torch.manual_seed(1)
    vocabulary = toy_vocabulary(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 16}
    model = Model(preset("pico", vocabulary.padded_size, **shape)).eval()
    model.save_pretrained(folder / "model", vocabulary_hash=vocabulary.hash)
    vocabulary.save(folder / "model")
    return folder / "model"


def test_the_perplexity_is_that_of_a_loop_over_tokens_through_transformers(saved, tmp_path):
    model, vocabulary = load(saved)
    theirs = AutoModelForCausalLM.from_pretrained(export(saved, tmp_path / "out"))
    nats = tokens = size = 0
    opening = prompt([], vocabulary, "text")
    for text in filter(None, TEXTS):
        ids = vocabulary.tokenizer.encode(text)
        for start in range(0, len(ids), 16 - len(opening)):
            row = opening + ids[start : start + 16 - len(opening)]
            with torch.no_grad():
                logits = theirs(torch.tensor([row])).logits[0].double().log_softmax(-1)
            nats -= sum(float(logits[i - 1, row[i]]) for i in range(len(opening), len(row)))
            tokens += len(row) - len(opening)
        size += len(text.encode())
    ours = perplexity(model, vocabulary, TEXTS)
    assert ours["nats_per_token"] == pytest.approx(nats / tokens, abs=1e-4)
    assert ours["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert ours["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)
    assert (ours["documents"], ours["tokens"], ours["bytes"]) == (3, tokens, size)
    assert ours["low"] <= ours["perplexity"] <= ours["high"]


def test_no_text_has_no_perplexity(saved):
    model, vocabulary = load(saved)
    with pytest.raises(UndefinedPerplexity, match="need a document with at least one token, got none"):
        perplexity(model, vocabulary, ["", "  "])


def test_the_tokenizer_for_the_harness_begins_text_as_training_does(saved, tmp_path):
    vocabulary = load(saved)[1]
    tokenizer = AutoTokenizer.from_pretrained(export(saved, tmp_path / "out", harness=True))
    for text in filter(None, TEXTS):
        assert tokenizer(text).input_ids == prompt([("text", text)], vocabulary)
        assert tokenizer(text, add_special_tokens=False).input_ids == vocabulary.tokenizer.encode(text)


def test_the_command_compares_models_with_the_first(saved, tmp_path):
    path = tmp_path / "held-out.txt"
    path.write_text("\n".join(TEXTS))
    words = ["perplexity", str(path), str(saved), str(saved), "--output", str(tmp_path / "x.json")]
    done = CliRunner().invoke(wordweave.cli, words)
    assert done.exit_code == 0
    assert done.stdout.count("| 1.000 |") == 2
    assert (tmp_path / "x.json").is_file()
    path.write_bytes(b"\xff\xfe\xff")
    refused = CliRunner().invoke(wordweave.cli, words)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "need a text file in UTF-8" in refused.stderr
