"""The step `quality`: utterances to measures of their sound and text, which the filters of `[quality]` read.

The step drops nothing: filters decide in `pipelines.steps.outcomes`, so that other bounds measure nothing again.
"""

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from corpus.quality import Subject, measure, measured_names, model_versions
from pipelines.execution.task import Stage, Task
from pipelines.layout import part_tasks
from pipelines.settings import Settings
from pipelines.steps.audio import AudioStage, AudioWorker, Row
from pipelines.steps.base import Run, Step, reject_columns

TABLE = "quality"


@dataclass(frozen=True)
class MeasureQuality(AudioStage):
    """Utterances -> one column per measure, and the most probable language of the text."""

    measures: tuple[str, ...]
    models: tuple[tuple[str, str], ...]
    device: str = "cpu"
    name: ClassVar[str] = "quality"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("device",)

    def open(self) -> AudioWorker:
        """A worker; the models are loaded when they are first used."""
        return AudioWorker(self, self.schema, self.process)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        measures = [(name, pa.float64()) for name in self.measures]
        more = [(name, pa.string()) for name in ("text_language", "reject", "detail")]
        return pa.schema([("id", pa.string()), *measures, *more])

    def process(self, batch: pa.RecordBatch, rows: list[Row]) -> pa.RecordBatch:
        """The measures of a batch of decoded recordings, each alone."""
        values: list[dict[str, float | None]] = []
        languages: list[str | None] = []
        for utterance, wave, _ in rows:
            if utterance is None or wave is None:
                values.append({})
                languages.append(None)
                continue
            subject = Subject(wave, utterance.text, utterance.language)
            values.append(measure(subject, self.measures))
            languages.append(next(iter(subject.languages), None))
        columns = [pa.array([one.get(name) for one in values], pa.float64()) for name in self.measures]
        rejects = reject_columns([reject for _, _, reject in rows])
        columns = [batch.column("id"), *columns, pa.array(languages, pa.string()), *rejects]
        return pa.record_batch(columns, schema=self.schema)


def quality_tasks(run: Run) -> tuple[Stage, list[Task]]:
    """One task per manifest part."""
    dnsmos = run.settings.quality.dnsmos
    stage = MeasureQuality(measured_names(dnsmos=dnsmos), model_versions(dnsmos=dnsmos))
    return stage, part_tasks(run.folder, stage, TABLE)


def is_wanted(settings: Settings) -> bool:
    """Whether utterances are measured."""
    return settings.quality.enabled


QUALITY_STEP = Step(
    "quality",
    "Measure the quality of each utterance",
    table=TABLE,
    after=("ingest",),
    wanted=is_wanted,
    tasks=quality_tasks,
    decodes=True,
)
