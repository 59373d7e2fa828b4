"""Files on a local disk or behind an fsspec URL (`gs://`, `s3://`, `memory://`), read whole or in ranges."""

from pathlib import Path
from typing import Any


def join(folder: Path | str, name: str) -> str:
    """Path or URL of a file in a folder."""
    return f"{str(folder).rstrip('/')}/{name}"


def size(path: str) -> int:
    """Bytes of a file.

    Raises:
        ValueError: there is no such file; the message names it.
    """
    try:
        return int(_remote(path).size(_bare(path))) if is_url(path) else Path(path).stat().st_size
    except OSError as error:
        raise ValueError(f"{path}: missing: {error}") from error


def read(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes [start, stop) of a file, fewer where it ends.

    Raises:
        ValueError: it cannot be read; the message names it.
    """
    try:
        if is_url(path):
            return _remote(path).cat_file(_bare(path), start=start, end=stop)
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read() if stop is None else file.read(stop - start)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def is_url(path: str) -> bool:
    """Whether fsspec opens it."""
    return "://" in path


def _remote(path: str) -> Any:
    import fsspec  # only for those who train from a bucket

    return fsspec.filesystem(path.split("://")[0])


def _bare(path: str) -> str:
    import fsspec

    return fsspec.core.url_to_fs(path)[1]
