"""Files of a build that it no longer needs: found by name and done marker, removed only when asked.

A file is listed only if its name is one that the build gives, and no present plan or index needs it. Files of other
names are never touched, nor is a file whose marker has the present key.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import files
from pipelines.build import STEPS, make_run
from pipelines.execution.task import read_marker
from pipelines.layout import CODEBOOK, FRAMES, INDEX, REPEATS, part_names
from pipelines.settings import Settings, read_settings
from pipelines.steps.base import Say, Step, silent
from pipelines.steps.cut import CUT_STEP, CUTS_FOLDER
from pipelines.steps.outcomes import TABLE as OUTCOMES
from pipelines.steps.probe import LISTED

PART = re.compile(rf"({CUTS_FOLDER}|[a-z_]+)/(part-\d{{5,}}\.parquet)(\.done|\.failed)?")
SHARD = re.compile(r"(shards/(?:speech|text|interleaved)/(?:train|valid)-\d{6,}\.tar)(\.done|\.failed)?")
LISTED_ROWS = re.compile(rf"{LISTED}/[0-9a-f]{{32}}\.parquet")
PASSED_ON = re.compile(
    r"decoded/[0-9a-f]{32}(-\d{3}\.wav|\.parquet)|todo/[0-9a-f]{32}\.jsonl|\.claims/[0-9a-f]{32}"
)


@dataclass(frozen=True)
class Stale:
    """A file that the build no longer needs, and why."""

    name: str  # relative to the build
    why: str
    bytes: int


def find(build: Path, *, say: Say = silent) -> list[Stale]:
    """The files that the build no longer needs, by name; a table whose present keys are unknown is kept, and said.

    Raises:
        ValueError: there is no build.
    """
    settings = read_settings(build)
    sizes = dict(list_files(build))
    tables = {str(step.table): step for step in STEPS if step.table} | {CUTS_FOLDER: CUT_STEP}
    keys = {table: present_keys(build, settings, table, step, say) for table, step in tables.items()}
    keys[OUTCOMES] = None  # small, and made again by every interleave and report
    names, index = set(part_names(build)), indexed(build)
    stale = []
    for name, size in sorted(sizes.items()):
        why = ""
        if files.TEMPORARY.fullmatch(name):
            why = "left by a killed run"
        elif name.startswith(f"{REPEATS}/") and not settings.duplicates.enabled:
            why = "duplicates are not looked for"
        elif PASSED_ON.fullmatch(name):
            why = "passed from worker to worker, no longer needed"
        elif LISTED_ROWS.fullmatch(name):
            why = "left by an ingest that was interrupted"
        elif (match := PART.fullmatch(name)) and match[1] in {*keys, FRAMES}:
            table, part, ending = match.groups()
            output = f"{table}/{part}"
            if table == FRAMES:
                why = why_frames(build, settings)
            elif output not in sizes and ending == ".done":
                why = "its file is missing"
            elif part not in names and table != CUTS_FOLDER:
                why = "the manifest has no such part"
            elif keys[table] is not None:
                key = (keys[table] or {}).get(output)
                current = key is not None and (read_marker(build / output) or {}).get("key") == key
                if ending == ".failed":
                    why = "made since" if current else ""
                elif not current:
                    why = "made with other settings, models or recordings"
        elif (match := SHARD.fullmatch(name)) and index is not None:
            output, ending = match.groups()
            if output not in index:
                why = "the index does not name this shard"
            elif ending == ".failed":
                why = "made since"
        if why:
            stale.append(Stale(name, why, size))
    return stale


def list_files(build: Path) -> Iterator[tuple[str, int]]:
    """(name relative to the build, bytes) of every file, links not followed."""
    if files.is_url(build):
        root: Any = build
        for path, info in root.fs.find(root.path, detail=True).items():
            yield path[len(root.path) :].lstrip("/"), int(info["size"])
        return
    for path in build.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(build).as_posix(), path.stat().st_size


def present_keys(build: Path, settings: Settings, table: str, step: Step, say: Say) -> dict[str, str] | None:
    """Output -> key of a step's tasks with the present settings; None where they are unknown."""
    if not (build / table).exists() or (step is CUT_STEP and not step.wanted(settings)):
        return {}
    assert step.tasks is not None
    try:
        _, tasks = step.tasks(make_run(build, settings, also=step.name))
    except ValueError as error:
        say(f"prune: {table}/ is kept: {error}")
        return None
    return {task.output: task.key for task in tasks}


def why_frames(build: Path, settings: Settings) -> str:
    """Frames are sampled for a fit, and no longer needed once its codebook exists."""
    key = (read_marker(build / CODEBOOK) or {}).get("key", "bundled")
    return "their codebook is fitted" if settings.units.codebook or key != "bundled" else ""


def indexed(build: Path) -> set[str] | None:
    """Shards that the index names; None where no shards are finished."""
    try:
        streams = json.loads(files.read(build / INDEX))["streams"]
    except (ValueError, KeyError):
        return None
    return {
        f"shards/{entry['file']}"
        for splits in streams.values()
        for entries in splits.values()
        for entry in entries
    }


def remove(build: Path, stale: list[Stale]) -> int:
    """Remove what was found, markers before their files; the number of files removed."""
    for file in sorted(stale, key=lambda file: not file.name.endswith(".done")):
        (build / file.name).unlink(missing_ok=True)
    return len(stale)
