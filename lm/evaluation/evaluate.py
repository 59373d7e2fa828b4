"""A model on packs: every task in every direction, and one JSON with all that could move a number.

Nothing is written until everything was scored: partial results are never seen as if whole.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from lm.evaluation.tasks.base import Asker
from lm.evaluation.tasks.choice import Scoring, score
from lm.evaluation.testset import Listen, Pack, hear
from lm.generate import load
from lm.model import replace
from lm.training.checkpoint import commit
from shards.vocabulary import Vocabulary

FORMAT, SCHEMA = "wordweave evaluation", 1
Say = Callable[[str], None]


def evaluate(
    directory: Path,
    packs: Sequence[Pack],
    listen: Listen | None,
    *,
    vocabulary: Vocabulary | None = None,
    scoring: Scoring | None = None,
    device: str = "cpu",
    split: str = "test",
    facts: Mapping[str, Any] | None = None,
    askers: Mapping[str, Asker] | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Score a model on packs, in every direction they have.

    Args:
        listen: encodes recordings; None where there are none.
        vocabulary: that of the build whose tokenizers listen; a model of another one is refused.
        facts: of the tokenizers that listened, for the result.
        askers: by task, for packs that are not to choose from; a row without one says that it was not run.

    Returns:
        JSON-able: what was asked of what, and a row for every pack and direction as `lm.evaluation.tasks.choice.score`
        or the asker gives it.
    """
    model, own = load(directory, device=device)
    if vocabulary is not None and own.hash != vocabulary.hash:
        raise ValueError(
            f"{directory}: was trained with vocabulary {own.hash[:12]}, the build has {vocabulary.hash[:12]}; "
            f"evaluate it with the build it was trained on"
        )
    rows = []
    for pack in packs:
        spoken = any("S" in direction for direction in pack.directions)
        items = pack.of(split) if pack.task == "choose" else pack.items  # examples and judges need the others
        heard = hear(pack, items, listen) if spoken else {}
        for direction in pack.directions:
            if pack.task == "choose":
                row = score(model, own, pack, direction, heard, scoring or Scoring(), split)
            elif pack.task in (askers or {}):
                row = (askers or {})[pack.task](model, own, pack, direction, heard)
            else:
                row = {
                    "not_run": f"nothing was given that asks a model to {pack.task}",
                    "measure": "accuracy",
                }
            rows.append({"pack": pack.name, "task": pack.task, "direction": direction, **row})
            say(line(rows[-1]))
    return described(directory, own, device, facts) | {"rows": rows}


def described(
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


def line(row: Mapping[str, Any]) -> str:
    """A row in words: the ending by sum and by mean, the contrast.

    >>> numbers = {"ending.sum.free": [70.0, 60.5, 78.1], "ending.mean.free": [71.0, 61.5, 79.1]}
    >>> line({"pack": "words", "direction": "S", "items": 100, "accuracy": numbers})
    'words           S       100  sum  70.0 [ 60.5,  78.1]  mean  71.0 [ 61.5,  79.1]'
    """
    said = f"{row['pack']:<15} {row['direction']:<4} {row.get('items', ''):>6}"
    if "not_run" in row:
        return f"{said}  not run: {row['not_run']}"
    accuracy = row.get("accuracy", {})
    shown = {
        name: accuracy[f"ending.{name}.free"] for name in ("sum", "mean") if f"ending.{name}.free" in accuracy
    }
    shown |= {"contrast": row["contrast"]} if "contrast" in row else {}
    if "value" in row:
        shown["kept" if row["task"] == "stsp" else row["measure"]] = [row["value"], row["low"], row["high"]]
    for name, (value, low, high) in shown.items():
        said += f"  {name} {value:5.1f} [{low:5.1f}, {high:5.1f}]"
    return said


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(results, indent=1).encode() + b"\n")
