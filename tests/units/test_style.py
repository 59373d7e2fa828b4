"""Style tokens: one per second, of that second, independent of speaker and level, defined for any waveform."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.units.test_f0 import odd, voice
from units.prosody import style
from units.prosody.f0 import F0, extract
from units.prosody.style import StyleTokenizer, fit, load
from units.prosody.style_features import FEATURES, pool, windows
from units.prosody.wav2vec2_style import Wav2Vec2Style

RATE = 16_000


def spoken(kind: str, seconds: float = 4.0, seed: int = 0, level: float = 120.0) -> tuple[np.ndarray, F0]:
    """An artificial style: "calm" is low, even and slow, "excited" high, varied and fast; and its true F0."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    time = np.arange(samples) / RATE
    calm = kind == "calm"
    hertz = (
        level
        * (1 if calm else 1.5)
        * (1 + (0.03 if calm else 0.25) * np.sin(time * (2 if calm else 9) + seed))
    )
    gate = np.clip(3 * np.sin(2 * np.pi * (2 if calm else 5) * time + seed) + 1.5, 0, 1)
    wave = 0.3 * voice(hertz, seconds, harmonics=4 if calm else 20) * gate + 1e-4 * rng.normal(size=samples)
    frames = np.arange(samples // 80 + 1) * 80
    frames = np.minimum(frames, samples - 1)
    return wave.astype(np.float32), F0(hertz[frames].astype(np.float32), gate[frames] > 0.2)


@pytest.fixture(scope="module")
def toy() -> StyleTokenizer:
    """Fitted on two speakers, each calm and excited."""
    rows = [
        (pool(*spoken(kind, 20, seed, level), hop=0.25), name, kind)
        for seed, (name, level) in enumerate([("low", 100.0), ("high", 180.0)])
        for kind in ("calm", "excited")
    ]
    features, speakers, styles = zip(*rows)
    return fit(features, speakers, styles=styles, clusters=12)


@pytest.mark.parametrize(
    ("samples", "tokens"), [(0, 0), (1, 1), (1264, 1), (16_000, 1), (16_001, 2), (32_000, 2), (146_160, 10)]
)
def test_there_is_one_token_per_started_second(samples, tokens):
    wave = voice(120, 10)[:samples]
    codes = load().encode(wave)
    assert (len(codes), codes.dtype) == (tokens, np.int16)
    assert ((codes >= 0) & (codes < 100)).all()


def test_a_token_depends_on_its_own_second_and_a_little_before_it():
    wave, f0 = spoken("calm", 6)
    other, other_f0 = spoken("excited", 6)
    changed = np.concatenate([wave[: 4 * RATE], other[4 * RATE :]])
    mixed = F0(
        np.concatenate([f0.hertz[:800], other_f0.hertz[800:]]),
        np.concatenate([f0.voiced[:800], other_f0.voiced[800:]]),
    )
    before, after = pool(wave, f0), pool(changed, mixed)
    scale = np.abs(changed).max() / np.abs(wave).max()  # all levels are relative to the loudest sample
    assert scale < 1.5
    assert np.allclose(before[:3], after[:3], atol=1e-2)
    moved = np.abs(before - after).max(axis=1)
    assert moved[3] < 0.1 * moved[4]  # the last of its 160 frames ends 10 ms after its second
    assert (moved[4:] > 0.5).all()
    spans = windows(6 * RATE)
    assert (spans[1] == [40, 200]).all()


def test_the_last_partial_second_is_pooled_with_what_precedes_it():
    spans = windows(2 * RATE + 160)
    assert spans.tolist() == [[0, 100], [40, 200], [101, 202]]
    assert np.isfinite(pool(*spoken("calm", 2.01))).all()


def test_the_recording_level_does_not_matter():
    wave, f0 = spoken("excited")
    assert np.allclose(pool(wave, f0), pool(0.01 * wave, f0), atol=2e-3)


def test_unvoiced_seconds_are_nan_and_get_the_token_of_the_mean(toy):
    wave, f0 = spoken("calm", 3)
    wave[RATE:], f0.voiced[200:] = 0, False
    features = pool(wave, f0)
    assert np.isnan(features[2]).all()
    assert np.isfinite(features[0]).all()
    neutral = toy.assign(toy.corpus_mean[None])[0]
    assert toy.assign(features)[2] == neutral
    assert (toy.encode(np.zeros(3 * RATE, np.float32)) == neutral).all()


def test_styles_differ_speakers_do_not(toy):
    """Another voice, measured from its own mean, gets the tokens of the fitted ones of the same style."""
    tokens = {}
    for name, level in (("low", 100.0), ("new", 140.0)):
        features = {kind: pool(*spoken(kind, 20, 5, level)) for kind in ("calm", "excited")}
        mean = toy.speaker_mean(features.values())
        tokens |= {
            (name, kind): toy.centroids[toy.assign(x, mean)].mean(axis=0) for kind, x in features.items()
        }
    for name in ("low", "new"):
        for kind, other in (("calm", "excited"), ("excited", "calm")):
            far = np.linalg.norm(tokens[name, kind] - tokens["low", other])
            assert np.linalg.norm(tokens[name, kind] - tokens["low", kind]) < 0.5 * far


def test_a_change_of_style_inside_a_recording_shows(toy):
    calm, excited = (spoken(kind, 4, 7) for kind in ("calm", "excited"))
    wave = np.concatenate([calm[0], excited[0]])
    f0 = F0(
        *(np.concatenate([getattr(calm[1], x)[:800], getattr(excited[1], x)]) for x in ("hertz", "voiced"))
    )
    mean = toy.speaker_mean([pool(wave, f0)] * 2)
    spans = toy.centroids[toy.assign(pool(wave, f0), mean)]
    steps = np.linalg.norm(np.diff(spans, axis=0), axis=1)
    assert steps.argmax() == 3
    assert steps[3] > 2 * max(steps[1], steps[5])


def test_the_mean_of_a_little_speech_is_shrunk_to_that_of_the_corpus(toy):
    features = pool(*spoken("calm", 40, 1, 300.0))
    far = [np.linalg.norm(toy.speaker_mean([features[:n]]) - toy.corpus_mean) for n in (0, 2, 8, 16, 32)]
    assert far[0] == 0
    assert far[1] < far[2] < far[3]
    assert np.allclose(toy.speaker_mean([features[:16]]), features[:16].mean(axis=0), atol=1e-3)
    assert np.array_equal(toy.speaker_mean([features[:3], features[3:5]]), toy.speaker_mean([features[:5]]))


def test_the_classifier_is_the_logistic_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(n, len(FEATURES))) for n in (200, 60, 120)]
    groups[1][:, 3] += 2
    groups[2][:, 5] -= 2
    fitted = style.fit_classifier(groups, ["calm", "excited", "sad"], strength=0.1)
    x, y = np.concatenate(groups), np.repeat(["calm", "excited", "sad"], [200, 60, 120])
    scaler = StandardScaler().fit(x)
    oracle = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000, tol=1e-8)
    wanted = oracle.fit(scaler.transform(x), y).predict_proba(scaler.transform(x))
    assert np.allclose(np.square(fitted.roots(x.astype(np.float32))), wanted, atol=1e-3)


def test_unlabelled_speech_contributes_no_more_windows_than_labelled():
    rng = np.random.default_rng(0)
    acted = [rng.normal(size=(50, len(FEATURES))) + i for i in range(2)]
    fitted = fit(
        [*acted, rng.normal(size=(900, len(FEATURES)))], ["a", "a", "b"], styles=["x", "y", None], clusters=5
    )
    assert fitted.provenance["windows"] == 200
    assert fitted.classifier.names == ("x", "y")


@pytest.mark.parametrize("name", odd())
def test_tokens_are_defined_for_any_waveform(name):
    wave = odd()[name]
    features = pool(wave, extract(wave))
    assert len(features) == -(-len(wave) // RATE)
    assert (np.isfinite(features).all(axis=1) | np.isnan(features).all(axis=1)).all()
    assert (load().assign(features) < 100).all()


def test_fitting_repeats_and_saving_and_loading_keeps_everything(toy, tmp_path):
    features = [pool(*spoken(kind, 8, seed), hop=0.25) for seed, kind in enumerate(("calm", "excited"))]
    one, again = (fit(features, ["a", None], clusters=5, seed=3) for _ in range(2))
    assert one.hash == again.hash
    assert one.classifier is None
    assert one.centroids.shape == (5, len(FEATURES))
    toy.save(tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors")
    assert (loaded.hash, loaded.provenance) == (toy.hash, toy.provenance)
    loaded.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_bundled_codebook_records_its_origin():
    record = load().provenance
    assert load().codes == 100
    assert any("EmoDB" in line for line in record["attribution"])
    stored = json.loads(style.BUNDLED.with_suffix(".json").read_text())
    assert record.items() <= stored.items()
    assert load().classifier.names == tuple(stored["styles"])


@pytest.mark.parametrize("kind", ["missing", "cut", "foreign", "other features"])
def test_a_file_that_is_no_style_codebook_is_named(kind, tmp_path, toy):
    path = tmp_path / "style.safetensors"
    if kind == "foreign":
        toy.codebook.save(path)
    elif kind != "missing":
        toy.save(path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:700])
    if kind == "other features":
        path.write_bytes(path.read_bytes().replace(b"h1_h2", b"h1_h3"))
    with pytest.raises(ValueError, match=r"style\.safetensors"):
        load(path)


def test_wrong_use_is_refused(toy):
    with pytest.raises(ValueError, match="need 201 frames for 16000 samples, got 3"):
        pool(np.zeros(RATE, np.float32), F0(np.ones(3, np.float32), np.ones(3, bool)))
    with pytest.raises(ValueError, match="need at least 100 voiced windows"):
        fit([pool(*spoken("calm", 3))], ["a"])
    with pytest.raises(ValueError, match="need recordings of at least two"):
        style.fit_classifier([np.zeros((3, 27))], ["calm"])
    with pytest.raises(ValueError, match="deviation: need 27 finite float32 numbers"):
        StyleTokenizer(toy.corpus_mean, np.ones(3, np.float32), toy.classifier, toy.codebook)
    with pytest.raises(ValueError, match="need slopes of shape"):
        style.StyleClassifier(("a", "b"), np.zeros((27, 3)), np.zeros(2))


@pytest.mark.slow
def test_an_hour_has_no_seams_and_bounded_memory():
    """In a process of its own: 64 s of speech 57 times over have the same tokens in every turn but first and last."""
    code = (
        "import numpy as np\n"
        "from tests.helpers.memory import peak_memory\n"
        "from tests.units.test_style import spoken\n"
        "from units.prosody import pitch, style\n"
        "from units.prosody.f0 import F0\n"
        "wave, f0 = spoken('excited', 64)\n"
        "pitch.load().encode(f0), style.load().encode(wave, f0=f0)\n"
        "before = peak_memory()\n"
        "turns, n = 57, 64 * 200\n"
        "hertz, voiced = (np.append(np.tile(x[:n], turns), x[-1]) for x in (f0.hertz, f0.voiced))\n"
        "f0, wave = F0(hertz, voiced), np.tile(wave, turns)\n"
        "pi = pitch.load().encode(f0, 150.0)[: turns * 800].reshape(turns, -1)\n"
        "st = style.load().encode(wave, f0=f0).reshape(turns, -1)\n"
        "assert (pi.shape, st.shape) == ((57, 800), (57, 64))\n"
        "assert (pi[1:-1] == pi[1]).all() and len(np.unique(pi)) > 5\n"
        "assert (st[1:-1] == st[1]).all() and len(np.unique(st)) > 1\n"
        "print((peak_memory() - before) / 1024)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    path = {**os.environ, "PYTHONPATH": root}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 1.5  # GiB; the hour itself is 0.2


# A third-party classifier -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wav2vec2():
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=7,
        conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, classifier_proj_size=12,
    )  # fmt: skip
    return Wav2Vec2ForSequenceClassification(config).eval()


def reference(model, wave: np.ndarray) -> list[int]:
    """SPEC 3 with numpy: projector, means of 50 frames, classifier, argmax."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor

    values = Wav2Vec2FeatureExtractor(do_normalize=True)(wave, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        states = model.projector(model.wav2vec2(values.input_values).last_hidden_state)[0].numpy()
        head = [model.classifier.weight.numpy(), model.classifier.bias.numpy()]
    means = [states[start : start + 50].mean(axis=0) for start in range(0, len(states), 50)]
    return [int((head[0] @ x + head[1]).argmax()) for x in means]


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_wav2vec2_style_classifier_gives_its_best_label_per_50_frames(wav2vec2, file, tmp_path):
    import torch

    wav2vec2.save_pretrained(tmp_path)
    if file == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
        named = {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): x
            for name, x in wav2vec2.state_dict().items()
        }
        torch.save(named | {"_float_tensor": torch.zeros(1)}, tmp_path / file)
    loaded = load(tmp_path)
    assert isinstance(loaded, Wav2Vec2Style)
    assert loaded.codes == 7
    rng = np.random.default_rng(0)
    wave = (voice(150, 3.1) * np.linspace(0, 2, 49_600) + 0.05 * rng.normal(size=49_600)).astype(np.float32)
    assert loaded.encode(wave).tolist() == reference(wav2vec2, wave)
    assert len(loaded.encode(wave[:146_160])) == 4
    assert len(loaded.encode(wave[:399])) == 0


def test_a_classifier_with_a_weight_missing_is_refused(wav2vec2, tmp_path):
    import torch

    wav2vec2.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    weights = wav2vec2.state_dict()
    del weights["projector.weight"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"projector\.weight is missing"):
        load(tmp_path)
