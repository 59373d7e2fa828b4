"""Shards back into samples, documents, and an endless stream of packed sequences that no world size changes.

The order of the global sequences is a function of the build, the seed and the settings alone:

1. `Mixer` says, by arithmetic on the weights, which streams sequence g is made of.
2. Sequence g is filled by lane g mod L. Each lane owns a share of the blocks of each stream, dealt anew every epoch;
   it shuffles inside a window of them and packs documents one after another, carrying a cut document over to its own
   next sequence. No lane knows of another.
3. A world of R ranks, R a divisor of L, gives rank r the sequences g with g mod R = r: whole lanes.

So a state is four integers per lane and stream, and the mixer's counts.
"""

import hashlib
import json
import mmap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shards.interleave import Strategy, document, generator, spans, weave
from shards.mix import Mixer
from shards.stream import PITCH_RATE, STYLE_RATE
from shards.tar import decode, scan
from shards.utterance import TokenizedUtterance
from shards.vocabulary import Vocabulary


class Packed(NamedTuple):
    """One training sequence of L tokens.

    Attributes:
        tokens: (L,) int32 ids.
        documents: (L,) int32 number of the document inside the sequence, from 0: what attention must not cross.
        positions: (L,) int32 position inside the document, which may have begun in an earlier sequence.
        streams: (L,) int8 index into `Stream.names`.
    """

    tokens: np.ndarray
    documents: np.ndarray
    positions: np.ndarray
    streams: np.ndarray


# Samples -----------------------------------------------------------------------------------------------------------


def read_samples(path: Path | str) -> Iterator[dict[str, Any]]:
    """Decoded samples of one shard, in order: "__key__", "json" as a dict, "units.npy" and so on as arrays.

    Only JSON and npy without objects are decoded. Anything else in the tar is refused, nothing is unpickled.

    Raises:
        ValueError: the shard is missing, truncated or damaged, or holds a member the schema does not know; the
        message
            names the shard.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            if file.tell() == 0:
                raise ValueError(f"{path}: need a tar, got an empty file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                for key, members in scan(buffer, 0, None, str(path), check=True):
                    decoded = {
                        name: decode(name, buffer[a:b], f"{path}: {key}") for name, (a, b) in members.items()
                    }
                    yield {"__key__": key, **decoded}
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def read_utterance(sample: Mapping[str, Any], vocabulary: Vocabulary) -> TokenizedUtterance:
    """The utterance of a decoded speech or interleaved sample, from which any interleaving can be drawn.

    Raises:
        ValueError: the sample has another vocabulary, lacks a member, or its parts contradict each other.
    """
    record, key = sample["json"], sample["__key__"]
    if record.get("vocabulary") != vocabulary.hash:
        raise ValueError(
            f"sample {key}: made with vocabulary {record.get('vocabulary')}, this one is {vocabulary.hash}"
        )
    try:
        words = record["words"] if "ends.npy" in sample else []
        return TokenizedUtterance(
            id=key,
            units=sample["units.npy"],
            unit_rate=record["unit_rate"],
            unit_centre=record["unit_centre"],
            text=sample.get("text.npy", ()),
            text_ends=sample.get("ends.npy", ()),
            starts=np.array([word[2] for word in words], dtype=float),
            ends=np.array([word[3] for word in words], dtype=float),
            seconds=record["seconds"],
            vocabulary=vocabulary,
            pitch=sample.get("pitch.npy"),
            style=sample.get("style.npy"),
            pitch_rate=record["pitch_rate"] or PITCH_RATE,
            style_rate=record["style_rate"] or STYLE_RATE,
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"sample {key}: does not follow the schema: {error!r}") from error


def read_documents(build: Path | str, stream: str, split: str = "train") -> Iterator[np.ndarray]:
    """Materialised documents of one stream, (N,) int32 each, in the order of the shards.

    Raises:
        ValueError: as `open_stream`.
    """
    index = _open_index(build)
    for entry in _entries(index, stream, split):
        for sample in read_samples(Path(build) / "shards" / entry["file"]):
            yield sample["tokens.npy"]


# The index ---------------------------------------------------------------------------------------------------------


def _open_index(build: Path | str) -> dict[str, Any]:
    path = Path(build) / "shards" / "index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if (index["format"], index["schema"]) != ("wordweave shards", 1):
            raise ValueError(
                f"need wordweave shards, schema 1, got {index['format']}, schema {index['schema']}"
            )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a usable index: {error!r}") from error
    return index


def _entries(index: Mapping[str, Any], stream: str, split: str) -> list[dict[str, Any]]:
    streams = index["streams"]
    if stream not in streams or split not in streams[stream] or not streams[stream][split]:
        has = [f"{name}/{part}" for name in sorted(streams) for part in sorted(streams[name])]
        raise ValueError(f"index.json: need {stream}/{split}, this build has {', '.join(has) or 'nothing'}")
    return streams[stream][split]


# Lanes -------------------------------------------------------------------------------------------------------------


@dataclass
class _Source:
    """One stream of a build: its blocks, and how the documents in them are read."""

    name: str
    folder: Path
    files: list[str]
    blocks: np.ndarray  # of _BLOCK
    vocabulary: Vocabulary
    seed: int
    lanes: int
    buffer: int
    strategy: Strategy | None  # draw interleavings anew, None: read the materialised documents
    redraw: bool
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    def share(self, lane: int, epoch: int) -> np.ndarray:
        """Blocks of a lane in an epoch; with fewer blocks than lanes, some lanes share one."""
        if epoch not in self._orders:
            while len(self._orders) > 3:  # lanes drift apart by an epoch or so
                del self._orders[min(self._orders)]
            order = generator(self.seed, epoch, f"{self.name}/order").permutation(len(self.blocks))
            self._orders[epoch] = order.astype(np.int32)
        order = self._orders[epoch]
        return order[lane :: self.lanes] if lane < len(order) else order[[lane % len(order)]]

    def read(self, number: int) -> list[tuple[str, dict[str, bytes]]]:
        """Key and the members that are needed of each sample of a block."""
        block = self.blocks[number]
        where = str(self.folder / self.files[block["file"]])
        content = _read_range(where, int(block["start"]), int(block["stop"]))
        if len(content) < block["stop"] - block["start"]:
            raise ValueError(f"{where}: truncated, the index says it has at least {block['stop']} bytes")
        if zlib.crc32(content) != block["crc32"]:
            raise ValueError(
                f"{where}: damaged, bytes {block['start']} to {block['stop']} differ from the index"
            )
        found = []
        for key, members in scan(content, 0, len(content), where):
            needed = members.items() if self.redraw else [("tokens.npy", members["tokens.npy"])]
            found.append(
                (
                    key,
                    {
                        name: content[a:b]
                        for name, (a, b) in needed
                        if name != "tokens.npy" or not self.redraw
                    },
                )
            )
        return found

    def document(self, key: str, members: Mapping[str, bytes], epoch: int) -> np.ndarray:
        """Ids of one document, (N,) int32."""
        sample = {name: decode(name, content, f"{self.name}: {key}") for name, content in members.items()}
        if not self.redraw:
            return sample["tokens.npy"]
        record = sample["json"]
        utterance = read_utterance({"__key__": key, **sample}, self.vocabulary)
        strategy = self.strategy or _strategy(json.dumps(record["strategy"], sort_keys=True))
        plan = spans(utterance.words, strategy, generator(self.seed, epoch, key))
        return document(weave(utterance, plan), self.vocabulary, eos=record["eos"])


_BLOCK = np.dtype(
    [("file", np.int32), ("start", np.int64), ("stop", np.int64), ("samples", np.int32), ("crc32", np.uint32)]
)


@lru_cache(maxsize=64)
def _strategy(record: str) -> Strategy:
    return Strategy(**json.loads(record))


class _Reader:
    """One lane's documents of one stream, without end. Its place is four integers."""

    def __init__(self, source: _Source, lane: int, place: Sequence[int] = (0, 0, 0, 0)):
        self.source, self.lane = source, lane
        self.epoch, self.window, self.index, self.offset = place
        self._samples: list[tuple[str, dict[str, bytes]]] | None = None
        self._document: np.ndarray | None = None

    @property
    def place(self) -> list[int]:
        """Epoch, window in it, document in the window, tokens of that document already given."""
        return [self.epoch, self.window, self.index, self.offset]

    def take(self, tokens: int) -> list[tuple[np.ndarray, int]]:
        """So many tokens: pieces of documents, and the position of each piece inside its document."""
        found = []
        while tokens:
            if self._document is None:
                self._document = self._read()
            piece = self._document[self.offset : self.offset + tokens]
            found.append((piece, self.offset))
            tokens -= len(piece)
            self.offset += len(piece)
            if self.offset == len(self._document):
                self._document = None
                self.index, self.offset = self.index + 1, 0
        return found

    def _read(self) -> np.ndarray:
        while self._samples is None or self.index >= len(self._samples):
            if self._samples is not None:
                self.window, self.index = self.window + 1, 0
            self._fill()
        return self.source.document(*self._samples[self.index], self.epoch)

    def _fill(self) -> None:
        """Read the window that the place is in, or the first one of the next epoch."""
        share = self.source.share(self.lane, self.epoch)
        ends = np.cumsum(self.source.blocks["samples"][share])
        # a window is as many blocks as hold `buffer` samples
        window = (ends - 1) // self.source.buffer
        chosen = share[window == self.window]
        if not len(chosen):
            if self.window <= int(window[-1]):  # a block larger than the buffer leaves a number out
                self._samples = []
                return
            self.epoch, self.window = self.epoch + 1, 0
            self._fill()
            return
        samples = [sample for block in chosen for sample in self.source.read(int(block))]
        name = f"{self.source.name}/{self.lane}/{self.window}"
        order = generator(self.source.seed, self.epoch, name).permutation(len(samples))
        self._samples = [samples[i] for i in order]


class Stream:
    """Packed sequences of one rank, without end; `open_stream` makes it.

    Attributes:
        names: streams of the mixture; `Packed.streams` indexes them.
        vocabulary: that of the build.
        sequence: number of the next global sequence of this rank.
    """

    def __init__(
        self, sources: Sequence[_Source], mixer: Mixer, rank: int, world_size: int, settings: dict[str, Any],
        places: Mapping[int, Sequence[Sequence[int]]],
    ):  # fmt: skip
        self.names = tuple(source.name for source in sources)
        self.vocabulary = sources[0].vocabulary
        self._mixer, self._rank, self._world_size, self._settings = mixer, rank, world_size, settings
        self._readers = {
            lane: [_Reader(source, lane, place) for source, place in zip(sources, places[lane], strict=True)]
            for lane in range(rank, mixer.lanes, world_size)
        }

    @property
    def sequence(self) -> int:
        """Number of the next global sequence of this rank."""
        return self._mixer.sequence + (self._rank - self._mixer.sequence) % self._world_size

    def __iter__(self) -> Iterator[Packed]:
        return self

    def __next__(self) -> Packed:
        self._advance()
        readers = self._readers[self._mixer.sequence % self._mixer.lanes]
        pieces: list[np.ndarray] = []
        firsts: list[int] = []
        streams: list[int] = []
        for stream, count in self._mixer.next():
            for piece, first in readers[stream].take(count):
                pieces.append(piece)
                firsts.append(first)
                streams.append(stream)
        lengths = np.array([len(piece) for piece in pieces])
        tokens = np.concatenate(pieces)
        shifts = np.array(firsts) - (np.cumsum(lengths) - lengths)
        return Packed(
            tokens.astype(np.int32, copy=False),
            np.repeat(np.arange(len(pieces), dtype=np.int32), lengths),
            (np.arange(len(tokens)) + np.repeat(shifts, lengths)).astype(np.int32),
            np.repeat(np.array(streams, dtype=np.int8), lengths),
        )

    def _advance(self) -> None:
        """Let the mixer pass over the sequences of other ranks."""
        for _ in range(self.sequence - self._mixer.sequence):
            self._mixer.next()

    def state(self) -> dict[str, Any]:
        """Where this rank stands, as JSON: give it to `open_stream` to go on at the next token.

        A state holds the lanes of its rank. To go on at another world size, give `open_stream` the list of all ranks'
        states.
        """
        self._advance()
        return {
            "settings": self._settings,
            "sequence": self._mixer.sequence,
            "owed": list(self._mixer.owed),
            "drawn": [list(row) for row in self._mixer.drawn],
            "lanes": {str(lane): [r.place for r in readers] for lane, readers in self._readers.items()},
        }


def open_stream(
    build: Path | str,
    mixture: Mapping[str, float] | Sequence[tuple[int, Mapping[str, float]]],
    *,
    seed: int,
    sequence_length: int,
    rank: int = 0,
    world_size: int = 1,
    state: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    split: str = "train",
    redraw: bool = True,
    strategy: Strategy | str | None = None,
    lanes: int = 64,
    buffer: int = 256,
) -> Stream:
    """Open a build for training: an endless iterator of `Packed` sequences, the same at every world size.

    Rank r of R yields the global sequences r, r + R, r + 2R, ...; over an epoch of a lane every document of its share
    comes once. Documents follow each other without padding; one that does not fit goes on in the lane's next
    sequence.

    Args:
        build: the folder that holds `shards/`.
        mixture: stream -> weight, in tokens, for example {"text": 1, "speech": 1, "interleaved": 1}; or a schedule
            [(0, mixture), (tokens, mixture), ...] by global tokens.
        sequence_length: L, tokens.
        rank, world_size: which sequences to yield; the world size must divide `lanes`.
        state: `Stream.state()` of an earlier run with the same settings, or the list of the states of all its ranks.
        split: "train" or "valid".
        redraw: draw each interleaving anew in each epoch; False reads the materialised ones.
        strategy: how to draw; None takes what the build's own samples say.
        lanes: number of independent lanes. Memory grows with lanes / world_size.
        buffer: samples that a lane shuffles among, per stream.

    Raises:
        ValueError: a stream, split, shard or vocabulary is missing, damaged or of another build than it says, the
            settings are unusable, or the state is of other settings; the message names it.
    """
    if sequence_length < 1 or buffer < 1 or lanes < 1:
        raise ValueError(
            f"stream: need sequence_length, buffer and lanes >= 1, got {sequence_length}, {buffer} and {lanes}"
        )
    if world_size < 1 or lanes % world_size or not 0 <= rank < world_size:
        raise ValueError(
            f"stream: need a world size that divides {lanes} lanes and a rank below it, got {world_size} and {rank}"
        )
    stages = [(0, mixture)] if isinstance(mixture, Mapping) else list(mixture)
    names = list(dict.fromkeys(name for _, weights in stages for name in weights))
    starts = [start for start, _ in stages]
    usable = all(min(weights.values()) >= 0 and sum(weights.values()) > 0 for _, weights in stages if weights)
    if (
        not names
        or not usable
        or starts[0] != 0
        or starts != sorted(set(starts))
        or not all(w for _, w in stages)
    ):
        raise ValueError(f"mixture: need weights >= 0, not all 0, in stages from token 0 on, got {mixture}")
    strategy = Strategy(strategy) if isinstance(strategy, str) else strategy

    folder = Path(build) / "shards"
    index = _open_index(build)
    vocabulary = Vocabulary.load(folder)
    if index["vocabulary"] != vocabulary.hash:
        raise ValueError(
            f"{folder}: index.json was made with vocabulary {index['vocabulary']}, not {vocabulary.hash}"
        )
    sources = []
    for name in names:
        entries = _entries(index, name, split)
        sources.append(
            _Source(
                name=name,
                folder=folder,
                files=[entry["file"] for entry in entries],
                blocks=_blocks(folder, entries, 16 * lanes),
                vocabulary=vocabulary,
                seed=seed,
                lanes=lanes,
                buffer=buffer,
                strategy=strategy,
                redraw=redraw and name == "interleaved",
            )
        )
    mixer = Mixer(
        [(start, [weights.get(name, 0) for name in names]) for start, weights in stages],
        sequence_length,
        lanes,
    )
    settings = {
        "names": names,
        "stages": [[start, *(str(weights.get(name, 0)) for name in names)] for start, weights in stages],
        "seed": seed,
        "sequence_length": sequence_length,
        "split": split,
        "redraw": redraw,
        "strategy": None if strategy is None else repr(strategy),
        "lanes": lanes,
        "buffer": buffer,
        "vocabulary": vocabulary.hash,
        "shards": [entry["sha256"] for name in names for entry in _entries(index, name, split)],
    }
    settings["shards"] = hashlib.sha256(json.dumps(settings["shards"]).encode()).hexdigest()
    own = range(rank, lanes, world_size)
    places: dict[int, Any] = {lane: [(0, 0, 0, 0)] * len(sources) for lane in own}
    if state is not None:
        places = _resume(mixer, settings, [state] if isinstance(state, Mapping) else list(state), own)
    return Stream(sources, mixer, rank, world_size, settings, places)


def _resume(
    mixer: Mixer, settings: Mapping[str, Any], states: Sequence[Mapping[str, Any]], own: range
) -> dict[int, Any]:
    """Set the mixer to where the states stand and give the places of our lanes."""
    for state in states:
        differ = [name for name, value in settings.items() if state["settings"].get(name) != value]
        if differ:
            name = differ[0]
            raise ValueError(
                f"state: made with {name} {state['settings'].get(name)}, this stream has {settings[name]}"
            )
    first = min(states, key=lambda state: state["sequence"])
    if sorted(state["sequence"] - first["sequence"] for state in states) != list(range(len(states))):
        raise ValueError(f"state: need states of one moment, got sequences {[s['sequence'] for s in states]}")
    places = {int(lane): place for state in states for lane, place in state["lanes"].items()}
    missing = [lane for lane in own if lane not in places]
    if missing:
        raise ValueError(
            f"state: holds no lane {missing[0]}; to change the world size give the states of all ranks as a list"
        )
    mixer.sequence, mixer.owed = first["sequence"], list(first["owed"])
    mixer.drawn = [list(row) for row in first["drawn"]]
    return places


def _blocks(folder: Path, entries: Sequence[Mapping[str, Any]], wanted: int) -> np.ndarray:
    """Blocks of a stream, as the index gives them; of a small build finer ones, down to single samples."""
    found = []
    for number, entry in enumerate(entries):
        path, known = str(folder / entry["file"]), entry["blocks"]
        size = _file_size(path)
        if size != entry["bytes"]:
            raise ValueError(
                f"{path}: need {entry['bytes']} bytes as in the index, got {size}; truncated or replaced"
            )
        starts = known["offsets"]
        for i, (start, stop) in enumerate(pairwise(starts)):
            samples = min(known["samples"], entry["samples"] - i * known["samples"])
            found.append((number, start, stop, samples, known["crc32"][i]))
    blocks = np.array(found, dtype=_BLOCK)
    if not len(blocks):
        raise ValueError(
            f"{folder}: need at least one sample, {[entry['file'] for entry in entries]} hold none"
        )
    if len(blocks) >= wanted:
        return blocks
    size = max(1, int(blocks["samples"].sum()) // wanted)
    return np.concatenate([_split(folder, entries, block, size) for block in blocks])


def _split(folder: Path, entries: Sequence[Mapping[str, Any]], block: np.void, size: int) -> np.ndarray:
    """A block as several of `size` samples."""
    path = str(folder / entries[block["file"]]["file"])
    content = _read_range(path, int(block["start"]), int(block["stop"]))
    if zlib.crc32(content) != block["crc32"]:
        raise ValueError(f"{path}: damaged, bytes {block['start']} to {block['stop']} differ from the index")
    starts = [min(begin for begin, _ in m.values()) - 512 for _, m in scan(content, 0, len(content), path)]
    cuts = [*starts[::size], len(content)]
    found = [
        (
            block["file"],
            block["start"] + a,
            block["start"] + b,
            min(size, len(starts) - i * size),
            zlib.crc32(content[a:b]),
        )
        for i, (a, b) in enumerate(pairwise(cuts))
    ]
    return np.array(found, dtype=_BLOCK)


def _file_size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise ValueError(f"{path}: missing: {error}") from error


def _read_range(path: str, start: int, stop: int) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(stop - start)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
