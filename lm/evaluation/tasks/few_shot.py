"""Tasks asked by example: write down speech, read out text, name the intent of a command.

Every question is some solved examples and one unsolved. The examples come from a pack's train and dev items, are the
same for all questions of a run, and are listed in the result, because the paper's were not published.

| task | an example | the question |
|---|---|---|
| asr | `[Speech]`units`[Text]`<START Transcript> text <END> | `[Speech]`units`[Text]` |
| tts | `[Text]`text 'stop'`[Speech]`units, units of a spoken "stop" | `[Text]`text 'stop'`[Speech]` |
| intent | `[Speech]`units`[Text]`A:label | `[Speech]`units`[Text]`A: |

A model of strategy concatenated (`task`) is asked with `[ASR]` and `[TTS]` and needs no stop: its documents end there.

Source: Spirit LM (Nguyen et al. 2024, arXiv:2402.05755), section 4.2 and appendix B.
"""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lm.evaluation.external_tools import speak, write_down
from lm.evaluation.testset import Item, Pack, as_prompt
from lm.generate import generate_batch, kinds, parts, prompt
from lm.model import Model
from shards.vocabulary import Vocabulary

START, END = "<START Transcript>", "<END>"
STOP_WORD = "'stop'"
ASKED = "A:"
TASKS = {"asr": "transcribe", "tts": "transcribe", "intent": "classify"}
"""Few-shot task -> task of the pack."""
MEASURES = {"asr": "WER", "tts": "CER", "intent": "accuracy"}


@dataclass(frozen=True)
class FewShot:
    """How a task is asked. The defaults are the paper's where it has any."""

    shots: int = 10
    most_tokens: int = 1024  # prompt and answer; examples are left out, the last first, until both fit
    new_tokens: int = 128  # of an answer, at most
    temperature: float = 0.0  # the likeliest token always
    top_p: float = 1.0
    batch: int = 8
    seed: int = 0  # which examples, and what is drawn
    task: bool = False  # ask with [ASR] and [TTS]

    def __post_init__(self) -> None:
        for name, least in (("shots", 0), ("most_tokens", 1), ("new_tokens", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"few-shot {name}: need at least {least}, got {getattr(self, name)}")


PAPER = {
    "asr": FewShot(shots=10, most_tokens=1024),
    "tts": FewShot(shots=10, most_tokens=2048, new_tokens=300),
    "intent": FewShot(shots=30, most_tokens=2048, new_tokens=24),
}
"""As the paper asks them; new_tokens is ours."""


def ask(
    model: Model,
    vocabulary: Vocabulary,
    pack: Pack,
    task: str,
    heard: Mapping[str, str],
    settings: FewShot | None = None,
    *,
    stop: str = "",
    vocoder: str | None = None,
    recogniser: str | None = None,
    items: Sequence[Item] | None = None,
) -> dict[str, Any]:
    """Ask every test item of a pack and score the answers.

    Args:
        task: "asr", "tts" or "intent".
        heard: unit names of the pack's recordings (`lm.evaluation.testset.hear`).
        stop: tts: unit names of the spoken word "stop".
        vocoder, recogniser: tts: commands (`lm.evaluation.external_tools`). Without all three of these it is not run.
        items: which to ask; None: all test items.

    Returns:
        JSON-able: `value` (asr: word error rate, tts: character error rate, intent: exact matches, all in per cent)
        with its 95 % interval, counts, the ids of the examples and the answers; or {"not_run": why}.

    Raises:
        ValueError: the pack is of another task, has too few examples, or a question is longer than the model reads.
    """
    settings = settings or PAPER[task]
    if pack.task != TASKS[task]:
        raise ValueError(f"{pack.name}: is a pack to {pack.task}, {task} needs one to {TASKS[task]}")
    facts: dict[str, Any] = {
        "task": task,
        "pack": pack.name,
        "version": pack.version,
        "pack_sha256": pack.hash,
        "direction": "T->S" if task == "tts" else "S->T",
        "measure": MEASURES[task],
        "settings": asdict(settings),
    }
    if task == "tts":
        lacking = [
            name
            for name, given in (
                ("a vocoder", vocoder),
                ("a recogniser", recogniser),
                ("a recording of the word stop", stop or settings.task),
            )
            if not given
        ]
        if lacking:
            return facts | {"not_run": f"needs {' and '.join(lacking)}; none is shipped"}
    tests = list(pack.of("test") if items is None else items)
    if not tests:
        raise ValueError(f"{pack.name}: has no test item")
    examples = drawn(pack, settings)
    solved = [example(item, task, heard, stop, settings.task) for item in examples]
    asked, used = [], []
    for item in tests:
        try:
            ids, count = fitted(item, task, solved, heard, vocabulary, model, settings)
        except ValueError as error:
            raise ValueError(
                f"{pack.name}: row {pack.items.index(item) + 1} ({item.id!r}): {error}"
            ) from error
        asked.append(ids)
        used.append(count)
    answers = answered(model, vocabulary, asked, task, settings, stop)
    facts |= {
        "items": len(tests),
        "examples": [item.id for item in examples],
        "examples_used": {"fewest": min(used), "mean": float(np.mean(used))},
        "unstopped": sum(not stopped for _, stopped in answers),
    }
    said = [text for text, _ in answers]
    if task == "intent":
        return facts | matches(tests, said)
    written = [plain(item.context[0].text or "") for item in tests]
    if task == "tts":
        said = [heard_again(tokens, vocoder or "", recogniser or "") for tokens in said]
    return facts | error_rate(
        tests, written, [plain(text) for text in said], by="characters" if task == "tts" else "words"
    )


def drawn(pack: Pack, settings: FewShot) -> list[Item]:
    """The examples of a run: so many items of train, then dev, every label in turn where there are labels.

    Raises:
        ValueError: there are fewer.
    """
    pool = pack.of("train") or pack.of("dev")
    if len(pool) < settings.shots:
        raise ValueError(
            f"{pack.name}: need {settings.shots} examples in split train or dev, got {len(pool)}; ask with fewer shots"
        )
    order = np.random.default_rng(settings.seed).permutation(len(pool))
    mixed = [pool[i] for i in order]
    turns: dict[str | None, int] = {}
    ranked = []
    for place, item in enumerate(mixed):
        turns[item.label] = turns.get(item.label, -1) + 1
        ranked.append((turns[item.label], place, item))
    return [item for _, _, item in sorted(ranked, key=lambda one: one[:2])[: settings.shots]]


def example(
    item: Item, task: str, heard: Mapping[str, str], stop: str = "", markers: bool = False
) -> list[tuple[str, str]]:
    """A solved item as parts of a prompt."""
    speech = as_prompt(item.context, "speech", heard)
    text = " ".join(content for _, content in as_prompt(item.context, "text", heard))
    if task == "asr":
        return [*speech, ("text", text if markers else f"{START} {text} {END}")]
    if task == "tts":
        question = ("text", text if markers else f"{text} {STOP_WORD}")
        return [question, *speech, *([] if markers or not stop else [("speech", stop)])]
    return [*speech, ("text", f"{ASKED}{item.label}")]


def question(item: Item, task: str, heard: Mapping[str, str], markers: bool = False) -> list[tuple[str, str]]:
    """An item as parts of a prompt, up to where the answer begins."""
    if task == "tts":
        text = " ".join(content for _, content in as_prompt(item.context, "text", heard))
        return [("text", text if markers else f"{text} {STOP_WORD}")]
    speech = as_prompt(item.context, "speech", heard)
    return [*speech, ("text", ASKED)] if task == "intent" else speech


def fitted(
    item: Item,
    task: str,
    solved: Sequence[list[tuple[str, str]]],
    heard: Mapping[str, str],
    vocabulary: Vocabulary,
    model: Model,
    settings: FewShot,
) -> tuple[list[int], int]:
    """Ids of the question with as many examples as fit, and how many these are.

    Raises:
        ValueError: the question alone does not fit.
    """
    room = min(settings.most_tokens, model.settings.max_position_embeddings) - settings.new_tokens
    output = "speech" if task == "tts" else "text"
    own = question(item, task, heard, settings.task)
    for count in range(len(solved), -1, -1):
        said = [part for one in solved[:count] for part in one] + own
        ids = prompt(said, vocabulary, output, task=settings.task and task != "intent")
        if len(ids) <= room:
            return ids, count
    raise ValueError(f"the question is {len(ids)} tokens, with {settings.new_tokens} new ones more than fit")


def answered(
    model: Model,
    vocabulary: Vocabulary,
    asked: Sequence[Sequence[int]],
    task: str,
    settings: FewShot,
    stop: str = "",
) -> list[tuple[str, bool]]:
    """Answers, cut at their stop, and whether they had one; text, or for tts unit names."""
    modality = "speech" if task == "tts" else "text"
    other = vocabulary.text_marker if task == "tts" else vocabulary.speech_marker
    finished = stopper(task, vocabulary, stop)
    generator = torch.Generator(model.device).manual_seed(settings.seed)
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))  # like lengths together: less padding
    found: dict[int, tuple[str, bool]] = {}
    for start in range(0, len(order), settings.batch):
        batch = order[start : start + settings.batch]
        made = generate_batch(
            model, vocabulary, [asked[i] for i in batch], modality=modality, max_new_tokens=settings.new_tokens,
            temperature=settings.temperature, top_p=settings.top_p, generator=generator, stops=(other,),
            until=lambda ids: finished(ids)[1],
        )  # fmt: skip
        for i, ids in zip(batch, made, strict=True):
            text, stopped = finished(ids)
            found[i] = text, stopped or len(ids) < settings.new_tokens
    return [found[i] for i in range(len(asked))]


def stopper(task: str, vocabulary: Vocabulary, stop: str) -> Callable[[list[int]], tuple[str, bool]]:
    """Gives an answer without its stop and what follows it, and whether there was one."""

    def written(ids: list[int]) -> tuple[str, bool]:
        text = "".join(content for _, content in parts(ids, vocabulary))
        text, found, _ = text.partition(END if task == "asr" else "\n")
        return text.replace(START, " ").strip(), bool(found)

    def spoken(ids: list[int]) -> tuple[str, bool]:
        text = "".join(vocabulary.decode([i for i in ids if kinds([i], vocabulary) != ["text"]]))
        text, found, _ = text.partition(stop) if stop else (text, "", "")
        return text, bool(found)

    return spoken if task == "tts" else written


_APART = re.compile(r"[^\w']+")


def plain(text: str) -> str:
    """Words as they are compared: lower case, no punctuation but apostrophes inside words.

    >>> plain(" It's a DOG, he said. ")
    "it's a dog he said"
    """
    return " ".join(word for word in (w.strip("'_") for w in _APART.split(text.lower())) if word)


def heard_again(tokens: str, vocoder: str, recogniser: str) -> str:
    """What a recogniser writes down when a vocoder speaks tokens; nothing for none."""
    if "[Hu" not in tokens:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        return write_down(recogniser, speak(vocoder, tokens, Path(folder) / "answer.wav"))


def error_rate(
    items: Sequence[Item], written: Sequence[str], said: Sequence[str], *, by: str
) -> dict[str, Any]:
    """Errors per word or character of all items together, in per cent, with a 95 % interval over items.

    Raises:
        ValueError: an item has nothing written.
    """
    import jiwer

    measure = jiwer.process_words if by == "words" else jiwer.process_characters
    errors, lengths, kinds_of_error = [], [], {"substitutions": 0, "deletions": 0, "insertions": 0}
    for item, reference, hypothesis in zip(items, written, said, strict=True):
        if not reference:
            raise ValueError(f"item {item.id!r}: has no words to compare with")
        found = measure(reference, hypothesis)
        for name in kinds_of_error:
            kinds_of_error[name] += getattr(found, name)
        errors.append(found.substitutions + found.deletions + found.insertions)
        lengths.append(found.hits + found.substitutions + found.deletions)
    low, high = resampled(np.array(errors), np.array(lengths))
    return {
        "value": 100 * sum(errors) / sum(lengths),
        "low": low,
        "high": high,
        by: sum(lengths),
        **kinds_of_error,
        "answers": [
            {"id": item.id, "written": a, "said": b} for item, a, b in zip(items, written, said, strict=True)
        ],
    }


def resampled(
    errors: np.ndarray, lengths: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of sum(errors) / sum(lengths) in per cent, by drawing items anew."""
    chosen = np.random.default_rng(seed).integers(len(errors), size=(draws, len(errors)))
    rates = 100 * errors[chosen].sum(1) / lengths[chosen].sum(1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def matches(items: Sequence[Item], said: Sequence[str]) -> dict[str, Any]:
    """Answers that are the label exactly (case and spaces around aside), in per cent, with a 95 % interval."""
    from lm.evaluation.tasks.choice import interval

    right = [
        float(text.strip().lower() == (item.label or "").lower())
        for item, text in zip(items, said, strict=True)
    ]
    value, low, high = interval(right, len(right))
    labels = sorted({item.label or "" for item in items})
    return {
        "value": value,
        "low": low,
        "high": high,
        "labels": len(labels),
        "answers": [
            {"id": item.id, "label": item.label, "said": text} for item, text in zip(items, said, strict=True)
        ],
    }
