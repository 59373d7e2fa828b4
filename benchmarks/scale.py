"""What the driver does for a very large build in an object store: time and memory of each step.

    python -m benchmarks.scale [--parts 1000000] [--latency 0.03] [--errors 0.01]

The store answers each request after a latency, lists 1000 names a request, and fails a share of the requests with
status 503. It holds a manifest of N parts of 50 utterances, and tables and done markers of every step; it makes their
content when it is asked, so that the memory of a process is the driver's own. Each step runs in a process of its own.
"""

import argparse
import asyncio
import functools
import json
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.asyn import AsyncFileSystem

from tests.helpers.memory import peak_memory

ROOT = Path(__file__).resolve().parent.parent
ROWS, SAMPLES = 50, 9_600_000  # of a part: ten minutes
SHA = "0123456789abcdef" * 4
SPEAKERS = 5  # of a part
SUMS = [10, 1e6, 5000, 50, [0.5] * 27]
LISTED = 1000  # names in one answer to a listing


class Busy(OSError):
    """The store's answer 503."""

    status = 503


class Store(AsyncFileSystem):
    """An object store that makes what it holds when it is asked."""

    protocol = "busy"
    parts, latency, errors = 1, 0.0, 0.0
    requests = failures = 0

    async def _answer(self) -> None:
        Store.requests += 1
        await asyncio.sleep(Store.latency)
        if random.random() < Store.errors:
            Store.failures += 1
            raise Busy("503 Slow Down")

    async def _cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        await self._answer()
        return content(path.strip("/").removeprefix("build/"))

    async def _find(self, path: str, **_: Any) -> list[str]:
        table = path.strip("/").removeprefix("build/")
        names = [f"{path}/{name}{end}" for name in part_names() for end in ("", ".done")]
        if table.startswith("shards"):
            names = []
        for _ in range(len(names) // LISTED + 1):
            await asyncio.sleep(Store.latency)
        return names


def part_names() -> Iterator[str]:
    """Names of the parts of every table."""
    return (f"part-{n:05d}.parquet" for n in range(Store.parts))


def content(name: str) -> bytes:
    """A file of the build."""
    table, _, file = name.partition("/")
    if name == "manifest/manifest.json":
        manifest_file().seek(0)
        return manifest_file().read()
    if name == "text/text.json":
        return b'{"version": 2, "parts": []}'
    if table == "sums":
        number = int(file[5:].partition(".")[0])
        rows = [
            (f"u{number}" if n == 0 else "", f"s{number % 5000}-{n}", SAMPLES // SPEAKERS)
            for n in range(SPEAKERS)
        ]
        return json.dumps(rows).encode()
    if file.endswith(".done"):
        return marker(table, file.removesuffix(".done"))
    raise FileNotFoundError(name)


@functools.cache
def manifest_file() -> IO[bytes]:
    """The list of parts, written piece by piece: the memory of its making is not the driver's."""
    from corpus.manifest import VERSION

    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(f'{{"version": {VERSION}, "origin": "a", "parts": ['.encode())
    for n, part in enumerate(part_names()):
        entry = {"name": part, "rows": ROWS, "samples": SAMPLES, "sha256": f"{n:016x}" + SHA[16:]}
        file.write(((", " if n else "") + json.dumps(entry)).encode())
    file.write(b"]}")
    return file


@functools.cache
def marker_text(table: str) -> str:
    """The done marker of a table, with marks for what differs from part to part."""
    result: dict[str, Any] = {"key": "KEY", "sha256": "HASH", "bytes": 70_000, "rows": ROWS, "rejects": {}}
    if table == "outcomes":
        entry = {"ranges": [[0, ROWS - 1]], "samples": SAMPLES - SAMPLES // ROWS}
        streams = [f"{stream}/train" for stream in ("interleaved", "speech", "text")]
        result |= {"accepted": dict.fromkeys(streams, entry), "reasons": {}}
        result["outcomes"] = {"interleaved": [ROWS, SAMPLES]}
    if table == "prosody":
        result["speakers"] = {f"s{n}": SUMS for n in range(SPEAKERS)}
    return json.dumps(result, sort_keys=True)


def marker(table: str, part: str) -> bytes:
    """The done marker of a part; with the key of the present task where a step of this benchmark plans."""
    number = int(part[5:].partition(".")[0])
    key = KEYS[table](number) if table in KEYS else "key"
    return marker_text(table).replace("KEY", key).replace("HASH", f"{number:016x}" + SHA[16:]).encode()


KEYS: dict[str, Callable[[int], str]] = {}


def make_build() -> Path:
    """The build in the store."""
    from corpus import files

    warnings.filterwarnings("ignore", module="upath")
    fsspec.register_implementation("busy", Store, clobber=True)
    return files.to_path("busy://build")


def step_plan(build: Path) -> str:
    """Plan the units: every marker is read."""
    from pipelines.execution.planner import plan
    from pipelines.execution.task import key_function
    from pipelines.layout import part_tasks
    from pipelines.steps.units import EncodeUnits

    stage = EncodeUnits("compact", None, "float32", "cpu", SHA, "codebook", SHA)
    key_of = key_function(stage)
    KEYS["units"] = lambda n: "stale" if n % 1000 == 0 else key_of(f"{n:016x}" + SHA[16:])
    return str(plan(stage, build, part_tasks(build, stage, "units")))


def step_first_plan(build: Path) -> str:
    """Plan tasks of which none is done: nothing but a listing is read."""
    from pipelines.execution.planner import plan
    from pipelines.layout import part_tasks
    from pipelines.steps.units import EncodeUnits

    stage = EncodeUnits("compact", None, "float32", "cpu", SHA, "codebook", SHA)
    return str(plan(stage, build, part_tasks(build, stage, "shards")))


def step_split(build: Path) -> str:
    """Choose what is held out, from the sums of each part."""
    from corpus import files
    from pipelines.steps.split import choose_held_out

    contents = files.read_each(build, (f"sums/{name}" for name in part_names()))
    rows = (tuple(row) for content in contents for row in json.loads(content or b""))
    return f"{len(choose_held_out(rows, by='speaker', share=0.05, seed=0).speakers)} speakers"  # type: ignore[arg-type]


def step_speakers(build: Path) -> str:
    """Add the sums of speakers."""
    from pipelines.layout import finished_parts
    from pipelines.steps.prosody import sum_speakers

    return f"{len(sum_speakers(marker for _, marker in finished_parts(build, 'prosody', 'pitch')))} speakers"


def step_shards(build: Path) -> str:
    """Assign rows to shards, from the outcomes, with the key of each shard's task."""
    from pipelines.settings import Settings
    from pipelines.steps.interleave import Rates, WriteShard, assign_shards
    from pipelines.steps.split import Split
    from shards.strategies import make_strategy

    stage = WriteShard("shards", SHA, "spoken", Rates(640, 360), make_strategy("spirit"), 0, True)
    run = make_run(build, Settings())
    return f"{len(assign_shards(run, stage, Split((), 0.01, 0)))} shards"


def step_report(build: Path) -> str:
    """Add the sums of the report."""
    from pipelines.reports.report import count_outcomes
    from pipelines.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        result = count_outcomes(make_run(build, Settings()), Path(folder) / "rejects.jsonl")
    return f"{result['in']['hours']:.0f} hours"


def make_run(build: Path, settings: Any) -> Any:
    """A run whose outcomes are up to date."""
    from pipelines.build import make_run as make
    from pipelines.execution.task import key_function
    from pipelines.steps import outcomes, split

    outcomes.held_out = lambda run: split.Split((), 0.01, 0)
    run = make(build, settings)
    key_of = key_function(outcomes.outcome_stage(run))
    KEYS["outcomes"] = lambda n: key_of(*[f"{n:016x}" + SHA[16:]] * 3)
    return run


STEPS = {
    name.removeprefix("step_"): function
    for name, function in list(globals().items())
    if name.startswith("step_")
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=int, default=1_000_000)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds until a request is answered")
    parser.add_argument("--errors", type=float, default=0.01, help="share of requests that fail")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    requested = parser.parse_args()
    if requested.step is None:
        print(f"{'step':<12} {'wall':>8} {'CPU':>8} {'memory':>9}  requests (failed)  result", flush=True)
        for name in STEPS:
            command = [sys.executable, "-m", "benchmarks.scale", *sys.argv[1:], "--step", name]
            subprocess.run(command, cwd=ROOT, check=True)
        return
    Store.parts, Store.latency, Store.errors = requested.parts, requested.latency, requested.errors
    build = make_build()
    started, cpu = time.monotonic(), time.process_time()
    result = STEPS[requested.step](build)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    figures = f"{seconds:6.0f} s {cpu:6.0f} s {peak_memory():6.0f} MB  {Store.requests} ({Store.failures})"
    print(f"{requested.step:<12} {figures}  {result}", flush=True)


if __name__ == "__main__":
    main()
