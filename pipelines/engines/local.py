"""The engine `local`: a plain loop in this process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from corpus import files
from pipelines.execution.engine import EngineOption
from pipelines.execution.task import Stage, Task


@dataclass(frozen=True)
class LocalEngine:
    """A plain loop in this process."""

    workers: int = 1
    name: ClassVar[str] = "local"
    summary: ClassVar[str] = "a plain loop in this process"
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
        """Try each task in turn."""
        worker = stage.open()
        for task in tasks:
            worker.run(build, task)
