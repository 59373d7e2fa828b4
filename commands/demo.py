"""The whole path on a small synthetic corpus, with one command."""

import importlib.util
from pathlib import Path
from typing import Any

import click

from commands.cli import cli, command, say


@command(cli)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("build/demo"))
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Worker processes.", show_default=True)
@click.option("--utterances", type=click.IntRange(min=20), default=240, show_default=True)
@click.option("--tokens", type=click.IntRange(min=1), default=400_000, help="To train on.", show_default=True)
def demo(folder: Path, workers: int, utterances: int, tokens: int) -> dict[str, Any]:
    """Run the whole path on a small synthetic corpus.

    Synthesises a corpus into FOLDER-speech, builds FOLDER (default build/demo), trains a model for a minute, continues
    four prompts, and writes a page to look at and listen to. About five minutes; needs the extra `demo`.
    """
    from pipelines.operations.demo import write_demo_settings

    if importlib.util.find_spec("espeakng_loader") is None:
        raise ValueError("demo: needs the package espeakng-loader; run `pip install espeakng-loader`")
    speech = folder.with_name(f"{folder.name}-speech")
    build_settings, training_settings = write_demo_settings(folder, speech)
    for words in (
        ["demo-corpus", speech, "--utterances", utterances],
        ["build", build_settings, "--workers", workers],
        ["train", folder, "--config", training_settings, "--tokens", tokens],
        ["show", folder],
        ["generate", folder, "--all-directions", "--output", folder / "speech"],
        ["report", folder],  # once more: with the training curves
    ):
        name, *arguments = map(str, words)
        say(f"$ wordweave {name} {' '.join(arguments)}")
        cli.commands[name].main(arguments, f"wordweave {name}", standalone_mode=False)
    return {"page": str(folder / "report" / "index.html"), "speech": str(folder / "speech")}
