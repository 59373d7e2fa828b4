"""Codebooks of other layers and numbers of units, compared on the same utterances; none is kept."""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from corpus import files
from pipelines.execution.runner import build_lock, run_stage
from pipelines.layout import FRAMES
from pipelines.settings import replace
from pipelines.steps.audio import sampled_speech
from pipelines.steps.base import Run
from pipelines.steps.codebook import frame_sampling, frame_tasks, gather_frames
from units.quality import describe, entropy

WHOLE_UTTERANCES = 20  # encoded whole, for the runs of a sweep


def sweep(run: Run, *, layers: Sequence[int] = (), clusters: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Fit a codebook for each layer and number of units, all on the same utterances, and keep the numbers alone.

    Args:
        layers: of the encoder; none: the one in the settings.
        clusters: numbers of units; none: that in the settings.

    Returns:
        One row each, as in codebooks/sweep.json: `layer`, `clusters`, `inertia`, `explained` (1 - inertia / variance:
        inertias of different layers do not compare), `used`, `perplexity` and `bitrate` on the sampled frames,
        `bitrate_deduplicated` on whole utterances, `frames`, `cpu_seconds` of k-means.

    Raises:
        ValueError: no such layer, or more clusters than frames.
    """
    from units import kmeans

    build, settings = run.build, run.settings
    wanted = sorted(set(clusters)) or [settings.units.clusters]
    rows: list[dict[str, Any]] = []
    with build_lock(build):
        for layer in list(dict.fromkeys(layers)) or [settings.units.layer]:
            changed = dataclasses.replace(
                run, settings=replace(settings, "units", layer=layer, clusters=wanted[0])
            )
            units = changed.settings.units
            if wanted[-1] > units.fit_frames:
                raise ValueError(
                    f"sweep: {wanted[-1]} clusters need fit_frames >= {wanted[-1]}, got {units.fit_frames}"
                )
            stage, encoder = frame_sampling(changed)
            tasks = frame_tasks(changed, stage)
            run_stage(stage, build, tasks, run.engine)
            limit, seed = units.fit_frames, units.seed
            features = gather_frames(build, tasks, encoder.dimension, limit=limit, seed=seed)
            whole = encoder.encode([wave for _, wave in sampled_speech(build, WHOLE_UTTERANCES)])
            variance = float(features.var(axis=0, dtype=np.float64).sum())
            for count in wanted:
                started = time.process_time()
                book = kmeans.fit(
                    features, clusters=count, seed=seed, encoder=encoder,
                    seeding=units.seeding, restarts=units.restarts,
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
                    run.say("  ".join(f"{name:>{max(8, len(name))}}" for name in rows[0]))
                run.say("  ".join(f"{brief(value):>{max(8, len(name))}}" for name, value in rows[-1].items()))
        files.write(build / "codebooks" / "sweep.json", json.dumps(rows, indent=1).encode())
        files.remove_folder(build / FRAMES)
    return rows


def brief(value: Any) -> str:
    """A number for the table."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
