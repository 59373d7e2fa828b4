"""Peak memory of a build against the number of utterances: 10x the utterances, at most 1.1x the memory.

    python -m benchmarks.build_memory [MANIFEST] [--utterances 40] [--workers 2]

The large corpus is the small one ten times over, under other ids. Memory is the sum over the driver and its workers
of what they hold alone and their part of what they share (PSS), sampled ten times a second. Both corpora have more
frames than k-means draws (units.fit_frames), as any corpus of over two hours has with the default.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = """
[corpus]
part_minutes = 2.0
[units]
fit_frames = 4000
[shards]
samples = 100
"""


def peak(words: list[str]) -> tuple[float, float]:
    """Run a command; peak memory of its process tree in MiB, and seconds."""
    started, most = time.monotonic(), 0
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    root = psutil.Process(process.pid)
    while process.poll() is None:
        together = 0
        for one in [root, *children(root)]:
            try:
                together += one.memory_full_info().pss
            except psutil.Error:
                continue
        most = max(most, together)
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: failed with {process.returncode}")
    return most / 2**20, time.monotonic() - started


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    speech = Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech"))
    parser.add_argument("manifest", nargs="?", type=Path, default=speech / "dev" / "manifest.jsonl")
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    requested = parser.parse_args()
    rows = [json.loads(line) for line in requested.manifest.read_text().splitlines()][-requested.utterances :]
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "settings.toml"
        config.write_text(SETTINGS)
        for times in (1, 10):
            manifest = Path(folder) / f"manifest-{times}.jsonl"
            with open(manifest, "w") as file:
                for copy in range(times):
                    for row in rows:
                        audio = str((requested.manifest.parent / row["audio"]).resolve())
                        file.write(
                            json.dumps(
                                {**row, "id": f"{row['id']}-{copy}", "audio": audio, "alignment": None}
                            )
                            + "\n"
                        )
            build = Path(folder) / f"build-{times}"
            words = [sys.executable, "-m", "wordweave", "build", str(config), "--source", str(manifest)]
            result[times] = peak([*words, "--build", str(build), "--workers", str(requested.workers)])
            report = json.loads((build / "report" / "report.json").read_text())
            print(
                f"{len(rows) * times:>6} utterances  {report['in']['hours']:6.2f} h  {requested.workers} workers  "
                f"peak {result[times][0]:7.0f} MiB  {result[times][1]:6.1f} s",
                flush=True,
            )
    print(f"ratio of peaks {result[10][0] / result[1][0]:.3f} (goal: at most 1.1)")


if __name__ == "__main__":
    main()
