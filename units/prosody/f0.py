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
from units.strassen import multiply, seven
from units.waveform import check_waveform

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
_ROWS = 2048  # rows of a linear layer at a time, so that they stay in the cache


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
    waveform = check_waveform(waveform)
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
    with torch.inference_mode(), one_thread():
        weights, basis = _weights(device)
        mel = _log_mel(torch.from_numpy(waveform).to(device), basis)
        frames = len(mel)
        places = [
            (max(0, start - _REACH), start, min(frames, start + _BLOCK)) for start in range(0, frames, _BLOCK)
        ]
        x = _first(weights, mel, 0, min(frames, _BLOCK))  # of most recordings that is all
        sums = _group_sums(x)
        for _, start, stop in places[1:]:
            sums += _group_sums(_first(weights, mel, start, stop))
        norm = _group_norm(weights, sums, frames)
        found = []
        for first, start, stop in places:
            if len(places) > 1:
                x = _first(weights, mel, first, min(frames, stop + _REACH))
            found.append(_hertz(weights, x, *norm)[start - first : stop - first])
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


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Weights of one block, matrices as `seven` cuts them."""

    norm: tuple[torch.Tensor, torch.Tensor]
    widen: list[torch.Tensor]
    widen_bias: torch.Tensor
    depthwise: tuple[torch.Tensor, torch.Tensor]
    narrow: list[torch.Tensor]
    narrow_bias: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """Weights of FCPE as they are multiplied."""

    first: tuple[torch.Tensor, torch.Tensor]
    group_norm: tuple[torch.Tensor, torch.Tensor]
    epsilon: float
    second: list[torch.Tensor]
    second_bias: torch.Tensor
    layers: list[_Layer]
    norm: tuple[torch.Tensor, torch.Tensor]
    head: tuple[torch.Tensor, torch.Tensor]
    cents: torch.Tensor


@lru_cache(maxsize=2)
def _weights(device: str) -> tuple[_Weights, torch.Tensor]:
    """The network's weights, and the mel filters, (128, 513)."""
    loaded = _load(device)
    model = loaded.model
    first, group, _, second = model.input_stack
    bias = second.bias if model.harmonic_emb is None else second.bias + model.harmonic_emb.weight[0]
    layers = []
    for layer in model.net.encoder_layers:
        norm, _, widen, _, depthwise, _, narrow = layer.conformer.net[:7]
        layers.append(
            _Layer(
                (norm.weight, norm.bias),
                seven(widen.weight[:, :, 0].T),
                widen.bias,
                (depthwise.conv.weight[:, :, None], depthwise.conv.bias),
                seven(narrow.weight[:, :, 0].T),
                narrow.bias,
            )
        )
    left, middle, right = second.weight.permute(2, 1, 0)
    four = [left, (left + middle + right) / 2, (left - middle + right) / 2, right]
    weights = _Weights(
        (first.weight.flatten(1), first.bias),
        (group.weight, group.bias),
        group.eps,
        [x.contiguous() for x in four],
        bias,
        layers,
        (model.norm.weight, model.norm.bias),
        (model.output_proj.weight.detach().clone(), model.output_proj.bias),
        model.cent_table,
    )
    return weights, loaded.wav2mel.mel_extractor.mel_basis


def _first(weights: _Weights, mel: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """(stop - start, 512) of the first convolution, which sees zeros outside the recording."""
    before, after = int(start > 0), int(stop < len(mel))
    seen = F.pad(mel[start - before : stop + after], (0, 0, 1 - before, 1 - after))
    return F.linear(seen.unfold(0, 3, 1).flatten(1), *weights.first)


def _group_sums(x: torch.Tensor) -> torch.Tensor:
    """(2, 4) float64 sums and sums of squares of each quarter of the channels."""
    groups = x.view(len(x), 4, -1).double()
    return torch.stack([groups.sum((0, 2)), groups.square().sum((0, 2))])


def _group_norm(weights: _Weights, sums: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(512,) scale and shift that the group norm comes to over all frames."""
    weight, bias = weights.group_norm
    channels = len(weight) // sums.shape[1]
    mean, square = sums / (channels * frames)
    scale = 1 / torch.sqrt((square - mean.square()).clamp(min=0) + weights.epsilon)
    mean, scale = (x.float().repeat_interleave(channels) for x in (mean, scale))
    return scale * weight, bias - mean * scale * weight


def _hertz(weights: _Weights, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """(frames, 512) of the first convolution -> (frames,) Hz, 0 where FCPE is not confident.

    Frames near a cut edge are not to be used.
    """
    frames = len(x)
    x = _second(weights, F.leaky_relu(torch.addcmul(shift, x, scale)))
    for layer in weights.layers:
        _convolve(layer, x, frames)
    latent = torch.sigmoid(F.linear(F.layer_norm(x[:frames], x.shape[1:], *weights.norm), *weights.head))
    confidence, best = latent.max(dim=1, keepdim=True)
    around = (best + torch.arange(-4, 5, device=best.device)).clamp(0, latent.shape[1] - 1)
    near = latent.gather(1, around)
    cents = (weights.cents[around] * near).sum(1) / near.sum(1)
    return torch.where(confidence[:, 0] > THRESHOLD, 10.0 * 2 ** (cents / 1200.0), 0.0)


def _second(weights: _Weights, x: torch.Tensor) -> torch.Tensor:
    """The second convolution, (frames, 512) -> (frames, 512) and one row more where they are odd.

    Two neighbouring frames of a convolution over three cost four products in place of six.

    Source: Winograd 1980, F(2, 3).
    """
    frames = len(x) + len(x) % 2
    padded = F.pad(x, (0, 0, 1, 1 + frames - len(x)))
    a, b, c, d = (padded[i : i + frames - 1 : 2] for i in range(4))
    out = x.new_empty(frames, len(weights.second_bias))
    even, odd = out[0::2], out[1::2]
    torch.addmm(weights.second_bias, b + c, weights.second[1], out=even)
    odd.copy_(even)
    both = (c - b) @ weights.second[2]
    even.add_(both).addmm_(a - c, weights.second[0])
    odd.sub_(both).addmm_(d - b, weights.second[3])
    return out


def _convolve(layer: _Layer, x: torch.Tensor, frames: int) -> None:
    """One block of FCPE, added to x (an even number of rows, of which `frames` count; 512).

    Norm, gated widening, depthwise convolution along time, narrowing.
    """
    wide = x.new_empty(len(x), len(layer.depthwise[1]))
    for rows, out in zip(x.split(_ROWS), wide.split(_ROWS), strict=True):
        rows = F.layer_norm(rows, rows.shape[1:], *layer.norm)
        torch.mul(*_gates(_multiply(rows, layer.widen, layer.widen_bias)), out=out)
    wide[frames:] = 0
    # as an image one pixel high with its channels last, which is how it lies in memory: 1 ms in place of 27 for 11 s
    image = wide[None, None].permute(0, 3, 1, 2)
    image = F.conv2d(image, *layer.depthwise, padding=(0, 15), groups=wide.shape[1])
    for rows, out in zip(image[0, :, 0].T.split(_ROWS), x.split(_ROWS), strict=True):
        out.add_(_multiply(F.silu(rows, inplace=True), layer.narrow, layer.narrow_bias))


def _gates(wide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, 2048) -> value and gate, (rows, 1024) each."""
    value, gate = wide.chunk(2, dim=1)
    return value, gate.sigmoid_()


def _multiply(x: torch.Tensor, sums: list[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    """x (R, K), R even, times the matrix (K, N) of `seven`, plus bias (N,)."""
    out = x.new_empty(len(x), len(bias))
    (upper, lower), (out_upper, out_lower) = x.chunk(2), out.chunk(2)
    multiply(upper, lower, sums, bias, out_upper, out_lower)
    return out


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
