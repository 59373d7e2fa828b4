"""Parquet files with the audio in a column, as Hugging Face data sets have it; read in place."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from corpus import files
from corpus.adapters.base import Intake, Row, Source, measured, walk
from corpus.adapters.jsonl import NAMES, beside, text_of_fields
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance

IDS = ("id", "utterance_id", "segment_id", "sid", "audio_id", "file")
ROWS = 1000  # of the other columns that are in memory


def read_parquet(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read a Parquet file, or all below a folder, with a column of bytes, or of structs with `bytes` or `path`.

    The id is that of the first of the columns id, utterance_id, segment_id, sid, audio_id and file that is there, else
    the file's name and the row. Text, speaker, language and licence come from the columns of `NAMES`.

    Raises:
        ValueError: there is no Parquet file, or none of its columns holds audio.
    """
    if files.is_url(source) or os.path.isfile(source):
        paths = [str(source) if files.is_url(source) else os.path.abspath(source)]
    else:
        below = walk(str(source))
        paths = [
            os.path.join(folder, name)
            for folder, names in below
            for name in names
            if name.endswith(".parquet")
        ]
    if not paths:
        raise ValueError(f"{source}: need a Parquet file, or a folder with some, found none")
    return (row for path in paths for row in _rows(path, intake))


def _rows(path: str, intake: Intake) -> Iterator[Row]:
    try:
        table = files.open_table(files.to_path(path))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet: {files.one_line(error)}") from error
    schema = table.schema_arrow
    audio = audio_column(path, schema)
    named = {*IDS, *(name for names in NAMES.values() for name in names)}
    columns = [field.name for field in schema if field.name in named and not pa.types.is_nested(field.type)]
    paths = f"{audio}.path" if _has(schema.field(audio).type, "path") else None
    row = 0
    for batch in table.iter_batches(ROWS, columns=[*columns, *([paths] if paths else [])]):
        for fields in batch.to_pylist():
            inside = fields.pop(audio, None) or {}
            yield from _row(path, row, audio, fields, inside.get("path") if paths else None, intake)
            row += 1


def _row(
    path: str, row: int, audio: str, fields: dict[str, Any], name: str | None, intake: Intake
) -> Iterator[Row]:
    own = next((str(fields[one]) for one in IDS if fields.get(one) is not None), None)
    id = own or f"{os.path.splitext(os.path.basename(path))[0]}-{row:06d}"
    known = Utterance(
        id=os.path.splitext(id)[0] if own else id, audio=f"{path}#row={row}&column={audio}", frames=0
    )
    try:
        found: dict[str, Any] = text_of_fields(fields)
        known = replace(known, **found)
    except Reject as reject:
        yield RejectedRow(known, reject)
        return
    yield from measured(known, intake, instead=name and beside(os.path.dirname(path), name))


def audio_column(path: str, schema: pa.Schema) -> str:
    """The first column of structs with `bytes`, or of bytes.

    Raises:
        ValueError: there is none.
    """
    for field in schema:
        if (
            _has(field.type, "bytes")
            or pa.types.is_binary(field.type)
            or pa.types.is_large_binary(field.type)
        ):
            return field.name
    raise ValueError(
        f"{path}: need a column of audio, with a field `bytes`, got {', '.join(schema.names)[:200]}"
    )


def _has(kind: pa.DataType, name: str) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index(name) >= 0
