"""Aligners on real speech: how many utterances, how exact, how fast, and whether wrong transcripts are noticed.

    python benchmarks/align.py [SPEECH]    # SPEECH: a folder with manifest.jsonl; default $WORDWEAVE_SPEECH/dev

Prints one line of JSON. Times are CPU seconds of this process, so that a busy machine does not change them.
"""

import argparse
import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from aligners import load_aligner
from aligners.alignment import Aligner, Alignment
from aligners.normalise import normalise
from aligners.score import boundary_errors, summarise
from corpus.audio import decode, probe
from corpus.records import Utterance

Batch = list[tuple[Utterance, np.ndarray]]
DEFAULT = Path(os.environ.get("WORDWEAVE_SPEECH", "../shared/speech")) / "dev"


def read_speech(folder: Path) -> Batch:
    """Every utterance of a folder; `alignment` is set where the manifest says it is a whole MFA TextGrid."""
    batch = []
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        grid = str(folder / row["alignment"]) if row.get("alignment_kind") == "mfa" else None
        frames = probe(folder / row["audio"]).frames
        utterance = Utterance(
            row["id"],
            str(folder / row["audio"]),
            frames,
            text=row["text"],
            language=row["lang"],
            alignment=grid,
        )
        batch.append((utterance, decode(utterance)))
    return batch


def timed(aligner: Aligner, batch: Batch) -> tuple[list[Alignment], float]:
    """Alignments, and how many times faster than real time one core made them."""
    start = time.process_time()
    result = aligner.align(batch)
    return result, sum(len(wave) for _, wave in batch) / 16_000 / (time.process_time() - start)


def shuffled(batch: Batch, seed: int) -> Batch:
    """Every waveform with the transcript of another."""
    order = np.random.default_rng(seed).permutation(len(batch))
    pairs = [
        (replace(utterance, text=batch[other][0].text), wave, utterance.text)
        for (utterance, wave), other in zip(batch, order, strict=True)
    ]
    return [(utterance, wave) for utterance, wave, text in pairs if utterance.text != text]


def substituted(batch: Batch, seed: int) -> tuple[Batch, list[int]]:
    """One word of every transcript replaced by a word of another; and its place."""
    rng = np.random.default_rng(seed)
    lexicon = sorted(
        {word for utterance, _ in batch for token in normalise(utterance.text or "") for word in token.spoken}
    )
    changed, places = [], []
    for utterance, wave in batch:
        words = [word for token in normalise(utterance.text or "") for word in token.spoken]
        place = int(rng.integers(len(words)))
        word = lexicon[rng.integers(len(lexicon))]
        if word != words[place]:
            changed.append(
                (replace(utterance, text=" ".join([*words[:place], word, *words[place + 1 :]])), wave)
            )
            places.append(place)
    return changed, places


def auc(good: list[float], bad: list[float]) -> float:
    """Area under the curve: how often a good one scores above a bad one."""
    return float(roc_auc_score([1] * len(good) + [0] * len(bad), [*good, *bad]))


def reasons(results: list[Alignment]) -> dict[str, int]:
    return dict(Counter(result.reject.reason for result in results if result.reject))


def measure(batch: Batch) -> dict:
    """Everything about pocketsphinx."""
    strict, loose = load_aligner("pocketsphinx"), load_aligner("pocketsphinx", minimum_score=None)
    strict.align(batch[:1])  # loading is not counted
    right, speed = timed(strict, batch)
    report: dict = {
        "utterances": len(batch),
        "aligned": sum(result.reject is None for result in right),
        "rejects": reasons(right),
        "rejected": [
            utterance.id for (utterance, _), result in zip(batch, right, strict=True) if result.reject
        ],
        "times_real_time": round(speed, 1),
    }
    referenced = [
        (pair, result)
        for pair, result in zip(batch, right, strict=True)
        if pair[0].alignment and not result.reject
    ]
    if referenced:
        given = load_aligner("given").align([pair for pair, _ in referenced])
        found = [
            (reference, result)
            for reference, (_, result) in zip(given, referenced, strict=True)
            if not reference.reject
        ]
        errors = [boundary_errors(reference.words, result.words) for reference, result in found]
        report["boundaries"] = summarise(np.concatenate(errors))

    scored, wrong = loose.align(batch), loose.align(shuffled(batch, seed=0))
    lowest = -1000.0  # what was refused outright
    good, bad = (
        [result.quality.get("score_per_frame", lowest) for result in results] for results in (scored, wrong)
    )
    limit = strict.settings.minimum_score
    report["wrong_transcripts"] = {
        "tried": len(wrong),
        "refused_by_search": reasons(wrong),
        "auc": auc(good, bad),
        "auc_of_those_that_align": auc([x for x in good if x > lowest], [x for x in bad if x > lowest]),
        "right_kept": float(np.mean(np.array(good) >= limit)),
        "wrong_kept": float(np.mean(np.array(bad) >= limit)),
        "lowest_right": sorted(good)[:3],
        "highest_wrong": sorted(bad)[-3:],
    }
    changed, places = substituted(batch, seed=0)
    sure: list[float] = []
    unsure: list[float] = []
    refused = 0
    for place, result in zip(places, loose.align(changed), strict=True):
        refused += result.reject is not None
        for at, word in enumerate(result.words):
            (unsure if at == place else sure).append(word.confidence or 0.0)
    report["wrong_words"] = {"tried": len(places), "refused": refused, "auc": auc(sure, unsure)}
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path, nargs="?", default=DEFAULT)
    print(json.dumps(measure(read_speech(parser.parse_args().speech))))
