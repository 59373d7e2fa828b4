"""Speech-text sentiment preservation: does a continuation keep the sentiment of its prompt?

Every test item of a `continue` pack is continued in every direction the pack has; a classifier judges the continuation;
the score is the share that has the item's label. What cannot be judged counts as wrong and stays in the denominator.

By example (`shots`), solved pairs stand before the item, and the item itself is always the last thing read. An example
is two train items of one label, the second in place of the continuation, kept when the classifiers hear that label in
both; the labels take turns. (Spirit LM cut long recordings in two instead; its clips are not published.)

Source: Spirit LM (Nguyen et al. 2024, arXiv:2402.05755), section 5, appendix D for the settings of generation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from lm.evaluation.sentiment import Judge
from lm.evaluation.tasks.choice import interval
from lm.evaluation.testset import DIRECTIONS, Item, Pack, as_prompt
from lm.generate import generate_batch, parts, prompt
from lm.model import Model
from shards.vocabulary import Vocabulary

NEW_TOKENS = {"T": 50, "S->T": 50, "T->S": 200, "S": 300}
"""Of a continuation, at most, as in appendix D."""


@dataclass(frozen=True)
class Stsp:
    """How prompts are continued."""

    shots: int = 0  # 3, 6 and 9 in the paper: a multiple of the labels
    runs: int = 3  # with other draws; scores are averaged
    temperature: float = 0.8
    top_p: float = 0.95
    new_tokens: Mapping[str, int] = field(default_factory=lambda: dict(NEW_TOKENS))
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("shots", 0), ("runs", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"stsp {name}: need at least {least}, got {getattr(self, name)}")


def preserve(
    model: Model,
    vocabulary: Vocabulary,
    pack: Pack,
    direction: str,
    heard: Mapping[str, str],
    judges: Mapping[str, Judge],
    settings: Stsp = Stsp(),
) -> dict[str, Any]:
    """Share of continuations that keep the sentiment, in one direction.

    Args:
        heard: unit names of the pack's recordings.
        judges: "text" and "speech" -> who judges a text or a token string; and, of prompts, "recordings" -> who judges
            a path, where there is one.

    Returns:
        JSON-able: `value` in per cent with its 95 % interval over items, by label, how often the judges are right on
        the prompts and on real continuations' modality, and every continuation with what was heard in it.

    Raises:
        ValueError: the pack is of another task or lacks the direction, or a prompt does not fit the model.
    """
    if pack.task != "continue":
        raise ValueError(f"{pack.name}: is a pack to {pack.task}, not to continue")
    if direction not in pack.directions:
        raise ValueError(f"{pack.name}: has directions {', '.join(pack.directions)}, not {direction}")
    items = pack.of("test")
    if not items:
        raise ValueError(f"{pack.name}: has no test item")
    first, second = DIRECTIONS[direction]
    labels = pack.labels or tuple(sorted({item.label or "" for item in pack.items}))
    shown = examples(pack, direction, heard, judges, settings)
    asked = []
    new = settings.new_tokens[direction]
    for item in items:
        ids = prompt(asked_of(item, direction, heard, shown), vocabulary, second)
        if len(ids) + new > model.settings.max_position_embeddings:
            row = pack.items.index(item) + 1
            raise ValueError(
                f"{pack.name}: row {row} ({item.id!r}): prompt of {len(ids)} tokens and {new} new ones are more than "
                f"the model's {model.settings.max_position_embeddings}"
            )
        asked.append(ids)
    kept = np.zeros((settings.runs, len(items)))
    unjudged, told = 0, []
    for run in range(settings.runs):
        made = continued(model, vocabulary, asked, second, new, settings, settings.seed + run)
        said = judges[second](made)
        unjudged += sum(one is None for one in said)
        kept[run] = [one == item.label for one, item in zip(said, items, strict=True)]
        told.append(
            [
                {"id": item.id, "said": text, "heard": one}
                for item, text, one in zip(items, made, said, strict=True)
            ]
        )
    value, low, high = interval([float(one) for one in kept.mean(0)], kept.size)
    facts = asdict(settings) | {"new_tokens": new}
    return {
        "task": "stsp",
        "pack": pack.name,
        "version": pack.version,
        "pack_sha256": pack.hash,
        "direction": direction,
        "settings": facts,
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
        "unjudged": unjudged,
        "prompts": on_prompts(pack, items, first, heard, judges),
        "examples": [one.ids for one in shown],
        "continuations": told,
    }


@dataclass(frozen=True)
class Shown:
    """A solved pair: what was said, and what followed it."""

    ids: tuple[str, str]
    said: list[tuple[str, str]]
    followed: list[tuple[str, str]]


def examples(
    pack: Pack, direction: str, heard: Mapping[str, str], judges: Mapping[str, Judge], settings: Stsp
) -> list[Shown]:
    """The solved pairs of a run, the labels in turn, in an order that the seed decides.

    Raises:
        ValueError: shots is no multiple of the labels, or too few pairs are heard as their label.
    """
    if not settings.shots:
        return []
    labels = sorted({item.label or "" for item in pack.of("train")})
    if not labels or settings.shots % len(labels):
        raise ValueError(f"stsp shots: need a multiple of the {len(labels)} labels, got {settings.shots}")
    first, second = DIRECTIONS[direction]
    each = settings.shots // len(labels)
    rng = np.random.default_rng(settings.seed)
    by_label: list[list[Shown]] = []
    for label in labels:
        own = [item for item in pack.of("train") if item.label == label]
        own = [own[i] for i in rng.permutation(len(own))]
        found = []
        for a, b in zip(own[::2], own[1::2], strict=False):
            said, followed = as_prompt(a.context, first, heard), as_prompt(b.context, second, heard)
            if judges[first]([joined(said)]) == judges[second]([joined(followed)]) == [label]:
                found.append(Shown((a.id, b.id), said, followed))
            if len(found) == each:
                break
        if len(found) < each:
            raise ValueError(
                f"{pack.name}: need {each} pairs of train items heard as {label!r} in {direction}, got {len(found)}; "
                f"ask with fewer shots"
            )
        by_label.append(found)
    return [some[turn] for turn in range(each) for some in by_label]


def asked_of(
    item: Item, direction: str, heard: Mapping[str, str], shown: Sequence[Shown]
) -> list[tuple[str, str]]:
    """The parts of a prompt: solved pairs, then the item. Neighbouring texts are parted by a line break."""
    first, _ = DIRECTIONS[direction]
    own = as_prompt(item.context, first, heard)
    found: list[tuple[str, str]] = []
    for modality, content in [*(part for one in shown for part in (*one.said, *one.followed)), *own]:
        if found and found[-1][0] == modality:
            content = found.pop()[1] + ("\n" if modality == "text" else "") + content
        found.append((modality, content))
    return found


def continued(
    model: Model,
    vocabulary: Vocabulary,
    asked: Sequence[Sequence[int]],
    modality: str,
    new_tokens: int,
    settings: Stsp,
    seed: int,
) -> list[str]:
    """Continuations, as text or as token strings."""
    generator = torch.Generator(model.device).manual_seed(seed)
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))
    found: dict[int, str] = {}
    for start in range(0, len(order), settings.batch):
        batch = order[start : start + settings.batch]
        made = generate_batch(
            model, vocabulary, [asked[i] for i in batch], modality=modality, max_new_tokens=new_tokens,
            temperature=settings.temperature, top_p=settings.top_p, generator=generator,
        )  # fmt: skip
        for i, ids in zip(batch, made, strict=True):
            text = "".join(content for _, content in parts(ids, vocabulary))
            found[i] = text.partition("\n")[0] if modality == "text" and settings.shots else text
    return [found[i] for i in range(len(asked))]


def joined(said: Sequence[tuple[str, str]]) -> str:
    """Parts of one modality as one text or token string."""
    return ("" if said and said[0][0] == "speech" else " ").join(content for _, content in said)


def on_prompts(
    pack: Pack, items: Sequence[Item], modality: str, heard: Mapping[str, str], judges: Mapping[str, Any]
) -> dict[str, Any]:
    """How often the judge of a modality hears the label in the prompts themselves, in per cent."""
    recorded = all(item.context[0].audio for item in items)
    what = "recordings" if modality == "speech" and "recordings" in judges and recorded else modality
    if what == "recordings":
        said = judges[what]([pack.folder / (item.context[0].audio or "") for item in items])
    else:
        said = judges[what]([joined(as_prompt(item.context, modality, heard)) for item in items])
    value, low, high = interval(
        [float(a == item.label) for a, item in zip(said, items, strict=True)], len(items)
    )
    return {"judged": what, "value": value, "low": low, "high": high}
