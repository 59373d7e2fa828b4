"""What every command shares: the group, one-line mistakes, the result line, engine and settings options."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipelines.execution.runner import Engine
    from pipelines.settings import Settings


class Place(click.Path):
    """A path, or a URL that fsspec opens (`s3://`, `gs://`, `memory://`); of a URL the bucket is asked for first."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" not in str(value):
            return super().convert(value, param, ctx)
        from corpus import files
        from corpus.records import Unusable

        try:
            found = files.to_path(value)
            files.check_reachable(found)
        except Unusable as error:
            self.fail(str(error), param, ctx)
        return found


FOLDER = Place(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


# fmt: off
ORDER = (
    "synth", "ingest", "fit", "units", "pitch", "style", "align", "interleave", "build",
    "mfa", "plan", "report", "card", "phones", "compare", "show", "verify", "export", "prune", "doctor",
    "add-speech-tokens", "train", "generate", "testset", "evaluate", "resynthesis", "study", "export-model",
)  # a command that is not named here is an error of `--help`, not a silent one
# fmt: on


class FrontDoor(click.Group):
    """A group that says every mistake in one line on stderr: exit 2 for bad usage, 1 for bad data or a failed stage."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the work, not of the alphabet."""
        return sorted(self.commands, key=ORDER.index)

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
                from corpus.records import Unusable

                kind = click.UsageError if isinstance(error, Unusable) else click.ClickException
                raise kind(str(error)) from error
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
    """The options of every stage command, given to it as one `engine` that was asked for what it needs.

    The command has `build`, the folder, and `config`, the settings file, too; either may be None.
    """

    @click.option(
        "--engine",
        type=click.Choice(["beam", "local", "spark"]),
        default="beam",
        help="Who runs the parts.",
        show_default=True,
    )
    @click.option(
        "--master",
        default="",
        help="Spark's: spark://HOST:PORT, yarn, ...; default this machine, or spark-submit's.",
    )
    @click.option(
        "--workers", type=click.IntRange(min=1), default=1, help="Worker processes.", show_default=True
    )
    @click.argument("engine_words", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE OPTIONS]")
    @functools.wraps(function)
    def with_engine(
        *, engine: str, workers: int, master: str, engine_words: tuple[str, ...], **arguments: Any
    ) -> Any:
        from pipelines.execution.runner import Engine

        try:
            asked = Engine(engine, workers, engine_words, master)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        asked.ready()
        reaches(asked, arguments["build"], arguments["config"])
        return function(engine=asked, **arguments)

    return with_engine


def reaches(engine: "Engine", build: Path | None, config: Path | None) -> None:
    """Ask, before a command does anything, whether its workers see the build and have the device its settings name."""
    from corpus import files
    from pipelines import build as steps

    if config is None and build is not None and (build / "settings.toml").is_file():
        asked = steps.recall(build)
    else:
        asked = read_settings(config)
    if place := build or asked.build:
        engine.reaches(files.to_path(place), asked.units.device)


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
