"""The settings of `wordweave demo`: a small synthetic corpus, and a minute of training on it."""

from pathlib import Path
from typing import Any

import tomli_w

from corpus import files

Tables = dict[str, Any]


def demo_settings(folder: Path, speech: Path) -> tuple[Tables, Tables]:
    """The tables of config/demo.toml and config/lm/demo.toml, for a build in `folder` of the corpus in `speech`."""
    build = {
        "build": str(folder),
        "corpus": {"adapter": "jsonl", "source": str(speech / "manifest.jsonl"), "part_minutes": 5},
        "units": {"encoder": "compact", "clusters": 501},
        "align": {"backend": "ctc"},  # on these voices as exact as pocketsphinx, in half the time
        "text": {"size": 500, "documents": [str(speech / "text.txt")]},
        "interleave": {"strategy": "spirit"},
        "shards": {"valid": 0.1, "hold_out_by": "speaker"},
    }
    training = {
        "preset": "nano",
        "sequence_length": 512,
        "batch_tokens": 4096,
        "tokens": 400_000,
        "dropout": 0.0,
        "evaluate_every": 20,
    }
    return build, training


def write_demo_settings(folder: Path, speech: Path) -> tuple[Path, Path]:
    """Write both files beside the corpus; their paths."""
    paths = speech / "build.toml", speech / "train.toml"
    for path, table in zip(paths, demo_settings(folder, speech), strict=True):
        files.write(path, tomli_w.dumps(table).encode())
    return paths
