"""Check a build's shards against their index and against what the format promises (docs/format.md)."""

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from corpus import files
from corpus.records import SAMPLE_RATE
from shards.interleave import interleave, speech_tokens
from shards.samples import read_index, read_samples, read_utterance
from shards.sequence import make_document, parse_spans
from shards.strategies import span_generator, strategy_of
from shards.vocabulary import Vocabulary
from shards.write import MEMBERS, SCHEMA, SHARED, drawn_words

_LIMIT = 5
"""Findings per shard; one bad setting can affect every sample."""


def verify(build: Path | str) -> list[str]:
    """All faults of the shards of a build, one line each, each with its file; empty if there are none.

    Compared are: the vocabulary's hash with its file, the index and every sample; size, sha256 and block checksums of
    each shard; its counts of samples, tokens and seconds; its members; the raw streams with the vocabulary and with
    the words; the materialised sequence with one drawn again from seed and strategy. A key may occur once per stream,
    so that no example is both in train and in valid. Nothing is unpickled.
    """
    folder = files.join_path(build, "shards")
    try:
        index = read_index(build)
        vocabulary = Vocabulary.load(folder)
    except ValueError as error:
        return [str(error)]
    findings = []
    if index["vocabulary"] != vocabulary.hash:
        findings.append(f"{folder}/index.json: vocabulary must be that of vocabulary.json, {vocabulary.hash}")
    if index["schema"] != SCHEMA:
        findings.append(
            f"{folder}/index.json: schema: need {SCHEMA} to compare sequences with their strategy, got "
            f"{index['schema']}; run `wordweave interleave` again"
        )
    known = set()
    for stream, splits in sorted(index["streams"].items()):
        keys: list[np.ndarray] = []
        paths = [
            (files.join_path(folder, entry["file"]), entry)
            for split in sorted(splits)
            for entry in splits[split]
        ]
        for path, entry in paths:
            known.add(path)
            findings += _shard(path, entry, stream, index["schema"], vocabulary, keys)
        findings += _repeated_keys([path for path, _ in paths], keys)
    here = {str(path) for path in files.to_path(folder).glob("*/*.tar")}
    findings += [
        f"{path}: not in index.json" for path in sorted(here - {str(files.to_path(path)) for path in known})
    ]
    return findings


def _shard(
    path: str,
    entry: Mapping[str, Any],
    stream: str,
    schema: int,
    vocabulary: Vocabulary,
    keys: list[np.ndarray],
) -> list[str]:
    """Findings in one shard; its keys, hashed, are added to `keys`."""
    digests: list[int] = []
    findings: list[str] = []
    totals: Counter[str] = Counter()
    shared: list[dict[str, Any]] = []
    members: set[str] = set()
    first = last = None
    try:
        findings += [f"{path}: {rule}" for rule in _content(path, entry)]
        for sample in read_samples(path):
            last = sample["__key__"]
            first = first or last
            digests.append(_digest(last))
            totals["samples"] += 1
            members.update(sample.keys() - {"__key__"})
            fields = {name: value for name, value in sample["json"].items() if name in SHARED}
            shared = shared if fields in shared else [*shared, fields]
            try:
                rules = _sample(sample, stream, schema, vocabulary, totals)
                findings += [f"{path}: {last}: {rule}" for rule in rules]
            except (ValueError, KeyError, TypeError) as error:
                findings.append(f"{path}: {last}: {error}")
            if len(findings) >= _LIMIT:
                findings = [*findings[:_LIMIT], f"{path}: more findings, left out"]
                break
        else:
            words = {f"{name} words": count for name, count in entry["words"].items()}
            expected = {name: entry[name] for name in ("samples", "audio_samples")} | entry["tokens"]
            expected |= words if schema == SCHEMA else {}
            if _positive(expected) != _positive(totals):
                findings.append(f"{path}: counts in the index must be {dict(totals)}, got {expected}")
            if any(value != entry["shared"] for value in shared):
                findings.append(
                    f"{path}: shared in the index must be what all samples share, got {entry['shared']}"
                )
            listed = entry.get("members", sorted(members & MEMBERS))  # absent in schema 1
            if sorted(members) != listed:
                findings.append(f"{path}: members in the index must be {sorted(members)}, got {listed}")
            if (first, last) != (entry["first"], entry["last"]):
                findings.append(f"{path}: first and last in the index must be {first} and {last}")
            if entry["seconds"] != entry["audio_samples"] / SAMPLE_RATE:
                findings.append(f"{path}: seconds in the index must be audio_samples / {SAMPLE_RATE}")
    except (ValueError, KeyError, TypeError) as error:
        findings.append(str(error) if str(error).startswith(path) else f"{path}: {error!r}")
    keys.append(np.array(digests, dtype=np.uint64))
    return findings


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _content(path: str, entry: Mapping[str, Any]) -> Iterator[str]:
    """Rules that the bytes of a shard break; it is read a block at a time."""
    size, blocks = files.size(path), entry["blocks"]
    if size != entry["bytes"]:
        yield f"need {entry['bytes']} bytes as in the index, got {size}"
    digest = hashlib.sha256()
    cuts = blocks["offsets"]
    if (
        cuts != sorted(cuts)
        or len(cuts) != len(blocks["crc32"]) + 1
        or len(cuts) != -(-entry["samples"] // blocks["samples"]) + 1
    ):
        yield "blocks in the index must cover its samples in order"
        cuts = [0]
    for number, (start, stop) in enumerate(pairwise(cuts)):
        content = files.read(path, start, stop)
        digest.update(content)
        if zlib.crc32(content) != blocks["crc32"][number]:
            yield f"bytes {start} to {stop} differ from the index"
    digest.update(files.read(path, cuts[-1]))
    if digest.hexdigest() != entry["sha256"]:
        yield f"sha256 must be {entry['sha256']}, got {digest.hexdigest()}"


def _sample(
    sample: Mapping[str, Any], stream: str, schema: int, vocabulary: Vocabulary, totals: Counter[str]
) -> Iterator[str]:
    """Rules that a sample breaks; its counts are added to `totals`."""
    record, key, tokens = sample["json"], sample["__key__"], sample["tokens.npy"]
    totals["audio_samples"] += record["samples"]
    totals.update(vocabulary.counts(tokens))
    if schema == SCHEMA:
        totals.update({f"{name} words": count for name, count in drawn_words(record).items()})
    if record.get("schema") != schema or record.get("id") != key or record.get("stream") != stream:
        yield f"json must have schema {schema}, its key as id, and stream {stream}"
        return
    if record["vocabulary"] != vocabulary.hash:
        yield f"made with vocabulary {record['vocabulary']}, not {vocabulary.hash}"
        return
    if record["seconds"] != record["samples"] / SAMPLE_RATE:
        yield f"seconds must be samples / {SAMPLE_RATE}, got {record['seconds']} and {record['samples']}"
    spans = parse_spans(tokens, vocabulary)
    if stream != "interleaved" and [span.speech for span in spans] != [stream == "speech"]:
        yield f"tokens.npy must be one {stream} span"
    if stream == "text":
        return
    utterance = read_utterance(sample, vocabulary)
    if stream == "interleaved" and sample["times.npy"].T.tolist() != [word[2:4] for word in record["words"]]:
        yield "times.npy must be the starts and ends of its words"
    if stream == "speech":
        expected = speech_tokens(utterance)
    elif schema != SCHEMA or record["strategy"] is None or record["seed"] is None:
        return
    else:
        strategy = strategy_of(record["strategy"])
        expected = np.array(interleave(utterance, strategy, span_generator(record["seed"], 0, key)))
    if not np.array_equal(tokens, make_document(expected, vocabulary, eos=record["eos"])):
        yield "tokens.npy must be the sequence of its units, words, strategy and seed"


def _repeated_keys(paths: list[str], keys: list[np.ndarray]) -> Iterator[str]:
    """Shards that repeat a key of an earlier one."""
    hashes = np.concatenate([*keys, np.zeros(0, dtype=np.uint64)])
    shards = np.repeat(np.arange(len(keys)), [len(part) for part in keys])
    order = np.lexsort((shards, hashes))
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    pairs = Counter((int(shards[order[i]]), int(shards[order[i + 1]])) for i in again)
    for (one, other), count in sorted(pairs.items()):
        yield f"{paths[other]}: {count} keys are also in {paths[one]}"


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
