"""What a pre-training run leaves on disk: the encoder as others read it, the log, and a checkpoint to resume from."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def open_log(path: Path, step: int) -> Any:
    """The log, without lines from after `step`: those steps are made again."""
    kept: list[str] = []
    if step and path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def save_encoder(model: Any, folder: Path) -> None:
    """Weights in half precision, and their settings, as `load_encoder` reads them (and transformers a HuBERT)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.student.save(folder)
    tensors = {name: t.detach().cpu().half().contiguous() for name, t in weights.items()}
    replace_file(folder / WEIGHTS, tensors, {"format": "pt"})
    heads = dict(model.heads.state_dict())
    if heads:
        replace_file(folder / "heads.safetensors", heads, {"format": "pt"})


def take_weights(model: Any, folder: Path) -> None:
    """Begin with the weights of an encoder that was trained before."""
    weights, own = load_file(folder / WEIGHTS), model.student.weights()
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in own.items()}:
        raise ValueError(f"{folder}: need an encoder of the same network settings to start from")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
    heads = folder / "heads.safetensors"
    if heads.exists():
        # a head of the same name and size keeps what it learnt before, if the clusters are the same
        own = model.heads.state_dict()
        kept = {name: t for name, t in load_file(heads).items() if name in own and own[name].shape == t.shape}
        model.heads.load_state_dict(own | kept)


def write_checkpoint(
    output: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
    requested: dict[str, Any],
    sums: dict[str, float],
) -> None:
    """Everything a run needs to resume exactly, written atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    result = {"step": step, "seconds": seconds, "asked": requested, "sums": sums}
    replace_file(
        output / "checkpoint.safetensors",
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {"wordweave": json.dumps(result, sort_keys=True)},
    )


def read_checkpoint(
    output: Path, model: Any, optimizer: torch.optim.Optimizer, requested: dict[str, Any]
) -> tuple[int, float, dict[str, float]]:
    """Bring model and optimizer where the checkpoint was; its step, the seconds spent, and the sums since a report."""
    path = output / "checkpoint.safetensors"
    if not path.exists():
        raise ValueError(f"{path}: no checkpoint to resume; leave --resume out to begin")
    with safe_open(path, framework="pt") as file:
        result = json.loads(file.metadata()["wordweave"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for part in ("settings", "data"):
        theirs, ours = result["asked"][part], requested[part]
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise ValueError(
                    f"{path}: was made with {part} {name} {theirs.get(name)!r}, got {ours[name]!r}"
                )
    model.load_state_dict(
        {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    )
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return result["step"], result["seconds"], result["sums"]


def read_finished(output: Path, requested: dict[str, Any], last_step: int) -> dict[str, Any] | None:
    """The summary in `output` where the same run was brought to its last step before, else None."""
    path = output / "pretraining.json"
    if not path.exists() or not (output / WEIGHTS).exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = all(result.get(name) == value for name, value in requested.items())
    return result if same and result["steps"] == last_step else None


def replace_file(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write safetensors so that no half-written file is ever read."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        save_file(tensors, unfinished, metadata=metadata)
    except SafetensorError as error:  # a full disk, say
        unfinished.unlink(missing_ok=True)
        raise ValueError(f"{path}: cannot be written: {error}") from error
    os.replace(unfinished, path)
