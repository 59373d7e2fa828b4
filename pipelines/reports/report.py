"""The step `report`: what became of every second: totals to the sample, rejects with reasons, and the inspector."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from corpus import files
from corpus.records import REASONS, SAMPLE_RATE
from pipelines.execution.runner import driver_lock
from pipelines.layout import INDEX, finished_parts, part_names
from pipelines.reports.inspector.overview import Overview
from pipelines.reports.inspector.page import read_summary, start_overview, write_inspector
from pipelines.steps.base import Run, Step
from pipelines.steps.split import OUTCOMES, outcomes
from shards.write import STREAMS


def count_outcomes(run: Run, rejects: Path, overview: Overview) -> dict[str, Any]:
    """Sum utterances and samples by outcome, and list every utterance with a reason, one JSON object per line.

    Reads a part at a time, and adds it to the overview. The sums are exact: in = interleaved + speech + cut away +
    rejected, in samples at 16 kHz.
    """
    utterances: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    rejecting = [("ingest", "manifest"), *((step.name, str(step.table)) for step in rejecting_steps(run))]
    keep_unaligned = run.settings.corpus.keep_unaligned
    files.make_folder(rejects.parent)
    temporary = files.temporary_name(rejects)
    with open(temporary, "w", encoding="utf-8") as file:
        for name in part_names(run.build):
            tables = [(step, files.read_table(run.build / table / name)) for step, table in rejecting]
            rows = tables[0][1].select(["id", "audio", "samples"]).to_pylist()
            results = outcomes(tables, keep_unaligned=keep_unaligned)
            overview.add(name, dict(tables), results)
            for row, (outcome, step, reason, detail) in zip(rows, results, strict=True):
                utterances[outcome] += 1
                samples[outcome] += row["samples"]
                if reason is not None:
                    entry = reasons.setdefault(reason, Counter())
                    entry["utterances"] += 1
                    entry["samples"] += row["samples"]
                    fields = {**row, "outcome": outcome, "step": step, "reason": reason, "detail": detail}
                    file.write(json.dumps(fields, ensure_ascii=False, sort_keys=True) + "\n")
    files.publish(temporary, rejects)

    def total(kinds: tuple[str, ...]) -> dict[str, Any]:
        length = sum(samples[kind] for kind in kinds)
        count = sum(utterances[kind] for kind in kinds)
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
                **entry,
                "hours": entry["samples"] / SAMPLE_RATE / 3600,
                "meaning": REASONS.get(reason, "a reason of a step of your own"),
            }
            for reason, entry in sorted(reasons.items())
        },
    }


def rejecting_steps(run: Run) -> list[Step]:
    """The steps whose tables decide what became of a row."""
    return [step for step in run.steps if step.rejects and step.table]


def report(run: Run, against: Path | None = None) -> dict[str, Any]:
    """Write report/report.json, report/rejects.jsonl and the inspector; returns the report.

    Args:
        against: another build with a report, which the page then compares with this one.

    Raises:
        ValueError: a step is not finished, or the hours do not add up with what the shards hold.
    """
    build = run.build
    tables = [step for step in run.steps if step.table]
    for step in tables:
        finished_parts(build, str(step.table), step.name)
    folder = build / "report"
    overview = start_overview(run)
    result = count_outcomes(run, folder / "rejects.jsonl", overview)
    result["tables"] = {str(step.table): {"step": step.name, "summary": step.summary} for step in tables}
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
