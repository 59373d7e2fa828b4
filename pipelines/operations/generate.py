"""Continue prompts of text and recordings with a model trained on a build."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lm.generate import describe, generate_batch, load, prompt
from pipelines.tokenize import tokenize_file
from shards.show import read_spans
from shards.vocabulary import Vocabulary


def generate(
    build: Path,
    parts: Sequence[tuple[str, Any]] = (),
    *,
    to: str = "free",
    model: Path | None = None,
    task_markers: bool = False,
    all_directions: bool = False,
    count: int = 1,
    length: int = 40,
    seed: int = 0,
    **sampling: Any,
) -> list[dict[str, Any]]:
    """Answers to one prompt, or to four.

    Args:
        parts: ("text", words), ("units", unit names) or ("audio", path of a recording), in the order of the prompt.
        to: "text", "speech" or "free".
        model: default BUILD/model/best.
        all_directions: the first words and units of a held-out utterance, each continued in text and in speech.
        count: answers per prompt.
        length: new tokens at most.
        sampling: as in `lm.generate.generate_batch`.

    Returns:
        JSON-able answers: `prompt`, `to`, and the answer as `lm.generate.describe` gives it.
    """
    loaded, vocabulary = load(model or build / "model" / "best")
    if all_directions:
        prompts = held_out_prompts(build, vocabulary)
    else:
        speech = {"units": lambda names: names, "audio": lambda path: tokenize_file(build, path)}
        read = [("text", one) if kind == "text" else ("speech", speech[kind](one)) for kind, one in parts]
        prompts = [(read, None if to == "free" else to)]
    answers = []
    for content, modality in prompts:
        ids = prompt(content, vocabulary, modality, task_markers=task_markers)
        outputs = generate_batch(
            loaded, vocabulary, [ids] * count, modality=modality, max_new_tokens=length,
            generator=torch.Generator().manual_seed(seed), **sampling,
        )  # fmt: skip
        answers += [
            {"prompt": content, "to": modality or "free", **describe(ids, vocabulary)} for ids in outputs
        ]
    return answers


def held_out_prompts(build: Path, vocabulary: Vocabulary) -> list[tuple[list[tuple[str, str]], str | None]]:
    """The beginning of a held-out utterance as text and as speech, each to be continued in both."""
    sample = next((sample for sample, _ in read_spans(build, None, split="valid")), None)
    if sample is None:
        raise ValueError(f"{build}: need a held-out utterance, got none; set [shards] valid")
    text = " ".join(word[1] for word in sample["json"]["words"][:8])
    speech = "".join(vocabulary.decode(sample["speech"][:60]))
    return [([part], to) for part in (("text", text), ("speech", speech)) for to in ("text", "speech")]
