"""Train a model on a build's shards: next-token prediction over text, speech and interleaved sequences.

`train` reads from top to bottom: data, model, one loop, results. Under `torchrun --nproc-per-node N -m wordweave train
...` it trains with N processes; the order of sequences, and so the run, is the same for every N.

An output folder, local or a URL, holds settings.json, log.jsonl (a line every few steps), step-000100/ (a checkpoint,
which is also a model directory), best/ (the model with the lowest held-out loss so far), summary.json and loss.png.
"""

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from corpus import files
from corpus.prefetch import prefetch
from corpus.toml import one_of
from lm.lora import TARGETS, adapt, initialise_adapters
from lm.model import IGNORE, Model, flops_per_token, preset, read_settings
from lm.training.checkpoint import (
    CheckpointWriter,
    checkpoints,
    generator_states,
    last_checkpoint,
    load_sharded,
    read_state,
    restore,
    save_model,
    saving,
)
from lm.training.distributed import all_gather, all_reduce_sum, full_tensor, shutdown, start
from lm.training.held_out import evaluate, mean_loss, mix_ngrams, prepare, sentence
from lm.training.muon import Muon
from lm.training.plots import plot_loss, tensorboard_writer
from shards.read import Stream, open_stream
from shards.samples import read_documents
from shards.vocabulary import KINDS, Vocabulary

STREAMS = ("text", "speech", "interleaved")
CHOICES = {
    "optimiser": ("muon", "adamw"),
    "schedule": ("constant", "cosine", "wsd"),
    "sharding": ("replicate", "shard"),
}


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides a run. Lengths and budgets count tokens.

    The defaults are for a small model on a few hours of speech. config/lm/small_corpus.toml has lower rates and more
    regularisation for half an hour, which a model soon memorises; large models need lower rates and no dropout
    (config/lm/llama2_7b.toml).
    """

    build: str
    output: str
    preset: str = "nano"
    shape: Mapping[str, Any] = field(default_factory=dict)  # changes to the preset, as in config.json
    start_from: str | None = None  # a model directory to continue from, instead of a preset
    mixture: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STREAMS, 1 / 3))
    strategy: str | None = None  # how to sample interleavings; None: as in the build
    sequence_length: int = 512
    batch_tokens: int = 4096  # per step, over all processes
    micro_batch: int = 8  # sequences at a time on one device
    tokens: int = 1_000_000  # the budget; schedules run over it
    minutes: float | None = None  # time limit
    optimiser: str = "muon"  # or adamw; muon is for the layers' matrices, AdamW for everything else in both
    learning_rate: float = 5e-3
    matrix_learning_rate: float = 0.025  # muon's
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    schedule: str = "cosine"  # or constant, or wsd: warm up, stay, decay
    warmup: float = 0.02  # part of the budget
    decay: float = 0.2  # part of the budget, of wsd
    last_rate: float = 0.1  # part of the full learning rate, at the end of cosine and wsd
    clip: float = 1.0  # largest norm of the gradient
    dropout: float = 0.2
    lora_rank: int = (
        0  # of adapters of the layers' matrices, which are then frozen (needs start_from); 0: train all
    )
    lora_alpha: float = 16.0  # adapters are scaled by alpha / rank
    lora_targets: tuple[str, ...] = TARGETS
    chunk: int = 0  # positions at a time in the loss; 0: as many as have 512 MB of logits
    recompute: bool = False  # activation checkpointing
    compile: bool = False
    sharding: str = "replicate"  # over processes: DDP; or shard: FSDP2, for models larger than a device
    lanes: int = 64  # of the data order; the number of processes must divide it
    seed: int = 0
    log_every: int = 10  # steps
    evaluate_every: int = 25
    evaluate_tokens: int = 20_000  # of each stream, at most
    save_every: int = 200
    keep: int = 2  # checkpoints
    best_minutes: float = 0.0  # write best/ at most this often: a large model takes long to gather and write
    patience: int = 10  # stop after this many evaluations without a lower loss; 0: never
    tensorboard: bool = False  # write the log for TensorBoard too
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        counts = "sequence_length micro_batch tokens log_every evaluate_every evaluate_tokens save_every keep lanes"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}: need at least 1, got {getattr(self, name)}")
        for name, known in CHOICES.items():
            one_of(f"train.{name}", getattr(self, name), known)
        for name in (
            "learning_rate",
            "matrix_learning_rate",
            "weight_decay",
            "clip",
            "dropout",
            "best_minutes",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"train.{name}: need a finite number >= 0, got {getattr(self, name)}")
        if self.dropout >= 1:
            raise ValueError(f"train.dropout: need less than 1, got {self.dropout}")
        if self.batch_tokens < 1 or self.batch_tokens % self.sequence_length:
            raise ValueError(
                f"train.batch_tokens: need a multiple of sequence_length {self.sequence_length}, "
                f"got {self.batch_tokens}"
            )
        if self.lora_rank < 0 or (self.lora_rank and not (self.start_from and self.lora_alpha > 0)):
            raise ValueError(
                f"train.lora_rank: need at least 0, and above 0 a model to adapt (start_from) and lora_alpha > 0, "
                f"got {self.lora_rank}, {self.start_from} and {self.lora_alpha}"
            )
        if not self.lora_targets or set(self.lora_targets) - set(TARGETS):
            raise ValueError(
                f"train.lora_targets: need some of {', '.join(TARGETS)}, got {list(self.lora_targets)}"
            )
        if self.sharding == "shard" and self.optimiser == "muon":
            raise ValueError('train.sharding: muon needs whole matrices; use optimiser = "adamw" with shard')
        unknown = sorted(set(self.mixture) - set(STREAMS))
        weights = list(self.mixture.values())
        if unknown or not weights or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ValueError(
                f"train.mixture: need weights >= 0 of {', '.join(STREAMS)}, not all 0, got {dict(self.mixture)}"
            )


def train(
    settings: TrainSettings, *, resume: bool = False, progress: Callable[[dict], None] | None = None
) -> dict[str, Any]:
    """Train, and return the content of summary.json.

    Args:
        resume: continue from the output folder's last checkpoint (start afresh if there is none). On a CPU the result
            is that of an uninterrupted run, to the bit.
        progress: called with every line of the log.

    Raises:
        ValueError: settings, build, start model and checkpoint do not match, or the loss is no longer finite; one line
            that names the thing and what to do.
    """
    rank, world, device = start(settings.device, settings.threads)
    started, output = time.monotonic(), files.to_path(settings.output)
    sequences = settings.batch_tokens // settings.sequence_length
    if sequences % world:
        divisors = ", ".join(str(n) for n in range(1, sequences + 1) if sequences % n == 0)
        raise ValueError(
            f"train.batch_tokens: a step has {sequences} sequences; need a number of processes that divides them "
            f"({divisors}), got {world}"
        )
    if settings.compile and device.type == "cpu":
        raise ValueError("train.compile: needs a GPU; a CPU would compile every mix of document lengths anew")
    torch.manual_seed(settings.seed)

    # The data.
    vocabulary = Vocabulary.load(files.join_path(settings.build, "shards"))
    mixture = {name: settings.mixture[name] for name in STREAMS if settings.mixture.get(name, 0) > 0}
    checkpoint = last_checkpoint(output) if resume else None
    state = read_state(checkpoint, asdict(settings), vocabulary) if checkpoint else None
    stream = open_stream(
        settings.build,
        mixture,
        seed=settings.seed,
        sequence_length=settings.sequence_length,
        rank=rank,
        world_size=world,
        strategy=settings.strategy,
        lanes=settings.lanes,
        state=state["loader"] if state else None,
    )
    ngrams = mix_ngrams(
        {name: read_documents(settings.build, name, "train") for name in mixture}, mixture, vocabulary.size
    )
    tests = [
        prepare(
            name,
            read_documents(settings.build, name, "valid"),
            read_documents(settings.build, name, "train"),
            vocabulary_size=vocabulary.size,
            sequence_length=settings.sequence_length,
            max_tokens=settings.evaluate_tokens,
            mixture=ngrams,
        )
        for name in mixture
    ]
    kind_of = torch.from_numpy(np.asarray(vocabulary.kind(np.arange(vocabulary.padded_size)))).to(device)

    # The model.
    sharded = settings.sharding == "shard" and world > 1
    model = make_model(settings, vocabulary, checkpoint, device, sharded=sharded)
    wrapped = DistributedDataParallel(model) if world > 1 and not sharded else model
    optimisers = make_optimisers(model, settings)
    step, tokens, waited = 0, 0, 0
    best: dict[str, Any] = {"loss": math.inf, "streams": {}}
    lowest = math.inf
    if checkpoint and state:
        step, tokens, best, waited, lowest = (
            state[name] for name in ("step", "tokens", "best", "waited", "lowest")
        )
        restore(checkpoint, state, model, optimisers, rank)
    else:
        torch.manual_seed(settings.seed + rank)  # dropout differs between processes
    log_file = start_output(output, settings, step) if rank == 0 else None
    writer = CheckpointWriter(output, vocabulary, asdict(settings), rank)
    board = tensorboard_writer(settings.output, step) if settings.tensorboard and rank == 0 else None
    chunk = settings.chunk or max(1, LOGIT_BYTES // (4 * vocabulary.padded_size))

    def autocast() -> Any:  # weights stay float32
        return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()

    def score() -> dict[str, Any]:
        model.eval()
        with torch.no_grad(), autocast():
            sizes = {"rows": settings.micro_batch, "chunk": chunk, "rank": rank, "world": world}
            result = {test.stream: evaluate(model, test, kind_of, **sizes) for test in tests}
        model.train()
        return result

    def log(line: dict[str, Any]) -> None:
        if log_file:
            log_file.add(line)
            if board:
                board(line)
            if progress:
                progress(line)

    # The loop.
    model.train()
    meter, meter_tokens, meter_start = LossMeter(tuple(mixture), device), 0, time.monotonic()
    stopped, best_written = "tokens", -math.inf
    scores: dict[str, Any] = {}
    # the state of the stream comes with each batch: the thread that reads is ahead of the training
    reading = ((read_batch(stream, sequences // world, device), stream.state()) for _ in count())
    batches = prefetch(reading, depth=2)
    while tokens < settings.tokens:
        rate = learning_rate(tokens / settings.tokens, settings)
        for optimiser, full in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * full
        batch, loader_state = next(batches)
        late = settings.minutes is not None and time.monotonic() - started > settings.minutes * 60
        predicted, late_anywhere = all_reduce_sum(
            torch.tensor([(batch.targets != IGNORE).sum(), late], device=device)
        )
        step_loss = torch.zeros((), device=device)
        micros = list(batch.split(settings.micro_batch))
        for number, micro in enumerate(micros):
            last = number == len(micros) - 1  # gradients are exchanged once per step
            if sharded:
                model.set_requires_gradient_sync(last)  # type: ignore[operator]
            else:
                wrapped.require_backward_grad_sync = last
            with autocast():
                inputs = (micro.tokens, micro.positions, micro.documents)
                losses = wrapped(*inputs, targets=micro.targets, chunk=chunk)
            # every predicted token of the step has the same weight, on any process; DDP averages, so times world
            loss = losses.sum() / predicted.clamp(min=1)
            (loss * world).backward()
            step_loss += loss.detach()
            meter.add(losses.detach(), micro, kind_of)
        norm = full_tensor(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip))
        step_loss = all_reduce_sum(step_loss)
        if not torch.isfinite(step_loss + norm):
            writer.finish()
            raise dump_bad_batch(output, step, float(step_loss), float(norm), batch, rank)
        for optimiser, _ in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + settings.batch_tokens
        meter_tokens += settings.batch_tokens

        over = tokens >= settings.tokens or bool(late_anywhere)
        if step % settings.evaluate_every == 0 or over:
            scores = score()
            mean = mean_loss(scores, mixture)
            waited = 0 if mean < lowest else waited + 1
            lowest = min(mean, lowest)
            over = over or bool(settings.patience and waited >= settings.patience)
            due = time.monotonic() - best_written >= settings.best_minutes * 60
            if mean < best["loss"] and (all_gather(due)[0] or over):  # the first process's clock decides
                best = {"step": step, "tokens": tokens, "loss": mean, "streams": scores}
                with saving(output / "best"):
                    save_model(output / "best", model, vocabulary, rank)
                best_written = time.monotonic()
            log({"step": step, "tokens": tokens, "held_out": scores, "held_out_loss": mean})
        save_due = step % settings.save_every == 0 or over
        if step % settings.log_every == 0 or save_due:  # before a save always: a resumed log is then the same
            seconds = time.monotonic() - meter_start
            line = {"step": step, "tokens": tokens, **meter.report(), "rate": rate, "norm": float(norm)}
            log(line | speed(meter_tokens / max(seconds, 1e-9), model, device, world))
            meter, meter_tokens, meter_start = LossMeter(tuple(mixture), device), 0, time.monotonic()
        if save_due:
            loader, generators = all_gather(loader_state), all_gather(generator_states())
            facts = {"step": step, "tokens": tokens, "best": best, "waited": waited, "lowest": lowest}
            writer.save(model, optimisers, facts | {"loader": loader}, generators)
            if log_file:
                log_file.flush()
        if over:
            if tokens < settings.tokens:
                stopped = "minutes" if late_anywhere else "patience"
            break
    batches.close()
    writer.finish()

    # The results.
    scores = scores or score()  # a finished run, resumed
    summary = {
        "stopped": stopped,
        "step": step,
        "tokens": tokens,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": (time.monotonic() - started) / 60,
        "final": {"loss": mean_loss(scores, mixture), "streams": scores},
        "best": best,
        "model": str(output / "best"),
        "sentences": [sentence(name, values) for name, values in best["streams"].items()],
        "vocabulary_hash": vocabulary.hash,
    }
    if log_file:
        log_file.flush()
        files.write(output / "summary.json", json.dumps(summary, indent=2).encode())
        plot_loss(output)
    # The wrapper goes before the process group: as the group's last owner it would end it while holding Python's lock,
    # which a thread of gloo may be waiting for.
    del wrapped
    shutdown()
    return summary


LOGIT_BYTES = 512 * 2**20
"""Of the float32 logits that the loss computes at a time, where `chunk` is not set."""


def make_model(
    settings: TrainSettings,
    vocabulary: Vocabulary,
    checkpoint: Path | None,
    device: torch.device,
    *,
    sharded: bool,
) -> Model:
    """The model of a run: from its checkpoint, from the model it starts from, or initialised.

    A sharded one is made without memory for its weights, distributed, and then filled: no process ever holds it whole.
    """
    source = settings.start_from if settings.lora_rank else checkpoint or settings.start_from
    directory = files.to_path(source) if source else None
    options: dict[str, Any] = {"dropout": settings.dropout, "recompute": settings.recompute}
    if sharded or not directory:
        shape = (
            read_settings(directory, vocabulary)
            if directory
            else preset(settings.preset, vocabulary.padded_size, **settings.shape)
        )
        with torch.device("meta" if sharded else "cpu"):
            model = Model(shape, **options)
    else:
        model = Model.from_pretrained(directory, vocabulary=vocabulary, device=device, **options)
    model = model if sharded else model.to(device)
    if settings.lora_rank:
        s = settings
        adapt(model.model.layers, rank=s.lora_rank, alpha=s.lora_alpha, targets=s.lora_targets)
    if settings.compile:
        model.compile_parts()
    if sharded:
        half: Any = (
            {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if device.type == "cuda" else {}
        )
        for layer in (*model.model.layers, model):
            fully_shard(layer, mp_policy=MixedPrecisionPolicy(**half))
        model.to_empty(device=device)
        model.tie()
        if directory:
            load_sharded(model, directory)
        else:
            model.initialise()
        initialise_adapters(model)
    return model


@dataclass(frozen=True)
class Batch:
    """Packed sequences of one process and step, each field (B, L) int64 on the device."""

    tokens: Tensor
    positions: Tensor
    documents: Tensor
    streams: Tensor
    targets: Tensor
    keys: list[list[tuple[str, str]]] = field(default_factory=list, kw_only=True)  # each row's documents

    def split(self, size: int) -> Iterator["Batch"]:
        names = ("tokens", "positions", "documents", "streams", "targets")
        parts = [getattr(self, name).split(size) for name in names]
        return (Batch(*part) for part in zip(*parts, strict=True))


def read_batch(stream: Stream, sequences: int, device: torch.device) -> Batch:
    """The next sequences of the stream; a target is the next token of the same document, else IGNORE."""
    packed, keys = [], []
    for _ in range(sequences):
        packed.append(next(stream))
        keys.append(list(stream.keys))
    tokens, positions, documents, streams = (
        np.stack([getattr(row, name) for row in packed]).astype(np.int64)
        for name in ("tokens", "positions", "documents", "streams")
    )
    targets = np.full_like(tokens, IGNORE)
    inside = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
    targets[:, :-1][inside] = tokens[:, 1:][inside]
    arrays = (tokens, positions, documents, streams, targets)
    return Batch(*(to_device(torch.from_numpy(array), device) for array in arrays), keys=keys)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device; to a GPU through pinned memory, so that the copy overlaps with computation."""
    if device.type != "cuda":
        return tensor.to(device)
    with torch.cuda.device(device):  # a new thread starts at the first GPU
        return tensor.pin_memory().to(device, non_blocking=True)


class LossMeter:
    """Losses summed over predicted tokens, per kind of token, per stream, and for first tokens after a marker."""

    def __init__(self, streams: tuple[str, ...], device: torch.device):
        self.streams, self.names = streams, (*KINDS, "after_switch", *streams)
        self.sums = torch.zeros(2, len(self.names), dtype=torch.float64, device=device)  # nats, tokens

    def add(self, losses: Tensor, batch: Batch, kind_of: Tensor) -> None:
        predicted = batch.targets != IGNORE
        loss = losses[predicted].double()
        kind = kind_of[batch.targets[predicted]].long()
        after = kind_of[batch.tokens[predicted]] == KINDS.index("marker")
        groups = (
            (kind, loss),
            (torch.full_like(kind, len(KINDS))[after], loss[after]),
            (batch.streams[predicted] + len(KINDS) + 1, loss),
        )
        for group, values in groups:
            self.sums[0] += torch.bincount(group, values, minlength=len(self.names))
            self.sums[1] += torch.bincount(group, minlength=len(self.names))

    def report(self) -> dict[str, Any]:
        """Loss, losses per kind and stream in nats per token, and the share of each stream in the predicted tokens."""
        nats, tokens = all_reduce_sum(self.sums.clone()).tolist()
        mean = {name: n / t for name, n, t in zip(self.names, nats, tokens, strict=True) if t}
        seen = dict(zip(self.names, tokens, strict=True))
        total = sum(seen[name] for name in self.streams)
        return {
            "loss": sum(nats[-len(self.streams) :]) / max(total, 1),
            "kinds": {name: mean[name] for name in (*KINDS, "after_switch") if name in mean},
            "streams": {name: mean[name] for name in self.streams if name in mean},
            "mixture": {name: seen[name] / max(total, 1) for name in self.streams},
        }


PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 operations per second by the vendor's data sheets, by a part of the device's name."""


def speed(tokens_per_second: float, model: Model, device: torch.device, world: int) -> dict[str, float]:
    """Tokens per second and, on a known GPU, MFU: flops_per_token x tokens per second / (PEAK x devices).

    Attention is left out, because packed documents skip most of it: a lower bound.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peaks = [peak * world for part, peak in PEAK.items() if part in name]
    mfu = {"mfu": flops_per_token(model.settings, 0) * tokens_per_second / peaks[0]} if peaks else {}
    return {"tokens_per_second": tokens_per_second, **mfu}


def learning_rate(done: float, settings: TrainSettings) -> float:
    """The factor of the learning rate when the share `done` of the budget is spent.

    >>> wsd = TrainSettings("build", "run", schedule="wsd", warmup=0.1, decay=0.2, last_rate=0.0)
    >>> [round(learning_rate(done, wsd), 3) for done in (0.0, 0.05, 0.5, 0.9)]
    [0.001, 0.5, 1.0, 0.5]
    """
    s = settings
    if done < s.warmup:
        return max(done / s.warmup, 1e-3)
    if s.schedule == "cosine":
        fall = (1 - math.cos(math.pi * (done - s.warmup) / (1 - s.warmup))) / 2
    elif s.schedule == "wsd":
        fall = max(0.0, (done - (1 - s.decay)) / s.decay)
    else:
        fall = 0.0
    return 1 - (1 - s.last_rate) * fall


def make_optimisers(model: Model, settings: TrainSettings) -> list[tuple[torch.optim.Optimizer, float]]:
    """Optimisers with their full learning rates: Muon for the layers' matrices if selected, AdamW for everything else.

    Norms and biases do not decay. Adapters are trained by AdamW: Muon is for whole matrices.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [p for name, p in named.items() if p.ndim == 2 and ".layers." in name]
    if settings.optimiser == "adamw" or settings.lora_rank:
        matrices = []
    chosen = {id(p) for p in matrices}
    rest = [p for p in named.values() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim == 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim != 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
    result: list[tuple[torch.optim.Optimizer, float]] = [(adamw, settings.learning_rate)]
    if matrices:
        rate = settings.matrix_learning_rate
        result.append((Muon(matrices, lr=rate, weight_decay=settings.weight_decay), rate))
    return result


class LogFile:
    """log.jsonl of a run. A local one grows line by line; one behind a URL is written anew at every `flush`."""

    def __init__(self, path: Path, step: int):
        """Keep the lines of an earlier log up to `step`."""
        self.path = path
        old = files.read(path).decode().splitlines(keepends=True) if step and path.exists() else []
        self.lines = [line for line in old if line.endswith("\n") and json.loads(line)["step"] <= step]
        files.write(path, "".join(self.lines).encode())

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(json.dumps(line) + "\n")
        if not files.is_url(self.path):
            with open(self.path, "a") as file:
                file.write(self.lines[-1])

    def flush(self) -> None:
        if files.is_url(self.path):
            files.write(self.path, "".join(self.lines).encode())


def start_output(output: Path, settings: TrainSettings, step: int) -> LogFile:
    """Write settings.json and start the log; a new run removes the checkpoints of an earlier one."""
    if not step:
        for old in checkpoints(output):
            files.remove_folder(old)
    files.write(output / "settings.json", json.dumps(asdict(settings), indent=2).encode())
    return LogFile(output / "log.jsonl", step)


def dump_bad_batch(output: Path, step: int, loss: float, norm: float, batch: Batch, rank: int) -> ValueError:
    """Write the tokens and document ids of a batch whose loss or gradient is not finite; returns the error."""
    path = output / f"bad-batch-{step:06d}-{rank}.npy"
    content = io.BytesIO()
    np.save(content, batch.tokens.cpu().numpy(), allow_pickle=False)
    files.write(path, content.getvalue())
    rows = [[{"stream": stream, "id": key} for stream, key in row] for row in batch.keys]
    files.write(path.with_suffix(".json"), json.dumps({"step": step, "sequences": rows}, indent=1).encode())
    what = (
        f"the loss is {loss}"
        if not math.isfinite(loss)
        else f"the gradient norm is {norm}, the loss {loss:.3f}"
    )
    return ValueError(
        f"step {step}: {what}; tokens and documents of the batch are in {path} and .json, the last good checkpoint is "
        f"{last_checkpoint(output)}; lower the learning rates or raise warmup"
    )
