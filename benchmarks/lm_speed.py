"""Tokens per second of lm.training.train beside a `transformers` Trainer: same model, data, optimiser and threads, in
one run.

    python -m benchmarks.lm_speed BUILD [--threads 1] [--steps 30] [--rounds 2]

Needs `accelerate` (extra `dev`) for the Trainer. The Trainer gets sequences that are packed already and lie in memory,
ours reads them from the shards as it does in earnest. Both train `nano` in float32 with AdamW and no dropout.
`trainer` gives positions that start anew in every document, by which transformers keeps documents apart, as we do;
`trainer, no mask` lets them see each other, which is another and cheaper computation. Rounds alternate; the first 5
steps do not count.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from lm.model import Model, preset
from lm.training.train import STREAMS, TrainSettings, read_batch, train
from shards.read import open_stream
from shards.vocabulary import Vocabulary

LENGTH, SEQUENCES, SKIPPED = 512, 8, 5


class Clock:
    """Wall and CPU seconds at the end of every step."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.ticks.append((time.perf_counter(), time.process_time()))

    def rates(self) -> dict[str, float]:
        """Tokens per second after the skipped steps."""
        (wall, cpu), (wall_end, cpu_end) = self.ticks[SKIPPED - 1], self.ticks[-1]
        tokens = (len(self.ticks) - SKIPPED) * LENGTH * SEQUENCES
        return {"wall": tokens / (wall_end - wall), "cpu": tokens / (cpu_end - cpu)}


def ours(build: str, steps: int, threads: int) -> dict[str, float]:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(
            build, folder, optimiser="adamw", dropout=0.0, sequence_length=LENGTH, device="cpu", threads=threads,
            batch_tokens=LENGTH * SEQUENCES, tokens=LENGTH * SEQUENCES * (steps + 1), log_every=1,
            evaluate_every=10**9, save_every=10**9, evaluate_tokens=1000,
        )  # fmt: skip
        # the line of the last step follows evaluation and saving: it does not count
        train(settings, progress=lambda line: clock.tick() if line["step"] <= steps else None)
    return clock.rates()


def trainer(build: str, steps: int, threads: int, *, masked: bool) -> dict[str, float]:
    torch.set_num_threads(threads)
    vocabulary = Vocabulary.load(Path(build) / "shards")
    stream = open_stream(build, dict.fromkeys(STREAMS, 1 / 3), seed=0, sequence_length=LENGTH)
    batch = read_batch(stream, steps * SEQUENCES, torch.device("cpu"))
    labels = batch.tokens.clone()
    labels[batch.positions == 0] = -100  # transformers shifts them itself
    rows = [
        {"input_ids": batch.tokens[i], "labels": labels[i]}
        | ({"position_ids": batch.positions[i]} if masked else {})
        for i in range(len(labels))
    ]
    shape = preset("nano", vocabulary.padded_size)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_hidden_layers, num_attention_heads=shape.num_attention_heads,
            num_key_value_heads=shape.num_key_value_heads, use_cache=False,
        )
    )  # fmt: skip
    assert model.num_parameters() == sum(p.numel() for p in Model(shape).parameters())
    clock = Clock()

    class Tick(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=SEQUENCES, max_steps=steps, use_cpu=True, save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, optim="adamw_torch_fused", weight_decay=0.1,
            max_grad_norm=1.0, dataloader_pin_memory=False,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows, callbacks=[Tick()]).train()
    return clock.rates()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    common = (arguments.build, arguments.steps, arguments.threads)
    runs = {
        "wordweave": lambda: ours(*common),
        "trainer": lambda: trainer(*common, masked=True),
        "trainer, no mask": lambda: trainer(*common, masked=False),
    }
    rates: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            rates[name].append(run())
    median = {
        name: {clock: round(statistics.median(one[clock] for one in measured)) for clock in ("wall", "cpu")}
        for name, measured in rates.items()
    }
    ratios = {
        name: {clock: round(median["wordweave"][clock] / median[name][clock], 2) for clock in ("wall", "cpu")}
        for name in list(runs)[1:]
    }
    print(json.dumps({"threads": arguments.threads, "tokens_per_second": median, "ratio": ratios}))


if __name__ == "__main__":
    main()
