import hashlib
import io
import json
import tarfile
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shards.interleave import interleave, speech_tokens, text_tokens
from shards.read import open_stream
from shards.samples import read_documents, read_index, read_samples, read_utterance
from shards.sequence import make_document, parse_spans
from shards.strategies import make_strategy, span_generator
from shards.tar import decode, encode, end, member
from shards.verify import verify
from shards.vocabulary import Vocabulary
from shards.write import STREAMS, sample, text_metadata, write_index, write_shard
from tests.helpers.shards import toy_build, toy_sample, toy_utterance, toy_vocabulary


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return toy_build(tmp_path_factory.mktemp("build"))


def rows(words=(5, 40, 12)):
    return [toy_utterance(count, seed=i, id=f"u{i}") for i, count in enumerate(words)]


def test_plain_webdataset_reads_a_shard_in_the_five_lines_of_the_format_page(build, capsys, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    lines = page.split("```python\n")[1].split("```")[0]
    assert len(lines.splitlines()) == 5
    monkeypatch.chdir(build.parent)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # webdataset leaves its file to the garbage collector
        exec(lines.replace("build/shards", str(build / "shards")))
    first = next(read_samples(build / "shards/interleaved/train-000000.tar"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{first['__key__']} {first['json']['seconds']} {first['tokens.npy'][:10]}"
    assert len(printed) == 40


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, (toy_sample(row, "interleaved") for row in rows()), toy_vocabulary())
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar.getmembers()}
    assert facts == {(0, 0, 0, "wordweave", "wordweave", 0o444)}


def test_the_bytes_are_those_of_webdataset_s_own_writer(tmp_path):
    samples = [toy_sample(row, "interleaved") for row in rows()]
    write_shard(tmp_path / "ours.tar", samples, toy_vocabulary())
    writer = webdataset.TarWriter(
        str(tmp_path / "webdataset.tar"),
        encoder=False,
        mtime=0,
        user="wordweave",
        group="wordweave",
        mode=0o444,
    )
    for one in samples:
        writer.write(
            {name: value if name == "__key__" else encode(name, value) for name, value in one.items()}
        )
    writer.close()
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "webdataset.tar").read_bytes()


@given(st.from_regex(r"[A-Za-z0-9_=-]{1,80}\.[a-z.]{1,19}", fullmatch=True), st.binary(max_size=1500))
@settings(deadline=None, max_examples=50)
def test_a_member_is_what_tarfile_writes(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.uname, info.gname = len(content), 0o444, "wordweave", "wordweave"
        tar.addfile(info, io.BytesIO(content))
    assert member(name, content) + end(len(member(name, content))) == buffer.getvalue()


@pytest.mark.parametrize(
    ("stream", "members"),
    [
        ("text", {"json", "tokens.npy"}),
        ("speech", {"json", "tokens.npy", "units.npy"}),
        ("interleaved", {"json", "tokens.npy", "units.npy", "text.npy", "ends.npy", "times.npy"}),
    ],
)
def test_a_sample_comes_back_as_it_was_written(tmp_path, stream, members):
    written = [toy_sample(row, stream) for row in rows()]
    write_shard(tmp_path / "a.tar", written, toy_vocabulary())
    result = list(read_samples(tmp_path / "a.tar"))
    assert [set(one) for one in result] == [members | {"__key__"}] * 3
    for one, other in zip(result, written):
        assert (one["__key__"], one["json"]) == (other["__key__"], json.loads(json.dumps(other["json"])))
        for name in members - {"json"}:
            assert np.array_equal(one[name], other[name])
            assert one[name].dtype == other[name].dtype
        assert one["tokens.npy"].dtype == np.int32


@pytest.mark.parametrize("rates", [(12.5, 1.0), (25.0, 0.5), (40.0, 3.0)])
def test_pitch_and_style_are_stored_with_their_rates(tmp_path, rates):
    row = toy_utterance(20, expressive=True, pitch_rate=rates[0], style_rate=rates[1])
    write_shard(tmp_path / "a.tar", [toy_sample(row, "interleaved")], row.vocabulary)
    (result,) = read_samples(tmp_path / "a.tar")
    again = read_utterance(result, row.vocabulary)
    assert (result["json"]["pitch_rate"], result["json"]["style_rate"]) == rates
    assert np.array_equal(again.pitch, row.pitch)
    assert np.array_equal(again.style, row.style)
    for strategy in ("word", "spirit"):
        one, other = (interleave(each, strategy, span_generator(0, 0, "x")) for each in (again, row))
        assert one == other


def test_further_members_are_read_back_and_listed_in_the_index(tmp_path):
    energy = np.linspace(0, 1, 7, dtype=np.float32)
    row, vocabulary = toy_utterance(20), toy_vocabulary()
    plain = toy_sample(row, "speech")
    added = sample(plain["json"], plain["tokens.npy"], row, members={"energy.npy": energy})
    (tmp_path / "shards/speech").mkdir(parents=True)
    entry = write_shard(tmp_path / "shards/speech/train-000000.tar", [added], vocabulary)
    write_index(tmp_path / "shards", {"speech": {"train": [entry]}}, vocabulary)
    (result,) = read_samples(tmp_path / "shards/speech/train-000000.tar")
    assert result["energy.npy"].tolist() == energy.tolist()
    assert result["energy.npy"].dtype == np.float32
    (listed,) = read_index(tmp_path)["streams"]["speech"]["train"]
    assert listed["members"] == ["energy.npy", "json", "tokens.npy", "units.npy"]
    assert verify(tmp_path) == []
    stream = open_stream(tmp_path, {"speech": 1}, seed=0, sequence_length=20)
    assert next(stream).tokens.tolist() == added["tokens.npy"][:20].tolist()


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        ("units.npy", [1], "a further member needs a name like energy.npy"),
        ("energy", [1], "a further member needs a name like energy.npy"),
        ("energy.pyd", [1], "a further member needs a name like energy.npy"),
        ("a.b.npy", [1], "a further member needs a name like energy.npy"),
        ("energy.npy", [{}], "need an array of numbers, got object"),
        ("energy.npy", ["a"], "need an array of numbers, got <U1"),
    ],
)
def test_a_further_member_that_readers_would_refuse_is_not_written(name, values, rule):
    row = toy_utterance(3)
    plain = toy_sample(row, "speech")
    with pytest.raises(ValueError, match=rule):
        sample(plain["json"], [1], row, members={name: values})


def test_any_interleaving_can_be_drawn_from_a_stored_utterance(tmp_path):
    row = toy_utterance(40)
    write_shard(tmp_path / "a.tar", [toy_sample(row, "interleaved")], toy_vocabulary())
    (result,) = read_samples(tmp_path / "a.tar")
    again = read_utterance(result, toy_vocabulary())
    for name in ("spirit", "poisson", "word", "concatenated"):
        assert interleave(again, name, span_generator(1, 2, "x")) == interleave(
            row, name, span_generator(1, 2, "x")
        )
    materialised = make_document(interleave(again, "spirit", span_generator(0, 0, row.id)), toy_vocabulary())
    assert np.array_equal(result["tokens.npy"], materialised)


def test_the_entry_counts_what_the_shard_holds(tmp_path):
    entry = write_shard(
        tmp_path / "a.tar", [toy_sample(row, "interleaved") for row in rows()], toy_vocabulary()
    )
    result = list(read_samples(tmp_path / "a.tar"))
    tokens = np.concatenate([one["tokens.npy"] for one in result])
    assert entry["tokens"] == toy_vocabulary().counts(tokens)
    assert sum(entry["tokens"].values()) == len(tokens)
    assert (entry["file"], entry["samples"], entry["first"], entry["last"]) == ("a.tar", 3, "u0", "u2")
    assert entry["audio_samples"] == sum(round(row.seconds * 16000) for row in rows())
    assert entry["seconds"] == entry["audio_samples"] / 16000
    content = (tmp_path / "a.tar").read_bytes()
    assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(("strategy", "share"), [("poisson", 0.3), ("continuation", 0.5), ("word", 0.5)])
def test_the_entry_counts_spoken_and_written_words(tmp_path, strategy, share):
    samples = []
    for i in range(300):
        one = toy_sample(toy_utterance(30, seed=i % 5, id=f"u{i}"), "interleaved")
        samples.append(one | {"json": one["json"] | {"strategy": asdict(make_strategy(strategy))}})
    words = write_shard(tmp_path / "a.tar", samples, toy_vocabulary())["words"]
    assert sum(words.values()) == 9000 * (1 + (strategy == "word"))
    assert abs(words["spoken"] / sum(words.values()) - share) < 0.01


def test_blocks_cover_the_shard_and_begin_with_a_sample(tmp_path):
    samples = [sample(text_metadata(f"k{i}", toy_vocabulary()), [5, 6, 7]) for i in range(150)]
    entry = write_shard(tmp_path / "a.tar", samples, toy_vocabulary())
    content = (tmp_path / "a.tar").read_bytes()
    offsets = entry["blocks"]["offsets"]
    assert [content[a : a + 9].split(b".")[0] for a in offsets[:-1]] == [b"k0", b"k64", b"k128"]
    assert content[offsets[-1] :].strip(b"\0") == b""


def test_an_empty_shard_is_a_tar_without_samples(tmp_path):
    entry = write_shard(tmp_path / "a.tar", [], toy_vocabulary())
    assert (entry["samples"], entry["tokens"], entry["first"]) == (0, {}, None)
    assert list(read_samples(tmp_path / "a.tar")) == []


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a b", "..", "é", "x" * 81, "a\n"])
def test_a_key_that_webdataset_would_split_is_refused(key):
    with pytest.raises(ValueError, match="shard key"):
        sample(text_metadata(key, toy_vocabulary()), [1])


def test_a_sample_that_lacks_its_arrays_is_refused():
    row = toy_utterance(3)
    record = toy_sample(row, "interleaved")["json"]
    with pytest.raises(ValueError, match="needs the tokenized utterance"):
        sample(record, [1])
    with pytest.raises(ValueError, match="need 3 words"):
        sample(record | {"words": []}, [1], row)
    with pytest.raises(ValueError, match="at least one token"):
        sample(record, [], row)
    with pytest.raises(ValueError, match="stream must be"):
        sample(record | {"stream": "video"}, [1], row)


def test_a_failed_shard_leaves_no_file(tmp_path):
    one = toy_sample(toy_utterance(3), "text")
    with pytest.raises(ValueError, match="occurs twice"):
        write_shard(tmp_path / "a.tar", [one, one], toy_vocabulary())
    with pytest.raises(ValueError, match="another vocabulary"):
        write_shard(tmp_path / "a.tar", [one], toy_vocabulary(64, 100))
    other = toy_sample(toy_utterance(3, id="u2"), "text")
    with pytest.raises(ValueError, match="all samples must share"):
        write_shard(
            tmp_path / "a.tar", [one, other | {"json": other["json"] | {"eos": False}}], toy_vocabulary()
        )
    assert list(tmp_path.iterdir()) == []


def test_the_index_and_the_build_do_not_depend_on_when_they_are_made(tmp_path):
    for name in ("a", "b"):
        toy_build(tmp_path / name, utterances=10, per_shard=4)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    names = {str(path) for path in files}
    assert {"shards/index.json", "shards/vocabulary.json", "shards/tokenizer.json"} < names
    assert {f"shards/{stream}/train-00000{i}.tar" for stream in STREAMS for i in range(3)} < names
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_the_index_refuses_an_unknown_stream(tmp_path):
    with pytest.raises(ValueError, match="video"):
        write_index(tmp_path, {"video": {}}, toy_vocabulary())


def test_documents_come_in_the_order_of_the_shards(build):
    vocabulary = Vocabulary.load(build / "shards")
    rng = np.random.default_rng(1)
    utterances = [toy_utterance(int(rng.integers(2, 60)), seed=i, id=f"u{i:04d}") for i in range(100)]
    expected = {
        "text": [make_document(text_tokens(row), vocabulary) for row in utterances],
        "speech": [make_document(speech_tokens(row), vocabulary) for row in utterances],
        "interleaved": [
            make_document(interleave(row, "spirit", span_generator(0, 0, row.id)), vocabulary)
            for row in utterances
        ],
    }
    for stream in STREAMS:
        result = list(read_documents(build, stream))
        assert len(result) == 100
        assert all(np.array_equal(one, other) for one, other in zip(result, expected[stream]))
        assert all(parse_spans(one, vocabulary) for one in result)


@given(
    arrays.arrays(st.sampled_from(["int16", "int32", "float64"]), arrays.array_shapes(max_dims=2, max_side=9))
)
@settings(deadline=None, max_examples=50)
def test_arrays_are_plain_npy(array):
    content = encode("x.npy", array)
    assert np.array_equal(np.load(io.BytesIO(content), allow_pickle=False), array, equal_nan=True)
    assert np.array_equal(decode("x.npy", content, ""), array, equal_nan=True)
    buffer = io.BytesIO()
    np.save(buffer, array)
    assert content == buffer.getvalue()


def test_an_array_of_objects_is_never_loaded():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    for content in (buffer.getvalue(), b"\x80\x04K\x01.", b""):
        with pytest.raises(ValueError, match=r"here\.x\.npy: cannot be decoded"):
            decode("x.npy", content, "here")
