"""What is said in a recording without a transcript, as far as pocketsphinx's English model understands it.

Its words are wrong here and there (on read speech about one in five), but sound like what was said: good enough for the
phones that pre-training may take as one of its targets.
"""

import functools
from typing import TYPE_CHECKING

import numpy as np

from aligners.pocketsphinx import Piece, feed, plain

if TYPE_CHECKING:
    import pocketsphinx


def hear(waveform: np.ndarray) -> str:
    """The words of (T,) float32 speech at 16 kHz, "" where none was found; the same words for the same samples."""
    decoder = load_listener()
    feed(decoder, Piece(0, waveform, ()))
    return " ".join(word for segment in decoder.seg() or () if (word := plain(segment.word)))


@functools.cache
def load_listener() -> "pocketsphinx.Decoder":
    """One decoder per process, with the language model of the wheel."""
    from pocketsphinx import Decoder

    return Decoder(loglevel="FATAL", cmn="batch", maxhmmpf=6000, maxwpf=12)
