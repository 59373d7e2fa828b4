"""Encode again, one by one, and count the units that differ."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from units.encode import Quantizer, encode_units
from units.encoders import Encoder

HALF_LIMIT = 0.005  # share of units that half precision may change
WIDE = 512  # features: on a GPU, the kernels of a narrower encoder are too small to gain from half precision


def verify(
    encoder: Encoder,
    codebook: Quantizer,
    waveforms: Sequence[np.ndarray],
    *,
    reference: Encoder | None = None,
) -> float:
    """Share of units that differ between encoding the waveforms in batches and one by one.

    Args:
        encoder: encodes all waveforms in one call.
        codebook: maps its features to units.
        waveforms: each (T,) float32 at 16 kHz.
        reference: encodes them one by one; default: the encoder itself. With the float32 encoder of the same model the
            share is the error of half precision.

    Returns:
        In [0, 1]; 0 if there are no frames. Frames that only one of the two has count as different.

    >>> from units.encoders import load_encoder
    >>> from units.kmeans import Codebook
    >>> waveforms = [np.random.default_rng(i).normal(size=9000).astype(np.float32) for i in range(3)]
    >>> verify(load_encoder("mfcc"), Codebook(np.eye(39)), waveforms)
    0.0
    """
    reference = reference or encoder
    batched = encode_units(encoder, codebook, waveforms)
    alone = [encode_units(reference, codebook, [waveform])[0] for waveform in waveforms]
    return share_of_differences(batched, alone)


def share_of_differences(units: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Share of frames with different units; frames that only one of the two has count as different.

    >>> share_of_differences([np.array([1, 2, 3])], [np.array([1, 4])])
    0.6666666666666666
    """
    frames = sum(max(len(a), len(b)) for a, b in zip(units, others, strict=True))
    equal = sum(int((a[: len(b)] == b[: len(a)]).sum()) for a, b in zip(units, others, strict=True))
    return (frames - equal) / frames if frames else 0.0


def choose_dtype(
    exact: Encoder, codebook: Quantizer, waveforms: Sequence[np.ndarray], load: Callable[[str], Encoder]
) -> dict[str, Any]:
    """The first half precision that is fast on the device and changes fewer than 0.5 % of the units of float32.

    float16 is tried before bfloat16: it has 3 more bits of mantissa, and so changes fewer units unless it overflows.

    Args:
        exact: the encoder in float32.
        codebook: maps its features to units.
        waveforms: each (T,) float32 at 16 kHz: speech of the kind to be encoded.
        load: the same encoder on the same device in a dtype by name.

    Returns:
        JSON-able: `dtype`, "float32", "float16" or "bfloat16"; `share` of different units (of the last one tried, None
        where none was) and `frames` compared; and `why`, for a reader.
    """
    result: dict[str, Any] = {"dtype": "float32", "share": None, "frames": 0}
    if "dtype" not in exact.provenance:
        return result | {"why": "this encoder has no half precision"}
    dtypes = fast_half_types(exact.device)  # type: ignore[attr-defined]
    if not dtypes:
        return result | {"why": "the device does not compute in half precision"}
    if exact.device.type != "cpu" and exact.dimension < WIDE:  # type: ignore[attr-defined]
        return result | {"why": f"{exact.dimension} features: too few for half precision to be faster"}
    frames = sum(max(0, (len(waveform) - exact.minimum) // exact.hop + 1) for waveform in waveforms)
    if frames == 0:
        return result | {"why": "no speech to measure with"}
    units = [encode_units(exact, codebook, [waveform])[0] for waveform in waveforms]
    reasons = []
    for dtype in dtypes:
        try:
            share = share_of_differences(encode_units(load(dtype), codebook, waveforms), units)
        except ValueError as error:  # its features overflowed
            share = 1.0
            reasons.append(f"{dtype} cannot be used: {error}")
        else:
            reasons.append(f"{share:.2%} of units differ in {dtype}, the limit is {HALF_LIMIT:.1%}")
        result |= {"share": share, "frames": frames, "why": "; ".join(reasons)}
        if share < HALF_LIMIT:
            return result | {"dtype": dtype}
    return result


def fast_half_types(device: Any) -> list[str]:
    """Half precisions in which a torch device multiplies matrices in hardware; others are slower than float32."""
    import torch

    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return [dtype for dtype, least in (("float16", (7, 0)), ("bfloat16", (8, 0))) if capability >= least]
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    names = {
        "float16": ("avx512_fp16", "amx_fp16"),
        "bfloat16": ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"),
    }
    return [dtype for dtype, flags in names.items() if any(capabilities.get(flag) for flag in flags)]


def device_name(device: str) -> str:
    """The kind of device, for a reader: "cpu AVX512", "NVIDIA H200"."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} {torch.backends.cpu.get_cpu_capability()}"
