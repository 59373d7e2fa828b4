"""Pre-train your own encoder: phone targets, training, and a comparison with other encoders."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.build import fit
from commands.cli import FILE, cli, command, say

if TYPE_CHECKING:
    from units.pretraining.recipe import Recipe
    from units.pretraining.train import PretrainSettings

SOURCE = click.Path(exists=True, path_type=Path)


@command(fit, "encoder")
@click.argument("sources", nargs=-1, required=True, type=SOURCE)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the encoder."
)
@click.option(
    "--config", type=FILE, help="TOML file, see config/encoder/pure.toml; for stages, compact.toml."
)
@click.option("--steps", type=click.IntRange(min=1), help="Overrides the config file.")
@click.option("--seed", type=int, help="Overrides the config file.")
@click.option("--phones", type=FILE, help="Train on phones too: a file of `wordweave phones`.")
@click.option(
    "--teacher",
    "teacher_path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Distil this encoder: a directory in Hugging Face format (HuBERT, wav2vec2 or Whisper).",
)
@click.option(
    "--start",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Continue from this encoder.",
)
@click.option(
    "--without-own-target",
    is_flag=True,
    help="Leave out the target `own`: the control run for a further iteration.",
)
@click.option("--device", help="cpu or cuda. Overrides the config file.")
@click.option("--resume", is_flag=True, help="Resume exactly from the last checkpoint.")
@click.option(
    "--stop-after",
    type=click.IntRange(min=1),
    help="Stop at this step with a checkpoint; the learning-rate schedule is unchanged.",
)
def fit_encoder(
    sources: tuple[Path, ...],
    output: Path,
    config: Path | None,
    without_own_target: bool,
    resume: bool,
    stop_after: int | None,
    **options: Any,
) -> dict[str, Any]:
    """Pre-train a compact HuBERT.

    SOURCES are JSONL manifests or builds; transcripts are not needed. `transformers` can read OUTPUT, and `[units]
    encoder` can name it. A config with [[stages]] trains them in sequence and then fits a codebook; there --resume
    also skips finished stages and starts missing ones.
    """
    from pipelines.reports.phones import read_speech
    from units.pretraining.recipe import follow
    from units.pretraining.train import Recording, pretrain

    given = {name: str(v) if isinstance(v, Path) else v for name, v in options.items() if v is not None}
    recipe = read_recipe(config, given, output)
    if recipe and (stop_after or "steps" in given):
        raise click.UsageError(
            f"{config}: has stages with their own steps; leave out --steps and --stop-after"
        )
    settings = None if recipe else read_pretraining(config, given)
    if without_own_target:
        if settings is None or "own" not in settings.targets or len(settings.targets) == 1:
            raise click.UsageError(
                "--without-own-target: need another target than `own` in one stage; see config/encoder/own.toml"
            )
        targets = {name: classes for name, classes in settings.targets.items() if name != "own"}
        settings = dataclasses.replace(settings, targets=targets)
    rejects: dict[str, int] = {}
    recordings = [
        Recording(item.id, item.speaker or "", wave)
        for source in sources
        for item, wave in read_speech(source, rejects)
    ]
    if not recordings:
        raise ValueError(f"{sources[0]}: need at least one recording that can be read, got none: {rejects}")
    if rejects:
        say(
            f"fit encoder: left out: {', '.join(f'{count} {reason}' for reason, count in sorted(rejects.items()))}"
        )

    def progress(line: dict[str, Any]) -> None:
        shares = [
            f"{name} {value:.3f}" for name, value in line.items() if name.startswith(("masked", "unmasked"))
        ]
        stage = f"stage {line['stage']}  " if "stage" in line else ""
        say(
            f"{stage}step {line['step']}  {line['seconds']:.0f} s  loss {line['loss']:.3f}  {'  '.join(shares)}"
        )

    if recipe:
        return {"encoder": str(output)} | follow(recordings, recipe, output, resume=resume, progress=progress)
    assert settings
    summary = pretrain(recordings, settings, output, resume=resume, stop_after=stop_after, progress=progress)
    return {"encoder": str(output), "rejects": rejects} | {
        name: summary[name] for name in ("steps", "seconds")
    }


def read_recipe(config: Path | None, options: dict[str, Any], output: Path) -> "Recipe | None":
    """The stages of a TOML file that has any; keys outside [[stages]] are defaults of every stage."""
    from corpus.toml import fill
    from units.pretraining.recipe import Recipe, stage_folder

    table = read_table(config)
    if "stages" not in table:
        return None
    stages = table.pop("stages")
    own: dict[str, Any] = {
        name: table.pop(name) for name in ("clusters", "lower", "codebook_leave_out") if name in table
    }
    if isinstance(stages, list) and all(isinstance(stage, dict) for stage in stages):
        stages = [
            with_targets(
                {**table, **stage, **options, **({"start": str(stage_folder(output, n))} if n else {})}
            )
            for n, stage in enumerate(stages)
        ]
    try:
        return fill(Recipe, {"stages": stages, **own})
    except ValueError as error:
        raise click.UsageError(f"{config.name if config else ''}: {error}") from error


def read_pretraining(config: Path | None, options: dict[str, Any]) -> "PretrainSettings":
    """Settings from a TOML file and the options; a mistake in them is wrong usage."""
    from corpus.toml import fill
    from units.pretraining.train import PretrainSettings

    table = read_table(config)
    try:
        return fill(PretrainSettings, with_targets(table | options))
    except ValueError as error:
        raise click.UsageError(f"{config.name}: {error}" if config else str(error)) from error


def read_table(config: Path | None) -> dict[str, Any]:
    """The content of a TOML file; {} where none is given."""
    from corpus.toml import load_toml

    try:
        return load_toml(config) if config else {}
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def with_targets(table: dict[str, Any]) -> dict[str, Any]:
    """The directory of --teacher in its table; the target `phones` where a file of phones is named without one."""
    if isinstance(table.get("teacher"), str):
        raise click.UsageError(f"need a table [teacher] with the key path, got {table['teacher']!r}")
    if directory := table.get("teacher_path"):
        table = {name: value for name, value in table.items() if name != "teacher_path"}
        table["teacher"] = {**table.get("teacher", {}), "path": directory}
    from units.pretraining.targets import count_phones
    from units.pretraining.train import PretrainSettings

    targets = table.get("targets", PretrainSettings().targets)
    phones = table.get("phones")
    if not phones or not isinstance(phones, str) or not isinstance(targets, dict) or "phones" in targets:
        return table
    try:
        return table | {"targets": {**targets, "phones": count_phones(phones)}}
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@command(cli)
@click.argument("sources", nargs=-1, required=True, type=SOURCE)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write."
)
@click.option(
    "--transcribe",
    is_flag=True,
    help="Recognise recordings without a transcript with pocketsphinx.",
)
def phones(sources: tuple[Path, ...], output: Path, transcribe: bool) -> dict[str, Any]:
    """Write phones and their times, for `fit encoder` and `compare`.

    SOURCES are JSONL manifests or builds, in English.
    """
    from pipelines.reports.phones import write_phones

    return write_phones(list(sources), output, transcribe=transcribe, progress=say)


@command(cli)
@click.argument("encoders", nargs=-1, required=True)
@click.option(
    "--speech", type=SOURCE, multiple=True, required=True, help="Speech with transcripts to score on."
)
@click.option(
    "--fit", "fit_on", type=SOURCE, multiple=True, help="Speech to fit k-means on; default: that of --speech."
)
@click.option(
    "--phones", "phones_file", type=FILE, help="A file of `wordweave phones`; default: align the speech."
)
@click.option(
    "--align", "backend", default="pocketsphinx", help="Aligner for the phone labels.", show_default=True
)
@click.option(
    "--discophon",
    metavar="LANGUAGE-SPLIT",
    help="Score on this set of the benchmark discophon, such as eng-test; --speech is its folder.",
)
@click.option("--speaker", "speakers", multiple=True, help="Score only these speakers.")
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Score at most this many seconds per speaker.",
)
@click.option("--clusters", type=click.IntRange(min=2), default=501, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    help="Number of k-means fits to average.",
    show_default=True,
)
@click.option(
    "--recogniser",
    help='Also count word errors of speech rebuilt by the bundled vocoder: "pocketsphinx", or a command that prints '
    "the transcript of its last argument, a WAV.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="JSON of the numbers, for `scoreboard`."
)
def compare(
    encoders: tuple[str, ...], speech: tuple[Path, ...], fit_on: tuple[Path, ...], phones_file: Path | None,
    backend: str, discophon: str | None, speakers: tuple[str, ...], max_seconds: float | None, clusters: int,
    seeds: int, output: Path | None, recogniser: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Compare encoders in one table.

    ENCODERS are "compact", "mfcc", "logmel" (a baseline) or folders, for example in Hugging Face format; "NAME@4" is
    layer 4. Good units carry phone information on unseen speakers (xPNMI), and do not change with noise and gain.
    """
    from pipelines.reports.encoder_comparison import as_table, brief_row
    from pipelines.reports.encoder_comparison import compare as run
    from pipelines.reports.phones import speech_with_phones, waveforms_of

    rejects: dict[str, int] = {}
    tokens = None
    if discophon:
        if len(speech) != 1 or phones_file or speakers or max_seconds:
            raise click.UsageError(
                "--discophon: has its own phones and speakers; name its folder with one --speech, and leave out "
                "--phones, --speaker and --max-seconds"
            )
        from pipelines.reports.discophon import read_discophon

        items, tokens = read_discophon(speech[0], discophon, rejects)
    else:
        items = speech_with_phones(speech, phones_file, backend, set(speakers), max_seconds, rejects)
    waves = waveforms_of(fit_on, rejects) if fit_on else [item.waveform for item in items]
    for reason, count in sorted(rejects.items()):
        say(f"compare: left out {count}: {reason}")
    if len({item.speaker for item in items}) < 2:
        say("compare: no xPNMI: need at least 2 speakers in the field `speaker`")
    rows = run(
        encoders, waves, items, clusters=clusters, seeds=range(seeds), tokens=tokens, recogniser=recogniser,
        report=lambda row: say(brief_row(row)),
    )  # fmt: skip
    click.echo(as_table(rows), err=False)
    if output:
        from lm.evaluation.evaluate import write_results

        data = f"discophon {discophon}" if discophon else ", ".join(str(path) for path in speech)
        write_results(output, {"encoders": list(encoders), "data": data, "rows": rows})
    return {
        "utterances": len(items), "speakers": len({item.speaker for item in items}),
        "seconds": sum(len(item.waveform) for item in items) / 16_000, "rejects": rejects, "rows": rows,
    }  # fmt: skip
