"""Before a build and after it: what it will cost, what this machine lacks, what may be thrown away."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FILE, FOLDER, cli, command, read_settings, say


@command(cli)
@click.argument("config", type=FILE)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Manifest or folder, in place of the file's [corpus] source.",
)
@click.option(
    "--hours",
    type=float,
    help="Of recordings. Default: those of the source, if it is short enough to look at.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, help="Processes, one core each.", show_default=True
)
@click.option(
    "--speed",
    type=float,
    default=1.0,
    help="Of one of their cores against one of this machine.",
    show_default=True,
)
@click.option("--price-per-hour", "price", type=float, default=0.0, help="Of one worker.", show_default=True)
@click.option(
    "--gpus",
    type=click.IntRange(min=0),
    default=0,
    help="Machines with a GPU, which make units, pitch and style.",
    show_default=True,
)
@click.option(
    "--gpu-real-time",
    "real_time",
    type=float,
    default=0.0,
    help="Hours of recordings that one GPU encodes in an hour. Default: as measured here.",
)
@click.option(
    "--gpu-price-per-hour",
    "gpu_price",
    type=float,
    default=0.0,
    help="Of one machine with a GPU.",
    show_default=True,
)
@click.option(
    "--gpu-cores", type=click.IntRange(min=1), default=4, help="Of one machine with a GPU.", show_default=True
)
@click.option(
    "--sample-minutes",
    "minutes",
    type=float,
    default=4.0,
    help="Of recordings to measure on.",
    show_default=True,
)
def plan(
    config: Path, source: Path | None, hours: float | None, minutes: float, **who: Any
) -> dict[str, Any]:
    """What a build will cost, before it is paid for.

    Builds a few minutes of the corpus that CONFIG names, throws them away, and says for --hours of it: parts, bytes and
    hours per step, cost, and the settings to use.
    """
    import tempfile

    from pipelines import settings
    from pipelines.operations.cost_estimate import Workers, lines, predict
    from pipelines.operations.cost_measure import measure

    asked = read_settings(config)
    if source is not None:
        asked = settings.replace(asked, "corpus", source=str(source))
    if not asked.corpus.source:
        raise click.UsageError(f"{config.name}: corpus.source is empty; set it there or give --source")
    if (hours is not None and not 0 < hours < float("inf")) or not minutes > 0:
        raise click.UsageError(f"--hours, --sample-minutes: need more than 0, got {hours} and {minutes}")
    try:
        workers = Workers(**who)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if workers.gpus and not workers.real_time and asked.units.device == "cpu":
        raise click.UsageError(
            '--gpus: need --gpu-real-time too, none can be measured with units.device = "cpu"'
        )
    with tempfile.TemporaryDirectory(prefix="wordweave-plan-") as folder:
        measured = measure(asked, Path(folder), minutes=minutes, say=say)
    if hours is None and measured.corpus_hours is None:
        raise click.UsageError(f"{asked.corpus.source}: too long to be looked at whole; give --hours")
    said = predict(measured, asked, hours or measured.corpus_hours or 0.0, workers)
    for line in lines(said):
        click.echo(line)
    return said


@command(cli)
@click.argument("build", type=FOLDER, required=False)
def doctor(build: Path | None) -> dict[str, Any]:
    """What this machine has, and what it lacks.

    One line each. Exit code 1 where something is wrong: what is only lacking is an option that cannot be used here.
    With BUILD, its health too.
    """
    from pipelines.operations.doctor import examine

    findings = []
    for finding in examine(build):
        findings.append(finding)
        click.echo(f"{finding.state:<6} {finding.name:<14} {finding.said}")
    wrong = [finding.name for finding in findings if finding.state == "wrong"]
    if wrong:
        raise ValueError(f"doctor: {len(wrong)} wrong: {', '.join(wrong)}")
    return {
        **{state: sum(finding.state == state for finding in findings) for state in ("ok", "lacks", "wrong")},
        "findings": [vars(finding) for finding in findings],
    }


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--yes", is_flag=True, help="Remove them. Without it they are only listed.")
def prune(build: Path, yes: bool) -> dict[str, Any]:
    """Throw away what BUILD no longer needs.

    Temporary files of killed runs, tables of old settings or of recordings that left, notes of failures that were made
    good. Files that are not a build's own, and what the present settings count on, are never touched.
    """
    from corpus import files
    from pipelines import build as steps
    from pipelines.execution.runner import alone
    from pipelines.operations import prune as pruning

    place = files.to_path(build)
    steps.recall(place)
    with alone(place, sweep=False):
        found = pruning.find(place, say=say)
        for stale in found:
            click.echo(f"{stale.name}  {stale.bytes} bytes: {stale.why}")
        if yes:
            pruning.remove(place, found)
    if found and not yes:
        say("prune: nothing was removed; --yes removes what is listed")
    return {
        "found": len(found),
        "bytes": sum(stale.bytes for stale in found),
        "removed": len(found) if yes else 0,
    }
