import hashlib
import io
import json
import pickle
import re
import shutil
import tarfile
import zlib

import numpy as np
import pytest

from shards.interleave import interleave
from shards.read import open_stream
from shards.samples import read_utterance
from shards.sequence import make_document
from shards.show import read_spans
from shards.verify import _content, verify
from shards.write import write_index, write_shard
from tests.helpers.shards import toy_build, toy_sample, toy_utterance, toy_vocabulary

SHARD = "shards/interleaved/train-000001.tar"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return toy_build(tmp_path_factory.mktemp("build"), utterances=90, per_shard=30)


@pytest.fixture
def copy(build, tmp_path):
    return shutil.copytree(build, tmp_path / "copy")


def test_a_fresh_build_has_no_findings(build):
    assert verify(build) == []


def changed(content):
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize(
    "damage", [changed, lambda c: c[:-20_000], lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c + b"x"]
)
def test_a_changed_shard_is_named(copy, damage):
    path = copy / SHARD
    path.write_bytes(damage(path.read_bytes()))
    result = verify(copy)
    assert result
    assert all(line.startswith(str(path)) for line in result)


@pytest.mark.parametrize("offset", range(0, 512 * 12, 97))
def test_any_flipped_byte_is_found(build, tmp_path, offset):
    path = tmp_path / "x.tar"
    entry = json.loads((build / "shards/index.json").read_text())["streams"]["text"]["train"][0]
    content = bytearray((build / "shards" / entry["file"]).read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)
    assert [rule for rule in _content(str(path), entry) if rule.startswith("sha256")]


def test_a_missing_and_an_extra_shard_are_named(copy):
    shutil.move(copy / SHARD, copy / "shards/interleaved/train-000009.tar")
    first, second = verify(copy)
    assert first.startswith(f"{copy / SHARD}: missing")
    assert second == f"{copy}/shards/interleaved/train-000009.tar: not in index.json"


def rewritten(copy, samples, stream="interleaved"):
    """The findings in a build whose only shard holds these samples, with a valid index."""
    shutil.rmtree(copy / "shards")
    (copy / "shards" / stream).mkdir(parents=True)
    entry = write_shard(copy / f"shards/{stream}/train-000000.tar", samples, toy_vocabulary())
    write_index(copy / "shards", {stream: {"train": [entry]}}, toy_vocabulary())
    return verify(copy)


def test_a_pickle_in_a_tar_is_refused_by_verify_and_loader_with_the_shard_s_name(copy):
    path = copy / SHARD
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        content = pickle.dumps([1])
        info = tarfile.TarInfo("u1.tokens.pyd")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    written = path.read_bytes()
    index = json.loads((copy / "shards/index.json").read_text())
    entry = index["streams"]["interleaved"]["train"][
        1
    ]  # made to agree with the tar: the member itself must be result
    entry |= {"bytes": len(written), "sha256": hashlib.sha256(written).hexdigest(), "samples": 1}
    entry["blocks"] = {"samples": 64, "offsets": [0, 1024], "crc32": [zlib.crc32(written[:1024])]}
    (copy / "shards/index.json").write_text(json.dumps(index))
    (line,) = verify(copy)
    assert line.startswith(f"{path}: member 'u1.tokens.pyd' is not in the schema")
    with pytest.raises(ValueError, match=r"train-000001\.tar: member 'u1\.tokens\.pyd'"):
        open_stream(copy, {"interleaved": 1}, seed=0, sequence_length=10)


def test_a_member_that_the_index_does_not_list_is_found(copy):
    index = json.loads((copy / "shards/index.json").read_text())
    entry = index["streams"]["interleaved"]["train"][1]
    for listed, rule in ((["json"], "got \\['json'\\]"), (None, None)):
        entry["members"] = listed
        if listed is None:
            del entry["members"]  # as in schema 1
        (copy / "shards/index.json").write_text(json.dumps(index))
        result = verify(copy)
        if rule is None:
            assert result == []
        else:
            (line,) = result
            assert re.search(rf"train-000001\.tar: members in the index must be \['ends.npy', .*{rule}", line)


def test_shards_of_schema_1_are_read_and_their_sequences_not_compared(tmp_path):
    """Their spans were drawn with another generator, and their strategy had the numbers of all strategies."""
    samples = [toy_sample(toy_utterance(40, seed=i, id=f"u{i}"), "interleaved") for i in range(9)]
    strategy = samples[0]["json"]["strategy"] | {"ratio": 0.3, "trials": 39}
    for one in samples:
        tokens = interleave(read_utterance(one, toy_vocabulary()), "spirit", np.random.default_rng(1))
        one["json"] |= {"schema": 1, "strategy": strategy}
        one["tokens.npy"] = make_document(tokens, toy_vocabulary())
    path = tmp_path / "shards/interleaved/train-000000.tar"
    path.parent.mkdir(parents=True)
    entry = write_shard(path, samples, toy_vocabulary())
    del entry["members"]
    entry["words"] = {"spoken": 1, "written": 2}
    index = write_index(tmp_path / "shards", {"interleaved": {"train": [entry]}}, toy_vocabulary(), schema=1)
    (line,) = verify(tmp_path)
    assert line.startswith(f"{index}: schema: need 2 to compare sequences with their strategy, got 1")
    for redraw in (True, False):
        tokens = next(
            open_stream(tmp_path, {"interleaved": 1}, seed=0, sequence_length=99, redraw=redraw)
        ).tokens
        assert tokens[0] == toy_vocabulary().bos
    with pytest.raises(
        ValueError, match="sample u0: schema: need 2, got 1; run `wordweave interleave` again"
    ):
        next(read_spans(tmp_path))
    path.write_bytes(changed(path.read_bytes()))
    assert any(line.startswith(str(path)) for line in verify(tmp_path))


def test_an_index_of_a_later_schema_is_refused(copy):
    index = json.loads((copy / "shards/index.json").read_text()) | {"schema": 3}
    (copy / "shards/index.json").write_text(json.dumps(index))
    (line,) = verify(copy)
    assert line == f"{copy}/shards/index.json: schema: need 1 or 2, got 3; write the shards again"


def test_pitch_and_style_at_any_rates_agree_with_their_sequences(tmp_path):
    rows = [
        toy_utterance(30, seed=i, id=f"u{i}", expressive=True, pitch_rate=40.0, style_rate=0.7)
        for i in range(9)
    ]
    path = tmp_path / "shards/interleaved/train-000000.tar"
    path.parent.mkdir(parents=True)
    good = [toy_sample(row, "interleaved") for row in rows]
    for rate, expected in (
        (40.0, 0),
        (12.5, 6),
    ):  # at a wrong rate every sample differs: five findings and a last line
        samples = [one | {"json": one["json"] | {"pitch_rate": rate}} for one in good]
        entry = write_shard(path, samples, rows[0].vocabulary)
        write_index(tmp_path / "shards", {"interleaved": {"train": [entry]}}, rows[0].vocabulary)
        assert len(verify(tmp_path)) == expected


def test_another_vocabulary_is_found(copy):
    toy_vocabulary(64, 100).save(copy / "shards")
    result = verify(copy)
    assert "index.json: vocabulary must be" in result[0]
    assert "made with vocabulary" in result[1]


def test_a_sequence_other_than_the_drawn_one_is_a_finding(copy):
    row = toy_utterance(40)
    good = toy_sample(row, "interleaved")
    assert rewritten(copy, [good]) == []
    tokens = good["tokens.npy"].copy()
    tokens[3] = tokens[4]
    (line,) = rewritten(copy, [good | {"tokens.npy": tokens}])
    assert line.endswith("u1: tokens.npy must be the sequence of its units, words, strategy and seed")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"tokens.npy": np.array([5, 6], dtype=np.int32)}, "need a marker first"),
        ({"units.npy": np.array([600], dtype=np.int16)}, "units: need"),
        ({"text.npy": np.array([1], dtype=np.int32)}, "text_ends"),
    ],
)
def test_arrays_that_contradict_each_other_are_found(copy, change, rule):
    (line,) = rewritten(copy, [toy_sample(toy_utterance(40), "interleaved") | change])
    assert rule in line
    assert line.startswith(f"{copy}/shards/interleaved/train-000000.tar: ")


@pytest.mark.parametrize(
    ("name", "value"), [("id", "u2"), ("stream", "speech"), ("schema", 1), ("seconds", 1.0)]
)
def test_a_wrong_field_of_a_record_is_a_finding(copy, name, value):
    good = toy_sample(toy_utterance(40), "interleaved")
    (line,) = rewritten(copy, [good | {"json": good["json"] | {name: value}}])
    assert "u1: " in line


def test_word_times_that_differ_from_the_words_are_a_finding(copy):
    good = toy_sample(toy_utterance(40), "interleaved")
    times = good["times.npy"].copy()
    times[0, 0] += 1e-9
    (line,) = rewritten(copy, [good | {"times.npy": times}])
    assert line.endswith("u1: times.npy must be the starts and ends of its words")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("samples", 12345, "counts in the index must be"),
        ("audio_samples", 12345, "counts in the index must be"),
        ("tokens", {"unit": 1}, "counts in the index must be"),
        ("words", {"spoken": 1}, "counts in the index must be"),
        ("seconds", 1.5, "seconds in the index must be audio_samples / 16000"),
        ("shared", {"eos": False}, "shared in the index must be"),
        ("members", ["json"], "members in the index must be"),
        ("first", "x", "first and last in the index must be"),
        ("last", "x", "first and last in the index must be"),
        ("bytes", 12345, "need 12345 bytes as in the index"),
        ("sha256", "0", "sha256 must be 0"),
        ("blocks", {"samples": 64, "offsets": [0], "crc32": []}, "blocks in the index must cover"),
        ("blocks", {"samples": 64, "offsets": [0, 512], "crc32": [1]}, "bytes 0 to 512 differ"),
    ],
)
def test_a_wrong_field_of_the_index_is_a_finding(copy, name, value, rule):
    index = json.loads((copy / "shards/index.json").read_text())
    index["streams"]["interleaved"]["train"][1][name] = value
    (copy / "shards/index.json").write_text(json.dumps(index))
    findings = verify(copy)
    assert all(line.startswith(str(copy / SHARD)) for line in findings)
    assert any(line.startswith(f"{copy / SHARD}: {rule}") for line in findings)


@pytest.mark.parametrize(
    ("stream", "change", "rule"),
    [
        ("text", "[Text] and[Speech][Hu3]", "tokens.npy must be one text span"),
        ("text", "[Speech][Hu3]", "tokens.npy must be one text span"),
        ("speech", "[Text] and", "tokens.npy must be one speech span"),
        ("speech", "[Speech][Hu3]", "tokens.npy must be the sequence of its units, words, strategy and seed"),
    ],
)
def test_other_tokens_of_a_stream_of_one_modality_are_a_finding(copy, stream, change, rule):
    vocabulary = toy_vocabulary()
    example = toy_sample(toy_utterance(40), stream)
    example["tokens.npy"] = make_document(vocabulary.encode(change), vocabulary)
    assert any(rule in line for line in rewritten(copy, [example], stream))
    assert rewritten(copy, [toy_sample(toy_utterance(40), stream)], stream) == []


def test_an_example_in_train_and_in_valid_is_found(copy):
    index = json.loads((copy / "shards/index.json").read_text())
    train = index["streams"]["text"]["train"]
    shutil.copy(copy / "shards" / train[0]["file"], copy / "shards/text/valid-000000.tar")
    index["streams"]["text"]["valid"] = [train[0] | {"file": "text/valid-000000.tar"}]
    (copy / "shards/index.json").write_text(json.dumps(index))
    assert verify(copy) == [
        f"{copy}/shards/text/valid-000000.tar: 30 keys are also in {copy}/shards/text/train-000000.tar"
    ]


def test_findings_per_shard_are_limited(copy):
    good = [toy_sample(toy_utterance(9, seed=i, id=f"u{i}"), "interleaved") for i in range(20)]
    result = rewritten(copy, [one | {"json": one["json"] | {"seconds": 0.5}} for one in good])
    assert len(result) == 6
    assert result[-1].endswith("more findings, left out")
