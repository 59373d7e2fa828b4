"""What `wordweave build` would do: the plan of every stage, with nothing written into the build.

The source is read as ingest reads it, into a folder that is thrown away, beside copies of what is small: manifest,
text, codebooks, split, tokenizer. There the steps decide as they do in a build, whose own tables and markers are only
read. A stage whose inputs are to be made first says what it waits for.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from corpus import files
from pipelines import build as steps
from pipelines.execution.planner import NEW, Plan, plan
from pipelines.execution.task import Stage, Task
from pipelines.layout import listed, map_tasks, part_names
from pipelines.settings import Settings
from pipelines.steps import prosody as expressive
from pipelines.steps.assign_shards import deal

SMALL = ("manifest", "text", "codebooks", "tokenizer")


def preview(build: Path, settings: Settings) -> list[Plan]:
    """The plan of each stage, in the order of a build."""
    with tempfile.TemporaryDirectory(prefix="wordweave-") as folder:
        ahead = Path(folder)
        for name in SMALL:
            copy(build, ahead, (f"{name}/{file}" for file in names(build / name)))
        copy(build, ahead, ["split.json", expressive.SPEAKERS])
        steps.ingest(ahead, settings)
        found = [ingested(build, ahead)]

        def planned(stage: Stage, table: str) -> Plan:
            return plan(stage, build, map_tasks(ahead, stage, table))

        tables = steps.expressive_tables(settings)
        if settings.units.is_bundled:
            steps.place_bundled(ahead, settings)
        elif steps.kept_codebook(ahead, settings):
            found.append(Plan("fit units", standing=1))
        else:
            found.append(planned(steps.frame_sampling(ahead, settings)[0], "frames"))
        if found[-1].stage == "fit units" and not found[-1].standing:
            found.append(Plan("units", waits="fit units"))
        else:
            found.append(planned(steps.units_stage(ahead, settings), "units"))
        if tables:
            found.append(planned(expressive.prosody_stage(settings), "prosody"))
            found += [spoken(build, settings, table, found) for table in tables]
        found.append(planned(steps.align_stage(settings), "words"))
        waits = waiting(found)
        found.append(Plan("interleave", waits=waits) if waits else shards(build, ahead, settings))
    return found


def names(folder: Path) -> list[str]:
    """Names of the files in a folder, none where there is none."""
    there = files.names_in(folder)
    if there is None:
        there = {path.name for path in folder.glob("*") if path.is_file()}
    return sorted(name for name in there if not name.startswith("."))


def copy(build: Path, ahead: Path, paths: Iterable[str]) -> None:
    """Copy those files of the build that are there."""
    for path in paths:
        if (build / path).is_file():
            files.write(ahead / path, files.read(build / path))


def ingested(build: Path, ahead: Path) -> Plan:
    """What reading the source anew changes: parts of manifest and text."""
    found = Plan("ingest")
    for table in ("manifest", "text"):
        try:
            before = listed(build, table)
        except ValueError:  # none yet
            before = {}
        for name, part in listed(ahead, table).items():
            if before.get(name, {}).get("sha256") == part["sha256"]:
                found.standing += 1
                continue
            found.todo.append(Task(f"{table}/{name}", (), "", part["samples"]))
            found.reasons["the source changed" if name in before else NEW] += 1
        gone = before.keys() - listed(ahead, table).keys()
        if gone:
            found.reasons[f"{table} parts go"] += len(gone)
    return found


def waiting(before: list[Plan]) -> str:
    """The stages among these that have something to do, in words."""
    return " and ".join(found.stage for found in before if found.todo or found.waits or found.reasons)


def spoken(build: Path, settings: Settings, table: str, before: list[Plan]) -> Plan:
    """The plan of pitch or style, which hang on F0 and the means of speakers over all recordings."""
    waits = waiting([found for found in before if found.stage in ("ingest", "prosody")])
    if waits or not (build / expressive.SPEAKERS).is_file():
        return Plan(table, waits=f"{waits or 'prosody'}: tokens are measured from each speaker's mean")
    stage, source = expressive.token_stage(build, settings, table)
    return plan(stage, build, expressive.token_tasks(build, stage, source))


def shards(build: Path, ahead: Path, settings: Settings) -> Plan:
    """The plan of the shards of a build whose tables all stand."""
    first = part_names(build)[0]
    copy(build, ahead, (f"{table}/{first}.done" for table in ("units", "pitch", "style")))
    stage, _ = steps.shard_stage(ahead, settings)
    return plan(stage, build, deal(build, stage, samples_per_shard=settings.shards.samples))
