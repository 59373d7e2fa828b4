"""Sentiment preservation: the item is always in the prompt, nothing leaves the denominator, classifiers are checked."""

import sys

import numpy as np
import pytest
import soundfile
import torch

from lm.evaluation.sentiment import (
    features_of,
    fit_classifier,
    open_speech_classifier,
    open_text_classifier,
    sentiment,
)
from lm.evaluation.tasks.sentiment_preservation import (
    Stsp,
    accuracy_on_prompts,
    example_pairs,
    preserve_sentiment,
    prompt_parts,
)
from lm.evaluation.testset import Segment, TestItem, write_testset
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
        part = Segment(f"the {WORDS[label]} {number % 4}", units=units(label, number))
        items.append(TestItem(f"m{number:02d}", (part,), label=label, split=split))
    facts = {"name": "moods", "task": "continue", "version": "1", "licence": "CC0", "source": "ours"}
    return write_testset(
        tmp_path / "moods", items, directions=("T", "S", "T->S", "S->T"), labels=LABELS, **facts
    )


@pytest.fixture
def classifiers(moods):
    train = moods.in_split("train")
    return {
        "text": fit_classifier([item.context[0].text for item in train], [item.label for item in train]),
        "speech": fit_classifier([item.context[0].units for item in train], [item.label for item in train]),
    }


class Empath(Model):
    """A model that continues every prompt with words of the last label in it, and gives none for one label."""

    def __init__(self, vocabulary, modality, silent=None):
        super().__init__(preset("pico", vocabulary.padded_size, num_hidden_layers=1))
        self.vocabulary, self.modality, self.silent, self.prompts = vocabulary, modality, silent, []

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
            self.prompts += rows
            self.left = [self.answer(row) for row in rows]
        logits = torch.full((len(tokens), self.settings.vocab_size), -50.0)
        stop = self.vocabulary.eos if self.modality == "text" else self.vocabulary.first_unit + 35
        for b, left in enumerate(self.left):
            logits[b, left.pop(0) if left else stop] = 50.0
        return logits if last is not None else logits[:, None]


@pytest.mark.parametrize("direction", ["T", "S", "T->S", "S->T"])
@pytest.mark.parametrize("shots", [0, 3])
def test_a_model_that_keeps_every_sentiment_scores_100(direction, shots, vocabulary, moods, classifiers):
    modality = "text" if direction in ("T", "S->T") else "speech"
    model = Empath(vocabulary, modality)
    result = preserve_sentiment(
        model, vocabulary, moods, direction, {}, classifiers, Stsp(shots=shots, samples_per_prompt=2)
    )
    assert (result["value"], result["items"], result["unclassified"]) == (100.0, 12, 0)
    assert result["by_label"] == dict.fromkeys(LABELS, 100.0)
    assert (result["prompts"]["value"], result["chance"]) == (100.0, pytest.approx(100 / 3))
    assert len(result["examples"]) == shots


def test_what_cannot_be_classified_is_wrong_and_stays_in_the_denominator(vocabulary, moods, classifiers):
    model = Empath(vocabulary, "text", silent="neutral")
    result = preserve_sentiment(model, vocabulary, moods, "T", {}, classifiers, Stsp(samples_per_prompt=2))
    assert (result["items"], result["unclassified"]) == (12, 8)
    assert result["value"] == pytest.approx(100 * 8 / 12)
    assert result["by_label"]["neutral"] == 0.0


def test_the_item_is_the_last_part_of_every_prompt(vocabulary, moods, classifiers):
    model = Empath(vocabulary, "text")
    preserve_sentiment(model, vocabulary, moods, "S->T", {}, classifiers, Stsp(shots=3, samples_per_prompt=1))
    ends = {f"[Speech]{item.context[0].units}[Text]" for item in moods.in_split("test")}
    prompts = [vocabulary.render(row) for row in model.prompts]
    assert {text[text.rindex("[Speech]") :] for text in prompts} == ends
    assert all(text.count("[Speech]") == 4 for text in prompts)


def test_examples_take_the_labels_in_turn_and_come_from_train_alone(moods, classifiers):
    pairs = example_pairs(moods, "S->T", {}, classifiers, Stsp(shots=6))
    label = {item.id: (item.label, item.split) for item in moods.items}
    assert [label[one.ids[0]][0] for one in pairs] == [*LABELS, *LABELS]
    assert all(label[a][0] == label[b][0] and a != b for a, b in (one.ids for one in pairs))
    assert {label[id][1] for one in pairs for id in one.ids} == {"train"}
    assert len({id for one in pairs for id in one.ids}) == 12


def test_consecutive_texts_are_separated_by_line_breaks(moods, classifiers):
    item = moods.in_split("test")[0]
    pairs = example_pairs(moods, "T", {}, classifiers, Stsp(shots=3))
    ((modality, text),) = prompt_parts(item, "T", {}, pairs)
    assert modality == "text"
    lines = text.split("\n")
    assert (len(lines), lines[-1]) == (7, item.context[0].text)


def test_more_shots_than_there_are_pairs_are_refused(moods, classifiers, vocabulary):
    with pytest.raises(ValueError, match="shots: need a multiple of the 3 labels, got 4"):
        example_pairs(moods, "T", {}, classifiers, Stsp(shots=4))
    with pytest.raises(
        ValueError, match="moods: need 9 pairs of train items classified as 'negative' in T, got 2"
    ):
        example_pairs(moods, "T", {}, classifiers, Stsp(shots=27))
    deaf = dict(classifiers, text=lambda texts: [None for _ in texts])
    with pytest.raises(ValueError, match="classified as 'negative' in T, got 0"):
        example_pairs(moods, "T", {}, deaf, Stsp(shots=3))


def test_a_classifier_of_recordings_is_checked_on_the_recorded_prompts(moods):
    items = [
        TestItem("a", (Segment("x", "audio/a.wav"),), label="positive"),
        TestItem("b", (Segment("y", "b.wav"),), label="neutral"),
    ]
    classifiers = {
        "recordings": lambda paths: ["positive" if "audio" in str(path) else None for path in paths]
    }
    result = accuracy_on_prompts(moods, items, "speech", {}, classifiers)
    assert (result["input"], result["value"]) == ("recordings", 50.0)


def test_a_random_model_is_scored_in_every_direction(vocabulary, moods, classifiers):
    torch.manual_seed(0)
    model = Model(preset("pico", vocabulary.padded_size)).eval()
    small = Stsp(samples_per_prompt=1, new_tokens={"T": 5, "S->T": 5, "T->S": 5, "S": 5})
    for direction in moods.directions:
        result = preserve_sentiment(model, vocabulary, moods, direction, {}, classifiers, small)
        assert 0 <= result["low"] <= result["value"] <= result["high"] <= 100
        assert len(result["continuations"][0]) == result["items"] == 12
        assert result == preserve_sentiment(model, vocabulary, moods, direction, {}, classifiers, small)


def test_a_fitted_classifier_uses_what_labels_differ_in_and_not_what_they_share():
    rng = np.random.default_rng(0)
    texts, labels = [], []
    for i in range(120):
        label = LABELS[i % 3]
        own = f"[St{LABELS.index(label)}]" if rng.random() < 0.9 else f"[St{rng.integers(3)}]"
        texts.append(own + "".join(f"[Hu{u}]" for u in rng.integers(0, 30, 12)))
        labels.append(label)
    classify = fit_classifier(texts[:60], labels[:60])
    assert np.mean([a == b for a, b in zip(classify(texts[60:]), labels[60:])]) > 0.8
    assert classify(["", "   "]) == [None, None]
    assert classify(texts) == fit_classifier(texts[:60], labels[:60])(texts)
    shuffled = fit_classifier(texts[:60], list(rng.permutation(labels[:60])))
    assert np.mean([a == b for a, b in zip(shuffled(texts[60:]), labels[60:])]) < 0.6
    with pytest.raises(ValueError, match="at least two labels"):
        fit_classifier(["a"], ["x"])


def test_features_are_words_or_tokens_and_neighbours():
    assert features_of("It's FINE, no?") == ["it's", "fine", "no", "it's fine", "fine no"]
    assert features_of("") == []


def test_labels_of_classifiers_map_to_sentiments():
    assert [sentiment(name, LABELS) for name in ("Amused", "LABEL_negative", "default")] == [
        "positive",
        "negative",
        "neutral",
    ]
    with pytest.raises(ValueError, match="label 'LABEL_0': need one of negative"):
        sentiment("LABEL_0", LABELS)


def named(config):
    config.id2label = {0: "angry", 1: "neutral", 2: "happy"}
    config.label2id = {name: i for i, name in config.id2label.items()}
    config.num_labels = 3
    return config


def test_a_hugging_face_text_classifier_gives_the_labels_it_gives_one_by_one(tmp_path):
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
    classify = open_text_classifier(tmp_path / "judge", LABELS, batch=2)
    single = []
    for text in texts[:-1]:
        best = int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())
        single.append(("negative", "neutral", "positive")[best])
    assert classify(texts) == [*single, None]
    with pytest.raises(ValueError, match=r"classifier: .*gone: need a Hugging Face directory"):
        open_text_classifier(tmp_path / "gone", LABELS)
    with pytest.raises(ValueError, match="label 'angry': need one of x, y"):
        open_text_classifier(tmp_path / "judge", ("x", "y"))


def test_a_hugging_face_audio_classifier_labels_recordings_and_vocoded_tokens(tmp_path):
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
    classify = open_speech_classifier(tmp_path / "judge", LABELS, vocoder=f"{sys.executable} {vocoder}")
    with torch.inference_mode():
        best = int(model(**extractor(wave, sampling_rate=16_000, return_tensors="pt")).logits.argmax())
    own = ("negative", "neutral", "positive")[best]
    assert classify([tmp_path / "a.wav", "[Hu1][Hu2]", ""]) == [own, own, None]
    mute = open_speech_classifier(tmp_path / "judge", LABELS, vocoder=None)
    with pytest.raises(ValueError, match="needs a vocoder for speech tokens, got none"):
        mute(["[Hu1]"])
