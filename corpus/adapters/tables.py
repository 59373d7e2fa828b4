"""Tables: CSV, TSV and the like, with a line of column names."""

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from corpus import files
from corpus.adapters.base import Intake, Row, Source, measured, text_of
from corpus.adapters.jsonl import (
    Fields,
    beside,
    check_names,
    declared_in,
    id_of,
    number_in,
    origin_of,
    required,
)
from corpus.audio import Header, read_header
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance
from corpus.text_files import open_text

LONGEST_LINE = 1 << 20  # bytes
FIELDS = Fields(id_required=False)


@dataclass(frozen=True, slots=True)
class Columns:
    """How one kind of table is read."""

    delimiter: str = ""  # empty: the one of tab, semicolon, bar and comma that the first line has most of
    header: tuple[str, ...] = ()  # names of the columns of a table whose first line names none
    quoted: bool = True  # whether quotation marks enclose cells
    fields: Callable[[dict[str, str]], dict[str, str]] = lambda cells: (
        cells
    )  # cells by column -> fields by name


def read_table(source: Source, intake: Intake = Intake(), columns: Columns = Columns()) -> Iterator[Row]:  # noqa: B008
    """Read a table whose first line names its columns: those of a JSON Lines manifest.

    An empty cell is the same as leaving a field out. A row from which no id can be read is named
    "<file name>:<line number>".

    Raises:
        ValueError: there is no such file, it is no text, or has no column for the audio.
    """
    source = files.to_path(source)
    if not source.is_file():
        raise ValueError(f"{source}: need a table, there is {'a folder' if source.is_dir() else 'none'}")
    return _rows(source, intake, columns)


def _rows(source: Path, intake: Intake, columns: Columns) -> Iterator[Row]:
    header_of = lru_cache(maxsize=16)(read_header)
    folder = str(source.parent) if files.is_url(source) else os.path.abspath(source.parent)
    with open_text(source) as file:
        # what is not UTF-8 makes its row a reject
        lines = (
            line.decode("utf-8", "surrogateescape") for line in iter(lambda: file.readline(LONGEST_LINE), b"")
        )
        first = file.head.split(b"\n")[0].decode("utf-8", "replace")
        delimiter = columns.delimiter or max("\t;|,", key=first.count)
        try:
            table = csv.reader(
                lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if columns.quoted else csv.QUOTE_NONE
            )
            names = list(columns.header) or [name.strip() for name in next(table, [])]
            if not columns.header and "audio" not in columns.fields(dict.fromkeys(names, "x")):
                found = " ".join(", ".join(names).split())[:200]
                raise ValueError(f"{source}: need a column 'audio', got {found}")
            for cells in table:
                if any(cell.strip() for cell in cells):
                    location = f"{source.name}:{table.line_num}"
                    yield from _row(cells, names, location, folder, intake, columns, header_of)
        except csv.Error as error:
            raise ValueError(f"{source}: cannot be read as a table: {error}") from error


def _row(
    cells: list[str],
    names: list[str],
    location: str,
    folder: str,
    intake: Intake,
    columns: Columns,
    header_of: Callable[[str], Header],
) -> Iterator[Row]:
    known = Utterance(id=location, audio="", frames=0)
    try:
        if len(cells) > len(names):
            raise Reject("manifest.bad_field", f"need {len(names)} cells, got {len(cells)}")
        cells = [cell.strip() for cell in cells]
        cells_of = {name: cell for name, cell in zip(names, cells, strict=False) if cell}
        try:
            fields = columns.fields(cells_of)
        except KeyError as error:
            raise Reject("manifest.missing_field", f"{error.args[0]}: need one in every row") from error
        known = replace(known, id=id_of(fields, FIELDS))
        known = replace(known, audio=beside(folder, required(fields, FIELDS.audio)))
        check_names(fields, FIELDS)
        start, end = _seconds(fields, "start", "offset"), _seconds(fields, "end")
        duration = _seconds(fields, "duration", "duration_s")
        channel = fields.get("channel")
        if channel is not None and not channel.isdecimal():
            raise Reject("manifest.bad_field", f"channel: need a number from 0 on, got {channel!r}")
        alignment = text_of(fields, "alignment")
        known = replace(
            known,
            text=text_of(fields, "text"),
            speaker=text_of(fields, "speaker"),
            language=text_of(fields, "language", "lang"),
            licence=text_of(fields, "licence", "license"),
            **origin_of(fields),
            alignment=alignment and beside(folder, alignment),
            channel=None if channel is None else int(channel),
        )
        declared = declared_in(fields) if intake.probe == "declared" else None
    except Reject as reject:
        yield RejectedRow(known, reject)
        return
    yield from measured(
        known, intake, start=start, end=end, duration=duration, declared=declared, header_of=header_of
    )


def _seconds(fields: dict[str, Any], *names: str) -> float | None:
    for name in names:
        if name in fields:
            try:
                return number_in({name: float(fields[name])}, name)
            except ValueError as error:
                if isinstance(error, Reject):
                    raise
                raise Reject("manifest.bad_field", f"{name}: need seconds, got {fields[name]!r}") from error
    return None
