"""Look at a build: where its seconds went, how good its units are, what its shards hold."""

from pathlib import Path
from typing import Any

import click

from commands.cli import FOLDER, cli, command, say


@command(cli)
@click.argument("build", type=FOLDER)
def report(build: Path) -> dict[str, Any]:
    """Account for every second.

    Writes report.json, rejects.jsonl and a page to look at into BUILD/report.
    """
    from pipelines.reports import report as reports

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
    from pipelines.reports.codebook_card import write_card

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
    from pipelines.tokenize import verify_units
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
