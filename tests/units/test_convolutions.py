"""Convolutions as matrix products and spectra: the same numbers as those of torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from units.encoders import load_encoder
from units.hubert.convolutions import (
    Convolutions,
    convolve,
    output_moments,
    sample_moments,
)
from units.hubert.transformer import spectrum


def plainly(x, kernel, bias, size, stride):
    """The convolution by torch, in double precision."""
    weight = kernel.double().view(size, x.shape[1], -1).permute(2, 1, 0)
    return F.conv1d(x.double().T[None], weight, bias if bias is None else bias.double(), stride)[0].T


@settings(deadline=None)
@given(
    st.sampled_from([(2, 1), (3, 2), (4, 2), (4, 3), (5, 3), (10, 5)]),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_products_of_overlapping_views_are_a_convolution(shape, frames, biased, seed):
    size, stride = shape
    generator = torch.Generator().manual_seed(seed)
    extra = seed % stride  # samples at the end that give no frame
    x = torch.randn(size + (frames - 1) * stride + extra, 6, generator=generator)
    kernel = torch.randn(size * 6, 5, generator=generator)
    bias = torch.randn(5, generator=generator) if biased else None
    expected = plainly(x, kernel, bias, size, stride)
    result = convolve(x, kernel, bias, size, stride)
    assert result.shape == expected.shape
    assert torch.allclose(result.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "groups"), [(128, 16), (32, 4), (15, 2), (3, 1), (1, 1)])
def test_a_spectrum_multiplies_as_its_kernel_convolves(size, groups):
    kernel, x = torch.randn(32, 32 // groups, size), torch.randn(32, 50)
    bins = spectrum(kernel, groups)
    length = 2 * (len(bins) - 1)
    assert length >= 2 * size
    stretch = x[:, :length] if length <= 50 else F.pad(x, (0, length - 50))
    parts = torch.fft.rfft(stretch).view(groups, -1, len(bins)).permute(2, 0, 1)
    result = torch.fft.irfft((parts[:, :, None] @ bins)[:, :, 0].flatten(1).T, length)
    expected = F.conv1d(stretch[None].double(), kernel.double(), groups=groups)[0]
    assert torch.allclose(result[:, : expected.shape[1]].double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_frames_of_a_kept_first_output_are_those_of_one_made_again(normalize):
    convolutions: Convolutions = load_encoder("compact-1", normalize=normalize)._convolutions
    rng = np.random.default_rng(0)
    for samples, offset in ((1_680, 0.0), (16_000, 0.2), (131_111, -0.1)):
        recording = torch.from_numpy((rng.normal(size=samples) * 0.1 + offset).astype(np.float32))
        kept, again = convolutions.first(recording, keep=True), convolutions.first(recording)
        assert (kept.output is not None, again.output) == (True, None)
        one, other = (convolutions.frames(recording, first) for first in (kept, again))
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=0, atol=1e-5)


def test_the_output_that_moments_leave_is_that_of_the_convolution():
    recording, kernel = torch.randn(3000) + 5, torch.randn(48, 3).double()
    output = torch.empty((3000 - 48) // 16 + 1, 3)
    mean, _ = output_moments(recording, kernel, 48, 16, output)
    expected = recording.double().unfold(0, 48, 16) @ kernel
    assert torch.allclose(output.double(), expected, rtol=0, atol=1e-4)
    assert torch.allclose(mean, expected.mean(dim=0), rtol=1e-6)


def test_statistics_of_a_recording_are_those_of_all_its_samples_and_windows(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr("units.hubert.convolutions.STATISTICS_SAMPLES", 1000)  # several blocks
    for size, stride in ((10, 5), (48, 16)):  # by the covariance of windows, and by the output itself
        waveform = (rng.normal(size=4003) * 0.01 + 5).astype(np.float32)
        kernel = rng.normal(size=(size, 3))
        starts = range(0, 4003 - size + 1, stride)
        output = np.stack([waveform[start : start + size].astype(np.float64) for start in starts]) @ kernel
        mean, variance = output_moments(torch.from_numpy(waveform), torch.from_numpy(kernel), size, stride)
        assert np.allclose(mean, output.mean(axis=0), rtol=1e-7, atol=1e-7)
        assert np.allclose(variance, output.var(axis=0), rtol=1e-5)
        mean, variance = sample_moments(torch.from_numpy(waveform))
        assert mean.item() == pytest.approx(waveform.mean(dtype=np.float64), abs=1e-9)
        assert variance.item() == pytest.approx(waveform.var(dtype=np.float64), rel=1e-9)
