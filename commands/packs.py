"""Packs from published test sets."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FOLDER, cli, command, say

KINDS = (
    "swuggy", "sblimp", "tstorycloze", "sstorycloze", "blimp", "mmlu", "librispeech", "fluent", "slurp",
    "speech-commands", "expresso", "emov", "sentiment", "intents",
)  # fmt: skip
"""As in lm.evaluation.datasets.published, which `--help` does not load."""


def tell(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    """Print what each set must hold and where it is given away."""
    if not asked:
        return
    from lm.evaluation.datasets.published import PUBLISHED

    for one in PUBLISHED.values():
        counts = ", ".join(f"{count} in {split}" for split, count in one.counts.items())
        click.secho(one.name, bold=True)
        click.echo(f"  reads    {one.reads}")
        click.echo(f"  counts   {f'{one.counted}: {counts}' if counts else one.counted}")
        click.echo(f"  licence  {one.licence}\n  from     {one.where}\n  source   {one.source or 'yours'}")
    ctx.exit()


@command(cli)
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=FOLDER)
@click.option(
    "--split", help="Part to test on; default the one results are published for (dev, test, test-clean)."
)
@click.option(
    "--shots",
    type=click.IntRange(min=0),
    default=5,
    help="Examples before a question of mmlu.",
    show_default=True,
)
@click.option(
    "--partial", is_flag=True, help="Take a copy that is not whole; the pack and its scores then say so."
)
@click.option(
    "--where",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=tell,
    help="Print what every set must hold and where it comes from.",
)
def pack(
    kind: str, source: Path, folder: Path, split: str | None, shots: int, partial: bool
) -> dict[str, Any]:
    """Make a pack of a published test set, for `evaluate`.

    SOURCE is your copy, a folder or a zip; nothing is downloaded. Its counts are compared with the published ones.
    """
    from lm.evaluation.datasets.convert import convert

    made = convert(kind, source, folder, split=split, shots=shots, partial=partial)
    say(f"{kind}: {made.facts['counted']}")
    return {
        "pack": str(folder),
        "task": made.task,
        "items": len(made.of("test")),
        "directions": " ".join(made.directions),
        "whole": not made.facts["partial"],
    }
