"""Read a build's shards: the index, samples, utterances, and documents as they were materialised."""

import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corpus import files
from shards.tar import decode, scan
from shards.utterance import TokenizedUtterance
from shards.vocabulary import Vocabulary
from shards.write import READABLE

ENTRY: dict[str, type] = {
    **{"file": str, "samples": int, "audio_samples": int, "seconds": float, "bytes": int, "sha256": str},
    **{"tokens": dict, "words": dict, "shared": dict, "blocks": dict},
}
"""Fields of a shard's entry in the index, and their types."""

BLOCKS: dict[str, type] = {"samples": int, "offsets": list, "crc32": list}
KIND_NAMES = {str: "a string", int: "a whole number", float: "a number", dict: "an object", list: "a list"}


def read_samples(path: Path | str, members: frozenset[str] | None = None) -> Iterator[dict[str, Any]]:
    """Decoded samples of one shard, in order: "__key__", "json" as a dict, "units.npy" and so on as arrays.

    Only JSON and npy without objects are decoded, members that a build has added too. Any other kind of file in the
    tar is refused, and nothing is unpickled.

    Args:
        members: decode these only; None: all.

    Raises:
        ValueError: the shard is missing, truncated or damaged, or holds a member that is neither JSON nor npy; the
            message names the shard.
    """
    path = str(path)
    if files.size(path) == 0:
        raise ValueError(f"{path}: need a tar, got an empty file")
    if files.is_url(path):
        yield from _decode(files.read(path), path, members)
        return
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            yield from _decode(buffer, path, members)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def _decode(buffer: bytes | mmap.mmap, path: str, wanted: frozenset[str] | None) -> Iterator[dict[str, Any]]:
    for key, members in scan(buffer, 0, None, path, check=True):
        yield {"__key__": key} | {
            name: decode(name, buffer[a:b], f"{path}: {key}")
            for name, (a, b) in members.items()
            if wanted is None or name in wanted
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
        rates = {name: record[name] for name in ("pitch_rate", "style_rate") if record[name] is not None}
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
            **rates,
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"sample {key}: does not follow the schema: {error!r}") from error


def read_documents(build: Path | str, stream: str, split: str = "train") -> Iterator[np.ndarray]:
    """Materialised documents of one stream, (N,) int32 each, in the order of the shards.

    Raises:
        ValueError: there is no such stream or split, or a shard is missing or damaged.
    """
    folder = files.join_path(build, "shards")
    for entry in shard_entries(read_index(build), stream, split):
        for sample in read_samples(files.join_path(folder, entry["file"]), frozenset({"tokens.npy"})):
            yield sample["tokens.npy"]


def read_index(build: Path | str) -> dict[str, Any]:
    """The index of a build, as `write_index` wrote it.

    Raises:
        ValueError: there is none, or it has a schema that this version cannot read.
    """
    path = files.join_path(build, "shards/index.json")
    if not files.to_path(path).exists():
        raise ValueError(
            f"{build}: need shards, got none; run `wordweave build` or `wordweave interleave` first"
        )
    index = files.read_record(path, "streams", "vocabulary", format="wordweave shards")
    if index.get("schema") not in READABLE:
        readable = " or ".join(map(str, READABLE))
        raise ValueError(
            f"{path}: schema: need {readable}, got {index.get('schema')}; write the shards again"
        )
    for stream, splits in _typed(index["streams"], dict, f"{path}: streams").items():
        for split, entries in _typed(splits, dict, f"{path}: {stream}").items():
            for entry in _typed(entries, list, f"{path}: {stream}/{split}"):
                _check_entry(entry, f"{path}: {stream}/{split}")
    return index


def _check_entry(entry: Any, where: str) -> None:
    """Refuse an entry of the index that lacks a field or has one of another type."""
    where += f": {_typed(entry, dict, where).get('file')}"
    for name, kind in ENTRY.items():
        _typed(entry.get(name), kind, f"{where}: {name}")
    blocks = {
        name: _typed(entry["blocks"].get(name), kind, f"{where}: {name}") for name, kind in BLOCKS.items()
    }
    if blocks["samples"] < 1 or any(
        type(number) is not int for number in blocks["offsets"] + blocks["crc32"]
    ):
        raise ValueError(f"{where}: blocks: need a size of at least 1 and whole numbers, got {blocks}")


def _typed(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(
            f"{where}: need {KIND_NAMES[kind]}, got {files.shorten(json.dumps(value))}; write the shards again"
        )
    return value


def shard_entries(index: Mapping[str, Any], stream: str, split: str) -> list[dict[str, Any]]:
    """The entries of the shards of one stream and split, at least one."""
    streams = index["streams"]
    if stream not in streams or split not in streams[stream] or not streams[stream][split]:
        has = [f"{name}/{part}" for name in sorted(streams) for part in sorted(streams[name])]
        raise ValueError(f"index.json: need {stream}/{split}, this build has {', '.join(has) or 'nothing'}")
    return streams[stream][split]
