"""The evaluation: a model on packs."""

from pathlib import Path
from typing import Any

import click

from commands.door import FOLDER, cli, command, say

SHORT = {"T": 16, "S->T": 16, "T->S": 60, "S": 60}
"""New tokens of a continuation of the synthetic packs, whose endings have six words."""


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
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON; default BUILD/evaluation/results.json.",
)
def evaluate(
    build: Path, model: Path | None, packs: tuple[Path, ...], items: int, split: str, batch_tokens: int, eos: bool,
    task: bool, output: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Score a model on packs.

    In text, in speech and across; recordings are encoded as BUILD's speech was. Without --pack the synthetic packs are
    spoken into BUILD/evaluation.
    """
    from lm.evaluate import evaluate as run
    from lm.evaluate import sentiment_asker, write_results
    from lm.pack import read_pack
    from lm.score import Scoring
    from lm.stsp import Stsp
    from lm.synthetic import make_packs
    from pipelines.listen import described, listener
    from shards.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(build / "shards")
    read = [read_pack(folder) for folder in packs]
    if not packs:
        read = list(make_packs(build / "evaluation" / "packs", items=items, say=say).values())
    results = run(
        model or build / "model" / "best", read, listener(build), vocabulary=vocabulary, split=split,
        scoring=Scoring(batch_tokens, eos, task), facts=described(build), say=click.echo,
        askers={"continue": sentiment_asker(Stsp() if packs else Stsp(runs=1, new_tokens=SHORT, batch=50))},
    )  # fmt: skip
    path = output or build / "evaluation" / "results.json"
    write_results(path, results)
    return {"results": str(path), "rows": len(results["rows"])}
