"""Audio to features: what an encoder is, and how to get one by name."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

BUNDLED = {name: Path(__file__).parent / "data" / name for name in ("compact", "compact-1")}
"""Encoders inside the package: name -> folder of weights and codebooks; `compact-1` is what `compact` was before."""

MFCC_RATES = {"mfcc": 25, "mfcc-25hz": 25, "mfcc-50hz": 50, "mfcc-100hz": 100}


class Encoder(Protocol):
    """Turns waveforms into feature frames; k-means turns those into units.

    Frame k is centred on sample `centre + k * hop`; a waveform of T samples gives (T - minimum) // hop + 1 frames, or
    none if T < minimum. (Long recordings under `chunking="reference"` give fewer, see `load_encoder`.)
    """

    frame_rate: float
    """Hz."""
    hop: int
    """Samples from one frame to the next."""
    centre: int
    """Sample in the middle of frame 0."""
    minimum: int
    """Fewest samples that give a frame."""
    dimension: int
    """D, numbers per frame."""
    identity: str
    """SHA-256 of everything that the features depend on: weights and settings."""
    provenance: dict[str, Any]
    """The settings behind `identity`, in JSON types."""

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(T,) float32 at 16 kHz each -> (F, D) float32 each, in order; a result does not depend on its neighbours."""
        ...


def load_encoder(
    name_or_path: str | Path,
    layer: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    *,
    normalize: bool | None = None,
    **settings: Any,
) -> Encoder:
    """An encoder by name.

    Args:
        name_or_path: "compact" (25 Hz), inside this package as is its predecessor "compact-1"; "mfcc" (25 Hz),
            "mfcc-50hz" or "mfcc-100hz", which need no weights; or another HuBERT, wav2vec2 or Whisper: a directory in
            Hugging Face format or a name on the hub; a HuBERT as a fairseq checkpoint `*.pt`, or
            "torchaudio:HUBERT_BASE".
        layer: take `hidden_states[layer]` of transformers (0: before the first block; default: the last).
            Blocks above it are neither loaded nor computed.
        device: "cpu", "cuda", "cuda:1", ...
        dtype: "float32", or "bfloat16" or "float16" for the large matrix products; features are float32 always.
        normalize: of a HuBERT, bring each waveform to mean 0 and variance 1 first; default: as the checkpoint says.
            (Some say so that were trained without; with a group norm in front it changes next to nothing.)
        **settings: of a HuBERT: `chunking`, what to do with recordings longer than 100 s: "overlap" (windows of
            `window_seconds`, with `context_seconds` at both ends thrown away; frame k stays at centre + k * hop),
            "reference" (Spirit LM's tokenizer: chunks of 1,600,000 samples on their own, a last one under 1280 samples
            dropped, so that frames fall behind by part of a hop per chunk) or "none" (as long as memory lasts).
            `batch_seconds`: audio that goes through the network at once.
            Of a Whisper: `window_seconds` (30 at most) and `context_seconds`.

    Raises:
        ValueError: no such encoder, a checkpoint that is broken or not a HuBERT, no such layer.

    >>> encoder = load_encoder("mfcc")
    >>> encoder.frame_rate, encoder.hop, encoder.centre, encoder.minimum, encoder.dimension
    (25.0, 640, 360, 720, 39)
    """
    name = str(name_or_path)
    if layer is not None and not isinstance(layer, int | np.integer):
        raise ValueError(f"encoder.layer: need an integer, got {layer!r}")
    if name in MFCC_RATES:
        if layer is not None or device != "cpu" or dtype != "float32" or normalize is not None or settings:
            raise ValueError(f"encoder {name}: has no layer, device, dtype or other settings; leave them out")
        from units.mfcc import MfccEncoder

        return MfccEncoder(MFCC_RATES[name])
    from units.hubert.checkpoints import NORMALIZE_EPSILON, find_folder, read_hubert
    from units.hubert.encoder import HubertEncoder
    from units.whisper import WHISPER_OPTIONS, WhisperEncoder, is_whisper, read_whisper

    layer = None if layer is None else int(layer)
    source = BUNDLED.get(name, name_or_path)
    if not name.startswith("torchaudio:") and Path(source).suffix != ".pt":
        source = find_folder(str(source))
        if is_whisper(source):
            if normalize is not None or settings.keys() - WHISPER_OPTIONS:
                raise ValueError(f"encoder {name}: a Whisper has no normalize or chunking; leave them out")
            return WhisperEncoder(
                *read_whisper(source, layer), layer=layer, device=device, dtype=dtype, **settings
            )
    checkpoint, weights = read_hubert(source, layer)
    if normalize is not None:
        checkpoint = replace(
            checkpoint, normalize=(checkpoint.normalize or NORMALIZE_EPSILON) if normalize else None
        )
    return HubertEncoder(checkpoint, weights, layer=layer, device=device, dtype=dtype, **settings)


def bundled_codebook(layer: int | None = None, encoder: str = "compact") -> Path:
    """The codebook of a bundled encoder, of its last layer or of another one; it may not exist.

    >>> [bundled_codebook(layer, "compact-1").exists() for layer in (None, 3, 2)]
    [True, True, False]
    >>> bundled_codebook(3) == bundled_codebook()  # `compact` has three layers
    True
    """
    config = json.loads((BUNDLED[encoder] / "config.json").read_text())
    last = config.get("num_hidden_layers", config.get("layers"))
    return BUNDLED[encoder] / codebook_name(None if layer == last else layer)


def codebook_name(layer: int | None) -> str:
    """The file of a codebook beside its encoder.

    >>> codebook_name(None), codebook_name(3)
    ('codebook.safetensors', 'codebook-3.safetensors')
    """
    return "codebook.safetensors" if layer is None else f"codebook-{layer}.safetensors"
