"""Tasks: a file counts only with its marker, whatever was killed when."""

import dataclasses
import errno
import threading
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engines.beam import BeamEngine
from pipelines.execution import task as tasks
from pipelines.execution.runner import run_stage
from pipelines.execution.task import (
    DeviceError,
    FileWorker,
    Stage,
    Task,
    TaskThreads,
    is_done,
    key,
    make_task,
    publish_model,
    read_marker,
)
from pipelines.steps.base import TableWorker, batches
from tests.helpers.builds import LOCAL

OUT = pa.schema([("id", pa.string()), ("value", pa.int64()), ("reject", pa.string())])


@dataclass(frozen=True)
class Add(Stage):
    """A toy stage: adds a number; ids that start with "bad" are rejected, a part that holds "boom" fails."""

    number: int
    place: str = ""
    name: ClassVar[str] = "add"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("place",)

    def open(self):
        return TableWorker(self, OUT, self.process)

    def process(self, batch):
        ids = batch.column("id").to_pylist()
        if "boom" in ids:
            raise RuntimeError("boom")
        bad = [name.startswith("bad") for name in ids]
        values = [None if no else self.number for no in bad]
        return pa.record_batch(
            [batch.column("id"), values, ["text.empty" if no else None for no in bad]], schema=OUT
        )


def run_task(stage, build, task):
    return stage.open().run(build, task)


@dataclass(frozen=True)
class Break(Stage):
    """A toy stage whose GPU breaks at the second task."""

    name: ClassVar[str] = "break"
    version: ClassVar[int] = 1

    def open(self):
        return FileWorker(self, self.make)

    def make(self, build, task, temporary):
        if task.output.endswith("b"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        temporary.write_bytes(b"x")
        return {}


def part(build, name, ids):
    path = build / "in" / name
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"id": ids, "samples": [16_000] * len(ids)}), path)
    return path


def task(stage, name):
    return Task(f"out/{name}", (f"in/{name}",), key(stage, [name]), 1)


def test_a_task_is_done_once_and_skipped_after(tmp_path):
    part(tmp_path, "p", ["a", "bad1"])
    stage = Add(3)
    assert [run_task(stage, tmp_path, task(stage, "p")) for _ in range(2)] == ["done", "skipped"]
    assert pq.read_table(tmp_path / "out/p").to_pylist() == [
        {"id": "a", "value": 3, "reject": None},
        {"id": "bad1", "value": None, "reject": "text.empty"},
    ]
    result = read_marker(tmp_path / "out/p")
    assert (result["rows"], result["rejects"]) == (2, {"text.empty": 1})


def test_other_settings_redo_the_task_and_a_place_does_not():
    assert key(Add(3), ["x"]) != key(Add(4), ["x"])
    assert key(Add(3), ["x"]) != key(Add(3), ["y"])
    assert key(Add(3, "here"), ["x"]) == key(Add(3, "there"), ["x"])


@pytest.mark.parametrize("left", ["data", "marker", "half a marker"])
def test_what_a_kill_leaves_is_never_taken_for_finished(tmp_path, left):
    part(tmp_path, "p", ["a"])
    stage = Add(3)
    run_task(stage, tmp_path, task(stage, "p"))
    whole = (tmp_path / "out/p").read_bytes()
    if left == "data":
        (tmp_path / "out/p.done").unlink()
    elif left == "marker":
        (tmp_path / "out/p").unlink()
    else:
        (tmp_path / "out/p.done").write_text('{"key": "')
    assert not is_done(tmp_path, task(stage, "p"))
    assert run_task(stage, tmp_path, task(stage, "p")) == "done"
    assert (tmp_path / "out/p").read_bytes() == whole


def test_a_kill_between_data_and_marker_never_leaves_new_data_under_the_old_marker(tmp_path, monkeypatch):
    part(tmp_path, "p", ["a"])
    old, new = Add(3), Add(4)
    run_task(old, tmp_path, task(old, "p"))

    class Killed(BaseException):
        pass

    def kill(path, data):
        raise Killed

    monkeypatch.setattr(tasks.files, "write", kill)
    with pytest.raises(Killed):
        run_task(new, tmp_path, task(new, "p"))
    assert not is_done(tmp_path, task(old, "p"))
    assert not is_done(tmp_path, task(new, "p"))


def test_a_failing_task_is_told_and_the_others_are_kept(tmp_path):
    part(tmp_path, "a", ["x"])
    part(tmp_path, "b", ["boom"])
    part(tmp_path, "c", ["y"])
    stage = Add(1)
    planned = [task(stage, name) for name in "abc"]
    with pytest.raises(ValueError, match=r"add: 1 of 3 tasks failed; first out/b: RuntimeError: boom"):
        run_stage(stage, tmp_path, planned, LOCAL, quiet=True)
    assert [is_done(tmp_path, one) for one in planned] == [True, False, True]
    part(tmp_path, "b", ["mended"])
    assert run_stage(stage, tmp_path, planned, LOCAL, quiet=True) == {
        "tasks": 3,
        "done": 1,
        "skipped": 2,
    }
    assert not list(tmp_path.glob("out/*.failed"))


def test_beam_in_process_gives_the_bytes_of_a_plain_loop(tmp_path):
    stage = Add(7)
    for engine in (LOCAL, BeamEngine()):
        build = tmp_path / engine.name
        build.mkdir()
        for name in "abc":
            part(build, name, [name, "bad"])
        run_stage(stage, build, [task(stage, name) for name in "abc"], engine, quiet=True)
    for name in "abc":
        assert (tmp_path / "local/out" / name).read_bytes() == (tmp_path / "beam/out" / name).read_bytes()


@given(st.lists(st.integers(0, 10 * 60 * 16_000), max_size=30))
def test_batches_keep_every_row_in_order_and_their_minutes(lengths):
    table = pa.table({"samples": pa.array(lengths, pa.int64())})
    made = [batch.column("samples").to_pylist() for batch in batches(table, minutes=5)]
    assert [length for batch in made for length in batch] == lengths
    assert all(len(batch) == 1 or sum(batch) <= 5 * 60 * 16_000 for batch in made)


def test_a_stage_is_settings_only():
    assert dataclasses.asdict(Add(3)) == {"number": 3, "place": ""}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Add(3).number = 4


@pytest.mark.parametrize("engine", [LOCAL, BeamEngine()], ids=lambda engine: engine.name)
def test_a_gpu_in_a_bad_state_ends_the_worker_and_costs_no_other_task_a_reject(engine, tmp_path):
    stage = Break()
    planned = [make_task(stage, f"out/{name}", {}, 3 - place) for place, name in enumerate("abc")]
    with pytest.raises(DeviceError, match="break: out/b: RuntimeError: CUDA error: an illegal memory access"):
        run_stage(stage, tmp_path, planned, engine, quiet=True)
    assert [is_done(tmp_path, task) for task in planned] == [True, False, False]
    assert [path.name for path in (tmp_path / "out").glob("*.failed")] == ["b.failed"]


def test_a_full_disk_is_named_where_a_model_or_a_part_is_written(tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=f"the disk of {tmp_path} is full; .*m.safetensors was not written"):
        publish_model(full, tmp_path / "m.safetensors", {})
    part(tmp_path, "a", ["a"])
    assert tasks.run_task(Add(3), full, tmp_path, make_task(Add(3), "out/a", {"in/a": "d"}, 1)) == "failed"
    assert f"the disk of {tmp_path / 'out'} is full" in (tmp_path / "out" / "a.failed").read_text()


def test_at_most_two_tasks_are_at_work_and_an_error_is_raised_when_the_others_are_over():
    both, over = threading.Barrier(2, timeout=20), []

    def run(name):
        if name in "ab":
            both.wait()  # passes only where both are at work
        if name == "b":
            raise DeviceError("a bad GPU")
        over.append(name)

    def run_all():
        with TaskThreads(2) as threads:
            for name in "abcd":
                threads.submit(run, name)

    with pytest.raises(DeviceError, match="a bad GPU"):
        run_all()
    assert over in (
        ["a"],
        ["a", "c"],
    )  # the error is raised where another task would take the place of a finished one


def test_one_task_at_a_time_needs_no_thread():
    names = []
    with TaskThreads(1) as threads:
        threads.submit(lambda: names.append(threading.current_thread()))
    assert names == [threading.main_thread()]
