"""The step `speakers`: in recordings of unknown speakers, which utterances have the same voice.

With `[speakers] enabled`, ingest (or `cut`) writes the utterances into `voices/manifest`. The tasks of this step, one
for each of its parts, write an embedding of each utterance without a speaker into `voices/embeddings`. The driver
clusters those of each recording, and writes the manifest of the build, with the speaker "estimated:ID" for each voice,
ID being its first utterance. Pitch, style and the choice of what is held out then use them as they use known speakers.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from corpus import files
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance
from corpus.speaker_embeddings import SIZE, cluster_voices, embed, identity
from pipelines.execution.task import Stage, Task, key_function
from pipelines.layout import VOICES, part_names, parts
from pipelines.settings import Settings
from pipelines.steps.audio import AudioStage, AudioWorker, Row
from pipelines.steps.base import Run, Step, reject_columns, row_utterance
from pipelines.steps.ingest import plan_manifest, say_manifest, write_build_manifest

EMBEDDINGS = pa.schema(
    [
        ("id", pa.string()),
        ("embedding", pa.list_(pa.float32(), SIZE)),
        ("speech", pa.float32()),  # seconds that it is made of; 0: the speaker is known, or nobody speaks
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
LEAST = 20.0
"""Seconds of speech that make a voice a speaker: one in a strong emotion is a voice of its own, but a short one."""
LABEL = "estimated:"


@dataclass(frozen=True)
class EmbedVoices(AudioStage):
    """Utterances without speaker -> embeddings of their voices."""

    network: str  # hash of its weights
    device: str = "cpu"
    name: ClassVar[str] = "speakers"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("device",)

    def open(self) -> AudioWorker:
        """One thread: workers share the cores."""
        import torch

        torch.set_num_threads(1)
        return AudioWorker(self, EMBEDDINGS, embed_batch)


def embed_batch(batch: pa.RecordBatch, rows: list[Row]) -> pa.RecordBatch:
    """The embeddings of a batch of decoded recordings, to four digits."""
    vectors: list[Any] = []
    seconds = []
    for utterance, wave, _ in rows:
        vector, length = np.zeros(SIZE, np.float32), 0.0
        if utterance is not None and wave is not None and utterance.speaker is None:
            vector, length = embed(wave)
        vectors.append(np.round(vector, 4))
        seconds.append(length)
    columns = [
        batch.column("id"),
        pa.array(vectors, EMBEDDINGS.field("embedding").type),
        pa.array(seconds, pa.float32()),
    ]
    rejects = reject_columns([reject for _, _, reject in rows])
    return pa.record_batch([*columns, *rejects], schema=EMBEDDINGS)


def speaker_tasks(run: Run) -> tuple[EmbedVoices, list[Task]]:
    """One task per part of the utterances."""
    stage = EmbedVoices(identity())
    key_of = key_function(stage)
    return stage, [
        Task(
            f"{VOICES}/embeddings/{part.name}", (f"{VOICES}/manifest/{part.name}",), key_of(part.sha256),
            part.samples, hashes=(part.sha256,),
        )
        for part in parts(run.folder / VOICES)
    ]  # fmt: skip


def named_rows(run: Run) -> Iterator[Utterance | RejectedRow]:
    """The rows of the manifest, with the estimated speakers; a recording at a time."""
    recordings = itertools.groupby(read_rows(run), key=lambda pair: (pair[0]["audio"], pair[0]["channel"]))
    for _, group in recordings:
        pairs = list(group)
        names = estimate_speakers(pairs, run.settings.speakers.similarity)
        for (row, _), name in zip(pairs, names, strict=True):
            utterance = row_utterance(row | {"speaker": row["speaker"] or name})
            reject = row["reject"]
            yield RejectedRow(utterance, Reject(reject, row["detail"] or "")) if reject else utterance


def read_rows(run: Run) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each utterance with its embedding."""
    for name in part_names(run.folder / VOICES):
        rows = files.read_table(run.folder / VOICES / "manifest" / name).to_pylist()
        yield from zip(
            rows, files.read_table(run.build / VOICES / "embeddings" / name).to_pylist(), strict=True
        )


def estimate_speakers(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]], similarity: float
) -> list[str | None]:
    """The speaker of each utterance of one recording; None where a voice has too little speech."""
    spoken = [number for number, (_, voice) in enumerate(pairs) if voice["speech"] > 0]
    names: list[str | None] = [None] * len(pairs)
    if len(spoken) < 2:
        return names
    seconds = [pairs[number][1]["speech"] for number in spoken]
    vectors = np.array([pairs[number][1]["embedding"] for number in spoken], np.float32)
    labels = cluster_voices(vectors, seconds, similarity)
    for label in range(max(labels) + 1):
        members = [place for place, own in enumerate(labels) if own == label]
        if sum(seconds[place] for place in members) >= LEAST:
            for place in members:
                names[spoken[place]] = LABEL + str(pairs[spoken[members[0]]][0]["id"])
    return names


def write_named_manifest(run: Run, stage: Stage, tasks: list[Task]) -> None:
    """Write the manifest of the build once all voices are embedded."""
    summary = write_build_manifest(run, named_rows(run))
    say_manifest(run, "speakers", summary)


def is_wanted(settings: Settings) -> bool:
    """Whether speakers are estimated."""
    return settings.speakers.enabled


SPEAKERS_STEP = Step(
    "speakers",
    "Estimate unknown speakers",
    after=("ingest",),
    wanted=is_wanted,
    tasks=speaker_tasks,
    finish=write_named_manifest,
    plan=functools.partial(
        plan_manifest, tasks=speaker_tasks, write=write_named_manifest, table=lambda run: "manifest"
    ),
    writes_manifest=True,
)
