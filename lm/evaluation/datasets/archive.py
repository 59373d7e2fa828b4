"""The copy of a test set that a user has: a folder or a zip, read by paths."""

import csv
import io
import os
import shutil
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Tree:
    """The files of a folder or a zip, by their paths below it, "a/b.wav"."""

    path: Path
    advice: str = ""  # for messages about a file that is not there

    @cached_property
    def _zip(self) -> zipfile.ZipFile | None:
        if self.path.is_dir():
            return None
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path}: need a folder or a zip ({error}); {self.advice}") from error

    @cached_property
    def names(self) -> list[str]:
        """All files, sorted."""
        if self._zip is not None:
            return sorted(name for name in self._zip.namelist() if not name.endswith("/"))
        found = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return sorted(str(PurePosixPath(path)) for path in found)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def find(self, *patterns: str) -> list[str]:
        """Files whose path, or its end from some folder on, fits a pattern: archives wrap their content in folders."""
        for pattern in patterns:
            found = [name for name in self.names if fnmatch(name, pattern) or fnmatch(name, f"*/{pattern}")]
            if found:
                return found
        return []

    def one(self, *patterns: str) -> str:
        """The file that fits.

        Raises:
            ValueError: none does, or several.
        """
        found = self.find(*patterns)
        if len(found) != 1:
            raise ValueError(
                f"{self.path}: need one {' or '.join(patterns)}, got {found[:3] or 'none'}; {self.advice}"
            )
        return found[0]

    def open(self, name: str) -> bytes:
        """The bytes of a file."""
        return self._zip.read(name) if self._zip is not None else (self.path / name).read_bytes()

    def text(self, name: str) -> str:
        """A text file in UTF-8, with or without a byte-order mark."""
        try:
            return self.open(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}/{name}: not UTF-8 ({error})") from error

    def table(self, name: str, *columns: str) -> list[dict[str, str]]:
        """Rows of a csv with a header line that has the columns."""
        reader = csv.DictReader(io.StringIO(self.text(name)))
        missing = sorted(set(columns) - set(reader.fieldnames or ()))
        if missing:
            raise ValueError(f"{self.path}/{name}: lacks columns {missing}, it has {reader.fieldnames}")
        rows = []
        for number, row in enumerate(reader, start=2):
            if None in row or any(row[column] is None for column in columns):
                raise ValueError(
                    f"{self.path}/{name}: line {number}: has another number of cells than the header"
                )
            rows.append(row)
        return rows

    def put(self, name: str, target: Path) -> None:
        """Place a file elsewhere: a link to the same bytes where the file system can, else a copy."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if self._zip is not None:
            with self._zip.open(name) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            return
        try:
            os.link(self.path / name, target)
        except OSError:
            shutil.copyfile(self.path / name, target)


@dataclass(frozen=True)
class Options:
    """What a user may choose of a test set."""

    split: str = "test"  # or a subset's own name
    shots: int = 5  # examples before a question of mmlu
