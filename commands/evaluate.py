"""Evaluate a model on test sets."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FILE, FOLDER, cli, command
from commands.vocoder import VOCODER, VOICE


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--model", type=FOLDER, help="Model folder; default BUILD/model/best.")
@click.option(
    "--testset",
    "testsets",
    type=FOLDER,
    multiple=True,
    help="Test-set folder; without any, synthetic ones are made.",
)
@click.option(
    "--items",
    type=click.IntRange(min=1),
    default=100,
    help="Pairs in a synthetic test set.",
    show_default=True,
)
@click.option("--split", type=click.Choice(["dev", "test"]), default="test", show_default=True)
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    default=8192,
    help="Tokens of one forward pass. Affects speed only.",
    show_default=True,
)
@click.option("--eos", is_flag=True, help="Score the end of the document too.")
@click.option(
    "--task-markers",
    is_flag=True,
    help="Use the [ASR]/[TTS] markers in cross-modal prompts (models trained with `concatenated`).",
)
@click.option(
    "--shots",
    type=click.IntRange(min=0),
    help="Number of examples in a few-shot prompt; default as in the paper, none for sentiment.",
)
@click.option(
    "--samples-per-prompt",
    type=click.IntRange(min=1),
    help="Samples per prompt, averaged (default 3; 1 for synthetic test sets).",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=32, help="Continuations at a time.", show_default=True
)
@VOICE
@VOCODER
@click.option("--recogniser", help="Command that prints the transcript of its last argument, a WAV.")
@click.option("--stop-recording", type=FILE, help="Recording of the word stop, for few-shot TTS.")
@click.option(
    "--text-classifier",
    type=FOLDER,
    help="Hugging Face sentiment classifier; default: fitted on the test set's train items.",
)
@click.option("--speech-classifier", type=FOLDER, help="The same for recordings.")
@click.option("--compare", is_flag=True, help="Print the paper's numbers next to ours.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON; default BUILD/evaluation/results.json.",
)
def evaluate(
    build: Path, testsets: tuple[Path, ...], model: Path | None, items: int, stop_recording: Path | None,
    samples_per_prompt: int | None, vocoder: str | None, voice: str | None, compare: bool, output: Path | None,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Score a model on test sets.

    In text, in speech and across; recordings are encoded as BUILD's speech was. Without --testset synthetic ones are
    made in BUILD/evaluation.
    """
    from lm.evaluation.tasks.base import TaskOptions
    from pipelines.operations.evaluate import evaluate_model

    samples = samples_per_prompt or (3 if testsets else 1)
    results = evaluate_model(
        build, testsets, model=model, items=items, options=TaskOptions(samples_per_prompt=samples, **options),
        stop_recording=stop_recording, vocoder=vocoder, voice=voice, output=output, say=click.echo,
    )  # fmt: skip
    if compare:
        print_comparison(results["comparison"])
    return {"results": str(results["path"]), "rows": len(results["rows"])}


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--testset", type=FOLDER, help="Measure recordings of this test set; default: of BUILD itself.")
@click.option(
    "--count", type=click.IntRange(min=1), default=50, help="Utterances of BUILD itself.", show_default=True
)
@VOICE
@VOCODER
@click.option("--recogniser", help="Command that prints the transcript of its last argument, a WAV.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON; default BUILD/evaluation/resynthesis.json.",
)
def resynthesis(build: Path, testset: Path | None, **options: Any) -> dict[str, Any]:
    """Measure what units, pitch and style preserve.

    Bits per second, F0 decoded from pitch tokens, labels predicted from tokens, and the output of the vocoder. The
    paper's numbers are shown next to ours.
    """
    from pipelines.operations.evaluate import measure_tokens

    results = measure_tokens(build, testset, **options)
    print_comparison(results["comparison"])
    return {
        "results": str(results["path"]),
        "seconds": results["seconds"],
        "bits_per_second": results["bits"]["nominal"],
    }


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--testset", type=FOLDER, required=True, help="Test set with spoken contexts to continue.")
@click.option(
    "--recogniser", required=True, help="Command that prints the transcript of its last argument, a WAV."
)
@click.option("--text-model", type=FOLDER, help="Text model in Hugging Face format, for GenPPL.")
@click.option("--model", type=FOLDER, help="Model folder; default BUILD/model/best.")
@click.option(
    "--prompt-units",
    type=click.IntRange(min=1),
    default=75,
    help="First units of a context.",
    show_default=True,
)
@click.option(
    "--new-tokens", type=click.IntRange(min=1), default=150, help="Of a continuation.", show_default=True
)
@VOICE
@VOCODER
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON; default BUILD/evaluation/generation.json.",
)
def generation(build: Path, testset: Path, recogniser: str, **options: Any) -> dict[str, Any]:
    """Measure spoken continuations by their transcripts.

    The model continues the spoken contexts of a test set; the vocoder speaks, the recogniser writes down. GenPPL is the
    perplexity of the transcripts under a text model, auto-BLEU, self-BLEU and VERT say how much they repeat.
    """
    from pipelines.operations.evaluate import measure_continuations

    results = measure_continuations(build, testset, recogniser, **options)
    for row in results["rows"]:
        number = f"not run: {row['not_run']}" if "not_run" in row else f"{row['value']:.1f}"
        interval = "" if "not_run" in row else f" [{row['low']:.1f}, {row['high']:.1f}]"
        click.echo(f"{row['measure']:<10} {number}{interval}")
    return {"results": str(results["path"]), "items": results["rows"][0]["items"]}


@command(cli)
@click.argument("text", type=FILE)
@click.argument("models", nargs=-1, required=True, type=FOLDER)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N documents.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="JSON of the numbers.")
def perplexity(
    text: Path, models: tuple[Path, ...], limit: int | None, device: str, output: Path | None
) -> dict[str, Any]:
    """Measure what models know of written text.

    TEXT has a document per line, written as in training (without case and punctuation where `[text] normalisation` is
    "spoken"). MODELS are compared with the first: the text model before training on speech, then what became of it.
    """
    from lm.evaluation.evaluate import write_results
    from lm.evaluation.text_loss import compare_text, text_table

    rows = compare_text(models, text, limit=limit, device=device)
    click.echo(text_table(rows))
    if output:
        write_results(output, {"text": str(text), "rows": rows})
    return {"models": len(rows), "perplexity": [row["perplexity"] for row in rows]}


@command(cli)
@click.argument("results", nargs=-1, type=FILE)
@click.option("--task", "tasks", multiple=True, help="Only these tasks, such as units or tstorycloze.")
def scoreboard(results: tuple[Path, ...], tasks: tuple[str, ...]) -> dict[str, Any]:
    """Print our numbers beside published ones.

    RESULTS are files of `evaluate`, `compare --output`, `generation` and lm-evaluation-harness; without any, the
    numbers of the bundled encoders. Each published number has its source, and says whether its data are the same.
    """
    from lm.evaluation.published_scores import all_scores, published_scores
    from lm.evaluation.published_scores import scoreboard as table

    ours, published = all_scores(results), published_scores()
    chosen = [score for score in ours if not tasks or score.task in tasks]
    if not chosen:
        raise click.UsageError(
            f"--task: need some of {sorted({score.task for score in ours})}, got {list(tasks)}"
        )
    click.echo(table(chosen, published))
    keys = {score.key for score in chosen}
    return {"ours": len(chosen), "published": sum(score.key in keys for score in published)}


def print_comparison(lines: list[dict[str, Any]]) -> None:
    """The table of our numbers and the paper's."""
    from lm.evaluation.results import Comparison, heading

    for line in (heading(), *(Comparison(**line).to_text() for line in lines)):
        click.echo(line)
