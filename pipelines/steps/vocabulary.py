"""The vocabulary of a build: the text tokenizer, trained where none is given, and the ids of units and tokens."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aligners.english.spoken import spoken_english
from corpus import files
from pipelines.execution.task import FileWorker, Stage, Task, key_function, publish_model, read_marker
from pipelines.layout import COUNTS, TOKENIZER, corpus_hash, finished_part, origin, part_names, parts
from pipelines.steps.base import Run, run_quick_stage
from pipelines.steps.split import Split

if TYPE_CHECKING:
    from shards.vocabulary import Vocabulary


def build_vocabulary(run: Run, split: Split) -> "Vocabulary":
    """The vocabulary in shards/vocabulary.json; trains a BPE on the training texts where no tokenizer is given."""
    from shards.text import load_tokenizer
    from shards.vocabulary import Vocabulary

    settings = run.settings
    if settings.text.tokenizer:
        path = files.to_path(settings.text.tokenizer)
    else:
        path = run.folder / TOKENIZER
        train_tokenizer(run, split)
    vocabulary = Vocabulary(
        load_tokenizer(files.local(path)),
        units=settings.units.clusters,
        tasks=settings.interleave.tasks or settings.interleave.make_strategy().uses_task_markers,
        **{kind: count_codes(run, kind) for kind in token_kinds(run)},
    )
    vocabulary.save(run.folder / "shards")
    return vocabulary


def token_kinds(run: Run) -> tuple[str, ...]:
    """Which of pitch and style go into speech."""
    return tuple(step.name for step in run.steps if step.name in ("pitch", "style"))


def count_codes(run: Run, kind: str) -> int:
    """Number of different pitch or style tokens, as their stage noted it."""
    return finished_part(run.build, kind, part_names(run.build)[0], kind)["codes"]


def train_tokenizer(run: Run, split: Split) -> None:
    """Train the BPE on transcripts and documents that are not held out; an up-to-date one is kept."""
    from shards.text import train_bpe_on_counts

    text, path = run.settings.text, run.folder / TOKENIZER
    fields = [text.size, text.normalisation, dataclasses.asdict(split), origin(run.folder)]
    key, corpus = hashlib.sha256(json.dumps(fields).encode()).hexdigest(), corpus_hash(run.folder)
    marker = (read_marker(path) or {}) if path.exists() else {}
    if marker.get("key") == key:
        if marker.get("corpus") != corpus:
            run.say(f"text: {path} is kept, trained before the corpus changed; remove it to train it again")
        return
    run.say(f"text: training a BPE of {text.size} pieces on the transcripts and documents")
    stage, tasks = count_tasks(run, split)
    run_quick_stage(run, stage, tasks)
    counts: Counter[str] = Counter()
    for content in files.read_each(run.folder, [task.output for task in tasks], 32):
        counts.update(json.loads(content or b""))
    publish_model(
        lambda temporary: train_bpe_on_counts(counts, temporary, size=text.size),
        path,
        {"key": key, "corpus": corpus},
    )
    files.remove_folder(run.folder / COUNTS)


@dataclass(frozen=True)
class CountWords(Stage):
    """Manifest or text -> how often each word occurs in what is not held out, normalised as in the text stream."""

    split: Split
    normalisation: str
    name: ClassVar[str] = "count words"
    version: ClassVar[int] = 1

    def open(self) -> FileWorker:
        """Nothing to load."""
        return FileWorker(self, self.write)

    def write(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the counts of one part as JSON."""
        from shards.text import count_pieces

        rows = files.read_table(build / task.inputs[0]).to_pylist()
        words: Counter[str] = Counter()
        for text in training_texts(rows, self.split):
            words.update(text_words(text, self.normalisation))
        counts = count_pieces(words)
        files.write(temporary, json.dumps(counts, sort_keys=True).encode())
        return {"words": counts.total()}


def count_tasks(run: Run, split: Split) -> tuple[CountWords, list[Task]]:
    """One task per part of manifest and text."""
    stage = CountWords(split, run.settings.text.normalisation)
    key_of = key_function(stage)
    tasks = [
        Task(f"{COUNTS}/{table}-{part.name}", (f"{table}/{part.name}",), key_of(part.sha256), part.samples,
             hashes=(part.sha256,))
        for table in ("manifest", "text")
        for part in parts(run.folder, table)
    ]  # fmt: skip
    return stage, tasks


def training_texts(rows: Iterable[dict[str, Any]], split: Split) -> Iterator[str]:
    """Of rows of manifest or text: what is not held out."""
    for row in rows:
        usable = row["reject"] is None and row["text"]
        if usable and split.split_of(row["id"], row.get("speaker")) == "train":
            yield row["text"]


def text_words(text: str, normalisation: str) -> list[str]:
    """The words of a text: "spoken" in lower case without punctuation, several in a string where a number or the like
    is read out; "original" unchanged."""
    if normalisation == "original":
        return text.split()
    return spoken_english(text)
