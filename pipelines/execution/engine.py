"""What an engine is: it runs the tasks of a stage. `pipelines.engines.registry` lists the engines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

from pipelines.execution.task import Stage, Task


@dataclass(frozen=True)
class EngineOption:
    """An option of one engine on the command line: `--NAME VALUE`."""

    name: str
    help: str


class Engine(Protocol):
    """Runs tasks. Registered by name; the command line offers the options that it declares."""

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[tuple[EngineOption, ...]]
    shares_builds: ClassVar[bool] = False  # several runs may work on one build at the same time, part by part

    @classmethod
    def parse(cls, workers: int, options: Mapping[str, str], extra: tuple[str, ...]) -> Self:
        """The engine with these options; `extra` are the words after `--`.

        Raises:
            ValueError: an option or word that the engine does not take.
        """
        ...

    @property
    def workers(self) -> int: ...

    def check(self) -> None:
        """Preflight check, before any work, of what the engine needs and this machine may lack.

        Raises:
            Unusable: no Java, no job server, another Python on the workers, ..., in one line.
        """
        ...

    def check_access(self, build: Path, device: str) -> None:
        """Preflight check that the engine's workers can read the build and have the device.

        Raises:
            Unusable: they cannot or have not, in one line.
        """
        ...

    def run(self, stage: Stage, build: Path, tasks: list[Task]) -> None:
        """Try each task once; returns when all were tried. Outcomes are read from done markers."""
        ...
