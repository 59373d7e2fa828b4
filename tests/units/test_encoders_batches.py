"""No result depends on the batch it is in, on the number of threads, or on the algorithm for a GPU."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.hubert import LAYOUTS, as_on_a_gpu, flat_codebook, speech_like
from units.encode import encode_units
from units.encoders import load_encoder
from units.gpu import single_precision
from units.kmeans import Codebook
from units.verify import verify


@settings(deadline=None, max_examples=25)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    lengths=st.lists(st.integers(480, 48_000), min_size=1, max_size=12),
    batch_seconds=st.sampled_from([0.1, 3.0, 100.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_unit_depends_on_the_batch_it_is_in(huberts, layout, lengths, batch_seconds, seed):
    rng = np.random.default_rng(seed)
    waveforms = [speech_like(rng, samples) for samples in lengths]
    encoder = load_encoder(huberts[layout][1], 3, batch_seconds=batch_seconds)
    batch_features = encoder.encode(waveforms)
    alone = [encoder.encode([waveform])[0] for waveform in waveforms]
    codebook = flat_codebook(alone) if sum(map(len, alone)) else Codebook(np.zeros((1, 32)))
    for one, batched in zip(alone, batch_features):
        assert one.shape == batched.shape
        assert np.allclose(one, batched, rtol=0, atol=1e-5)
        assert np.array_equal(codebook.assign(one), codebook.assign(batched))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_one_thread_batched_features_are_those_of_one_by_one_to_the_last_bit(huberts, threads, layout):
    threads(1)
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(size=n).astype(np.float32) for n in [*rng.integers(400, 40_000, 15), 450, 900]]
    encoder = load_encoder(huberts[layout][1])
    for waveform, features in zip(waveforms, encoder.encode(waveforms)):
        assert np.array_equal(encoder.encode([waveform])[0], features)


@pytest.mark.parametrize("layout", ["base", "few wide kernels"])
def test_no_bit_depends_on_the_number_of_threads(huberts, threads, layout):
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (23_000, 470, 41_000, 1_700, 160_000, 300)]
    encoder = load_encoder(huberts[layout][1], window_seconds=4, context_seconds=1)
    result = []
    for number in (1, 2, 3):
        threads(number)
        result.append(encoder.encode(waveforms) + [encoder.encode([waveform])[0] for waveform in waveforms])
        assert torch.get_num_threads() == number
    for one, *others in zip(*result):
        assert all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_algorithm_for_a_gpu_gives_the_same_features(huberts, layout):
    rng = np.random.default_rng(0)
    lengths = (8_000, 8_000, 1_690, 23_457, 300, 64_001, 2_001)
    waveforms = [speech_like(rng, samples) for samples in lengths]
    settings = {"window_seconds": 3, "context_seconds": 1, "batch_seconds": 2.5}
    one = load_encoder(huberts[layout][1], **settings).encode(waveforms)
    other = as_on_a_gpu(load_encoder(huberts[layout][1], **settings)).encode(waveforms)
    for a, b in zip(one, other):
        assert a.shape == b.shape
        assert np.allclose(a, b, rtol=0, atol=1e-5)


def test_where_batches_move_features_a_recording_on_the_fence_is_encoded_alone(huberts, monkeypatch):
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (16_000, 8_000, 24_000, 9_000)]
    encoder = as_on_a_gpu(load_encoder(huberts["base"][1]))
    alone = [encoder.encode([waveform])[0] for waveform in waveforms]
    frame = alone[2][5].astype(np.float64)
    direction = rng.normal(size=32)
    direction -= direction @ frame / (frame @ frame) * frame
    centroids = np.stack(
        [frame + direction, frame - direction, *rng.normal(size=(3, 32)) * 9]
    )  # frame 5 between two
    codebook, plain = Codebook(centroids), encoder._features

    expected = encode_units(encoder, codebook, waveforms[2:3])[0]
    step = (direction if expected[5] else -direction) / np.linalg.norm(direction)  # to the other side

    batches = []

    def moved(recordings, batch, shared):  # as much as another order of sums does
        batches.append([len(recordings[piece.index]) for piece in batch])
        features = plain(recordings, batch, shared)
        if len(batch) == 1:
            return features
        length = features.norm(dim=1, keepdim=True)
        return features + 3e-6 * length * torch.from_numpy(step).float()

    monkeypatch.setattr(encoder, "_features", moved)
    batch_features = encoder.encode(waveforms)[2]
    assert codebook.assign(batch_features).tolist() != expected.tolist()
    batches.clear()
    assert encode_units(encoder, codebook, waveforms)[2].tolist() == expected.tolist()
    assert batches == [[24_000, 16_000, 9_000, 8_000], [24_000]]
    assert verify(encoder, codebook, waveforms) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_a_compiled_encoder_gives_the_same_features(huberts):
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (8_000, 1_690, 23_457)]
    plain, compiled = (load_encoder(huberts["base"][1], compiled=on) for on in (False, True))
    try:
        result = compiled.encode(waveforms)
    except Exception as error:
        pytest.skip(f"torch.compile has no compiler here: {type(error).__name__}")
    assert not compiled.exact
    assert compiled.identity == plain.identity
    for a, b in zip(plain.encode(waveforms), result):
        assert np.allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["base", "25 Hz"])
def test_units_in_one_step_are_those_of_features_and_codebook(huberts, layout):
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (16_000, 300, 90_000, 2_000)]
    encoder = load_encoder(huberts[layout][1], 2, window_seconds=3, context_seconds=1, batch_seconds=4)
    features = encoder.encode(waveforms)
    codebook = flat_codebook(features, 30)
    units = encode_units(encoder, codebook, waveforms)
    assert [sequence.tolist() for sequence in units] == [codebook.assign(x).tolist() for x in features]
    assert all(sequence.dtype == np.int32 for sequence in units)
    assert encode_units(encoder, codebook, []) == []


def test_the_flags_of_convolutions_hold_for_each_of_two_threads_that_launch_work():
    before, left = torch.backends.cudnn.allow_tf32, threading.Event()
    flags = []

    def launch():
        with single_precision(torch.device("cuda")):
            left.wait(0.2)  # without a lock, the first thread restores the flags meanwhile
            flags.append(torch.backends.cudnn.allow_tf32)

    with single_precision(torch.device("cuda")):
        thread = threading.Thread(target=launch)
        thread.start()
        time.sleep(0.05)
    left.set()
    thread.join()
    assert (flags, torch.backends.cudnn.allow_tf32) == ([False], before)
