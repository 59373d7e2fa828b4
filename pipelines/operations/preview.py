"""What the filters of a build would drop, before anything is dropped: hours, example utterances and histograms."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from corpus import files
from corpus.keyed import fraction
from corpus.quality import MEASURES, Filter
from corpus.records import SAMPLE_RATE
from pipelines.layout import finished_parts
from pipelines.reports.inspector.overview import Smallest
from pipelines.steps.base import Run, Say
from pipelines.steps.outcomes import needs_aligner, read_measures

BINS = 40
BARS = " ▁▂▃▄▅▆▇█"
PREVIEW = "report/preview.json"


class Sum:
    """Utterances and samples at 16 kHz, added up."""

    def __init__(self) -> None:
        self.utterances = self.samples = 0

    def add(self, samples: int) -> None:
        """Add one utterance."""
        self.utterances += 1
        self.samples += samples

    def result(self) -> dict[str, Any]:
        """JSON-able, with hours."""
        hours = self.samples / SAMPLE_RATE / 3600
        return {"utterances": self.utterances, "samples": self.samples, "hours": hours}


class Distribution:
    """The hours of a corpus by the values of one measure; memory does not grow with the corpus."""

    def __init__(self, name: str):
        one = MEASURES[name]
        self.edges = np.linspace(one.low, one.high, BINS + 1)
        self.samples = [0] * BINS
        self.missing = Sum()
        self.low, self.high = np.inf, -np.inf

    def add(self, value: float | None, samples: int) -> None:
        """Add one utterance; values outside the range count in the first and the last bin."""
        if value is None:
            self.missing.add(samples)
            return
        place = int(np.searchsorted(self.edges, value, side="right")) - 1
        self.samples[min(max(place, 0), BINS - 1)] += samples
        self.low, self.high = min(self.low, value), max(self.high, value)

    def result(self) -> dict[str, Any]:
        """JSON-able: edges of the bins, hours in each, and what has no value."""
        hours = [count / SAMPLE_RATE / 3600 for count in self.samples]
        known = bool(sum(self.samples))
        return {
            "edges": self.edges.tolist(), "hours": hours, "missing": self.missing.result(),
            "lowest": self.low if known else None, "highest": self.high if known else None,
        }  # fmt: skip


def preview(run: Run, examples: int = 3) -> dict[str, Any]:
    """What each filter of the settings would drop of the utterances that ingest and decoding left; nothing is changed.

    Hours are exact, to the sample: those that a build with these settings rejects with the reasons `quality.*`. Writes
    them into report/preview.json.

    Args:
        run: of a build whose measures are up to date.
        examples: utterances to name for each filter, those of lowest hash.

    Raises:
        ValueError: the measures are not up to date.
    """
    filters = run.settings.quality.filters
    if needs_aligner(filters):
        for _ in finished_parts(run.build, "words", "align"):
            pass
    totals = {name: Sum() for name in ("in", "rejected", "dropped", "kept")}
    drops = {one.measure: (Sum(), Sum(), Smallest(examples)) for one in filters}
    distributions: dict[str, Distribution] = {}
    for name, _ in finished_parts(run.build, "quality", "quality"):
        rows = files.read_table(run.build / "manifest" / name, ["id", "audio", "text", "samples", "reject"])
        decoded = files.read_table(run.build / "quality" / name, ["reject"])["reject"].to_pylist()
        for row, reject, values in zip(
            rows.to_pylist(), decoded, read_measures(run.build, name, filters), strict=True
        ):
            totals["in"].add(row["samples"])
            if row["reject"] or reject:
                totals["rejected"].add(row["samples"])
                continue
            for measure, value in values.items():
                distributions.setdefault(measure, Distribution(measure)).add(value, row["samples"])
            failed = [one for one in filters if one.reject(values)]
            totals["dropped" if failed else "kept"].add(row["samples"])
            for one in failed:
                every, alone, chosen = drops[one.measure]
                every.add(row["samples"])
                if len(failed) == 1:
                    alone.add(row["samples"])
                example = {
                    "id": row["id"],
                    "value": values[one.measure],
                    "seconds": row["samples"] / SAMPLE_RATE,
                }
                example |= {"audio": row["audio"], "text": row["text"]}
                chosen.add(fraction(0, "preview", row["id"]), row["id"], example)
    result: dict[str, Any] = {name: total.result() for name, total in totals.items()}
    result["filters"] = [
        {
            "measure": one.measure,
            "minimum": one.low if np.isfinite(one.low) else None,
            "maximum": one.high if np.isfinite(one.high) else None,
            **drops[one.measure][0].result(),
            "alone": drops[one.measure][1].result(),
            "examples": drops[one.measure][2].items(),
        }
        for one in filters
    ]
    result["measures"] = {name: one.result() for name, one in distributions.items()}
    files.write(run.build / PREVIEW, json.dumps(result, indent=1, ensure_ascii=False).encode())
    return result


def say_preview(result: dict[str, Any], filters: Sequence[Filter], say: Say) -> None:
    """Print a preview: a histogram for each measure, and what each filter drops."""
    by_measure = {one["measure"]: one for one in result["filters"]}
    bounds = {one.measure: one for one in filters}
    say(f"{'measure':<22} {'lowest':>9} {'highest':>9}   hours by value")
    for name, one in result["measures"].items():
        low, high = (MEASURES[name].low, MEASURES[name].high)
        if one["lowest"] is None:
            say(f"{name:<22} {'none':>9} {'':>9}   no utterance has it")
            continue
        chart = draw(one["hours"])
        line = f"{name:<22} {one['lowest']:>9.4g} {one['highest']:>9.4g}   {low:g} [{chart}] {high:g}"
        say(f"{line} {MEASURES[name].unit}".rstrip())
        if name in bounds:
            say(f"{'':<44}{' ' * len(f'{low:g}')}{mark(bounds[name], one['edges'])}")
    for name, one in by_measure.items():
        limits = " and ".join(
            f"{word} {one[key]:g}"
            for word, key in (("at least", "minimum"), ("at most", "maximum"))
            if one[key] is not None
        )
        alone = f"{one['alone']['hours']:.4f} h that no other filter drops"
        say(f"  {one['utterances']:>6} utterances  {one['hours']:8.4f} h  {name} {limits} ({alone})")
        for example in one["examples"]:
            text = (example["text"] or "no text")[:60]
            say(f"{'':>10}{example['id']}  {example['value']:g}  {example['seconds']:.1f} s  {text}")


def draw(hours: Sequence[float]) -> str:
    """A histogram in one line; a bin that is not empty shows.

    >>> draw([0, 1, 8, 0.001])
    ' ▁█▁'
    """
    top = max(max(hours), 1e-12)
    return "".join(BARS[0 if value <= 0 else max(1, round(value / top * 8))] for value in hours)


def mark(one: Filter, edges: Sequence[float]) -> str:
    """The bins of a histogram that a filter keeps, as a line under it.

    >>> mark(Filter("speech_share", 0.5, 0.75), [0, 0.25, 0.5, 0.75, 1])
    '   =  kept'
    """
    inside = [one.low < upper and lower < one.high for lower, upper in itertools.pairwise(edges)]
    return " " + "".join("=" if kept else " " for kept in inside) + "  kept"
