"""How much audio a file declares and how much is there, from its chunk and page headers alone.

libsndfile reads a file that breaks off as if it were shorter, and never looks behind what the header declares. Here the
declared size of the audio data is compared with the bytes of the file, so that neither passes silently.
"""

import os
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

STREAMED = 0x7FFFF000  # bytes; programs that cannot know the length yet declare this or more, or 0
PAGE = 65_307  # bytes, the largest Ogg page
BLOCK = 1 << 20  # bytes searched at once
HEAD = 4096  # bytes read when a file is opened
CHUNKS = 1000  # most chunks of a file; real ones have a handful
TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
"""What may follow the audio of any file: tags that players write at the end."""


class Source(Protocol):
    """A file that is read at any position."""

    size: int

    def at(self, position: int, count: int) -> bytes:
        """Up to `count` bytes from `position` on, fewer where the file ends."""


class LocalSource:
    """A local file; its own position does not matter and does not change."""

    def __init__(self, descriptor: int, size: int):
        self._descriptor = descriptor
        self._head = os.pread(descriptor, HEAD, 0)  # most headers are in there: one call instead of ten
        self.size = size

    def at(self, position: int, count: int) -> bytes:
        """Up to `count` bytes from `position` on."""
        if position + count <= HEAD:
            return self._head[position : position + count]
        if position >= self.size:  # a header may say 2**63
            return b""
        return os.pread(self._descriptor, count, position)


class RemoteSource:
    """A file behind a URL; its own position, from which a decoder reads on, does not change."""

    def __init__(self, file: Any, size: int):
        self._file = file
        self.size = size

    def at(self, position: int, count: int) -> bytes:
        """Up to `count` bytes from `position` on."""
        if position >= self.size:
            return b""
        before = self._file.tell()
        self._file.seek(position)
        content = self._file.read(count)
        self._file.seek(before)
        return content


class Extent(NamedTuple):
    """Where the audio data of a file is, and what its header declares."""

    start: int  # of the audio data, in bytes
    declared: int | None = None  # bytes of audio data; None: to the end of the file
    frames: int | None = None  # sample frames, where the header says so beside the bytes
    unclaimed: int = 0  # bytes after the audio data that are neither a chunk nor a tag nor padding
    broken: str = ""  # in words: the file lacks something that it must have
    second: int = 0  # position of a second stream, which decoders pass over

    def missing(self, size: int) -> int:
        """Bytes of audio data that the header declares beyond the end of the file."""
        return max(0, self.start + (self.declared or 0) - size)


def extent(source: Source, offset: int) -> Extent | None:
    """What a file declares from `offset`, after the tags, on; None where its format has no parser here.

    >>> class Memory:
    ...     def __init__(self, content): self.content, self.size = content, len(content)
    ...     def at(self, position, count): return self.content[position : position + count]
    >>> extent(Memory(b".snd" + struct.pack(">IIIII", 24, 100, 3, 8000, 1) + bytes(60)), 0)
    Extent(start=24, declared=100, frames=None, unclaimed=0, broken='', second=0)
    """
    parse = PARSERS.get(source.at(offset, 4))
    return parse and parse(source, offset)


def skip_id3(source: Source) -> int:
    """The position after the ID3v2 tags at the start of a file."""
    position = 0
    for _ in range(CHUNKS):
        head = source.at(position, 10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:]) > 127:
            break
        sizes = head[6:]
        position += 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3])
        position += 10 if head[5] & 0x10 else 0  # a footer
    return position


def unclaimed(source: Source, position: int) -> int:
    """Bytes from `position` to the end of the file, 0 where they are a tag or padding with zeros."""
    if position >= source.size or source.at(position, 16).startswith(TAGS):
        return 0
    for start in range(position, source.size, BLOCK):
        if source.at(start, BLOCK).strip(b"\0"):
            return source.size - position
    return 0


def find(source: Source, mark: bytes, start: int) -> int:
    """The first position of `mark` from `start` on, or -1."""
    for position in range(start, source.size, BLOCK):
        offset = source.at(position, BLOCK + len(mark) - 1).find(mark)
        if offset >= 0:
            return position + offset
    return -1


def _after(source: Source, position: int, order: str, padded: bool) -> int:
    """Bytes after the audio data that no chunk claims: chunks are skipped as long as they fit into the file."""
    for _ in range(CHUNKS):
        if position >= source.size:
            break
        head = source.at(position, 8)
        if padded and (len(head) < 8 or not _is_chunk(head)):  # some writers leave the padding byte out
            position, head = position - 1, source.at(position - 1, 8)
        if len(head) < 8 or not _is_chunk(head):
            return unclaimed(source, position)
        length = int.from_bytes(head[4:], order)  # type: ignore[arg-type]
        if position + 8 + length > source.size + 1:
            return unclaimed(source, position)
        position, padded = position + 8 + length + length % 2, bool(length % 2)
    return 0


def _is_chunk(head: bytes) -> bool:
    """Whether these bytes can start a chunk: a name of four printable characters that is no file of its own."""
    name = head[:4]
    return all(32 <= byte < 127 for byte in name) and name not in (
        b"RIFF",
        b"RIFX",
        b"RF64",
        b"BW64",
        b"FORM",
    )


def _riff(source: Source, offset: int) -> Extent | None:
    """RIFF and RIFX WAVE, and RF64 and BW64, whose sizes of 64 bits are in the chunk `ds64`."""
    head = source.at(offset, 12)
    if head[8:] != b"WAVE":
        return None
    order: Any = "big" if head[:4] == b"RIFX" else "little"
    position, long_size = offset + 12, None
    for _ in range(CHUNKS):
        chunk = source.at(position, 24)
        if len(chunk) < 8:
            break
        length = int.from_bytes(chunk[4:8], order)
        if chunk[:4] == b"ds64" and len(chunk) == 24:
            long_size = int.from_bytes(chunk[16:24], "little")
        if chunk[:4] == b"data":
            if long_size is not None and length == 0xFFFFFFFF:
                length = long_size
            elif length >= STREAMED:
                return Extent(position + 8)
            end = position + 8 + length
            return Extent(
                position + 8, length, None, _after(source, end + length % 2, order, bool(length % 2))
            )
        position += 8 + length + length % 2
    return None


def _w64(source: Source, offset: int) -> Extent | None:
    """Sony Wave64: chunks named by 16 bytes, whose sizes of 64 bits include their head of 24 bytes."""
    if source.at(offset + 4, 4) != b"\x2e\x91\xcf\x11":
        return None
    position = offset + 40
    for _ in range(CHUNKS):
        chunk = source.at(position, 24)
        if len(chunk) < 24:
            break
        length = int.from_bytes(chunk[16:], "little")
        if chunk[:4] == b"data":
            end, padded = position + length, position + (length + 7) // 8 * 8
            rest = min(unclaimed(source, end), unclaimed(source, padded))
            return Extent(position + 24, max(0, length - 24), None, rest)
        if length < 24:
            break
        position += (length + 7) // 8 * 8
    return None


def _aiff(source: Source, offset: int) -> Extent | None:
    """AIFF and AIFF-C, and 8SVX and 16SV with the same chunks."""
    kind, position, frames = source.at(offset + 8, 4), offset + 12, None
    names = {b"AIFF": b"SSND", b"AIFC": b"SSND", b"8SVX": b"BODY", b"16SV": b"BODY"}
    if kind not in names:
        return None
    for _ in range(CHUNKS):
        chunk = source.at(position, 16)
        if len(chunk) < 8:
            break
        length = int.from_bytes(chunk[4:8], "big")
        if chunk[:4] == b"COMM" and len(chunk) == 16:
            frames = int.from_bytes(chunk[10:14], "big")
        if chunk[:4] == names[kind]:
            head = 8 if kind in (b"AIFF", b"AIFC") else 0  # offset and block size
            end = position + 8 + length
            rest = _after(source, end + length % 2, "big", bool(length % 2))
            return Extent(position + 8 + head, max(0, length - head), frames, rest)
        position += 8 + length + length % 2
    return None


def _au(source: Source, offset: int) -> Extent:
    """Sun audio, big-endian or, of DEC, little-endian."""
    head = source.at(offset, 12)
    order: Any = "big" if head[:4] == b".snd" else "little"
    start, length = (int.from_bytes(head[position : position + 4], order) for position in (4, 8))
    if length >= STREAMED:
        return Extent(offset + start)
    return Extent(offset + start, length, None, unclaimed(source, offset + start + length))


def _nist(source: Source, offset: int) -> Extent | None:
    """NIST SPHERE: a head of text lines `name -type value`."""
    fields = {}
    for line in source.at(offset, 4096).split(b"end_head")[0].decode("ascii", "replace").splitlines()[2:]:
        name, _, value = line.partition(" ")
        fields[name] = value.partition(" ")[2]
    try:
        start = offset + int(source.at(offset + 8, 8))
        frames = int(fields["sample_count"])
        width = int(fields.get("sample_n_bytes", 2)) * int(fields.get("channel_count", 1))
    except (KeyError, ValueError):
        return None
    if "shorten" in fields.get("sample_coding", ""):
        return None
    length = frames * width
    return Extent(start, length, frames, unclaimed(source, start + length))


def _caf(source: Source, offset: int) -> Extent | None:
    """Apple Core Audio: chunks with sizes of 64 bits; -1 is to the end of the file."""
    position, extent, frames = offset + 8, None, None
    for _ in range(CHUNKS):
        chunk = source.at(position, 28)
        if len(chunk) < 12 or not _is_chunk(chunk) or chunk.startswith((b"caff", *TAGS)):
            break
        length = int.from_bytes(chunk[4:12], "big", signed=True)
        if chunk[:4] == b"pakt" and len(chunk) == 28:
            frames = int.from_bytes(chunk[20:28], "big")
        if chunk[:4] == b"data":
            extent = Extent(position + 16) if length < 0 else Extent(position + 16, max(0, length - 4))
        if length < 0:
            return extent
        if extent and chunk[:4] != b"data" and position + 12 + length > source.size:
            return extent._replace(broken=f"its chunk {chunk[:4].decode()} is not complete")
        position += 12 + length
    return extent and extent._replace(frames=frames, unclaimed=unclaimed(source, position))


def _flac(source: Source, offset: int) -> Extent:
    """FLAC. Its header holds no number of bytes: what breaks off is found when it is decoded."""
    return Extent(offset)


def _ogg(source: Source, offset: int) -> Extent:
    """Ogg, by its end: the last page must be complete and marked as the end of the stream."""
    start = max(offset, source.size - 2 * PAGE)
    tail = source.at(start, source.size - start)
    position = tail.rfind(b"OggS\0")
    head = tail[position : position + 27 + 255] if position >= 0 else b""
    length = 27 + head[26] + sum(head[27 : 27 + head[26]]) if len(head) > 27 else 0
    if not length or position + length > len(tail) or not head[5] & 4:
        return Extent(offset, broken="its last Ogg page is not the end of the stream")
    end = start + position + length
    return Extent(offset, declared=end - offset, unclaimed=unclaimed(source, end))


def streams(source: Source, offset: int) -> Extent | None:
    """As `extent`, of FLAC and Ogg, whose whole file is searched for a second stream and for pages that are missing."""
    head = source.at(offset, 8)
    if head == b"fLaC\0\0\0\x22":
        return Extent(offset, second=max(0, find(source, head, offset + 4)))
    return _pages(source, offset) if head[:4] == b"OggS" else None


def _pages(source: Source, offset: int) -> Extent:
    """The pages of an Ogg file: each must follow the one before, and no second stream may start after the first."""
    position, sequence = offset, dict[int, int]()
    ended, begun = set[int](), False
    while position + 27 <= source.size:
        head = source.at(position, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27 + head[26]:
            break
        flags, (serial, number) = head[5], struct.unpack_from("<II", head, 14)
        if flags & 2 and (begun or serial in sequence):
            return Extent(offset, second=position)
        begun = begun or not flags & 2
        if number != sequence.get(serial, -1) + 1:
            return Extent(offset, broken=f"Ogg page {sequence.get(serial, -1) + 1} is missing")
        length = 27 + head[26] + sum(head[27 : 27 + head[26]])
        if position + length > source.size:
            break
        sequence[serial] = number
        if flags & 4:
            ended.add(serial)
        position += length
    if ended != sequence.keys():
        return Extent(offset, broken="its last Ogg page is not the end of the stream")
    return Extent(offset, declared=position - offset, unclaimed=unclaimed(source, position))


def granule_before_end(source: Source) -> int:
    """The samples before the last two pages of an Ogg stream: what libsndfile seeks after them is misplaced."""
    start = max(0, source.size - 4 * PAGE)
    tail, granules, position = source.at(start, source.size - start), [], -1
    while (position := tail.find(b"OggS\0", position + 1)) >= 0:
        if position + 14 <= len(tail):
            granules.append(int.from_bytes(tail[position + 6 : position + 14], "little", signed=True))
    return max(0, granules[-3]) if len(granules) > 2 else 0


PARSERS: dict[bytes, Callable[[Source, int], Extent | None]] = {
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"RF64": _riff,
    b"BW64": _riff,
    b"riff": _w64,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": _au,
    b"NIST": _nist,
    b"caff": _caf,
    b"fLaC": _flac,
    b"OggS": _ogg,
}
"""First four bytes of a file -> the function that reads what it declares."""
