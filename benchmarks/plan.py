"""How near `wordweave plan` comes: what it says of a corpus from a sample, against a build of all of it.

    python -m benchmarks.plan MANIFEST [--sample-minutes 4]

Bytes are those on disk, hours are CPU hours of one process, so that other work on the machine moves neither.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from pipelines import build as steps
from pipelines import settings
from pipelines.execution.runner import Engine
from pipelines.operations.cost_estimate import Workers, predict
from pipelines.operations.cost_measure import SampleBuild, cpu_seconds, measure
from pipelines.reports.report import report


def compare(
    requested: settings.Settings, folder: Path, minutes: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the plan says and what a whole build took: {"bytes": {folder: bytes}, "seconds": CPU seconds}."""
    measured = measure(requested, folder / "plan", minutes=minutes)
    assert measured.corpus_hours is not None
    result = predict(measured, requested, measured.corpus_hours, Workers())
    build, engine, before = folder / "build", Engine("local"), cpu_seconds()
    steps.ingest(build, requested)
    steps.ready_codebook(build, requested, engine)
    steps.encode(build, requested, engine)
    for table in steps.expressive_tables(requested):
        from pipelines.steps import prosody as expressive

        getattr(expressive, table)(build, requested, engine)
    steps.align(build, requested, engine)
    steps.interleave(build, requested, engine)
    report(build)
    took = cpu_seconds() - before
    planned = {"bytes": result["storage"], "seconds": result["total_hours"] * 3600, "parts": result["parts"]}
    sizes = SampleBuild.sizes(build)
    return planned, {"bytes": sizes, "seconds": took, "parts": len(steps.part_names(build))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest")
    parser.add_argument("--sample-minutes", type=float, default=4.0)
    parser.add_argument("--config", default="config/corpus.toml")
    given = parser.parse_args()
    requested = settings.replace(settings.read(Path(given.config)), "corpus", source=given.manifest)
    with tempfile.TemporaryDirectory() as folder:
        planned, made = compare(requested, Path(folder), given.sample_minutes)
    print(json.dumps({"planned": planned, "made": made}))
    for name in made["bytes"]:
        result, held = planned["bytes"].get(name, 0.0), made["bytes"][name]
        print(
            f"{name:<12} {result:>12,.0f} planned {held:>12,.0f} bytes {100 * (result / held - 1):>+6.1f} %"
        )
    print(f"{'parts':<12} {planned['parts']:>12} planned {made['parts']:>12}")
    error = 100 * (planned["seconds"] / made["seconds"] - 1)
    print(
        f"{'CPU seconds':<12} {planned['seconds']:>12.1f} planned {made['seconds']:>12.1f}       {error:>+6.1f} %"
    )


if __name__ == "__main__":
    main()
