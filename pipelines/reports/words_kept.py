"""How many words units keep: word errors of speech that the bundled vocoder makes of them, by a recogniser."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from corpus.records import SAMPLE_RATE
from lm.evaluation.external_tools import transcribe
from lm.evaluation.tasks.few_shot import error_rate, plain
from lm.evaluation.testset import TestItem
from lm.speaker import BUNDLED, open_speaker
from units.deduplicate import deduplicate

POCKETSPHINX = "pocketsphinx"
"""The recogniser that needs no program: pocketsphinx with the language model of its wheel."""


def word_errors(
    codebook: str,
    units: Sequence[np.ndarray],
    waveforms: Sequence[np.ndarray],
    texts: Sequence[str],
    recogniser: str,
) -> dict[str, float]:
    """Word errors of resynthesis from units alone, each recording in its own voice and with its own lengths.

    Args:
        codebook: hash of the codebook of the units.
        units: (F,) int of every recording.
        waveforms: (T,) float32 at 16 kHz.
        texts: transcripts; recordings without one are left out.
        recogniser: "pocketsphinx", or a command, see `lm.evaluation.external_tools`.

    Returns:
        `word_error` and `word_error_recorded`, of the recordings themselves, in per cent; {} where the bundled vocoder
        was made for other units, or no recording has a transcript.

    Raises:
        ValueError: the recogniser is missing or fails.
    """
    known = [index for index, text in enumerate(texts) if plain(text)]
    try:
        speaker = open_speaker(BUNDLED, codebook=codebook)
    except ValueError:
        return {}
    if not known:
        return {}
    made, recorded = [], []
    for index in known:
        runs, frames = deduplicate(units[index])
        tokens = "".join(f"[Hu{unit}]" for unit in runs)
        pieces = list(speaker.like(waveforms[index]).pieces(tokens, [int(n) for n in frames]))  # type: ignore[union-attr]
        made.append(recognise(recogniser, np.concatenate(pieces)))
        recorded.append(recognise(recogniser, waveforms[index]))
    items = [TestItem(str(index)) for index in known]
    references = [plain(texts[index]) for index in known]
    return {
        name: error_rate(items, references, outputs, by="words")["value"]
        for name, outputs in (("word_error", made), ("word_error_recorded", recorded))
    }


def recognise(recogniser: str, waveform: np.ndarray) -> str:
    """The words of (T,) float32 speech at 16 kHz, as they are compared."""
    if recogniser == POCKETSPHINX:
        from aligners.transcribe import transcribe as by_pocketsphinx

        return plain(by_pocketsphinx(waveform))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        soundfile.write(path, waveform, SAMPLE_RATE, subtype="PCM_16")
        return plain(transcribe(recogniser, path))
