import hashlib
import io
import itertools
import json
import shutil
import tarfile
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import files
from shards.interleave import interleave, interleave_spans
from shards.lanes import read_blocks, read_contents
from shards.mixture import DeficitRoundRobin
from shards.read import open_stream
from shards.redraw import redraw_batch, redraw_sample
from shards.samples import read_documents, read_index, read_samples, read_utterance
from shards.sequence import make_document
from shards.strategies import STRATEGIES, draw_spans, make_strategy, span_generator
from shards.tar import encode
from shards.vocabulary import Vocabulary
from shards.write import SHARED, write_index, write_shard
from tests.helpers.shards import toy_build, toy_sample, toy_utterance, toy_vocabulary

THIRDS = {"text": 1, "speech": 1, "interleaved": 1}
STREAM = {"seed": 5, "sequence_length": 300, "lanes": 16, "buffer": 4}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return toy_build(tmp_path_factory.mktemp("build"))


def stream_hash(sequences):
    digest = hashlib.sha256()
    for packed in sequences:
        for array in packed:
            digest.update(array.tobytes())
    return digest.hexdigest()


def take(build, count, world_size=1, states=None, first=0, **settings):
    """Global sequences [first, first + count) of a world, and the states of its ranks after them."""
    settings = STREAM | settings
    ranks = [
        open_stream(build, THIRDS, rank=rank, world_size=world_size, state=states, **settings)
        for rank in range(world_size)
    ]
    result = [next(ranks[number % world_size]) for number in range(first, first + count)]
    return result, json.loads(json.dumps([rank.state() for rank in ranks]))


@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
def test_every_world_size_sees_the_same_sequences(build, world_size):
    one, _ = take(build, 160)
    many, _ = take(build, 160, world_size)
    assert stream_hash(one) == stream_hash(many)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([1, 2, 4, 8])), min_size=2, max_size=4),
    st.booleans(),
)
@settings(deadline=None, max_examples=15)
def test_a_stream_stopped_anywhere_resumes_at_the_exact_token_at_any_world_size(build, stages, redraw):
    whole, _ = take(build, 168, redraw=redraw, sequence_length=100)
    result, states = [], None
    for steps, world_size in stages:
        # ranks stop at a common step: after a whole number of sequences each
        count = -(-(len(result) + steps) // 8) * 8 - len(result)
        part, states = take(
            build, count, world_size, states, first=len(result), redraw=redraw, sequence_length=100
        )
        result += part
    assert stream_hash(result) == stream_hash(whole[: len(result)])


def test_twenty_random_stops_change_nothing(build):
    whole, _ = take(build, 200)
    result, state = [], None
    for stop in sorted(np.random.default_rng(0).choice(np.arange(1, 200), 20, replace=False).tolist()):
        part, state = take(build, stop - len(result), states=state, first=len(result))
        result += part
    assert stream_hash(result) == stream_hash(whole[: len(result)])
    assert len(json.dumps(state)) < 4000


def test_another_seed_is_another_stream(build):
    assert stream_hash(take(build, 20)[0]) != stream_hash(take(build, 20, seed=6)[0])


def documents_of(sequences, lanes):
    """Join the pieces of the documents, lane by lane and stream by stream."""
    result = {}
    open_ends = {}
    for number, packed in enumerate(sequences):
        for index in range(packed.documents[-1] + 1):
            chosen = packed.documents == index
            tokens, positions, stream = (
                packed.tokens[chosen],
                packed.positions[chosen],
                int(packed.streams[chosen][0]),
            )
            key = number % lanes, stream
            if positions[0] == 0:
                result.setdefault(stream, []).append(open_ends.setdefault(key, []))
                open_ends[key] = []
                result[stream][-1] = open_ends[key]
            assert positions.tolist() == list(range(len(open_ends[key]), len(open_ends[key]) + len(tokens)))
            open_ends[key] += tokens.tolist()
    return result


@pytest.mark.parametrize("sequence_length", [97, 300, 1500])
def test_the_joined_pieces_of_packed_sequences_are_the_documents(build, sequence_length):
    sequences, _ = take(
        build, 300 * 97 // sequence_length + 32, sequence_length=sequence_length, redraw=False
    )
    assert {packed.tokens.shape for packed in sequences} == {(sequence_length,)}
    for stream, name in enumerate(THIRDS):
        materialised = {tuple(tokens.tolist()) for tokens in read_documents(build, name)}
        result = [tuple(tokens) for tokens in documents_of(sequences, STREAM["lanes"])[stream]]
        whole = [tokens for tokens in result if tokens in materialised]
        assert len(whole) > 0.5 * len(result)
        for tokens in set(result) - materialised:  # those still open at the end
            assert any(tokens == one[: len(tokens)] for one in materialised)


def test_a_sequence_has_the_keys_of_its_documents(build):
    held = {
        (name, sample["__key__"]): sample["tokens.npy"].tolist()
        for name in THIRDS
        for path in (build / "shards" / name).glob("train-*.tar")
        for sample in read_samples(path)
    }
    stream = open_stream(build, THIRDS, seed=5, sequence_length=200, redraw=False)
    for packed in itertools.islice(stream, 70):
        pieces = [packed.documents == number for number in range(packed.documents[-1] + 1)]
        assert len(stream.keys) == len(pieces)
        for (name, key), piece in zip(stream.keys, pieces):
            first, count = int(packed.positions[piece][0]), int(piece.sum())
            assert held[name, key][first : first + count] == packed.tokens[piece].tolist()
            assert stream.names[packed.streams[piece][0]] == name


def test_an_epoch_gives_every_document_once(build):
    # one lane, so that the epoch of the lane is the epoch of the build
    stream = open_stream(build, {"text": 1}, redraw=False, **(STREAM | {"lanes": 1}))
    documents = sorted(tuple(tokens.tolist()) for tokens in read_documents(build, "text"))
    total = sum(map(len, documents))
    sequences = [next(stream) for _ in range(3 * total // 300 + 1)]
    tokens = np.concatenate([packed.tokens for packed in sequences])
    epochs = [tokens[i * total : (i + 1) * total] for i in range(3)]
    orders = []
    for epoch in epochs:
        cuts = np.flatnonzero(epoch == toy_vocabulary().bos)
        orders.append([tuple(part.tolist()) for part in np.split(epoch, cuts[1:])])
        assert sorted(orders[-1]) == documents
    assert orders[0] != orders[1]


def test_lanes_share_an_epoch_without_overlap(build):
    stream = open_stream(build, {"text": 1}, redraw=False, **STREAM)
    seen = []
    for readers in stream._readers.values():
        reader = readers[0]
        while reader.epoch == 0:
            reader.read(1)
        seen.append(reader)
    shares = [set(reader.source.share(reader.lane, 0).tolist()) for reader in seen]
    assert sum(map(len, shares)) == len(set.union(*shares)) == len(seen[0].source.blocks) == 100


def test_each_epoch_draws_the_spans_of_every_sample_by_seed_epoch_and_key(build):
    stream = open_stream(build, {"interleaved": 1}, **(STREAM | {"lanes": 1, "buffer": 100}))
    vocabulary = Vocabulary.load(build / "shards")
    documents = documents_of([next(stream) for _ in range(400)], 1)[0]
    shards = sorted((build / "shards/interleaved").glob("*.tar"))
    samples = [read_utterance(sample, vocabulary) for path in shards for sample in read_samples(path)]
    for epoch in (0, 1):
        expected = [
            make_document(interleave(one, "spirit", span_generator(5, epoch, one.id)), vocabulary).tolist()
            for one in samples
        ]
        assert sorted(documents[100 * epoch : 100 * (epoch + 1)]) == sorted(expected)


@pytest.mark.parametrize("expressive", [False, True])
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_batch_of_samples_is_redrawn_as_one_by_one(name, expressive):
    rates = {"pitch_rate": 20.0, "style_rate": 0.5}
    rows = [
        toy_utterance(1 + 3 * i % 50, seed=i, id=f"u{i}", expressive=expressive, **rates) for i in range(60)
    ]
    vocabulary = rows[0].vocabulary
    written = [toy_sample(row, "interleaved") for row in rows]
    shared = {name: written[0]["json"][name] for name in SHARED}
    samples = [
        ("x.tar", one["__key__"], {name: encode(name, one[name]) for name in one if name != "__key__"})
        for one in written
    ]
    expected = [
        make_document(
            interleave_spans(row, draw_spans(row.words, name, span_generator(3, 7, row.id))), vocabulary
        )
        for row in rows
    ]
    result = redraw_batch(samples, 7, vocabulary, 3, make_strategy(name), shared)
    alone = [
        redraw_sample(vocabulary, 3, make_strategy(name), 7, key, members) for _, key, members in samples
    ]
    assert [one.tolist() for one in alone] == [one.tolist() for one in expected]
    assert [one.tolist() for one in result] == [one.tolist() for one in expected]
    assert {one.dtype for one in result} == {np.dtype(np.int32)}


def test_shards_that_do_not_share_what_they_must_are_named(copy):
    index = json.loads((copy / "shards/index.json").read_text())
    entry = index["streams"]["interleaved"]["train"][1]
    for shared, rule in (
        (entry["shared"] | {"vocabulary": "0"}, "made with vocabulary 0"),
        (
            entry["shared"] | {"eos": False},
            "need the same vocabulary.* as .*train-000000.tar; write the shards again",
        ),
        (None, "write the shards again"),
    ):
        entry["shared"] = shared
        if shared is None:
            del entry["shared"]
        (copy / "shards/index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=rf"interleaved/train-000001\.tar: .*{rule}"):
            open_stream(copy, THIRDS, **STREAM)


def test_a_strategy_given_to_the_loader_replaces_that_of_the_build(build):
    stream = open_stream(build, {"interleaved": 1}, strategy="concatenated", **STREAM)
    vocabulary = toy_vocabulary()
    tokens = np.concatenate([next(stream).tokens for _ in range(20)])
    assert vocabulary.asr_marker in tokens
    assert vocabulary.tts_marker in tokens


def test_fewer_samples_than_lanes_are_shared(tmp_path):
    build = toy_build(tmp_path, utterances=3)
    one, _ = take(build, 64, lanes=64)
    four, _ = take(build, 64, world_size=4, lanes=64)
    assert stream_hash(one) == stream_hash(four)


def test_a_build_behind_a_url_gives_the_same_stream(build):
    import fsspec

    remote = fsspec.filesystem("memory")
    remote.put(str(build), "/bucket/build", recursive=True)
    url = "memory://bucket/build"
    assert stream_hash(take(url, 40)[0]) == stream_hash(take(build, 40)[0])
    result = list(read_documents(url, "text"))
    assert all(
        np.array_equal(one, other) for one, other in zip(result, read_documents(build, "text"), strict=True)
    )
    with pytest.raises(ValueError, match="memory://bucket/nothing"):
        take("memory://bucket/nothing", 1)


def test_blocks_of_an_object_store_are_requested_at_the_same_time(tmp_path, monkeypatch):
    import fsspec

    local = toy_build(tmp_path, utterances=200, per_shard=200)
    fsspec.filesystem("memory").put(str(local), "/bucket/many", recursive=True)
    (entry,) = read_index(local)["streams"]["text"]["train"]
    paths = ["memory://bucket/many/shards/text/train-000000.tar"]
    blocks = read_blocks(paths, [entry], 1)
    assert len(blocks) == 4
    barrier, read = threading.Barrier(4), files.read

    def wait_for_others(*arguments):
        barrier.wait(10)  # raises unless all four are requested
        return read(*arguments)

    monkeypatch.setattr(files, "read", wait_for_others)
    contents = list(read_contents(paths, blocks))
    monkeypatch.undo()
    assert b"".join(content for content, _ in contents) == files.read(paths[0])[: blocks["stop"][-1]]


# The mixture -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 1), (0.2024, 0.5433, 0.2543), (0.98, 0.02), (1,)])
@pytest.mark.parametrize("sequence_length", [256, 512, 1000, 2048, 4096])
def test_token_shares_hold_in_any_window_of_a_million_tokens(weights, sequence_length):
    round_robin = DeficitRoundRobin([(0, weights)], sequence_length, lanes=64)
    count = 4_000_000 // sequence_length
    given = np.zeros((count + 1, len(weights)))
    for number in range(count):
        plan = round_robin.next()
        assert sum(tokens for _, tokens in plan) == sequence_length
        for stream, tokens in plan:
            given[number + 1, stream] = tokens
    window = -(-1_000_000 // sequence_length)
    totals = np.cumsum(given, axis=0)
    shares = (totals[window:] - totals[:-window]) / (window * sequence_length)
    assert np.abs(shares - np.array(weights) / sum(weights)).max() < 0.001


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 1), (0.2024, 0.5433, 0.2543), (0.9, 0.1)])
def test_every_lane_reads_its_share_of_every_stream(weights):
    round_robin = DeficitRoundRobin([(0, weights)], 256, lanes=64)
    for _ in range(64 * 400):
        round_robin.next()
    shares = np.array(round_robin.given) / np.sum(round_robin.given, axis=1, keepdims=True)
    assert np.abs(shares - np.array(weights) / sum(weights)).max() < 0.02


def test_a_schedule_changes_the_weights_at_its_tokens():
    round_robin = DeficitRoundRobin([(0, (1, 0)), (100_000, (1, 3))], 250, lanes=4)
    totals = np.zeros((800, 2))
    for number in range(800):
        for stream, tokens in round_robin.next():
            totals[number, stream] += tokens
    assert totals[:400].sum(axis=0).tolist() == [100_000, 0]
    assert np.abs(totals[400:].sum(axis=0) - [25_000, 75_000]).max() <= 250


def test_a_scheduled_stream_resumes_too(build):
    schedule = [(0, {"text": 1}), (6000, {"text": 1, "interleaved": 2})]
    stream = open_stream(build, schedule, **STREAM)
    whole = [next(stream) for _ in range(60)]
    stream = open_stream(build, schedule, **STREAM)
    part = [next(stream) for _ in range(30)]
    again = open_stream(build, schedule, state=json.loads(json.dumps(stream.state())), **STREAM)
    assert stream_hash(part + [next(again) for _ in range(30)]) == stream_hash(whole)
    assert {1} <= set(np.concatenate([packed.streams for packed in whole[20:]]).tolist())


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(build, tmp_path):
    return shutil.copytree(build, tmp_path / "copy")


SHARD = "shards/interleaved/train-000001.tar"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20_000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_a_damaged_shard_is_named_by_the_loader(copy, damage):
    damage(copy / SHARD)
    with pytest.raises(ValueError, match=r"interleaved/train-000001\.tar"):
        open_stream(copy, THIRDS, **STREAM)


def test_a_shard_that_lost_only_its_closing_zeros_is_named(copy):
    path = copy / SHARD
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(ValueError, match=r"interleaved/train-000001\.tar: need \d+ bytes as in the index"):
        open_stream(copy, THIRDS, **STREAM)


@pytest.mark.parametrize("damage", [truncate, remove])
def test_a_damaged_shard_is_named_when_it_is_read_alone(copy, damage):
    damage(copy / SHARD)
    with pytest.raises(ValueError, match=r"interleaved/train-000001\.tar"):
        list(read_samples(copy / SHARD))


def test_a_shard_that_changes_while_it_is_read_is_named(copy):
    stream = open_stream(copy, {"interleaved": 1}, **STREAM)
    flip(copy / SHARD)
    with pytest.raises(ValueError, match=r"interleaved/train-000001\.tar: damaged"):
        list(itertools.islice(stream, 200))


@pytest.mark.parametrize("cut", [1, 511, 512, 1024, 10240])
def test_a_tar_cut_anywhere_is_truncated(build, tmp_path, cut):
    content = (build / SHARD).read_bytes()
    end = len(content.rstrip(b"\0"))
    end += -end % 512
    (tmp_path / "x.tar").write_bytes(content[: end - cut])
    with pytest.raises(ValueError, match=r"x\.tar"):
        list(read_samples(tmp_path / "x.tar"))


@pytest.mark.parametrize("name", ["u0.pyd", "u0.pickle", "u0.tokens.pyd", "u0.pth", "u0", "u0.tokens.npy"])
def test_a_member_that_could_hold_code_is_refused_unread(tmp_path, name):
    import pickle

    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        content = pickle.dumps({"a": 1})
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match=r"x\.tar"):
        list(read_samples(tmp_path / "x.tar"))


def rewritten(folder, change):
    """A build of one interleaved sample, changed."""
    (folder / "shards/interleaved").mkdir(parents=True)
    one = toy_sample(toy_utterance(20), "interleaved")
    one = {name: value for name, value in (one | change(one)).items() if value is not None}
    entry = write_shard(folder / "shards/interleaved/train-000000.tar", [one], toy_vocabulary())
    write_index(folder / "shards", {"interleaved": {"train": [entry]}}, toy_vocabulary())
    return open_stream(folder, {"interleaved": 1}, **STREAM)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda one: {"text.npy": None}, "u1: does not follow the schema: .*text_ends|text_ends"),
        (lambda one: {"units.npy": None}, "u1: does not follow the schema: KeyError.'units.npy'"),
        (lambda one: {"times.npy": None}, "u1: does not follow the schema: KeyError.'times.npy'"),
        (lambda one: {"times.npy": one["times.npy"][:, 1:]}, "u1.: words: need as many starts"),
        (lambda one: {"times.npy": one["times.npy"][::-1].copy()}, "u1.: word times"),
        (lambda one: {"ends.npy": one["ends.npy"][:-1]}, "u1.: "),
        (lambda one: {"json": {n: v for n, v in one["json"].items() if n != "eos"}}, "u1 lacks 'eos'"),
        (
            lambda one: {"json": one["json"] | {"strategy": None}},
            "u1: has no strategy to draw its spans with",
        ),
        (lambda one: {"json": one["json"] | {"strategy": {"name": "spirits"}, "seed": None}}, "need one of"),
        (lambda one: {"units.npy": np.array([501], dtype=np.int16)}, "units: need"),
    ],
)
def test_a_sample_that_breaks_the_schema_is_named_with_its_shard(tmp_path, change, rule):
    stream = rewritten(tmp_path, change)
    with pytest.raises(ValueError, match=rf"train-000000\.tar: .*({rule})"):
        next(stream)


@pytest.mark.parametrize("size", [b"-0000000100\0", b"99999999999\0", b"0000000_100\0", b"\0" * 12])
def test_a_header_with_an_impossible_size_is_refused(build, tmp_path, size):
    content = bytearray((build / SHARD).read_bytes())
    content[124:136] = size
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.tar: truncated or damaged|x\.tar: truncated inside"):
        list(read_samples(tmp_path / "x.tar"))


def test_a_file_that_is_no_tar_is_named(tmp_path):
    for content in (b"", b"x" * 2000, b"\0" * 100):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.tar"):
            list(read_samples(tmp_path / "x.tar"))
    with pytest.raises(ValueError, match=r"y\.tar"):
        list(read_samples(tmp_path / "y.tar"))


def test_a_build_of_another_vocabulary_is_refused(copy):
    toy_vocabulary(64, 100).save(copy / "shards")
    with pytest.raises(ValueError, match="was made with vocabulary"):
        open_stream(copy, THIRDS, **STREAM)


def test_a_sample_of_another_vocabulary_is_refused(build):
    sample = next(read_samples(build / SHARD))
    with pytest.raises(ValueError, match="made with vocabulary"):
        read_utterance(sample, toy_vocabulary(64, 100))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            {"mixture": {"video": 1}},
            "need video/train, this build has interleaved/train, speech/train, text/train",
        ),
        ({"split": "valid"}, "need text/valid"),
        ({"mixture": {}}, "mixture"),
        ({"mixture": {"text": 0}}, "mixture"),
        ({"mixture": {"text": -1, "speech": 2}}, "mixture"),
        ({"mixture": [(5, {"text": 1})]}, "mixture"),
        ({"mixture": [(0, {"text": 1}), (9, {})]}, "mixture"),
        ({"mixture": [(0, {"text": 1}), (0, {"speech": 1})]}, "mixture"),
        ({"mixture": {"text": float("nan")}}, "mixture"),
        ({"mixture": {"text": float("inf")}}, "mixture"),
        ({"mixture": []}, "mixture"),
        (
            {"world_size": 3},
            r"a divisor of the 16 lanes \(1, 2, 4, 8, 16\), got 3; or set lanes to a multiple of it, such as 18",
        ),
        ({"rank": 2, "world_size": 2}, "need 0 <= rank < world size 2, got rank 2"),
        ({"sequence_length": 0}, "sequence_length"),
    ],
)
def test_wrong_use_of_the_loader_is_an_error_of_one_line(build, change, rule):
    settings = STREAM | {"mixture": THIRDS} | change
    with pytest.raises(ValueError, match=rule):
        open_stream(build, **settings)


def test_a_folder_without_an_index_is_no_build(tmp_path):
    with pytest.raises(ValueError, match="need shards, got none; run `wordweave build` or"):
        open_stream(tmp_path, THIRDS, **STREAM)


def test_a_state_of_other_settings_is_refused(build):
    _, states = take(build, 8, world_size=2)
    with pytest.raises(ValueError, match="state: made with seed 5, this stream has 6"):
        open_stream(build, THIRDS, state=states, **(STREAM | {"seed": 6}))
    with pytest.raises(ValueError, match="states of all ranks"):
        open_stream(build, THIRDS, state=states[0], **STREAM)
    with pytest.raises(ValueError, match="of one moment"):
        open_stream(build, THIRDS, state=[states[0], take(build, 32, world_size=2)[1][1]], **STREAM)
