"""Build a corpus: recordings in, shards out, one command per step, and `build` for all of them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligners import BACKENDS
from commands.cli import (
    FILE,
    FOLDER,
    PathOrUrl,
    cli,
    command,
    config_option,
    engine_options,
    read_config,
    say,
    settings_for,
)
from commands.inspect import print_report
from corpus.adapters import ADAPTERS

if TYPE_CHECKING:
    from pipelines.execution.engine import Engine
    from pipelines.settings import Settings

BACKEND = click.Choice(list(BACKENDS))
STEP_COMMANDS = {
    "cut": "Cut long recordings into utterances.\n\n    At pauses, where [cut] has `enabled = true`; writes the "
    "manifest that the later steps read.",
    "transcribe": "Transcribe utterances without text.\n\n    By the recogniser of [transcribe], if "
    "`enabled = true`; writes the manifest that the later steps read.",
    "quality": "Measure the quality of each utterance.\n\n    Sound and text, a column for each measure; drops "
    "nothing. `wordweave preview` shows what the filters of [quality] drop.",
    "speakers": "Estimate unknown speakers.\n\n    By the voices of the utterances of each recording, where [speakers] "
    "has `enabled = true`; writes the manifest that the later steps read.",
    "units": "Encode utterances to units.",
    "pitch": "Encode utterances to pitch tokens.\n\n    From F0 relative to the speaker's mean. "
    "Shards contain them if [pitch] has `enabled = true`.",
    "style": "Encode utterances to style tokens.\n\n    One per second, relative to the speaker's mean. "
    "Shards contain them if [style] has `enabled = true`.",
    "hashes": "Hash the decoded audio.\n\n    For the duplicates of [duplicates].",
    "duplicates": "Find utterances that repeat an earlier one.\n\n    Or one of an evaluation set, by audio, units "
    "or text, where [duplicates] has `enabled = true`; writes report/duplicates.jsonl.",
    "interleave": "Write the shards.\n\n    Writes the speech, text and interleaved shards of BUILD, their vocabulary "
    "and index.",
}
"""Steps of the build whose command takes no options of its own, with their help."""


def build_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The settings of a build, and what overrides them."""
    for option in (
        click.option("--build", type=FOLDER, help="Overrides `build`, the folder to build in."),
        click.option("--source", type=PathOrUrl(path_type=Path), help="Overrides [corpus] source."),
        click.argument("config", type=FILE),
    ):
        function = option(function)
    return function


@command(cli, "demo-corpus")
@click.argument("folder", type=FOLDER)
@click.option("--utterances", type=click.IntRange(min=1), default=240, show_default=True)
@click.option("--voices", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def demo_corpus(folder: Path, utterances: int, voices: int, seed: int) -> dict[str, Any]:
    """Synthesise a small demo corpus.

    Writes audio, manifest.jsonl, the true word times and text that is not spoken into FOLDER. Same seed, same bytes.
    """
    from corpus.synthetic.speech import synthesise
    from pipelines.execution.progress import progress_bar

    with progress_bar("demo-corpus", utterances, "utterance") as show:
        manifest = synthesise(
            folder, utterances=utterances, voices=voices, seed=seed, progress=lambda done, _: show(done, "")
        )
    return {"manifest": str(manifest), "utterances": utterances}


def print_adapters(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print what every adapter reads, what it expects, and where data sets are published with which licence."""
    if not value:
        return
    for name, adapter in ADAPTERS.items():
        click.secho(name, bold=True)
        click.echo(f"  reads    {adapter.description}\n  expects  {adapter.expects}")
        if adapter.where:
            click.echo(f"  where    {adapter.where}\n  licence  {adapter.licence or 'that of each data set'}")
    ctx.exit()


@command(cli)
@click.argument("adapter", type=click.Choice(list(ADAPTERS)))
@click.argument("source", type=PathOrUrl(exists=True, path_type=Path))
@click.argument("build", type=FOLDER)
@click.option(
    "--where",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_adapters,
    help="Print what each adapter reads, and where data sets are published.",
)
@config_option
@engine_options
def ingest(adapter: str, source: Path, build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Read a corpus into a build's manifest.

    SOURCE is what ADAPTER reads: a JSONL manifest, a LibriSpeech folder, ... Unusable recordings are kept in the
    manifest with a reason.
    """
    from pipelines.build import run_step
    from pipelines.settings import replace

    settings = replace(read_config(config), "corpus", adapter=adapter, source=str(source))
    return run_step("ingest", build, dataclasses.replace(settings, build=str(build)), engine, say=say)


@cli.group()
def fit() -> None:
    """Fit the model of a tokenizer on a build."""


@command(fit, "units")
@click.argument("build", type=FOLDER)
@config_option
@click.option("--import", "source", type=FILE, help="Import this codebook instead of fitting one.")
@click.option("--trust-pickle", is_flag=True, help="Let that file run code: pickles of scikit-learn need it.")
@click.option(
    "--tap",
    type=click.Choice(["after-residual", "before-residual"]),
    default="after-residual",
    help="Where in the layer that codebook's features were taken; encoders give the output, after the residual sum.",
    show_default=True,
)
@click.option(
    "--sweep",
    "lists",
    multiple=True,
    metavar="LISTS",
    help='Only compare: "layers=6,9,11 clusters=100,501". Numbers go to codebooks/sweep.json; no codebook is kept.',
)
@engine_options
def fit_units(
    build: Path,
    config: Path | None,
    source: Path | None,
    trust_pickle: bool,
    tap: str,
    lists: tuple[str, ...],
    engine: "Engine",
) -> dict[str, Any]:
    """Fit the k-means codebook of units.

    Frames are sampled from all parts of BUILD by (seed, id). Codebooks that can be imported: centroids as .npy or saved
    by torch, Spirit LM's linear quantizer, and scikit-learn's, which are pickles.
    """
    from pipelines.build import make_run
    from pipelines.settings import replace, write_settings
    from pipelines.steps import codebook

    if lists and (source or trust_pickle):
        raise click.UsageError("--sweep: imports nothing; leave --import and --trust-pickle out")
    numbers = sweep_lists(lists)
    settings = settings_for(build, config)
    if source:
        return codebook.import_codebook(build, settings, source, trust_pickle=trust_pickle, tap=tap)
    if lists:
        from pipelines.steps.codebook_sweep import sweep

        rows = sweep(make_run(build, settings, engine, say), **numbers)
        return {"sweep": str(build / "codebooks" / "sweep.json"), "fits": len(rows), "rows": rows}
    if trust_pickle:
        settings = replace(settings, "units", trust_pickle=True)
        write_settings(build, settings)
    return {"codebook": str(codebook.fit_units(make_run(build, settings, engine, say)))}


@command(fit, "aligner")
@click.argument("build", type=FOLDER)
@click.option(
    "--dictionary",
    help='"english", "letters" (every letter is a phone), or a file in the format of MFA or CMU; default by language.',
)
@click.option(
    "--import", "source", type=FILE, help="Import this acoustic model of MFA (.zip) instead of training."
)
@click.option("--seed", type=int, default=0, show_default=True)
def fit_aligner(build: Path, dictionary: str | None, source: Path | None, seed: int) -> dict[str, Any]:
    """Fit an aligner for the language of BUILD on its transcribed speech.

    Needs the extra `viter`. The model goes to BUILD/aligner, and the settings of BUILD then use it: run `align` next.
    """
    from pipelines.operations.fit_aligner import fit_aligner
    from pipelines.settings import read_settings, replace, write_settings

    settings = read_settings(build)
    result = fit_aligner(build, dictionary=dictionary, source=source, seed=seed, say=say)
    write_settings(build, replace(settings, "align", backend="viter", options={"model": result["model"]}))
    return result


@command(fit, "pitch")
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def fit_pitch(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Train the VQ-VAE of pitch tokens.

    Uses F0 sampled from all parts of BUILD by (seed, id). Without this command, BUILD uses the bundled model.
    """
    from pipelines.build import make_run
    from pipelines.steps import prosody

    return {"model": str(prosody.fit_pitch(make_run(build, settings_for(build, config), engine, say)))}


@command(fit, "style")
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def fit_style(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Fit the codebook of style tokens.

    Uses seconds of speech sampled from all parts of BUILD by (seed, id). Without this command, BUILD uses the bundled
    codebook.
    """
    from pipelines.build import make_run
    from pipelines.steps import prosody

    return {"codebook": str(prosody.fit_style(make_run(build, settings_for(build, config), engine, say)))}


def sweep_lists(texts: tuple[str, ...]) -> dict[str, list[int]]:
    """The lists of --sweep: "layers=6,9 clusters=100" in one text or several."""
    lists: dict[str, list[int]] = {}
    for text in " ".join(texts).split():
        name, _, numbers = text.partition("=")
        try:
            lists.setdefault(name, []).extend(int(number) for number in numbers.split(","))
        except ValueError:
            lists[name] = []
        if name not in ("layers", "clusters") or not lists[name]:
            raise click.UsageError(f"--sweep: need layers=6,9 or clusters=100,501, got {text!r}")
    if any(count < 2 for count in lists.get("clusters", [])):
        raise click.UsageError("--sweep: need at least 2 clusters")
    return lists


def step_command(step: str, help_text: str) -> Callable[..., Any]:
    """The command of one step, without options of its own."""

    @command(cli, step)
    @click.argument("build", type=FOLDER)
    @config_option
    @engine_options
    def run(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
        from pipelines.build import run_step

        return run_step(step, build, settings_for(build, config), engine, say)

    run.help = help_text
    return run


for name in ("cut", "transcribe", "speakers", "quality", "units", "hashes", "pitch", "style"):
    step_command(name, STEP_COMMANDS[name])


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--backend", type=BACKEND, help="Overrides [align] backend; starts from its defaults.")
@click.option(
    "--second-backend",
    type=BACKEND,
    help="Another backend, to measure how far its word times are from the first's.",
)
@click.option("--mfa-command", help='How to start MFA, for example "conda run -n mfa mfa".')
@config_option
@engine_options
def align(
    build: Path,
    backend: str | None,
    second_backend: str | None,
    mfa_command: str | None,
    config: Path | None,
    engine: "Engine",
) -> dict[str, Any]:
    """Align words to the audio.

    Options given here are written into the settings of the build. With --second-backend the words table gets
    `apart_ms`, and the quality of an utterance `agreement_ms`, which `[align.limits]` can bound.
    """
    from pipelines.build import run_step
    from pipelines.settings import write_settings

    old = settings_for(build, config)
    settings = with_aligners(old, backend, second_backend, mfa_command)
    result = run_step("align", build, settings, engine, say)
    if settings != old:
        write_settings(build, settings)
    return result


def with_aligners(
    settings: "Settings", backend: str | None, second: str | None, mfa_command: str | None
) -> "Settings":
    """The settings with the aligners of the command line; another backend starts from its own defaults."""
    from pipelines.settings import replace

    if backend and backend != settings.align.backend:
        settings = replace(settings, "align", backend=backend, options={})
    if second and second != settings.align.second_backend:
        settings = replace(settings, "align", second_backend=second, second_backend_options={})
    if mfa_command:
        places = {"backend": "options", "second_backend": "second_backend_options"}
        used = [options for setting, options in places.items() if getattr(settings.align, setting) == "mfa"]
        if not used:
            raise click.UsageError(
                "--mfa-command: no aligner is mfa; add --backend mfa or --second-backend mfa"
            )
        for options in used:
            changed = {**getattr(settings.align, options), "command": mfa_command}
            settings = replace(settings, "align", **{options: changed})
    return settings


step_command("duplicates", STEP_COMMANDS["duplicates"])
step_command("interleave", STEP_COMMANDS["interleave"])


@command(cli)
@build_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only report what would run, what is up to date and what is stale, and why.",
)
@engine_options
def build(
    config: Path, source: Path | None, build: Path | None, dry_run: bool, engine: "Engine"
) -> dict[str, Any]:
    """Run the whole build.

    Runs every step as CONFIG says, and the report. Finished parts are kept: run it again after a crash.
    """
    from corpus import files
    from pipelines import build as pipeline

    settings = settings_of_build(config, source, build)
    folder = files.to_path(settings.build)
    if dry_run:
        plans = pipeline.dry_run(folder, settings)
        for plan in plans:
            say(str(plan))
        return {
            "todo": sum(len(plan.todo) for plan in plans),
            "up_to_date": sum(plan.up_to_date for plan in plans),
            "waiting": sum(bool(plan.waits) for plan in plans),
            "stages": [plan.as_dict() for plan in plans],
        }
    return print_report(pipeline.build(folder, settings, engine, say)["report"], folder)


@command(cli)
@build_options
@click.option(
    "--examples",
    type=click.IntRange(min=0),
    default=3,
    help="Utterances to show for each filter.",
    show_default=True,
)
@engine_options
def preview(
    config: Path, source: Path | None, build: Path | None, examples: int, engine: "Engine"
) -> dict[str, Any]:
    """Preview what the filters of CONFIG would drop.

    Measures the corpus, which a later build need not do again, and prints a histogram for each measure, and for each
    filter the hours and some of the utterances that it would drop. Drops nothing.
    """
    from corpus import files
    from pipelines.build import run_to
    from pipelines.operations.preview import preview, say_preview

    settings = settings_of_build(config, source, build)
    run = run_to("quality", files.to_path(settings.build), settings, engine, say)
    result = preview(run, examples)
    say_preview(result, settings, say)
    names = ("in", "kept", "dropped", "rejected")
    return {**{f"hours_{name}": result[name]["hours"] for name in names}, **result}


def settings_of_build(config: Path, source: Path | None, build: Path | None) -> "Settings":
    """The settings of CONFIG with a source and a build folder; a missing one is bad usage."""
    from corpus import files
    from pipelines.settings import replace

    settings = read_config(config)
    if source is not None:
        settings = replace(settings, "corpus", source=str(source))
    if build is not None:
        settings = dataclasses.replace(settings, build=str(build))
    for name, value, flag in (
        ("build", settings.build, "--build"),
        ("corpus.source", settings.corpus.source, "--source"),
    ):
        if not value:
            raise click.UsageError(f"{config.name}: {name} is empty; set it there or give {flag}")
    if not files.to_path(settings.corpus.source).exists():
        raise click.UsageError(f"corpus.source: no such file or folder {settings.corpus.source}")
    return settings
