"""The step `report`: what became of every second: totals to the sample, rejects with reasons, and the inspector."""

import json
from collections import Counter, deque
from pathlib import Path
from typing import Any

from corpus import files
from corpus.keyed import fraction
from corpus.records import REASONS, SAMPLE_RATE
from pipelines.execution.runner import driver_lock
from pipelines.layout import INDEX, finished_parts, part_names
from pipelines.reports.inspector.overview import Overview
from pipelines.reports.inspector.page import read_summary, start_overview, write_inspector
from pipelines.steps.base import Run, Step
from pipelines.steps.document_overlaps import are_compared, document_totals
from pipelines.steps.duplicates import DUPLICATES_STEP, found_totals
from pipelines.steps.outcomes import (
    OUTCOMES,
    add_sums,
    make_outcomes,
    outcome_summaries,
    read_outcomes,
    rejecting_steps,
)
from shards.write import STREAMS

SHOWN = 1000
"""Parts that the overview of the page describes; totals and reasons are of all."""


def count_outcomes(run: Run, rejects: Path) -> dict[str, Any]:
    """Sum utterances and samples by outcome, and list every utterance with a reason, one JSON object per line.

    Reads done markers, and of the outcomes only the parts with a reason. The sums are exact: in = interleaved + speech
    + cut away + rejected, in samples at 16 kHz.
    """
    sums: dict[str, tuple[int, int]] = {}
    reasons: dict[str, tuple[int, int]] = {}
    with_reasons = []
    for task, summary in outcome_summaries(run):
        add_sums(sums, summary["outcomes"])
        add_sums(reasons, summary["reasons"])
        if summary["reasons"]:
            with_reasons.append(task.output)
    files.make_folder(rejects.parent)
    temporary = files.temporary_name(rejects)
    with open(temporary, "w", encoding="utf-8") as file:
        for table in files.read_tables(run.build, with_reasons):
            for row in table.to_pylist():
                if row["reason"] is not None:
                    fields = {name: value for name, value in row.items() if name != "split"}
                    file.write(json.dumps(fields, ensure_ascii=False, sort_keys=True) + "\n")
    files.publish(temporary, rejects)

    def total(kinds: tuple[str, ...]) -> dict[str, Any]:
        count, length = (sum(sums.get(kind, (0, 0))[i] for kind in kinds) for i in (0, 1))
        return {"utterances": count, "samples": length, "hours": length / SAMPLE_RATE / 3600}

    return {
        "in": total(OUTCOMES),
        "out": total(("interleaved", "speech")),
        "cut_away": total(("cut_away",)),
        "rejected": total(("rejected",)),
        "interleaved": total(("interleaved",)),
        "speech_alone": total(("speech",)),
        "reasons": {
            reason: {
                "utterances": count,
                "samples": samples,
                "hours": samples / SAMPLE_RATE / 3600,
                "meaning": REASONS.get(reason, "a reason of a step of your own"),
            }
            for reason, (count, samples) in sorted(reasons.items())
        },
    }


def fill_overview(run: Run, overview: Overview) -> None:
    """Add the parts of a build to the overview: of more than `SHOWN`, those of lowest hash."""
    names = part_names(run.build)
    shown = set(sorted(names, key=lambda name: fraction(0, "inspector", name))[:SHOWN])
    rejecting = [("ingest", "manifest"), *((step.name, str(step.table)) for step in rejecting_steps(run))]
    for name in names:
        if name in shown:
            tables = {step: files.read_table(run.build / table / name) for step, table in rejecting}
            overview.add(name, tables, read_outcomes(run.build, name))


def report(run: Run, against: Path | None = None) -> dict[str, Any]:
    """Write report/report.json, report/rejects.jsonl and the inspector; returns the report.

    Args:
        against: another build with a report, which the page then compares with this one.

    Raises:
        ValueError: a step is not finished, or the hours do not add up with what the shards hold.
    """
    build = run.build
    tables = [step for step in run.steps if step.table]
    make_outcomes(run)
    for step in tables:
        deque(finished_parts(build, str(step.table), step.name), maxlen=0)
    folder = build / "report"
    overview = start_overview(run)
    result = count_outcomes(run, folder / "rejects.jsonl")
    fill_overview(run, overview)
    result["tables"] = {str(step.table): {"step": step.name, "summary": step.summary} for step in tables}
    if DUPLICATES_STEP in tables:
        result["duplicates"] = found_totals(build)
        if are_compared(run.settings):
            result["documents"] = document_totals(run.build, run.settings)
    if (build / INDEX).is_file():
        index = json.loads((build / INDEX).read_bytes())
        result["shards"] = sum_streams(index)
        for stream, outcome in (("interleaved", "interleaved"), ("speech", "out")):
            stored, accepted = result["shards"][stream]["audio_samples"], result[outcome]["samples"]
            if stored != accepted:
                raise ValueError(
                    f"{build / INDEX}: {stored} samples of {stream} speech, but {accepted} were accepted; "
                    f"run `wordweave interleave {build}`"
                )
    files.write(folder / "report.json", json.dumps(result, indent=1, sort_keys=True).encode())
    write_inspector(run, result, overview, against)
    return result


def report_against(run: Run, against: Path) -> dict[str, Any]:
    """`report`, with a comparison with another build on the page.

    Raises:
        ValueError: the other build has no report.
    """
    read_summary(against)
    with driver_lock(run.build, run.engine):
        return report(run, against)


def sum_streams(index: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Shards, examples, tokens per kind and samples of audio of each stream, both splits together."""
    sums: dict[str, dict[str, Any]] = {}
    for stream in STREAMS:
        splits = index["streams"].get(stream, {})
        numbers = ("samples", "audio_samples", "bytes")
        entry: dict[str, Any] = {**dict.fromkeys(numbers, 0), "shards": 0, "valid": 0, "tokens": Counter()}
        for split, shards in splits.items():
            for shard in shards:
                entry["shards"] += 1
                for name in numbers:
                    entry[name] += shard[name]
                entry["tokens"].update(shard["tokens"])
                entry["valid"] += shard["samples"] if split == "valid" else 0
        sums[stream] = {**entry, "tokens": dict(entry["tokens"])}
    return sums


REPORT_STEP = Step("report", "Report what became of every second of audio", after=None, once=report)
