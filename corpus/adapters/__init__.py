"""Adapters: read a data set as its owner laid it out, and yield its utterances in its own order.

What cannot be read is not raised and not left out: it is yielded as a `RejectedRow` with a reason. To add a
data set, write a function of its path and name it in ADAPTERS.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from corpus import files
from corpus.audio import Header, read_header
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance

Row = Utterance | RejectedRow

SHORT_BY = 0.05  # seconds that a file may be shorter than its manifest line says: writers round
LONGEST = 1_000_000_000  # seconds


def read_jsonl(source: str | os.PathLike[str]) -> Iterator[Row]:
    """Read a JSON Lines manifest: one object a line, UTF-8.

    Fields: `id` and `audio` (a path, relative to the manifest's folder), and if known `text`, `speaker`,
    `language` or `lang`, `licence` or `license`, `alignment` (a path), `duration` or `duration_s` (seconds, to
    notice a broken file), and `start` and `end` (seconds) for a stretch of a longer recording. Without `end` a
    stretch lasts `duration`, or to the end of the recording. null is the same as leaving a field out; other fields
    are ignored. A line from which no id can be read is named "<file name>:<line number>".

    Raises:
        ValueError: there is no such file.
    """
    source = files.to_path(source)
    if not source.is_file():
        raise ValueError(
            f"{source}: need a JSON Lines file, there is {'a folder' if source.is_dir() else 'none'}"
        )
    return _jsonl_rows(source)


def read_librispeech(source: str | os.PathLike[str]) -> Iterator[Row]:
    """Read a folder laid out like LibriSpeech: `.../SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac`.

    Transcripts come from `SPEAKER-CHAPTER.trans.txt` beside the audio (a line: id, space, text); an audio file
    without a line has no text. Word times come from `SPEAKER-CHAPTER.alignment.txt` where it exists. Folders, and
    utterances within a folder, come in alphabetic order.

    Source: Panayotov et al. 2015, LibriSpeech, ICASSP.

    Raises:
        ValueError: there is no such folder, or nothing of that layout in it.
    """
    if files.is_url(source):
        raise ValueError(
            f"{source}: the adapter librispeech reads a local folder; write a JSON Lines manifest"
        )
    source = Path(source)
    if not source.is_dir():
        raise ValueError(f"{source}: need a folder, there is {'a file' if source.exists() else 'none'}")
    if not any(_chapters(source)):
        raise ValueError(f"{source}: need *.trans.txt and *.flac files as in LibriSpeech, found none")
    return (row for chapter in _chapters(source) for row in _chapter_rows(chapter))


ADAPTERS: dict[str, Callable[[str | os.PathLike[str]], Iterator[Row]]] = {
    "jsonl": read_jsonl,
    "librispeech": read_librispeech,
}


def _jsonl_rows(source: Path) -> Iterator[Row]:
    header_of = lru_cache(maxsize=16)(read_header)  # neighbouring lines are often stretches of one recording
    folder = str(source.parent) if files.is_url(source) else os.path.abspath(source.parent)
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # byte order mark
            if line.strip():
                yield _jsonl_row(line, f"{source.name}:{number}", folder, header_of)


def _jsonl_row(line: bytes, place: str, folder: str, header_of: Callable[[str], Header]) -> Row:
    known = Utterance(id=place, audio="", frames=0)  # grows as the line is read; a reject keeps what is known
    try:
        fields = _parse(line)
        known = replace(known, id=_required(fields, "id"))
        known = replace(known, audio=_beside_source(folder, _required(fields, "audio")))
        header = header_of(known.audio)
        known = replace(known, sample_rate=header.sample_rate)
        if fields.get("start") is None and fields.get("end") is None:
            known = replace(known, frames=header.frames)
        if header.bytes_missing:
            raise Reject("audio.truncated", f"{header.bytes_missing} bytes of its data chunk are missing")
        start, end = _interval(fields, header)
        first, last = round(start * header.sample_rate), round(end * header.sample_rate)
        known = replace(known, first_frame=first, frames=min(last, header.frames) - first)
        if last > header.frames + SHORT_BY * header.sample_rate:
            raise Reject(
                "audio.truncated", f"need {end:g} s, the file has {header.frames / header.sample_rate:g} s"
            )
        alignment = _string(fields, "alignment")
        return replace(
            known,
            text=_string(fields, "text"),
            speaker=_string(fields, "speaker"),
            language=_string(fields, "language", "lang"),
            licence=_string(fields, "licence", "license"),
            alignment=alignment and _beside_source(folder, alignment),
        )
    except Reject as reject:
        return RejectedRow(known, reject)


def _beside_source(folder: str, name: str) -> str:
    """A path or URL as a manifest line names it, relative to the manifest's folder."""
    if files.is_url(name):
        return name
    if files.is_url(folder) and not os.path.isabs(name):
        scheme, _, path = folder.partition("://")
        return f"{scheme}://{os.path.normpath(os.path.join(path, name))}"
    return os.path.abspath(os.path.join(folder, name))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # RecursionError: a thousand brackets
        raise Reject("manifest.not_json", f"need a JSON object in UTF-8: {error}") from error
    if not isinstance(fields, dict):
        raise Reject("manifest.not_json", f"need a JSON object, got {_shown(fields)}")
    return fields


def _string(fields: dict[str, Any], *names: str) -> str | None:
    """The first of the named fields that is not null."""
    for name in names:
        value = fields.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise Reject("manifest.bad_field", f"{name}: need a string, got {_shown(value)}")
            return value
    return None


def _required(fields: dict[str, Any], name: str) -> str:
    value = _string(fields, name)
    if not value:
        raise Reject("manifest.missing_field", f"{name}: need one on every line")
    return value


def _number(fields: dict[str, Any], *names: str) -> float | None:
    for name in names:
        value = fields.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST:
                raise Reject(
                    "manifest.bad_field", f"{name}: need seconds from 0 to {LONGEST}, got {_shown(value)}"
                )
            return float(value)
    return None


def _interval(fields: dict[str, Any], header: Header) -> tuple[float, float]:
    """Start and end of the utterance in its recording, in seconds; the end may lie beyond the file's."""
    start, end, duration = (
        _number(fields, "start"),
        _number(fields, "end"),
        _number(fields, "duration", "duration_s"),
    )
    seconds = header.frames / header.sample_rate
    if start is None and end is None:
        return 0.0, seconds if duration is None else max(seconds, duration)
    start = start or 0.0
    if end is None:
        end = seconds if duration is None else start + duration
    if not start < end:
        raise Reject("manifest.bad_field", f"start, end: need start < end, got {start:g} and {end:g} s")
    if start >= seconds:
        raise Reject(
            "manifest.bad_field",
            f"start: need less than {seconds:g} s, the recording's length, got {start:g} s",
        )
    return start, end


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _chapters(source: Path) -> Iterator[str]:
    """Folders that hold transcripts or audio, in alphabetic order."""
    for folder, folders, names in os.walk(os.path.abspath(source)):
        folders.sort()
        if any(name.endswith((".trans.txt", ".flac")) for name in names):
            yield folder


def _chapter_rows(folder: str) -> Iterator[Row]:
    names = sorted(os.listdir(folder))
    recorded = {name.removesuffix(".flac") for name in names if name.endswith(".flac")}
    texts: dict[str, str] = {}
    for name in names:
        if name.endswith(".trans.txt"):
            for number, line in enumerate(Path(folder, name).read_bytes().splitlines(), start=1):
                try:
                    id, _, text = line.decode("utf-8").strip().partition(" ")
                except UnicodeDecodeError as error:
                    unknown = Utterance(id=f"{name}:{number}", audio="", frames=0)
                    yield RejectedRow(unknown, Reject("manifest.bad_field", f"need UTF-8: {error}"))
                else:
                    texts.setdefault(id, text.strip())
    for id in sorted(recorded | texts.keys() - {""}):
        known = Utterance(
            id=id,
            audio=os.path.join(folder, f"{id}.flac"),
            frames=0,
            text=texts.get(id),
            speaker=os.path.basename(os.path.dirname(folder)),
            language="en",
            licence="CC-BY-4.0",
            alignment=_beside(folder, names, id),
        )
        try:
            header = read_header(known.audio)
            yield replace(known, frames=header.frames, sample_rate=header.sample_rate)
        except Reject as reject:
            yield RejectedRow(known, reject)


def _beside(folder: str, names: list[str], id: str) -> str | None:
    """The alignment file of an utterance's chapter, if there is one."""
    name = f"{id.rpartition('-')[0]}.alignment.txt"
    return os.path.join(folder, name) if name in names else None
