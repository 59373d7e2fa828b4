"""Recordings in, shards out: one command per step, and `build` for all of them."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligners import BACKENDS
from commands.cli import (
    FILE,
    FOLDER,
    Place,
    cli,
    command,
    config_option,
    engine_options,
    read_settings,
    say,
    settings_of,
)
from commands.inspect import brief_report
from corpus.adapters import ADAPTERS

if TYPE_CHECKING:
    from pipelines.execution.runner import Engine
    from pipelines.settings import Settings

BACKEND = click.Choice(list(BACKENDS))


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

    from corpus.synthetic.speech import synthesise

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
@click.argument("adapter", type=click.Choice(list(ADAPTERS)))
@click.argument("source", type=Place(exists=True, path_type=Path))
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
        from pipelines.steps import codebook_sweep as lab

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
    from pipelines.steps import prosody as expressive

    return {"model": str(expressive.fit_pitch(build, settings_of(build, config), engine, say=say))}


@command(fit, "style")
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def fit_style(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Fit the codebook of style tokens.

    On seconds of speech drawn from all parts of BUILD by (seed, id). Without it the bundled one is used.
    """
    from pipelines.steps import prosody as expressive

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
    from pipelines.steps import prosody as expressive

    return expressive.pitch(build, settings_of(build, config), engine, say=say)


@command(cli)
@click.argument("build", type=FOLDER)
@config_option
@engine_options
def style(build: Path, config: Path | None, engine: "Engine") -> dict[str, Any]:
    """Utterances to style tokens.

    One a second, from how it is said against the speaker's mean. They go into shards with `use = true` under [style].
    """
    from pipelines.steps import prosody as expressive

    return expressive.style(build, settings_of(build, config), engine, say=say)


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--backend", type=BACKEND, help="In place of the settings' [align] backend, with its defaults.")
@click.option(
    "--second", type=BACKEND, help="Another backend; says how far its word times are from the first's."
)
@click.option("--mfa-command", help='How to start MFA, for example "conda run -n mfa mfa".')
@config_option
@engine_options
def align(
    build: Path,
    backend: str | None,
    second: str | None,
    mfa_command: str | None,
    config: Path | None,
    engine: "Engine",
) -> dict[str, Any]:
    """Utterances to word times.

    Options given here are remembered in the build. With --second the words table gets `apart_ms`, and the quality of an
    utterance `agreement_ms`, which `[align.limits]` can hold.
    """
    from pipelines import build as steps

    asked = settings_of(build, config)
    changed = with_aligners(asked, backend, second, mfa_command)
    result = steps.align(build, changed, engine)
    if changed != asked:
        steps.remember(build, changed)
    return result


def with_aligners(
    asked: "Settings", backend: str | None, second: str | None, mfa_command: str | None
) -> "Settings":
    """The settings with what the command line says of aligners; another backend starts from its own defaults."""
    from pipelines import settings

    if backend and backend != asked.align.backend:
        asked = settings.replace(asked, "align", backend=backend, options={})
    if second and second != asked.align.second:
        asked = settings.replace(asked, "align", second=second, second_options={})
    if mfa_command:
        places = {"backend": "options", "second": "second_options"}
        used = [options for place, options in places.items() if getattr(asked.align, place) == "mfa"]
        if not used:
            raise click.UsageError("--mfa-command: no aligner is mfa; add --backend mfa or --second mfa")
        for options in used:
            said = {**getattr(asked.align, options), "command": mfa_command}
            asked = settings.replace(asked, "align", **{options: said})
    return asked


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
    type=Place(path_type=Path),
    help="Manifest or folder, in place of the file's [corpus] source.",
)
@click.option("--build", type=FOLDER, help="Where to build, in place of the file's `build`.")
@click.option("--dry-run", is_flag=True, help="Only say what is to do, what stands, what is stale and why.")
@engine_options
def build(
    config: Path, source: Path | None, build: Path | None, dry_run: bool, engine: "Engine"
) -> dict[str, Any]:
    """All of it: ingest, fit, units, align, ...

    Runs every stage as CONFIG says, and the report. Finished parts are kept: run it again after a crash.
    """
    from corpus import files
    from pipelines import build as steps
    from pipelines import settings
    from pipelines.execution.runner import alone
    from pipelines.reports import codebook_card as cards
    from pipelines.reports import report as reports

    asked = read_settings(config)
    if source is not None:
        asked = settings.replace(asked, "corpus", source=str(source))
    if build is not None:
        asked = dataclasses.replace(asked, build=str(build))
    for name, value, flag in (
        ("build", asked.build, "--build"),
        ("corpus.source", asked.corpus.source, "--source"),
    ):
        if not value:
            raise click.UsageError(f"{config.name}: {name} is empty; set it there or give {flag}")
    if not files.to_path(asked.corpus.source).exists():
        raise click.UsageError(f"corpus.source: no such file or folder {asked.corpus.source}")
    place = files.to_path(asked.build)
    if dry_run:
        from pipelines.dry_run import preview

        found = preview(place, asked)
        for plan in found:
            say(str(plan))
        return {
            "todo": sum(len(plan.todo) for plan in found),
            "standing": sum(plan.standing for plan in found),
            "waiting": sum(bool(plan.waits) for plan in found),
            "stages": [plan.as_dict() for plan in found],
        }
    with alone(place):
        steps.ingest(place, asked, say=say)
        steps.ready_codebook(place, asked, engine, say=say)
        tables = steps.expressive_tables(asked)
        if tables:
            from pipelines.steps import prosody as expressive

            expressive.units_and_prosody(place, asked, engine)
        steps.encode(place, asked, engine)
        for table in tables:
            getattr(expressive, table)(place, asked, engine, say=say)
        steps.align(place, asked, engine)
        steps.interleave(place, asked, engine, say=say)
        made = reports.report(place)
        cards.write_card(place, threads=engine.workers)
    return brief_report(made, place)
