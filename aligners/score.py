"""How far two alignments of the same words are apart.

    python -m aligners.score REFERENCE ESTIMATE    # files that `given` reads, a build's words, or folders of them

A boundary is the start or the end of a word; errors are in milliseconds.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from aligners.alignment import TimedWord
from aligners.given import READERS, GivenSettings, Tiers, read_everything
from aligners.markup import is_pause
from aligners.match import Label, match
from aligners.normalise import normalise
from corpus.records import Reject, Word

TOLERANCES = (20, 50, 100)  # ms
Interval = Word | TimedWord


def boundary_errors(reference: Sequence[Interval], estimate: Sequence[Interval]) -> np.ndarray:
    """Estimated minus reference time of every boundary, positive where the estimate is late.

    Args:
        reference, estimate: the same words in the same order.

    Returns:
        (2N,) float, milliseconds: start, end, start, end, ...

    Raises:
        ValueError: not the same words.
    """
    if [word.spoken for word in reference] != [word.spoken for word in estimate]:
        raise ValueError(
            f"alignments: need the same words, got {len(reference)} and {len(estimate)} that differ"
        )
    pairs = zip(reference, estimate, strict=True)
    errors = [error for a, b in pairs for error in (b.start - a.start, b.end - a.end)]
    return np.array(errors, float) * 1000


def summarise(errors: Iterable[float] | np.ndarray) -> dict[str, float]:
    """Mean, median and shares of the absolute errors.

    Args:
        errors: milliseconds.

    Returns:
        boundaries (a count), mean_ms, median_ms, p95_ms, bias_ms (median of signed errors) and within_20ms and so on
        (shares); only the count where it is 0.

    >>> summarise([-10.0, 30.0, 5.0, -70.0])
    {'boundaries': 4, 'mean_ms': 28.75, 'median_ms': 20.0, 'p95_ms': 64.0, 'bias_ms': -2.5,
     'within_20ms': 0.5, 'within_50ms': 0.75, 'within_100ms': 1.0}
    """
    signed = np.array(list(errors), float)
    if not len(signed):
        return {"boundaries": 0}
    size = np.abs(signed)
    # half a microsecond: 0.34 - 0.32 is more than 0.02 in floating point
    within = {f"within_{limit}ms": float(np.mean(size <= limit + 5e-4)) for limit in TOLERANCES}
    middle = {
        "mean_ms": float(size.mean()),
        "median_ms": float(np.median(size)),
        "p95_ms": round(float(np.percentile(size, 95)), 6),
        "bias_ms": float(np.median(signed)),
    }
    return {"boundaries": len(signed), **middle, **within}


def compare(reference: Sequence[Label], estimate: Sequence[Label]) -> np.ndarray:
    """Boundary errors of two lists of labels, (2N,) ms; words may be split differently.

    Raises:
        Reject: they hold other words.
    """
    words = [label for label in estimate if not is_pause(label.text)]
    text = " ".join(label.text for label in words)
    tokens = normalise(text)
    return boundary_errors(match(reference, tokens, text), match(words, tokens, text))


def read_words(path: Path, settings: GivenSettings) -> dict[str, Sequence[Label]]:
    """Words by utterance: of a file that `given` reads, of a build's words table, or of a folder of such files.

    A file that holds one utterance and does not name it goes by its stem. What cannot be read has no words.
    """
    if path.is_dir():
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.name.lower().removesuffix(".gz").endswith((*READERS, ".parquet"))
        ]
        return {id: words for file in files for id, words in read_words(file, settings).items()}
    if path.suffix == ".parquet":
        rows = pq.read_table(path, columns=["id", "words"]).to_pylist()
        return {
            row["id"]: [Label(word["text"], word["start"], word["end"]) for word in row["words"]]
            for row in rows
            if row["words"]
        }
    everything = read_all(path, settings)
    name = path.name.removesuffix(".gz")
    stem = next((name[: -len(end)] for end in READERS if name.lower().endswith(end)), path.stem)
    return {id or stem: tiers.words for id, tiers in everything.items()}


def read_all(path: Path, settings: GivenSettings) -> dict[str, Tiers]:
    """Everything in one file that `given` reads; nothing, and a line on stderr, where it cannot be read."""
    try:
        return read_everything(str(path), settings)
    except Reject as reject:
        print(f"{path.name}: {reject}", file=sys.stderr)
        return {}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m aligners.score", description="boundary error of two alignments"
    )
    parser.add_argument("reference", type=Path)
    parser.add_argument("estimate", type=Path)
    parser.add_argument("--words-tier", default="words")
    options = parser.parse_args(arguments)
    for path in (options.reference, options.estimate):
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    settings = GivenSettings(words_tier=options.words_tier)
    reference, estimate = (read_words(path, settings) for path in (options.reference, options.estimate))
    if len(reference) == len(estimate) == 1:  # two files, however they are called
        reference = dict(zip(estimate, reference.values(), strict=True))
    errors, failed = [], 0
    for id in sorted(reference.keys() & estimate.keys()):
        try:
            errors.append(compare(reference[id], estimate[id]))
        except Reject as reject:
            print(f"{id}: {reject}", file=sys.stderr)
            failed += 1
    everything = np.concatenate(errors) if errors else np.zeros(0)
    alone = len(reference.keys() ^ estimate.keys())
    print(
        json.dumps(
            {"utterances": len(errors), "failed": failed, "in_one_only": alone, **summarise(everything)}
        )
    )
    return 0 if errors else 1


if __name__ == "__main__":
    sys.exit(main())
