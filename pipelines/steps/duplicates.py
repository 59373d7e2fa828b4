"""The steps `hashes` and `duplicates`: utterances that repeat an earlier one, or one of an evaluation set.

    manifest ── hashes (of the decoded audio) ──┐
    manifest, units, what other steps reject ───┴── fingerprints ── exchange ── matches ── verdicts ── duplicates
                                                    per part        per group   per bucket  per group   per part

Two shuffles by files: a group is some hundred parts in order, whose entries `exchange` writes by bucket; equal keys
meet in one bucket, where they are compared; `verdicts` gathers what all buckets found about a group. The driver reads
done markers only, and no task holds more than a group or a bucket. An utterance that has an earlier one like it repeats
it, whatever became of that one: so the result depends on the order of the manifest alone, not on that of the work. Rows
that another step rejects are not compared: of several, the first usable one is kept.

Evaluation sets are a small build of their own in `repeats/evaluation`, whose utterances come before all others. Text
documents are compared with them in `document_overlaps`.
"""

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files
from corpus.fingerprints import (
    BANDS,
    KINDS,
    MATCHES,
    Thresholds,
    buckets,
    entries,
    find_matches,
    fingerprint,
    first_matches,
)
from corpus.fingerprints import ENTRIES as ENTRY_SCHEMA
from corpus.records import SAMPLE_RATE
from pipelines.execution.planner import Plan, plan
from pipelines.execution.runner import run_stage
from pipelines.execution.task import FileWorker, Stage, Task, key_function, make_task, read_marker
from pipelines.layout import REPEATS, finished_parts, part_hashes, part_tasks, parts
from pipelines.settings import Settings
from pipelines.steps.audio import AudioStage, AudioWorker, Row
from pipelines.steps.base import Run, Step, reject_columns
from pipelines.steps.document_overlaps import describe_documents, document_lines, document_tasks
from pipelines.steps.evaluation_sets import EVALUATION, write_evaluation_manifest
from pipelines.steps.outcomes import outcomes, rejecting_steps
from pipelines.steps.units import UNITS_STEP

HASHES = pa.schema(
    [("id", pa.string()), ("hash", pa.string()), ("reject", pa.string()), ("detail", pa.string())]
)
DUPLICATES = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.string()),  # id of the first utterance with the same audio; null: none
        ("units", pa.string()),
        ("units_similarity", pa.float32()),
        ("text", pa.string()),
        ("text_similarity", pa.float32()),
        ("evaluation", pa.string()),  # id in an evaluation set: its name, a colon, its own id
        ("evaluation_by", pa.string()),  # audio, units or text
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
GROUP_PARTS, GROUP_ROWS = 256, 20_000
"""A group of parts ends with either."""
BUCKET_ENTRIES = 1 << 19
"""About as many entries are compared in one task."""
REMOVABLE = ("evaluation", *KINDS)
"""What `[duplicates] remove` may name, the first reason first."""


# The hash of the audio ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HashAudio(AudioStage):
    """Utterances -> hashes of their decoded sound, whatever file it came in."""

    device: str = "cpu"
    name: ClassVar[str] = "hashes"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("device",)

    def open(self) -> AudioWorker:
        """Nothing to load."""
        return AudioWorker(self, HASHES, hash_batch)


def hash_batch(batch: pa.RecordBatch, rows: list[Row]) -> pa.RecordBatch:
    """The hashes of a batch of decoded recordings."""
    hashes = pa.array([None if wave is None else audio_hash(wave) for _, wave, _ in rows], pa.string())
    rejects = reject_columns([reject for _, _, reject in rows])
    return pa.record_batch([batch.column("id"), hashes, *rejects], schema=HASHES)


def audio_hash(wave: np.ndarray) -> str:
    """Hash of (T,) float32 samples at 16 bits, 32 hexadecimal digits: the last bits of a float are no content.

    >>> audio_hash(np.zeros(3, np.float32)) == audio_hash(np.full(3, 1e-6, np.float32))
    True
    """
    samples = np.clip(np.round(wave * 32768.0), -32768, 32767).astype("<i2")
    return hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest()


# Stages -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fingerprint(Stage):
    """Manifest, units, hashes and the tables that reject rows -> what usable rows are compared by."""

    rejecting: tuple[str, ...]  # steps, whose tables follow the first three
    keep_unaligned: bool
    evaluation: bool = False  # every row counts: a text without audio, too
    name: ClassVar[str] = "fingerprints"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """Nothing to load."""
        return FileWorker(self, self.write)

    def write(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the fingerprints of one part; the done marker keeps their number, by which parts are grouped."""
        manifest = files.read_table(build / task.inputs[0])
        units = files.read_table(build / task.inputs[1]).column("units")
        hashes = files.read_table(build / task.inputs[2]).column("hash").to_pylist()
        tables = [files.read_table(build / path, ["reject", "detail"]) for path in task.inputs[3:]]
        usable = [True] * manifest.num_rows
        if not self.evaluation:
            decided = outcomes(
                [("ingest", manifest), *zip(self.rejecting, tables, strict=True)],
                keep_unaligned=self.keep_unaligned,
            )
            usable = [outcome in ("interleaved", "speech") for outcome, *_ in decided]
        table = fingerprint(
            manifest.column("id").to_pylist(),
            [one if use else None for one, use in zip(hashes, usable, strict=True)],
            [one.values.to_numpy() if use and one.is_valid else None for one, use in zip(units, usable, strict=True)],
            [one if use else None for one, use in zip(manifest.column("text").to_pylist(), usable, strict=True)],
        )  # fmt: skip
        pq.write_table(table, temporary, compression="zstd")
        return {"rows": table.num_rows}


@dataclass(frozen=True)
class Exchange(Stage):
    """Fingerprints of a group of parts -> their entries, one row group for each bucket."""

    buckets: int
    name: ClassVar[str] = "exchange"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """Nothing to load."""
        return FileWorker(self, self.write)

    def write(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the entries of one group."""
        (first,) = task.arguments
        tables = files.read_tables(build, task.inputs)
        found = [one for part, table in enumerate(tables, first) for one in entries(table, part)]
        with pq.ParquetWriter(temporary, ENTRY_SCHEMA, compression="zstd") as writer:
            for one in buckets(found, self.buckets):
                writer.write_table(one, row_group_size=max(1, one.num_rows))
        return {}


@dataclass(frozen=True)
class Match(Stage):
    """One bucket of every group -> the pairs that repeat each other."""

    thresholds: Thresholds
    name: ClassVar[str] = "matches"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """Nothing to load."""
        return FileWorker(self, self.write)

    def write(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the matches of one bucket, sorted, in small row groups: a reader skips those of other parts."""
        (bucket,) = task.arguments
        tables = [read_row_groups(build / path, lambda number, _: number == bucket) for path in task.inputs]
        matches = find_matches(pa.concat_tables(tables), self.thresholds)
        pq.write_table(matches, temporary, compression="zstd", row_group_size=5000)
        return {"rows": matches.num_rows}


@dataclass(frozen=True)
class Verdict(Stage):
    """Matches of every bucket -> of a group of parts, for each utterance the first one that it repeats."""

    name: ClassVar[str] = "verdicts"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """Nothing to load."""
        return FileWorker(self, self.write)

    def write(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the verdicts of one group; the done marker keeps a hash for each part that has any."""
        first, stop = task.arguments
        within = (first << 32, (stop << 32) - 1)
        tables = [read_positions(build / path, within) for path in task.inputs]
        table = first_matches(pa.concat_tables([MATCHES.empty_table(), *tables]))
        pq.write_table(table, temporary, compression="zstd")
        part_of = table.column("later").to_numpy() >> 32
        changes = np.flatnonzero(np.diff(part_of, prepend=-1, append=-1))
        hashes = {
            str(part_of[start]): hashlib.sha256(
                json.dumps(table.slice(start, end - start).to_pylist()).encode()
            ).hexdigest()
            for start, end in itertools.pairwise(changes)
        }
        return {"parts": hashes}


@dataclass(frozen=True)
class FindDuplicates(Stage):
    """Manifest and verdicts -> what each utterance repeats, and whether that rejects it."""

    remove: tuple[str, ...]
    name: ClassVar[str] = "duplicates"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """Nothing to load."""
        return FileWorker(self, self.write)

    def write(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the rows of one part; the done marker counts what was found, [utterances, samples]."""
        (part,) = task.arguments
        manifest = files.read_table(build / task.inputs[0], ["id", "samples"]).to_pylist()
        rows = [dict.fromkeys(DUPLICATES.names) | {"id": row["id"]} for row in manifest]
        verdicts = [
            read_positions(build / path, (part << 32, ((part + 1) << 32) - 1)) for path in task.inputs[1:]
        ]
        found: dict[str, list[int]] = {}
        rejects: Counter[str] = Counter()
        for match in [one for table in verdicts for one in table.to_pylist()]:
            add_match(rows[match["later"] & 0xFFFFFFFF], match)
        for row, utterance in zip(rows, manifest, strict=True):
            kinds = [kind for kind in REMOVABLE if row[kind] is not None]
            for kind in kinds:
                total = found.setdefault(kind, [0, 0])
                total[0], total[1] = total[0] + 1, total[1] + utterance["samples"]
            if removed := [kind for kind in kinds if kind in self.remove]:
                row["reject"] = f"duplicate.{removed[0]}"
                row["detail"] = f"{describe(row, removed[0])}"
                rejects[row["reject"]] += 1
        pq.write_table(pa.Table.from_pylist(rows, schema=DUPLICATES), temporary, compression="zstd")
        return {"rows": len(rows), "rejects": dict(sorted(rejects.items())), "found": found}


def add_match(row: dict[str, Any], match: dict[str, Any]) -> None:
    """Note in a row of `DUPLICATES` what it repeats."""
    kind = KINDS[match["kind"]]
    if match["earlier"] < 0:
        if row["evaluation"] is None:  # by the sound before units before text
            row |= {"evaluation": match["id"], "evaluation_by": kind}
        return
    row[kind] = match["id"]
    if kind != "audio":
        row[f"{kind}_similarity"] = match["similarity"]


def describe(row: dict[str, Any], kind: str) -> str:
    """What a row repeats, in words."""
    if kind == "evaluation":
        return f"as {row['evaluation']} by its {row['evaluation_by']}"
    similarity = row.get(f"{kind}_similarity")
    return f"as {row[kind]}" + (f", similarity {similarity:.2f}" if similarity is not None else "")


def read_row_groups(path: Path, wanted: Any) -> pa.Table:
    """The row groups of a Parquet file for which `wanted(number, metadata)` holds."""
    with files.open_table(path) as file:
        numbers = [n for n in range(file.num_row_groups) if wanted(n, file.metadata.row_group(n))]
        return file.read_row_groups(numbers, use_threads=False)


def read_positions(path: Path, within: tuple[int, int]) -> pa.Table:
    """The matches of utterances at positions [first, last]; other row groups are not read."""

    def overlaps(_: int, group: Any) -> bool:
        statistics = group.column(0).statistics
        return group.num_rows > 0 and statistics.min <= within[1] and statistics.max >= within[0]

    table = read_row_groups(path, overlaps)
    later = table.column("later").to_numpy()
    return table.filter(pa.array((later >= within[0]) & (later <= within[1])))


# Tasks --------------------------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """Consecutive parts of the corpus, or of the evaluation sets, which have numbers below 0."""

    first: int
    inputs: dict[str, str]  # path of their fingerprints -> sha256
    samples: int

    @property
    def stop(self) -> int:
        """The number after the last part's."""
        return self.first + len(self.inputs)


def hash_tasks(run: Run) -> tuple[HashAudio, list[Task]]:
    """One task per manifest part."""
    stage = HashAudio()
    return stage, part_tasks(run.folder, stage, "hashes")


def fingerprint_tasks(run: Run, *, evaluation: bool = False) -> tuple[Fingerprint, list[Task]]:
    """One task per manifest part."""
    earlier = [] if evaluation else [step for step in rejecting_steps(run) if step.name != "duplicates"]
    stage = Fingerprint(tuple(step.name for step in earlier), run.settings.corpus.keep_unaligned, evaluation)
    tables = [("units", "units"), ("hashes", "hashes"), *((str(step.table), step.name) for step in earlier)]
    key_of = key_function(stage)
    folder = "fingerprints" if evaluation else f"{REPEATS}/fingerprints"
    tasks = []
    columns = [part_hashes(run.build, table, command) for table, command in tables]
    for part, *digests in zip(parts(run.folder), *columns, strict=True):
        hashes = (part.sha256, *digests)
        inputs = (f"manifest/{part.name}", *(f"{table}/{part.name}" for table, _ in tables))
        tasks.append(Task(f"{folder}/{part.name}", inputs, key_of(*hashes), part.samples, hashes=hashes))
    return stage, tasks


def group_parts(build: Path, prefix: str, tasks: Sequence[Task], first: int) -> Iterator[Group]:
    """Groups of finished fingerprints, from number `first` on; `prefix` leads from the build to the tasks' outputs."""
    inputs: dict[str, str] = {}
    rows = samples = 0
    for task in tasks:
        marker = finished(build, prefix + task.output)
        inputs[prefix + task.output] = marker["sha256"]
        rows, samples = rows + marker["rows"], samples + task.samples
        if len(inputs) == GROUP_PARTS or rows >= GROUP_ROWS:
            yield Group(first, inputs, samples)
            first, inputs, rows, samples = first + len(inputs), {}, 0, 0
    if inputs:
        yield Group(first, inputs, samples)


def finished(build: Path, output: str) -> dict[str, Any]:
    """The done marker of an output.

    Raises:
        ValueError: it is not finished.
    """
    marker = read_marker(build / output)
    if marker is None:
        raise ValueError(f"{output}: not finished; run `wordweave duplicates {build}` first")
    return marker


def bucket_count(rows: int) -> int:
    """How many buckets the entries of this number of utterances are sorted into, a power of two.

    >>> bucket_count(100), bucket_count(100_000), bucket_count(30_000_000)
    (1, 16, 4096)
    """
    entry_count = rows * (1 + 2 * BANDS)
    return 1 << max(0, (entry_count // BUCKET_ENTRIES)).bit_length()


def evaluation_run(run: Run) -> Run:
    """The small build of the evaluation sets."""
    return dataclasses.replace(run, build=run.build / EVALUATION, work=run.work and run.work / EVALUATION)


def evaluation_tasks(run: Run) -> Iterator[tuple[Stage, list[Task]]]:
    """The stages that make fingerprints of the evaluation sets, each once the one before is up to date."""
    if not run.settings.duplicates.evaluation:
        return
    inner = evaluation_run(run)
    write_evaluation_manifest(run, inner.folder / "manifest")
    units, _ = UNITS_STEP.tasks(run)  # type: ignore[misc]
    yield units, part_tasks(inner.folder, units, "units")
    yield hash_tasks(inner)
    yield fingerprint_tasks(inner, evaluation=True)


def corpus_stages(run: Run) -> Iterator[tuple[Stage, list[Task]]]:
    """The stages from fingerprints to the table, each once the one before is up to date."""
    build = run.build
    stage, tasks = fingerprint_tasks(run)
    yield stage, tasks
    outside: list[Task] = []
    if run.settings.duplicates.evaluation:
        _, outside = fingerprint_tasks(evaluation_run(run), evaluation=True)
    groups = [
        *group_parts(build, f"{EVALUATION}/", outside, -len(outside)),
        *group_parts(build, "", tasks, 0),
    ]
    rows = sum(finished(build, task.output)["rows"] for task in tasks)
    exchange = Exchange(bucket_count(rows))
    exchanged = [
        make_task(
            exchange, f"{REPEATS}/exchange/part-{number:05d}.parquet", one.inputs, one.samples, (one.first,)
        )
        for number, one in enumerate(groups)
    ]
    yield exchange, exchanged
    limits = run.settings.duplicates
    match = Match(Thresholds(limits.units_similarity, limits.text_similarity))
    inputs = {task.output: finished(build, task.output)["sha256"] for task in exchanged}
    matched = [
        make_task(match, f"{REPEATS}/matches/part-{bucket:05d}.parquet", inputs, 0, (bucket,))
        for bucket in range(exchange.buckets)
    ]
    yield match, matched
    verdict = Verdict()
    inputs = {task.output: finished(build, task.output)["sha256"] for task in matched}
    corpus_groups = [one for one in groups if one.first >= 0]
    judged = [
        make_task(
            verdict,
            f"{REPEATS}/verdicts/part-{number:05d}.parquet",
            inputs,
            one.samples,
            (one.first, one.stop),
        )
        for number, one in enumerate(corpus_groups)
    ]
    yield verdict, judged
    find = FindDuplicates(tuple(kind for kind in REMOVABLE if kind in limits.remove))
    yield find, list(duplicate_tasks(run, find, corpus_groups, judged))


def duplicate_tasks(
    run: Run, stage: Stage, groups: Iterable[Group], judged: Iterable[Task]
) -> Iterator[Task]:
    """One task per manifest part; it depends on what was found about this part alone."""
    listed = parts(run.folder)
    for group, verdict in zip(groups, judged, strict=True):
        found = finished(run.build, verdict.output)["parts"]
        for number in range(group.first, group.stop):
            part = listed[number]
            inputs = {f"manifest/{part.name}": part.sha256}
            if str(number) in found:
                inputs[verdict.output] = found[str(number)]
            yield make_task(stage, f"duplicates/{part.name}", inputs, part.samples, (number,))


def compare(run: Run) -> None:
    """Bring everything before the table up to date."""
    inner = evaluation_run(run)
    for stage, tasks in evaluation_tasks(run):
        run_stage(stage, inner.build, tasks, run.engine)
    documents, tasks = document_tasks(run)
    if tasks:
        run_stage(documents, run.build, tasks, run.engine)
    for stage, tasks in corpus_stages(run):
        if stage.name != FindDuplicates.name:
            run_stage(stage, run.build, tasks, run.engine)


def find_tasks(run: Run) -> tuple[Stage, list[Task]]:
    """The tasks of the table, once all before is up to date.

    Raises:
        ValueError: it is not.
    """
    *_, last = corpus_stages(run)
    return last


def plan_duplicates(run: Run) -> Plan:
    """What the step would do: the first of its stages that is not up to date, or the table."""
    inner = evaluation_run(run)
    for stage, tasks in evaluation_tasks(run):
        planned = plan(stage, inner.build, tasks)
        if planned.todo:
            return dataclasses.replace(planned, stage="duplicates")
    planned = Plan("duplicates")
    for stage, tasks in itertools.chain([document_tasks(run)], corpus_stages(run)):
        planned = plan(stage, run.build, tasks)
        if planned.todo:
            break
    return dataclasses.replace(planned, stage="duplicates")


# Report -------------------------------------------------------------------------------------------------------------


def found_totals(build: Path) -> dict[str, dict[str, Any]]:
    """Kind -> {"utterances", "samples", "hours"} of those that repeat an earlier one, or one of an evaluation set."""
    sums: dict[str, list[int]] = {}
    for _, marker in finished_parts(build, "duplicates", "duplicates"):
        for kind, (count, samples) in marker["found"].items():
            total = sums.setdefault(kind, [0, 0])
            total[0], total[1] = total[0] + count, total[1] + samples
    return {
        kind: {
            "utterances": sums.get(kind, [0, 0])[0],
            "samples": sums.get(kind, [0, 0])[1],
            "hours": sums.get(kind, [0, 0])[1] / SAMPLE_RATE / 3600,
        }
        for kind in REMOVABLE
    }


def write_findings(run: Run, stage: Stage, tasks: list[Task]) -> None:
    """Write report/duplicates.jsonl, one line for each utterance and document that is found, and say how many."""
    with_findings = [
        f"duplicates/{name}"
        for name, marker in finished_parts(run.build, "duplicates", "duplicates")
        if marker["found"]
    ]
    utterances = (
        json.dumps({name: value for name, value in row.items() if value is not None}, ensure_ascii=False)
        for table in files.read_tables(run.build, with_findings)
        for row in table.to_pylist()
        if any(row[kind] is not None for kind in REMOVABLE)
    )
    files.make_folder(run.build / "report")
    lines = itertools.chain(utterances, document_lines(run.build, run.settings))
    files.write_lines(run.build / "report" / "duplicates.jsonl", lines)
    totals = found_totals(run.build)
    counted = ", ".join(f"{kind} {one['utterances']} ({one['hours']:.2f} h)" for kind, one in totals.items())
    removed = ", ".join(run.settings.duplicates.remove) or "none: [duplicates] remove"
    run.say(
        f"duplicates: same as an earlier utterance, or in an evaluation set: {counted}; rejected by {removed}"
        + describe_documents(run.build, run.settings)
    )


def is_wanted(settings: Settings) -> bool:
    """Whether duplicates are looked for."""
    return settings.duplicates.enabled


HASHES_STEP = Step(
    "hashes",
    "Hash the decoded audio",
    table="hashes",
    after=("ingest",),
    wanted=is_wanted,
    tasks=hash_tasks,
    decodes=True,
)
DUPLICATES_STEP = Step(
    "duplicates",
    "Find utterances that repeat an earlier one",
    table="duplicates",
    after=None,
    wanted=is_wanted,
    tasks=find_tasks,
    prepare=compare,
    finish=write_findings,
    plan=plan_duplicates,
    rejects=True,
    reads_all=True,
)
