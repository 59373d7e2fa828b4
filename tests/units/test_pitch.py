"""Pitch tokens: the released format at any rate, defined for any waveform, without seams, better than quantiles."""

import json

import numpy as np
import pytest
import torch

from tests.units.test_f0 import mixed, odd, voice
from units.prosody import f0, pitch, plot
from units.prosody.f0 import F0
from units.prosody.pitch import PitchNetwork, PitchSettings, PitchTokenizer, load
from units.prosody.pitch_training import CodebookAverages, fit, random_network


def contour(seconds: float, seed: int, mean: float = 150.0) -> F0:
    """F0 of an artificial speaker: slow changes around a mean, alternately voiced and unvoiced."""
    rng = np.random.default_rng(seed)
    n = round(seconds * 200) + 1
    time = np.arange(n) / 200
    hertz = mean + 25 * np.sin(time * rng.uniform(1, 4) + seed) + 10 * np.sin(time * rng.uniform(5, 9))
    return F0(hertz.astype(np.float32), np.sin(time * rng.uniform(8, 14)) > -0.4)


def tokenizer_of(settings: PitchSettings) -> PitchTokenizer:
    network = random_network(settings, 0)
    codes = torch.randn(settings.codes, settings.embedding, generator=torch.Generator().manual_seed(0))
    network.codebook.copy_(codes * 0.2)
    return PitchTokenizer(network.requires_grad_(False).eval(), {"weights": "random"})


@pytest.fixture(scope="module")
def random_tokenizer() -> PitchTokenizer:
    return tokenizer_of(PitchSettings())


RATES = {1: 100.0, 2: 50.0, 3: 25.0, 4: 12.5, 5: 6.25, 7: 1.5625}
"""Halvings of the F0 rate, 200 Hz, and the rate of the tokens."""


def test_sizes_are_those_of_the_release():
    network = PitchNetwork()
    count = {name: sum(p.numel() for p in half.parameters()) for name, half in network.named_children()}
    out = sum(p.numel() for p in network.decoder.out.parameters())
    assert (count["encoder"], count["decoder"] - out, out) == (91_648, 107_776, 770)
    shapes = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    assert shapes["encoder.level_blocks.0.model.0.0.weight"] == (32, 2, 4)
    assert shapes["encoder.level_blocks.0.model.3.1.model.3.model.1.weight"] == (32, 32, 3)
    assert shapes["encoder.level_blocks.0.model.4.weight"] == (128, 32, 3)
    assert shapes["decoder.level_blocks.0.model.0.weight"] == (32, 128, 3)
    assert shapes["decoder.level_blocks.0.model.4.1.weight"] == (32, 128, 4)
    assert shapes["decoder.out.weight"] == (2, 128, 3)
    assert shapes["vq.level_blocks.0.k"] == (64, 128)


@pytest.mark.parametrize("halvings", RATES)
@pytest.mark.parametrize("samples", [0, 1, 1199, 1200, 1264, 146_160, 640_000])
def test_there_is_one_token_for_each_period_of_the_rate(samples, halvings):
    tokenizer = tokenizer_of(PitchSettings(halvings=halvings))
    assert tokenizer.rate == RATES[halvings]
    frames = samples // 80 + 1
    tokens = tokenizer.encode(F0(np.full(frames, 120, np.float32), np.ones(frames, bool)))
    assert (len(tokens), tokens.dtype) == (frames * tokenizer.rate // 200, np.int16)
    assert len(tokenizer.decode(tokens)) == 200 / tokenizer.rate * len(tokens)


@pytest.mark.parametrize("settings", [{}, {"halvings": 2}, {"halvings": 5}, {"depth": 5}], ids=str)
def test_a_long_recording_has_no_seams(settings, monkeypatch):
    tokenizer = tokenizer_of(PitchSettings(**settings))
    long = contour(60 if tokenizer.rate > 10 else 120, 3)
    whole = tokenizer.encode(long)
    decoded = tokenizer.decode(whole, 150)
    for chunk in (100, 333):
        monkeypatch.setattr(pitch, "CHUNK", chunk)
        assert (tokenizer.encode(long) != whole).mean() < 0.003  # a tie in the last bit
        assert np.abs(tokenizer.decode(whole, 150).hertz - decoded.hertz).max() < 0.01


@pytest.mark.parametrize("settings", [{}, {"halvings": 2}, {"halvings": 6}, {"depth": 5}], ids=str)
def test_the_context_of_a_chunk_is_as_long_as_the_network_reaches(settings):
    tokenizer = tokenizer_of(PitchSettings(**settings))
    per_token, context = tokenizer.network.settings.per_token, tokenizer.network.settings.context
    one = contour((context + 100) / tokenizer.rate, 3)
    other = F0(one.hertz.copy(), one.voiced.copy())
    other.hertz[:per_token] += 50
    a, b = (tokenizer.network.encoder(torch.from_numpy(pitch.features(x, 150.0))[None]) for x in (one, other))
    assert torch.equal(a[..., 1 + context :], b[..., 1 + context :])
    assert not torch.equal(a[..., 10], b[..., 10])
    codes = torch.zeros(context + 100, dtype=torch.int64)
    a, b = (tokenizer.network.decode(x[None]) for x in (codes, codes.scatter(0, torch.tensor([0]), 5)))
    assert torch.equal(a[..., (1 + context) * per_token :], b[..., (1 + context) * per_token :])


def test_f0_is_relative_to_the_mean_of_a_known_speaker_or_else_of_the_recording():
    one = contour(4, 0)
    higher = F0(one.hertz + 40, one.voiced)
    assert np.allclose(pitch.features(one), pitch.features(higher), atol=1e-3)
    assert np.allclose(pitch.features(one, 150.0)[0] + 40, pitch.features(higher, 150.0)[0], atol=1e-3)
    assert pitch.features(one)[0][one.voiced].mean() == pytest.approx(0, abs=1e-3)
    assert set(np.unique(pitch.features(one)[1])) == {0.0, 1.0}


@pytest.mark.parametrize("name", odd())
def test_tokens_are_defined_for_any_waveform(name):
    tokenizer = load()
    tokens = tokenizer.encode(odd()[name])
    assert len(tokens) == (len(odd()[name]) // 80 + 1) // 16
    result = tokenizer.decode(tokens, 120)
    assert np.isfinite(result.hertz).all()
    assert (result.hertz >= 1).all()


def test_silence_is_decoded_as_unvoiced():
    result = load().decode(load().encode(np.zeros(32_000, np.float32)))
    assert not result.voiced.any()


def test_the_bundled_tokenizer_keeps_the_pitch_of_a_gliding_voice():
    wave = mixed(6)
    true = f0.extract(wave)
    result = load().decode(load().encode(wave), true.mean)
    both = true.voiced[: len(result)] & result.voiced
    assert both.sum() > 0.85 * true.voiced.sum()
    assert np.median(np.abs(1200 * np.log2(result.hertz / true.hertz[: len(result)]))[both]) < 90
    assert (result.voiced != true.voiced[: len(result)]).mean() < 0.1


def test_the_bundled_tokenizer_records_its_origin():
    record = load().provenance
    assert any("LibriSpeech" in line for line in record["attribution"])
    assert {"command", "data", "recordings", "seed", "f0", "left out"} <= record.keys()
    assert json.loads(pitch.BUNDLED.with_suffix(".json").read_text()) == record
    assert pitch.BUNDLED.stat().st_size < 1_000_000


def test_saving_and_loading_gives_the_same_tokens_and_bytes(random_tokenizer, tmp_path):
    random_tokenizer.save(tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert (again.hash, again.provenance) == (random_tokenizer.hash, random_tokenizer.provenance)
    wave = contour(5, 1)
    assert np.array_equal(again.encode(wave), random_tokenizer.encode(wave))


CONFIG = """
encoder_params: {input_emb_width: 2, output_emb_width: 128, levels: 1, downs_t: [4], strides_t: [2], width: 32,
  depth: 4, m_conv: 1.0, dilation_growth_rate: 3}
vq_params: {l_bins: 64, emb_width: 128, mu: 0.99, levels: 1}
decoder_params: {input_emb_width: 2, output_emb_width: 128, levels: 1, downs_t: [4], strides_t: [2], width: 32,
  depth: 4, m_conv: 1.0, dilation_growth_rate: 3}
features: norm_f0_interp,vuv
"""


def test_the_format_of_the_release_is_read(random_tokenizer, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    weights = random_tokenizer.network.state_dict() | {"vq.level_blocks.0.k_sum": torch.zeros(64, 128)}
    torch.save({"model": weights, "steps": 1}, tmp_path / "model.pt")
    result = load(tmp_path)
    assert np.array_equal(result.encode(contour(5, 1)), random_tokenizer.encode(contour(5, 1)))
    assert result.rate == 12.5


@pytest.mark.parametrize("halvings", [3, 5])
def test_a_released_model_of_another_rate_states_its_own(halvings, tmp_path):
    tokenizer = tokenizer_of(PitchSettings(halvings=halvings))
    (tmp_path / "config.yaml").write_text(CONFIG.replace("downs_t: [4]", f"downs_t: [{halvings}]"))
    torch.save({"model": tokenizer.network.state_dict()}, tmp_path / "model.pt")
    result = load(tmp_path)
    assert result.rate == RATES[halvings]
    assert np.array_equal(result.encode(contour(9, 1)), tokenizer.encode(contour(9, 1)))


@pytest.mark.parametrize("downs", ["[0]", "[9]", "[true]", "[4, 4]", "[2.0]"])
def test_a_released_model_of_an_impossible_rate_is_refused(downs, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG.replace("downs_t: [4]", f"downs_t: {downs}"))
    with pytest.raises(ValueError, match=r"config\.yaml: (encoder_params.downs_t: )?need"):
        load(tmp_path)


class Trap:
    def __reduce__(self):
        return print, ("code of the file ran",)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(CONFIG)
    torch.save({"model": Trap()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: need a whole checkpoint"):
        load(tmp_path)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["missing", "cut", "foreign", "no config", "wrong shape"])
def test_a_file_that_is_no_pitch_model_is_named(kind, tmp_path, random_tokenizer):
    path = tmp_path / "pitch.safetensors"
    random_tokenizer.save(path)
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "foreign":
        from units.kmeans import Codebook

        Codebook(np.eye(3)).save(path)
    elif kind == "no config":
        path = tmp_path / "empty"
        path.mkdir()
    else:
        path = tmp_path / "folder"
        path.mkdir()
        (path / "config.yaml").write_text(CONFIG.replace("l_bins: 64", "l_bins: 32"))
        torch.save({"model": random_tokenizer.network.state_dict()}, path / "model.pt")
    with pytest.raises(ValueError, match=path.name):
        load(path)


def test_training_repeats_and_beats_random_weights():
    data = [(contour(8, seed, mean), mean) for seed, mean in enumerate([110.0, 140.0, 190.0, 220.0])]
    before = torch.random.get_rng_state()
    one, again = (fit(data, steps=100, batch=4, tokens=6, seed=1) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.hash == again.hash
    assert fit(data, steps=2, batch=4, seed=2).hash != fit(data, steps=2, batch=4, seed=3).hash
    test = contour(8, 9, 150.0)

    def error(tokenizer):
        result = tokenizer.decode(tokenizer.encode(test, 150.0), 150.0)
        return np.abs(result.hertz - test.hertz[: len(result)])[test.voiced[: len(result)]].mean()

    assert error(one) < 0.9 * error(fit(data, steps=1, batch=4, tokens=6, seed=1))
    assert (one.provenance["contours"], one.provenance["seed"]) == (4, 1)


def test_dead_codes_are_seeded_again():
    network = random_network(PitchSettings(), 0).requires_grad_(False)
    book = CodebookAverages(network, 0.5, torch.Generator().manual_seed(0))
    latents = torch.randn(500, 128, generator=torch.Generator().manual_seed(1))
    book.update(latents, first=True)
    network.codebook[10:] = 1e3  # nothing is near
    for _ in range(12):
        book.update(latents, first=False)
    assert network.codebook.abs().max() < 10
    assert len(torch.unique(network.nearest(latents))) > 55


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load().decode(np.array([64])), r"need \(P,\) in \[0, 64\)"),
        (lambda: load().decode(np.array([[1]])), r"need \(P,\)"),
        (lambda: load().encode(voice(120), speaker_mean=0.0), "speaker_mean: need a finite mean above 0 Hz"),
        (lambda: load().encode(voice(120), speaker_mean=float("nan")), "speaker_mean"),
        (lambda: fit([(F0(np.ones(500, np.float32), np.zeros(500, bool)), None)]), "need voiced speech"),
    ],
)
def test_wrong_use_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["79 ms", "silence", "octave jumps", "nothing"])
def test_a_picture_can_be_made_of_anything(name, tmp_path):
    wave = odd()[name]
    true, tokens = f0.extract(wave), load().encode(wave)
    plot.plot_prosody(
        wave,
        true,
        load().decode(tokens, true.mean),
        tokens,
        tmp_path / "a.png",
        rate=12.5,
        style=np.array([3]),
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_on_speakers_left_out_the_vq_vae_beats_quantiles(real_speech):
    """F0 of the speakers that benchmarks/pitch.py leaves out of training."""
    from benchmarks import pitch as benchmark

    table = benchmark.compare(load(), benchmark.read_rows(None))
    assert table["VQ-VAE"]["codes used"] >= 60
    for other in ("quantiles, steps", "quantiles, lines"):
        for name in ("mean cents", "gross > 20 %", "FFE"):
            assert table["VQ-VAE"][name] < table[other][name]
