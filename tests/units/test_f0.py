"""F0 equals that of torchfcpe, the oracle, in blocks of any size, and is defined for any waveform."""

import contextlib
import io
import os
from functools import lru_cache

import numpy as np
import pytest
import torch

from units.prosody import f0, fcpe
from units.prosody.f0 import F0, UNVOICED_HERTZ, extract, extract_batch, interpolate
from units.tensor_files import write_safetensors

RATE = 16_000


def voice(hertz, seconds: float = 1.0, harmonics: int = 12) -> np.ndarray:
    """A buzz like a voice: harmonics that fall by 1 / k. `hertz` is a number or (T,)."""
    samples = round(seconds * RATE)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, samples) / RATE)
    wave = sum(np.sin(k * phase) / k for k in range(1, harmonics + 1))
    return (0.2 * wave).astype(np.float32)


def cents(extracted: F0, true) -> np.ndarray:
    return np.abs(1200 * np.log2(extracted.hertz / true))[extracted.voiced]


@lru_cache
def torchfcpe():
    """The model in torchfcpe's wheel; its output while it is imported, and the variable it sets, are dropped."""
    package = pytest.importorskip("torchfcpe", reason="the oracle is installed for development alone")
    before = dict(os.environ)
    with contextlib.redirect_stdout(io.StringIO()):
        model = package.spawn_bundled_infer_model("cpu")
    os.environ.clear()
    os.environ.update(before)
    return model


def reference(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """torchfcpe's own call with the settings of the release: Hz where voiced else interpolated, and voicing."""
    hertz, unvoiced = torchfcpe().infer(
        torch.from_numpy(waveform)[None, :, None], RATE, decoder_mode="local_argmax", threshold=0.05,
        f0_min=50.0, f0_max=1100.0, interp_uv=True, output_interp_target_length=len(waveform) // 80 + 1,
        retur_uv=True,
    )  # fmt: skip
    return hertz[0, :, 0].numpy(), unvoiced[0, :, 0].numpy() < 0.5


def mixed(seconds: float, seed: int = 0) -> np.ndarray:
    """A gliding voice with pauses of noise."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    glide = 140 + 60 * np.sin(np.arange(samples) / RATE * 2.1)
    spoken = np.sin(np.arange(samples) / RATE * 4.0) > -0.3
    return (voice(glide, seconds) * spoken + 0.003 * rng.normal(size=samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [1264, 7999, 8000, 40_123, 80_080])
def test_f0_is_what_torchfcpe_gives_for_the_whole_recording(samples):
    wave = mixed(6)[:samples]
    hertz, voiced = reference(wave)
    extracted = extract(wave)
    assert np.array_equal(extracted.voiced, voiced)
    assert np.abs(extracted.hertz - hertz).max() < 0.01


def test_f0_of_recorded_speech_is_what_torchfcpe_gives_within_1e_4(real_speech):
    import soundfile

    for path in sorted((real_speech / "emotion" / "audio").glob("*.flac"))[::20]:
        wave = soundfile.read(path, dtype="float32")[0]
        hertz, voiced = reference(wave)
        extracted = extract(wave)
        assert np.array_equal(extracted.voiced, voiced)
        assert np.abs(extracted.hertz / hertz - 1).max() < 1e-4


def test_the_mel_filters_are_those_of_torchfcpe():
    theirs = torchfcpe().wav2mel.mel_extractor.mel_basis.numpy()
    assert np.abs(fcpe.mel_filters() - theirs).max() < 1e-8


def test_converted_weights_give_the_same_f0_without_torchfcpe(tmp_path, monkeypatch):
    wave = mixed(2)
    before, identity = extract(wave), f0.identity()
    write_safetensors(tmp_path / "fcpe.safetensors", fcpe.read_weights(), {})
    monkeypatch.setattr(fcpe, "CONVERTED", tmp_path / "fcpe.safetensors")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for cached in (fcpe.load, fcpe.weights_hash):
        cached.cache_clear()
    assert np.array_equal(extract(wave).hertz, before.hertz)
    assert f0.identity() == identity
    (tmp_path / "fcpe.safetensors").unlink()
    fcpe.load.cache_clear()
    with pytest.raises(ValueError, match="need the weights of FCPE"):
        extract(wave)


def test_recordings_computed_as_one_signal_have_the_f0_they_have_alone(monkeypatch):
    """As on a GPU: gaps between recordings, a fixed number of rows, long recordings in blocks."""
    waves = [mixed(seconds, seed) for seed, seconds in enumerate((0.05, 3, 1.3, 9, 0.6))]
    alone = extract_batch(waves)
    network = fcpe.load("cpu")
    monkeypatch.setattr(fcpe, "FRAMES", 400)
    spectra = [fcpe.log_mel(torch.from_numpy(wave), network.filters) for wave in waves]
    pieces = (piece for i, mel in enumerate(spectra) for piece in network.pieces(i, mel))
    batches = list(fcpe.batches(pieces, 800))
    assert [len(batch) for batch in batches] == [3, 1, 2, 1]
    hertz: list[list[np.ndarray]] = [[] for _ in waves]
    for batch in batches:
        for piece, extracted in zip(batch, network.decode([piece.x for piece in batch], 900), strict=True):
            hertz[piece.recording].append(extracted[piece.first : piece.first + piece.kept].numpy())
    for one, extracted in zip(alone, map(np.concatenate, hertz), strict=True):
        filled, voiced = f0.fill_unvoiced(extracted)
        frames = np.arange(len(one)) * len(extracted) // len(one)
        assert np.array_equal(voiced[frames], one.voiced)
        assert np.abs(filled[frames] - one.hertz).max() < 0.01


def test_blocks_leave_no_seam(monkeypatch):
    wave = mixed(8)
    whole = extract(wave)
    for block in (37, 250, 400):
        monkeypatch.setattr(fcpe, "FRAMES", block)
        extracted = extract(wave)
        assert np.array_equal(extracted.voiced, whole.voiced)
        assert np.abs(extracted.hertz - whole.hertz).max() < 0.01


def test_the_context_of_a_block_is_as_long_as_the_network_reaches(monkeypatch):
    wave = mixed(6)
    whole = extract(wave)
    monkeypatch.setattr(fcpe, "FRAMES", 100)
    monkeypatch.setattr(fcpe, "REACH", 10)
    assert np.abs(extract(wave).hertz - whole.hertz).max() > 0.01


@pytest.mark.parametrize("extractor", f0.EXTRACTORS)
@pytest.mark.parametrize("hertz", [80.0, 120.0, 210.0, 330.0])
def test_a_steady_voice_has_its_own_f0(extractor, hertz):
    extracted = extract(voice(hertz), extractor=extractor)
    assert extracted.voiced[20:-20].mean() > 0.95
    assert np.median(cents(extracted, hertz)) < 15


def test_two_extractors_agree_on_a_gliding_voice():
    wave = voice(120 + 80 * np.arange(2 * RATE) / (2 * RATE), 2)
    one, other = extract(wave), extract(wave, extractor="autocorrelation")
    both = one.voiced & other.voiced
    assert both.mean() > 0.9
    assert np.median(np.abs(1200 * np.log2(one.hertz[both] / other.hertz[both]))) < 15


def odd() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=RATE).astype(np.float32)
    jumps = np.where(np.arange(2 * RATE) // 2000 % 2, 220.0, 110.0)
    return {
        "nothing": np.zeros(0, np.float32),
        "one sample": np.ones(1, np.float32),
        "79 ms": voice(120)[:1264],
        "silence": np.zeros(RATE, np.float32),
        "constant": np.full(RATE, 0.5, np.float32),
        "whisper": 0.02 * np.convolve(noise, [1, -0.9], "same").astype(np.float32),
        "pure tone": np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE).astype(np.float32),
        "high tone": np.sin(2 * np.pi * 3000 * np.arange(RATE) / RATE).astype(np.float32),
        "clipping": np.sign(voice(150)).astype(np.float32),
        "far too loud": 1e4 * voice(150),
        "far too quiet": 1e-6 * voice(150),
        "octave jumps": voice(jumps, 2),
    }


@pytest.mark.parametrize("extractor", f0.EXTRACTORS)
@pytest.mark.parametrize("name", odd())
def test_f0_is_defined_for_any_waveform(name, extractor, capsys):
    wave = odd()[name]
    extracted = extract(wave, extractor=extractor)
    assert len(extracted) == len(wave) // 80 + 1
    assert extracted.hertz.dtype == np.float32
    assert extracted.voiced.dtype == bool
    assert np.isfinite(extracted.hertz).all()
    assert ((extracted.hertz >= f0.LOWEST) & (extracted.hertz <= f0.HIGHEST)).all()
    assert capsys.readouterr().out == ""
    if not extracted.voiced.any():
        assert (extracted.hertz == UNVOICED_HERTZ).all()
        assert extracted.mean is None


def test_silence_is_unvoiced_and_an_octave_jumping_voice_is_followed():
    assert not extract(odd()["silence"]).voiced.any()
    extracted = extract(odd()["octave jumps"])
    true = np.where(np.arange(len(extracted)) * 80 // 2000 % 2, 220.0, 110.0)
    assert np.median(cents(extracted, true)) < 20


def test_the_number_of_threads_does_not_matter():
    wave, before = mixed(3), torch.get_num_threads()
    alone = extract(wave).hertz
    torch.set_num_threads(2)
    try:
        assert np.array_equal(extract(wave).hertz, alone)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_interpolation_fills_gaps_with_lines_and_holds_the_ends():
    hertz = np.array([0, 0, 100.0, 0, 0, 0, 180, 0])
    assert interpolate(hertz, hertz > 0).tolist() == [100, 100, 100, 120, 140, 160, 180, 180]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractor": "swipe"}, "need one of fcpe, autocorrelation"),
        ({"waveform": np.array([0.0, np.nan])}, "finite"),
        ({"waveform": np.zeros((2, 100))}, r"need shape \(T,\)"),
    ],
)
def test_wrong_use_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        extract(**{"waveform": np.zeros(100, np.float32), **change})


@pytest.mark.slow
def test_an_hour_is_computed_in_bounded_memory():
    """In a process of its own: peak memory over that of a minute stays near the spectra's 0.2 GB and the samples'."""
    import subprocess
    import sys
    from pathlib import Path

    code = (
        "import numpy as np\n"
        "from tests.helpers.memory import peak_memory\n"
        "from units.prosody.f0 import extract\n"
        "rng = np.random.default_rng(0)\n"
        "extract(rng.normal(size=60 * 16000).astype('float32'))\n"
        "before = peak_memory()\n"
        "wave = np.tile(0.1 * rng.normal(size=60 * 16000).astype('float32'), 20)\n"
        "assert np.isfinite(extract(wave).hertz).all()\n"
        "print((peak_memory() - before) / 1024)\n"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert float(result.stdout) < 0.8  # GiB for 20 minutes
