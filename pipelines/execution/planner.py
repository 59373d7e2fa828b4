"""The planner: which tasks of a stage are to do, which are up to date, and why a finished one is stale.

Each marker is read once and not kept, so that a plan over a million parts takes about a minute and the memory of its
tasks.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus import files
from corpus.records import SAMPLE_RATE
from pipelines.execution.task import Stage, Task, marker_fields

NEW, MISSING = "new", "its output is missing"


@dataclass
class Plan:
    """What a stage has to do."""

    stage: str
    todo: list[Task] = field(default_factory=list)
    up_to_date: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # why the tasks are to do -> how many
    waits: str = ""  # the steps that must be done first, where the tasks are unknown before

    def __str__(self) -> str:
        if self.waits:
            return f"{self.stage}: waits for {self.waits}"
        if not self.todo and not self.reasons:
            return f"{self.stage}: up to date ({self.up_to_date})"
        hours = sum(task.samples for task in self.todo) / SAMPLE_RATE / 3600
        reasons = [f"{count} {reason}" for reason, count in self.reasons.most_common(5)]
        rest = sum(self.reasons.values()) - sum(count for _, count in self.reasons.most_common(5))
        why = "; ".join([*reasons, *([f"{rest} for other reasons"] if rest else [])])
        length = f", {hours:.2f} h" if hours else ""
        return f"{self.stage}: {len(self.todo)} to do{length}, {self.up_to_date} up to date ({why})"

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        hours = sum(task.samples for task in self.todo) / SAMPLE_RATE / 3600
        return {
            "stage": self.stage, "todo": len(self.todo), "up_to_date": self.up_to_date, "hours": hours,
            "waits": self.waits, "reasons": dict(self.reasons), "outputs": [task.output for task in self.todo[:1000]],
        }  # fmt: skip


def plan(stage: Stage, build: Path, tasks: list[Task]) -> Plan:
    """Compare each task with what the build holds."""
    result = Plan(stage.name)
    for task, content in read_contents(build, tasks):
        # most tasks are up to date: comparing bytes shows it without parsing
        if task.key.encode() in content and content.endswith(b"}"):
            result.up_to_date += 1
            continue
        result.todo.append(task)
        result.reasons[reason(stage, task, parse(content))] += 1
    return result


def read_markers(build: Path, tasks: list[Task]) -> Iterator[tuple[Task, dict[str, Any] | None]]:
    """Each task with the done marker of its output; None where there is none, {} where the output is missing."""
    return ((task, parse(content)) for task, content in read_contents(build, tasks))


def read_contents(build: Path, tasks: list[Task]) -> Iterator[tuple[Task, bytes]]:
    """Each task with the bytes of its done marker; none where there is none, "{}" where the output is missing."""
    present = None  # what a listing of the store shows; nothing else is requested
    if files.is_url(build):
        folders = {task.output.rpartition("/")[0] for task in tasks}
        present = {f"{folder}/{name}" for folder in folders for name in files.names_in(build / folder) or ()}

    def is_there(name: str) -> bool:
        return present is None or name in present

    contents = files.read_each(build, (name for task in tasks if is_there(name := f"{task.output}.done")))
    for task in tasks:
        content = next(contents) if is_there(f"{task.output}.done") else None
        if content is None:
            yield task, b""
        else:
            exists = files.is_file(build, task.output) if present is None else task.output in present
            yield task, content if exists else b"{}"


def parse(content: bytes) -> dict[str, Any] | None:
    """A marker; None where there is none or half of one."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def reason(stage: Stage, task: Task, marker: dict[str, Any] | None) -> str:
    """The first difference between a task and what its output was made from."""
    if marker is None:
        return NEW
    if not marker:
        return MISSING
    old, new = marker.get("made"), marker_fields(stage, task)
    if old is None or old.get("stage") != new["stage"]:
        return "made by an earlier version of wordweave"
    if old["version"] != new["version"]:
        return f"version {old['version']} -> {new['version']}"
    for name in sorted(old["settings"].keys() | new["settings"].keys()):
        before, after = old["settings"].get(name), new["settings"].get(name)
        if before != after:
            return f"{name} {brief(before)} -> {brief(after)}"
    changed = {path for path, digest in old["inputs"].items() if new["inputs"].get(path) != digest}
    changed |= new["inputs"].keys() - old["inputs"].keys()
    if changed:
        return f"{' and '.join(sorted({path.split('/')[0] for path in changed}))} changed"
    return "another share of the rows"


def brief(value: Any) -> str:
    """A setting's value, hashes cut short."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:8] + "…" if len(text) == 64 and " " not in text else text
