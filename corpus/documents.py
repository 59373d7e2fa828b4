"""Text documents for the text stream: plain text (one document per line), JSON with a field "text", Parquet with a
column "text". What a file is, its content decides, not its name."""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files
from corpus.adapters.base import walk
from corpus.duplicates import finder, open_database
from corpus.manifest import KEY_LENGTH, escape_id
from corpus.records import Reject
from corpus.text_files import open_text

ROWS = 5000  # documents per part, fewer where they are long:
PART_BYTES = 64 << 20  # of text
DOCUMENT_BYTES = 16 << 20  # most of one document
LANGUAGE_CHARACTERS = 2000  # of a document, by which its language is found
_BATCH = 256  # rows of a Parquet file read at once
_DIGITS = 10  # of the line number in an id
JSON_ENDINGS = {".jsonl", ".ndjson", ".json"}
DUPLICATES = ("keep", "exact", "near")
SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("reject", pa.string()), ("detail", pa.string())]
)

Row = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class DocumentsSummary:
    """What the text parts hold."""

    documents: int  # good ones
    rejected: dict[str, int]  # reason -> documents


def read_documents(paths: list[Path], *, whole_files: bool = False) -> Iterator[Row]:
    """Documents in file order, as rows of SCHEMA; blank lines are skipped, a bad row carries its reason.

    A file is Parquet, or text, compressed (gzip, bzip2, xz, zstd) or not, in UTF-8 or UTF-16: JSON objects, one per
    line or in an array, or one document per line. It is read in pieces, but for an array. The id is file name and line
    (or row) number, so that it does not change when other files are added. Of a folder, all files below are read in
    alphabetic order; their names are the paths below it, and names that begin with a dot are left out.

    Args:
        whole_files: a file of plain text is one document, on one line.

    Raises:
        ValueError: a file is missing, is neither text nor Parquet with a column of strings "text", is not complete, or
            two files have the same name.
    """
    seen = set[str]()
    for path in paths:
        if not path.is_dir() and not path.is_file():
            raise ValueError(f"text.documents: no such file {path}")
        if path.name in seen:
            raise ValueError(f"text.documents: need different file names, got {path.name} twice; rename one")
        seen.add(path.name)
    for path in paths:
        for name, file in _files(path):
            yield from _read_file(_stem(name), file, whole_files)


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of a file, or of those below a folder; links are followed, but to no folder twice."""
    if not path.is_dir():
        yield path.name, path
        return
    if files.is_url(path):
        for name in sorted(files.names_in(path) or ()):
            yield f"{path.name}/{name}", path / name
        return
    for folder, names in walk(str(path)):
        for name in names:
            if not name.startswith("."):
                file = Path(folder, name)
                if not file.is_file():  # a pipe or a device may never end
                    raise ValueError(f"text.documents: {file}: need an ordinary file; remove it")
                yield f"{path.name}/{file.relative_to(path.absolute()).as_posix()}", file


def _read_file(stem: str, path: Path, whole_files: bool) -> Iterator[Row]:
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1" or path.suffix.lower() == ".parquet"
    values = _parquet(path) if is_parquet else _lines(path, whole_files)
    for number, content, is_json in values:
        yield _document(f"{stem}-{number:0{_DIGITS}d}", content, is_json)


def write_documents(
    rows: Iterable[Row], folder: Path, *, duplicates: str = "keep", languages: Sequence[str] = ()
) -> DocumentsSummary:
    """Write text parts and, last, their summary `text.json`. The same rows give the same bytes.

    A folder that holds them already is left untouched. Memory does not grow with the number of documents.

    Args:
        duplicates: "keep", or reject a document with the same words as an earlier one ("exact") or nearly the
            same ("near", see `corpus.duplicates`).
        languages: codes of ISO 639-1, such as "en"; a document that is most probably in another one is rejected.
            Empty: any.

    Raises:
        ValueError: `duplicates` is something else.
    """
    if duplicates not in DUPLICATES:
        raise ValueError(f"text.duplicates: need one of {', '.join(DUPLICATES)}, got {duplicates!r}")
    beside = folder.parent if not files.is_url(folder) else Path(tempfile.mkdtemp(prefix="wordweave-"))
    fresh = files.unfinished_name(beside / folder.name)
    shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
    fresh.mkdir(parents=True)
    counts: Counter[str | None] = Counter()
    parts: list[dict[str, str | int]] = []
    try:
        if languages:
            rows = _of_languages(rows, languages)
        if duplicates != "keep":
            rows = _without_duplicates(rows, duplicates, fresh / "seen.sqlite")
        for block in _blocks(rows):
            counts.update(row["reject"] for row in block)
            path = fresh / f"part-{len(parts):05d}.parquet"
            pq.write_table(pa.Table.from_pylist(block, SCHEMA), path, compression="zstd")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            parts.append({"name": path.name, "rows": len(block), "samples": 0, "sha256": digest})
        (fresh / f"{folder.name}.json").write_text(json.dumps({"parts": parts}, indent=1))
        if not _same(fresh, folder):
            files.remove_folder(folder)
            if not files.is_url(folder):
                os.replace(fresh, folder)
            for path in sorted(fresh.glob("*")) if files.is_url(folder) else []:  # the summary sorts last
                files.publish(path, folder / path.name)
    finally:
        shutil.rmtree(fresh if beside == folder.parent else beside, ignore_errors=True)
    return DocumentsSummary(
        counts.pop(None, 0), {str(reason): counts[reason] for reason in sorted(counts, key=str)}
    )


def _stem(name: str) -> str:
    """A file name as the first part of keys; a long one ends in its hash.

    >>> _stem("text.txt"), _stem("é" * 40 + ".jsonl")[36:]
    ('text=2Etxt', '=C3=A9=C3=A9=C3=-bc6d9ab992f074ae')
    """
    stem = escape_id(name)
    most = KEY_LENGTH - _DIGITS - 1
    if len(stem) <= most:
        return stem
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f"{stem[: most - len(digest) - 1]}-{digest}"


def _lines(path: Path, whole_files: bool) -> Iterator[tuple[int, bytes | None, bool]]:
    """Number and content of the lines or values that are not blank, None where too long, and whether it is JSON."""
    try:
        with open_text(path) as file:
            is_json = file.is_json() or bool(JSON_ENDINGS & {ending.lower() for ending in path.suffixes})
            if whole_files and not is_json:
                content = file.read(DOCUMENT_BYTES + 1)
                yield 1, b" ".join(content.split()) if len(content) <= DOCUMENT_BYTES else None, False
                return
            values = file.json_values(DOCUMENT_BYTES) if is_json else file.lines(DOCUMENT_BYTES)
            yield from ((number, content, is_json) for number, content in values)
    except ValueError as error:
        raise ValueError(f"text.documents: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[int, bytes | None, bool]]:
    """As `_lines`, of rows, a batch at a time; a null is an empty document."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            kind = schema.field("text").type if "text" in schema.names else None
            kind = kind.value_type if kind is not None and pa.types.is_dictionary(kind) else kind
            if kind not in (pa.string(), pa.large_string(), pa.string_view()):
                columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
                raise ValueError(f'need a column of strings "text", got {columns}')
            number = 0
            for batch in file.iter_batches(_BATCH, columns=["text"]):
                column = batch.column("text").cast(pa.large_string()).cast(pa.large_binary())
                for value in column:
                    number += 1
                    content = value.as_py() or b""
                    yield number, content if len(content) <= DOCUMENT_BYTES else None, False
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"text.documents: {path} cannot be read as Parquet: {files.one_line(error)}"
        ) from error


def _document(name: str, content: bytes | None, is_json: bool) -> Row:
    try:
        text = _text(content, is_json)
    except Reject as reject:
        return {"id": name, "text": None, "reject": reject.reason, "detail": reject.detail}
    return {"id": name, "text": text, "reject": None, "detail": None}


def _text(content: bytes | None, is_json: bool) -> str:
    """The text of one line or row."""
    if content is None:
        raise Reject("manifest.bad_field", f"need at most {DOCUMENT_BYTES} bytes per document")
    try:
        text = content.decode("utf-8")
        if is_json:
            value = json.loads(text)
            field = value.get("text") if isinstance(value, dict) else None
            text = field if isinstance(field, str) else ""
            text.encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise Reject("manifest.bad_field", f"need text that UTF-8 can hold: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise Reject("manifest.not_json", str(error)) from error
    text = text.strip()
    if not text and is_json:
        raise Reject("manifest.missing_field", 'need a JSON object with a string "text"')
    if not any(letter.isalnum() for letter in text):
        raise Reject("text.empty", "the document holds no words")
    return text


def _of_languages(rows: Iterable[Row], languages: Sequence[str]) -> Iterator[Row]:
    """The rows, those in other languages marked."""
    from corpus.quality import most_probable_language

    for row in rows:
        text = row["text"]
        if (
            text is not None
            and (found := most_probable_language(text[:LANGUAGE_CHARACTERS])) not in languages
        ):
            detail = f"need {', '.join(languages)}, got {found} (most probable, by py3langid)"
            row = row | {"text": None, "reject": "text.language", "detail": detail}
        yield row


def _without_duplicates(rows: Iterable[Row], how: str, path: Path) -> Iterator[Row]:
    """The rows, those that repeat an earlier good one marked."""
    with closing(open_database(path)) as database:
        find = finder(how, database)
        for row in rows:
            id, text = row["id"], row["text"]
            same = None if id is None or text is None else find(id, text)
            if same is not None:
                row = row | {"text": None, "reject": "text.duplicate", "detail": f"{how}: as {same}"}
            yield row
    path.unlink()


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows, a part at a time."""
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row["text"] or "")
        if len(block) == ROWS or size >= PART_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    if not other.is_dir():
        return False
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        (one / name).read_bytes() == files.read(other / name) for name in names
    )
