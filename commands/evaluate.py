"""The evaluation: a model on packs."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FILE, FOLDER, cli, command, say


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--model", type=FOLDER, help="Model folder; default BUILD/model/best.")
@click.option(
    "--pack", "packs", type=FOLDER, multiple=True, help="A pack; without any, the synthetic ones are made."
)
@click.option(
    "--items", type=click.IntRange(min=1), default=100, help="Pairs in a synthetic pack.", show_default=True
)
@click.option("--split", type=click.Choice(["dev", "test"]), default="test", show_default=True)
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    default=8192,
    help="Moves speed, nothing else.",
    show_default=True,
)
@click.option("--eos", is_flag=True, help="Score the end of the document too.")
@click.option(
    "--task", is_flag=True, help="Ask across with [ASR] and [TTS], for a model of strategy concatenated."
)
@click.option(
    "--shots", type=click.IntRange(min=0), help="Solved examples; default as the paper, none for sentiment."
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    help="Draws of a continuation, averaged; default 3, of the synthetic packs 1.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=32, help="Continuations at a time.", show_default=True
)
@click.option(
    "--vocoder", help="Command that speaks tokens: JSON on stdin, the WAV to write as last argument."
)
@click.option("--recogniser", help="Command that prints what a WAV, its last argument, says.")
@click.option("--stop", type=FILE, help="Recording of the word stop, for readings by example.")
@click.option(
    "--judge-text", type=FOLDER, help="Hugging Face classifier of sentiment; default learned from the pack."
)
@click.option("--judge-speech", type=FOLDER, help="The same of recordings; needs --vocoder.")
@click.option("--compare", is_flag=True, help="Print the paper's numbers beside ours.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON; default BUILD/evaluation/results.json.",
)
def evaluate(
    build: Path, model: Path | None, packs: tuple[Path, ...], items: int, split: str, batch_tokens: int, eos: bool,
    task: bool, shots: int | None, runs: int | None, batch: int, vocoder: str | None, recogniser: str | None,
    stop: Path | None, judge_text: Path | None, judge_speech: Path | None, compare: bool, output: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Score a model on packs.

    In text, in speech and across; recordings are encoded as BUILD's speech was. Without --pack the synthetic packs are
    spoken into BUILD/evaluation.
    """
    from lm.evaluation import results as scoreboard
    from lm.evaluation.datasets.synthetic import make_packs
    from lm.evaluation.evaluate import evaluate as run
    from lm.evaluation.evaluate import write_results
    from lm.evaluation.tasks import SHORT, Asking, askers
    from lm.evaluation.tasks.choice import Scoring
    from lm.evaluation.testset import read_pack
    from pipelines.tokenize import described, listener
    from shards.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(build / "shards")
    read = [read_pack(folder) for folder in packs]
    if not packs:
        read = list(make_packs(build / "evaluation" / "packs", items=items, say=say).values())
    listen = listener(build)
    asking = Asking(
        shots, runs or (3 if packs else 1), new_tokens=None if packs else SHORT, batch=batch, task=task,
        stop=listen(stop) if stop else "", vocoder=vocoder, recogniser=recogniser,
        text_judge=judge_text, speech_judge=judge_speech,
    )  # fmt: skip
    results = run(
        model or build / "model" / "best", read, listen, vocabulary=vocabulary, split=split,
        scoring=Scoring(batch_tokens, eos, task), facts=described(build), askers=askers(asking), say=click.echo,
    )  # fmt: skip
    if compare:
        beside = scoreboard.compare(results["rows"])
        results["beside"] = [line._asdict() for line in beside]
        for line in (scoreboard.heading(), *(line.said() for line in beside)):
            click.echo(line)
    path = output or build / "evaluation" / "results.json"
    write_results(path, results)
    return {"results": str(path), "rows": len(results["rows"])}
