"""Draw a run's log: the training loss, the held-out losses, and the entropies they have to fall below."""

import json
from pathlib import Path


def draw(output: str | Path) -> Path:
    """Read log.jsonl of a run and write loss.png beside it; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    output = Path(output)
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    tests = [line for line in lines if "held_out" in line]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(
        [line["tokens"] for line in steps], [line["loss"] for line in steps], color="0.6", label="training"
    )
    for number, stream in enumerate(tests[-1]["held_out"] if tests else ()):
        points = [(line["tokens"], line["held_out"][stream]["loss"]) for line in tests]
        entropy = tests[-1]["held_out"][stream]["unigram_entropy"]
        axes.plot(
            *zip(*points, strict=True), "o-", color=f"C{number}", markersize=3, label=f"held-out {stream}"
        )
        axes.axhline(
            entropy, color=f"C{number}", linestyle=":", label=f"unigram entropy, {stream}: {entropy:.2f}"
        )
    axes.set(xlabel="tokens read", ylabel="nats per token", title="Loss and what counting alone would reach")
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(output / "loss.png", dpi=120)
    pyplot.close(figure)
    return output / "loss.png"
