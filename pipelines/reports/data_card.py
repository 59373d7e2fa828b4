"""The data card of a build: a README.md as Hugging Face data sets have it, with what its users ask about."""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus import files
from corpus.records import REASONS, SAMPLE_RATE
from corpus.toml import write_toml
from pipelines.execution.task import sha256
from pipelines.layout import INDEX, part_names
from pipelines.settings import Settings, read_settings
from pipelines.steps.document_overlaps import are_compared, document_totals
from pipelines.steps.outcomes import STREAMS_OF, TABLE
from shards.write import STREAMS

CARD = "shards/README.md"
COLUMNS = ("language", "licence", "source", "source_split")
"""Columns of the manifest whose hours the card lists."""
SHOWN = 50
"""Values of a column that are listed, those with most speech; the others are summed."""
LICENCES = (
    *(f"cc-by{more}-{version}" for more in ("", "-sa", "-nc", "-nd", "-nc-sa", "-nc-nd") for version in ("3.0", "4.0")),
    *("cc0-1.0", "cc-by-2.0", "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "odbl", "odc-by", "pddl"),
)  # fmt: skip
"""Licences that Hugging Face has a name for."""
SIZES = (
    (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"),
)  # fmt: skip


class Values:
    """Samples by the values of some columns, in a temporary file: a column may have as many values as rows."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE sums (name TEXT, value TEXT, samples INT, UNIQUE (name, value))")

    def add(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Add the samples of (column, value)."""
        self._database.executemany(
            "INSERT INTO sums VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET samples = samples + excluded.samples",
            [(*key, samples) for key, samples in counts.items()],
        )

    def most_common(self, name: str, most: int = -1) -> list[tuple[str, int]]:
        """Values of a column with their samples, the largest sums first; -1: all of them."""
        query = "SELECT value, samples FROM sums WHERE name = ? ORDER BY samples DESC, rowid LIMIT ?"
        return self._database.execute(query, (name, most)).fetchall()

    def total(self, name: str) -> tuple[int, int]:
        """The number of values of a column, and all of their samples."""
        query = "SELECT count(*), coalesce(sum(samples), 0) FROM sums WHERE name = ?"
        return self._database.execute(query, (name,)).fetchone()


@dataclass
class Totals:
    """What the shards hold, counted from manifest and outcomes; samples at 16 kHz."""

    outcomes: Counter[str] = field(default_factory=Counter)  # samples
    utterances: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, list[int]] = field(default_factory=dict)  # utterances, samples
    splits: Counter[str] = field(default_factory=Counter)
    values: Values = field(default_factory=Values)  # of COLUMNS and of "speaker"


def count(build: Path) -> Totals:
    """Add up a build, a part at a time.

    Raises:
        ValueError: its outcomes are not there.
    """
    result, names = Totals(), part_names(build)
    manifests = files.read_tables(build, (f"manifest/{name}" for name in names))
    try:
        decided = files.read_tables(build, (f"{TABLE}/{name}" for name in names))
        for manifest, outcome in zip(manifests, decided, strict=True):
            values: Counter[tuple[str, str]] = Counter()
            for row, end in zip(manifest.to_pylist(), outcome.to_pylist(), strict=True):
                add(result, values, row, end)
            result.values.add(values)
    except (OSError, ValueError) as error:
        raise ValueError(f"{build}: no finished shards here; run `wordweave build` first") from error
    return result


def add(
    result: Totals, values: Counter[tuple[str, str]], row: Mapping[str, Any], end: Mapping[str, Any]
) -> None:
    """Add one utterance; `values` are those of its part."""
    samples = row["samples"]
    result.outcomes[end["outcome"]] += samples
    result.utterances[end["outcome"]] += 1
    if end["reason"]:
        total = result.reasons.setdefault(end["reason"], [0, 0])
        total[0], total[1] = total[0] + 1, total[1] + samples
    if STREAMS_OF[end["outcome"]]:
        result.splits[end["split"]] += samples
        for name in COLUMNS:
            values[name, row.get(name) or "not stated"] += samples
        if row["speaker"] is not None:
            values["speaker", row["speaker"]] += samples


def data_card(build: Path, name: str = "") -> str:
    """The card, in Markdown, with its facts in YAML at its head."""
    settings, totals = read_settings(build), count(build)
    provenance = json.loads(files.read(build / "provenance.json"))
    title = name or build.name or "wordweave build"
    kept = sum(totals.utterances[outcome] for outcome, streams in STREAMS_OF.items() if streams)
    lines = [
        *head(build, title, totals, kept),
        f"# {title}",
        "",
        "Speech as discrete units, text, and both interleaved, in webdataset tars made by wordweave. `vocabulary.json` "
        "maps ids to tokens; each sample has a `.json` with its speaker, language, licence and source.",
        "",
        "## Hours",
        "",
        *table(("", "hours", "utterances"), [
            ("in", hours(sum(totals.outcomes.values())), sum(totals.utterances.values())),
            *((one.replace("_", " "), hours(totals.outcomes[one]), totals.utterances[one]) for one in STREAMS_OF),
            *((f"split {split}", hours(samples), "") for split, samples in sorted(totals.splits.items())),
        ]),
        f"Speakers: {totals.values.total('speaker')[0] or 'not stated'}"
        + (", named by salted hashes." if settings.corpus.speaker_salt else "."),
        "",
    ]  # fmt: skip
    for column in COLUMNS:
        rows = totals.values.most_common(column, SHOWN)
        if not rows or ([value for value, _ in rows] == ["not stated"] and column.startswith("source")):
            continue
        shown = [(cell(value), hours(samples)) for value, samples in rows]
        number, every = totals.values.total(column)
        if rest := every - sum(samples for _, samples in rows):
            shown.append((f"{number - SHOWN} others", hours(rest)))
        lines += [
            f"## {column.replace('_', ' ').capitalize()}",
            "",
            *table((column.replace("_", " "), "hours"), shown),
        ]
    lines += ["## Filters", "", *table(("setting", "value"), filters(settings))]
    if totals.reasons:
        lines += ["## Left out", ""]
        lines += table(("reason", "meaning", "utterances", "hours"), [
            (f"`{reason}`", REASONS.get(reason, "a reason of a step of its own"), number, hours(samples))
            for reason, (number, samples) in sorted(totals.reasons.items())
        ])  # fmt: skip
    if are_compared(settings):
        documents = document_totals(build, settings)
        lines += [
            f"Text documents: {documents['compared']} compared with evaluation sets; {documents['evaluation']} hold "
            f"a text of one, {documents['removed']} of them left out.",
            "",
        ]
    lines += ["## Hashes and versions", "", *table(("what", "value"), identities(build, provenance))]
    lines += ["## Settings", "", "```toml", *write_toml(settings).strip().splitlines(), "```", ""]
    return "\n".join(lines)


def head(build: Path, title: str, totals: Totals, kept: int) -> list[str]:
    """The YAML at the head of a card."""
    tags, stated = (
        [value for value, _ in totals.values.most_common(name) if value != "not stated"]
        for name in ("language", "licence")
    )
    languages = sorted({code for code in map(language_code, tags) if code})
    named = sorted({licence_id(value) for value in stated}) or ["unknown"]
    size = next((label for limit, label in SIZES if kept < limit), "100M<n<1B")
    index = json.loads(files.read(build / INDEX))["streams"]
    lines = [
        "---",
        f"pretty_name: {json.dumps(title)}",
        f"license: {json.dumps(named[0] if len(named) == 1 else named)}",
    ]
    if "other" in named:
        lines.append(f"license_name: {json.dumps('; '.join(sorted(stated)))}")
    if languages:
        lines.append(f"language: {json.dumps(languages)}")
    lines += [
        'task_categories: ["automatic-speech-recognition", "text-to-speech"]',
        f"size_categories: {json.dumps([size])}",
        'tags: ["speech", "speech units", "webdataset", "wordweave"]',
        *(["configs:"] if any(index.values()) else []),
    ]
    for stream in STREAMS:
        splits = [split for split, entries in index.get(stream, {}).items() if entries]
        if splits:
            lines += [f"- config_name: {stream}", "  data_files:"]
        for split in splits:
            lines += [
                f"  - split: {'validation' if split == 'valid' else split}",
                f'    path: "{stream}/{split}-*.tar"',
            ]
    return [*lines, "---", ""]


def licence_id(licence: str) -> str:
    """The name that Hugging Face has for a licence, else "other".

    >>> licence_id("CC BY 4.0"), licence_id("CC0-1.0"), licence_id("ours")
    ('cc-by-4.0', 'cc0-1.0', 'other')
    """
    name = re.sub(r"[\s_]+", "-", licence.strip().casefold())
    return name if name in LICENCES else "other"


def language_code(language: str) -> str:
    """The ISO 639 code of a language tag; empty where it is none.

    >>> language_code("en-GB"), language_code("not stated")
    ('en', '')
    """
    code = re.split(r"[-_]", language.casefold())[0]
    return code if re.fullmatch(r"[a-z]{2,3}", code) else ""


def filters(settings: Settings) -> list[tuple[str, str]]:
    """The settings that leave something out, as they are."""
    corpus = settings.corpus
    rows = [("`[corpus] min_seconds, max_seconds`", f"{corpus.min_seconds:g}, {corpus.max_seconds:g}")]
    values: dict[str, Any] = {
        "[corpus] licences": corpus.licences,
        "[corpus] splits": corpus.splits,
        "[align] limits": settings.align.limits,
        "[quality] minimum": settings.quality.minimum,
        "[quality] maximum": settings.quality.maximum,
        "[duplicates] remove": settings.duplicates.remove,
        "[duplicates] evaluation": settings.duplicates.evaluation,
        "[text] duplicates": settings.text.duplicates if settings.text.documents else "",
    }
    return rows + [(f"`{name}`", cell(json.dumps(value))) for name, value in values.items() if value]


def identities(build: Path, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Hashes of what the build was made of, and versions of what made it."""
    rows = [(f"sha256 of {name}", sha256(build / name)) for name in ("manifest/manifest.json", INDEX)]
    rows += [(f"sha256 of the {name}", str(provenance[name])) for name in ("codebook", "vocabulary")]
    rows.append(("commit", str(provenance.get("commit") or "not known")))
    return rows + [(name, str(version)) for name, version in provenance["versions"].items()]


def table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    """A table in Markdown, with an empty line after it."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (names, *rows)]
    return [lines[0], "|" + "---|" * len(names), *lines[1:], ""]


def cell(value: str) -> str:
    """A value that cannot end a cell of a table or begin HTML."""
    return files.shorten(value, 200).replace("|", "\\|").replace("<", "&lt;")


def hours(samples: int) -> str:
    """Samples at 16 kHz in hours.

    >>> hours(57_600_000)
    '1.00'
    """
    return f"{samples / SAMPLE_RATE / 3600:.2f}"


def write_data_card(build: Path, target: Path | None = None, name: str = "") -> Path:
    """Write the card of a build, into its shards by default."""
    target = target or build / CARD
    files.make_folder(target.parent)
    files.write(target, data_card(build, name).encode())
    return target
