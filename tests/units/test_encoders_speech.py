"""Encoders on recorded speech, where there is some."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.hubert import flat_codebook, speech_like, transformers_alone
from units.encode import encode_units
from units.encoders import bundled_codebook, load_encoder
from units.kmeans import fit
from units.quantizers import load_codebook
from units.verify import verify

ROOT = Path(__file__).resolve().parents[2]
SPEECH = Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech"))


@pytest.fixture(scope="module")
def all_speech():
    if not (SPEECH / "dev" / "manifest.jsonl").exists():
        pytest.skip("no recorded speech: set WORDWEAVE_SPEECH")
    return read_all(SPEECH)


def read_all(folder: Path) -> list[np.ndarray]:
    import soundfile

    manifest = folder / "dev" / "manifest.jsonl"
    rows = sorted(map(json.loads, manifest.read_text().splitlines()), key=lambda row: row["id"])
    return [soundfile.read(manifest.parent / row["audio"], dtype="float32")[0] for row in rows]


@pytest.fixture(scope="module")
def real_speech(all_speech):
    return all_speech[:: len(all_speech) // 20][:20]


def test_units_of_real_speech_do_not_depend_on_batch_or_order(huberts, real_speech):
    encoder = load_encoder(huberts["base"][1])
    alone = [encoder.encode([waveform])[0] for waveform in real_speech]
    codebook = fit(np.concatenate(alone), clusters=100, iterations=5, encoder=encoder)
    for order in (np.arange(20), np.arange(20)[::-1]):
        batched = encoder.encode([real_speech[i] for i in order])
        for i, features in zip(order, batched):
            assert np.array_equal(codebook.assign(features), codebook.assign(alone[i]))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["base", "25 Hz", "large"])
def test_no_unit_of_all_recorded_speech_depends_on_its_batch(huberts, all_speech, layout):
    encoder = load_encoder(huberts[layout][1], batch_seconds=120)
    codebook = flat_codebook(encoder.encode(all_speech[:40]), 501)
    assert verify(encoder, codebook, all_speech) == 0


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(480, 960_000), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_no_unit_of_a_minute_depends_on_its_batch(huberts, lengths, seed):
    rng = np.random.default_rng(seed)
    waveforms = [speech_like(rng, samples) for samples in lengths]
    encoder = load_encoder(huberts["base"][1], batch_seconds=120)
    features = encoder.encode(waveforms)
    if sum(map(len, features)):
        assert verify(encoder, flat_codebook(features, 501), waveforms) == 0


INSTRUCTION_SETS = {
    "this CPU's": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "SSE": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["compact", "compact-1"])
def test_units_of_all_recorded_speech_do_not_depend_on_the_instruction_set(all_speech, encoder):
    """In float32; the features themselves do differ in their last bits."""
    program = (
        "import sys; from tests.units.test_encoders_speech import print_units; print_units(*sys.argv[1:])"
    )
    unit_lists = []
    for variables in INSTRUCTION_SETS.values():
        command = [sys.executable, "-c", program, str(SPEECH), encoder]
        result = subprocess.run(
            command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=True
        )
        unit_lists.append(json.loads(result.stdout))
    assert len({result["features"] for result in unit_lists}) == len(INSTRUCTION_SETS)
    units, *others = (result["units"] for result in unit_lists)
    assert sum(map(len, units)) > 40_000
    assert others == [units, units]


def print_units(folder: str, name: str) -> None:
    """The units of all recorded speech and a hash of their features, in JSON; run in a process of its own."""
    speech = read_all(Path(folder))
    encoder = load_encoder(name)
    features = [
        rows for start in range(0, len(speech), 32) for rows in encoder.encode(speech[start : start + 32])
    ]
    units = encode_units(encoder, load_codebook(bundled_codebook(encoder=name)), speech)
    digest = hashlib.sha256(np.concatenate(features).tobytes()).hexdigest()
    print(json.dumps({"features": digest, "units": [sequence.tolist() for sequence in units]}))


def test_real_speech_features_equal_those_of_transformers(huberts, real_speech):
    model, folder = huberts["25 Hz"]
    for waveform, features in zip(real_speech[:5], load_encoder(folder).encode(real_speech[:5])):
        assert np.abs(features - transformers_alone(model, waveform, 3)).max() < 1e-4
