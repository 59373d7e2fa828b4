"""The manifest: one row per utterance that came in, good or rejected, in Parquet parts of equal length."""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import textwrap
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import files
from corpus.manifest_order import Order
from corpus.records import SAMPLE_RATE, Reject, Utterance

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("key", pa.string()),  # the id as a shard can hold it; null where rejected
        pa.field("audio", pa.string(), nullable=False),
        pa.field("first_frame", pa.int64(), nullable=False),  # counted at sample_rate, like frames
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("sample_rate", pa.int32(), nullable=False),  # Hz
        pa.field("samples", pa.int64(), nullable=False),  # at 16 kHz; 0 where the header could not be read
        pa.field("text", pa.string()),
        pa.field("speaker", pa.string()),
        pa.field("language", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("alignment", pa.string()),
        pa.field("channel", pa.int32()),  # from 0 on; null: the mean of all
        pa.field("audio_stamp", pa.string(), nullable=False),  # changes when the file does
        pa.field("alignment_stamp", pa.string(), nullable=False),
        pa.field("reject", pa.string()),  # null or a code of corpus.records.REASONS
        pa.field("detail", pa.string()),
    ]
)

OPTIONAL = pa.schema([("source", pa.string()), ("source_split", pa.string())])
"""Columns of a part in which a row has a value: a manifest without them keeps its bytes."""

FIRST_MINUTES = 2.0  # of the first part
ROWS_PER_PART = 5000  # rows without samples end a part too, so that memory is bounded
KEY_LENGTH = 80  # characters; a tar header has room for 100 bytes with the ending
DETAIL_LENGTH = 500  # characters
VERSION = 2  # of the rows' columns
SUMMARY = "manifest.json"  # written last: a folder without it holds no finished manifest
LISTING = "parts.jsonl"  # while a manifest is made: an entry of the summary for each part
AT_ONCE = 32  # parts that are published at a time
STRINGS = ("id", "audio", "text", "speaker", "language", "licence", "source", "source_split", "alignment")


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """An utterance that an adapter had to give up: what is known of it (frames: 0 if unknown), and why."""

    utterance: Utterance
    reject: Reject


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """What a manifest holds. Samples are counted at 16 kHz."""

    parts: int
    utterances: int  # good rows
    samples: int  # of the good rows
    rejected: dict[str, int]  # reason -> rows
    rejected_samples: dict[str, int]  # reason -> samples, as far as they are known
    first_reject: str = ""  # id, reason and detail of the first rejected row

    @property
    def rows(self) -> int:
        """All rows, good and rejected."""
        return self.utterances + sum(self.rejected.values())

    @property
    def samples_in(self) -> int:
        """All samples that came in, good and rejected."""
        return self.samples + sum(self.rejected_samples.values())


def escape_id(id: str) -> str:
    """Write an id with letters, digits, '_', '-' and '=' only; different ids stay different.

    >>> escape_id("a/b.c"), escape_id("a=2Fb"), escape_id("é")
    ('a=2Fb=2Ec', 'a=3D2Fb', '=C3=A9')
    """
    return re.sub(rb"[^A-Za-z0-9_-]", lambda byte: b"=%02X" % byte[0][0], id.encode()).decode()


def write_manifest(
    rows: Iterable[Utterance | RejectedRow],
    folder: str | os.PathLike[str],
    *,
    part_minutes: float = 30.0,
    first_minutes: float = FIRST_MINUTES,
    min_seconds: float = 0.3,
    max_seconds: float = 40.0,
    ids: str = "strict",
    transcripts: str = "required",
    licences: Sequence[str] = (),
    splits: Sequence[str] = (),
    growing: bool = False,
) -> ManifestSummary:
    """Check rows and write them, in their order, as Parquet parts and a summary.

    A row that cannot be used keeps its place, with its reason in `reject`: every second that came in counts.
    The same rows give the same bytes, and a file that is there with the same bytes is left untouched. Killed
    at any moment, the folder holds the old manifest, the new one, or none that `parts` accepts. Memory does
    not grow with the number of rows.

    Args:
        rows: as the adapters yield them.
        folder: the manifest's own folder. While writing, a folder beside it (`.NAME.unfinished`) is used.
        part_minutes: a part ends when its rows, good and rejected, are this long together, or are 5000.
        first_minutes: the first parts end sooner, as `part_length` says.
        min_seconds, max_seconds: other lengths are rejected.
        ids: "strict" rejects an id that a shard key cannot hold, "escape" writes the key with `escape_id`.
        transcripts: "required" rejects an utterance without text, "optional" keeps it, for the speech stream.
        licences, splits: reject a row with another licence or split of its source, or none; empty: any will do.
        growing: leave rows that a manifest in this folder holds already in its parts; new ones follow at the end
            (`corpus.manifest_order`).

    Raises:
        ValueError: a setting is out of range.
    """
    if not part_minutes > 0:
        raise ValueError(f"manifest.part_minutes: need more than 0, got {part_minutes}")
    if not 0 <= min_seconds <= max_seconds:
        raise ValueError(
            f"manifest: need 0 <= min_seconds <= max_seconds, got {min_seconds} and {max_seconds}"
        )
    if ids not in ("strict", "escape"):
        raise ValueError(f"manifest.ids: need 'strict' or 'escape', got {ids!r}")
    if transcripts not in ("required", "optional"):
        raise ValueError(f"manifest.transcripts: need 'required' or 'optional', got {transcripts!r}")

    def cut(rows: Iterable[dict[str, Any]], first: int = 0) -> Iterator[list[dict[str, Any]]]:
        lengths = (part_length(number, part_minutes, first_minutes) for number in count(first))
        return _cut(rows, (minutes * 60 * SAMPLE_RATE for minutes in lengths))

    def check(utterance: Utterance, new: bool) -> None:
        _check_id(utterance.id, escape=ids == "escape", new=new)
        check_allowed("licence.excluded", utterance.licence, licences)
        check_allowed("split.excluded", utterance.source_split, splits)
        _check_length(utterance.seconds, min_seconds, max_seconds)
        _check_text(utterance.text, required=transcripts == "required")

    folder = files.to_path(folder)
    beside = folder.parent if not files.is_url(folder) else Path(tempfile.mkdtemp(prefix="wordweave-"))
    unfinished = files.unfinished_name(beside / folder.name)
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir(parents=True)
    old = _old_summary(folder) if growing else None
    try:
        checked = _checked(rows, check, unfinished / "ids.sqlite")
        parts: Iterator[list[dict[str, Any]]]
        if old is None:
            summary, origin = _write_parts(cut(checked), unfinished)
        else:
            with closing(Order(folder, old["parts"], unfinished / "order.sqlite")) as order:
                order.fill(checked)
                if old["settings"]["part_minutes"] == part_minutes:
                    parts = chain(order.whole(), cut(order.rest(), max(order.parts - 1, 0)))
                else:
                    parts = cut(row for _, row in order.rows())
                summary, first = _write_parts(parts, unfinished)
            origin = old.get("origin") if order.matched else first
        content = {
            "version": VERSION,
            "origin": origin,
            "settings": {
                "part_minutes": part_minutes,
                "min_seconds": min_seconds,
                "max_seconds": max_seconds,
                "ids": ids,
                "transcripts": transcripts,
            },
            **{name: value for name, value in asdict(summary).items() if name != "first_reject"},
        }
        _write_summary(unfinished, content)
        _publish(unfinished, folder, summary.parts)
    finally:
        shutil.rmtree(unfinished if beside == folder.parent else beside)
    return summary


def read_summary(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `manifest.json`: the settings, the counts, and name, rows, samples and sha256 of every part.

    Raises:
        ValueError: there is no finished manifest.
    """
    path = files.to_path(folder) / SUMMARY
    if not path.is_file():
        raise ValueError(f"{folder}: no finished manifest; run `wordweave ingest`")
    summary = files.read_record(path, "parts", "settings")
    if summary.get("version") != VERSION:
        raise ValueError(
            f"{folder}: need a manifest of version {VERSION}, got {summary.get('version')}; run `wordweave ingest`"
        )
    return summary


def part_length(number: int, part_minutes: float, first_minutes: float = FIRST_MINUTES) -> float:
    """Minutes of the part of this number: little speech makes parts for several workers, much makes long ones.

    >>> [part_length(number, part_minutes=10.0) for number in (0, 1, 2, 31, 32, 1000)]
    [2.0, 2.25, 2.5, 9.75, 10.0, 10.0]
    """
    return min(part_minutes, first_minutes + number / 4)


def parts(folder: str | os.PathLike[str]) -> list[Path]:
    """List the parts of a finished manifest, in order.

    Raises:
        ValueError: there is no finished manifest.
    """
    return [files.to_path(folder) / part["name"] for part in read_summary(folder)["parts"]]


def read_part(path: str | os.PathLike[str]) -> pa.Table:
    """Read one part.

    Raises:
        ValueError: the file is not a part of a manifest.
    """
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); run `wordweave ingest` again") from error
    if not table.select([name for name in table.schema.names if name not in OPTIONAL.names]).schema.equals(
        SCHEMA
    ):
        raise ValueError(f"{path}: not a manifest part, its columns are {table.schema.names}")
    return table


def utterances(table: pa.Table | pa.RecordBatch) -> Iterator[Utterance | None]:
    """Turn the rows of a part into utterances, in order; None where a row is rejected."""
    names = [*Utterance.__dataclass_fields__, "reject"]
    for row in table.select([name for name in names if name in table.schema.names]).to_pylist():
        reject = row.pop("reject")
        yield Utterance(**row) if reject is None else None


def _checked(
    rows: Iterable[Utterance | RejectedRow], check: Callable[[Utterance, bool], None], seen: Path
) -> Iterator[dict[str, Any]]:
    """Turn rows into dicts of SCHEMA; ids that occurred are kept in a database file, not in memory."""
    with closing(sqlite3.connect(seen)) as database:
        database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID"
        )
        for row in rows:
            utterance, reject = (row, None) if isinstance(row, Utterance) else (row.utterance, row.reject)
            utterance, unstorable = storable(utterance)
            reject = reject or unstorable
            new = database.execute("INSERT OR IGNORE INTO ids VALUES (?)", (utterance.id,)).rowcount == 1
            if reject is None:
                try:
                    check(utterance, new)
                except Reject as raised:
                    reject = raised
            yield {
                **{name: getattr(utterance, name) for name in utterance.__dataclass_fields__},
                "key": None if reject else escape_id(utterance.id),
                "samples": utterance.samples,
                "reject": reject and reject.reason,
                "detail": reject and one_line(reject.detail),
            }


def storable(utterance: Utterance) -> tuple[Utterance, Reject | None]:
    """Replace what UTF-8 cannot hold (half a surrogate pair, from JSON or from a file name)."""
    strings = {name: getattr(utterance, name) or "" for name in STRINGS}
    try:
        "".join(strings.values()).encode()
        return utterance, None
    except UnicodeEncodeError:
        pass
    broken: dict[str, Any] = {name: _utf8(value) for name, value in strings.items() if _utf8(value) != value}
    reject = Reject("manifest.bad_field", f"{', '.join(broken)}: need text that UTF-8 can hold")
    return replace(utterance, **broken), reject


def _utf8(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def one_line(detail: str) -> str:
    """A reason in one line that UTF-8 can hold, of bounded length."""
    line = " ".join(_utf8(detail).split())
    return line if len(line) <= DETAIL_LENGTH else line[: DETAIL_LENGTH - 3] + "..."


def _check_id(id: str, *, escape: bool, new: bool) -> None:
    key = escape_id(id)
    if not id or (key != id and not escape):
        way_out = "rename it, or ingest with ids = 'escape'" if id else "give it one"
        raise Reject("id.unsafe", f"id {id!r}: need letters, digits, '_' and '-'; {way_out}")
    if len(key) > KEY_LENGTH:
        raise Reject("id.unsafe", f"id {id!r}: need a key of at most {KEY_LENGTH} characters, got {len(key)}")
    if not new:
        raise Reject("id.duplicate", f"id {id!r}: a row before has it")


def check_allowed(reason: str, value: str | None, allowed: Sequence[str]) -> None:
    """Refuse a value that is not in a list, whatever case, spaces and hyphens; an empty list allows all.

    >>> check_allowed("licence.excluded", "CC BY 4.0", ["cc-by-4.0"])

    Raises:
        Reject: with `reason`.
    """
    if allowed and (value is None or plain(value) not in {plain(one) for one in allowed}):
        raise Reject(
            reason, f"need one of {', '.join(allowed)}, got {'none' if value is None else repr(value)}"
        )


def plain(name: str) -> str:
    """The name of a licence or split without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", name.casefold())


def _check_length(seconds: float, shortest: float, longest: float) -> None:
    if seconds < shortest:
        raise Reject("audio.too_short", f"need at least {shortest:g} s, got {seconds:.3f} s")
    if seconds > longest:
        raise Reject(
            "audio.too_long", f"need at most {longest:g} s, got {seconds:.3f} s; cut it with start and end"
        )


def _check_text(text: str | None, *, required: bool) -> None:
    if text is None and required:
        raise Reject(
            "text.missing", "no transcript; ingest with transcripts = 'optional' to keep it as speech"
        )
    if text is not None and not any(character.isalnum() for character in text):
        raise Reject("text.empty", f"transcript {text!r}: need a letter or a digit")


def part_name(number: int) -> str:
    """The name of a part."""
    return f"part-{number:05d}.parquet"


def _old_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of the manifest that is in the folder, of any version, with the names of its parts; None: none."""

    def name_of(entry: dict[str, Any]) -> Any:  # as each is read: a dict for each of a million parts is much
        return entry["name"] if "sha256" in entry else entry

    try:
        summary = json.loads(files.read(folder / SUMMARY), object_hook=name_of)
        return summary if summary["parts"] and "settings" in summary and "origin" in summary else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_parts(parts: Iterable[list[dict[str, Any]]], folder: Path) -> tuple[ManifestSummary, str | None]:
    """Write parts into `folder`, and one entry of `manifest.json` for each into LISTING; the totals, the first id."""
    first: str | None = None
    first_reject = ""
    counts: Counter[str | None] = Counter()  # reason, None where good -> rows
    samples: Counter[str | None] = Counter()
    number = 0
    with (folder / LISTING).open("w", encoding="utf-8") as listing:
        for number, part in enumerate(parts, 1):
            first = first or (part[0]["id"] if part else None)
            for row in part:
                if row["reject"] and not first_reject:
                    first_reject = f"{row['id']}: {row['reject']}: {row['detail']}"
                counts[row["reject"]] += 1
                samples[row["reject"]] += row["samples"]
            entry = _write_part(folder / part_name(number - 1), part)
            listing.write(json.dumps(entry, sort_keys=True) + "\n")
    good, good_samples = counts.pop(None, 0), samples.pop(None, 0)
    reasons = sorted(filter(None, counts))
    rejected = {reason: counts[reason] for reason in reasons}
    rejected_samples = {reason: samples[reason] for reason in reasons}
    summary = ManifestSummary(number, good, good_samples, rejected, rejected_samples, first_reject)
    return summary, first


def _write_part(path: Path, part: list[dict[str, Any]]) -> dict[str, Any]:
    """Write one part; its entry of `manifest.json`."""
    more = [field for field in OPTIONAL if any(row[field.name] is not None for row in part)]
    pq.write_table(pa.Table.from_pylist(part, pa.schema([*SCHEMA, *more])), path, compression="zstd")
    return {
        "name": path.name,
        "rows": len(part),
        "samples": sum(row["samples"] for row in part),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _write_summary(folder: Path, content: dict[str, Any]) -> None:
    """Write SUMMARY: `content` as JSON, with the entries of LISTING as "parts", of which one is in memory at a time."""
    before, after = json.dumps(content | {"parts": []}, indent=1, sort_keys=True).split('"parts": []')
    with (folder / LISTING).open(encoding="utf-8") as listing, (folder / SUMMARY).open("w") as file:
        file.write(f'{before}"parts": [')
        for number, line in enumerate(listing):
            entry = json.dumps(json.loads(line), indent=1)
            file.write((",\n" if number else "\n") + textwrap.indent(entry, "  "))
        file.write(("\n ]" if content["parts"] else "]") + after + "\n")


def _cut(rows: Iterable[dict[str, Any]], lengths: Iterator[float]) -> Iterator[list[dict[str, Any]]]:
    """Cut rows into lists, each ended by the row that makes it as many samples long as wanted."""
    part: list[dict[str, Any]] = []
    samples, enough = 0, next(lengths)
    for row in rows:
        part.append(row)
        samples += row["samples"]
        if samples >= enough or len(part) == ROWS_PER_PART:
            yield part
            part, samples, enough = [], 0, next(lengths)
    if part:
        yield part


def _publish(unfinished: Path, folder: Path, parts: int) -> None:
    """Move a finished manifest into its folder; from the first step to the last, `parts` finds none there.

    Several files at a time: a store takes a while for each request, a disk for each fsync.
    """
    files.make_folder(folder)
    old = folder / SUMMARY

    def replace_part(name: str, same: bool) -> None:
        if same:
            (unfinished / name).unlink()
        else:
            files.publish(unfinished / name, folder / name)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        names, changed = map(part_name, range(parts)), False
        while batch := list(islice(names, AT_ONCE)):
            same = list(threads.map(lambda name: _same_bytes(unfinished / name, folder / name), batch))
            if not all(same) and not changed:
                old.unlink(missing_ok=True)
                changed = True
            deque(threads.map(replace_part, batch, same), maxlen=0)
    if surplus := [name for name in _names_of_parts(folder) if not _is_part_name(name, parts)]:
        old.unlink(missing_ok=True)
    for name in surplus:
        (folder / name).unlink()
    if changed or surplus or not _same_bytes(unfinished / SUMMARY, old):
        old.unlink(missing_ok=True)
        files.publish(unfinished / SUMMARY, old)


def _names_of_parts(folder: Path) -> Iterator[str]:
    """Names of the files in a manifest's folder that are parts of this one or of an earlier one, in no order."""
    if files.is_url(folder):
        yield from (path.name for path in folder.glob("part-*.parquet"))
        return
    with os.scandir(folder) as entries:  # `glob` holds them all
        yield from (one.name for one in entries if fnmatch(one.name, "part-*.parquet"))


def _is_part_name(name: str, parts: int) -> bool:
    """Whether a part of a manifest of that many parts has this name."""
    number = name.removeprefix("part-").removesuffix(".parquet")
    return number.isdecimal() and int(number) < parts and name == part_name(int(number))


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        return files.read(other) == one.read_bytes()
    except ValueError:
        return False
