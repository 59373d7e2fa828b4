"""Operate builds: estimate their cost, check the installation, delete what is no longer needed."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FILE, FOLDER, cli, command, read_config, say


@command(cli)
@click.argument("config", type=FILE)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Overrides [corpus] source.",
)
@click.option(
    "--hours",
    type=float,
    help="Hours of recordings. Default: those of the source, if it is short enough to be read whole.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, help="Processes, one core each.", show_default=True
)
@click.option(
    "--speed",
    type=float,
    default=1.0,
    help="Speed of a worker core relative to this machine.",
    show_default=True,
)
@click.option(
    "--price-per-hour",
    "price",
    type=float,
    default=0.0,
    help="Price of a worker per hour.",
    show_default=True,
)
@click.option(
    "--gpus",
    type=click.IntRange(min=0),
    default=0,
    help="Machines with one GPU each, for the steps that use one.",
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
    help="Price of one machine with a GPU per hour.",
    show_default=True,
)
@click.option(
    "--gpu-cores",
    type=click.IntRange(min=1),
    default=4,
    help="Cores of one machine with a GPU.",
    show_default=True,
)
@click.option(
    "--store-latency",
    "latency",
    type=float,
    default=0.0,
    help="Seconds until the store of build and recordings answers a request; 0: a disk.",
    show_default=True,
)
@click.option(
    "--sample-minutes",
    "minutes",
    type=float,
    default=4.0,
    help="Minutes of recordings to measure on.",
    show_default=True,
)
def plan(
    config: Path, source: Path | None, hours: float | None, minutes: float, **machines: Any
) -> dict[str, Any]:
    """Estimate the cost of a build.

    Builds a few minutes of the corpus that CONFIG names in a temporary folder, and estimates for --hours of it: parts,
    bytes and hours per step, cost, and the settings to use.
    """
    import tempfile

    from pipelines.operations.cost_estimate import Workers, lines, predict
    from pipelines.operations.cost_measure import measure
    from pipelines.settings import replace

    settings = read_config(config)
    if source is not None:
        settings = replace(settings, "corpus", source=str(source))
    if not settings.corpus.source:
        raise click.UsageError(f"{config.name}: corpus.source is empty; set it there or give --source")
    if (hours is not None and not 0 < hours < float("inf")) or not minutes > 0:
        raise click.UsageError(f"--hours, --sample-minutes: need more than 0, got {hours} and {minutes}")
    try:
        workers = Workers(**machines)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if workers.gpus and not workers.real_time and settings.units.device == "cpu":
        raise click.UsageError(
            '--gpus: need --gpu-real-time too, none can be measured with units.device = "cpu"'
        )
    with tempfile.TemporaryDirectory(prefix="wordweave-plan-") as folder:
        measured = measure(settings, Path(folder), minutes=minutes, say=say)
    if hours is None and measured.corpus_hours is None:
        raise click.UsageError(f"{settings.corpus.source}: too long to be read whole; give --hours")
    estimate = predict(measured, settings, hours or measured.corpus_hours or 0.0, workers)
    for line in lines(estimate):
        click.echo(line)
    return estimate


@command(cli)
@click.argument("build", type=FOLDER, required=False)
def doctor(build: Path | None) -> dict[str, Any]:
    """Check this machine's installation.

    One line per check: ok, missing (an optional feature) or wrong (exit code 1). With BUILD, its progress too.
    """
    from pipelines.operations.doctor import examine

    findings = []
    for finding in examine(build):
        findings.append(finding)
        click.echo(f"{finding.state:<7} {finding.name:<14} {finding.detail}")
    wrong = [finding.name for finding in findings if finding.state == "wrong"]
    if wrong:
        raise ValueError(f"doctor: {len(wrong)} wrong: {', '.join(wrong)}")
    return {
        **{
            state: sum(finding.state == state for finding in findings) for state in ("ok", "missing", "wrong")
        },
        "findings": [vars(finding) for finding in findings],
    }


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--yes", is_flag=True, help="Delete them. Default: only list them.")
def prune(build: Path, yes: bool) -> dict[str, Any]:
    """Delete files BUILD no longer needs.

    Temporary files of killed runs, tables of old settings or of recordings that were removed, messages of failures
    that were repaired. Files that are not a build's own, and files that the present settings need, are never touched.
    """
    from corpus import files
    from pipelines.execution.runner import build_lock
    from pipelines.operations import prune as pruning
    from pipelines.settings import read_settings

    folder = files.to_path(build)
    read_settings(folder)
    with build_lock(folder, sweep=False):
        stale = pruning.find(folder, say=say)
        for file in stale:
            click.echo(f"{file.name}  {file.bytes} bytes: {file.why}")
        if yes:
            pruning.remove(folder, stale)
    if stale and not yes:
        say("prune: nothing was removed; --yes removes what is listed")
    return {
        "found": len(stale),
        "bytes": sum(file.bytes for file in stale),
        "removed": len(stale) if yes else 0,
    }
