"""Who says what sentiment text or speech has: a Hugging Face classifier that the user names, or a small learned one.

The learned one reads words, or unit, pitch and style names, alone and in pairs, and is trained on a pack's train items.
It needs no audio, so it judges speech tokens without a vocoder. How often it is right on the pack's own prompts is
always reported beside what it says of a model.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from corpus.audio import decode, probe
from corpus.records import SAMPLE_RATE, Reject, Utterance
from lm.evaluation.datasets.speech import SENTIMENTS
from lm.evaluation.external_tools import speak

Judge = Callable[[Sequence[str]], list[str | None]]
"""Sentiment of each text, or of each token string, one of the labels; None where there is nothing to judge."""

_PIECES = re.compile(r"\[[A-Za-z]+\d+\]|[\w']+")


def pieces(text: str) -> list[str]:
    """What is counted: words or token names, and neighbouring pairs of them.

    >>> pieces("Oh no")
    ['oh', 'no', 'oh no']
    >>> pieces("[Hu3][St1]")
    ['[Hu3]', '[St1]', '[Hu3] [St1]']
    """
    alone = [piece if piece.startswith("[") else piece.lower() for piece in _PIECES.findall(text)]
    return [*alone, *(f"{a} {b}" for a, b in itertools.pairwise(alone))]


@dataclass(frozen=True)
class Learned:
    """Multinomial logistic regression on how often pieces occur, as `learn` fits it."""

    labels: tuple[str, ...]
    index: dict[str, int]  # piece -> row of weights
    weights: np.ndarray  # (pieces, labels) float64
    bias: np.ndarray  # (labels,) float64

    def scores(self, texts: Iterable[str]) -> np.ndarray:
        """(N, labels) float64; the highest is said."""
        return np.stack([self.bias + _counts(text, self.index) @ self.weights for text in texts])

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        """Labels; None for a text without a piece."""
        if not texts:
            return []
        best = self.scores(texts).argmax(1)
        return [self.labels[i] if pieces(text) else None for i, text in zip(best, texts, strict=True)]


def learn(texts: Sequence[str], labels: Sequence[str], *, decay: float = 0.3, least: int = 2) -> Learned:
    """Fit a classifier on labelled texts or token strings.

    Args:
        decay: weight of the squared weights against the mean loss, per item.
        least: items in which a piece must occur.

    Raises:
        ValueError: there are no two labels.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"classifier: need train items of at least two labels, got {list(names)}")
    seen: dict[str, int] = {}
    for text in texts:
        for piece in set(pieces(text)):
            seen[piece] = seen.get(piece, 0) + 1
    index = {piece: i for i, piece in enumerate(sorted(p for p, count in seen.items() if count >= least))}
    x = torch.from_numpy(np.stack([_counts(text, index) for text in texts]))
    y = torch.tensor([names.index(label) for label in labels])
    weights = torch.zeros(len(index), len(names), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weights + bias, y)
        value = value + decay / len(texts) * (weights**2).sum()
        value.backward()
        return value

    solver.step(loss)
    return Learned(names, index, weights.detach().numpy(), bias.detach().numpy())


def _counts(text: str, index: dict[str, int]) -> np.ndarray:
    """Square roots of the counts of known pieces, of length 1."""
    x = np.zeros(len(index))
    for piece in pieces(text):
        if piece in index:
            x[index[piece]] += 1
    x = np.sqrt(x)
    return x / max(float(np.linalg.norm(x)), 1.0)


def sentiment(label: str, known: Sequence[str]) -> str:
    """A classifier's label as one of the pack's.

    Raises:
        ValueError: neither it nor the sentiment it stands for is one of them.

    >>> sentiment("Happy", ("negative", "neutral", "positive"))
    'positive'
    """
    plain = label.lower().removeprefix("label_")
    for name in (plain, SENTIMENTS.get(plain, "")):
        if name in known:
            return name
    raise ValueError(f"classifier: says {label!r}, which is none of {', '.join(known)} nor stands for one")


def open_text(folder: str | Path, labels: Sequence[str], *, batch: int = 16) -> Judge:
    """A Hugging Face text classifier from a directory.

    Raises:
        ValueError: it cannot be opened, or has a label that stands for none of `labels`.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = _opened(folder, AutoModelForSequenceClassification, AutoTokenizer)
    said = _label_map(folder, model, labels)

    def judge(texts: Sequence[str]) -> list[str | None]:
        found: list[str | None] = []
        for start in range(0, len(texts), batch):
            some = list(texts[start : start + batch])
            inputs = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                best = model(**inputs).logits.argmax(-1).tolist()
            found += [said[i] if text.strip() else None for i, text in zip(best, some, strict=True)]
        return found

    return judge


def open_speech(
    folder: str | Path, labels: Sequence[str], *, vocoder: str | None
) -> Callable[[Sequence[str | Path]], list[str | None]]:
    """A Hugging Face audio classifier from a directory: of recordings, or of token strings through a vocoder.

    Raises:
        ValueError: it cannot be opened, or has a label that stands for none of `labels`.
    """
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    model, extractor = _opened(folder, AutoModelForAudioClassification, AutoFeatureExtractor)
    said = _label_map(folder, model, labels)
    work = TemporaryDirectory()  # gone with the judge

    def judge(saying: str | Path) -> str | None:
        if isinstance(saying, str):
            if "[Hu" not in saying:
                return None
            if vocoder is None:
                raise ValueError(
                    "classifier: an audio classifier judges speech tokens through a vocoder, none named"
                )
            saying = speak(vocoder, saying, Path(work.name) / "spoken.wav")
        inputs = extractor(heard(saying), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.inference_mode():
            return said[int(model(**inputs).logits.argmax(-1))]

    return lambda sayings: [judge(saying) for saying in sayings]


def heard(path: Path) -> np.ndarray:
    """Samples of a recording, (T,) float32 at 16 kHz."""
    try:
        header = probe(path)
        return decode(Utterance(path.stem, str(path), header.frames, header.sample_rate))
    except Reject as reject:
        raise ValueError(f"{path}: {reject.reason}: {reject.detail}") from reject


def _opened(folder: str | Path, kind: Any, reader: Any) -> tuple[Any, Any]:
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"classifier: {folder}: no config.json, so no Hugging Face directory")
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
