"""How far two alignments of the same words are apart.

    python -m aligners.score REFERENCE ESTIMATE    # two files of any format `given` reads, or two folders of them

A boundary is the start or the end of a word; errors are in milliseconds.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from aligners.alignment import Timed
from aligners.given import READERS, GivenSettings, read
from aligners.match import SILENCE, match
from aligners.normalise import normalise
from corpus.records import Reject, Word

TOLERANCES = (20, 50, 100)  # ms
Interval = Word | Timed


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
        boundaries (a count), mean_ms, median_ms, bias_ms (median of the signed errors) and within_20ms and so on
        (shares); only the count where it is 0.

    >>> summarise([-10.0, 30.0, 5.0, -70.0])
    {'boundaries': 4, 'mean_ms': 28.75, 'median_ms': 20.0, 'bias_ms': -2.5,
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
        "bias_ms": float(np.median(signed)),
    }
    return {"boundaries": len(signed), **middle, **within}


def compare_files(reference: Path, estimate: Path, settings: GivenSettings) -> np.ndarray:
    """Boundary errors of two alignment files, (2N,) ms; labels may be split differently.

    Raises:
        Reject: a file cannot be read, or they hold other words.
    """
    words = [
        label
        for label in read(str(estimate), estimate.stem, settings).words
        if label.text.lower() not in SILENCE
    ]
    text = " ".join(label.text for label in words)
    tokens = normalise(text)
    ours = match(words, tokens, text)
    theirs = match(read(str(reference), reference.stem, settings).words, tokens, text)
    return boundary_errors(theirs, ours)


def pairs(reference: Path, estimate: Path) -> list[tuple[Path, Path]]:
    """Files to compare: the two given, or those of equal stem in two folders."""
    if not reference.is_dir():
        return [(reference, estimate)]
    found = [
        {path.stem: path for path in sorted(folder.rglob("*")) if path.name.lower().endswith(tuple(READERS))}
        for folder in (reference, estimate)
    ]
    return [(found[0][stem], found[1][stem]) for stem in sorted(found[0].keys() & found[1].keys())]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m aligners.score", description="boundary error of two alignments"
    )
    parser.add_argument("reference", type=Path)
    parser.add_argument("estimate", type=Path)
    parser.add_argument("--words-tier", default="words")
    options = parser.parse_args(arguments)
    errors, failed = [], 0
    for reference, estimate in pairs(options.reference, options.estimate):
        try:
            errors.append(compare_files(reference, estimate, GivenSettings(words_tier=options.words_tier)))
        except Reject as reject:
            print(f"{reference.name}: {reject}", file=sys.stderr)
            failed += 1
    everything = np.concatenate(errors) if errors else np.zeros(0)
    print(json.dumps({"files": len(errors), "failed": failed, **summarise(everything)}))
    return 0 if errors else 1


if __name__ == "__main__":
    sys.exit(main())
