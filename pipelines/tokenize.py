"""Recordings as a build's tokens, one at a time: for a prompt, and to verify what the units stage wrote."""

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
from pipelines.settings import read_settings
from pipelines.steps.audio import sampled_rows
from pipelines.steps.base import row_utterance
from pipelines.steps.codebook import open_models
from pipelines.steps.prosody import load_pitch, load_style
from shards.stream import merge
from units.deduplicate import deduplicate
from units.encode import encode_units
from units.prosody import style as styles
from units.prosody.f0 import extract
from units.prosody.style_features import pool
from units.verify import HALF_LIMIT

Tokenizer = Callable[[Path], str]


def tokenize_file(build: Path, audio: Path) -> str:
    """Token names of one recording, as a tokenizer of `make_tokenizer` gives them."""
    return make_tokenizer(build)(audio)


def make_tokenizer(build: Path) -> Tokenizer:
    """A function from recordings to token names, deduplicated, with the models of a build: "[Hu3][Hu71]".

    It gives pitch and style where the build's speech has them, as of an unknown speaker: pitch relative to the
    recording's own mean, style to the corpus's.

    Raises:
        ValueError: the build has no codebook; and, when called, a recording cannot be used.
    """
    settings = read_settings(build)
    encoder, codebook = open_models(build, settings)
    pitch = load_pitch(build, settings) if settings.pitch.enabled else None
    style = load_style(build, settings) if settings.style.enabled else None

    def tokenize(audio: Path) -> str:
        try:
            header = probe(audio)
            wave = decode(Utterance(audio.stem, str(audio), header.frames, header.sample_rate))
        except Reject as reject:
            raise ValueError(f"{audio}: {reject.reason}: {reject.detail}") from reject
        (units,) = encode_units(encoder, codebook, [wave])
        if not len(units):
            raise ValueError(f"{audio}: need at least {encoder.minimum} samples at 16 kHz, got {len(wave)}")
        if pitch is None and style is None:
            return "".join(f"[Hu{unit}]" for unit in deduplicate(units)[0])
        f0 = extract(wave, device=settings.units.device)
        style_tokens = None
        if isinstance(style, styles.StyleTokenizer):
            style_tokens = style.assign(pool(wave, f0), None)
        elif style is not None:
            style_tokens = style.encode(wave)
        pitch_tokens = pitch.encode(f0, None) if pitch else None
        rates = {"unit_rate": SAMPLE_RATE / encoder.hop, **({"pitch_rate": pitch.rate} if pitch else {})}
        return "".join(merge(units, pitch_tokens, style_tokens, **rates))

    return tokenize


def tokenize_files(build: Path, recordings: Sequence[Path], workers: int) -> dict[Path, str | ValueError]:
    """The tokens of each recording, or why it has none, by `workers` processes."""
    shares = [share for share in (recordings[start::workers] for start in range(workers)) if share]
    if len(shares) < 2:
        return dict(zip(recordings, _tokenize_worker(build, recordings), strict=True))
    with ProcessPoolExecutor(len(shares), mp_context=multiprocessing.get_context("spawn")) as pool:
        results = pool.map(_tokenize_worker, itertools.repeat(build), shares)
        return {
            path: result
            for share, tokenized in zip(shares, results, strict=True)
            for path, result in zip(share, tokenized, strict=True)
        }


def _tokenize_worker(build: Path, recordings: Sequence[Path]) -> list[str | ValueError]:
    """The tokens of each recording, or why it has none, on one thread."""
    tokenize, results = make_tokenizer(build), list[str | ValueError]()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for path in recordings:
        try:
            results.append(tokenize(path))
        except ValueError as error:
            results.append(error)
    torch.set_num_threads(threads)
    return results


def describe_tokenizer(build: Path) -> dict[str, Any]:
    """The models that a tokenizer of a build uses."""
    settings = read_settings(build)
    encoder, codebook = open_models(build, settings)
    fields: dict[str, Any] = {
        "encoder": encoder.identity,
        "codebook": codebook.hash,
        "unit_hz": encoder.frame_rate,
    }
    if settings.pitch.enabled:
        fields["pitch"] = load_pitch(build, settings).hash
    if settings.style.enabled:
        fields["style"] = load_style(build, settings).hash
    return fields


def check_units(build: Path, count: int) -> dict[str, Any]:
    """As `verify_units`, and refuse a build whose units differ by more than its precision allows.

    Raises:
        ValueError: they do, because recordings, encoder or codebook changed since.
    """
    result = verify_units(build, count)
    exact = read_settings(build).units.dtype == "float32"
    if result["share"] > (0.0 if exact else 100 * HALF_LIMIT):
        differ = (
            f"{result['units_differ']} of {result['units_checked']} units ({result['share']:.2f} %) differ"
        )
        raise ValueError(
            f"{build}: {differ} from a second encoding: a recording, the encoder or the codebook changed; "
            f"run `wordweave build` again"
        )
    return result


def verify_units(build: Path, count: int) -> dict[str, Any]:
    """Encode some utterances again, each alone, and compare with the units table.

    Args:
        count: utterances, those with the lowest hash of their id.

    Returns:
        {"units_checked", "units_differ", "share"}: frames compared, frames that differ, their share in per cent.

    Raises:
        ValueError: a recording has changed or is gone, or the build has no units.
    """
    encoder, codebook = open_models(build, read_settings(build))
    checked = differ = 0
    for name, group in itertools.groupby(sampled_rows(build, count, "units"), key=lambda row: row[0]):
        rows = [row for _, row in group]
        manifest = files.read_table(build / "manifest" / name).take(rows).to_pylist()
        table = files.read_table(build / "units" / name).take(rows).to_pylist()
        for row, stored in zip(manifest, table, strict=True):
            try:
                (units,) = encode_units(encoder, codebook, [decode(row_utterance(row))])
            except Reject as reject:
                raise ValueError(f"{row['audio']}: {reject.reason}: {reject.detail}") from reject
            old = np.array(stored["units"])
            checked += max(len(units), len(old))
            same = min(len(units), len(old))
            differ += max(len(units), len(old)) - int((units[:same] == old[:same]).sum())
    return {"units_checked": checked, "units_differ": differ, "share": 100 * differ / max(checked, 1)}
