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
from pipelines.steps.codebook import ready_codebook
from tests.helpers.builds import fit_units
from units import kmeans
from units.encode import encode_units
from units.encoders import BUNDLED, bundled_codebook, load_encoder
from units.quality import describe

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


def test_its_card_names_these_very_files():
    record = json.loads((FOLDER / "pretraining.json").read_text())
    for name, digest in record["files"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    card = (FOLDER / "README.md").read_text()
    for word in (
        "CC BY 4.0",
        "LibriSpeech",
        "seed",
        "wordweave fit encoder",
        record["stages"][0]["data"]["sha256"],
    ):
        assert word in card


def test_transformers_opens_it_and_gives_the_same_features(compact, spoken):
    from transformers import AutoFeatureExtractor, HubertModel

    model = HubertModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    inputs = AutoFeatureExtractor.from_pretrained(FOLDER)(
        spoken[0], sampling_rate=16_000, return_tensors="pt"
    )
    with torch.inference_mode():
        theirs = model(inputs.input_values).last_hidden_state[0].numpy()
    assert np.allclose(compact[0].encode([spoken[0]])[0], theirs, atol=2e-4)


def test_a_batch_gives_the_units_of_each_alone(compact, spoken):
    batched = encode_units(*compact, spoken)
    for wave, units in zip(spoken, batched):
        assert np.array_equal(encode_units(*compact, [wave])[0], units)


def test_gain_changes_few_units_and_noise_a_minority_with_a_codebook_in_use(compact, spoken):
    clean = np.concatenate(encode_units(*compact, spoken))
    louder = np.concatenate(encode_units(*compact, [wave * 2 for wave in spoken]))
    softer = np.concatenate(encode_units(*compact, [wave / 2 for wave in spoken]))
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, np.sqrt(np.mean(wave**2)) / 10, len(wave)).astype(np.float32) for wave in spoken]
    noisy = np.concatenate(encode_units(*compact, [wave + more for wave, more in zip(spoken, noise)]))
    assert min(np.mean(louder == clean), np.mean(softer == clean)) >= 0.99
    assert np.mean(noisy == clean) >= 0.5
    assert describe([clean], clusters=501, frame_rate=25.0)["entropy"] > 6


@pytest.fixture(scope="module")
def three(spoken_corpus):
    path = spoken_corpus.with_name("three.jsonl")
    path.write_text("".join(spoken_corpus.read_text().splitlines(keepends=True)[:3]))
    return path


def test_a_build_uses_it_with_its_codebook_and_fits_one_only_on_request(three, tmp_path):
    build_settings = settings.replace(settings.Settings(), "corpus", source=str(three))
    assert build_settings.units.is_bundled
    run_step("ingest", tmp_path, build_settings)
    run_step("units", tmp_path, build_settings)  # no fit before it
    target = tmp_path / "codebooks" / "units.safetensors"
    assert target.read_bytes() == bundled_codebook().read_bytes()
    assert fit_units(tmp_path, build_settings) == target
    fitted = target.read_bytes()
    assert fitted != bundled_codebook().read_bytes()
    ready_codebook(make_run(tmp_path, build_settings))
    assert target.read_bytes() == fitted  # the requested one stays


def test_its_third_layer_has_a_codebook_too_and_a_build_goes_from_one_to_the_other(three, tmp_path):
    build_settings = settings.replace(settings.Settings(), "corpus", source=str(three))
    lower = settings.replace(build_settings, "units", layer=3)
    assert lower.units.is_bundled
    assert not settings.replace(build_settings, "units", layer=2).units.is_bundled
    run_step("ingest", tmp_path, build_settings)
    run_step("units", tmp_path, build_settings)
    target = tmp_path / "codebooks" / "units.safetensors"
    ready_codebook(make_run(tmp_path, lower))
    assert target.read_bytes() == bundled_codebook(3).read_bytes() != bundled_codebook().read_bytes()
    assert run_step("units", tmp_path, lower)["done"] > 0
    ready_codebook(make_run(tmp_path, build_settings))
    assert target.read_bytes() == bundled_codebook().read_bytes()


def test_a_build_that_changes_to_it_drops_the_codebook_of_another_encoder(three, tmp_path):
    build_settings = settings.replace(settings.Settings(), "corpus", source=str(three))
    before = settings.replace(build_settings, "units", encoder="mfcc")
    run_step("ingest", tmp_path, build_settings)
    ready_codebook(make_run(tmp_path, before))
    target = tmp_path / "codebooks" / "units.safetensors"
    assert kmeans.load(target).provenance["encoder"]["encoder"] == "mfcc"
    ready_codebook(make_run(tmp_path, build_settings))
    assert target.read_bytes() == bundled_codebook().read_bytes()
    assert not settings.replace(build_settings, "units", clusters=100).units.is_bundled
