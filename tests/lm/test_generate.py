"""lm/generate.py: prompt rules, forced modalities with a random model, sampling, agreement with transformers."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import wordweave
from lm.generate import allowed, describe, generate, generate_batch, kinds, load, parts, prompt
from lm.model import Model, preset
from shards.interleave import interleave
from shards.sequence import make_document
from shards.text import train_bpe
from shards.utterance import TokenizedUtterance
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
    ("some", "output", "written"),
    [
        ([("speech", "[Hu3]")], "text", "<s>[Speech][Hu3][ASR]"),
        ([("text", "the cat")], "speech", "<s>[Text] the cat[TTS]"),
        (
            [("speech", "[Hu3]"), ("text", "the cat"), ("speech", "[Hu5]")],
            "text",
            "<s>[Speech][Hu3][ASR] the cat[Speech][Hu5][ASR]",
        ),
        (
            [("text", "a dog"), ("speech", "[Hu3]"), ("text", "the cat")],
            "speech",
            "<s>[Text] a dog[TTS][Hu3][Text] the cat[TTS]",
        ),
    ],
)
def test_a_task_is_asked_with_its_marker_where_the_prompt_turns_to_the_answer(
    some, output, written, vocabulary
):
    assert vocabulary.render(prompt(some, vocabulary, output, task_markers=True)) == written


def test_a_task_prompt_begins_as_its_training_sequences_do(vocabulary):
    words, unit_frames = ["the", "cat", "sat"], np.repeat([3, 5, 7], 4)
    ids, ends = vocabulary.tokenizer.encode_words(words)
    times = np.arange(4) * 4 / 25
    spoken = TokenizedUtterance(
        "u1", unit_frames, 25.0, 0.02, ids, ends, times[:-1], times[1:], times[-1], vocabulary
    )
    for seed in range(8):
        sequence = make_document(
            interleave(spoken, "concatenated", np.random.default_rng(seed)), vocabulary
        ).tolist()
        given = ("speech", "[Hu3][Hu5][Hu7]"), ("text", "the cat sat")
        first, output = given if "[ASR]" in vocabulary.decode(sequence) else given[::-1]
        opening = prompt([first], vocabulary, output[0], task_markers=True)
        assert sequence[: len(opening)] == opening


def test_a_task_that_cannot_be_asked_is_one_clear_line(vocabulary):
    for some, output in (([], "text"), ([("text", "a")], "text"), ([("text", "a")], None)):
        with pytest.raises(
            ValueError, match="task markers: need an output modality, and a last part of the other"
        ):
            prompt(some, vocabulary, output, task_markers=True)
    plain = Vocabulary(vocabulary.tokenizer, units=60)
    with pytest.raises(ValueError, match=r"task markers: this vocabulary has no \[ASR\] and \[TTS\]"):
        prompt([("text", "a")], plain, "speech", task_markers=True)


def test_an_answer_is_told_as_text_token_string_and_units(vocabulary):
    ids = prompt([("text", "the cat"), ("speech", "[St1][Pi2][Hu3][Hu5]"), ("text", "sat")], vocabulary)
    assert describe(ids, vocabulary) == {
        "text": "the cat sat",
        "tokens": "<s>[Text] the cat[Speech][St1][Pi2][Hu3][Hu5][Text] sat",
        "units": [3, 5],
    }


@pytest.fixture
def run_generate(model, vocabulary, tmp_path, monkeypatch):
    """Runs `wordweave generate` on a small model; every recording is tokenised to [Hu9]."""
    model.save_pretrained(tmp_path / "model" / "best", vocabulary_hash=vocabulary.hash)
    vocabulary.save(tmp_path / "model" / "best")
    (tmp_path / "a.wav").write_bytes(b"")
    monkeypatch.setattr("pipelines.operations.generate.tokenize_file", lambda build, path: "[Hu9]")

    def run(*words):
        words = [str(tmp_path / "a.wav") if word == "a.wav" else word for word in words]
        return CliRunner().invoke(wordweave.cli, ["generate", str(tmp_path), *words])

    return run


def test_prompts_are_read_in_the_order_given(run_generate):
    given = ["--units", "[Hu3]", "--text", "the cat", "--audio", "a.wav", "--text", "sat", "--units", "[Hu4]"]
    done = run_generate(*given, "--to", "speech", "--count", "3", "--length", "5", "--top-k", "9", "--json")
    assert done.exit_code == 0, done.output
    answers = json.loads(done.stdout.splitlines()[-1])["answers"]
    prompt_parts = [
        ["speech", "[Hu3]"],
        ["text", "the cat"],
        ["speech", "[Hu9]"],
        ["text", "sat"],
        ["speech", "[Hu4]"],
    ]
    assert [answer["prompt"] for answer in answers] == [prompt_parts] * 3
    assert [answer["to"] for answer in answers] == ["speech"] * 3
    assert all(answer["text"] == "" and answer["tokens"].startswith("[") for answer in answers)
    assert len({answer["tokens"] for answer in answers}) == 3  # three draws, not one three times


@pytest.mark.parametrize("to", ["text", "speech", "free"])
def test_the_command_forces_a_modality_or_leaves_it_free(to, run_generate, vocabulary):
    done = run_generate(
        "--text", "the cat", "--to", to, "--count", "4", "--repetition-penalty", "1.3", "--json"
    )
    answers = json.loads(done.stdout.splitlines()[-1])["answers"]
    produced = {kind for answer in answers for kind in kinds(vocabulary.encode(answer["tokens"]), vocabulary)}
    wanted = {"text": {"text"}, "speech": {"unit", "pitch", "style"}}
    assert produced <= wanted.get(to, {"text", "unit", "pitch", "style", "marker"})


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--text", "a", "--task-markers"], 2, "--task-markers: needs --to text or --to speech"),
        (["--text", "a", "--all-directions"], 2, "--all-directions: takes its prompts from BUILD"),
        (["--units", "[Hu3]x"], 1, "speech prompt: need unit, pitch and style names"),
        (["--units", "[Hu77]"], 1, "token '[Hu77]': not in this vocabulary"),
        (["--text", "a", "--length", "5000"], 1, "more than the model's 4096"),
        (["--count", "0"], 2, "--count"),
    ],
)
def test_a_wrong_question_is_one_clear_line(words, code, line, run_generate):
    done = run_generate(*words)
    assert (done.exit_code, line in done.output, len(done.output.splitlines())) == (code, True, 1), (
        done.output
    )


@pytest.mark.parametrize(
    ("some", "output", "message"),
    [
        ([("song", "la")], None, "modality: need 'text' or 'speech', got 'song'"),
        ([("text", "a")], "song", "modality: need 'text' or 'speech', got 'song'"),
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
        ([0], {"modality": "song"}, "modality: need 'text', 'speech' or None, got 'song'"),
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
