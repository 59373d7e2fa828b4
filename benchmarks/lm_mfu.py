"""Model FLOPs utilisation of a training step on a GPU.

    python -m benchmarks.lm_mfu [--preset 1b] [--length 4096] [--sequences 8] [--document 0] [--compile] [--recompute]

MFU = lm.model.flops_per_token x tokens per second / lm.training.train.PEAK of the device. Tokens are random; a sequence
is one document, or with --document 600 documents of 600 in the mean, whose attention then does not count, because most
of it is skipped. Weights are float32, products bfloat16, the optimiser is fused AdamW. The median of the steps after
the first 5 counts. On a CPU it gives tokens per second alone.
"""

import argparse
import json
import math
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch

from lm.model import PRESETS, Model, flops_per_token
from lm.model import preset as shape
from lm.training.train import PEAK, TrainSettings, make_optimisers

VOCABULARY, SKIPPED = 32_768, 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="1b", choices=list(PRESETS))
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--document", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunk", type=int, default=4096)
    parser.add_argument("--optimiser", default="adamw", choices=["adamw", "muon"])
    parser.add_argument("--compile", dest="compiled", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    print(json.dumps(measure(**vars(parser.parse_args()))))


def measure(
    preset: str = "1b",
    length: int = 4096,
    sequences: int = 8,
    document: int = 0,
    steps: int = 20,
    chunk: int = 4096,
    optimiser: str = "adamw",
    compiled: bool = False,
    recompute: bool = False,
) -> dict[str, Any]:
    """Tokens per second, and on a known GPU MFU, of training steps of a preset; settings as above."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    with device:
        model = Model(shape(preset, VOCABULARY), recompute=recompute)
    if compiled:
        model.compile_parts()
    optimisers = make_optimisers(model, TrainSettings("", "", optimiser=optimiser))
    size = (sequences, length)
    seconds = []
    for _ in range(steps):
        tokens = torch.randint(VOCABULARY, size, device=device)
        documents = (torch.rand(size, device=device) * document < bool(document)).cumsum(1)
        positions = torch.arange(length, device=device).expand(size)
        started = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
            losses = model(tokens, positions, documents, targets=tokens, chunk=chunk)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for one, _ in optimisers:
            one.step()
            one.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    rate = math.prod(size) / statistics.median(seconds[SKIPPED:])
    flops = rate * flops_per_token(model.settings, 0 if document else length)
    result: dict[str, Any] = {
        "preset": preset,
        "length": length,
        "sequences": sequences,
        "document": document,
        "optimiser": optimiser,
        "compiled": compiled,
        "recompute": recompute,
        "tokens_per_second": round(rate),
        "teraflops_per_second": round(flops / 1e12, 3),
    }
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        peak = next((value for part, value in PEAK.items() if part in name), None)
        result |= {"device": name, "gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 1)}
        result |= {"mfu": round(flops / peak, 3)} if peak else {}
    return result


if __name__ == "__main__":
    main()
