"""The step `report`: what became of every second: totals to the sample, rejects with reasons, and a page."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from corpus import files
from corpus.records import REASONS, SAMPLE_RATE
from pipelines.layout import INDEX, finished_parts, part_names
from pipelines.steps.base import Run, Step
from pipelines.steps.split import OUTCOMES, outcomes
from shards.show import read_spans
from shards.write import STREAMS


def count_outcomes(run: Run, rejects: Path) -> dict[str, Any]:
    """Sum utterances and samples by outcome, and list every utterance with a reason, one JSON object per line.

    Reads a part at a time. The sums are exact: in = interleaved + speech + cut away + rejected, in samples at 16 kHz.
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
            for row, (outcome, step, reason, detail) in zip(
                rows, outcomes(tables, keep_unaligned=keep_unaligned), strict=True
            ):
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


def report(run: Run) -> dict[str, Any]:
    """Write report/report.json, report/rejects.jsonl and report/index.html; returns the report.

    Raises:
        ValueError: a step is not finished, or the hours do not add up with what the shards hold.
    """
    build = run.build
    tables = [step for step in run.steps if step.table]
    for step in tables:
        finished_parts(build, str(step.table), step.name)
    folder = build / "report"
    result = count_outcomes(run, folder / "rejects.jsonl")
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
    page = Environment(loader=PackageLoader("pipelines", "data"), autoescape=True).get_template("report.html")
    curve = "../model/loss.png" if (build / "model" / "loss.png").is_file() else None
    samples = examples(build) if "shards" in result else []
    html = page.render(build=build.name, report=result, settings=run.settings, examples=samples, curve=curve)
    files.write(folder / "index.html", html.encode())
    return result


def examples(build: Path, count: int = 4) -> list[dict[str, Any]]:
    """The first interleaved samples that switch modality at least twice, as the page shows them."""
    sequences = ((sample["json"], spans) for sample, spans in read_spans(build) if len(spans) > 2)
    return [
        {**{name: record[name] for name in ("id", "seconds", "speaker")}, "spans": spans}
        for record, spans in itertools.islice(sequences, count)
    ]


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
