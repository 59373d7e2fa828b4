"""Fundamental frequency (F0) of a recording every 5 ms, and where it is voiced.

The default extractor is FCPE (torchfcpe, weights in its wheel) with the settings of Spirit LM's release. Its network is
convolutions along time and one group norm over all of it, so a recording of any length is computed in blocks that see
exactly what the whole would show them: the norm's statistics are taken first, and every block is given as many frames
of context as the convolutions reach. There is no seam to hide.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from corpus.records import SAMPLE_RATE
from units.hubert import check_waveform

HOP = 80  # samples: 5 ms
RATE = SAMPLE_RATE / HOP  # Hz
LOWEST, HIGHEST = 50.0, 1100.0  # Hz; below: unvoiced, above: cut
THRESHOLD = 0.05  # of FCPE's confidence
UNVOICED_HERTZ = 150.0
"""F0 of a recording without one voiced frame: a flat contour here, between the usual voices of men and women."""

EXTRACTORS = ("fcpe", "autocorrelation")

_SHIFT = 160  # samples between FCPE's own frames
_WINDOW = 1024  # samples of its spectra
_REACH = 92  # frames its convolutions see to either side: 1 + 1 + 6 layers of 15
_BLOCK = 3_000  # of its frames computed at a time: bounded memory
_ROWS = 512  # rows of a linear layer at a time, so that they stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class F0:
    """F0 of one recording, every 5 ms from its first sample on: n = samples // 80 + 1 frames.

    `hertz` is (n,) float32, finite, interpolated over unvoiced stretches and held at both ends; `voiced` is (n,) bool.
    """

    hertz: np.ndarray
    voiced: np.ndarray

    def __post_init__(self) -> None:
        if self.hertz.ndim != 1 or self.hertz.shape != self.voiced.shape:
            raise ValueError(
                f"f0: need hertz and voiced of one shape (n,), got {self.hertz.shape} and {self.voiced.shape}"
            )

    def __len__(self) -> int:
        return len(self.hertz)

    @property
    def mean(self) -> float | None:
        """Mean of the voiced frames, Hz; None where there is none."""
        return float(self.hertz[self.voiced].mean(dtype=np.float64)) if self.voiced.any() else None


def extract(waveform: np.ndarray, *, extractor: str = "fcpe", device: str = "cpu") -> F0:
    """F0 of a recording. The result hangs on this waveform alone, not on its neighbours or the number of threads.

    Args:
        waveform: (T,) float32 at 16 kHz, any length and level.
        extractor: "fcpe", or "autocorrelation" for cross-checks: another method, with other mistakes.
        device: where FCPE runs.

    Returns:
        T // 80 + 1 frames. Without one voiced frame (silence, whisper) the contour is flat at UNVOICED_HERTZ.

    Raises:
        ValueError: no such extractor, or a waveform that is not (T,) or not finite.

    Source: torchfcpe (MIT); settings of SPEC 2.

    >>> silence = extract(np.zeros(1264, np.float32), extractor="autocorrelation")
    >>> len(silence), silence.voiced.any().item(), silence.hertz[0].item()
    (16, False, 150.0)
    """
    if extractor not in EXTRACTORS:
        raise ValueError(f"f0.extractor: need one of {', '.join(EXTRACTORS)}, got {extractor!r}")
    waveform = check_waveform(waveform, 0)
    hertz = _fcpe(waveform, device) if extractor == "fcpe" else _autocorrelation(waveform)
    voiced = hertz >= LOWEST  # 0 and NaN are unvoiced
    hertz = interpolate(hertz, voiced)
    frames = np.arange(len(waveform) // HOP + 1)
    if extractor == "fcpe":  # from every 10 ms to every 5, as the reference: the nearest one at or before
        frames = frames * len(hertz) // len(frames)
    return F0(hertz[frames], voiced[frames])


def interpolate(hertz: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """Fill unvoiced frames: straight lines between voiced ones, the nearest one at the ends, (n,) float32.

    >>> interpolate(np.array([0, 100, 0, 120, 0]), np.array([False, True, False, True, False])).tolist()
    [100.0, 100.0, 110.0, 120.0, 120.0]
    """
    if not voiced.any():
        return np.full(len(hertz), UNVOICED_HERTZ, np.float32)
    frames = np.arange(len(hertz))
    filled = np.interp(frames, frames[voiced], hertz[voiced].astype(np.float64))
    return np.minimum(filled, HIGHEST).astype(np.float32)


@lru_cache(maxsize=2)
def identity(extractor: str = "fcpe") -> str:
    """Name, version and weights of an extractor: what decides its results."""
    if extractor != "fcpe":
        return f"{extractor} 1"
    _load("cpu")
    import torchfcpe

    folder = os.path.dirname(torchfcpe.__file__)
    with open(os.path.join(folder, "assets", "fcpe_c_v001.pt"), "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    version = importlib.metadata.version("torchfcpe")
    return f"torchfcpe {version} {digest[:16]} local_argmax {THRESHOLD} {LOWEST:g}-{HIGHEST:g} Hz"


# FCPE --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _load(device: str) -> Any:
    """The network of torchfcpe; what it prints and sets while it is imported is kept from our callers."""
    before = os.environ.get("LRU_CACHE_CAPACITY")
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchfcpe
        except ImportError as error:
            raise ValueError("f0: need torchfcpe for pitch and style; pip install torchfcpe") from error
        found = torchfcpe.spawn_bundled_infer_model(device)
    os.environ.pop("LRU_CACHE_CAPACITY", None)
    if before is not None:
        os.environ["LRU_CACHE_CAPACITY"] = before
    return found.requires_grad_(False)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: sums come out the same on machines with other numbers of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fcpe(waveform: np.ndarray, device: str) -> np.ndarray:
    """(T // 160 + 1,) float32 Hz, 0 where unvoiced."""
    loaded = _load(device)
    with torch.inference_mode(), one_thread():
        mel = _log_mel(torch.from_numpy(waveform).to(device), loaded.wav2mel.mel_extractor.mel_basis)
        mean, scale = _group_statistics(loaded.model, mel)
        found = [
            _hertz(loaded.model, mel[max(0, start - _REACH) : start + _BLOCK + _REACH], mean, scale)[
                min(start, _REACH) :
            ][: min(_BLOCK, len(mel) - start)]
            for start in range(0, len(mel), _BLOCK)
        ]
        return torch.cat(found).cpu().numpy()


def _log_mel(waveform: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """(T // 160 + 1, 128) log mel spectra as torchfcpe makes them; the last frame stands twice."""
    samples = len(waveform)
    left = (_WINDOW - _SHIFT) // 2
    right = max(left, _WINDOW - samples - left)
    mode = "reflect" if right < samples else "constant"
    padded = F.pad(waveform[None, None], (left, right), mode=mode)[0, 0]
    window = torch.hann_window(_WINDOW, device=waveform.device)
    frames = (len(padded) - _WINDOW) // _SHIFT + 1
    blocks = []
    for start in range(0, frames, _BLOCK):
        stop = min(frames, start + _BLOCK)
        piece = padded[start * _SHIFT : (stop - 1) * _SHIFT + _WINDOW]
        spectrum = torch.stft(piece, _WINDOW, _SHIFT, window=window, center=False, return_complex=True)
        magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
        blocks.append(torch.log(torch.clamp(basis @ magnitude, min=1e-5)).T)
    blocks.append(blocks[-1][-1:])
    return torch.cat(blocks)[: samples // _SHIFT + 1]


def _first(model: Any, mel: torch.Tensor) -> torch.Tensor:
    """(frames, 128) -> (512, frames) of the first convolution."""
    convolution = model.input_stack[0]
    return F.conv1d(mel.T[None], convolution.weight, convolution.bias, padding=1)[0]


def _group_statistics(model: Any, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(512, 1) mean and 1 / deviation of the group norm over all frames, per channel."""
    norm = model.input_stack[1]
    sums = torch.zeros(2, norm.num_groups, dtype=torch.float64, device=mel.device)
    for start in range(0, len(mel), _BLOCK):
        first = max(0, start - 1)
        x = _first(model, mel[first : start + _BLOCK + 1])[:, start - first :][:, : len(mel) - start][
            :, :_BLOCK
        ]
        groups = x.reshape(norm.num_groups, -1).double()
        sums += torch.stack([groups.sum(1), groups.square().sum(1)])
    mean, square = sums / (norm.num_channels // norm.num_groups * len(mel))
    scale = 1 / torch.sqrt((square - mean.square()).clamp(min=0) + norm.eps)
    channels = norm.num_channels // norm.num_groups
    return tuple(x.float().repeat_interleave(channels)[:, None] for x in (mean, scale))  # type: ignore[return-value]


def _hertz(model: Any, mel: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(frames, 128) -> (frames,) Hz, 0 where FCPE is not confident; frames near a cut edge are not to be used."""
    norm, last = model.input_stack[1], model.input_stack[3]
    x = (_first(model, mel) - mean) * scale * norm.weight[:, None] + norm.bias[:, None]
    x = F.conv1d(F.leaky_relu(x)[None], last.weight, last.bias, padding=1)[0].T
    if model.harmonic_emb is not None:
        x = x + model.harmonic_emb.weight[0]
    for layer in model.net.encoder_layers:
        x = x + _convolve(layer.conformer.net, x)
    latent = torch.sigmoid(model.output_proj(model.norm(x)))
    confidence, best = latent.max(dim=1, keepdim=True)
    around = (best + torch.arange(-4, 5, device=best.device)).clamp(0, model.out_dims - 1)
    weights = latent.gather(1, around)
    cents = (model.cent_table[around] * weights).sum(1) / weights.sum(1)
    return torch.where(confidence[:, 0] > THRESHOLD, 10.0 * 2 ** (cents / 1200.0), 0.0)


def _convolve(net: Any, x: torch.Tensor) -> torch.Tensor:
    """One block of FCPE on (frames, 512): norm, gated widening, depthwise convolution along time, narrowing."""
    norm, widen, depthwise, narrow = net[0], net[2], net[4].conv, net[6]
    wide = x.new_empty(len(x), depthwise.in_channels)
    for rows, out in zip(x.split(_ROWS), wide.split(_ROWS), strict=True):
        rows = F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias)
        value, gate = F.linear(rows, widen.weight[:, :, 0], widen.bias).chunk(2, dim=1)
        torch.mul(value, gate.sigmoid_(), out=out)
    # as an image one pixel high with its channels last, which is how it lies in memory: 1 ms in place of 27 for 11 s
    image = wide[None, None].permute(0, 3, 1, 2)
    image = F.conv2d(
        image, depthwise.weight[:, :, None], depthwise.bias, padding=(0, 15), groups=depthwise.in_channels
    )
    return F.linear(F.silu(image[0, :, 0].T, inplace=True), narrow.weight[:, :, 0], narrow.bias)


# Autocorrelation ---------------------------------------------------------------------------------------------------


def _autocorrelation(waveform: np.ndarray) -> np.ndarray:
    """(T // 80 + 1,) float64 Hz, 0 where unvoiced: the strongest peak of each frame's normalised autocorrelation.

    Frames of 40 ms; the autocorrelation of the windowed frame is divided by that of the window. A lag of an octave
    more must be better by 0.03. No smoothing from frame to frame.

    Source: Boersma 1993, without the path search.
    """
    size, lags = 640, np.arange(SAMPLE_RATE // 600, SAMPLE_RATE // 60 + 1)
    window = np.hanning(size)
    padded = np.pad(waveform.astype(np.float64), size // 2)
    loudest = np.abs(waveform).max(initial=0.0)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * size)) ** 2)[: size // 2]
    found = np.zeros(len(waveform) // HOP + 1)
    for start in range(0, len(found), _BLOCK):
        places = np.arange(start, min(len(found), start + _BLOCK))[:, None] * HOP + np.arange(size)
        frames = padded[places]
        loud = np.abs(frames).max(axis=1) > 0.03 * loudest
        frames = (frames - frames.mean(axis=1, keepdims=True)) * window
        power = np.abs(np.fft.rfft(frames, 2 * size)) ** 2
        correlation = np.fft.irfft(power)[:, : size // 2]
        correlation = correlation / np.maximum(correlation[:, :1], 1e-12) / (own / own[0])
        score = correlation[:, lags] - 0.03 * np.log2(lags)
        score[
            (correlation[:, lags] < correlation[:, lags - 1])
            | (correlation[:, lags] < correlation[:, lags + 1])
        ] = -math.inf
        lag = lags[score.argmax(axis=1)]
        rows = np.arange(len(lag))
        before, peak, after = (correlation[rows, lag + i] for i in (-1, 0, 1))
        bend = before - 2 * peak + after
        shift = np.where(bend < 0, (before - after) / (2 * np.where(bend < 0, bend, -1)), 0)
        voiced = loud & (peak > 0.45) & np.isfinite(score.max(axis=1))
        found[start : start + len(lag)] = np.where(voiced, SAMPLE_RATE / (lag + np.clip(shift, -0.5, 0.5)), 0)
    return found
