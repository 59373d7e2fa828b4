"""Speech from tokens: synthesise it, and train a vocoder."""

import sys
from pathlib import Path
from typing import Any

import click

from commands.build import fit
from commands.cli import FILE, cli, command, say

SOURCE = click.Path(exists=True, path_type=Path)
VOCODER = click.option(
    "--vocoder",
    help="A directory of a vocoder, or a command: JSON of speech tokens on stdin, the WAV to write as last argument. "
    "Default: the bundled one.",
)
VOICE = click.option("--voice", help="A voice of the vocoder, or a recording to take the voice of.")


@command(cli)
@click.argument("tokens")
@click.argument("utterance_id", metavar="[ID]", required=False)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="WAV file to write."
)
@VOICE
@VOCODER
@click.option(
    "--predict-lengths",
    is_flag=True,
    help="Of an utterance: leave out the lengths of its units and predict them.",
)
def vocode(
    tokens: str,
    utterance_id: str | None,
    output: Path,
    voice: str | None,
    vocoder: str | None,
    predict_lengths: bool,
) -> dict[str, Any]:
    """Synthesise speech tokens.

    TOKENS is a string such as "[Pi3][Hu7][Hu90]", a text file of one, "-" for standard input, or a build with the ID of
    one of its utterances.
    """
    from pipelines.operations.vocode import vocode_tokens, vocode_utterance

    if Path(tokens).is_dir():
        if utterance_id is None:
            raise click.UsageError(f"{tokens}: need the ID of an utterance of this build")
        return vocode_utterance(
            Path(tokens), utterance_id, output, vocoder=vocoder, voice=voice, predict_lengths=predict_lengths
        )
    if utterance_id is not None or predict_lengths:
        raise click.UsageError(f"{tokens[:60]}: is no build; leave out the ID and --predict-lengths")
    if tokens == "-":
        tokens = sys.stdin.read()
    elif not tokens.startswith("["):
        if not Path(tokens).is_file():
            raise click.UsageError(
                f"{tokens[:60]}: need tokens such as [Hu7][Hu90], a file of them or a build"
            )
        tokens = Path(tokens).read_text(encoding="utf-8", errors="replace")
    return vocode_tokens("".join(tokens.split()), output, vocoder=vocoder, voice=voice)


@command(fit, "vocoder")
@click.argument("sources", nargs=-1, required=True, type=SOURCE)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the vocoder."
)
@click.option("--config", type=FILE, help="TOML file, see config/vocoder/compact.toml.")
@click.option("--encoder", default="compact", show_default=True, help="Encoder of the units.")
@click.option("--layer", type=int, help="Its layer; default: the last.")
@click.option(
    "--codebook", type=FILE, help="Codebook of the units; default: the one bundled with the encoder."
)
@click.option(
    "--pitch", type=click.Path(exists=True, path_type=Path), help="Pitch tokenizer; default: the bundled one."
)
@click.option(
    "--style", type=click.Path(exists=True, path_type=Path), help="Style tokenizer; default: the bundled one."
)
@click.option("--steps", type=click.IntRange(min=1), help="Overrides the config file.")
@click.option("--seed", type=int, help="Overrides the config file.")
@click.option("--device", help="cpu or cuda. Overrides the config file.")
@click.option("--resume", is_flag=True, help="Resume exactly from the last checkpoint.")
@click.option(
    "--stop-after",
    type=click.IntRange(min=1),
    help="Stop at this step with a checkpoint; the learning-rate schedule is unchanged.",
)
def fit_vocoder(
    sources: tuple[Path, ...], output: Path, config: Path | None, resume: bool, stop_after: int | None,
    encoder: str, layer: int | None, codebook: Path | None, pitch: Path | None, style: Path | None,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train a vocoder for the units of an encoder.

    SOURCES are JSONL manifests or builds; transcripts are not needed. On a CPU in an hour; on a GPU with the
    discriminators of config/vocoder/gpu.toml.
    """
    from commands.encoder import read_table
    from corpus.toml import fill
    from pipelines.operations.fit_vocoder import fit_vocoder as run
    from units.vocoder.train import VocoderSettings

    table = read_table(config) | {name: value for name, value in options.items() if value is not None}
    try:
        settings = fill(VocoderSettings, table)
    except ValueError as error:
        raise click.UsageError(f"{config.name}: {error}" if config else str(error)) from error

    def progress(line: dict[str, Any]) -> None:
        shown = ("loss", "mel", "encoder", "validation_mel", "validation_encoder")
        parts = "  ".join(f"{name} {line[name]:.3f}" for name in shown if name in line)
        say(f"step {line['step']}  {line['seconds']:.0f} s  {parts}")

    return run(
        sources, settings, output, encoder=encoder, layer=layer, codebook=codebook, pitch=pitch, style=style,
        resume=resume, stop_after=stop_after, progress=progress, say=say,
    )  # fmt: skip
