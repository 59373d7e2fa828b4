"""Transcripts of recordings that have none, recognised by pocketsphinx's English model.

About one word in five is wrong on read speech, but wrong words sound similar: good enough for the phone labels that
pre-training may use as one of its targets.
"""

import functools
from typing import TYPE_CHECKING

import numpy as np

from aligners.pocketsphinx import Piece, decode, word_of_label

if TYPE_CHECKING:
    import pocketsphinx


def transcribe(waveform: np.ndarray) -> str:
    """The words of (T,) float32 speech at 16 kHz, "" if none is recognised; the same words for the same samples."""
    decoder = load_recogniser()
    decode(decoder, Piece(0, waveform, ()))
    return " ".join(word for segment in decoder.seg() or () if (word := word_of_label(segment.word)))


@functools.cache
def load_recogniser() -> "pocketsphinx.Decoder":
    """One decoder per process, with the language model of the wheel."""
    from pocketsphinx import Decoder

    return Decoder(loglevel="FATAL", cmn="batch", maxhmmpf=6000, maxwpf=12)
