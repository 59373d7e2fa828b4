"""A stage for tests of engines: known bytes, a known duration, and a line in a file for each run."""

import os
import time
from dataclasses import dataclass
from typing import ClassVar

from corpus import files
from pipelines.execution.task import FileWorker, Stage, Task, make_task


@dataclass(frozen=True)
class Copy(Stage):
    """Writes its input twice, after `seconds`; process ids and outputs go to `log`."""

    log: str
    seconds: float = 0.0
    name: ClassVar[str] = "copy"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("log", "seconds")

    def open(self):
        self.note("open")
        return FileWorker(self, self.make)

    def make(self, build, task, temporary):
        time.sleep(self.seconds)
        temporary.write_bytes(files.read(build / task.inputs[0]) * 2)
        self.note(task.output)
        return {}

    def note(self, word):
        with open(os.path.expandvars(self.log), "a") as file:
            file.write(f"{word} {os.getpid()}\n")

    def notes(self):
        return [line.split() for line in open(os.path.expandvars(self.log))]


def copies(build, stage, count) -> list[Task]:
    for number in range(count):
        files.write(build / "in" / str(number), str(number).encode())
    return [make_task(stage, f"out/{n}", {f"in/{n}": str(n)}, 16_000) for n in range(count)]
