"""Proof by repetition: encode again, one by one, and count the units that differ."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from units.encode import Quantizer, encode_units
from units.encoders import Encoder

HALF_LIMIT = 0.005  # share of units that half precision may change


def verify(
    encoder: Encoder,
    codebook: Quantizer,
    waveforms: Sequence[np.ndarray],
    *,
    reference: Encoder | None = None,
) -> float:
    """Share of units that differ between encoding the waveforms together and one by one.

    Args:
        encoder: encodes all waveforms in one call, in an order of its own.
        codebook: maps its features to units.
        waveforms: each (T,) float32 at 16 kHz.
        reference: encodes them one by one; default: the encoder itself. With the float32 encoder of the same model it
            tells what half precision costs.

    Returns:
        In [0, 1]; 0 if there are no frames. Frames that only one of the two has count as different.

    >>> from units.encoders import load_encoder
    >>> from units.kmeans import Codebook
    >>> waveforms = [np.random.default_rng(i).normal(size=9000).astype(np.float32) for i in range(3)]
    >>> verify(load_encoder("mfcc"), Codebook(np.eye(39)), waveforms)
    0.0
    """
    reference = reference or encoder
    together = encode_units(encoder, codebook, waveforms)
    alone = [encode_units(reference, codebook, [waveform])[0] for waveform in waveforms]
    frames = sum(max(len(a), len(b)) for a, b in zip(together, alone, strict=True))
    equal = sum(int((a[: len(b)] == b[: len(a)]).sum()) for a, b in zip(together, alone, strict=True))
    return (frames - equal) / frames if frames else 0.0


def choose_dtype(
    exact: Encoder, codebook: Quantizer, waveforms: Sequence[np.ndarray], load: Callable[[str], Encoder]
) -> dict[str, Any]:
    """bfloat16 where the device computes in it and fewer than 0.5 % of the units differ from those of float32.

    Args:
        exact: the encoder in float32.
        codebook: maps its features to units.
        waveforms: each (T,) float32 at 16 kHz: speech as will be encoded.
        load: the same encoder on the same device in a dtype by name.

    Returns:
        JSON-able: `dtype`, "float32" or "bfloat16"; `share` of other units and `frames` compared, where measured; and
        `why`, for a reader.
    """
    said: dict[str, Any] = {"dtype": "float32", "share": None, "frames": 0}
    if "dtype" not in exact.provenance:
        return said | {"why": "this encoder has no half precision"}
    if not computes_in_bfloat16(exact.device):  # type: ignore[attr-defined]
        return said | {"why": "the device does not compute in bfloat16"}
    frames = sum(max(0, (len(waveform) - exact.minimum) // exact.hop + 1) for waveform in waveforms)
    if frames == 0:
        return said | {"why": "no speech to measure with"}
    share = verify(load("bfloat16"), codebook, waveforms, reference=exact)
    dtype = "bfloat16" if share < HALF_LIMIT else "float32"
    why = f"{share:.2%} of units differ in bfloat16, the limit is {HALF_LIMIT:.1%}"
    return {"dtype": dtype, "share": share, "frames": frames, "why": why}


def computes_in_bfloat16(device: Any) -> bool:
    """Whether a torch device multiplies bfloat16 matrices in hardware; elsewhere it is slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def device_name(device: str) -> str:
    """The kind of device, as a reader knows it: "cpu AVX512", "NVIDIA H200"."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} {torch.backends.cpu.get_cpu_capability()}"
