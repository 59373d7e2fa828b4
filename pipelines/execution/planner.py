"""The planner: which tasks of a stage are to do, which stand, and why a finished one no longer counts.

A marker is read once per task and kept only as long as it is looked at, so that a plan over a million parts takes
about a minute and its memory is that of the tasks.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus import files
from corpus.records import SAMPLE_RATE
from pipelines.execution.task import Stage, Task, remembered

NEW, GONE = "not made yet", "its output is gone"


@dataclass
class Plan:
    """What a stage has to do."""

    stage: str
    todo: list[Task] = field(default_factory=list)
    standing: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # why the tasks are to do -> how many
    waits: str = ""  # what must be done first, where the tasks cannot be told before

    def __str__(self) -> str:
        if self.waits:
            return f"{self.stage}: waits for {self.waits}"
        if not self.todo and not self.reasons:
            return f"{self.stage}: all {self.standing} stand"
        hours = sum(task.samples for task in self.todo) / SAMPLE_RATE / 3600
        told = [f"{count} {reason}" for reason, count in self.reasons.most_common(5)]
        rest = sum(self.reasons.values()) - sum(count for _, count in self.reasons.most_common(5))
        why = "; ".join([*told, *([f"{rest} for other reasons"] if rest else [])])
        length = f", {hours:.2f} h" if hours else ""
        return f"{self.stage}: {len(self.todo)} to do{length}, {self.standing} stand ({why})"

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        hours = sum(task.samples for task in self.todo) / SAMPLE_RATE / 3600
        return {
            "stage": self.stage, "todo": len(self.todo), "standing": self.standing, "hours": hours,
            "waits": self.waits, "reasons": dict(self.reasons), "outputs": [task.output for task in self.todo[:1000]],
        }  # fmt: skip


def plan(stage: Stage, build: Path, tasks: list[Task]) -> Plan:
    """Compare each task with what the build holds."""
    made = Plan(stage.name)
    for task, content in contents(build, tasks):
        if task.key.encode() in content and content.endswith(b"}"):  # as quick as it gets: most tasks stand
            made.standing += 1
            continue
        made.todo.append(task)
        made.reasons[why(stage, task, parsed(content))] += 1
    return made


def markers(build: Path, tasks: list[Task]) -> Iterator[tuple[Task, dict[str, Any] | None]]:
    """Each task with the done marker of its output; None where there is none, {} where the output is gone."""
    return ((task, parsed(content)) for task, content in contents(build, tasks))


def contents(build: Path, tasks: list[Task]) -> Iterator[tuple[Task, bytes]]:
    """Each task with its done marker as it was written; nothing where there is none, "{}" where the output is gone."""
    there = None
    if files.is_url(build):
        folders = {task.output.rpartition("/")[0] for task in tasks}
        there = {f"{folder}/{name}" for folder in folders for name in files.names_in(build / folder) or ()}
    names = (f"{task.output}.done" for task in tasks)
    for task, content in zip(tasks, files.read_each(build, names), strict=True):
        stands = files.is_file(build, task.output) if there is None else task.output in there
        yield task, b"" if content is None else content if stands else b"{}"


def parsed(content: bytes) -> dict[str, Any] | None:
    """A marker; None where there is none or half of one."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def why(stage: Stage, task: Task, found: dict[str, Any] | None) -> str:
    """The first thing by which a task differs from what its output was made of, in words."""
    if found is None:
        return NEW
    if not found:
        return GONE
    was, now = found.get("made"), remembered(stage, task)
    if was is None or was.get("stage") != now["stage"]:
        return "made by an earlier version of wordweave"
    if was["version"] != now["version"]:
        return f"version {was['version']} -> {now['version']}"
    for name in sorted(was["settings"].keys() | now["settings"].keys()):
        old, new = was["settings"].get(name), now["settings"].get(name)
        if old != new:
            return f"{name} {brief(old)} -> {brief(new)}"
    changed = {path for path, digest in was["inputs"].items() if now["inputs"].get(path) != digest}
    changed |= now["inputs"].keys() - was["inputs"].keys()
    if changed:
        return f"{' and '.join(sorted({path.split('/')[0] for path in changed}))} changed"
    return "another share of the rows"


def brief(value: Any) -> str:
    """A setting's value, hashes cut short."""
    said = value if isinstance(value, str) else json.dumps(value)
    return said[:8] + "…" if len(said) == 64 and " " not in said else said
