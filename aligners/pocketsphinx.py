"""English word times from pocketsphinx: model and dictionary are in its wheel, nothing is downloaded.

The settings are measured (`benchmarks/align.py`): best path off, for it breaks the phone pass and blurs boundaries;
narrow beam first, for a wide one is slower and accepts more wrong transcripts; scores per frame as confidence.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aligners.alignment import Aligner, Found, Item, Phone, Timed, by_token
from aligners.g2p import Phones, pronounce_by_parts
from aligners.normalise import is_english
from corpus.records import SAMPLE_RATE, Reject

if TYPE_CHECKING:
    import pocketsphinx

FRAMES_PER_SECOND = 100
WINDOW = 0.025625  # seconds of sound that one frame looks at
LOG_UNIT = math.log(1.0001)  # pocketsphinx counts in logarithms to this base
SHORTEST_PHONE = 3  # frames: one per state of a phone's model
LONGEST_WORD = 50  # letters; the longest of the dictionary has 34
LADDER: tuple[dict[str, float], ...] = (
    {},
    {"beam": 1e-100, "wbeam": 1e-80, "pbeam": 1e-100},
    {"beam": 1e-200, "wbeam": 1e-180, "pbeam": 1e-200},
)
"""Beams tried one after the other until one finds a path."""

CONFIDENCE_MIDDLE, CONFIDENCE_SCALE = -63.3, 15.9
"""A word is as likely wrong as right at this score per frame x root of its phones. Fitted on 248 real transcripts of
13 speakers with one word of each replaced, twice; `benchmarks/align.py` measures what it is worth."""

SILENT = 10 / 32767
"""Loudest sample of digital silence. No word can lie in it, but its flat features fit the models well."""


@dataclass(frozen=True)
class PocketsphinxSettings:
    """Settings of the backend `pocketsphinx`.

    minimum_score: an utterance whose acoustic score per speech frame is lower is rejected; None keeps all. Measured
        on real speech: 248 right transcripts scored -21.2 and better (median -14), 191 wrong ones that could be aligned
        -33.3 and worse. Noise costs score: at 10 dB a third of the right ones fall below -32.
    phones: also return phones (a second pass, about 4 % of real time more).
    """

    minimum_score: float | None = -32.0
    phones: bool = False


class Pocketsphinx(Aligner):
    """English forced alignment; see the module."""

    name = "pocketsphinx"

    def __init__(self, settings: PocketsphinxSettings):
        self.settings = settings

    def align_one(self, item: Item) -> Found:
        language = item.utterance.language
        if language is not None and not is_english(language):
            raise Reject("align.language", f"pocketsphinx knows English, not {language!r}")
        pcm = to_pcm(item.waveform)
        rung, words = search(item, pcm)
        frames = sum(word.frames for word in words)
        score = sum(word.score for word in words) / frames
        quality = {
            "score_per_frame": score,
            "lowest_word_score": min(word.score / word.frames for word in words),
            "speech_fraction": min(1.0, frames / FRAMES_PER_SECOND / item.seconds),
            "words_per_second": len(words) / item.seconds,
            "rung": float(rung),
        }
        minimum = self.settings.minimum_score
        if minimum is not None and score < minimum:
            reject = Reject(
                "align.low_quality", f"score per frame {score:.1f} is below minimum_score {minimum}"
            )
            return Found((), None, quality, reject)
        phones = read_phones(load_decoder(rung), pcm, item.seconds) if self.settings.phones else None
        lengths = know(load_decoder(rung), item.spoken)
        times = [word.timed(item.seconds, phones) for word, phones in zip(words, lengths, strict=True)]
        return Found(by_token(item.tokens, times), phones, quality)


def search(item: Item, pcm: bytes) -> "tuple[int, list[Segment]]":
    """Climb the ladder of beams; the rung and one segment per spoken word. Raises Reject."""
    for rung in range(len(LADDER)):
        decoder = load_decoder(rung)
        phones = sum(know(decoder, item.spoken))
        if phones * SHORTEST_PHONE > item.seconds * FRAMES_PER_SECOND:
            raise Reject("align.too_short", f"{phones} phones do not fit into {item.seconds:.2f} s")
        words = [segment for segment in run(decoder, pcm, " ".join(item.spoken)) if segment.word]
        if [segment.word for segment in words] == item.spoken:
            for word in words:
                if word.is_silent(item.waveform):
                    raise Reject("align.unalignable", f"{word.word!r} lies in digital silence")
            return rung, words
    raise Reject("align.unalignable")


@dataclass(frozen=True, slots=True)
class Segment:
    """One word ("" for silence and noise): first frame, number of frames, acoustic score (sum over its frames)."""

    word: str
    first: int
    frames: int
    score: float

    def timed(self, seconds: float, phones: int) -> Timed:
        """Times within a recording of so many seconds, confidence for a word of so many phones."""
        start, end = boundary(self.first, seconds), boundary(self.first + self.frames, seconds)
        return Timed(self.word, start, end, to_confidence(self.score / self.frames, phones))

    def is_silent(self, waveform: np.ndarray) -> bool:
        """Whether no sample of the word is above digital silence."""
        hop = SAMPLE_RATE // FRAMES_PER_SECOND
        inside = waveform[self.first * hop : (self.first + self.frames) * hop]
        return float(np.max(np.abs(inside), initial=0.0)) < SILENT


def boundary(frame: int, seconds: float) -> float:
    """Time of the boundary before a frame: half-way between the centres of its window and of the window before.

    >>> boundary(0, 2.0), boundary(100, 2.0), boundary(200, 2.0)
    (0.0, 1.0078, 2.0)
    """
    centre = frame / FRAMES_PER_SECOND + (WINDOW - 1 / FRAMES_PER_SECOND) / 2
    return min(round(centre, 4), seconds) if frame else 0.0


def to_confidence(score_per_frame: float, phones: int) -> float:
    """Logistic calibration of a word's score per frame; the more phones, the more a score says.

    >>> round(to_confidence(-12.0, 5), 2), round(to_confidence(-60.0, 5), 2)
    (0.91, 0.01)
    """
    return 1 / (1 + math.exp((CONFIDENCE_MIDDLE - score_per_frame * math.sqrt(phones)) / CONFIDENCE_SCALE))


def to_pcm(waveform: np.ndarray) -> bytes:
    """(T,) float in [-1, 1], clipped beyond, to 16-bit little-endian samples."""
    return np.round(np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2").tobytes()


@functools.cache
def load_decoder(rung: int) -> "pocketsphinx.Decoder":
    """One decoder per rung of the ladder and process, made when first needed."""
    from pocketsphinx import Decoder

    return Decoder(lm=None, bestpath=False, loglevel="FATAL", cmn="batch", **LADDER[rung])


def know(decoder: "pocketsphinx.Decoder", spoken: Sequence[str]) -> list[int]:
    """Teach the decoder the words it lacks; how many phones every word has. Raises Reject for a word without."""
    lengths = []
    for word in spoken:
        if len(word) > LONGEST_WORD:
            raise Reject("align.out_of_vocabulary", f"{word[:20]!r}...: a word of {len(word)} letters")
        phones = lookup(decoder, word)
        if phones is None:
            phones = pronounce_by_parts(word, functools.partial(lookup, decoder))
            if not phones:
                raise Reject("align.out_of_vocabulary", f"{word!r} is not written in English letters")
            decoder.add_word(word, " ".join(phones), False)
        lengths.append(len(phones))
    return lengths


def lookup(decoder: "pocketsphinx.Decoder", word: str) -> Phones | None:
    """The phones of a word in the decoder's dictionary."""
    found = decoder.lookup_word(word)
    return tuple(found.split()) if found else None


def run(decoder: "pocketsphinx.Decoder", pcm: bytes, text: str) -> list[Segment]:
    """One forced alignment; [] where no path was found."""
    decoder.set_align_text(text)
    feed(decoder, pcm)
    if decoder.hyp() is None:
        return []
    return [
        Segment(
            plain(segment.word),
            segment.start_frame,
            segment.end_frame - segment.start_frame + 1,
            math.log(segment.ascore) / LOG_UNIT,
        )
        for segment in decoder.seg()
        if segment.end_frame >= segment.start_frame
    ]


def feed(decoder: "pocketsphinx.Decoder", pcm: bytes) -> None:
    # a fresh front end: its noise estimate outlives an utterance, and times would depend on what came before
    decoder.reinit_feat()
    decoder.start_utt()
    try:
        decoder.process_raw(pcm, full_utt=True)
    finally:
        decoder.end_utt()  # a decoder left open fails on every later utterance


def plain(label: str) -> str:
    """A label without its variant number; "" for silence and noise.

    >>> plain("the(2)"), plain("<sil>"), plain("[NOISE]")
    ('the', '', '')
    """
    return "" if label[:1] in "<[(" else label.split("(")[0]


def read_phones(decoder: "pocketsphinx.Decoder", pcm: bytes, seconds: float) -> list[Phone]:
    """Phones of the alignment just found, by a second pass; silences left out."""
    decoder.set_alignment()
    feed(decoder, pcm)
    phones = []
    for word in decoder.get_alignment():
        for phone in word if plain(word.name) else ():
            last = phone.start + phone.duration
            phones.append(Phone(phone.name, boundary(phone.start, seconds), boundary(last, seconds)))
    return phones
