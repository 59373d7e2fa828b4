"""The one definition of the build: its steps in order, and what walks them.

    recordings -> manifest -> codebook -> units, prosody -> pitch, style; words -> shards -> report

A step that is more than a map over parts (choosing what is held out, k-means, the text tokenizer, assigning rows to
shards) does that part in the driver, once, over part outputs, in bounded memory.
"""

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from corpus import files
from pipelines.engines.local import LocalEngine
from pipelines.execution.engine import Engine
from pipelines.execution.planner import Plan, plan
from pipelines.execution.runner import build_lock
from pipelines.execution.task import marker_path
from pipelines.layout import SMALL_FOLDERS, SPEAKERS, SPLIT
from pipelines.reports.codebook_card import CARD_STEP
from pipelines.reports.report import REPORT_STEP
from pipelines.settings import Settings, read_settings
from pipelines.steps.align import ALIGN_STEP
from pipelines.steps.base import Run, Say, Step, silent
from pipelines.steps.codebook import CODEBOOK_STEP
from pipelines.steps.cut import CUT_STEP
from pipelines.steps.duplicates import DUPLICATES_STEP, HASHES_STEP
from pipelines.steps.fused import run_fused
from pipelines.steps.ingest import INGEST_STEP
from pipelines.steps.interleave import INTERLEAVE_STEP
from pipelines.steps.prosody import PITCH_STEP, PROSODY_STEP, STYLE_STEP
from pipelines.steps.quality import QUALITY_STEP
from pipelines.steps.speakers import SPEAKERS_STEP
from pipelines.steps.transcribe import TRANSCRIBE_STEP
from pipelines.steps.units import UNITS_STEP

STEPS: list[Step] = [
    INGEST_STEP,
    CUT_STEP,
    TRANSCRIBE_STEP,
    SPEAKERS_STEP,
    QUALITY_STEP,
    CODEBOOK_STEP,
    UNITS_STEP,
    HASHES_STEP,
    PROSODY_STEP,
    PITCH_STEP,
    STYLE_STEP,
    ALIGN_STEP,
    DUPLICATES_STEP,
    INTERLEAVE_STEP,
    REPORT_STEP,
    CARD_STEP,
]
"""Every step, in the order of the build."""


def wanted_steps(settings: Settings) -> tuple[Step, ...]:
    """The steps that these settings ask for."""
    return tuple(step for step in STEPS if step.wanted(settings))


def find_step(name: str) -> Step:
    """The step of this name.

    Raises:
        ValueError: there is none.
    """
    for step in STEPS:
        if step.name == name:
            return step
    raise ValueError(f"step: need one of {', '.join(step.name for step in STEPS)}, got {name!r}")


def make_run(
    build: Path, settings: Settings, engine: Engine | None = None, say: Say = silent, *, also: str = ""
) -> Run:
    """What steps receive; `also` is a step that runs whether or not the settings ask for it."""
    steps = tuple(step for step in STEPS if step.wanted(settings) or step.name == also)
    return Run(build, settings, engine or LocalEngine(), steps, say)


def run_step(
    name: str, build: Path, settings: Settings, engine: Engine | None = None, say: Say = silent
) -> dict[str, Any]:
    """Bring one step up to date, and the steps it reads where they have no command of their own."""
    return find_step(name).run(make_run(build, settings, engine, say, also=name))


def run_to(
    name: str, folder: Path, settings: Settings, engine: Engine | None = None, say: Say = silent
) -> Run:
    """Bring one step up to date, and before it those that make the manifest, and nothing else."""
    run = make_run(folder, settings, engine, say, also=name)
    with build_lock(folder, shared=run.engine.shares_builds):
        for step in run.steps:
            if step.name == name or step.writes_manifest:
                step.run(run)
    return run


def build(
    folder: Path, settings: Settings, engine: Engine | None = None, say: Say = silent
) -> dict[str, dict[str, Any]]:
    """Run every step; finished parts are kept.

    Returns:
        The result of each step, by name.
    """
    run = make_run(folder, settings, engine, say)
    results: dict[str, dict[str, Any]] = {}
    with build_lock(folder, shared=run.engine.shares_builds) as lock:
        for step in run.steps:
            if step is INGEST_STEP and not lock.first:
                check_same_settings(folder, settings)
                results[step.name] = {}
                continue
            run_audio_steps(run, step, results)
            results[step.name] = step.run(run)
            if step is INGEST_STEP and run.engine.shares_builds:
                lock.share()
    return results


def check_same_settings(folder: Path, settings: Settings) -> None:
    """A run that joins another one takes the manifest which that one made, and so must have its settings.

    Raises:
        ValueError: it has others.
    """
    if read_settings(folder) != settings:
        raise ValueError(
            f"{folder}: another run with other settings works on this build; wait for it, or end it"
        )


def run_audio_steps(run: Run, first: Step, finished: Iterable[str]) -> None:
    """Before the first of the steps that decode every recording: bring those that can run now up to date on one decode.

    Each step then finds its part tasks done.
    """
    ready = [
        step for step in run.steps if step.tasks and not step.reads_all and ready_after(run, step, finished)
    ]
    stages = [step.tasks(run) for step in ready if step.decodes and step.tasks]
    if first.decodes and len(stages) > 1:
        run_fused(run, stages)


def reads(run_steps: tuple[Step, ...], step: Step) -> tuple[str, ...]:
    """Names of the steps that a step reads: those of `after`, or every step before it."""
    before = run_steps[: run_steps.index(step)]
    after = step.after
    if after is None:
        return tuple(other.name for other in before)
    on_manifest = "ingest" in after
    return tuple(
        other.name for other in before if other.name in after or (on_manifest and other.writes_manifest)
    )


def ready_after(run: Run, step: Step, finished: Iterable[str]) -> bool:
    """Whether all that a step reads is finished, and the step itself is not."""
    done = set(finished)
    return step.name not in done and set(reads(run.steps, step)) <= done


# Dry run -----------------------------------------------------------------------------------------------------------


def dry_run(folder: Path, settings: Settings) -> list[Plan]:
    """What `build` would do: the plan of each step, with nothing written into the build.

    The source is read as ingest reads it, into a temporary folder, beside copies of what is small: manifest, text,
    codebooks, split, tokenizer. There the steps decide as they do in a build, whose own tables and markers are only
    read. A step whose inputs are to be made first names the steps that it waits for.
    """
    plans: dict[str, Plan] = {}
    with tempfile.TemporaryDirectory(prefix="wordweave-") as temporary:
        work = Path(temporary)
        copy_small(folder, work)
        run = dataclasses.replace(make_run(folder, settings), work=work)
        for step in run.steps:
            if step.tasks is None and step.plan is None:
                continue
            waits = [
                name
                for name in reads(run.steps, step)
                if name in plans and (step.reads_all or name != "ingest") and has_work(plans[name])
            ]
            plans[step.name] = Plan(step.name, waits=join_names(waits)) if waits else plan_step(run, step)
    return list(plans.values())


def plan_step(run: Run, step: Step) -> Plan:
    """The plan of a step whose inputs are up to date."""
    if step.plan is not None:
        return step.plan(run)
    assert step.tasks is not None
    stage, tasks = step.tasks(run)
    return plan(stage, run.build, tasks)


def has_work(plan: Plan) -> bool:
    """Whether a step has something to do, or something of it goes away."""
    return bool(plan.todo or plan.waits or plan.reasons)


def join_names(names: list[str]) -> str:
    """Names in words.

    >>> join_names(["ingest"]), join_names(["ingest", "units", "align"])
    ('ingest', 'ingest, units and align')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def copy_small(build: Path, work: Path) -> None:
    """Copy manifest, text, models and notes of a build, where they exist."""
    names = [SPLIT, SPEAKERS, str(marker_path(Path(SPEAKERS)))]
    for folder in SMALL_FOLDERS:
        present = files.names_in(build / folder)
        if present is None:
            present = {path.name for path in (build / folder).glob("*") if path.is_file()}
        names += [f"{folder}/{name}" for name in sorted(present) if not name.startswith(".")]
    for name in names:
        if (build / name).is_file():
            files.write(work / name, files.read(build / name))
