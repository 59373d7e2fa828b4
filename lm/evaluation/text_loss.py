"""Perplexity of written text under a model: what continued training on speech leaves of its text.

Each document is scored by itself, after BOS and the text marker, as text is trained on. Longer ones than the model has
positions are cut into windows, each with that prompt again. Perplexities per token compare models of one tokenizer;
bits per byte compare any.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm.evaluation.intervals import bootstrap
from lm.evaluation.tasks.likelihood import likelihoods
from lm.generate import load, prompt
from lm.model import Model
from shards.vocabulary import Vocabulary


class UndefinedPerplexity(ValueError):
    """There is no text to score."""


def perplexity(
    model: Model, vocabulary: Vocabulary, documents: Iterable[str], *, batch_tokens: int = 8192
) -> dict[str, Any]:
    """Perplexity of documents.

    Returns:
        JSON-able: `perplexity` per token and `low`, `high`, its 95 % interval over documents; `nats_per_token`,
        `bits_per_byte` (of UTF-8), `documents`, `tokens`, `bytes`.

    Raises:
        UndefinedPerplexity: no document has a token.
    """
    import numpy as np

    opening = prompt([], vocabulary, "text")
    room = model.settings.max_position_embeddings - len(opening)
    windows: list[tuple[list[int], list[int]]] = []
    owners: list[int] = []
    sizes: list[int] = []
    for text in documents:
        ids = vocabulary.tokenizer.encode(text.strip())
        if not ids:
            continue
        for start in range(0, len(ids), room):
            windows.append((opening, ids[start : start + room]))
            owners.append(len(sizes))
        sizes.append(len(text.strip().encode()))
    if not windows:
        raise UndefinedPerplexity("perplexity: need a document with at least one token, got none")
    scores = likelihoods(model, vocabulary, windows, batch_tokens=batch_tokens)
    nats, tokens = np.zeros(len(sizes)), np.zeros(len(sizes))
    np.add.at(nats, owners, [-score.ending for score in scores])
    np.add.at(tokens, owners, [score.ending_tokens for score in scores])
    mean = float(nats.sum() / tokens.sum())
    low, high = (math.exp(bound / 100) for bound in bootstrap(nats, tokens))
    return {
        "perplexity": math.exp(mean), "low": low, "high": high, "nats_per_token": mean,
        "bits_per_byte": float(nats.sum() / math.log(2) / sum(sizes)),
        "documents": len(sizes), "tokens": int(tokens.sum()), "bytes": sum(sizes),
    }  # fmt: skip


def compare_text(
    models: Sequence[Path], text: Path, *, limit: int | None = None, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Perplexity of the lines of a text file under several models, in order; `ratio`, to that of the first.

    Raises:
        ValueError: the file is missing or no UTF-8, or a model cannot be loaded; names it.
    """
    try:
        documents = text.read_text(encoding="utf-8").splitlines()[:limit]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{text}: need a text file in UTF-8, a document per line, got: {error}") from error
    rows: list[dict[str, Any]] = []
    for directory in models:
        model, vocabulary = load(directory, device=device)
        row = {"model": str(directory), "tokenizer": vocabulary.tokenizer.sha256}
        rows.append(row | perplexity(model, vocabulary, documents))
        same = rows[-1]["tokenizer"] == rows[0]["tokenizer"]
        rows[-1]["ratio"] = rows[-1]["perplexity"] / rows[0]["perplexity"] if same else None
    return rows


def text_table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| model | perplexity per token | of the first | bits per byte | tokens |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "other tokenizer" if row["ratio"] is None else f"{row['ratio']:.3f}"
        value = f"{row['perplexity']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(f"| {row['model']} | {value} | {ratio} | {row['bits_per_byte']:.4f} | {row['tokens']} |")
    return "\n".join(lines)
