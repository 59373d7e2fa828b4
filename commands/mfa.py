"""Models and dictionaries for the Montreal Forced Aligner: its own commands, printed and run."""

import shlex
from pathlib import Path
from typing import Any

import click

from commands.cli import FOLDER, cli, command, say


@cli.group()
def mfa() -> None:
    """Models for the Montreal Forced Aligner.

    MFA is not part of wordweave. aligners/data holds a conda environment and a container recipe; --mfa-command is the
    command that starts it.
    """


def run(tool: str, mfa_command: str, dry_run: bool, *arguments: str) -> dict[str, Any]:
    """Print MFA's command on stderr and, unless it is a dry run, run it."""
    from aligners.mfa import run_tool, tool_command

    line = tool_command(mfa_command, tool, arguments)
    say(shlex.join(line))
    if not dry_run:
        run_tool(line)
    return {"command": shlex.join(line), "ran": not dry_run}


def tool_options(function: Any) -> Any:
    """The options of every command that runs MFA."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Only print the command."),
        click.option(
            "--mfa-command",
            default="mfa",
            show_default=True,
            help='Command that starts MFA, for example "conda run -n mfa mfa".',
        ),
    ):
        function = option(function)
    return function


@command(mfa)
@click.argument("kind", type=click.Choice(["acoustic", "dictionary", "g2p", "language_model"]))
@click.argument("name")
@tool_options
def download(kind: str, name: str, mfa_command: str, dry_run: bool) -> dict[str, Any]:
    """Download a model that MFA publishes, for example `acoustic english_us_arpa`."""
    return run("download", mfa_command, dry_run, kind, name)


@command(mfa)
@click.argument("words", type=click.Path(path_type=Path))
@click.argument("model")
@click.argument("dictionary", type=click.Path(path_type=Path))
@tool_options
def g2p(words: Path, model: str, dictionary: Path, mfa_command: str, dry_run: bool) -> dict[str, Any]:
    """Write the pronunciations of WORDS (a list or a corpus) by a g2p MODEL to DICTIONARY."""
    return run("g2p", mfa_command, dry_run, str(words), model, str(dictionary))


@command(mfa)
@click.argument("corpus", type=FOLDER)
@click.argument("dictionary")
@click.argument("model", type=click.Path(path_type=Path))
@tool_options
def train(corpus: Path, dictionary: str, model: Path, mfa_command: str, dry_run: bool) -> dict[str, Any]:
    """Train an acoustic MODEL on CORPUS (WAV and .lab files, as `mfa corpus` writes them); takes hours."""
    return run("train", mfa_command, dry_run, str(corpus), dictionary, str(model))


@command(mfa)
@click.argument("corpus", type=FOLDER)
@click.argument("dictionary")
@tool_options
def validate(corpus: Path, dictionary: str, mfa_command: str, dry_run: bool) -> dict[str, Any]:
    """Report the words of CORPUS that DICTIONARY lacks; trains nothing."""
    return run("validate", mfa_command, dry_run, str(corpus), dictionary)


@command(mfa)
@click.argument("build", type=FOLDER)
@click.argument("folder", type=FOLDER)
def corpus(build: Path, folder: Path) -> dict[str, Any]:
    """Write the utterances of BUILD as a corpus for MFA: one folder per speaker, WAV and .lab files."""
    from pipelines.operations.mfa_corpus import export_mfa_corpus

    return export_mfa_corpus(build, folder)
