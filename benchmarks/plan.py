"""The accuracy of `wordweave plan`: its estimate from a sample, against a build of the whole corpus.

    python -m benchmarks.plan MANIFEST [--sample-minutes 4]

Bytes are those on disk, hours are CPU hours of one process, which other work on the machine does not affect.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from corpus.toml import read_toml
from pipelines import settings
from pipelines.build import run_step, wanted_steps
from pipelines.layout import part_names
from pipelines.operations.cost_estimate import Workers, predict
from pipelines.operations.cost_measure import SampleBuild, cpu_seconds, measure


def compare(
    requested: settings.Settings, folder: Path, minutes: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The estimate, and the cost of a whole build: {"bytes": {folder: bytes}, "seconds": CPU seconds}."""
    measured = measure(requested, folder / "plan", minutes=minutes)
    assert measured.corpus_hours is not None
    result = predict(measured, requested, measured.corpus_hours, Workers())
    build, before = folder / "build", cpu_seconds()
    for step in wanted_steps(requested):
        if step.name != "card":
            run_step(step.name, build, requested)
    took = cpu_seconds() - before
    planned = {"bytes": result["storage"], "seconds": result["total_hours"] * 3600, "parts": result["parts"]}
    sizes = SampleBuild.sizes(build)
    return planned, {"bytes": sizes, "seconds": took, "parts": len(part_names(build))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest")
    parser.add_argument("--sample-minutes", type=float, default=4.0)
    parser.add_argument("--config", default="config/corpus.toml")
    given = parser.parse_args()
    requested = settings.replace(
        read_toml(Path(given.config), settings.Settings), "corpus", source=given.manifest
    )
    with tempfile.TemporaryDirectory() as folder:
        planned, measured = compare(requested, Path(folder), given.sample_minutes)
    print(json.dumps({"planned": planned, "made": measured}))
    for name in measured["bytes"]:
        result, actual = planned["bytes"].get(name, 0.0), measured["bytes"][name]
        print(
            f"{name:<12} {result:>12,.0f} planned {actual:>12,.0f} bytes {100 * (result / actual - 1):>+6.1f} %"
        )
    print(f"{'parts':<12} {planned['parts']:>12} planned {measured['parts']:>12}")
    error = 100 * (planned["seconds"] / measured["seconds"] - 1)
    print(
        f"{'CPU seconds':<12} {planned['seconds']:>12.1f} planned {measured['seconds']:>12.1f}       {error:>+6.1f} %"
    )


if __name__ == "__main__":
    main()
