"""The overview of a build: counts, histograms and usage of units, added up part by part."""

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aligners.quality import MEASURES
from corpus.keyed import fraction
from corpus.records import SAMPLE_RATE
from pipelines.settings import Settings
from pipelines.steps.outcomes import Outcome
from shards.strategies import draw_spans, span_generator
from units.quality import Usage

MEASURED = 10_000
"""Utterances, those of lowest hash, whose measures and spans are in the histograms."""
LISTED = 50
"""Speakers, languages or licences that are listed, those with most speech; the others are summed."""
STRATA = {"typical": 12, "worst aligned": 12, "longest": 6}
"""Utterances per stratum of the sample, besides those that were rejected."""
REJECTED, EACH_REASON = 36, 4
"""Rejected utterances in the sample: at most N in all, N per reason."""
WORST = (("agreement_ms", 1), ("mean_confidence", -1), ("uncovered_share", 1))
"""Measures that rank alignments, the first that an utterance has; 1: larger is worse."""

Place = tuple[str, int]
"""Where an utterance is: the part, and its row there."""


class Smallest:
    """The N items of smallest key among those added; memory does not grow with their number."""

    def __init__(self, size: int):
        self.size = size
        self._heap: list[tuple[float, str, Any]] = []

    def add(self, key: float, name: str, item: Any) -> None:
        """Add an item; `name` breaks ties."""
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, (-key, name, item))
        elif (-key, name) > self._heap[0][:2]:
            heapq.heapreplace(self._heap, (-key, name, item))

    def items(self) -> list[Any]:
        """The items, smallest key first."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]


class Overview:
    """Sums over the rows of a build; `add` takes the tables of one part, memory does not grow with the parts.

    Attributes:
        strata: name -> the places of its utterances.
    """

    def __init__(self, settings: Settings, clusters: int):
        """`clusters`: size of the codebook of units."""
        self.settings = settings
        self.parts = 0
        self.usage = Usage(clusters)
        self.groups: dict[str, Counter[str]] = {
            "speaker": Counter(),
            "language": Counter(),
            "licence": Counter(),
        }
        self.edges = np.linspace(0, settings.corpus.max_seconds, 41)
        self.durations = {name: np.zeros(40, np.int64) for name in ("accepted", "rejected")}
        self.measured = Smallest(MEASURED)
        self.chosen = {name: Smallest(size) for name, size in STRATA.items()}
        self.rejected: dict[str, Smallest] = {}
        self.ranked_by: set[str] = set()

    def add(self, name: str, tables: Mapping[str, pa.Table], outcomes: Sequence[Outcome]) -> None:
        """Add one part.

        Args:
            name: of the part.
            tables: step -> its table, of the steps that decide what became of a row.
            outcomes: of each row.
        """
        self.parts += 1
        columns = ["id", "key", "speaker", "language", "licence", "samples"]
        manifest = tables["ingest"].select(columns).to_pylist()
        words = tables["align"].column("words")
        counts = pa.compute.list_value_length(words).to_pylist()
        qualities = tables["align"].column("quality").to_pylist()
        seconds: dict[str, list[float]] = {"accepted": [], "rejected": []}
        for number, (row, outcome) in enumerate(zip(manifest, outcomes, strict=True)):
            place, key = (name, number), fraction(0, "inspector", row["id"])
            kind = "accepted" if outcome[0] in ("interleaved", "speech") else "rejected"
            seconds[kind].append(row["samples"] / SAMPLE_RATE)
            if kind == "rejected":
                stratum = f"{outcome[0].replace('_', ' ')}: {outcome[2]}"
                self.rejected.setdefault(stratum, Smallest(EACH_REASON)).add(key, row["id"], place)
                continue
            for column, counter in self.groups.items():
                counter[row[column]] += row["samples"]
            self.chosen["typical"].add(key, row["id"], place)
            self.chosen["longest"].add(-row["samples"], row["id"], place)
            measures = read_measures(qualities[number])
            self.measured.add(key, row["id"], (row["key"], counts[number] or 0, measures))
            for measure, sign in WORST:
                if measure in measures and outcome[0] == "interleaved":
                    self.chosen["worst aligned"].add(-sign * measures[measure], row["id"], place)
                    self.ranked_by.add(measure)
                    break
        for kind, values in seconds.items():
            clipped = np.minimum(values, self.edges[-1])
            self.durations[kind] += np.histogram(clipped, self.edges)[0]
        units = tables["units"].column("units").drop_null().combine_chunks()
        if len(units):
            self.usage.add(
                units.flatten().to_numpy(), units.offsets.to_numpy()[:-1] - units.offsets[0].as_py()
            )

    def strata(self) -> dict[str, list[Place]]:
        """Stratum -> the places of its utterances; "rejected: REASON" or "cut away: REASON" for each reason."""
        strata = {name: chosen.items() for name, chosen in self.chosen.items()}
        each = max(1, min(EACH_REASON, REJECTED // max(1, len(self.rejected))))
        return strata | {name: chosen.items()[:each] for name, chosen in sorted(self.rejected.items())}

    def result(self, frame_rate: float | None) -> dict[str, Any]:
        """What the page shows, JSON-able; `frame_rate` (Hz) of the units, None where nothing has units."""
        measured = self.measured.items()
        values: dict[str, list[float]] = {}
        for _, _, measures in measured:
            for name, value in measures.items():
                values.setdefault(name, []).append(value)
        card = self.usage.card(frame_rate) if frame_rate else None
        return {
            "groups": {name: listed(counter) for name, counter in self.groups.items()},
            "durations": {
                "edges": self.edges.tolist(), **{name: counts.tolist() for name, counts in self.durations.items()}
            },
            "measured": len(measured),
            "measures": {
                name: {"meaning": MEASURES.get(name, "a measure of the aligner's own"), **histogram(numbers)}
                for name, numbers in sorted(values.items())
            },
            "spans": self.spans((name, words) for name, words, _ in measured if words),
            "units": card and {**card, "counts": sorted(card["counts"], reverse=True)},
            "ranked_by": sorted(self.ranked_by),
        }  # fmt: skip

    def spans(self, utterances: Iterable[tuple[str, int]]) -> dict[str, Any]:
        """Lengths in words of the spans of these utterances, (key, words), in their materialised sequences."""
        settings = self.settings.interleave
        strategy, lengths = settings.make_strategy(), {"text": Counter[int](), "speech": Counter[int]()}
        for name, words in utterances:
            for span in draw_spans(words, strategy, span_generator(settings.seed, 0, name)):
                lengths["speech" if span.speech else "text"][span.last - span.first] += 1
        return {kind: sorted(counter.items()) for kind, counter in lengths.items()}


def read_measures(quality: str | None) -> dict[str, float]:
    """The measures in the column `quality` of the words table, those that are finite.

    >>> read_measures('{"snr": NaN, "words_per_second": 2.5}'), read_measures(None)
    ({'words_per_second': 2.5}, {})
    """
    return {name: value for name, value in json.loads(quality or "{}").items() if math.isfinite(value)}


def listed(counter: Mapping[Any, int]) -> dict[str, Any]:
    """Names with most samples, each with its hours, and what the others sum up to; "" is no name.

    >>> listed({"anna": 57_600_000, None: 28_800_000})
    {'count': 1, 'most': [['anna', 1.0], ['', 0.5]], 'others': 0.0}
    """
    names = {name or "": samples for name, samples in counter.items()}
    ordered = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    hours = [[name, samples / SAMPLE_RATE / 3600] for name, samples in ordered]
    others = sum((number for _, number in hours[LISTED:]), 0.0)
    return {"count": len(names.keys() - {""}), "most": hours[:LISTED], "others": others}


def histogram(values: Sequence[float], bins: int = 30) -> dict[str, Any]:
    """Counts in equal bins between the 0.5th and the 99.5th percentile, what lies outside in the outer bins.

    >>> histogram([1.0, 2.0, 2.1, 4.0], bins=2)["counts"]
    [3, 1]
    >>> histogram([1.0, 1.0 + 1e-15], bins=2)["counts"]
    [2, 0]
    """
    array = np.asarray(values, dtype=np.float64)
    low, median, high = (float(value) for value in np.percentile(array, [0.5, 50, 99.5]))
    if high - low <= 1e-9 * max(1.0, abs(low)):  # all but equal
        high = low + 1.0
    counts, edges = np.histogram(np.clip(array, low, high), bins, (low, high))
    numbers = {"median": median, "mean": float(array.mean()), "count": len(array)}
    return {"edges": edges.tolist(), "counts": counts.tolist(), **numbers}
