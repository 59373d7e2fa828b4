"""Convert published test sets to wordweave's format.

`convert` reads the user's own copy, a folder or a zip. A copy that is incomplete by the counts its authors published
(`lm.evaluation.datasets.published`) is refused, or with `partial` marked in the version.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lm.evaluation.datasets.archive import Archive, Options
from lm.evaluation.datasets.published import PUBLISHED, Published
from lm.evaluation.testset import DIRECTIONS, MANIFEST, Segment, TestItem, TestSet, write_testset

VERSION = "2"
"""Raised when the same copy gives other items."""


def convert(
    kind: str,
    source: Path,
    folder: Path,
    *,
    split: str | None = None,
    shots: int = 5,
    partial: bool = False,
) -> TestSet:
    """Write a test set from a copy of a published one.

    Args:
        kind: a name in `lm.evaluation.datasets.published.PUBLISHED`.
        source: folder or zip.
        folder: must be new, empty, or a test set to overwrite.
        split: the part to test on; None: the one that results are published for.
        partial: accept an incomplete copy, and mark it in the version.

    Raises:
        ValueError: a file, half of a pair or items are missing, or a recording cannot be read.
    """
    published = PUBLISHED[kind]
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise ValueError(f"{folder}: need an empty folder or a test set to overwrite")
    options = Options(split or published.usual_split, shots)
    archive = Archive(source, published.advice())
    if not source.exists():
        raise ValueError(f"{source}: no such folder or zip; {published.advice()}")
    task, items = published.read(archive, options)
    if not items:
        raise ValueError(f"{source}: no item of {kind}: need {published.layout}; {published.advice()}")
    complete, note = check_counts(published, items, options.split)
    if not complete and not partial:
        raise ValueError(f"{source}: {note}; complete it ({published.url}), or accept it with --partial")
    names = list(dict.fromkeys(name for item in items for name in item.recordings()))
    missing = next((name for name in names if name not in archive), None)
    if missing:
        raise ValueError(f"{source}: recording {missing} is missing; {published.advice()}")
    paths = {name: str(PurePosixPath("audio") / _path_below(name)) for name in names}
    if len(set(paths.values())) != len(paths):
        raise ValueError(f"{source}: two recordings would be stored under one name; unpack it first")
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, path in paths.items():
        archive.extract(name, folder / path)
    items = [with_paths(item, paths) for item in items]
    version = f"{VERSION} {options.split}"
    if published.shots:
        version += f" {shots}-shot"
    labels = sorted({item.label for item in items if item.label})
    return write_testset(
        folder, items, name=kind, task=task, version=version if complete else f"{version} partial", labels=labels,
        licence=published.licence, source=f"{published.paper}; {published.url}", directions=directions(items, task),
        published=dict(published.counts), counted=note, partial=not complete,
    )  # fmt: skip


def check_counts(published: Published, items: Sequence[TestItem], split: str) -> tuple[bool, str]:
    """Whether a split has its published number of items, and the counts in words."""
    count = len({item.family or item.id for item in items if item.split == "test"})
    expected = published.counts.get(split)
    if expected is None:
        return True, f"{count} {published.counted} of {split}; no count was published for them"
    note = f"{count} of the published {expected} {published.counted} of {split}"
    return count == expected, note


def directions(items: Sequence[TestItem], task: str) -> list[str]:
    """The directions for which every item has the forms it needs; a label is text."""
    crossing = all(item.context for item in items)
    possible = []
    for name, (first, second) in DIRECTIONS.items():
        contexts = all(segment.has(first) for item in items for segment in item.context)
        answers = all(segment.has(second) for item in items for choice in item.choices for segment in choice)
        if contexts and answers and (crossing or first == second):
            possible.append(name)
    if task == "transcribe":
        possible = [name for name in possible if name in ("T->S", "S->T")]
    if task == "classify":
        possible = [name for name in possible if DIRECTIONS[name][1] == "text"]
    if not possible:
        raise ValueError(f"item {items[0].id!r}: need text or speech of all its segments")
    return possible


def with_paths(item: TestItem, paths: dict[str, str]) -> TestItem:
    """The item with its recordings' paths in the test set."""

    def new(segments: Iterable[Segment]) -> tuple[Segment, ...]:
        return tuple(one._replace(audio=paths[one.audio]) if one.audio else one for one in segments)

    return replace(item, context=new(item.context), choices=tuple(new(choice) for choice in item.choices))


def _path_below(name: str) -> str:
    """A path in an archive as one that cannot leave its folder."""
    return "/".join(part for part in PurePosixPath(name).parts if part not in ("..", "/", "."))
