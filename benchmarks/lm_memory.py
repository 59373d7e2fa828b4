"""Memory of a sharded training run on each GPU, by arithmetic: what fits before anything is started.

    python -m benchmarks.lm_memory [--preset 7b] [--processes 8] [--length 4096] [--micro-batch 2] [--recompute]

Weights, gradients and the two moments of AdamW are float32 and sharded: 16 bytes per parameter over all processes.
While a layer is computed, it and its gradient are whole, the next layer is gathered already (bfloat16), and so are
embedding and head (bfloat16). Activations are bfloat16; their number per token is counted from the code. At most
`lm.training.train.LOGIT_BYTES` of float32 logits exist at a time, with their bfloat16 copy and gradient.
"""

import argparse

import torch

from lm.model import PRESETS, Model, preset
from lm.training.train import LOGIT_BYTES

VOCABULARY, GB = 32_768, 1e9


def memory(name: str, processes: int, tokens: int, recompute: bool) -> dict[str, float]:
    """Bytes per process, by what they hold."""
    with torch.device("meta"):
        model = Model(preset(name, VOCABULARY))
    s = model.settings
    total = sum(parameter.numel() for parameter in model.parameters())
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    rest = total - layer * s.num_hidden_layers
    heads = (s.num_attention_heads + 2 * s.num_key_value_heads) * s.head_size
    inside = 6 * s.hidden_size + 2 * heads + 4 * s.intermediate_size  # values per token kept inside a layer
    layers = inside + s.num_hidden_layers * (s.hidden_size if recompute else inside)
    return {
        "weights": 4 * total / processes,
        "gradients": 4 * total / processes,
        "moments": 8 * total / processes,
        "gathered layers, embedding and head": 2 * (2 * layer + rest) + 4 * layer,
        "activations": 2 * tokens * layers,
        "logits": 2.5 * LOGIT_BYTES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="7b", choices=list(PRESETS))
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--recompute", action="store_true")
    options = parser.parse_args()
    parts = memory(options.preset, options.processes, options.length * options.micro_batch, options.recompute)
    for name, size in [*parts.items(), ("total", sum(parts.values()))]:
        print(f"{name:<36} {size / GB:7.1f} GB")


if __name__ == "__main__":
    main()
