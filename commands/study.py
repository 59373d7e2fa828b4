"""The study: the paper's main claim at small scale."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FILE, FOLDER, cli, command, say


@command(cli)
@click.argument("folder", type=FOLDER)
@click.option("--config", type=FILE, required=True, help="See config/study/quick.toml.")
@click.option("--workers", type=click.IntRange(min=1), default=2, help="Processes.", show_default=True)
@click.option("--only", multiple=True, metavar="ROW", help="Only these rows.")
def study(folder: Path, config: Path, workers: int, only: tuple[str, ...]) -> dict[str, Any]:
    """Replicate the paper's main claim at small scale.

    Synthesises corpora, runs them through the pipeline, trains a model for every row of CONFIG and scores it on
    held-out stories: table, JSON and plot in FOLDER. Finished work is kept: run it again after a crash.
    """
    from pipelines.operations.study import read_study, run_study

    try:
        settings = read_study(config)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    names = [row.name for row in settings.rows]
    if set(only) - set(names):
        raise click.UsageError(f"--only: need some of {names}, got {list(only)}")
    results = run_study(folder, settings, workers=workers, only=only, say=say)
    click.echo(results["page"])
    return {"table": str(folder / "study.md"), "plot": str(folder / "study.png"), "runs": len(results["runs"]),
            "minutes": results["minutes"]}  # fmt: skip
