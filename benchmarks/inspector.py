"""Time to open the report of a large build in Chromium, and the memory of the page.

    python -m benchmarks.inspector BUILD [--utterances 100000]

A copy of BUILD has its rows repeated, with new ids, until it has that many utterances; its report is written and opened
from the disk in a headless Chromium (with chromedriver). The copy has no shards, pitch or style: they would be large.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.build import run_step
from pipelines.execution.task import marker_path
from pipelines.layout import parts
from pipelines.settings import read_settings, replace, write_settings
from tests.helpers.browser import Browser, open_browser

ROWS = 100
"""Copies of a part of BUILD in one part."""


def enlarge(build: Path, folder: Path, utterances: int) -> int:
    """Copy a build with its rows repeated; how many utterances it then has."""
    shutil.copytree(
        build, folder, ignore=shutil.ignore_patterns("shards", "report", "model", "prosody", "pitch", "style")
    )
    settings = replace(replace(read_settings(build), "pitch", enabled=False), "style", enabled=False)
    write_settings(folder, settings)
    listing = json.loads((folder / "manifest" / "manifest.json").read_text())
    names = [part.name for part in parts(folder)]
    count = sum(pq.read_metadata(folder / "manifest" / name).num_rows for name in names)
    repeats = -(-utterances // count)
    for name in names:
        entry = next(entry for entry in listing["parts"] if entry["name"] == name)
        tables = {table: pq.read_table(folder / table / name) for table in ("manifest", "units", "words")}
        for first in range(1, repeats, ROWS):
            new = f"part-{len(listing['parts']):05d}.parquet"
            for table, content in tables.items():
                copies = []
                for repeat in range(first, min(first + ROWS, repeats)):
                    ids = pa.array([f"{one}-{repeat}" for one in content["id"].to_pylist()])
                    copies.append(content.set_column(0, content.schema.field(0), ids))
                pq.write_table(pa.concat_tables(copies), folder / table / new)
                if table != "manifest":
                    shutil.copy(marker_path(folder / table / name), marker_path(folder / table / new))
            listing["parts"].append({**entry, "name": new})
    (folder / "manifest" / "manifest.json").write_text(json.dumps(listing))
    return count * repeats


def measure(browser: Browser, page: Path, hash: str) -> dict[str, float]:
    """Seconds until the page is drawn, those in which its main thread was busy, and MB of memory."""
    browser.open("about:blank")
    browser.devtools("Performance.enable")
    started = time.monotonic()
    browser.open(f"{page.as_uri()}#{hash}")
    browser.wait("window.inspector")
    seconds = time.monotonic() - started
    time.sleep(2)
    renderers = [
        process.memory_full_info()
        for process in psutil.process_iter(["cmdline"])
        if "--type=renderer" in (process.info["cmdline"] or [])
        and "--extension-process" not in process.info["cmdline"]
    ]
    heap = browser.run("return performance.memory.usedJSHeapSize")
    largest = max(renderers, key=lambda info: info.uss)
    metrics = {row["name"]: row["value"] for row in browser.devtools("Performance.getMetrics")["metrics"]}
    numbers = {"seconds": seconds, "busy": metrics["TaskDuration"]}
    return numbers | {"uss": largest.uss / 1e6, "pss": largest.pss / 1e6, "heap": heap / 1e6}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--utterances", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "large"
        count = enlarge(options.build, folder, options.utterances)
        started = time.monotonic()
        run_step("report", folder, read_settings(folder))
        seconds = time.monotonic() - started
        size = sum(
            path.stat().st_size for path in (folder / "report").rglob("*") if path.name != "rejects.jsonl"
        )
        print(
            f"report of {count} utterances: {seconds:.1f} s to write, {size / 1e6:.1f} MB without rejects.jsonl"
        )
        print(
            "| page | seconds to open | busy | MB of its process, own | with its share of the shared | of JavaScript |"
        )
        print("|---|---|---|---|---|---|")
        with open_browser() as browser:
            browser.resize(1280, 900)
            row = json.loads(
                (folder / "report" / "data" / "overview.js").read_text()[len('wordweave("overview", ') : -3]
            )
            link = row["utterances"][0]["link"]
            for hash in ("overview", "utterances", f"utterance={link}"):
                numbers = measure(browser, folder / "report" / "index.html", hash)
                cells = (
                    *(f"{numbers[name]:.2f}" for name in ("seconds", "busy")),
                    *(f"{numbers[name]:.0f}" for name in ("uss", "pss", "heap")),
                )
                print(f"| {hash.split('=')[0]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
