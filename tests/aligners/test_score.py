"""Boundary errors."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligners.alignment import TimedWord
from aligners.score import boundary_errors, main, summarise
from tests.aligners.test_given import LONG, SHORT


def test_errors_are_late_positive_milliseconds_start_and_end_by_turns():
    reference = [TimedWord("a", 0.1, 0.2), TimedWord("b", 0.2, 0.5)]
    estimate = [TimedWord("a", 0.11, 0.2), TimedWord("b", 0.2, 0.45)]
    assert np.allclose(boundary_errors(reference, estimate), [10, 0, 0, -50])
    with pytest.raises(ValueError, match="need the same words"):
        boundary_errors(reference, estimate[:1])


def test_nothing_to_compare_is_a_count_of_0():
    assert summarise([]) == {"boundaries": 0}


def test_two_folders_are_compared_from_the_command_line(tmp_path, capsys):
    reference, estimate = tmp_path / "reference", tmp_path / "estimate"
    for folder in (reference, estimate):
        folder.mkdir()
        (folder / "a.TextGrid").write_text(SHORT)
    (estimate / "a.TextGrid").write_text(
        SHORT.replace("\n1\n", "\n1.04\n").replace("<exists>\n1.04", "<exists>\n1")
    )
    (reference / "b.TextGrid").write_text(LONG)
    assert main([str(reference), str(estimate)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["utterances"], report["in_one_only"]) == (1, 1)
    assert report["mean_ms"] == pytest.approx(20)
    assert report["within_20ms"] == 0.5


def test_files_of_other_words_fail_by_name(tmp_path, capsys):
    (tmp_path / "a.TextGrid").write_text(SHORT)
    (tmp_path / "b.TextGrid").write_text(LONG)
    assert main([str(tmp_path / "a.TextGrid"), str(tmp_path / "b.TextGrid")]) == 1
    assert "b: align.token_mismatch" in capsys.readouterr().err


def test_files_of_many_utterances_and_a_builds_words_are_compared_by_id(tmp_path, capsys):
    (tmp_path / "a.ctm").write_text("u 1 0.0 0.5 forty\nu 1 0.5 0.5 two\nv 1 0.0 1.0 hi\nw 1 0 1 alone\n")
    rows = [
        {"id": "u", "words": [{"text": "Forty-two", "start": 0.01, "end": 1.0}]},
        {"id": "v", "words": [{"text": "Hi,", "start": 0.0, "end": 1.03}]},
        {"id": "x", "words": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-00000.parquet")
    assert main([str(tmp_path / "a.ctm"), str(tmp_path / "part-00000.parquet")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["utterances"], report["in_one_only"], report["boundaries"]) == (2, 1, 4)
    assert report["mean_ms"] == pytest.approx(10)


def test_what_is_not_there_or_cannot_be_read_is_said_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "none"), str(tmp_path)])
    assert caught.value.code == 2
    (tmp_path / "broken.ctm").write_text("u 1 x\n")
    assert main([str(tmp_path / "broken.ctm"), str(tmp_path)]) == 1
    assert "broken.ctm: align.unreadable" in capsys.readouterr().err
