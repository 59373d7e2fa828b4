"""The k-means lab around a build: codebooks that others made, and what other layers and numbers of units would give."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from corpus import files
from pipelines.build import (
    Say,
    drawn_speech,
    frame_sampling,
    gather_frames,
    remember,
    save,
)
from pipelines.execution.runner import Engine, alone, run_stage
from pipelines.execution.task import marker_of, sha256, write_atomically
from pipelines.layout import map_tasks
from pipelines.settings import Settings
from pipelines.settings import replace as change
from units.encoders import load_encoder
from units.quality import describe, entropy
from units.quantizers import load_codebook

HELD = 20  # utterances encoded whole, for the runs of a sweep


def import_codebook(build: Path, settings: Settings, source: Path, *, trust_pickle: bool = False) -> Path:
    """Check a codebook of others and copy it to codebooks/units.safetensors, bound to the build's encoder.

    The build's settings then name its number of units. `fit_units` leaves it as it is.

    Raises:
        ValueError: it cannot be read, needs trust, or does not fit the encoder; names the file.
    """
    units = settings.units
    dtype = "float32" if units.dtype == "auto" else units.dtype
    encoder = load_encoder(units.encoder, units.layer_or_last, units.device, dtype)
    codebook = load_codebook(source, encoder=encoder, trust_pickle=trust_pickle)
    origin = {"imported": source.name, "sha256": sha256(source)}
    changed = change(settings, "units", clusters=codebook.clusters, codebook="")
    target = build / "codebooks" / "units.safetensors"
    with alone(build):
        save(replace(codebook, provenance={**codebook.provenance, **origin}), target)
        write_atomically(marker_of(target), json.dumps({"key": "imported", **origin}).encode())
        remember(build, changed)
    return target


def sweep(
    build: Path,
    settings: Settings,
    engine: Engine,
    *,
    layers: Sequence[int] = (),
    clusters: Sequence[int] = (),
    say: Say = lambda line: None,
) -> list[dict[str, Any]]:
    """Fit a codebook for each layer and number of units, all on the same utterances, and keep the numbers alone.

    Args:
        layers: of the encoder; none: the one in the settings.
        clusters: numbers of units; none: that in the settings.

    Returns:
        One row each, as in codebooks/sweep.json: `layer`, `clusters`, `inertia`, `explained` (1 - inertia / variance:
        inertias of different layers do not compare), `used`, `perplexity` and `bitrate` on the drawn frames,
        `bitrate_deduplicated` on whole utterances, `frames`, `cpu_seconds` of k-means.

    Raises:
        ValueError: no such layer, or more clusters than frames.
    """
    from units import kmeans

    wanted = sorted(set(clusters)) or [settings.units.clusters]
    rows: list[dict[str, Any]] = []
    with alone(build):
        for layer in list(dict.fromkeys(layers)) or [settings.units.layer]:
            asked = change(settings, "units", layer=layer, clusters=wanted[0])
            if wanted[-1] > asked.units.fit_frames:
                raise ValueError(
                    f"sweep: {wanted[-1]} clusters need fit_frames >= as many, got {asked.units.fit_frames}"
                )
            stage, encoder = frame_sampling(build, asked)
            tasks = map_tasks(build, stage, "frames")
            run_stage(stage, build, tasks, engine)
            limit, seed = asked.units.fit_frames, asked.units.seed
            features = gather_frames(build, tasks, encoder.dimension, limit=limit, seed=seed)
            whole = encoder.encode([wave for _, wave in drawn_speech(build, HELD)])
            variance = float(features.var(axis=0, dtype=np.float64).sum())
            for count in wanted:
                started = time.process_time()
                book = kmeans.fit(
                    features, clusters=count, seed=seed, encoder=encoder,
                    seeding=asked.units.seeding, restarts=asked.units.restarts,
                )  # fmt: skip
                seconds = time.process_time() - started
                uses = np.bincount(book.assign(features), minlength=count)
                runs = describe(
                    [book.assign(frames) for frames in whole], clusters=count, frame_rate=encoder.frame_rate
                )
                inertia, bits = book.provenance["inertia"], entropy(uses)
                rows.append({
                    "layer": encoder.provenance["layer"], "clusters": count, "inertia": inertia,
                    "explained": 1 - inertia / variance if variance else math.nan, "used": int((uses > 0).sum()),
                    "perplexity": 2**bits, "bitrate": bits * encoder.frame_rate,
                    "bitrate_deduplicated": runs["bitrate_deduplicated"], "frames": len(features),
                    "cpu_seconds": round(seconds, 2),
                })  # fmt: skip
                if len(rows) == 1:
                    say("  ".join(f"{name:>{max(8, len(name))}}" for name in rows[0]))
                say("  ".join(f"{brief(value):>{max(8, len(name))}}" for name, value in rows[-1].items()))
        write_atomically(build / "codebooks" / "sweep.json", json.dumps(rows, indent=1).encode())
        files.remove_folder(build / "frames")
    return rows


def brief(value: Any) -> str:
    """A number for the table."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
