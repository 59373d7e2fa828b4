"""Synthetic speech of many voices, as additional training speech for an encoder: a manifest and its FLAC files.

One kind is hibari-tts's bundled voice, with pitch and formants moved by the WORLD vocoder; the other kind are voices
of espeak-ng. Sentences are words drawn from pocketsphinx's dictionary, so that all phones occur in many
contexts. The packages hibari-tts and pyworld-prebuilt are needed for this alone and are no dependencies of wordweave.

    pip install hibari-tts pyworld-prebuilt
    python -m units.pretraining.voices FOLDER --espeak 982 --hibari 200 --seed 0
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio

from corpus.files import write
from corpus.keyed import generator
from corpus.records import SAMPLE_RATE
from corpus.synthetic.speech import speak_all

VOICES = 120  # of each kind
ESPEAK_LANGUAGES = ("en-us", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
ESPEAK_VARIANTS = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8")
LINKS = (
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "that",
    "with",
    "was",
    "for",
    "is",
    "at",
    "by",
    "his",
    "her",
    "but",
)
HIBARI_RATE = 24_000
FRAME_MILLISECONDS = 10.0  # of the WORLD vocoder: half its usual rate, for half the time


def dictionary_words() -> list[str]:
    """The words of pocketsphinx's dictionary that are plain letters."""
    import pocketsphinx

    with open(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"), encoding="utf-8") as lines:
        words = (line.partition(" ")[0] for line in lines)
        return [word for word in words if re.fullmatch(r"[a-z]{3,12}", word)]


def sentence(rng: np.random.Generator, words: Sequence[str]) -> str:
    """Nine to sixteen words, every second or third of them a common short one.

    >>> sentence(np.random.default_rng(0), ["tree", "house", "river"]).count(" ") >= 8
    True
    """
    sampled: list[str] = []
    for _ in range(int(rng.integers(5, 9))):
        sampled += [words[int(i)] for i in rng.integers(len(words), size=int(rng.integers(1, 3)))]
        sampled.append(LINKS[int(rng.integers(len(LINKS)))])
    text = " ".join(sampled[:-1])
    return text[0].upper() + text[1:] + "."


def move_voice(waveform: np.ndarray, rate: int, pitch: float, formants: float) -> np.ndarray:
    """(T,) the waveform with its pitch and its spectral envelope multiplied along the frequency axis."""
    import pyworld

    samples = waveform.astype(np.float64)
    f0, times = pyworld.dio(samples, rate, frame_period=FRAME_MILLISECONDS)
    f0 = pyworld.stonemask(samples, f0, times, rate)
    envelope = pyworld.cheaptrick(samples, f0, times, rate)
    aperiodicity = pyworld.d4c(samples, f0, times, rate)
    bins = np.arange(envelope.shape[1])
    source = np.clip(bins / formants, 0, bins[-1])
    low, share = np.floor(source).astype(int), source % 1
    high = np.minimum(low + 1, bins[-1])
    envelope, aperiodicity = (
        np.ascontiguousarray(x[:, low] * (1 - share) + x[:, high] * share) for x in (envelope, aperiodicity)
    )
    return pyworld.synthesize(f0 * pitch, envelope, aperiodicity, rate, FRAME_MILLISECONDS).astype(np.float32)


def hibari_lines(folder: Path, count: int, seed: int, words: Sequence[str]) -> list[dict[str, Any]]:
    """Write `count` utterances of hibari's voice, moved to many voices; their manifest lines."""
    from hibari import Hibari

    synthesiser = Hibari()
    lines = []
    for number in range(count):
        name = f"hibari{number % VOICES:03d}"
        voice, rng = generator(seed, "hibari voice", name), generator(seed, "hibari", str(number))
        pitch, formants = 2.0 ** voice.uniform(-1.1, 0.4), 2.0 ** voice.uniform(-0.28, 0.18)
        speed = float(voice.uniform(0.85, 1.25))
        text = sentence(rng, words)
        spoken = synthesiser(text, speed=speed, seed=number)
        spoken = torchaudio.functional.resample(torch.from_numpy(spoken), HIBARI_RATE, SAMPLE_RATE).numpy()
        spoken = move_voice(spoken, SAMPLE_RATE, pitch * 2.0 ** rng.uniform(-0.1, 0.1), formants)
        spoken *= np.float32(0.5 / max(0.1, float(np.abs(spoken).max())))
        line = {"id": f"{name}-{number:05d}", "audio": f"audio/{name}-{number:05d}.flac", "speaker": name}
        soundfile.write(folder / line["audio"], spoken, SAMPLE_RATE, subtype="PCM_16")
        lines.append(line | {"text": text, "duration_s": len(spoken) / SAMPLE_RATE, "license": "Apache-2.0"})
    return lines


def espeak_lines(folder: Path, count: int, seed: int, words: Sequence[str]) -> list[dict[str, Any]]:
    """Write `count` utterances of espeak-ng's voices; their manifest lines."""
    lines = []
    for number in range(count):
        name = f"espeak{number % VOICES:03d}"
        voice = generator(seed, "espeak voice", name)
        language = ESPEAK_LANGUAGES[int(voice.integers(len(ESPEAK_LANGUAGES)))]
        variant = ESPEAK_VARIANTS[int(voice.integers(len(ESPEAK_VARIANTS)))]
        lines.append(
            {
                "id": f"{name}-{number:05d}",
                "audio": f"audio/{name}-{number:05d}.flac",
                "text": sentence(generator(seed, "espeak", str(number)), words),
                "license": "CC0-1.0",
                "speaker": name,
                "voice": f"{language}+{variant}",
                "rate": int(voice.integers(120, 200)),
                "pitch": int(voice.integers(20, 80)),
                "range": int(voice.integers(20, 80)),
            }
        )
    for line, seconds in zip(lines, speak_all(folder, lines), strict=True):
        line["duration_s"] = seconds
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the speech and its manifest."""
    parser = argparse.ArgumentParser(
        prog="python -m units.pretraining.voices", description=__doc__.split(":")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--espeak", type=int, default=982, help="utterances of espeak-ng, of about 6 seconds")
    parser.add_argument("--hibari", type=int, default=200, help="utterances of hibari-tts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    (options.folder / "audio").mkdir(parents=True, exist_ok=True)
    words = dictionary_words()
    lines = espeak_lines(options.folder, options.espeak, options.seed, words)
    if options.hibari:
        lines += hibari_lines(options.folder, options.hibari, options.seed, words)
    write(options.folder / "manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    hours = sum(line["duration_s"] for line in lines) / 3600
    print(
        json.dumps(
            {
                "utterances": len(lines),
                "voices": len({line["speaker"] for line in lines}),
                "hours": round(hours, 2),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
