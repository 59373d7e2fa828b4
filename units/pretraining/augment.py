"""Crops of speech for pre-training, made harder in ways that leave what is said: speed, room, filter, noise, gain.

Everything is drawn from the generator that the caller gives, so that a step can be made again exactly.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torchaudio

from corpus.keyed import generator
from corpus.records import SAMPLE_RATE

SPEEDS = (21, 22, 23, 24, 25, 26, 27, 28, 29)  # 25ths of the recorded speed; pitch and formants move along
NOISE_SECONDS = 30


@dataclass(frozen=True)
class AugmentSettings:
    """How a crop is changed; probabilities are per crop."""

    speeds: tuple[int, ...] = (21, 23, 25, 27, 29)  # 25ths of the recorded speed
    noise: float = 0.8  # probability of noise in the second view; the first has it a third as often
    snr: tuple[float, float] = (5.0, 35.0)  # dB
    babble: float = 0.25  # of the noises, share that is other speech
    room: float = 0.2  # probability of reverberation
    filter: float = 0.5  # probability of a spectral tilt, as another microphone has
    gain: float = 8.0  # dB, up and down, after the waveform was normalised
    shift: float = 0.0  # milliseconds that the waveform moves at most, while its targets stay

    def __post_init__(self) -> None:
        if not self.speeds or not all(15 <= speed <= 35 for speed in self.speeds):
            raise ValueError(f"augment.speeds: need 25ths of the speed, 15 to 35, got {self.speeds}")
        for name in ("noise", "babble", "room", "filter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name}: need a probability, got {getattr(self, name)}")
        if self.snr[0] > self.snr[1] or self.gain < 0:
            raise ValueError(f"augment: need snr low to high and gain >= 0, got {self.snr}, {self.gain}")
        if not 0 <= self.shift <= 20:
            raise ValueError(f"augment.shift: need 0 to 20 ms, got {self.shift}")


def at_speed(waveform: np.ndarray, speed: int) -> np.ndarray:
    """(T,) float32 -> about (T * 25 / speed,) float32: as if played at speed / 25."""
    if speed == 25:
        return waveform
    resampled = torchaudio.functional.resample(torch.from_numpy(waveform), speed, 25)
    return resampled.numpy()


def make_noises(seed: int) -> list[np.ndarray]:
    """Half a minute each of noise whose power falls by 0, 3 and 6 dB an octave, and of a hum; (T,) float32, power 1."""
    rng = generator(seed, "noises")
    count = NOISE_SECONDS * SAMPLE_RATE
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 20.0)
    noises = [np.fft.irfft(spectrum / frequency**power) for power in (0.0, 0.0, 0.5, 1.0)]
    time = np.arange(count) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * time + k) / k for k in range(1, 12))
    noises.append(np.asarray(hum) + 0.2 * rng.standard_normal(count))
    return [(noise / noise.std()).astype(np.float32) for noise in noises]


def disturbed(
    crop: np.ndarray,
    settings: AugmentSettings,
    noises: list[np.ndarray],
    other: np.ndarray,
    rng: np.random.Generator,
    *,
    noise: float,
) -> np.ndarray:
    """A crop as recorded in another room by another microphone, with noise.

    Args:
        crop: (T,) float32.
        noises: as from `make_noises`.
        other: (T,) float32, speech to murmur behind.
        noise: probability that there is noise.

    Returns:
        (T,) float32.
    """
    draws = rng.random(6)
    power = float(np.mean(crop**2)) + 1e-12
    if draws[0] < settings.room:
        crop = reverberated(crop, rng)
    if draws[1] < settings.filter:
        tap = np.float32(rng.uniform(-0.7, 0.7))
        crop = np.convolve(crop, np.array([1.0, tap], np.float32))[: len(crop)]
        crop *= np.float32(np.sqrt(power / (np.mean(crop**2) + 1e-12)))
    if draws[2] < noise:
        if draws[3] < settings.babble and np.any(other):
            hiss = other
        else:
            bank = noises[int(draws[4] * len(noises))]
            start = int(rng.integers(len(bank)))
            hiss = np.take(bank, np.arange(start, start + len(crop)), mode="wrap")
        level = 10 ** (-rng.uniform(*settings.snr) / 20)
        crop = crop + hiss * np.float32(level * np.sqrt(power / (np.mean(hiss**2) + 1e-12)))
    return crop


def with_noise(waveform: np.ndarray, snr: float, seed: int) -> np.ndarray:
    """The waveform in white noise, `snr` dB below its own power."""
    noise = generator(seed, "white noise").standard_normal(len(waveform))
    scale = np.sqrt(np.mean(waveform.astype(np.float64) ** 2) / max(float(np.mean(noise**2)), 1e-12))
    return (waveform + noise * scale * 10 ** (-snr / 20)).astype(np.float32)


def reverberated(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop with the decaying noise of a room behind it, 0.1 to 0.5 s for 60 dB."""
    length = int(0.25 * SAMPLE_RATE)
    decay = 6.9 / (rng.uniform(0.1, 0.5) * SAMPLE_RATE)
    room = (rng.standard_normal(length) * np.exp(-decay * np.arange(length))).astype(np.float32)
    room *= np.float32(rng.uniform(0.2, 0.8) / np.sqrt(np.sum(room**2)))
    room[0] = 1.0
    size = 1 << (len(crop) + length - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(crop, size) * np.fft.rfft(room, size), size)[: len(crop)].astype(
        np.float32
    )
