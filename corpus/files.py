"""Files on a local disk or behind an fsspec URL (`s3://`, `gs://`, `memory://`): one kind of path for both.

A local path is a `pathlib.Path`; a URL is a `upath.UPath`, which has the same methods. What differs is here: a local
file is replaced in one step by a rename, an object is put whole under its own name, which is one step too.
"""

import abc
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.records import Unusable

SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "memory": "fsspec"}
"""Schemes that are tested or usual, and the package each needs; any other one that fsspec knows works alike."""

BUCKET_SCHEMES = ("s3", "s3a", "gs", "gcs")
"""Schemes whose URLs start with a bucket, which must exist."""

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""How long to wait after each failed request to a store."""

NETWORK = ("aiohttp", "botocore", "aiobotocore", "requests", "urllib3")
"""Packages whose errors without an HTTP status are about the network."""

STAMPS = (
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)
"""What stores call the mark of a file's version, in the order in which it is taken."""

TEMPORARY = re.compile(r"(.*/)?\.[^/]+\.tmp-\d+-[0-9a-f]{8}|(.*/)?\.[^/]+\.unfinished/.*")
"""Matches the relative names of files that only an interrupted run leaves: those of `temporary_name`, and what lies in
an unfinished folder (`unfinished_name`)."""


def is_url(path: object) -> bool:
    """Whether fsspec opens it."""
    return "://" in str(path)


def to_path(path: str | os.PathLike[str] | Any) -> Path:
    """The path of a file or folder: a `Path`, or for a URL a `UPath` whose listings are not cached (others write too).

    Raises:
        Unusable: the package for this kind of URL is missing.

    >>> to_path("build/demo").name, str(to_path("memory://b/demo") / "units")
    ('demo', 'memory://b/demo/units')
    """
    if not is_url(path):
        return Path(path)
    scheme = str(path).split("://")[0]
    try:
        from upath import UPath

        url: Any = UPath(str(path).rstrip("/"), use_listings_cache=False)
        _ = url.fs
    except (ImportError, ValueError) as error:
        need = (
            f"the package {SCHEMES[scheme]}" if scheme in SCHEMES else f"an fsspec that supports {scheme}://"
        )
        raise Unusable(f"{path}: need {need} to open it: {error}") from error
    return url


def join_path(folder: Path | str, name: str) -> str:
    """Path or URL of a file in a folder."""
    return f"{str(folder).rstrip('/')}/{name}"


def check_reachable(path: Path, *, writing: bool = False) -> None:
    """Try one request to a URL before any work: does its bucket exist, and do the credentials open it?

    Raises:
        Unusable: no such bucket, or no or wrong credentials, in one line.
    """
    if not is_url(path):
        return
    probe: Any = path / f".probe-{secrets.token_hex(4)}"
    try:
        if writing:
            probe.fs.pipe_file(probe.path, b"wordweave: may this be written?")
            probe.fs.rm_file(probe.path)
        else:
            probe.fs.cat_file(probe.path)
    except FileNotFoundError as error:  # of a read: either the bucket or, as expected, the probe is missing
        bucket = probe.path.lstrip("/").split("/")[0]
        has_buckets = str(path).split("://")[0] in BUCKET_SCHEMES
        if writing or (has_buckets and not probe.fs.exists(bucket)):
            raise Unusable(f"{path}: no such bucket: {one_line(error)}") from error
    except Exception as error:  # each store has its own
        raise Unusable(f"{path}: cannot be {'written' if writing else 'read'}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The message of an error in one line; of a failed request, the store's answer or what the network lacks."""
    return " ".join(str(_network_error(error) or error).split()) or type(error).__name__


def with_retries(call: Callable[[], Any]) -> Any:
    """The result of a request to a store, repeated after a while unless the answer is that nothing is there."""
    for seconds in RETRY_SECONDS:
        try:
            return call()
        except Exception as error:  # each store has its own
            if is_missing(error):
                raise
            time.sleep(seconds)
    return call()


def is_missing(error: BaseException) -> bool:
    """Whether an error says that a file does not exist; any other answer of a store, and none, is no such statement.

    fsspec raises FileNotFoundError for a refused connection too; the reason is in the errors that led to it.
    """
    cause = _network_error(error)
    if cause is None:
        return isinstance(error, FileNotFoundError)
    return _http_status(cause) in (404, 410)


def _network_error(error: BaseException) -> BaseException | None:
    """The answer of a store, or the failure of a connection, that led to an error."""
    cause: BaseException | None = error
    while cause is not None:
        network = isinstance(cause, ConnectionError | TimeoutError)
        if network or _http_status(cause) is not None or type(cause).__module__.startswith(NETWORK):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _http_status(error: BaseException) -> int | None:
    """The status of an HTTP answer in an error of aiohttp (`status`), gcsfs (`code`) or botocore (`response`)."""
    for name in ("status", "code"):
        if isinstance(getattr(error, name, None), int):
            return getattr(error, name)
    response = getattr(error, "response", None)
    answer = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return answer.get("HTTPStatusCode")


def stamp(path: str | os.PathLike[str]) -> str:
    """What changes when a file does: size and modification time, or the mark that a store gives each version.

    Raises:
        OSError: there is no such file.
    """
    if not is_url(path):
        return local_stamp(os.stat(path))
    url: Any = to_path(path)
    return stamp_of(with_retries(lambda: url.fs.info(url.path)))


def stamp_of(info: Mapping[str, Any]) -> str:
    """As `stamp`, from the facts that a store gives about a file."""
    mark = next((info[name] for name in STAMPS if info.get(name) is not None), "")
    return f"{info.get('size')}-{mark}"


def local_stamp(status: os.stat_result) -> str:
    """As `stamp`, of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def checksum(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file's content, as a stamp."""
    digest = hashlib.sha256()
    with to_path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def size(path: Path | str) -> int:
    """Bytes of a file.

    Raises:
        ValueError: there is no such file; the message names it.
    """
    try:
        if is_url(path):
            url: Any = to_path(path)
            return int(url.fs.size(url.path))
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
            url: Any = to_path(path)
            # no range for a whole file, which may be empty
            options = {"start": start or None, "end": stop, **_one_request(path)}
            return with_retries(lambda: url.fs.cat_file(url.path, **options))
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read() if stop is None else file.read(stop - start)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


RANGE = 1 << 16
"""Bytes of one request of `Ranges`."""


class Seekable(io.RawIOBase):
    """A file of known size, read at positions."""

    def __init__(self, size: int):
        self._size, self._position = size, 0

    @abc.abstractmethod
    def _at(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop)."""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position in the file."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position in the file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Bytes from here on, none beyond the end."""
        content = self._at(self._position, min(self._position + len(buffer), self._size))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


class Ranges(Seekable):
    """A file behind a URL that is read here and there, by requests of 64 kB (more only where more is read at once).

    A file that is opened by its store reads megabytes ahead, ten times what the header of a recording needs. The blocks
    that were read are kept: their number is that of the places looked at.
    """

    def __init__(self, url: Any, size: int):
        super().__init__(size)
        self._url = url
        self._blocks: dict[int, bytes] = {}  # by their start

    def _at(self, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        for first, block in self._blocks.items():
            if first <= start and stop <= first + len(block):
                return block[start - first : stop - first]
        begin = max(0, min(start, self._size - RANGE))  # what is near the end is read with the end
        end = min(self._size, max(stop, begin + RANGE))
        options = {"start": begin, "end": end, **_one_request(self._url)}
        content = with_retries(lambda: self._url.fs.cat_file(self._url.path, **options))
        if len(content) > end - begin:  # a server without ranges
            begin, end = 0, len(content)
        self._blocks[begin] = content
        return content[start - begin : stop - begin]


def _one_request(path: Path | str) -> dict[str, int]:
    """Options with which a file is read in one request: s3fs would ask for its size first, to read parts at once."""
    return {"max_concurrency": 1} if str(path).startswith(("s3://", "s3a://")) else {}


def read_record(path: Path | str, *required: str, format: str | None = None, **marks: Any) -> dict[str, Any]:
    """Read a JSON object that says what it is in fields such as "format" and "version".

    Args:
        required: fields that it must have.
        format: the value of its field "format"; it names the kind of file in messages. None: it has no such field.
        marks: other fields with the value that each must have, for instance `version=1`.

    Raises:
        ValueError: the file cannot be read, is no JSON object, is of another format, or lacks a field.
    """
    kind = format or "record"
    content = read(path)
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a usable {kind}: need JSON: {one_line(error)}") from error
    if not isinstance(record, dict):
        raise ValueError(
            f"{path}: not a usable {kind}: need a JSON object, got {shorten(json.dumps(record))}"
        )
    for name, value in (({"format": format} if format else {}) | marks).items():
        if record.get(name) != value:
            got = shorten(json.dumps(record[name])) if name in record else "none"
            raise ValueError(f"{path}: not a usable {kind}: {name}: need {json.dumps(value)}, got {got}")
    if missing := [name for name in required if name not in record]:
        raise ValueError(f"{path}: not a usable {kind}: need the field {missing[0]!r}, got none")
    return record


def shorten(text: str, most: int = 60) -> str:
    """One line of at most `most` characters and three dots, to show in a message.

    >>> shorten("[1, 2,\\n 3]"), shorten("x" * 99, most=5)
    ('[1, 2, 3]', 'xxxxx...')
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + "..."


def read_each(folder: Path, names: Iterable[str], at_once: int = 5000) -> Iterator[bytes | None]:
    """The bytes of each file of a folder, None for one that is not there; many small ones at a time from a URL.

    Raises:
        ValueError: a store does not answer, after retries; names the file.
    """
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

    def fetch(batch: list[str]) -> list[bytes | None]:
        contents: dict[str, Any] = {}
        failed = batch
        for seconds in (0.05, 0.1, 0.2, *RETRY_SECONDS, 0):
            contents |= root.fs.cat(failed, on_error="return", **_one_request(folder))
            failed = [path for path in failed if _is_failure(contents[path])]
            if not failed:
                break
            time.sleep(seconds)
        for path in failed:
            raise ValueError(f"{path}: cannot be read: {one_line(contents[path])}")
        return [content if isinstance(content := contents[path], bytes) else None for path in batch]

    with ThreadPoolExecutor(1, "read") as thread:  # a store is waited for while the caller works
        ahead: Future[list[bytes | None]] | None = None
        while batch := [f"{root.path}/{name}" for name in islice(rest, at_once)]:
            before, ahead = ahead, thread.submit(fetch, batch)
            if before is not None:
                yield from before.result()
        if ahead is not None:
            yield from ahead.result()


def _is_failure(content: Any) -> bool:
    """Whether what a store gave for a file is an error other than that it is not there."""
    return isinstance(content, BaseException) and not is_missing(content)


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


def read_tables(
    folder: Path, names: Iterable[str], columns: list[str] | None = None, at_once: int = 32
) -> Iterator[pa.Table]:
    """Parquet files of a folder in order; `at_once` of them are requested at a time from a URL."""
    names = list(names)
    for name, content in zip(names, read_each(folder, names, at_once), strict=True):
        if content is None:  # read again, for the reason
            content = read(folder / name)
        yield pq.read_table(pa.BufferReader(content), columns=columns, use_threads=False)


def open_table(path: Path) -> pq.ParquetFile:
    """A Parquet file to be read in pieces."""
    return pq.ParquetFile(path.open("rb") if is_url(path) else path)


def temporary_name(path: Path) -> Path:
    """A name no other worker uses: in the same folder, so that `publish` is one step; for a URL on the local disk.

    `TEMPORARY` matches it. Prefer `writing`, which also removes the file when the work fails.
    """
    name = f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    return Path(tempfile.gettempdir()) / name if is_url(path) else path.with_name(name)


def unfinished_name(folder: Path) -> Path:
    """The name of a folder while it is filled, beside its own; `TEMPORARY` matches what is in it."""
    return folder.with_name(f".{folder.name}.unfinished")


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


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """The name of a temporary file for the block to write; it becomes `path` at the end, or is removed on an error.

    Raises:
        OSError: as the block does; where a disk is full, the message names the file.
    """
    if not is_url(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with full_disk_named(path):
            yield temporary
            publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Name the disk where it is full when the block writes `path`."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = tempfile.gettempdir() if is_url(path) else path.parent
        raise OSError(errno.ENOSPC, f"the disk of {where} is full; {path} was not written") from error


def write(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old bytes or the new ones, never half."""
    if is_url(path):
        target: Any = path
        target.fs.pipe_file(target.path, content)
        return
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text, all or none of them."""
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def make_folder(path: Path) -> None:
    """Make a local folder; an object store has none, and a bucket is not created implicitly."""
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
    """The file itself, or a local copy of a URL's, for libraries that need a file.

    A copy is used again for as long as what is behind the URL does not change.
    """
    if not is_url(path):
        return path
    url: Any = to_path(path)
    token = url.fs.ukey(url.path)
    copy = Path(tempfile.gettempdir()) / "wordweave" / f"{token[:32]}-{url.name}"
    if not copy.exists():
        write(copy, read(path))
    return copy
