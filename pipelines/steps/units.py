"""The stages of a build: frozen settings, models loaded in `setup`, and a pure function on record batches."""

import abc
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligners import load_aligner
from aligners.quality import agreement, differences, judge
from corpus import files
from corpus.audio import decode
from corpus.records import SAMPLE_RATE, Reject, Utterance
from pipelines.execution.task import TableStage, Task, ahead, batches, utterance

UNITS = pa.schema(
    [("id", pa.string()), ("units", pa.list_(pa.int16())), ("reject", pa.string()), ("detail", pa.string())]
)
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


Row = tuple[Utterance | None, np.ndarray | None, Reject | None]


def decoded(batch: pa.RecordBatch, threads: int = 1) -> Iterator[Row]:
    """Each manifest row with its waveform, or with the reason why it has none."""
    if threads == 1:
        yield from map(heard, batch.to_pylist())
        return
    with ThreadPoolExecutor(threads, "decode") as pool:
        yield from pool.map(heard, batch.to_pylist())


def heard(row: dict[str, Any]) -> Row:
    """One manifest row with its waveform, or with the reason why it has none."""
    if row["reject"] is not None:
        return None, None, Reject(row["reject"], row["detail"])
    item = utterance(row)
    try:
        return item, decode(item), None
    except Reject as reject:
        return item, None, reject


class Kept:
    """Decoded recordings of a part, for the next stage that listens to it. Memory is bounded: what is more goes."""

    def __init__(self, samples: int = 30 * 60 * SAMPLE_RATE):
        self._left = samples
        self._rows: dict[tuple[str, ...], list[Row]] = {}

    def rows(self, batch: pa.RecordBatch, threads: int = 1) -> list[Row]:
        """As `decoded`."""
        ids = tuple(batch.column("id").to_pylist())
        rows = self._rows.get(ids)
        if rows is None:
            rows = list(decoded(batch, threads))
            size = sum(len(wave) for _, wave, _ in rows if wave is not None)
            if size <= self._left:
                self._left -= size
                self._rows[ids] = rows
        return rows


class ListeningStage(TableStage):
    """A stage made of decoded recordings. Those of the next batch are decoded while it works on this one.

    `pipelines.steps.fused` runs several on one decode.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    outside_key: ClassVar[tuple[str, ...]]
    device: str

    @abc.abstractmethod
    def setup(self) -> None:
        """Load models, once per worker process."""

    @abc.abstractmethod
    def made(self, batch: pa.RecordBatch, rows: list[Row]) -> pa.RecordBatch:
        """`process`, of a batch whose recordings are decoded."""

    def rows(self, batch: pa.RecordBatch) -> list[Row]:
        """The batch's recordings. Workers on CPUs share the cores; a GPU waits for all the cores there are."""
        threads = 1 if self.device == "cpu" else len(os.sched_getaffinity(0))
        kept = getattr(self, "_kept", None)
        return kept.rows(batch, threads) if kept else list(decoded(batch, threads))

    def processed(self, cut: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
        for batch, rows in ahead((batch, self.rows(batch)) for batch in cut):
            yield batch, self.made(batch, rows)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.made(batch, self.rows(batch))


@dataclass(frozen=True)
class EncodeUnits(ListeningStage):
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
    schema: ClassVar[pa.Schema] = UNITS

    def setup(self) -> None:
        object.__setattr__(
            self, "_encoder", one_thread_encoder(self.encoder, self.layer, self.device, self.dtype)
        )
        from units.quantizers import load_codebook

        object.__setattr__(
            self, "_codebook", load_codebook(files.local(self.codebook), trust_pickle=self.trust_pickle)
        )

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Note the units' hop and first centre (samples at 16 kHz) beside the part: interleaving needs them."""
        frames = {"hop": self._encoder.hop, "centre": self._encoder.centre}  # type: ignore[attr-defined]
        return {**super().make(build, task, temporary), **frames}

    def made(self, batch: pa.RecordBatch, rows: list[Row]) -> pa.RecordBatch:
        """The units of a batch whose recordings are decoded."""
        from units.encode import encode_units

        encoder, codebook = self._encoder, self._codebook  # type: ignore[attr-defined]
        waves = [wave for _, wave, _ in rows if wave is not None]
        made: Iterator[np.ndarray | Reject]
        try:
            made = iter(encode_units(encoder, codebook, waves))
        except ValueError:  # one of them: alone it is found
            made = (encoded_alone(encoder, codebook, wave) for wave in waves)
        units: list[np.ndarray | None] = []
        rejects: list[Reject | None] = []
        for _, wave, reject in rows:
            sequence = next(made) if wave is not None else None
            if isinstance(sequence, Reject):
                reject, sequence = sequence, None
            elif wave is not None and sequence is not None and len(sequence) == 0:
                reject = Reject("units.too_short", f"{len(wave)} samples, need {encoder.minimum}")
            rejects.append(reject)
            units.append(None if reject or sequence is None else sequence.astype(np.int16))
        return pa.record_batch(
            [batch.column("id"), pa.array(units, UNITS.field("units").type), *reasons(rejects)], schema=UNITS
        )


def encoded_alone(encoder: Any, codebook: Any, wave: np.ndarray) -> np.ndarray | Reject:
    """Units of one recording, or why it has none."""
    from units.encode import encode_units

    try:
        return encode_units(encoder, codebook, [wave])[0]
    except ValueError as error:
        return Reject("units.failed", str(error))


Named = tuple[str, tuple[tuple[str, Any], ...]]
"""An aligner: backend and settings."""


@dataclass(frozen=True)
class AlignWords(TableStage):
    """Utterances -> word times, by any aligner. Failure is a value: the reason stands in `reject`.

    A second aligner only says how far the two are apart, per word and per utterance; `limits` holds what an utterance
    must keep to, measure -> [least, most] (`aligners.quality`).
    """

    aligner: Named
    identity: str
    second: Named | None = None
    second_identity: str = ""
    limits: tuple[tuple[str, tuple[float, ...]], ...] = ()
    name: ClassVar[str] = "align"
    version: ClassVar[int] = 2  # 2: more measures, distance from a second aligner
    outside_key: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[pa.Schema] = WORDS

    def setup(self) -> None:
        for field, named in (("_aligner", self.aligner), ("_second", self.second)):
            loaded = named and load_aligner(named[0], **dict(named[1]))
            object.__setattr__(self, field, loaded)

    @property
    def batch_minutes(self) -> float:
        return self._aligner.batch_minutes  # type: ignore[attr-defined]

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = list(decoded(batch))
        items = [(item, wave) for item, wave, _ in rows if item is not None and wave is not None]
        alignments = self._aligner.align(items)  # type: ignore[attr-defined]
        second = self._second  # type: ignore[attr-defined]
        others = second.align(items) if second else [None] * len(items)
        pairs = iter(zip(alignments, others, strict=True))
        words, quality, rejects = [], [], []
        for _, wave, reject in rows:
            alignment, other = next(pairs) if wave is not None else (None, None)
            measures = dict(alignment.quality) if alignment else None
            reject = reject or (alignment.reject if alignment else None)
            apart: list[float | None] = []
            if alignment and measures is not None and not reject:
                apart = [None] * len(alignment.words)
                if other and not other.reject:
                    measures["agreement_ms"] = agreement(alignment.words, other.words)
                    apart = differences(alignment.words, other.words).tolist()
                reject = judge(measures, dict(self.limits))
            kept = zip(alignment.words, apart, strict=True) if alignment and not reject else None
            words.append(
                kept
                and [
                    {name: getattr(word, name) for name in FIELDS} | {"apart_ms": distance}
                    for word, distance in kept
                ]
            )
            quality.append(None if measures is None else json.dumps(measures, sort_keys=True))
            rejects.append(reject)
        columns = [
            batch.column("id"),
            pa.array(words, WORDS.field("words").type),
            pa.array(quality, pa.string()),
        ]
        return pa.record_batch([*columns, *reasons(rejects)], schema=WORDS)


@dataclass(frozen=True)
class SampleFrames:
    """Utterances -> a random share of their feature frames, for k-means: (rows, D) float32.

    Whether an utterance and a frame is taken hangs on (seed, id) alone, so that any engine and worker count draws the
    same frames.
    """

    encoder: str
    layer: int | None
    dtype: str
    device: str
    encoder_identity: str
    seed: int
    utterance_share: float
    frame_share: float
    name: ClassVar[str] = "fit units"
    version: ClassVar[int] = 2  # 2: k-means from other seeds, fewer steps
    outside_key: ClassVar[tuple[str, ...]] = ("encoder", "device")

    def setup(self) -> None:
        object.__setattr__(
            self, "_encoder", one_thread_encoder(self.encoder, self.layer, self.device, self.dtype)
        )

    def make(self, build: Path, task: Task, temporary: Path) -> dict[str, Any]:
        """Write the drawn frames of one manifest part as a Parquet column of fixed-size lists."""
        encoder = self._encoder  # type: ignore[attr-defined]
        column = pa.list_(pa.float32(), encoder.dimension)
        schema, count = pa.schema([("frame", column)]), 0
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for rows in ahead(map(self.taken, batches(files.read_table(build / task.inputs[0])))):
                for (item, _, _), frames in zip(
                    rows, features(encoder, [wave for _, wave, _ in rows if wave is not None]), strict=True
                ):
                    rng = np.random.default_rng(int.from_bytes(self.digest(item.id), "big"))  # type: ignore[union-attr]
                    kept = np.ascontiguousarray(
                        frames[rng.random(len(frames)) < self.frame_share], np.float32
                    )
                    flat = pa.FixedSizeListArray.from_arrays(pa.array(kept.ravel()), type=column)
                    writer.write_batch(pa.record_batch([flat], schema=schema))
                    count += len(kept)
        return {"frames": count}

    def taken(self, batch: pa.RecordBatch) -> list[Row]:
        """The drawn utterances of a batch that can be decoded."""
        drawn = [self.draw(name) < self.utterance_share for name in batch.column("id").to_pylist()]
        return [row for row in decoded(batch.filter(pa.array(drawn))) if row[1] is not None]

    def digest(self, name: str) -> bytes:
        """sha256 of (seed, id)."""
        return hashlib.sha256(f"{self.seed}|frames|{name}".encode()).digest()

    def draw(self, name: str) -> float:
        """A number in [0, 1) that hangs on (seed, id) alone."""
        return int.from_bytes(self.digest(name)[:8], "little") / 2**64


def features(encoder: Any, waves: list[np.ndarray]) -> list[np.ndarray]:
    """Frames of each recording; none of one that the units stage will reject."""
    try:
        found = encoder.encode(waves)
    except ValueError:  # one of them
        if len(waves) == 1:
            return [np.zeros((0, encoder.dimension), np.float32)]
        found = [frames for wave in waves for frames in features(encoder, [wave])]
    return [frames if np.isfinite(frames).all() else frames[:0] for frames in found]


def reasons(rejects: list[Reject | None]) -> tuple[pa.Array, pa.Array]:
    """The columns `reject` and `detail`."""
    codes = pa.array([reject.reason if reject else None for reject in rejects], pa.string())
    return codes, pa.array([reject.detail if reject else None for reject in rejects], pa.string())


def one_thread_encoder(name: str, layer: int | None, device: str, dtype: str) -> Any:
    """Load an encoder in a worker, one thread each: workers share the cores, results hang on no core count."""
    import torch

    from units.encoders import load_encoder

    torch.set_num_threads(1)
    return load_encoder(name, layer=layer, device=device, dtype=dtype)
