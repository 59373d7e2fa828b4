"""The bundled encoder: small, complete, documented, and the default of a build."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from corpus.adapters import read_jsonl
from corpus.audio import decode
from pipelines import settings
from pipelines.build import make_run, run_step
from pipelines.steps.codebook import fit_units, ready_codebook
from units import kmeans
from units.encode import encode_units
from units.encoders import BUNDLED, bundled_codebook, load_encoder
from units.quality import describe
from units.whisper import log_mel

FOLDER = BUNDLED["compact"]


@pytest.fixture(scope="module")
def spoken(spoken_corpus):
    return [decode(item) for item in read_jsonl(spoken_corpus)][:8]


@pytest.fixture(scope="module")
def compact():
    return load_encoder("compact"), kmeans.load(bundled_codebook())


def test_it_is_compact_and_runs_at_25_hz_with_501_units(compact):
    with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
        sizes = [file.get_tensor(name).numel() for name in file.keys()]  # noqa: SIM118
    encoder, codebook = compact
    assert 4e6 <= sum(sizes) <= 8e6
    assert (FOLDER / "model.safetensors").stat().st_size <= 12e6
    assert (encoder.frame_rate, codebook.clusters) == (25.0, 501)
    codebook.check(encoder)


@pytest.mark.parametrize("encoder", BUNDLED)
def test_a_card_names_these_very_files(encoder):
    folder = BUNDLED[encoder]
    record = json.loads((folder / "pretraining.json").read_text())
    for name, digest in record["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    card = (folder / "README.md").read_text()
    for word in (
        "CC BY 4.0",
        "LibriSpeech",
        "seed",
        "wordweave fit encoder",
        record["stages"][0]["data"]["sha256"],
    ):
        assert word in card


def test_the_card_names_the_teacher_its_licence_and_that_it_was_supervised():
    card = (FOLDER / "README.md").read_text()
    for word in ("Whisper tiny.en", "MIT License", "Copyright (c) 2022 OpenAI", "supervis", "--teacher"):
        assert word in card


def test_transformers_opens_compact_1_and_computes_the_same(spoken):
    from transformers import AutoFeatureExtractor, HubertModel

    folder = BUNDLED["compact-1"]
    model = HubertModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = AutoFeatureExtractor.from_pretrained(folder)(
        spoken[0], sampling_rate=16_000, return_tensors="pt"
    )
    with torch.inference_mode():
        theirs = model(inputs.input_values).last_hidden_state[0].numpy()
    assert np.allclose(load_encoder("compact-1").encode([spoken[0]])[0], theirs, atol=2e-4)


def test_transformers_computes_the_blocks_of_compact_from_the_same_log_mel(compact, spoken):
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

    encoder, wave = compact[0], spoken[0][: 640 * 100]
    settings, network = encoder.settings, encoder._network
    config = WhisperConfig(d_model=384, encoder_attention_heads=6, encoder_ffn_dim=1536, encoder_layers=3)
    level = settings.level / np.sqrt(np.var(wave, dtype=np.float64) + 1e-7)
    scaled = ((wave - np.mean(wave, dtype=np.float64)) * level).astype(np.float32)
    samples = np.pad(np.pad(scaled, (40, 0), mode="reflect"), (0, 200))
    with torch.inference_mode():
        x = network.front(log_mel(torch.from_numpy(samples)[None], 80, settings.floor))
        for layer in network.layers:
            theirs = WhisperEncoderLayer(config).eval()
            theirs.load_state_dict(layer.state_dict())
            x = theirs(x, None)
            x = x[0] if isinstance(x, tuple) else x
    assert np.allclose(encoder.encode([wave])[0], x[0].numpy(), atol=2e-3)


def test_a_batch_gives_the_units_of_each_alone(compact, spoken):
    together = encode_units(*compact, spoken)
    for wave, units in zip(spoken, together):
        assert np.array_equal(encode_units(*compact, [wave])[0], units)


def test_units_hardly_hear_gain_and_mostly_ignore_noise_with_a_codebook_in_use(compact, spoken):
    clean = np.concatenate(encode_units(*compact, spoken))
    louder = np.concatenate(encode_units(*compact, [wave * 2 for wave in spoken]))
    softer = np.concatenate(encode_units(*compact, [wave / 2 for wave in spoken]))
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, np.sqrt(np.mean(wave**2)) / 10, len(wave)).astype(np.float32) for wave in spoken]
    noisy = np.concatenate(encode_units(*compact, [wave + more for wave, more in zip(spoken, noise)]))
    assert min(np.mean(louder == clean), np.mean(softer == clean)) >= 0.99
    assert np.mean(noisy == clean) >= 0.6
    assert describe([clean], clusters=501, frame_rate=25.0)["entropy"] > 6


@pytest.fixture(scope="module")
def three(spoken_corpus):
    path = spoken_corpus.with_name("three.jsonl")
    path.write_text("".join(spoken_corpus.read_text().splitlines(keepends=True)[:3]))
    return path


CODEBOOK = "codebooks/units.safetensors"


def settings_for(manifest, **units):
    """Settings of a build of a manifest."""
    chosen = settings.replace(settings.Settings(), "corpus", source=str(manifest))
    return settings.replace(chosen, "units", **units) if units else chosen


def test_a_build_uses_it_with_its_codebook_and_fits_one_only_on_request(three, tmp_path):
    chosen = settings_for(three)
    assert chosen.units.is_bundled
    run_step("ingest", tmp_path, chosen)
    run_step("units", tmp_path, chosen)  # no fit before it
    target = tmp_path / CODEBOOK
    assert target.read_bytes() == bundled_codebook().read_bytes()
    fit_units(make_run(tmp_path, chosen))
    fitted = target.read_bytes()
    assert fitted != bundled_codebook().read_bytes()
    ready_codebook(make_run(tmp_path, chosen))
    assert target.read_bytes() == fitted  # the requested one stays


def test_a_build_goes_to_the_predecessor_and_its_third_layer_and_back_with_their_codebooks(three, tmp_path):
    chosen, before = settings_for(three), settings_for(three, encoder="compact-1")
    lower = settings_for(three, encoder="compact-1", layer=3)
    assert before.units.is_bundled
    assert lower.units.is_bundled
    assert not settings_for(three, encoder="compact-1", layer=2).units.is_bundled
    target = tmp_path / CODEBOOK
    run_step("ingest", tmp_path, chosen)
    done = []
    for build_settings, layer in ((before, None), (lower, 3), (before, None), (before, None)):
        ready_codebook(make_run(tmp_path, build_settings))
        assert target.read_bytes() == bundled_codebook(layer, "compact-1").read_bytes()
        done.append(run_step("units", tmp_path, build_settings)["done"])
    assert done == [1, 1, 1, 0]  # an old build is up to date under the old encoder's new name
    with pytest.raises(ValueError, match="name that one"):
        run_step("units", tmp_path, chosen)
    ready_codebook(make_run(tmp_path, chosen))
    assert run_step("units", tmp_path, chosen)["done"] == 1
    assert target.read_bytes() == bundled_codebook().read_bytes()


def test_a_codebook_of_the_predecessor_is_refused_with_its_name(compact):
    old = kmeans.load(bundled_codebook(encoder="compact-1"))
    with pytest.raises(ValueError, match='it belongs to the bundled encoder "compact-1": name that one'):
        old.check(compact[0])


def test_a_build_that_changes_to_it_drops_the_codebook_of_another_encoder(three, tmp_path):
    chosen = settings_for(three)
    run_step("ingest", tmp_path, chosen)
    ready_codebook(make_run(tmp_path, settings_for(three, encoder="mfcc", clusters=20)))
    target = tmp_path / CODEBOOK
    assert kmeans.load(target).provenance["encoder"]["encoder"] == "mfcc"
    ready_codebook(make_run(tmp_path, chosen))
    assert target.read_bytes() == bundled_codebook().read_bytes()
    assert not settings_for(three, clusters=100).units.is_bundled
