"""Word times from any CTC acoustic model in Hugging Face format (Wav2Vec2, HuBERT, WavLM ...ForCTC, letters as tokens).

The model listens in windows, so that memory does not grow with the recording; long recordings are first cut where
a word surely ends, and `torchaudio.functional.forced_align` aligns the pieces. CTC peaks are not boundaries: a word
begins at the first frame of its first letter and ends half-way to the next, at most 0.1 s after its last letter.
"""

import functools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aligners.alignment import Aligner, Found, Item, Timed, by_token
from corpus.records import SAMPLE_RATE, Reject

if TYPE_CHECKING:
    import torch

TAIL = 0.1  # seconds: longest sound of a word after its last letter's peak
PIECE = 1500  # frames: a recording of more than one and a half of this is cut first, and the cut sought in so many
MARGIN = 25  # frames kept before a word that a piece does not finish
LETTERS_PER_FRAME = 0.5  # 25 a second, more than anybody speaks: bounds the text looked at for one piece


@dataclass(frozen=True)
class CtcSettings:
    """Settings of the backend `ctc`.

    model: a directory (or hub name) with config.json, vocab.json and weights.
    device: "cpu", "cuda", "cuda:1" ...
    window_seconds, context_seconds: the model hears so much at a time, and so much more on either side.
    minimum_confidence: an utterance whose mean word confidence is lower is rejected; None keeps all.
    """

    model: str
    device: str = "cpu"
    window_seconds: float = 20.0
    context_seconds: float = 2.0
    minimum_confidence: float | None = None

    def __post_init__(self) -> None:
        if self.window_seconds <= 0 or self.context_seconds < 0:
            got = f"{self.window_seconds} and {self.context_seconds}"
            raise ValueError(f"ctc: need window_seconds > 0 and context_seconds >= 0, got {got}")


class Acoustics(NamedTuple):
    """A loaded model: its tokens, and what its frames mean."""

    model: "torch.nn.Module"
    tokens: dict[str, int]
    blank: int
    delimiter: int | None  # the token between words
    hop: int  # samples
    receptive: int  # samples that one frame sees
    normalise: bool  # whether the model wants waveforms of mean 0 and variance 1


class Ctc(Aligner):
    """Forced alignment over a CTC model; see the module."""

    name = "ctc"
    measures = ("confidence",)

    def __init__(self, settings: CtcSettings):
        self.settings = settings

    def align_one(self, item: Item) -> Found:
        acoustics = load(self.settings.model, self.settings.device)
        words = [spell(word, acoustics.tokens) for word in item.spoken]
        if len(item.waveform) < acoustics.receptive:
            raise Reject("align.too_short", f"{item.seconds:.3f} s give not one frame")
        log_probs = listen(item.waveform, acoustics, self.settings)
        spans = align_words(log_probs, words, acoustics.blank, acoustics.delimiter)
        times = list(to_times(spans, item.spoken, acoustics, item.seconds))
        confidence = float(np.mean([span.confidence for span in spans]))
        quality = {"confidence": confidence}
        minimum = self.settings.minimum_confidence
        if minimum is not None and confidence < minimum:
            reject = Reject(
                "align.low_quality", f"confidence {confidence:.2f} is below minimum_confidence {minimum}"
            )
            return Found((), None, quality, reject)
        return Found(by_token(item.tokens, times), None, quality)


@functools.lru_cache(maxsize=2)
def load(model: str, device: str) -> Acoustics:
    """A model directory or hub name, once per process.

    Raises:
        ValueError: it is no CTC model with a vocabulary of letters.
    """
    from transformers import AutoConfig, AutoModelForCTC
    from transformers.utils import cached_file

    config = AutoConfig.from_pretrained(model)
    network = AutoModelForCTC.from_pretrained(model).eval().to(device)
    tokens = json.loads(Path(str(cached_file(model, "vocab.json"))).read_text(encoding="utf-8"))
    preprocessor = cached_file(model, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    normalise = json.loads(Path(preprocessor).read_text()).get("do_normalize", True) if preprocessor else True
    if not all(isinstance(number, int) for number in tokens.values()):
        raise ValueError(f"ctc.model {model}: vocab.json holds no flat vocabulary of letters")
    hop, receptive = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        receptive, hop = receptive + (kernel - 1) * hop, hop * stride
    return Acoustics(network, tokens, config.pad_token_id, tokens.get("|"), hop, receptive, normalise)


def spell(word: str, tokens: dict[str, int]) -> list[int]:
    """A word as tokens, in whatever case the vocabulary has; apostrophes it lacks are left out.

    >>> spell("it's", {"I": 1, "T": 2, "S": 3})
    [1, 2, 3]
    """
    spelled = []
    for letter in word:
        found = next(
            (tokens[form] for form in (letter, letter.upper(), letter.lower()) if form in tokens), None
        )
        if found is None and letter != "'":
            raise Reject("align.out_of_vocabulary", f"{word[:50]!r}: the model has no {letter!r}")
        if found is not None:
            spelled.append(found)
    if not spelled:
        raise Reject("align.out_of_vocabulary", f"{word!r} has no letters")
    return spelled


def listen(waveform: np.ndarray, acoustics: Acoustics, settings: CtcSettings) -> np.ndarray:
    """Log probabilities of the tokens, (F, C) float32, computed window by window.

    Windows begin at multiples of the hop, so frame i always sees the same samples; it is taken from the window in
    which it has `context_seconds` of sound on both sides.
    """
    import torch

    hop, receptive = acoustics.hop, acoustics.receptive
    if acoustics.normalise:
        waveform = ((waveform - waveform.mean()) / math.sqrt(float(waveform.var()) + 1e-7)).astype(np.float32)
    frames = (len(waveform) - receptive) // hop + 1
    window = max(1, round(settings.window_seconds * SAMPLE_RATE / hop))
    context = round(settings.context_seconds * SAMPLE_RATE / hop)
    parts = []
    for first in range(0, frames, window):
        last = min(first + window, frames)
        left, right = max(0, first - context), min(frames, last + context)
        piece = torch.from_numpy(waveform[left * hop : (right - 1) * hop + receptive].copy())
        with torch.inference_mode():
            logits = acoustics.model(piece[None].to(settings.device)).logits[0].float()
            part = torch.log_softmax(logits, -1)[first - left : last - left]
        parts.append(part.cpu().numpy())
    return np.concatenate(parts)


class Span(NamedTuple):
    """Frames [first, last) of a word's letters, and the mean posterior of the letters' frames."""

    first: int
    last: int
    confidence: float


def align_words(
    log_probs: np.ndarray,
    words: Sequence[Sequence[int]],
    blank: int,
    delimiter: int | None = None,
    piece: int = PIECE,
) -> list[Span]:
    """Frames of every word.

    Args:
        log_probs: (F, C) float.
        words: tokens of every word.
        blank, delimiter: tokens of CTC's blank, and between words if the model has one.
        piece: frames aligned at a time.

    Raises:
        Reject: align.too_short, align.unalignable, align.backend_error.
    """
    if not np.isfinite(log_probs).all():
        raise Reject("align.backend_error", "the model returned values that are not finite")
    spans: list[Span] = []
    frame, size = 0, piece
    while len(log_probs) - frame > size * 3 // 2 and len(spans) < len(words):
        count, cut = cut_piece(log_probs[frame : frame + size], words[len(spans) :], blank, delimiter)
        if count:
            spans += align_piece(
                log_probs, frame, frame + cut, words[len(spans) : len(spans) + count], blank, delimiter
            )
        frame += cut
        size = piece if cut else size * 2  # no word ends in the piece: look at a longer one
    if len(spans) < len(words):
        spans += align_piece(log_probs, frame, len(log_probs), words[len(spans) :], blank, delimiter)
    return spans


def join(words: Sequence[Sequence[int]], delimiter: int | None) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of the words with delimiters between, and which word each belongs to (-1: a delimiter)."""
    tokens: list[int] = []
    owners: list[int] = []
    for number, word in enumerate(words):
        if number and delimiter is not None:
            tokens.append(delimiter)
            owners.append(-1)
        tokens += word
        owners += [number] * len(word)
    return np.array(tokens), np.array(owners)


def align_piece(
    log_probs: np.ndarray,
    first: int,
    last: int,
    words: Sequence[Sequence[int]],
    blank: int,
    delimiter: int | None,
) -> list[Span]:
    """Spans of words that lie in frames [first, last), counted from the beginning of `log_probs`."""
    import torch
    from torchaudio.functional import forced_align

    tokens, owners = join(words, delimiter)
    repeats = int(np.sum(tokens[1:] == tokens[:-1]))
    if last - first < len(tokens) + repeats:
        raise Reject("align.too_short", f"{len(tokens)} letters do not fit into {last - first} frames")
    emissions = torch.from_numpy(np.ascontiguousarray(log_probs[first:last], np.float32))
    labels, scores = forced_align(emissions[None], torch.from_numpy(tokens)[None], blank=blank)
    path, logs = labels[0].numpy(), scores[0].numpy()
    if not np.isfinite(logs).all():
        raise Reject("align.unalignable")
    spoken = path != blank
    begins = spoken & np.concatenate([[True], path[1:] != path[:-1]])
    place = np.cumsum(begins) - 1  # the token of every frame that is not blank
    spans = []
    for number in range(len(words)):
        frames = np.flatnonzero(spoken & (owners[np.maximum(place, 0)] == number))
        spans.append(
            Span(first + int(frames[0]), first + int(frames[-1]) + 1, float(np.exp(logs[frames]).mean()))
        )
    return spans


def cut_piece(
    log_probs: np.ndarray, words: Sequence[Sequence[int]], blank: int, delimiter: int | None
) -> tuple[int, int]:
    """(number of words, frames) that may be cut off the front, half-way between the last such word and the next.

    A word may be cut off if it ends in the first four fifths of the piece; the last fifth is only looked at, for
    what follows decides where a word ends. All of the text that could be spoken in the piece takes part, and the path
    may end anywhere in it.
    """
    ends = np.cumsum([len(word) + (delimiter is not None) for word in words])
    enough = int(np.searchsorted(ends, len(log_probs) * LETTERS_PER_FRAME)) + 1
    tokens, owners = join(words[:enough], delimiter)
    states = best_states(log_probs, tokens, blank)
    limit = len(log_probs) * 4 // 5
    owner = np.append(owners, -1)[np.where(states % 2 == 1, states // 2, len(owners))]
    finished = (states[limit - 1] + (states[limit - 1] % 2 == 0 or owner[limit - 1] < 0)) // 2
    count = int(np.sum(ends[:enough] - (delimiter is not None) <= finished))
    following = np.flatnonzero(owner == count)
    begin = int(min(following[0], limit)) if len(following) else limit
    if not count:
        return 0, max(0, begin - MARGIN)
    last = int(np.flatnonzero(owner == count - 1)[-1]) + 1
    return count, (last + begin + 1) // 2


def best_states(log_probs: np.ndarray, tokens: np.ndarray, blank: int) -> np.ndarray:
    """Viterbi over blank, token, blank, token, ... with a free end.

    Args:
        log_probs: (F, C).
        tokens: (L,) int.

    Returns:
        (F,) int, state of every frame: 2 i + 1 is token i, even is blank.
    """
    states = np.full(2 * len(tokens) + 1, blank)
    states[1::2] = tokens
    may_skip = np.zeros(len(states), bool)
    may_skip[3::2] = tokens[1:] != tokens[:-1]
    score = np.full(len(states), -np.inf)
    score[:2] = log_probs[0, states[:2]]
    came = np.zeros((len(log_probs), len(states)), np.int8)
    for frame in range(1, len(log_probs)):
        one = np.concatenate([[-np.inf], score[:-1]])
        two = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], score[:-2]]), -np.inf)
        steps = np.stack([score, one, two])
        came[frame] = steps.argmax(0)
        score = steps.max(0) + log_probs[frame, states]
    path = np.empty(len(log_probs), np.int64)
    state = int(score.argmax())
    for frame in range(len(log_probs) - 1, -1, -1):
        path[frame] = state
        state -= int(came[frame, state])
    return path


def to_times(
    spans: Sequence[Span], spoken: Sequence[str], acoustics: Acoustics, seconds: float
) -> Iterator[Timed]:
    """Seconds of every word; a frame stands for one hop around the centre of what it sees."""
    shift = (acoustics.receptive - acoustics.hop) / 2

    def time(frame: float) -> float:
        return min(max(0.0, (frame * acoustics.hop + shift) / SAMPLE_RATE), seconds)

    for place, (span, word) in enumerate(zip(spans, spoken, strict=True)):
        following = time(spans[place + 1].first) if place + 1 < len(spans) else seconds
        last = time(span.last)
        yield Timed(word, time(span.first), min((last + following) / 2, last + TAIL), span.confidence)
