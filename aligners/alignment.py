"""The promise every aligner keeps, checked in one place: one result per utterance, in order; words in, the same words out."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from aligners.normalise import Token, normalise
from corpus.records import SAMPLE_RATE, Reject, Utterance, Word

OVERRUN = 0.025
"""Seconds by which a time may overlap its neighbour or leave the recording before it counts as wrong; up to there it is clipped."""


@dataclass(frozen=True, slots=True)
class Phone:
    """One phone and its half-open interval [start, end), in seconds of its utterance."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """What an aligner says of one utterance: words, or the reason why not.

    `phones` is None where the backend has none. `quality` holds what the backend measured; it may be filled for a
    rejected utterance too.
    """

    words: tuple[Word, ...] = ()
    phones: tuple[Phone, ...] | None = None
    reject: Reject | None = None
    quality: dict[str, float] = field(default_factory=dict)


class Timed(NamedTuple):
    """A spoken word as a backend returns it, not yet checked; times in seconds, confidence in [0, 1] or None."""

    spoken: str
    start: float
    end: float
    confidence: float | None = None


class Found(NamedTuple):
    """What a backend returns for one utterance: a time for every spoken word, in order."""

    words: Sequence[Timed]
    phones: Sequence[Phone] | None = None
    quality: dict[str, float] = {}


class Item(NamedTuple):
    """What a backend is given: an utterance, its transcript as tokens, its waveform, (T,) float32 at 16 kHz."""

    utterance: Utterance
    tokens: tuple[Token, ...]
    waveform: np.ndarray

    @property
    def spoken(self) -> list[str]:
        """The words to align, lower case."""
        return [word for token in self.tokens for word in token.spoken]

    @property
    def seconds(self) -> float:
        """Length of the waveform."""
        return len(self.waveform) / SAMPLE_RATE


class Aligner:
    """Base of every backend, which fills in `align_one`, or `align_all` where it works on many utterances at a time.

    Either raises or returns `Reject` for an utterance it cannot align; any other exception becomes `align.backend_error`.
    """

    name: ClassVar[str]
    version: str = "1"  # of the code and the tool behind it: raised when the same settings give other times
    settings: Any  # a frozen dataclass

    def align_one(self, item: Item) -> Found:
        """Times for every word of `item.spoken`; raises Reject."""
        raise NotImplementedError

    def align_all(self, items: list[Item]) -> Sequence[Found | Reject]:
        """One result per item, in order."""
        return [self._guarded(item) for item in items]

    def align(self, batch: Iterable[tuple[Utterance, np.ndarray]]) -> list[Alignment]:
        """Align utterances.

        Args:
            batch: (utterance, waveform) pairs; waveforms (T,) float32, mono, 16 kHz.

        Returns:
            One Alignment per pair, in order. Its words are those of the transcript, in order, inside the recording and
            without overlap, or `reject` says why there are none. Never raises for bad data.
        """
        items = [prepare(utterance, waveform) for utterance, waveform in batch]
        todo = [item for item in items if isinstance(item, Item)]
        try:
            found = iter(self.align_all(todo) if todo else ())
            results = [item if isinstance(item, Reject) else next(found) for item in items]
        except Exception as error:  # the promise: no exception of a backend stops a build
            failed = backend_error(error)
            results = [item if isinstance(item, Reject) else failed for item in items]
        return [finish(item, result) for item, result in zip(items, results, strict=True)]

    @property
    def identity(self) -> str:
        """Name, version and hash of the settings: changes whenever the result may."""
        settings = json.dumps(asdict(self.settings), sort_keys=True, default=str)
        return f"{self.name}-{self.version}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"

    def _guarded(self, item: Item) -> Found | Reject:
        try:
            return self.align_one(item)
        except Reject as reject:
            return reject
        except Exception as error:
            return backend_error(error)


def backend_error(error: Exception) -> Reject:
    """An exception as a value."""
    return Reject("align.backend_error", f"{type(error).__name__}: {error}"[:300])


def prepare(utterance: Utterance, waveform: np.ndarray) -> Item | Reject:
    """The transcript as tokens; a Reject where there is nothing to align."""
    if utterance.text is None:
        return Reject("text.missing")
    tokens = normalise(utterance.text, utterance.language or "en")
    if not tokens:
        return Reject("text.empty")
    if not len(waveform):
        return Reject("align.too_short", "the audio has no samples")
    if not np.isfinite(waveform).all():
        return Reject("audio.not_finite")
    return Item(utterance, tokens, waveform)


def finish(item: Item | Reject, result: Found | Reject) -> Alignment:
    """Check what a backend found and give every word its original writing."""
    if isinstance(item, Reject) or isinstance(result, Reject):
        return Alignment(reject=item if isinstance(item, Reject) else result)  # type: ignore[arg-type]
    try:
        spoken = check(result.words, item.spoken, item.seconds)
    except Reject as reject:
        return Alignment(reject=reject, quality=result.quality)
    phones = None if result.phones is None else tuple(result.phones)
    return Alignment(write_back(item, spoken), phones, None, result.quality)


def check(words: Sequence[Timed], spoken_words: Sequence[str], seconds: float) -> list[Timed]:
    """Hold a backend to its promise: same words, same order, finite, 0 <= start < end <= seconds, no overlap.

    Args:
        words: what the backend returned.
        spoken_words: what it was given.
        seconds: length of the recording.

    Returns:
        The words; overlaps and overruns of at most 25 ms are clipped.

    Raises:
        Reject: align.token_mismatch or align.bad_times.

    >>> check([Timed("hi", 0.1, 0.32), Timed("you", 0.3, 0.51)], ["hi", "you"], 0.5)
    [Timed(spoken='hi', start=0.1, end=0.3, confidence=None), Timed(spoken='you', start=0.3, end=0.5, confidence=None)]
    """
    if [word.spoken for word in words] != list(spoken_words):
        at = next(
            (i for i, (a, b) in enumerate(zip(words, spoken_words, strict=False)) if a.spoken != b),
            min(len(words), len(spoken_words)),
        )
        got, want = ([*ws, "nothing"][min(at, len(ws))] for ws in ([w.spoken for w in words], spoken_words))
        raise Reject("align.token_mismatch", f"word {at + 1}: expected {want!r}, got {got!r}")
    clipped: list[Timed] = []
    for place, word in enumerate(words):
        start, end = float(word.start), float(word.end)
        if not (math.isfinite(start) and math.isfinite(end)):
            raise Reject("align.bad_times", f"word {word.spoken!r}: times [{start}, {end}) s are not finite")
        following = float(words[place + 1].start) if place + 1 < len(words) else seconds
        limit = min(following, seconds) if math.isfinite(following) else seconds
        inside = max(start, 0.0), min(end, limit)
        if max(inside[0] - start, end - inside[1]) > OVERRUN + 1e-6 or not inside[0] < inside[1]:
            raise Reject(
                "align.bad_times",
                f"word {word.spoken!r}: [{start:.3f}, {end:.3f}) s does not fit before {limit:.3f} s",
            )
        clipped.append(Timed(word.spoken, *inside, word.confidence))
    return clipped


def write_back(item: Item, spoken: Sequence[Timed]) -> tuple[Word, ...]:
    """One Word per token of the writing, from the first to the last of its spoken words; confidence is the lowest of them."""
    words, place = [], 0
    for token in item.tokens:
        parts = spoken[place : place + len(token.spoken)]
        place += len(parts)
        scores = [part.confidence for part in parts if part.confidence is not None]
        text = str(item.utterance.text)[token.first : token.last]
        words.append(
            Word(text, parts[0].start, parts[-1].end, " ".join(token.spoken), min(scores) if scores else None)
        )
    return tuple(words)
