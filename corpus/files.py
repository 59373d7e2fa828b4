"""Files on a local disk or behind an fsspec URL (`s3://`, `gs://`, `memory://`): one kind of path for both.

A local path is a `pathlib.Path`; a URL is a `upath.UPath`, which answers to the same calls. What differs is here: a
local file is replaced in one step by a rename, an object is put whole under its own name, which is one step too.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.records import Unusable

SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "memory": "fsspec"}
"""Schemes that are tested or usual, and the package each needs; any other one that fsspec knows works alike."""


def is_url(path: object) -> bool:
    """Whether fsspec opens it."""
    return "://" in str(path)


def place(path: str | os.PathLike[str] | Any) -> Path:
    """The path of a file or folder: a `Path`, or for a URL a `UPath`, whose listings are never kept (others write too).

    Raises:
        Unusable: the package for this kind of URL is missing.

    >>> place("build/demo").name, str(place("memory://b/demo") / "units")
    ('demo', 'memory://b/demo/units')
    """
    if not is_url(path):
        return Path(path)
    scheme = str(path).split("://")[0]
    try:
        from upath import UPath

        found: Any = UPath(str(path).rstrip("/"), use_listings_cache=False)
        _ = found.fs
    except (ImportError, ValueError) as error:
        need = f"the package {SCHEMES[scheme]}" if scheme in SCHEMES else f"an fsspec that knows {scheme}://"
        raise Unusable(f"{path}: need {need} to open it: {error}") from error
    return found


def join(folder: Path | str, name: str) -> str:
    """Path or URL of a file in a folder."""
    return f"{str(folder).rstrip('/')}/{name}"


def reachable(path: Path, *, writing: bool = False) -> None:
    """Ask a URL's bucket once, before any work: is it there, and do our credentials open it?

    Raises:
        Unusable: no such bucket, or no or wrong credentials, in one line.
    """
    if not is_url(path):
        return
    probe: Any = path / f".probe-{secrets.token_hex(4)}"
    try:
        if writing:
            probe.fs.pipe_file(probe.path, b"wordweave was here")
            probe.fs.rm_file(probe.path)
        else:
            probe.fs.cat_file(probe.path)
    except FileNotFoundError as error:
        if writing or "bucket" in str(error).lower():
            raise Unusable(f"{path}: no such bucket: {said(error)}") from error
    except Exception as error:  # each store has its own
        raise Unusable(f"{path}: cannot be {'written' if writing else 'read'}: {said(error)}") from error


def said(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def size(path: Path | str) -> int:
    """Bytes of a file.

    Raises:
        ValueError: there is no such file; the message names it.
    """
    try:
        if is_url(path):
            found: Any = place(path)
            return int(found.fs.size(found.path))
        return Path(path).stat().st_size
    except OSError as error:
        raise ValueError(f"{path}: missing: {error}") from error


def read(path: Path | str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes [start, stop) of a file, fewer where it ends.

    Raises:
        ValueError: it cannot be read; the message names it.
    """
    try:
        if is_url(path):
            found: Any = place(path)
            return found.fs.cat_file(
                found.path, start=start or None, end=stop
            )  # no range: the file may be empty
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read() if stop is None else file.read(stop - start)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def read_each(folder: Path, names: Iterable[str], together: int = 1000) -> Iterator[bytes | None]:
    """The bytes of each file of a folder, None for one that cannot be read; many small ones at a time from a URL."""
    if not is_url(folder):
        for name in names:
            try:
                with open(f"{folder}/{name}", "rb", buffering=0) as file:
                    yield file.read()
            except OSError:
                yield None
        return
    root: Any = folder
    rest = iter(names)
    while batch := [f"{root.path}/{name}" for name in islice(rest, together)]:
        found = root.fs.cat(batch, on_error="return")
        yield from (content if isinstance(content, bytes) else None for content in map(found.get, batch))


def is_file(folder: Path, name: str) -> bool:
    """Whether a local folder holds a file of that name; quicker than `Path`, for a million of them."""
    return os.path.isfile(f"{folder}/{name}")


def names_in(folder: Path) -> set[str] | None:
    """Names of a URL's files below a folder, relative to it; None for a local one: there, asking for each is cheap."""
    if not is_url(folder):
        return None
    root: Any = folder
    try:
        return {path[len(root.path) :].lstrip("/") for path in root.fs.find(root.path)}
    except FileNotFoundError:
        return set()


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file."""
    return pq.read_table(pa.BufferReader(read(path)) if is_url(path) else path, columns=columns)


def open_table(path: Path) -> pq.ParquetFile:
    """A Parquet file to be read in pieces."""
    return pq.ParquetFile(path.open("rb") if is_url(path) else path)


def temporary_name(path: Path) -> Path:
    """A name no other worker uses: in the same folder, so that `publish` is one step; for a URL on the local disk."""
    name = f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    return Path(tempfile.gettempdir()) / name if is_url(path) else path.with_name(name)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name: a reader sees the old bytes or the new ones, never half."""
    if is_url(path):
        target: Any = path
        target.fs.put_file(str(temporary), target.path)
        temporary.unlink()
        return
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old bytes or the new ones, never half."""
    if is_url(path):
        target: Any = path
        target.fs.pipe_file(target.path, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.write_bytes(content)
    publish(temporary, path)


def make_folder(path: Path) -> None:
    """Make a folder where there are folders; a bucket has none, and is not made by the way."""
    if not is_url(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it, if it is there."""
    if not is_url(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        root: Any = folder
        root.fs.rm(root.path, recursive=True)


def local(path: Any) -> Any:
    """The file itself, or a copy of a URL's on the local disk, for libraries that want a file.

    A copy is kept for as long as what is behind the URL does not change.
    """
    if not is_url(path):
        return path
    found: Any = place(path)
    token = found.fs.ukey(found.path)
    copy = Path(tempfile.gettempdir()) / "wordweave" / f"{token[:32]}-{found.name}"
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        temporary = temporary_name(copy)
        temporary.write_bytes(read(path))
        publish(temporary, copy)
    return copy
