"""The scorer: equal to a slow loop with transformers, to planted preferences, and to chance without any."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.evaluation.intervals import share
from lm.evaluation.tasks.base import TaskOptions
from lm.evaluation.tasks.choice import score, sequences
from lm.evaluation.tasks.likelihood import likelihoods
from lm.evaluation.testset import Segment, TestItem, write_testset
from lm.model import Model, preset
from shards.vocabulary import Vocabulary
from tests.helpers.lm import WORDS, toy_vocabulary


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return toy_vocabulary(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def model(vocabulary):
    torch.manual_seed(0)
    made = Model(preset("pico", vocabulary.padded_size, num_hidden_layers=2, initializer_range=0.3))
    return made.requires_grad_(False).eval()


def utterance(rng, most=9):
    """A segment in text and units."""
    words, units = (rng.integers(1, most, 2)).tolist()
    text = " ".join(rng.choice(WORDS, words))
    return Segment(text, units="".join(f"[Hu{unit}]" for unit in rng.integers(0, 40, units)))


def twin_items(count, seed=0):
    """Families of two items: contexts A and B, endings a and b, each fits one."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        contexts, choices = (utterance(rng), utterance(rng)), ((utterance(rng),), (utterance(rng),))
        items += [
            TestItem(f"{number}-{i}", (context,), choices, right=i, family=str(number))
            for i, context in enumerate(contexts)
        ]
    return items


def make_testset(folder, items, directions=("T", "S", "T->S", "S->T")):
    return write_testset(
        folder, items, name="toy", task="choose", version="1", licence="CC0-1.0", source="here", directions=directions
    )  # fmt: skip


def slow(other, vocabulary, prompt, ending):
    """Log-likelihoods of one sequence by transformers: ending, whole, and both over their own modality alone."""
    ids = [*prompt, *ending]
    with torch.inference_mode():
        logits = other(torch.tensor([ids])).logits[0].double()
    kinds = vocabulary.kind(np.arange(vocabulary.padded_size))
    steps, own_steps = [], []
    for place, id in enumerate(ids[1:]):
        steps.append(float(logits[place].log_softmax(0)[id]))
        alike = {0: [0], 1: range(7), 2: [2, 3, 4]}[int(kinds[id])]
        own = torch.tensor([n for n, kind in enumerate(kinds) if kind in alike])
        own_steps.append(float(logits[place][id] - logits[place][own].logsumexp(0)))
    last = slice(len(steps) - len(ending), None)
    return sum(steps[last]), sum(steps), sum(own_steps[last]), sum(own_steps)


def test_likelihoods_are_those_of_a_slow_loop_through_transformers(tmp_path, model, vocabulary):
    from transformers import LlamaForCausalLM

    model.save_pretrained(tmp_path)
    other = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    pairs = [
        pair
        for item in twin_items(2)
        for name in ("T", "S", "T->S", "S->T")
        for pair in sequences(item, name, {}, vocabulary)
    ]
    for pair, ours in zip(pairs, likelihoods(model, vocabulary, pairs), strict=True):
        np.testing.assert_allclose(ours[:4], slow(other, vocabulary, *pair), rtol=1e-4, atol=1e-4)
        assert ours[4:] == (len(pair[1]), len(pair[0]) + len(pair[1]) - 1)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 200), st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=12)
)
def test_batch_size_and_neighbours_change_nothing(model, vocabulary, batch_tokens, lengths):
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(0, vocabulary.size, n).tolist() for n in pair) for pair in lengths]
    single = [likelihoods(model, vocabulary, [pair])[0] for pair in pairs]
    batched = likelihoods(model, vocabulary, pairs + pairs[:1], batch_tokens=batch_tokens)
    np.testing.assert_allclose(batched[:-1], single, rtol=1e-5, atol=1e-5)
    assert batched[-1] == batched[0]  # equal sequences tie exactly


def bigrams(vocabulary, table):
    """A model whose next token depends on the last one alone, with the logits of a (V, V) table."""
    size = vocabulary.padded_size
    shape = {
        "hidden_size": size,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    model = Model(preset("pico", size, **shape)).requires_grad_(False)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
    model.model.embed_tokens.weight.copy_(torch.eye(size))  # the norm makes it sqrt(V) times as long
    model.lm_head.weight.copy_(table.T / size**0.5)
    return model.eval()


def test_a_planted_preference_gives_the_accuracy_that_was_planted(tmp_path, vocabulary):
    table = torch.zeros(vocabulary.padded_size, vocabulary.padded_size)
    first, *_ = vocabulary.encode(" cat")
    table[vocabulary.text_marker, first] = 5.0  # "cat" is liked at the start
    right, wrong = (Segment("cat sat"),), (Segment("dog ran"),)
    items = [TestItem(str(n), (), (right, wrong), right=0 if n < 70 else 1) for n in range(100)]
    result = score(bigrams(vocabulary, table), vocabulary, make_testset(tmp_path, items, ["T"]), "T", {})
    for name, accuracy in result["accuracy"].items():
        assert accuracy.value == pytest.approx(70.0), name
        assert accuracy.low < 70 < accuracy.high
    assert (result["items"], result["chance"]) == (100, 50.0)
    assert "paired_accuracy" not in result


def test_paired_accuracy_shows_a_preference_that_the_endings_own_likelihood_hides(tmp_path, vocabulary):
    table = torch.zeros(vocabulary.padded_size, vocabulary.padded_size)
    unit = vocabulary.first_unit
    table[:, unit + 3] += 6.0  # one ending is likelier always
    table[unit + 10, unit + 3] += 1.0  # and a little more after its own context
    table[unit + 11, unit + 4] += 1.0
    choices = ((Segment(units="[Hu3]"),), (Segment(units="[Hu4]"),))
    items = [
        TestItem(f"{n}-{i}", (Segment(units=f"[Hu{10 + i}]"),), choices, right=i, family=str(n))
        for n in range(20)
        for i in range(2)
    ]
    result = score(bigrams(vocabulary, table), vocabulary, make_testset(tmp_path, items, ["S"]), "S", {})
    assert result["accuracy"]["ending.sum.free"].value == 50.0
    assert (result["paired_accuracy"].value, result["twins"]) == (100.0, 20)


def test_a_uniform_model_is_at_chance(tmp_path, vocabulary):
    uniform = bigrams(vocabulary, torch.zeros(vocabulary.padded_size, vocabulary.padded_size))
    torch.manual_seed(1)
    untrained = Model(preset("pico", vocabulary.padded_size)).eval()
    testset = make_testset(tmp_path, twin_items(60, seed=2))
    for direction in ("T", "T->S"):
        for model in (uniform, untrained):
            result = score(model, vocabulary, testset, direction, {})
            for name, (_, low, high) in result["accuracy"].items():
                assert low <= 50 <= high, (direction, name)
            if model is uniform:  # every token costs the same: ties
                assert (result["accuracy"]["ending.mean.free"].value, result["paired_accuracy"].value) == (
                    50.0,
                    50.0,
                )


def test_masked_scores_leave_the_other_modality_out(tmp_path, vocabulary):
    table = torch.zeros(vocabulary.padded_size, vocabulary.padded_size)
    table[:, vocabulary.first_unit] = 20.0  # this model says nothing but one unit
    pair = (vocabulary.encode("[Text] a cat"), vocabulary.encode(" sat"))
    (result,) = likelihoods(bigrams(vocabulary, table), vocabulary, [pair])
    assert result.ending < -20 * result.ending_tokens + 1
    assert result.ending_masked == pytest.approx(
        -result.ending_tokens * np.log(vocabulary.text_size), rel=1e-5
    )


def test_a_model_with_another_vocabulary_is_refused(tmp_path, model, vocabulary):
    other = Vocabulary(vocabulary.tokenizer, units=300)
    with pytest.raises(ValueError, match="they do not match"):
        score(model, other, make_testset(tmp_path, twin_items(1)), "T", {})
    more_units = Vocabulary(vocabulary.tokenizer, units=41)  # as many rows, other ids
    model.save_pretrained(tmp_path / "model", vocabulary_hash=vocabulary.hash)
    with pytest.raises(ValueError, match="was made for vocabulary"):
        Model.from_pretrained(tmp_path / "model", vocabulary=more_units)


def test_what_cannot_be_scored_is_refused_by_its_row(tmp_path, model, vocabulary):
    items = twin_items(1)
    odd = TestItem(
        "odd",
        (Segment("a cat", units="[Hu1]"),),
        ((Segment("sat", units="[Hu3]"),), (Segment("ran", units="[Hu777]"),)),
        right=0,
    )
    testset = make_testset(tmp_path, [*items, odd])
    with pytest.raises(ValueError, match=r"row 3 \('odd'\).*\[Hu777\]"):
        score(model, vocabulary, testset, "T->S", {})
    long = TestItem("long", (Segment("cat " * 5000, units="[Hu1]"),), items[0].choices, right=0)
    with pytest.raises(ValueError, match=r"row 1 \('long'\).*positions"):
        score(model, vocabulary, make_testset(tmp_path, [long]), "T", {})
    with pytest.raises(ValueError, match="toy: need a direction of T, got S"):
        score(model, vocabulary, make_testset(tmp_path, items, ["T"]), "S", {})


def test_results_are_json_with_every_setting_that_affects_them(tmp_path, model, vocabulary):
    result = score(
        model, vocabulary, make_testset(tmp_path, twin_items(2)), "S->T", {}, TaskOptions(eos=True)
    )
    again = json.loads(json.dumps(result))
    assert again["scoring"] == {"batch_tokens": 8192, "eos": True, "task_markers": False}
    assert len(again["accuracy"]) == 8
    assert again["testset_sha256"] == result["testset_sha256"]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60))
def test_an_interval_contains_its_mean_and_is_never_empty(values):
    result = share(values, 2 * len(values))
    assert result.value == pytest.approx(100 * np.mean(values))
    assert 0 <= result.low <= result.value + 1e-9
    assert result.value - 1e-9 <= result.high <= 100
    assert result.high - result.low > 1
