"""Models and dictionaries for the Montreal Forced Aligner: its own commands, printed and run."""

import shlex
from pathlib import Path
from typing import Any

import click

from commands.cli import FOLDER, cli, command, say


@cli.group()
def mfa() -> None:
    """Models for the Montreal Forced Aligner.

    MFA is not part of wordweave. aligners/data holds a conda environment and a container recipe; --mfa-command says how
    it starts.
    """


def run(tool: str, mfa_command: str, dry_run: bool, *words: str) -> dict[str, Any]:
    """Print MFA's command on stderr and, unless it is a dry run, run it."""
    from aligners.mfa import run_tool, tool_command

    line = tool_command(mfa_command, tool, words)
    say(shlex.join(line))
    status = 0 if dry_run else run_tool(line)
    if status:
        raise click.ClickException(f"mfa {tool}: ended with status {status}")
    return {"command": shlex.join(line), "ran": not dry_run}


def started(function: Any) -> Any:
    """The options of every command here."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Only print the command."),
        click.option(
            "--mfa-command",
            default="mfa",
            show_default=True,
            help='How to start MFA: "conda run -n mfa mfa".',
        ),
    ):
        function = option(function)
    return function


@command(mfa)
@click.argument("kind", type=click.Choice(["acoustic", "dictionary", "g2p", "language_model"]))
@click.argument("name")
@started
def download(kind: str, name: str, mfa_command: str, dry_run: bool) -> dict[str, Any]:
    """Download a model that MFA publishes, for example `acoustic english_us_arpa`."""
    return run("download", mfa_command, dry_run, kind, name)


@command(mfa)
@click.argument("words", type=click.Path(path_type=Path))
@click.argument("model")
@click.argument("dictionary", type=click.Path(path_type=Path))
@started
def g2p(words: Path, model: str, dictionary: Path, mfa_command: str, dry_run: bool) -> dict[str, Any]:
    """Pronounce WORDS (a list or a corpus) with a g2p MODEL, into DICTIONARY."""
    return run("g2p", mfa_command, dry_run, str(words), model, str(dictionary))


@command(mfa)
@click.argument("corpus", type=FOLDER)
@click.argument("dictionary")
@click.argument("model", type=click.Path(path_type=Path))
@started
def train(corpus: Path, dictionary: str, model: Path, mfa_command: str, dry_run: bool) -> dict[str, Any]:
    """Train an acoustic MODEL on CORPUS (WAV and .lab files, as `mfa corpus` writes them); takes hours."""
    return run("train", mfa_command, dry_run, str(corpus), dictionary, str(model))


@command(mfa)
@click.argument("corpus", type=FOLDER)
@click.argument("dictionary")
@started
def validate(corpus: Path, dictionary: str, mfa_command: str, dry_run: bool) -> dict[str, Any]:
    """Check CORPUS against DICTIONARY: which words it lacks."""
    return run("validate", mfa_command, dry_run, str(corpus), dictionary)


@command(mfa)
@click.argument("build", type=FOLDER)
@click.argument("folder", type=FOLDER)
def corpus(build: Path, folder: Path) -> dict[str, Any]:
    """Write the utterances of BUILD as MFA wants a corpus: one folder per speaker, WAV and .lab files."""
    import pyarrow.parquet as pq

    from aligners.alignment import AlignerInput, prepare_safely
    from aligners.mfa import write_corpus
    from pipelines.build import part_names
    from pipelines.execution.task import batches
    from pipelines.steps.units import decoded

    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    speakers: dict[str | None, Path] = {}
    written = left_out = 0
    for name in part_names(build):
        items: list[AlignerInput] = []
        for batch in batches(pq.read_table(build / "manifest" / name)):
            for utterance, waveform, _ in decoded(batch):
                ready = None if utterance is None or waveform is None else prepare_safely(utterance, waveform)
                items += [ready] if isinstance(ready, AlignerInput) else []
                left_out += not isinstance(ready, AlignerInput)
        write_corpus(items, folder, speakers, written)
        written += len(items)
    return {"folder": str(folder), "utterances": written, "left_out": left_out}
