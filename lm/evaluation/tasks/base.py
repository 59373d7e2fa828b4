"""An evaluation task: its options, and the protocol by which `evaluate` runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lm.evaluation.testset import TestSet
from lm.model import Model
from lm.speaker import Speaker
from shards.vocabulary import Vocabulary


@dataclass(frozen=True)
class TaskOptions:
    """What a user can set; each task uses what applies to it."""

    split: str = "test"  # of test sets to choose from
    batch_tokens: int = 8192  # of one forward pass over choices; affects speed only
    eos: bool = False  # score the end of the document too
    task_markers: bool = (
        False  # cross-modal prompts with [ASR] and [TTS], for models of strategy concatenated
    )
    shots: int | None = None  # solved examples; None: as in the paper, and none for sentiment
    samples_per_prompt: int = 3  # continuations of a prompt, averaged
    new_tokens: Mapping[str, int] | None = None  # of a continuation, by direction; None: as in the paper
    batch: int = 32  # continuations at a time
    seed: int = 0
    stop_tokens: str = ""  # unit names of a spoken "stop", which ends a reading
    vocoder: Speaker | str | None = None  # see lm.evaluation.external_tools
    no_vocoder: str = "a vocoder"  # what is lacking where there is none
    recogniser: str | None = None  # command
    text_classifier: Path | None = (
        None  # Hugging Face directories; None: fitted on the test set's train items
    )
    speech_classifier: Path | None = None


DEFAULTS = TaskOptions()


class RunTask(Protocol):
    """Tests a model on one direction of a test set, given the unit names of its recordings: a row of the results.

    A row that could not be run holds "not_run", the reason, and "measure".
    """

    def __call__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        testset: TestSet,
        direction: str,
        speech_tokens: Mapping[str, str],
        options: TaskOptions,
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Task:
    """How a model is tested on one kind of test set."""

    run: RunTask
    uses_examples: bool = False  # reads items of splits train and dev too, so their recordings are tokenized
