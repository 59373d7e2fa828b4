"""What the measures of `corpus.quality` find on real recordings that were damaged on purpose, and what they cost.

python -m benchmarks.quality                     # needs recorded speech where WORDWEAVE_SPEECH says
python -m benchmarks.quality --recogniser DIR    # also transcribes it with a recogniser in Hugging Face format
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soxr
import torch

from aligners.recognisers.model import ModelRecogniser
from aligners.recognisers.transcript import Recording, Transcript, agreement
from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.quality import Subject, measure, measured_names
from corpus.records import SAMPLE_RATE, Utterance

ROOT = Path(__file__).resolve().parent.parent
EVERY = 4  # clips of the development set


def narrow(wave: np.ndarray) -> np.ndarray:
    """At 8 kHz."""
    return soxr.resample(wave, SAMPLE_RATE, 8_000)


def interpolated(wave: np.ndarray) -> np.ndarray:
    """At 8 kHz, and back by linear interpolation."""
    low = narrow(wave)
    return np.interp(np.arange(2 * len(low)) / 2, np.arange(len(low)), low)


def clipped(share: float, rate: int = SAMPLE_RATE) -> Callable[[np.ndarray], np.ndarray]:
    """A share of the samples at a rate clipped."""

    def damage(wave: np.ndarray) -> np.ndarray:
        sound = soxr.resample(wave, SAMPLE_RATE, rate)
        limit = np.quantile(np.abs(sound), 1 - share)
        return soxr.resample(np.clip(sound, -limit, limit), rate, SAMPLE_RATE)

    return damage


def noisy(ratio: float) -> Callable[[np.ndarray], np.ndarray]:
    """White noise at a level under that of the speech, dB."""

    def damage(wave: np.ndarray) -> np.ndarray:
        speech, level = Subject(wave).voice
        power = np.mean(10 ** (level[speech] / 10)) if speech.any() else np.mean(wave**2)
        noise = np.random.default_rng(len(wave)).normal(size=len(wave))
        return wave + noise * np.sqrt(power / 10 ** (ratio / 10))

    return damage


CASES: list[tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = [
    ("clipping", "as recorded", lambda wave: wave),
    ("clipping", "1 % clipped", clipped(0.01)),
    ("clipping", "1 % clipped at 44.1 kHz", clipped(0.01, 44_100)),
    ("clipping", "5 % clipped at 44.1 kHz", clipped(0.05, 44_100)),
    ("bandwidth", "as recorded", lambda wave: wave),
    ("bandwidth", "8 kHz, by soxr", lambda wave: soxr.resample(narrow(wave), 8_000, SAMPLE_RATE)),
    ("bandwidth", "8 kHz, repeated", lambda wave: np.repeat(narrow(wave), 2)),
    ("bandwidth", "8 kHz, linear", interpolated),
    ("snr", "as recorded", lambda wave: wave),
    ("snr", "noise at 20 dB", noisy(20)),
    ("snr", "noise at 10 dB", noisy(10)),
    ("snr", "noise at 0 dB", noisy(0)),
]  # fmt: skip


def print_cases(waves: list[np.ndarray]) -> None:
    """Quantiles of each measure over the clips, by what was done to them."""
    print("| measure | clips | lowest 5 % | median | highest 5 % |\n|---|---|---:|---:|---:|")
    for name, case, damage in CASES:
        found = [measure(Subject(damage(wave).astype(np.float32)), [name])[name] for wave in waves]
        low, middle, high = np.quantile([value for value in found if value is not None], (0.05, 0.5, 0.95))
        print(f"| {name} | {case} | {low:.4g} | {middle:.4g} | {high:.4g} |")


def print_speed(rows: list[Utterance], waves: list[np.ndarray]) -> None:
    """Times real time of each measure alone, per CPU second, and of all together."""
    seconds = sum(map(len, waves)) / SAMPLE_RATE
    names = measured_names(dnsmos=False)
    for label, wanted in ((names[0], names[:1]), *((name, (name,)) for name in names), ("all", names)):
        started = time.process_time()
        for row, wave in zip(rows, waves, strict=True):
            measure(Subject(wave, row.text, row.language), wanted)
        print(f"{label}: {seconds / (time.process_time() - started):.0f} x real time")


def print_transcripts(folder: str, rows: list[Utterance], waves: list[np.ndarray]) -> None:
    """Agreement with the true text, and what a bound on confidence does to it."""
    recogniser, started = ModelRecogniser(folder), time.process_time()
    results = recogniser.transcribe(
        [Recording(wave, row.language) for row, wave in zip(rows, waves, strict=True)]
    )
    seconds = sum(map(len, waves)) / SAMPLE_RATE
    print(f"{seconds / (time.process_time() - started):.1f} x real time")
    pairs = [
        (one.confidence or 0.0, agreement(one.text, row.text or ""))
        for one, row in zip(results, rows, strict=True)
        if isinstance(one, Transcript)
    ]
    for bound in (0.0, 0.7, 0.8, 0.9):
        kept = [right for confidence, right in pairs if confidence >= bound]
        print(f"confidence at least {bound}: {len(kept)} of {len(rows)} clips, agreement {np.mean(kept):.3f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recogniser", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    speech = Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech"))
    rows = list(read_jsonl(speech / "dev" / "manifest.jsonl"))[::EVERY]
    rows = [row for row in rows if isinstance(row, Utterance)]
    waves = [decode(row) for row in rows]
    if options.recogniser:
        print_transcripts(options.recogniser, rows, waves)
        return
    print(f"{len(rows)} clips, {sum(map(len, waves)) / SAMPLE_RATE / 60:.1f} min\n")
    print_cases(waves)
    print_speed(rows, waves)


if __name__ == "__main__":
    main()
