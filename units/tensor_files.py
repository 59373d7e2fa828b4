"""Tensors in files that cannot carry code, and hashes of what they hold.

Our own files (codebooks, tokenizers) are safetensors files whose metadata holds one JSON object, the record: its
`format`, its `provenance` and settings.
"""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from corpus import files

RECORD = "wordweave"  # key of the record in the metadata


def read_safetensors(
    path: str | Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors whose name is `wanted`, and the metadata, of a safetensors file.

    Raises:
        ValueError: missing, cut short or of another kind; names the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if wanted(name)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: need a whole safetensors file, got: {error}") from error


def write_safetensors(
    path: str | Path, tensors: dict[str, torch.Tensor] | dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Write all of a safetensors file or, if this fails, nothing under `path`."""
    contiguous = {name: torch.as_tensor(x).detach().cpu().contiguous() for name, x in tensors.items()}
    files.write(Path(path), save(contiguous, metadata))


def read_artifact(
    path: str | Path, format: str | None = None, *, kind: str, command: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and record of one of our own files.

    Args:
        path: of the file.
        format: that the record must state; default: any.
        kind: of thing that the file holds, and `command`, which makes one: for messages.

    Raises:
        ValueError: missing, cut short, or of another kind or format; names the file.
    """
    if not Path(path).exists():
        raise ValueError(f"{path}: no such {kind}; fit one with `{command}`")
    try:
        tensors, metadata = read_safetensors(path)
    except ValueError as error:
        raise ValueError(
            f"{path}: need a whole {kind} in safetensors format, got: {error.__cause__}"
        ) from error
    try:
        record = json.loads(metadata.get(RECORD, "{}"))
    except ValueError as error:
        raise ValueError(f"{path}: need JSON in its metadata, got: {error}") from error
    if not isinstance(record, dict) or (record and not isinstance(record.get("provenance"), dict)):
        raise ValueError(f"{path}: need a provenance in its metadata, got none")
    if format is not None and record.get("format") != format:
        raise ValueError(f"{path}: need a file of format {format!r}, got {record.get('format')!r}")
    return {name: tensor.numpy() for name, tensor in tensors.items()}, record


def write_artifact(path: str | Path, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
    """Write one of our own files; the same arrays and record give the same bytes."""
    write_safetensors(path, arrays, {RECORD: json.dumps(record, sort_keys=True)})


def load_weights_only(path: str | Path) -> Any:
    """`torch.load` that refuses everything but tensors and plain containers.

    Raises:
        ValueError: missing, broken, or holds code; names the file.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols, before the file is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle errors come in many classes: all mean that we do not read the file
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path}: need a whole checkpoint of plain tensors and no code, got: {reason}"
        ) from error


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tensors(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def hash_settings(settings: dict[str, Any]) -> str:
    """SHA-256 of a JSON-able dict, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
