"""What the filters of a build would drop, before anything is dropped: hours, example utterances and histograms."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corpus import files
from corpus.keyed import fraction
from corpus.quality import MEASURES, TRANSCRIPT_MEASURES, Filter, Measure, tokens_of
from corpus.records import SAMPLE_RATE
from pipelines.layout import finished_parts
from pipelines.reports.inspector.overview import Smallest
from pipelines.settings import Settings
from pipelines.steps.base import Run, Say
from pipelines.steps.outcomes import needs_aligner, read_measures
from pipelines.steps.transcribe import text_of, transcript_rows

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

    def __init__(self, one: Measure):
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


class Preview:
    """Filters over the measures of one step: what each would drop, added up utterance by utterance."""

    def __init__(self, filters: Sequence[Filter], measures: Mapping[str, Measure], examples: int):
        self.filters, self.measures = filters, measures
        self.drops = {one.measure: (Sum(), Sum(), Smallest(examples)) for one in filters}
        self.distributions: dict[str, Distribution] = {}

    def add(self, row: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        """Add a row of the manifest with its measures; whether a filter drops it."""
        samples = row["samples"]
        for name, measure in self.measures.items():
            if name in values:
                self.distributions.setdefault(name, Distribution(measure)).add(values[name], samples)
        failed = [one for one in self.filters if one.reject(values)]
        for one in failed:
            every, alone, chosen = self.drops[one.measure]
            every.add(samples)
            if len(failed) == 1:
                alone.add(samples)
            example = {"id": row["id"], "value": values[one.measure], "seconds": samples / SAMPLE_RATE}
            example |= {"audio": row["audio"], "text": row["text"]}
            chosen.add(fraction(0, "preview", row["id"]), row["id"], example)
        return bool(failed)

    def result(self) -> dict[str, Any]:
        """JSON-able: filters with what they drop, and the distribution of each measure."""
        filters = [
            {
                "measure": one.measure,
                "minimum": one.low if np.isfinite(one.low) else None,
                "maximum": one.high if np.isfinite(one.high) else None,
                **self.drops[one.measure][0].result(),
                "alone": self.drops[one.measure][1].result(),
                "examples": self.drops[one.measure][2].items(),
            }
            for one in self.filters
        ]
        measures = {name: one.result() for name, one in self.distributions.items()}
        return {"filters": filters, "measures": measures}


def preview(run: Run, examples: int = 3) -> dict[str, Any]:
    """What each filter of the settings would drop of the utterances that ingest and decoding left; nothing is changed.

    Hours are exact, to the sample: those that a build with these settings rejects with the reasons `quality.*`, and, of
    transcripts, `transcribe.*`. Writes them into report/preview.json.

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
    quality = Preview(filters, MEASURES, examples)
    for name, _ in finished_parts(run.build, "quality", "quality"):
        rows = files.read_table(run.build / "manifest" / name, ["id", "audio", "text", "samples", "reject"])
        decoded = files.read_table(run.build / "quality" / name, ["reject"])["reject"].to_pylist()
        for row, reject, values in zip(
            rows.to_pylist(), decoded, read_measures(run.build, name, filters), strict=True
        ):
            totals["in"].add(row["samples"])
            if row["reject"] or reject:
                measure = (row["reject"] or "").removeprefix("transcribe.")
                totals["dropped" if measure in TRANSCRIPT_MEASURES else "rejected"].add(row["samples"])
            else:
                totals["dropped" if quality.add(row, values) else "kept"].add(row["samples"])
    result: dict[str, Any] = {name: total.result() for name, total in totals.items()} | quality.result()
    if run.settings.transcribe.enabled:
        result["transcripts"] = preview_transcripts(run, examples).result()
    files.write(run.build / PREVIEW, json.dumps(result, indent=1, ensure_ascii=False).encode())
    return result


def preview_transcripts(run: Run, examples: int) -> Preview:
    """What the rules of `[transcribe]` drop of the transcripts that hold a word."""
    transcripts = Preview(run.settings.transcribe.filters, TRANSCRIPT_MEASURES, examples)
    for row, values in transcript_rows(run):
        text = text_of(values)
        if not (row["reject"] or row["text"] or values["reject"]) and tokens_of(text):
            transcripts.add({**row, "text": text}, values)
    return transcripts


def say_preview(result: dict[str, Any], settings: Settings, say: Say) -> None:
    """Print a preview: a histogram for each measure, and what each filter drops."""
    say_measures(result, settings.quality.filters, MEASURES, say)
    if "transcripts" in result:
        say("transcripts, by the rules of [transcribe]:")
        say_measures(result["transcripts"], settings.transcribe.filters, TRANSCRIPT_MEASURES, say)


def say_measures(
    result: dict[str, Any], filters: Sequence[Filter], measures: Mapping[str, Measure], say: Say
) -> None:
    """Print the histograms and filters of one step."""
    bounds = {one.measure: one for one in filters}
    say(f"{'measure':<22} {'lowest':>9} {'highest':>9}   hours by value")
    for name, one in result["measures"].items():
        low, high = (measures[name].low, measures[name].high)
        if one["lowest"] is None:
            say(f"{name:<22} {'none':>9} {'':>9}   no utterance has it")
            continue
        line = f"{name:<22} {one['lowest']:>9.4g} {one['highest']:>9.4g}   {low:g} [{draw(one['hours'])}] {high:g}"
        say(f"{line} {measures[name].unit}".rstrip())
        if name in bounds:
            say(f"{'':<44}{' ' * len(f'{low:g}')}{mark(bounds[name], one['edges'])}")
    for one in result["filters"]:
        limits = " and ".join(
            f"{word} {one[key]:g}"
            for word, key in (("at least", "minimum"), ("at most", "maximum"))
            if one[key] is not None
        )
        alone = f"{one['alone']['hours']:.4f} h that no other filter drops"
        say(
            f"  {one['utterances']:>6} utterances  {one['hours']:8.4f} h  {one['measure']} {limits} ({alone})"
        )
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
