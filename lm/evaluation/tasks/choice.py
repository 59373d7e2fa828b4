"""Packs of choices, scored: which of the endings does the model find likelier?

One scorer for word and non-word, right and wrong grammar, stories with two endings, and questions with lettered
answers, in text, in speech and across (`lm.evaluation.testset.DIRECTIONS`). What published numbers leave open is
computed both ways and stands side by side: the sum of log-probabilities and their mean per token, the ending alone and
the whole sequence, with and without the other modality's logits.

Source: Nguyen et al. 2024 (Spirit LM), arXiv:2402.05755, section 4; Hassid et al. 2023 (TWIST), arXiv:2305.13009.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from lm.evaluation.tasks.likelihood import Likelihood, likelihoods
from lm.evaluation.testset import DIRECTIONS, Item, Pack, as_prompt
from lm.generate import prompt
from lm.model import Model
from shards.vocabulary import Vocabulary

TIE = 1e-5
"""Nats (or nats per token) up to which two choices are equally likely: above rounding, far below any preference."""
SCOPES = ("ending", "whole")
NORMALISATIONS = ("sum", "mean")
MASKS = ("free", "masked")


@dataclass(frozen=True)
class Scoring:
    """What could move a score and is not in the model or the pack."""

    batch_tokens: int = 8192  # tokens of one forward pass; moves nothing but speed
    eos: bool = False  # score the end of the document too
    task: bool = False  # ask across with [ASR] and [TTS], for a model of strategy concatenated


class Estimate(NamedTuple):
    """A share in per cent with its 95 % interval."""

    value: float
    low: float
    high: float


def sequences(
    item: Item,
    direction: str,
    heard: Mapping[str, str],
    vocabulary: Vocabulary,
    settings: Scoring = Scoring(),
) -> list[tuple[list[int], list[int]]]:
    """(prompt, ending) of every choice of an item: BOS, a marker wherever the modality changes, the parts.

    The marker that opens the ending belongs to the prompt: it is the same for all choices.
    """
    first, second = DIRECTIONS[direction]
    context = as_prompt(item.context, first, heard)
    task = settings.task and first != second and bool(context)
    opening = prompt(context, vocabulary, second, task=task)
    closing = [vocabulary.eos] if settings.eos and vocabulary.eos is not None else []
    found = []
    for choice in item.choices:
        parts = as_prompt(choice, second, heard)
        said = prompt(parts, vocabulary)[len(prompt([], vocabulary)) + 1 :]
        found.append((opening, [*said, *closing]))
    return found


def score(
    model: Model,
    vocabulary: Vocabulary,
    pack: Pack,
    direction: str,
    heard: Mapping[str, str] | None = None,
    settings: Scoring = Scoring(),
    split: str = "test",
) -> dict[str, Any]:
    """Accuracies of a model on one direction of a pack.

    Args:
        heard: unit names of the pack's recordings (`lm.evaluation.testset.hear`); not needed for text.

    Returns:
        JSON-able; `accuracy` holds "<scope>.<normalisation>.<mask>" -> [value, low, high] in per cent, and `contrast`
        the same of twins where the pack has them.

    Raises:
        ValueError: the pack is of another task or lacks the direction, a choice has no token or does not fit the model;
            the message names the row. Nothing partial is returned.
    """
    if pack.task != "choose":
        raise ValueError(f"{pack.name}: is a pack to {pack.task}, not to choose from")
    if direction not in pack.directions:
        raise ValueError(f"{pack.name}: has directions {', '.join(pack.directions)}, not {direction}")
    items = pack.of(split)
    if not items:
        raise ValueError(f"{pack.name}: has no items of split {split!r}")
    asked = []
    for item in items:
        try:
            choices = sequences(item, direction, heard or {}, vocabulary, settings)
            for number, (opening, ending) in enumerate(choices):
                if not ending:
                    raise ValueError(f"choice {number} has no token in {direction}")
                if len(opening) + len(ending) > model.settings.max_position_embeddings:
                    raise ValueError(
                        f"choice {number} makes {len(opening) + len(ending)} tokens, "
                        f"more than the model's {model.settings.max_position_embeddings} positions"
                    )
        except (ValueError, KeyError) as error:
            row = pack.items.index(item) + 1
            raise ValueError(f"{pack.name}: row {row} ({item.id!r}): {error}") from error
        asked.append(choices)
    flat = likelihoods(
        model, vocabulary, [pair for choices in asked for pair in choices], batch_tokens=settings.batch_tokens
    )
    found, start = [], 0
    for choices in asked:
        found.append(flat[start : start + len(choices)])
        start += len(choices)
    return {
        "pack": pack.name,
        "version": pack.version,
        "pack_sha256": pack.hash,
        "direction": direction,
        "split": split,
        "scoring": asdict(settings),
        **report(items, found, asked),
    }


def report(
    items: Sequence[Item], found: Sequence[Sequence[Likelihood]], asked: Sequence[Sequence[Any]]
) -> dict[str, Any]:
    """Accuracies, contrast and counts from the likelihoods of every choice of every item."""
    accuracy = {}
    for scope in SCOPES:
        for normalisation in NORMALISATIONS:
            for mask in MASKS:
                values = [
                    chosen([value(one, scope, normalisation, mask) for one in row], item.right or 0)
                    for item, row in zip(items, found, strict=True)
                ]
                accuracy[f"{scope}.{normalisation}.{mask}"] = estimate(items, values)
    twins = contrasts(items, found, asked)
    groups: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        groups[item.group].append(number)
    said: dict[str, Any] = {
        "items": len(items),
        "families": len({item.family or item.id for item in items}),
        "chance": 100 * float(np.mean([1 / len(row) for row in found])),
        "tokens": sum(one.whole_tokens for row in found for one in row),
        "accuracy": accuracy,
    }
    if twins:
        said["twins"] = len(twins)
        said["contrast"] = interval([one for _, one in twins], len(twins))
    if len(groups) > 1:
        said["groups"] = {
            name: {
                f"ending.{normalisation}.free": estimate(
                    [items[n] for n in numbers],
                    [
                        chosen(
                            [value(one, "ending", normalisation, "free") for one in found[n]],
                            items[n].right or 0,
                        )
                        for n in numbers
                    ],
                )
                for normalisation in NORMALISATIONS
            }
            | {"items": len(numbers)}
            for name, numbers in sorted(groups.items())
        }
    return said


def value(one: Likelihood, scope: str, normalisation: str, mask: str) -> float:
    """One of the eight numbers of a likelihood."""
    nats = getattr(one, scope if mask == "free" else f"{scope}_masked")
    return nats / getattr(one, f"{scope}_tokens") if normalisation == "mean" else nats


def chosen(values: Sequence[float], right: int) -> float:
    """1 where the right choice is the likeliest, 0 where another is, a share where several are equally so.

    >>> chosen([-3.0, -5.0], 0), chosen([-3.0, -3.0], 1), chosen([-3.0, -2.0], 0)
    (1.0, 0.5, 0.0)
    """
    best = max(values)
    likeliest = [number for number, one in enumerate(values) if one >= best - TIE]
    return 1 / len(likeliest) if right in likeliest else 0.0


def contrasts(
    items: Sequence[Item], found: Sequence[Sequence[Likelihood]], asked: Sequence[Sequence[Any]]
) -> list[tuple[str, float]]:
    """Of twins, two items of a family with the same two endings a, b and contexts A, B that want one each: whether
    lp(a|A) + lp(b|B) > lp(a|B) + lp(b|A). What an ending costs by itself cancels out.

    Returns:
        (family, 1, 0 or for a tie 0.5) for every pair of twins.
    """
    families: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        families[item.family or item.id].append(number)
    result = []
    for name, numbers in families.items():
        waiting: list[int] = []
        for number in numbers:
            endings = [ending for _, ending in asked[number]]
            twin = next(
                (
                    one
                    for one in waiting
                    if [ending for _, ending in asked[one]] == endings
                    and items[one].right != items[number].right
                ),
                None,
            )
            if twin is None or len(endings) != 2:
                waiting.append(number)
                continue
            waiting.remove(twin)
            own, other = (
                found[n][items[n].right or 0].ending - found[n][1 - (items[n].right or 0)].ending
                for n in (number, twin)
            )
            gain = own + other
            result.append((name, 0.5 if abs(gain) <= TIE else float(gain > 0)))
    return result


def estimate(items: Sequence[Item], values: Sequence[float]) -> Estimate:
    """Mean over families of the mean of their items, in per cent, with a 95 % interval over families."""
    families: dict[str, list[float]] = defaultdict(list)
    for item, one in zip(items, values, strict=True):
        families[item.family or item.id].append(one)
    return interval([float(np.mean(own)) for own in families.values()], len(values))


def interval(values: Sequence[float], items: int) -> Estimate:
    """Mean of independent values in [0, 1], in per cent, with Wilson's 95 % interval, which is never empty.

    The number of trials is the one that gives the spread seen, p (1 - p) / SE squared: that of the values where they
    are 0 and 1, more where they are means of several items, at most `items`.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> [round(number, 1) for number in interval([1.0] * 5 + [0.0] * 5, 10)]
    [50.0, 23.7, 76.3]
    >>> [round(number, 1) for number in interval([1.0] * 100, 100)]
    [100.0, 96.3, 100.0]
    """
    count, mean = len(values), float(np.mean(values))
    error = float(np.var(values, ddof=1)) / count if count > 1 else 0.0
    trials = min(max(mean * (1 - mean) * (count - 1) / count / error if error else 0.0, count), items)
    z = 1.959964
    centre = (mean + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(mean * (1 - mean) / trials + z * z / (4 * trials * trials))
    return Estimate(100 * mean, 100 * max(0.0, centre - half), 100 * min(1.0, centre + half))
