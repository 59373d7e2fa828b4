"""The manifest: nothing is lost, parts are even, bytes are the same, a kill leaves nothing half-written."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.manifest import (
    SCHEMA,
    VERSION,
    RejectedRow,
    escape_id,
    part_length,
    parts,
    read_part,
    read_summary,
    utterances,
    write_manifest,
)
from corpus.records import Reject, Utterance

ROOT = Path(__file__).resolve().parents[2]


def utterance(id: str = "a", seconds: float = 1.0, text: str | None = "hello", **fields) -> Utterance:
    return Utterance(id, "a.wav", round(seconds * 16000), text=text, **fields)


def written(folder: Path, *rows, **options) -> list[dict]:
    """All rows of the manifest that these rows become."""
    write_manifest(rows, folder / "manifest", **options)
    return [row for part in parts(folder / "manifest") for row in read_part(part).to_pylist()]


def rejects(folder: Path, *rows, **options) -> list[str | None]:
    return [row["reject"] for row in written(folder, *rows, **options)]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_utterance_comes_back_as_it_was(tmp_path):
    full = Utterance("a", "/x/é.wav", 44100, 22050, 17, "Hallo Ä", "s", "de", "CC0-1.0", "/x/a.TextGrid")
    write_manifest([full, RejectedRow(utterance("b"), Reject("audio.missing"))], tmp_path / "m")
    (part,) = parts(tmp_path / "m")
    assert read_part(part).schema == SCHEMA
    assert list(utterances(read_part(part))) == [full, None]


def test_a_rejected_row_keeps_its_place_length_and_reason(tmp_path):
    bad = RejectedRow(utterance("b", seconds=7), Reject("audio.truncated", "two\nlines"))
    rows = written(tmp_path, utterance("a"), bad, utterance("c"))
    assert [(row["id"], row["key"], row["samples"], row["reject"], row["detail"]) for row in rows] == [
        ("a", "a", 16000, None, None),
        ("b", None, 112000, "audio.truncated", "two lines"),
        ("c", "c", 16000, None, None),
    ]


@pytest.mark.parametrize("id", ["a.b", "a/b", "..", "../x", "a b", "é", "a=b", "", "a\nb", "x" * 201])
def test_an_id_that_a_shard_cannot_hold_is_unsafe(tmp_path, id):
    assert rejects(tmp_path, utterance(id)) == ["id.unsafe"]


def test_ids_can_be_escaped_instead(tmp_path):
    rows = written(tmp_path, utterance("../é b.c"), utterance("a=2E"), utterance("é" * 34), ids="escape")
    assert [row["key"] for row in rows] == ["=2E=2E=2F=C3=A9=20b=2Ec", "a=3D2E", None]
    assert [row["reject"] for row in rows] == [None, None, "id.unsafe"]


@given(st.text(), st.text())
def test_different_ids_have_different_safe_keys(one, other):
    assert (escape_id(one) == escape_id(other)) == (one == other)
    assert set(escape_id(one)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=")


def test_the_second_of_two_equal_ids_is_a_duplicate(tmp_path):
    gone = RejectedRow(utterance("b"), Reject("audio.missing"))
    rows = [utterance("a"), utterance("A"), utterance("a"), utterance("a"), gone, utterance("b")]
    assert rejects(tmp_path, *rows) == [
        None,
        None,
        "id.duplicate",
        "id.duplicate",
        "audio.missing",
        "id.duplicate",
    ]


def test_too_short_and_too_long_are_rejected(tmp_path):
    rows = [utterance(str(n), seconds) for n, seconds in enumerate([0.29, 0.3, 40.0, 40.01, 0])]
    short, long = "audio.too_short", "audio.too_long"
    assert rejects(tmp_path, *rows) == [short, None, None, long, short]
    assert rejects(tmp_path, *rows, min_seconds=0, max_seconds=1) == [None, None, long, long, None]


def test_a_text_must_hold_a_word_and_be_there_where_required(tmp_path):
    rows = [
        utterance(str(n), text=text) for n, text in enumerate([None, "", " \n", "...!", "é", "42", "日本"])
    ]
    empty = ["text.empty"] * 3
    assert rejects(tmp_path, *rows) == ["text.missing", *empty, None, None, None]
    assert rejects(tmp_path, *rows, transcripts="optional") == [None, *empty, None, None, None]


def test_text_that_utf8_cannot_hold_is_rejected_and_shown(tmp_path):
    (row,) = written(tmp_path, Utterance("a", "\udcff.wav", 16000, text="x\ud800"))
    assert (row["audio"], row["text"], row["reject"]) == ("\\udcff.wav", "x\\ud800", "manifest.bad_field")


rows_of_any_kind = st.lists(
    st.builds(
        lambda id, seconds, text, bad: (
            RejectedRow(row, Reject(bad)) if (row := utterance(id, seconds, text)) and bad else row
        ),
        st.text(max_size=3),
        st.floats(0, 60),
        st.none() | st.text(max_size=3),
        st.sampled_from([None, None, "audio.missing", "manifest.not_json"]),
    ),
    max_size=30,
)


def test_the_first_parts_are_short_and_a_corpus_that_grew_is_cut_as_a_new_one(tmp_path):
    rows = [utterance(str(n), 30) for n in range(60)]  # half an hour
    write_manifest(rows, tmp_path / "m", part_minutes=10)
    minutes = [part["samples"] / 16000 / 60 for part in read_summary(tmp_path / "m")["parts"]]
    assert minutes == [2, 2.5, 2.5, 3, 3, 3.5, 3.5, 4, 4, 2]
    write_manifest(rows[:41], tmp_path / "grown", part_minutes=10)
    write_manifest(rows, tmp_path / "grown", part_minutes=10, growing=True)
    assert tree(tmp_path / "grown") == tree(tmp_path / "m")


@given(rows_of_any_kind, st.floats(0.1, 3), st.sampled_from(["strict", "escape"]))
@settings(deadline=None, max_examples=50)
def test_every_row_and_every_sample_is_counted_once(tmp_path_factory, rows, part_minutes, ids):
    folder = tmp_path_factory.getbasetemp() / "counted"
    summary = write_manifest(iter(rows), folder, part_minutes=part_minutes, ids=ids)
    tables = [read_part(part).to_pylist() for part in parts(folder)]
    out = [row for table in tables for row in table]
    known = [row.utterance if isinstance(row, RejectedRow) else row for row in rows]
    assert [(row["id"], row["samples"]) for row in out] == [(row.id, row.samples) for row in known]
    assert summary.rows == len(rows)
    assert summary.samples_in == sum(row.samples for row in known)
    assert summary.samples == sum(row["samples"] for row in out if row["reject"] is None)
    limits = [part_length(number, part_minutes) * 60 * 16000 for number in range(len(tables))]
    lengths = [[row["samples"] for row in table] for table in tables]
    assert all(sum(part) >= limit for part, limit in zip(lengths[:-1], limits, strict=False))  # long enough
    assert all(sum(part[:-1]) < limit for part, limit in zip(lengths, limits, strict=True))  # and no longer
    keys = [row["key"] for row in out if row["reject"] is None]
    assert len(set(keys)) == len(keys)


def test_rows_without_samples_end_a_part_too(tmp_path):
    rows = (RejectedRow(Utterance(str(n), "", 0), Reject("audio.missing")) for n in range(10_001))
    write_manifest(rows, tmp_path / "m")
    assert [part["rows"] for part in read_summary(tmp_path / "m")["parts"]] == [5000, 5000, 1]


def test_the_summary_lists_the_parts_with_their_hashes(tmp_path):
    write_manifest([utterance(str(n), 30) for n in range(5)], tmp_path / "m", part_minutes=1)
    summary = read_summary(tmp_path / "m")
    assert [part["name"] for part in summary["parts"]] == [f"part-0000{n}.parquet" for n in range(3)]
    assert [part["samples"] for part in summary["parts"]] == [960_000, 960_000, 480_000]
    for part in summary["parts"]:
        assert part["sha256"] == hashlib.sha256((tmp_path / "m" / part["name"]).read_bytes()).hexdigest()
    assert (summary["utterances"], summary["samples"], summary["rejected"]) == (5, 2_400_000, {})


def test_the_same_rows_give_the_same_bytes_and_leave_files_untouched(tmp_path):
    rows = [utterance(str(n), 30) for n in range(5)]
    write_manifest(rows, tmp_path / "m", part_minutes=1)
    write_manifest(rows, tmp_path / "other", part_minutes=1)
    assert tree(tmp_path / "m") == tree(tmp_path / "other")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()}
    write_manifest(rows, tmp_path / "m", part_minutes=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()} == before


def test_a_shorter_manifest_replaces_a_longer_one_wholly(tmp_path):
    write_manifest([utterance(str(n), 30) for n in range(8)], tmp_path / "m", part_minutes=1)
    write_manifest([utterance("a", 30)], tmp_path / "m", part_minutes=1)
    assert [path.name for path in parts(tmp_path / "m")] == ["part-00000.parquet"]
    assert sorted(tree(tmp_path / "m")) == ["manifest.json", "part-00000.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_adapter_that_fails_leaves_the_old_manifest(tmp_path):
    write_manifest([utterance("a")], tmp_path / "m")
    before = tree(tmp_path / "m")

    def failing():
        yield utterance("b")
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_manifest(failing(), tmp_path / "m")
    assert tree(tmp_path / "m") == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_kill_while_publishing_leaves_no_manifest_rather_than_a_mixed_one(tmp_path, monkeypatch):
    long = [utterance(str(n), 30) for n in range(8)]
    calls = 0
    replace = os.replace

    def killed(source, target):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        replace(source, target)

    write_manifest([utterance("a", 30), utterance("b", 30)], tmp_path / "m", part_minutes=1)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_manifest(long, tmp_path / "m", part_minutes=1)
    with pytest.raises(ValueError, match="no finished manifest"):
        parts(tmp_path / "m")
    monkeypatch.undo()
    write_manifest(long, tmp_path / "m", part_minutes=1)
    write_manifest(long, tmp_path / "unbroken", part_minutes=1)
    assert tree(tmp_path / "m") == tree(tmp_path / "unbroken")


INGEST = """
import sys
from corpus.manifest import write_manifest
from corpus.records import Utterance
rows = (Utterance(f"{sys.argv[2]}-{n}", "a.wav", 480000, text="hello") for n in range(3000))
write_manifest(rows, sys.argv[1], part_minutes=5)
"""


def test_killed_at_any_moment_a_finished_manifest_is_whole(tmp_path):
    write_manifest([utterance("old")], tmp_path / "m")
    for delay in (0.0, 0.05, 0.1, 0.2):
        process = subprocess.Popen([sys.executable, "-c", INGEST, tmp_path / "m", str(delay)], cwd=ROOT)
        while not (tmp_path / ".m.unfinished").exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "m" / "manifest.json").exists():
            for part in read_summary(tmp_path / "m")["parts"]:
                content = (tmp_path / "m" / part["name"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == part["sha256"]
    write_manifest([utterance("new")], tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    "options",
    [
        {"part_minutes": 0},
        {"part_minutes": float("nan")},
        {"min_seconds": 2, "max_seconds": 1},
        {"min_seconds": -1},
        {"ids": "loose"},
        {"transcripts": "none"},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_by_name(tmp_path, options):
    with pytest.raises(ValueError, match=r"manifest.*: need"):
        write_manifest([], tmp_path / "m", **options)
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_no_manifest_says_so(tmp_path):
    with pytest.raises(ValueError, match="run `wordweave ingest`"):
        parts(tmp_path)
    (tmp_path / "part.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="cannot be read"):
        read_part(tmp_path / "part.parquet")
    pq.write_table(SCHEMA.empty_table().select(["id"]), tmp_path / "part.parquet")
    with pytest.raises(ValueError, match="not a manifest part"):
        read_part(tmp_path / "part.parquet")


def test_an_empty_source_gives_a_manifest_without_parts(tmp_path):
    assert write_manifest([], tmp_path / "m").rows == 0
    assert parts(tmp_path / "m") == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_summary_is_sorted_json_whatever_the_number_of_parts(tmp_path, count):
    write_manifest([utterance(f"u{n}", 30) for n in range(count)], tmp_path / "m", part_minutes=0.1)
    content = (tmp_path / "m" / "manifest.json").read_text()
    assert content == json.dumps(json.loads(content), indent=1, sort_keys=True) + "\n"
    assert len(json.loads(content)["parts"]) == count
    assert {path.name for path in tmp_path.iterdir()} == {"m"}


def test_memory_does_not_grow_with_the_parts(tmp_path):
    def peak(count: int) -> int:
        rows = (utterance(f"u{n}", 30) for n in range(count))
        tracemalloc.start()
        try:
            write_manifest(rows, tmp_path / "m", part_minutes=0.1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    few, many = peak(100), peak(800)
    assert (
        many - few < 300 * 700
    )  # a part that is listed in memory takes 1000 bytes; the peaks vary by 100 kB
    assert len(parts(tmp_path / "m")) == 800


PEAK = """
import sys
from corpus.manifest import write_manifest
from corpus.records import Utterance
from tests.helpers.memory import peak_memory
rows = (Utterance(f"u{n}", "a.wav", 160000, text="hello " * 20) for n in range(int(sys.argv[2])))
write_manifest(rows, sys.argv[1])
print(peak_memory())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    def peak(rows: int) -> float:
        command = [sys.executable, "-c", PEAK, str(tmp_path / "m"), str(rows)]
        return float(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)

    small, large = [peak(rows) for rows in (20_000, 200_000)]
    assert large < 1.1 * small


def test_real_speech_becomes_a_manifest_without_a_reject(real_speech, tmp_path):
    from corpus.adapters import read_jsonl

    summary = write_manifest(
        read_jsonl(real_speech / "dev" / "manifest.jsonl"), tmp_path / "m", part_minutes=10
    )
    assert (summary.utterances, summary.samples, summary.rejected) == (249, 29_402_535, {})
    assert all(earlier < later for earlier, later in pairwise(part.name for part in parts(tmp_path / "m")))
    assert json.loads((tmp_path / "m" / "manifest.json").read_text())["version"] == VERSION


def test_a_corrected_alignment_or_a_replaced_recording_changes_its_part_alone(tmp_path):
    from corpus.adapters import read_jsonl

    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(16000), 16000)
        (tmp_path / f"{name}.TextGrid").write_text("hello")
    lines = [
        {"id": name, "audio": f"{name}.wav", "alignment": f"{name}.TextGrid", "text": "hi"}
        for name in ("a", "b")
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def hashes() -> list[str]:
        write_manifest(
            read_jsonl(tmp_path / "m.jsonl"), tmp_path / "manifest", part_minutes=0.01, growing=True
        )
        return [part["sha256"] for part in read_summary(tmp_path / "manifest")["parts"]]

    before = hashes()
    assert len(before) == 2
    assert hashes() == before
    (tmp_path / "b.TextGrid").write_text("hallo")
    os.utime(tmp_path / "b.TextGrid", (1, 1))
    corrected = hashes()
    assert corrected[0] == before[0]
    assert corrected[1] != before[1]
    soundfile.write(tmp_path / "a.wav", np.ones(16000) / 2, 16000)
    os.utime(tmp_path / "a.wav", (1, 1))
    assert [one != other for one, other in zip(hashes(), corrected, strict=True)] == [True, False]
