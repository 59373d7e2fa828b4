"""The driver's memory in the steps of intake does not grow with the rows of the corpus."""

import tracemalloc

import pytest

from benchmarks import intake_memory
from corpus.adapters import base
from pipelines.build import make_run
from pipelines.steps import probe, speakers

STEPS = ("ingest", "cut", "transcribe", "speakers", "quality", "hashes", "preview")
"""Those that need no units and no words; `benchmarks/intake_memory.py` measures all."""


@pytest.mark.slow
def test_the_memory_of_every_step_is_that_of_a_corpus_of_a_third_of_the_size(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "read_header", base.read_header)  # what is replaced comes back
    monkeypatch.setattr(speakers, "identity", speakers.identity)
    monkeypatch.setattr(probe, "MOST", 300)  # rows of a chunk, which is held as a whole
    intake_memory.leave_out_models()

    def peaks(rows):
        wanted = intake_memory.make_settings(rows, tmp_path / str(rows))
        run = make_run(tmp_path / str(rows) / "build", wanted, intake_memory.FillingEngine())
        held = {}
        for step in STEPS:
            tracemalloc.start()
            intake_memory.run_one(step, run)
            held[step] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return held

    peaks(50)  # imports
    few, many = peaks(1100), peaks(3300)
    grown = {step: (many[step] - few[step]) / 2200 for step in STEPS}
    assert max(grown.values()) < 100, grown  # bytes a row, of which each takes a thousand where rows are kept
