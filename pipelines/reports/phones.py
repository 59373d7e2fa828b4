"""Phones of the speech in a manifest: aligned with its transcripts, or with the words of a recogniser."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from corpus import files
from corpus.adapters import ADAPTERS
from corpus.audio import decode
from corpus.manifest import RejectedRow
from corpus.records import SAMPLE_RATE, Reject, Utterance
from pipelines.layout import part_names
from pipelines.reports.encoder_comparison import LabelledUtterance
from pipelines.steps.base import row_utterance
from units.pretraining.targets import read_phones

Decoded = tuple[Utterance, np.ndarray]


def read_speech(source: Path, rejects: dict[str, int]) -> Iterator[Decoded]:
    """Utterances and waveforms of a manifest file or a build; `rejects` counts the others by reason."""
    for row in rows_of(source):
        if isinstance(row, RejectedRow):
            rejects[row.reject.reason] = rejects.get(row.reject.reason, 0) + 1
            continue
        try:
            yield row, decode(row)
        except Reject as reject:
            rejects[reject.reason] = rejects.get(reject.reason, 0) + 1


def rows_of(source: Path) -> Iterator[Utterance | RejectedRow]:
    """Rows of a JSONL manifest, or of the manifest table of a build (without what it rejected)."""
    if not source.is_dir():
        yield from ADAPTERS["jsonl"](source)
        return
    for name in part_names(source):
        for row in files.read_table(source / "manifest" / name).to_pylist():
            if row["reject"] is None:
                yield row_utterance(row)


def find_phones(
    speech: Iterable[Decoded],
    *,
    backend: str = "pocketsphinx",
    options: dict[str, Any] | None = None,
    transcribe: bool = False,
    rejects: dict[str, int],
) -> Iterator[tuple[Utterance, np.ndarray, list[tuple[str, float, float]]]]:
    """Each utterance with its phones (name, start, end in seconds); `rejects` counts those without, by reason.

    Args:
        transcribe: where there is no transcript, take the words that pocketsphinx recognises.
    """
    from aligners import load_aligner

    options = {"phones": True} if options is None and backend == "pocketsphinx" else options or {}
    aligner = load_aligner(backend, **options)
    for item, wave in speech:
        if transcribe and not item.text:
            from aligners import transcribe as recogniser

            item = dataclasses.replace(item, text=recogniser.transcribe(wave))
        (alignment,) = aligner.align([(item, wave)])
        if alignment.reject is None and alignment.phones:
            yield item, wave, [(phone.text, phone.start, phone.end) for phone in alignment.phones]
            continue
        reason = alignment.reject.reason if alignment.reject else f"{backend} gives no phones"
        rejects[reason] = rejects.get(reason, 0) + 1


def write_phones(
    sources: list[Path],
    target: Path,
    *,
    transcribe: bool,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write a line {"id", "speaker", "phones"} per utterance that has phones, for `fit encoder` and `compare`."""
    lines: list[str] = []
    rejects: dict[str, int] = {}
    for source in sources:
        for item, _, phones in find_phones(
            read_speech(source, rejects), transcribe=transcribe, rejects=rejects
        ):
            lines.append(json.dumps({"id": item.id, "speaker": item.speaker, "phones": phones}))
            if len(lines) % 20 == 0:
                progress(f"phones: {len(lines)} utterances")
    if not lines:
        raise ValueError(
            f"{', '.join(map(str, sources))}: need at least one utterance with phones, got none: {rejects}"
        )
    files.write(target, "".join(f"{line}\n" for line in lines).encode())
    return {"phones": str(target), "utterances": len(lines), "rejects": rejects}


def speech_with_phones(
    sources: Iterable[Path],
    phones_file: Path | None,
    backend: str,
    speakers: set[str],
    seconds: float | None,
    rejects: dict[str, int],
) -> list[LabelledUtterance]:
    """Utterances to score: of these speakers (none named: of all), at most `seconds` of each.

    Raises:
        ValueError: there is not one with phones, or a speaker is missing.
    """
    known = None if phones_file is None else read_phones(phones_file)
    spent: dict[str, float] = {}
    present: set[str] = set()

    def wanted() -> Iterator[Decoded]:
        for source in sources:
            for item, wave in read_speech(source, rejects):
                speaker, length = item.speaker or "", len(wave) / SAMPLE_RATE
                present.add(speaker)
                if speakers and speaker not in speakers:
                    continue
                if seconds is not None and spent.get(speaker, 0.0) + length > seconds:
                    continue
                if known is not None and item.id not in known:
                    rejects["no phones in the file"] = rejects.get("no phones in the file", 0) + 1
                    continue
                spent[speaker] = spent.get(speaker, 0.0) + length
                yield item, wave

    if known is not None:
        utterances = [
            LabelledUtterance(wave, known[item.id], item.speaker or "", item.text or "")
            for item, wave in wanted()
        ]
    else:
        aligned = find_phones(wanted(), backend=backend, rejects=rejects)
        utterances = [
            LabelledUtterance(wave, phones, item.speaker or "", item.text or "")
            for item, wave, phones in aligned
        ]
    if missing := sorted(speakers - present):
        some = f"{len(present)} speakers, among them {sorted(present)[:5]}"
        raise ValueError(f"compare: need speech of every speaker named, got none of {missing}; it has {some}")
    if not utterances:
        raise ValueError(f"compare: need at least one utterance with phones, got none: {rejects}")
    return utterances


def waveforms_of(sources: Iterable[Path], rejects: dict[str, int]) -> list[np.ndarray]:
    """Waveforms of manifests or builds."""
    waves = [wave for source in sources for _, wave in read_speech(source, rejects)]
    if not waves:
        raise ValueError(f"{', '.join(map(str, sources))}: need a recording to fit on, got none: {rejects}")
    return waves
