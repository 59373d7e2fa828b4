"""The bytes of a tiny build, step by step and engine by engine, are those under tests/data."""

import json

import pytest

from corpus.records import Unusable
from pipelines.engines.beam import BeamEngine
from pipelines.engines.local import LocalEngine
from pipelines.engines.requirements import java
from pipelines.engines.spark import SparkEngine
from tests import golden

EXPECTED = json.loads((golden.DATA / "build.json").read_bytes())


@pytest.mark.parametrize("engine", [LocalEngine(), BeamEngine(2)], ids=lambda engine: engine.name)
def test_every_step_gives_the_golden_bytes(engine, tmp_path):
    """Raise the version of the stage and run `make golden` where a change is on purpose."""
    hashes = golden.build_hashes(tmp_path, engine)
    for step, digest in EXPECTED["steps"].items():
        assert hashes["steps"][step] == digest, step
    assert hashes == EXPECTED


@pytest.mark.slow
def test_spark_gives_the_golden_bytes(tmp_path):
    pytest.importorskip("pyspark", reason="the extra spark")
    try:
        java()
    except Unusable as error:
        pytest.skip(f"Spark: {error}")
    assert golden.build_hashes(tmp_path, SparkEngine(2)) == EXPECTED


def test_every_step_with_a_table_is_covered():
    """All but F0, whose last bits depend on the CPU; the tokens made from it are covered."""
    assert EXPECTED["steps"].keys() == {"ingest", "units", "pitch", "style", "align", "interleave"}
