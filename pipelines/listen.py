"""Recordings as a build's units, one at a time: for a prompt, and to check what the units stage wrote."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from corpus.audio import decode, probe
from corpus.records import Reject, Utterance
from pipelines.build import codebook_path, drawn_rows, open_codebook, recall, units_dtype
from pipelines.stage import utterance
from units.deduplicate import deduplicate
from units.encoders import Encoder
from units.kmeans import Codebook
from units.quantizers import LinearQuantizer


def listen(build: Path, audio: Path) -> str:
    """Unit names of a recording, deduplicated, with the encoder and codebook of a build: "[Hu3][Hu71]".

    Raises:
        ValueError: the recording cannot be used, or the build has no codebook.
    """
    try:
        header = probe(audio)
        wave = decode(Utterance(audio.stem, str(audio), header.frames, header.sample_rate))
    except Reject as reject:
        raise ValueError(f"{audio}: {reject.reason}: {reject.detail}") from reject
    encoder, codebook = models(build)
    (features,) = encoder.encode([wave])
    if not len(features):
        raise ValueError(f"{audio}: need at least {encoder.minimum} samples at 16 kHz, got {len(wave)}")
    kept, _ = deduplicate(codebook.assign(features))
    return "".join(f"[Hu{unit}]" for unit in kept)


def models(build: Path) -> tuple[Encoder, Codebook | LinearQuantizer]:
    """The encoder and codebook a build's units are made with."""
    settings = recall(build)
    return open_codebook(codebook_path(build, settings), settings, units_dtype(build, settings))


def verify_units(build: Path, count: int) -> dict[str, Any]:
    """Encode some utterances again, each alone, and compare with the units table.

    Args:
        count: utterances, those with the lowest hash of their id.

    Returns:
        {"units_checked", "units_differ", "share"}: frames compared, frames that differ, their share in per cent.

    Raises:
        ValueError: a recording has changed or is gone, or the build has no units.
    """
    chosen = drawn_rows(build, count, "units")
    encoder, codebook = models(build)
    checked = differ = 0
    for name, places in itertools.groupby(chosen, key=lambda place: place[0]):
        rows = [row for _, row in places]
        manifest = pq.read_table(build / "manifest" / name).take(rows).to_pylist()
        table = pq.read_table(build / "units" / name).take(rows).to_pylist()
        for row, stored in zip(manifest, table, strict=True):
            try:
                (features,) = encoder.encode([decode(utterance(row))])
            except Reject as reject:
                raise ValueError(f"{row['audio']}: {reject.reason}: {reject.detail}") from reject
            units, old = codebook.assign(features), np.array(stored["units"])
            checked += max(len(units), len(old))
            same = min(len(units), len(old))
            differ += max(len(units), len(old)) - int((units[:same] == old[:same]).sum())
    return {"units_checked": checked, "units_differ": differ, "share": 100 * differ / max(checked, 1)}
