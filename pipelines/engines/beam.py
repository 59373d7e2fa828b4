"""The engine `beam`: worker processes of Beam's local runner, or any runner named after `--`.

Beam itself is imported when it is used (`beam_pipeline`): other engines and `--help` do not need it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from corpus import files
from pipelines.execution.engine import EngineOption
from pipelines.execution.gpus import count_places
from pipelines.execution.task import Stage, Task

PRELOAD = (
    "torch", "apache_beam.runners.worker.sdk_worker_main", "pipelines.engines.beam_pipeline",
    "pipelines.steps.interleave", "pipelines.steps.fused", "pipelines.steps.units", "aligners.pocketsphinx",
    "units.encode", "units.encoders", "units.quantizers",
)  # fmt: skip
"""What worker processes import before they are forked; stages load what else they need in each worker."""


@dataclass(frozen=True)
class BeamEngine:
    """Beam's local runner with worker processes, or the runner that `extra` names."""

    workers: int = 1
    extra: tuple[str, ...] = ()  # Beam's own options: `--runner=DataflowRunner ...`
    shares_builds: ClassVar[bool] = False
    name: ClassVar[str] = "beam"
    summary: ClassVar[str] = "worker processes of Beam's local runner, or any Beam runner named after --"
    options: ClassVar[tuple[EngineOption, ...]] = ()

    @classmethod
    def parse(cls, workers: int, options: Mapping[str, str], extra: tuple[str, ...]) -> "BeamEngine":
        """The engine; the words after `--` are Beam's own options."""
        return cls(workers, extra)

    def check(self) -> None:
        """Check what the runner in `extra` needs; workers elsewhere are asked for their Python."""
        if self.extra:
            pipeline_module().check_runner(self.workers, self.extra)
        elif self.workers > 1:
            from pipelines.engines.beam_forkserver import forkserver_connection

            forkserver_connection(PRELOAD)  # imports what workers need while this process reads the source

    def check_access(self, build: Path, device: str) -> None:
        """The build can be written, and workers elsewhere can read it and have the device."""
        files.check_reachable(build, writing=True)
        if self.extra:
            pipeline_module().check_workers(build, device, self.extra)

    def run(self, stage: Stage, build: Path, tasks: list[Task]) -> None:
        """Run the tasks as a Beam pipeline."""
        workers = min(self.workers, len(tasks))
        if stage.uses_gpu and not self.extra:  # the local runner: its workers share the GPUs of this machine
            workers = min(workers, max(1, count_places()))
        pipeline_module().run(stage, build, tasks, workers=workers, extra=self.extra, preload=PRELOAD)


def pipeline_module() -> ModuleType:
    """The module that imports Beam, without the warnings about what it can do without."""
    logging.disable(logging.WARNING)
    try:
        from pipelines.engines import beam_pipeline
    finally:
        logging.disable(logging.NOTSET)
    return beam_pipeline
