"""Readers of published recordings for few-shot tasks and sentiment: LibriSpeech, intents, Expresso, EmoV-DB."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from corpus.keyed import fraction
from lm.evaluation.datasets.archive import Archive, Options
from lm.evaluation.testset import SPLITS, Segment, TestItem

EXAMPLES = 200
"""At most this many recordings of another split are kept as few-shot examples."""

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


def read_librispeech(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """One subset to test on, in lower case like aligned text, and few-shot examples from dev-clean or dev-other."""
    items = _transcribed(archive, options.split, "test")
    examples = "dev-other" if options.split.endswith("other") else "dev-clean"
    if options.split != examples:
        items += evenly_spaced(_transcribed(archive, examples, "dev"), EXAMPLES)
    return "transcribe", items


def _transcribed(archive: Archive, subset: str, split: str) -> list[TestItem]:
    items = []
    for name in archive.find(f"{subset}/*/*/*.trans.txt"):
        for number, line in enumerate(archive.read_text(name).splitlines(), start=1):
            id, _, text = line.partition(" ")
            recording = str(PurePosixPath(name).parent / f"{id}.flac")
            if recording not in archive:
                raise ValueError(f"{archive.path}/{name}: line {number}: {recording} is missing")
            items.append(TestItem(id, (Segment(text.strip().lower(), recording),), split=split))
    return items


def evenly_spaced(items: list[TestItem], most: int) -> list[TestItem]:
    """At most `most` items, evenly spaced from first to last.

    >>> [item.id for item in evenly_spaced([TestItem(str(i)) for i in range(10)], 3)]
    ['0', '3', '6']
    """
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def read_fluent(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """Fluent Speech Commands: the intent is action, object and location, "none" included."""
    items = []
    for split, named in (("test", options.split), ("train", "train")):
        if split == "train" and named == options.split:
            continue
        file = {"dev": "valid"}.get(named, named)
        tables = archive.find(f"data/{file}_data.csv")
        if not tables:
            if split == "test":
                archive.find_one(f"data/{file}_data.csv")
            continue
        columns = ("path", "transcription", "action", "object", "location")
        root = PurePosixPath(tables[0]).parent.parent
        rows = []
        for number, row in enumerate(archive.read_csv(tables[0], *columns), start=2):
            recording = str(root / row["path"])
            if recording not in archive:
                raise ValueError(f"{archive.path}/{tables[0]}: line {number}: {recording} is missing")
            label = " ".join(row[name] for name in ("action", "object", "location"))
            segment = Segment(row["transcription"], recording)
            rows.append(TestItem(row["path"].removesuffix(".wav"), (segment,), label=label, split=split))
        items += rows if split == "test" else balanced(rows, EXAMPLES)
    return "classify", items


def balanced(items: list[TestItem], most: int) -> list[TestItem]:
    """At most `most` items, the labels in turn.

    >>> [i.id for i in balanced([TestItem(str(n), label="ab"[n > 3]) for n in range(6)], 4)]
    ['0', '4', '1', '5']
    """
    by_label: dict[str, list[TestItem]] = defaultdict(list)
    for item in items:
        by_label[item.label or ""].append(item)
    mixed: list[TestItem] = []
    for turn in range(max(map(len, by_label.values()), default=0)):
        mixed += [some[turn] for some in by_label.values() if turn < len(some)]
    return mixed[:most]


def read_slurp(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """SLURP: an intent for every recording of a sentence."""
    items = []
    for split, named in (("test", options.split), ("train", "train")):
        if split == "train" and named == options.split:
            continue
        file = {"dev": "devel"}.get(named, named)
        tables = archive.find(f"{file}.jsonl") if split == "train" else [archive.find_one(f"{file}.jsonl")]
        rows = []
        for name in tables:
            for number, line in enumerate(archive.read_text(name).splitlines(), start=1):
                try:
                    row = json.loads(line)
                    sentence, intent = row["sentence"], row["intent"]
                    recordings = [one["file"] for one in row["recordings"]]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{archive.path}/{name}: line {number}: need a sentence, intent and recordings ({error})"
                    ) from error
                for recording in recordings:
                    paths = archive.find(f"slurp_real/{recording}")
                    if not paths and split == "test":
                        raise ValueError(
                            f"{archive.path}/{name}: line {number}: slurp_real/{recording} is missing"
                        )
                    for path in paths[:1]:
                        segment = Segment(sentence, path)
                        id = recording.rpartition(".")[0]
                        rows.append(TestItem(id, (segment,), label=intent, split=split))
        items += rows if split == "test" else balanced(rows, EXAMPLES)
    return "classify", items


def read_speech_commands(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """Google's one-word commands: the label is the folder."""
    lists = {"test": archive.find_one("testing_list.txt"), "dev": archive.find_one("validation_list.txt")}
    if options.split not in lists:
        raise ValueError(f"split: need 'test' or 'dev', got {options.split!r}")
    root = PurePosixPath(lists["test"]).parent
    named = {split: archive.read_text(name).split() for split, name in lists.items()}
    listed = {path for paths in named.values() for path in paths}

    def item(path: str, split: str) -> TestItem:
        word = path.partition("/")[0]
        recording = str(root / path)
        if recording not in archive:
            raise ValueError(f"{archive.path}/{lists[options.split]}: {recording} is missing")
        return TestItem(path.removesuffix(".wav"), (Segment(word, recording),), label=word, split=split)

    prefix = "" if str(root) == "." else f"{root}/"
    below = [
        name[len(prefix) :] for name in archive.names if name.startswith(prefix) and name.endswith(".wav")
    ]
    rest = [path for path in below if path not in listed and not path.startswith("_")]
    examples = balanced([item(path, "train") for path in rest], EXAMPLES)
    return "classify", [item(path, "test") for path in named[options.split]] + examples


def read_intents(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """Your own table: a recording and its label per row."""
    return "classify", _labelled(archive, "path")


def read_sentiment(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """Your own table: text, a recording or both, and an emotion or a sentiment per row."""
    return "continue", _labelled(archive, "label", sentiment=True)


def _labelled(archive: Archive, *needed: str, sentiment: bool = False) -> list[TestItem]:
    name = archive.find_one("*.csv")
    items = []
    for number, row in enumerate(archive.read_csv(name, "label", *needed), start=2):
        where = f"{archive.path}/{name}: line {number}"
        recording = row.get("audio") or row.get("path") or None
        label = row["label"]
        if sentiment:
            label = SENTIMENTS.get(label.lower(), "")
            if not label:
                raise ValueError(f"{where}: label: need one of {', '.join(SENTIMENTS)}, got {row['label']!r}")
        if recording is not None:
            recording = str(PurePosixPath(name).parent / recording)
            if recording not in archive:
                raise ValueError(f"{where}: {recording} is missing")
        split = row.get("split") or "test"
        if split not in SPLITS:
            raise ValueError(f"{where}: split: need one of {', '.join(SPLITS)}, got {split!r}")
        if not recording and not row.get("text"):
            raise ValueError(f"{where}: need text or a recording, got neither")
        segment = Segment(row.get("text") or None, recording)
        items.append(TestItem(row.get("id") or str(number - 1), (segment,), label=label, split=split))
    return items


def read_expresso(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """Read speech of Expresso in the styles happy, sad and default, in the release's own split."""
    text = {}
    for name in archive.find("read_transcriptions.txt")[:1]:
        for line in archive.read_text(name).splitlines():
            id, _, transcript = line.partition("\t")
            text[id] = transcript.replace("*", "").strip()
    split_of: dict[str, str] = {}
    for split in SPLITS:
        name = archive.find_one(f"splits/{split}.txt", f"expresso_splits/{split}.txt")
        for line in archive.read_text(name).splitlines():
            id = line.split("\t")[0].strip()
            if id and not line.startswith("#"):
                split_of.setdefault(id, split)
    items, ids = [], set[str]()
    for name in archive.find("read/*/*/base/*.wav"):
        path = PurePosixPath(name)
        speaker, style, id = path.parts[-4], path.parts[-3], path.stem
        if style not in ("happy", "sad", "default") or id.split("_")[:2] != [speaker, style]:
            continue
        if id.split("_")[2] in ("emphasis", "essentials"):  # sentences read to mark a stress
            continue
        if id not in split_of:
            raise ValueError(f"{archive.path}/{name}: is in none of the splits")
        ids.add(id)
        segment = Segment(text.get(id), name)
        items.append(TestItem(id, (segment,), label=SENTIMENTS[style], split=split_of[id], group=speaker))
    expected = {id for id in split_of if _read_style(id)}
    if ids and expected - ids:
        raise ValueError(f"{archive.path}: {min(expected - ids)}.wav is in the splits, but not in the copy")
    return "continue", _as_test(items, options.split)


def _read_style(id: str) -> bool:
    """Whether an id of the splits is an utterance that `read_expresso` reads: speaker_style_number."""
    pieces = id.split("_")
    return len(pieces) == 3 and "-" not in pieces[0] and pieces[1] in ("happy", "sad", "default")


def _as_test(items: Iterable[TestItem], tested: str) -> list[TestItem]:
    """The items with another split in place of the test split."""
    if tested == "test":
        return list(items)
    kept = [item for item in items if item.split != "test"]
    return [replace(item, split="test") if item.split == tested else item for item in kept]


def read_emov(archive: Archive, options: Options) -> tuple[str, list[TestItem]]:
    """EmoV-DB's speakers who were amused, angry and neutral, split 60/20/20 at random by name."""
    sentences = {}
    for name in archive.find("cmuarctic.data")[:1]:
        for line in archive.read_text(name).splitlines():
            pieces = line.split('"')
            if len(pieces) == 3:
                sentences[pieces[0].strip("( ")] = pieces[1]
    recorded: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in archive.find("*/*.wav"):
        pieces = [piece.lower() for piece in PurePosixPath(name).parts[:-1]]
        speaker, emotion = pieces[-1].split("_") if "_" in pieces[-1] else (*pieces[-2:], "", "")[:2]
        if emotion in ("amused", "angry", "neutral") and speaker in ("bea", "jenie", "sam"):
            recorded[speaker, emotion].append((name, PurePosixPath(name).stem))
    speakers = sorted({speaker for speaker, _ in recorded})
    missing = [
        f"{speaker}/{emotion}"
        for speaker in ("bea", "jenie", "sam")
        for emotion in ("amused", "angry", "neutral")
        if (speaker, emotion) not in recorded
    ]
    if speakers and missing:
        raise ValueError(f"{archive.path}: recordings of {', '.join(missing)} are missing; {archive.advice}")
    items = []
    for (speaker, emotion), recordings in sorted(recorded.items()):
        numbers = {stem: fraction(0, "emov split", f"{speaker}/{stem}") for _, stem in recordings}
        ranked = sorted(recordings, key=lambda one: numbers[one[1]])
        for rank, (name, stem) in enumerate(ranked):
            share = rank / len(ranked)
            split = "train" if share < 0.6 else "dev" if share < 0.8 else "test"
            segment = Segment(sentences.get(f"arctic_a{stem.rpartition('_')[2]}"), name)
            id, label = f"{speaker}/{emotion}/{stem}", SENTIMENTS[emotion]
            items.append(TestItem(id, (segment,), label=label, split=split, group=speaker))
    if not all(segment.text for item in items for segment in item.context):
        items = [_without_text(item) for item in items]  # the items that have text are a biased selection
    return "continue", _as_test(items, options.split)


def _without_text(item: TestItem) -> TestItem:
    return replace(item, context=tuple(segment._replace(text=None) for segment in item.context))
