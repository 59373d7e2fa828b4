"""Speech of hibari-tts, the second synthesiser: a neural voice beside espeak-ng's formant voices.

It has one voice. Speakers differ by the scale of their frequency axis (pitch and formants move together, by resampling)
and by their tempo. The extra `voices` brings the package; its model is inside, nothing is downloaded.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from corpus.keyed import generator
from corpus.records import SAMPLE_RATE

SCALES = (0.8, 1.08)  # of the frequency axis: from a deep to a slightly higher voice than the model's own
TEMPI = (1.05, 1.3)  # times the model's own tempo: brisk, for fewer units per word
PEAK = 0.5  # of full scale
ROOM = 4.0 / 32768  # standard deviation of the background noise, as in `corpus.synthetic.speech`


def neural_speaker(number: int, seed: int) -> dict[str, Any]:
    """A speaker's name, the scale of its frequency axis, and its tempo."""
    rng = generator(seed, "neural speaker", str(number))
    return {
        "speaker": f"neural{number:02d}",
        "synthesiser": "hibari",
        "scale": round(float(rng.uniform(*SCALES)), 3),
        "tempo": round(float(rng.uniform(*TEMPI)), 3),
    }


def speak_neural(folder: Path, lines: list[dict[str, Any]]) -> Iterator[float]:
    """Speak utterances; yield the seconds of each, in order. The same lines give the same bytes.

    Args:
        lines: of each utterance `id`, `audio` (where to, below the folder), `text`, `scale` and `tempo`.
    """
    if find_spec("hibari") is None:
        raise ValueError('synth: needs hibari-tts; pip install "wordweave[voices]"')
    import soundfile
    import soxr
    from hibari import Hibari

    model = Hibari()
    for line in lines:
        # slower by as much as resampling makes it faster
        spoken = model(_as_sentences(line["text"]), speed=line["tempo"] / line["scale"], seed=0)
        waveform = soxr.resample(spoken, model.sample_rate * line["scale"], SAMPLE_RATE).astype(np.float64)
        waveform *= PEAK / max(0.1, float(np.abs(waveform).max()))
        waveform += ROOM * generator(0, "room", line["id"]).standard_normal(len(waveform))
        soundfile.write(folder / line["audio"], waveform, SAMPLE_RATE, subtype="PCM_16")
        yield round(len(waveform) / SAMPLE_RATE, 6)


def _as_sentences(text: str) -> str:
    """Sentences begin with a capital, where the synthesiser looks for their ends.

    >>> _as_sentences("he ate. she slept.")
    'He ate. She slept.'
    """
    return ". ".join(sentence[:1].upper() + sentence[1:] for sentence in text.split(". "))
