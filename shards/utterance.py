"""One tokenised utterance: the input of every interleaving."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from shards.stream import PITCH_RATE, STYLE_RATE, check_rate
from shards.vocabulary import Vocabulary


@dataclass(eq=False)
class TokenizedUtterance:
    """Raw streams and words of one utterance, with F frames, W words and M text ids. Do not change it: cuts are cached.

    Starts and ends of words are in order; neighbours may touch. A word need not hold a frame, and an
    utterance need not have words (speech alone).

    Attributes:
        id: its key in the shard.
        units: (F,) int16, one unit per frame, not deduplicated.
        unit_rate: Hz.
        unit_centre: seconds, centre of frame 0.
        text: (M,) int32 ids of all words.
        text_ends: (W,) int32, number of text ids up to and including each word.
        starts, ends: (W,) float64, seconds from the start of the utterance.
        seconds: length of the utterance.
        pitch, style: (P,), (S,) int16 raw values, or None.
        pitch_rate, style_rate: Hz, as the tokenizers of the build give them.
    """

    id: str
    units: np.ndarray
    unit_rate: float
    unit_centre: float
    text: np.ndarray
    text_ends: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    seconds: float
    vocabulary: Vocabulary
    pitch: np.ndarray | None = None
    style: np.ndarray | None = None
    pitch_rate: float = PITCH_RATE
    style_rate: float = STYLE_RATE

    def __post_init__(self) -> None:
        self.text = np.asarray(self.text, dtype=np.int32)
        self.text_ends = np.asarray(self.text_ends, dtype=np.int32)
        self.starts = np.asarray(self.starts, dtype=float)
        self.ends = np.asarray(self.ends, dtype=float)
        self.units = self._tokens("units", self.units, self.vocabulary.units)
        if self.pitch is not None:
            self.pitch = self._tokens("pitch", self.pitch, self.vocabulary.pitch)
            check_rate(f"utterance {self.id!r}: pitch", self.pitch_rate)
        if self.style is not None:
            self.style = self._tokens("style", self.style, self.vocabulary.style)
            check_rate(f"utterance {self.id!r}: style", self.style_rate)
        self._check(self.unit_rate > 0 and self.seconds >= 0, "unit_rate and seconds: need > 0 Hz and >= 0 s")
        self._check(within(self.text, self.vocabulary.text_size), "text: need ids of the tokenizer")
        text_ends, starts, ends = self.text_ends, self.starts, self.ends
        words = len(text_ends)
        self._check(len(starts) == len(ends) == words, "words: need as many starts and ends as text_ends")
        last = int(text_ends[-1]) if words else 0
        rising = not words or (text_ends[0] >= 0 and bool((text_ends[1:] >= text_ends[:-1]).all()))
        self._check(rising and last == len(self.text), "text_ends: need to rise to the number of text ids")
        # NaN fails every comparison, so only the last end can still be infinite
        in_order = not words or (
            starts[0] >= 0
            and math.isfinite(ends[-1])
            and bool(
                (starts < ends).all() and (starts[1:] >= starts[:-1]).all() and (ends[1:] >= ends[:-1]).all()
            )
        )
        self._check(in_order, "word times: need 0 <= start < end, in order, finite")

    def _check(self, condition: bool, rule: str) -> None:
        if not condition:
            raise ValueError(f"utterance {self.id!r}: {rule}")

    def _tokens(self, name: str, values: np.ndarray, limit: int) -> np.ndarray:
        tokens = np.asarray(values)
        self._check(tokens.ndim == 1 and within(tokens, limit), f"{name}: need (N,) in [0, {limit})")
        return tokens.astype(np.int16, copy=False)

    @property
    def words(self) -> int:
        """Number of words W."""
        return len(self.text_ends)

    @cached_property
    def text_cuts(self) -> np.ndarray:
        """(W + 1,) int32 indices where words begin and end in `text`: words [a, b) are text[cuts[a]:cuts[b]]."""
        cuts = np.zeros(self.words + 1, dtype=np.int32)
        cuts[1:] = self.text_ends
        return cuts

    @cached_property
    def unit_cuts(self) -> np.ndarray:
        """(W + 1,) int64 indices where words begin and end in `units`: words [a, b) are units[cuts[a]:cuts[b]].

        Two neighbouring words meet in the middle of the gap between them, and a frame belongs to the word that holds
        its centre (a centre exactly on the boundary to the later one). Silence at either end goes to the outer word.
        """
        cuts = np.zeros(self.words + 1, dtype=np.int64)
        middles = self.ends[:-1] + self.starts[1:]
        middles *= 0.5
        cuts[1:-1] = self.centres.searchsorted(middles)
        cuts[-1] = len(self.units)
        return cuts

    @cached_property
    def runs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Deduplicated ids, and the indices where words begin and end: ids (N,) int32, begins and ends (W + 1,) int64.

        The frames of words [a, b), cut and then deduplicated, are ids[begins[a] : ends[b]], unless there are none.
        """
        return find_runs(self.units, self.unit_cuts, self.vocabulary.first_unit)

    @property
    def centres(self) -> np.ndarray:
        """(F,) centres of the frames, seconds."""
        return frame_centres(self.unit_rate, self.unit_centre, len(self.units))


def find_runs(
    units: np.ndarray, cuts: np.ndarray, first_unit: int, breaks: np.ndarray | int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of units as in `TokenizedUtterance.runs`; frames `breaks` always begin a run."""
    changes = np.empty(len(units), dtype=bool)
    np.not_equal(units[1:], units[:-1], out=changes[1:])
    if len(units):
        changes[breaks] = True
    (starts,) = changes.nonzero()
    ids = units.take(starts).astype(np.int32)
    ids += first_unit
    begins = starts.searchsorted(cuts, "right")
    begins -= 1
    return ids, begins, starts.searchsorted(cuts)


def frame_centres(unit_rate: float, unit_centre: float, frames: int) -> np.ndarray:
    """(F,) centres of the frames, seconds."""
    return _centres(unit_rate, unit_centre, 1 << frames.bit_length())[:frames]


@lru_cache(maxsize=64)
def _centres(unit_rate: float, unit_centre: float, frames: int) -> np.ndarray:
    """Cached per power of two: centres are the same for all utterances of a build."""
    centres = unit_centre + np.arange(frames) / unit_rate
    centres.setflags(write=False)
    return centres


def within(values: np.ndarray, limit: int) -> bool:
    """Whether all values are in [0, limit)."""
    unsigned = values.view(f"u{values.itemsize}")  # a negative value becomes a large one
    return not values.size or bool(unsigned.max() < limit)
