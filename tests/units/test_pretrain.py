"""Pre-training: a tiny network learns, an interrupted run resumes exactly, what is saved is a HuBERT."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from units.encoders import load_encoder
from units.pretraining import checkpoint as pretrained
from units.pretraining.augment import AugmentSettings, at_speed, disturbed, make_noises
from units.pretraining.networks import CosineHead, Grid, NetworkSettings, frame_grid, mel_kernels
from units.pretraining.targets import UNKNOWN, Labels, averaged, logmel_features, mfcc_features, phone_labels
from units.pretraining.train import (
    PretrainSettings,
    Recording,
    draw_mask,
    pretrain,
    rate_at,
)

TINY = NetworkSettings(channels=(32, 16, 32), width=32, layers=2, heads=2, wide=64, position_kernel=8)
SETTINGS = PretrainSettings(
    targets={"logmel": 6, "mfcc": 6},
    steps=24,
    warmup=4,
    rate=3e-3,
    crop_seconds=(1.0,),
    batch_seconds=4.0,
    consistency=0.1,
    validation=("last",),
    report_every=4,
    checkpoint_every=4,
    network=TINY,
)


def tones(seed: int) -> np.ndarray:
    """Two seconds of held tones: a speech that is easy to learn."""
    rng = np.random.default_rng(seed)
    time = np.arange(3200) / 16_000
    parts = [
        sum(
            np.sin(2 * np.pi * (f + rng.normal(0, 20)) * time)
            for f in rng.choice([[400, 900], [700, 2500], [1500, 3000]])
        )
        for _ in range(10)
    ]
    return (0.1 * np.concatenate(parts) + 0.002 * rng.standard_normal(32_000)).astype(np.float32)


@pytest.fixture(scope="module")
def recordings():
    return [Recording(f"r{i}", "last" if i == 5 else f"speaker{i % 2}", tones(i)) for i in range(6)]


@pytest.fixture(scope="module")
def trained(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    return folder, pretrain(recordings, SETTINGS, folder)


def test_the_loss_falls_and_clusters_are_told_better_than_by_chance(trained):
    lines = [json.loads(line) for line in (trained[0] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(4, 25, 4))
    assert lines[-1]["loss"] < 0.85 * lines[0]["loss"]
    assert lines[-1]["unmasked_mfcc"] > lines[0]["unmasked_mfcc"]
    assert lines[-1]["validation_unmasked_mfcc"] > 1.5 / 6


@pytest.mark.parametrize("stop", [7, 12])
def test_a_stopped_run_goes_on_to_the_same_bytes(trained, recordings, tmp_path, stop):
    pretrain(recordings, SETTINGS, tmp_path, stop_after=stop)
    assert not (tmp_path / "model.safetensors").exists()
    pretrain(recordings, SETTINGS, tmp_path, resume=True)
    for name in ("model.safetensors", "checkpoint.safetensors", "config.json"):
        if name != "checkpoint.safetensors":
            assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()
    logged = [
        [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
        for place in (tmp_path, trained[0])
    ]
    for one, other in zip(*logged):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_another_seed_gives_another_encoder(trained, recordings, tmp_path):
    pretrain(recordings, replace(SETTINGS, seed=1, steps=4, validation=()), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() != (trained[0] / "model.safetensors").read_bytes()


def test_a_checkpoint_of_other_settings_or_data_is_refused(trained, recordings, tmp_path):
    with pytest.raises(
        ValueError, match=r"checkpoint.safetensors: was made with settings rate 0.003, got 0.001"
    ):
        pretrain(recordings, replace(SETTINGS, rate=1e-3), trained[0], resume=True)
    changed = [replace(recordings[0], waveform=-recordings[0].waveform), *recordings[1:]]
    with pytest.raises(ValueError, match=r"made with data sha256"):
        pretrain(changed, SETTINGS, trained[0], resume=True)
    with pytest.raises(ValueError, match=r"no checkpoint to resume"):
        pretrain(recordings, SETTINGS, tmp_path, resume=True)


def test_what_is_saved_is_the_hubert_that_transformers_opens(trained):
    from transformers import AutoFeatureExtractor, HubertModel

    encoder = load_encoder(trained[0])
    assert (encoder.frame_rate, encoder.minimum, encoder.dimension) == (25.0, 1680, 32)
    model, prepare = (
        HubertModel.from_pretrained(trained[0], dtype=torch.float32),
        AutoFeatureExtractor.from_pretrained(trained[0]),
    )
    wave = tones(9)
    inputs = prepare(wave, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        theirs = model.eval()(inputs.input_values).last_hidden_state[0].numpy()
    (ours,) = encoder.encode([wave])
    assert np.allclose(ours, theirs, atol=1e-4)


def test_validation_speakers_and_those_left_out_teach_nothing(recordings, tmp_path):
    few = replace(SETTINGS, steps=4, leave_out=("speaker1",))
    result = pretrain(recordings, few, tmp_path / "a")
    assert (
        result["data"]["recordings"],
        result["data"]["speakers"],
        result["data"]["validation_recordings"],
    ) == (
        3,
        1,
        1,
    )
    louder = [
        replace(r, waveform=r.waveform[::-1].copy()) if r.speaker == "speaker1" else r for r in recordings
    ]
    pretrain(louder, few, tmp_path / "b")
    read = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert read[0] == read[1]
    other = [replace(r, waveform=r.waveform[::-1].copy()) if r.speaker == "last" else r for r in recordings]
    pretrain(other, few, tmp_path / "c")
    assert (tmp_path / "c" / "model.safetensors").read_bytes() == read[0]


def test_an_encoder_can_go_on_from_another_on_its_own_clusters(trained, recordings, tmp_path):
    again = replace(SETTINGS, targets={"own": 6, "mfcc": 6}, start=str(trained[0]), own_layer=2, steps=4)
    assert "unmasked_own" in pretrain(recordings, again, tmp_path)["last"]
    with pytest.raises(ValueError, match="same network settings"):
        pretrain(recordings, replace(again, network=replace(TINY, wide=32)), tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": {"words": 3}}, "pretrain.targets: need some of"),
        ({"targets": {"phones": 3}}, "pretrain.phones: need the file"),
        ({"targets": {"own": 3}}, "pretrain.start: need the encoder"),
        ({"steps": 0}, "pretrain.steps: need at least 1, got 0"),
        ({"mask": (0.9, 0.5)}, "pretrain.mask: need shares"),
        ({"crop_seconds": (90.0,)}, "pretrain.crop_seconds: need lengths"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PretrainSettings(**change)


@pytest.mark.parametrize("name", ["validation", "leave_out"])
def test_a_misspelt_speaker_is_refused_rather_than_trained_on(recordings, tmp_path, name):
    with pytest.raises(
        ValueError, match=rf"pretrain.{name}: need speakers of the recordings, got \['lost'\]"
    ):
        pretrain(recordings, replace(SETTINGS, **{name: ("last", "lost")}), tmp_path)


def test_other_phones_or_another_start_are_other_data(trained, recordings, tmp_path):
    phones = tmp_path / "phones.jsonl"
    phones.write_text('{"id": "r0", "phones": [["AA", 0.1, 0.9]]}\n')
    requested = replace(SETTINGS, targets={"mfcc": 6, "phones": 2}, phones=str(phones), start=str(trained[0]))
    data = pretrain(recordings, requested, tmp_path / "a", stop_after=4)["data"]
    assert data["phones"]["recordings"] == 1
    assert data["start"] == hashlib.sha256((trained[0] / "model.safetensors").read_bytes()).hexdigest()
    phones.write_text('{"id": "r0", "phones": [["AA", 0.1, 0.8]]}\n')
    with pytest.raises(ValueError, match=r"checkpoint.safetensors: was made with data phones"):
        pretrain(recordings, requested, tmp_path / "a", resume=True)


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(pretrained, "save_file", full)
    with pytest.raises(ValueError, match=r"model.safetensors: cannot be written: No space left"):
        pretrained.replace_file(tmp_path / "model.safetensors", {}, {})
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_train_on_is_said(recordings, tmp_path):
    with pytest.raises(ValueError, match="need recordings of speakers that are not held out, got none"):
        pretrain([recordings[5]], SETTINGS, tmp_path)


@given(st.integers(1, 300), st.integers(0, 2**32), st.floats(0.0, 0.8), st.integers(1, 9))
@hypothesis_settings(deadline=None, max_examples=30)
def test_a_mask_is_made_of_whole_spans(frames, seed, share, span):
    settings = replace(SETTINGS, mask=(share, share), span=span)
    mask = draw_mask(frames, np.random.default_rng(seed), settings)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    runs = edges.reshape(-1, 2)
    assert len(mask) == frames
    assert all(stop - start >= span or stop == frames for start, stop in runs)
    assert share > 0 or not mask.any()


def test_masks_cover_the_share_that_was_asked():
    settings = replace(SETTINGS, mask=(0.4, 0.4))
    mask = draw_mask(200_000, np.random.default_rng(0), settings)
    assert mask.mean() == pytest.approx(0.4, abs=0.01)


def test_the_rate_rises_holds_and_falls():
    settings = replace(SETTINGS, steps=1000, warmup=100, hold=0.5)
    rates = [rate_at(step, settings) for step in range(1000)]
    assert rates[99] == rates[499] == settings.rate
    assert rates[0] == settings.rate / 100
    assert all(a >= b for a, b in pairwise(rates[499:]))
    assert rates[-1] < 0.02 * settings.rate


def test_the_first_kernels_answer_to_their_own_frequency():
    kernels = mel_kernels(256, 400)
    energy = (torch.fft.rfft(kernels, 16_000).abs() ** 2).reshape(64, 4, -1).sum(1)
    peaks = energy.argmax(dim=1)
    assert all(a <= b for a, b in pairwise(peaks))
    assert 50 < peaks[0] < 120
    assert abs(int(peaks[-1]) - 7600) < 10


def test_labels_are_looked_up_at_the_time_of_the_recording():
    labels = Labels("mfcc", 9, [np.arange(9, dtype=np.int16)])
    assert labels.at(0, np.array([200, 360, 200 + 8 * 160])).tolist() == [0, 1, 8]
    assert labels.at(0, np.array([-500, 200 + 20 * 160])).tolist() == [UNKNOWN, UNKNOWN]


def test_features_of_targets_have_a_frame_every_ten_milliseconds_and_do_not_hear_loudness():
    wave = tones(3)
    for function, dimension in ((mfcc_features, 39), (logmel_features, 120)):
        features = function(wave)
        assert features.shape == ((len(wave) - 400) // 160 + 1, dimension)
        assert np.allclose(function(2 * wave), features, atol=2e-2)
    assert averaged(np.ones((7, 2))).tolist() == np.ones((7, 2)).tolist()


def test_phones_become_labels_with_silence_as_one_of_them(tmp_path):
    path = tmp_path / "phones.jsonl"
    path.write_text('{"id": "a", "phones": [["AA", 0.1, 0.2], ["B", 0.2, 0.3]]}\n')
    labels = phone_labels(path, ["a", "other"], [np.zeros(16_000, np.float32)] * 2)
    assert labels.classes == 3
    centres = np.array([0.05, 0.15, 0.25, 0.35]) * 16_000
    assert labels.at(0, centres).tolist() == [0, 1, 2, 0]
    assert labels.at(1, centres).tolist() == [UNKNOWN] * 4
    path.write_text('{"id": "a", "phones": [["AA", 0.1]]}\n')
    with pytest.raises(ValueError, match="line 1: need"):
        phone_labels(path, ["a"], [np.zeros(16_000, np.float32)])


@pytest.mark.parametrize("speed", [21, 25, 29])
def test_speed_moves_pitch_and_length_together(speed):
    wave = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    faster = at_speed(wave, speed)
    assert len(faster) == pytest.approx(16_000 * 25 / speed, abs=2)
    peak = np.abs(np.fft.rfft(faster * np.hanning(len(faster)), 160_000)).argmax() / 10
    assert peak == pytest.approx(1000 * speed / 25, abs=1)


def test_noise_lies_as_far_below_speech_as_drawn():
    settings = AugmentSettings(noise=1.0, snr=(20.0, 20.0), babble=0.0, room=0.0, filter=0.0, gain=0.0)
    wave = tones(1)
    noisy = disturbed(wave, settings, make_noises(0), wave, np.random.default_rng(0), noise=1.0)
    assert 10 * np.log10(np.mean(wave**2) / np.mean((noisy - wave) ** 2)) == pytest.approx(20, abs=0.1)
    assert np.array_equal(
        disturbed(wave, settings, make_noises(0), wave, np.random.default_rng(0), noise=0.0), wave
    )


def test_frames_follow_from_kernels_and_strides():
    assert frame_grid(NetworkSettings()) == Grid(640, 1680, 840)
    assert frame_grid(NetworkSettings(kind="whisper")) == Grid(640, 640, 320)


def test_the_pure_recipe_in_config_says_the_defaults():
    from pathlib import Path

    from commands.encoder import read_pretraining

    folder = Path(__file__).resolve().parents[2] / "config" / "encoder"
    assert read_pretraining(folder / "pure.toml", {}) == PretrainSettings()


def test_a_cosine_head_hears_direction_alone():
    head = CosineHead(8, 3)
    features = torch.randn(2, 5, 8)
    assert torch.allclose(head(features), head(7 * features), atol=1e-5)
    assert head(features).abs().max() <= 10 + 1e-4
