"""A build's utterances as a corpus for the Montreal Forced Aligner and programs that read the same folders."""

from pathlib import Path
from typing import Any

from aligners.alignment import AlignerInput, prepare_safely
from aligners.mfa import write_corpus
from corpus import files
from pipelines.layout import part_names
from pipelines.steps.audio import decode_batch
from pipelines.steps.base import batches


def export_mfa_corpus(build: Path, folder: Path) -> dict[str, Any]:
    """Write WAV and .lab files, one folder per speaker.

    Args:
        build: a local build or a URL.
        folder: a new or empty local folder.

    Returns:
        The folder, and how many utterances were written and left out (rejected, unreadable or without a transcript).

    Raises:
        ValueError: the folder is not empty or not local.
    """
    if files.is_url(folder):
        raise ValueError(f"{folder}: MFA reads local folders only; name a local one")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    speakers: dict[str | None, Path] = {}
    written = left_out = 0
    for name in part_names(build):
        items, others = utterances_of(build, name)
        write_corpus(items, folder, speakers, written)
        written, left_out = written + len(items), left_out + others
    return {"folder": str(folder), "utterances": written, "left_out": left_out}


def utterances_of(build: Path, part: str) -> tuple[list[AlignerInput], int]:
    """What an aligner can take of one part of the manifest, and how many of its rows it cannot."""
    items: list[AlignerInput] = []
    left_out = 0
    for batch in batches(files.read_table(build / "manifest" / part)):
        for utterance, waveform, _ in decode_batch(batch):
            item = None if utterance is None or waveform is None else prepare_safely(utterance, waveform)
            if isinstance(item, AlignerInput):
                items.append(item)
            else:
                left_out += 1
    return items, left_out
