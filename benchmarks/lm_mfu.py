"""Model FLOPs utilisation of a training step on a GPU.

    python -m benchmarks.lm_mfu [--preset 1b] [--length 4096] [--sequences 4] [--document 0] [--compile] [--recompute]

MFU = lm.model.flops_per_token x tokens per second / lm.training.train.PEAK of the device. Tokens are random; a sequence
is one document, or with --document 600 documents of 600 in the mean, whose attention then does not count, because most
of it is skipped. Weights are float32, products bfloat16, the optimiser is fused AdamW. The median of the steps after
the first 5 counts. On a CPU it gives tokens per second alone.
"""

import argparse
import json
import statistics
import time
from contextlib import nullcontext

import torch

from lm.model import PRESETS, Model, flops_per_token, preset
from lm.training.train import PEAK, TrainSettings, make_optimisers

VOCABULARY, SKIPPED = 32_768, 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="1b", choices=list(PRESETS))
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--document", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunk", type=int, default=4096)
    parser.add_argument("--optimiser", default="adamw", choices=["adamw", "muon"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    requested = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    with device:
        model = Model(preset(requested.preset, VOCABULARY), recompute=requested.recompute)
    if requested.compile:
        for layer in model.model.layers:
            layer.compile()
    optimisers = make_optimisers(model, TrainSettings("", "", optimiser=requested.optimiser))
    shape = (requested.sequences, requested.length)
    seconds = []
    for _ in range(requested.steps):
        tokens = torch.randint(VOCABULARY, shape, device=device)
        documents = (torch.rand(shape, device=device) * requested.document < bool(requested.document)).cumsum(
            1
        )
        positions = torch.arange(requested.length, device=device).expand(shape)
        started = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
            losses = model(tokens, positions, documents, targets=tokens, chunk=requested.chunk)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, _ in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    rate = tokens.numel() / statistics.median(seconds[SKIPPED:])
    flops = rate * flops_per_token(model.settings, 0 if requested.document else requested.length)
    result = {
        **vars(requested),
        "tokens_per_second": round(rate),
        "teraflops_per_second": round(flops / 1e12, 3),
    }
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        peak = next((value for part, value in PEAK.items() if part in name), None)
        result |= {"device": name, "gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 1)}
        result |= {"mfu": round(flops / peak, 3)} if peak else {}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
