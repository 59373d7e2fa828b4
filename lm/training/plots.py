"""Plots of a run's log: the training loss, the held-out losses, and the entropies they should fall below."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from corpus import files


def plot_loss(output: str | Path) -> Path:
    """Read log.jsonl of a run and write loss.png next to it; returns its path."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    output = files.to_path(output)
    lines = [json.loads(line) for line in files.read(output / "log.jsonl").splitlines()]
    steps = [line for line in lines if "loss" in line]
    tests = [line for line in lines if "held_out" in line]
    figure = Figure(figsize=(8, 5), layout="constrained")  # pyplot would change the backend of a notebook
    axes = figure.subplots()
    axes.plot(
        [line["tokens"] for line in steps], [line["loss"] for line in steps], color="0.6", label="training"
    )
    for number, stream in enumerate(tests[-1]["held_out"] if tests else ()):
        points = [(line["tokens"], line["held_out"][stream]["loss"]) for line in tests]
        entropy = tests[-1]["held_out"][stream]["unigram_entropy"]
        color = f"C{number}"
        axes.plot(*zip(*points, strict=True), "o-", color=color, markersize=3, label=f"held-out {stream}")
        axes.axhline(entropy, color=color, linestyle=":", label=f"its unigram entropy, {entropy:.2f}")
    if tests:
        best = min(tests, key=lambda line: line["held_out_loss"])
        axes.axvline(best["tokens"], color="0.8", zorder=0, label="lowest held-out loss")
    axes.set(xlabel="tokens", ylabel="nats per token")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.legend(loc="outside lower center", fontsize="small", ncols=4, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    files.write(output / "loss.png", picture.getvalue())
    return output / "loss.png"


def tensorboard_writer(output: str | Path, step: int) -> Callable[[Mapping[str, Any]], None]:
    """Open `output`/tensorboard from `step` on; returns a function that adds a line of the log.

    Raises:
        ValueError: TensorBoard is not installed, or the output is a URL.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "train.tensorboard: needs the package tensorboard; `pip install tensorboard`, or set it to false"
        ) from error
    if files.is_url(output):
        raise ValueError(f"train.tensorboard: needs a local output folder, got {output}; set it to false")
    writer = SummaryWriter(str(Path(output) / "tensorboard"), purge_step=step + 1 if step else None)

    def write(line: Mapping[str, Any]) -> None:
        for name, value in scalars(line):
            if name not in ("step", "tokens"):
                writer.add_scalar(name, value, line["step"])
        writer.flush()

    return write


def scalars(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line of the log, by path.

    >>> dict(scalars({"loss": 2.5, "kinds": {"text": 3.0, "unit": 2.0}}))
    {'loss': 2.5, 'kinds/text': 3.0, 'kinds/unit': 2.0}
    """
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
