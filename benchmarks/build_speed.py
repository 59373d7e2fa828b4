"""Speed of a whole build: a plain loop, Beam with one worker, Beam with two, in one run on real speech.

    python benchmarks/build_speed.py [MANIFEST] [--part-minutes 5]

The codebook is fitted once and given to all, so that every row does the same work: ingest, units, align, interleave.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def children_cpu() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    speech = Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech"))
    parser.add_argument("manifest", nargs="?", type=Path, default=speech / "dev" / "manifest.jsonl")
    parser.add_argument("--part-minutes", type=float, default=2.5)
    asked = parser.parse_args()
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "settings.toml"
        config.write_text(f"[corpus]\npart_minutes = {asked.part_minutes}\n")

        def build(name: str, *options: str) -> str:
            place = Path(folder) / name
            words = [sys.executable, "-m", "wordweave", "build", str(config), "--source", str(asked.manifest)]
            started, cpu = time.monotonic(), children_cpu()
            done = subprocess.run(
                [*words, "--build", str(place), *options],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds[name], cpu_seconds[name] = time.monotonic() - started, children_cpu() - cpu
            return done.stdout

        said = build("fit", "--engine", "local")
        hours = float(re.search(r"hours_in=([\d.]+)", said)[1])  # type: ignore[index]
        codebook = Path(folder) / "fit" / "codebooks" / "units.safetensors"
        config.write_text(config.read_text() + f'[units]\ncodebook = "{codebook}"\n')
        rows = {"loop": ("local", "1"), "beam-1": ("beam", "1"), "beam-2": ("beam", "2")}
        print(f"{hours:.3f} h of speech, parts of {asked.part_minutes} minutes")
        for name, (engine, workers) in rows.items():
            build(name, "--engine", engine, "--workers", workers)
            print(
                f"{name:<8} {seconds[name]:6.1f} s  {hours * 3600 / seconds[name]:6.1f} x real time  "
                f"{seconds['loop'] / seconds[name]:.2f} of the loop's speed  {cpu_seconds[name]:6.1f} s of CPU, "
                f"{cpu_seconds[name] / cpu_seconds['loop']:.2f} of the loop's  load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
