"""Bytes of samples: members to and from JSON and npy, and their offsets in a tar. Nothing here can run code."""

import io
import json
import mmap
import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from tokenize import TokenError
from typing import Any

import numpy as np

ARRAY = re.compile(r"[a-z0-9_]{1,15}\.npy")
"""Members a sample may have beside its `json`: plain arrays."""

_SIZE = slice(124, 136)  # fields of a POSIX ustar header
_NAME = slice(0, 100)
_CHECKSUM = slice(148, 156)
_KIND = 156


_TEMPLATE = tarfile.TarInfo("")
_TEMPLATE.mtime, _TEMPLATE.mode = 0, 0o444
_TEMPLATE.uname = _TEMPLATE.gname = "wordweave"
_HEADER = _TEMPLATE.tobuf(tarfile.USTAR_FORMAT)
_HEADER_SUM = sum(_HEADER[: _CHECKSUM.start]) + 8 * 32 + sum(_HEADER[_CHECKSUM.stop :]) - sum(_HEADER[_SIZE])


def member(name: str, content: bytes) -> bytes:
    """A regular file as a tar holds it: header, content, zeros up to a multiple of 512 bytes.

    The bytes are those of tarfile and of webdataset's TarWriter with mtime=0, mode=0o444 and "wordweave" as user and
    group; making the header from a template is what makes it fast.
    """
    encoded = name.encode("ascii")
    if len(encoded) > 100:
        raise ValueError(f"member {name!r}: need a name of at most 100 bytes")
    size = b"%011o\0" % len(content)
    checksum = b"%06o\0 " % (_HEADER_SUM + sum(encoded) + sum(size))
    rest = _HEADER[_CHECKSUM.stop :]
    header = (
        encoded.ljust(100, b"\0") + _HEADER[100 : _SIZE.start] + size + _HEADER[_SIZE.stop : _CHECKSUM.start]
    )
    return b"".join((header, checksum, rest, content, bytes(-len(content) % 512)))


def end(length: int) -> bytes:
    """The end of a tar of `length` bytes: two blocks of zeros, then more up to a whole record."""
    return bytes(1024 + -(length + 1024) % tarfile.RECORDSIZE)


def encode(name: str, value: Any) -> bytes:
    """Bytes of a member: sorted UTF-8 JSON, or npy."""
    if name == "json":
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    array = np.ascontiguousarray(value)
    return _header_of(array.dtype.str, array.shape) + array.tobytes()


@lru_cache(maxsize=8192)
def _header_of(dtype: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def scan(
    buffer: bytes | mmap.mmap, start: int, stop: int | None, where: str, *, check: bool = False
) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key and members (extension -> begin and end in the buffer) of each sample between two offsets of a tar.

    Without `stop`, the tar must have its proper end. `check` compares the checksums of the headers.
    """
    position = start
    end = len(buffer) if stop is None else stop
    current: str | None = None
    members: dict[str, tuple[int, int]] = {}
    while position < end:
        header = buffer[position : position + 512]
        if stop is None and header[:1] == b"\0":
            if header.strip(b"\0") or len(buffer) < position + 1024 or buffer[position:].strip(b"\0"):
                raise ValueError(f"{where}: damaged, bytes follow the end of the tar")
            break
        name, size = _header(header, position, where, check=check)
        key, _, extension = name.partition(".")
        if not _is_member(extension):
            raise ValueError(f"{where}: member {name!r} is not in the schema (json and *.npy only); not read")
        if key != current:
            if current is not None:
                yield current, members
            current, members = key, {}
        if extension in members:
            raise ValueError(f"{where}: member {name!r} occurs twice")
        begin = position + 512
        members[extension] = begin, begin + size
        position = begin + -(-size // 512) * 512
        if position > end:
            raise ValueError(f"{where}: truncated inside {name!r}")
    else:
        if stop is None:
            raise ValueError(f"{where}: truncated, the end of the tar is missing")
    if current is not None:
        yield current, members


@lru_cache(maxsize=256)
def _is_member(extension: str) -> bool:
    return extension == "json" or ARRAY.fullmatch(extension) is not None


def _header(header: bytes, position: int, where: str, *, check: bool) -> tuple[str, int]:
    """Name and size of a regular member."""
    try:
        digits = header[_SIZE].strip(b" \0")
        if (
            len(header) < 512 or header[_KIND] not in b"0\0" or not digits.isdigit()
        ):  # int() would take a minus sign
            raise ValueError("not a regular file")
        size = int(digits, 8)
        if check:
            total = sum(header) - sum(header[_CHECKSUM]) + 8 * 32
            if total != int(header[_CHECKSUM].strip(b" \0"), 8):
                raise ValueError("checksum differs")
        return header[_NAME].rstrip(b"\0").decode("ascii"), size
    except ValueError as error:
        raise ValueError(
            f"{where}: truncated or damaged, no tar header at byte {position} ({error})"
        ) from error


def decode(name: str, content: bytes, where: str) -> Any:
    """A JSON value or an array, and nothing else.

    Raises:
        ValueError: the content is neither; the message begins with `where`.
    """
    try:
        if name == "json":
            return json.loads(content)
        length = int.from_bytes(content[8:10], "little")
        dtype, shape = _parse_npy_header(content[: 10 + length])
        return np.frombuffer(content, dtype=dtype, offset=10 + length).reshape(shape)
    except (TypeError, ValueError, SyntaxError, TokenError) as error:  # numpy parses the header as Python
        raise ValueError(f"{where}.{name}: cannot be decoded: {error}") from error


@lru_cache(maxsize=8192)
def _parse_npy_header(header: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    if header[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("need npy version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header[8:]))
    if dtype.hasobject or fortran:
        raise ValueError(f"need plain numbers in C order, got {dtype}")
    return dtype, shape
