"""The language model: train, generate, extend, export."""

import os
from pathlib import Path
from typing import Any

import click

from commands.cli import FILE, FOLDER, cli, command, say
from commands.vocoder import VOCODER, VOICE


class OrderedOptions(click.Command):
    """Keeps in ctx.meta["order"] the names of options in the order of the command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta["order"] = [param.name for param in order]
        return super().parse_args(ctx, args)


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--config", type=FILE, help="TOML file with training settings, see config/lm/demo.toml.")
@click.option("--output", type=FOLDER, help="Where to train; default BUILD/model.")
@click.option("--tokens", type=click.IntRange(min=1), help="Token budget. Overrides the config file.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop after this many minutes.")
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint.")
def train(
    build: Path,
    config: Path | None,
    output: Path | None,
    tokens: int | None,
    minutes: float | None,
    resume: bool,
) -> dict[str, Any]:
    """Train a language model.

    On the shards of BUILD, by default one third each of text, speech and interleaved sequences.
    """
    from corpus.toml import fill, load_toml
    from lm.training.train import TrainSettings
    from lm.training.train import train as run
    from pipelines.execution.progress import progress_bar

    options = {"tokens": tokens, "minutes": minutes}
    options = {name: value for name, value in options.items() if value is not None}
    folders = {"build": str(build), "output": str(output or build / "model")}
    try:
        table = load_toml(config) if config else {}
        settings = fill(TrainSettings, table | options, "train", folders)
    except ValueError as error:
        raise click.UsageError(f"{config.name}: {error}" if config else str(error)) from error
    if not (build / "shards" / "index.json").is_file():
        raise ValueError(
            f"{build}: need shards, got none; run `wordweave build` or `wordweave interleave` first"
        )
    first = os.environ.get("RANK", "0") == "0"  # under torchrun only the first process prints
    with progress_bar("train", settings.tokens, "token", quiet=not first) as show:
        note = ""

        def progress(line: dict[str, Any]) -> None:
            nonlocal note
            note = f"loss {line['loss']:.3f}" if "loss" in line else note
            show(line["tokens"], note)

        summary = run(settings, resume=resume, progress=progress)
    if not first:
        click.get_current_context().exit()
    for sentence in summary["sentences"]:
        say(sentence)
    held_out = {f"loss_{name}": values["loss"] for name, values in summary["best"]["streams"].items()}
    entropy = {
        f"entropy_{name}": values["unigram_entropy"] for name, values in summary["best"]["streams"].items()
    }
    return {
        "model": summary["model"],
        **held_out,
        **entropy,
        "tokens": summary["tokens"],
        "plot": str(Path(settings.output) / "loss.png"),
    }


@command(cli, cls=OrderedOptions)
@click.argument("build", type=FOLDER)
@click.option("--model", type=FOLDER, help="Model folder; default BUILD/model/best.")
@click.option("--text", multiple=True, help="Text of the prompt.")
@click.option(
    "--audio", multiple=True, type=FILE, help="Recording of the prompt, encoded as BUILD's speech was."
)
@click.option("--units", multiple=True, help='Unit names of the prompt: "[Hu3][Hu71]".')
@click.option(
    "--to",
    type=click.Choice(["text", "speech", "free"]),
    default="free",
    help="Modality of the answer.",
    show_default=True,
)
@click.option(
    "--task-markers",
    is_flag=True,
    help="Prompt with [ASR] or [TTS] (models trained with `concatenated`); needs --to.",
)
@click.option(
    "--all-directions",
    is_flag=True,
    help="Continue a held-out utterance four times: its text and its speech, in text and in speech.",
)
@click.option("--count", type=click.IntRange(min=1), default=1, help="Answers per prompt.", show_default=True)
@click.option(
    "--length",
    type=click.IntRange(min=1),
    default=40,
    help="Maximum number of new tokens.",
    show_default=True,
)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.8, show_default=True)
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=0.95, show_default=True)
@click.option(
    "--top-k", type=click.IntRange(min=0), default=0, help="Top-k sampling; 0 disables it.", show_default=True
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Values above 1 penalise repetition.",
    show_default=True,
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for the speech as WAV files."
)
@VOICE
@VOCODER
def generate(
    build: Path, text: tuple[str, ...], audio: tuple[Path, ...], units: tuple[str, ...], output: Path | None,
    voice: str | None, vocoder: str | None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Continue text or speech.

    The prompt is --text, --audio and --units, in the given order; the answer is text or speech tokens. --output writes
    the speech of prompts and answers as WAV files, with the bundled vocoder or another one.
    """
    from pipelines.operations.generate import generate as run

    values: dict[str, Any] = {"text": iter(text), "audio": iter(audio), "units": iter(units)}
    order = [name for name in click.get_current_context().meta["order"] if name in values]
    if options["all_directions"] and (order or options["task_markers"]):
        raise click.UsageError(
            "--all-directions: takes its prompts from BUILD; omit --text, --audio, --units and --task-markers"
        )
    if options["task_markers"] and options["to"] == "free":
        raise click.UsageError("--task-markers: needs --to text or --to speech")
    if output is None and (voice or vocoder):
        raise click.UsageError("--voice and --vocoder: need --output, the folder for the WAV files")
    speaker = None
    if output is not None:
        from pipelines.operations.vocode import speaker_of

        speaker, lacking = speaker_of(build, vocoder, voice)
        if speaker is None:
            raise ValueError(f"{build}: needs {lacking}")
    answers = run(build, [(name, next(values[name])) for name in order], **options)
    shown = None
    for answer in answers:
        if (answer["prompt"], answer["to"]) != shown:
            shown = answer["prompt"], answer["to"]
            heading = " + ".join(modality for modality, _ in answer["prompt"]) or "nothing"
            click.secho(f"{heading} to {answer['to']}", bold=True)
            for _, content in answer["prompt"]:
                click.secho(f"  {content if len(content) < 160 else content[:160] + ' ...'}", dim=True)
        click.echo(f"  {answer['tokens']}")
    if output is None or speaker is None:
        return {"answers": answers}
    from lm.speaker import name_of
    from pipelines.operations.vocode import write_answers

    written = write_answers(answers, output, speaker)
    for name in written:
        click.echo(str(output / name))
    return {"answers": answers, "vocoder": name_of(speaker), "wavs": written}


@command(cli, "add-speech-tokens")
@click.argument("source", type=FOLDER)
@click.argument("build", type=FOLDER)
@click.argument("folder", type=FOLDER)
@click.option(
    "--initialise",
    type=click.Choice(["random", "covariance"]),
    default="random",
    help="New rows: small and random as in Spirit LM, or distributed as the text rows.",
    show_default=True,
)
@click.option(
    "--rope-theta", type=click.FloatRange(min=1), help="Base of rotary positions; default: the model's."
)
@click.option("--seed", type=int, default=0, show_default=True)
def add_speech_tokens(source: Path, build: Path, folder: Path, **choices: Any) -> dict[str, Any]:
    """Add speech-token embeddings to a text model.

    SOURCE is a Llama-family model folder with BUILD's tokenizer; train from FOLDER with the setting `start_from`.
    """
    from lm.extend import add_speech_tokens as run
    from shards.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(build / "shards")
    run(source, vocabulary, folder, **choices)
    return {
        "model": str(folder),
        "rows": vocabulary.padded_size,
        "new": vocabulary.size - vocabulary.text_size,
    }


@command(cli, "export-model")
@click.argument("model", type=FOLDER)
@click.argument("folder", type=FOLDER)
@click.option(
    "--for-harness",
    is_flag=True,
    help="For lm-evaluation-harness: the tokenizer begins text as training does.",
)
def export_model(model: Path, folder: Path, for_harness: bool) -> dict[str, Any]:
    """Export a trained model for `transformers` and vLLM.

    MODEL is a checkpoint or `best/` of a run; FOLDER receives weights, config and a tokenizer with the speech tokens.
    """
    from lm.export import export

    export(model, folder, harness=for_harness)
    return {"model": str(folder), "files": len(list(folder.iterdir()))}
