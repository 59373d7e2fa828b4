"""Few-shot tasks: transcribe speech, read text aloud, name the intent of a command.

A prompt is some solved examples and one open question. The examples come from a test set's train and dev items, are the
same for all questions of a run, and are listed in the result, because the paper's were not published.

| task | an example | the question |
|---|---|---|
| asr | `[Speech]`units`[Text]`<START Transcript> text <END> | `[Speech]`units`[Text]` |
| tts | `[Text]`text 'stop'`[Speech]`units, units of a spoken "stop" | `[Text]`text 'stop'`[Speech]` |
| intent | `[Speech]`units`[Text]`A:label | `[Speech]`units`[Text]`A: |

A model of strategy concatenated (`task_markers`) is prompted with `[ASR]` and `[TTS]` and needs no stop: its documents
end there.

Source: Spirit LM (Nguyen et al. 2024, arXiv:2402.05755), section 4.2 and appendix B.
"""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corpus.keyed import generator
from lm.evaluation.external_tools import transcribe as run_recogniser
from lm.evaluation.external_tools import vocode
from lm.evaluation.intervals import bootstrap, share
from lm.evaluation.tasks.base import DEFAULTS, TaskOptions
from lm.evaluation.testset import TestItem, TestSet, as_prompt
from lm.generate import generate_batch, kinds, parts, prompt
from lm.model import Model
from lm.speaker import Speaker, name_of
from shards.vocabulary import Vocabulary

START, END = "<START Transcript>", "<END>"
STOP_WORD = "'stop'"
ANSWER = "A:"
TESTSET_TASKS = {"asr": "transcribe", "tts": "transcribe", "intent": "classify"}
"""Few-shot task -> task of the test set."""
MEASURES = {"asr": "WER", "tts": "CER", "intent": "accuracy"}


@dataclass(frozen=True)
class FewShot:
    """How a task is prompted. The defaults are the paper's where it has any."""

    shots: int = 10
    max_tokens: int = 1024  # prompt and answer; examples are left out, the last first, until both fit
    new_tokens: int = 128  # of an answer, at most
    temperature: float = 0.0  # always the likeliest token
    top_p: float = 1.0
    batch: int = 8
    seed: int = 0  # of the choice of examples, and of sampling
    task_markers: bool = False  # prompt with [ASR] and [TTS]

    def __post_init__(self) -> None:
        for name, least in (("shots", 0), ("max_tokens", 1), ("new_tokens", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"few-shot {name}: need at least {least}, got {getattr(self, name)}")


PAPER = {
    "asr": FewShot(shots=10, max_tokens=1024),
    "tts": FewShot(shots=10, max_tokens=2048, new_tokens=300),
    "intent": FewShot(shots=30, max_tokens=2048, new_tokens=24),
}
"""The paper's settings; new_tokens is our own."""


def transcribe(
    model: Model,
    vocabulary: Vocabulary,
    testset: TestSet,
    direction: str,
    speech_tokens: Mapping[str, str],
    options: TaskOptions = DEFAULTS,
) -> dict[str, Any]:
    """ASR from speech to text, TTS from text to speech."""
    task = "asr" if direction == "S->T" else "tts"
    return _with_options(model, vocabulary, testset, task, speech_tokens, options)


def classify(
    model: Model,
    vocabulary: Vocabulary,
    testset: TestSet,
    direction: str,
    speech_tokens: Mapping[str, str],
    options: TaskOptions = DEFAULTS,
) -> dict[str, Any]:
    """Intents of spoken commands."""
    if direction != "S->T":
        return {"not_run": "intents are classified from speech only", "measure": "accuracy"}
    return _with_options(model, vocabulary, testset, "intent", speech_tokens, options)


def _with_options(
    model: Model,
    vocabulary: Vocabulary,
    testset: TestSet,
    task: str,
    speech_tokens: Mapping[str, str],
    options: TaskOptions,
) -> dict[str, Any]:
    """The paper's settings, changed by what the user set."""
    settings = replace(PAPER[task], batch=options.batch, seed=options.seed, task_markers=options.task_markers)
    if options.shots is not None:
        settings = replace(settings, shots=options.shots)
    return run_few_shot(
        model, vocabulary, testset, task, speech_tokens, settings,
        stop=options.stop_tokens, vocoder=options.vocoder, no_vocoder=options.no_vocoder, recogniser=options.recogniser,
    )  # fmt: skip


def run_few_shot(
    model: Model,
    vocabulary: Vocabulary,
    testset: TestSet,
    task: str,
    speech_tokens: Mapping[str, str],
    settings: FewShot | None = None,
    *,
    stop: str = "",
    vocoder: Speaker | str | None = None,
    no_vocoder: str = "a vocoder",
    recogniser: str | None = None,
    items: Sequence[TestItem] | None = None,
) -> dict[str, Any]:
    """Prompt a model with every test item and score the answers.

    Args:
        task: "asr", "tts" or "intent".
        speech_tokens: unit names of the test set's recordings (`lm.evaluation.testset.tokenize_recordings`).
        stop: tts: unit names of the spoken word "stop".
        vocoder, recogniser: tts: see `lm.evaluation.external_tools`. It is not run without all three of these.
        no_vocoder: what is lacking where there is no vocoder.
        items: the questions; None: all test items.

    Returns:
        JSON-able: `value` (asr: word error rate, tts: character error rate, intent: exact matches, all in per cent)
        with its 95 % interval, counts, the ids of the examples and the answers; or {"not_run": reason}.

    Raises:
        ValueError: the test set has another task or too few examples, or a question does not fit the model.
    """
    settings = settings or PAPER[task]
    if testset.task != TESTSET_TASKS[task]:
        raise ValueError(
            f"{testset.name}: {task} needs a test set of task {TESTSET_TASKS[task]!r}, got {testset.task!r}"
        )
    facts: dict[str, Any] = {
        "task": task,
        "testset": testset.name,
        "version": testset.version,
        "testset_sha256": testset.hash,
        "direction": "T->S" if task == "tts" else "S->T",
        "measure": MEASURES[task],
        "settings": asdict(settings),
    }
    needs = {
        no_vocoder: vocoder,
        "a recogniser": recogniser,
        "a recording of the word stop": stop or settings.task_markers,
    }
    missing = [name for name, value in needs.items() if task == "tts" and not value]
    if missing:
        return facts | {"not_run": f"needs {' and '.join(missing)}"}
    questions = list(testset.in_split("test") if items is None else items)
    if not questions:
        raise ValueError(f"{testset.name}: need at least one test item, got none")
    examples = choose_examples(testset, settings)
    solved = [example(item, task, speech_tokens, stop, settings.task_markers) for item in examples]
    prompts, used = [], []
    for item in questions:
        try:
            ids, count = fit_prompt(item, task, solved, speech_tokens, vocabulary, model, settings)
        except ValueError as error:
            row = testset.items.index(item) + 1
            raise ValueError(f"{testset.name}: row {row} ({item.id!r}): {error}") from error
        prompts.append(ids)
        used.append(count)
    answers = generate_answers(model, vocabulary, prompts, task, settings, stop)
    facts |= {
        "items": len(questions),
        "examples": [item.id for item in examples],
        "examples_used": {"min": min(used), "mean": float(np.mean(used))},
        "unstopped": sum(not stopped for _, stopped in answers),
    }
    outputs = [text for text, _ in answers]
    if task == "intent":
        return facts | exact_matches(questions, outputs)
    references = [plain(item.context[0].text or "") for item in questions]
    if task == "tts":
        outputs = [asr_of_vocoded(tokens, vocoder or "", recogniser or "") for tokens in outputs]
        facts["vocoder"] = name_of(vocoder)
        words = error_rate(questions, references, [plain(text) for text in outputs], by="words")
        facts["word_error_rate"] = [words[name] for name in ("value", "low", "high")]
    unit = "characters" if task == "tts" else "words"
    return facts | error_rate(questions, references, [plain(text) for text in outputs], by=unit)


def choose_examples(testset: TestSet, settings: FewShot) -> list[TestItem]:
    """The examples of a run, from train, else dev; where items have labels, the labels in turn.

    Raises:
        ValueError: there are too few.
    """
    pool = testset.in_split("train") or testset.in_split("dev")
    if len(pool) < settings.shots:
        raise ValueError(
            f"{testset.name}: need {settings.shots} examples in split train or dev, got {len(pool)}; set fewer shots"
        )
    order = generator(settings.seed, "few-shot examples").permutation(len(pool))
    counts: dict[str | None, int] = {}
    ranked = []
    for rank, item in enumerate(pool[i] for i in order):
        counts[item.label] = counts.get(item.label, -1) + 1
        ranked.append((counts[item.label], rank, item))
    return [item for _, _, item in sorted(ranked, key=lambda one: one[:2])[: settings.shots]]


def example(
    item: TestItem, task: str, speech_tokens: Mapping[str, str], stop: str = "", task_markers: bool = False
) -> list[tuple[str, str]]:
    """A solved item as parts of a prompt."""
    speech = as_prompt(item.context, "speech", speech_tokens)
    text = " ".join(content for _, content in as_prompt(item.context, "text", speech_tokens))
    if task == "asr":
        return [*speech, ("text", text if task_markers else f"{START} {text} {END}")]
    if task == "tts":
        opening = ("text", text if task_markers else f"{text} {STOP_WORD}")
        return [opening, *speech, *([] if task_markers or not stop else [("speech", stop)])]
    return [*speech, ("text", f"{ANSWER}{item.label}")]


def question(
    item: TestItem, task: str, speech_tokens: Mapping[str, str], task_markers: bool = False
) -> list[tuple[str, str]]:
    """An item as parts of a prompt, up to where the answer begins."""
    if task == "tts":
        text = " ".join(content for _, content in as_prompt(item.context, "text", speech_tokens))
        return [("text", text if task_markers else f"{text} {STOP_WORD}")]
    speech = as_prompt(item.context, "speech", speech_tokens)
    return [*speech, ("text", ANSWER)] if task == "intent" else speech


def fit_prompt(
    item: TestItem,
    task: str,
    solved: Sequence[list[tuple[str, str]]],
    speech_tokens: Mapping[str, str],
    vocabulary: Vocabulary,
    model: Model,
    settings: FewShot,
) -> tuple[list[int], int]:
    """Ids of the question after as many examples as fit, and their number.

    Raises:
        ValueError: the question alone does not fit.
    """
    room = min(settings.max_tokens, model.settings.max_position_embeddings) - settings.new_tokens
    output = "speech" if task == "tts" else "text"
    own = question(item, task, speech_tokens, settings.task_markers)
    for count in range(len(solved), -1, -1):
        content = [part for one in solved[:count] for part in one] + own
        ids = prompt(content, vocabulary, output, task_markers=settings.task_markers and task != "intent")
        if len(ids) <= room:
            return ids, count
    raise ValueError(f"the question is {len(ids)} tokens, with {settings.new_tokens} new ones more than fit")


def generate_answers(
    model: Model,
    vocabulary: Vocabulary,
    prompts: Sequence[Sequence[int]],
    task: str,
    settings: FewShot,
    stop: str = "",
) -> list[tuple[str, bool]]:
    """Answers (text, or for tts unit names) up to their stop, and whether they had one."""
    modality = "speech" if task == "tts" else "text"
    other = vocabulary.text_marker if task == "tts" else vocabulary.speech_marker
    cut = answer_cutter(task, vocabulary, stop)
    random = torch.Generator(model.device).manual_seed(settings.seed)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # similar lengths need less padding
    answers: dict[int, tuple[str, bool]] = {}
    for start in range(0, len(order), settings.batch):
        batch = order[start : start + settings.batch]
        outputs = generate_batch(
            model, vocabulary, [prompts[i] for i in batch], modality=modality, max_new_tokens=settings.new_tokens,
            temperature=settings.temperature, top_p=settings.top_p, generator=random, stops=(other,),
            until=lambda ids: cut(ids)[1],
        )  # fmt: skip
        for i, ids in zip(batch, outputs, strict=True):
            text, stopped = cut(ids)
            answers[i] = text, stopped or len(ids) < settings.new_tokens
    return [answers[i] for i in range(len(prompts))]


def answer_cutter(task: str, vocabulary: Vocabulary, stop: str) -> Callable[[list[int]], tuple[str, bool]]:
    """A function that cuts an answer at its stop and returns whether there was one."""

    def cut_text(ids: list[int]) -> tuple[str, bool]:
        text = "".join(content for _, content in parts(ids, vocabulary))
        text, mark, _ = text.partition(END if task == "asr" else "\n")
        return text.replace(START, " ").strip(), bool(mark)

    def cut_speech(ids: list[int]) -> tuple[str, bool]:
        text = "".join(vocabulary.decode([i for i in ids if kinds([i], vocabulary) != ["text"]]))
        text, mark, _ = text.partition(stop) if stop else (text, "", "")
        return text, bool(mark)

    return cut_speech if task == "tts" else cut_text


_SEPARATORS = re.compile(r"[^\w']+")


def plain(text: str) -> str:
    """Words as they are compared: lower case, no punctuation but apostrophes inside words.

    >>> plain(" It's a DOG, he said. ")
    "it's a dog he said"
    """
    return " ".join(word for word in (w.strip("'_") for w in _SEPARATORS.split(text.lower())) if word)


def asr_of_vocoded(tokens: str, vocoder: Speaker | str, recogniser: str) -> str:
    """A recogniser's transcript of a vocoder's output for tokens; empty for no units."""
    if "[Hu" not in tokens:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        return run_recogniser(recogniser, vocode(vocoder, tokens, Path(folder) / "answer.wav"))


def error_rate(
    items: Sequence[TestItem], references: Sequence[str], outputs: Sequence[str], *, by: str
) -> dict[str, Any]:
    """Errors per word or character over all items, in per cent, with a 95 % interval over items.

    Raises:
        ValueError: an item has an empty reference.
    """
    import jiwer

    measure = jiwer.process_words if by == "words" else jiwer.process_characters
    errors, lengths, counts = [], [], {"substitutions": 0, "deletions": 0, "insertions": 0}
    for item, reference, output in zip(items, references, outputs, strict=True):
        if not reference:
            raise ValueError(f"item {item.id!r}: need words to compare with, got none")
        result = measure(reference, output)
        for name in counts:
            counts[name] += getattr(result, name)
        errors.append(result.substitutions + result.deletions + result.insertions)
        lengths.append(result.hits + result.substitutions + result.deletions)
    low, high = bootstrap(np.array(errors), np.array(lengths))
    return {
        "value": 100 * sum(errors) / sum(lengths),
        "low": low,
        "high": high,
        by: sum(lengths),
        **counts,
        "answers": [
            {"id": item.id, "reference": reference, "output": output}
            for item, reference, output in zip(items, references, outputs, strict=True)
        ],
    }


def exact_matches(items: Sequence[TestItem], outputs: Sequence[str]) -> dict[str, Any]:
    """Answers that equal the label (up to case and surrounding spaces), in per cent, with a 95 % interval."""
    right = [
        float(text.strip().lower() == (item.label or "").lower())
        for item, text in zip(items, outputs, strict=True)
    ]
    value, low, high = share(right, len(right))
    return {
        "value": value,
        "low": low,
        "high": high,
        "labels": len({item.label or "" for item in items}),
        "answers": [
            {"id": item.id, "label": item.label, "output": text}
            for item, text in zip(items, outputs, strict=True)
        ],
    }
