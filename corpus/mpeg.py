"""MPEG audio (MP3): its true length, and any stretch of it with the samples of the whole decode.

An MP3 file is a row of frames. The number of frames that the first one (Xing, Info) declares need not be true, a
decoder guesses where there is none, and one that starts in the middle lacks the bits that earlier frames hold (the bit
reservoir). So the headers of all frames are read, 4 bytes of each, and the decoder is given a stream that starts where
it must:

    8 silent frames, the last one with the reservoir's bytes | the frames before the stretch | the stretch ...

Source: ISO/IEC 11172-3 and 13818-3; the Xing and LAME tags as libmpg123 reads them.
"""

import functools
from typing import NamedTuple

from corpus.containers import Source, unclaimed

BLOCK = 1 << 20  # bytes read at once
JUNK = 1 << 16  # bytes in which the first frame must be found
DECODER_DELAY = 529  # samples by which a decoder's filters delay the sound
SILENT = (
    8  # frames before the first: libmpg123's rounding repeats every 4 frames, so 8 keep it as in the whole
)
RESERVOIR = 511  # bytes, the most that a frame may refer back
BIT_RATES = {  # kbit/s by (is MPEG 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz by version bits


class Kind(NamedTuple):
    """What the frames of one stream have in common."""

    mpeg1: bool
    layer: int
    sample_rate: int
    channels: int

    @property
    def samples(self) -> int:
        """Samples of a frame."""
        return 384 if self.layer == 1 else 1152 if self.mpeg1 or self.layer == 2 else 576

    @property
    def side(self) -> int:
        """Bytes of side information after the header of a frame."""
        if self.layer != 3:
            return 0
        mono, stereo = (17, 32) if self.mpeg1 else (9, 17)
        return mono if self.channels == 1 else stereo


class Stream(NamedTuple):
    """The frames of an MPEG file and the samples that they decode to."""

    kind: Kind
    header: bytes  # of the first frame
    found: int  # frames of sound that are there
    positions: list[int]  # of these, and the end of the last one; empty where not all headers were read
    first: int  # sample of the first frame with which the sound starts: before it is the encoder's delay
    frames: int  # samples per channel
    declared: int | None  # frames of sound that the Xing or Info tag declares; None: there is no tag
    unclaimed: int  # bytes after the last frame that are no tag


def _lengths() -> list[int]:
    """Length in bytes of the frame with these second and third bytes; 0: no such frame."""
    lengths = [0] * (1 << 16)
    for version, rates in RATES.items():
        for layer in (1, 2, 3):
            for index, kilobits in enumerate(BIT_RATES[version == 3, layer], start=1):
                for number, rate in enumerate(rates):
                    for padding in (0, 1):
                        if layer == 1:
                            length = (12_000 * kilobits // rate + padding) * 4
                        else:
                            slots = 72_000 if layer == 3 and version != 3 else 144_000
                            length = slots * kilobits // rate + padding
                        for protection in (0, 1):
                            second = 0xE0 | version << 3 | (4 - layer) << 1 | protection
                            for private in (0, 1):
                                third = index << 4 | number << 2 | padding << 1 | private
                                lengths[second << 8 | third] = length
    return lengths


LENGTHS = _lengths()


def kind_of(header: bytes) -> Kind:
    """What the four bytes of a frame's header say."""
    version = header[1] >> 3 & 3
    layer = 4 - (header[1] >> 1 & 3)
    channels = 1 if header[3] >> 6 == 3 else 2
    return Kind(version == 3, layer, RATES[version][header[2] >> 2 & 3], channels)


def frame_length(header: bytes) -> int:
    """Bytes of the frame that starts with these; 0 where they are no header.

    >>> frame_length(b"\\xff\\xfb\\x90\\xc4"), frame_length(b"RIFF")
    (417, 0)
    """
    if len(header) < 4 or header[0] != 255 or header[1] < 0xE0:
        return 0
    return LENGTHS[header[1] << 8 | header[2]]


def glance(source: Source, offset: int) -> Stream | None:
    """The length of MPEG audio by its Xing or Info tag, where what a few places of the file hold agrees with the tag.

    Else, and where there is no tag, the headers of all frames are read.
    """
    header = source.at(offset, 4)
    if not frame_length(header):
        return None
    kind = kind_of(header)
    tag = _tag(source.at(offset, kind.side + 200), kind)
    if tag is None or not tag.size:
        return scan(source, offset)
    end = offset + tag.size
    if end > source.size or frame_length(source.at(end, 4)) or unclaimed(source, end):
        return scan(source, offset)
    lengths = [_mean_length(source, offset + tag.size * quarter // 4, header) for quarter in (1, 2, 3)]
    if not all(lengths) or not 0.67 < tag.frames * sum(lengths) / 3 / tag.size < 1.5:
        return scan(source, offset)
    first, frames = tag.sound(tag.frames, kind)
    return Stream(kind, header, tag.frames, [], first, frames, tag.frames, 0)


def scan(source: Source, offset: int) -> Stream | None:
    """Read the headers of all frames; None where none is found from `offset`, after the tags, on."""
    start = _first_frame(source, offset)
    if start is None:
        return None
    header = source.at(start, 4)
    kind = kind_of(header)
    positions, end = _frames(source, start, header)
    tag = _tag(source.at(start, kind.side + 200), kind)
    if tag is not None:
        header = source.at(positions[1], 4) if len(positions) > 1 else header
        positions = positions[1:]
    count = len(positions)
    first, frames = tag.sound(count, kind) if tag else (0, count * kind.samples)
    cut = kind_of(source.at(end, 4))[:3] == kind[:3] if frame_length(source.at(end, 4)) else False
    rest = 0 if cut else unclaimed(source, end)
    return Stream(kind, header, count, [*positions, end], first, frames, tag and tag.frames, rest)


def _mean_length(source: Source, position: int, header: bytes) -> float:
    """Mean bytes of the frames around a place in the file; 0 where no three follow each other."""
    block = source.at(position, 8192)
    lengths = _lengths_of(header[1] & 0xFE, header[2] & 0x0C)
    start = block.find(b"\xff")
    while start >= 0:
        count, offset = 0, start
        while offset + 4 <= len(block) and block[offset] == 255:
            length = lengths[block[offset + 1] << 8 | block[offset + 2]]
            if not length:
                break
            count, offset = count + 1, offset + length
        if count >= 3 and offset + 4 > len(block):
            return (offset - start) / count
        start = block.find(b"\xff", start + 1)
    return 0.0


def _first_frame(source: Source, start: int) -> int | None:
    """The position of the first frame: one that another of its kind or the end of the file follows."""
    block = source.at(start, JUNK)
    position = block.find(b"\xff")
    while position >= 0:
        header = source.at(start + position, 4)
        length = frame_length(header)
        if length:
            after = source.at(start + position + length, 4)
            if (not after and start + position + length == source.size) or (
                frame_length(after) and kind_of(after)[:3] == kind_of(header)[:3]
            ):
                return start + position
        position = block.find(b"\xff", position + 1)
    return None


def _frames(source: Source, start: int, header: bytes) -> tuple[list[int], int]:
    """Positions of the frames that follow each other without a gap, and the end of the last complete one."""
    lengths = _lengths_of(header[1] & 0xFE, header[2] & 0x0C)
    positions: list[int] = []
    position = start
    while position + 4 <= source.size:
        block = source.at(position, BLOCK)
        offset, most = 0, len(block) - 4
        length = 1
        while (
            length and offset <= most
        ):  # once per frame, 20 to 80 times per second of sound: nothing more in here
            length = block[offset] == 255 and lengths[block[offset + 1] << 8 | block[offset + 2]]
            positions.append(position + offset)
            offset += length
        position += offset
        if not length:
            positions.pop()
            break
    if positions and position > source.size:
        position = positions.pop()
    return positions, position


@functools.cache
def _lengths_of(second: int, third: int) -> list[int]:
    """`LENGTHS` of the frames of one version, layer and sample rate; 0 for all others."""
    lengths = [0] * (1 << 16)
    for protection in (0, 1):
        for rest in range(256):
            if rest & 0x0C == third:
                key = (second | protection) << 8 | rest
                lengths[key] = LENGTHS[key]
    return lengths


class Tag(NamedTuple):
    """What a Xing or Info tag declares."""

    frames: int  # of sound
    size: int  # bytes from the tag's frame to the end of the last one; 0: it does not say
    delay: int  # samples that the encoder put before the sound
    padding: int  # and after it

    def sound(self, count: int, kind: Kind) -> tuple[int, int]:
        """The first sample of the sound in N frames, and the number of its samples."""
        first, last = self.delay + DECODER_DELAY, count * kind.samples
        if abs(self.frames - count) <= 2:  # else the tag is not true, and what is there counts
            last = min(last, self.frames * kind.samples - max(0, self.padding - DECODER_DELAY))
        return first, max(0, last - first)


def _tag(frame: bytes, kind: Kind) -> Tag | None:
    """The tag in the first frame."""
    tag = frame[4 + kind.side :]  # there even where a checksum of two bytes precedes the side information
    if kind.layer != 3 or tag[:4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(tag[4:8], "big")
    if not flags & 1:
        return None
    size = int.from_bytes(tag[12:16], "big") if flags & 2 else 0
    lame = tag[8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2 :]
    delays = int.from_bytes(lame[21:24], "big")
    return Tag(int.from_bytes(tag[8:12], "big"), size, delays >> 12, delays & 0xFFF)


class FrameFile:
    """A file for libsndfile: some silent frames, then the frames of a stream from number `start` on."""

    def __init__(self, source: Source, stream: Stream, start: int):
        self._source, self._begin = source, stream.positions[start]
        self._head = _silence(stream) * (SILENT - 1) + _silence(stream, _reservoir(source, stream, start))
        self._size = len(self._head) + stream.positions[-1] - self._begin
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        """Bytes from here on."""
        position, head = self._position, self._head
        count = self._size - position if count < 0 else min(count, self._size - position)
        content = head[position : position + count]
        if len(content) < count:
            begin = self._begin + max(0, position - len(head))
            content += self._source.at(begin, count - len(content))
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position in the file."""
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def tell(self) -> int:
        """The position in the file."""
        return self._position


def start_frame(stream: Stream, sample: int) -> int:
    """The frame to start with so that `sample` (counted from the first frame on) is decoded as in the whole.

    Two frames before it fill the decoder's filters; a multiple of 8 keeps its rounding.
    """
    return max(0, sample // stream.kind.samples - 2) // SILENT * SILENT


def _silence(stream: Stream, content: bytes = b"") -> bytes:
    """The smallest frame without sound that holds `content` where later frames look for the bit reservoir."""
    side, header = stream.kind.side, stream.header
    for index in range(1, 15):
        start = bytes([255, header[1] | 1, index << 4 | header[2] & 0x0C, header[3]])
        room = frame_length(start) - 4 - side
        if room >= len(content):
            return start + bytes(side + room - len(content)) + content
    raise AssertionError(f"no frame holds {len(content)} bytes")


def _reservoir(source: Source, stream: Stream, start: int) -> bytes:
    """The bytes before frame `start` that it and the next ones may refer back to."""
    if stream.kind.layer != 3:
        return b""
    content = b""
    for number in range(start - 1, -1, -1):
        if len(content) >= RESERVOIR:
            break
        begin, end = stream.positions[number : number + 2]
        frame = source.at(begin, end - begin)
        content = frame[4 + stream.kind.side + (0 if frame[1] & 1 else 2) :] + content
    return content[-RESERVOIR:]


def samples_before(stream: Stream, start: int, sample: int) -> int:
    """Samples of a `FrameFile` from `start` that come before `sample`, counted from the first frame on."""
    return (SILENT - start) * stream.kind.samples + sample
