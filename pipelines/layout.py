"""The parts of a build's tables: what the manifest lists, and one task per part."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from corpus import files
from pipelines.execution.task import Stage, Task, keys


class Part(NamedTuple):
    """One file of a table, as the table's summary lists it."""

    name: str
    samples: int  # at 16 kHz
    sha256: str


def parts(build: Path, table: str = "manifest") -> list[Part]:
    """The parts of a table in order; a missing or broken summary is said in one line."""

    def small(entry: dict[str, Any]) -> Any:  # as each is read: a million dicts are half a gigabyte
        return Part(entry["name"], entry["samples"], entry["sha256"]) if "sha256" in entry else entry

    try:
        return json.loads(files.read(build / table / f"{table}.json"), object_hook=small)["parts"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{build}: no finished {table} here; run `wordweave ingest` first") from error


def part_names(build: Path, table: str = "manifest") -> list[str]:
    """Names of a table's parts, in order."""
    return [part.name for part in parts(build, table)]


def listed(build: Path, table: str = "manifest") -> dict[str, dict[str, Any]]:
    """Part name -> what the table's summary says of it (samples, sha256)."""
    return {part.name: part._asdict() for part in parts(build, table)}


def hashes_of(build: Path, table: str) -> dict[str, str]:
    """Path of each part -> its sha256, as the summary says."""
    return {f"{table}/{part.name}": part.sha256 for part in parts(build, table)}


def map_tasks(build: Path, stage: Stage, table: str) -> list[Task]:
    """One task per manifest part."""
    key_of = keys(stage)
    return [
        Task(
            f"{table}/{part.name}", (f"manifest/{part.name}",), key_of(part.sha256), part.samples,
            hashes=(part.sha256,),
        )
        for part in parts(build)
    ]  # fmt: skip


def origin(build: Path) -> str:
    """The id a build's corpus began with: what is fitted or chosen once is kept for as long as this stays.

    Recordings added or taken away leave it; a source that shares no recording with the one before changes it.
    """
    content = files.read(build / "manifest" / "manifest.json")
    return str(json.loads(content, object_hook=lambda entry: entry.get("origin", 0)))


def corpus_hash(build: Path) -> str:
    """sha256 over what came in: tells whether something that is kept was fitted on the present corpus."""
    said: Iterable[str] = [part.sha256 for table in ("manifest", "text") for part in parts(build, table)]
    return hashlib.sha256(" ".join(said).encode()).hexdigest()
