import json

import pytest

from tests import golden


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty folder of golden files, of one thing that is made from `content`."""
    content = {"version": 1, "files": {"a": "0"}}
    monkeypatch.setattr(golden, "DATA", tmp_path)
    monkeypatch.setattr(golden, "GOLDEN", {"x.json": lambda folder: content})
    return content


def test_shards_and_streams_have_the_bytes_of_their_version(tmp_path):
    """Raise `shards.write.SCHEMA` or `shards.read.ORDER` and run `make golden` where a change is on purpose."""
    assert golden.shard_hashes(tmp_path) == json.loads((golden.DATA / "shards.json").read_bytes())


def test_golden_hashes_are_remade_only_with_a_raised_version(data, tmp_path, capsys):
    assert golden.remake() == 0
    data["files"] = {"a": "1"}
    assert golden.remake() == 1
    assert "x.json: bytes changed at version 1: raise it" in capsys.readouterr().err
    assert json.loads((tmp_path / "x.json").read_bytes())["files"] == {"a": "0"}
    data["version"] = 2
    assert golden.remake() == 0
    assert json.loads((tmp_path / "x.json").read_bytes()) == data
