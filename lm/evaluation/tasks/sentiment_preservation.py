"""Speech-text sentiment preservation (STSP): does a continuation keep the sentiment of its prompt?

Every test item of a test set of task `continue` is continued in every direction of the test set; a classifier labels
the continuation; the score is the share with the item's label. What cannot be classified counts as wrong.

With `shots`, solved pairs precede the item, which is always the last part of the prompt. A pair is two train items of
one label, the second in place of the continuation, accepted if the classifiers give both that label; the labels take
turns. (Spirit LM cut long recordings in two instead; its clips are not published.)

Source: Spirit LM (Nguyen et al. 2024, arXiv:2402.05755), section 5, appendix D for the settings of generation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from corpus.keyed import generator
from lm.evaluation.intervals import share
from lm.evaluation.sentiment import Classify, fit_classifier, open_speech_classifier, open_text_classifier
from lm.evaluation.tasks.base import DEFAULTS, TaskOptions
from lm.evaluation.testset import DIRECTIONS, TestItem, TestSet, as_prompt, check_testset
from lm.generate import generate_batch, parts, prompt
from lm.model import Model
from lm.speaker import name_of
from shards.vocabulary import Vocabulary

NEW_TOKENS = {"T": 50, "S->T": 50, "T->S": 200, "S": 300}
"""Tokens of a continuation, at most, as in appendix D."""
SHORT = {"T": 16, "S->T": 16, "T->S": 60, "S": 60}
"""The same for the synthetic test sets, whose endings have six words."""


@dataclass(frozen=True)
class Stsp:
    """How prompts are continued."""

    shots: int = 0  # 3, 6 and 9 in the paper: a multiple of the labels
    samples_per_prompt: int = 3  # scores are averaged over them
    temperature: float = 0.8
    top_p: float = 0.95
    new_tokens: Mapping[str, int] = field(default_factory=lambda: dict(NEW_TOKENS))
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("shots", 0), ("samples_per_prompt", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"stsp {name}: need at least {least}, got {getattr(self, name)}")


DEFAULT = Stsp()


def run(
    model: Model,
    vocabulary: Vocabulary,
    testset: TestSet,
    direction: str,
    speech_tokens: Mapping[str, str],
    options: TaskOptions = DEFAULTS,
) -> dict[str, Any]:
    """The task with the classifiers that the options name, or with ones fitted on the test set's train items."""
    classifiers = classifiers_for(testset, direction, speech_tokens, options)
    if isinstance(classifiers, str):
        return {"not_run": classifiers, "measure": "accuracy"}
    settings = Stsp(
        shots=options.shots or 0, samples_per_prompt=options.samples_per_prompt,
        new_tokens=options.new_tokens or dict(NEW_TOKENS), batch=options.batch, seed=options.seed,
    )  # fmt: skip
    result = preserve_sentiment(model, vocabulary, testset, direction, speech_tokens, classifiers, settings)
    spoken = "recordings" in classifiers  # its classifier reads what the vocoder makes of tokens
    return result | ({"vocoder": name_of(options.vocoder)} if spoken else {})


def classifiers_for(
    testset: TestSet, direction: str, speech_tokens: Mapping[str, str], options: TaskOptions
) -> dict[str, Any] | str:
    """The classifiers of a direction's two modalities, or the reason why there is none."""
    classifiers: dict[str, Any] = {}
    for modality in sorted(set(DIRECTIONS[direction])):
        folder = options.text_classifier if modality == "text" else options.speech_classifier
        if folder is not None and modality == "text":
            classifiers["text"] = open_text_classifier(folder, testset.labels)
        elif folder is not None and options.vocoder is None:
            return f"a classifier of recordings needs {options.no_vocoder} for speech tokens, got none"
        elif folder is not None:
            classify = open_speech_classifier(folder, testset.labels, vocoder=options.vocoder)
            classifiers |= {"speech": classify, "recordings": classify}
        else:
            train = [
                item for item in testset.in_split("train")
                if all(segment.has(modality) for segment in item.context)
            ]  # fmt: skip
            if not train:
                return (
                    f"need a classifier of {modality}, or train items in the test set to fit one; got neither"
                )
            texts = [join(as_prompt(item.context, modality, speech_tokens)) for item in train]
            classifiers[modality] = fit_classifier(texts, [item.label or "" for item in train])
    return classifiers


def preserve_sentiment(
    model: Model,
    vocabulary: Vocabulary,
    testset: TestSet,
    direction: str,
    speech_tokens: Mapping[str, str],
    classifiers: Mapping[str, Classify],
    settings: Stsp = DEFAULT,
) -> dict[str, Any]:
    """Share of continuations that keep the sentiment, in one direction.

    Args:
        speech_tokens: unit names of the test set's recordings.
        classifiers: "text" and "speech" -> classifier of texts or token strings; optionally "recordings" -> classifier
            of paths, for the prompts.

    Returns:
        JSON-able: `value` in per cent with its 95 % interval over items, by label, the accuracy of the classifiers on
        the prompts, and every continuation with its label.

    Raises:
        ValueError: the test set has another task or no such direction, or a prompt does not fit the model.
    """
    check_testset(testset, "continue", direction)
    items = testset.in_split("test")
    if not items:
        raise ValueError(f"{testset.name}: need at least one test item, got none")
    first, second = DIRECTIONS[direction]
    labels = testset.labels or tuple(sorted({item.label or "" for item in testset.items}))
    pairs = example_pairs(testset, direction, speech_tokens, classifiers, settings)
    prompts = []
    new = settings.new_tokens[direction]
    for item in items:
        ids = prompt(prompt_parts(item, direction, speech_tokens, pairs), vocabulary, second)
        if len(ids) + new > model.settings.max_position_embeddings:
            row = testset.items.index(item) + 1
            raise ValueError(
                f"{testset.name}: row {row} ({item.id!r}): need at most the model's "
                f"{model.settings.max_position_embeddings} positions, got {len(ids)} of the prompt and {new} new ones"
            )
        prompts.append(ids)
    kept = np.zeros((settings.samples_per_prompt, len(items)))
    unclassified, continuations = 0, []
    for sample in range(settings.samples_per_prompt):
        texts = continue_prompts(model, vocabulary, prompts, second, new, settings, settings.seed + sample)
        results = classifiers[second](texts)
        unclassified += sum(label is None for label in results)
        kept[sample] = [label == item.label for label, item in zip(results, items, strict=True)]
        rows = zip(items, texts, results, strict=True)
        continuations.append([{"id": item.id, "text": text, "label": label} for item, text, label in rows])
    value, low, high = share([float(one) for one in kept.mean(0)], kept.size)
    return {
        "task": "stsp",
        "testset": testset.name,
        "version": testset.version,
        "testset_sha256": testset.hash,
        "direction": direction,
        "settings": asdict(settings) | {"new_tokens": new},
        "items": len(items),
        "measure": "accuracy",
        "value": value,
        "low": low,
        "high": high,
        "chance": 100 / len(labels),
        "by_label": {
            label: 100 * float(kept[:, [item.label == label for item in items]].mean())
            for label in labels
            if any(item.label == label for item in items)
        },
        "unclassified": unclassified,
        "prompts": accuracy_on_prompts(testset, items, first, speech_tokens, classifiers),
        "examples": [pair.ids for pair in pairs],
        "continuations": continuations,
    }


@dataclass(frozen=True)
class ExamplePair:
    """A solved example: a prompt and its continuation, as parts."""

    ids: tuple[str, str]
    prompt: list[tuple[str, str]]
    continuation: list[tuple[str, str]]


def example_pairs(
    testset: TestSet,
    direction: str,
    speech_tokens: Mapping[str, str],
    classifiers: Mapping[str, Classify],
    settings: Stsp,
) -> list[ExamplePair]:
    """The solved pairs of a run, the labels in turn, in an order that depends on the seed.

    Raises:
        ValueError: shots is no multiple of the labels, or too few pairs get their label from the classifiers.
    """
    if not settings.shots:
        return []
    labels = sorted({item.label or "" for item in testset.in_split("train")})
    if not labels or settings.shots % len(labels):
        raise ValueError(f"stsp shots: need a multiple of the {len(labels)} labels, got {settings.shots}")
    first, second = DIRECTIONS[direction]
    each = settings.shots // len(labels)
    by_label: list[list[ExamplePair]] = []
    for label in labels:
        own = [item for item in testset.in_split("train") if item.label == label]
        own = [own[i] for i in generator(settings.seed, "stsp examples", label).permutation(len(own))]
        pairs: list[ExamplePair] = []
        for a, b in zip(own[::2], own[1::2], strict=False):
            opening = as_prompt(a.context, first, speech_tokens)
            continuation = as_prompt(b.context, second, speech_tokens)
            results = classifiers[first]([join(opening)]), classifiers[second]([join(continuation)])
            if results == ([label], [label]):
                pairs.append(ExamplePair((a.id, b.id), opening, continuation))
            if len(pairs) == each:
                break
        if len(pairs) < each:
            raise ValueError(
                f"{testset.name}: need {each} pairs of train items classified as {label!r} in {direction}, "
                f"got {len(pairs)}; set fewer shots"
            )
        by_label.append(pairs)
    return [pairs[turn] for turn in range(each) for pairs in by_label]


def prompt_parts(
    item: TestItem, direction: str, speech_tokens: Mapping[str, str], pairs: Sequence[ExamplePair]
) -> list[tuple[str, str]]:
    """The parts of a prompt: solved pairs, then the item. Consecutive texts are separated by a line break."""
    first, _ = DIRECTIONS[direction]
    own = as_prompt(item.context, first, speech_tokens)
    merged: list[tuple[str, str]] = []
    for modality, content in [*(part for pair in pairs for part in (*pair.prompt, *pair.continuation)), *own]:
        if merged and merged[-1][0] == modality:
            content = merged.pop()[1] + ("\n" if modality == "text" else "") + content
        merged.append((modality, content))
    return merged


def continue_prompts(
    model: Model,
    vocabulary: Vocabulary,
    prompts: Sequence[Sequence[int]],
    modality: str,
    new_tokens: int,
    settings: Stsp,
    seed: int,
) -> list[str]:
    """Continuations, as text or as token strings."""
    random = torch.Generator(model.device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts: dict[int, str] = {}
    for start in range(0, len(order), settings.batch):
        batch = order[start : start + settings.batch]
        outputs = generate_batch(
            model, vocabulary, [prompts[i] for i in batch], modality=modality, max_new_tokens=new_tokens,
            temperature=settings.temperature, top_p=settings.top_p, generator=random,
        )  # fmt: skip
        for i, ids in zip(batch, outputs, strict=True):
            text = "".join(content for _, content in parts(ids, vocabulary))
            texts[i] = text.partition("\n")[0] if modality == "text" and settings.shots else text
    return [texts[i] for i in range(len(prompts))]


def join(content: Sequence[tuple[str, str]]) -> str:
    """Parts of one modality as one text or token string."""
    return ("" if content and content[0][0] == "speech" else " ").join(text for _, text in content)


def accuracy_on_prompts(
    testset: TestSet,
    items: Sequence[TestItem],
    modality: str,
    speech_tokens: Mapping[str, str],
    classifiers: Mapping[str, Any],
) -> dict[str, Any]:
    """How often the classifier of a modality gives the prompts themselves their label, in per cent."""
    recorded = all(item.context[0].audio for item in items)
    kind = "recordings" if modality == "speech" and "recordings" in classifiers and recorded else modality
    if kind == "recordings":
        results = classifiers[kind]([testset.folder / (item.context[0].audio or "") for item in items])
    else:
        results = classifiers[kind](
            [join(as_prompt(item.context, modality, speech_tokens)) for item in items]
        )
    right = [float(label == item.label) for label, item in zip(results, items, strict=True)]
    value, low, high = share(right, len(items))
    return {"input": kind, "value": value, "low": low, "high": high}
