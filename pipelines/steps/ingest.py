"""The step `ingest`: source to manifest parts, and text documents to text parts."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from corpus import files, manifest
from corpus.adapters import ADAPTERS, ChannelCheck, MeasuredRow
from corpus.adapters.jsonl import LONGEST
from corpus.documents import read_documents, write_documents
from corpus.manifest import ManifestSummary
from pipelines.execution.planner import NEW, Plan, plan
from pipelines.execution.task import Stage, Task
from pipelines.layout import RECORDINGS, UNTRANSCRIBED, VOICES, Part, parts
from pipelines.settings import one_of, write_settings
from pipelines.steps.base import Run, Step
from pipelines.steps.evaluation_sets import check_sets
from pipelines.steps.probe import probe, remove_listings


def ingest(run: Run) -> dict[str, Any]:
    """Read the source into manifest parts, and text documents into text parts."""
    build, settings = run.folder, run.settings
    corpus = settings.corpus
    one_of("corpus.adapter", corpus.adapter, tuple(ADAPTERS))
    check_sets(settings.duplicates.evaluation)
    channels = ChannelCheck()
    files.make_folder(build)
    rows, chunks = probe(run, channels)
    if settings.cut.enabled:
        summary = manifest.write_manifest(
            rows, build / RECORDINGS / "manifest", part_minutes=corpus.part_minutes, min_seconds=0.0,
            max_seconds=LONGEST, ids=corpus.ids, transcripts="optional",
            licences=corpus.licences, splits=corpus.splits, growing=True,
        )  # fmt: skip
    else:
        summary = write_utterances(run, rows)
    if chunks and run.work is None:
        remove_listings(build, chunks)
    documents = write_documents(
        read_documents(
            [files.to_path(name) for name in settings.text.documents],
            whole_files=settings.text.one_document == "file",
        ),
        build / "text",
        duplicates=settings.text.duplicates,
        languages=settings.text.languages,
    )
    write_settings(build, settings)
    if warning := channels.warning():
        run.say(f"ingest: warning: {warning}")
    counted = f"{documents.documents} documents, {count_rejects(documents.rejected)}"
    say_manifest(run, "ingest", summary, counted)
    return {
        "utterances": summary.utterances,
        "samples": summary.samples,
        "parts": summary.parts,
        "rejected": summary.rejected,
        "documents": documents.documents,
        "documents_rejected": documents.rejected,
    }


def write_utterances(run: Run, rows: Iterable[MeasuredRow]) -> ManifestSummary:
    """Write the manifest of the utterances: that of the build, or the one that is to be transcribed."""
    if run.settings.transcribe.enabled:
        return write_build_manifest(run, rows, UNTRANSCRIBED, optional_text=True)
    return write_transcribed(run, rows)


def utterance_folder(run: Run) -> str:
    """The folder that `write_utterances` writes, relative to the build."""
    return f"{UNTRANSCRIBED}/manifest" if run.settings.transcribe.enabled else transcribed_folder(run)


def write_transcribed(run: Run, rows: Iterable[MeasuredRow]) -> ManifestSummary:
    """Write the manifest of utterances with their text: that of the build, or the one that is to get speakers."""
    return write_build_manifest(run, rows, VOICES if run.settings.speakers.enabled else "")


def transcribed_folder(run: Run) -> str:
    """The folder that `write_transcribed` writes, relative to the build."""
    return f"{VOICES}/manifest" if run.settings.speakers.enabled else "manifest"


def write_build_manifest(
    run: Run, rows: Iterable[MeasuredRow], folder: str = "", *, optional_text: bool = False
) -> ManifestSummary:
    """Write the manifest that every later step reads, or one in a folder of the build that a step makes it from."""
    corpus = run.settings.corpus
    return manifest.write_manifest(
        rows,
        run.folder / folder / "manifest",
        part_minutes=corpus.part_minutes,
        min_seconds=corpus.min_seconds,
        max_seconds=corpus.max_seconds,
        ids=corpus.ids,
        transcripts="optional" if corpus.keep_unaligned or optional_text else "required",
        licences=corpus.licences,
        splits=corpus.splits,
        growing=True,
    )


def say_manifest(run: Run, step: str, summary: ManifestSummary, more: str = "") -> None:
    """Say what a manifest holds, and refuse one that holds nothing usable.

    Raises:
        ValueError: every row is rejected.
    """
    line = (
        f"{step}: {summary.utterances} utterances in {summary.parts} parts, {count_rejects(summary.rejected)}"
    )
    run.say(f"{line}; {more}" if more else line)
    if not summary.utterances:
        first = f"; the first: {summary.first_reject}" if summary.first_reject else ""
        raise ValueError(
            f"{run.settings.corpus.source}: need a usable utterance, got {summary.rows}, "
            f"{count_rejects(summary.rejected)}{first}"
        )


def count_rejects(reasons: dict[str, int]) -> str:
    """Counts by reason in words.

    >>> count_rejects({"audio.missing": 2, "text.empty": 1}), count_rejects({})
    ('3 rejected (audio.missing 2, text.empty 1)', '0 rejected')
    """
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    return f"{sum(reasons.values())} rejected" + (f" ({listed})" if listed else "")


def plan_ingest(run: Run) -> Plan:
    """What reading the source again changes: parts of manifest and text."""
    ingest(run)
    result = Plan("ingest")
    add_manifest_changes(
        run, result, f"{RECORDINGS}/manifest" if run.settings.cut.enabled else utterance_folder(run)
    )
    add_manifest_changes(run, result, "text")
    return result


def add_manifest_changes(run: Run, result: Plan, table: str) -> None:
    """Add to a plan the parts of a manifest or of the text that change."""
    before, after = listed(run.build, table), listed(run.folder, table)
    for name, part in after.items():
        if name in before and before[name].sha256 == part.sha256:
            result.up_to_date += 1
            continue
        result.todo.append(Task(f"{table}/{name}", (), "", part.samples))
        result.reasons["the source changed" if name in before else NEW] += 1
    if removed := before.keys() - after.keys():
        result.reasons[f"{table} parts removed"] += len(removed)


def plan_manifest(
    run: Run,
    *,
    tasks: Callable[[Run], tuple[Stage, list[Task]]],
    write: Callable[[Run, Stage, list[Task]], Any],
    table: Callable[[Run], str],
) -> Plan:
    """What a step that rewrites the manifest would do; where no task is left, how the manifest `table` changes."""
    stage, own = tasks(run)
    result = plan(stage, run.build, own)
    if not result.todo:
        write(run, stage, own)
        add_manifest_changes(run, result, table(run))
    return result


def listed(folder: Path, table: str) -> dict[str, Part]:
    """Part name -> what the summary of the table holds."""
    outer, _, name = table.rpartition("/")
    try:
        return {part.name: part for part in parts(folder / outer, name)}
    except ValueError:  # none yet
        return {}


INGEST_STEP = Step(
    "ingest",
    "Read the source into the manifest",
    once=ingest,
    plan=plan_ingest,
    rejects=True,
    writes_manifest=True,
)
