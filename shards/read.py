"""An endless stream of packed sequences that no world size changes.

The order of the global sequences is a function of the build, the seed and the settings alone:

1. `mixture.DeficitRoundRobin` decides, by arithmetic on the weights, which streams sequence g consists of.
2. Lane g mod L fills sequence g. Each lane owns a share of the blocks of each stream, another one in every epoch; it
   shuffles inside a buffer and packs documents one after another; the rest of a document that is cut goes into its own
   next sequence. No lane depends on another.
3. A world of R ranks, R a divisor of L, gives rank r the sequences g with g mod R = r: whole lanes.

So a state is four integers per lane and stream, and the counts of the mixture.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpus import files
from shards.lanes import Cursor, Reader, Source, read_blocks
from shards.mixture import DeficitRoundRobin
from shards.redraw import MATERIALISED, REDRAWN, materialised_documents, redrawn_documents
from shards.samples import read_index, shard_entries
from shards.strategies import Strategy, make_strategy
from shards.vocabulary import Vocabulary
from shards.write import SHARED

ORDER = 2
"""Version of the order of the stream: a state of another version cannot be resumed."""


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


class Stream:
    """Endless packed sequences of one rank; made by `open_stream`.

    Attributes:
        names: streams of the mixture; `Packed.streams` indexes them.
        vocabulary: that of the build.
        keys: stream and key of each document in the last sequence.
    """

    def __init__(
        self, sources: Sequence[Source], vocabulary: Vocabulary, round_robin: DeficitRoundRobin, rank: int,
        world_size: int, settings: dict[str, Any], cursors: Mapping[int, Sequence[Cursor]],
    ):  # fmt: skip
        self.names = tuple(source.name for source in sources)
        self.vocabulary = vocabulary
        self._round_robin, self._rank, self._world_size, self._settings = (
            round_robin,
            rank,
            world_size,
            settings,
        )
        self.keys: list[tuple[str, str]] = []
        self._readers = {
            lane: [
                Reader(source, lane, cursor) for source, cursor in zip(sources, cursors[lane], strict=True)
            ]
            for lane in range(rank, round_robin.lanes, world_size)
        }

    @property
    def sequence(self) -> int:
        """Number of the next global sequence of this rank."""
        return self._round_robin.sequence + (self._rank - self._round_robin.sequence) % self._world_size

    @property
    def lane(self) -> int:
        """Lane that fills that sequence."""
        return self.sequence % self._round_robin.lanes

    @property
    def lanes(self) -> list[int]:
        """Lanes of this rank in the order of their next sequences."""
        count = self._round_robin.lanes // self._world_size
        return [(self.sequence + i * self._world_size) % self._round_robin.lanes for i in range(count)]

    def __iter__(self) -> Iterator[Packed]:
        return self

    def __next__(self) -> Packed:
        parts = [(stream, *piece) for stream, pieces in self._read() for piece in pieces]
        lengths = np.array([len(tokens) for _, tokens, _ in parts])
        shifts = np.array([first for _, _, first in parts]) - (np.cumsum(lengths) - lengths)
        tokens = np.concatenate([tokens for _, tokens, _ in parts])
        return Packed(
            tokens.astype(np.int32, copy=False),
            np.repeat(np.arange(len(parts), dtype=np.int32), lengths),
            (np.arange(len(tokens)) + np.repeat(shifts, lengths)).astype(np.int32),
            np.repeat(np.array([stream for stream, _, _ in parts], dtype=np.int8), lengths),
        )

    def skip(self) -> None:
        """Skip the next sequence of this rank."""
        self._read()

    def skip_to(self, cursors: Sequence[Cursor]) -> None:
        """Skip the next sequence unread, and set the cursors that its lane has after it."""
        self._advance()
        for reader, cursor in zip(self._readers[self.lane], cursors, strict=True):
            reader.seek(cursor)
        self._round_robin.next()

    def keep(self, lanes: Iterable[int]) -> None:
        """Read these lanes only; those of other lanes can still be skipped, at no cost."""
        self._readers = {lane: self._readers[lane] for lane in lanes}

    def cursors(self, lane: int) -> list[list[int]]:
        """The cursor of a lane in each stream."""
        return [reader.cursor for reader in self._readers[lane]]

    def state(self) -> dict[str, Any]:
        """The state of this rank as JSON, with which `open_stream` continues at the next token.

        A state holds the lanes of its rank. To continue at another world size, give `open_stream` the list of the
        states of all ranks.
        """
        self._advance()
        return {
            "settings": self._settings,
            "sequence": self._round_robin.sequence,
            "deficits": list(self._round_robin.deficits),
            "given": [list(row) for row in self._round_robin.given],
            "lanes": {str(lane): self.cursors(lane) for lane in self._readers},
        }

    def _advance(self) -> None:
        """Skip the sequences of other ranks in the mixture."""
        for _ in range(self.sequence - self._round_robin.sequence):
            self._round_robin.next()

    def _read(self) -> list[tuple[int, list[tuple[np.ndarray, int]]]]:
        """Stream and pieces of documents of the next sequence; nothing for a lane that is not kept."""
        self._advance()
        readers = self._readers.get(self.lane)
        parts = self._round_robin.next()
        if not readers:
            return []
        pieces = [(stream, readers[stream].read(tokens)) for stream, tokens in parts]
        self.keys = [(self.names[stream], key) for stream, _ in parts for key in readers[stream].keys]
        return pieces


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

    Rank r of R yields the global sequences r, r + R, r + 2R, ...; in an epoch of a lane every document of its share
    occurs once. Documents follow each other without padding; one that does not fit continues in the lane's next
    sequence.

    Args:
        build: the folder or URL that holds `shards/`.
        mixture: stream -> weight, in tokens, for example {"text": 1, "speech": 1, "interleaved": 1}; or a schedule
            [(0, mixture), (tokens, mixture), ...] by global tokens.
        sequence_length: L, tokens.
        rank, world_size: which sequences to yield; the world size must divide `lanes`.
        state: `Stream.state()` of an earlier run with the same settings, or the list of the states of all its ranks.
        split: "train" or "valid".
        redraw: draw new spans in each epoch; False reads the materialised sequences.
        strategy: how to draw; None: as in the build's own samples.
        lanes: number of independent lanes. It is part of the order: another number is another stream.
        buffer: samples in the shuffle buffer of a lane, per stream. lanes / world_size * buffer samples are in memory
            per stream, about 100 MB for interleaved ones with the defaults on one process.

    Raises:
        ValueError: a stream, split, shard or vocabulary is missing, damaged or of another build, the settings are
            unusable, or the state is of other settings; the message names it.
    """
    if sequence_length < 1 or buffer < 1 or lanes < 1:
        raise ValueError(
            f"stream: need sequence_length, buffer and lanes >= 1, got {sequence_length}, {buffer} and {lanes}"
        )
    check_world_size(world_size, lanes)
    if not 0 <= rank < world_size:
        raise ValueError(f"stream: need 0 <= rank < world size {world_size}, got rank {rank}")
    stages = _stages(mixture)
    names = list(dict.fromkeys(name for _, weights in stages for name in weights))
    strategy = make_strategy(strategy) if isinstance(strategy, str) else strategy

    folder = files.join_path(build, "shards")
    index = read_index(build)
    vocabulary = Vocabulary.load(folder)
    if index["vocabulary"] != vocabulary.hash:
        raise ValueError(
            f"{folder}: index.json was made with vocabulary {index['vocabulary']}, not {vocabulary.hash}"
        )
    entries = {name: shard_entries(index, name, split) for name in names}
    sources = []
    for name in names:
        redrawn = redraw and name == "interleaved"
        paths = [files.join_path(folder, entry["file"]) for entry in entries[name]]
        shared = _shared(paths, entries[name], vocabulary)
        sources.append(
            Source(
                name=name,
                paths=paths,
                blocks=read_blocks(paths, entries[name], 16 * lanes),
                members=REDRAWN if redrawn else MATERIALISED,
                documents=partial(redrawn_documents, vocabulary, seed, strategy, shared)
                if redrawn
                else materialised_documents,
                seed=seed,
                lanes=lanes,
                buffer=buffer,
            )
        )
    weights = [(start, [stage.get(name, 0) for name in names]) for start, stage in stages]
    round_robin = DeficitRoundRobin(weights, sequence_length, lanes)
    shards = json.dumps([[entry["sha256"] for entry in entries[name]] for name in names])
    settings = {
        "order": ORDER,
        "names": names,
        "weights": [[start, *map(str, row)] for start, row in weights],
        "seed": seed,
        "sequence_length": sequence_length,
        "split": split,
        "redraw": redraw,
        "strategy": None if strategy is None else repr(strategy),
        "lanes": lanes,
        "buffer": buffer,
        "vocabulary": vocabulary.hash,
        "shards": hashlib.sha256(shards.encode()).hexdigest(),
    }
    own = range(rank, lanes, world_size)
    cursors: dict[int, Any] = {lane: [(0, 0, 0, 0)] * len(sources) for lane in own}
    if state is not None:
        cursors = _resume(round_robin, settings, [state] if isinstance(state, Mapping) else list(state), own)
    return Stream(sources, vocabulary, round_robin, rank, world_size, settings, cursors)


def check_world_size(world_size: int, lanes: int) -> None:
    """Refuse a world size that does not divide the lanes, and name those that do."""
    if world_size < 1 or lanes % world_size:
        divisors = ", ".join(str(number) for number in range(1, lanes + 1) if lanes % number == 0)
        multiple = -(-lanes // max(world_size, 1)) * max(world_size, 1)
        raise ValueError(
            f"world size: need a divisor of the {lanes} lanes ({divisors}), got {world_size}; "
            f"or set lanes to a multiple of it, such as {multiple}"
        )


def _shared(paths: Sequence[str], entries: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> dict:
    """What all samples of a stream share, from the index."""
    for path, entry in zip(paths, entries, strict=True):
        if "shared" not in entry:
            raise ValueError(
                f"{path}: its entry in the index lacks what its samples share; write the shards again"
            )
        hash = entry["shared"].get("vocabulary")
        if hash != vocabulary.hash:
            raise ValueError(f"{path}: made with vocabulary {hash}, this one is {vocabulary.hash}")
        if entry["samples"] and entry["shared"] != entries[0]["shared"]:
            raise ValueError(
                f"{path}: need the same {', '.join(SHARED)} as {paths[0]}; write the shards again"
            )
    return entries[0]["shared"]


def _stages(
    mixture: Mapping[str, float] | Sequence[tuple[int, Mapping[str, float]]],
) -> list[tuple[int, dict]]:
    """A mixture or a schedule of them as checked stages."""
    schedule = [(0, mixture)] if isinstance(mixture, Mapping) else mixture
    stages = [(start, dict(weights)) for start, weights in schedule]
    starts = [start for start, _ in stages]
    in_order = starts[:1] == [0] and starts == sorted(set(starts))
    sums = [sum(weights.values()) for _, weights in stages if all(weight >= 0 for weight in weights.values())]
    if not in_order or len(sums) < len(stages) or not all(0 < total < float("inf") for total in sums):
        raise ValueError(f"mixture: need weights >= 0, not all 0, in stages from token 0 on, got {mixture}")
    return stages


def _resume(
    round_robin: DeficitRoundRobin,
    settings: Mapping[str, Any],
    states: Sequence[Mapping[str, Any]],
    own: range,
) -> dict[int, Any]:
    """Set the mixture to the states, and return the cursors of the rank's own lanes."""
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
    cursors = {int(lane): cursor for state in states for lane, cursor in state["lanes"].items()}
    missing = [lane for lane in own if lane not in cursors]
    if missing:
        raise ValueError(
            f"state: holds no lane {missing[0]}; to change the world size give the states of all ranks as a list"
        )
    round_robin.sequence, round_robin.deficits = first["sequence"], list(first["deficits"])
    round_robin.given = [list(row) for row in first["given"]]
    return cursors
