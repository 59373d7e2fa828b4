"""Published recordings for few-shot tasks and for sentiment: LibriSpeech, intents, commands, Expresso, EmoV-DB."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from lm.evaluation.datasets.archive import Options, Tree
from lm.evaluation.testset import SPLITS, Item, Part

EXAMPLES = 200
"""Recordings of another split that are kept to draw examples from, at most."""

SENTIMENTS = {
    "happy": "positive",
    "amused": "positive",
    "positive": "positive",
    "sad": "negative",
    "angry": "negative",
    "negative": "negative",
    "default": "neutral",
    "neutral": "neutral",
}
"""Emotion -> sentiment.

Source: Spirit LM (Nguyen et al. 2024, arXiv:2402.05755), section 5.
"""


def read_librispeech(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """One subset to test on, lower case as aligned text is; where dev-clean or dev-other lies beside it, examples."""
    items = _transcribed(tree, options.split, "test")
    beside = "dev-other" if options.split.endswith("other") else "dev-clean"
    if options.split != beside:
        items += spread(_transcribed(tree, beside, "dev"), EXAMPLES)
    return "transcribe", items


def _transcribed(tree: Tree, subset: str, split: str) -> list[Item]:
    items = []
    for name in tree.find(f"{subset}/*/*/*.trans.txt"):
        for number, line in enumerate(tree.text(name).splitlines(), start=1):
            id, _, text = line.partition(" ")
            recording = str(PurePosixPath(name).parent / f"{id}.flac")
            if recording not in tree:
                raise ValueError(f"{tree.path}/{name}: line {number}: {recording} is missing")
            items.append(Item(id, (Part(text.strip().lower(), recording),), split=split))
    return items


def spread(items: list[Item], most: int) -> list[Item]:
    """So many items at most, evenly from first to last.

    >>> [item.id for item in spread([Item(str(i)) for i in range(10)], 3)]
    ['0', '3', '6']
    """
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def read_fluent(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """Fluent Speech Commands: the intent is action, object and location, "none" included."""
    items = []
    for split, named in (("test", options.split), ("train", "train")):
        if split == "train" and named == options.split:
            continue
        file = {"dev": "valid"}.get(named, named)
        tables = tree.find(f"data/{file}_data.csv")
        if not tables:
            if split == "test":
                tree.one(f"data/{file}_data.csv")
            continue
        columns = ("path", "transcription", "action", "object", "location")
        root = PurePosixPath(tables[0]).parent.parent
        found = []
        for number, row in enumerate(tree.table(tables[0], *columns), start=2):
            recording = str(root / row["path"])
            if recording not in tree:
                raise ValueError(f"{tree.path}/{tables[0]}: line {number}: {recording} is missing")
            label = " ".join(row[name] for name in ("action", "object", "location"))
            found.append(
                Item(
                    row["path"].removesuffix(".wav"),
                    (Part(row["transcription"], recording),),
                    label=label,
                    split=split,
                )
            )
        items += found if split == "test" else balanced(found, EXAMPLES)
    return "classify", items


def balanced(items: list[Item], most: int) -> list[Item]:
    """So many items at most, every label in turn.

    >>> [i.id for i in balanced([Item(str(n), label="ab"[n > 3]) for n in range(6)], 4)]
    ['0', '4', '1', '5']
    """
    by_label: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_label[item.label or ""].append(item)
    found: list[Item] = []
    for turn in range(max(map(len, by_label.values()), default=0)):
        found += [some[turn] for some in by_label.values() if turn < len(some)]
    return found[:most]


def read_slurp(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """SLURP: an intent for every recording of a sentence."""
    items = []
    for split, named in (("test", options.split), ("train", "train")):
        if split == "train" and named == options.split:
            continue
        file = {"dev": "devel"}.get(named, named)
        tables = tree.find(f"{file}.jsonl") if split == "train" else [tree.one(f"{file}.jsonl")]
        found = []
        for name in tables:
            for number, line in enumerate(tree.text(name).splitlines(), start=1):
                try:
                    row = json.loads(line)
                    said = row["sentence"], row["intent"], [one["file"] for one in row["recordings"]]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{tree.path}/{name}: line {number}: lacks a sentence, intent or recordings ({error})"
                    ) from error
                for recording in said[2]:
                    places = tree.find(f"slurp_real/{recording}")
                    if not places and split == "test":
                        raise ValueError(
                            f"{tree.path}/{name}: line {number}: slurp_real/{recording} is missing"
                        )
                    for place in places[:1]:
                        part = Part(said[0], place)
                        id = recording.rpartition(".")[0]
                        found.append(Item(id, (part,), label=said[1], split=split))
        items += found if split == "test" else balanced(found, EXAMPLES)
    return "classify", items


def read_speech_commands(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """Google's one-word commands: the label is the folder."""
    lists = {"test": tree.one("testing_list.txt"), "dev": tree.one("validation_list.txt")}
    if options.split not in lists:
        raise ValueError(f"split: 'test' or 'dev', got {options.split!r}")
    root = PurePosixPath(lists["test"]).parent
    named = {split: tree.text(name).split() for split, name in lists.items()}
    held = {path for paths in named.values() for path in paths}

    def item(path: str, split: str) -> Item:
        word = path.partition("/")[0]
        recording = str(root / path)
        if recording not in tree:
            raise ValueError(f"{tree.path}/{lists[options.split]}: {recording} is missing")
        return Item(path.removesuffix(".wav"), (Part(word, recording),), label=word, split=split)

    prefix = "" if str(root) == "." else f"{root}/"
    below = [name[len(prefix) :] for name in tree.names if name.startswith(prefix) and name.endswith(".wav")]
    rest = [path for path in below if path not in held and not path.startswith("_")]
    examples = balanced([item(path, "train") for path in rest], EXAMPLES)
    return "classify", [item(path, "test") for path in named[options.split]] + examples


def read_intents(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """A table of the user's own: a recording and its label."""
    return "classify", _labelled(tree, "path")


def read_sentiment(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """A table of the user's own: text, a recording or both, and an emotion or a sentiment."""
    return "continue", _labelled(tree, "label", sentiment=True)


def _labelled(tree: Tree, *needed: str, sentiment: bool = False) -> list[Item]:
    name = tree.one("*.csv")
    items = []
    for number, row in enumerate(tree.table(name, "label", *needed), start=2):
        where = f"{tree.path}/{name}: line {number}"
        recording = row.get("audio") or row.get("path") or None
        label = row["label"]
        if sentiment:
            label = SENTIMENTS.get(label.lower(), "")
            if not label:
                raise ValueError(f"{where}: label: one of {', '.join(SENTIMENTS)}, got {row['label']!r}")
        if recording is not None:
            recording = str(PurePosixPath(name).parent / recording)
            if recording not in tree:
                raise ValueError(f"{where}: {recording} is missing")
        split = row.get("split") or "test"
        if split not in SPLITS:
            raise ValueError(f"{where}: split: one of {', '.join(SPLITS)}, got {split!r}")
        if not recording and not row.get("text"):
            raise ValueError(f"{where}: has neither text nor a recording")
        part = Part(row.get("text") or None, recording)
        items.append(Item(row.get("id") or str(number - 1), (part,), label=label, split=split))
    return items


def read_expresso(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """Read speech of Expresso in the styles happy, sad and default, in the release's own split."""
    written = tree.find("read_transcriptions.txt")
    text = {}
    for name in written[:1]:
        for line in tree.text(name).splitlines():
            id, _, said = line.partition("\t")
            text[id] = said.replace("*", "").strip()
    split_of: dict[str, str] = {}
    for split in SPLITS:
        name = tree.one(f"splits/{split}.txt", f"expresso_splits/{split}.txt")
        for line in tree.text(name).splitlines():
            id = line.split("\t")[0].strip()
            if id and not line.startswith("#"):
                split_of.setdefault(id, split)
    items, here = [], set[str]()
    for name in tree.find("read/*/*/base/*.wav"):
        path = PurePosixPath(name)
        speaker, style, id = path.parts[-4], path.parts[-3], path.stem
        if style not in ("happy", "sad", "default") or id.split("_")[:2] != [speaker, style]:
            continue
        if id.split("_")[2] in (
            "emphasis",
            "essentials",
        ):  # sentences with marked stress: read for another end
            continue
        if id not in split_of:
            raise ValueError(f"{tree.path}/{name}: is in none of the splits")
        here.add(id)
        part = Part(text.get(id), name)
        items.append(Item(id, (part,), label=SENTIMENTS[style], split=split_of[id], group=speaker))
    expected = {id for id in split_of if _read_style(id)}
    if here and expected - here:
        raise ValueError(f"{tree.path}: {min(expected - here)}.wav is in the splits, but not in the copy")
    return "continue", _as_test(items, options.split)


def _read_style(id: str) -> bool:
    """Whether an id of the splits is an utterance that `read_expresso` takes: speaker_style_number."""
    pieces = id.split("_")
    return len(pieces) == 3 and "-" not in pieces[0] and pieces[1] in ("happy", "sad", "default")


def _as_test(items: Iterable[Item], wanted: str) -> list[Item]:
    """With another split asked for, that one is tested and what was the test split is left out."""
    if wanted == "test":
        return list(items)
    kept = [item for item in items if item.split != "test"]
    return [replace(item, split="test") if item.split == wanted else item for item in kept]


def read_emov(tree: Tree, options: Options) -> tuple[str, list[Item]]:
    """EmoV-DB's speakers who were amused, angry and neutral, split 60/20/20 by a hash of the name."""
    sentences = {}
    for name in tree.find("cmuarctic.data")[:1]:
        for line in tree.text(name).splitlines():
            pieces = line.split('"')
            if len(pieces) == 3:
                sentences[pieces[0].strip("( ")] = pieces[1]
    found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in tree.find("*/*.wav"):
        pieces = [piece.lower() for piece in PurePosixPath(name).parts[:-1]]
        speaker, emotion = pieces[-1].split("_") if "_" in pieces[-1] else (*pieces[-2:], "", "")[:2]
        if emotion in ("amused", "angry", "neutral") and speaker in ("bea", "jenie", "sam"):
            found[speaker, emotion].append((name, PurePosixPath(name).stem))
    speakers = sorted({speaker for speaker, _ in found})
    missing = [
        f"{speaker}/{emotion}"
        for speaker in ("bea", "jenie", "sam")
        for emotion in ("amused", "angry", "neutral")
        if (speaker, emotion) not in found
    ]
    if speakers and missing:
        raise ValueError(f"{tree.path}: recordings of {', '.join(missing)} are missing; {tree.advice}")
    items = []
    for (speaker, emotion), recordings in sorted(found.items()):
        ranked = sorted(recordings, key=lambda one: hashlib.sha256(f"{speaker}/{one[1]}".encode()).digest())
        for rank, (name, stem) in enumerate(ranked):
            place = rank / len(ranked)
            split = "train" if place < 0.6 else "dev" if place < 0.8 else "test"
            text = sentences.get(f"arctic_a{stem.rpartition('_')[2]}")
            part = Part(text, name)
            label = SENTIMENTS[emotion]
            items.append(
                Item(f"{speaker}/{emotion}/{stem}", (part,), label=label, split=split, group=speaker)
            )
    if not all(
        part.text for item in items for part in item.context
    ):  # some texts alone would make a biased half
        items = [_spoken_only(item) for item in items]
    return "continue", _as_test(items, options.split)


def _spoken_only(item: Item) -> Item:
    return replace(item, context=tuple(part._replace(text=None) for part in item.context))
