"""Few-shot tasks: the prompts, what counts as an answer, and that a model which knows the answers scores fully."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lm.evaluation.intervals import bootstrap
from lm.evaluation.tasks.few_shot import (
    END,
    START,
    FewShot,
    choose_examples,
    error_rate,
    exact_matches,
    plain,
    run_few_shot,
)
from lm.evaluation.testset import Segment, TestItem, TestSet, write_testset
from lm.model import Model, preset
from tests.helpers.lm import toy_vocabulary

SENTENCES = [
    "the cat sat",
    "one dog ran home",
    "they went out",
    "his house",
    "eat the fish",
    "a mat on a mat",
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return toy_vocabulary(tmp_path_factory.mktemp("vocabulary"))


def utterance(number: int, text: str) -> Segment:
    return Segment(text, units="".join(f"[Hu{(number * 7 + i) % 40}]" for i in range(6)))


@pytest.fixture
def spoken(tmp_path) -> TestSet:
    """Six utterances, three of them examples."""
    items = [
        TestItem(f"u{i}", (utterance(i, text),), split="test" if i < 3 else "train")
        for i, text in enumerate(SENTENCES)
    ]
    facts = {"name": "asr", "task": "transcribe", "version": "1", "licence": "CC0", "source": "ours"}
    return write_testset(tmp_path / "asr", items, directions=("S->T", "T->S"), **facts)


@pytest.fixture
def commands(tmp_path) -> TestSet:
    labels = ("lights on", "music off")
    items = [
        TestItem(f"c{i}", (utterance(i, "x"),), label=labels[i % 2], split="test" if i < 4 else "train")
        for i in range(10)
    ]
    facts = {"name": "intents", "task": "classify", "version": "1", "licence": "CC0", "source": "ours"}
    return write_testset(tmp_path / "ic", items, directions=("S->T",), labels=labels, **facts)


class Parrot(Model):
    """A model that gives a fixed answer to a question, known by the end of its prompt, and then the stop."""

    def __init__(self, vocabulary, answers: dict[tuple[int, ...], list[int]], stop: int):
        super().__init__(preset("pico", vocabulary.padded_size, num_hidden_layers=1))
        self.answers, self.stop, self.prompts = answers, stop, []

    def forward(self, tokens, positions=None, documents=None, *, cache=None, last=None, **more):
        if last is not None:
            self.left = []
            for row, end in zip(tokens.tolist(), last.tolist()):
                self.prompts.append(tuple(row[: end + 1]))
                known = [a for q, a in self.answers.items() if tuple(row[: end + 1])[-len(q) :] == q]
                self.left.append([*(known[0] if known else []), self.stop])
        logits = torch.zeros(len(tokens), self.settings.vocab_size)
        for b, left in enumerate(self.left):
            logits[b, left.pop(0) if len(left) > 1 else left[0]] = 9.0
        return logits if last is not None else logits[:, None]


def units(vocabulary, part: Segment) -> tuple[int, ...]:
    return tuple(vocabulary.encode(part.units))


def parrot_of(vocabulary, testset, change=lambda text: text):
    """One that transcribes every utterance of a test set, with a change."""
    answers = {
        (*units(vocabulary, item.context[0]), vocabulary.text_marker): vocabulary.tokenizer.encode(
            f"{START} {change(item.context[0].text)} {END} and more"
        )
        for item in testset.items
    }
    return Parrot(vocabulary, answers, vocabulary.speech_marker)


def test_asr_prompts_are_those_printed_in_the_paper(vocabulary, spoken):
    model = parrot_of(vocabulary, spoken)
    result = run_few_shot(model, vocabulary, spoken, "asr", {}, FewShot(shots=2))
    chosen = {item.id: item.context[0] for item in spoken.items}
    first, second = (chosen[id] for id in result["examples"])
    expected = "".join(f"[Speech]{p.units}[Text] {START} {p.text} {END}" for p in (first, second))
    prompts = vocabulary.render(model.prompts[0])
    test = next(p for p in chosen.values() if p.units in prompts.rpartition("[Speech]")[2])
    assert prompts == f"<s>{expected}[Speech]{test.units}[Text]"
    assert result["examples_used"] == {"min": 2, "mean": 2.0}


def test_a_model_that_knows_the_transcripts_has_no_errors(vocabulary, spoken):
    result = run_few_shot(parrot_of(vocabulary, spoken), vocabulary, spoken, "asr", {}, FewShot(shots=2))
    assert (result["measure"], result["value"], result["low"], result["high"]) == ("WER", 0.0, 0.0, 0.0)
    assert (result["unstopped"], result["words"]) == (0, 10)
    assert [one["output"] for one in result["answers"]] == SENTENCES[:3]


def test_planted_errors_are_counted(vocabulary, spoken):
    model = parrot_of(vocabulary, spoken, lambda text: text.replace("dog", "cat dog").replace("out", "home"))
    result = run_few_shot(model, vocabulary, spoken, "asr", {}, FewShot(shots=1))
    assert (result["insertions"], result["substitutions"], result["deletions"]) == (1, 1, 0)
    assert result["value"] == pytest.approx(100 * 2 / 10)
    assert result["low"] <= result["value"] <= result["high"]


def test_batches_and_their_order_change_no_answer(vocabulary, spoken):
    torch.manual_seed(0)
    model = Model(preset("pico", vocabulary.padded_size)).eval()
    samples_per_prompt = [
        run_few_shot(model, vocabulary, spoken, "asr", {}, FewShot(shots=2, batch=b, new_tokens=12))[
            "answers"
        ]
        for b in (1, 3)
    ]
    assert samples_per_prompt[0] == samples_per_prompt[1]


def test_an_answer_without_a_stop_is_used_whole_and_counted(vocabulary, spoken):
    answers = {
        (*units(vocabulary, i.context[0]), vocabulary.text_marker): vocabulary.tokenizer.encode(
            "the cat " * 40
        )
        for i in spoken.items
    }
    result = run_few_shot(
        Parrot(vocabulary, answers, vocabulary.speech_marker),
        vocabulary,
        spoken,
        "asr",
        {},
        FewShot(shots=1, new_tokens=20),
    )
    assert result["unstopped"] == 3
    assert result["value"] > 100


def test_examples_that_do_not_fit_are_left_out_and_counted(vocabulary, spoken):
    model = parrot_of(vocabulary, spoken)
    result = run_few_shot(
        model, vocabulary, spoken, "asr", {}, FewShot(shots=3, max_tokens=140, new_tokens=60)
    )
    assert 0 < result["examples_used"]["mean"] < 3
    with pytest.raises(
        ValueError, match=r"asr: row 1 \('u0'\): the question is \d+ tokens, with 60 new ones"
    ):
        run_few_shot(model, vocabulary, spoken, "asr", {}, FewShot(shots=3, max_tokens=64, new_tokens=60))


def test_too_few_examples_and_test_sets_of_another_task_are_refused(vocabulary, spoken, commands):
    model = parrot_of(vocabulary, spoken)
    with pytest.raises(ValueError, match="asr: need 4 examples in split train or dev, got 3"):
        run_few_shot(model, vocabulary, spoken, "asr", {}, FewShot(shots=4))
    with pytest.raises(
        ValueError, match="intents: asr needs a test set of task 'transcribe', got 'classify'"
    ):
        run_few_shot(model, vocabulary, commands, "asr", {}, FewShot(shots=1))


def test_intents_are_matched_exactly(vocabulary, commands):
    spoken_words = {"c0": "lights on", "c1": "Music off ", "c2": "lights", "c3": "music off please"}
    answers = {
        (*units(vocabulary, item.context[0]), vocabulary.text_marker, *vocabulary.tokenizer.encode("A:")): (
            vocabulary.tokenizer.encode(spoken_words[item.id])
        )
        for item in commands.in_split("test")
    }
    model = Parrot(vocabulary, answers, vocabulary.speech_marker)
    result = run_few_shot(model, vocabulary, commands, "intent", {}, FewShot(shots=4))
    assert (result["value"], result["items"], result["labels"]) == (50.0, 4, 2)
    prompts = vocabulary.render(model.prompts[0])
    assert prompts.count("[Text] A:lights on") == prompts.count("[Text] A:music off") == 2
    assert prompts.endswith("[Text] A:")


def test_examples_are_balanced_and_the_same_for_one_seed(commands):
    result = choose_examples(commands, FewShot(shots=4, seed=3))
    assert sorted(item.label for item in result) == ["lights on", "lights on", "music off", "music off"]
    assert result == choose_examples(commands, FewShot(shots=4, seed=3))
    assert result != choose_examples(commands, FewShot(shots=4, seed=4))
    assert {item.split for item in result} == {"train"}


def test_tts_is_not_run_without_a_vocoder_and_a_recogniser_and_gives_no_number(vocabulary, spoken):
    result = run_few_shot(parrot_of(vocabulary, spoken), vocabulary, spoken, "tts", {})
    assert result["not_run"] == ("needs a vocoder and a recogniser and a recording of the word stop")
    assert "value" not in result


@pytest.fixture
def programs(tmp_path):
    """A vocoder that writes the units into the length of a recording, and a recogniser that reads them back."""
    speaker, writer = tmp_path / "speaker.py", tmp_path / "writer.py"
    speaker.write_text(
        "import json, sys, numpy, soundfile\nunits = json.load(sys.stdin)['units']\n"
        "soundfile.write(sys.argv[1], numpy.zeros(100 + units[0]), 16000)\n"
    )
    writer.write_text(
        "import json, sys, soundfile\n"
        f"words = {json.dumps({7 * i % 40: text for i, text in enumerate(SENTENCES)})}\n"
        "print(words[str(soundfile.info(sys.argv[1]).frames - 100)])\n"
    )
    return f"{sys.executable} {speaker}", f"{sys.executable} {writer}"


def test_tts_is_scored_by_a_recogniser_of_the_vocoders_output(vocabulary, spoken, programs):
    stop = "[Hu39][Hu38]"
    answers = {}
    for item in spoken.items:
        end = vocabulary.tokenizer.encode(f"{item.context[0].text} 'stop'")
        answers[*end, vocabulary.speech_marker] = vocabulary.encode(item.context[0].units + stop + "[Hu1]")
    model = Parrot(vocabulary, answers, vocabulary.text_marker)
    result = run_few_shot(
        model,
        vocabulary,
        spoken,
        "tts",
        {},
        FewShot(shots=2),
        stop=stop,
        vocoder=programs[0],
        recogniser=programs[1],
    )
    assert (result["measure"], result["value"], result["unstopped"]) == ("CER", 0.0, 0)
    assert f"{stop}[Text]" in vocabulary.render(model.prompts[0])
    with pytest.raises(ValueError, match="vocoder: false: exit code 1") as caught:
        run_few_shot(
            model, vocabulary, spoken, "tts", {}, FewShot(shots=2), stop=stop, vocoder="false", recogniser="x"
        )
    assert "\n" not in str(caught.value)


def distance(a, b) -> int:
    """Errors between two sequences, the slow way."""
    table = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(table[-1][j] + 1, row[-1] + 1, table[-1][j - 1] + (x != y)))
        table.append(row)
    return table[-1][-1]


def test_error_rates_are_those_of_a_slow_count():
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(list("abcd"), rng.integers(1, 9))) for _ in range(40)]
    other = [" ".join(rng.choice(list("abcd"), rng.integers(0, 9))) for _ in range(40)]
    items = [TestItem(str(i)) for i in range(40)]
    result = error_rate(items, words, other, by="words")
    errors = sum(distance(a.split(), b.split()) for a, b in zip(words, other))
    assert result["value"] == pytest.approx(100 * errors / sum(len(a.split()) for a in words))
    result = error_rate(items, words, other, by="characters")
    assert result["value"] == pytest.approx(100 * sum(map(distance, words, other)) / sum(map(len, words)))


def test_the_interval_of_an_error_rate_contains_the_truth_about_95_times_of_100():
    rng, contained = np.random.default_rng(1), 0
    for trial in range(200):
        lengths = rng.integers(5, 30, 60)
        low, high = bootstrap(rng.binomial(lengths, 0.2), lengths, repeats=400, seed=trial)
        contained += low <= 20 <= high
    assert 180 <= contained <= 199


def test_nothing_to_compare_with_is_refused_by_id():
    with pytest.raises(ValueError, match="item 'a': need words to compare with, got none"):
        error_rate([TestItem("a")], [""], ["x"], by="words")


def test_plain_words_have_no_case_and_no_punctuation():
    assert plain("“Well,” she said — it's 3 o'clock!") == "well she said it's 3 o'clock"
    assert exact_matches([TestItem("a", label="Go")], [" go"])["value"] == 100.0


def test_a_path_with_spaces_is_one_argument_of_a_program(tmp_path, vocabulary):
    from lm.evaluation.external_tools import transcribe, vocode

    folder = tmp_path / "a b"
    folder.mkdir()
    script = tmp_path / "v.py"
    script.write_text(
        "import sys, numpy, soundfile; soundfile.write(sys.argv[1], numpy.zeros(99), 16000); print(len(sys.argv))"
    )
    path = vocode(f"{sys.executable} {script}", "[Hu1]", folder / "x.wav")
    assert isinstance(path, Path)
    assert transcribe(f"{sys.executable} {script}", path) == "2"
