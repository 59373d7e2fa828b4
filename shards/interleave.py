"""Draw where an utterance switches between text and speech, and weave its tokens accordingly (SPEC 5 and 6).

Every strategy is a pure function of a number of words and a random generator: it gives spans, neighbouring words in
one modality. What does not depend on the strategy is decided once:

- a marker stands before every span, the first one included, and nowhere else;
- a frame belongs to the word that holds its centre, words meet in the middle of the silence between them, and silence
  at either end goes to the outer word (`TokenizedUtterance.unit_cuts`);
- raw units are cut first and deduplicated inside their span, so a run that straddles a switch is said on both sides
  that hold a frame of it;
- with pitch and style, a speech span says again which of them are in force at its start (`stream.merge_ids`);
- one utterance is one sequence; spans never cross utterances.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from shards.stream import merge_ids
from shards.utterance import TokenizedUtterance
from shards.vocabulary import KINDS, Vocabulary


@dataclass(frozen=True)
class Strategy:
    """Name and numbers of one way to interleave; each strategy reads its own numbers and ignores the others.

    ==============  =========================================================================================
    spirit          spans alternate, uniform over text_words and speech_words (bounds included); Spirit LM
    poisson         speech spans of Poisson(mean_words) words, exactly `ratio` of the words; SIMS
    binomial        spans alternate, max(1, Binomial(trials, probability)) words each; half the words in the mean
    word            every word as text, then the same word as speech
    concatenated    the whole utterance twice: speech `[ASR]` text or text `[TTS]` speech
    continuation    the first half of the words in one modality, the rest in the other
    none            the whole utterance in one modality
    ==============  =========================================================================================

    Wherever a first modality (or an order) is open, a fair coin decides. The last span is truncated by the end of the
    utterance.
    """

    name: str = "spirit"
    text_words: tuple[int, int] = (10, 30)
    speech_words: tuple[int, int] = (5, 15)
    ratio: float = 0.3
    mean_words: float = 10.0
    trials: int = 39
    probability: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in STRATEGIES:
            raise ValueError(f"strategy {self.name!r}: need one of {', '.join(STRATEGIES)}")
        for name in ("text_words", "speech_words"):
            low, high = getattr(self, name)
            object.__setattr__(self, name, (int(low), int(high)))  # a list from JSON or TOML is welcome
            if not 1 <= low <= high:
                raise ValueError(f"strategy {name}: need 1 <= low <= high, got {low}, {high}")
        for name in ("ratio", "probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"strategy {name}: need [0, 1], got {getattr(self, name)}")
        if self.mean_words <= 0 or self.trials < 1:
            raise ValueError(
                f"strategy: need mean_words > 0 and trials >= 1, got {self.mean_words}, {self.trials}"
            )


def strategy_of(record: Mapping[str, Any]) -> Strategy:
    """The strategy that a sample's JSON or a settings table describes; made once per description.

    >>> strategy_of({"name": "spirit", "text_words": [10, 30]}) == Strategy()
    True
    """
    return _made(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
    )


@lru_cache(maxsize=64)
def _made(**fields: Any) -> Strategy:
    return Strategy(**fields)


class Span(NamedTuple):
    """Words [first, last) in one modality; `task` says that `[ASR]` or `[TTS]` opens it instead of its own marker."""

    first: int
    last: int
    speech: bool
    task: bool = False


class ParsedSpan(NamedTuple):
    """A span as it stands in a sequence: its marker ("[Text]", ...), its modality, and the ids after the marker."""

    marker: str
    speech: bool
    ids: np.ndarray


def generator(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The generator of one thing in one epoch. It depends on these three alone, never on the order of the work.

    >>> int(generator(0, 1, "u1").integers(100)) == int(generator(0, 1, "u1").integers(100))
    True
    """
    digest = hashlib.sha256(f"{seed}\0{epoch}\0{key}".encode()).digest()
    return np.random.Generator(np.random.PCG64(_Digest(digest)))  # type: ignore[arg-type]  # numpy takes any ISeedSequence


class _Digest(ISeedSequence):
    """A sha256 as the 256 bits PCG64 starts from; numpy would hash an integer again, at five times the cost."""

    def __init__(self, digest: bytes):
        self.words = np.frombuffer(digest, dtype="<u8")

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        assert (n_words, dtype) == (4, np.uint64)
        return self.words


def spans(words: int, strategy: Strategy | str, rng: np.random.Generator) -> list[Span]:
    """Draw the spans of an utterance of so many words, in order.

    All strategies but `word` and `concatenated` (which give every word in both modalities) give every word once.

    Raises:
        ValueError: no words, or no such strategy.
    """
    strategy = strategy_of({"name": strategy}) if isinstance(strategy, str) else strategy
    if words < 1:
        raise ValueError(f"spans: need at least 1 word, got {words}")
    return STRATEGIES[strategy.name](words, strategy, rng)


def interleave(
    utterance: TokenizedUtterance, strategy: Strategy | str, rng: np.random.Generator
) -> list[int]:
    """Ids of one interleaved sequence, markers included; `document` adds BOS and EOS."""
    return weave(utterance, spans(utterance.words, strategy, rng)).tolist()


def weave(utterance: TokenizedUtterance, plan: Sequence[Span]) -> np.ndarray:
    """Ids of the sequence that a plan describes: (N,) int32."""
    text, text_cuts, unit_cuts = utterance.text, utterance.text_cuts, utterance.unit_cuts
    markers = utterance.vocabulary.marker_arrays
    expressive = utterance.pitch is not None or utterance.style is not None
    runs, begun = utterance.runs
    parts: list[np.ndarray] = []
    for first, last, speech, task in plan:
        if task and not utterance.vocabulary.tasks:
            raise ValueError(
                "strategy concatenated: need a vocabulary with tasks=True, for its markers [ASR] and [TTS]"
            )
        parts.append(markers[speech, task])
        if not speech:
            parts.append(text[text_cuts[first] : text_cuts[last]])
            continue
        begin, end = unit_cuts[first], unit_cuts[last]
        if expressive:
            parts.append(_expressive(utterance, begin, end))
        elif begin < end:
            parts.append(runs[begun[begin] - 1 : begun[end - 1]])
    return np.concatenate(parts)


def speech_tokens(utterance: TokenizedUtterance) -> np.ndarray:
    """`[Speech]` and the deduplicated units of the whole utterance: (N,) int32."""
    marker = utterance.vocabulary.marker_arrays[True, False]
    return np.concatenate((marker, _expressive(utterance, 0, len(utterance.units))))


def text_tokens(utterance: TokenizedUtterance) -> np.ndarray:
    """`[Text]` and all text ids: (M + 1,) int32."""
    return np.concatenate((utterance.vocabulary.marker_arrays[False, False], utterance.text))


def document(tokens: np.ndarray | Sequence[int], vocabulary: Vocabulary, *, eos: bool = True) -> np.ndarray:
    """A training document: BOS where the tokenizer has one, the tokens, EOS where it has one and `eos` asks for
    it."""
    opening, closing = vocabulary.bos, vocabulary.eos if eos else None
    opens, closes = opening is not None, closing is not None
    ids = np.empty(len(tokens) + opens + closes, dtype=np.int32)
    ids[opens : opens + len(tokens)] = tokens
    if opening is not None:
        ids[0] = opening
    if closing is not None:
        ids[-1] = closing
    return ids


def parse(tokens: np.ndarray | Sequence[int], vocabulary: Vocabulary) -> list[ParsedSpan]:
    """Spans of a sequence, BOS and EOS aside; the inverse of `weave`.

    Raises:
        ValueError: the sequence does not begin with a marker, two neighbouring spans are of one modality, or a token
            stands in a span of the other modality.
    """
    ids = np.asarray(tokens, dtype=np.int32)
    ids = ids[int(len(ids) > 0 and ids[0] == vocabulary.bos) :]
    ids = ids[: len(ids) - int(len(ids) > 0 and ids[-1] == vocabulary.eos)]
    kinds = vocabulary.kind(ids)
    starts = np.flatnonzero((kinds == KINDS.index("marker")) | (kinds == KINDS.index("task")))
    if len(ids) and (not len(starts) or starts[0] != 0):
        raise ValueError(f"sequence: need a marker first, got {vocabulary.names[ids[0]]}")
    found: list[ParsedSpan] = []
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        speech = ids[start] == vocabulary.speech_marker or (
            vocabulary.tasks and ids[start] == vocabulary.tts_marker
        )
        allowed = np.isin(kinds[start + 1 : stop], _SPEECH_KINDS if speech else _TEXT_KINDS)
        marker = vocabulary.names[ids[start]]
        if not allowed.all():
            wrong = vocabulary.names[ids[start + 1 + int(np.argmin(allowed))]]
            raise ValueError(f"span {len(found)}: a span that {marker} opens cannot hold {wrong}")
        if found and found[-1].speech == speech:
            raise ValueError(f"span {len(found)}: {marker} must switch the modality, and it does not")
        found.append(ParsedSpan(marker, speech, ids[start + 1 : stop]))
    return found


_TEXT_KINDS = [KINDS.index("text")]
_SPEECH_KINDS = [KINDS.index(kind) for kind in ("unit", "pitch", "style")]


def _expressive(utterance: TokenizedUtterance, first: int, last: int) -> np.ndarray:
    return merge_ids(
        utterance.units,
        utterance.pitch,
        utterance.style,
        vocabulary=utterance.vocabulary,
        unit_rate=utterance.unit_rate,
        pitch_rate=utterance.pitch_rate,
        style_rate=utterance.style_rate,
        first=int(first),
        last=int(last),
    )


# The strategies ----------------------------------------------------------------------------------------------------


def _spirit(words: int, strategy: Strategy, rng: np.random.Generator) -> list[Span]:
    bounds = (strategy.text_words, strategy.speech_words)
    most = 2 * (words // (bounds[0][0] + bounds[1][0]) + 1)
    draws = rng.random(most + 1).tolist()  # one call: a call costs more than the numbers

    def length(number: int, speech: bool) -> int:
        low, high = bounds[speech]
        return low + int(draws[number + 1] * (high - low + 1))

    return _alternate(words, draws[0] < 0.5, length)


def _binomial(words: int, strategy: Strategy, rng: np.random.Generator) -> list[Span]:
    first = rng.random() < 0.5
    lengths = np.maximum(rng.binomial(strategy.trials, strategy.probability, size=words), 1).tolist()
    return _alternate(words, first, lambda number, _: lengths[number])


def _alternate(words: int, speech: bool, length: Callable[[int, bool], int]) -> list[Span]:
    found: list[Span] = []
    first = 0
    while first < words:
        last = min(words, first + length(len(found), speech))
        found.append(Span(first, last, speech))
        first, speech = last, not speech
    return found


def _poisson(words: int, strategy: Strategy, rng: np.random.Generator) -> list[Span]:
    """Lengths are drawn until they hold the promised number of words, the last one cut, then dealt to the gaps.

    The number of spoken words is ratio * words, rounded up or down at random so that its mean is exact. Were lengths
    and starts drawn until the ratio is *passed*, as the published code does, 30-word utterances would get 43 % for
    30 %. The words are turned like a wheel at the end: every word is spoken equally often, those at the ends too.
    """
    spoken = min(words, int(strategy.ratio * words + rng.random()))
    lengths: list[int] = []
    while spoken > (so_far := sum(lengths)):
        lengths.append(min(max(1, int(rng.poisson(strategy.mean_words))), spoken - so_far))
    written = words - spoken
    while len(lengths) > written + 1:  # more speech spans than gaps between written words: join two
        lengths.append(lengths.pop() + lengths.pop())
    gaps = np.sort(rng.permutation(written + 1)[: len(lengths)])  # number of written words before each
    speech = np.zeros(words, dtype=bool)
    first = 0
    for gap, length in zip(gaps.tolist(), lengths, strict=True):
        speech[gap + first : gap + first + length] = True
        first += length
    speech = np.roll(speech, int(rng.integers(words)))
    cuts = [0, *(np.flatnonzero(speech[1:] != speech[:-1]) + 1).tolist(), words]
    return [Span(a, b, bool(speech[a])) for a, b in pairwise(cuts)]


def _word(words: int, strategy: Strategy, rng: np.random.Generator) -> list[Span]:
    return [Span(word, word + 1, speech) for word in range(words) for speech in (False, True)]


def _concatenated(words: int, strategy: Strategy, rng: np.random.Generator) -> list[Span]:
    speech = rng.random() < 0.5
    return [Span(0, words, speech), Span(0, words, not speech, task=True)]


def _continuation(words: int, strategy: Strategy, rng: np.random.Generator) -> list[Span]:
    speech = rng.random() < 0.5
    middle = (words + int(rng.random() < 0.5)) // 2
    halves = [Span(0, middle, speech), Span(middle, words, not speech)]
    return [half for half in halves if half.first < half.last]


def _none(words: int, strategy: Strategy, rng: np.random.Generator) -> list[Span]:
    return [Span(0, words, rng.random() < 0.5)]


STRATEGIES: dict[str, Callable[[int, Strategy, np.random.Generator], list[Span]]] = {
    "spirit": _spirit,
    "poisson": _poisson,
    "binomial": _binomial,
    "word": _word,
    "concatenated": _concatenated,
    "continuation": _continuation,
    "none": _none,
}
"""The strategies by name."""
