"""The language model: train, generate, extend, export."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from commands.cli import FILE, FOLDER, cli, command, say


class InOrder(click.Command):
    """Keeps in ctx.meta["order"] the names of options as they were given, which click orders anew."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta["order"] = [param.name for param in order]
        return super().parse_args(ctx, args)


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--config", type=FILE, help="TOML file with training settings, see config/lm/demo.toml.")
@click.option("--output", type=FOLDER, help="Where to train; default BUILD/model.")
@click.option("--tokens", type=click.IntRange(min=1), help="Budget, in place of the file's.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop after so long.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
def train(
    build: Path,
    config: Path | None,
    output: Path | None,
    tokens: int | None,
    minutes: float | None,
    resume: bool,
) -> dict[str, Any]:
    """Train the compact model.

    On the shards of BUILD, by default a third each of text, speech and interleaved.
    """
    from tqdm import tqdm

    from corpus.toml import fill, load_toml
    from lm.training.train import TrainSettings
    from lm.training.train import train as run

    options = {"tokens": tokens, "minutes": minutes}
    options = {name: value for name, value in options.items() if value is not None}
    folders = {"build": str(build), "output": str(output or build / "model")}
    try:
        table = load_toml(config) if config else {}
        settings = fill(TrainSettings, table | options, "train", folders)
    except ValueError as error:
        raise click.UsageError(f"{config.name}: {error}" if config else str(error)) from error
    if not (build / "shards" / "index.json").is_file():
        raise ValueError(f"{build}: no shards here; run `wordweave build` or `wordweave interleave` first")
    first = os.environ.get("RANK", "0") == "0"  # under torchrun only the first process speaks
    look: dict[str, Any] = {"desc": "train", "unit": "token", "unit_scale": True, "disable": not first}
    with tqdm(total=settings.tokens, file=sys.stderr, **look) as bar:

        def progress(line: dict[str, Any]) -> None:
            bar.update(line["tokens"] - bar.n)
            if "loss" in line:
                bar.set_postfix_str(f"loss {line['loss']:.3f}")

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
        "curve": str(Path(settings.output) / "loss.png"),
    }


@command(cli, cls=InOrder)
@click.argument("build", type=FOLDER)
@click.option("--model", type=FOLDER, help="Model folder; default BUILD/model/best.")
@click.option("--text", multiple=True, help="Text of the prompt.")
@click.option(
    "--audio", multiple=True, type=FILE, help="Recording of the prompt, encoded as BUILD's speech was."
)
@click.option("--units", "spoken", multiple=True, help='Unit names of the prompt: "[Hu3][Hu71]".')
@click.option(
    "--to",
    type=click.Choice(["text", "speech", "free"]),
    default="free",
    help="Modality of the answer.",
    show_default=True,
)
@click.option(
    "--task", is_flag=True, help="Ask with [ASR] or [TTS], for a model of strategy concatenated; needs --to."
)
@click.option(
    "--all-directions",
    is_flag=True,
    help="Four answers to a held-out utterance: text and speech, to text and speech.",
)
@click.option(
    "--count", type=click.IntRange(min=1), default=1, help="Answers to a prompt.", show_default=True
)
@click.option(
    "--length", type=click.IntRange(min=1), default=40, help="New tokens, at most.", show_default=True
)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.8, show_default=True)
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=0.95, show_default=True)
@click.option(
    "--top-k",
    type=click.IntRange(min=0),
    default=0,
    help="Draw from so many tokens; 0: all.",
    show_default=True,
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Above 1: what was said becomes less likely.",
    show_default=True,
)
@click.option("--seed", type=int, default=0, show_default=True)
def generate(
    build: Path, model: Path | None, text: tuple[str, ...], audio: tuple[Path, ...], spoken: tuple[str, ...], to: str,
    task: bool, all_directions: bool, count: int, length: int, seed: int, **choices: Any,
) -> dict[str, Any]:  # fmt: skip
    """Continue text or speech.

    The prompt is what --text, --audio and --units say, in the order given; the answer is text or speech tokens.
    """
    import torch

    from lm import generate as lm
    from pipelines.tokenize import listen
    from shards.show import read_spans

    given: dict[str, Any] = {"text": iter(text), "audio": iter(audio), "spoken": iter(spoken)}
    order = [name for name in click.get_current_context().meta["order"] if name in given]
    if all_directions and (order or task):
        raise click.UsageError(
            "--all-directions: takes its prompts from BUILD, leave --text, --audio, --units and --task out"
        )
    if task and to == "free":
        raise click.UsageError("--task: needs --to text or --to speech")
    loaded, vocabulary = lm.load(model or build / "model" / "best")
    asked: list[tuple[list[tuple[str, str]], str | None]]
    if all_directions:
        sample = next((sample for sample, _ in read_spans(build, None, split="valid")), None)
        if sample is None:
            raise ValueError(f"{build}: holds out no utterance; set [shards] valid")
        heard = "".join(vocabulary.decode(sample["speech"][:60]))
        written = " ".join(word[1] for word in sample["json"]["words"][:8])
        asked = [
            ([one], answer) for one in (("text", written), ("speech", heard)) for answer in ("text", "speech")
        ]
    else:
        parts = []
        for name in order:
            content: Any = next(given[name])
            if name == "audio":
                content = listen(build, content)
            parts.append(("text" if name == "text" else "speech", content))
        asked = [(parts, None if to == "free" else to)]
    answers = []
    for parts, answer in asked:
        made = lm.generate_batch(
            loaded, vocabulary, [lm.prompt(parts, vocabulary, answer, task=task)] * count, modality=answer,
            max_new_tokens=length, generator=torch.Generator().manual_seed(seed), **choices,
        )  # fmt: skip
        heading = " + ".join(modality for modality, _ in parts) or "nothing"
        click.secho(f"{heading} to {answer or 'free'}", bold=True)
        for _, content in parts:
            click.secho(f"  {content if len(content) < 160 else content[:160] + ' ...'}", dim=True)
        for ids in made:
            answers.append({"prompt": parts, "to": answer or "free", **lm.described(ids, vocabulary)})
            click.echo(f"  {answers[-1]['tokens']}")
    return {"answers": answers}


@command(cli)
@click.argument("source", type=FOLDER)
@click.argument("build", type=FOLDER)
@click.argument("folder", type=FOLDER)
@click.option(
    "--initialise",
    type=click.Choice(["random", "covariance"]),
    default="random",
    help="New rows: small and random as Spirit LM's, or distributed as the text rows are.",
    show_default=True,
)
@click.option("--rope-theta", type=click.FloatRange(min=1), help="Another base for rotary positions.")
@click.option("--seed", type=int, default=0, show_default=True)
def extend(source: Path, build: Path, folder: Path, **choices: Any) -> dict[str, Any]:
    """Give a text model rows for speech.

    SOURCE is a Llama-family folder whose tokenizer is BUILD's; FOLDER is then what `start_from` of training names.
    """
    from lm.extend import extend as run
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
def export_model(model: Path, folder: Path) -> dict[str, Any]:
    """Write a trained model for `transformers` and vLLM.

    MODEL is a checkpoint or `best/` of a run; FOLDER gets weights, config and a tokenizer that knows the speech tokens.
    """
    from lm.export import export

    export(model, folder)
    return {"model": str(folder), "files": len(list(folder.iterdir()))}
