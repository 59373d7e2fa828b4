"""Rough word boundaries in any language, from English sounds: a start for training an aligner on little speech.

Models that are trained from evenly divided utterances need hours, or they settle on shifted boundaries. Letters, in
Latin script by uroman, are read here as the nearest English phones, pocketsphinx places them, and the recording is cut
into words. Measured on 80 German recordings of 2 s: 84 % of these boundaries are within 50 ms of human labels; those of
a model with letters as phones are 47 % when trained on whole utterances and 87 % when trained on the pieces.
"""

import unicodedata

import numpy as np

from aligners.acoustics import romanise
from aligners.alignment import AlignerInput
from aligners.g2p import Phones
from aligners.pocketsphinx import BEAM_SCHEDULE, DIGITAL_SILENCE, Piece, decode, load_decoder, segments_of
from corpus.records import SAMPLE_RATE, Reject

# fmt: off
SOUNDS = {
    "a": "AA", "ä": "EH", "å": "AO", "æ": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH",
    "i": "IH", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "o": "AO", "ö": "ER", "ø": "ER", "p": "P", "q": "K",
    "r": "R", "s": "S", "ß": "S", "t": "T", "u": "UH", "ü": "UW", "v": "V", "w": "V", "x": "K S", "y": "IY", "z": "Z",
}
# fmt: on
"""Letter -> nearest English phones."""
MARGIN = 0.03  # seconds on either side of a piece
FRAMES_PER_SECOND = 100


def sounds_of(word: str, language: str | None) -> Phones:
    """A word as English phones, roughly.

    >>> sounds_of("könnte", "de"), sounds_of("да", "ru")
    (('K', 'ER', 'N', 'N', 'T', 'EH'), ('D', 'AA'))
    """
    latin = word if all(char in SOUNDS or not char.isalpha() for char in word) else romanise(word, language)
    letters = (char if char in SOUNDS else unicodedata.normalize("NFD", char)[0] for char in latin.lower())
    return tuple(phone for char in letters for phone in SOUNDS.get(char, "").split())


def sounding(waveform: np.ndarray) -> tuple[int, int]:
    """[first, last) sample of a recording without digital silence at its ends."""
    loud = np.flatnonzero(np.abs(waveform) > DIGITAL_SILENCE)
    return (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(waveform))


def rough_times(item: AlignerInput) -> list[tuple[float, float]] | None:
    """Start and end of every spoken word, seconds; None where no path is found."""
    words = [sounds_of(word, item.utterance.language) for word in item.spoken]
    if not all(words):
        return None
    names = ["~" + ".".join(phones).lower() for phones in words]
    for level in range(len(BEAM_SCHEDULE)):
        decoder = load_decoder(level)
        for name, phones in zip(names, words, strict=True):
            if decoder.lookup_word(name) is None:
                decoder.add_word(name, " ".join(phones), True)
        decoder.set_align_text(" ".join(names))
        decode(decoder, Piece(0, item.waveform, names))
        segments = [segment for segment in segments_of(decoder, 0) if segment.word]
        if [segment.word for segment in segments] == names:
            return [
                (segment.first / FRAMES_PER_SECOND, (segment.first + segment.frames) / FRAMES_PER_SECOND)
                for segment in segments
            ]
    return None


def cut_into_words(item: AlignerInput) -> list[AlignerInput]:
    """A recording as one piece per word of the writing, without digital silence; whole where no path is found."""
    first, last = sounding(item.waveform)
    item = item._replace(waveform=item.waveform[first:last])
    try:
        times = rough_times(item)
    except (Reject, RuntimeError):
        times = None
    if times is None:
        return [item]
    pieces, index = [], 0
    for number, token in enumerate(item.tokens):
        start, end = times[index][0], times[index + len(token.spoken) - 1][1]
        index += len(token.spoken)
        begin = 0 if number == 0 else max(0, round((start - MARGIN) * SAMPLE_RATE))
        stop = None if index == len(times) else round((end + MARGIN) * SAMPLE_RATE)
        pieces.append(item._replace(tokens=(token,), waveform=item.waveform[begin:stop]))
    return pieces
