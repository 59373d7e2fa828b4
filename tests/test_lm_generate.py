"""lm/generate.py: prompt rules, forced modalities with a random model, sampling, agreement with transformers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from lm.generate import allowed, generate, generate_batch, kinds, load, parts, prompt
from lm.model import Model, preset
from shards.text import train_bpe
from shards.vocabulary import Vocabulary

TEXTS = ["the cat sat on the mat", "a dog ran out of the house", "they went out together"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    tokenizer = train_bpe(TEXTS, tmp_path_factory.mktemp("text") / "tokenizer.json", size=280)
    return Vocabulary(tokenizer, units=60, pitch=8, style=4, tasks=True)


@pytest.fixture(scope="module")
def model(vocabulary):
    torch.manual_seed(0)
    model = Model(preset("nano", vocabulary.padded_size, hidden_size=32, num_hidden_layers=2)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # sure of itself, and wrong
    return model


def named(ids, vocabulary):
    return vocabulary.decode(ids)


def test_a_prompt_marks_only_changes_of_modality(vocabulary):
    text = vocabulary.tokenizer.encode
    ids = prompt(
        [
            ("text", "the cat"),
            ("text", "sat"),
            ("speech", "[Hu3][Hu5]"),
            ("speech", "[Hu7]"),
            ("text", "out"),
        ],
        vocabulary,
    )
    wanted = [
        vocabulary.bos,
        vocabulary.text_marker,
        *text("the cat"),
        *text("sat"),
        vocabulary.speech_marker,
    ]
    wanted += [*vocabulary.encode(["[Hu3]", "[Hu5]", "[Hu7]"]), vocabulary.text_marker, *text("out")]
    assert ids == wanted


@pytest.mark.parametrize(
    ("last", "output", "ending"),
    [
        (("text", "cat"), "speech", ["[Speech]"]),
        (("speech", "[Hu3]"), "text", ["[Text]"]),
        (("text", "cat"), "text", []),
        (("speech", "[Hu3]"), "speech", []),
        (("speech", "[Hu3]"), None, []),
    ],
)
def test_the_marker_of_the_output_is_appended_only_when_it_differs(last, output, ending, vocabulary):
    without = prompt([last], vocabulary)
    assert named(prompt([last], vocabulary, output), vocabulary) == named(without, vocabulary) + ending


def test_an_empty_prompt_is_bos_and_the_marker(vocabulary):
    assert prompt([], vocabulary, "speech") == [vocabulary.bos, vocabulary.speech_marker]


@pytest.mark.parametrize(
    ("some", "output", "message"),
    [
        ([("song", "la")], None, "modality: 'text' or 'speech', got 'song'"),
        ([("text", "a")], "song", "modality: 'text' or 'speech', got 'song'"),
        ([("speech", "[Hu3]hello")], None, "speech prompt: need unit, pitch and style names"),
        ([("speech", "[Hu3][Text]")], None, r"speech prompt: .* got '\[Text\]'"),
        ([("speech", "[Hu60]")], None, "not in this vocabulary"),
    ],
)
def test_a_wrong_prompt_is_refused(some, output, message, vocabulary):
    with pytest.raises(ValueError, match=message):
        prompt(some, vocabulary, output)


def test_parts_undo_a_prompt(vocabulary):
    some = [("text", "the cat"), ("speech", "[St1][Pi2][Hu3][Hu5]"), ("text", "sat on")]
    assert parts(prompt(some, vocabulary, "speech"), vocabulary) == some


@pytest.mark.parametrize("source", [("text", "the cat"), ("speech", "[Hu3][Hu5]")])
@pytest.mark.parametrize("modality", ["text", "speech"])
@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0, 0.7, 5.0]),
    penalty=st.sampled_from([1.0, 1.5]),
)
def test_every_direction_gives_its_modality_always(
    source, modality, seed, temperature, penalty, model, vocabulary
):
    ids = prompt([source], vocabulary, modality)
    answer = generate(
        model,
        vocabulary,
        ids,
        modality=modality,
        max_new_tokens=20,
        temperature=temperature,
        repetition_penalty=penalty,
        generator=torch.Generator().manual_seed(seed),
    )
    assert set(kinds(answer, vocabulary)) <= ({"text"} if modality == "text" else {"unit", "pitch", "style"})
    assert modality == "text" or len(answer) == 20


def test_a_free_answer_never_holds_bos_task_markers_or_padding(vocabulary):
    mask = allowed(vocabulary, None)
    banned = {vocabulary.names[i] for i in torch.nonzero(~mask)[:, 0].tolist()}
    padding = {name for name in vocabulary.names if name.startswith("[Unused")}
    assert banned == {"<s>", "[ASR]", "[TTS]"} | padding
    assert allowed(vocabulary, "text")[vocabulary.eos]
    assert not allowed(vocabulary, "speech")[vocabulary.eos]


def test_greedy_answers_are_those_of_transformers(model, vocabulary, tmp_path):
    model.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = prompt([("text", "the cat")], vocabulary, "speech")
    banned = torch.nonzero(~allowed(vocabulary, "speech"))[:, 0].tolist()
    theirs.generation_config.eos_token_id = None  # it would not be banned
    for penalty in (1.0, 1.3):
        wanted = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=25,
            do_sample=False,
            suppress_tokens=banned,
            repetition_penalty=penalty,
            pad_token_id=0,
        )[0, len(ids) :].tolist()
        ours = generate(
            model,
            vocabulary,
            ids,
            modality="speech",
            max_new_tokens=25,
            temperature=0,
            repetition_penalty=penalty,
        )
        assert ours == wanted


def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(model, vocabulary):
    prompts = [
        prompt([("text", "the cat sat on the mat")], vocabulary, "speech"),
        prompt([], vocabulary, "speech"),
        prompt([("speech", "[Hu3][Hu5]")], vocabulary, "speech"),
    ]
    together = generate_batch(model, vocabulary, prompts, modality="speech", max_new_tokens=15, temperature=0)
    alone = [
        generate(model, vocabulary, ids, modality="speech", max_new_tokens=15, temperature=0)
        for ids in prompts
    ]
    assert together == alone


def test_an_answer_ends_at_eos_without_it(model, vocabulary):
    class Ender(Model):
        def forward(self, tokens, positions=None, documents=None, **kwargs):
            logits = super().forward(tokens, positions, documents, **kwargs)
            logits[..., vocabulary.eos] = 1e9 if tokens.shape[1] == 1 else -1e9  # never the first token
            return logits

    ender = Ender(model.settings).eval()
    assert (
        len(generate(ender, vocabulary, prompt([], vocabulary, "text"), modality="text", temperature=0)) == 1
    )


@pytest.mark.parametrize("choices", [{"top_k": 1}, {"top_p": 1e-9}])
def test_the_narrowest_sampling_is_greedy(choices, model, vocabulary):
    ids = prompt([("text", "a dog")], vocabulary, "speech")
    greedy = generate(model, vocabulary, ids, temperature=0, max_new_tokens=10, modality="speech")
    assert generate(model, vocabulary, ids, max_new_tokens=10, modality="speech", **choices) == greedy


def test_one_seed_gives_one_answer(model, vocabulary):
    def answer(seed):
        generator = torch.Generator().manual_seed(seed)
        return generate(
            model, vocabulary, prompt([], vocabulary, "text"), generator=generator, temperature=3.0, top_p=0.9
        )

    assert answer(1) == answer(1) != answer(2)


@pytest.mark.parametrize(
    ("ids", "choices", "message"),
    [
        ([], {}, "prompt: need at least one token"),
        ([0, 10_000], {}, "prompt: need ids in"),
        ([0], {"max_new_tokens": 5000}, "more than the model's 4096"),
        ([0], {"temperature": -1}, "sampling: need temperature >= 0"),
        ([0], {"top_p": 0}, "0 < top_p <= 1"),
        ([0], {"modality": "song"}, "modality: 'text', 'speech' or None, got 'song'"),
    ],
)
def test_impossible_requests_are_one_clear_line(ids, choices, message, model, vocabulary):
    with pytest.raises(ValueError, match=message):
        generate(model, vocabulary, ids, **choices)


def test_a_model_directory_of_another_vocabulary_is_refused(model, vocabulary, tmp_path):
    other = Vocabulary(vocabulary.tokenizer, units=61, pitch=8, style=4, tasks=True)
    model.save_pretrained(tmp_path, vocabulary_hash=vocabulary.hash)
    vocabulary.save(tmp_path)
    assert load(tmp_path)[1].hash == vocabulary.hash
    other.save(tmp_path)
    with pytest.raises(ValueError, match="was made for vocabulary"):
        load(tmp_path)
