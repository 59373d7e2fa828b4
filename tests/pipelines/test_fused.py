"""Several tables from one decode: the same files as one stage after the other, with fewer decodes."""

import json
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipelines import settings
from pipelines.build import run_step
from pipelines.engines.beam import BeamEngine
from pipelines.execution.runner import run_stage
from pipelines.layout import part_tasks
from pipelines.steps import audio, fused
from pipelines.steps.audio import AudioStage, AudioWorker, DecodedCache
from pipelines.steps.base import Run, reject_columns
from tests.helpers.builds import LOCAL

POWER = pa.schema(
    [("id", pa.string()), ("power", pa.float64()), ("reject", pa.string()), ("detail", pa.string())]
)


@dataclass(frozen=True)
class Measure(AudioStage):
    """The power of each recording."""

    name: str
    device: str = "cpu"
    fails: bool = False
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("device",)

    def open(self):
        return AudioWorker(self, POWER, self.process)

    def process(self, batch, rows):
        if self.fails:
            raise ValueError("no power today")
        power = [None if wave is None else float(np.mean(wave.astype(float) ** 2)) for _, wave, _ in rows]
        rejects = reject_columns([row[2] for row in rows])
        return pa.record_batch([batch.column("id"), pa.array(power, pa.float64()), *rejects], schema=POWER)


DECODED: list[str] = []
"""Ids of the recordings decoded, in order."""
STARTED: list[str] = []
"""Ids of the first recordings of the parts that `Patient.process` started on, and then "over" for each."""


@dataclass(frozen=True)
class Patient(Measure):
    """As `Measure`, once both recordings of the next part are decoded."""

    device: str = "cuda"  # imitated: nothing here computes on it

    def process(self, batch, rows):
        assert len(STARTED) % 2 == 0  # one part at a time
        STARTED.append(batch.column("id")[0].as_py())
        until = time.monotonic() + 20
        while len(DECODED) < min(6, len(STARTED) + 3):
            assert time.monotonic() < until, "the next part is not decoded ahead"
            time.sleep(0.01)
        result = super().process(batch, rows)
        STARTED.append("over")
        return result


@pytest.fixture
def build(tmp_path):
    """Three parts of two recordings each, one of them gone since it was listed."""
    rng, rows = np.random.default_rng(0), []
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", rng.normal(size=12_000) * 0.1, 16_000)
        rows.append({"id": f"u{i}", "audio": f"{i}.wav", "text": "a"})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = settings.replace(settings.Settings(), "corpus", source=str(tmp_path / "manifest.jsonl"))
    run_step("ingest", tmp_path / "build", settings.replace(config, "corpus", part_minutes=0.02))
    (tmp_path / "3.wav").unlink()
    return tmp_path / "build"


@pytest.fixture
def decodes(monkeypatch):
    """Ids of the recordings decoded, in order."""
    decode = audio.Decoder.decode

    def note(decoder, utterance):
        DECODED.append(utterance.id)
        return decode(decoder, utterance)

    monkeypatch.setattr(audio.Decoder, "decode", note)
    DECODED.clear()
    return DECODED


def planned(build, *stages):
    return [(stage, part_tasks(build, stage, stage.name)) for stage in stages]


def run_fused(build, stages):
    fused.run_fused(Run(build, settings.Settings(), LOCAL, ()), stages)


def files(build):
    paths = [path for name in ("one", "two") for path in (build / name).glob("*")]
    return {str(path.relative_to(build)): path.read_bytes() for path in paths}


def test_two_stages_together_write_what_each_writes_alone_from_one_decode(build, decodes):
    both = planned(build, Measure("one"), Measure("two"))
    run_fused(build, both)
    assert sorted(decodes) == [f"u{i}" for i in range(6)]
    together = files(build)
    assert len(together) == 12  # three parts and three markers each
    for stage, tasks in both:
        assert run_stage(stage, build, tasks, LOCAL)["skipped"] == 3
        for path in (build / stage.name).glob("*"):
            path.unlink()
        run_stage(stage, build, tasks, LOCAL)
    assert files(build) == together
    assert len(decodes) == 18


def test_only_parts_for_which_several_stages_wait_are_made_together(build, decodes):
    one, two = planned(build, Measure("one"), Measure("two"))
    run_stage(one[0], build, one[1], LOCAL)
    decodes.clear()
    run_fused(build, [one, two])
    assert decodes == []
    (build / "one" / "part-00001.parquet.done").unlink()
    run_fused(build, [one, two])
    assert sorted(decodes) == ["u2", "u3"]
    assert [path.name for path in (build / "two").glob("*.parquet")] == ["part-00001.parquet"]


def test_a_stage_that_fails_together_is_named_and_the_others_keep_what_they_made(build):
    one, two = planned(build, Measure("one"), Measure("two", fails=True))
    with pytest.raises(ValueError, match=r"two/part-00000.parquet.*no power today"):
        run_fused(build, [one, two])
    assert len(list((build / "one").glob("*.parquet"))) == 3
    one, two = planned(build, Measure("one", fails=True), Measure("two"))
    run_fused(build, [one, two])
    assert len(list((build / "two").glob("*.parquet"))) == 3
    with pytest.raises(ValueError, match=r"one/part-00000.parquet.*no power today"):
        run_stage(one[0], build, one[1], LOCAL)


def test_a_part_larger_than_the_memory_kept_is_decoded_again(build, decodes):
    table = next(iter(pq.read_table(build / "manifest" / "part-00000.parquet").to_batches()))
    small, large = DecodedCache(samples=23_999), DecodedCache(samples=24_000)
    for kept in (small, small, large, large):
        assert [len(wave) for _, wave, _ in kept(table)] == [12_000, 12_000]
    assert len(decodes) == 6


def test_many_threads_decode_in_order(build):
    table = next(iter(pq.read_table(build / "manifest" / "part-00001.parquet").to_batches()))
    one, many = audio.decode_batch(table), audio.decode_batch(table, threads=4)
    assert [row[0] for row in one] == [row[0] for row in many]
    assert [str(row[2]) for row in one] == [str(row[2]) for row in many]
    assert np.array_equal(one[0][1], many[0][1])


@pytest.mark.parametrize("engine", [LOCAL, BeamEngine()], ids=["local", "beam"])
def test_a_gpu_s_next_part_is_decoded_while_it_computes_one_and_the_bytes_are_the_same(
    build, decodes, engine
):
    stage = Measure("one")
    tasks = part_tasks(build, stage, "one")
    run_stage(stage, build, tasks, LOCAL)
    alone = files(build)
    for path in (build / "one").glob("*"):
        path.unlink()
    decodes.clear()
    STARTED.clear()
    run_stage(Patient("one"), build, tasks, engine)
    assert files(build) == alone
    assert sorted(decodes) == [f"u{i}" for i in range(6)]


def test_a_gpu_s_parts_share_the_cores_and_recordings_behind_urls_are_requested_together(monkeypatch):
    monkeypatch.setattr(audio.os, "sched_getaffinity", lambda _: set(range(6)))
    here, there = (pa.table({"audio": ["1.wav", path]}) for path in ("2.wav", "s3://speech/2.wav"))
    counts = [
        audio.decoding_threads(Measure("one", device=device), table)
        for device in ("cpu", "cuda")
        for table in (here, there)
    ]
    assert counts == [1, 16, 2, 16]


def test_a_part_that_fails_on_a_gpu_is_named_and_the_next_one_is_kept(build, monkeypatch):
    read = audio.files.read_table

    def broken(path, *options):
        if path.name == "part-00001.parquet":
            raise ValueError("a broken part")
        return read(path, *options)

    stage = Measure("one", device="cuda")
    tasks = part_tasks(build, stage, "one")
    monkeypatch.setattr(audio.files, "read_table", broken)
    with pytest.raises(ValueError, match=r"1 of 3 tasks failed; first one/part-00001.parquet: a broken part"):
        run_stage(stage, build, tasks, LOCAL)
    assert sorted(path.name for path in (build / "one").glob("*.done")) == [
        "part-00000.parquet.done", "part-00002.parquet.done",
    ]  # fmt: skip
