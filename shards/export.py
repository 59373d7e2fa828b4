"""A build's documents for other trainers: Hugging Face `datasets` (Parquet), and flat token files."""

import json
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files
from shards.samples import read_documents, read_index, read_samples
from shards.vocabulary import Vocabulary
from shards.write import MEMBERS

_ROWS = 1000  # per row group: what is held in memory
_ARRAYS = {"tokens": pa.int32(), "units": pa.int16(), "pitch": pa.int16(), "style": pa.int16()}
_WORD = pa.struct([("text", pa.string()), ("start", pa.float64()), ("end", pa.float64())])
_FACTS = {
    "id": pa.string(),
    "text": pa.string(),
    "speaker": pa.string(),
    "language": pa.string(),
    "licence": pa.string(),
    "source": pa.string(),
    "source_split": pa.string(),
}
_SCHEMA = pa.schema(
    [
        *_FACTS.items(),
        ("seconds", pa.float64()),
        ("words", pa.list_(_WORD)),
        *((name, pa.list_(value)) for name, value in _ARRAYS.items()),
    ]
)
_MEGATRON_TYPES = {"uint16": 8, "int32": 4}


def export_parquet(build: Path | str, folder: Path | str) -> dict[str, int]:
    """Write `<folder>/<stream>/<split>-00000-of-00003.parquet`, one file per shard, and a README.md that names them.

    `datasets.load_dataset(folder, "interleaved")` reads the result. Columns: id, text, speaker, language, licence,
    source, source_split, seconds, words, tokens (the materialised document), the raw units, pitch and style, and the
    members that the build has added; null where a sample has none.

    Returns:
        "stream/split" -> rows.
    """
    folder = files.to_path(folder)
    rows: dict[str, int] = {}
    for stream, split, entries in _splits(build):
        added = _added_members(build, entries)
        schema = pa.schema([*_SCHEMA, *((name.removesuffix(".npy"), kind) for name, kind in added.items())])
        for number, entry in enumerate(entries):
            path = folder / stream / f"{split}-{number:05d}-of-{len(entries):05d}.parquet"
            samples = read_samples(files.join_path(build, f"shards/{entry['file']}"))
            with (
                files.writing(path) as temporary,
                pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
            ):
                while group := [_row(sample, added) for sample in islice(samples, _ROWS)]:
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
                    rows[f"{stream}/{split}"] = rows.get(f"{stream}/{split}", 0) + len(group)
    files.write(folder / "README.md", _card(build).encode())
    Vocabulary.load(files.join_path(build, "shards")).save(folder)
    return rows


def export_tokens(build: Path | str, folder: Path | str) -> dict[str, int]:
    """Write `<folder>/<stream>_<split>.bin` and `.idx`: all documents of a stream, one after another.

    The `.bin` is plain little-endian ids, uint16 where the vocabulary fits, else int32, as nanoGPT memory-maps it. The
    `.idx` is Megatron's: where each document begins. `tokens.json` has type, counts and vocabulary.

    Returns:
        "stream/split" -> tokens.
    """
    folder = files.to_path(folder)
    splits = list(_splits(build))
    vocabulary = Vocabulary.load(files.join_path(build, "shards"))
    dtype = np.dtype("<u2" if vocabulary.padded_size <= 1 << 16 else "<i4")
    counts: dict[str, int] = {}
    vocabulary.save(folder)
    for stream, split, _ in splits:
        path = folder / f"{stream}_{split}.bin"
        lengths = []
        with files.writing(path) as temporary, open(temporary, "wb") as file:
            for tokens in read_documents(build, stream, split):
                file.write(tokens.astype(dtype).tobytes())
                lengths.append(len(tokens))
        files.write(path.with_suffix(".idx"), _megatron_index(np.array(lengths, dtype="<i4"), dtype))
        counts[f"{stream}/{split}"] = sum(lengths)
    facts: dict[str, Any] = {"dtype": dtype.name, "tokens": counts}
    facts |= {"vocabulary": vocabulary.hash, "padded_size": vocabulary.padded_size}
    files.write(folder / "tokens.json", json.dumps(facts, sort_keys=True, indent=1).encode() + b"\n")
    return counts


def _splits(build: Path | str) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(stream, split, entries) of a build, without those that have no shards."""
    for stream, splits in sorted(read_index(build)["streams"].items()):
        for split, entries in sorted(splits.items()):
            if entries:
                yield stream, split, entries


def _added_members(build: Path | str, entries: list[dict[str, Any]]) -> dict[str, pa.DataType]:
    """The members outside the format with the Parquet type of each, from the first sample that has it."""
    types: dict[str, pa.DataType] = {}
    for entry in entries:
        for name in sorted(set(entry.get("members", ())) - MEMBERS - types.keys()):
            samples = read_samples(files.join_path(build, f"shards/{entry['file']}"), frozenset({name}))
            array = next(sample[name] for sample in samples if name in sample)
            types[name] = pa.from_numpy_dtype(array.dtype)
            for _ in range(array.ndim):
                types[name] = pa.list_(types[name])
    return types


def _row(sample: dict[str, Any], added: Iterable[str]) -> dict[str, Any]:
    record = sample["json"]
    words = [{"text": word[0], "start": word[2], "end": word[3]} for word in record.get("words") or ()]
    row = {name: record.get(name) for name in _FACTS} | {"seconds": record["seconds"], "words": words or None}
    row |= {name.removesuffix(".npy"): sample[name].tolist() for name in added if name in sample}
    return row | {name: sample.get(f"{name}.npy") for name in _ARRAYS}


def _megatron_index(lengths: np.ndarray, dtype: np.dtype) -> bytes:
    """Magic, version, type, counts, then length, byte offset and document number of each sequence: one per
    document."""
    offsets = (np.cumsum(lengths, dtype="<i8") - lengths) * dtype.itemsize
    count = len(lengths)
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, _MEGATRON_TYPES[dtype.name], count, count + 1)
    return (
        head
        + lengths.tobytes()
        + offsets.astype("<i8").tobytes()
        + np.arange(count + 1, dtype="<i8").tobytes()
    )


def _card(build: Path | str) -> str:
    """The README from which `datasets` knows the files of each configuration and split."""
    lines = ["---", "configs:"]
    for stream, split, _ in _splits(build):
        if f"- config_name: {stream}" not in lines:
            lines += [f"- config_name: {stream}", "  data_files:"]
        name = {"valid": "validation"}.get(split, split)
        lines += [f"  - split: {name}", f'    path: "{stream}/{split}-*.parquet"']
    words = "Interleaved speech and text tokens made by wordweave; vocabulary.json maps ids to tokens."
    return "\n".join([*lines, "---", "", words, ""])
