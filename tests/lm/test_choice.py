"""The scorer: equal to a slow loop through transformers, to what was planted, and to chance where nothing is known."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.evaluation.tasks.choice import Scoring, interval, score, sequences
from lm.evaluation.tasks.likelihood import likelihoods
from lm.evaluation.testset import Item, Part, write_pack
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


def said(rng, most=9):
    """A part in text and units."""
    words, units = (rng.integers(1, most, 2)).tolist()
    text = " ".join(rng.choice(WORDS, words))
    return Part(text, units="".join(f"[Hu{unit}]" for unit in rng.integers(0, 40, units)))


def twin_items(count, seed=0):
    """Families of two items: contexts A and B, endings a and b, each fits one."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        contexts, choices = (said(rng), said(rng)), ((said(rng),), (said(rng),))
        items += [
            Item(f"{number}-{i}", (context,), choices, right=i, family=str(number))
            for i, context in enumerate(contexts)
        ]
    return items


def made_pack(folder, items, directions=("T", "S", "T->S", "S->T")):
    return write_pack(
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
    alone = [likelihoods(model, vocabulary, [pair])[0] for pair in pairs]
    together = likelihoods(model, vocabulary, pairs + pairs[:1], batch_tokens=batch_tokens)
    np.testing.assert_allclose(together[:-1], alone, rtol=1e-5, atol=1e-5)
    assert together[-1] == together[0]  # equal sequences tie exactly


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
    right, wrong = (Part("cat sat"),), (Part("dog ran"),)
    items = [Item(str(n), (), (right, wrong), right=0 if n < 70 else 1) for n in range(100)]
    found = score(bigrams(vocabulary, table), vocabulary, made_pack(tmp_path, items, ["T"]), "T")
    for name, accuracy in found["accuracy"].items():
        assert accuracy.value == pytest.approx(70.0), name
        assert accuracy.low < 70 < accuracy.high
    assert (found["items"], found["chance"]) == (100, 50.0)
    assert "contrast" not in found


def test_the_contrast_sees_a_preference_that_the_endings_own_likelihood_hides(tmp_path, vocabulary):
    table = torch.zeros(vocabulary.padded_size, vocabulary.padded_size)
    unit = vocabulary.first_unit
    table[:, unit + 3] += 6.0  # one ending is likelier always
    table[unit + 10, unit + 3] += 1.0  # and a little more after its own context
    table[unit + 11, unit + 4] += 1.0
    choices = ((Part(units="[Hu3]"),), (Part(units="[Hu4]"),))
    items = [
        Item(f"{n}-{i}", (Part(units=f"[Hu{10 + i}]"),), choices, right=i, family=str(n))
        for n in range(20)
        for i in range(2)
    ]
    found = score(bigrams(vocabulary, table), vocabulary, made_pack(tmp_path, items, ["S"]), "S")
    assert found["accuracy"]["ending.sum.free"].value == 50.0
    assert (found["contrast"].value, found["twins"]) == (100.0, 20)


def test_a_uniform_model_is_at_chance(tmp_path, vocabulary):
    uniform = bigrams(vocabulary, torch.zeros(vocabulary.padded_size, vocabulary.padded_size))
    torch.manual_seed(1)
    untrained = Model(preset("pico", vocabulary.padded_size)).eval()
    pack = made_pack(tmp_path, twin_items(60, seed=2))
    for direction in ("T", "T->S"):
        for model in (uniform, untrained):
            found = score(model, vocabulary, pack, direction)
            for name, (_, low, high) in found["accuracy"].items():
                assert low <= 50 <= high, (direction, name)
            if model is uniform:  # every token costs the same: ties
                assert (found["accuracy"]["ending.mean.free"].value, found["contrast"].value) == (50.0, 50.0)


def test_masked_scores_leave_the_other_modality_out(tmp_path, vocabulary):
    table = torch.zeros(vocabulary.padded_size, vocabulary.padded_size)
    table[:, vocabulary.first_unit] = 20.0  # this model says nothing but one unit
    pair = (vocabulary.encode("[Text] a cat"), vocabulary.encode(" sat"))
    (found,) = likelihoods(bigrams(vocabulary, table), vocabulary, [pair])
    assert found.ending < -20 * found.ending_tokens + 1
    assert found.ending_masked == pytest.approx(-found.ending_tokens * np.log(vocabulary.text_size), rel=1e-5)


def test_a_model_with_another_vocabulary_is_refused(tmp_path, model, vocabulary):
    other = Vocabulary(vocabulary.tokenizer, units=300)
    with pytest.raises(ValueError, match="they do not belong together"):
        score(model, other, made_pack(tmp_path, twin_items(1)), "T")
    more_units = Vocabulary(vocabulary.tokenizer, units=41)  # as many rows, other ids
    model.save_pretrained(tmp_path / "model", vocabulary_hash=vocabulary.hash)
    with pytest.raises(ValueError, match="was made for vocabulary"):
        Model.from_pretrained(tmp_path / "model", vocabulary=more_units)


def test_what_cannot_be_scored_is_refused_by_its_row(tmp_path, model, vocabulary):
    items = twin_items(1)
    odd = Item(
        "odd",
        (Part("a cat", units="[Hu1]"),),
        ((Part("sat", units="[Hu3]"),), (Part("ran", units="[Hu777]"),)),
        right=0,
    )
    pack = made_pack(tmp_path, [*items, odd])
    with pytest.raises(ValueError, match=r"row 3 \('odd'\).*\[Hu777\]"):
        score(model, vocabulary, pack, "T->S")
    long = Item("long", (Part("cat " * 5000, units="[Hu1]"),), items[0].choices, right=0)
    with pytest.raises(ValueError, match=r"row 1 \('long'\).*positions"):
        score(model, vocabulary, made_pack(tmp_path, [long]), "T")
    with pytest.raises(ValueError, match="directions T, not S"):
        score(model, vocabulary, made_pack(tmp_path, items, ["T"]), "S")


def test_results_are_json_with_all_that_could_move_them(tmp_path, model, vocabulary):
    found = score(model, vocabulary, made_pack(tmp_path, twin_items(2)), "S->T", settings=Scoring(eos=True))
    again = json.loads(json.dumps(found))
    assert again["scoring"] == {"batch_tokens": 8192, "eos": True, "task": False}
    assert len(again["accuracy"]) == 8
    assert again["pack_sha256"] == found["pack_sha256"]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60))
def test_an_interval_holds_its_mean_and_is_never_empty(values):
    found = interval(values, 2 * len(values))
    assert found.value == pytest.approx(100 * np.mean(values))
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 100
    assert found.high - found.low > 1
