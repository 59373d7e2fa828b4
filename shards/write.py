"""Write samples as webdataset tars with reproducible bytes, and the index over them; docs/format.md is the schema."""

import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from corpus import files
from corpus.records import SAMPLE_RATE, Utterance, Word
from shards.strategies import Strategy, count_words, draw_spans, span_generator, strategy_of
from shards.tar import ARRAY, encode, end, member
from shards.utterance import TokenizedUtterance
from shards.vocabulary import KINDS, Vocabulary

STREAMS = ("speech", "text", "interleaved")
SPLITS = ("train", "valid")
SCHEMA = 2
"""Raised when the files change. Schema 1 had another generator for the spans of tokens.npy."""
READABLE = (1, 2)

BLOCK = 64
"""Samples per block, the unit that a loader reads. The index holds the offset and checksum of each block."""

SHARED = ("vocabulary", "eos", "unit_rate", "unit_centre", "pitch_rate", "style_rate", "strategy")
"""Fields of the `.json` that all samples of a shard share. The index repeats them, so that loaders read them once."""

MEMBERS = frozenset(
    ("json", "tokens.npy", "units.npy", "pitch.npy", "style.npy", "text.npy", "ends.npy", "times.npy")
)
"""The members of the format; a build may add further arrays, which the index lists."""

_KEY = re.compile(r"[A-Za-z0-9_=-]{1,80}")  # a key ends at the first dot; a ustar name has 100 bytes


def metadata(
    utterance: Utterance,
    vocabulary: Vocabulary,
    *,
    stream: str,
    words: Sequence[Word] = (),
    tokenized: TokenizedUtterance | None = None,
    unit_hop: int | None = None,
    strategy: Strategy | None = None,
    seed: int | None = None,
    eos: bool = True,
    **more: Any,
) -> dict[str, Any]:
    """The `.json` of a speech or interleaved sample; `more` are further fields, in JSON's types.

    Args:
        words: the words with their times in seconds, interleaved only.
        tokenized: the source of the rates and of the centre of frame 0.
        unit_hop: samples at 16 kHz between two frames.
        strategy, seed: how the materialised sequence was drawn, with `span_generator(seed, 0, id)`.
        eos: whether documents of this build end with EOS; a loader that draws new spans does the same.
    """
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "stream": stream,
        "id": utterance.id,
        "text": utterance.text,
        "words": [[word.text, word.spoken, word.start, word.end, word.confidence] for word in words],
        "speaker": utterance.speaker,
        "language": utterance.language,
        "licence": utterance.licence,
        "samples": utterance.samples,
        "seconds": utterance.seconds,
        "eos": eos,
        "seed": seed,
        "strategy": None if strategy is None else asdict(strategy),
        "vocabulary": vocabulary.hash,
    }
    if tokenized is not None:
        record |= {
            "unit_rate": tokenized.unit_rate,
            "unit_hop": unit_hop,
            "unit_centre": tokenized.unit_centre,
            "pitch_rate": None if tokenized.pitch is None else tokenized.pitch_rate,
            "style_rate": None if tokenized.style is None else tokenized.style_rate,
        }
    origin = {name: getattr(utterance, name) for name in ("source", "source_split")}
    return record | {name: value for name, value in origin.items() if value is not None} | more


def text_metadata(
    key: str, vocabulary: Vocabulary, *, language: str | None = None, licence: str | None = None, eos: bool = True,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The `.json` of a text sample."""
    record = {"schema": SCHEMA, "stream": "text", "id": key, "language": language, "licence": licence}
    return record | {"samples": 0, "seconds": 0.0, "eos": eos, "vocabulary": vocabulary.hash} | more


def sample(
    record: Mapping[str, Any],
    tokens: np.ndarray | Sequence[int],
    tokenized: TokenizedUtterance | None = None,
    members: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """One training example for `write_shard`: "__key__" and members by extension, not yet bytes.

    Args:
        record: the `.json`, from `metadata` or `text_metadata`; its "id" is the key, its "stream" decides which raw
            arrays are members.
        tokens: (N,) the materialised document of the stream.
        tokenized: the source of the raw arrays; text samples have none.
        members: further arrays of numbers by name, such as {"energy.npy": (F,)}. Readers give them back as they are.

    Raises:
        ValueError: the id is no safe key, the stream is unknown, the document is empty, or a further member has an
            unusable name or holds objects.
    """
    key, stream = record["id"], record["stream"]
    if not _KEY.fullmatch(key):
        raise ValueError(f"id {key!r}: need 1 to 80 of the characters A-Z a-z 0-9 _ = - to be a shard key")
    if stream not in STREAMS:
        raise ValueError(f"sample {key}: stream must be one of {', '.join(STREAMS)}, got {stream!r}")
    example: dict[str, Any] = {
        "__key__": key,
        "json": dict(record),
        "tokens.npy": np.asarray(tokens, dtype=np.int32),
    }
    if not len(example["tokens.npy"]):
        raise ValueError(f"sample {key}: need at least one token")
    if stream != "text":
        if tokenized is None:
            raise ValueError(f"sample {key}: a {stream} sample needs the tokenized utterance")
        example["units.npy"] = tokenized.units
        optional = {"pitch.npy": tokenized.pitch, "style.npy": tokenized.style}
        example |= {name: values for name, values in optional.items() if values is not None}
    if stream == "interleaved" and tokenized is not None:
        if len(record["words"]) != tokenized.words:
            raise ValueError(
                f"sample {key}: need {tokenized.words} words in its record, got {len(record['words'])}"
            )
        times = np.stack((tokenized.starts, tokenized.ends))
        example |= {"text.npy": tokenized.text, "ends.npy": tokenized.text_ends, "times.npy": times}
    for name, values in (members or {}).items():
        array = np.asarray(values)
        if not ARRAY.fullmatch(name) or name in MEMBERS:
            raise ValueError(
                f"sample {key}: a further member needs a name like energy.npy, in a-z 0-9 _ and none of "
                f"{', '.join(sorted(MEMBERS))}; got {name!r}"
            )
        if array.dtype.kind not in "biuf":
            raise ValueError(f"sample {key}: {name}: need an array of numbers, got {array.dtype}")
        example[name] = array
    return example


def write_shard(
    path: Path | str, samples: Iterable[Mapping[str, Any]], vocabulary: Vocabulary
) -> dict[str, Any]:
    """Write samples as one webdataset tar and describe it. The same samples give the same bytes.

    The tar gets its name when it is complete: a killed writer leaves only a file with a temporary name.

    Returns:
        The entry for `write_index`: file, samples, tokens per kind, audio_samples and seconds, words written and
        spoken, members, what all samples share, bytes, sha256, first and last key, and per block of 64 samples its
        offset and crc32.

    Raises:
        ValueError: a key occurs twice, a sample has another vocabulary, or samples differ in what they must share.
    """
    target = files.to_path(path)
    counts = np.zeros(len(KINDS), dtype=np.int64)
    keys: dict[str, None] = {}
    offsets: list[int] = []
    checksums: list[int] = []
    digest = hashlib.sha256()
    words: Counter[str] = Counter()
    members: set[str] = set()
    shared: dict[str, Any] = {"vocabulary": vocabulary.hash}
    audio_samples = position = 0
    with files.writing(target) as temporary, open(temporary, "wb") as file:
        for block in _blocks(samples):
            parts = []
            for example in block:
                key, record = example["__key__"], example["json"]
                if key in keys:
                    raise ValueError(f"{path}: key {key!r} occurs twice")
                if record["vocabulary"] != vocabulary.hash:
                    raise ValueError(f"{path}: sample {key} was made with another vocabulary")
                fields = {name: record[name] for name in SHARED if name in record}
                shared = shared if keys else fields
                if fields != shared:
                    raise ValueError(f"{path}: all samples must share {', '.join(SHARED)}; {key} differs")
                keys[key] = None
                audio_samples += record["samples"]
                words.update(drawn_words(record))
                counts += np.bincount(vocabulary.kind(example["tokens.npy"]), minlength=len(KINDS))
                names = sorted(example.keys() - {"__key__"})
                members.update(names)
                parts += [member(f"{key}.{name}", encode(name, example[name])) for name in names]
            content = b"".join(parts)
            offsets.append(position)
            checksums.append(zlib.crc32(content))
            digest.update(content)
            position += file.write(content)
        closing = end(position)
        digest.update(closing)
        file.write(closing)
    ordered = list(keys)
    return {
        "file": target.name,
        "samples": len(ordered),
        "tokens": {kind: int(count) for kind, count in zip(KINDS, counts, strict=True) if count},
        "audio_samples": audio_samples,
        "seconds": audio_samples / SAMPLE_RATE,
        "words": dict(words),
        "members": sorted(members),
        "shared": shared,
        "bytes": position + len(closing),
        "sha256": digest.hexdigest(),
        "first": ordered[0] if ordered else None,
        "last": ordered[-1] if ordered else None,
        "blocks": {"samples": BLOCK, "offsets": [*offsets, position], "crc32": checksums},
    }


def drawn_words(record: Mapping[str, Any]) -> dict[str, int]:
    """How many words the materialised sequence of an interleaved sample writes and speaks: the achieved ratio."""
    if not record.get("words") or record["strategy"] is None or record["seed"] is None:
        return {}
    strategy, rng = strategy_of(record["strategy"]), span_generator(record["seed"], 0, record["id"])
    spoken, written = count_words(draw_spans(len(record["words"]), strategy, rng))
    return {"spoken": spoken, "written": written}


def write_index(
    folder: Path | str,
    entries: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    vocabulary: Vocabulary,
    **facts: Any,
) -> Path:
    """Write index.json into the shard folder, and vocabulary.json beside it.

    Args:
        folder: `<build>/shards`, which has a folder per stream.
        entries: stream -> split -> entries of `write_shard`, in the order of their files.
        facts: further fields, in JSON's types.
    """
    folder = files.to_path(folder)
    vocabulary.save(folder)
    streams = {
        stream: {
            split: [dict(entry) | {"file": f"{stream}/{entry['file']}"} for entry in shards]
            for split, shards in splits.items()
        }
        for stream, splits in entries.items()
    }
    unknown = [stream for stream in streams if stream not in STREAMS]
    if unknown:
        raise ValueError(f"index: streams must be among {', '.join(STREAMS)}, got {unknown}")
    index = {
        "format": "wordweave shards",
        "schema": SCHEMA,
        "vocabulary": vocabulary.hash,
        "streams": streams,
    } | facts
    files.write(folder / "index.json", json.dumps(index, sort_keys=True).encode() + b"\n")
    return folder / "index.json"


def _blocks(samples: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Samples, BLOCK at a time."""
    rest = iter(samples)
    while block := list(islice(rest, BLOCK)):
        yield block
