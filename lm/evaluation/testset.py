"""Test sets: a folder of items that any evaluation task reads.

    testset.json   name, task, version, counts, licence, source
    items.jsonl    one item per line
    audio/...      recordings, by paths relative to the folder

An item is a context and, for tasks that choose, the choices that may follow it. Each is a list of segments: one
sentence or phrase in the forms the test set has, written (`text`), recorded (`audio`), or in units (`units`,
"[Hu3][Hu71]"). So one item serves text, speech, and both directions across: a direction says in which form the context
is given and in which form the continuation.

    {"id": "s-1", "context": [{"text": "the cook was in the kitchen", "audio": "audio/s-1.flac"}],
     "choices": [[{"text": "he served the soup", "audio": ...}], [{"text": "he fed the horse", "audio": ...}]],
     "right": 0, "family": "s-1"}

| task | item |
|---|---|
| choose | context (may be empty), choices, `right`: the index of the right one |
| transcribe | context in both forms: text and speech of one utterance |
| classify | context, `label`: a class or an intent |
| continue | context, `label`: what a continuation should keep, such as a sentiment |

`split` is "test", or "train" or "dev" for items that few-shot examples come from. Items of one `family` are not
independent (voices of one pair, twins with exchanged contexts): scores are averaged over a family first. `group` is a
sub-task for the report.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from corpus import files
from corpus.records import Reject

FORMAT, SCHEMA = "wordweave test set", 1
MANIFEST, ITEMS = "testset.json", "items.jsonl"
TASKS = ("choose", "transcribe", "classify", "continue")
SPLITS = ("train", "dev", "test")
DIRECTIONS = {
    "T": ("text", "text"),
    "S": ("speech", "speech"),
    "T->S": ("text", "speech"),
    "S->T": ("speech", "text"),
}
"""Direction -> modality of the context and of the continuation."""


class Segment(NamedTuple):
    """One sentence or phrase, in the forms the test set has."""

    text: str | None = None
    audio: str | None = None  # path, relative to the folder
    units: str | None = None  # "[Hu3][Hu71]", in place of a recording

    def has(self, modality: str) -> bool:
        """Whether it exists as text, or as speech."""
        return self.text is not None if modality == "text" else (self.audio or self.units) is not None

    def to_json(self) -> dict[str, str]:
        """The object in items.jsonl."""
        return {name: value for name, value in self._asdict().items() if value is not None}


@dataclass(frozen=True, slots=True)
class TestItem:
    """One row of a test set; see the head of this file."""

    __test__: ClassVar = False  # no test class for pytest
    id: str
    context: tuple[Segment, ...] = ()
    choices: tuple[tuple[Segment, ...], ...] = ()
    right: int | None = None
    label: str | None = None
    split: str = "test"
    family: str = ""  # empty: its id
    group: str = ""

    def recordings(self) -> list[str]:
        """Paths of all recordings, in order."""
        segments = [*self.context, *(segment for choice in self.choices for segment in choice)]
        return [segment.audio for segment in segments if segment.audio is not None]

    def to_json(self) -> dict[str, Any]:
        """The row in items.jsonl."""
        row: dict[str, Any] = {"id": self.id, "context": [segment.to_json() for segment in self.context]}
        if self.choices:
            row |= {"choices": [[segment.to_json() for segment in choice] for choice in self.choices]}
        for name in ("right", "label", "family", "group"):
            if getattr(self, name) not in (None, ""):
                row[name] = getattr(self, name)
        return row | ({} if self.split == "test" else {"split": self.split})


@dataclass(frozen=True)
class TestSet:
    """A test set, read and checked."""

    __test__: ClassVar = False  # no test class for pytest
    folder: Path
    name: str
    task: str
    version: str
    licence: str
    source: str
    directions: tuple[str, ...]
    items: tuple[TestItem, ...]
    hash: str  # sha256 of items.jsonl
    labels: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # the other fields of testset.json

    @property
    def recordings(self) -> list[str]:
        """Paths of all recordings, each once, in order."""
        return list(dict.fromkeys(path for item in self.items for path in item.recordings()))

    def in_split(self, split: str) -> list[TestItem]:
        """Items of one split."""
        return [item for item in self.items if item.split == split]


def write_testset(
    folder: Path,
    items: Iterable[TestItem],
    *,
    name: str,
    task: str,
    version: str,
    licence: str,
    source: str,
    directions: Sequence[str],
    labels: Sequence[str] = (),
    **facts: Any,
) -> TestSet:
    """Write items.jsonl, then testset.json with counts and hash, and read both back.

    The recordings must be in the folder already. `facts` are added to testset.json.

    Raises:
        ValueError: as `read_testset`.
    """
    items = list(items)
    folder.mkdir(parents=True, exist_ok=True)
    # without its manifest it is no test set: nothing half-written is ever read
    (folder / MANIFEST).unlink(missing_ok=True)
    content = "".join(json.dumps(item.to_json(), ensure_ascii=False) + "\n" for item in items).encode()
    files.write(folder / ITEMS, content)
    manifest = {
        "format": FORMAT, "schema": SCHEMA, "name": name, "task": task, "version": version, "licence": licence,
        "source": source, "directions": list(directions), "labels": list(labels), "counts": count(items),
        "sha256": hashlib.sha256(content).hexdigest(), **facts,
    }  # fmt: skip
    files.write(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n")
    return read_testset(folder)


def count(items: Sequence[TestItem]) -> dict[str, Any]:
    """The counts that testset.json holds and `read_testset` checks."""
    return {
        "items": len(items),
        "choices": sorted({len(item.choices) for item in items}),
        "recordings": len({path for item in items for path in item.recordings()}),
        "splits": dict(sorted(Counter(item.split for item in items).items())),
    }


def read_testset(folder: Path, *, audio: bool = True) -> TestSet:
    """Read a test set, and refuse an incomplete one.

    Args:
        audio: read the header of every recording, too.

    Raises:
        ValueError: testset.json or a row is missing, damaged or against the rules of its task, counts differ, half of a
            pair or a form that a direction needs is missing, or a recording is missing or unreadable. The message
            names the row.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file, so {folder} is no test set; make one with `wordweave testset`"
        )
    fields = ("name", "task", "version", "licence", "source", "directions", "sha256", "counts")
    manifest = files.read_record(path, *fields, format=FORMAT, schema=SCHEMA)
    facts = {
        key: value for key, value in manifest.items() if key not in (*fields, "labels", "format", "schema")
    }
    name, task, version, licence, source, directions, hash, counts = (manifest[key] for key in fields)
    directions, labels = tuple(directions), tuple(manifest.get("labels", ()))
    if task not in TASKS:
        raise ValueError(f"{path}: task: need one of {', '.join(TASKS)}, got {task!r}")
    if not directions or set(directions) - set(DIRECTIONS):
        raise ValueError(f"{path}: directions: need some of {', '.join(DIRECTIONS)}, got {list(directions)}")
    content = files.read(folder / ITEMS)
    items, seen = [], set[str]()
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            item = _item(json.loads(line))
            _check(item, task, directions, labels)
            if item.id in seen:
                raise ValueError("an earlier row has this id")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / ITEMS}: row {number}{_id_in(line)}: {_message(error)}") from error
        seen.add(item.id)
        items.append(item)
    actual = count(items)
    if actual != counts:
        differing = next(key for key in actual if actual[key] != counts.get(key))
        raise ValueError(
            f"{folder / ITEMS}: has {differing} {actual[differing]}, {MANIFEST} states {counts.get(differing)}; "
            f"copy or convert the test set again"
        )
    if not items:
        raise ValueError(f"{folder / ITEMS}: need at least one item, got none")
    if hashlib.sha256(content).hexdigest() != hash:
        raise ValueError(
            f"{folder / ITEMS}: its sha256 must be the one in {MANIFEST}, the file was changed; convert it again"
        )
    if audio:
        _check_recordings(folder, items)
    return TestSet(
        folder, name, task, version, licence, source, directions, tuple(items), hash, labels, facts
    )


def _id_in(line: bytes) -> str:
    """The id of a row that may be damaged, for a message."""
    try:
        return f" ({json.loads(line)['id']!r})"
    except (ValueError, KeyError, TypeError):
        return ""


def _message(error: Exception) -> str:
    return f"missing key {error}" if isinstance(error, KeyError) else str(error)


def _item(row: dict[str, Any]) -> TestItem:
    known = {item.name for item in fields(TestItem)}
    if row.keys() - known:
        raise ValueError(f"unknown keys {sorted(row.keys() - known)}; known: {', '.join(sorted(known))}")
    more = {name: row[name] for name in ("right", "label", "split", "group") if name in row}
    choices = tuple(_segments(choice) for choice in row.get("choices", ()))
    return TestItem(
        str(row["id"]), _segments(row.get("context", ())), choices, family=row.get("family") or str(row["id"]), **more
    )  # fmt: skip


def _segments(rows: Iterable[dict[str, str]]) -> tuple[Segment, ...]:
    segments = tuple(Segment(**row) for row in rows)
    if not all(any(segment) for segment in segments):
        raise ValueError("a segment needs text, audio or units, got none of them")
    return segments


def _check(item: TestItem, task: str, directions: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse a row without what its task and every direction of its test set need."""
    if item.split not in SPLITS:
        raise ValueError(f"split: need one of {', '.join(SPLITS)}, got {item.split!r}")
    if task == "choose":
        if len(item.choices) < 2:
            raise ValueError(
                f"needs at least 2 choices, got {len(item.choices)}: half of the pair is missing"
            )
        if not isinstance(item.right, int) or not 0 <= item.right < len(item.choices):
            raise ValueError(f"right: need a number below {len(item.choices)}, got {item.right!r}")
        if not all(item.choices):
            raise ValueError("a choice is empty: half of the pair is missing")
    elif not item.context:
        raise ValueError(f"task {task} needs a context, got none")
    if task in ("classify", "continue") and (not item.label or (labels and item.label not in labels)):
        raise ValueError(f"label: need one of {', '.join(labels) or 'anything'}, got {item.label!r}")
    for direction in directions:
        first, second = DIRECTIONS[direction]
        both = task == "transcribe"
        for segment in item.context:
            for modality in {first, second} if both else {first}:
                _need(segment, modality, direction, "context")
        for number, choice in enumerate(item.choices):
            for segment in choice:
                _need(segment, second, direction, f"choice {number}")


def _need(segment: Segment, modality: str, direction: str, where: str) -> None:
    if not segment.has(modality):
        raise ValueError(f"direction {direction} needs {modality} in {where}, got {segment.to_json()}")


def _check_recordings(folder: Path, items: Sequence[TestItem]) -> None:
    from corpus.audio import probe  # here, so that the registry of test sets is light to import

    known = set[str]()
    for number, item in enumerate(items, start=1):
        for name in item.recordings():
            if name in known:
                continue
            known.add(name)
            try:
                probe(folder / name)
            except Reject as reject:
                raise ValueError(
                    f"{folder / ITEMS}: row {number} ({item.id!r}): {reject.reason}: {reject.detail}"
                ) from reject


def check_testset(testset: TestSet, task: str, direction: str) -> None:
    """Refuse a test set of another task or without a direction."""
    if testset.task != task:
        raise ValueError(f"{testset.name}: need a test set of task {task!r}, got {testset.task!r}")
    if direction not in testset.directions:
        raise ValueError(
            f"{testset.name}: need a direction of {', '.join(testset.directions)}, got {direction}"
        )


Tokenize = Callable[[Path], str]
"""Recording -> unit names, "[Hu3][Hu71]", with the tokenizers of a build (`pipelines.tokenize`)."""


def tokenize_recordings(
    testset: TestSet, items: Sequence[TestItem], tokenize: Tokenize | None
) -> dict[str, str]:
    """Unit names of all recordings of some items, by path.

    Raises:
        ValueError: a recording cannot be encoded, or there is no build to encode it; the message names the row.
    """
    speech_tokens: dict[str, str] = {}
    for item in items:
        for name in item.recordings():
            if name in speech_tokens:
                continue
            if tokenize is None:
                raise ValueError(
                    f"{testset.name}: {item.id}: has recordings; name the build whose tokenizers encode them"
                )
            try:
                speech_tokens[name] = tokenize(testset.folder / name)
            except ValueError as error:
                row = testset.items.index(item) + 1
                raise ValueError(f"{testset.folder / ITEMS}: row {row} ({item.id!r}): {error}") from error
    return speech_tokens


def as_prompt(
    segments: Iterable[Segment], modality: str, speech_tokens: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Segments in one modality, as `lm.generate.prompt` takes them.

    >>> as_prompt([Segment("a cat", "a.wav")], "speech", {"a.wav": "[Hu3][Hu71]"})
    [('speech', '[Hu3][Hu71]')]
    """
    if modality == "text":
        return [("text", one.text or "") for one in segments]
    return [
        ("speech", one.units if one.units is not None else speech_tokens[one.audio or ""]) for one in segments
    ]
