"""Source and filter: pulses and noise, each through spectral envelopes that change every 10 ms.

Frame j is a Hann window over samples [160 j - 80, 160 j + 240), centred at sample 160 j + 80; neighbours overlap by
half and sum to 1. Pulses of F0 and noise go through minimum-phase filters, one of each per frame.

Everything before the filters is a function of the sample's place alone (and of the F0 up to there), so that a long
recording can be synthesised piece by piece.

Source: the model of harmonics plus noise of Engel et al. 2020 (DDSP), arXiv:2001.04643; minimum phase by folding the
cepstrum, Oppenheim & Schafer.
"""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F

from corpus.keyed import generator
from corpus.records import SAMPLE_RATE
from units.whisper import mel_filters

HOP = 160  # samples from one frame to the next
SIZE = 320  # samples of a frame
BEFORE = 80  # samples of frame 0 before the first sample
FFT = 640
BANDS = 80
HIGHEST = 7_600.0  # Hz, of the last harmonic of a pulse
NOISE_BLOCK = 16_000  # samples of noise that are parts at a time


@functools.cache
def band_matrix(bands: int = BANDS) -> torch.Tensor:
    """(bands, 321): linear interpolation from bands, evenly spaced on the mel scale, to the bins of the FFT."""
    mel = 2595 * np.log10(1 + np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1) / 700)
    place = mel / mel[-1] * (bands - 1)
    low = np.minimum(place.astype(int), bands - 2)
    matrix = np.zeros((bands, len(place)), np.float32)
    matrix[low, np.arange(len(place))] = 1 - (place - low)
    matrix[low + 1, np.arange(len(place))] = place - low
    with torch.inference_mode(False):  # it is kept, and training needs it
        return torch.from_numpy(matrix)


def advance(hertz: np.ndarray, phase: float) -> np.ndarray:
    """Phase in turns at every sample under (n,) F0 in Hz per sample, (n,) float64 in [0, 1), after `phase`."""
    return (phase + np.cumsum(hertz.astype(np.float64) / SAMPLE_RATE)) % 1.0


def per_sample(hertz: np.ndarray, first: int, count: int) -> np.ndarray:
    """F0 of frames, interpolated between their centres, at samples [first, first + count); held at both ends.

    >>> per_sample(np.array([100.0, 260.0]), 0, 400)[[0, 80, 160, 399]].tolist()
    [100.0, 100.0, 180.0, 260.0]
    """
    place = np.clip((np.arange(first, first + count) - HOP / 2) / HOP, 0, max(len(hertz) - 1, 0))
    return np.interp(place, np.arange(len(hertz)), hertz)


def pulses(phase: np.ndarray, hertz: np.ndarray) -> np.ndarray:
    """(n,) float32 band-limited pulses with a flat spectrum of the density of white noise of variance 1.

    All harmonics up to HIGHEST have one amplitude; the next one fades in as F0 falls, so that none begins at once.
    The sum of harmonics is Dirichlet's kernel, in closed form.
    """
    count = HIGHEST / np.maximum(hertz, 1.0)
    whole = np.floor(count)
    angle = np.pi * phase
    below = np.sin(angle)
    near = np.abs(below) < 1e-9
    kernel = np.sin((2 * whole + 1) * angle) / np.where(near, 1.0, below)
    harmonics = (np.where(near, 2 * whole + 1, kernel) - 1) / 2
    harmonics += (count - whole) * np.cos(2 * np.pi * (whole + 1) * phase)
    return (2 * np.sqrt(hertz / SAMPLE_RATE) * harmonics).astype(np.float32)


def noise(first: int, count: int) -> np.ndarray:
    """Samples [first, first + count) of one endless white noise of variance 1, (count,) float32."""
    start = first // NOISE_BLOCK
    blocks = range(start, (first + count - 1) // NOISE_BLOCK + 1) if count else ()
    parts = [
        generator(0, "vocoder noise", str(block)).standard_normal(NOISE_BLOCK, np.float32) for block in blocks
    ]
    return np.concatenate([np.zeros(0, np.float32), *parts])[first - start * NOISE_BLOCK :][:count]


def minimum_phase(log_amplitude: torch.Tensor) -> torch.Tensor:
    """(..., 321) natural log of amplitudes -> (..., 321) complex response of the minimum-phase filter."""
    cepstrum = torch.fft.irfft(log_amplitude, FFT)
    fold = torch.zeros(FFT, device=log_amplitude.device)
    fold[0] = fold[FFT // 2] = 1
    fold[1 : FFT // 2] = 2
    response = torch.fft.rfft(cepstrum * fold, FFT)
    return torch.polar(response.real.exp(), response.imag)


def render(
    harmonic: torch.Tensor, aperiodic: torch.Tensor, source: torch.Tensor, breath: torch.Tensor
) -> torch.Tensor:
    """Filter pulses and noise, and add them.

    Args:
        harmonic, aperiodic: (B, J, 80) natural log of amplitude of the frames' envelopes.
        source, breath: (B, 160 J + 160) pulses and noise, from 80 samples before the first frame's first sample on.

    Returns:
        (B, 160 J + 480) float32: sample i belongs 80 samples further left than sample i of the frames; the last 320
        and the first 160 still lack the frames beyond the ends.
    """
    matrix = band_matrix(harmonic.shape[-1]).to(harmonic.device)
    window = torch.hann_window(SIZE, device=harmonic.device)
    pulse, hiss = (torch.fft.rfft(x.unfold(1, SIZE, HOP) * window, FFT) for x in (source, breath))
    spectrum = pulse * minimum_phase(harmonic @ matrix) + hiss * minimum_phase(aperiodic @ matrix)
    frames = torch.fft.irfft(spectrum, FFT)
    return overlap_add(frames)


def overlap_add(frames: torch.Tensor) -> torch.Tensor:
    """(B, J, 640) -> (B, 160 J + 480): frame j added from sample 160 j on."""
    count = frames.shape[1]
    length = HOP * count + FFT - HOP
    folded = F.fold(frames.transpose(1, 2), (1, length), (1, FFT), stride=(1, HOP))
    return folded[:, 0, 0]


def log_mel(waveforms: torch.Tensor, floor: float = 1e-5) -> torch.Tensor:
    """(B, T) -> (B, J, 80) natural log of mel amplitudes, J = T // 160: frame j centred at sample 160 j + 80."""
    window, filters = mel_filters(BANDS, waveforms.device)
    size = len(window)
    padded = F.pad(waveforms, (size // 2 - HOP // 2, size // 2 - HOP // 2))
    power = torch.fft.rfft(padded.unfold(1, size, HOP) * window).abs().square()
    return (power @ filters).clamp(min=floor**2).log() / 2


def decibels(natural: float) -> float:
    """Natural log of amplitude in dB.

    >>> round(decibels(math.log(10)), 6)
    20.0
    """
    return 20 * natural / math.log(10)
