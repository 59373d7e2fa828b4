"""Documents of one stream in an order that no world size changes: lanes, each with a share of the blocks.

A block is a run of samples in a shard that is read at once. In every epoch the blocks are permuted and dealt to the
lanes; a lane shuffles the samples of a few blocks at a time (its window). All draws are keyed by seed, epoch and
names, so a place in the stream is four integers and no lane knows of another.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from corpus import files
from shards.interleave import generator
from shards.tar import scan

BLOCK = np.dtype(
    [("file", np.int32), ("start", np.int64), ("stop", np.int64), ("samples", np.int32), ("crc32", np.uint32)]
)
"""A block: number of its shard, its bytes [start, stop), how many samples they hold, their checksum."""

Place = Sequence[int]
"""Epoch, window in the epoch, document in the window, tokens of that document already given."""


Sample = tuple[str, str, dict[str, bytes]]
"""Path of its shard, key, members by extension."""


@dataclass
class Source:
    """One stream of a build, dealt to lanes.

    Attributes:
        name: of the stream.
        paths: of its shards.
        blocks: (B,) of BLOCK.
        members: the extensions a document is made from; others are not kept.
        documents: (samples, epoch) -> (N,) int32 ids of each.
        seed, lanes: what the order depends on.
        buffer: samples per window.
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
            while len(self._orders) > 3:  # lanes drift apart by an epoch or so
                del self._orders[min(self._orders)]
            order = generator(self.seed, epoch, f"{self.name}/order").permutation(len(self.blocks))
            self._orders[epoch] = order.astype(np.int32)
        order = self._orders[epoch]
        return order[lane :: self.lanes] if lane < len(order) else order[[lane % len(order)]]

    def read(self, number: int) -> list[Sample]:
        """The samples of a block, its checksum compared, with the members that are kept."""
        content, path = read_block(self.paths, self.blocks[number])
        return [
            (path, key, {name: content[a:b] for name, (a, b) in members.items() if name in self.members})
            for key, members in scan(content, 0, len(content), path)
        ]


class Reader:
    """Documents of one lane and stream, without end, from a place on."""

    def __init__(self, source: Source, lane: int, place: Place = (0, 0, 0, 0)):
        self.source, self.lane = source, lane
        self.move(place)

    def move(self, place: Place) -> None:
        """Go on from another place."""
        self.epoch, self.window, self.index, self.offset = place
        self._window: list[np.ndarray] | None = None
        self._document: np.ndarray | None = None
        self._keys: list[str] = []
        self.taken: list[str] = []  # keys of the documents of the last `take`

    @property
    def place(self) -> list[int]:
        """Where the next token stands."""
        return [self.epoch, self.window, self.index, self.offset]

    def take(self, tokens: int) -> list[tuple[np.ndarray, int]]:
        """So many tokens: pieces of documents, and the position of each piece inside its document."""
        found = []
        self.taken = []
        while tokens:
            if self._document is None:
                self._document = self._read()
            self.taken.append(self._keys[self.index])
            piece = self._document[self.offset : self.offset + tokens]
            found.append((piece, self.offset))
            tokens -= len(piece)
            self.offset += len(piece)
            if self.offset == len(self._document):
                self._document = None
                self.index, self.offset = self.index + 1, 0
        return found

    def _read(self) -> np.ndarray:
        if self._window is None:
            self._fill()
        while self._window is None or self.index >= len(self._window):
            self.window, self.index = self.window + 1, 0
            self._fill()
        return self._window[self.index]

    def _fill(self) -> None:
        """Read the window of this place; past the last one, the first of the next epoch."""
        source = self.source
        share = source.share(self.lane, self.epoch)
        ends = np.cumsum(source.blocks["samples"][share])
        windows = (ends - 1) // source.buffer  # a block larger than the buffer skips numbers
        if self.window > windows[-1]:
            self.epoch, self.window = self.epoch + 1, 0
            return self._fill()
        samples = [sample for number in share[windows == self.window] for sample in source.read(int(number))]
        name = f"{source.name}/{self.lane}/{self.window}"
        order = generator(source.seed, self.epoch, name).permutation(len(samples))
        self._window = source.documents([samples[i] for i in order], self.epoch)
        self._keys = [samples[i][1] for i in order]
        return None


def read_block(paths: Sequence[str], block: np.void) -> tuple[bytes, str]:
    """Bytes of a block, checksum compared, and the path of its shard.

    Raises:
        ValueError: the shard is missing, truncated or differs from the index; the message names it.
    """
    path, start, stop = paths[block["file"]], int(block["start"]), int(block["stop"])
    content = files.read(path, start, stop)
    if len(content) < stop - start:
        raise ValueError(f"{path}: truncated, the index says it has at least {stop} bytes")
    if zlib.crc32(content) != block["crc32"]:
        raise ValueError(f"{path}: damaged, bytes {start} to {stop} differ from the index")
    return content, path


def blocks_of(paths: Sequence[str], entries: Sequence[Mapping[str, Any]], wanted: int) -> np.ndarray:
    """Blocks of a stream as the index gives them, (B,) of BLOCK; of a small build finer ones, down to single samples.

    Args:
        paths: of the shards.
        entries: theirs in the index.
        wanted: fewest blocks that divide evenly among the lanes.

    Raises:
        ValueError: a shard is missing or has another size than the index says, or there are no samples.
    """
    found = []
    for number, (path, entry) in enumerate(zip(paths, entries, strict=True)):
        known = entry["blocks"]
        # a bucket is asked for blocks only, not for the size of every shard before the first token
        size = entry["bytes"] if files.is_url(path) else files.size(path)
        if size != entry["bytes"]:
            raise ValueError(
                f"{path}: need {entry['bytes']} bytes as in the index, got {size}; truncated or replaced"
            )
        for i, (start, stop) in enumerate(pairwise(known["offsets"])):
            samples = min(known["samples"], entry["samples"] - i * known["samples"])
            found.append((number, start, stop, samples, known["crc32"][i]))
    if not found:
        raise ValueError(f"{', '.join(paths)}: need at least one sample, got none")
    blocks = np.array(found, dtype=BLOCK)
    if len(blocks) >= wanted:
        return blocks
    size = max(1, int(blocks["samples"].sum()) // wanted)
    return np.concatenate([_split(paths, block, size) for block in blocks])


def _split(paths: Sequence[str], block: np.void, size: int) -> np.ndarray:
    """A block as several of `size` samples."""
    content, path = read_block(paths, block)
    starts = [min(begin for begin, _ in m.values()) - 512 for _, m in scan(content, 0, len(content), path)]
    cuts = [*starts[::size], len(content)]
    first = int(block["start"])
    found = [
        (block["file"], first + a, first + b, min(size, len(starts) - i * size), zlib.crc32(content[a:b]))
        for i, (a, b) in enumerate(pairwise(cuts))
    ]
    return np.array(found, dtype=BLOCK)
