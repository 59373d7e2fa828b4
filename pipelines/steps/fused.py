"""One decode of a recording for all the tables that are made from audio.

Stages that decode run on a part one after the other in the same worker, and the decoded recordings of the first are
cached for the others. Each writes its own table, under its own key, with the bytes it has when run alone.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pipelines.execution.runner import run_stage
from pipelines.execution.task import Stage, Task, is_done
from pipelines.steps.audio import AudioRunner, AudioSource, DecodedCache, decode_batch
from pipelines.steps.base import Run


@dataclass(frozen=True)
class FusedStage(Stage):
    """Several stages on one part. Its task is the last one's, and carries the tasks of all as arguments."""

    stages: tuple[Stage, ...]
    name: ClassVar[str] = "decode"
    version: ClassVar[int] = 1

    def open(self) -> "FusedWorker":
        """Open all stages."""
        return FusedWorker(tuple(stage.open() for stage in self.stages))  # type: ignore[misc]

    @property
    def uses_gpu(self) -> bool:
        """Whether one of them does."""
        return any(stage.uses_gpu for stage in self.stages)

    @property
    def decodes(self) -> bool:
        """All of them decode."""
        return True


@dataclass(frozen=True)
class FusedWorker:
    """The workers of the stages."""

    workers: tuple[AudioRunner, ...]

    def run(self, build: Path, task: Task, audio: AudioSource = decode_batch) -> str:
        """Run the tasks of all stages on one decode; one that fails does not stop the others."""
        cache = DecodedCache(audio)
        results = [
            worker.run(build, inner, cache)
            for worker, inner in zip(self.workers, task.arguments, strict=True)
        ]
        return "failed" if "failed" in results else results[-1]


def run_fused(run: Run, stages: list[tuple[Stage, list[Task]]]) -> None:
    """Bring the tables of several stages up to date wherever two or more of them have the same part to do.

    Args:
        stages: with their tasks, of the same parts in the same order.
    """
    groups: dict[tuple[int, ...], list[Task]] = defaultdict(list)
    for tasks in zip(*(tasks for _, tasks in stages), strict=True):
        todo = tuple(i for i, task in enumerate(tasks) if not is_done(run.build, task))
        if len(todo) > 1:
            inner = tuple(tasks[i] for i in todo)
            groups[todo].append(replace(inner[-1], arguments=inner))
    for todo, fused in groups.items():
        members = tuple(stages[i][0] for i in todo)
        run_stage(FusedStage(members), run.build, fused, run.engine, plan_as=members[-1])
