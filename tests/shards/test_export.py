import json
import struct

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import wordweave
from corpus import files
from shards.export import _megatron_index, export_parquet, export_tokens
from shards.samples import read_documents, read_samples
from shards.vocabulary import Vocabulary
from shards.write import STREAMS, sample, write_index, write_shard
from tests.helpers.shards import toy_build, toy_sample, toy_utterance, toy_vocabulary


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return toy_build(tmp_path_factory.mktemp("build"), utterances=30, per_shard=12)


def test_parquet_holds_every_document_and_its_facts(build, tmp_path):
    assert export_parquet(build, tmp_path) == {f"{stream}/train": 30 for stream in STREAMS}
    for stream in STREAMS:
        paths = [tmp_path / stream / f"train-0000{i}-of-00003.parquet" for i in range(3)]
        rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
        documents = read_documents(build, stream)
        assert all(row["tokens"] == tokens.tolist() for row, tokens in zip(rows, documents, strict=True))
        shard = build / "shards" / stream / "train-000000.tar"
        for row, stored in zip(rows, read_samples(shard)):
            assert row["id"] == stored["__key__"]
            assert row["seconds"] == stored["json"]["seconds"]
            assert (row["units"] is None) == (stream == "text")
            assert (row["words"] is None) == (stream != "interleaved")
            if stream == "interleaved":
                assert row["units"] == stored["units.npy"].tolist()
                assert [[w["text"], w["start"], w["end"]] for w in row["words"]] == [
                    [word[0], *word[2:4]] for word in stored["json"]["words"]
                ]


def test_the_card_names_each_stream_and_split(build, tmp_path):
    export_parquet(build, tmp_path)
    expected = ["---", "configs:"]
    for stream in sorted(STREAMS):
        expected += [f"- config_name: {stream}", "  data_files:", "  - split: train"]
        expected += [f'    path: "{stream}/train-*.parquet"']
    assert (tmp_path / "README.md").read_text().splitlines()[: len(expected) + 1] == [*expected, "---"]
    assert Vocabulary.load(tmp_path).hash == toy_vocabulary().hash


def test_members_that_a_build_adds_become_columns(tmp_path):
    row, path = toy_utterance(9), tmp_path / "shards/speech/train-000000.tar"
    plain = toy_sample(row, "speech")
    energy = np.array([[0.5, 1.0], [2.0, 3.0]], dtype=np.float32)
    other = sample({**plain["json"], "id": "u2"}, plain["tokens.npy"], row, members={"energy.npy": energy})
    path.parent.mkdir(parents=True)
    write_index(
        tmp_path / "shards",
        {"speech": {"train": [write_shard(path, [plain, other], row.vocabulary)]}},
        row.vocabulary,
    )
    export_parquet(tmp_path, tmp_path / "out")
    table = pq.read_table(tmp_path / "out/speech/train-00000-of-00001.parquet")
    assert table.column("energy").to_pylist() == [None, energy.tolist()]
    assert str(table.schema.field("energy").type) == "list<element: list<element: float>>"


@pytest.mark.parametrize("export", [export_parquet, export_tokens])
def test_an_export_to_a_url_has_the_files_of_one_to_a_folder(build, tmp_path, export):
    url = files.to_path(f"memory://exports/{export.__name__}")
    assert export(build, str(url)) == export(build, tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files.names_in(url) == names
    assert all(files.read(url / name) == (tmp_path / name).read_bytes() for name in names)


def megatron_documents(path):
    """A reader of Megatron's format written from its description alone."""
    content = path.with_suffix(".idx").read_bytes()
    assert content[:9] == b"MMIDIDX\0\0"
    version, code, sequences, documents = struct.unpack("<QBQQ", content[9:34])
    assert (version, documents) == (1, sequences + 1)
    dtype = {8: np.uint16, 4: np.int32}[code]
    lengths = np.frombuffer(content, "<i4", sequences, 34)
    offsets = np.frombuffer(content, "<i8", sequences, 34 + 4 * sequences)
    numbers = np.frombuffer(content, "<i8", sequences + 1, 34 + 12 * sequences)
    assert len(content) == 34 + 12 * sequences + 8 * (sequences + 1)
    assert numbers.tolist() == list(range(sequences + 1))
    tokens = path.read_bytes()
    return [np.frombuffer(tokens, dtype, length, offset) for length, offset in zip(lengths, offsets)]


def test_flat_files_hold_every_document_at_its_offset(build, tmp_path):
    counts = export_tokens(build, tmp_path)
    for stream in STREAMS:
        expected = list(read_documents(build, stream))
        result = megatron_documents(tmp_path / f"{stream}_train.bin")
        assert all(np.array_equal(one, other) for one, other in zip(result, expected, strict=True))
        flat = np.memmap(tmp_path / f"{stream}_train.bin", dtype=np.uint16, mode="r")
        assert np.array_equal(flat, np.concatenate(expected))
        assert counts[f"{stream}/train"] == len(flat)
    facts = json.loads((tmp_path / "tokens.json").read_text())
    assert facts == {
        "dtype": "uint16",
        "tokens": counts,
        "vocabulary": toy_vocabulary().hash,
        "padded_size": toy_vocabulary().padded_size,
    }


def test_a_vocabulary_beyond_sixteen_bits_takes_four_bytes():
    content = _megatron_index(np.array([3, 2], dtype="<i4"), np.dtype("<i4"))
    assert content[17] == 4
    assert np.frombuffer(content, "<i8", 2, 34 + 8).tolist() == [0, 12]


@pytest.mark.parametrize(("form", "what"), [("parquet", "documents"), ("tokens", "tokens")])
def test_the_command_writes_what_the_functions_write(build, tmp_path, form, what):
    result = CliRunner().invoke(
        wordweave.cli, ["export", str(build), str(tmp_path / "a"), "--format", form, "--json"]
    )
    assert result.exit_code == 0, result.output
    counts = {"parquet": export_parquet, "tokens": export_tokens}[form](build, tmp_path / "b")
    line = json.loads(result.stdout.splitlines()[-1])
    assert line == {"folder": str(tmp_path / "a"), what: sum(counts.values())}
    files = {path.relative_to(tmp_path / "b"): path.read_bytes() for path in tmp_path.glob("b/**/*.*")}
    assert {
        path.relative_to(tmp_path / "a"): path.read_bytes() for path in tmp_path.glob("a/**/*.*")
    } == files
    assert len(files) > 5


def test_the_command_names_what_is_missing(tmp_path):
    result = CliRunner().invoke(
        wordweave.cli, ["export", str(tmp_path), str(tmp_path / "a"), "--format", "tokens"]
    )
    assert result.exit_code == 1
    assert "need shards, got none; run `wordweave build` or" in result.output
    assert CliRunner().invoke(wordweave.cli, ["export", str(tmp_path), str(tmp_path)]).exit_code == 2
