"""What a build holds and no longer needs: found by name and done marker, removed only when asked.

A file goes only if its name is one that the build gives, and no present plan or index counts on it. Files of other
names are never touched, nor is what a marker of the present settings holds.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import files
from pipelines import build as steps
from pipelines.execution.task import Stage, marker
from pipelines.layout import map_tasks, part_names
from pipelines.settings import Settings

PART = re.compile(r"(units|words|prosody|pitch|style|frames)/(part-\d{5,}\.parquet)(\.done|\.failed)?")
SHARD = re.compile(r"(shards/(?:speech|text|interleaved)/(?:train|valid)-\d{6,}\.tar)(\.done|\.failed)?")
HANDED = re.compile(r"waves/[0-9a-f]{32}(-\d{3}\.wav|\.parquet)|todo/[0-9a-f]{32}\.jsonl")


@dataclass(frozen=True)
class Stale:
    """A file that may go, and why."""

    name: str  # relative to the build
    why: str
    bytes: int


def find(build: Path, *, say: steps.Say = lambda line: None) -> list[Stale]:
    """What may go, in order of name; a table whose present keys cannot be told is left, and said.

    Raises:
        ValueError: there is no build.
    """
    settings = steps.recall(build)
    sizes = dict(listed(build))
    keep, told = current(build, settings, say)
    index = indexed(build)
    found = []
    for name, size in sorted(sizes.items()):
        why = ""
        if files.TEMPORARY.fullmatch(name):
            why = "left by a run that was killed"
        elif HANDED.fullmatch(name):
            why = "handed from worker to worker, no longer needed"
        elif match := PART.fullmatch(name):
            table, part, ending = match.groups()
            output = f"{table}/{part}"
            if table == "frames":
                why = frames_left(build, settings)
            elif output not in sizes and ending == ".done":
                why = "the file it speaks of is gone"
            elif part not in told:
                why = "the manifest has no such part"
            elif ending == ".failed":
                why = "made since" if keep.get(table, accepts_all)(output) else ""
            elif table in keep and not keep[table](output):
                why = "made with other settings, models or recordings"
        elif (match := SHARD.fullmatch(name)) and index is not None:
            output, ending = match.groups()
            if output not in index:
                why = "the index does not name this shard"
            elif ending == ".failed":
                why = "made since"
        if why:
            found.append(Stale(name, why, size))
    return found


def accepts_all(output: str) -> bool:
    """Of a table whose keys cannot be told: it stands."""
    return True


def listed(build: Path) -> Iterator[tuple[str, int]]:
    """(name relative to the build, bytes) of every file, links not followed."""
    if files.is_url(build):
        root: Any = build
        for path, about in root.fs.find(root.path, detail=True).items():
            yield path[len(root.path) :].lstrip("/"), int(about["size"])
        return
    for path in build.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(build).as_posix(), path.stat().st_size


def current(
    build: Path, settings: Settings, say: steps.Say
) -> tuple[dict[str, Callable[[str], bool]], set[str]]:
    """Table -> whether an output of it is of the present settings; and the names of the manifest's parts."""
    from pipelines.steps import prosody as expressive

    def by_key(table: str, stage: Stage) -> Callable[[str], bool]:
        wanted = {task.output: task.key for task in map_tasks(build, stage, table)}
        return lambda output: (marker(build / output) or {}).get("key") == wanted.get(output)

    def by_model(name: str, digest: str) -> Callable[[str], bool]:
        def stands(output: str) -> bool:
            made = (marker(build / output) or {}).get("made", {})
            return made.get("settings", {}).get(name) == digest

        return stands

    def pitch() -> Callable[[str], bool]:
        model = expressive.model_path(build, settings.pitch.model, "pitch")
        return by_model("model_hash", expressive.pitches.load(files.local(model)).hash)

    def style() -> Callable[[str], bool]:
        model = expressive.model_path(build, settings.style.codebook, "style")
        return by_model("codebook_hash", expressive.styles.load(files.local(model)).hash)

    asked: dict[str, Callable[[], Callable[[str], bool]]] = {
        "units": lambda: by_key("units", steps.units_stage(build, settings)),
        "words": lambda: by_key("words", steps.align_stage(settings)),
        "prosody": lambda: by_key("prosody", expressive.prosody_stage(settings)),
        "pitch": pitch,
        "style": style,
    }
    found = {}
    for table, judge in asked.items():
        if (build / table).exists():
            try:
                found[table] = judge()
            except ValueError as error:
                say(f"prune: {table}/ is left as it is: {error}")
    return found, set(part_names(build))


def frames_left(build: Path, settings: Settings) -> str:
    """Frames are drawn for a fit, and left over once its codebook stands."""
    held = marker(build / "codebooks" / "units.safetensors") or {}
    fitted = settings.units.codebook or held.get("key", "bundled") != "bundled"
    return "the codebook they were drawn for stands" if fitted else ""


def indexed(build: Path) -> set[str] | None:
    """Shards that index.json names; None where no shards are finished."""
    try:
        streams = json.loads(files.read(build / "shards" / "index.json"))["streams"]
    except (ValueError, KeyError):
        return None
    return {
        f"shards/{entry['file']}"
        for splits in streams.values()
        for entries in splits.values()
        for entry in entries
    }


def remove(build: Path, found: list[Stale]) -> int:
    """Remove what was found, markers before the files they speak of; the number of files that went."""
    for stale in sorted(found, key=lambda stale: not stale.name.endswith(".done")):
        (build / stale.name).unlink(missing_ok=True)
    return len(found)
