"""Text documents for the text stream: plain text (one document a line) or JSONL with a field "text"."""

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 5000  # documents per part
SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("reject", pa.string()), ("detail", pa.string())]
)


def read_documents(paths: list[Path]) -> Iterator[dict[str, str | None]]:
    """Documents in file order, as rows of SCHEMA; blank lines are skipped, a bad line carries its reason.

    The id is file name and line number, so that it does not change when other files are added.

    Raises:
        ValueError: a file is missing, or two files have the same name.
    """
    names = [path.name for path in paths]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"text.documents: no such file {path}")
        if names.count(path.name) > 1:
            raise ValueError(f"text.documents: need different file names, got {path.name} twice; rename one")
    for path in paths:
        stem = re.sub(r"[^A-Za-z0-9_-]", lambda found: f"={ord(found[0]):02X}", path.name)
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _document(f"{stem}-{number:09d}", line, path)


def _document(name: str, line: bytes, path: Path) -> dict[str, str | None]:
    try:
        text = line.decode("utf-8").strip()
        if path.suffix == ".jsonl":
            said = json.loads(text)
            text = said["text"] if isinstance(said, dict) and isinstance(said.get("text"), str) else ""
            if not text:
                detail = 'need a JSON object with a string "text"'
                return {"id": name, "text": None, "reject": "manifest.missing_field", "detail": detail}
    except ValueError as error:
        return {"id": name, "text": None, "reject": "manifest.not_json", "detail": f"{path.name}: {error}"}
    if not any(letter.isalnum() for letter in text):
        return {"id": name, "text": None, "reject": "text.empty", "detail": "the document holds no words"}
    return {"id": name, "text": text, "reject": None, "detail": None}


def write_documents(rows: Iterable[dict[str, str | None]], folder: Path) -> int:
    """Write text parts and, last, their summary `text.json`; returns the number of documents."""
    fresh = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    parts: list[dict[str, str | int]] = []
    count, rows = 0, iter(rows)
    while block := list(itertools.islice(rows, ROWS)):
        path = fresh / f"part-{len(parts):05d}.parquet"
        pq.write_table(pa.Table.from_pylist(block, SCHEMA), path, compression="zstd")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        parts.append({"name": path.name, "rows": len(block), "samples": 0, "sha256": digest})
        count += len(block)
    (fresh / f"{folder.name}.json").write_text(json.dumps({"parts": parts}, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)
    return count
