"""Distillation: a student learns a teacher's features from noisy crops, resumes exactly, and is an encoder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import HubertModel, Wav2Vec2Config, Wav2Vec2Model, WhisperConfig, WhisperModel

from tests.helpers.hubert import transformers_alone
from units.encoders import load_encoder
from units.hubert.encoder import HubertEncoder
from units.pretraining.augment import AugmentSettings
from units.pretraining.networks import NetworkSettings, WhisperStudent, make_student, start_from_whisper
from units.pretraining.targets import Labels
from units.pretraining.teacher import FEATURES, TeacherFeatures, TeacherSettings, average, teach
from units.pretraining.train import PretrainSettings, Recording, Speech, normalized, pretrain
from units.whisper import POSITIONS, WhisperEncoder, WhisperSettings, sinusoids

SLIM = NetworkSettings(kind="whisper", width=32, layers=2, heads=2, wide=48)
SETTINGS = PretrainSettings(
    targets={"logmel": 6},
    steps=12,
    warmup=2,
    rate=2e-3,
    crop_seconds=(1.0,),
    batch_seconds=3.0,
    mask=(0.0, 0.0),
    unmasked_weight=1.0,
    validation=("last",),
    report_every=4,
    checkpoint_every=4,
    network=SLIM,
    augment=AugmentSettings(speeds=(24, 25), shift=20.0),
)


def tones(seed: int, seconds: float = 1.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    wave = sum(np.sin(2 * np.pi * f * time * (1 + 0.1 * np.sin(9 * time))) for f in rng.uniform(200, 3000, 4))
    return (0.05 * wave + 0.002 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def recordings():
    return [Recording(f"r{i}", "last" if i == 4 else f"speaker{i % 2}", tones(i)) for i in range(5)]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    torch.manual_seed(1)
    config = WhisperConfig(
        d_model=32, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=48, vocab_size=60, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=0, init_std=0.2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("whisper")
    WhisperModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    torch.manual_seed(1)
    config = Wav2Vec2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=[16] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("wav2vec2")
    Wav2Vec2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(whisper):
    return replace(SETTINGS, targets={}, teacher=TeacherSettings(str(whisper), layer=2, initialise=True))


@pytest.fixture(scope="module")
def trained(recordings, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    return folder, pretrain(recordings, settings, folder)


def test_the_student_comes_closer_to_its_teacher_on_a_speaker_held_out(trained, settings):
    lines = [json.loads(line) for line in (trained[0] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["validation_unmasked_cosine"] > lines[0]["validation_unmasked_cosine"] > 0
    assert trained[1]["data"]["teacher"] == load_encoder(settings.teacher.path, 2).identity


def test_what_is_saved_is_an_encoder_at_25_hz(trained, recordings):
    encoder = load_encoder(trained[0])
    assert (encoder.frame_rate, encoder.dimension) == (25.0, 32)
    assert encoder.encode([recordings[0].waveform])[0].shape == (37, 32)
    assert encoder.provenance["encoder"] == "whisper"


@pytest.mark.parametrize("stop", [4, 7])
def test_a_stopped_distillation_resumes_to_the_same_bytes(trained, recordings, settings, tmp_path, stop):
    pretrain(recordings, settings, tmp_path, stop_after=stop)
    summary = pretrain(recordings, settings, tmp_path, resume=True)
    assert summary["steps"] == 12
    assert (tmp_path / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()


def test_another_teacher_layer_is_other_data_for_a_run_that_resumes(recordings, settings, tmp_path):
    pretrain(recordings, settings, tmp_path, stop_after=4)
    other = replace(settings, teacher=replace(settings.teacher, layer=1, initialise=False))
    with pytest.raises(ValueError, match="was made with settings teacher"):
        pretrain(recordings, other, tmp_path, resume=True)


def test_features_of_the_teacher_are_computed_once(recordings, settings, tmp_path, monkeypatch):
    waves = [recording.waveform for recording in recordings]
    first = teach(waves, settings.teacher, tmp_path, data="these", learn_from=[0])
    assert first.of[0].shape == (75, 32)
    monkeypatch.setattr(WhisperEncoder, "encode", lambda self, waveforms: pytest.fail("computed again"))
    again = teach(waves, settings.teacher, tmp_path, data="these", learn_from=[0])
    assert all(np.array_equal(one, other) for one, other in zip(first.of, again.of, strict=True))
    with pytest.raises(pytest.fail.Exception):
        teach(waves, settings.teacher, tmp_path, data="others", learn_from=[0])
    assert (tmp_path / FEATURES).stat().st_size > 5 * 74 * 32 * 2


def test_targets_are_the_windowed_mean_of_the_teacher_at_the_time_of_the_student(
    whisper, recordings, tmp_path
):
    settings = TeacherSettings(str(whisper), layer=2)
    features = teach([recordings[0].waveform], settings, tmp_path, data="d", learn_from=[0])
    frames = load_encoder(whisper, 2).encode([recordings[0].waveform])[0]
    # frame k of the student is centred between frames 2k and 2k + 1 of the teacher, delayed by half a frame
    expected = (frames[9] + 3 * frames[10] + 3 * frames[11] + frames[12]) / 8
    assert np.allclose(features.at(0, np.array([10.5 * 320]))[0], expected, atol=0.01)
    assert np.allclose(average(frames, (1.0,)), frames)


def test_standardised_targets_have_mean_0_and_variance_1(whisper, recordings, tmp_path):
    waves = [recording.waveform for recording in recordings]
    settings = TeacherSettings(str(whisper), layer=2, standardise=True)
    features = teach(waves, settings, tmp_path, data="d", learn_from=range(5))
    values = np.concatenate([features.at(i, 320 * np.arange(75)) for i in range(5)])
    assert np.allclose(values.mean(axis=0), 0, atol=0.01)
    assert np.allclose(values.std(axis=0), 1, atol=0.02)


def test_a_network_in_training_computes_what_its_encoder_computes(whisper, recordings):
    student = make_student(SLIM)
    assert start_from_whisper(student, whisper) == ["front end", "blocks 1 to 2"]
    positions = {POSITIONS: sinusoids(1500, 32)}
    encoder = WhisperEncoder(student.settings, student.weights() | positions)
    for recording in recordings[:2]:
        wave = recording.waveform
        with torch.no_grad():
            waves = torch.from_numpy(normalized(wave[None]))
            ours = student.features(waves, torch.zeros(1, len(wave) // 640, dtype=torch.bool))[0]
        assert np.allclose(ours, encoder.encode([wave])[0], atol=2e-3)


def test_masked_frames_hide_the_waveform():
    student = WhisperStudent(SLIM)
    mask = torch.ones(1, 25, dtype=torch.bool)
    with torch.no_grad():
        one, other = (student.features(torch.from_numpy(tones(i, 1.0))[None], mask) for i in (0, 1))
        clear = student.features(torch.from_numpy(tones(1, 1.0))[None], ~mask)
    assert torch.equal(one, other)
    assert not torch.allclose(one, clear)


def test_positions_are_those_of_whisper():
    config = WhisperConfig(d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8,
                           decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8, vocab_size=60,
                           pad_token_id=0)  # fmt: skip
    theirs = WhisperModel(config).encoder.embed_positions.weight
    assert torch.allclose(sinusoids(1500, 32), theirs, atol=2e-4)  # theirs in single precision


def test_a_hubert_of_another_width_learns_clusters_and_features_of_a_wav2vec2(wav2vec2, recordings, tmp_path):
    hubert = NetworkSettings(
        channels=(32, 16, 32), width=32, layers=2, heads=2, wide=64, position_kernel=8, pre_norm=True
    )
    settings = replace(
        SETTINGS,
        network=hubert,
        targets={"teacher": 6, "logmel": 6},
        mask=(0.2, 0.4),
        steps=8,
        teacher=TeacherSettings(str(wav2vec2), layer=1, standardise=True, weight=0.5),
    )
    summary = pretrain(recordings, settings, tmp_path)
    last = summary["last"]
    assert {"masked_teacher", "unmasked_teacher", "masked_cosine", "unmasked_cosine"} <= last.keys()
    encoder = load_encoder(tmp_path)
    assert isinstance(encoder, HubertEncoder)
    assert encoder.settings.pre_norm
    (features,) = encoder.encode([recordings[0].waveform])
    assert features.shape[1] == 32
    theirs = HubertModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert (
        np.abs(features - transformers_alone(theirs, normalized(recordings[0].waveform[None])[0], 2)).max()
        < 1e-4
    )


def test_a_hubert_can_begin_with_the_blocks_of_a_whisper(whisper):
    network = NetworkSettings(channels=(32, 16, 32), width=32, layers=2, heads=2, wide=48, position_kernel=8,
                              pre_norm=True)  # fmt: skip
    student = make_student(network)
    assert start_from_whisper(student, whisper) == ["blocks 1 to 2"]
    theirs = load_encoder(whisper, 2)._network.layers[1]
    ours = student.hubert.encoder.layers[1]
    assert torch.equal(ours.feed_forward.output_dense.weight, theirs.fc2.weight)
    assert torch.equal(ours.attention.k_proj.bias, torch.zeros(32))


@pytest.mark.parametrize("network", [replace(SLIM, width=16, heads=2), replace(SLIM, layers=4)])
def test_a_network_of_other_sizes_cannot_begin_with_the_teacher(whisper, network):
    with pytest.raises(ValueError, match=r"need the sizes of \[network\]"):
        start_from_whisper(make_student(network), whisper)


def test_a_shift_moves_the_waveform_and_not_its_targets(recordings):
    features = TeacherFeatures([np.random.default_rng(0).normal(size=(75, 4)).astype(np.float16)] * 5, 0, 320,
                               np.zeros(4, np.float32), np.ones(4, np.float32))  # fmt: skip
    labels = Labels("mfcc", 75, [np.arange(150, dtype=np.int16)] * 5)
    quiet = AugmentSettings(speeds=(25,), noise=0.0, room=0.0, filter=0.0, gain=0.0)
    still, moved = (
        Speech(recordings, replace(SETTINGS, augment=replace(quiet, shift=shift)), (25,)).batch(
            3, [labels], features
        )
        for shift in (0.0, 20.0)
    )
    assert torch.equal(still.taught, moved.taught)
    assert torch.equal(still.labels["mfcc"], moved.labels["mfcc"])
    assert not torch.equal(still.waveforms, moved.waveforms)
    one, other = still.waveforms[0].numpy(), moved.waveforms[0].numpy()
    lag = max(range(-320, 321), key=lambda k: float(one[400:-400] @ np.roll(other, k)[400:-400]))
    assert 0 < abs(lag) <= 320


def test_speakers_get_their_share_of_the_crops(recordings):
    settings = replace(SETTINGS, shares={"last": 0.6})
    speech = Speech(recordings, settings, (25,))
    rng = np.random.default_rng(0)
    crops = [crop for _ in range(200) for crop in speech.crops(rng)[0]]
    assert np.mean([recordings[i].speaker == "last" for i, _, _ in crops]) == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "nowhere"}, "teacher.path: need a directory in Hugging Face format, got 'nowhere'"),
        ({"path": ".", "window": (0.5, 0.5)}, "teacher.window: need an odd number of weights"),
        ({"path": ".", "weight": -1.0}, "teacher.weight: need at least 0"),
    ],
)
def test_impossible_teachers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TeacherSettings(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": {"teacher": 5}}, "pretrain.teacher.path: need the directory"),
        ({"targets": {}}, "pretrain.targets: need some of"),
        ({"shares": {"a": 0.7, "b": 0.7}}, "pretrain.shares: need shares"),
        ({"teacher": TeacherSettings(initialise=True)}, "pretrain.teacher.initialise: need a teacher"),
    ],
)
def test_impossible_distillations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PretrainSettings(), **change)


def test_sizes_of_a_slim_network_are_those_of_its_settings():
    assert WhisperStudent(SLIM).settings == WhisperSettings(width=32, layers=2, heads=2, wide=48)
