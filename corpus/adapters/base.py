"""What all adapters share: a row is measured, split by channel, and rejected with what is known of it."""

import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby, islice
from typing import Any, NamedTuple, cast

from corpus import files
from corpus.audio import Header, channels_differ, declared_stamp, read_header
from corpus.embedded import container_of
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance

MeasuredRow = Utterance | RejectedRow
Source = str | os.PathLike[str]

AUDIO_ENDINGS = (
    ".flac",
    ".wav",
    ".ogg",
    ".opus",
    ".oga",
    ".mp3",
    ".aif",
    ".aiff",
    ".aifc",
    ".au",
    ".sph",
    ".caf",
    ".w64",
)
LOSSY = 6.0  # times the tolerance for lossy encodings: their lengths differ by the encoder's delay
LONGER = 10.0  # times the tolerance for a file that is longer than declared: tables round


@dataclass(frozen=True, slots=True)
class Intake:
    """How rows are read, whatever the adapter."""

    duration_tolerance: float = (
        0.05  # seconds that a file may be shorter than declared; 0.3 s for MP3 and its like
    )
    channels: str = (
        "average"  # of a recording with several: their mean, or "separate": one utterance for each
    )
    checksum: bool = False  # note the sha256 of each file rather than its size and modification time
    on_several_channels: Callable[[Utterance], None] | None = (
        None  # called with each utterance whose channels are averaged
    )
    probe: str = (
        "headers"  # of every recording; "declared": not of those whose rows carry frames and sample rate
    )
    defer: bool = False  # yield rows before their headers are read, as `Unmeasured`


class Declared(NamedTuple):
    """What a row says of its recording."""

    frames: int
    sample_rate: int  # Hz
    channels: int | None = None  # None: it does not say


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A row of which the header is still to be read: the arguments of `measured`."""

    known: Utterance
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    reject: Reject | None = None
    instead: str | None = None


Row = MeasuredRow | Unmeasured


@dataclass(frozen=True, slots=True)
class Adapter:
    """One layout of data sets that can be read.

    `read` yields the utterances of a source in its own order. What cannot be read is not raised and not left out: it is
    a `RejectedRow` with a reason.
    """

    read: Callable[[Source, Intake], Iterator[Row]]
    description: str  # one line
    expects: str  # what the source is
    where: str = ""  # where people get the data set
    licence: str = ""

    def __call__(self, source: Source, intake: Intake | None = None) -> Iterator[MeasuredRow]:
        """The rows of a source."""
        return cast(Iterator[MeasuredRow], self.read(source, replace(intake or Intake(), defer=False)))

    def unmeasured(self, source: Source, intake: Intake) -> Iterator[Row]:
        """The rows of a source, of which no header is read."""
        return self.read(source, replace(intake, defer=True))


class ChannelCheck:
    """Compares the channels of recordings that are averaged: of the `first`, then of every 50th."""

    def __init__(self, first: int = 200) -> None:
        self.first = first
        self.checked = 0
        self.different: list[str] = []  # paths
        self._seen = 0
        self._last = ""

    def __call__(self, utterance: Utterance) -> None:
        """Take in one utterance of a recording with several channels."""
        if utterance.audio == self._last:
            return
        self._last = utterance.audio
        self._seen += 1
        if self._seen > self.first and self._seen % 50:
            return
        self.checked += 1
        try:
            if channels_differ(utterance.audio):
                self.different.append(utterance.audio)
        except Reject:  # it cannot be decoded; the stage that needs it rejects it
            pass

    def add(self, checked: int, different: list[str]) -> None:
        """Add the counts of another check."""
        self.checked += checked
        self.different += different

    def warning(self) -> str:
        """What a person should know, in one line; empty where all channels carry the same."""
        if not self.different:
            return ""
        return (
            f"the channels of {len(self.different)} of {self.checked} recordings differ, for instance of "
            f"{self.different[0]}, and are averaged; set corpus.channels = 'separate' or a channel in the manifest"
        )


def measured(
    known: Utterance,
    intake: Intake,
    *,
    start: float | None = None,
    end: float | None = None,
    duration: float | None = None,
    reject: Reject | None = None,
    instead: str | None = None,
    declared: Declared | None = None,
    header_of: Callable[[str], Header] = read_header,
) -> Iterator[Row]:
    """The rows of one utterance of which all but the length is known: one, or one for each channel.

    Args:
        known: without frames, sample rate and stamps.
        start, end: seconds of the stretch in its recording.
        duration: seconds as declared; without `end` the length of the stretch, without both a promise about the file.
        reject: what is wrong with the utterance besides; it is noted after the length was.
        instead: where the audio is if there is none at `known.audio`.
        declared: what the row says of its recording; used where the intake asks for it.
    """
    row = Unmeasured(known, start, end, duration, reject, instead)
    if declared and intake.probe == "declared" and (declared.channels or intake.channels == "average"):
        yield from measure(row, intake, lambda path: _declared_header(path, declared, known.channel))
    elif intake.defer:
        yield row
    else:
        yield from measure(row, intake, header_of)


def measure(
    row: Row, intake: Intake, header_of: Callable[[str], Header] = read_header
) -> Iterator[MeasuredRow]:
    """Read the header of a row's recording, if it was not: one row, or one for each channel."""
    if not isinstance(row, Unmeasured):
        yield row
        return
    known, start, end, duration = row.known, row.start, row.end, row.duration
    found: dict[str, Any] = {}  # grows as the header is read: a reject keeps what is known
    try:
        path = found["audio"] = existing(known.audio)
        try:
            header = header_of(path)
        except Reject as reject:
            if not row.instead or reject.reason != "audio.missing":
                raise
            path = found["audio"] = existing(row.instead)
            header = header_of(path)
        found["sample_rate"] = header.sample_rate
        found["audio_stamp"] = _checksum(path, header.stamp) if intake.checksum else header.stamp
        if known.alignment is not None:
            alignment = found["alignment"] = existing(known.alignment)
            found["alignment_stamp"] = _alignment_stamp(alignment, intake)
        if start is None and end is None:
            found["frames"] = header.frames
        if header.problem:
            raise header.problem
        if row.reject:
            raise row.reject
        if known.channel is not None and known.channel >= header.channels:
            raise Reject(
                "manifest.bad_field", f"channel: need less than {header.channels}, got {known.channel}"
            )
        first, frames = stretch(header, start, end, duration)
        found |= {"first_frame": first, "frames": max(0, min(frames, header.frames - first))}
        check_length(header, intake, first, frames, duration if end is not None or start is None else None)
    except Reject as raised:
        yield RejectedRow(replace(known, **found), raised)
        return
    known = replace(known, **found)
    if header.channels == 1 or known.channel is not None:
        yield known
    elif intake.channels == "separate":
        for channel in range(header.channels):
            yield replace(known, id=f"{known.id}-c{channel}", channel=channel)
    else:
        if intake.on_several_channels:
            intake.on_several_channels(known)
        yield known


def _declared_header(path: str, declared: Declared, channel: int | None) -> Header:
    """A header as its row declares it; the decoder compares it with the recording."""
    try:
        file = "" if files.is_url(path) else files.stamp(container_of(path))
    except OSError:  # the decoder reports it
        file = ""
    stamp = declared_stamp(declared.frames, declared.sample_rate, file)
    return Header(declared.frames, declared.sample_rate, declared.channels or (channel or 0) + 1, 0, stamp)


THREADS = 32
"""Headers behind URLs that are read at the same time: a request is waiting, for the most part."""


def measure_each(rows: Iterable[Row], intake: Intake) -> Iterator[MeasuredRow]:
    """`measure` of many rows, in order; behind URLs, many headers at the same time, each recording's once."""
    groups = (list(group) for _, group in groupby(rows, key=lambda row: known_of(row).audio))

    def one(group: list[Row]) -> tuple[list[MeasuredRow], list[Utterance]]:
        several: list[Utterance] = []
        mine = replace(intake, on_several_channels=several.append)
        header_of = lru_cache(maxsize=2)(read_header)
        return [result for row in group for result in measure(row, mine, header_of)], several

    with ThreadPoolExecutor(THREADS) as pool:
        for batch in iter(lambda: list(islice(groups, 8 * THREADS)), []):
            remote = any(files.is_url(known_of(group[0]).audio) for group in batch)
            for results, several in (pool.map if remote else map)(one, batch):
                yield from results
                if intake.on_several_channels:
                    for utterance in several:
                        intake.on_several_channels(utterance)


def known_of(row: Row) -> Utterance:
    """What is known of a row."""
    return row if isinstance(row, Utterance) else row.utterance if isinstance(row, RejectedRow) else row.known


def with_known(row: Row, known: Utterance) -> Row:
    """A row of which something else is known."""
    if isinstance(row, Utterance):
        return known
    return replace(row, utterance=known) if isinstance(row, RejectedRow) else replace(row, known=known)


def stretch(
    header: Header, start: float | None, end: float | None, duration: float | None
) -> tuple[int, int]:
    """First frame and number of frames of a stretch as it is declared; it may end beyond the recording.

    Raises:
        Reject: manifest.bad_field, where it is empty or starts after the recording's end.
    """
    seconds = header.frames / header.sample_rate
    if start is None and end is None:
        return 0, header.frames
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
    first = round(start * header.sample_rate)
    return first, round(end * header.sample_rate) - first


def check_length(header: Header, intake: Intake, first: int, frames: int, duration: float | None) -> None:
    """Compare a declared stretch and a declared duration with the recording.

    Raises:
        Reject: audio.truncated, where the recording is too short, audio.length_mismatch, where the duration is neither
            that of the stretch nor that of the recording.
    """
    seconds, stretched = header.frames / header.sample_rate, frames / header.sample_rate
    short = intake.duration_tolerance * (LOSSY if header.lossy else 1.0)
    end = first / header.sample_rate + stretched
    if end > seconds + short or (duration is not None and duration > max(stretched, seconds) + short):
        wanted = max(end, duration or 0.0)
        raise Reject("audio.truncated", f"need {wanted:g} s, the file has {seconds:g} s")
    long = max(LONGER * intake.duration_tolerance, short)
    if duration is not None and min(abs(duration - stretched), abs(duration - seconds)) > long:
        raise Reject(
            "audio.length_mismatch", f"duration: {duration:g} s are declared, the audio has {stretched:g} s"
        )


def existing(path: str) -> str:
    """The path of a file that is there under a name of the same letters: 'é' is one character or two.

    A path that is there, or of which nothing is there, is returned as it is.
    """
    if path.isascii() or files.is_url(path) or os.path.exists(path):
        return path
    folder, name = os.path.split(path)
    if not name or folder == path:
        return path
    folder = existing(folder)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return path
    wanted = unicodedata.normalize("NFC", name)
    same = (other for other in names if unicodedata.normalize("NFC", other) == wanted)
    return os.path.join(folder, next(same, name))


def walk(source: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `source` with its file names, in alphabetic order.

    Symbolic links are followed, but to no folder twice: a link back to a folder above would not end otherwise.
    """
    seen = set[str]()
    for folder, folders, names in os.walk(os.path.abspath(source), followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield folder, sorted(names)


def shown(value: object) -> str:
    """A value for a message."""
    return files.shorten(json.dumps(value, default=str))


@lru_cache(maxsize=16)
def _checksum(path: str, stamp: str) -> str:
    return files.checksum(container_of(path))


def _alignment_stamp(path: str, intake: Intake) -> str:
    """The stamp of an alignment file; empty where there is none, which its aligner reports."""
    try:
        return files.checksum(path) if intake.checksum else files.stamp(path)
    except OSError as error:
        if not files.is_url(path) or files.is_missing(error):
            return ""
        raise ValueError(f"{path}: cannot be read: {files.one_line(error)}") from error


def text_of(fields: dict[str, Any], *names: str) -> str | None:
    """The first of the named fields that is not null.

    Raises:
        Reject: manifest.bad_field, where it is no string.
    """
    for name in names:
        value = fields.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise Reject("manifest.bad_field", f"{name}: need a string, got {shown(value)}")
            return value
    return None
