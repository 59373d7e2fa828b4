"""The step `align`: utterances to word times."""

import functools
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from aligners import load_aligner
from aligners.alignment import Aligner
from aligners.quality import DEFAULT_LIMITS, agreement, check_limits, differences, judge
from corpus.records import Reject
from pipelines.execution.gpus import worker_device
from pipelines.execution.task import Stage, Task
from pipelines.layout import part_tasks
from pipelines.settings import Settings
from pipelines.steps.audio import AudioStage, AudioWorker, Row
from pipelines.steps.base import Run, Step, reject_columns

WORD = pa.struct(
    [
        ("text", pa.string()),
        ("spoken", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("confidence", pa.float32()),
        ("apart_ms", pa.float32()),  # mean distance of start and end from those of a second aligner
    ]
)
FIELDS = ("text", "spoken", "start", "end", "confidence")
"""Of `WORD`, what `corpus.records.Word` has too."""
WORDS = pa.schema(
    [
        ("id", pa.string()),
        ("words", pa.list_(WORD)),
        ("quality", pa.string()),
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
Options = tuple[tuple[str, Any], ...]
Backend = tuple[str, Options]
"""An aligner: its name and settings."""


@dataclass(frozen=True)
class AlignWords(AudioStage):
    """Utterances -> word times, by any aligner. Failure is a value: the reason is in `reject`.

    A second aligner only measures how far the two differ, per word and per utterance; an utterance must lie within
    `limits`, measure -> [min, max] (`aligners.quality`). Settings of an aligner that cannot change a time, such as
    its device, are in `places`.
    """

    aligner: Backend
    identity: str
    second: Backend | None = None
    second_identity: str = ""
    limits: tuple[tuple[str, tuple[float, ...]], ...] = ()
    places: tuple[Options, Options] = ((), ())
    name: ClassVar[str] = "align"
    version: ClassVar[int] = 3  # 3: markup is not spoken, limits on uncovered speech

    outside_key: ClassVar[tuple[str, ...]] = ("places",)

    @property
    def uses_gpu(self) -> bool:
        """Whether one of its aligners does."""
        return any(str(dict(options).get("device")).startswith("cuda") for options in self.places)

    def open(self) -> AudioWorker:
        """Load the aligners."""
        first, second = (
            backend and load_aligner(backend[0], **dict(backend[1]), **on_worker(places))
            for backend, places in zip((self.aligner, self.second), self.places, strict=True)
        )
        assert first is not None
        process = functools.partial(align_batch, first, second, dict(self.limits))
        return AudioWorker(self, WORDS, process, batch_minutes=first.batch_minutes)


def align_batch(
    aligner: Any,
    second: Any,
    limits: dict[str, tuple[float, ...]],
    batch: pa.RecordBatch,
    rows: list[Row],
) -> pa.RecordBatch:
    """Word times of a batch of decoded recordings."""
    inputs = [(utterance, wave) for utterance, wave, _ in rows if utterance is not None and wave is not None]
    alignments = aligner.align(inputs, {})
    others = second.align(inputs, {}) if second else [None] * len(inputs)
    pairs = iter(zip(alignments, others, strict=True))
    words, quality, rejects = [], [], []
    for _, wave, reject in rows:
        alignment, other = next(pairs) if wave is not None else (None, None)
        row_words, measures, row_reject = align_row(alignment, other, limits, reject)
        words.append(row_words)
        quality.append(None if measures is None else json.dumps(measures, sort_keys=True))
        rejects.append(row_reject)
    columns = [batch.column("id"), pa.array(words, WORDS.field("words").type), pa.array(quality, pa.string())]
    return pa.record_batch([*columns, *reject_columns(rejects)], schema=WORDS)


def align_row(
    alignment: Any, other: Any, limits: dict[str, tuple[float, ...]], reject: Reject | None
) -> tuple[list[dict[str, Any]] | None, dict[str, float] | None, Reject | None]:
    """Words, measures and reject of one row."""
    measures = dict(alignment.quality) if alignment else None
    reject = reject or (alignment.reject if alignment else None)
    if alignment is None or measures is None or reject:
        return None, measures, reject
    apart: list[float | None] = [None] * len(alignment.words)
    if other and not other.reject:
        measures["agreement_ms"] = agreement(alignment.words, other.words)
        apart = differences(alignment.words, other.words).tolist()
    reject = judge(measures, limits)
    if reject:
        return None, measures, reject
    return [
        {name: getattr(word, name) for name in FIELDS} | {"apart_ms": distance}
        for word, distance in zip(alignment.words, apart, strict=True)
    ], measures, None  # fmt: skip


def align_stage(settings: Settings) -> AlignWords:
    """The alignment stage with the identities of its aligners.

    Raises:
        ValueError: no such backend, setting or measure; a tool or model of a backend is missing.
    """
    align = settings.align
    first = load_aligner(align.backend, **align.options)
    second = (
        load_aligner(align.second_backend, **align.second_backend_options) if align.second_backend else None
    )
    options, places = divide(align.options, first)
    second_options, second_places = divide(align.second_backend_options, second)
    check_limits(align.limits, first.measures)
    limits = {**DEFAULT_LIMITS, **align.limits}
    if "agreement_ms" in align.limits and second is None:
        raise ValueError("align.limits.agreement_ms: needs a second aligner, set align.second_backend")
    return AlignWords(
        (align.backend, options),
        first.identity,
        (align.second_backend, second_options) if second else None,
        second.identity if second else "",
        tuple(sorted((name, tuple(map(float, bounds))) for name, bounds in limits.items())),
        (places, second_places),
    )


def on_worker(places: Options) -> dict[str, Any]:
    """The settings of an aligner that name where it computes, for this worker process."""
    return {name: worker_device(value) if name == "device" else value for name, value in places}


def divide(options: dict[str, Any], aligner: Aligner | None) -> tuple[Options, Options]:
    """The options of an aligner that may change a time, and those that cannot."""
    outside = aligner.outside_identity if aligner else ()
    keyed = tuple(sorted((name, value) for name, value in options.items() if name not in outside))
    return keyed, tuple(sorted((name, value) for name, value in options.items() if name in outside))


def align_tasks(run: Run) -> tuple[Stage, list[Task]]:
    """One task per manifest part."""
    stage = align_stage(run.settings)
    return stage, part_tasks(run.folder, stage, "words")


ALIGN_STEP = Step(
    "align", "Align words to the audio", table="words", after=("ingest",), tasks=align_tasks, rejects=True
)
