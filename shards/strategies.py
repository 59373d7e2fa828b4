"""Where an utterance switches between text and speech: one settings class per strategy, and a registry of them.

A strategy is a frozen dataclass of its own parameters. Given a number of words and a random generator, it draws spans:
neighbouring words in one modality. Its fields are hashed into the keys of shards and written into samples, so a
parameter added to one strategy changes nothing of another.
"""

import abc
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from typing import Any, ClassVar, NamedTuple

import numpy as np

from corpus import keyed


class Span(NamedTuple):
    """Words [first, last) in one modality; with `task`, its marker is `[ASR]` or `[TTS]`."""

    first: int
    last: int
    speech: bool
    task: bool = False


class Spans(tuple[Span, ...]):
    """The spans of one utterance, in order."""

    @cached_property
    def columns(self) -> np.ndarray:
        """(3, S), of each span: 2 * first + speech, 2 * last + speech, 2 * task + speech: indices for look-ups."""
        numbers = np.fromiter(chain.from_iterable(self), dtype=np.int64, count=4 * len(self)).reshape(-1, 4)
        first, last, speech, task = numbers.T
        return np.stack((2 * first + speech, 2 * last + speech, 2 * task + speech))


@dataclass(frozen=True)
class Strategy(abc.ABC):
    """Settings of one way to interleave. The first line of a subclass's docstring describes it to users.

    Where the first modality (or an order) is open, a fair coin decides. The end of the utterance truncates the last
    span.
    """

    name: str = field(init=False)  # a field, so that it is hashed and written with the parameters
    uses_task_markers: ClassVar[bool] = False  # whether it needs `[ASR]` and `[TTS]` in the vocabulary

    @abc.abstractmethod
    def draw(self, words: int, rng: np.random.Generator) -> Spans:
        """The spans of an utterance of `words` words, at least 1."""


@dataclass(frozen=True)
class Spirit(Strategy):
    """Spans alternate, uniform over text_words and speech_words (bounds included), as in Spirit LM."""

    name: str = field(default="spirit", init=False)
    text_words: tuple[int, int] = (10, 30)
    speech_words: tuple[int, int] = (5, 15)

    def __post_init__(self) -> None:
        for name, bounds in (("text_words", self.text_words), ("speech_words", self.speech_words)):
            if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
                raise ValueError(
                    f"strategy spirit: {name}: need [min, max] with 1 <= min <= max, got {list(bounds)}"
                )

    def draw(self, words: int, rng: np.random.Generator) -> Spans:
        bounds = (self.text_words, self.speech_words)
        max_spans = 2 * (words // (bounds[0][0] + bounds[1][0]) + 1)
        fractions = iter(rng.random(max_spans + 1).tolist())  # one call: a call costs more than the numbers
        spans: list[Span] = []
        first, speech = 0, next(fractions) < 0.5
        while first < words:
            low, high = bounds[speech]
            last = min(words, first + low + int(next(fractions) * (high - low + 1)))
            spans.append(Span(first, last, speech))
            first, speech = last, not speech
        return Spans(spans)


@dataclass(frozen=True)
class Poisson(Strategy):
    """Speech spans of Poisson(mean_words) words, exactly `ratio` of the words spoken, as in SIMS.

    Lengths are drawn until they hold the promised number of words, the last one is cut, and they are distributed over
    the gaps between written words. The number of spoken words is ratio * words, rounded up or down at random so that
    its mean is exact. Were lengths and starts drawn until the ratio is *passed*, as the published code does, 30-word
    utterances would get 43 % for 30 %. The words are rotated at the end: every word is spoken equally often, those at
    the ends too.
    """

    name: str = field(default="poisson", init=False)
    ratio: float = 0.3
    mean_words: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"strategy poisson: ratio: need [0, 1], got {self.ratio}")
        if not 0 < self.mean_words < math.inf:
            raise ValueError(f"strategy poisson: mean_words: need more than 0, got {self.mean_words}")

    def draw(self, words: int, rng: np.random.Generator) -> Spans:
        fractions = iter(rng.random(2 * words + 2).tolist())
        spoken = min(words, int(self.ratio * words + next(fractions)))
        rotation = int(next(fractions) * words)
        table = _poisson_table(self.mean_words)
        lengths: list[int] = []
        rest = spoken
        while rest:
            lengths.append(min(max(1, bisect_right(table, next(fractions))), rest))
            rest -= lengths[-1]
        written = words - spoken
        while len(lengths) > written + 1:  # more speech spans than gaps between written words: join two
            lengths.append(lengths.pop() + lengths.pop())
        # the number of written words before each speech span: distinct numbers, all choices equally likely
        gaps: set[int] = set()
        for largest in range(written + 1 - len(lengths), written + 1):
            gap = int(next(fractions) * (largest + 1))
            gaps.add(largest if gap in gaps else gap)
        switches = []  # where the modality changes, in rotated words
        first = rotation
        for gap, length in zip(sorted(gaps), lengths, strict=True):
            switches += [(first + gap) % words, (first + gap + length) % words]
            first += length
        return _spans_of_switches(words, switches, spoken)


@dataclass(frozen=True)
class Binomial(Strategy):
    """Spans alternate, max(1, Binomial(trials, probability)) words each; half of the words on average."""

    name: str = field(default="binomial", init=False)
    trials: int = 39
    probability: float = 0.1

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"strategy binomial: trials: need at least 1, got {self.trials}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"strategy binomial: probability: need [0, 1], got {self.probability}")

    def draw(self, words: int, rng: np.random.Generator) -> Spans:
        table = _binomial_table(self.trials, self.probability)
        fractions = iter(rng.random(words + 1).tolist())
        spans: list[Span] = []
        first, speech = 0, next(fractions) < 0.5
        while first < words:
            last = min(words, first + max(1, bisect_right(table, next(fractions))))
            spans.append(Span(first, last, speech))
            first, speech = last, not speech
        return Spans(spans)


@dataclass(frozen=True)
class EveryWord(Strategy):
    """Every word as text, then the same word as speech."""

    name: str = field(default="word", init=False)

    def draw(self, words: int, rng: np.random.Generator) -> Spans:
        return _every_word(words)


@dataclass(frozen=True)
class Concatenated(Strategy):
    """The whole utterance twice: speech `[ASR]` text, or text `[TTS]` speech."""

    name: str = field(default="concatenated", init=False)
    uses_task_markers: ClassVar[bool] = True

    def draw(self, words: int, rng: np.random.Generator) -> Spans:
        speech = rng.random() < 0.5
        return Spans((Span(0, words, speech), Span(0, words, not speech, task=True)))


@dataclass(frozen=True)
class Continuation(Strategy):
    """The first half of the words in one modality, the rest in the other."""

    name: str = field(default="continuation", init=False)

    def draw(self, words: int, rng: np.random.Generator) -> Spans:
        speech = rng.random() < 0.5
        middle = (words + int(rng.random() < 0.5)) // 2
        halves = (Span(0, middle, speech), Span(middle, words, not speech))
        return Spans(half for half in halves if half.first < half.last)


@dataclass(frozen=True)
class Unimodal(Strategy):
    """The whole utterance in one modality."""

    name: str = field(default="none", init=False)

    def draw(self, words: int, rng: np.random.Generator) -> Spans:
        return Spans((Span(0, words, rng.random() < 0.5),))


STRATEGIES: dict[str, type[Strategy]] = {
    "spirit": Spirit,
    "poisson": Poisson,
    "binomial": Binomial,
    "word": EveryWord,
    "concatenated": Concatenated,
    "continuation": Continuation,
    "none": Unimodal,
}
"""The settings class of each strategy by name."""


def parameters_of(name: str) -> list[str]:
    """Names of the parameters of a strategy.

    Raises:
        ValueError: no such strategy.

    >>> parameters_of("poisson"), parameters_of("word")
    (['ratio', 'mean_words'], [])
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy {name!r}: need one of {', '.join(STRATEGIES)}")
    return [parameter.name for parameter in fields(STRATEGIES[name]) if parameter.init]


def make_strategy(name: str, **parameters: Any) -> Strategy:
    """A strategy by name with its own parameters; a list is as good as a tuple.

    Raises:
        ValueError: no such strategy, a parameter it does not have, or a value outside its range.

    >>> make_strategy("spirit", speech_words=[3, 9])
    Spirit(name='spirit', text_words=(10, 30), speech_words=(3, 9))
    """
    unknown = sorted(parameters.keys() - set(parameters_of(name)))
    if unknown:
        known = ", ".join(parameters_of(name)) or "none"
        raise ValueError(f"strategy {name}: unknown parameter {unknown[0]!r}; known: {known}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}
    return STRATEGIES[name](**values)


def strategy_of(record: Mapping[str, Any]) -> Strategy:
    """The strategy that a sample's JSON describes. Shards of schema 1 hold the parameters of all strategies: those that
    this one does not have are left out.

    >>> strategy_of({"name": "poisson", "ratio": 0.4, "trials": 39})
    Poisson(name='poisson', ratio=0.4, mean_words=10.0)
    """
    known = parameters_of(record["name"])
    return _strategy_of(
        record["name"], tuple((key, _hashable(value)) for key, value in record.items() if key in known)
    )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=64)
def _strategy_of(name: str, parameters: tuple[tuple[str, Any], ...]) -> Strategy:
    """Made once per description: a loader asks for every sample."""
    return make_strategy(name, **dict(parameters))


def draw_spans(words: int, strategy: Strategy | str, rng: np.random.Generator) -> Spans:
    """Draw the spans of an utterance, in order.

    All strategies but `word` and `concatenated` (which give every word in both modalities) give every word once.

    Raises:
        ValueError: no words, or no such strategy.
    """
    strategy = make_strategy(strategy) if isinstance(strategy, str) else strategy
    if words < 1:
        raise ValueError(f"spans: need at least 1 word, got {words}")
    return strategy.draw(words, rng)


def span_generator(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The generator that draws the spans of one utterance in one epoch; tokens.npy holds those of epoch 0.

    >>> int(span_generator(0, 1, "u1").integers(100)) == int(span_generator(0, 1, "u1").integers(100))
    True
    """
    return keyed.generator(seed, f"spans of epoch {epoch}", key)


def count_words(spans: Iterable[Span]) -> tuple[int, int]:
    """Number of words that are spoken, and that are written."""
    spoken = written = 0
    for first, last, speech, _ in spans:
        spoken += (last - first) * speech
        written += (last - first) * (not speech)
    return spoken, written


def _spans_of_switches(words: int, switches: list[int], spoken: int) -> Spans:
    """Spans of rotated words that turn to speech at switches 0, 2, ... and to text at 1, 3, ..."""
    if spoken in (0, words):
        return Spans((Span(0, words, spoken > 0),))
    opening, closing = set(switches[::2]), set(switches[1::2])
    both = opening & closing  # speech that ends where speech begins is no switch
    cuts = sorted((opening | closing) - both - {0})
    speech = cuts[0] in closing
    spans = []
    for first, last in zip([0, *cuts], [*cuts, words], strict=True):
        spans.append(Span(first, last, speech))
        speech = not speech
    return Spans(spans)


@lru_cache(maxsize=64)
def _poisson_table(mean: float) -> list[float]:
    """Probability of k or fewer, k = 0, 1, ...: the index of a uniform number in it is a Poisson number."""
    size = int(mean + 12 * math.sqrt(mean) + 30)
    return list(accumulate(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(size)))


@lru_cache(maxsize=64)
def _binomial_table(trials: int, probability: float) -> list[float]:
    """The same of a binomial number, without the last k, whose probability is 1."""
    if probability in (0, 1):
        return [1 - probability] * trials
    yes, no = math.log(probability), math.log1p(-probability)
    ways = (math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(trials))
    return list(accumulate(math.exp(way + k * yes + (trials - k) * no) for k, way in enumerate(ways)))


@lru_cache(maxsize=128)
def _every_word(words: int) -> Spans:
    return Spans(Span(word, word + 1, speech) for word in range(words) for speech in (False, True))
