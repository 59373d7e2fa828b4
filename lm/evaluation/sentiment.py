"""Sentiment classifiers of text and speech: a Hugging Face model that the user names, or a small linear one.

The linear one reads words, or unit, pitch and style names, alone and in pairs, and is trained on a test set's train
items. It needs no audio, so it classifies speech tokens without a vocoder. Its accuracy on the test set's own prompts
is always reported next to the score of a model.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from corpus.records import SAMPLE_RATE
from lm.evaluation.datasets.speech import SENTIMENTS
from lm.evaluation.external_tools import vocode
from lm.speaker import Speaker, read_audio
from units.logistic import fit_logistic

Classify = Callable[[Sequence[str]], list[str | None]]
"""Sentiment of each text, or of each token string, one of the labels; None where there is nothing to classify."""

_FEATURES = re.compile(r"\[[A-Za-z]+\d+\]|[\w']+")


def features_of(text: str) -> list[str]:
    """Words or token names, and neighbouring pairs of them.

    >>> features_of("Oh no")
    ['oh', 'no', 'oh no']
    >>> features_of("[Hu3][St1]")
    ['[Hu3]', '[St1]', '[Hu3] [St1]']
    """
    single = [name if name.startswith("[") else name.lower() for name in _FEATURES.findall(text)]
    return [*single, *(f"{a} {b}" for a, b in itertools.pairwise(single))]


@dataclass(frozen=True)
class LinearClassifier:
    """Multinomial logistic regression on counts of features, as `fit_classifier` fits it."""

    labels: tuple[str, ...]
    index: dict[str, int]  # feature -> row of slopes
    slopes: np.ndarray  # (features, labels) float64
    offsets: np.ndarray  # (labels,) float64

    def scores(self, texts: Iterable[str]) -> np.ndarray:
        """(N, labels) float64; the label with the highest score is given."""
        return np.stack([self.offsets + _counts(text, self.index) @ self.slopes for text in texts])

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        """Labels; None for a text without a feature."""
        if not texts:
            return []
        best = self.scores(texts).argmax(1)
        return [self.labels[i] if features_of(text) else None for i, text in zip(best, texts, strict=True)]


def fit_classifier(
    texts: Sequence[str], labels: Sequence[str], *, decay: float = 0.3, min_items: int = 2
) -> LinearClassifier:
    """Fit a classifier on labelled texts or token strings.

    Args:
        decay: weight of the squared slopes against the cross-entropy summed over items.
        min_items: in how many items a feature must occur.

    Raises:
        ValueError: there are fewer than two labels.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"classifier: need train items of at least two labels, got {list(names)}")
    items = Counter(feature for text in texts for feature in set(features_of(text)))
    known = sorted(feature for feature, count in items.items() if count >= min_items)
    index = {feature: row for row, feature in enumerate(known)}
    x = np.stack([_counts(text, index) for text in texts])
    y = np.array([names.index(label) for label in labels])
    return LinearClassifier(names, index, *fit_logistic(x, y, strength=1 / (2 * decay)))


def _counts(text: str, index: dict[str, int]) -> np.ndarray:
    """Square roots of the counts of known features, scaled to length 1."""
    x = np.zeros(len(index))
    for feature in features_of(text):
        if feature in index:
            x[index[feature]] += 1
    x = np.sqrt(x)
    return x / max(float(np.linalg.norm(x)), 1.0)


def sentiment(label: str, known: Sequence[str]) -> str:
    """A classifier's label as one of the test set's.

    Raises:
        ValueError: neither it nor the sentiment it maps to is one of them.

    >>> sentiment("Happy", ("negative", "neutral", "positive"))
    'positive'
    """
    plain = label.lower().removeprefix("label_")
    for name in (plain, SENTIMENTS.get(plain, "")):
        if name in known:
            return name
    raise ValueError(
        f"classifier: label {label!r}: need one of {', '.join(known)} or an emotion that maps to one"
    )


def open_text_classifier(folder: str | Path, labels: Sequence[str], *, batch: int = 16) -> Classify:
    """A Hugging Face text classifier from a directory.

    Raises:
        ValueError: it cannot be opened, or has a label that maps to none of `labels`.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = _open(folder, AutoModelForSequenceClassification, AutoTokenizer)
    label_of = _label_map(folder, model, labels)

    def classify(texts: Sequence[str]) -> list[str | None]:
        results: list[str | None] = []
        for start in range(0, len(texts), batch):
            some = list(texts[start : start + batch])
            inputs = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                best = model(**inputs).logits.argmax(-1).tolist()
            results += [label_of[i] if text.strip() else None for i, text in zip(best, some, strict=True)]
        return results

    return classify


def open_speech_classifier(
    folder: str | Path, labels: Sequence[str], *, vocoder: Speaker | str | None
) -> Callable[[Sequence[str | Path]], list[str | None]]:
    """A Hugging Face audio classifier from a directory: of recordings, or of token strings through a vocoder.

    Raises:
        ValueError: it cannot be opened, or has a label that maps to none of `labels`.
    """
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    model, extractor = _open(folder, AutoModelForAudioClassification, AutoFeatureExtractor)
    label_of = _label_map(folder, model, labels)
    work = TemporaryDirectory()  # removed with the classifier

    def classify(speech: str | Path) -> str | None:
        if isinstance(speech, str):
            if "[Hu" not in speech:
                return None
            if vocoder is None:
                raise ValueError(
                    "classifier: a classifier of recordings needs a vocoder for speech tokens, got none"
                )
            speech = vocode(vocoder, speech, Path(work.name) / "vocoded.wav")
        inputs = extractor(read_audio(speech), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.inference_mode():
            return label_of[int(model(**inputs).logits.argmax(-1))]

    return lambda several: [classify(speech) for speech in several]


def _open(folder: str | Path, kind: Any, reader: Any) -> tuple[Any, Any]:
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"classifier: {folder}: need a Hugging Face directory, got no config.json")
    try:
        model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return model.eval(), reader.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"classifier: {folder}: cannot be opened ({line})") from error


def _label_map(folder: str | Path, model: Any, labels: Sequence[str]) -> dict[int, str]:
    try:
        return {int(i): sentiment(name, labels) for i, name in model.config.id2label.items()}
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
