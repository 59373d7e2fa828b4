"""An encoder of one's own: phones to learn from, pre-training, and the table that says what an encoder is worth."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.data import fit
from commands.door import FILE, cli, command, say

if TYPE_CHECKING:
    from units.pretrain import PretrainSettings

SOURCE = click.Path(exists=True, path_type=Path)


@command(fit, "encoder")
@click.argument("sources", nargs=-1, required=True, type=SOURCE)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the encoder."
)
@click.option("--config", type=FILE, help="TOML file, see config/encoder/pure.toml.")
@click.option("--steps", type=click.IntRange(min=1), help="In place of the file's.")
@click.option("--seed", type=int, help="In place of the file's.")
@click.option("--phones", type=FILE, help="Learn phones too: a file of `wordweave phones`.")
@click.option(
    "--start", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Go on from this encoder."
)
@click.option("--device", help="In place of the file's: cpu, cuda.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint, exactly.")
@click.option(
    "--stop-after", type=click.IntRange(min=1), help="Stop at this step with a checkpoint; rates stay."
)
def fit_encoder(
    sources: tuple[Path, ...],
    output: Path,
    config: Path | None,
    resume: bool,
    stop_after: int | None,
    **said: Any,
) -> dict[str, Any]:
    """Pre-train a compact HuBERT.

    SOURCES are JSONL manifests or builds; transcripts are not needed. OUTPUT opens with `transformers` and is what
    `[units] encoder` names.
    """
    from pipelines.phones import read_speech
    from units.pretrain import Recording, pretrain

    given = {name: str(v) if isinstance(v, Path) else v for name, v in said.items() if v is not None}
    settings = read_pretraining(config, given)
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
        say(f"step {line['step']}  {line['seconds']:.0f} s  loss {line['loss']:.3f}  {'  '.join(shares)}")

    summary = pretrain(recordings, settings, output, resume=resume, stop_after=stop_after, progress=progress)
    return {
        "encoder": str(output),
        "steps": summary["steps"],
        "seconds": summary["seconds"],
        "rejects": rejects,
    }


def read_pretraining(config: Path | None, said: dict[str, Any]) -> "PretrainSettings":
    """Settings from a TOML file and the options beside it; a mistake in them is bad usage."""
    import tomllib

    from units.augment import AugmentSettings
    from units.pretrain import NetworkSettings, PretrainSettings

    content: dict[str, Any] = {}
    if config:
        try:
            content = tomllib.loads(config.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise click.UsageError(f"{config}: cannot be read as TOML: {error}") from error
    kinds: dict[str, Any] = {"network": NetworkSettings, "augment": AugmentSettings}
    try:
        for name, kind in kinds.items():
            if name in content:
                content[name] = kind(**checked(f"{config}: [{name}]", content[name], kind))
        settings = PretrainSettings(**checked(str(config), content, PretrainSettings) | said)
        if settings.phones and "phones" not in settings.targets:
            from units.targets import count_phones

            targets = settings.targets | {"phones": count_phones(settings.phones)}
            settings = dataclasses.replace(settings, targets=targets)
        return settings
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def checked(place: str, content: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The keys of a table, lists as tuples; a key that is not known is refused."""
    known = [item.name for item in dataclasses.fields(kind)]
    unknown = sorted(content.keys() - set(known))
    if unknown:
        raise ValueError(f"{place}: has no {unknown}; it knows {known}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


@command(cli)
@click.argument("sources", nargs=-1, required=True, type=SOURCE)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write."
)
@click.option(
    "--hear", is_flag=True, help="Where there is no transcript, take the words that pocketsphinx hears."
)
def phones(sources: tuple[Path, ...], output: Path, hear: bool) -> dict[str, Any]:
    """Phones and their times, for `fit encoder` and `compare`.

    SOURCES are JSONL manifests or builds, in English.
    """
    from pipelines.phones import write_phones

    return write_phones(list(sources), output, listen=hear, progress=say)


@command(cli)
@click.argument("encoders", nargs=-1, required=True)
@click.option(
    "--speech", type=SOURCE, multiple=True, required=True, help="Speech with transcripts: what is scored."
)
@click.option(
    "--fit", "fit_on", type=SOURCE, multiple=True, help="Speech for k-means; default: that scored itself."
)
@click.option(
    "--phones", "phones_file", type=FILE, help="A file of `wordweave phones`; default: aligned on the spot."
)
@click.option("--align", "backend", default="pocketsphinx", help="Who finds the phones.", show_default=True)
@click.option("--speaker", "speakers", multiple=True, help="Score these speakers alone.")
@click.option(
    "--most", type=click.FloatRange(min=0, min_open=True), help="Score so many seconds of a speaker, at most."
)
@click.option("--clusters", type=click.IntRange(min=2), default=501, show_default=True)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, help="Fits of k-means to average.", show_default=True
)
def compare(
    encoders: tuple[str, ...], speech: tuple[Path, ...], fit_on: tuple[Path, ...], phones_file: Path | None,
    backend: str, speakers: tuple[str, ...], most: float | None, clusters: int, seeds: int,
) -> dict[str, Any]:  # fmt: skip
    """What encoders are worth, on one table.

    ENCODERS are "compact", "mfcc", "logmel" (a baseline), folders in Hugging Face format and so on; "NAME@4" takes
    layer 4. Units should tell phones of speakers never seen (xPNMI), and stay in noise and at another gain.
    """
    from pipelines.compare import as_table, brief_row
    from pipelines.compare import compare as run
    from pipelines.phones import speech_with_phones, waveforms_of

    rejects: dict[str, int] = {}
    items = speech_with_phones(speech, phones_file, backend, set(speakers), most, rejects)
    waves = waveforms_of(fit_on, rejects) if fit_on else [item.waveform for item in items]
    for reason, count in sorted(rejects.items()):
        say(f"compare: left out {count}: {reason}")
    rows = run(
        encoders, waves, items, clusters=clusters, seeds=range(seeds), report=lambda row: say(brief_row(row))
    )
    click.echo(as_table(rows), err=False)
    return {
        "utterances": len(items), "speakers": len({item.speaker for item in items}),
        "seconds": sum(len(item.waveform) for item in items) / 16_000, "rejects": rejects, "rows": rows,
    }  # fmt: skip
