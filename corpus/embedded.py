"""Recordings inside other files, read in place: members of tars, and cells of Parquet files.

Their addresses stand where a path stands, in a manifest too: `shard.tar#bytes=512+70040` is 70 040 bytes from byte 512
on, and `train.parquet#row=17&column=audio` a cell, of bytes or of a struct with a field `bytes`.
"""

import io
import os
import re
import tarfile
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa

from corpus import files
from corpus.records import Reject

ADDRESS = re.compile(r"(.+)#(?:bytes=(\d+)\+(\d+)|row=(\d+)&column=(.+))")


class Member(NamedTuple):
    """A file in a tar; `problem` says why it cannot be read in place, empty where it can."""

    name: str
    address: str
    problem: str = ""


class Slice(files.Seekable):
    """A part of an open file, as a file of its own."""

    def __init__(self, file: Any, first: int, size: int):
        super().__init__(size)
        self._file, self._first = file, first

    def _at(self, start: int, stop: int) -> bytes:
        self._file.seek(self._first + start)
        return self._file.read(max(0, stop - start))


def container_of(name: str) -> str:
    """The file that holds a recording: the one of an address, or the recording itself.

    >>> container_of("a/b.tar#bytes=512+100"), container_of("a#1.wav")
    ('a/b.tar', 'a#1.wav')
    """
    match = ADDRESS.fullmatch(name)
    return match[1] if match else name


def open_embedded(name: str, *, whole: bool = True) -> tuple[Any, int] | None:
    """The file at an address, and its size in bytes; None where `name` is an ordinary path.

    Args:
        whole: it is read to its end; else only its header, by small requests where it is behind a URL.

    Raises:
        Reject: audio.missing, audio.truncated, audio.unreadable.
        OSError: the file that holds it cannot be read.
    """
    match = ADDRESS.fullmatch(name)
    if match is None:
        return None
    path, first, size, row, column = match.groups()
    if not files.is_url(path) and not os.path.isfile(path):
        raise Reject("audio.missing", f"{path}: no such file")
    if row is not None:
        content = _cell(path, container_stamp(path), int(row), column)
        return io.BytesIO(content), len(content)
    container = files.to_path(path)
    length = _size(path, container_stamp(path))
    if int(first) + int(size) > length:
        raise Reject("audio.truncated", f"{name}: the archive ends before this member")
    ranges = files.is_url(path) and not whole
    opened = files.Ranges(container, length) if ranges else container.open("rb")
    return Slice(opened, int(first), int(size)), int(size)


def container_stamp(path: str) -> str:
    """As `files.stamp`, of a file with many recordings: behind a URL it is asked for once a minute, not for each."""
    return _stamp(path, int(time.monotonic() / 60)) if files.is_url(path) else files.stamp(path)


@lru_cache(maxsize=16)
def _stamp(path: str, minute: int) -> str:
    return files.stamp(path)


@lru_cache(maxsize=16)
def _size(path: str, stamp: str) -> int:
    return files.size(files.to_path(path))


def _cell(path: str, stamp: str, row: int, column: str) -> bytes:
    groups = _groups(path, stamp)
    if not 0 <= row < groups[-1]:
        raise Reject("audio.missing", f"{path}: need a row below {groups[-1]}, got {row}")
    group = next(number for number, end in enumerate(groups[1:]) if row < end)
    cell = _column(path, stamp, group, column)[row - groups[group]].as_py()
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise Reject("audio.missing", f"{path}: row {row} of column {column} holds no audio")
    return content


@lru_cache(maxsize=16)
def _groups(path: str, stamp: str) -> list[int]:
    """First row of each row group, and the number of rows."""
    try:
        metadata = files.open_table(files.to_path(path)).metadata
    except pa.ArrowException as error:
        raise Reject(
            "audio.unreadable", f"{path}: cannot be read as Parquet: {files.one_line(error)}"
        ) from error
    firsts = [0]
    for group in range(metadata.num_row_groups):
        firsts.append(firsts[-1] + metadata.row_group(group).num_rows)
    return firsts


@lru_cache(maxsize=1)  # a row group may be 100 MB
def _column(path: str, stamp: str, group: int, column: str) -> pa.ChunkedArray:
    try:
        return files.open_table(files.to_path(path)).read_row_group(group, columns=[column]).column(column)
    except (pa.ArrowException, KeyError) as error:
        raise Reject("audio.unreadable", f"{path}: {column}: {files.one_line(error)}") from error


def members(path: str) -> Iterator[Member]:
    """The files of a tar in its order; nothing is unpacked. One that breaks off ends in a member without a name.

    Raises:
        ValueError: it is compressed, so that no member has a place in it, or no tar.
    """
    count = 0
    with files.to_path(path).open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise ValueError(f"{path}: need a tar that is not compressed; run `gunzip` on it")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for count, one in enumerate(tar, start=1):  # noqa: B007
                    if not one.isdir():
                        yield Member(one.name, f"{path}#bytes={one.offset_data}+{one.size}", _problem(one))
        except (tarfile.TarError, OSError, OverflowError) as error:  # a size beyond what a file can have
            if count:
                yield Member(
                    "", path, f"the archive breaks off after {count} members: {files.one_line(error)}"
                )
                return
            raise ValueError(f"{path}: cannot be read as a tar: {files.one_line(error)}") from error


def _problem(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a link to {member.linkname!r}, and none is followed"
    if not member.isreg() or member.issparse():
        return "no ordinary file"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leaves the archive"
    return ""
