"""Documents of one stream in an order that no world size changes: lanes, each with a share of the blocks.

A block is a run of samples in a shard that is read at once. In every epoch the blocks are permuted and distributed over
the lanes; a lane fills a shuffle buffer with the samples of a few blocks at a time. All randomness is keyed by seed,
epoch and names, so a cursor in the stream is four integers and no lane depends on another.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from corpus import files, keyed
from shards.tar import scan

BLOCK = np.dtype(
    [("file", np.int32), ("start", np.int64), ("stop", np.int64), ("samples", np.int32), ("crc32", np.uint32)]
)
"""A block: number of its shard, its bytes [start, stop), how many samples they hold, their checksum."""

AT_ONCE = 16
"""Blocks that are requested from an object store at the same time."""

Cursor = Sequence[int]
"""Epoch, number of the buffer in the epoch, document in the buffer, tokens of that document already read."""


Sample = tuple[str, str, dict[str, bytes]]
"""Path of its shard, key, members by extension."""


@dataclass
class Source:
    """One stream of a build, distributed over lanes.

    Attributes:
        name: of the stream.
        paths: of its shards.
        blocks: (B,) of BLOCK.
        members: the extensions a document is made from; others are not kept.
        documents: (samples, epoch) -> (N,) int32 ids of each.
        seed, lanes: what the order depends on.
        buffer: samples per shuffle buffer.
    """

    name: str
    paths: list[str]
    blocks: np.ndarray
    members: frozenset[str]
    documents: Callable[[list[Sample], int], list[np.ndarray]]
    seed: int
    lanes: int
    buffer: int
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    def share(self, lane: int, epoch: int) -> np.ndarray:
        """Numbers of a lane's blocks in an epoch; with fewer blocks than lanes, some lanes share one."""
        if epoch not in self._orders:
            while len(self._orders) > 3:  # lanes are at most an epoch or so apart
                del self._orders[min(self._orders)]
            rng = keyed.generator(self.seed, f"block order of epoch {epoch}", self.name)
            self._orders[epoch] = rng.permutation(len(self.blocks)).astype(np.int32)
        order = self._orders[epoch]
        return order[lane :: self.lanes] if lane < len(order) else order[[lane % len(order)]]

    def shuffle(self, lane: int, epoch: int, buffer: int, samples: int) -> np.ndarray:
        """The order of the samples in a buffer of a lane."""
        rng = keyed.generator(self.seed, f"sample order of epoch {epoch}", f"{self.name}/{lane}/{buffer}")
        return rng.permutation(samples)

    def read(self, numbers: np.ndarray) -> list[Sample]:
        """The samples of some blocks with the members that are kept; the checksums of the blocks are verified."""
        return [
            (path, key, {name: content[a:b] for name, (a, b) in members.items() if name in self.members})
            for content, path in read_contents(self.paths, self.blocks[numbers])
            for key, members in scan(content, 0, len(content), path)
        ]


class Reader:
    """Endless documents of one lane and stream, from a cursor on."""

    def __init__(self, source: Source, lane: int, cursor: Cursor = (0, 0, 0, 0)):
        self.source, self.lane = source, lane
        self.seek(cursor)

    def seek(self, cursor: Cursor) -> None:
        """Continue at another cursor."""
        self.epoch, self.buffer, self.index, self.offset = cursor
        self._documents: list[np.ndarray] | None = None
        self._keys: list[str] = []
        self.keys: list[str] = []  # of the documents that the last `read` returned pieces of

    @property
    def cursor(self) -> list[int]:
        """The position of the next token."""
        return [self.epoch, self.buffer, self.index, self.offset]

    def read(self, tokens: int) -> list[tuple[np.ndarray, int]]:
        """The next `tokens` tokens: pieces of documents, and the position of each piece inside its document."""
        pieces = []
        self.keys = []
        while tokens:
            document = self._document()
            self.keys.append(self._keys[self.index])
            piece = document[self.offset : self.offset + tokens]
            pieces.append((piece, self.offset))
            tokens -= len(piece)
            self.offset += len(piece)
            if self.offset == len(document):
                self.index, self.offset = self.index + 1, 0
        return pieces

    def _document(self) -> np.ndarray:
        """The document at the cursor, which moves to the next buffer at the end of one."""
        if self._documents is None:
            self._documents = self._fill()
        while self.index >= len(self._documents):
            self.buffer, self.index = self.buffer + 1, 0
            self._documents = self._fill()
        return self._documents[self.index]

    def _fill(self) -> list[np.ndarray]:
        """Read the buffer at the cursor; after the last one of an epoch, the first of the next."""
        source = self.source
        share = source.share(self.lane, self.epoch)
        ends = np.cumsum(source.blocks["samples"][share])
        buffers = (ends - 1) // source.buffer  # a block larger than the buffer skips numbers
        if self.buffer > buffers[-1]:
            self.epoch, self.buffer = self.epoch + 1, 0
            return self._fill()
        samples = source.read(share[buffers == self.buffer])
        shuffled = [samples[i] for i in source.shuffle(self.lane, self.epoch, self.buffer, len(samples))]
        self._keys = [key for _, key, _ in shuffled]
        return source.documents(shuffled, self.epoch)


def read_contents(paths: Sequence[str], blocks: np.ndarray) -> Iterator[tuple[bytes, str]]:
    """Bytes of each block, checksum verified, and the path of its shard; from an object store several at a time.

    Raises:
        ValueError: as `read_block`.
    """
    read = partial(read_block, paths)
    if len(blocks) < 2 or not files.is_url(paths[0]):
        yield from map(read, blocks)
        return
    with ThreadPoolExecutor(min(len(blocks), AT_ONCE), thread_name_prefix="blocks") as threads:
        for start in range(0, len(blocks), AT_ONCE):  # memory holds no more than these
            yield from threads.map(read, blocks[start : start + AT_ONCE])


def read_block(paths: Sequence[str], block: np.void) -> tuple[bytes, str]:
    """Bytes of a block, checksum verified, and the path of its shard.

    Raises:
        ValueError: the shard is missing, truncated or differs from the index; the message names it.
    """
    path, start, stop = paths[block["file"]], int(block["start"]), int(block["stop"])
    content = files.read(path, start, stop)
    if len(content) < stop - start:
        raise ValueError(f"{path}: truncated: need at least {stop} bytes as in the index")
    if zlib.crc32(content) != block["crc32"]:
        raise ValueError(f"{path}: damaged, bytes {start} to {stop} differ from the index")
    return content, path


def read_blocks(paths: Sequence[str], entries: Sequence[Mapping[str, Any]], wanted: int) -> np.ndarray:
    """Blocks of a stream from the index, (B,) of BLOCK; of a small build smaller ones, down to single samples.

    Args:
        paths: of the shards.
        entries: their entries in the index.
        wanted: least number of blocks that divides evenly over the lanes.

    Raises:
        ValueError: a shard is missing or has another size than in the index, or there are no samples.
    """
    blocks = []
    for number, (path, entry) in enumerate(zip(paths, entries, strict=True)):
        known = entry["blocks"]
        # of an object store only blocks are requested, not the size of every shard before the first token
        size = entry["bytes"] if files.is_url(path) else files.size(path)
        if size != entry["bytes"]:
            raise ValueError(
                f"{path}: need {entry['bytes']} bytes as in the index, got {size}; truncated or replaced"
            )
        for i, (start, stop) in enumerate(pairwise(known["offsets"])):
            samples = min(known["samples"], entry["samples"] - i * known["samples"])
            blocks.append((number, start, stop, samples, known["crc32"][i]))
    if not blocks:
        raise ValueError(f"{', '.join(paths)}: need at least one sample, got none")
    whole = np.array(blocks, dtype=BLOCK)
    if len(whole) >= wanted:
        return whole
    size = max(1, int(whole["samples"].sum()) // wanted)
    contents = read_contents(paths, whole)
    return np.concatenate(
        [_split_block(block, *content, size) for block, content in zip(whole, contents, strict=True)]
    )


def _split_block(block: np.void, content: bytes, path: str, size: int) -> np.ndarray:
    """A block as several of `size` samples."""
    starts = [min(begin for begin, _ in m.values()) - 512 for _, m in scan(content, 0, len(content), path)]
    cuts = [*starts[::size], len(content)]
    first = int(block["start"])
    blocks = [
        (block["file"], first + a, first + b, min(size, len(starts) - i * size), zlib.crc32(content[a:b]))
        for i, (a, b) in enumerate(pairwise(cuts))
    ]
    return np.array(blocks, dtype=BLOCK)
