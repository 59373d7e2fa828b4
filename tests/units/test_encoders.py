"""Encoders: the features of transformers, the times of frames, identity, and what is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.hubert import LAYOUTS, speech_like, transformers_alone
from units import kmeans
from units.encoders import load_encoder
from units.hubert.encoder import HubertEncoder
from units.hubert.settings import HubertSettings
from units.kmeans import fit


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_features_equal_those_of_transformers_alone(huberts, layout, layer):
    model, folder = huberts[layout]
    rng = np.random.default_rng(0)
    waveforms = [speech_like(rng, samples) for samples in (48_000, 1_680, 23_457, 2_001)]
    encoder = load_encoder(folder, layer)
    for waveform, features in zip(waveforms, encoder.encode(waveforms)):
        expected = transformers_alone(model, waveform, layer)
        assert features.shape == expected.shape
        assert np.abs(features - expected).max() < 1e-4


@pytest.mark.parametrize("layout", ["base", "25 Hz"])
def test_features_equal_those_of_torchaudio_with_the_same_weights(huberts, layout):
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    model, folder = huberts[layout]
    theirs = import_huggingface_model(model).eval()
    waveform = speech_like(np.random.default_rng(1), 40_000)
    with torch.no_grad():
        layers, _ = theirs.extract_features(torch.from_numpy(waveform)[None])
    for layer in (1, 2, 3):
        features = load_encoder(folder, layer).encode([waveform])[0]
        assert np.abs(features - layers[layer - 1][0].numpy()).max() < 1e-4


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


def test_geometry_of_the_25_hz_layout_is_that_of_the_specification(huberts):
    encoder = load_encoder(huberts["25 Hz"][1], 1)
    assert (encoder.frame_rate, encoder.hop, encoder.centre, encoder.minimum) == (25.0, 640, 360, 720)
    assert encoder.dimension == 32
    counts = {
        samples: len(encoder.encode([np.zeros(samples, np.float32)])[0]) for samples in (719, 720, 146_160)
    }
    assert counts == {719: 0, 720: 1, 146_160: 228}


def test_each_frame_sees_its_own_receptive_field_and_nothing_else_before_attention(huberts):
    waveform = speech_like(np.random.default_rng(0), 6400)
    encoder = load_encoder(huberts["large"][1], 0)  # layer norm: no statistics over time
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
            samples = range(encoder.hop * frame, encoder.hop * frame + encoder.minimum)
            overlapping = [k for k in range(len(before)) if edge in range(k * 320, k * 320 + 400)]
            assert edge in samples
            assert touched == overlapping


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_a_waveform_too_short_for_a_frame_gives_none_and_leaves_its_neighbours_alone(huberts, samples):
    encoder = load_encoder(huberts["base"][1])
    neighbour = speech_like(np.random.default_rng(0), 8000)
    short, whole = encoder.encode([np.zeros(samples, np.float32), neighbour])
    assert short.shape == (0, 32)
    assert np.array_equal(whole, encoder.encode([neighbour])[0])
    assert encoder.encode([]) == []


@pytest.mark.parametrize("value", [0.0, 0.3])
@pytest.mark.parametrize("layout", ["base", "large"])
def test_silence_and_a_constant_are_finite_and_as_transformers_has_them(huberts, layout, value):
    model, folder = huberts[layout]
    waveform = np.full(8000, value, np.float32)
    features = load_encoder(folder, 1).encode([waveform])[0]
    assert np.isfinite(features).all()
    if value == 0:  # for a constant, single precision leaves transformers nothing but rounding to normalise
        assert np.abs(features - transformers_alone(model, waveform, 1)).max() < 1e-4


def test_waveforms_that_cannot_be_encoded_are_refused_by_their_place(huberts):
    for encoder in (load_encoder(huberts["base"][1]), load_encoder("mfcc")):
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


def test_waveforms_of_other_precision_or_that_must_not_be_written_are_read(huberts, recwarn):
    waveform = speech_like(np.random.default_rng(0), 4000)
    locked = waveform.copy()
    locked.setflags(write=False)
    encoder = load_encoder(huberts["base"][1])
    expected = encoder.encode([waveform])[0]
    strided = np.repeat(waveform, 2)[::2]
    for other in (waveform.astype(np.float64), locked, strided, torch.from_numpy(waveform)):
        assert np.array_equal(encoder.encode([other])[0], expected)
    assert not recwarn.list


def test_the_waveform_is_normalised_where_the_checkpoint_asks_for_it(huberts, tmp_path):
    model, folder = huberts["large"]
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


def test_a_device_or_precision_that_does_not_exist_is_refused(huberts):
    for device in ("cuda:99", "toaster"):
        with pytest.raises(
            ValueError, match=f"encoder.device: need one that torch can use here, got '{device}'"
        ):
            load_encoder(huberts["base"][1], device=device)
    with pytest.raises(ValueError, match=r"encoder.dtype: need one of \[.*\], got 'int8'"):
        load_encoder(huberts["base"][1], dtype="int8")


def test_identity_follows_weights_and_settings_and_not_the_place(huberts, tmp_path):
    _, folder = huberts["base"]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    same = {load_encoder(path, 3).identity for path in (folder, tmp_path)} | {load_encoder(folder).identity}
    assert len(same) == 1
    others = [
        load_encoder(folder, 2),
        load_encoder(folder, 3, dtype="bfloat16"),
        load_encoder(folder, 3, chunking="reference"),
        load_encoder(huberts["25 Hz"][1], 3),
        load_encoder("mfcc"),
        load_encoder("mfcc-50hz"),
    ]
    assert len({encoder.identity for encoder in others} | same) == len(others) + 1


def test_blocks_above_the_layer_are_not_loaded(huberts):
    encoder = load_encoder(huberts["base"][1], 1)
    assert len(encoder._transformer.blocks) == 1
    with pytest.raises(ValueError, match=r"encoder.layer: need an integer 0 <= layer <= 3, got 4"):
        load_encoder(huberts["base"][1], 4)


def test_half_precision_errs_no_more_than_transformers_under_autocast(huberts):
    model, folder = huberts["base"]
    waveform = speech_like(np.random.default_rng(0), 32_000)
    exact, half = (
        load_encoder(folder, dtype=dtype).encode([waveform])[0] for dtype in ("float32", "bfloat16")
    )
    with torch.autocast("cpu", torch.bfloat16):
        theirs = transformers_alone(model, waveform, 3)
    assert 0 < np.linalg.norm(half - exact) < 1.1 * np.linalg.norm(theirs - exact)
    assert half.dtype == np.float32


def test_a_codebook_refuses_another_layer_but_not_half_precision(huberts, tmp_path):
    folder = huberts["base"][1]
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
        codebook.check(load_encoder(huberts["25 Hz"][1], 2))


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
