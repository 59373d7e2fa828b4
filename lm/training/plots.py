"""Draw a run's log: the training loss, the held-out losses, and the entropies they have to fall below."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def draw(output: str | Path) -> Path:
    """Read log.jsonl of a run and write loss.png beside it; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter

    output = Path(output)
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    tests = [line for line in lines if "held_out" in line]
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
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
        axes.axvline(best["tokens"], color="0.8", zorder=0, label="best checkpoint")
    axes.set(xlabel="tokens read", ylabel="nats per token")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.legend(loc="outside lower center", fontsize="small", ncols=4, frameon=False)
    figure.savefig(output / "loss.png", dpi=120)
    pyplot.close(figure)
    return output / "loss.png"


def board(output: str | Path, step: int) -> Callable[[Mapping[str, Any]], None]:
    """Open `output`/tensorboard from `step` on; gives back what writes a line of the log into it.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "train.tensorboard: needs the package tensorboard; `pip install tensorboard`, or set it to false"
        ) from error
    writer = SummaryWriter(str(Path(output) / "tensorboard"), purge_step=step + 1 if step else None)

    def write(line: Mapping[str, Any]) -> None:
        for name, value in scalars(line):
            if name not in ("step", "tokens"):
                writer.add_scalar(name, value, line["step"])
        writer.flush()

    return write


def scalars(line: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line of the log, by path.

    >>> dict(scalars({"loss": 2.5, "kinds": {"text": 3.0, "unit": 2.0}}))
    {'loss': 2.5, 'kinds/text': 3.0, 'kinds/unit': 2.0}
    """
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{before}{name}/")
        else:
            yield before + name, value
