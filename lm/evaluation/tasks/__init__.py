"""Who asks a model the packs that are not to choose from: few-shot tasks, and the sentiment of continuations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm.evaluation.sentiment import learn, open_speech, open_text
from lm.evaluation.tasks.base import Asker
from lm.evaluation.tasks.few_shot import PAPER, ask
from lm.evaluation.tasks.sentiment_preservation import Stsp, joined, preserve
from lm.evaluation.testset import DIRECTIONS, Pack, as_prompt
from lm.model import Model
from shards.vocabulary import Vocabulary

SHORT = {"T": 16, "S->T": 16, "T->S": 60, "S": 60}
"""New tokens of a continuation, by direction, for the synthetic packs, whose endings have six words."""


@dataclass(frozen=True)
class Asking:
    """What a user names for these tasks."""

    shots: int | None = None  # None: as the paper, and none for sentiment
    runs: int = 3  # of sentiment, averaged
    new_tokens: Mapping[str, int] | None = None  # of a continuation, by direction; None: as the paper
    batch: int = 32
    seed: int = 0
    task: bool = False  # ask with [ASR] and [TTS]
    stop: str = ""  # units of a spoken "stop"
    vocoder: str | None = None
    recogniser: str | None = None
    text_judge: Path | None = None  # Hugging Face directories; None: learned from the pack's train items
    speech_judge: Path | None = None


def askers(asking: Asking = Asking()) -> dict[str, Asker]:
    """By task of a pack."""

    def few_shot(
        model: Model, vocabulary: Vocabulary, pack: Pack, direction: str, heard: Mapping[str, str]
    ) -> dict[str, Any]:
        if pack.task == "classify":
            task = "intent"
        else:
            task = "asr" if direction == "S->T" else "tts"
        if task == "intent" and direction != "S->T":
            return {"not_run": "intents are asked of speech", "measure": "accuracy"}
        settings = replace(PAPER[task], batch=asking.batch, seed=asking.seed, task=asking.task)
        if asking.shots is not None:
            settings = replace(settings, shots=asking.shots)
        said = {"stop": asking.stop, "vocoder": asking.vocoder, "recogniser": asking.recogniser}
        return ask(model, vocabulary, pack, task, heard, settings, **said)  # type: ignore[arg-type]

    def sentiment(
        model: Model, vocabulary: Vocabulary, pack: Pack, direction: str, heard: Mapping[str, str]
    ) -> dict[str, Any]:
        settings = Stsp(shots=asking.shots or 0, runs=asking.runs, batch=asking.batch, seed=asking.seed)
        if asking.new_tokens is not None:
            settings = replace(settings, new_tokens=asking.new_tokens)
        judges = judges_of(pack, direction, heard, asking)
        if isinstance(judges, str):
            return {"not_run": judges, "measure": "accuracy"}
        return preserve(model, vocabulary, pack, direction, heard, judges, settings)

    return {"transcribe": few_shot, "classify": few_shot, "continue": sentiment}


def judges_of(pack: Pack, direction: str, heard: Mapping[str, str], asking: Asking) -> dict[str, Any] | str:
    """The judges of a direction's two modalities, or why there is none."""
    found: dict[str, Any] = {}
    train = pack.of("train")
    for modality in set(DIRECTIONS[direction]):
        named = asking.text_judge if modality == "text" else asking.speech_judge
        if named is not None and modality == "text":
            found["text"] = open_text(named, pack.labels)
        elif named is not None and asking.vocoder is None:
            return "a classifier of recordings judges a model's speech through a vocoder, none was named"
        elif named is not None:
            judge = open_speech(named, pack.labels, vocoder=asking.vocoder)
            found |= {"speech": judge, "recordings": judge}
        else:
            sayings = [joined(as_prompt(item.context, modality, heard)) for item in train
                       if all(part.has(modality) for part in item.context)]  # fmt: skip
            if not sayings:
                return f"no classifier of {modality} was named, and the pack has no train items to learn one from"
            labels = [item.label or "" for item in train if all(part.has(modality) for part in item.context)]
            found[modality] = learn(sayings, labels)
    return found
