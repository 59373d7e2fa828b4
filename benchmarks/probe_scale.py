"""Hours to get 30 million recordings in an object store into a manifest, from what one worker and the driver take.

    python -m benchmarks.probe_scale [--objects 30e6] [--workers 500] [--latency 0.05]

One worker reads the headers of 4096 recordings, with its threads, from a store that answers each request after the
latency. The driver runs `ingest` at two sizes, with headers that cost nothing, each in a process of its own. The
worker's time is divided by the number of workers, the driver's is not.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import soundfile

from benchmarks.scale import ROOT, Store
from tests.helpers.memory import peak_memory

MEASURED = 4096  # recordings
ROWS = (100_000, 400_000)


class Recordings(Store):
    """A store in which every name is the same recording of ten seconds."""

    protocol = "recordings"
    content = b""
    sent = 0

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        await self._answer()
        return {"name": path, "type": "file", "size": len(Recordings.content), "ETag": "1"}

    async def _cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        await self._answer()
        Recordings.sent += len(Recordings.content[start:end])
        return Recordings.content[start:end]


def make_store(latency: float) -> None:
    """Register the store."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).standard_normal(160_000) / 20
    soundfile.write(file, noise, 16_000, format="FLAC")
    Recordings.content, Store.latency = file.getvalue(), latency
    fsspec.register_implementation("recordings", Recordings, clobber=True)


def write_source(path: Path, rows: int) -> None:
    """A manifest of recordings in the store."""
    with path.open("w") as file:
        for number in range(rows):
            line = {
                "id": f"u{number}",
                "audio": f"recordings://bucket/{number}.flac",
                "text": "they went out",
            }
            file.write(json.dumps(line | {"speaker": f"s{number // 100}"}) + "\n")


def worker(latency: float) -> None:
    """Seconds, requests and bytes of one worker for each recording."""
    from corpus.adapters import ADAPTERS, Intake
    from corpus.adapters.base import measure_each

    make_store(latency)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.jsonl"
        write_source(source, MEASURED)
        rows = ADAPTERS["jsonl"].unmeasured(source, Intake())
        started, cpu = time.monotonic(), time.process_time()
        results = list(measure_each(rows, Intake()))
        wall, cpu = time.monotonic() - started, time.process_time() - cpu
    assert all(row.frames == 160_000 for row in results)  # type: ignore[union-attr]
    each = {"wall": wall, "cpu": cpu, "requests": Store.requests, "bytes": Recordings.sent}
    print(json.dumps({name: value / MEASURED for name, value in each.items()}))


def driver(rows: int) -> None:
    """CPU seconds and memory of the driver for all rows."""
    from corpus.adapters import base
    from corpus.audio import Header
    from pipelines.build import run_step
    from pipelines.engines.local import LocalEngine
    from pipelines.settings import Settings, replace

    class Timed(LocalEngine):
        """Notes what its tasks take."""

        seconds = 0.0

        def run(self, *arguments: Any) -> None:
            before = time.process_time()
            super().run(*arguments)
            Timed.seconds += time.process_time() - before

    make_store(0.0)
    base.read_header = lambda path: Header(160_000, 16_000, 1, 100_000, "1")  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        source, build = Path(folder) / "source.jsonl", Path(folder) / "build"
        write_source(source, rows)
        settings = replace(Settings(), "corpus", source=str(source))
        before, started = peak_memory(), time.process_time()
        run_step("ingest", build, settings, Timed())
        print(
            json.dumps(
                {"cpu": time.process_time() - started - Timed.seconds, "memory": peak_memory() - before}
            )
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=float, default=30e6)
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds until a request is answered")
    parser.add_argument("--driver", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    requested = parser.parse_args()
    if requested.worker:
        worker(requested.latency)
        return
    if requested.driver:
        driver(requested.driver)
        return

    def measure(*options: str) -> dict[str, float]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.probe_scale",
            "--latency",
            str(requested.latency),
            *options,
        ]
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        return json.loads(output.splitlines()[-1])

    one = measure("--worker")
    small, large = (measure("--driver", str(rows)) for rows in ROWS)
    probing = requested.objects * one["wall"] / requested.workers / 3600
    listing = requested.objects * (large["cpu"] - small["cpu"]) / (ROWS[1] - ROWS[0]) / 3600
    print(f"one worker: {1 / one['wall']:.0f} recordings/s, {one['cpu'] * 1e3:.2f} ms of CPU, ", end="")
    print(f"{one['requests']:.1f} requests and {one['bytes'] / 1e3:.0f} kB each")
    for rows, took in zip(ROWS, (small, large), strict=True):
        print(f"driver, {rows} rows: {took['cpu']:.1f} s of CPU, {took['memory']:.0f} MB")
    print(
        f"{requested.objects:.0f} recordings, {requested.workers} workers, {requested.latency * 1e3:.0f} ms: ",
        end="",
    )
    print(f"{probing:.2f} h of probing + {listing:.2f} h of the driver = {probing + listing:.2f} h")


if __name__ == "__main__":
    main()
