"""One decode of a recording for all the tables that are made by listening to it.

Stages that listen run on a part one after the other in the same worker, and the first one's decoded recordings are kept
for the others. Each writes its own table, under its own key, with the bytes it has when run alone.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pipelines.execution.runner import Engine, failure, run_stage
from pipelines.execution.task import Task, done, run_task
from pipelines.steps.units import Kept, ListeningStage


@dataclass(frozen=True)
class Together:
    """Several stages on one part. Its task is the last one's, and carries the tasks of all as arguments."""

    stages: tuple[ListeningStage, ...]
    name: ClassVar[str] = "listen"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("stages",)

    def setup(self) -> None:
        for stage in self.stages:
            stage.setup()

    def last(self, task: Task) -> tuple[ListeningStage, Task]:
        """Whose file the task's output is."""
        return self.stages[-1], task.arguments[-1]

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Run the tasks before the last, then make the last one's file."""
        kept = getattr(self, "_kept", None) or Kept()
        for stage in self.stages:
            object.__setattr__(stage, "_kept", kept)
        try:
            for stage, inner in zip(self.stages[:-1], task.arguments[:-1], strict=True):
                if run_task(stage, build, inner) == "failed":
                    raise ValueError(f"{inner.output}: {failure(build, inner)}")
            return self.stages[-1].make(build, task.arguments[-1], temporary)
        finally:
            for stage in self.stages:
                object.__setattr__(stage, "_kept", None)


def run_together(build: Path, asked: list[tuple[ListeningStage, list[Task]]], engine: Engine) -> None:
    """Bring the tables of several stages up to date wherever two or more of them wait for the same part.

    Args:
        asked: stages with their tasks, of the same parts in the same order.
    """
    waiting: dict[tuple[int, ...], list[Task]] = defaultdict(list)
    for tasks in zip(*(tasks for _, tasks in asked), strict=True):
        places = tuple(i for i, task in enumerate(tasks) if not done(build, task))
        if len(places) > 1:
            left = tuple(tasks[i] for i in places)
            waiting[places].append(replace(left[-1], arguments=left))
    for places, todo in waiting.items():
        run_stage(Together(tuple(asked[i][0] for i in places)), build, todo, engine)
