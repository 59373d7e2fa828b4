"""Kaldi data directories: `wav.scp`, and where they exist `segments`, `text` and `utt2spk`."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from corpus import files
from corpus.adapters.base import Intake, Row, Source, measured
from corpus.adapters.folder import local_folder
from corpus.audio import Header, read_header
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance


def read_kaldi(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read a Kaldi data directory in the order of `segments`, or else of `wav.scp`.

    A recording that is the output of a command (`sph2pipe ... |`) is rejected by name: wordweave runs no commands from
    data. A path is relative to the folder from which Kaldi's scripts run; where it is not there, to the directory.

    Raises:
        ValueError: there is no such folder, or no wav.scp in it.
    """
    root = local_folder(source)
    if not os.path.isfile(os.path.join(root, "wav.scp")):
        raise ValueError(f"{source}: need a folder with wav.scp, found none")
    return _rows(root, intake)


def _rows(root: str, intake: Intake) -> Iterator[Row]:
    header_of = lru_cache(maxsize=16)(read_header)
    recordings, texts, speakers = (_map(root, name) for name in ("wav.scp", "text", "utt2spk"))
    segments = _map(root, "segments")
    for id, value in (segments or {id: id for id in recordings}).items():
        known = Utterance(id=id, audio="", frames=0, text=texts.get(id), speaker=speakers.get(id))
        yield from _row(known, value, bool(segments), recordings, root, intake, header_of)
    for id in texts.keys() - (segments or recordings).keys():
        lost = Utterance(id=id, audio="", frames=0, text=texts[id])
        yield RejectedRow(lost, Reject("audio.missing", f"{root}/text: {id}: no such segment or recording"))


def _row(
    known: Utterance,
    value: str,
    is_segment: bool,
    recordings: dict[str, str],
    root: str,
    intake: Intake,
    header_of: Callable[[str], Header],
) -> Iterator[Row]:
    start = end = None
    try:
        recording = value
        if is_segment:
            recording, start, end = _segment(value)
        if recording not in recordings:
            raise Reject("audio.missing", f"{root}/segments: {recording}: not in wav.scp")
        path = recordings[recording]
        if path.endswith("|"):
            raise Reject(
                "audio.unreadable", f"{root}/wav.scp: {recording} is a command, and none is run: {path[:200]}"
            )
    except Reject as reject:
        yield RejectedRow(known, reject)
        return
    if not files.is_url(path) and not os.path.isabs(path):
        inside = os.path.join(root, path)
        path = os.path.abspath(inside if os.path.exists(inside) and not os.path.exists(path) else path)
    yield from measured(replace(known, audio=path), intake, start=start, end=end, header_of=header_of)


def _segment(value: str) -> tuple[str, float, float | None]:
    parts = value.split()
    try:
        if len(parts) not in (3, 4):  # a fourth is the channel of old data sets
            raise ValueError
        start, end = float(parts[1]), float(parts[2])
    except ValueError as error:
        raise Reject(
            "manifest.bad_field", f"segments: need recording, start and end, got {value!r}"
        ) from error
    return parts[0], start, None if end == -1 else end


def _map(root: str, name: str) -> dict[str, str]:
    """A file of lines `key value`; empty where there is none."""
    path = Path(root, name)
    if not path.is_file():
        return {}
    lines = (
        line.split(maxsplit=1) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()
    )
    return {parts[0]: parts[1].strip() if len(parts) > 1 else "" for parts in lines}
