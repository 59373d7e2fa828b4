"""Test sets from published data."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FOLDER, cli, command, say


class Kind(click.ParamType):
    """A published test set; the registry is read when it is needed, so that `--help` loads nothing."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from corpus.toml import one_of
        from lm.evaluation.datasets.published import PUBLISHED

        try:
            one_of("KIND", value, tuple(PUBLISHED))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


def print_kinds(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the layout, counts, licence and source of every set."""
    if not value:
        return
    from lm.evaluation.datasets.published import PUBLISHED

    for one in PUBLISHED.values():
        counts = ", ".join(f"{count} in {split}" for split, count in one.counts.items())
        click.secho(one.name, bold=True)
        click.echo(f"  layout   {one.layout}")
        click.echo(f"  counts   {f'{one.counted}: {counts}' if counts else one.counted}")
        click.echo(f"  licence  {one.licence}\n  url      {one.url}\n  paper    {one.paper or 'none'}")
    ctx.exit()


@command(cli)
@click.argument("kind", type=Kind())
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=FOLDER)
@click.option(
    "--split", help="Split to test on; default the one results are published for (dev, test, test-clean)."
)
@click.option(
    "--shots",
    type=click.IntRange(min=0),
    default=5,
    help="Number of examples before a question of mmlu.",
    show_default=True,
)
@click.option("--partial", is_flag=True, help="Accept an incomplete copy and mark results as partial.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_kinds,
    help="Print the known sets, their layout, and where to get them.",
)
def testset(
    kind: str, source: Path, folder: Path, split: str | None, shots: int, partial: bool
) -> dict[str, Any]:
    """Convert a published test set for `evaluate`.

    SOURCE is your copy, a folder or a zip; nothing is downloaded. Its counts are compared with the published ones.
    """
    from lm.evaluation.datasets.convert import convert

    result = convert(kind, source, folder, split=split, shots=shots, partial=partial)
    say(f"{kind}: {result.facts['counted']}")
    return {
        "testset": str(folder),
        "task": result.task,
        "items": len(result.in_split("test")),
        "directions": " ".join(result.directions),
        "complete": not result.facts["partial"],
    }
