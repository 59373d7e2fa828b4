"""Which rows go to which shard, and what a shard task reads of them."""

import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import files
from corpus.manifest import SCHEMA
from pipelines.execution.task import Task
from pipelines.steps.align import WORDS
from pipelines.steps.interleave import Rates, ShardAssignment, WriteShard
from pipelines.steps.outcomes import extend
from pipelines.steps.units import UNITS
from shards.samples import read_samples
from shards.strategies import make_strategy
from tests.helpers.shards import toy_vocabulary

ROWS = 6  # in each of 4 parts; row 2 of every part has no units, row 3 no word times


@given(
    st.lists(st.sets(st.integers(0, 9)), max_size=6),
    st.lists(st.sets(st.integers(0, 9)), max_size=6),
    st.integers(1, 7),
)
@settings(deadline=None, max_examples=100)
def test_shards_hold_every_accepted_row_once_in_order_and_documents_apart(text, manifest, size):
    assignment, expected = ShardAssignment(size), []
    for table, parts in (("text", text), ("manifest", manifest)):
        for number, accepted in enumerate(parts):
            ranges: list[list[int]] = []
            for row in sorted(accepted):
                extend(ranges, row)
            assignment.add(table, f"part-{number}", ranges, 100 * len(accepted))
            expected += [(table, f"part-{number}", row) for row in sorted(accepted)]
    rows_of = [
        [
            (table, name, row)
            for table, name, ranges in pieces
            for first, stop in ranges
            for row in range(first, stop)
        ]
        for pieces in assignment.shards
    ]
    assert [row for rows in rows_of for row in rows] == expected
    assert all(len({table for table, _, _ in rows}) == 1 for rows in rows_of)
    assert all(len(rows) == size for rows, after in itertools.pairwise(rows_of) if rows[0][0] == after[0][0])
    assert assignment.samples == [100 * len(rows) for rows in rows_of]


@pytest.fixture
def stage(tmp_path):
    """A stage over a build of four parts in `tmp_path / "build"`."""
    vocabulary = toy_vocabulary(tasks=False)
    vocabulary.save(tmp_path / "build/shards")
    for part in range(4):
        ids = [f"u{part}{row}" for row in range(ROWS)]
        audio = {"first_frame": 0, "frames": 48000, "sample_rate": 16000, "samples": 48000, "audio": "a.wav"}
        audio |= {"audio_stamp": "", "alignment_stamp": ""}
        manifest = [{"id": id, "key": id, "text": "they went", **audio} for id in ids]
        timed = [
            {"text": word, "spoken": word, "start": start, "end": start + 0.9}
            for word, start in (("they", 0.0), ("went", 1.0))
        ]
        units = [{"id": id, "units": None if id[-1] == "2" else [1, 1, 2]} for id in ids]
        words = [{"id": id, "words": None if id[-1] == "3" else timed} for id in ids]
        for table, rows, schema in (
            ("manifest", manifest, SCHEMA),
            ("units", units, UNITS),
            ("words", words, WORDS),
        ):
            path = tmp_path / "build" / table / f"part-{part:05d}.parquet"
            path.parent.mkdir(exist_ok=True, parents=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return WriteShard(
        vocabulary=str(tmp_path / "build/shards"), vocabulary_hash=vocabulary.hash, normalisation="spoken",
        rates=Rates(640, 360), strategy=make_strategy("spirit"), seed=0,
        eos=True,
    )  # fmt: skip


def task_of(stream, *pieces):
    rows = tuple(("manifest", f"part-{part:05d}.parquet", ranges) for part, ranges in pieces)
    return Task(f"shards/{stream}/train-000000.tar", (), "key", 0, (stream, "train", rows))


@pytest.mark.parametrize(
    ("stream", "tables"),
    [
        ("text", ["manifest"]),
        ("speech", ["manifest", "units"]),
        ("interleaved", ["manifest", "words", "units"]),
    ],
)
def test_a_shard_task_reads_the_tables_of_its_stream_once_and_the_last_part_never_again(
    stage, tmp_path, monkeypatch, stream, tables
):
    requested, read_each = [], files.read_each

    def watched(folder, names, *settings):
        requested.append(list(names))
        return read_each(folder, requested[-1], *settings)

    monkeypatch.setattr(files, "read_each", watched)
    worker = stage.open()
    first = task_of(stream, (0, ((1, 2), (4, 6))), (1, ((0, 2),)))
    second = task_of(stream, (1, ((4, 6),)), (2, ((0, 1),)))
    for task, keys in ((first, ["u01", "u04", "u05", "u10", "u11"]), (second, ["u14", "u15", "u20"])):
        notes = worker.make(tmp_path / "build", task, tmp_path / "shard.tar")
        assert [sample["__key__"] for sample in read_samples(tmp_path / "shard.tar")] == keys
        assert notes["entry"]["samples"] == len(keys)
    paths = [
        [f"{table}/part-{part:05d}.parquet" for part in parts for table in tables] for parts in ((0, 1), (2,))
    ]
    assert requested == paths


def test_a_part_that_cannot_be_read_is_named(stage, tmp_path):
    (tmp_path / "build/units/part-00001.parquet").unlink()
    task = task_of("speech", (0, ((0, 1),)), (1, ((0, 1),)))
    with pytest.raises(ValueError, match=r"units/part-00001\.parquet: "):
        stage.open().make(tmp_path / "build", task, tmp_path / "shard.tar")
