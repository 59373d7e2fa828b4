"""A user's copy of a published test set: a folder or a zip, read by paths."""

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
class Archive:
    """The files of a folder or a zip, by their paths below it, "a/b.wav"."""

    path: Path
    advice: str = ""  # how to get the set, for messages about a missing file

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
        paths = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return sorted(str(PurePosixPath(path)) for path in paths)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def find(self, *patterns: str) -> list[str]:
        """Files whose path, or its end from some folder on, matches: archives wrap their content in folders."""
        for pattern in patterns:
            names = [name for name in self.names if fnmatch(name, pattern) or fnmatch(name, f"*/{pattern}")]
            if names:
                return names
        return []

    def find_one(self, *patterns: str) -> str:
        """The only file that matches.

        Raises:
            ValueError: none matches, or several do.
        """
        names = self.find(*patterns)
        if len(names) != 1:
            raise ValueError(
                f"{self.path}: need one {' or '.join(patterns)}, got {names[:3] or 'none'}; {self.advice}"
            )
        return names[0]

    def read_bytes(self, name: str) -> bytes:
        """The bytes of a file."""
        return self._zip.read(name) if self._zip is not None else (self.path / name).read_bytes()

    def read_text(self, name: str) -> str:
        """A text file in UTF-8, with or without a byte-order mark."""
        try:
            return self.read_bytes(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}/{name}: not UTF-8 ({error})") from error

    def read_csv(self, name: str, *columns: str) -> list[dict[str, str]]:
        """Rows of a csv with a header line that has the columns."""
        reader = csv.DictReader(io.StringIO(self.read_text(name)))
        missing = sorted(set(columns) - set(reader.fieldnames or ()))
        if missing:
            raise ValueError(f"{self.path}/{name}: need columns {missing}, got {reader.fieldnames}")
        rows = []
        for number, row in enumerate(reader, start=2):
            if None in row or any(row[column] is None for column in columns):
                raise ValueError(f"{self.path}/{name}: line {number}: need as many cells as the header")
            rows.append(row)
        return rows

    def extract(self, name: str, target: Path) -> None:
        """Write a file elsewhere: a hard link where the file system supports it, else a copy."""
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
    """What a user can select from a test set."""

    split: str = "test"  # or the name of a subset
    shots: int = 5  # examples before a question of mmlu
