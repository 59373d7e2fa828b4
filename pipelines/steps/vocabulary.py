"""The vocabulary of a build: the text tokenizer, trained where none is given, and the ids of units and tokens."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aligners.normalise import normalise
from corpus import files
from pipelines.execution.task import publish_model, read_marker
from pipelines.layout import TOKENIZER, corpus_hash, finished_part, origin, part_names
from pipelines.steps.base import Run
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
    from shards.text import train_bpe

    text, path = run.settings.text, run.folder / TOKENIZER
    fields = [text.size, text.normalisation, dataclasses.asdict(split), origin(run.folder)]
    key, corpus = hashlib.sha256(json.dumps(fields).encode()).hexdigest(), corpus_hash(run.folder)
    marker = (read_marker(path) or {}) if path.exists() else {}
    if marker.get("key") == key:
        if marker.get("corpus") != corpus:
            run.say(f"text: {path} is kept, trained before the corpus changed; remove it to train it again")
        return
    run.say(f"text: training a BPE of {text.size} pieces on the transcripts and documents")
    texts = training_texts(run, split)
    publish_model(
        lambda temporary: train_bpe(texts, temporary, size=text.size), path, {"key": key, "corpus": corpus}
    )


def training_texts(run: Run, split: Split) -> Iterator[str]:
    """Transcripts and documents that are not held out, normalised as in the text stream."""
    for table in ("manifest", "text"):
        for name in part_names(run.folder, table):
            for row in files.read_table(run.folder / table / name).to_pylist():
                usable = row["reject"] is None and row["text"]
                if usable and split.split_of(row["id"], row.get("speaker")) == "train":
                    yield " ".join(text_words(row["text"], run.settings.text.normalisation))


def text_words(text: str, normalisation: str) -> list[str]:
    """The words of a text: "spoken" in lower case without punctuation, "original" unchanged."""
    if normalisation == "original":
        return text.split()
    return [word for token in normalise(text) for word in token.spoken]
