"""Inspect a build: what became of every second, how good its units are, what its shards hold."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FOLDER, brief, cli, command, say


@command(cli)
@click.argument("build", type=FOLDER)
@click.option("--against", type=FOLDER, help="Another build with a report; print and show what differs.")
def report(build: Path, against: Path | None) -> dict[str, Any]:
    """Report what became of every second of audio.

    Writes report.json, rejects.jsonl and the inspector into BUILD/report: a page that opens from the disk, with the
    numbers of the build and a sample of its utterances to look at and listen to.
    """
    from pipelines.build import make_run, run_step
    from pipelines.reports.inspector.page import read_differences
    from pipelines.reports.report import report_against
    from pipelines.settings import read_settings

    settings = read_settings(build)
    if against is None:
        return print_report(run_step("report", build, settings), build)
    result = report_against(make_run(build, settings, say=say), against)
    rows = read_differences(against, build)
    for name, one, other in rows:
        say(f"  {name}: {_brief(one)} -> {_brief(other)}")
    return {**print_report(result, build), "differences": len(rows)}


def _brief(value: Any) -> str:
    return "none" if value is None or value == "" else brief(value)


@command(cli, "codebook-report")
@click.argument("build", type=FOLDER)
@click.option(
    "--phones",
    type=click.IntRange(min=0),
    default=50,
    help="Utterances to align again, for the measures that need phones.",
    show_default=True,
)
def codebook_report(build: Path, phones: int) -> dict[str, Any]:
    """Report codebook usage and quality.

    Writes units.json and a page of plots into BUILD/codebooks: how BUILD's units are used, what they cost in bits, and
    how well they follow phones.
    """
    from pipelines.reports.codebook_card import write_card
    from pipelines.settings import read_settings

    card = write_card(build, read_settings(build), phones=phones)
    numbers = ("used", "dead", "perplexity", "bitrate", "bitrate_deduplicated")
    phone_scores = {name: card["phones"][name] for name in ("pnmi", "phone_purity") if name in card["phones"]}
    return {
        **{name: card["units"][name] for name in numbers},
        **phone_scores,
        "page": str(build / "codebooks" / "units.html"),
    }


def print_report(report: dict[str, Any], build: Path) -> dict[str, Any]:
    """The result line of `build` and `report`; the reasons go to stderr."""
    for reason, entry in report["reasons"].items():
        say(f"  {entry['utterances']:>6} utterances  {entry['hours']:8.4f} h  {reason}: {entry['meaning']}")
    names = ("in", "out", *(["cut_away"] if report["cut_away"]["utterances"] else []), "rejected")
    totals = {f"hours_{name}": report[name]["hours"] for name in names}
    totals |= {f"utterances_{name}": report[name]["utterances"] for name in names}
    return {**totals, "report": str(build / "report" / "index.html")}


@command(cli)
@click.argument("build", type=FOLDER)
@click.argument("utterance_id", metavar="[ID]", required=False)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=3,
    help="Number of sequences, without an ID.",
    show_default=True,
)
def show(build: Path, utterance_id: str | None, count: int) -> dict[str, Any]:
    """Print interleaved sequences in readable form.

    Text spans, and speech spans with their words and units.
    """
    from shards.show import read_spans

    shown = 0
    for sample, spans in read_spans(build, utterance_id):
        record = sample["json"]
        click.secho(
            f"{record['id']}  {record['seconds']:.1f} s  {record['speaker'] or 'speaker unknown'}", bold=True
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
    "--utterances",
    type=click.IntRange(min=0),
    default=50,
    help="Utterances to encode again.",
    show_default=True,
)
def verify(build: Path, utterances: int) -> dict[str, Any]:
    """Verify a build's shards and units.

    Every shard against its index: sums, members, vocabulary, nothing that could carry code. And the units of some
    utterances, sampled by hash, against a second encoding of each alone.
    """
    from pipelines.tokenize import check_units
    from shards.samples import read_index
    from shards.verify import verify as find

    read_index(build)
    findings = find(build)
    for line in findings:
        say(f"  {line}")
    if findings:
        raise ValueError(
            f"{build}: {len(findings)} findings; remove what is damaged and run `wordweave interleave {build}`"
        )
    return {"findings": 0, **check_units(build, utterances)}


@command(cli, "data-card")
@click.argument("build", type=FOLDER)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: BUILD/shards/README.md."
)
@click.option("--name", default="", help="Name of the data set; default: of the folder.")
def data_card(build: Path, output: Path | None, name: str) -> dict[str, Any]:
    """Write the data card of a build.

    A README.md as Hugging Face data sets have it: hours by language, licence and source, filters, what was left out,
    hashes and settings.
    """
    from pipelines.reports.data_card import write_data_card

    return {"card": str(write_data_card(build, output, name))}


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
    """Export a build's documents for other training frameworks.

    Into FOLDER: the documents as the shards hold them, and the vocabulary that maps ids to tokens.
    """
    from shards.export import export_parquet, export_tokens

    counts = export_parquet(build, folder) if form == "parquet" else export_tokens(build, folder)
    for name, count in counts.items():
        say(f"  {name}: {count} {'documents' if form == 'parquet' else 'tokens'}")
    return {"folder": str(folder), "documents" if form == "parquet" else "tokens": sum(counts.values())}
