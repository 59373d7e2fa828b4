"""One recording as a build's speech tokens: what the units stage does, for a prompt."""

from pathlib import Path

from corpus.audio import decode, probe
from corpus.records import Reject, Utterance
from pipelines.build import codebook_path, recall
from units import kmeans
from units.deduplicate import deduplicate
from units.encoders import load_encoder


def listen(build: Path, audio: Path) -> str:
    """Unit names of a recording, deduplicated, with the encoder and codebook of a build: "[Hu3][Hu71]".

    Raises:
        ValueError: the recording cannot be used, or the build has no codebook.
    """
    settings = recall(build)
    units = settings.units
    try:
        header = probe(audio)
        wave = decode(Utterance(audio.stem, str(audio), header.frames, header.sample_rate))
    except Reject as reject:
        raise ValueError(f"{audio}: {reject.reason}: {reject.detail}") from reject
    encoder = load_encoder(units.encoder, layer=units.layer_or_last, device=units.device, dtype=units.dtype)
    codebook = kmeans.load(codebook_path(build, settings))
    codebook.check(encoder)
    (features,) = encoder.encode([wave])
    if not len(features):
        raise ValueError(f"{audio}: need at least {encoder.minimum} samples at 16 kHz, got {len(wave)}")
    kept, _ = deduplicate(codebook.assign(features))
    return "".join(f"[Hu{unit}]" for unit in kept)
