"""How much audio a file declares and how much is there, from its chunk and page headers alone.

libsndfile reads a file that breaks off as if it were shorter, and never looks behind what the header declares. Here the
declared size of the audio data is compared with the bytes of the file, so that neither passes silently.
"""

import functools
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

STREAMED = 0x7FFFF000  # bytes; programs that cannot know the length yet declare this or more, or 0
PAGE = 65_307  # bytes, the largest Ogg page
BLOCK = 1 << 20  # bytes searched at once
HEAD = 4096  # bytes read when a file is opened
CHUNKS = 1000  # most chunks of a file; real ones have a handful
TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
"""What may follow the audio of any file: tags that players write at the end."""
FLAC_TAIL = 1 << 17  # bytes searched for the last frames of a FLAC file


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
        return os.pread(self._descriptor, min(count, self.size - position), position)  # memory for no more


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
    held: int | None = None  # sample frames that are there, where the last block of audio says so
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
    Extent(start=24, declared=100, frames=None, held=None, unclaimed=0, broken='', second=0)
    """
    parse = PARSERS.get(source.at(offset, 4))
    return parse and parse(source, offset)


def skip_id3(source: Source) -> int:
    """The position after the ID3v2 tags at the start of a file."""
    position = 0
    while length := _id3_length(source.at(position, 10)):
        position += length
    return position


def _id3_length(head: bytes) -> int:
    """Bytes of the ID3v2 tag that starts with these 10 bytes; 0: none does."""
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:]) > 127:
        return 0
    length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return length + (20 if head[5] & 0x10 else 10)  # 10 more with a footer


def unclaimed(source: Source, position: int) -> int:
    """Bytes from `position` on that are neither tags nor padding with zeros, to the end of the file."""
    for _ in range(CHUNKS):
        head = source.at(position, 32)
        if not head.startswith(TAGS):
            break
        if head[:3] == b"ID3":
            length = _id3_length(head[:10]) or 10
        elif head[:3] == b"TAG":
            length = 227 if head[3:4] == b"+" else 128
        elif head[:3] == b"APE":
            length = 32 + (
                int.from_bytes(head[12:16], "little") if len(head) == 32 and head[23] & 0x20 else 0
            )
        else:
            length = max(11, find(source, b"LYRICS200", position) + 9 - position)
        position += length
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
                position + 8,
                length,
                unclaimed=_after(source, end + length % 2, order, bool(length % 2)),
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
            return Extent(position + 24, max(0, length - 24), unclaimed=rest)
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
            return Extent(position + 8 + head, max(0, length - head), frames, unclaimed=rest)
        position += 8 + length + length % 2
    return None


def _au(source: Source, offset: int) -> Extent:
    """Sun audio, big-endian or, of DEC, little-endian."""
    head = source.at(offset, 12)
    order: Any = "big" if head[:4] == b".snd" else "little"
    start, length = (int.from_bytes(head[position : position + 4], order) for position in (4, 8))
    if length >= STREAMED:
        return Extent(offset + start)
    return Extent(offset + start, length, unclaimed=unclaimed(source, offset + start + length))


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
    return Extent(start, length, frames, unclaimed=unclaimed(source, start + length))


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
    """FLAC, by the numbers of its last frames: its header holds no number of bytes.

    Source: RFC 9639.
    """
    info = source.at(offset, 42)
    if len(info) < 42 or info[4] & 0x7F:
        return Extent(offset)
    total = int.from_bytes(info[21:26], "big") & (1 << 36) - 1 or None
    largest = int.from_bytes(info[15:18], "big") or FLAC_TAIL  # bytes of a frame
    last = next(_flac_frames(source, max(offset + 42, source.size - largest - 160), info), None)
    if total and last and last[1] == total:
        return Extent(offset, frames=total, held=total)
    frames = _flac_frames(source, max(offset + 42, source.size - FLAC_TAIL), info)
    begin, end, position = next(frames, (0, 0, 0))
    for before, middle, position_before in frames:
        if middle == begin:  # two that follow each other are not found in other bytes by chance
            whole = total in (None, end) or not _crc(source.at(position, source.size - position), 16, 0x8005)
            return Extent(offset, frames=total, held=end if whole else begin)
        begin, end, position = before, middle, position_before
    return Extent(offset, frames=total)


def _flac_frames(source: Source, start: int, info: bytes) -> Iterator[tuple[int, int, int]]:
    """First sample, sample after the last one and position of FLAC frames after byte `start`, the last frame first."""
    tail = source.at(start, source.size - start)
    for mark in (b"\xff\xf8", b"\xff\xf9"):  # blocks of one size, or not: the same for all frames of a file
        position = len(tail)
        while (position := tail.rfind(mark, 0, position)) >= 0:
            found = _flac_frame(tail[position : position + 16], info)
            if found:
                yield *found, start + position


def _flac_frame(head: bytes, info: bytes) -> tuple[int, int] | None:
    """First sample, and sample after the last one, of the frame with this head; None where it is none."""
    if len(head) < 7 or head[2] < 16 or head[3] & 1:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # the number is coded as in UTF-8
    length = 4 + max(1, ones)
    number = head[4] & 0x7F >> ones
    for byte in head[5:length]:
        number = number << 6 | byte & 0x3F
    code, rate = head[2] >> 4, head[2] & 15
    if code in (6, 7):
        block = int.from_bytes(head[length : length + code - 5], "big") + 1
    else:
        block = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    length += {6: 1, 7: 2}.get(code, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if length >= len(head) or _crc(head[: length + 1], 8, 7):
        return None
    first = number if head[1] & 1 else number * int.from_bytes(info[10:12], "big")
    return first, first + block


def _crc(content: bytes, width: int, polynomial: int) -> int:
    """The checksum of the head (8 bits) or the whole (16 bits) of a FLAC frame; 0 where it includes its own."""
    table, mask, value = _crc_table(width, polynomial), (1 << width) - 1, 0
    for byte in content:
        value = (value << 8 & mask) ^ table[value >> width - 8 ^ byte]
    return value


@functools.cache
def _crc_table(width: int, polynomial: int) -> list[int]:
    table = []
    for value in range(0, 256 << width - 8, 1 << width - 8):
        for _ in range(8):
            value = value << 1 ^ (1 << width | polynomial if value >> width - 1 else 0)
        table.append(value)
    return table


def _ogg(source: Source, offset: int) -> Extent:
    """Ogg, by its end: the last page must be complete and marked as the end of the stream."""
    start = max(offset, source.size - 2 * PAGE)
    tail = source.at(start, source.size - start)
    position = tail.rfind(b"OggS\0")
    head = tail[position : position + 27 + 255] if position >= 0 else b""
    length = 27 + head[26] + sum(head[27 : 27 + head[26]]) if len(head) > 27 else 0
    if not length or position + length > len(tail) or not head[5] & 4:
        return Extent(offset, broken="its last Ogg page is not the end of the stream")
    before = tail.rfind(b"OggS\0", 0, position)
    if before >= 0 and tail[before + 14 : before + 18] == head[14:18]:
        earlier, last = (
            int.from_bytes(tail[at + 6 : at + 14], "little", signed=True) for at in (before, position)
        )
        if last < earlier:
            return Extent(
                offset, broken=f"its last Ogg page ends at sample {last}, the one before at {earlier}"
            )
    end = start + position + length
    return Extent(offset, declared=end - offset, unclaimed=unclaimed(source, end))


def streams(source: Source, offset: int) -> Extent | None:
    """As `extent`, of FLAC with a second stream and of Ogg: the whole file is searched for it and for missing pages."""
    head = source.at(offset, 8)
    if head == b"fLaC\0\0\0\x22":
        second = find(source, head, offset + 4)
        return Extent(offset, second=second) if second > 0 else None
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
