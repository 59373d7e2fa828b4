"""The engine `local`: a plain loop in this process. Several such runs, on one machine or many, can share a build."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from corpus import files
from pipelines.execution.engine import EngineOption
from pipelines.execution.runner import claim
from pipelines.execution.task import Stage, Task, TaskThreads, is_done


@dataclass(frozen=True)
class LocalEngine:
    """A plain loop that claims one task after another."""

    workers: int = 1
    name: ClassVar[str] = "local"
    summary: ClassVar[str] = "a plain loop in this process; several such runs can share one build"
    shares_builds: ClassVar[bool] = True
    options: ClassVar[tuple[EngineOption, ...]] = ()

    @classmethod
    def parse(cls, workers: int, options: Mapping[str, str], extra: tuple[str, ...]) -> "LocalEngine":
        """The engine; it takes no words after `--`."""
        if extra:
            raise ValueError(f"engine: local takes no options after --, got {extra!r}")
        return cls(workers)

    def check(self) -> None:
        """Nothing is needed."""

    def check_access(self, build: Path, device: str) -> None:
        """The build can be written."""
        files.check_reachable(build, writing=True)

    def run(self, stage: Stage, build: Path, tasks: list[Task]) -> None:
        """Try each task in turn; one that another run has claimed is tried if that run ends without it."""
        worker, left = stage.open(), tasks

        def attempt(task: Task) -> None:
            with claim(build, task) as claimed:
                if claimed:
                    worker.run(build, task)
                else:
                    waiting.append(task)

        while left:
            waiting: list[Task] = []
            with TaskThreads(stage.tasks_at_once) as threads:
                for task in left:
                    threads.submit(attempt, task)
            left = [task for task in waiting if not is_done(build, task)]
            if left:
                time.sleep(0.2)
