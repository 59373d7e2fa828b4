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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpus import files
from shards.interleave import Strategy, document, generator, spans, strategy_of, weave
from shards.lanes import Place, Reader, Sample, Source, blocks_of
from shards.mix import Mixer
from shards.redraw import redraw_all
from shards.stream import PITCH_RATE, STYLE_RATE
from shards.tar import EXTENSIONS, decode, scan
from shards.utterance import TokenizedUtterance
from shards.vocabulary import Vocabulary
from shards.write import SHARED


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
            message names the shard.
    """
    path = str(path)
    if files.size(path) == 0:
        raise ValueError(f"{path}: need a tar, got an empty file")
    if files.is_url(path):
        yield from _decoded(files.read(path), path)
        return
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            yield from _decoded(buffer, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def _decoded(buffer: bytes | mmap.mmap, path: str) -> Iterator[dict[str, Any]]:
    for key, members in scan(buffer, 0, None, path, check=True):
        yield {"__key__": key} | {
            name: decode(name, buffer[a:b], f"{path}: {key}") for name, (a, b) in members.items()
        }


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
        starts, ends = sample["times.npy"] if "ends.npy" in sample else np.zeros((2, 0))
        return TokenizedUtterance(
            id=key,
            units=sample["units.npy"],
            unit_rate=record["unit_rate"],
            unit_centre=record["unit_centre"],
            text=sample.get("text.npy", ()),
            text_ends=sample.get("ends.npy", ()),
            starts=starts,
            ends=ends,
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
    folder = files.join_path(build, "shards")
    for entry in _entries(read_index(build), stream, split):
        for sample in read_samples(files.join_path(folder, entry["file"])):
            yield sample["tokens.npy"]


# The index ---------------------------------------------------------------------------------------------------------


def read_index(build: Path | str) -> dict[str, Any]:
    """The index of a build, as `write_index` wrote it.

    Raises:
        ValueError: there is none, or it is of another schema.
    """
    path = files.join_path(build, "shards/index.json")
    try:
        index = json.loads(files.read(path))
        if (index["format"], index["schema"]) != ("wordweave shards", 1):
            raise ValueError(
                f"need wordweave shards, schema 1, got {index['format']}, schema {index['schema']}"
            )
        index["streams"], index["vocabulary"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a usable index: {error}") from error
    return index


def _entries(index: Mapping[str, Any], stream: str, split: str) -> list[dict[str, Any]]:
    streams = index["streams"]
    if stream not in streams or split not in streams[stream] or not streams[stream][split]:
        has = [f"{name}/{part}" for name in sorted(streams) for part in sorted(streams[name])]
        raise ValueError(f"index.json: need {stream}/{split}, this build has {', '.join(has) or 'nothing'}")
    return streams[stream][split]


# Documents ---------------------------------------------------------------------------------------------------------


def _materialised(key: str, members: Mapping[str, bytes], epoch: int) -> np.ndarray:
    """The document as the shard holds it."""
    return decode("tokens.npy", members["tokens.npy"], key)


def _redrawn(
    vocabulary: Vocabulary,
    seed: int,
    strategy: Strategy | None,
    key: str,
    members: Mapping[str, bytes],
    epoch: int,
) -> np.ndarray:
    """The utterance interleaved anew for this epoch."""
    sample = {name: decode(name, content, key) for name, content in members.items()}
    utterance = read_utterance({"__key__": key, **sample}, vocabulary)
    record = sample["json"]
    if strategy is None and record["strategy"] is None:
        raise ValueError(f"sample {key}: does not say how to draw it; give the stream a strategy")
    chosen = strategy or strategy_of(record["strategy"])
    plan = spans(utterance.words, chosen, generator(seed, epoch, key))
    return document(weave(utterance, plan), vocabulary, eos=record["eos"])


def _one_by_one(
    document_of: Callable[[str, Mapping[str, bytes], int], np.ndarray], samples: list[Sample], epoch: int
) -> list[np.ndarray]:
    """The documents of samples; what is wrong with one is said with its shard."""
    found = []
    for path, key, members in samples:
        try:
            found.append(document_of(key, members, epoch))
        except KeyError as error:
            raise ValueError(f"{path}: sample {key} lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
    return found


def _all_redrawn(
    vocabulary: Vocabulary,
    seed: int,
    strategy: Strategy | None,
    shared: Mapping[str, Any],
    samples: list[Sample],
    epoch: int,
) -> list[np.ndarray]:
    """The utterances interleaved anew for this epoch: together where that can be, else one by one."""
    found = redraw_all(samples, epoch, vocabulary, seed, strategy, shared)
    return found or _one_by_one(partial(_redrawn, vocabulary, seed, strategy), samples, epoch)


def _shared(paths: Sequence[str], entries: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> dict:
    """What all samples of a stream share, as the index says."""
    for path, entry in zip(paths, entries, strict=True):
        if "shared" not in entry:
            raise ValueError(f"{path}: the index does not say what its samples share; write the shards again")
        found = entry["shared"].get("vocabulary")
        if found != vocabulary.hash:
            raise ValueError(f"{path}: made with vocabulary {found}, this one is {vocabulary.hash}")
        if entry["samples"] and entry["shared"] != entries[0]["shared"]:
            raise ValueError(
                f"{path}: need what {paths[0]} says of {', '.join(SHARED)}; write the shards again"
            )
    return entries[0]["shared"]


# The stream --------------------------------------------------------------------------------------------------------


class Stream:
    """Packed sequences of one rank, without end; `open_stream` makes it.

    Attributes:
        names: streams of the mixture; `Packed.streams` indexes them.
        vocabulary: that of the build.
        keys: stream and key of each document in the sequence that was given last.
    """

    def __init__(
        self, sources: Sequence[Source], vocabulary: Vocabulary, mixer: Mixer, rank: int, world_size: int,
        settings: dict[str, Any], places: Mapping[int, Sequence[Place]],
    ):  # fmt: skip
        self.names = tuple(source.name for source in sources)
        self.vocabulary = vocabulary
        self._mixer, self._rank, self._world_size, self._settings = mixer, rank, world_size, settings
        self.keys: list[tuple[str, str]] = []
        self._readers = {
            lane: [Reader(source, lane, place) for source, place in zip(sources, places[lane], strict=True)]
            for lane in range(rank, mixer.lanes, world_size)
        }

    @property
    def sequence(self) -> int:
        """Number of the next global sequence of this rank."""
        return self._mixer.sequence + (self._rank - self._mixer.sequence) % self._world_size

    @property
    def lane(self) -> int:
        """Lane that fills that sequence."""
        return self.sequence % self._mixer.lanes

    @property
    def lanes(self) -> list[int]:
        """Lanes of this rank in the order of their next sequences."""
        count = self._mixer.lanes // self._world_size
        return [(self.sequence + i * self._world_size) % self._mixer.lanes for i in range(count)]

    def __iter__(self) -> Iterator[Packed]:
        return self

    def __next__(self) -> Packed:
        found = [(stream, *piece) for stream, pieces in self._pieces() for piece in pieces]
        lengths = np.array([len(tokens) for _, tokens, _ in found])
        shifts = np.array([first for _, _, first in found]) - (np.cumsum(lengths) - lengths)
        tokens = np.concatenate([tokens for _, tokens, _ in found])
        return Packed(
            tokens.astype(np.int32, copy=False),
            np.repeat(np.arange(len(found), dtype=np.int32), lengths),
            (np.arange(len(tokens)) + np.repeat(shifts, lengths)).astype(np.int32),
            np.repeat(np.array([stream for stream, _, _ in found], dtype=np.int8), lengths),
        )

    def skip(self) -> None:
        """Pass over the next sequence of this rank."""
        self._pieces()

    def skip_to(self, places: Sequence[Place]) -> None:
        """Pass over the next sequence unread, its lane now standing at these places."""
        self._advance()
        for reader, place in zip(self._readers[self.lane], places, strict=True):
            reader.move(place)
        self._mixer.next()

    def keep(self, lanes: Iterable[int]) -> None:
        """Read these lanes only; sequences of others can still be skipped, at no cost."""
        self._readers = {lane: self._readers[lane] for lane in lanes}

    def places(self, lane: int) -> list[list[int]]:
        """Where a lane stands in each stream."""
        return [reader.place for reader in self._readers[lane]]

    def state(self) -> dict[str, Any]:
        """Where this rank stands, as JSON: give it to `open_stream` to go on at the next token.

        A state holds the lanes of its rank. To go on at another world size, give `open_stream` the list of the states
        of all ranks.
        """
        self._advance()
        return {
            "settings": self._settings,
            "sequence": self._mixer.sequence,
            "owed": list(self._mixer.owed),
            "drawn": [list(row) for row in self._mixer.drawn],
            "lanes": {str(lane): self.places(lane) for lane in self._readers},
        }

    def _advance(self) -> None:
        """Let the mixer pass over the sequences of other ranks."""
        for _ in range(self.sequence - self._mixer.sequence):
            self._mixer.next()

    def _pieces(self) -> list[tuple[int, list[tuple[np.ndarray, int]]]]:
        """Stream and pieces of documents of the next sequence; nothing for a lane that is not kept."""
        self._advance()
        readers = self._readers.get(self.lane)
        plan = self._mixer.next()
        if not readers:
            return []
        found = [(stream, readers[stream].take(tokens)) for stream, tokens in plan]
        self.keys = [(self.names[stream], key) for stream, _ in plan for key in readers[stream].taken]
        return found


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
        lanes: number of independent lanes.
        buffer: samples that a lane shuffles among, per stream. lanes / world_size * buffer samples are held per stream,
            about 100 MB for interleaved ones with the defaults on one process.

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
    stages = _stages(mixture)
    names = list(dict.fromkeys(name for _, weights in stages for name in weights))
    strategy = Strategy(strategy) if isinstance(strategy, str) else strategy

    folder = files.join_path(build, "shards")
    index = read_index(build)
    vocabulary = Vocabulary.load(folder)
    if index["vocabulary"] != vocabulary.hash:
        raise ValueError(
            f"{folder}: index.json was made with vocabulary {index['vocabulary']}, not {vocabulary.hash}"
        )
    entries = {name: _entries(index, name, split) for name in names}
    sources = []
    for name in names:
        anew = redraw and name == "interleaved"
        paths = [files.join_path(folder, entry["file"]) for entry in entries[name]]
        shared = _shared(paths, entries[name], vocabulary)
        sources.append(
            Source(
                name=name,
                paths=paths,
                blocks=blocks_of(paths, entries[name], 16 * lanes),
                members=EXTENSIONS - {"tokens.npy"} if anew else frozenset({"tokens.npy"}),
                documents=partial(_all_redrawn, vocabulary, seed, strategy, shared)
                if anew
                else partial(_one_by_one, _materialised),
                seed=seed,
                lanes=lanes,
                buffer=buffer,
            )
        )
    weights = [(start, [stage.get(name, 0) for name in names]) for start, stage in stages]
    mixer = Mixer(weights, sequence_length, lanes)
    shards = json.dumps([[entry["sha256"] for entry in entries[name]] for name in names])
    settings = {
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
    places: dict[int, Any] = {lane: [(0, 0, 0, 0)] * len(sources) for lane in own}
    if state is not None:
        places = _resume(mixer, settings, [state] if isinstance(state, Mapping) else list(state), own)
    return Stream(sources, vocabulary, mixer, rank, world_size, settings, places)


def _stages(
    mixture: Mapping[str, float] | Sequence[tuple[int, Mapping[str, float]]],
) -> list[tuple[int, dict]]:
    """A mixture or a schedule of them as checked stages."""
    given = [(0, mixture)] if isinstance(mixture, Mapping) else mixture
    stages = [(start, dict(weights)) for start, weights in given]
    starts = [start for start, _ in stages]
    in_order = starts[:1] == [0] and starts == sorted(set(starts))
    sums = [sum(weights.values()) for _, weights in stages if all(weight >= 0 for weight in weights.values())]
    if not in_order or len(sums) < len(stages) or not all(0 < total < float("inf") for total in sums):
        raise ValueError(f"mixture: need weights >= 0, not all 0, in stages from token 0 on, got {mixture}")
    return stages


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
