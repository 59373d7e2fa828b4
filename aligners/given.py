"""Word times that came with the data. The format follows from the file's name:

`.TextGrid` (Praat, long or short) · `.json` (MFA, or a list of `{"word", "start", "end"}`) · `.csv` (MFA) · `.ctm` ·
`.alignment.txt` (LibriSpeech) · `.jsonl`, `.jsonl.gz` (Lhotse supervisions). From `.ctm` on, a file holds many
utterances, found by id.
"""

import csv
import functools
import gzip
import json
import os
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from praatio import textgrid
from praatio.utilities.errors import PraatioException

from aligners.alignment import Aligner, AlignerInput, AlignerOutput, Phone
from aligners.match import SILENCE, Label, match
from corpus import files
from corpus.records import Reject

ONLY = ""
"""The id under which a reader returns a file that holds one utterance and does not name it."""


@dataclass(frozen=True)
class GivenSettings:
    """Settings of the backend `given`.

    words_tier, phones_tier: names of the tiers (TextGrid, MFA); tiers "SPEAKER - words" are found as "words" too.
    origin: what the file's times count from, "utterance", or "recording" where one file covers a long recording.
        Lhotse always counts from the recording.
    """

    words_tier: str = "words"
    phones_tier: str = "phones"
    origin: str = "utterance"

    def __post_init__(self) -> None:
        if self.origin not in ("utterance", "recording"):
            raise ValueError(f"given.origin: need 'utterance' or 'recording', got {self.origin!r}")


class Tiers(NamedTuple):
    """Labels as a file has them, in order of time; phones are None where it has none."""

    words: Sequence[Label]
    phones: Sequence[Label] | None = None
    origin: str | None = None  # where the format fixes what times count from


class Given(Aligner):
    """Reads `utterance.alignment`; see the module."""

    name = "given"

    def __init__(self, settings: GivenSettings):
        self.settings = settings

    def align_one(self, item: AlignerInput) -> AlignerOutput:
        utterance = item.utterance
        tiers = read(files.local(utterance.alignment), utterance.id, self.settings)
        from_recording = (tiers.origin or self.settings.origin) == "recording"
        offset = utterance.first_frame / utterance.sample_rate if from_recording else None
        words = match(cut(tiers.words, offset, item.seconds), item.tokens, str(utterance.text))
        phones = None
        if tiers.phones is not None:
            labels = cut(tiers.phones, offset, item.seconds)
            phones = [Phone(label.text, label.start, label.end) for label in labels if is_phone(label)]
        return AlignerOutput(words, phones)


def is_phone(label: Label) -> bool:
    """Whether a label of the phones tier is a phone, not a silence."""
    return label.text.strip().lower() not in SILENCE and 0 <= label.start < label.end


def cut(labels: Sequence[Label], offset: float | None, seconds: float) -> Sequence[Label]:
    """Labels of a recording counted from `offset`, those whose middle lies outside left out; all of them if None."""
    if offset is None:
        return labels
    moved = [label._replace(start=label.start - offset, end=label.end - offset) for label in labels]
    return [label for label in moved if 0 <= (label.start + label.end) / 2 < seconds]


def read(path: str | None, id: str, settings: GivenSettings) -> Tiers:
    """Read the labels of one utterance.

    Raises:
        Reject: align.missing, align.unreadable.
    """
    if path is None:
        raise Reject("align.missing", "the manifest names no alignment file")
    found = read_everything(path, settings)
    if id not in found and ONLY not in found:
        raise Reject("align.missing", f"{path}: holds nothing of {id!r}")
    return found.get(id) or found[ONLY]


def read_everything(path: str, settings: GivenSettings) -> dict[str, Tiers]:
    """Read the labels of every utterance in a file, by id.

    Raises:
        Reject: align.missing, align.unreadable.
    """
    try:
        return read_file(path, os.stat(path).st_mtime_ns, settings)
    except FileNotFoundError as error:
        raise Reject("align.missing", f"{path}: no such file") from error
    except (PraatioException, ValueError, LookupError, TypeError, AttributeError, OSError, EOFError) as error:
        if isinstance(error, Reject):
            raise
        raise Reject("align.unreadable", f"{path}: {type(error).__name__}: {error}"[:300]) from error


@functools.lru_cache(maxsize=4)  # a chapter or a corpus shares one file: read it once, not once per utterance
def read_file(path: str, modified: int, settings: GivenSettings) -> dict[str, Tiers]:
    """Everything an alignment file holds, by utterance id."""
    if os.path.isdir(path):
        raise FileNotFoundError(path)
    for suffix, reader in READERS.items():
        if path.lower().endswith(suffix):
            return reader(path, settings)
    raise Reject("align.unreadable", f"{path}: unknown format; known: {', '.join(READERS)}")


def read_textgrid(path: str, settings: GivenSettings) -> dict[str, Tiers]:
    """Praat TextGrid through praatio, UTF-8 or UTF-16, long or short."""
    grid = textgrid.openTextgrid(
        path, includeEmptyIntervals=False, reportingMode="silence", duplicateNamesMode="rename"
    )
    tiers = {
        name: [Label(label, start, end) for start, end, label in grid.getTier(name).entries]
        for name in grid.tierNames
        if isinstance(grid.getTier(name), textgrid.IntervalTier)
    }
    return pick(tiers, path, settings)


def read_json(path: str, settings: GivenSettings) -> dict[str, Tiers]:
    """MFA's `{"tiers": {"words": {"entries": [[start, end, label], ...]}}}`, or `[{"word", "start", "end"}, ...]`."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    if isinstance(content, list):
        return {
            ONLY: Tiers([Label(str(row["word"]), float(row["start"]), float(row["end"])) for row in content])
        }
    tiers = {
        name: [Label(str(label), float(start), float(end)) for start, end, label in tier["entries"]]
        for name, tier in content["tiers"].items()
    }
    return pick(tiers, path, settings)


def read_csv(path: str, settings: GivenSettings) -> dict[str, Tiers]:
    """MFA's table with the header Begin,End,Label,Type,Speaker."""
    tiers: dict[str, list[Label]] = defaultdict(list)
    with open(path, encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            tiers[row["Type"]].append(Label(row["Label"], float(row["Begin"]), float(row["End"])))
    return pick(tiers, path, settings)


def read_ctm(path: str, settings: GivenSettings) -> dict[str, Tiers]:
    """NIST CTM: id, channel, start, duration, word and perhaps confidence a line; `;;` begins a comment."""
    found: dict[str, list[Label]] = defaultdict(list)
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith(";;"):
                id, _, start, duration, word, *rest = line.split()
                confidence = float(rest[0]) if rest and rest[0] != "NA" else None
                found[id].append(Label(word, float(start), float(start) + float(duration), confidence))
    return {id: Tiers(sorted(labels, key=lambda label: label.start)) for id, labels in found.items()}


def read_librispeech(path: str, settings: GivenSettings) -> dict[str, Tiers]:
    """LibriSpeech alignments, a line: `id ",GO,,DO," "0.49,0.89,1.27,1.38,1.49"`: words, "" for silence; their ends."""
    found = {}
    with open(path, encoding="utf-8") as file:
        for line in filter(str.strip, file):
            id, words, ends = shlex.split(line)
            times = [0.0, *map(float, ends.split(","))]
            steps = zip(words.split(","), times[:-1], times[1:], strict=True)
            found[id] = Tiers([Label(word, start, end) for word, start, end in steps if end > start])
    return found


def read_lhotse(path: str, settings: GivenSettings) -> dict[str, Tiers]:
    """Lhotse supervisions, one JSON object a line: `alignment: {"word": [[symbol, start, duration, score], ...]}`."""
    found = {}
    for row in lines_of_json(path):
        tiers = {
            name: [
                Label(str(symbol), float(start), float(start) + float(duration), *map(optional, rest[:1]))
                for symbol, start, duration, *rest in entries
            ]
            for name, entries in (row.get("alignment") or {}).items()
        }
        if "word" in tiers:
            found[str(row["id"])] = Tiers(tiers["word"], tiers.get("phone"), "recording")
    return found


def lines_of_json(path: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, gzipped if its name says so."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")  # noqa: SIM115
    with opened as file:
        yield from map(json.loads, filter(str.strip, file))


def optional(number: Any) -> float | None:
    return None if number is None else float(number)


def pick(tiers: dict[str, list[Label]], path: str, settings: GivenSettings) -> dict[str, Tiers]:
    """The words and phones tiers of a file by their names."""
    words = named(tiers, settings.words_tier)
    if words is None:
        raise Reject("align.unreadable", f"{path}: no tier {settings.words_tier!r}; it has {sorted(tiers)}")
    return {ONLY: Tiers(words, named(tiers, settings.phones_tier))}


def named(tiers: dict[str, list[Label]], name: str) -> list[Label] | None:
    """The tier `name`, else all tiers "SPEAKER - name" together in order of time; None where there is neither."""
    found = (
        [tiers[name]]
        if name in tiers
        else [labels for tier, labels in tiers.items() if tier.endswith(f" - {name}")]
    )
    return (
        sorted((label for labels in found for label in labels), key=lambda label: label.start)
        if found
        else None
    )


READERS: dict[str, Callable[[str, GivenSettings], dict[str, Tiers]]] = {
    ".textgrid": read_textgrid,
    ".alignment.txt": read_librispeech,
    ".json": read_json,
    ".csv": read_csv,
    ".ctm": read_ctm,
    ".jsonl": read_lhotse,
    ".jsonl.gz": read_lhotse,
}
"""End of the file's name, lower case -> reader."""
