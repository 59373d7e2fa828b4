"""English word times from pocketsphinx: model and dictionary are in its wheel, nothing is downloaded.

The settings are measured (`benchmarks/align.py`): best path off, because it breaks the phone pass and blurs boundaries;
narrow beam first, because a wide one is slower and accepts more wrong transcripts; scores per frame as confidence.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aligners.alignment import Aligner, AlignerInput, AlignerOutput, Phone, TimedWord, by_token
from aligners.g2p import Phones, pronounce_by_parts
from aligners.normalise import is_english
from aligners.pauses import HOP, Shortened, shorten
from corpus.records import SAMPLE_RATE, Reject

if TYPE_CHECKING:
    import pocketsphinx

FRAMES_PER_SECOND = 100
WINDOW = 0.025625  # seconds that one frame covers
LOG_UNIT = math.log(1.0001)  # pocketsphinx counts in logarithms to this base
SHORTEST_PHONE = 3  # frames: one per state of a phone's model
LONGEST_WORD = 50  # letters; the longest of the dictionary has 34
PIECE = 4000  # frames: a recording longer than 1.5 pieces is cut first, inside stretches of this length
SHORTEST_WORD = 20  # frames: nobody speaks faster, on average over a piece
MARGIN = 50  # frames of silence kept at the side of a cut
BEAM_SCHEDULE: tuple[dict[str, float], ...] = (
    {},
    {"beam": 1e-100, "wbeam": 1e-80, "pbeam": 1e-100},
    {"beam": 1e-200, "wbeam": 1e-180, "pbeam": 1e-200},
)
"""Beams tried in this order until one finds a path."""

CONFIDENCE_MIDDLE, CONFIDENCE_SCALE = -65.7, 13.2
"""A word is as likely wrong as right at this score per frame x root of its phones. Fitted on 248 real transcripts of
13 speakers with one word of each replaced, twice; `benchmarks/align.py` measures its AUC."""

DOUBTFUL = -20.0  # score per frame below which a second aligner is used
PER_MS = 0.1  # score per ms of distance
NEAR = 0.06  # seconds
AGREED = 150.0  # ms: as far apart the two may be where the second would keep the utterance
FARTHEST = 500.0  # ms: more distance takes no more off the score
DIGITAL_SILENCE = 10 / 32767
"""Loudest sample of digital silence. No word can lie in it, but its flat features fit the models well."""


@dataclass(frozen=True)
class PocketsphinxSettings:
    """Settings of the backend `pocketsphinx`.

    minimum_score: an utterance whose acoustic score per speech frame is lower is rejected; None keeps all.
    second_opinion: the bundled CTC model aligns too. Boundaries more than 60 ms from its own are moved to 60 ms
        from them, unless phones are wanted or it is unsure: pocketsphinx misses short pauses. Where the score is
        below -20, as of no right transcript of clean speech, a tenth of the mean distance of word boundaries, in
        ms, is taken off the score; but an utterance is kept that the CTC model would keep too, if the two are at
        most 150 ms apart in the mean. Without it set minimum_score to -32. Measured on 125 real recordings, one
        with a wrong transcript: right ones kept and wrong ones accepted, with and without, per cent: clean 99 and
        0, 99 and 0; 20 dB SNR 99 and 0, 99 and 0; 10 dB 99 and 0, 93 and 2; 5 dB 92 and 0, 36 and 2; echo 99 and 0,
        99 and 5; 25 % faster 99 and 0, 97 and 0.
    phones: also return phones (a second pass, 4 % of real time more).
    """

    minimum_score: float | None = -46.0
    second_opinion: bool = True
    phones: bool = False


class Pocketsphinx(Aligner):
    """English forced alignment; see the module."""

    name = "pocketsphinx"
    measures = ("score_per_frame", "lowest_word_score", "beam_level", "second_opinion_ms")
    moves_boundaries = True

    def __init__(self, settings: PocketsphinxSettings):
        self.settings = settings
        self.gives_phones = settings.phones
        opinion = (
            f"-{bundled_hash()}" if settings.second_opinion and settings.minimum_score is not None else ""
        )
        self.version = f"6-{version('pocketsphinx')}{opinion}"

    def align_one(self, item: AlignerInput) -> AlignerOutput:
        language = item.utterance.language
        if language is not None and not is_english(language):
            raise Reject("align.language", f"pocketsphinx supports English only, got {language!r}")
        levels_used, words, lengths = [], [], []
        phones: list[Phone] | None = [] if self.settings.phones else None
        shortened = shorten(item.waveform)
        for piece in cut_into_pieces(item.spoken, shortened.waveform):
            beam_level, segments = search(piece)
            decoder = load_decoder(beam_level)
            if phones is not None:
                phones += phones_of(decoder, piece, shortened, item.seconds)
            levels_used.append(beam_level)
            words += segments
            lengths += add_words(decoder, piece.words)
        frames = sum(word.frames for word in words)
        score = sum(word.score for word in words) / frames
        quality = {
            "score_per_frame": score,
            "lowest_word_score": min(word.score / word.frames for word in words),
            "beam_level": float(max(levels_used)),
        }
        times: Sequence[TimedWord] = by_token(
            item.tokens,
            [
                word.to_timed_word(shortened, item.seconds, length)
                for word, length in zip(words, lengths, strict=True)
            ],
        )
        minimum = self.settings.minimum_score
        if minimum is not None:
            distance, is_sure = 0.0, False
            if self.settings.second_opinion:
                others, is_sure = second_opinion(item)
                if score < max(DOUBTFUL, minimum):
                    distance = quality["second_opinion_ms"] = mean_distance(times, others)
                if is_sure and phones is None:
                    times = moved_near(times, others)
            if not is_accepted(score, distance, is_sure, minimum):
                more = " or more" if distance >= FARTHEST else ""
                away = f" less {PER_MS} x {distance:.0f} ms{more} to the second aligner" if distance else ""
                detail = f"score per frame {score:.1f}{away} is below minimum_score {minimum}"
                return AlignerOutput((), None, quality, Reject("align.low_quality", detail))
        return AlignerOutput(times, phones, quality)


def is_accepted(score: float, distance: float, is_sure: bool, minimum: float) -> bool:
    """Whether a transcript is right, by the score per frame, and by the mean distance to a second aligner.

    >>> [is_accepted(-60.0, ms, is_sure, -46.0) for ms, is_sure in ((90.0, True), (90.0, False), (400.0, True))]
    [True, False, False]
    """
    return score - PER_MS * distance >= minimum or (is_sure and distance <= AGREED)


def second_opinion(item: AlignerInput) -> tuple[Sequence[TimedWord], bool]:
    """The words of the bundled CTC model, none where it finds none; and whether it would accept them itself."""
    from aligners.acoustics import COMPACT_MINIMUM
    from aligners.ctc import Ctc, CtcSettings

    (result,) = Ctc(CtcSettings(minimum_confidence=0.0)).align_all([item])
    if isinstance(result, Reject):
        return (), False
    return result.words, result.quality["confidence"] >= COMPACT_MINIMUM


def mean_distance(words: Sequence[TimedWord], others: Sequence[TimedWord]) -> float:
    """Mean distance of word boundaries, ms; `FARTHEST` at most, or where there are no other words."""
    if not others:
        return FARTHEST
    pairs = zip(words, others, strict=True)
    distance = 500 * float(np.mean([abs(a.start - b.start) + abs(a.end - b.end) for a, b in pairs]))
    return min(distance, FARTHEST)


def moved_near(words: Sequence[TimedWord], others: Sequence[TimedWord]) -> Sequence[TimedWord]:
    """Words whose boundaries are at most `NEAR` from those of the same words of another aligner; their order is kept.

    >>> moved_near([TimedWord("hi", 0.1, 0.5)], [TimedWord("hi", 0.3, 0.48)])
    [TimedWord(spoken='hi', start=0.24, end=0.5, confidence=None)]
    """
    near = lambda time, other: min(max(time, round(other - NEAR, 6)), round(other + NEAR, 6))  # noqa: E731
    return [
        word._replace(start=near(word.start, other.start), end=near(word.end, other.end))
        for word, other in zip(words, others, strict=True)
    ]


def bundled_hash() -> str:
    """Hash of the files of the bundled CTC model, without loading it."""
    folder = Path(__file__).parent / "data"
    content = b"".join((folder / name).read_bytes() for name in ("ctc-en.safetensors", "ctc-en.json"))
    return hashlib.sha256(content).hexdigest()[:16]


class Piece(NamedTuple):
    """A stretch of a recording: the frame it begins with, its samples, and the words in it."""

    first: int
    waveform: np.ndarray
    words: Sequence[str]


def cut_into_pieces(spoken: Sequence[str], waveform: np.ndarray) -> list[Piece]:
    """Cut a long recording at reliable word boundaries, so that memory and beams do not grow with it.

    A piece of 40 s is searched with a grammar that accepts every prefix of the remaining text. Words that end in its
    first four fifths are kept, the last fifth is only context: what follows decides where a word ends.
    Long pauses must be removed already: they spoil the mean that the features are normalised by.
    """
    pieces: list[Piece] = []
    first, done, size = 0, 0, PIECE
    while len(waveform) // HOP - first > size * 3 // 2 and done < len(spoken):
        ahead = spoken[done : done + size // SHORTEST_WORD]
        segments = search_beginning(Piece(first, waveform[first * HOP : (first + size) * HOP], ahead))
        count, step = find_cut(segments, size * 4 // 5)
        if count:
            pieces.append(
                Piece(first, waveform[first * HOP : (first + step) * HOP], spoken[done : done + count])
            )
        first, done = first + step, done + count
        size = PIECE if step else size * 2  # no word ends in the piece: try a longer one
    if done < len(spoken):
        pieces.append(Piece(first, waveform[first * HOP :], spoken[done:]))
    return pieces


def find_cut(words: "Sequence[Segment]", limit: int) -> tuple[int, int]:
    """(number of words that end before a frame, frame half-way from the last of them to the next, or soon after it).

    >>> find_cut([Segment("a", 10, 20, -1.0), Segment("b", 40, 50, -1.0), Segment("c", 95, 20, -1.0)], 100)
    (2, 93)
    """
    count = sum(word.first + word.frames <= limit for word in words)
    begin = min(words[count].first, limit) if count < len(words) else limit
    if not count:
        return 0, max(0, begin - MARGIN)
    end = words[count - 1].first + words[count - 1].frames
    return count, min((end + begin + 1) // 2, end + MARGIN)


def search_beginning(piece: Piece) -> "list[Segment]":
    """Words of a piece that may hold any prefix of its words; frames are counted from the start of the piece."""
    number = len(piece.words)
    steps = [(position, position + 1, 1.0, word) for position, word in enumerate(piece.words)]
    ends = [(position, number + 1, 1.0) for position in range(number + 1)]
    for beam_level in range(len(BEAM_SCHEDULE)):
        decoder = load_decoder(beam_level)
        add_words(decoder, piece.words)
        decoder.add_fsg("beginning", decoder.create_fsg("beginning", 0, number + 1, steps + ends))
        decoder.activate_search("beginning")
        decode(decoder, piece)
        segments = segments_of(decoder, 0)
        words = [segment for segment in segments if segment.word]
        if segments and [word.word for word in words] == list(piece.words[: len(words)]):
            return words
    raise Reject("align.unalignable", f"nothing fits from {piece.first / FRAMES_PER_SECOND:.0f} s on")


def search(piece: Piece) -> "tuple[int, list[Segment]]":
    """Try the beams in order; the beam level that found a path, and one segment per word. Raises Reject."""
    seconds = len(piece.waveform) / SAMPLE_RATE
    for beam_level in range(len(BEAM_SCHEDULE)):
        decoder = load_decoder(beam_level)
        phones = sum(add_words(decoder, piece.words))
        if phones * SHORTEST_PHONE > seconds * FRAMES_PER_SECOND:
            raise Reject("align.too_short", f"{phones} phones do not fit into {seconds:.2f} s")
        decoder.set_align_text(" ".join(piece.words))
        decode(decoder, piece)
        words = [segment for segment in segments_of(decoder, piece.first) if segment.word]
        if [word.word for word in words] == list(piece.words):
            for word in words:
                if word.is_silent(piece):
                    raise Reject("align.unalignable", f"{word.word!r} is in digital silence")
            return beam_level, words
    raise Reject("align.unalignable")


@dataclass(frozen=True, slots=True)
class Segment:
    """One word ("" for silence and noise): first frame, number of frames, acoustic score (sum over its frames)."""

    word: str
    first: int
    frames: int
    score: float

    def to_timed_word(self, shortened: Shortened, seconds: float, phones: int) -> TimedWord:
        """Times within a recording of `seconds`; the confidence depends on the number of phones."""
        start, end = (
            boundary(at, seconds) for at in shortened.interval(self.first, self.first + self.frames)
        )
        return TimedWord(self.word, start, end, to_confidence(self.score / self.frames, phones))

    def is_silent(self, piece: Piece) -> bool:
        """Whether no sample of the word is above digital silence."""
        first = self.first - piece.first
        inside = piece.waveform[first * HOP : (first + self.frames) * HOP]
        return float(np.max(np.abs(inside), initial=0.0)) < DIGITAL_SILENCE


def boundary(frame: float, seconds: float) -> float:
    """Time of the boundary before a frame: half-way between the centres of its window and of the window before.

    >>> boundary(0, 2.0), boundary(100, 2.0), boundary(200, 2.0)
    (0.0, 1.0078, 2.0)
    """
    centre = frame / FRAMES_PER_SECOND + (WINDOW - 1 / FRAMES_PER_SECOND) / 2
    return min(round(centre, 4), seconds) if frame else 0.0


def to_confidence(score_per_frame: float, phones: int) -> float:
    """Logistic calibration of a word's score per frame; a score is the more reliable the more phones a word has.

    >>> round(to_confidence(-12.0, 5), 2), round(to_confidence(-60.0, 5), 2)
    (0.95, 0.01)
    """
    return 1 / (1 + math.exp((CONFIDENCE_MIDDLE - score_per_frame * math.sqrt(phones)) / CONFIDENCE_SCALE))


def to_pcm(waveform: np.ndarray) -> bytes:
    """(T,) float in [-1, 1], clipped beyond, to 16-bit little-endian samples."""
    return np.round(np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2").tobytes()


@functools.cache
def load_decoder(beam_level: int) -> "pocketsphinx.Decoder":
    """One decoder per beam level and process, created when first needed."""
    from pocketsphinx import Decoder

    return Decoder(lm=None, bestpath=False, loglevel="FATAL", cmn="batch", **BEAM_SCHEDULE[beam_level])


def add_words(decoder: "pocketsphinx.Decoder", spoken: Sequence[str]) -> list[int]:
    """Add the words that the decoder lacks; number of phones of every word. Raises Reject for a word without any."""
    lengths = []
    for word in spoken:
        if len(word) > LONGEST_WORD:
            raise Reject("align.out_of_vocabulary", f"{word[:20]!r}...: a word of {len(word)} letters")
        phones = find_pronunciation(decoder, word)
        if phones is None:
            phones = pronounce_by_parts(word, functools.partial(find_pronunciation, decoder))
            if not phones:
                raise Reject("align.out_of_vocabulary", f"{word!r} is not written in English letters")
            decoder.add_word(word, " ".join(phones), False)
        lengths.append(len(phones))
    return lengths


def find_pronunciation(decoder: "pocketsphinx.Decoder", word: str) -> Phones | None:
    """The phones of a word in the decoder's dictionary."""
    phones = decoder.lookup_word(word)
    return tuple(phones.split()) if phones else None


def segments_of(decoder: "pocketsphinx.Decoder", offset: int) -> list[Segment]:
    """Words and silences found, frames counted from `offset`; [] where no path was found."""
    segments = decoder.seg()  # not hyp(): that is None for silence alone, too
    return [
        Segment(
            word_of_label(segment.word),
            offset + segment.start_frame,
            segment.end_frame - segment.start_frame + 1,
            math.log(segment.ascore) / LOG_UNIT,
        )
        for segment in segments or ()
        if segment.end_frame >= segment.start_frame >= 0
    ]


def decode(decoder: "pocketsphinx.Decoder", piece: Piece) -> None:
    """Decode a piece from a fresh start."""
    # a fresh front end: its noise estimate outlives an utterance, and times would depend on what came before
    decoder.reinit_feat()
    decoder.start_utt()
    try:
        decoder.process_raw(to_pcm(piece.waveform), full_utt=True)
    finally:
        decoder.end_utt()  # a decoder left open fails on every later utterance


def word_of_label(label: str) -> str:
    """A label without its variant number; "" for silence and noise.

    >>> word_of_label("the(2)"), word_of_label("<sil>"), word_of_label("[NOISE]")
    ('the', '', '')
    """
    return "" if label[:1] in "<[(" else label.split("(")[0]


def phones_of(
    decoder: "pocketsphinx.Decoder", piece: Piece, shortened: Shortened, seconds: float
) -> list[Phone]:
    """Phones of the last alignment, by a second pass; silences left out."""
    decoder.set_alignment()
    decode(decoder, piece)
    phones = []
    for word in decoder.get_alignment():
        for phone in word if word_of_label(word.name) else ():
            first = piece.first + phone.start
            start, end = (boundary(at, seconds) for at in shortened.interval(first, first + phone.duration))
            phones.append(Phone(phone.name, start, end))
    return phones
