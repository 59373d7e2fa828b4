"""The step `align`: utterances to word times."""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from aligners import load_aligner
from aligners.alignment import Aligner
from aligners.quality import DEFAULT_LIMITS, agreement, check_limits, differences, judge
from corpus import files
from corpus.records import SAMPLE_RATE, Reject
from pipelines.execution.gpus import worker_device
from pipelines.execution.task import Stage, Task, key_function, run_task
from pipelines.layout import Part, part_tasks, parts
from pipelines.settings import Settings
from pipelines.steps.audio import AudioSource, AudioStage, AudioWorker, Row, decode_batch
from pipelines.steps.base import Run, Step, reject_columns, write_results

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
    joined_minutes: float = 0.0  # of audio that is aligned at once, in as many parts; 0: each part alone
    name: ClassVar[str] = "align"
    version: ClassVar[int] = 3  # 3: markup is not spoken, limits on uncovered speech

    outside_key: ClassVar[tuple[str, ...]] = ("places", "joined_minutes")

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
        kind = JoiningWorker if self.joined_minutes else AudioWorker
        return kind(self, WORDS, process, batch_minutes=first.batch_minutes)

    def bundle(self, tasks: list[Task]) -> list[Task]:
        """One task for all that are aligned at once."""
        bundled = []
        for _, group in itertools.groupby(tasks, key=lambda task: sorted(task.inputs)):
            members = tuple(group)
            samples = sum(task.samples for task in members)
            bundled.append(
                replace(members[0], samples=samples, arguments=members) if len(members) > 1 else members[0]
            )
        return bundled


@dataclass(frozen=True)
class JoiningWorker(AudioWorker):
    """Aligns several parts at once and writes a table for each, for an aligner that takes long to start."""

    def run(self, build: Path, task: Task, audio: AudioSource = decode_batch) -> str:
        """Do the tasks of a bundle, all of the same inputs, of which each writes the rows of its first."""

        @functools.cache
        def aligned() -> dict[str, tuple[pa.RecordBatch, pa.RecordBatch]]:
            tables = {name: files.read_table(build / name) for name in sorted(task.inputs)}
            (batch,) = pa.concat_tables(tables.values()).combine_chunks().to_batches()
            with self.turn:
                result = self.process(batch, audio(batch, 1))
            starts = itertools.accumulate((len(table) for table in tables.values()), initial=0)
            return {
                name: (batch.slice(start, len(table)), result.slice(start, len(table)))
                for (name, table), start in zip(tables.items(), starts, strict=False)
            }

        def make(build: Path, task: Task, temporary: Path) -> dict[str, Any]:
            return write_results(temporary, self.schema, iter([aligned()[task.inputs[0]]]), self.notes)

        results = [run_task(self.stage, make, build, member) for member in task.arguments or (task,)]
        return "failed" if "failed" in results else results[-1]


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
        first.batch_minutes if first.joins_parts else 0.0,
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
    """One task per manifest part; parts that are aligned at once are inputs of each other."""
    stage = align_stage(run.settings)
    if not stage.joined_minutes:
        return stage, part_tasks(run.folder, stage, "words")
    key_of = key_function(stage)
    tasks = []
    for group in joined(parts(run.folder), stage.joined_minutes):
        for part in group:
            inputs = [part, *(other for other in group if other is not part)]
            hashes = tuple(one.sha256 for one in inputs)
            names = tuple(f"manifest/{one.name}" for one in inputs)
            tasks.append(Task(f"words/{part.name}", names, key_of(*hashes), part.samples, hashes=hashes))
    return stage, tasks


def joined(listed: Iterable[Part], minutes: float) -> Iterator[list[Part]]:
    """Neighbouring parts in groups of at most `minutes` of audio, at least one part in each.

    >>> listed = [Part(name, 60 * SAMPLE_RATE, "") for name in "abc"]
    >>> [[part.name for part in group] for group in joined(listed, 2.0)]
    [['a', 'b'], ['c']]
    """
    group: list[Part] = []
    for part in listed:
        if group and sum(one.samples for one in [*group, part]) > minutes * 60 * SAMPLE_RATE:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


ALIGN_STEP = Step(
    "align", "Align words to the audio", table="words", after=("ingest",), tasks=align_tasks, rejects=True
)
