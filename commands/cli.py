"""What every command shares: the group, one-line mistakes, the result line, engine and settings options."""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.engines.registry import DEFAULT, ENGINES, make_engine
from pipelines.execution.progress import QUIET, is_quiet

if TYPE_CHECKING:
    from pipelines.execution.engine import Engine
    from pipelines.settings import Settings


class PathOrUrl(click.Path):
    """A path, or a URL that fsspec opens (`s3://`, `gs://`, `memory://`), whose bucket is checked first."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" not in str(value):
            return super().convert(value, param, ctx)
        from corpus import files
        from corpus.records import Unusable

        try:
            path = files.to_path(value)
            files.check_reachable(path)
        except Unusable as error:
            self.fail(str(error), param, ctx)
        return path


FOLDER = PathOrUrl(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


COMMAND_MODULES = (
    "demo",
    "build",
    "mfa",
    "inspect",
    "encoder",
    "operations",
    "model",
    "vocoder",
    "testset",
    "evaluate",
    "study",
)
"""The modules of commands/, in the order of the help; each adds its commands to `cli`."""
ALIASES = {
    "synth": "demo-corpus",
    "card": "codebook-report",
    "pack": "testset",
    "extend": "add-speech-tokens",
}
"""Earlier names of commands, still understood."""


def module_of(command: click.Command) -> str:
    """The module of commands/ that a command is in."""
    return command.callback.__module__.rpartition(".")[2] if command.callback else ""


class Cli(click.Group):
    """Reports every mistake in one line on stderr: exit 2 for bad usage, 1 for bad data or a failed step."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command by its name, or by an earlier one."""
        return super().get_command(ctx, ALIASES.get(name, name))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the work: that of COMMAND_MODULES, and in a module that of the code."""
        return sorted(self.commands, key=lambda name: COMMAND_MODULES.index(module_of(self.commands[name])))

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
            click.echo("wordweave: interrupted", err=True)
            sys.exit(1)


@click.group(cls=Cli, name="wordweave", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wordweave")
def cli() -> None:
    """Recordings, transcripts and text in; interleaved speech-text shards and a language model out."""
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        click.get_current_context().color = False


def command(
    group: click.Group, name: str | None = None, cls: type[click.Command] = click.Command
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command that prints its result as the last line and turns a user's mistake into one line on stderr.

    The function returns a dict; the line is `key=value` words, or JSON with --json. ValueError is bad data or a failed
    stage (exit 1); click.UsageError is bad usage (exit 2).
    """

    def make(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def run(*, as_json: bool, quiet: bool, **arguments: Any) -> None:
            try:
                with quieted(quiet):
                    result = function(**arguments)
            except ValueError as error:
                from corpus.records import Unusable

                kind = click.UsageError if isinstance(error, Unusable) else click.ClickException
                raise kind(str(error)) from error
            except OSError as error:
                place = f"{error.filename}: " if error.filename else ""
                raise click.ClickException(f"{place}{error.strerror or error}") from error
            except KeyboardInterrupt:
                raise click.ClickException(
                    "interrupted; finished parts are kept; run the same command to resume"
                ) from None
            if as_json:
                click.echo(json.dumps(result, sort_keys=True, default=str))
            else:
                plain = {key: value for key, value in result.items() if not isinstance(value, list | dict)}
                if plain:
                    click.echo(" ".join(f"{key}={brief(value)}" for key, value in plain.items()))

        json_option = click.option(
            "--json", "as_json", is_flag=True, help="Print the result as one line of JSON."
        )
        quiet_option = click.option("--quiet", is_flag=True, help="No messages and no progress, only errors.")
        return group.command(name, cls=cls)(json_option(quiet_option(run)))

    return make


def brief(value: Any) -> str:
    """A value for the result line."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def quieted(quiet: bool) -> Iterator[None]:
    """Messages and progress are off while the block runs; worker processes inherit it."""
    before = os.environ.get(QUIET, "")
    os.environ[QUIET] = "1" if quiet else before
    try:
        yield
    finally:
        os.environ[QUIET] = before


def say(line: str) -> None:
    """Print a message on stderr, unless messages are off."""
    if not is_quiet():
        click.echo(line, err=True)


class EngineName(click.ParamType):
    """The name of a registered engine."""

    name = "ENGINE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in ENGINES:
            self.fail(f"need one of {', '.join(ENGINES)}, got {value!r}", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(ENGINES)}]"


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every stage command, passed to it as one checked `engine`.

    Each engine declares its own options. The command has `build`, the folder, and `config`, the settings file, too;
    either may be None.
    """

    @functools.wraps(function)
    def with_engine(*, engine: str, workers: int, engine_arguments: tuple[str, ...], **arguments: Any) -> Any:
        values = {name: arguments.pop(f"engine_{name}") for name in option_names}
        try:
            chosen = make_engine(engine, workers, values, engine_arguments)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        chosen.check()
        check_access(chosen, arguments["build"], arguments["config"])
        return function(engine=chosen, **arguments)

    summaries = "; ".join(f"{name}: {engine.summary}" for name, engine in ENGINES.items())
    engine_help = f"Execution engine. {summaries}."
    named = click.option("--engine", type=EngineName(), default=DEFAULT, help=engine_help, show_default=True)
    workers = click.option(
        "--workers", type=click.IntRange(min=1), default=1, help="Worker processes.", show_default=True
    )
    rest = click.argument("engine_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE OPTIONS]")
    own = [(option, name) for name, engine in ENGINES.items() for option in engine.options]
    option_names = [option.name for option, _ in own]
    wrapped = with_engine
    for option, name in own:
        wrapped = click.option(
            f"--{option.name}", f"engine_{option.name}", default="", help=f"{option.help} (engine {name})"
        )(wrapped)
    return named(workers(rest(wrapped)))


def check_access(engine: "Engine", build: Path | None, config: Path | None) -> None:
    """Preflight check that the engine's workers can read the build and have the device its settings name."""
    from corpus import files
    from pipelines.settings import read_settings

    if config is None and build is not None and (build / "settings.toml").is_file():
        settings = read_settings(build)
    else:
        settings = read_config(config)
    if folder := build or settings.build:
        transcribe = settings.transcribe
        for device in sorted({settings.units.device, *([transcribe.device] if transcribe.enabled else [])}):
            engine.check_access(files.to_path(folder), device)


def read_config(config: Path | None) -> "Settings":
    """Settings from a TOML file; a mistake in it is bad usage."""
    from pipelines.settings import Settings, read_file

    try:
        return read_file(config) if config else Settings()
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def settings_for(build: Path, config: Path | None) -> "Settings":
    """The settings a step runs with: --config where given (then written into the build), else the build's own."""
    from pipelines.layout import maker, part_names
    from pipelines.settings import read_settings, write_settings

    if maker(build) == "ingest":
        part_names(build)
    if config is None:
        return read_settings(build)
    new, old = read_config(config), read_settings(build)
    corpus = dataclasses.replace(old.corpus, keep_unaligned=new.corpus.keep_unaligned)
    settings = dataclasses.replace(new, build=old.build, corpus=corpus)
    write_settings(build, settings)
    return settings


config_option = click.option(
    "--config", type=FILE, help="TOML file, see config/demo.toml. Default: the build's own settings."
)
