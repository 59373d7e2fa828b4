"""What a task of an evaluation is."""

from collections.abc import Callable, Mapping
from typing import Any

from lm.evaluation.testset import Pack
from lm.model import Model
from shards.vocabulary import Vocabulary

Asker = Callable[[Model, Vocabulary, Pack, str, Mapping[str, str]], dict[str, Any]]
"""Asks a model the items of a pack in one direction, given its recordings' unit names: a row of the results."""
