"""The table `outcomes`: what becomes of each utterance, from the rejects of all steps before and the held-out rule.

The steps `interleave` and `report` bring it up to date. The done marker of a part holds which of its rows go to which
stream and split, and the sums of the report, so that the driver reads markers only, however large the corpus is.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files
from corpus.quality import MEASURES, Filter
from corpus.records import Reject
from pipelines.execution.planner import parse
from pipelines.execution.task import FileWorker, Stage, Task, key_function
from pipelines.layout import part_hashes, parts
from pipelines.steps.base import Run, Step, reject_columns, run_quick_stage
from pipelines.steps.quality import TABLE as QUALITY
from pipelines.steps.split import Split, held_out
from shards.write import SPLITS, STREAMS

TABLE = "outcomes"
OUTCOMES = ("interleaved", "speech", "cut_away", "rejected")
Outcome = tuple[str, str | None, str | None, str | None]
"""(one of OUTCOMES, step, reason, detail): the last three of the first step that rejected the row."""
STREAMS_OF: dict[str, tuple[str, ...]] = {
    "interleaved": ("interleaved", "speech", "text"), "speech": ("speech",), "cut_away": (), "rejected": (),
}  # fmt: skip
"""The streams of a row by its outcome."""
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.string()),
        ("samples", pa.int64()),
        ("outcome", pa.string()),
        ("split", pa.string()),
        ("step", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class DecideOutcomes(Stage):
    """Manifest, the tables that reject rows, and filters on measures -> what becomes of each row, and why."""

    split: Split
    keep_unaligned: bool
    rejecting: tuple[tuple[str, str], ...]  # step, its table
    filters: tuple[Filter, ...] = ()
    name: ClassVar[str] = "outcomes"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """Nothing to load."""
        return FileWorker(self, self.write)

    def write(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the outcomes of one part; the done marker keeps `summarise` of them."""
        rows = self.decide(build, task)
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd")
        return {"rows": len(rows), **summarise(rows)}

    def decide(self, build: Path, task: Task) -> list[dict[str, Any]]:
        """The rows of `SCHEMA` of one part."""
        manifest = files.read_table(build / task.inputs[0])
        tables = [("ingest", manifest)]
        if self.filters:
            tables.append(("quality", filter_table(build, task.output.rpartition("/")[2], self.filters)))
        for (step, _), path in zip(self.rejecting, task.inputs[1:], strict=False):
            tables.append((step, files.read_table(build / path, ["reject", "detail"])))
        results = outcomes(tables, keep_unaligned=self.keep_unaligned)
        return [
            {
                **row,
                **dict(zip(("outcome", "step", "reason", "detail"), result, strict=True)),
                "split": self.split.split_of(row["id"], row["speaker"]),
            }
            for row, result in zip(
                manifest.select(["id", "audio", "samples", "speaker"]).to_pylist(), results, strict=True
            )
        ]


def filter_table(build: Path, name: str, filters: Sequence[Filter]) -> pa.Table:
    """The columns `reject` and `detail` of one part by the filters: of each row the first that drops it."""
    rejects = [first_reject(values, filters) for values in read_measures(build, name, filters)]
    return pa.table(dict(zip(("reject", "detail"), reject_columns(rejects), strict=True)))


def first_reject(values: Mapping[str, float | None], filters: Sequence[Filter]) -> Reject | None:
    """Why a row is dropped, None if it is not."""
    return next(filter(None, (one.reject(values) for one in filters)), None)


def read_measures(
    build: Path, name: str, filters: Sequence[Filter] = ()
) -> Iterator[dict[str, float | None]]:
    """The measures of each row of one part; those of the aligner where a filter needs them."""
    table = files.read_table(build / QUALITY / name)
    rows = table.select([column for column in table.column_names if column in MEASURES]).to_pylist()
    if needs_aligner(filters):
        aligned = files.read_table(build / "words" / name, ["quality"])["quality"].to_pylist()
        for row, text in zip(rows, aligned, strict=True):
            measures = json.loads(text or "{}")
            row["aligner_confidence"] = measures.get("mean_confidence", measures.get("confidence"))
    yield from rows


def needs_aligner(filters: Sequence[Filter]) -> bool:
    """Whether a filter is on what the step `align` measures."""
    return any(MEASURES[one.measure].of is None for one in filters)


def outcomes(tables: Sequence[tuple[str, pa.Table]], *, keep_unaligned: bool) -> list[Outcome]:
    """What became of each row of a part.

    "interleaved": in every stream. "speech": no usable word times, but units, and the build keeps such recordings.
    "cut_away": what is left of a recording that was cut into utterances. "rejected": in no shard.

    Args:
        tables: step -> its table, with the columns `reject` and `detail`, in the order of the build.
    """
    columns = [
        (step, table.column("reject").to_pylist(), table.column("detail").to_pylist())
        for step, table in tables
    ]
    results: list[Outcome] = []
    for row in range(tables[0][1].num_rows):
        rejects = [(step, codes[row], details[row]) for step, codes, details in columns if codes[row]]
        if not rejects:
            results.append(("interleaved", None, None, None))
        elif keep_unaligned and {step for step, _, _ in rejects} == {"align"}:
            results.append(("speech", *rejects[0]))
        elif rejects[0][1].startswith("cut."):
            results.append(("cut_away", *rejects[0]))
        else:
            results.append(("rejected", *rejects[0]))
    return results


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the driver needs of a part.

    Returns:
        JSON-able: `accepted`, "stream/split" -> {"ranges": [[first, stop], ...] of its rows, "samples"}, and `outcomes`
        and `reasons`, name -> [utterances, samples at 16 kHz].
    """
    accepted: dict[str, dict[str, Any]] = {}
    sums: dict[str, dict[str, list[int]]] = {"outcomes": {}, "reasons": {}}
    for number, row in enumerate(rows):
        for stream in STREAMS_OF[row["outcome"]]:
            entry = accepted.setdefault(f"{stream}/{row['split']}", {"ranges": [], "samples": 0})
            entry["samples"] += row["samples"]
            extend(entry["ranges"], number)
        for kind, name in (("outcomes", row["outcome"]), ("reasons", row["reason"])):
            if name is not None:
                total = sums[kind].setdefault(name, [0, 0])
                total[0] += 1
                total[1] += row["samples"]
    return {"accepted": accepted, **sums}


def extend(ranges: list[list[int]], number: int) -> None:
    """Add the next number to ranges [first, stop).

    >>> ranges = [[0, 2]]
    >>> extend(ranges, 2), extend(ranges, 5), ranges
    (None, None, [[0, 3], [5, 6]])
    """
    if ranges and ranges[-1][1] == number:
        ranges[-1][1] += 1
    else:
        ranges.append([number, number + 1])


def read_outcomes(build: Path, name: str) -> list[Outcome]:
    """The outcome of each row of one part, once they are up to date."""
    columns = ["outcome", "step", "reason", "detail"]
    rows = files.read_table(build / TABLE / name, columns).to_pylist()
    return [(row["outcome"], row["step"], row["reason"], row["detail"]) for row in rows]


def accepted_rows(marker: dict[str, Any]) -> Iterator[tuple[tuple[str, str], list[list[int]], int]]:
    """((stream, split), ranges of rows, samples) from the done marker of a part."""
    for stream in STREAMS:
        for split in SPLITS:
            if entry := marker["accepted"].get(f"{stream}/{split}"):
                yield (stream, split), entry["ranges"], entry["samples"]


def add_sums(total: dict[str, tuple[int, int]], more: dict[str, list[int]]) -> None:
    """Add name -> (utterances, samples)."""
    for name, (count, samples) in more.items():
        before = total.get(name, (0, 0))
        total[name] = (before[0] + count, before[1] + samples)


def rejecting_steps(run: Run) -> list[Step]:
    """The steps whose tables decide what becomes of a row."""
    return [step for step in run.steps if step.rejects and step.table]


def outcome_stage(run: Run) -> DecideOutcomes:
    """The stage that decides outcomes. Chooses what is held out."""
    rejecting = tuple((step.name, str(step.table)) for step in rejecting_steps(run))
    filters = run.settings.quality.filters
    return DecideOutcomes(held_out(run), run.settings.corpus.keep_unaligned, rejecting, filters)


def outcome_tasks(run: Run, stage: DecideOutcomes) -> Iterator[Task]:
    """One task per manifest part, in order."""
    key_of = key_function(stage)
    read = [*stage.rejecting, *([("quality", QUALITY)] if stage.filters else [])]
    columns = [part_hashes(run.build, table, step) for step, table in read]
    tables = ("manifest", *(table for _, table in read))
    for part, *digests in zip(parts(run.folder), *columns, strict=True):
        hashes = (part.sha256, *digests)
        inputs = tuple(f"{table}/{part.name}" for table in tables)
        yield Task(f"{TABLE}/{part.name}", inputs, key_of(*hashes), part.samples, hashes=hashes)


def make_outcomes(run: Run) -> None:
    """Bring the outcomes up to date."""
    stage = outcome_stage(run)
    run_quick_stage(run, stage, list(outcome_tasks(run, stage)))


def outcome_summaries(run: Run) -> Iterator[tuple[Task, dict[str, Any]]]:
    """(task, `summarise` of its rows) of each part: from done markers, for a dry run computed where they are stale."""
    stage = outcome_stage(run)
    tasks, ahead = itertools.tee(outcome_tasks(run, stage))
    contents = files.read_each(run.build, (f"{task.output}.done" for task in ahead))
    for task, content in zip(tasks, contents, strict=True):
        marker = parse(content or b"")
        if marker is None or marker.get("key") != task.key:
            marker = summarise(stage.decide(run.build, task))
        yield task, marker
