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
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from shards.stream import PITCH_RATE, STYLE_RATE, merge_ids, merge_spans
from shards.utterance import TokenizedUtterance, find_runs, frame_centres
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


class Plan(tuple[Span, ...]):
    """The spans of one utterance, in order."""

    @cached_property
    def columns(self) -> np.ndarray:
        """(3, S), of each span: 2 * first + speech, 2 * last + speech, 2 * task + speech; what `weave` looks up by."""
        numbers = np.fromiter(chain.from_iterable(self), dtype=np.int64, count=4 * len(self)).reshape(-1, 4)
        first, last, speech, task = numbers.T
        return np.stack((2 * first + speech, 2 * last + speech, 2 * task + speech))


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


def spans(words: int, strategy: Strategy | str, rng: np.random.Generator) -> Plan:
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
    _check_tasks([plan], utterance.vocabulary)
    expressive = utterance.pitch is not None or utterance.style is not None
    if len(plan) > _MANY and not expressive:
        return _weave_many(utterance, plan if isinstance(plan, Plan) else Plan(plan))
    text, text_cuts, unit_cuts = utterance.text, utterance.text_cuts, utterance.unit_cuts
    markers = utterance.vocabulary.marker_arrays
    runs, begins, ends = utterance.runs
    parts: list[np.ndarray] = []
    for first, last, speech, task in plan:
        parts.append(markers[speech, task])
        if not speech:
            parts.append(text[text_cuts[first] : text_cuts[last]])
        elif expressive:
            parts.append(_expressive(utterance, unit_cuts[first], unit_cuts[last]))
        elif unit_cuts[first] < unit_cuts[last]:
            parts.append(runs[begins[first] : ends[last]])
    return np.concatenate(parts)


def _check_tasks(plans: Iterable[Sequence[Span]], vocabulary: Vocabulary) -> None:
    if not vocabulary.tasks and any(plan[-1].task for plan in plans):
        raise ValueError(
            "strategy concatenated: need a vocabulary with tasks=True, for its markers [ASR] and [TTS]"
        )


_MANY = 16
"""Spans from which on index arithmetic is faster than a slice for each."""


def _weave_many(utterance: TokenizedUtterance, plan: Plan) -> np.ndarray:
    """As `weave`, all spans at once."""
    cuts = utterance.text_cuts, utterance.unit_cuts
    return _gather(utterance.text, utterance.runs, *cuts, plan.columns, utterance.vocabulary)[0]


def weave_all(
    texts: Sequence[np.ndarray],
    text_ends: Sequence[np.ndarray],
    units: Sequence[np.ndarray],
    times: Sequence[np.ndarray],
    plans: Sequence[Plan],
    *,
    vocabulary: Vocabulary,
    unit_rate: float,
    unit_centre: float,
    pitch: Sequence[np.ndarray] | None = None,
    style: Sequence[np.ndarray] | None = None,
    pitch_rate: float = PITCH_RATE,
    style_rate: float = STYLE_RATE,
) -> list[np.ndarray]:
    """What `weave` gives for each of many utterances, in one pass over all of them.

    Args:
        texts, text_ends, units, pitch, style: of each utterance, as in `TokenizedUtterance`; each has words and units.
        times: of each utterance, (2, W) starts and ends of its words, seconds.
        plans: of each utterance, from `spans`.

    Returns:
        (N,) int32 ids of each utterance.
    """
    words = np.array([len(one) for one in text_ends])
    frames = np.array([len(one) for one in units])
    first_word, first_frame = np.cumsum(words) - words, np.cumsum(frames) - frames
    first_text = np.cumsum([0, *map(len, texts)])[:-1]
    # an utterance of W words has W + 1 cuts; those between two words are where their neighbours' times meet
    first_cut = first_word + np.arange(len(words))
    last_cut = first_cut + words
    starts, ends = np.concatenate(times, axis=1)
    inner = np.ones(len(starts) + len(words), dtype=bool)
    inner[first_cut] = False
    text_cuts = np.zeros(len(inner), dtype=np.int64)
    text_cuts[inner] = np.concatenate(text_ends)
    text_cuts += first_text.repeat(words + 1)
    inner[last_cut] = False
    middles = np.delete((ends[:-1] + starts[1:]) / 2, first_word[1:] - 1)
    unit_cuts = np.zeros(len(inner), dtype=np.int64)
    unit_cuts[inner] = frame_centres(unit_rate, unit_centre, int(frames.max())).searchsorted(middles)
    unit_cuts[last_cut] = frames
    np.minimum(unit_cuts, frames.repeat(words + 1), out=unit_cuts)
    unit_cuts += first_frame.repeat(words + 1)

    counts = [len(plan) for plan in plans]
    _check_tasks(plans, vocabulary)
    known = all(
        "columns" in vars(plan) for plan in plans
    )  # every word both ways: the same plan again and again
    columns = (
        np.concatenate([plan.columns for plan in plans], axis=1)
        if known
        else Plan(chain.from_iterable(plans)).columns
    )
    columns[:2] += (2 * first_cut).repeat(counts)
    text = np.concatenate(texts)
    if pitch is None and style is None:
        runs = find_runs(np.concatenate(units), unit_cuts, vocabulary.first_unit, first_frame)
        ids, heads = _gather(text, runs, text_cuts, unit_cuts, columns, vocabulary)
    else:
        kinds = columns[2]
        (spoken,) = (kinds % 2).nonzero()
        cuts = columns[:2] // 2
        starts = text_cuts[cuts[0]]
        lengths = text_cuts[cuts[1]] - starts
        owners = np.arange(len(plans)).repeat(counts)[spoken]
        frames_of = unit_cuts[cuts[:, spoken]] - first_frame[owners]
        speech, found = merge_spans(
            units, pitch, style, owners, *frames_of,
            vocabulary=vocabulary, unit_rate=unit_rate, pitch_rate=pitch_rate, style_rate=style_rate,
        )  # fmt: skip
        starts[spoken] = len(text) + np.cumsum(found) - found
        lengths[spoken] = found
        ids, heads = _laid_out(np.concatenate((text, speech)), starts, lengths, kinds, vocabulary)
    return np.split(ids, heads[np.cumsum(counts)[:-1]])


def _gather(
    text: np.ndarray,
    runs: tuple[np.ndarray, np.ndarray, np.ndarray],
    text_cuts: np.ndarray,
    unit_cuts: np.ndarray,
    columns: np.ndarray,
    vocabulary: Vocabulary,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all spans, and where the marker of each stands, by index arithmetic."""
    firsts, lasts, kinds = columns
    run_ids, run_begins, run_ends = runs
    begins, ends = np.empty((2, len(unit_cuts), 2), dtype=np.int64)  # text beside speech, as in the columns
    begins[:, 0] = ends[:, 0] = text_cuts
    begins[:, 1], ends[:, 1] = run_begins, run_ends
    begins[:, 1] += len(text)  # each id is looked up in text and runs, one after the other
    ends[:, 1] += len(text)
    starts = begins.ravel().take(firsts)
    lengths = ends.ravel().take(lasts)
    lengths -= starts
    if not (unit_cuts[1:] > unit_cuts[:-1]).all():
        # words without a frame say nothing, not the run around them
        lengths[(kinds % 2 == 1) & (unit_cuts[firsts // 2] == unit_cuts[lasts // 2])] = 0
    return _laid_out(np.concatenate((text, run_ids)), starts, lengths, kinds, vocabulary)


def _laid_out(
    source: np.ndarray, starts: np.ndarray, lengths: np.ndarray, kinds: np.ndarray, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """A marker and then source[start : start + length], for each span, and where the markers stand."""
    lengths = lengths + 1  # the marker
    heads = lengths.cumsum()
    heads -= lengths
    index = (starts - heads - 1).repeat(lengths)
    index += np.arange(len(index))
    ids = source.take(index, mode="wrap")  # at a marker anything, -1 too
    ids[heads] = vocabulary.marker_ids.take(kinds)
    return ids, heads


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


def _spirit(words: int, strategy: Strategy, rng: np.random.Generator) -> Plan:
    bounds = (strategy.text_words, strategy.speech_words)
    most = 2 * (words // (bounds[0][0] + bounds[1][0]) + 1)
    draws = iter(rng.random(most + 1).tolist())  # one call: a call costs more than the numbers
    found: list[Span] = []
    first, speech = 0, next(draws) < 0.5
    while first < words:
        low, high = bounds[speech]
        last = min(words, first + low + int(next(draws) * (high - low + 1)))
        found.append(Span(first, last, speech))
        first, speech = last, not speech
    return Plan(found)


def _binomial(words: int, strategy: Strategy, rng: np.random.Generator) -> Plan:
    table = _binomial_table(strategy.trials, strategy.probability)
    draws = iter(rng.random(words + 1).tolist())
    found: list[Span] = []
    first, speech = 0, next(draws) < 0.5
    while first < words:
        last = min(words, first + max(1, bisect_right(table, next(draws))))
        found.append(Span(first, last, speech))
        first, speech = last, not speech
    return Plan(found)


def _poisson(words: int, strategy: Strategy, rng: np.random.Generator) -> Plan:
    """Lengths are drawn until they hold the promised number of words, the last one cut, then dealt to the gaps.

    The number of spoken words is ratio * words, rounded up or down at random so that its mean is exact. Were lengths
    and starts drawn until the ratio is *passed*, as the published code does, 30-word utterances would get 43 % for
    30 %. The words are turned like a wheel at the end: every word is spoken equally often, those at the ends too.
    """
    draws = iter(rng.random(2 * words + 2).tolist())
    spoken = min(words, int(strategy.ratio * words + next(draws)))
    turn = int(next(draws) * words)
    table = _poisson_table(strategy.mean_words)
    lengths: list[int] = []
    rest = spoken
    while rest:
        lengths.append(min(max(1, bisect_right(table, next(draws))), rest))
        rest -= lengths[-1]
    written = words - spoken
    while len(lengths) > written + 1:  # more speech spans than gaps between written words: join two
        lengths.append(lengths.pop() + lengths.pop())
    gaps: set[int] = set()  # number of written words before each: so many different ones, all choices alike
    for most in range(written + 1 - len(lengths), written + 1):
        gap = int(next(draws) * (most + 1))
        gaps.add(most if gap in gaps else gap)
    switches = []  # where the modality changes on the wheel, words [0, words) turned
    first = turn
    for gap, length in zip(sorted(gaps), lengths, strict=True):
        switches += [(first + gap) % words, (first + gap + length) % words]
        first += length
    return _switched(words, switches, spoken)


def _switched(words: int, switches: list[int], spoken: int) -> Plan:
    """Spans of a wheel of words that turns to speech at switches 0, 2, ... and to text at 1, 3, ..."""
    if spoken in (0, words):
        return Plan((Span(0, words, spoken > 0),))
    opening, closing = set(switches[::2]), set(switches[1::2])
    both = opening & closing  # speech that ends where speech begins is no switch
    cuts = sorted((opening | closing) - both - {0})
    speech = cuts[0] in closing
    found = []
    for first, last in zip([0, *cuts], [*cuts, words], strict=True):
        found.append(Span(first, last, speech))
        speech = not speech
    return Plan(found)


@lru_cache(maxsize=64)
def _poisson_table(mean: float) -> list[float]:
    """Probability of k or fewer, k = 0, 1, ...: a uniform number's place in it is a Poisson number."""
    most = int(mean + 12 * math.sqrt(mean) + 30)
    return list(accumulate(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(most)))


@lru_cache(maxsize=64)
def _binomial_table(trials: int, probability: float) -> list[float]:
    """The same of a binomial number, without the last k, whose probability is 1."""
    if probability in (0, 1):
        return [1 - probability] * trials
    yes, no = math.log(probability), math.log1p(-probability)
    ways = (math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(trials))
    return list(accumulate(math.exp(way + k * yes + (trials - k) * no) for k, way in enumerate(ways)))


@lru_cache(maxsize=128)
def _every_word(words: int) -> Plan:
    plan = Plan(Span(word, word + 1, speech) for word in range(words) for speech in (False, True))
    assert plan.columns.size  # computed here, once for all utterances of so many words
    return plan


def _word(words: int, strategy: Strategy, rng: np.random.Generator) -> Plan:
    return _every_word(words)


def _concatenated(words: int, strategy: Strategy, rng: np.random.Generator) -> Plan:
    speech = rng.random() < 0.5
    return Plan((Span(0, words, speech), Span(0, words, not speech, task=True)))


def _continuation(words: int, strategy: Strategy, rng: np.random.Generator) -> Plan:
    speech = rng.random() < 0.5
    middle = (words + int(rng.random() < 0.5)) // 2
    halves = (Span(0, middle, speech), Span(middle, words, not speech))
    return Plan(half for half in halves if half.first < half.last)


def _none(words: int, strategy: Strategy, rng: np.random.Generator) -> Plan:
    return Plan((Span(0, words, rng.random() < 0.5),))


STRATEGIES: dict[str, Callable[[int, Strategy, np.random.Generator], Plan]] = {
    "spirit": _spirit,
    "poisson": _poisson,
    "binomial": _binomial,
    "word": _word,
    "concatenated": _concatenated,
    "continuation": _continuation,
    "none": _none,
}
"""The strategies by name."""
