"""The source-filter vocoder: its signal, its chunks, what it refuses, and its training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus.toml import read_toml
from units.pretraining.train import Recording
from units.vocoder import load_vocoder, losses, signal, train, vocoder
from units.vocoder.data import Tokenizers, at_level
from units.vocoder.network import DurationNetwork, NetworkSettings, VocoderNetwork

ROOT = Path(__file__).resolve().parents[2]
SMALL = NetworkSettings(
    units=12,
    features=4,
    styles=0,
    width=16,
    blocks=2,
    fine_width=16,
    fine_blocks=2,
    duration_width=8,
    dropout=0.1,
)


def small_vocoder(**identity):
    torch.manual_seed(0)
    network = VocoderNetwork(SMALL, torch.randn(12, 4))
    torch.nn.init.normal_(network.envelopes.weight, std=0.3)
    voices = {
        "ann": vocoder.Voice(np.ones(10, np.float32), 210.0),
        "bob": vocoder.Voice(np.zeros(10, np.float32), 110.0),
    }
    mean, components = np.zeros(80, np.float32), np.eye(80, 10, dtype=np.float32)
    return vocoder.Vocoder(network, DurationNetwork(SMALL), mean, components, voices, identity)


def some_units(count, seed=0):
    return np.random.default_rng(seed).integers(12, size=count)


def speech(seconds, hertz, seed):
    """A buzz of a slowly moving pitch with a moving formant, and noise between."""
    rng = np.random.default_rng(seed)
    n = int(16_000 * seconds)
    path = hertz * (1 + 0.1 * np.sin(np.arange(n) / 5000))
    buzz = signal.pulses(signal.advance(path, 0.0), path)
    gate = np.repeat(rng.random(n // 1600 + 1) < 0.8, 1600)[:n]
    return (0.1 * buzz * gate + 0.01 * rng.standard_normal(n)).astype(np.float32)


def test_chunks_have_no_seams_and_equal_the_waveform_in_one_piece(monkeypatch):
    made = small_vocoder().synthesise(some_units(150))
    assert made.shape == (150 * 640,)
    for size in (1, 37):
        monkeypatch.setattr(vocoder, "CHUNK", size)
        np.testing.assert_allclose(
            small_vocoder().synthesise(some_units(150)), made, atol=2e-5 * np.abs(made).max()
        )


def test_every_run_and_thread_count_gives_the_same_bytes():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    first = small_vocoder().speak(some_units(60))
    torch.set_num_threads(threads)
    assert small_vocoder().speak(some_units(60)).tobytes() == first.tobytes()


def test_pieces_come_one_by_one_for_a_stream_of_any_length():
    pieces = small_vocoder().stream(some_units(100_000), lengths=np.ones(100_000, int))
    assert [len(next(pieces)) for _ in range(2)] == [vocoder.CHUNK * 640] * 2


def test_lengths_are_predicted_for_what_is_deduplicated_only():
    one = small_vocoder()
    units = np.array([1, 2, 1, 5])
    assert len(one.speak(units)) == 640 * one.lengths(units).sum() > 4 * 640
    assert len(one.speak(np.array([1, 1, 2, 5]))) == 4 * 640
    assert len(one.speak(units, lengths=np.array([2, 1, 1, 3]))) == 7 * 640


def test_a_saved_vocoder_speaks_as_before(tmp_path):
    small_vocoder(codebook="abc").save(tmp_path)
    first, again = load_vocoder(tmp_path), load_vocoder(tmp_path)
    np.testing.assert_array_equal(first.speak(some_units(30)), again.speak(some_units(30)))
    assert first.identity == {"codebook": "abc"}
    assert list(first.voices) == ["ann", "bob"]
    assert first.hash == again.hash
    close = small_vocoder().speak(some_units(30), lengths=np.ones(30, int))
    np.testing.assert_allclose(
        first.speak(some_units(30), lengths=np.ones(30, int)), close, atol=0.05 * close.std() * 10
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.speak(np.array([3, 12])), "vocoder: need units from 0 to 11, got 12"),
        (lambda v: v.speak(np.array([-1])), "vocoder: need units from 0 to 11, got -1"),
        (lambda v: v.speak(np.array([], int)), "vocoder: need at least one unit, got none"),
        (lambda v: v.speak(np.array([1, 2]), lengths=np.array([1, 0])), "need a length of at least 1 for each of 2"),
        (lambda v: v.voice("eve"), "voice 'eve': need one of ann, bob, or a recording"),
        (lambda v: v.voice_of(np.zeros(16_000, np.float32), "x.wav"), "voice of x.wav: need speech, got silence"),
        (lambda v: v.check(codebook="b" * 64), "was made for codebook aaaaaaaaaaaa, the tokens are of codebook b"),
    ],
)  # fmt: skip
def test_what_cannot_be_spoken_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_vocoder(codebook="a" * 64))


def test_a_damaged_vocoder_is_refused_by_the_name_of_the_file(tmp_path):
    small_vocoder().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"]["width"] = 17
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"model.safetensors: weight vocoder.from_centroid.weight: need shape \(17, 4\)"
    ):
        load_vocoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"model.safetensors: need a whole safetensors file"):
        load_vocoder(tmp_path)


def test_pulses_have_the_spectrum_of_white_noise_up_to_the_highest_harmonic():
    hertz = np.full(16_000, 125.0)
    power = np.abs(np.fft.rfft(signal.pulses(signal.advance(hertz, 0.3), hertz))) ** 2 / 16_000
    harmonics = power[125:7500:125]
    np.testing.assert_allclose(harmonics, harmonics[0], rtol=1e-3)
    between = np.delete(power, np.arange(125, 7626, 125))
    assert between.max() < 1e-3 * harmonics[0]
    np.testing.assert_allclose(
        harmonics.sum() / 60 / 125, 1.0, rtol=0.05
    )  # power per Hz, against noise of variance 1


def test_flat_envelopes_give_the_source_back():
    source = torch.from_numpy(signal.noise(7, 160 * 21))[None]
    flat = torch.zeros(1, 20, 80)
    made = signal.render(flat, flat - 40, source, torch.zeros_like(source))[0]
    np.testing.assert_allclose(made[160:3200], source[0, 160:3200], atol=1e-4)


def test_noise_depends_on_its_place_alone():
    np.testing.assert_array_equal(signal.noise(15_990, 50), signal.noise(0, 40_000)[15_990:16_040])


def tiny_fit(folder, **more):
    """A few steps on a few seconds, with everything random that training has."""
    table = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    recordings = [Recording(f"u{i}", f"s{i % 2}", speech(2.5, 110 + 50 * (i % 2), i)) for i in range(4)]

    def encode(wave):
        energy = np.abs(wave[: len(wave) // 640 * 640]).reshape(-1, 640).mean(axis=1)
        return np.clip((energy * 200).astype(int), 0, 11)

    # "validation" takes one of them; discriminators come in at step 2
    settings = train.VocoderSettings(
        steps=4, batch=2, crop=24, margin=4, report_every=2, checkpoint_every=1, adversarial_from=2, warmup=1,
        validation=("u3",), discriminator_width=2, network=SMALL, loss=train.LossSettings(encoder=0.0),
    )  # fmt: skip
    train.fit(recordings, Tokenizers(encode, 640), table, settings, folder, **more)
    return load_vocoder(folder)


def test_training_resumes_to_the_same_weights(tmp_path):
    whole = tiny_fit(tmp_path / "whole")
    tiny_fit(tmp_path / "parts", stop_after=1)
    parts = tiny_fit(tmp_path / "parts", resume=True)
    assert whole.hash == parts.hash
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "parts" / "model.safetensors"
    ).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert {"discriminator", "matching", "validation_mel"} <= lines[-1].keys()


def test_training_refuses_a_checkpoint_of_other_settings_and_voices_it_does_not_know(tmp_path):
    tiny_fit(tmp_path, stop_after=1)
    recordings = [Recording("u0", "s0", speech(2.5, 110, 0))]
    tokens, table = (
        Tokenizers(lambda wave: np.zeros(len(wave) // 640, int), 640),
        np.zeros((12, 4), np.float32),
    )
    settings = train.VocoderSettings(
        steps=4, batch=2, crop=24, margin=4, network=SMALL, loss=train.LossSettings(encoder=0)
    )
    with pytest.raises(ValueError, match="was made with"):
        train.fit(recordings, tokens, table, settings, tmp_path, resume=True)
    with pytest.raises(ValueError, match="need recordings of at least 16 units, got none"):
        train.fit([Recording("x", "y", np.zeros(9000, np.float32))], tokens, table, settings, tmp_path)
    with pytest.raises(ValueError, match=r"vocoder.margin: need 1 to 20 of 48 units, got 21"):
        train.VocoderSettings(margin=21)


@pytest.mark.parametrize("name", ["compact", "own", "gpu"])
def test_the_settings_of_every_config_are_known(name):
    settings = read_toml(ROOT / "config" / "vocoder" / f"{name}.toml", train.VocoderSettings)
    assert settings.steps >= 3200
    assert bool(settings.adversarial_from) == (name == "gpu")


def test_a_voice_of_an_unknown_speaker_is_refused_before_training(tmp_path):
    recordings = [Recording("u0", "s0", speech(2.5, 110, 0))]
    settings = train.VocoderSettings(
        crop=24, margin=4, network=SMALL, loss=train.LossSettings(encoder=0), voices={"ann": "nobody"}
    )
    tokens = Tokenizers(lambda wave: np.zeros(len(wave) // 640, int), 640)
    with pytest.raises(ValueError, match=r"vocoder.voices: need speakers that it learnt from, got nobody"):
        train.fit(recordings, tokens, np.zeros((12, 4), np.float32), settings, tmp_path)


def test_the_encoder_loss_is_zero_for_the_same_sound_and_pulls_another_towards_it():
    from units.encoders import load_encoder

    loss = losses.EncoderLoss(load_encoder("compact"), torch.device("cpu"))
    true = torch.from_numpy(at_level(speech(1.0, 120, 0)))[None]
    assert loss(true, true) < 1e-4
    other = torch.from_numpy(at_level(speech(1.0, 200, 1)))[None].requires_grad_()
    before = loss(other, true)
    (slope,) = torch.autograd.grad(before, other)
    assert loss(other - 1e-3 * slope / slope.abs().max(), true) < before
    with pytest.raises(ValueError, match=r"vocoder.loss.encoder: needs an encoder of the kind of `compact`"):
        losses.EncoderLoss(load_encoder("mfcc"), torch.device("cpu"))


def test_features_of_the_encoder_loss_are_those_of_the_encoder():
    from units.encoders import load_encoder

    encoder = load_encoder("compact")
    wave = speech(2.0, 120, 0)
    wave = np.concatenate([np.zeros(640, np.float32), at_level(wave), np.zeros(640, np.float32)])
    wave *= np.float32(0.05 / wave.std())
    ours = losses.EncoderLoss(encoder, torch.device("cpu")).features(
        torch.from_numpy(wave - wave.mean())[None]
    )[0]
    np.testing.assert_allclose(ours[:-1], encoder.encode([wave])[0][:-1], atol=2e-2)
