"""lm/stsp.py, lm/sentiment.py: the item is always asked, nothing leaves the denominator, judges say what they are."""

import sys

import numpy as np
import pytest
import soundfile
import torch

from lm.evaluation.sentiment import learn, open_speech, open_text, pieces, sentiment
from lm.evaluation.tasks.sentiment_preservation import Stsp, asked_of, examples, on_prompts, preserve
from lm.evaluation.testset import Item, Part, write_pack
from lm.model import Model, preset
from tests.helpers.lm import toy_vocabulary

LABELS = ("negative", "neutral", "positive")
WORDS = {"negative": "dog ran", "neutral": "a mat", "positive": "eat fish"}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return toy_vocabulary(tmp_path_factory.mktemp("vocabulary"))


def units(label: str, number: int) -> str:
    """Units of a label's own: 0-9, 10-19 or 20-29."""
    return "".join(f"[Hu{10 * LABELS.index(label) + (number + 3 * i) % 10}]" for i in range(4))


@pytest.fixture
def moods(tmp_path):
    items = []
    for number in range(30):
        label, split = LABELS[number % 3], ("train", "train", "dev", "test", "test")[number % 5]
        part = Part(f"the {WORDS[label]} {number % 4}", units=units(label, number))
        items.append(Item(f"m{number:02d}", (part,), label=label, split=split))
    facts = {"name": "moods", "task": "continue", "version": "1", "licence": "CC0", "source": "ours"}
    return write_pack(
        tmp_path / "moods", items, directions=("T", "S", "T->S", "S->T"), labels=LABELS, **facts
    )


@pytest.fixture
def judges(moods):
    train = moods.of("train")
    return {
        "text": learn([item.context[0].text for item in train], [item.label for item in train]),
        "speech": learn([item.context[0].units for item in train], [item.label for item in train]),
    }


class Empath(Model):
    """A model that continues every prompt as the last label in its prompt wants, but is silent for one of them."""

    def __init__(self, vocabulary, modality, silent=None):
        super().__init__(preset("pico", vocabulary.padded_size, num_hidden_layers=1))
        self.vocabulary, self.modality, self.silent, self.asked = vocabulary, modality, silent, []

    def answer(self, row):
        names = self.vocabulary.render(row)
        last = max(LABELS, key=lambda label: max(names.rfind(WORDS[label]), *self.units_at(names, label)))
        if last == self.silent:
            return []
        return (
            self.vocabulary.tokenizer.encode(WORDS[last])
            if self.modality == "text"
            else (self.vocabulary.encode(units(last, 1)))
        )

    @staticmethod
    def units_at(names, label):
        start = 10 * LABELS.index(label)
        return [names.rfind(f"[Hu{unit}]") for unit in range(start, start + 10)]

    def forward(self, tokens, positions=None, documents=None, *, cache=None, last=None, **more):
        if last is not None:
            rows = [tuple(row[: end + 1]) for row, end in zip(tokens.tolist(), last.tolist())]
            self.asked += rows
            self.left = [self.answer(row) for row in rows]
        logits = torch.full((len(tokens), self.settings.vocab_size), -50.0)
        stop = self.vocabulary.eos if self.modality == "text" else self.vocabulary.first_unit + 35
        for b, left in enumerate(self.left):
            logits[b, left.pop(0) if left else stop] = 50.0
        return logits if last is not None else logits[:, None]


@pytest.mark.parametrize("direction", ["T", "S", "T->S", "S->T"])
@pytest.mark.parametrize("shots", [0, 3])
def test_a_model_that_keeps_every_sentiment_scores_100(direction, shots, vocabulary, moods, judges):
    modality = "text" if direction in ("T", "S->T") else "speech"
    model = Empath(vocabulary, modality)
    found = preserve(model, vocabulary, moods, direction, {}, judges, Stsp(shots=shots, runs=2))
    assert (found["value"], found["items"], found["unjudged"]) == (100.0, 12, 0)
    assert found["by_label"] == dict.fromkeys(LABELS, 100.0)
    assert (found["prompts"]["value"], found["chance"]) == (100.0, pytest.approx(100 / 3))
    assert len(found["examples"]) == shots


def test_what_cannot_be_judged_is_wrong_and_stays_in_the_denominator(vocabulary, moods, judges):
    model = Empath(vocabulary, "text", silent="neutral")
    found = preserve(model, vocabulary, moods, "T", {}, judges, Stsp(runs=2))
    assert (found["items"], found["unjudged"]) == (12, 8)
    assert found["value"] == pytest.approx(100 * 8 / 12)
    assert found["by_label"]["neutral"] == 0.0


def test_the_item_is_the_last_thing_every_prompt_says(vocabulary, moods, judges):
    model = Empath(vocabulary, "text")
    preserve(model, vocabulary, moods, "S->T", {}, judges, Stsp(shots=3, runs=1))
    ends = {f"[Speech]{item.context[0].units}[Text]" for item in moods.of("test")}
    asked = [vocabulary.render(row) for row in model.asked]
    assert {text[text.rindex("[Speech]") :] for text in asked} == ends
    assert all(text.count("[Speech]") == 4 for text in asked)


def test_examples_take_the_labels_in_turn_and_come_from_train_alone(moods, judges):
    shown = examples(moods, "S->T", {}, judges, Stsp(shots=6))
    label = {item.id: (item.label, item.split) for item in moods.items}
    assert [label[one.ids[0]][0] for one in shown] == [*LABELS, *LABELS]
    assert all(label[a][0] == label[b][0] and a != b for a, b in (one.ids for one in shown))
    assert {label[id][1] for one in shown for id in one.ids} == {"train"}
    assert len({id for one in shown for id in one.ids}) == 12


def test_texts_one_after_the_other_are_parted_by_line_breaks(moods, judges):
    item = moods.of("test")[0]
    shown = examples(moods, "T", {}, judges, Stsp(shots=3))
    ((modality, text),) = asked_of(item, "T", {}, shown)
    assert modality == "text"
    lines = text.split("\n")
    assert (len(lines), lines[-1]) == (7, item.context[0].text)


def test_shots_that_cannot_be_had_are_refused(moods, judges, vocabulary):
    with pytest.raises(ValueError, match="shots: need a multiple of the 3 labels, got 4"):
        examples(moods, "T", {}, judges, Stsp(shots=4))
    with pytest.raises(
        ValueError, match="moods: need 9 pairs of train items heard as 'negative' in T, got 2"
    ):
        examples(moods, "T", {}, judges, Stsp(shots=27))
    deaf = dict(judges, text=lambda texts: [None for _ in texts])
    with pytest.raises(ValueError, match="heard as 'negative' in T, got 0"):
        examples(moods, "T", {}, deaf, Stsp(shots=3))


def test_a_judge_of_recordings_hears_the_prompts_themselves(moods):
    items = [
        Item("a", (Part("x", "audio/a.wav"),), label="positive"),
        Item("b", (Part("y", "b.wav"),), label="neutral"),
    ]
    judges = {"recordings": lambda paths: ["positive" if "audio" in str(path) else None for path in paths]}
    found = on_prompts(moods, items, "speech", {}, judges)
    assert (found["judged"], found["value"]) == ("recordings", 50.0)


def test_a_random_model_is_judged_in_every_direction(vocabulary, moods, judges):
    torch.manual_seed(0)
    model = Model(preset("pico", vocabulary.padded_size)).eval()
    small = Stsp(runs=1, new_tokens={"T": 5, "S->T": 5, "T->S": 5, "S": 5})
    for direction in moods.directions:
        found = preserve(model, vocabulary, moods, direction, {}, judges, small)
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 100
        assert len(found["continuations"][0]) == found["items"] == 12
        assert found == preserve(model, vocabulary, moods, direction, {}, judges, small)


def test_a_learned_judge_finds_what_labels_differ_in_and_not_what_they_share():
    rng = np.random.default_rng(0)
    texts, labels = [], []
    for i in range(120):
        label = LABELS[i % 3]
        own = f"[St{LABELS.index(label)}]" if rng.random() < 0.9 else f"[St{rng.integers(3)}]"
        texts.append(own + "".join(f"[Hu{u}]" for u in rng.integers(0, 30, 12)))
        labels.append(label)
    judge = learn(texts[:60], labels[:60])
    assert np.mean([a == b for a, b in zip(judge(texts[60:]), labels[60:])]) > 0.8
    assert judge(["", "   "]) == [None, None]
    assert judge(texts) == learn(texts[:60], labels[:60])(texts)
    shuffled = learn(texts[:60], list(rng.permutation(labels[:60])))
    assert np.mean([a == b for a, b in zip(shuffled(texts[60:]), labels[60:])]) < 0.6
    with pytest.raises(ValueError, match="at least two labels"):
        learn(["a"], ["x"])


def test_pieces_are_words_or_tokens_and_neighbours():
    assert pieces("It's FINE, no?") == ["it's", "fine", "no", "it's fine", "fine no"]
    assert pieces("") == []


def test_labels_of_classifiers_stand_for_sentiments():
    assert [sentiment(name, LABELS) for name in ("Amused", "LABEL_negative", "default")] == [
        "positive",
        "negative",
        "neutral",
    ]
    with pytest.raises(ValueError, match="says 'LABEL_0', which is none of negative"):
        sentiment("LABEL_0", LABELS)


def named(config):
    config.id2label = {0: "angry", 1: "neutral", 2: "happy"}
    config.label2id = {name: i for i, name in config.id2label.items()}
    config.num_labels = 3
    return config


def test_a_hugging_face_text_classifier_judges_as_it_does_alone(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS["positive"].split(), "dog", "ran"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    torch.manual_seed(3)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = named(BertConfig(vocab_size=len(words), initializer_range=1.0, **shape))
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    texts = ["eat fish", "dog", "ran ran eat", "fish dog fish", "  "]
    judge = open_text(tmp_path / "judge", LABELS, batch=2)
    alone = []
    for text in texts[:-1]:
        best = int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())
        alone.append(("negative", "neutral", "positive")[best])
    assert judge(texts) == [*alone, None]
    with pytest.raises(ValueError, match=r"classifier: .*gone: no config.json"):
        open_text(tmp_path / "gone", LABELS)
    with pytest.raises(ValueError, match="says 'angry', which is none of x, y"):
        open_text(tmp_path / "judge", ("x", "y"))


def test_a_hugging_face_audio_classifier_judges_recordings_and_tokens_through_a_vocoder(tmp_path):
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForSequenceClassification,
    )

    torch.manual_seed(0)
    config = named(
        Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(8, 8),
            conv_stride=(10, 8),
            conv_kernel=(10, 8),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            classifier_proj_size=8,
            initializer_range=1.0,
        )
    )
    model = Wav2Vec2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "judge")
    extractor = Wav2Vec2FeatureExtractor()
    extractor.save_pretrained(tmp_path / "judge")
    wave = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    vocoder = tmp_path / "vocoder.py"
    vocoder.write_text(f"import shutil, sys; shutil.copyfile({str(tmp_path / 'a.wav')!r}, sys.argv[1])")
    judge = open_speech(tmp_path / "judge", LABELS, vocoder=f"{sys.executable} {vocoder}")
    with torch.inference_mode():
        best = int(model(**extractor(wave, sampling_rate=16_000, return_tensors="pt")).logits.argmax())
    own = ("negative", "neutral", "positive")[best]
    assert judge([tmp_path / "a.wav", "[Hu1][Hu2]", ""]) == [own, own, None]
    mute = open_speech(tmp_path / "judge", LABELS, vocoder=None)
    with pytest.raises(ValueError, match="judges speech tokens through a vocoder, none named"):
        mute(["[Hu1]"])
