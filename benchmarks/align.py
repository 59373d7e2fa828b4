"""Aligners on real and synthetic speech: how exact, how fast, whether wrong transcripts are noticed, how much memory.

    python -m benchmarks.align [SPEECH] [--only compare exact filter ...] [--models FOLDER ...]

SPEECH is a folder with manifest.jsonl; default $WORDWEAVE_SPEECH/dev. Prints `compare` as one table in Markdown, and
one line of JSON per other table. Times are CPU seconds of the process that works, so that a busy machine
does not change them; two workers are timed by the clock.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve, resample_poly
from sklearn.metrics import roc_auc_score

from aligners import load_aligner
from aligners.acoustics import COMPACT_MINIMUM
from aligners.alignment import Aligner, Alignment
from aligners.normalise import normalise
from aligners.pocketsphinx import DOUBTFUL, FARTHEST, is_accepted
from aligners.quality import differences
from aligners.score import boundary_errors, summarise
from corpus.adapters import read_jsonl
from corpus.audio import decode, probe
from corpus.records import SAMPLE_RATE, Utterance
from corpus.synthetic.speech import synthesise
from tests.helpers.memory import peak_memory

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
            speaker=row["speaker"],
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
        index = int(rng.integers(len(words)))
        word = lexicon[rng.integers(len(lexicon))]
        if word != words[index]:
            changed.append(
                (replace(utterance, text=" ".join([*words[:index], word, *words[index + 1 :]])), wave)
            )
            places.append(index)
    return changed, places


def auc(good: list[float], bad: list[float]) -> float:
    """Area under the curve: how often a good one scores above a bad one."""
    return float(roc_auc_score([1] * len(good) + [0] * len(bad), [*good, *bad]))


def reasons(results: list[Alignment]) -> dict[str, int]:
    return dict(Counter(result.reject.reason for result in results if result.reject))


def spoken_by_machine(utterances: int = 60) -> Batch:
    """Speech of espeak-ng with the exact time of every word."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = synthesise(folder, utterances=utterances, voices=11, seed=4)
        batch = [(utterance, decode(utterance)) for utterance in read_jsonl(manifest)]  # type: ignore[arg-type]
        for utterance, _ in batch:  # the files go: read the times now
            TRUTH[utterance.id] = load_aligner("given").align(
                [(utterance, np.zeros(utterance.samples, np.float32))]
            )
    return batch


TRUTH: dict[str, list[Alignment]] = {}


def noisy(batch: Batch, decibels: float, seed: int) -> Batch:
    """White noise so far below the speech."""
    rng = np.random.default_rng(seed)
    return [
        (u, wave + rng.normal(0, np.std(wave) * 10 ** (-decibels / 20), len(wave)).astype(np.float32))
        for u, wave in batch
    ]


QUOTED = (
    "| viter, model of MFA 3.4.3, imported (quoted) | 15.0 | 32.0 | - | 34 of 35 | - | - | a model of MFA |",
    "| mfa 3.4.3, small model (quoted) | 20.0 | 32.2 | - | 249 of 249 | 20 of 20 | - | conda; 20 to 35 s a start |",
)
"""What cannot be had where this runs: measured elsewhere, on the same recordings."""


def compared(real: Batch, models: list[str]) -> str:
    """One table of all aligners, in Markdown.

    Without `models`, one of viter's is fitted on the recordings where viter is installed, which takes some minutes.
    """
    rows: list[tuple[str, str, dict, str]] = [
        ("pocketsphinx, by default with ctc", "pocketsphinx", {}, "none"),
        ("pocketsphinx alone", "pocketsphinx", {"second_opinion": False, "minimum_score": -32.0}, "none"),
        ("ctc", "ctc", {}, "none"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        setup = "`pip install viter`, fitted before"
        if not models and find_spec("viter"):
            setup = f"`pip install viter`, {fit_own(real, Path(folder)):.0f} s of CPU"
            models = [f"{folder}/aligner"]
        for model in models:
            imported = json.loads((Path(model) / "card.json").read_text())["imported"]
            label = f"viter, imported {imported}" if imported else "viter, own model"
            rows.append((label, "viter", {"model": model}, setup))
        measured = [compared_row(real, *row) for row in rows]
    titles = ("median", "mean", "95th percentile", "aligned", "wrong rejected", "x real time", "set-up")
    return "\n".join([f"| aligner | {' | '.join(titles)} |", "|---" * 8 + "|", *measured, *QUOTED])


def compared_row(real: Batch, label: str, name: str, settings: dict, setup: str) -> str:
    """One aligner: errors against MFA's TextGrids in ms, shares, speed by CPU time, and what it needs first."""
    aligner = load_aligner(name, **settings)
    aligner.align(real[:1])  # loading is not counted
    aligned, speed = timed(aligner, real)
    wrong = shuffled(real[::2], seed=0)
    rejected = sum(one.reject is not None for one in aligner.align(wrong))
    errors = summarise(against_grids(real, aligned))
    numbers = [f"{errors[key]:.1f}" for key in ("median_ms", "mean_ms", "p95_ms")]
    kept = sum(one.reject is None for one in aligned)
    shares = [f"{kept} of {len(real)}", f"{rejected} of {len(wrong)}", f"{speed:.0f}"]
    return f"| {' | '.join([label, *numbers, *shares, setup])} |"


def against_grids(batch: Batch, aligned: list[Alignment]) -> np.ndarray:
    """Errors of the boundaries of recordings that have a TextGrid of MFA, ms."""
    graded = [
        (pair, one) for pair, one in zip(batch, aligned, strict=True) if pair[0].alignment and not one.reject
    ]
    given = load_aligner("given").align([pair for pair, _ in graded], {})
    errors = [
        boundary_errors(reference.words, one.words)
        for reference, (_, one) in zip(given, graded, strict=True)
        if not reference.reject
    ]
    return np.concatenate(errors)


def fit_own(real: Batch, folder: Path) -> float:
    """Fit viter's model on recordings; CPU seconds."""
    from pipelines.build import run_step
    from pipelines.operations.fit_aligner import fit_aligner
    from pipelines.settings import CorpusSettings, Settings

    rows = [
        {"id": one.id, "audio": one.audio, "text": one.text, "speaker": one.speaker, "lang": one.language}
        for one, _ in real
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_step("ingest", folder, Settings(build=str(folder), corpus=CorpusSettings(source=str(manifest))))
    start = time.process_time()
    fit_aligner(folder)
    return time.process_time() - start


def exact(real: Batch, machine: Batch, models: list[str]) -> dict:
    """Every backend against MFA's TextGrids and exact word events; aligned, damaged transcripts rejected, speed.

    `models` are folders of `wordweave fit aligner`, one's own or imported.
    """
    report: dict = {}
    backends: list[tuple[str, str, dict]] = [("pocketsphinx", "pocketsphinx", {}), ("ctc", "ctc", {})]
    backends += [(f"viter {Path(model).name}", "viter", {"model": model}) for model in models]
    wrong, longer = shuffled(real, seed=0), followed(real, seed=0)
    aligned: dict[str, list[Alignment]] = {}
    for label, name, settings in backends:
        aligner = load_aligner(name, **settings)
        aligner.align(real[:1])  # loading is not counted
        aligned[label], speed = timed(aligner, real)
        spoken = aligner.align(machine)
        events = [
            boundary_errors(TRUTH[utterance.id][0].words, one.words)
            for (utterance, _), one in zip(machine, spoken, strict=True)
            if not one.reject
        ]
        report[label] = {
            "aligned": f"{sum(one.reject is None for one in aligned[label])} of {len(real)}",
            "rejects": reasons(aligned[label]),
            "wrong_rejected": f"{sum(one.reject is not None for one in aligner.align(wrong))} of {len(wrong)}",
            "longer_rejected": f"{sum(one.reject is not None for one in aligner.align(longer))} of {len(longer)}",
            "times_real_time": round(speed, 1),
            "against_mfa": summarise(against_grids(real, aligned[label])),
            "against_events": summarise(np.concatenate(events)) if events else None,
            "machine_aligned": f"{sum(one.reject is None for one in spoken)} of {len(machine)}",
        }
    both = [
        boundary_errors(one.words, two.words)
        for one, two in zip(aligned["pocketsphinx"], aligned["ctc"], strict=True)
        if not (one.reject or two.reject)
    ]
    report["between_pocketsphinx_and_ctc"] = summarise(np.concatenate(both))
    return report


def followed(batch: Batch, seed: int) -> Batch:
    """Every second recording followed, or preceded, by another one that its transcript lacks."""
    order = np.random.default_rng(seed).permutation(len(batch))
    pairs = []
    for index, (utterance, wave) in enumerate(batch[::2]):
        parts = [wave, batch[order[index]][1]]
        whole = np.concatenate(parts if index % 2 else parts[::-1])
        pairs.append((replace(utterance, alignment=None), whole))
    return pairs


LOWEST = -1000.0  # the score of what the search refused


def filtered(real: Batch, machine: Batch) -> dict:
    """Whether the filter knows wrong transcripts, on other speakers than its threshold is chosen on, and in noise.

    The threshold is chosen on half the speakers: half-way between the lowest right and the highest wrong score. Word
    confidence has no threshold; its logistic curve was fitted on these recordings, which cannot change its AUC.
    """
    strict, loose = load_aligner("pocketsphinx"), load_aligner("pocketsphinx", minimum_score=None)
    speakers = sorted({utterance.speaker or utterance.id[:5] for utterance, _ in real})
    chosen_on = set(speakers[::2])
    halves = [
        [pair for pair in real if ((pair[0].speaker or pair[0].id[:5]) in chosen_on) == first]
        for first in (True, False)
    ]

    def scores(batch: Batch) -> list[float]:
        return [one.quality.get("score_per_frame", LOWEST) for one in loose.align(batch)]

    def table(batch: Batch, limits: dict[str, float]) -> dict:
        good, bad = scores(batch), scores(shuffled(batch, seed=0))
        kept = {
            name: [float(np.mean(np.array(some) >= limit)) for some in (good, bad)]
            for name, limit in limits.items()
        }
        aligned = [[one for one in some if one > LOWEST] for some in (good, bad)]
        default = [
            float(np.mean([one.reject is None for one in strict.align(some)]))
            for some in (batch, shuffled(batch, seed=0))
        ]
        return {
            "utterances": len(batch),
            "right_and_wrong_kept_by_default": default,
            "auc": auc(good, bad),
            "auc_of_those_that_align": auc(*aligned) if all(aligned) else None,
            "right_and_wrong_kept": kept,
        }

    good, bad = scores(halves[0]), scores(shuffled(halves[0], seed=0))
    chosen = (np.percentile(good, 1) + max(one for one in bad if one > LOWEST)) / 2
    limits = {"score alone": -32.0, "chosen": float(chosen)}
    report: dict = {
        "limits": limits,
        "chosen_on": table(halves[0], limits),
        "other_speakers": table(halves[1], limits),
    }
    report["synthetic"] = table(machine, limits)
    for decibels in (20, 10):
        report[f"other_speakers_{decibels}_dB"] = table(noisy(halves[1], decibels, 1), limits)
    changed, places = substituted(real, seed=5)
    sure: list[float] = []
    unsure: list[float] = []
    refused = 0
    for index, result in zip(places, loose.align(changed), strict=True):
        refused += result.reject is not None
        for at, word in enumerate(result.words):
            (unsure if at == index else sure).append(word.confidence or 0.0)
    report["wrong_words"] = {"tried": len(places), "refused": refused, "auc": auc(sure, unsure)}
    return report


def echoed(batch: Batch, seconds: float) -> Batch:
    """In a room whose echo falls by 60 dB in `seconds`, at the level of before."""
    rng = np.random.default_rng(2)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    room = rng.normal(0, 1, len(time)) * 10 ** (-3 * time / seconds) * 0.05
    room[0] = 1.0
    changed = []
    for utterance, wave in batch:
        wet = fftconvolve(wave, room)[: len(wave)]
        changed.append((utterance, (wet * np.std(wave) / np.std(wet)).astype(np.float32)))
    return changed


def faster(batch: Batch, factor: float) -> Batch:
    """Played faster and higher."""
    changed = []
    for utterance, wave in batch:
        short = resample_poly(wave, 100, round(100 * factor)).astype(np.float32)
        changed.append((replace(utterance, frames=len(short), alignment=None), short))
    return changed


CONDITIONS: dict[str, Callable[[Batch], Batch]] = {
    "clean": lambda batch: batch,
    "20 dB": lambda batch: noisy(batch, 20, 1),
    "10 dB": lambda batch: noisy(batch, 10, 1),
    "5 dB": lambda batch: noisy(batch, 5, 1),
    "echo 0.5 s": lambda batch: echoed(batch, 0.5),
    "25 % faster": lambda batch: faster(batch, 1.25),
}


def agreement(real: Batch, conditions: Sequence[str]) -> dict:
    """What a second aligner gives over one aligner's score: right transcripts and those of other recordings.

    On every second recording. Measures: the score of pocketsphinx (at least -32), the confidence of ctc (at least
    0.30), the mean distance of their word boundaries (at most 80 ms); and the default, which uses all three and is no
    number, so that it has no AUC.
    """
    first = load_aligner("pocketsphinx", minimum_score=None)
    second = load_aligner("ctc", minimum_confidence=0.0)
    report = {}
    for name in conditions:
        right = CONDITIONS[name](real[::2])
        measured = [measures_of_both(first, second, batch) for batch in (right, shuffled(right, seed=0))]
        report[name] = {}
        for measure, limit in (
            ("score", -32.0),
            ("confidence", COMPACT_MINIMUM),
            ("nearness", -80.0),
            ("default", 1.0),
        ):
            good, bad = (some[measure] for some in measured)
            report[name][measure] = {
                "auc": None if measure == "default" else round(auc(good, bad), 4),
                "right_kept": round(float(np.mean(np.array(good) >= limit)), 3),
                "wrong_kept": round(float(np.mean(np.array(bad) >= limit)), 3),
            }
        print(json.dumps({name: report[name]}), file=sys.stderr, flush=True)
    return report


def measures_of_both(first: Aligner, second: Aligner, batch: Batch) -> dict[str, list[float]]:
    """Of each utterance: the score of one aligner, the confidence of the other, how near they are, ms times -1, and
    whether pocketsphinx keeps it by default."""
    measured: dict[str, list[float]] = {"score": [], "confidence": [], "nearness": [], "default": []}
    for one, two in zip(first.align(batch, {}), second.align(batch, {}), strict=True):
        apart = float(differences(one.words, two.words).mean()) if one.words and two.words else FARTHEST
        score, confidence = one.quality.get("score_per_frame", LOWEST), two.quality.get("confidence", 0.0)
        doubted = min(apart, FARTHEST) if score < DOUBTFUL else 0.0
        kept = bool(one.words) and is_accepted(score, doubted, confidence >= COMPACT_MINIMUM, -46.0)
        for name, value in zip(measured, (score, confidence, -apart, float(kept)), strict=True):
            measured[name].append(value)
    return measured


def work(batch: Batch) -> tuple[float, float, float]:
    """When a process began and ended a batch, loading not counted, and its CPU seconds."""
    aligner = load_aligner("pocketsphinx")
    aligner.align(batch[:1])
    start, used = time.time(), time.process_time()
    aligner.align(batch)
    return start, time.time(), time.process_time() - used


def workers(real: Batch) -> dict:
    """Seconds of one process for a batch, and of two at once for half of it each: by the clock, and of CPU."""
    batch, report = real[:120], {}
    for count in (1, 2):
        shares = [batch[i::count] for i in range(count)]
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            runs = pool.map(work, shares, chunksize=1)
        starts, ends, used = zip(*runs, strict=True)
        report[f"{count}"] = {"wall": max(ends) - min(starts), "cpu": sum(used)}
    return {**report, "speed_up": report["1"]["wall"] / report["2"]["wall"]}


def joined(
    batch: Batch, seconds: float, pauses: list[int]
) -> tuple[Utterance, np.ndarray, list[tuple[float, float]]]:
    """Utterances in sequence, each once or until there are `seconds`, with pauses between; (start, seconds) of each."""
    rng, parts, text, places, at = np.random.default_rng(0), [], [], [], 0.0
    while at < seconds:
        for utterance, wave in batch:
            pause = rng.normal(0, 1e-4, pauses[len(places) % len(pauses)]).astype(np.float32)
            parts += [wave, pause]
            text.append(utterance.text or "")
            places.append((at, len(wave) / SAMPLE_RATE))
            at += (len(wave) + len(pause)) / SAMPLE_RATE
            if at >= seconds and len(places) >= len(batch):
                break
    whole = np.concatenate(parts)
    return Utterance("long", "long.wav", len(whole), text=" ".join(text)), whole, places


def against_parts(
    result: Alignment, batch: Batch, aligner: Aligner, places: list[tuple[float, float]]
) -> dict:
    """Starts in a long recording against those in its parts alone; parts that do not align alone are left out."""
    if result.reject:
        return {"reject": str(result.reject)}
    apart, errors, done = aligner.align(batch), [], 0
    for index, (at, _) in enumerate(places):
        utterance, alone = batch[index % len(batch)][0], apart[index % len(batch)]
        count = sum(bool(token.spoken) for token in normalise(utterance.text or ""))
        words, done = result.words[done : done + count], done + count
        if not alone.reject:
            errors += [
                (word.start - at - other.start) * 1000 for word, other in zip(words, alone.words, strict=True)
            ]
    return summarise(errors)


def silence(real: Batch) -> dict:
    """25 utterances with pauses of 0.2 s, 30 s and 3 min between them, against the same utterances alone."""
    aligner = load_aligner("pocketsphinx", minimum_score=None)
    batch = [pair for pair in real if pair[0].id[:3] in ("lj-", "ls-")][:25]
    pauses = [3_200, 30 * SAMPLE_RATE, 3_200, 3_200, 180 * SAMPLE_RATE]
    utterance, whole, places = joined(batch, 1.0, pauses)
    (result,) = aligner.align([(utterance, whole)])
    return {"minutes": len(whole) / SAMPLE_RATE / 60, **against_parts(result, batch, aligner, places)}


def hour(folder: Path, name: str) -> dict:
    """One hour of continuous speech in one call, in a process of its own: peak memory, speed, and words found."""
    batch = [pair for pair in read_speech(folder) if pair[0].id[:3] in ("lj-", "ls-", "pm-")]
    utterance, whole, places = joined(batch, 3600, [3_200])
    parts = batch[:20]
    del batch
    aligner = load_aligner(name, **({"minimum_score": None} if name == "pocketsphinx" else {}))
    (result,), speed = timed(aligner, [(utterance, whole)])
    peak = peak_memory()
    seconds = len(whole) / SAMPLE_RATE
    del whole
    return {
        "aligner": name, "seconds": seconds, "words": len(result.words), "peak_MiB": round(peak),
        "times_real_time": round(speed, 1), "first_20_utterances": against_parts(result, parts, aligner, places[:20]),
    }  # fmt: skip


TABLES = ("compare", "exact", "filter", "agreement", "workers", "silence", "hour")


def main() -> None:
    """Make the tables asked for, one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument(
        "--models", nargs="*", default=[], help="folders of `fit aligner`, for the tables compare and exact"
    )
    parser.add_argument(
        "--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), help="of the table agreement"
    )
    parser.add_argument("--hour-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hour_of:
        print(json.dumps(hour(options.speech, options.hour_of)))
        return
    real = read_speech(options.speech)
    machine = spoken_by_machine() if {"exact", "filter"} & set(options.only) else []
    make = {
        "exact": lambda: exact(real, machine, options.models),
        "filter": lambda: filtered(real, machine),
        "agreement": lambda: agreement(real, options.conditions),
        "workers": lambda: workers(real),
        "silence": lambda: silence(real),
    }
    for table in options.only:
        if table == "compare":
            print(compared(real, options.models), flush=True)
            continue
        if table == "hour":
            for name in ("pocketsphinx", "ctc"):
                words = [sys.executable, "-m", "benchmarks.align", str(options.speech), "--hour-of", name]
                subprocess.run(words, check=True)
            continue
        print(json.dumps({table: make[table]()}), flush=True)


if __name__ == "__main__":
    main()
