"""Worker processes of one machine share its GPUs evenly; the GPUs are imitated, the locks are real."""

import multiprocessing

import pytest

from pipelines.engines.beam import BeamEngine
from pipelines.execution import gpus
from tests.helpers.stage import Copy

GPUS = [gpus.Gpu("one", 24 * 2**30), gpus.Gpu("two", 4 * 2**30)]


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "visible_gpus", lambda: GPUS)
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))


def claim(results, end):
    results.put(gpus.worker_device("cuda"))
    end.wait(30)


def test_workers_spread_over_the_gpus_and_free_them_when_they_end(two_gpus):
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        results, end = context.Queue(), context.Event()
        workers = [context.Process(target=claim, args=(results, end)) for _ in range(5)]
        for worker in workers:
            worker.start()
        devices = [results.get(timeout=30) for _ in workers]
        assert sorted(devices) == ["cuda:0", "cuda:0", "cuda:0", "cuda:1", "cuda:1"]
        end.set()
        for worker in workers:
            worker.join(30)


def test_a_named_device_is_taken_as_it_is_and_one_gpu_needs_no_number(two_gpus, monkeypatch):
    assert [gpus.worker_device(name) for name in ("cpu", "cuda:1")] == ["cpu", "cuda:1"]
    monkeypatch.setattr(gpus, "visible_gpus", lambda: GPUS[:1])
    assert gpus.worker_device("cuda") == "cuda"


def test_the_local_runner_starts_no_more_workers_than_fit_into_the_memory_of_the_gpus(two_gpus, monkeypatch):
    started = []
    monkeypatch.setattr(
        "pipelines.engines.beam.pipeline_module",
        lambda: type(
            "Pipeline", (), {"run": staticmethod(lambda *_, workers, **__: started.append(workers))}
        ),
    )
    assert gpus.count_places() == 5  # 24 GB hold 4 workers, and each GPU holds one
    for uses_gpu in (True, False):
        monkeypatch.setattr(Copy, "uses_gpu", property(lambda _, value=uses_gpu: value))
        BeamEngine(workers=16).run(Copy("log"), None, [None] * 20)
    assert started == [5, 16]
