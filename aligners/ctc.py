"""Word times from a CTC acoustic model: the bundled one, one of torchaudio, or one in Hugging Face format.

The model (`aligners.acoustics`) runs in windows, so that memory does not grow with the recording. Long pauses are
removed first, because a window of silence alone would be brought to the level of speech. Long recordings are cut at a
reliable word boundary, and `torchaudio.functional.forced_align` aligns the pieces. CTC peaks are not boundaries: a word
begins at the first frame of its first letter and ends half-way to the next, at most 0.1 s after its last letter. Every
frame of `compact` has a label, and its words end where their last one ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

import numpy as np

from aligners.acoustics import COMPACT, AcousticModel, WindowSettings, load
from aligners.alignment import Aligner, AlignerInput, AlignerOutput, TimedWord, backend_error, by_token
from aligners.normalise import is_english
from aligners.pauses import HOP, Shortened, shorten
from corpus.records import SAMPLE_RATE, Reject

PIECE = 30.0  # seconds: a recording longer than 1.5 pieces is cut first, inside stretches of this length
MARGIN = 0.5  # seconds kept before a word that a piece does not finish
LETTERS = 25.0  # per second, more than anybody speaks: bounds the text considered for one piece


@dataclass(frozen=True)
class CtcSettings:
    """Settings of the backend `ctc`.

    model: "compact" (English, bundled), the name of a torchaudio bundle ("MMS_FA"), or a directory or hub
        name with config.json, vocab.json and weights.
    device: "cpu", "cuda", "cuda:1" ...
    window_seconds, context_seconds: length of a window, and of its context on either side.
    batch: windows per forward pass; None: 1 on a CPU, 16 on a GPU.
    romanise: write words of other scripts in the Latin alphabet with uroman; None: where the model needs it.
    minimum_confidence: an utterance whose mean word confidence is lower is rejected; None: the limit of the model, 0.3
        for the bundled one and 0 for others.
    """

    model: str = COMPACT
    device: str = "cpu"
    window_seconds: float = 20.0
    context_seconds: float = 2.0
    batch: int | None = None
    romanise: bool | None = None
    minimum_confidence: float | None = None

    def __post_init__(self) -> None:
        if self.window_seconds <= 0 or self.context_seconds < 0 or self.windows_at_once < 1:
            got = f"{self.window_seconds}, {self.context_seconds} and {self.batch}"
            raise ValueError(f"ctc: need window_seconds > 0, context_seconds >= 0 and batch >= 1, got {got}")

    @property
    def windows_at_once(self) -> int:
        """Windows per forward pass."""
        return (16 if self.device.startswith("cuda") else 1) if self.batch is None else self.batch


class Ctc(Aligner):
    """Forced alignment over a CTC model; see the module."""

    name = "ctc"
    measures = ("confidence",)
    moves_boundaries = True
    gives_phones = False
    outside_identity = ("device", "batch")

    def __init__(self, settings: CtcSettings):
        self.settings = settings
        acoustics = load(settings.model, settings.device, settings.romanise)
        self.version = f"5-{version('torchaudio')}-{acoustics.weights}"

    def align_all(self, items: list[AlignerInput]) -> Sequence[AlignerOutput | Reject]:
        """Run the model on all of them, `batch` windows at a time, then align one after the other."""
        try:
            return self._aligned(items)
        except Exception as error:
            if len(items) == 1:
                return [backend_error(error)]
            return [
                result for item in items for result in self.align_all([item])
            ]  # one of them broke the batch

    def _aligned(self, items: list[AlignerInput]) -> list[AlignerOutput | Reject]:
        settings = self.settings
        acoustics = load(settings.model, settings.device, settings.romanise)
        shortened = [shorten(item.waveform) for item in items]
        items = [item._replace(waveform=some.waveform) for item, some in zip(items, shortened, strict=True)]
        spelled = [spell(item, acoustics) for item in items]
        able = [index for index, words in enumerate(spelled) if not isinstance(words, Reject)]
        window_settings = WindowSettings(
            settings.window_seconds, settings.context_seconds, settings.windows_at_once
        )
        results: list[AlignerOutput | Reject] = [
            words if isinstance(words, Reject) else AlignerOutput(()) for words in spelled
        ]
        outputs = acoustics.log_probs([items[index].waveform for index in able], window_settings)
        for index, log_probs in zip(able, outputs, strict=True):
            try:
                found = self._times(items[index], log_probs, spelled[index], acoustics)  # type: ignore[arg-type]
                results[index] = found._replace(words=restored(found.words, shortened[index]))
            except Reject as reject:
                results[index] = reject
            except Exception as error:
                results[index] = backend_error(error)
        return results

    def _times(
        self,
        item: AlignerInput,
        log_probs: np.ndarray,
        words: Sequence[Sequence[int]],
        acoustics: AcousticModel,
    ) -> AlignerOutput:
        spans = align_words(log_probs, words, acoustics.blank, acoustics.delimiter, acoustics.rate)
        times = list(to_times(spans, item.spoken, acoustics, item.seconds))
        confidence = float(np.mean([span.confidence for span in spans]))
        quality = {"confidence": confidence}
        setting = self.settings.minimum_confidence
        minimum = acoustics.minimum if setting is None else setting
        if confidence < minimum:
            reject = Reject(
                "align.low_quality", f"confidence {confidence:.2f} is below minimum_confidence {minimum}"
            )
            return AlignerOutput((), None, quality, reject)
        return AlignerOutput(by_token(item.tokens, times), None, quality)


def restored(words: Sequence[TimedWord], shortened: Shortened) -> Sequence[TimedWord]:
    """Words in a recording without its long pauses at their times in the recording."""
    if len(shortened.starts) == 1:
        return words
    rate = SAMPLE_RATE / HOP
    spans = [shortened.interval(word.start * rate, word.end * rate) for word in words]
    return [
        word._replace(start=start / rate, end=end / rate)
        for word, (start, end) in zip(words, spans, strict=True)
    ]


def spell(item: AlignerInput, acoustics: AcousticModel) -> list[Sequence[int]] | Reject:
    """The tokens of every spoken word of an utterance that is long enough for one frame."""
    language = item.utterance.language
    if acoustics.english and language is not None and not is_english(language):
        return Reject("align.language", f"the model supports English only, got {language!r}")
    if len(item.waveform) < acoustics.receptive:
        return Reject("align.too_short", f"{item.seconds:.3f} s are less than one frame")
    try:
        return [acoustics.spell(word, language) for word in item.spoken]
    except Reject as reject:
        return reject


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
    rate: float = 50.0,
    piece: float = PIECE,
) -> list[Span]:
    """Frames of every word.

    Args:
        log_probs: (F, C) float.
        words: tokens of every word.
        blank, delimiter: tokens of CTC's blank, and between words if the model has one.
        rate: frames per second.
        piece: seconds aligned at a time.

    Raises:
        Reject: align.too_short, align.unalignable, align.backend_error.
    """
    if not np.isfinite(log_probs).all():
        raise Reject("align.backend_error", "the model returned values that are not finite")
    spans: list[Span] = []
    frame, whole = 0, round(piece * rate)
    size = whole
    while len(log_probs) - frame > size * 3 // 2 and len(spans) < len(words):
        count, cut = cut_piece(log_probs[frame : frame + size], words[len(spans) :], blank, delimiter, rate)
        if count:
            spans += align_piece(
                log_probs, frame, frame + cut, words[len(spans) : len(spans) + count], blank, delimiter
            )
        frame += cut
        size = whole if cut else size * 2  # no word ends in the piece: try a longer one
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
    token_of = np.cumsum(begins) - 1  # the token of every frame that is not blank
    spans = []
    for number in range(len(words)):
        frames = np.flatnonzero(spoken & (owners[np.maximum(token_of, 0)] == number))
        spans.append(
            Span(first + int(frames[0]), first + int(frames[-1]) + 1, float(np.exp(logs[frames]).mean()))
        )
    return spans


def cut_piece(
    log_probs: np.ndarray,
    words: Sequence[Sequence[int]],
    blank: int,
    delimiter: int | None,
    rate: float,
) -> tuple[int, int]:
    """(number of words, frames) that may be cut off the front, half-way between the last such word and the next.

    A word may be cut off if it ends in the first four fifths of the piece; the last fifth is only context, because
    what follows decides where a word ends. All of the text that could be spoken in the piece takes part, and the path
    may end anywhere in it.
    """
    ends = np.cumsum([len(word) + (delimiter is not None) for word in words])
    enough = int(np.searchsorted(ends, len(log_probs) / rate * LETTERS)) + 1
    tokens, owners = join(words[:enough], delimiter)
    states = best_states(log_probs, tokens, blank)
    limit = len(log_probs) * 4 // 5
    owner = np.append(owners, -1)[np.where(states % 2 == 1, states // 2, len(owners))]
    finished = (states[limit - 1] + (states[limit - 1] % 2 == 0 or owner[limit - 1] < 0)) // 2
    count = int(np.sum(ends[:enough] - (delimiter is not None) <= finished))
    following = np.flatnonzero(owner == count)
    begin = int(min(following[0], limit)) if len(following) else limit
    if not count:
        return 0, max(0, begin - round(MARGIN * rate))
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
    spans: Sequence[Span], spoken: Sequence[str], acoustics: AcousticModel, seconds: float
) -> Iterator[TimedWord]:
    """Seconds of every word."""

    def time(frame: float) -> float:
        return min(max(0.0, (frame * acoustics.hop + acoustics.begin) / SAMPLE_RATE), seconds)

    for index, (span, word) in enumerate(zip(spans, spoken, strict=True)):
        following = time(spans[index + 1].first) if index + 1 < len(spans) else seconds
        last = time(span.last)
        yield TimedWord(
            word, time(span.first), min((last + following) / 2, last + acoustics.tail), span.confidence
        )
