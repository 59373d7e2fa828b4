"""Manifests in JSON: one object per line, or an array of objects."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from corpus import files
from corpus.adapters.base import Declared, Intake, Row, Source, measured, shown, text_of
from corpus.audio import NO_LENGTH, Header, check_rate, read_header
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance
from corpus.text_files import open_text

LONGEST = 1_000_000_000  # seconds
LONGEST_LINE = 16 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one kind of manifest; of several names the first that is not null counts."""

    audio: tuple[str, ...] = ("audio",)
    id: tuple[str, ...] = ("id",)
    text: tuple[str, ...] = ("text",)
    channel: tuple[str, ...] = ("channel",)
    id_required: bool = (
        True  # else it is made of the audio's name and, of a stretch, its start in milliseconds
    )
    locate: Callable[[str, str, dict[str, Any]], str] | None = (
        None  # (folder of the manifest, audio, fields) -> its path; None: relative to the folder
    )

    def is_known(self, name: str) -> bool:
        """Whether a field of this name is read."""
        return any(name in names for names in (self.audio, self.id, self.text, self.channel, COMMON))


COMMON = (
    *("speaker", "language", "lang", "licence", "license", "alignment"),
    *("source", "source_url", "url", "split", "subset"),
    *("start", "end", "offset", "duration", "duration_s"),
)
"""Fields that every kind of manifest may have."""

MEANINGFUL = re.compile(
    r"(seg(ment)?|utt(erance)?|audio|clip|speech|t|ts)?"
    r"(start|begin|end|stop|onset|offset|from|to|dur(ation)?|channel|chan|timestamps?|interval|segments?)"
    r"(time|stamp|sec(ond)?s?|s|ms|msec|samples?|frames?|pos(ition)?|at|id|idx|index|selector)?"
)
"""Names, in lower case and without '_', '-' and '.', of fields about time or channel: none may be ignored."""

TEXTS = re.compile(
    r"(raw|norm(alized)?|clean)?(text|transcript(ion)?|sentence|utterance|words|caption|subtitle)s?"
)
"""Names of fields that probably hold the transcript, where there is no other."""


def read_jsonl(source: Source, intake: Intake = Intake(), fields: Fields = Fields()) -> Iterator[Row]:  # noqa: B008
    """Read a manifest: one JSON object per line, or an array of objects, compressed or not, in UTF-8 or UTF-16.

    Fields: `id` and `audio` (a path, relative to the manifest's folder), and if known `text`, `speaker`,
    `language` or `lang`, `licence` or `license`, `source` (or `source_url` or `url`: name or address of the corpus),
    `split` or `subset` (of that corpus), `alignment` (a path), `channel` (from 0 on), `duration` or
    `duration_s` (seconds, to notice a broken file), and `start` or `offset`, and `end` (seconds) for a stretch of a
    longer recording. Without `end` a stretch lasts `duration`, or to the end of the recording. null is the same as
    leaving a field out. Other fields are ignored, unless their names are about time, channel or transcript: the line
    is rejected then. A line from which no id can be read is named "<file name>:<line number>".

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    source = files.to_path(source)
    if not source.is_file():
        raise ValueError(
            f"{source}: need a JSON Lines file, there is {'a folder' if source.is_dir() else 'none'}"
        )
    return _rows(source, intake, fields)


def _rows(source: Path, intake: Intake, names: Fields) -> Iterator[Row]:
    header_of = lru_cache(maxsize=16)(read_header)  # neighbouring lines are often stretches of one recording
    folder = str(source.parent) if files.is_url(source) else os.path.abspath(source.parent)
    with open_text(source) as file:
        for number, line in file.json_values(LONGEST_LINE):
            yield from _row(line, f"{source.name}:{number}", folder, intake, names, header_of)


def _row(
    line: bytes | None,
    location: str,
    folder: str,
    intake: Intake,
    names: Fields,
    header_of: Callable[[str], Header],
) -> Iterator[Row]:
    # Grows as the line is read: a reject keeps what is known.
    known = Utterance(id=location, audio="", frames=0)
    try:
        fields = _parse(line)
        known = Utterance(id=id_of(fields, names), audio="", frames=0)
        audio = required(fields, names.audio)
        known = Utterance(known.id, (names.locate or _relative)(folder, audio, fields), 0)
    except Reject as reject:
        yield RejectedRow(known, reject)
        return
    fault: Reject | None = None
    declared: Declared | None = None
    # a stretch whose times cannot be read has no known length; the file's would be that of another utterance
    times: dict[str, float | None] = {"start": 0.0} if fields.keys() & {"start", "end", "offset"} else {}
    try:
        times = _times(fields)
        check_names(fields, names)
        alignment = text_of(fields, "alignment")
        known = replace(
            known,
            text=text_of(fields, *names.text),
            speaker=text_of(fields, "speaker"),
            language=text_of(fields, "language", "lang"),
            licence=text_of(fields, "licence", "license"),
            **origin_of(fields),
            alignment=alignment and beside(folder, alignment),
            channel=_channel(fields, names.channel),
        )
        declared = declared_in(fields) if intake.probe == "declared" else None
    except Reject as reject:
        fault = reject
    yield from measured(
        known, intake, start=times.get("start"), end=times.get("end"), duration=times.get("duration"),
        reject=fault, declared=declared, header_of=header_of,
    )  # fmt: skip


FRAMES, RATE, CHANNELS = (
    ("frames", "num_samples"),
    ("sample_rate", "sampling_rate"),
    ("channels", "num_channels"),
)
"""Names of what a line may declare of its recording."""


def declared_in(fields: dict[str, Any]) -> Declared | None:
    """Frames, sample rate and channels of the recording, where a line declares the first two.

    Raises:
        Reject: manifest.bad_field, where one is no whole number above 0, or the rate none of speech.

    >>> declared_in({"num_samples": 32000, "sampling_rate": "16000"}), declared_in({"frames": 3})
    (Declared(frames=32000, sample_rate=16000, channels=None), None)
    """
    found: list[int | None] = []
    for names in (FRAMES, RATE, CHANNELS):
        name = next((name for name in names if fields.get(name) is not None), None)
        value = None if name is None else fields[name]
        value = int(value) if isinstance(value, str) and value.isdecimal() else value
        if value is not None and (type(value) is not int or not 0 < value < NO_LENGTH):
            raise Reject("manifest.bad_field", f"{name}: need a whole number above 0, got {shown(value)}")
        found.append(value)
    frames, rate, channels = found
    if frames is None or rate is None:
        return None
    check_rate("sample_rate", rate)
    return Declared(frames, rate, channels)


def _relative(folder: str, name: str, fields: dict[str, Any]) -> str:
    return beside(folder, name)


def beside(folder: str, name: str) -> str:
    """A path or URL as a manifest names it, relative to the manifest's folder."""
    if files.is_url(name):
        return name
    if files.is_url(folder) and not os.path.isabs(name):
        scheme, _, path = folder.partition("://")
        return f"{scheme}://{os.path.normpath(os.path.join(path, name))}"
    return os.path.abspath(os.path.join(folder, name))


NAMES = {
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_text"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "lang", "locale"),
    "licence": ("licence", "license"),
}
"""Field of an utterance -> names that data sets give it."""


def text_of_fields(fields: dict[str, Any]) -> dict[str, str | None]:
    """Text, speaker, language and licence under any of their names; a speaker may be a number.

    Raises:
        Reject: manifest.bad_field, where one is no string.

    >>> text_of_fields({"sentence": "hi", "speaker_id": 7})
    {'text': 'hi', 'speaker': '7', 'language': None, 'licence': None, 'source': None, 'source_split': None}
    """
    plain = {name: str(value) if type(value) is int else value for name, value in fields.items()}
    return {field: text_of(plain, *names) for field, names in NAMES.items()} | origin_of(fields)


def origin_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Where an utterance comes from, and in which split it was there; what is no string is something else.

    >>> origin_of({"source_url": "https://librivox.org/1", "split": "train"})
    {'source': 'https://librivox.org/1', 'source_split': 'train'}
    """
    strings = {name: value for name, value in fields.items() if isinstance(value, str) and value.strip()}
    return {
        "source": text_of(strings, "source", "source_url", "url"),
        "source_split": text_of(strings, "split", "subset"),
    }


def _parse(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise Reject("manifest.not_json", f"need a line of at most {LONGEST_LINE} bytes")
    try:
        text = line.decode("utf-8")
        fields = json.loads(text)
    except UnicodeDecodeError as error:
        raise Reject("manifest.not_json", f"need a JSON object in UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:  # RecursionError: a thousand brackets
        hint = "; a comma follows the object" if line.rstrip().endswith(b"},") else ""
        if b"{" not in line and re.search(rb"[,;\t|]", line):
            hint = "; this looks like a table: use the adapter table"
        raise Reject("manifest.not_json", f"need a JSON object: {error}{hint}") from error
    if not isinstance(fields, dict):
        raise Reject("manifest.not_json", f"need a JSON object, got {shown(fields)}")
    return fields


def required(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first of the named fields that is not null.

    Raises:
        Reject: manifest.missing_field, manifest.bad_field.
    """
    value = text_of(fields, *names)
    if not value:
        raise Reject("manifest.missing_field", f"{names[0]}: need one on every line{_hint(fields)}")
    return value


def _hint(fields: dict[str, Any]) -> str:
    """What a line seems to be that lacks a field."""
    if "audio_filepath" in fields:
        return "; this looks like a NeMo manifest: use the adapter nemo"
    if "supervisions" in fields or "recording" in fields or "sources" in fields:
        return "; this looks like a Lhotse manifest"
    return ""


def id_of(fields: dict[str, Any], names: Fields) -> str:
    """The id of a line: its own, or where none is required, that of its recording and start."""
    if names.id_required or text_of(fields, *names.id):
        return required(fields, names.id)
    stem = os.path.splitext(os.path.basename(required(fields, names.audio)))[0]
    start = number_in(fields, "start", "offset")
    return stem if start is None else f"{stem}-{round(start * 1000):08d}"


def number_in(fields: dict[str, Any], *names: str) -> float | None:
    """The first of the named fields that is not null, in seconds.

    Raises:
        Reject: manifest.bad_field, where it is no number from 0 on.
    """
    for name in names:
        value = fields.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST:
                raise Reject(
                    "manifest.bad_field", f"{name}: need seconds from 0 to {LONGEST}, got {shown(value)}"
                )
            return float(value)
    return None


def _times(fields: dict[str, Any]) -> dict[str, float | None]:
    start, offset = number_in(fields, "start"), number_in(fields, "offset")
    if start is not None and offset is not None and start != offset:
        raise Reject("manifest.bad_field", f"start, offset: need one of them, got {start:g} and {offset:g} s")
    return {
        "start": offset if start is None else start,
        "end": number_in(fields, "end"),
        "duration": number_in(fields, "duration", "duration_s"),
    }


def _channel(fields: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = fields.get(name)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if value is not None and value != "average":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1024:
                raise Reject("manifest.bad_field", f"{name}: need a number from 0 on, got {shown(value)}")
            return value
    return None


def check_names(fields: dict[str, Any], names: Fields) -> None:
    """Refuse a line with a field that changes its meaning and that would not be read."""
    for name, value in fields.items():
        if value is None or names.is_known(name):
            continue
        plain = re.sub(r"[_\-. ]", "", name.lower())
        if MEANINGFUL.fullmatch(plain):
            raise Reject(
                "manifest.bad_field",
                f"{name}: fields about time or channel are start or offset, end, duration, channel; rename it",
            )
        if TEXTS.fullmatch(plain) and text_of(fields, *names.text) is None:
            raise Reject(
                "manifest.bad_field", f"{name}: the transcript is the field {names.text[0]}; rename it"
            )
