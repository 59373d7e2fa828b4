"""The contract of every aligner, checked in one place: one result per utterance, in order, with the same words."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from aligners.boundaries import moved_to_changes
from aligners.normalise import Token, normalise
from aligners.quality import DEFAULT_LIMITS, Limits, judge, measure
from corpus.records import SAMPLE_RATE, Reject, Utterance, Word

OVERRUN = 0.025
"""Seconds by which a time may overlap its neighbour or leave the recording and be clipped; beyond, it is wrong."""


@dataclass(frozen=True, slots=True)
class Phone:
    """One phone and its half-open interval [start, end), in seconds of its utterance."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """The result of one utterance: words, or the reason why there are none.

    `phones` is None where the backend has none. `quality` holds `aligners.quality.MEASURES` and the backend's own
    measures, for rejected utterances those that could be computed.
    """

    words: tuple[Word, ...] = ()
    phones: tuple[Phone, ...] | None = None
    reject: Reject | None = None
    quality: dict[str, float] = field(default_factory=dict)


class TimedWord(NamedTuple):
    """Spoken words and their time as a backend returns them, not yet checked; seconds, confidence in [0, 1] or None."""

    spoken: str
    start: float
    end: float
    confidence: float | None = None


class AlignerOutput(NamedTuple):
    """What a backend returns for one utterance: one time per token, in order, with the token's spoken words.

    A backend sets `reject` where it refuses an utterance but has measured it; else it raises Reject.
    """

    words: Sequence[TimedWord]
    phones: Sequence[Phone] | None = None
    quality: dict[str, float] = {}
    reject: Reject | None = None


class AlignerInput(NamedTuple):
    """Input of a backend: an utterance, its transcript as tokens, its waveform, (T,) float32 at 16 kHz."""

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
    """Base of every backend, which fills in `align_one`, or `align_all` where it works on many at a time.

    `align_one` raises Reject for an utterance it cannot align, `align_all` returns it; any other exception
    becomes `align.backend_error`.
    """

    name: ClassVar[str]
    version: str = "1"  # of the code and the tool behind it: raised when the same settings give other times
    measures: ClassVar[tuple[str, ...]] = ()  # its own, beside those of aligners.quality.MEASURES
    outside_identity: ClassVar[
        tuple[str, ...]
    ] = ()  # settings that cannot change a time: device, batch, path
    moves_boundaries: ClassVar[bool] = (
        False  # to where the sound changes; times are those of a model's frames
    )
    batch_minutes: ClassVar[float] = 5.0  # minutes of audio that a stage passes at a time
    joins_parts: ClassVar[bool] = (
        False  # whether a batch is made of several parts, because starting it takes long
    )
    settings: Any  # a frozen dataclass
    gives_phones: bool = True  # with these settings; where a model or a file may lack them, too

    def align_one(self, item: AlignerInput) -> AlignerOutput:
        """Times for every word of `item.spoken`; raises Reject."""
        raise AssertionError(f"{type(self).__name__}: a backend fills in align_one or align_all")

    def align_all(self, items: list[AlignerInput]) -> Sequence[AlignerOutput | Reject]:
        """One result per item, in order."""
        return [self._guarded(item) for item in items]

    def align(
        self, batch: Iterable[tuple[Utterance, np.ndarray]], limits: Limits = DEFAULT_LIMITS
    ) -> list[Alignment]:
        """Align utterances.

        Args:
            batch: (utterance, waveform) pairs; waveforms (T,) float32, mono, 16 kHz.
            limits: measure -> [min, max]; what lies outside is rejected as `align.low_quality`.

        Returns:
            One Alignment per pair, in order. Its words are those of the transcript, in order, inside the recording and
            without overlap, or `reject` holds the reason. Never raises for bad data.
        """
        items = [prepare_safely(utterance, waveform) for utterance, waveform in batch]
        todo = [item for item in items if isinstance(item, AlignerInput)]
        try:
            aligned = list(self.align_all(todo)) if todo else []
            if len(aligned) != len(todo):
                raise RuntimeError(f"{self.name} returned {len(aligned)} results for {len(todo)} utterances")
        except Exception as error:  # the contract: no exception of a backend stops a build
            aligned = [backend_error(error)] * len(todo)
        remaining = iter(aligned)
        results = [item if isinstance(item, Reject) else next(remaining) for item in items]
        return [
            finish_safely(item, result, limits, self.moves_boundaries)
            for item, result in zip(items, results, strict=True)
        ]

    @property
    def identity(self) -> str:
        """Name, version and hash of the settings: changes whenever the result may."""
        fields = asdict(self.settings).items()
        used = {name: value for name, value in fields if name not in self.outside_identity}
        settings = json.dumps(used, sort_keys=True, default=str)
        return f"{self.name}-{self.version}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"

    def _guarded(self, item: AlignerInput) -> AlignerOutput | Reject:
        try:
            return self.align_one(item)
        except Reject as reject:
            return reject
        except Exception as error:
            return backend_error(error)


def backend_error(error: Exception) -> Reject:
    """An exception as a value."""
    return Reject("align.backend_error", f"{type(error).__name__}: {error}"[:300])


def prepare_safely(utterance: Utterance, waveform: np.ndarray) -> AlignerInput | Reject:
    """`prepare`, where broken waveforms become rejects too."""
    try:
        return prepare(utterance, np.asarray(waveform, np.float32))
    except Exception as error:
        return backend_error(error)


def prepare(utterance: Utterance, waveform: np.ndarray) -> AlignerInput | Reject:
    """The transcript as tokens; a Reject where there is nothing to align."""
    if utterance.text is None:
        return Reject("text.missing")
    tokens = normalise(utterance.text, utterance.language or "en")
    if not tokens:
        return Reject("text.empty")
    if waveform.ndim != 1:
        return Reject("audio.unreadable", f"need a mono waveform of shape (T,), got {waveform.shape}")
    if not len(waveform):
        return Reject("align.too_short", "the audio has no samples")
    if not math.isfinite(float(waveform.sum(dtype=np.float64))):  # an hour's isfinite() would be 58 MB more
        return Reject("audio.not_finite")
    return AlignerInput(utterance, tokens, waveform)


def finish_safely(
    item: AlignerInput | Reject, result: AlignerOutput | Reject, limits: Limits, moves_boundaries: bool
) -> Alignment:
    """`finish`, where what a backend must not return becomes a reject too."""
    try:
        return finish(item, result, limits, moves_boundaries)
    except Exception as error:
        return Alignment(reject=backend_error(error))


def finish(
    item: AlignerInput | Reject, result: AlignerOutput | Reject, limits: Limits, moves_boundaries: bool
) -> Alignment:
    """Check the result of a backend and give every word its original text."""
    if isinstance(item, Reject) or isinstance(result, Reject):
        return Alignment(reject=item if isinstance(item, Reject) else result)  # type: ignore[arg-type]
    if result.reject:
        return Alignment(reject=result.reject, quality=result.quality)
    try:
        checked = check(result.words, [" ".join(token.spoken) for token in item.tokens], item.seconds)
    except Reject as error:
        return Alignment(reject=error, quality=result.quality)
    phones = None if result.phones is None else tuple(result.phones)
    if moves_boundaries:
        checked, phones = at_changes(checked, phones, item.waveform)
    text = str(item.utterance.text)
    words = tuple(
        Word(text[token.first : token.last], word.start, word.end, word.spoken, word.confidence)
        for token, word in zip(item.tokens, checked, strict=True)
    )
    spans = None if phones is None else [(phone.start, phone.end) for phone in phones]
    quality = {**measure(words, spans, item.waveform), **result.quality}
    reject = judge(quality, limits)
    return Alignment(reject=reject, quality=quality) if reject else Alignment(words, phones, None, quality)


def at_changes(
    words: list[TimedWord], phones: tuple[Phone, ...] | None, waveform: np.ndarray
) -> tuple[list[TimedWord], tuple[Phone, ...] | None]:
    """Words and phones with their boundaries moved to where the sound changes; see `aligners.boundaries`."""
    times = np.array([(word.start, word.end) for word in words] + [(p.start, p.end) for p in phones or ()])
    moved = moved_to_changes(times, waveform).tolist()
    words = [word._replace(start=start, end=end) for word, (start, end) in zip(words, moved, strict=False)]
    if phones is not None:
        phones = tuple(Phone(phone.text, *at) for phone, at in zip(phones, moved[len(words) :], strict=True))
    return words, phones


def check(words: Sequence[TimedWord], spoken_words: Sequence[str], seconds: float) -> list[TimedWord]:
    """Check a backend's result: same words, same order, finite, 0 <= start < end <= seconds, no overlap.

    Args:
        words: the backend's result.
        spoken_words: its input, token by token.
        seconds: length of the recording.

    Returns:
        The words; overlaps and overruns of at most 25 ms are clipped.

    Raises:
        Reject: align.token_mismatch or align.bad_times.

    >>> words = check([TimedWord("hi", 0.1, 0.32), TimedWord("you", 0.3, 0.51)], ["hi", "you"], 0.5)
    >>> [(word.start, word.end) for word in words]
    [(0.1, 0.3), (0.3, 0.5)]
    """
    if [word.spoken for word in words] != list(spoken_words):
        at = next(
            (i for i, (a, b) in enumerate(zip(words, spoken_words, strict=False)) if a.spoken != b),
            min(len(words), len(spoken_words)),
        )
        got, want = ([*ws, "nothing"][min(at, len(ws))] for ws in ([w.spoken for w in words], spoken_words))
        raise Reject("align.token_mismatch", f"word {at + 1}: expected {want!r}, got {got!r}")
    clipped: list[TimedWord] = []
    for index, word in enumerate(words):
        start, end = float(word.start), float(word.end)
        if not (math.isfinite(start) and math.isfinite(end)):
            raise Reject("align.bad_times", f"word {word.spoken!r}: times [{start}, {end}) s are not finite")
        following = float(words[index + 1].start) if index + 1 < len(words) else seconds
        limit = min(following, seconds) if math.isfinite(following) else seconds
        inside = max(start, 0.0), min(end, limit)
        if max(inside[0] - start, end - inside[1]) > OVERRUN + 1e-6 or not inside[0] < inside[1]:
            raise Reject(
                "align.bad_times",
                f"word {word.spoken!r}: [{start:.3f}, {end:.3f}) s does not fit before {limit:.3f} s",
            )
        clipped.append(TimedWord(word.spoken, *inside, word.confidence))
    return clipped


def by_token(tokens: Sequence[Token], words: Sequence[TimedWord]) -> list[TimedWord]:
    """Times of tokens from the times of their spoken words: first start, last end, lowest confidence.

    >>> by_token([Token(("forty", "two"), 0, 9)], [TimedWord("forty", 0.1, 0.4, 0.9), TimedWord("two", 0.5, 0.7, 0.8)])
    [TimedWord(spoken='forty two', start=0.1, end=0.7, confidence=0.8)]
    """
    joined, index = [], 0
    for token in tokens:
        parts = words[index : index + len(token.spoken)]
        index += len(parts)
        scores = [part.confidence for part in parts if part.confidence is not None]
        spoken = " ".join(part.spoken for part in parts)
        joined.append(TimedWord(spoken, parts[0].start, parts[-1].end, min(scores) if scores else None))
    return joined
