"""Published test sets into packs.

`convert` reads a copy that the user has, as a folder or a zip, and writes a pack. A copy that is not whole, by the
counts its authors published (`lm.evaluation.datasets.published`), is refused, or with `partial` marked in the pack's
version.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lm.evaluation.datasets import choice, speech
from lm.evaluation.datasets.archive import Options, Tree
from lm.evaluation.datasets.choice import Reader
from lm.evaluation.datasets.published import PUBLISHED, Published
from lm.evaluation.testset import DIRECTIONS, MANIFEST, Item, Pack, Part, write_pack

VERSION = "1"
"""Of these converters: another number where the same copy would give another pack."""

READERS: dict[str, Reader] = {
    "swuggy": choice.paired_gold("lexical", "word"),
    "sblimp": choice.paired_gold("syntactic", "transcription"),
    "tstorycloze": choice.read_storycloze,
    "sstorycloze": choice.read_storycloze,
    "blimp": choice.read_blimp,
    "mmlu": choice.read_mmlu,
    "librispeech": speech.read_librispeech,
    "fluent": speech.read_fluent,
    "slurp": speech.read_slurp,
    "speech-commands": speech.read_speech_commands,
    "intents": speech.read_intents,
    "expresso": speech.read_expresso,
    "emov": speech.read_emov,
    "sentiment": speech.read_sentiment,
}


def convert(
    kind: str,
    source: Path,
    folder: Path,
    *,
    split: str | None = None,
    shots: int = 5,
    partial: bool = False,
) -> Pack:
    """Write a pack from a copy of a published test set.

    Args:
        kind: a name in `lm.evaluation.datasets.published.PUBLISHED`.
        source: folder or zip.
        folder: the pack; must be new, empty, or a pack to write anew.
        split: which part of the set to test on; None: the one that results are published for.
        partial: take a copy that is not whole, and say so in the pack's version.

    Raises:
        ValueError: the copy lacks a file, half of a pair, or items; or a recording cannot be read.
    """
    published = PUBLISHED[kind]
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise ValueError(f"{folder}: is neither empty nor a pack; name another folder")
    options = Options(split or _usual_split(kind), shots)
    tree = Tree(source, published.advice())
    if not source.exists():
        raise ValueError(f"{source}: no such folder or zip; {published.advice()}")
    task, items = READERS[kind](tree, options)
    if not items:
        raise ValueError(f"{source}: holds no item of {kind}: needs {published.reads}; {published.advice()}")
    whole, note = counted(published, items, options.split)
    if not whole and not partial:
        raise ValueError(f"{source}: {note}; complete it ({published.where}), or ask for a partial pack")
    names = list(dict.fromkeys(name for item in items for name in item.recordings()))
    missing = next((name for name in names if name not in tree), None)
    if missing:
        raise ValueError(f"{source}: recording {missing} is missing; {published.advice()}")
    places = {name: str(PurePosixPath("audio") / _plain_path(name)) for name in names}
    if len(set(places.values())) != len(places):
        raise ValueError(f"{source}: two recordings would be stored under one name; unpack it first")
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, place in places.items():
        tree.put(name, folder / place)
    items = [moved(item, places) for item in items]
    version = f"{VERSION} {options.split}"
    if task == "choose" and kind == "mmlu":
        version += f" {shots}-shot"
    labels = sorted({item.label for item in items if item.label})
    return write_pack(
        folder, items, name=kind, task=task, version=version if whole else f"{version} partial", labels=labels,
        licence=published.licence, source=f"{published.source}; {published.where}", directions=directions(items, task),
        published=dict(published.counts), counted=note, partial=not whole,
    )  # fmt: skip


def counted(published: Published, items: Sequence[Item], split: str) -> tuple[bool, str]:
    """Whether all that was published of a split is here, and the counts in words."""
    found = len({item.family or item.id for item in items if item.split == "test"})
    expected = published.counts.get(split)
    if expected is None:
        return True, f"{found} {published.counted} of {split}; no count was published for them"
    note = f"{found} of the published {expected} {published.counted} of {split}"
    return found == expected, note


def directions(items: Sequence[Item], task: str) -> list[str]:
    """The directions for which every item has all it needs; what is written of a label is text."""
    crossing = all(item.context for item in items)
    found = []
    for name, (first, second) in DIRECTIONS.items():
        contexts = all(part.has(first) for item in items for part in item.context)
        answers = all(part.has(second) for item in items for choice in item.choices for part in choice)
        if contexts and answers and (crossing or first == second):
            found.append(name)
    if task == "transcribe":
        found = [name for name in found if name in ("T->S", "S->T")]
    if task == "classify":
        found = [name for name in found if DIRECTIONS[name][1] == "text"]
    if not found:
        raise ValueError(f"item {items[0].id!r}: has neither text nor speech for all its parts")
    return found


def moved(item: Item, places: dict[str, str]) -> Item:
    """The item, its recordings named as in the pack."""

    def new(parts: Iterable[Part]) -> tuple[Part, ...]:
        return tuple(part._replace(audio=places[part.audio]) if part.audio else part for part in parts)

    return replace(item, context=new(item.context), choices=tuple(new(choice) for choice in item.choices))


def _plain_path(name: str) -> str:
    """A path of an archive as one that stays below a folder."""
    return "/".join(part for part in PurePosixPath(name).parts if part not in ("..", "/", "."))


def _usual_split(kind: str) -> str:
    return {"swuggy": "dev", "sblimp": "dev", "librispeech": "test-clean"}.get(kind, "test")
