"""What became of every second: totals to the sample, rejects with reasons, and a page to look at."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from corpus import files
from corpus.records import REASONS, SAMPLE_RATE
from pipelines.build import part_names, recall
from pipelines.execution.task import marker, write_atomically
from pipelines.steps.split import FATES, fates
from shards.show import read_spans
from shards.write import STREAMS


def account(build: Path, *, unaligned: str, rejects: Path) -> dict[str, Any]:
    """Sum utterances and samples by what became of them, and list every utterance with a reason, one JSON a line.

    Reads a part at a time. The sums are exact: in = interleaved + speech + rejected, in samples at 16 kHz.
    """
    utterances: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    files.make_folder(rejects.parent)
    temporary = files.temporary_name(rejects)
    with open(temporary, "w", encoding="utf-8") as file:
        for name in part_names(build):
            tables = [files.read_table(build / table / name) for table in ("manifest", "units", "words")]
            rows = tables[0].select(["id", "audio", "samples"]).to_pylist()
            for row, (fate, stage, reason, detail) in zip(
                rows, fates(*tables, unaligned=unaligned), strict=True
            ):
                utterances[fate] += 1
                samples[fate] += row["samples"]
                if reason is not None:
                    entry = reasons.setdefault(reason, Counter())
                    entry["utterances"] += 1
                    entry["samples"] += row["samples"]
                    said = {**row, "fate": fate, "stage": stage, "reason": reason, "detail": detail}
                    file.write(json.dumps(said, ensure_ascii=False, sort_keys=True) + "\n")
    files.publish(temporary, rejects)

    def total(kinds: tuple[str, ...]) -> dict[str, Any]:
        together = sum(samples[kind] for kind in kinds)
        count = sum(utterances[kind] for kind in kinds)
        return {"utterances": count, "samples": together, "hours": together / SAMPLE_RATE / 3600}

    return {
        "in": total(FATES),
        "out": total(("interleaved", "speech")),
        "rejected": total(("rejected",)),
        "interleaved": total(("interleaved",)),
        "speech_alone": total(("speech",)),
        "reasons": {
            reason: {**entry, "hours": entry["samples"] / SAMPLE_RATE / 3600, "meaning": REASONS[reason]}
            for reason, entry in sorted(reasons.items())
        },
    }


def report(build: Path) -> dict[str, Any]:
    """Write report/report.json, report/rejects.jsonl and report/index.html; returns the report.

    Raises:
        ValueError: a stage is not finished, or the hours do not add up with what the shards hold.
    """
    settings = recall(build)
    for name in part_names(build):
        for table, command in (("units", "units"), ("words", "align")):
            if marker(build / table / name) is None:
                raise ValueError(f"{table}/{name}: not finished; run `wordweave {command} {build}` first")
    folder = build / "report"
    said = account(build, unaligned=settings.corpus.unaligned, rejects=folder / "rejects.jsonl")
    index_path = build / "shards" / "index.json"
    if index_path.is_file():
        index = json.loads(index_path.read_bytes())
        said["shards"] = streams(index)
        for stream, fate in (("interleaved", "interleaved"), ("speech", "out")):
            held, want = said["shards"][stream]["audio_samples"], said[fate]["samples"]
            if held != want:
                raise ValueError(
                    f"{index_path}: {held} samples of {stream} speech, but {want} were accepted; "
                    f"run `wordweave interleave {build}`"
                )
    write_atomically(folder / "report.json", json.dumps(said, indent=1, sort_keys=True).encode())
    page = Environment(loader=PackageLoader("pipelines", "data"), autoescape=True).get_template("report.html")
    curve = "../model/loss.png" if (build / "model" / "loss.png").is_file() else None
    shown = examples(build) if "shards" in said else []
    html = page.render(build=build.name, report=said, settings=settings, examples=shown, curve=curve)
    write_atomically(folder / "index.html", html.encode())
    return said


def examples(build: Path, count: int = 4) -> list[dict[str, Any]]:
    """The first interleaved samples that switch modality at least twice, as the page shows them."""
    found = ((sample["json"], spans) for sample, spans in read_spans(build) if len(spans) > 2)
    return [
        {**{name: record[name] for name in ("id", "seconds", "speaker")}, "spans": spans}
        for record, spans in itertools.islice(found, count)
    ]


def streams(index: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Shards, examples, tokens per kind and samples of audio of each stream, both splits together."""
    found: dict[str, dict[str, Any]] = {}
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
        found[stream] = {**entry, "tokens": dict(entry["tokens"])}
    return found
