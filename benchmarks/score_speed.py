"""Speed of the scorer beside the bare forward pass of the same model over the same packed batches.

    python -m benchmarks.score_speed [--preset nano] [--items 200] [--rounds 5]

Items are two endings after a context, text and units of random lengths as in StoryCloze. `scorer` is the whole of
`lm.evaluation.tasks.likelihood.likelihoods` (packing, forward, log-probabilities over all ids and over one modality,
sums); `forward` is the model alone on batches packed before. Rounds alternate, so that other work on the machine hits
both; CPU time.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from lm.evaluation.tasks.likelihood import batches, likelihoods, packed
from lm.model import Model, preset
from shards.text import train_bpe
from shards.vocabulary import Vocabulary


def cpu_seconds(work: Callable[[], object]) -> float:
    """Process time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    requested = parser.parse_args()

    import tempfile
    from pathlib import Path

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        text = [" ".join(f"word{n}" for n in range(200))] * 3
        vocabulary = Vocabulary(train_bpe(text, Path(folder) / "tokenizer.json", size=500), units=501)
    model = Model(preset(requested.preset, vocabulary.padded_size)).to(requested.device).eval()
    pairs = []
    for _ in range(requested.items):
        context = rng.integers(vocabulary.size, size=rng.integers(30, 120)).tolist()
        pairs += [
            (context, rng.integers(vocabulary.size, size=rng.integers(8, 50)).tolist()) for _ in range(2)
        ]
    ordered = sorted((tuple(prompt), tuple(ending)) for prompt, ending in pairs)
    ordered.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    ready = [
        packed(batch, model.device, requested.batch_tokens)[0]
        for batch in batches(ordered, requested.batch_tokens)
    ]
    tokens = sum(len(prompt) + len(ending) - 1 for prompt, ending in pairs)

    def forward() -> None:
        with torch.inference_mode():
            for batch in ready:
                model(*batch)

    def scorer() -> None:
        likelihoods(model, vocabulary, pairs, batch_tokens=requested.batch_tokens)

    forward()
    scorer()
    times = [(cpu_seconds(forward), cpu_seconds(scorer)) for _ in range(requested.rounds)]
    bare, ours = (min(column) for column in zip(*times, strict=True))
    print(f"{requested.preset}, {tokens} tokens, {len(ready)} batches, best of {requested.rounds}, CPU time")
    print("| what | tokens/s | of the forward pass |")
    print("|---|---|---|")
    print(f"| forward pass | {tokens / bare:,.0f} | 1 |")
    print(f"| scorer | {tokens / ours:,.0f} | {bare / ours:.2f} (goal 0.8) |")


if __name__ == "__main__":
    main()
