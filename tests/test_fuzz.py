"""A few seconds of the fuzzer, with fixed seeds; `make fuzz` runs it for longer."""

import pytest

from tests import fuzz

INPUTS = {
    "audio": 300,
    "manifest": 60,
    "shards": 25,
    "model": 25,
    "encoder": 10,
    "documents": 150,
    "table": 60,
}


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_input_is_read_or_refused_in_one_line(target, tmp_path):
    counts = fuzz.run(target, seed=1, most=INPUTS.get(target, 100), keep=tmp_path)
    assert counts["refused"] > 0
    assert sum(counts.values()) == INPUTS.get(target, 100)


def test_a_reader_that_raises_anything_else_is_a_finding(tmp_path, monkeypatch):
    def broken(path):
        raise KeyError("sha256")

    target = fuzz.Target(fuzz.TARGETS["table"].make, broken)
    monkeypatch.setitem(fuzz.TARGETS, "table", target)
    with pytest.raises(AssertionError, match=r"table, seed 1, input 0: KeyError"):
        fuzz.run("table", seed=1, most=1, keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
