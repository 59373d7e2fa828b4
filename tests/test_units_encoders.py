import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertModel

from units import hubert, kmeans
from units.convolutions import output_moments, sample_moments
from units.encode import encode_units
from units.encoders import load_encoder
from units.hubert import HubertEncoder, HubertSettings
from units.kmeans import Codebook, fit
from units.verify import verify

ROOT = Path(__file__).parent.parent
SPEECH = Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech"))

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYOUTS = {
    "base": SMALL,
    "25 Hz": SMALL
    | {
        "conv_dim": [16] * 8,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
    },
    "large": SMALL | {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
    "few wide kernels": SMALL
    | {
        "conv_dim": [16, 24, 16],
        "conv_kernel": [400, 3, 4],
        "conv_stride": [160, 2, 2],
        "num_conv_pos_embeddings": 15,
    },
    "batch norm": SMALL | {"conv_pos_batch_norm": True, "feat_proj_layer_norm": False},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A random HuBERT of each layout: (transformers model, its directory)."""
    found = {}
    for name, config in LAYOUTS.items():
        torch.manual_seed(0)
        model = HubertModel(HubertConfig(**config)).eval()
        with torch.no_grad():  # away from the ones and zeros of fresh norms and biases
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter) * 0.05
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer += torch.rand_like(buffer)
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        found[name] = model, folder
    return found


def speech_like(rng, samples):
    """Noise with a slow envelope, an offset and a loudness of its own."""
    envelope = np.abs(np.sin(np.linspace(0, rng.uniform(1, 20), samples)))
    return (rng.normal(size=samples) * envelope * rng.uniform(0.01, 0.5) + rng.normal() * 0.02).astype(
        np.float32
    )


@torch.no_grad()
def transformers_alone(model, waveform, layer):
    states = model(torch.from_numpy(waveform)[None], output_hidden_states=True).hidden_states
    return states[layer][0].float().numpy()


def flat_codebook(features, clusters=100):
    """Units as fine as possible: every frame drawn is a centroid."""
    frames = np.concatenate(features)
    return Codebook(frames[np.random.default_rng(0).permutation(len(frames))[:clusters]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_features_equal_those_of_transformers_alone(models, layout, layer):
    model, folder = models[layout]
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (48_000, 1_680, 23_457, 2_001)]
    encoder = load_encoder(folder, layer)
    for waveform, features in zip(waveforms, encoder.encode(waveforms)):
        expected = transformers_alone(model, waveform, layer)
        assert features.shape == expected.shape
        assert np.abs(features - expected).max() < 1e-4


@pytest.mark.parametrize("layout", ["base", "25 Hz"])
def test_features_equal_those_of_torchaudio_with_the_same_weights(models, layout):
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    model, folder = models[layout]
    theirs = import_huggingface_model(model).eval()
    waveform = speech_like(np.random.default_rng(1), 40_000)
    with torch.no_grad():
        layers, _ = theirs.extract_features(torch.from_numpy(waveform)[None])
    for layer in (1, 2, 3):
        ours = load_encoder(folder, layer).encode([waveform])[0]
        assert np.abs(ours - layers[layer - 1][0].numpy()).max() < 1e-4


@settings(deadline=None, max_examples=25)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    lengths=st.lists(st.integers(480, 48_000), min_size=1, max_size=12),
    batch_seconds=st.sampled_from([0.1, 3.0, 100.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_unit_depends_on_the_batch_it_is_in(models, layout, lengths, batch_seconds, seed):
    rng = np.random.default_rng(seed)
    waveforms = [speech_like(rng, samples) for samples in lengths]
    encoder = load_encoder(models[layout][1], 3, batch_seconds=batch_seconds)
    together = encoder.encode(waveforms)
    alone = [encoder.encode([waveform])[0] for waveform in waveforms]
    codebook = flat_codebook(alone) if sum(map(len, alone)) else Codebook(np.zeros((1, 32)))
    for one, batched in zip(alone, together):
        assert one.shape == batched.shape
        assert np.allclose(one, batched, rtol=0, atol=1e-5)
        assert np.array_equal(codebook.assign(one), codebook.assign(batched))


@pytest.fixture
def threads():
    """Sets the number of torch's threads, for this test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_one_thread_batched_features_are_those_of_one_by_one_to_the_last_bit(models, threads, layout):
    threads(1)
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(size=n).astype(np.float32) for n in [*rng.integers(400, 40_000, 15), 450, 900]]
    encoder = load_encoder(models[layout][1])
    for waveform, features in zip(waveforms, encoder.encode(waveforms)):
        assert np.array_equal(encoder.encode([waveform])[0], features)


@pytest.mark.parametrize("layout", ["base", "few wide kernels"])
def test_no_bit_hangs_on_the_number_of_threads(models, threads, layout):
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (23_000, 470, 41_000, 1_700, 160_000, 300)]
    encoder = load_encoder(models[layout][1], window_seconds=4, context_seconds=1)
    found = []
    for number in (1, 2, 3):
        threads(number)
        found.append(encoder.encode(waveforms) + [encoder.encode([waveform])[0] for waveform in waveforms])
        assert torch.get_num_threads() == number
    for one, *others in zip(*found):
        assert all(np.array_equal(one, other) for other in others)


def as_on_a_gpu(encoder):
    """The same encoder with the way of a GPU: recordings in one signal, attention masked, one batch ahead."""
    encoder._together, encoder._transformer.padded, encoder.exact = True, True, False
    return encoder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_way_of_a_gpu_gives_the_same_features(models, layout):
    rng = np.random.default_rng(0)
    lengths = (8_000, 8_000, 1_690, 23_457, 300, 64_001, 2_001)
    waveforms = [speech_like(rng, samples) for samples in lengths]
    settings = {"window_seconds": 3, "context_seconds": 1, "batch_seconds": 2.5}
    one = load_encoder(models[layout][1], **settings).encode(waveforms)
    other = as_on_a_gpu(load_encoder(models[layout][1], **settings)).encode(waveforms)
    for a, b in zip(one, other):
        assert a.shape == b.shape
        assert np.allclose(a, b, rtol=0, atol=1e-5)


def test_where_batches_move_features_a_recording_on_the_fence_is_encoded_alone(models, monkeypatch):
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (16_000, 8_000, 24_000, 9_000)]
    encoder = as_on_a_gpu(load_encoder(models["base"][1]))
    alone = [encoder.encode([waveform])[0] for waveform in waveforms]
    frame = alone[2][5].astype(np.float64)
    way = rng.normal(size=32)
    way -= way @ frame / (frame @ frame) * frame
    centroids = np.stack([frame + way, frame - way, *rng.normal(size=(3, 32)) * 9])  # frame 5 between two
    codebook, plain = Codebook(centroids), encoder._features

    expected = encode_units(encoder, codebook, waveforms[2:3])[0]
    over = (way if expected[5] else -way) / np.linalg.norm(way)  # to the other side

    def moved(recordings, batch, shared):  # as much as another order of sums would
        features = plain(recordings, batch, shared)
        if len(batch) == 1:
            return features
        length = features.norm(dim=1, keepdim=True)
        return features + 3e-6 * length * torch.from_numpy(over).float()

    monkeypatch.setattr(encoder, "_features", moved)
    together = encoder.encode(waveforms)[2]
    assert codebook.assign(together).tolist() != expected.tolist()
    assert encode_units(encoder, codebook, waveforms)[2].tolist() == expected.tolist()
    assert verify(encoder, codebook, waveforms) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_a_compiled_encoder_gives_the_same_features(models):
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (8_000, 1_690, 23_457)]
    plain, compiled = (load_encoder(models["base"][1], compiled=way) for way in (False, True))
    try:
        found = compiled.encode(waveforms)
    except Exception as error:
        pytest.skip(f"torch.compile has no compiler here: {type(error).__name__}")
    assert not compiled.exact
    assert compiled.identity == plain.identity
    for a, b in zip(plain.encode(waveforms), found):
        assert np.allclose(a, b, rtol=0, atol=1e-5)


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5)), min_size=1, max_size=6), st.integers(0, 5000)
)
def test_frame_count_and_receptive_field_follow_from_the_convolutions(layers, samples):
    kernels, strides = zip(*layers)
    length = samples
    for kernel, stride in layers:
        length = max(0, (length - kernel) // stride + 1)
    derived = HubertSettings(conv_kernel=kernels, conv_stride=strides)
    assert derived.frames(samples) == length
    assert derived.frames(derived.receptive_field) == 1
    assert derived.frames(derived.receptive_field - 1) == 0


def test_geometry_of_the_25_hz_layout_is_that_of_the_specification(models):
    encoder = load_encoder(models["25 Hz"][1], 1)
    assert (encoder.frame_rate, encoder.hop, encoder.centre, encoder.minimum) == (25.0, 640, 360, 720)
    assert encoder.dimension == 32
    counts = {
        samples: len(encoder.encode([np.zeros(samples, np.float32)])[0]) for samples in (719, 720, 146_160)
    }
    assert counts == {719: 0, 720: 1, 146_160: 228}


def test_each_frame_sees_its_own_receptive_field_and_nothing_else_before_attention(models):
    waveform = speech_like(np.random.default_rng(0), 6400)
    encoder = load_encoder(models["large"][1], 0)  # layer norm: no statistics over time
    front = encoder._convolutions

    def frames(samples):
        samples = torch.from_numpy(samples)
        return front.frames(samples, front.first(samples))

    before = frames(waveform)
    for frame in (0, 7):
        for edge in (encoder.hop * frame, encoder.hop * frame + encoder.minimum - 1):
            changed = waveform.copy()
            changed[edge] += 0.5
            touched = (frames(changed) != before).any(dim=1).nonzero().flatten().tolist()
            assert frame in touched
            seen = range(encoder.hop * frame, encoder.hop * frame + encoder.minimum)
            overlapping = [k for k in range(len(before)) if edge in range(k * 320, k * 320 + 400)]
            assert edge in seen
            assert touched == overlapping


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_a_waveform_too_short_for_a_frame_gives_none_and_leaves_its_neighbours_alone(models, samples):
    encoder = load_encoder(models["base"][1])
    neighbour = speech_like(np.random.default_rng(0), 8000)
    short, whole = encoder.encode([np.zeros(samples, np.float32), neighbour])
    assert short.shape == (0, 32)
    assert np.array_equal(whole, encoder.encode([neighbour])[0])
    assert encoder.encode([]) == []


@pytest.mark.parametrize("value", [0.0, 0.3])
@pytest.mark.parametrize("layout", ["base", "large"])
def test_silence_and_a_constant_are_finite_and_as_transformers_has_them(models, layout, value):
    model, folder = models[layout]
    waveform = np.full(8000, value, np.float32)
    features = load_encoder(folder, 1).encode([waveform])[0]
    assert np.isfinite(features).all()
    if value == 0:  # for a constant, single precision leaves transformers nothing but rounding to normalise
        assert np.abs(features - transformers_alone(model, waveform, 1)).max() < 1e-4


def test_waveforms_that_cannot_be_encoded_are_refused_by_their_place(models):
    for encoder in (load_encoder(models["base"][1]), load_encoder("mfcc")):
        good = np.zeros(4000, np.float32)
        with pytest.raises(ValueError, match="waveform 1: need finite samples"):
            encoder.encode([good, np.full(4000, np.nan, np.float32)])
        with pytest.raises(ValueError, match=r"waveform 0: need shape \(T,\), got \(2, 4000\)"):
            encoder.encode([np.zeros((2, 4000), np.float32)])
        with pytest.raises(
            ValueError, match=r"waveform 1: need floating point samples in \[-1, 1\], got int16"
        ):
            encoder.encode([good, np.zeros(4000, np.int16)])
        with pytest.raises(ValueError, match="waveform 0: need finite samples"):
            encoder.encode([np.full(4000, 1e300)])
        with pytest.raises(ValueError, match=r"waveform 0: need samples in \[-1, 1\], got 1e\+30"):
            encoder.encode([np.full(4000, 1e30)])


def test_waveforms_of_other_precision_or_that_must_not_be_written_are_read(models, recwarn):
    waveform = speech_like(np.random.default_rng(0), 4000)
    locked = waveform.copy()
    locked.setflags(write=False)
    encoder = load_encoder(models["base"][1])
    expected = encoder.encode([waveform])[0]
    strided = np.repeat(waveform, 2)[::2]
    for other in (waveform.astype(np.float64), locked, strided, torch.from_numpy(waveform)):
        assert np.array_equal(encoder.encode([other])[0], expected)
    assert not recwarn.list


def test_statistics_of_a_recording_are_those_of_all_its_samples_and_windows(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr("units.convolutions.STATISTICS_SAMPLES", 1000)  # several blocks
    for size, stride in ((10, 5), (48, 16)):  # by the covariance of windows, and by the output itself
        waveform = (rng.normal(size=4003) * 0.01 + 5).astype(np.float32)
        kernel = rng.normal(size=(size, 3))
        starts = range(0, 4003 - size + 1, stride)
        output = np.stack([waveform[start : start + size].astype(np.float64) for start in starts]) @ kernel
        mean, variance = output_moments(torch.from_numpy(waveform), torch.from_numpy(kernel), size, stride)
        assert np.allclose(mean, output.mean(axis=0), rtol=1e-7, atol=1e-7)
        assert np.allclose(variance, output.var(axis=0), rtol=1e-5)
        mean, variance = sample_moments(torch.from_numpy(waveform))
        assert mean.item() == pytest.approx(waveform.mean(dtype=np.float64), abs=1e-9)
        assert variance.item() == pytest.approx(waveform.var(dtype=np.float64), rel=1e-9)


def test_the_waveform_is_normalised_where_the_checkpoint_asks_for_it(models, tmp_path):
    model, folder = models["large"]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    waveform = speech_like(np.random.default_rng(3), 9000)
    normalised = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    encoder = load_encoder(tmp_path)
    assert np.abs(encoder.encode([waveform])[0] - transformers_alone(model, normalised, 3)).max() < 1e-4
    assert encoder.identity != load_encoder(folder).identity
    assert load_encoder(folder, normalize=True).identity == encoder.identity
    assert load_encoder(tmp_path, normalize=False).identity == load_encoder(folder).identity


def test_a_device_or_precision_that_does_not_exist_is_refused(models):
    for device in ("cuda:99", "toaster"):
        with pytest.raises(
            ValueError, match=f"encoder.device: need one that torch can use here, got '{device}'"
        ):
            load_encoder(models["base"][1], device=device)
    with pytest.raises(ValueError, match=r"encoder.dtype: need one of \[.*\], got 'int8'"):
        load_encoder(models["base"][1], dtype="int8")


def test_identity_follows_weights_and_settings_and_not_the_place(models, tmp_path):
    _, folder = models["base"]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    same = {load_encoder(path, 3).identity for path in (folder, tmp_path)} | {load_encoder(folder).identity}
    assert len(same) == 1
    others = [
        load_encoder(folder, 2),
        load_encoder(folder, 3, dtype="bfloat16"),
        load_encoder(folder, 3, chunking="reference"),
        load_encoder(models["25 Hz"][1], 3),
        load_encoder("mfcc"),
        load_encoder("mfcc-50hz"),
    ]
    assert len({encoder.identity for encoder in others} | same) == len(others) + 1


def test_blocks_above_the_layer_are_not_loaded(models):
    encoder = load_encoder(models["base"][1], 1)
    assert len(encoder._transformer.blocks) == 1
    with pytest.raises(ValueError, match=r"encoder.layer: need a whole number 0 <= layer <= 3, got 4"):
        load_encoder(models["base"][1], 4)


def test_half_precision_errs_no_more_than_transformers_under_autocast(models):
    model, folder = models["base"]
    waveform = speech_like(np.random.default_rng(0), 32_000)
    exact, half = (
        load_encoder(folder, dtype=dtype).encode([waveform])[0] for dtype in ("float32", "bfloat16")
    )
    with torch.autocast("cpu", torch.bfloat16):
        theirs = transformers_alone(model, waveform, 3)
    assert 0 < np.linalg.norm(half - exact) < 1.1 * np.linalg.norm(theirs - exact)
    assert half.dtype == np.float32


def test_a_codebook_refuses_another_layer_but_not_half_precision(models, tmp_path):
    folder = models["base"][1]
    encoder = load_encoder(folder, 2)
    codebook = fit(
        encoder.encode([speech_like(np.random.default_rng(0), 40_000)])[0], clusters=5, encoder=encoder
    )
    codebook.save(tmp_path / "units.safetensors")
    codebook = kmeans.load(tmp_path / "units.safetensors")
    codebook.check(load_encoder(folder, 2, dtype="bfloat16", chunking="reference"))
    with pytest.raises(ValueError, match="fitted on an encoder with layer 2, this one has 1"):
        codebook.check(load_encoder(folder, 1))
    with pytest.raises(ValueError, match="fitted on an encoder with"):
        codebook.check(load_encoder(models["25 Hz"][1], 2))


# Long recordings


def test_windows_of_a_long_recording_keep_every_frame_in_its_place(models):
    waveform = speech_like(np.random.default_rng(0), 16_000 * 12 + 77)
    whole = load_encoder(models["base"][1], 2, chunking="none").encode([waveform])[0]
    windowed = load_encoder(models["base"][1], 2, window_seconds=4, context_seconds=1).encode([waveform])[0]
    assert windowed.shape == whole.shape
    scale = np.abs(whole).max()
    assert np.abs(windowed - whole).max() < 0.5 * scale  # attention sees less: near, not equal
    before_attention = load_encoder(models["base"][1], 0, window_seconds=4, context_seconds=1).encode(
        [waveform]
    )[0]
    expected = load_encoder(models["base"][1], 0, chunking="none").encode([waveform])[0]
    assert np.allclose(before_attention, expected, rtol=0, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 3_000_000), st.integers(3, 40), st.integers(0, 1))
def test_windows_are_bounded_in_order_and_keep_each_frame_once(models, samples, window, context):
    encoder = load_encoder(models["25 Hz"][1], 0, window_seconds=window, context_seconds=context)
    pieces = encoder._pieces(0, samples)
    kept = [k for p in pieces for k in range(p.start // 640 + p.first, p.start // 640 + p.first + p.kept)]
    assert kept == list(range(encoder.settings.frames(samples)))
    assert kept == [k for p in pieces for k in range(p.place, p.place + p.kept)]
    assert all(encoder.settings.frames(p.stop - p.start) <= window * 25 for p in pieces)
    for piece in pieces[1:]:
        assert piece.first == context * 25


@pytest.mark.parametrize("layout", ["base", "25 Hz"])
def test_units_in_one_step_are_those_of_features_and_codebook(models, layout):
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (16_000, 300, 90_000, 2_000)]
    encoder = load_encoder(models[layout][1], 2, window_seconds=3, context_seconds=1, batch_seconds=4)
    features = encoder.encode(waveforms)
    codebook = flat_codebook(features, 30)
    units = encode_units(encoder, codebook, waveforms)
    assert [sequence.tolist() for sequence in units] == [codebook.assign(x).tolist() for x in features]
    assert all(sequence.dtype == np.int32 for sequence in units)
    assert encode_units(encoder, codebook, []) == []


def test_up_to_the_window_chunking_changes_nothing(models):
    waveform = speech_like(np.random.default_rng(0), 30_000)
    results = [load_encoder(models["25 Hz"][1], chunking=c).encode([waveform])[0] for c in hubert.CHUNKINGS]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_reference_chunks_are_those_of_the_released_tokenizer(models, monkeypatch):
    encoder = load_encoder(models["25 Hz"][1], chunking="reference")
    counts = [
        sum(p.kept for p in encoder._pieces(0, n)) for n in (1_600_000, 1_601_279, 1_601_280, 1279, 1280)
    ]
    assert counts == [2499, 2499, 2500, 0, 1]
    monkeypatch.setattr(hubert, "REFERENCE_CHUNK", 20_000)
    waveform = speech_like(np.random.default_rng(0), 41_279)
    expected = [encoder.encode([waveform[start : start + 20_000]])[0] for start in (0, 20_000)]
    assert np.array_equal(encoder.encode([waveform])[0], np.concatenate(expected))


def test_windows_that_leave_no_middle_are_refused(models):
    with pytest.raises(
        ValueError, match="window_seconds: need more than twice context_seconds, got 10 and 5"
    ):
        load_encoder(models["base"][1], window_seconds=10, context_seconds=5)


# Bad checkpoints


def test_what_is_no_hubert_is_refused_by_file_and_rule(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"config.json: need this file"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config.json: need model_type 'hubert', got 'bert'"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: need JSON"):
        load_encoder(tmp_path)
    with pytest.raises(ValueError, match=r"nobody/nothing: neither a directory nor a model the hub gives us"):
        load_encoder("nobody/nothing")
    with pytest.raises(ValueError, match=r"no/such/directory: need a directory"):
        load_encoder("no/such/directory")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv_stride", [0] * 7, "conv_stride: need 1 to 32 whole numbers of at least 1"),
        ("conv_kernel", [10, 3], "conv_dim, conv_kernel, conv_stride: need equal lengths"),
        ("conv_dim", None, "conv_dim: need 1 to 32 whole numbers"),
        ("hidden_size", "32", "hidden_size: need a whole number from 1 to 65536, got '32'"),
        ("num_hidden_layers", 10**9, "num_hidden_layers: need a whole number from 0 to 1000"),
        ("num_attention_heads", 3, "num_attention_heads: need a divisor of hidden_size 32, got 3"),
        ("layer_norm_eps", "small", "layer_norm_eps: need a number from 0 to 1"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_name(models, tmp_path, name, value, message):
    _, folder = models["base"]
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: {message}"):
        load_encoder(tmp_path)


def test_layers_devices_and_sample_rates_that_cannot_be_are_refused(models, tmp_path):
    _, folder = models["base"]
    for layer in ("2", 1.5):
        with pytest.raises(ValueError, match=f"encoder.layer: need a whole number, got {layer!r}"):
            load_encoder(folder, layer)
    assert load_encoder(folder, np.int64(2)).layer == 2
    with pytest.raises(ValueError, match=r"encoder.batch_seconds: need more than 0, got 0"):
        load_encoder(folder, batch_seconds=0)
    with pytest.raises(ValueError, match=r"encoder.device: need one that torch can use here, got 'meta'"):
        load_encoder(folder, device="meta")
    with pytest.raises(ValueError, match="encoder: need a name or a path, got ''"):
        load_encoder("")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 8000}))
    with pytest.raises(ValueError, match=r"preprocessor_config.json: need sampling_rate 16000, got 8000"):
        load_encoder(tmp_path)


def published(model, folder, layout):
    """The files of a model as those who published such models named them and their weights."""
    known = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim"}
    known |= {"conv_kernel", "conv_stride", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"}
    known |= {"conv_bias", "feat_extract_norm", "do_stable_layer_norm", "hidden_act", "layer_norm_eps"}
    known |= {"feat_extract_activation", "model_type"}
    config = {name: value for name, value in model.config.to_dict().items() if name in known}
    config |= {
        "architectures": ["HubertModel"],
        "mask_time_prob": 0.05,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if layout in ("pytorch_model.bin of 2021", "fine-tuned, in two halves"):
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            position = "encoder.pos_conv_embed.conv"
            weights[f"{position}.{old}"] = weights.pop(f"{position}.parametrizations.weight.{new}")
    weights |= {"masked_spec_embed": torch.zeros(32)}
    if layout == "fine-tuned, in two halves":
        weights = {f"hubert.{name}": tensor for name, tensor in weights.items()}
        weights |= {"lm_head.weight": torch.zeros(5, 32), "lm_head.bias": torch.zeros(5)}
        names = sorted(weights)
        halves = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        for file, some in halves.items():
            save_file({name: weights[name].contiguous() for name in some}, folder / file)
        index = {name: file for file, some in halves.items() for name in some}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    elif layout == "pytorch_model.bin of 2021":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors"
        )
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("base", "pytorch_model.bin of 2021"),  # as hubert-base-ls960
        ("base", "model.safetensors"),  # as mHuBERT-147
        ("25 Hz", "model.safetensors"),  # as the 25 Hz mHuBERT
        ("large", "pytorch_model.bin of 2021"),  # as hubert-large-ll60k
        ("large", "fine-tuned, in two halves"),  # as hubert-large-ls960-ft
    ],
)
def test_models_are_read_as_they_were_published(models, tmp_path, kind, layout):
    model, folder = models[kind]
    published(model, tmp_path, layout)
    assert load_encoder(tmp_path).identity == load_encoder(folder).identity


def test_weights_that_are_broken_or_incomplete_are_refused_by_file(models, tmp_path):
    _, folder = models["base"]
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"need model.safetensors or pytorch_model.bin, found neither"):
        load_encoder(tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "model.safetensors").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"model.safetensors: need a whole safetensors file"):
            load_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ValueError, match=r"need all weights .* missing: encoder.layers.3"):
        load_encoder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layers.1.attention.q_proj.weight"
    for wrong in (weights[name] * torch.nan, weights[name].int()):
        save_file(weights | {name: wrong}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"weight {name}: need finite floating point numbers"):
            load_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(ValueError, match=r"weight .*: need shape \(64, .* by its settings, got \(32, "):
        load_encoder(tmp_path)


def test_weights_in_several_files_are_read_from_all_of_them(models, tmp_path):
    model, folder = models["base"]
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert load_encoder(tmp_path).identity == load_encoder(folder).identity
    next(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"model-.*.safetensors: need a whole safetensors file"):
        load_encoder(tmp_path)


def test_a_name_of_the_hub_is_read_from_where_the_hub_client_puts_it(models, monkeypatch):
    _, folder = models["base"]
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_encoder("someone/hubert-small").identity == load_encoder(folder).identity
    patterns = ["config.json", "preprocessor_config.json", "model*.safetensors*"]
    assert asked == [("someone/hubert-small", patterns)]  # and no pickle, where there is something better


def test_an_older_pytorch_model_is_read_without_running_code(models, tmp_path):
    model, folder = models["base"]
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(
        {f"hubert.{name}": tensor for name, tensor in model.state_dict().items()},
        tmp_path / "pytorch_model.bin",
    )
    assert load_encoder(tmp_path).identity == load_encoder(folder).identity
    trap = tmp_path / "sprung"
    torch.save({"weight": Trap(str(trap))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pytorch_model.bin: need a whole checkpoint of plain tensors and no code"
    ):
        load_encoder(tmp_path)
    assert not trap.exists()


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


# MFCC


@pytest.mark.parametrize(
    ("name", "rate", "hop", "minimum"), [("mfcc", 25, 640, 720), ("mfcc-50hz", 50, 320, 400)]
)
def test_mfcc_frames_are_where_a_hubert_of_that_rate_has_them(models, name, rate, hop, minimum):
    encoder = load_encoder(name)
    assert (encoder.frame_rate, encoder.hop, encoder.minimum, encoder.centre) == (
        rate,
        hop,
        minimum,
        minimum // 2,
    )
    theirs = load_encoder(models["25 Hz" if rate == 25 else "base"][1], 0)
    for samples in (0, minimum - 1, minimum, minimum + hop - 1, minimum + hop, 16_000):
        waveform = np.random.default_rng(0).normal(size=samples).astype(np.float32)
        assert len(encoder.encode([waveform])[0]) == len(theirs.encode([waveform])[0])


def test_a_click_shows_in_the_mfcc_frame_whose_centre_it_is():
    for name in ("mfcc", "mfcc-50hz", "mfcc-100hz"):
        encoder = load_encoder(name)
        waveform = np.random.default_rng(0).normal(size=32_000).astype(np.float32) * 1e-3
        waveform[encoder.centre + 10 * encoder.hop] = 1.0
        loudness = encoder.encode([waveform])[0][:, 0]
        assert loudness.argmax() == 10
        assert loudness[9] == pytest.approx(loudness[11], abs=0.1 * float(np.ptp(loudness)))


def test_mfcc_is_normalised_per_utterance_and_does_not_hear_loudness():
    waveform = speech_like(np.random.default_rng(0), 50_000)
    features = load_encoder("mfcc-100hz").encode([waveform])[0]
    assert np.allclose(features.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(features.std(axis=0), 1, atol=1e-5)
    assert np.allclose(load_encoder("mfcc-100hz").encode([waveform * 2])[0], features, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_mfcc_of_a_constant_is_zero(value):
    assert not load_encoder("mfcc").encode([np.full(16_000, value, np.float32)])[0].any()


def test_mfcc_agrees_with_kaldi_and_deltas_of_the_whole_waveform(monkeypatch):
    import torchaudio

    monkeypatch.setattr("units.mfcc.BLOCK", 50)
    waveform = speech_like(np.random.default_rng(0), 40_000)
    cepstra = torchaudio.compliance.kaldi.mfcc(torch.from_numpy(waveform)[None].double(), use_energy=False)
    deltas = torchaudio.functional.compute_deltas(cepstra.T).T
    both = torch.cat([cepstra, deltas], dim=1).numpy()
    expected = (both - both.mean(axis=0)) / both.std(axis=0)
    assert np.allclose(load_encoder("mfcc-100hz").encode([waveform])[0][:, :26], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "first", "step", "width"), [("mfcc", 1, 4, 5), ("mfcc-50hz", 0, 2, 3)])
def test_slower_mfcc_are_means_of_those_at_100_hz_around_the_same_centre(name, first, step, width):
    waveform = speech_like(np.random.default_rng(0), 20_000)
    slow, fast = (load_encoder(rate).encode([waveform])[0] for rate in (name, "mfcc-100hz"))
    for k in (3, len(slow) - 2):
        middle = first + step * k
        expected = fast[middle - width // 2 : middle + width // 2 + 1].mean(axis=0)
        assert np.allclose(slow[k], expected, rtol=0, atol=1e-5)


def test_mfcc_takes_no_settings_of_other_encoders():
    with pytest.raises(ValueError, match="encoder mfcc: has no layer"):
        load_encoder("mfcc", 6)


def test_mfcc_has_the_same_bytes_on_any_number_of_threads(threads):
    waveform = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    results = set()
    for number in (1, 2, 3):
        threads(number)
        results.add(load_encoder("mfcc").encode([waveform])[0].tobytes())
    assert len(results) == 1


# Real speech


@pytest.fixture(scope="module")
def all_speech():
    manifest = SPEECH / "dev" / "manifest.jsonl"
    if not manifest.exists():
        pytest.skip("no recorded speech: set WORDWEAVE_SPEECH")
    import soundfile

    rows = sorted(map(json.loads, manifest.read_text().splitlines()), key=lambda row: row["id"])
    return [soundfile.read(manifest.parent / row["audio"], dtype="float32")[0] for row in rows]


@pytest.fixture(scope="module")
def real_speech(all_speech):
    return all_speech[:: len(all_speech) // 20][:20]


def test_units_of_real_speech_do_not_depend_on_batch_or_order(models, real_speech):
    encoder = load_encoder(models["base"][1])
    alone = [encoder.encode([waveform])[0] for waveform in real_speech]
    codebook = fit(np.concatenate(alone), clusters=100, iterations=5, encoder=encoder)
    for order in (np.arange(20), np.arange(20)[::-1]):
        together = encoder.encode([real_speech[i] for i in order])
        for i, features in zip(order, together):
            assert np.array_equal(codebook.assign(features), codebook.assign(alone[i]))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["base", "25 Hz", "large"])
def test_no_unit_of_all_recorded_speech_depends_on_its_batch(models, all_speech, layout):
    encoder = load_encoder(models[layout][1], batch_seconds=120)
    codebook = flat_codebook(encoder.encode(all_speech[:40]), 501)
    assert verify(encoder, codebook, all_speech) == 0


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(480, 960_000), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_no_unit_of_a_minute_depends_on_its_batch(models, lengths, seed):
    rng = np.random.default_rng(seed)
    waveforms = [speech_like(rng, samples) for samples in lengths]
    encoder = load_encoder(models["base"][1], batch_seconds=120)
    features = encoder.encode(waveforms)
    if sum(map(len, features)):
        assert verify(encoder, flat_codebook(features, 501), waveforms) == 0


def test_real_speech_features_equal_those_of_transformers(models, real_speech):
    model, folder = models["25 Hz"]
    for waveform, features in zip(real_speech[:5], load_encoder(folder).encode(real_speech[:5])):
        assert np.abs(features - transformers_alone(model, waveform, 3)).max() < 1e-4


def test_an_encoder_can_be_built_without_files():
    settings = HubertSettings(
        conv_kernel=(4,), conv_stride=(2,), layers=0, position_kernel=3, position_groups=1
    )
    weights = {
        "feature_extractor.conv_layers.0.conv.weight": torch.ones(2, 1, 4),
        **{
            f"feature_extractor.conv_layers.0.layer_norm.{part}": torch.ones(2) for part in ("weight", "bias")
        },
        **{f"feature_projection.layer_norm.{part}": torch.ones(2) for part in ("weight", "bias")},
        "feature_projection.projection.weight": torch.ones(3, 2),
        "feature_projection.projection.bias": torch.zeros(3),
        "encoder.pos_conv_embed.conv.weight": torch.ones(3, 3, 3),
        "encoder.pos_conv_embed.conv.bias": torch.zeros(3),
        **{f"encoder.layer_norm.{part}": torch.ones(3) for part in ("weight", "bias")},
    }
    assert HubertEncoder(settings, weights).encode([np.arange(10.0)])[0].shape == (4, 3)
