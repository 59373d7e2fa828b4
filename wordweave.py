"""The front door: one click command per step. Heavy imports stay inside commands, so that `--help` is instant."""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipelines.run import Engine
    from pipelines.settings import Settings

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class FrontDoor(click.Group):
    """A group that says every mistake in one line on stderr: exit 2 for bad usage, 1 for bad data or a failed stage."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the work, not of the alphabet."""
        return list(self.commands)

    def main(self, *args: Any, **more: Any) -> None:  # type: ignore[override]
        try:
            sys.exit(super().main(*args, **{**more, "standalone_mode": False}) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.ClickException as error:
            line = " ".join(error.format_message().split())
            help_of = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
            click.echo(f"wordweave: {line}{f'; see `{help_of} --help`' if help_of else ''}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("wordweave: stopped", err=True)
            sys.exit(1)


@click.group(cls=FrontDoor, name="wordweave", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wordweave")
def cli() -> None:
    """Recordings, transcripts and text in; interleaved speech-text shards and a language model out."""


class InOrder(click.Command):
    """Keeps in ctx.meta["order"] the names of options as they were given, which click orders anew."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta["order"] = [param.name for param in order]
        return super().parse_args(ctx, args)


def command(
    group: click.Group, name: str | None = None, cls: type[click.Command] = click.Command
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command that prints its result as the last line and turns a user's mistake into one line on stderr.

    The function returns a dict; the line is `key=value` words, or JSON with --json. ValueError is bad data or a failed
    stage (exit 1); click.UsageError is bad usage (exit 2).
    """

    def make(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def run(*, as_json: bool, **arguments: Any) -> None:
            try:
                result = function(**arguments)
            except ValueError as error:
                raise click.ClickException(str(error)) from error
            except OSError as error:
                raise click.ClickException(
                    f"{error.filename or 'file'}: {error.strerror or error}"
                ) from error
            except KeyboardInterrupt:
                raise click.ClickException(
                    "stopped; finished parts are kept, the same command goes on from there"
                ) from None
            if as_json:
                click.echo(json.dumps(result, sort_keys=True, default=str))
            else:
                plain = {key: value for key, value in result.items() if not isinstance(value, list | dict)}
                if plain:
                    click.echo(" ".join(f"{key}={brief(value)}" for key, value in plain.items()))

        said = click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
        return group.command(name, cls=cls)(said(run))

    return make


def brief(value: Any) -> str:
    """A value for the result line."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def say(line: str) -> None:
    """Talk goes to stderr."""
    click.echo(line, err=True)


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every stage command, given to it as one `engine`."""

    @click.option(
        "--engine",
        type=click.Choice(["beam", "local"]),
        default="beam",
        help="Who runs the parts.",
        show_default=True,
    )
    @click.option(
        "--workers", type=click.IntRange(min=1), default=1, help="Worker processes.", show_default=True
    )
    @click.argument("engine_words", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE OPTIONS]")
    @functools.wraps(function)
    def with_engine(*, engine: str, workers: int, engine_words: tuple[str, ...], **arguments: Any) -> Any:
        from pipelines.run import Engine

        return function(engine=Engine(engine, workers, engine_words), **arguments)

    return with_engine


def read_settings(config: Path | None) -> "Settings":
    """Settings from a TOML file; a mistake in it is bad usage."""
    from pipelines import settings

    try:
        return settings.read(config) if config else settings.Settings()
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def settings_of(build: Path, config: Path | None) -> "Settings":
    """The settings a stage runs with: --config where given (then remembered in the build), else the build's own."""
    from pipelines import build as steps

    steps.part_names(build)
    if config is None:
        return steps.recall(build)
    asked, made = read_settings(config), steps.recall(build)
    settings = dataclasses.replace(
        asked, build=made.build, corpus=dataclasses.replace(made.corpus, unaligned=asked.corpus.unaligned)
    )
    steps.remember(build, settings)
    return settings


config_option = click.option(
    "--config", type=FILE, help="TOML file, see config/demo.toml. Without it: the build's own settings."
)


@command(cli)
@click.argument("folder", type=FOLDER)
@click.option("--utterances", type=click.IntRange(min=1), default=240, show_default=True)
@click.option("--voices", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def synth(folder: Path, utterances: int, voices: int, seed: int) -> dict[str, Any]:
    """Speak a small corpus, to try things on.

    Writes audio, manifest.jsonl, the true word times and text that was not spoken into FOLDER. Same seed, same bytes.
    """
    from tqdm import tqdm

    from corpus.synth import synthesise

    with tqdm(total=utterances, desc="synth", unit="utterance", file=sys.stderr) as bar:
        manifest = synthesise(
            folder,
            utterances=utterances,
            voices=voices,
            seed=seed,
            progress=lambda done, _: bar.update(done - bar.n),
        )
    return {"manifest": str(manifest), "utterances": utterances}


@command(cli)
@click.argument("adapter", type=click.Choice(["jsonl", "librispeech"]))
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("build", type=FOLDER)
@config_option
def ingest(adapter: str, source: Path, build: Path, config: Path | None) -> dict[str, Any]:
    """Read a corpus into a build's manifest.

    SOURCE is a JSONL manifest or a LibriSpeech folder. What cannot be used stays in the manifest with a reason.
    """
    from pipelines import build as steps
    from pipelines import settings

    asked = settings.replace(read_settings(config), "corpus", adapter=adapter, source=str(source))
    return steps.ingest(build, dataclasses.replace(asked, build=str(build)), say=say)


@cli.group()
def fit() -> None:
    """Fit a tokenizer's model on a build."""


@command(fit, "units")
@click.argument("build", type=FOLDER)
@config_option
@click.option("--import", "source", type=FILE, help="Take this codebook of others instead of fitting one.")
@click.option("--trust-pickle", is_flag=True, help="Let that file run code: scikit-learn's need it.")
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
    lists: tuple[str, ...],
    engine: "Engine",
) -> dict[str, Any]:
    """Fit the k-means codebook of units.

    Frames are drawn from all parts of BUILD by (seed, id). Codebooks that can be imported: centroids as .npy or saved
    by torch, Spirit LM's linear quantizer, and scikit-learn's, which are pickles.
    """
    from pipelines import build as steps
    from pipelines import settings

    if lists and (source or trust_pickle):
        raise click.UsageError("--sweep: imports nothing; leave --import and --trust-pickle out")
    numbers = sweep_lists(lists)
    asked = settings_of(build, config)
    if lists or source:
        from pipelines import lab

        if source:
            path = lab.import_codebook(build, asked, source, trust_pickle=trust_pickle)
            return {
                "codebook": str(path),
                "imported": str(source),
                "clusters": steps.recall(build).units.clusters,
            }
        rows = lab.sweep(build, asked, engine, **numbers, say=say)
        return {"sweep": str(build / "codebooks" / "sweep.json"), "fits": len(rows), "rows": rows}
    if trust_pickle:
        asked = settings.replace(asked, "units", trust_pickle=True)
        steps.remember(build, asked)
    return {"codebook": str(steps.fit_units(build, asked, engine, say=say))}


@command(fit, "pitch")
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def fit_pitch(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Train the VQ-VAE of pitch tokens.

    On F0 drawn from all parts of BUILD by (seed, id). Without it the bundled one is used.
    """
    from pipelines import expressive

    return {"model": str(expressive.fit_pitch(build, settings_of(build, config), engine, say=say))}


@command(fit, "style")
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def fit_style(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Fit the codebook of style tokens.

    On seconds of speech drawn from all parts of BUILD by (seed, id). Without it the bundled one is used.
    """
    from pipelines import expressive

    return {"codebook": str(expressive.fit_style(build, settings_of(build, config), engine, say=say))}


def sweep_lists(words: tuple[str, ...]) -> dict[str, list[int]]:
    """The lists of --sweep: "layers=6,9 clusters=100" in one word or several."""
    found: dict[str, list[int]] = {}
    for word in " ".join(words).split():
        name, _, numbers = word.partition("=")
        try:
            found.setdefault(name, []).extend(int(number) for number in numbers.split(","))
        except ValueError:
            found[name] = []
        if name not in ("layers", "clusters") or not found[name]:
            raise click.UsageError(f"--sweep: need layers=6,9 or clusters=100,501, got {word!r}")
    if any(count < 2 for count in found.get("clusters", [])):
        raise click.UsageError("--sweep: need at least 2 clusters")
    return found


@command(cli)
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def units(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Utterances to units."""
    from pipelines import build as steps

    return steps.encode(build, settings_of(build, config), engine)


@command(cli)
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def pitch(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Utterances to pitch tokens.

    12.5 a second, from F0 above or below the speaker's mean. They go into shards with `use = true` under [pitch].
    """
    from pipelines import expressive

    return expressive.pitch(build, settings_of(build, config), engine)


@command(cli)
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def style(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Utterances to style tokens.

    One a second, from how it is said against the speaker's mean. They go into shards with `use = true` under [style].
    """
    from pipelines import expressive

    return expressive.style(build, settings_of(build, config), engine)


@command(cli)
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def align(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Utterances to word times."""
    from pipelines import build as steps

    return steps.align(build, settings_of(build, config), engine)


@command(cli)
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def interleave(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Words and units to shards.

    Writes the speech, text and interleaved shards of BUILD, their vocabulary and index.
    """
    from pipelines import build as steps

    return steps.interleave(build, settings_of(build, config), engine, say=say)


@command(cli)
@click.argument("config", type=FILE)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Manifest or folder, in place of the file's [corpus] source.",
)
@click.option("--build", "folder", type=FOLDER, help="Where to build, in place of the file's `build`.")
@engine_options
def build(config: Path, source: Path | None, folder: Path | None, engine: "Engine") -> dict[str, Any]:
    """All of it: ingest, fit, units, align, ...

    Runs every stage as CONFIG says, and the report. Finished parts are kept: run it again after a crash.
    """
    from pipelines import build as steps
    from pipelines import card as cards
    from pipelines import report as reports
    from pipelines import settings
    from pipelines.run import alone

    asked = read_settings(config)
    if source is not None:
        asked = settings.replace(asked, "corpus", source=str(source))
    if folder is not None:
        asked = dataclasses.replace(asked, build=str(folder))
    for name, value, flag in (
        ("build", asked.build, "--build"),
        ("corpus.source", asked.corpus.source, "--source"),
    ):
        if not value:
            raise click.UsageError(f"{config.name}: {name} is empty; set it there or give {flag}")
    if not Path(asked.corpus.source).exists():
        raise click.UsageError(f"corpus.source: no such file or folder {asked.corpus.source}")
    place = Path(asked.build)
    with alone(place):
        steps.ingest(place, asked, say=say)
        steps.fit_units(place, asked, engine, say=say)
        steps.encode(place, asked, engine)
        for table in steps.expressive_tables(asked):
            from pipelines import expressive

            getattr(expressive, table)(place, asked, engine)
        steps.align(place, asked, engine)
        steps.interleave(place, asked, engine, say=say)
        made = reports.report(place)
        cards.write_card(place)
    return brief_report(made, place)


@command(cli)
@click.argument("build", type=FOLDER)
def report(build: Path) -> dict[str, Any]:
    """Account for every second.

    Writes report.json, rejects.jsonl and a page to look at into BUILD/report.
    """
    from pipelines import report as reports

    return brief_report(reports.report(build), build)


@command(cli)
@click.argument("build", type=FOLDER)
@click.option(
    "--phones",
    type=click.IntRange(min=0),
    default=50,
    help="Utterances to align again, for what needs phones.",
    show_default=True,
)
def card(build: Path, phones: int) -> dict[str, Any]:
    """How good the codebook is.

    Writes units.json and a page of plots into BUILD/codebooks: how BUILD's units are used, what they cost in bits, and
    how well they follow phones.
    """
    from pipelines.card import write_card

    said = write_card(build, phones=phones)
    numbers = ("used", "dead", "perplexity", "bitrate", "bitrate_deduplicated")
    found = {name: said["phones"][name] for name in ("pnmi", "phone_purity") if name in said["phones"]}
    return {
        **{name: said["units"][name] for name in numbers},
        **found,
        "page": str(build / "codebooks" / "units.html"),
    }


def brief_report(said: dict[str, Any], build: Path) -> dict[str, Any]:
    """The result line of `build` and `report`; the reasons go to stderr."""
    for reason, entry in said["reasons"].items():
        say(f"  {entry['utterances']:>6} utterances  {entry['hours']:8.4f} h  {reason}: {entry['meaning']}")
    words = {f"hours_{name}": said[name]["hours"] for name in ("in", "out", "rejected")}
    words |= {f"utterances_{name}": said[name]["utterances"] for name in ("in", "out", "rejected")}
    return {**words, "report": str(build / "report" / "index.html")}


@command(cli)
@click.argument("build", type=FOLDER)
@click.argument("utterance_id", metavar="[ID]", required=False)
@click.option(
    "--count", type=click.IntRange(min=1), default=3, help="How many, without an ID.", show_default=True
)
def show(build: Path, utterance_id: str | None, count: int) -> dict[str, Any]:
    """Print interleaved sequences.

    As a person reads them: text spans, and speech spans with their words and units.
    """
    from shards.show import read_spans

    shown = 0
    for sample, spans in read_spans(build, utterance_id):
        said = sample["json"]
        click.secho(
            f"{said['id']}  {said['seconds']:.1f} s  {said['speaker'] or 'speaker unknown'}", bold=True
        )
        for span in spans:
            click.echo(
                f"  {click.style(span.marker, fg='cyan' if span.speech else 'yellow'):<9} {span.words}"
            )
            if span.speech:
                click.secho(
                    f"           {span.tokens[:100]}{' ...' if len(span.tokens) > 100 else ''}", dim=True
                )
        shown += 1
        if shown == count:
            break
    if utterance_id is not None and not shown:
        raise ValueError(
            f"{utterance_id}: not in the interleaved shards of {build}; see {build}/report/rejects.jsonl"
        )
    return {"shown": shown}


@command(cli)
@click.argument("build", type=FOLDER)
@click.option(
    "--utterances", type=click.IntRange(min=0), default=50, help="To encode again.", show_default=True
)
def verify(build: Path, utterances: int) -> dict[str, Any]:
    """Check what a build holds.

    Every shard against its index: sums, members, vocabulary, nothing that could carry code. And the units of some
    utterances, drawn by hash, against a second encoding of each alone.
    """
    from pipelines.listen import verify_units
    from shards.verify import verify as find

    if not (build / "shards" / "index.json").is_file():
        raise ValueError(f"{build}: no finished shards here; run `wordweave interleave` first")
    findings = find(build)
    for line in findings:
        say(f"  {line}")
    if findings:
        raise ValueError(
            f"{build}: {len(findings)} findings; remove what is damaged and run `wordweave interleave {build}`"
        )
    return {"findings": 0, **verify_units(build, utterances)}


@command(cli)
@click.argument("build", type=FOLDER)
@click.argument("folder", type=FOLDER)
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "tokens"]),
    required=True,
    help="parquet: for Hugging Face datasets; tokens: flat files of ids with Megatron's index.",
)
def export(build: Path, folder: Path, form: str) -> dict[str, Any]:
    """Write a build's documents for those who train elsewhere.

    Into FOLDER: the documents as the shards hold them, and the vocabulary that says which id is which token.
    """
    from shards.export import export_parquet, export_tokens

    if not (build / "shards" / "index.json").is_file():
        raise ValueError(f"{build}: no finished shards here; run `wordweave interleave` first")
    counts = export_parquet(build, folder) if form == "parquet" else export_tokens(build, folder)
    for name, count in counts.items():
        say(f"  {name}: {count} {'documents' if form == 'parquet' else 'tokens'}")
    return {"folder": str(folder), "documents" if form == "parquet" else "tokens": sum(counts.values())}


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
    import tomllib

    from tqdm import tqdm

    from lm.train import TrainSettings
    from lm.train import train as run

    said: dict[str, Any] = {}
    if config:
        try:
            said = tomllib.loads(config.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise click.UsageError(f"{config}: cannot be read as TOML: {error}") from error
    given = {"tokens": tokens, "minutes": minutes}
    said |= {name: value for name, value in given.items() if value is not None}
    known = [item.name for item in dataclasses.fields(TrainSettings) if item.name not in ("build", "output")]
    unknown = sorted(said.keys() - set(known))
    if unknown:
        raise click.UsageError(f"{config}: has no {unknown}; it knows {known}")
    if not (build / "shards" / "index.json").is_file():
        raise ValueError(f"{build}: no shards here; run `wordweave build` or `wordweave interleave` first")
    try:
        settings = TrainSettings(build=str(build), output=str(output or build / "model"), **said)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
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
    from pipelines.listen import listen
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


if __name__ == "__main__":
    cli()
