"""Text documents that hold a text of an evaluation set: part of the step `duplicates`, reported first.

text, repeats/evaluation/manifest ── repeats/documents ── report, and `interleave`, which leaves out what is removed
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files
from corpus.overlaps import EvaluationTexts, find_overlap, index_texts
from pipelines.execution.planner import parse
from pipelines.execution.task import FileWorker, Stage, Task, make_task
from pipelines.layout import REPEATS, part_names, parts
from pipelines.settings import Settings
from pipelines.steps.base import Run
from pipelines.steps.evaluation_sets import EVALUATION

FOLDER = f"{REPEATS}/documents"
OVERLAPS = pa.schema(
    [
        ("row", pa.int64()),  # of the part of the text table
        ("id", pa.string()),
        ("evaluation", pa.string()),  # id in an evaluation set
        ("similarity", pa.float32()),
    ]
)


@dataclass(frozen=True)
class CompareDocuments(Stage):
    """One part of the text table, and the evaluation sets -> the documents that hold one of their texts."""

    text_similarity: float
    name: ClassVar[str] = "document overlaps"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """Nothing to load; the evaluation sets are read at the first part."""
        return FileWorker(self, functools.partial(self.write, {}))

    def write(
        self, known: dict[tuple[str, ...], EvaluationTexts], build: Path, task: Task, temporary: Path
    ) -> dict[str, Any]:
        """Write the overlaps of one part; the done marker counts them, and the documents.

        Args:
            known: the index of this worker, by the hashes of what it is made of.
        """
        source, *evaluation = task.inputs
        index = known.get(task.hashes[1:])
        if index is None:
            known.clear()
            index = known[task.hashes[1:]] = index_texts(evaluation_texts(build, evaluation))
        rows = []
        table = files.read_table(build / source, ["id", "text"])
        for number, (id, text) in enumerate(zip(table["id"], table["text"], strict=True)):
            overlap = find_overlap(text.as_py(), index, self.text_similarity) if text.is_valid else None
            if overlap is not None:
                rows.append((number, id.as_py(), overlap.id, overlap.similarity))
        columns = zip(*rows, strict=True) if rows else [[]] * len(OVERLAPS)
        pq.write_table(pa.table(list(map(list, columns)), OVERLAPS), temporary, compression="zstd")
        return {"documents": table.num_rows - table["text"].null_count, "found": len(rows)}


def evaluation_texts(build: Path, paths: list[str]) -> Iterator[tuple[str, str]]:
    """Id and text of what is in evaluation sets."""
    for path in paths:
        for row in files.read_table(build / path, ["id", "text"]).to_pylist():
            if row["text"]:
                yield row["id"], row["text"]


def are_compared(settings: Settings) -> bool:
    """Whether documents are compared with evaluation sets."""
    return bool(settings.duplicates.enabled and settings.duplicates.evaluation and settings.text.documents)


def document_tasks(run: Run) -> tuple[Stage, list[Task]]:
    """One task per part of the text table, once the manifest of the evaluation sets is written."""
    stage = CompareDocuments(run.settings.duplicates.text_similarity)
    if not are_compared(run.settings):
        return stage, []
    evaluation = {
        f"{EVALUATION}/manifest/{part.name}": part.sha256 for part in parts(run.folder / EVALUATION)
    }
    return stage, [
        make_task(stage, f"{FOLDER}/{part.name}", {f"text/{part.name}": part.sha256, **evaluation}, 0)
        for part in parts(run.folder, "text")
    ]


def read_markers(build: Path) -> Iterator[dict[str, Any]]:
    """The done marker of each part of the text table, in order.

    Raises:
        ValueError: one is not compared yet.
    """
    names = [f"{FOLDER}/{name}" for name in part_names(build, "text")]
    contents = files.read_each(build, (f"{name}.done" for name in names))
    for name, content in zip(names, contents, strict=True):
        marker = parse(content or b"")
        if marker is None:
            raise ValueError(f"{name}: not finished; run `wordweave duplicates {build}` first")
        yield marker


def overlaps(build: Path, settings: Settings) -> Iterator[list[dict[str, Any]]]:
    """The rows of `OVERLAPS` of each part of the text table, in order."""
    names = part_names(build, "text")
    found = [marker["found"] > 0 for marker in read_markers(build)] if are_compared(settings) else []
    paths = [f"{FOLDER}/{name}" for name, some in zip(names, found, strict=False) if some]
    tables = files.read_tables(build, paths)
    for some in found or [False] * len(names):
        yield next(tables).to_pylist() if some else []


def removed_documents(build: Path, settings: Settings) -> Iterator[set[int]]:
    """Of each part of the text table, the rows that are left out of the shards."""
    removes = "evaluation" in settings.duplicates.remove
    return ({row["row"] for row in rows if removes} for rows in overlaps(build, settings))


def document_totals(build: Path, settings: Settings) -> dict[str, int]:
    """Documents that were compared, that hold a text of an evaluation set, and that are left out for it."""
    compared = found = 0
    for marker in read_markers(build):
        compared, found = compared + marker["documents"], found + marker["found"]
    removed = found if "evaluation" in settings.duplicates.remove else 0
    return {"compared": compared, "evaluation": found, "removed": removed}


def document_lines(build: Path, settings: Settings) -> Iterator[str]:
    """A line of JSON for each document that holds a text of an evaluation set."""
    removes = "evaluation" in settings.duplicates.remove
    for row in chain.from_iterable(overlaps(build, settings)):
        line = {"document": row["id"], "evaluation": row["evaluation"], "evaluation_by": "text"}
        line |= {"text_similarity": row["similarity"]} | (
            {"reject": "duplicate.evaluation"} if removes else {}
        )
        yield json.dumps(line, ensure_ascii=False)


def describe_documents(build: Path, settings: Settings) -> str:
    """What was found, in words; empty where documents are not compared."""
    if not are_compared(settings):
        return ""
    totals = document_totals(build, settings)
    end = "left out" if totals["removed"] else "kept"
    return (
        f"; documents with a text of an evaluation set: {totals['evaluation']} of {totals['compared']}, {end}"
    )
