"""Multiple choice: which of the endings does the model find likelier?

One scorer for word and non-word, right and wrong grammar, stories with two endings, and questions with lettered
answers, in text, in speech and across (`lm.evaluation.testset.DIRECTIONS`). Where published work leaves a choice open,
both variants are computed and reported: the sum of log-probabilities and their mean per token, the ending alone and
the whole sequence, with and without the other modality's logits.

Source: Nguyen et al. 2024 (Spirit LM), arXiv:2402.05755, section 4; Hassid et al. 2023 (TWIST), arXiv:2305.13009.
"""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm.evaluation.intervals import Estimate, share
from lm.evaluation.tasks.base import DEFAULTS, TaskOptions
from lm.evaluation.tasks.likelihood import Likelihood, likelihoods
from lm.evaluation.testset import DIRECTIONS, TestItem, TestSet, as_prompt, check_testset
from lm.generate import prompt
from lm.model import Model
from shards.vocabulary import Vocabulary

TIE = 1e-5
"""Nats (or nats per token) up to which two choices are equally likely: above rounding, far below any preference."""
SCOPES = ("ending", "whole")
NORMALISATIONS = ("sum", "mean")
MASKS = ("free", "masked")


def sequences(
    item: TestItem,
    direction: str,
    speech_tokens: Mapping[str, str],
    vocabulary: Vocabulary,
    options: TaskOptions = DEFAULTS,
) -> list[tuple[list[int], list[int]]]:
    """(prompt, ending) of every choice of an item: BOS, a marker wherever the modality changes, the segments.

    The marker that opens the ending belongs to the prompt: it is the same for all choices.
    """
    first, second = DIRECTIONS[direction]
    context = as_prompt(item.context, first, speech_tokens)
    markers = options.task_markers and first != second and bool(context)
    opening = prompt(context, vocabulary, second, task_markers=markers)
    closing = [vocabulary.eos] if options.eos and vocabulary.eos is not None else []
    pairs = []
    for choice in item.choices:
        ending = prompt(as_prompt(choice, second, speech_tokens), vocabulary)
        pairs.append((opening, [*ending[len(prompt([], vocabulary)) + 1 :], *closing]))
    return pairs


def score(
    model: Model,
    vocabulary: Vocabulary,
    testset: TestSet,
    direction: str,
    speech_tokens: Mapping[str, str],
    options: TaskOptions = DEFAULTS,
) -> dict[str, Any]:
    """Accuracies of a model on one direction of a test set.

    Args:
        speech_tokens: unit names of its recordings (`lm.evaluation.testset.tokenize_recordings`); {} for text.

    Returns:
        JSON-able; `accuracy` holds "<scope>.<normalisation>.<mask>" -> [value, low, high] in per cent, and
        `paired_accuracy` the same for twins where the test set has them.

    Raises:
        ValueError: the test set has another task or no such direction, or a choice has no token or does not fit the
            model; the message names the row. Nothing partial is returned.
    """
    check_testset(testset, "choose", direction)
    items = testset.in_split(options.split)
    if not items:
        raise ValueError(f"{testset.name}: has no items of split {options.split!r}")
    choices = []
    for item in items:
        try:
            pairs = sequences(item, direction, speech_tokens, vocabulary, options)
            for number, (opening, ending) in enumerate(pairs):
                if not ending:
                    raise ValueError(f"choice {number} has no token in {direction}")
                if len(opening) + len(ending) > model.settings.max_position_embeddings:
                    raise ValueError(
                        f"choice {number}: need at most the model's {model.settings.max_position_embeddings} "
                        f"positions, got {len(opening) + len(ending)} tokens"
                    )
        except (ValueError, KeyError) as error:
            row = testset.items.index(item) + 1
            raise ValueError(f"{testset.name}: row {row} ({item.id!r}): {error}") from error
        choices.append(pairs)
    flat = likelihoods(
        model, vocabulary, [pair for pairs in choices for pair in pairs], batch_tokens=options.batch_tokens
    )
    scores, start = [], 0
    for pairs in choices:
        scores.append(flat[start : start + len(pairs)])
        start += len(pairs)
    return {
        "testset": testset.name,
        "version": testset.version,
        "testset_sha256": testset.hash,
        "direction": direction,
        "split": options.split,
        "scoring": {name: getattr(options, name) for name in ("batch_tokens", "eos", "task_markers")},
        **report(items, scores, choices),
    }


def report(
    items: Sequence[TestItem], scores: Sequence[Sequence[Likelihood]], choices: Sequence[Sequence[Any]]
) -> dict[str, Any]:
    """Accuracies and counts from the likelihoods of every choice of every item."""

    def accuracy(numbers: Sequence[int], scope: str, normalisation: str, mask: str) -> Estimate:
        values = [
            is_chosen([value(one, scope, normalisation, mask) for one in scores[n]], items[n].right or 0)
            for n in numbers
        ]
        return over_families([items[n] for n in numbers], values)

    every = range(len(items))
    twins = paired_accuracy(items, scores, choices)
    groups: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        groups[item.group].append(number)
    result: dict[str, Any] = {
        "items": len(items),
        "families": len({item.family or item.id for item in items}),
        "chance": 100 * float(np.mean([1 / len(row) for row in scores])),
        "tokens": sum(one.whole_tokens for row in scores for one in row),
        "accuracy": {
            ".".join(kind): accuracy(every, *kind)
            for kind in itertools.product(SCOPES, NORMALISATIONS, MASKS)
        },
    }
    if twins:
        result["twins"] = len(twins)
        result["paired_accuracy"] = share([one for _, one in twins], len(twins))
    if len(groups) > 1:
        result["groups"] = {
            name: {
                f"ending.{kind}.free": accuracy(numbers, "ending", kind, "free") for kind in NORMALISATIONS
            }
            | {"items": len(numbers)}
            for name, numbers in sorted(groups.items())
        }
    return result


def value(one: Likelihood, scope: str, normalisation: str, mask: str) -> float:
    """One of the eight numbers of a likelihood."""
    nats = getattr(one, scope if mask == "free" else f"{scope}_masked")
    return nats / getattr(one, f"{scope}_tokens") if normalisation == "mean" else nats


def is_chosen(values: Sequence[float], right: int) -> float:
    """1 if the right choice is the likeliest, 0 if another is, a fraction if several are equally likely.

    >>> is_chosen([-3.0, -5.0], 0), is_chosen([-3.0, -3.0], 1), is_chosen([-3.0, -2.0], 0)
    (1.0, 0.5, 0.0)
    """
    best = max(values)
    likeliest = [number for number, one in enumerate(values) if one >= best - TIE]
    return 1 / len(likeliest) if right in likeliest else 0.0


def paired_accuracy(
    items: Sequence[TestItem], scores: Sequence[Sequence[Likelihood]], choices: Sequence[Sequence[Any]]
) -> list[tuple[str, float]]:
    """Whether a model tells twins apart: two items of a family with the same two endings a, b, of which context A
    calls for a and context B for b.

    It does if lp(a|A) + lp(b|B) > lp(a|B) + lp(b|A): the likelihood of an ending by itself cancels out.

    Returns:
        (family, 1, 0 or for a tie 0.5) for every pair of twins.
    """
    families: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        families[item.family or item.id].append(number)
    endings = [[ending for _, ending in pairs] for pairs in choices]
    result = []
    for name, numbers in families.items():
        single: list[int] = []
        for number in numbers:
            twins = (
                one for one in single
                if endings[one] == endings[number] and items[one].right != items[number].right
            )  # fmt: skip
            twin = next(twins, None)
            if twin is None or len(endings[number]) != 2:
                single.append(number)
                continue
            single.remove(twin)
            gain = 0.0
            for n in (number, twin):
                right = items[n].right or 0
                gain += scores[n][right].ending - scores[n][1 - right].ending
            result.append((name, 0.5 if abs(gain) <= TIE else float(gain > 0)))
    return result


def over_families(items: Sequence[TestItem], values: Sequence[float]) -> Estimate:
    """Mean over families of the mean of their items, in per cent, with a 95 % interval over families."""
    families: dict[str, list[float]] = defaultdict(list)
    for item, one in zip(items, values, strict=True):
        families[item.family or item.id].append(one)
    return share([float(np.mean(own)) for own in families.values()], len(values))
