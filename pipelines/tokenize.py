"""Recordings as a build's units, one at a time: for a prompt, and to check what the units stage wrote."""

import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corpus import files
from corpus.audio import decode, probe
from corpus.records import SAMPLE_RATE, Reject, Utterance
from pipelines.build import codebook_path, drawn_rows, open_codebook, recall, units_dtype
from pipelines.execution.task import utterance
from pipelines.steps.prosody import model_path
from shards.stream import merge
from units.deduplicate import deduplicate
from units.encoders import Encoder
from units.kmeans import Codebook
from units.prosody import pitch as pitches
from units.prosody import style as styles
from units.prosody.f0 import extract
from units.quantizers import LinearQuantizer


def listen(build: Path, audio: Path) -> str:
    """Token names of one recording, as `listener` gives them."""
    return listener(build)(audio)


def listener(build: Path) -> Callable[[Path], str]:
    """What turns recordings into token names, deduplicated, with the models of a build: "[Hu3][Hu71]".

    Pitch and style are in it where the build's speech has them, measured as of an unknown speaker: pitch from the
    recording's own mean, style from its corpus's.

    Raises:
        ValueError: the build has no codebook; and, when called, a recording cannot be used.
    """
    settings = recall(build)
    encoder, codebook = models(build)
    pitch = style = None
    if settings.pitch.use:
        pitch = pitches.load(model_path(build, settings.pitch.model, "pitch"))
    if settings.style.use:
        style = styles.load(model_path(build, settings.style.codebook, "style"))

    def hear(audio: Path) -> str:
        try:
            header = probe(audio)
            wave = decode(Utterance(audio.stem, str(audio), header.frames, header.sample_rate))
        except Reject as reject:
            raise ValueError(f"{audio}: {reject.reason}: {reject.detail}") from reject
        (features,) = encoder.encode([wave])
        if not len(features):
            raise ValueError(f"{audio}: need at least {encoder.minimum} samples at 16 kHz, got {len(wave)}")
        units = codebook.assign(features)
        if pitch is None and style is None:
            return "".join(f"[Hu{unit}]" for unit in deduplicate(units)[0])
        f0 = extract(wave, device=settings.units.device)
        said = None
        if isinstance(style, styles.StyleTokenizer):
            said = style.assign(styles.pool(wave, f0), None)
        elif style is not None:
            said = style.encode(wave)
        rate = SAMPLE_RATE / encoder.hop
        return "".join(merge(units, pitch.encode(f0, None) if pitch else None, said, unit_rate=rate))

    return hear


def listen_all(build: Path, recordings: Sequence[Path], workers: int) -> dict[Path, str | ValueError]:
    """What a `listener` of a build makes of each recording, or why it cannot, by so many processes."""
    shares = [share for share in (recordings[start::workers] for start in range(workers)) if share]
    if len(shares) < 2:
        return dict(zip(recordings, listen_each(build, recordings), strict=True))
    with ProcessPoolExecutor(len(shares), mp_context=multiprocessing.get_context("spawn")) as pool:
        said = pool.map(listen_each, itertools.repeat(build), shares)
        return {
            path: one
            for share, found in zip(shares, said, strict=True)
            for path, one in zip(share, found, strict=True)
        }


def listen_each(build: Path, recordings: Sequence[Path]) -> list[str | ValueError]:
    """What a `listener` makes of each recording, or why it cannot, on one thread."""
    listen, said = listener(build), list[str | ValueError]()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for path in recordings:
        try:
            said.append(listen(path))
        except ValueError as error:
            said.append(error)
    torch.set_num_threads(threads)
    return said


def described(build: Path) -> dict[str, Any]:
    """Which models a `listener` of a build hears with."""
    settings = recall(build)
    encoder, codebook = models(build)
    found: dict[str, Any] = {
        "encoder": encoder.identity,
        "codebook": codebook.hash,
        "unit_hz": encoder.frame_rate,
    }
    if settings.pitch.use:
        found["pitch"] = pitches.load(model_path(build, settings.pitch.model, "pitch")).hash
    if settings.style.use:
        found["style"] = styles.load(model_path(build, settings.style.codebook, "style")).hash
    return found


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
        manifest = files.read_table(build / "manifest" / name).take(rows).to_pylist()
        table = files.read_table(build / "units" / name).take(rows).to_pylist()
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
