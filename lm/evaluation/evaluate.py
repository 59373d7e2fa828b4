"""Evaluate a model on test sets: every task in every direction, and one JSON with everything that decides a number.

Nothing is written before everything is scored: partial results cannot be mistaken for complete ones.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from corpus import files
from corpus.provenance import commit
from lm.evaluation.tasks import TASKS
from lm.evaluation.tasks.base import DEFAULTS, TaskOptions
from lm.evaluation.testset import TestSet, Tokenize, tokenize_recordings
from lm.generate import load
from shards.vocabulary import Vocabulary

FORMAT, SCHEMA = "wordweave evaluation", 1
Say = Callable[[str], None]


def evaluate(
    directory: Path,
    testsets: Sequence[TestSet],
    tokenize: Tokenize | None,
    *,
    vocabulary: Vocabulary | None = None,
    options: TaskOptions = DEFAULTS,
    device: str = "cpu",
    facts: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Score a model on test sets, in every direction they have.

    Args:
        tokenize: recording -> unit names; None where the test sets have no recordings.
        vocabulary: that of the build whose tokenizers encode; a model of another one is refused.
        facts: identities of the tokenizers, for the result.

    Returns:
        JSON-able: model, vocabulary, versions, and a row for every test set and direction, as its task returns it.
    """
    model, own = load(directory, device=device)
    if vocabulary is not None and own.hash != vocabulary.hash:
        raise ValueError(
            f"{directory}: was trained with vocabulary {own.hash[:12]}, the build has {vocabulary.hash[:12]}; "
            f"evaluate it with the build it was trained on"
        )
    rows = []
    for testset in testsets:
        task = TASKS[testset.task]
        items = testset.items if task.uses_examples else testset.in_split(options.split)
        spoken = any("S" in direction for direction in testset.directions)
        speech_tokens = tokenize_recordings(testset, items, tokenize) if spoken else {}
        for direction in testset.directions:
            row = task.run(model, own, testset, direction, speech_tokens, options)
            rows.append({"testset": testset.name, "task": testset.task, "direction": direction, **row})
            say(summary(rows[-1]))
    return identities(directory, own, device, facts) | {"rows": rows}


def identities(
    directory: Path, vocabulary: Vocabulary, device: str, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Which model, vocabulary and versions gave the numbers."""
    weights = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        weights.update(path.read_bytes())
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "model": {
            "directory": str(directory),
            "sha256": weights.hexdigest(),
            "dtype": "float32",
            "device": device,
        },
        "vocabulary": {
            "hash": vocabulary.hash,
            "tokenizer": vocabulary.tokenizer.sha256,
            "bos": vocabulary.bos,
        },
        "tokenizers": dict(facts or {}),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "commit": commit(),
        },
    }


def summary(row: Mapping[str, Any]) -> str:
    """A row in words: accuracy of the ending by sum and by mean, of twins, or the task's own measure.

    >>> numbers = {"ending.sum.free": [70.0, 60.5, 78.1], "ending.mean.free": [71.0, 61.5, 79.1]}
    >>> summary({"testset": "words", "direction": "S", "items": 100, "accuracy": numbers})
    'words           S       100  sum  70.0 [ 60.5,  78.1]  mean  71.0 [ 61.5,  79.1]'
    """
    text = f"{row['testset']:<15} {row['direction']:<4} {row.get('items', ''):>6}"
    if "not_run" in row:
        return f"{text}  not run: {row['not_run']}"
    accuracy = row.get("accuracy", {})
    numbers = {
        name: accuracy[f"ending.{name}.free"] for name in ("sum", "mean") if f"ending.{name}.free" in accuracy
    }
    numbers |= {"paired": row["paired_accuracy"]} if "paired_accuracy" in row else {}
    if "value" in row:
        numbers["kept" if row["task"] == "stsp" else row["measure"]] = [row["value"], row["low"], row["high"]]
    for name, (value, low, high) in numbers.items():
        text += f"  {name} {value:5.1f} [{low:5.1f}, {high:5.1f}]"
    return text


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON, completely or not at all."""
    files.write(path, json.dumps(results, indent=1).encode() + b"\n")
