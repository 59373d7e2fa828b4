"""The step `units`: utterances to units, one per frame."""

import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from corpus import files
from corpus.records import Reject
from pipelines.execution.planner import Plan, plan
from pipelines.execution.task import Stage, Task, is_done
from pipelines.layout import part_tasks
from pipelines.steps.audio import AudioStage, AudioWorker, Row
from pipelines.steps.base import Run, Step, reject_columns, token_schema
from pipelines.steps.codebook import (
    codebook_path,
    dtype_task,
    measure_dtype,
    open_codebook,
    single_threaded_encoder,
    units_dtype,
)

UNITS = token_schema("units")


@dataclass(frozen=True)
class EncodeUnits(AudioStage):
    """Utterances -> units, one per frame. What cannot be encoded carries its reason in `reject`."""

    encoder: str
    layer: int | None
    dtype: str
    device: str
    encoder_identity: str
    codebook: str
    codebook_hash: str
    trust_pickle: bool = False
    name: ClassVar[str] = "units"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("encoder", "device", "codebook", "trust_pickle")

    def open(self) -> AudioWorker:
        """Load encoder and codebook; each done marker keeps the units' hop and first centre (samples at 16 kHz)."""
        from units.quantizers import load_codebook

        encoder = single_threaded_encoder(self.encoder, self.layer, self.device, self.dtype)
        codebook = load_codebook(files.local(files.to_path(self.codebook)), trust_pickle=self.trust_pickle)
        encode = functools.partial(encode_batch, encoder, codebook)
        notes = {"hop": encoder.hop, "centre": encoder.centre}
        # batches of two parts queue up on a GPU, which does not wait for the host in between
        return AudioWorker(self, UNITS, encode, notes, turn=threading.Semaphore(2))


def encode_batch(encoder: Any, codebook: Any, batch: pa.RecordBatch, rows: list[Row]) -> pa.RecordBatch:
    """The units of a batch of decoded recordings."""
    from units.encode import encode_units

    waves = [wave for _, wave, _ in rows if wave is not None]
    results: Iterator[np.ndarray | Reject]
    try:
        results = iter(encode_units(encoder, codebook, waves))
    except ValueError:  # one of them: alone it is found
        results = (encode_alone(encoder, codebook, wave) for wave in waves)
    units: list[np.ndarray | None] = []
    rejects: list[Reject | None] = []
    for _, wave, reject in rows:
        sequence = next(results) if wave is not None else None
        if isinstance(sequence, Reject):
            reject, sequence = sequence, None
        elif wave is not None and sequence is not None and len(sequence) == 0:
            reject = Reject("units.too_short", f"{len(wave)} samples, need {encoder.minimum}")
        rejects.append(reject)
        units.append(None if reject or sequence is None else sequence.astype(np.int16))
    columns = [batch.column("id"), pa.array(units, UNITS.field("units").type), *reject_columns(rejects)]
    return pa.record_batch(columns, schema=UNITS)


def encode_alone(encoder: Any, codebook: Any, wave: np.ndarray) -> np.ndarray | Reject:
    """Units of one recording, or why it has none."""
    from units.encode import encode_units

    try:
        return encode_units(encoder, codebook, [wave])[0]
    except ValueError as error:
        return Reject("units.failed", str(error))


def units_stage(run: Run) -> EncodeUnits:
    """The units stage with the identities of its models."""
    units, codebook = run.settings.units, codebook_path(run.folder, run.settings)
    dtype = units_dtype(run.folder, run.settings)
    encoder, book = open_codebook(codebook, run.settings, dtype)
    return EncodeUnits(
        units.encoder,
        units.layer_or_last,
        dtype,
        units.device,
        encoder.identity,
        str(codebook),
        book.hash,
        units.trust_pickle,
    )


def units_tasks(run: Run) -> tuple[Stage, list[Task]]:
    """One task per manifest part."""
    stage = units_stage(run)
    return stage, part_tasks(run.folder, stage, "units")


def plan_units(run: Run) -> Plan:
    """What the step would do; its tasks are unknown before the dtype is measured."""
    if run.settings.units.dtype == "auto" and not all(
        is_done(run.build, task) for task in dtype_task(run)[1]
    ):
        return Plan("units", waits="the measurement of units.dtype")
    stage, tasks = units_tasks(run)
    return plan(stage, run.build, tasks)


UNITS_STEP = Step(
    "units",
    "Encode utterances to units",
    table="units",
    after=("ingest", "fit units"),
    tasks=units_tasks,
    prepare=measure_dtype,
    plan=plan_units,
    rejects=True,
    member="units.npy",
    uses_gpu=True,
    decodes=True,
)
