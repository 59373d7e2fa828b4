"""Whisper's encoder and the slim kind of it: transformers is the oracle, and nothing else in a batch moves a frame."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from units.encode import encode_units
from units.encoders import load_encoder
from units.kmeans import Codebook
from units.whisper import (
    POSITIONS,
    SLIM,
    WhisperEncoder,
    WhisperNetwork,
    WhisperSettings,
    log_mel,
    sinusoids,
    windows,
)

TINY = WhisperSettings(width=32, layers=2, heads=2, wide=48)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.05 * np.random.default_rng(seed).standard_normal(int(seconds * 16_000))).astype(np.float32)


def slim(settings: WhisperSettings = TINY, **options) -> WhisperEncoder:
    """A slim encoder with random weights and sinusoidal positions."""
    torch.manual_seed(0)
    network = WhisperNetwork(settings)
    with torch.no_grad():
        network.embed_positions.weight.copy_(sinusoids(settings.positions, settings.width))
    return WhisperEncoder(settings, network.state_dict(), **options)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory as transformers writes a Whisper, and the model."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=48, vocab_size=60, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model = WhisperModel(config).eval()
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_features_are_the_hidden_states_of_transformers(published, layer):
    folder, model = published
    wave = np.pad(noise(3.0), (0, 27 * 16_000))
    inputs = WhisperFeatureExtractor()(wave, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        theirs = model.encoder(inputs, output_hidden_states=True).hidden_states[layer][0].numpy()
    encoder = load_encoder(folder, layer)
    (ours,) = encoder.encode([wave])
    assert (encoder.frame_rate, encoder.hop, encoder.centre) == (50.0, 320, 0)
    assert np.allclose(ours, theirs, atol=2e-4)


def test_a_slim_encoder_is_two_averaged_frames_before_the_blocks_of_transformers(tmp_path, published):
    _, model = published
    settings = replace(TINY, level=None, floor=None, delay=0)
    encoder = WhisperEncoder(
        settings, {k: v for k, v in model.encoder.state_dict().items() if not k.startswith("layer_norm")}
    )
    wave = np.pad(noise(3.0), (0, 27 * 16_000))
    inputs = WhisperFeatureExtractor()(wave, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        x = model.encoder(inputs, output_hidden_states=True).hidden_states[0]
        x = (x[:, ::2] + x[:, 1::2]) / 2
        for layer in model.encoder.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
    (ours,) = encoder.encode([wave])
    assert (encoder.frame_rate, encoder.hop, encoder.centre) == (25.0, 640, 160)
    assert np.allclose(ours, x[0].numpy(), atol=2e-4)


def test_neighbours_in_a_batch_and_threads_change_no_bit(monkeypatch):
    waves = [noise(seconds, seed) for seed, seconds in enumerate((0.3, 2.0, 11.3, 0.04, 0.01, 7.0))]
    encoder = slim(window_seconds=5.0, context_seconds=1.0)
    alone = [encoder.encode([wave])[0] for wave in waves]
    assert [len(features) for features in alone] == [len(wave) // 640 for wave in waves]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = encoder.encode(waves[::-1])[::-1]
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_windows_that_share_a_batch_of_a_gpu_have_the_features_they_have_alone():
    encoder = slim(window_seconds=3, context_seconds=0.5)
    waves = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 7.3, 2.0, 0.03, 2.0))]
    alone, codebook = encoder.encode(waves), Codebook(np.random.default_rng(0).standard_normal((20, 32)))
    expected = encode_units(encoder, codebook, waves)
    encoder._on_device = True
    batches, plain = [], encoder._features
    encoder._features = lambda windows: batches.append(len(windows)) or plain(windows)
    together = encoder.map(waves, lambda features: features)
    assert len(batches) == 1
    assert batches[0] > len(waves)  # several windows of the long recording, none of the short one
    for a, b in zip(alone, together, strict=True):
        assert a.shape == b.shape
        assert np.allclose(a, b, rtol=0, atol=1e-5)
    for a, b in zip(expected, encode_units(encoder, codebook, waves), strict=True):
        assert np.array_equal(a, b)
    batches.clear()
    encoder.encode(waves)
    assert set(batches) == {1}


def test_units_of_windows_are_those_of_the_features():
    encoder, waves = slim(window_seconds=5.0, context_seconds=1.0), [noise(12.0), noise(1.0, 1), noise(0.01)]
    features = encoder.encode(waves)
    codebook = Codebook(features[0][:: len(features[0]) // 20])
    for units, frames in zip(encode_units(encoder, codebook, waves), features, strict=True):
        assert np.array_equal(units, codebook.assign(frames))


@pytest.mark.parametrize("seconds", [4.0, 5.0, 5.04, 8.0, 23.7])
def test_a_long_recording_is_its_windows_with_the_edges_discarded(seconds):
    wave = noise(seconds)
    whole = slim(window_seconds=5.0, context_seconds=1.0).encode([wave])[0]
    level = np.float32(0.05 / (np.var(wave, dtype=np.float64) + 1e-7) ** 0.5)
    plain = slim(replace(TINY, level=None))
    scaled = (wave - np.float32(np.mean(wave, dtype=np.float64))) * level
    for window in windows(len(wave) // 640, 125, 25):
        kept = whole[window.place : window.place + window.kept]
        # half a frame of real samples before the window stands where a recording of its own is mirrored
        part = scaled[window.begin * 640 : window.end * 640]
        features = plain.encode([part])[0][window.first :][: window.kept]
        assert np.abs(kept[2:] - features[2:]).max(initial=0) < 0.05


def test_every_frame_comes_from_exactly_one_window_with_context():
    for frames in (1, 124, 125, 126, 250, 777):
        parts = windows(frames, 125, 25)
        assert [part.place for part in parts] == [sum(p.kept for p in parts[:i]) for i in range(len(parts))]
        assert sum(part.kept for part in parts) == frames
        assert all(part.end - part.begin <= 125 for part in parts)
        assert all(part.first >= 25 or part.begin == 0 for part in parts)
        assert all(
            part.end - part.begin - part.first - part.kept >= 25 or part.end == frames for part in parts
        )


def test_gain_and_offset_hardly_change_a_slim_frame():
    encoder, wave = slim(), noise(2.0)
    features = encoder.encode([wave, wave * 4, wave / 4 + 0.1])
    assert np.allclose(features[0], features[1], atol=1e-3)
    assert np.allclose(features[0], features[2], atol=1e-2)


def test_a_click_changes_only_the_log_mel_frames_over_it_where_the_floor_is_fixed():
    quiet = torch.from_numpy(1e-4 * noise(2.0))[None]
    clicked = quiet.clone()
    clicked[0, 16_000] = 1.0
    fixed = [log_mel(x, 80, -6.5) for x in (quiet, clicked)]
    below_loudest = [log_mel(x, 80, None) for x in (quiet, clicked)]
    changed = (fixed[0] != fixed[1]).any(dim=1)[0].nonzero()[:, 0]
    assert 1 <= len(changed) <= 3
    assert (below_loudest[0] != below_loudest[1]).any(dim=1).sum() > 100


def write_slim(folder, **changes):
    encoder = slim()
    config = {"model_type": SLIM, **asdict(TINY), **changes}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = encoder._network.state_dict()
    del weights[POSITIONS]  # computed, not stored
    save_file(weights, folder / "model.safetensors")
    return encoder


def test_a_slim_encoder_is_read_back_from_its_directory(tmp_path):
    encoder, wave = write_slim(tmp_path), noise(1.0)
    loaded = load_encoder(tmp_path)
    assert loaded.identity == encoder.identity
    assert np.array_equal(loaded.encode([wave])[0], encoder.encode([wave])[0])
    assert load_encoder(tmp_path, 1).identity != encoder.identity
    assert load_encoder(tmp_path, 1).encode([wave])[0].shape == (25, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 30}, "need shape"),
        ({"heads": 5}, "heads: need a divisor of width 32, got 5"),
        ({"layers": 3}, "missing: layers.2"),
        ({"level": 2.0}, "level: need null or 0 < level <= 1, got 2.0"),
        ({"mels": "80"}, "mels: need an integer"),
    ],
)
def test_a_directory_that_contradicts_itself_is_refused_by_name(tmp_path, changes, message):
    write_slim(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_encoder(tmp_path)


def test_settings_that_cannot_be_are_refused(tmp_path):
    write_slim(tmp_path)
    for options, message in (
        ({"layer": 3}, "need an integer from 0 to 2, got 3"),
        ({"window_seconds": 31.0}, "at most 30"),
        ({"context_seconds": 15.0}, "more than twice context_seconds"),
        ({"dtype": "int8"}, "encoder.dtype"),
        ({"chunking": "none"}, "no normalize or chunking"),
        ({"normalize": True}, "no normalize or chunking"),
    ):
        with pytest.raises(ValueError, match=message):
            load_encoder(tmp_path, **options)


def test_a_wav2vec2_is_read_as_the_hubert_that_it_is(tmp_path):
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=[16] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    model = Wav2Vec2Model(config).eval()
    model.save_pretrained(tmp_path)
    wave = noise(1.0)
    with torch.no_grad():
        theirs = model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states[1][0]
    assert np.allclose(load_encoder(tmp_path, 1).encode([wave])[0], theirs, atol=2e-4)
