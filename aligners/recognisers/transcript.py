"""What a recogniser takes and gives, and how far two transcripts agree."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from corpus.quality import tokens_of
from corpus.records import Reject


class RecognisedWord(NamedTuple):
    """A word with the mean probability of its tokens, None where the recogniser gives none."""

    text: str
    confidence: float | None


class Transcript(NamedTuple):
    """What a recogniser makes of one recording."""

    words: tuple[RecognisedWord, ...]

    @property
    def text(self) -> str:
        """The words in one line."""
        return " ".join(word.text for word in self.words)

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the words; None without any."""
        known = [word.confidence for word in self.words if word.confidence is not None]
        return float(np.mean(known)) if known else None


class Recording(NamedTuple):
    """(T,) float32 at 16 kHz, and the declared language or None."""

    waveform: np.ndarray
    language: str | None = None


class Recogniser(Protocol):
    """Transcribes recordings."""

    @property
    def identity(self) -> str:
        """Everything that decides its transcripts."""
        ...

    def transcribe(self, recordings: Sequence[Recording]) -> list[Transcript | Reject]:
        """One result for each recording, in order."""
        ...


def batched(items: Iterable[int], size: int) -> Iterator[list[int]]:
    """Lists of at most `size` items (itertools.batched is of Python 3.12)."""
    rest = iter(items)
    while group := list(itertools.islice(rest, size)):
        yield group


def agreement(text: str, other: str) -> float:
    """1 - the word errors between two transcripts per word of the longer one, in [0, 1]; 1: the same words.

    >>> agreement("They went out.", "they went in"), agreement("", ""), agreement("a b", "")
    (0.6666666666666667, 1.0, 0.0)
    """
    first, second = tokens_of(text), tokens_of(other)
    if not first or not second:
        return float(first == second)
    import jiwer

    counts = jiwer.process_words(" ".join(first), " ".join(second))
    errors = counts.substitutions + counts.deletions + counts.insertions
    return 1 - errors / max(len(first), len(second))
