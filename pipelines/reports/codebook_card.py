"""The step `card`: how a codebook's units are used, what they cost in bits, how well they follow phones."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader

from corpus import files
from corpus.records import SAMPLE_RATE
from pipelines.execution.task import read_marker, sha256
from pipelines.layout import finished_parts, part_names
from pipelines.settings import Settings
from pipelines.steps.audio import sampled_speech
from pipelines.steps.base import Run, Step
from pipelines.steps.codebook import codebook_path, open_models
from units.encode import encode_units
from units.pretraining.augment import with_noise
from units.quality import Usage, phone_quality, phones_at_frames

NOISE = (20.0, 10.0)  # dB
STABILITY_SECONDS = 60.0  # encoded five times: with a large encoder on a CPU that takes minutes
ORIGIN = ("encoder", "imported", "frames", "seed", "seeding", "iterations", "restarts", "faiss", "fitted_on")


def write_card(build: Path, settings: Settings, *, phones: int = 50, threads: int = 1) -> dict[str, Any]:
    """Write codebooks/units.json and codebooks/units.html; returns what the first holds.

    Units are counted part by part, over the whole build: memory does not grow with it.

    Args:
        phones: utterances to align again for the numbers that need phones, where the aligner has them; those of
            lowest hash among the ones with words. 0: none.
        threads: that encode; the numbers do not depend on them.

    Raises:
        ValueError: the units of a part are not made.
    """
    path = codebook_path(build, settings)
    encoder, codebook = open_models(build, settings)
    usage, rejected = Usage(codebook.clusters), 0
    for name, _ in finished_parts(build, "units", "units"):
        for batch in files.open_table(build / "units" / name).iter_batches(1000, columns=["units"]):
            for units in batch.column("units"):
                if units.is_valid:
                    usage.add(units.values.to_numpy())
                else:
                    rejected += 1
    fitted = (read_marker(path) or {}).get("inertia")
    card = {
        "codebook": {
            "path": str(path.relative_to(build) if path.is_relative_to(build) else path),
            "sha256": sha256(path),
            "kind": type(codebook).__name__,
            "dimension": codebook.dimension,
            **{name: codebook.provenance.get(name) for name in ORIGIN},
        },
        "inertia": against_reference(fitted),
        "units": {**usage.card(encoder.frame_rate), "utterances_without": rejected},
        "phones": phone_numbers(build, settings, encoder, codebook, phones),
        "stability": stability(build, encoder, codebook, threads),
    }
    folder = build / "codebooks"
    files.write(folder / "units.json", json.dumps(card, indent=1, sort_keys=True).encode())
    page = Environment(loader=PackageLoader("pipelines", "data"), autoescape=True).get_template("card.html")
    max_bits = math.log2(codebook.clusters)
    html = page.render(build=build.name, card=card, ranks=ranks(card["units"]["counts"]), most_bits=max_bits)
    files.write(folder / "units.html", html.encode())
    return card


def against_reference(fitted: dict[str, float] | None) -> dict[str, Any]:
    """Mean squared distance of the sampled frames to their centroids, and that of a second fit with the next seed."""
    if fitted is None:
        return {"left_out": "this codebook was not fitted here"}
    own, second = fitted["own"], fitted["second seed"]
    return {"own": own, "second_seed": second, "ratio": own / second if second else 1.0}


def stability(build: Path, encoder: Any, codebook: Any, threads: int = 1, count: int = 20) -> dict[str, Any]:
    """Share of frames that keep their unit in white noise and at other gains, on a minute of the build's utterances."""
    waves: list[np.ndarray] = []
    for _, wave in sampled_speech(build, count, "units"):
        if waves and sum(map(len, waves)) + len(wave) > STABILITY_SECONDS * SAMPLE_RATE:
            break
        waves.append(wave)
    variants = {"clean": waves}
    variants |= {f"{snr:g} dB": [with_noise(wave, snr, i) for i, wave in enumerate(waves)] for snr in NOISE}
    variants |= {
        f"{gain:+g} dB gain": [wave * np.float32(10 ** (gain / 20)) for wave in waves] for gain in (6, -6)
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sequences = encode_units(encoder, codebook, [wave for group in variants.values() for wave in group])
    finally:
        torch.set_num_threads(before)
    units = {
        name: np.concatenate(
            [np.zeros(0, np.int32), *sequences[index * len(waves) : (index + 1) * len(waves)]]
        )
        for index, name in enumerate(variants)
    }
    clean = units.pop("clean")
    if not len(clean):
        return {"left_out": "no utterance has units"}
    return {
        "utterances": len(waves),
        "same": {name: float(np.mean(changed == clean)) for name, changed in units.items()},
    }


def phone_numbers(build: Path, settings: Settings, encoder: Any, codebook: Any, count: int) -> dict[str, Any]:
    """`phone_quality` of some utterances, aligned again; or why that is left out.

    The words table has no phones, so the aligner that made it runs once more.
    """
    from aligners import load_aligner

    if count == 0:
        return {"left_out": "not asked for"}
    if any(read_marker(build / "words" / name) is None for name in part_names(build)):
        commands = f"`wordweave align {build}`, then `wordweave codebook-report {build}`"
        return {"left_out": f"words are not aligned; run {commands}"}
    aligner = load_aligner(settings.align.backend, **settings.align.options)
    without = {"left_out": f"the aligner {settings.align.backend} gave no phones"}
    if not aligner.gives_phones:
        return without
    units: list[np.ndarray] = []
    phones: list[np.ndarray] = []
    speakers: list[str] = []
    pairs = list(
        sampled_speech(build, count, "words")
    )  # one batch: some aligners take half a minute to start
    for (item, wave), alignment in zip(pairs, aligner.align(pairs), strict=True):
        if alignment.reject is not None or not alignment.phones:
            continue
        (sequence,) = encode_units(encoder, codebook, [wave])
        if not len(sequence):
            continue
        times = [(phone.text, phone.start, phone.end) for phone in alignment.phones]
        units.append(sequence)
        phones.append(phones_at_frames(times, frames=len(sequence), centre=encoder.centre, hop=encoder.hop))
        speakers.append(item.speaker or "")
    if not any((names != "").any() for names in phones):
        return without
    quality = phone_quality(units, phones, speakers=speakers)
    return {"utterances": len(units), "speakers": len(set(speakers)), "aligner": aligner.identity, **quality}


def ranks(counts: list[int]) -> dict[str, Any]:
    """Shares of units, most used first, as the points of a line on a logarithmic axis, in a box of 600 by 160.

    >>> ranks([7, 0, 0])["line"]
    '0.0,-0.0'
    """
    shares = np.sort(np.array(counts))[::-1] / max(sum(counts), 1)
    shares = shares[shares > 0]
    low = min(-1, math.floor(math.log10(shares[-1]))) if len(shares) else -1  # one unit alone has all: log 0
    points = [
        (600 * rank / max(len(counts) - 1, 1), 160 * math.log10(share) / low)
        for rank, share in enumerate(shares)
    ]
    ticks = [(160 * power / low, f"{100 * 10.0**power:g} %") for power in range(low, 1)]
    return {"line": " ".join(f"{x:.1f},{y:.1f}" for x, y in points), "ticks": ticks}


def card_step(run: Run) -> dict[str, Any]:
    """The card of a build that has its units and words."""
    return write_card(run.build, run.settings, threads=run.engine.workers)


CARD_STEP = Step("card", "Report codebook usage and quality", after=("units", "align"), once=card_step)
