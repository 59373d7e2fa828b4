"""Train a vocoder on manifests or builds, for the units of an encoder and a codebook."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corpus import files
from pipelines.reports.phones import read_speech
from units.encode import encode_units
from units.encoders import BUNDLED, bundled_codebook, load_encoder
from units.kmeans import Codebook
from units.pretraining.train import Recording
from units.prosody import pitch as pitches
from units.prosody import style as styles
from units.quantizers import load_codebook
from units.vocoder.data import Tokenizers
from units.vocoder.train import VocoderSettings, fit, is_named


def fit_vocoder(
    sources: Sequence[Path],
    settings: VocoderSettings,
    output: Path,
    *,
    encoder: str = "compact",
    layer: int | None = None,
    codebook: Path | None = None,
    pitch: Path | None = None,
    style: Path | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda line: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Read the recordings, train, and write the vocoder and its card to `output`.

    Args:
        sources: JSONL manifests or builds.
        encoder, layer, codebook: of the units; default codebook: the one bundled with the encoder.
        pitch, style: tokenizers; default: the bundled ones.

    Raises:
        ValueError: there is no codebook, nothing to learn from, or a setting that does not fit.
    """
    if codebook is None and encoder not in BUNDLED:
        raise ValueError(f"encoder {encoder}: need its codebook, named with --codebook")
    network = load_encoder(encoder, layer, device=settings.device)
    book = load_codebook(codebook or bundled_codebook(layer, encoder))
    if not isinstance(book, Codebook):
        raise ValueError(
            f"{codebook}: need a codebook of centroids to train a vocoder, got another quantizer"
        )
    book.check(network)
    pitch_tokens, style_tokens = pitches.load(pitch), styles.load(style)
    if not isinstance(style_tokens, styles.StyleTokenizer):
        raise ValueError(f"{style}: need a style codebook to train a vocoder, got a classifier")
    rejects: dict[str, int] = {}
    details: list[dict[str, Any]] = []
    recordings = []
    for source in sources:
        for item, wave in read_speech(source, rejects):
            recording = Recording(item.id, item.speaker or "", wave)
            if not is_named(recording, settings.leave_out):
                recordings.append(recording)
                details.append(
                    {"speaker": recording.speaker, "seconds": len(wave) / 16_000, "licence": item.licence}
                )
    if rejects:
        say(
            f"fit vocoder: left out: {', '.join(f'{count} {reason}' for reason, count in sorted(rejects.items()))}"
        )
    if not recordings:
        raise ValueError(f"{sources[0]}: need at least one recording to learn from, got none")
    tokenizers = Tokenizers(
        lambda wave: encode_units(network, book, [wave])[0], network.hop, pitch_tokens, style_tokens
    )
    identity = {
        "encoder": network.identity, "codebook": book.hash, "pitch": pitch_tokens.hash, "style": style_tokens.hash
    }  # fmt: skip
    summary = fit(
        recordings, tokenizers, book.centroids, settings, output, encoder=network, identity=identity,
        resume=resume, stop_after=stop_after, progress=progress,
    )  # fmt: skip
    files.write(output / "README.md", card(summary, encoder, details).encode())
    return {
        "vocoder": str(output), "recordings": len(recordings), "rejects": rejects,
        "steps": summary["steps"], "seconds": summary["seconds"],
    }  # fmt: skip


def card(summary: dict[str, Any], encoder: str, details: Sequence[dict[str, Any]]) -> str:
    """What a vocoder was made from, for readers."""
    licences: dict[str, list[float]] = {}
    for one in details:
        licences.setdefault(one["licence"] or "not stated", []).append(one["seconds"])
    rows = "\n".join(
        f"| {name} | {len(seconds)} | {sum(seconds) / 60:.1f} |" for name, seconds in sorted(licences.items())
    )
    losses = {name: round(value, 4) for name, value in summary["last"].items() if isinstance(value, float)}
    return f"""# A vocoder for the units of `{encoder}`

Trained by `wordweave fit vocoder`: {summary["steps"]} steps, {summary["seconds"] / 60:.0f} minutes,
{len(details)} recordings of {len({one["speaker"] for one in details})} speakers. Settings, and hashes of data, encoder,
codebook, pitch and style tokens: `training.json`; the curve: `log.jsonl`. Measure it with
`python -m benchmarks.vocoder`.

| licence of the recordings | recordings | minutes |
|---|---|---|
{rows}

Last losses: `{json.dumps(losses, sort_keys=True)}`
"""
