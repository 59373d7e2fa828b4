"""Text files by their content, not their ending: compressed or not, in UTF-8 or UTF-16, with or without a mark."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from corpus import files

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes -> how the rest is compressed."""

MARKS = {
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
    b"\xef\xbb\xbf": "utf-8",
}
"""Byte order marks."""

OTHERS = {
    b"PK\x03\x04": "a ZIP archive or an Office document",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x7fELF": "a program",
    b"SQLite": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"{\\rtf": "an RTF document",
    b"ARROW1": "an Arrow file",
    b"PAR1": "a Parquet file",
    b"RIFF": "a WAV file",
    b"fLaC": "a FLAC file",
    b"OggS": "an Ogg file",
    b"ID3": "an MP3 file",
}
"""First bytes of files that are no text -> what they are."""

SPACE = re.compile(r"[ \t\r\n]*")
LOOK = 1 << 16  # bytes looked at
ODD = 0.05  # share of control characters from which on a file is no text


UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError, pa.ArrowException)
"""What readers of compressed and encoded text raise."""

BLOCK = 1 << 20  # bytes of a JSON array that are read at once


class TextFile:
    """An open file of text lines. `head` is its start, `readline` and `read` give bytes in UTF-8.

    Raises:
        ValueError: when a line is read that is no text, or not complete; names the file.
    """

    def __init__(
        self, path: Path, head: bytes, readline: Callable[[int], bytes], read: Callable[[int], bytes]
    ):
        self.path, self.head = path, head
        self.readline, self.read = _named(path, readline), _named(path, read)

    def is_json(self) -> bool:
        """Whether it holds JSON: objects, one per line, or an array of objects or strings."""
        if re.match(rb'\s*\[\s*[{"]', self.head):
            return True
        line = next((line for line in self.head.splitlines() if line.strip()), b"")
        try:
            return isinstance(json.loads(line), dict)
        except (ValueError, RecursionError):
            return False

    def lines(self, most: int) -> Iterator[tuple[int, bytes | None]]:
        """Number and content of the lines that are not blank; None for one of more than `most` bytes."""
        number = 0
        while line := self.readline(most + 1):
            number += 1
            if len(line) > most:
                while line and not line.endswith((b"\n", b"\r")):
                    line = self.readline(most)
                yield number, None
            elif line.strip():
                yield number, line

    def json_values(self, most: int) -> Iterator[tuple[int, bytes | None]]:
        """As `lines`; of a JSON array, its values, each written as JSON again. Memory holds one of them.

        Raises:
            ValueError: an array that is no JSON, or with a value that is far larger than `most`.
        """
        if not re.match(rb'\s*\[\s*[{"]', self.head):
            yield from self.lines(most)
            return
        for number, value in enumerate(self._array(2 * most + BLOCK), start=1):
            written = json.dumps(value).encode()
            yield number, written if len(written) <= most else None

    def _array(self, most: int) -> Iterator[Any]:
        """The values of a JSON array of which none is written in more than `most` characters."""
        scanner, utf8 = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")()
        text, position, opened, block = "", 0, False, b"-"
        reason = "it breaks off"
        while block and len(text) - position <= most:
            block = self.read(BLOCK)
            try:
                text, position = text[position:] + utf8.decode(block, final=not block), 0
            except UnicodeDecodeError as error:
                reason = str(error)
                break
            if not opened and (start := re.match(r"\s*\[", text)):
                opened, position = True, start.end()
            while opened:
                position = SPACE.match(text, position).end()  # type: ignore[union-attr]
                if text[position : position + 1] == "]":
                    if text[position + 1 :].strip():
                        reason = "something follows it"
                        break
                    return
                try:
                    value, end = scanner.raw_decode(text, position)
                except (ValueError, RecursionError) as error:
                    reason = str(error)
                    break
                after = SPACE.match(text, end).end()  # type: ignore[union-attr]
                if text[after : after + 1] not in (",", "]"):  # the rest of a number may be in the next block
                    break
                yield value
                position = after + (text[after] == ",")
        raise ValueError(
            f"{self.path}: cannot be read as text: a JSON array that cannot be parsed: {reason}; write JSON Lines"
        )


@contextmanager
def open_text(path: Path) -> Iterator[TextFile]:
    """Open a file of text lines, whatever its name.

    Raises:
        ValueError: it is no text, or is not complete; in one line that names the file.
    """
    with ExitStack() as stack:  # errors of the caller's own are not of this file
        yield _named(path, lambda _: _text_file(path, stack))(0)


def _named(path: Path, read: Callable[[int], Any]) -> Callable[[int], Any]:
    """`read`, whose errors are a ValueError that names the file."""

    def named(most: int) -> Any:
        try:
            return read(most)
        except UNREADABLE as error:
            raise ValueError(f"{path}: cannot be read as text: {files.one_line(error)}") from error

    return named


def _text_file(path: Path, stack: ExitStack) -> TextFile:
    with path.open("rb") as raw:
        start = raw.read(8)
        raw.seek(0)
        how = next((name for mark, name in COMPRESSED.items() if start.startswith(mark)), "")
        head = _decompressed(raw, how).read(LOOK)
    stream = _decompressed(stack.enter_context(path.open("rb")), how)
    codec = codec_of(head)
    if codec is None:
        what = next((what for mark, what in OTHERS.items() if head.startswith(mark)), "binary data")
        raise ValueError(f"need text, got {what}")
    mark = next((mark for mark in MARKS if head.startswith(mark)), b"")
    stream.read(len(mark))
    text = head[len(mark) :].decode(codec, "replace").encode("utf-8", "replace")
    only_returns = b"\r" in text and b"\n" not in text
    if codec == "utf-8" and not only_returns:
        return TextFile(path, text, stream.readline, stream.read)
    errors = "surrogateescape" if codec == "utf-8" else "strict"
    lines = io.TextIOWrapper(stream, codec, errors, newline="\r" if only_returns else "\n")
    stack.callback(lines.detach)

    def encoded(read: Callable[[int], str]) -> Callable[[int], bytes]:
        return lambda most: read(most).encode("utf-8", "surrogateescape")

    return TextFile(path, text, encoded(lines.readline), encoded(lines.read))


def _decompressed(raw: Any, how: str) -> io.BufferedReader:
    """A stream of what a file holds."""
    if how == "gzip":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw))
    if how == "bzip2":
        return io.BufferedReader(bz2.BZ2File(raw))
    if how == "xz":
        return io.BufferedReader(lzma.LZMAFile(raw))
    if how == "zstd":
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw), "zstd"))
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)


def codec_of(head: bytes) -> str | None:
    """The encoding of a text that starts with these bytes; None where it is no text."""
    for mark, codec in MARKS.items():
        if head.startswith(mark):
            return codec
    if head.startswith(tuple(OTHERS)):
        return None
    if head.count(0) > ODD * len(
        head
    ):  # UTF-16 without a mark has a zero in every other byte of most scripts
        even, odd = head[::2].count(0) / len(head), head[1::2].count(0) / len(head)
        if max(even, odd) < 0.2 or min(even, odd) > 0.01:
            return None
        return "utf-16-be" if even > odd else "utf-16-le"
    control = sum(
        head.count(bytes([byte])) for byte in range(32) if byte not in b"\t\n\v\f\r\x1b\x1c\x1d\x1e\x1f"
    )
    return None if control > ODD * len(head) else "utf-8"
