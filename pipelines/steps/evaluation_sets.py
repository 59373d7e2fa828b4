"""Evaluation sets that the corpus is compared with: test sets, manifests, or files of text."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from corpus import files, manifest
from corpus.adapters import ADAPTERS, Intake
from corpus.adapters.base import Unmeasured, measure
from corpus.adapters.jsonl import LONGEST, LONGEST_LINE
from corpus.documents import read_documents
from corpus.manifest import KEY_LENGTH, RejectedRow, escape_id
from corpus.records import Reject, Utterance
from corpus.text_files import open_text
from lm.evaluation.testset import MANIFEST, read_testset
from pipelines.layout import REPEATS
from pipelines.steps.base import Run

EVALUATION = f"{REPEATS}/evaluation"
NEEDED = f"need a folder with {MANIFEST} or manifest.jsonl, or a file of text"


def check_sets(names: list[str]) -> None:
    """Refuse sets that are not there, before any work.

    Raises:
        ValueError: names the first one.
    """
    for name in names:
        if not files.to_path(name).exists():
            raise ValueError(f"duplicates.evaluation: {name}: {NEEDED}")


def write_evaluation_manifest(run: Run, folder: Path) -> None:
    """Write the utterances of all evaluation sets as a manifest.

    Raises:
        ValueError: a set cannot be read, or holds nothing to compare with; names it.
    """
    names = run.settings.duplicates.evaluation
    rows = (row for name in names for row in named_rows(files.to_path(name), name))
    manifest.write_manifest(
        rows, folder, part_minutes=run.settings.corpus.part_minutes, min_seconds=0.0, max_seconds=LONGEST,
        ids="escape", transcripts="optional",
    )  # fmt: skip


def named_rows(path: Path, name: str) -> Iterator[Utterance | RejectedRow]:
    """The rows of one set; their ids begin with its name."""
    prefix, count = path.name.removesuffix(".jsonl"), 0
    for row in read_set(path):
        utterance, reject = (row, None) if isinstance(row, Utterance) else (row.utterance, row.reject)
        count += bool(utterance.text) or reject is None
        named = replace_id(utterance, f"{prefix}:{utterance.id}")
        yield named if reject is None else RejectedRow(named, reject)
    if not count:
        raise ValueError(
            f"duplicates.evaluation: {name}: need a recording or a text to compare with, got none"
        )


def replace_id(utterance: Utterance, id: str) -> Utterance:
    """An utterance with another id, a long one cut to its hash, and without its speaker."""
    if len(escape_id(id)) > KEY_LENGTH:
        id = f"{id[:20]}-{hashlib.sha256(id.encode('utf-8', 'replace')).hexdigest()[:16]}"
    return replace(utterance, id=id, speaker=None)


def read_set(path: Path) -> Iterator[Utterance | RejectedRow]:
    """The rows of a test set's folder, a manifest of recordings, or a file of documents.

    Raises:
        ValueError: it is none of them.
    """
    if path.is_dir() and (path / MANIFEST).is_file():
        yield from testset_rows(path)
    elif path.is_dir() and (path / "manifest.jsonl").is_file():
        yield from ADAPTERS["jsonl"](path / "manifest.jsonl", Intake())
    elif not path.is_file():
        raise ValueError(f"duplicates.evaluation: {path}: {NEEDED}")
    elif names_audio(path):
        yield from ADAPTERS["jsonl"](path, Intake())
    else:
        for row in read_documents([path]):
            if row["text"] is not None:
                yield text_row(str(row["id"]), row["text"])


def names_audio(path: Path) -> bool:
    """Whether a file is a manifest of recordings: JSON whose first object has the field "audio"."""
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return False
    with open_text(path) as text:
        if not (text.is_json() or path.suffix.lower() in (".jsonl", ".ndjson", ".json")):
            return False
        _, value = next(iter(text.json_values(LONGEST_LINE)), (0, None))
    return value is not None and b'"audio"' in value


def testset_rows(folder: Path) -> Iterator[Utterance | RejectedRow]:
    """Every segment of every item of a test set."""
    for item in read_testset(folder, audio=False).items:
        segments: list[Any] = [*item.context, *(one for choice in item.choices for one in choice)]
        for number, segment in enumerate(segments):
            id = f"{item.id}-{number}"
            if segment.audio is None:
                if segment.text:
                    yield text_row(id, segment.text)
                continue
            known = Utterance(id, str(folder / segment.audio), frames=0, text=segment.text)
            yield from measure(Unmeasured(known), Intake())


def text_row(id: str, text: str) -> RejectedRow:
    """A text without recording."""
    return RejectedRow(Utterance(id, "", frames=0, text=text), Reject("audio.missing", "a text alone"))
