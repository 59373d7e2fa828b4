"""Checkpoints of a run: complete or absent, and read back exactly or refused with one line.

step-000100/ is a model directory (config.json, model.safetensors, the vocabulary) with training.safetensors (moments of
the optimisers, adapters) and state.json (settings, position in the data, generators, best score, commit). A sharded run
writes shards/*.safetensors in place of both files, each process its own part, while training continues. Either kind is
read back by any number of processes, sharded or not, and `wordweave export-model` converts it. Nothing is unpickled.
"""

import base64
import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, distributed
from torch.distributed.checkpoint import (
    CheckpointException,
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
    async_save,
    load,
)
from torch.distributed.tensor import DTensor

from corpus import files
from corpus.provenance import commit
from lm.lora import Adapted
from lm.model import SHARDS, Model, check_complete, check_tensor, write_config, write_weights
from lm.training.muon import Muon
from shards.vocabulary import Vocabulary

CHECKPOINTS = "step-[0-9]*"
STATE, TENSORS = "state.json", "training.safetensors"
MUST_AGREE = (
    "preset", "shape", "mixture", "strategy", "sequence_length", "batch_tokens", "lanes", "optimiser", "seed",
    "lora_rank", "lora_alpha", "lora_targets",
)  # fmt: skip
Optimisers = list[tuple[torch.optim.Optimizer, float]]


def checkpoints(output: Path) -> list[Path]:
    """All complete checkpoints of a run, the oldest first; behind a URL state.json is written last."""
    paths = [path for path in output.glob(CHECKPOINTS) if (path / STATE).exists() or not files.is_url(path)]
    return sorted(paths, key=lambda path: int(path.name[5:]))


def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint."""
    return next(reversed(checkpoints(output)), None)


def save_model(directory: Path, model: Model, vocabulary: Vocabulary, rank: int) -> None:
    """Write a model directory with its vocabulary; all processes call it, the first one writes."""
    weights = model.weights(keep=rank == 0)
    if rank == 0:
        write_weights(directory, weights)
        write_description(directory, model, vocabulary)


def write_description(directory: Path, model: Model, vocabulary: Vocabulary) -> None:
    """Write all of a model directory but its weights."""
    ids = {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos}
    write_config(directory, model.settings, vocabulary_hash=vocabulary.hash, **ids)
    vocabulary.save(directory)


class CheckpointWriter:
    """Writes the checkpoints of a run under another name, renames them, and removes the oldest beyond `keep`.

    Behind a URL a checkpoint is complete with its state.json, which is uploaded last. All processes call all methods.
    """

    def __init__(self, output: Path, vocabulary: Vocabulary, settings: Mapping[str, Any], rank: int):
        self.output, self.vocabulary, self.settings, self.rank = output, vocabulary, settings, rank
        self._pending: tuple[Future, Path, Path, bytes] | None = None
        self._group: Any = None  # of background saves: their messages must not mix with those of training

    def save(
        self, model: Model, optimisers: Optimisers, facts: dict[str, Any], generators: list[list[str]]
    ) -> None:
        """Write a checkpoint; a sharded one is complete after `finish`, or before the next one is written."""
        self.finish()
        final = self.output / f"step-{facts['step']:06d}"
        sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        if not sharded and self.rank:
            return
        temporary = files.unfinished_name(final)
        if files.is_url(self.output):
            temporary = Path(tempfile.mkdtemp(prefix="wordweave-checkpoint-")) / final.name
        tensors = training_tensors(model, optimisers, facts["step"])
        adapted = any(isinstance(module, Adapted) for module in model.modules())
        facts = facts | {
            "generators": generators, "settings": dict(self.settings), "vocabulary_hash": self.vocabulary.hash,
            "commit": commit(),
        }  # fmt: skip
        state = json.dumps(facts).encode()
        if self.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            if files.is_url(final):
                files.remove_folder(final)
        with saving(final, temporary):
            if not sharded:
                save_model(temporary, model, self.vocabulary, self.rank)
                whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
                write_weights(temporary, whole, TENSORS)
                self._publish(temporary, final, state)
                return
            distributed.barrier()  # nobody writes before the first process has cleaned up
            if adapted:  # adapters are merged into whole matrices
                save_model(temporary, model, self.vocabulary, self.rank)
            else:
                if self.rank == 0:
                    write_description(temporary, model, self.vocabulary)
                tensors |= model.own_state()
            self._group = self._group or distributed.new_group(backend="gloo")
            writer = HuggingFaceStorageWriter(str(temporary / SHARDS), save_distributed=True)
            future: Any = async_save(tensors, storage_writer=writer, process_group=self._group)
            self._pending = future, temporary, final, state

    def finish(self) -> None:
        """Wait for a checkpoint that is written in the background, and publish it."""
        if self._pending is None:
            return
        future, temporary, final, state = self._pending
        self._pending = None
        with saving(final, temporary):
            future.result()
            if files.is_url(final) and self.rank:
                upload(temporary / SHARDS, final / SHARDS)
            distributed.barrier(self._group)  # state.json comes after all shards
            if self.rank == 0:
                self._publish(temporary, final, state)

    def _publish(self, temporary: Path, final: Path, state: bytes) -> None:
        """Give a complete checkpoint its name, and remove the oldest ones."""
        if files.is_url(final):
            upload(temporary, final)
            files.write(final / STATE, state)
            shutil.rmtree(temporary.parent)
        else:
            files.write(temporary / STATE, state)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
        for old in checkpoints(self.output)[: -self.settings["keep"]]:
            files.remove_folder(old)


def upload(folder: Path, target: Path) -> None:
    """Copy a local folder behind a URL."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            destination: Any = target / path.relative_to(folder).as_posix()
            destination.fs.put_file(str(path), destination.path)


@contextmanager
def saving(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """If a write fails, name what could not be saved and the checkpoint to continue from, and leave nothing behind."""
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as failure:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        error = first_failure(failure)
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        if getattr(error, "errno", None) == errno.ENOSPC and "disk of" not in reason:
            reason = f"the disk of {path.parent} is full"
        raise ValueError(
            f"{path}: cannot be written ({reason}); the last good checkpoint is {last_checkpoint(path.parent)}"
        ) from failure


def first_failure(error: BaseException) -> BaseException:
    """The reason behind an error of torch's distributed checkpoints, which is no Exception itself."""
    failures = list(error.failures.values()) if isinstance(error, CheckpointException) else []
    return failures[0][0] if failures else error


def training_tensors(model: Model, optimisers: Optimisers, step: int) -> dict[str, Tensor]:
    """The tensors of a run that are not the model's: moments of the optimisers, by parameter, and adapters.

    An optimiser that has not stepped yet gets empty moments, to be read into, and the number of its steps.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for optimiser, _ in optimisers:
        kinds = ("momentum_buffer",) if isinstance(optimiser, Muon) else ("exp_avg", "exp_avg_sq")
        for parameter in (p for group in optimiser.param_groups for p in group["params"]):
            own = optimiser.state[parameter]
            if not own:
                own |= {kind: torch.zeros_like(parameter) for kind in kinds}
                if not isinstance(optimiser, Muon):
                    own["step"] = torch.tensor(float(step), device=parameter.device)
            tensors |= {f"optimiser.{names[id(parameter)]}.{kind}": own[kind] for kind in kinds}
    trained = {
        name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if len(trained) < len(names):  # adapters, which the model directory holds only merged
        tensors |= {f"adapter.{name}": parameter for name, parameter in trained.items()}
    return tensors


def read_state(checkpoint: Path, settings: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The state of a checkpoint, refused if it belongs to another run."""
    if (checkpoint / "optimisers.pt").exists():
        raise ValueError(
            f"{checkpoint}: was written by an earlier version (optimisers.pt) and cannot be resumed; "
            f"train into another folder with start_from = {str(checkpoint)!r}"
        )
    try:
        state = files.read_record(
            checkpoint / STATE, "settings", "vocabulary_hash", "generators", "loader", "step"
        )
    except ValueError as error:
        raise ValueError(f"{error}; remove {checkpoint}") from error
    own = json.loads(json.dumps(dict(settings)))
    for name in (*MUST_AGREE, *(["start_from"] if own["lora_rank"] else [])):
        if state["settings"].get(name) != own[name]:
            raise ValueError(
                f"train.{name}: {checkpoint} was trained with {state['settings'].get(name)!r}, got {own[name]!r}; "
                f"resume with the old value or train into another folder"
            )
    if state["vocabulary_hash"] != vocabulary.hash:
        raise ValueError(
            f"{checkpoint}: was trained with vocabulary {state['vocabulary_hash'][:12]}, "
            f"the build has {vocabulary.hash[:12]}; train into another folder"
        )
    return state


def restore(
    checkpoint: Path, state: Mapping[str, Any], model: Model, optimisers: Optimisers, rank: int
) -> None:
    """Read optimisers, adapters and torch's generators back from a checkpoint."""
    folder = checkpoint / SHARDS if (checkpoint / SHARDS).exists() else checkpoint
    tensors = training_tensors(model, optimisers, state["step"])
    try:
        with torch.no_grad():
            read_into(tensors, HuggingFaceStorageReader(str(local_copy(folder))))
    except (Exception, CheckpointException) as error:  # torch raises several kinds for a damaged file
        path = folder / (TENSORS if folder == checkpoint else "*.safetensors")
        reason = type(first_failure(error)).__name__
        raise ValueError(f"{path}: missing or damaged ({reason}); remove {checkpoint}") from error
    own = [torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
           for text in state["generators"][rank % len(state["generators"])]]  # fmt: skip
    torch.set_rng_state(own[0])
    if torch.cuda.is_available() and len(own) > 1:
        torch.cuda.set_rng_state(own[1])


def load_sharded(model: Model, directory: Path) -> None:
    """Read weights into a model that is sharded over processes; each reads only its own part.

    Raises:
        ValueError: as `Model.from_pretrained`.
    """
    whole = (directory / "model.safetensors").exists() or not (directory / SHARDS).exists()
    folder = directory if whole else directory / SHARDS
    expected = {name: tensor for name, tensor in model.own_state().items() if ".lora_" not in name}
    try:
        reader = HuggingFaceStorageReader(str(local_copy(folder)))
        stored: dict[str, Any] = reader.read_metadata().state_dict_metadata
        for name, entry in stored.items():
            check_tensor(folder, name, tuple(entry.size), expected)
        check_complete(folder, expected, stored)
        read_into(expected, reader)
    except (SafetensorError, OSError, CheckpointException) as error:
        raise ValueError(f"{folder}: missing or damaged weights ({first_failure(error)})") from error


def read_into(tensors: Mapping[str, Tensor], reader: HuggingFaceStorageReader) -> None:
    """Read tensors in place; of a sharded one this process reads its own part."""
    with warnings.catch_warnings(action="ignore"):  # that it works without other processes
        load(dict(tensors), storage_reader=reader, no_dist=True)


def local_copy(folder: Path) -> Path:
    """A folder with the safetensors files of another one; those behind a URL are copied first."""
    if not files.is_url(folder):
        return folder
    copies = Path(tempfile.mkdtemp(prefix="wordweave-weights-"))
    for path in folder.glob("*.safetensors"):
        os.symlink(files.local(path), copies / path.name)
    return copies


def generator_states() -> list[str]:
    """The states of torch's generators in base64: the CPU's, and the GPU's if there is one."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])
    return [base64.b64encode(state.numpy().tobytes()).decode() for state in states]
