"""Speed of a whole build: a plain loop, Beam with one worker, Beam with two, in one run on real speech.

    python -m benchmarks.build_speed [MANIFEST] [--part-minutes 10] [--times 2] [--only beam-1 beam-2]

Every row does the same work: ingest, units by the bundled encoder, align, interleave, report and card.
With --times N every recording is there N times under other ids: a longer corpus of real speech. The CPU time is that
of processes which their parent waits for: two workers of Beam are not among them.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = {"loop": ("local", "1"), "beam-1": ("beam", "1"), "beam-2": ("beam", "2")}


def children_cpu() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def repeated(manifest: Path, times: int) -> str:
    """The lines of a manifest, with absolute paths, N times under different ids."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["audio"] = str((manifest.parent / row["audio"]).resolve())
        row.pop("alignment", None)  # unread here
    copies = [
        {**row, "id": f"{row['id']}-{copy}" if copy else row["id"]} for copy in range(times) for row in rows
    ]
    return "".join(json.dumps(row) + "\n" for row in copies)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    speech = Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech"))
    parser.add_argument("manifest", nargs="?", type=Path, default=speech / "dev" / "manifest.jsonl")
    parser.add_argument("--part-minutes", type=float, default=10.0)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    requested = parser.parse_args()
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        config, manifest = Path(folder) / "settings.toml", Path(folder) / "manifest.jsonl"
        manifest.write_text(repeated(requested.manifest, requested.times))
        config.write_text(f"[corpus]\npart_minutes = {requested.part_minutes}\n")

        def build(name: str, *options: str) -> str:
            build_folder = Path(folder) / name
            words = [sys.executable, "-m", "wordweave", "build", str(config), "--source", str(manifest)]
            started, cpu = time.monotonic(), children_cpu()
            done = subprocess.run(
                [*words, "--build", str(build_folder), *options],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds[name], cpu_seconds[name] = time.monotonic() - started, children_cpu() - cpu
            return done.stdout

        for name in requested.only:
            engine, workers = ROWS[name]
            result = build(name, "--engine", engine, "--workers", workers)
            hours = float(re.search(r"hours_in=([\d.]+)", result)[1])  # type: ignore[index]
            cpu = f"{cpu_seconds[name]:6.1f} s of CPU  " if name != "beam-2" else ""
            print(
                f"{name:<8} {hours:.3f} h  {seconds[name]:6.1f} s  {hours * 3600 / seconds[name]:6.1f} x real time  "
                f"{cpu}load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    for slower, faster in (("loop", "beam-1"), ("beam-1", "beam-2")):
        if {slower, faster} <= seconds.keys():
            print(f"{faster} is {seconds[slower] / seconds[faster]:.2f} x as fast as {slower}")


if __name__ == "__main__":
    main()
