"""Word boundaries of the default English aligner, before and after they are moved to where the sound changes.

    python -m benchmarks.boundaries [SPEECH]

Three references: MFA TextGrids of one speaker, espeak-ng's own times, and syllables labelled by hand in German
recordings, whose 25 words get pronunciations in the phones of the English model below, searched without the second
aligner. SPEECH is a folder with `dev` and `emotion`; default $WORDWEAVE_SPEECH. Prints a table of errors in ms; "late"
is the median of the signed errors.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aligners import load_aligner, pocketsphinx
from aligners.alignment import Aligner, TimedWord
from aligners.given import GivenSettings, read_everything
from aligners.score import boundary_errors, summarise
from benchmarks.align import TRUTH, Batch, read_speech, spoken_by_machine
from corpus.audio import decode, probe
from corpus.records import Utterance

GERMAN = {
    "abend": ("AA B EH N T", 2),
    "abgeben": ("AA P G EY B AH N", 3),
    "am": ("AA M", 1),
    "auf": ("AW F", 1),
    "das": ("D AA S", 1),
    "dem": ("D EY M", 1),
    "der": ("D EH R", 1),
    "eisschrank": ("AY S SH R AA NG K", 2),
    "es": ("EH S", 1),
    "heute": ("HH OY T AH", 2),
    "ich": ("IH SH", 1),
    "ihm": ("IY M", 1),
    "in": ("IH N", 1),
    "könnte": ("K ER N T AH", 2),
    "lappen": ("L AA P AH N", 2),
    "liegt": ("L IY K T", 1),
    "mittwoch": ("M IH T V AO HH", 2),
    "sagen": ("Z AA G AH N", 2),
    "sein": ("Z AY N", 1),
    "sie": ("Z IY", 1),
    "sieben": ("Z IY B AH N", 2),
    "soweit": ("Z OW V AY T", 2),
    "stunden": ("SH T UH N D AH N", 2),
    "will": ("V IH L", 1),
    "wird": ("V IH R T", 1),
}
"""Word -> (pronunciation in the phones of the English model, number of syllables)."""


def english_name(word: str) -> str:
    """The word under which a German one is added to the English dictionary, which has other words spelled alike."""
    return "xx" + word.replace("ö", "oe")


def labelled_by_hand(folder: Path) -> tuple[Batch, list[list[TimedWord]]]:
    """Recordings with their words, and the times of these from the syllables; those with other labels left out."""
    batch, truth = [], []
    for level in range(len(pocketsphinx.BEAM_SCHEDULE)):
        for word, (pronunciation, _) in GERMAN.items():
            pocketsphinx.load_decoder(level).add_word(english_name(word), pronunciation, False)
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        words = re.findall(r"\w+", row["text"].lower())
        (tiers,) = read_everything(str(folder / row["alignment"]), GivenSettings("syllables")).values()
        syllables = [label for label in tiers.words if label.text]
        if len(syllables) != sum(GERMAN[word][1] for word in words):
            continue  # a breath is labelled as well
        remaining = iter(syllables)
        parts = [[next(remaining) for _ in range(GERMAN[word][1])] for word in words]
        names = [english_name(word) for word in words]
        path = str(folder / row["audio"])
        utterance = Utterance(row["id"], path, probe(path).frames, text=" ".join(names))
        batch.append((utterance, decode(utterance)))
        truth.append(
            [TimedWord(name, part[0].start, part[-1].end) for name, part in zip(names, parts, strict=True)]
        )
    return batch, truth


def errors(batch: Batch, truth: list[Sequence[TimedWord]], aligner: Aligner) -> np.ndarray:
    """Errors of all boundaries in ms."""
    pairs = zip(truth, aligner.align(batch, {}), strict=True)
    return np.concatenate([boundary_errors(a, b.words) for a, b in pairs if a and not b.reject])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("WORDWEAVE_SPEECH", "../shared/speech"))
    parser.add_argument("speech", nargs="?", type=Path, default=default)
    folder = parser.parse_args().speech
    real = [pair for pair in read_speech(folder / "dev") if pair[0].alignment]
    machine = spoken_by_machine()
    sets = {
        "MFA TextGrids": (real, [item.words for item in load_aligner("given").align(real, {})], {}),
        "espeak-ng's times": (machine, [TRUTH[utterance.id][0].words for utterance, _ in machine], {}),
        "labels by hand, German": (
            *labelled_by_hand(folder / "emotion"),
            {"second_opinion": False, "minimum_score": None},
        ),
    }
    print(
        "| reference | boundaries | | mean | median | 95th percentile | late |\n|---|---|---|---|---|---|---|"
    )
    for name, (batch, truth, settings) in sets.items():
        aligner = load_aligner("pocketsphinx", **settings)
        for state, moves in (("before", False), ("after", True)):
            aligner.moves_boundaries = moves
            found = summarise(errors(batch, truth, aligner))
            figures = [f"{found[key]:.1f}" for key in ("mean_ms", "median_ms", "p95_ms", "bias_ms")]
            print(f"| {name} | {found['boundaries']} | {state} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
