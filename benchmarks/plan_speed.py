"""The cost of planning: a manifest of a million parts, most of them up to date, is compared with a build.

    python -m benchmarks.plan_speed [--parts 1000000]

The manifest and the done markers are written first, as by a build; then a separate process plans
the units stage. Every thousandth part is stale, for another setting.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.helpers.memory import peak_memory

if TYPE_CHECKING:
    from pipelines.execution.task import Task
    from pipelines.steps.units import EncodeUnits

ROOT = Path(__file__).resolve().parent.parent
SHA = "0123456789abcdef" * 4


def write_build(build: Path, parts: int) -> None:
    """A manifest of N parts, and a units file with its marker for each."""
    from corpus.manifest import VERSION
    from pipelines.layout import part_tasks

    (build / "manifest").mkdir(parents=True)
    (build / "units").mkdir()
    entries = [
        {"name": f"part-{n:05d}.parquet", "rows": 50, "samples": 9_600_000, "sha256": f"{n:016x}" + SHA[16:]}
        for n in range(parts)
    ]
    (build / "manifest" / "manifest.json").write_text(
        json.dumps({"version": VERSION, "parts": entries, "origin": "a"}, indent=1)
    )
    del entries
    now, before = stage(), stage(dtype="bfloat16")
    markers = [Marker(one, part_tasks(build, one, "units")[0]) for one in (now, before)]
    for number, tasks in enumerate(
        zip(*(part_tasks(build, one, "units") for one in (now, before)), strict=True)
    ):
        which = 1 if number % 1000 == 0 else 0
        output = f"{build}/{tasks[which].output}"
        with open(f"{output}.done", "wb", buffering=0) as file:
            file.write(markers[which].of(tasks[which]))
        os.close(os.open(output, os.O_CREAT | os.O_WRONLY))


class Marker:
    """The done markers of a stage: they differ in the key and in the input's name and hash alone."""

    def __init__(self, stage: "EncodeUnits", task: "Task"):
        from pipelines.execution.task import marker_fields

        result = {"key": task.key, "sha256": SHA, "bytes": 70_000, "rows": 50, "rejects": {}}
        result |= {"hop": 640, "centre": 360, "made": marker_fields(stage, task)}
        self._text, self._first = json.dumps(result, sort_keys=True), task

    def of(self, task: "Task") -> bytes:
        text = self._text.replace(self._first.key, task.key).replace(self._first.inputs[0], task.inputs[0])
        return text.replace(self._first.hashes[0][:16], task.hashes[0][:16]).encode()


def stage(dtype: str = "float32") -> "EncodeUnits":
    """A units stage; its models do not matter here."""
    from pipelines.steps.units import EncodeUnits

    return EncodeUnits("compact", None, dtype, "cpu", SHA, "codebook", SHA)


def plan(build: Path) -> None:
    """Plan, and print the time and memory as JSON."""
    from pipelines.execution.planner import plan as compare
    from pipelines.layout import part_tasks

    started, cpu = time.monotonic(), time.process_time()
    one = stage()
    todo = compare(one, build, part_tasks(build, one, "units"))
    result = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps({**result, "peak_mb": peak_memory(), "plan": str(todo)}))


def measure(parts: int) -> dict:
    """Seconds, CPU seconds, peak memory (MB) and the printed plan, of a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        write_build(Path(folder), parts)
        words = [sys.executable, "-m", "benchmarks.plan_speed", "--plan", folder]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=int, default=1_000_000)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    requested = parser.parse_args()
    if requested.plan:
        plan(requested.plan)
        return
    result = measure(requested.parts)
    print(
        f"{requested.parts} parts: {result['seconds']:.1f} s ({result['cpu_seconds']:.1f} s of CPU), "
        f"peak memory {result['peak_mb']:.0f} MB; {result['plan']}"
    )


if __name__ == "__main__":
    main()
