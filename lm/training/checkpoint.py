"""Checkpoints of a run: written whole or not at all, read back or refused with one line.

step-000100/ holds a model directory (config.json, model.safetensors, the vocabulary), optimisers.pt (their states,
torch's generators, and adapters) and state.json (settings, place in the data, best score, commit). It is the same for
any number of processes, sharded or not.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lm.model import Model, replace
from shards.vocabulary import Vocabulary

CHECKPOINTS = "step-[0-9]*"
MUST_AGREE = (
    "preset", "shape", "mixture", "strategy", "lanes", "sequence_length", "batch_tokens", "optimiser", "seed",
    "lora_rank", "lora_alpha", "lora_targets",
)  # fmt: skip


def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint; a folder of that name is always complete."""
    return max(output.glob(CHECKPOINTS), key=lambda path: int(path.name[5:]), default=None)


def save_model(directory: Path, model: Model, vocabulary: Vocabulary, rank: int) -> None:
    """Write a model directory with the vocabulary that goes with it; all processes call it, the first one writes."""
    weights = model.weights(keep=rank == 0)
    if rank:
        return
    ids = {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos}
    model.save_pretrained(directory, weights=weights, vocabulary_hash=vocabulary.hash, **ids)
    vocabulary.save(directory)


def save_checkpoint(
    output: Path,
    model: Model,
    vocabulary: Vocabulary,
    optimisers: list[tuple[torch.optim.Optimizer, float]],
    settings: Mapping[str, Any],
    facts: dict[str, Any],
    generators: list[Any],
    rank: int,
) -> None:
    """Write step-000100/ under another name, rename it, then drop the oldest beyond `keep`."""
    final = output / f"step-{facts['step']:06d}"
    temporary = output / f".{final.name}.tmp"
    states = [optimiser_state(optimiser) for optimiser, _ in optimisers]
    trained = {name: whole(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
    if len(trained) == len(list(model.parameters())):
        trained = {}  # else adapters, which the model directory holds merged only
    facts = facts | {"settings": dict(settings), "vocabulary_hash": vocabulary.hash, "commit": commit()}
    if rank:  # only the first process touches the disk; the others lend it their shards
        save_model(temporary, model, vocabulary, rank)
        return
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with saving(final):
            save_model(temporary, model, vocabulary, rank)
            held = {"optimisers": states, "generators": generators, "trained": trained}
            torch.save(held, temporary / "optimisers.pt")
            replace(temporary / "state.json", json.dumps(facts).encode())
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in sorted(output.glob(CHECKPOINTS), key=lambda path: int(path.name[5:]))[: -settings["keep"]]:
        shutil.rmtree(old)


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Where a write fails, say what could not be saved, and from where one can go on."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save on a full disk raises the second
        last = last_checkpoint(path.parent)
        raise ValueError(
            f"{path}: cannot be written ({error}); the last good checkpoint is {last}"
        ) from error


def whole(tensor: Any) -> Any:
    """A tensor that is sharded over processes, put together; anything else as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """A state that any number of processes can go on from."""
    state = optimiser.state_dict()
    moments = {i: {name: whole(value) for name, value in own.items()} for i, own in state["state"].items()}
    return {"state": moments, "param_groups": state["param_groups"]}


def generator_states() -> list[Tensor]:
    """Where torch's generators stand: the CPU's, and the GPU's if there is one."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])


def read_state(checkpoint: Path, settings: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """What a checkpoint says of its run, refused when another run is asked for."""
    try:
        state = json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{checkpoint / 'state.json'}: cannot be read ({error}); remove {checkpoint}"
        ) from error
    asked = json.loads(json.dumps(dict(settings)))
    for name in (*MUST_AGREE, *(["start_from"] if asked["lora_rank"] else [])):
        if state["settings"].get(name) != asked[name]:
            raise ValueError(
                f"train.{name}: {checkpoint} was trained with {state['settings'].get(name)!r}, got {asked[name]!r}; "
                f"resume with the old value or train into another folder"
            )
    if state["vocabulary_hash"] != vocabulary.hash:
        raise ValueError(
            f"{checkpoint}: was trained with vocabulary {state['vocabulary_hash'][:12]}, "
            f"the build has {vocabulary.hash[:12]}; train into another folder"
        )
    return state


def restore(
    checkpoint: Path, model: Model, optimisers: list[tuple[torch.optim.Optimizer, float]], rank: int
) -> None:
    """Put optimisers, adapters and torch's generator back to where the checkpoint left them."""
    path = checkpoint / "optimisers.pt"
    try:
        states = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch.load raises several kinds for a damaged file
        raise ValueError(
            f"{path}: missing or damaged ({type(error).__name__}); remove {checkpoint}"
        ) from error

    def placed(value: Tensor, parameter: Tensor) -> Tensor:  # as the parameter lies over the processes
        if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
            return value
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in states["trained"].items():
            parameters[name].copy_(placed(value.to(parameters[name].device), parameters[name]))
    for (optimiser, _), state in zip(optimisers, states["optimisers"], strict=True):
        optimiser.load_state_dict(state)
        for parameter, own in optimiser.state.items():
            for name, value in own.items():
                own[name] = placed(value, parameter)
    own = states["generators"][rank % len(states["generators"])]
    torch.set_rng_state(own[0])
    if torch.cuda.is_available() and len(own) > 1:
        torch.cuda.set_rng_state(own[1])


def commit() -> str | None:
    """The commit of the code that runs, if it runs from a repository."""
    here = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None
