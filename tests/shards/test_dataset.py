import itertools
import json

import numpy as np
import pytest
from torch.utils.data import DataLoader

from shards.dataset import StreamDataset
from shards.read import open_stream
from tests.helpers.shards import toy_build

THIRDS = {"text": 1, "speech": 1, "interleaved": 1}
STREAM = {"seed": 5, "sequence_length": 200, "lanes": 16, "buffer": 4}
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # 3 on 2 cores
FIELDS = ("tokens", "documents", "positions", "streams")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return toy_build(tmp_path_factory.mktemp("build"), utterances=60)


def batches(dataset, batch_size, workers):
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    return iter(loader)


def stacked(stream, count):
    sequences = list(itertools.islice(stream, count))
    return [np.stack([getattr(packed, name) for packed in sequences]) for name in FIELDS]


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 4), (1, 4), (2, 4), (3, 4), (3, 5)])
def test_any_number_of_workers_gives_the_same_batches(build, workers, batch_size):
    dataset = StreamDataset(build, THIRDS, batch_size=batch_size, **STREAM)
    result = list(itertools.islice(batches(dataset, batch_size, workers), 12))
    stream = open_stream(build, THIRDS, **STREAM)
    for batch in result:
        for name, expected in zip(FIELDS, stacked(stream, batch_size)):
            assert np.array_equal(batch[name].numpy(), expected)
    assert np.concatenate([batch["sequence"] for batch in result]).tolist() == list(range(12 * batch_size))


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_run_continues_after_the_last_recorded_batch(build, workers):
    dataset = StreamDataset(build, THIRDS, batch_size=4, rank=1, world_size=2, **STREAM)
    for batch in itertools.islice(batches(dataset, 4, workers), 7):
        dataset.record(batch)
    plain = open_stream(build, THIRDS, rank=1, world_size=2, **STREAM)
    stacked(plain, 28)
    state = json.loads(json.dumps(dataset.state()))
    assert state == json.loads(json.dumps(plain.state()))
    resumed = StreamDataset(build, THIRDS, batch_size=4, rank=1, world_size=2, state=state, **STREAM)
    batch = next(batches(resumed, 4, workers))
    assert np.array_equal(batch["tokens"].numpy(), stacked(plain, 4)[0])


def test_a_batch_out_of_order_is_refused(build):
    dataset = StreamDataset(build, THIRDS, **STREAM)
    first, second = itertools.islice(iter(dataset), 2)
    with pytest.raises(ValueError, match="need sequence 0 next, got 1"):
        dataset.record(second)
    dataset.record(first)
    dataset.record(second)


def test_workers_that_divide_the_lanes_share_none(build):
    from shards.dataset import _lanes

    stream = open_stream(build, THIRDS, rank=1, world_size=2, **STREAM)
    shares = [_lanes(stream, number, 2, 4) for number in range(2)]
    assert set.union(*shares) == set(range(1, 16, 2))
    assert sum(map(len, shares)) == 8


def test_wrong_settings_are_found_before_a_worker_starts(build):
    with pytest.raises(ValueError, match="need video/train"):
        StreamDataset(build, {"video": 1}, **STREAM)
    with pytest.raises(ValueError, match="batch_size"):
        StreamDataset(build, THIRDS, batch_size=0, **STREAM)
