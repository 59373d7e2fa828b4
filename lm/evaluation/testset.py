"""Packs: what a model is tested on, as a folder that any task reads.

    pack.json      name, task, version, counts, licence, source
    items.jsonl    one item a line
    audio/...      recordings that items name, by paths relative to the folder

An item is a context and, for tasks that choose, the choices that may follow it. Each is a list of parts, and a part is
one saying in the forms the pack has: written (`text`), recorded (`audio`), or in units (`units`, "[Hu3][Hu71]"). So one
item serves text, speech, and either across: a direction says which form is taken of the context and which of what
follows it.

    {"id": "s-1", "context": [{"text": "the cook was in the kitchen", "audio": "audio/s-1.flac"}],
     "choices": [[{"text": "he served the soup", "audio": ...}], [{"text": "he fed the horse", "audio": ...}]],
     "right": 0, "family": "s-1"}

| task | item |
|---|---|
| choose | context (may be empty), choices, `right`: which of them |
| transcribe | context said in both forms: text and speech of one utterance |
| classify | context, `label`: a class or an intent |
| continue | context, `label`: what a continuation should keep, such as a sentiment |

`split` is "test", or "train" or "dev" for what examples may be drawn from. Items of one `family` are not independent
(voices of one pair, twins with exchanged contexts): scores are averaged over a family before anything else. `group` is
a sub-task, to report by.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from corpus.audio import probe
from corpus.records import Reject

FORMAT, SCHEMA = "wordweave pack", 1
MANIFEST, ITEMS = "pack.json", "items.jsonl"
TASKS = ("choose", "transcribe", "classify", "continue")
SPLITS = ("train", "dev", "test")
DIRECTIONS = {
    "T": ("text", "text"),
    "S": ("speech", "speech"),
    "T->S": ("text", "speech"),
    "S->T": ("speech", "text"),
}
"""Direction -> modality of the context and of what follows it."""


class Part(NamedTuple):
    """One saying, in the forms there are."""

    text: str | None = None
    audio: str | None = None  # path, relative to the pack
    units: str | None = None  # "[Hu3][Hu71]", in place of a recording

    def has(self, modality: str) -> bool:
        """Whether it can be given as text or as speech."""
        return self.text is not None if modality == "text" else (self.audio or self.units) is not None

    def said(self) -> dict[str, str]:
        """As it stands in items.jsonl."""
        return {name: value for name, value in self._asdict().items() if value is not None}


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a pack; see the head of this file."""

    id: str
    context: tuple[Part, ...] = ()
    choices: tuple[tuple[Part, ...], ...] = ()
    right: int | None = None
    label: str | None = None
    split: str = "test"
    family: str = ""  # empty: its id
    group: str = ""

    def recordings(self) -> list[str]:
        """Paths of all recordings, in order."""
        parts = [*self.context, *(part for choice in self.choices for part in choice)]
        return [part.audio for part in parts if part.audio is not None]

    def said(self) -> dict[str, Any]:
        """As it stands in items.jsonl."""
        row: dict[str, Any] = {"id": self.id, "context": [part.said() for part in self.context]}
        if self.choices:
            row |= {"choices": [[part.said() for part in choice] for choice in self.choices]}
        for name in ("right", "label", "family", "group"):
            if getattr(self, name) not in (None, ""):
                row[name] = getattr(self, name)
        return row | ({} if self.split == "test" else {"split": self.split})


@dataclass(frozen=True)
class Pack:
    """A pack that was read and found whole."""

    folder: Path
    name: str
    task: str
    version: str
    licence: str
    source: str
    directions: tuple[str, ...]
    items: tuple[Item, ...]
    hash: str  # sha256 of items.jsonl
    labels: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else pack.json says

    @property
    def recordings(self) -> list[str]:
        """Paths of all recordings, each once, in order."""
        return list(dict.fromkeys(path for item in self.items for path in item.recordings()))

    def of(self, split: str) -> list[Item]:
        """Items of one split."""
        return [item for item in self.items if item.split == split]


def write_pack(
    folder: Path,
    items: Iterable[Item],
    *,
    name: str,
    task: str,
    version: str,
    licence: str,
    source: str,
    directions: Sequence[str],
    labels: Sequence[str] = (),
    **facts: Any,
) -> Pack:
    """Write items.jsonl, then pack.json with their counts and hash, and read both back.

    Recordings are to lie in the folder already. `facts` go into pack.json as they are.

    Raises:
        ValueError: as `read_pack`.
    """
    items = list(items)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(
        missing_ok=True
    )  # a pack without its manifest is none: nothing half-written is read
    content = "".join(json.dumps(item.said(), ensure_ascii=False) + "\n" for item in items).encode()
    _replace(folder / ITEMS, content)
    said = {"format": FORMAT, "schema": SCHEMA, "name": name, "task": task, "version": version}
    said |= {"licence": licence, "source": source, "directions": list(directions), "labels": list(labels)}
    said |= {"counts": count(items), "sha256": hashlib.sha256(content).hexdigest(), **facts}
    _replace(folder / MANIFEST, json.dumps(said, indent=1, ensure_ascii=False).encode() + b"\n")
    return read_pack(folder)


def count(items: Sequence[Item]) -> dict[str, Any]:
    """The numbers that pack.json states and reading checks."""
    return {
        "items": len(items),
        "choices": sorted({len(item.choices) for item in items}),
        "recordings": len({path for item in items for path in item.recordings()}),
        "splits": dict(sorted(Counter(item.split for item in items).items())),
    }


def read_pack(folder: Path, *, audio: bool = True) -> Pack:
    """Read a pack, and refuse one that is not whole.

    Args:
        audio: look at the header of every recording, too.

    Raises:
        ValueError: pack.json or a row is missing, damaged or against the rules of its task, counts differ, half of a
            pair or a form that a direction needs is missing, or a recording is missing or unreadable. The message
            names the row.
    """
    path = folder / MANIFEST
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if (said["format"], said["schema"]) != (FORMAT, SCHEMA):
            raise ValueError(f"need {FORMAT}, schema {SCHEMA}, got {said['format']}, {said['schema']}")
        name, task, version, licence, source, wanted, promised = (
            said.pop(key) for key in ("name", "task", "version", "licence", "source", "sha256", "counts")
        )
        directions, labels = tuple(said.pop("directions")), tuple(said.pop("labels", ()))
        if task not in TASKS:
            raise ValueError(f"task: one of {', '.join(TASKS)}, got {task!r}")
        if not directions or set(directions) - set(DIRECTIONS):
            raise ValueError(f"directions: some of {', '.join(DIRECTIONS)}, got {list(directions)}")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}), so {folder} is no pack") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a usable manifest of a pack: lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a usable manifest of a pack: {error}") from error
    try:
        content = (folder / ITEMS).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder / ITEMS}: cannot be read ({error.strerror})") from error
    items, seen = [], set[str]()
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            item = _item(json.loads(line))
            _check(item, task, directions, labels)
            if item.id in seen:
                raise ValueError("an earlier row has this id")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / ITEMS}: row {number}{_name_in(line)}: {_plain(error)}") from error
        seen.add(item.id)
        items.append(item)
    found = count(items)
    if found != promised:
        differing = next(key for key in found if found[key] != promised.get(key))
        raise ValueError(
            f"{folder / ITEMS}: has {differing} {found[differing]}, {MANIFEST} says {promised.get(differing)}; "
            f"copy or convert the pack again"
        )
    if not items:
        raise ValueError(f"{folder / ITEMS}: need at least one item, got none")
    actual = hashlib.sha256(content).hexdigest()
    if actual != wanted:
        raise ValueError(
            f"{folder / ITEMS}: its sha256 must be the one in {MANIFEST}, the file was changed; convert it again"
        )
    if audio:
        _check_recordings(folder, items)
    return Pack(folder, name, task, version, licence, source, directions, tuple(items), actual, labels, said)


def _name_in(line: bytes) -> str:
    """The id of a row that may be damaged, for a message."""
    try:
        return f" ({json.loads(line)['id']!r})"
    except (ValueError, KeyError, TypeError):
        return ""


def _plain(error: Exception) -> str:
    return f"lacks {error}" if isinstance(error, KeyError) else str(error)


def _item(row: dict[str, Any]) -> Item:
    known = set(Item.__dataclass_fields__)
    if row.keys() - known:
        raise ValueError(f"has no {sorted(row.keys() - known)}; it knows {sorted(known)}")
    more = {name: row[name] for name in ("right", "label", "split", "group") if name in row}
    choices = tuple(_parts(choice) for choice in row.get("choices", ()))
    return Item(
        str(row["id"]), _parts(row.get("context", ())), choices, family=row.get("family") or str(row["id"]), **more
    )  # fmt: skip


def _parts(parts: Iterable[dict[str, str]]) -> tuple[Part, ...]:
    found = tuple(Part(**part) for part in parts)
    for part in found:
        if not any(part):
            raise ValueError("a part needs text, audio or units, got none of them")
    return found


def _check(item: Item, task: str, directions: Sequence[str], labels: Sequence[str]) -> None:
    """What a row must have for its task and for every direction of its pack."""
    if item.split not in SPLITS:
        raise ValueError(f"split: one of {', '.join(SPLITS)}, got {item.split!r}")
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
        raise ValueError(f"label: one of {', '.join(labels) or 'anything'}, got {item.label!r}")
    for direction in directions:
        first, second = DIRECTIONS[direction]
        both = task == "transcribe"
        for part in item.context:
            for modality in {first, second} if both else {first}:
                _need(part, modality, direction, "context")
        for number, choice in enumerate(item.choices):
            for part in choice:
                _need(part, second, direction, f"choice {number}")


def _need(part: Part, modality: str, direction: str, place: str) -> None:
    if not part.has(modality):
        raise ValueError(f"direction {direction} needs {modality} in {place}, got {part.said()}")


def _check_recordings(folder: Path, items: Sequence[Item]) -> None:
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


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


Listen = Callable[[Path], str]
"""Recording -> unit names, "[Hu3][Hu71]", with the tokenizers of a build (`pipelines.tokenize`)."""


def hear(pack: Pack, items: Sequence[Item], listen: Listen | None) -> dict[str, str]:
    """Unit names of all recordings of some items.

    Raises:
        ValueError: a recording cannot be encoded, or none can for want of a build; the message names the row.
    """
    heard: dict[str, str] = {}
    for item in items:
        for name in item.recordings():
            if name in heard:
                continue
            if listen is None:
                raise ValueError(
                    f"{pack.name}: {item.id}: has recordings; name the build whose tokenizers encode them"
                )
            try:
                heard[name] = listen(pack.folder / name)
            except ValueError as error:
                number = pack.items.index(item) + 1
                raise ValueError(f"{pack.folder / ITEMS}: row {number} ({item.id!r}): {error}") from error
    return heard


def as_prompt(parts: Iterable[Part], modality: str, heard: Mapping[str, str]) -> list[tuple[str, str]]:
    """Parts in one modality, as `lm.generate.prompt` takes them.

    >>> as_prompt([Part("a cat", "a.wav")], "speech", {"a.wav": "[Hu3][Hu71]"})
    [('speech', '[Hu3][Hu71]')]
    """
    if modality == "text":
        return [("text", part.text or "") for part in parts]
    return [("speech", part.units if part.units is not None else heard[part.audio or ""]) for part in parts]
