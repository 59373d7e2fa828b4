"""Word times that came with the data. The format follows from the content of the file, or else from its name:

TextGrid (Praat, long or short, UTF-8, UTF-16 or Latin-1) · JSON (MFA, WhisperX, whisper-timestamped, OpenAI, Gentle,
Qwen and Moshi aligners, plain lists of words) · `.csv` (MFA, or columns word, start and end) · `.ctm` ·
`.alignment.txt` (LibriSpeech) · `.jsonl`, `.jsonl.gz` (Lhotse supervisions, or one such JSON object per utterance). A
CTM, LibriSpeech or JSON Lines file holds many utterances, found by id.
"""

import csv
import functools
import gzip
import json
import os
import re
import shlex
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from aligners.alignment import Aligner, AlignerInput, AlignerOutput, Phone
from aligners.markup import is_pause
from aligners.match import Label, match
from corpus import files
from corpus.records import Reject
from corpus.text_files import LOOK, codec_of

LARGEST = 1 << 30  # bytes of an alignment file, unpacked
UNNAMED = ""
"""The id under which a reader returns a file that holds one utterance and does not name it."""


@dataclass(frozen=True)
class GivenSettings:
    """Settings of the backend `given`.

    words_tier, phones_tier: names of the tiers (TextGrid, MFA); tiers "SPEAKER - words" are found as "words" too.
    origin: zero of the file's times, "utterance", or "recording" where one file covers a long recording. Lhotse's
        times always count from the start of the recording.
    """

    words_tier: str = "words"
    phones_tier: str = "phones"
    origin: str = "utterance"

    def __post_init__(self) -> None:
        if self.origin not in ("utterance", "recording"):
            raise ValueError(f"given.origin: need 'utterance' or 'recording', got {self.origin!r}")


class Tiers(NamedTuple):
    """Labels of a file, in order of time; phones are None where it has none."""

    words: Sequence[Label]
    phones: Sequence[Label] | None = None
    origin: str | None = None  # where the format fixes the zero of the times


class Given(Aligner):
    """Reads `utterance.alignment`; see the module."""

    name = "given"
    version = "2"

    def __init__(self, settings: GivenSettings):
        self.settings = settings

    def align_one(self, item: AlignerInput) -> AlignerOutput:
        utterance = item.utterance
        tiers = read(files.local(utterance.alignment), utterance.id, self.settings)
        from_recording = (tiers.origin or self.settings.origin) == "recording"
        offset = utterance.first_frame / utterance.sample_rate if from_recording else None
        words = match(cut_to_utterance(tiers.words, offset, item.seconds), item.tokens, str(utterance.text))
        if tiers.phones is None:
            return AlignerOutput(words)
        return AlignerOutput(words, phones_of(cut_to_utterance(tiers.phones, offset, item.seconds)))


def phones_of(labels: Sequence[Label]) -> list[Phone]:
    """The phones of a tier, without pauses; those that overlap the next are clipped, those without length left out."""
    ends = [*(label.start for label in labels[1:]), float("inf")]
    clipped = [
        Phone(label.text, label.start, min(label.end, end)) for label, end in zip(labels, ends, strict=False)
    ]
    return [phone for phone in clipped if not is_pause(phone.text) and 0 <= phone.start < phone.end]


def cut_to_utterance(labels: Sequence[Label], offset: float | None, seconds: float) -> Sequence[Label]:
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
    tiers = read_everything(path, settings)
    if id not in tiers and UNNAMED not in tiers:
        raise Reject("align.missing", f"{path}: no utterance {id!r} in it")
    return tiers.get(id) or tiers[UNNAMED]


def read_everything(path: str, settings: GivenSettings) -> dict[str, Tiers]:
    """Read the labels of every utterance in a file, by id.

    Raises:
        Reject: align.missing, align.unreadable.
    """
    try:
        status = os.stat(path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # a pipe may never end
            raise Reject("align.unreadable", f"{path}: need an ordinary file")
        return read_file(path, (status.st_mtime_ns, status.st_size), settings)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Reject("align.missing", f"{path}: no such file") from error
    except (ValueError, LookupError, TypeError, OSError, EOFError, csv.Error) as error:
        if isinstance(error, Reject):
            raise
        raise Reject("align.unreadable", f"{path}: {error or type(error).__name__}"[:300]) from error


@functools.lru_cache(maxsize=4)  # a chapter or a corpus shares one file: read it once, not once per utterance
def read_file(path: str, modified: tuple[int, int], settings: GivenSettings) -> dict[str, Tiers]:
    """Everything in an alignment file, by utterance id. Raises ValueError with the line where it cannot be read."""
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"need at most {LARGEST} bytes, unpacked")
    if content.startswith(b"ooBinaryFile"):
        raise ValueError("a binary TextGrid; save it as a text file")
    text = decode(content)
    if "\0" in text:
        raise ValueError(
            f"line {text.count(chr(10), 0, text.index(chr(0))) + 1}: not text: it holds a zero byte"
        )
    name = path.lower().removesuffix(".gz")
    if re.match(r'\s*(?:File type = *)?"ooTextFile', text):
        return read_textgrid(text, settings)
    for suffix, reader in READERS.items():
        if name.endswith(suffix):
            return reader(text, settings)
    if text.lstrip()[:1] in ("{", "["):
        return read_json(text, settings)
    raise ValueError(f"unknown format; known: {', '.join(READERS)}")


def decode(content: bytes) -> str:
    """Text of a file: UTF-16, UTF-32 or UTF-8 as its start says, else Latin-1 as Praat writes on Windows."""
    codec = codec_of(content[:LOOK])
    if codec not in (None, "utf-8"):
        return content.decode(codec).removeprefix("\ufeff")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


TEXTGRID = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)%?(?!\S)|(?<!\S)![^\n]*')
"""What Praat reads of its own files: strings and numbers between spaces; all else, "xmin =" too, is a comment."""


def read_textgrid(text: str, settings: GivenSettings) -> dict[str, Tiers]:
    """Praat TextGrid, long or short. Tiers of other names are passed over, whatever is in them."""
    values = (match for match in TEXTGRID.finditer(text) if match.lastindex)
    tiers: dict[str, list[Label]] = {}
    kind = name = ""

    def string() -> str:
        match = next(values)
        if match[1] is None:
            raise ValueError(f"line {line_of(text, match)}: need a text in quotes, got {match[2]}")
        return match[1].replace('""', '"')

    def number() -> float:
        match = next(values)
        try:
            return float(match[2])
        except (TypeError, ValueError):
            raise ValueError(f"line {line_of(text, match)}: need a number, got {match[0]}") from None

    try:
        for value in [string, string, number, number]:  # file type, class, first and last time
            value()
        for _ in range(int(number())):
            kind, name, *_ = string(), string(), number(), number()
            labels = []
            for _ in range(int(number())):
                start = number()
                end = number() if kind == "IntervalTier" else start
                labels.append(Label(string(), start, end))
            if kind == "IntervalTier":
                tiers.setdefault(name, labels)
            name = ""
    except StopIteration:
        if not tiers or is_tier(name, settings.words_tier) or is_tier(name, settings.phones_tier):
            raise ValueError(f"line {text.count(chr(10)) + 1}: the file ends inside tier {name!r}") from None
    return select_tiers(tiers, settings)


def line_of(text: str, match: re.Match[str]) -> int:
    """Number of the line that a match begins in."""
    return text.count("\n", 0, match.start()) + 1


WORD_LISTS = (
    *(
        "words",
        "word_segments",
        "alignments",
        "alignment",
        "chunks",
        "timestamps",
        "time_stamps",
        "items",
        "tokens",
    ),
    *("segments", "sentences", "utterances", "results", "result", "transcription"),
)
"""Keys under which JSON files hold words, or lists of objects that hold them; the first found is read."""
TEXTS = ("word", "text", "label", "symbol", "token", "phone")
STARTS = ("start", "start_time", "begin", "begin_time", "startTime", "Begin", "Start")
ENDS = ("end", "end_time", "endTime", "End")
SCORES = ("score", "confidence", "probability", "conf")
"""Keys of one word."""


def read_json(text: str, settings: GivenSettings) -> dict[str, Tiers]:
    """One utterance in JSON; the structure decides whose it is.

    Raises:
        ValueError: it is no JSON (names the line), of no known structure, or a word has no times (names the word).
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not JSON: {error.msg}") from error
    if isinstance(content, dict) and "tiers" in content:
        return select_tiers(tiers_of(content["tiers"]), settings)
    return {UNNAMED: tiers_of_words(find_words(content))}


def tiers_of(content: Any) -> dict[str, list[Label]]:
    """Tiers of MFA, `{name: {"entries": [[start, end, label], ...]}}`, or of praatio, a list of them with names."""
    named = (
        {tier["name"]: tier for tier in content if "name" in tier} if isinstance(content, list) else content
    )
    if not isinstance(named, dict) or not all(isinstance(tier, dict) for tier in named.values()):
        raise ValueError("'tiers': need objects with 'entries', lists of [start, end, label]")
    return {
        str(name): [label_of(number, row) for number, row in enumerate(tier.get("entries") or (), 1)]
        for name, tier in named.items()
    }


def find_words(content: Any) -> list[Any]:
    """The rows of words in a JSON value.

    >>> find_words({"segments": [{"text": "hi you", "words": [{"word": "hi"}]}, {"words": [{"word": "you"}]}]})
    [{'word': 'hi'}, {'word': 'you'}]
    """
    if isinstance(content, dict):
        for key in WORD_LISTS:
            if isinstance(content.get(key), list | dict):
                return find_words(content[key])
        keys = ", ".join(map(repr, list(content)[:8]))
        raise ValueError(
            f"no words in an object with the keys {keys}; known: 'tiers', {', '.join(WORD_LISTS)}"
        )
    if not isinstance(content, list):
        raise ValueError(f"need an object or a list of words, got {json.dumps(content)[:60]}")
    rows: list[Any] = []
    for row in content:
        nested = isinstance(row, dict) and any(isinstance(row.get(key), list | dict) for key in WORD_LISTS)
        listed = isinstance(row, list) and bool(row) and all(isinstance(one, dict) for one in row)
        rows += find_words(row) if nested or listed else [row]
    return rows


def tiers_of_words(rows: Sequence[Any]) -> Tiers:
    """Words, and the phones of those that hold some as Gentle does: names and lengths."""
    words, phones = [], []
    for number, row in enumerate(rows, 1):
        word = label_of(number, row)
        words.append(word)
        start = word.start
        for phone in row.get("phones") or () if isinstance(row, dict) else ():
            if isinstance(phone, dict) and "duration" in phone:
                end = start + seconds_of(phone["duration"], f"word {number}: a phone")
                phones.append(Label(str(phone.get("phone")), start, end))
                start = end
    return Tiers(in_order(words), in_order(phones) if phones else None)


def label_of(number: int, row: Any) -> Label:
    """One word of a JSON file: an object, [start, end, word], [word, start, end] or [word, [start, end]]."""
    if isinstance(row, Mapping):
        text = first_of(row, TEXTS)
        times = row.get("timestamp") or (first_of(row, STARTS), first_of(row, ENDS))
        score = first_of(row, SCORES)
    elif isinstance(row, list) and len(row) > 1 and isinstance(row[0], str):
        text, score = row[0], None
        times = row[1] if isinstance(row[1], list) else row[1:3]
    elif isinstance(row, list) and len(row) > 2:
        text, times, score = row[2], row[:2], None
    else:
        raise ValueError(
            f"word {number}: need an object or a list with word, start and end, got {str(row)[:60]}"
        )
    if not isinstance(text, str):
        raise ValueError(f"word {number}: need a text under one of {', '.join(TEXTS)}, got {str(row)[:60]}")
    name = f"word {number}, {text.strip()!r}"
    if not isinstance(times, list | tuple) or len(times) != 2 or None in times:
        raise ValueError(f"{name}: has no start and end")
    start, end = (seconds_of(time, name) for time in times)
    return Label(text.strip(), start, end, float(score) if isinstance(score, int | float) else None)


def first_of(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The value of the first of some keys that a row has, else None."""
    return next((row[key] for key in keys if row.get(key) is not None), None)


def seconds_of(value: Any, name: str) -> float:
    """A time, also one written as text. Raises ValueError, naming what it belongs to."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: need seconds, got {str(value)[:40]!r}") from None


def read_csv(text: str, settings: GivenSettings) -> dict[str, Tiers]:
    """MFA's table with the header Begin,End,Label,Type,Speaker, or one with columns word, start and end."""
    rows = csv.DictReader(text.splitlines())
    header = list(rows.fieldnames or ())
    tiers: dict[str, list[Label]] = defaultdict(list)
    if not any(name in header for name in STARTS) or not any(name in header for name in (*TEXTS, "Label")):
        raise ValueError(
            f"line 1: need the columns Begin, End, Label and Type, or word, start and end, got {header}"
        )
    for row in rows:
        kind = row.get("Type") or settings.words_tier
        label = {**row, "word": first_of(row, ("Label", *TEXTS)) or ""}
        with naming(rows.line_num):
            tiers[kind].append(label_of(rows.line_num, label))
    return select_tiers(tiers, settings)


def read_ctm(text: str, settings: GivenSettings) -> dict[str, Tiers]:
    """NIST CTM: id, channel, start, duration, word and perhaps confidence per line; `;;` begins a comment."""
    labels: dict[str, list[Label]] = defaultdict(list)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith(";;"):
            with naming(number):
                id, _, start, duration, word, *rest = line.split()
                score = float(rest[0]) if rest and rest[0] != "NA" else None
                labels[id].append(Label(word, float(start), float(start) + float(duration), score))
    return {id: Tiers(in_order(some)) for id, some in labels.items()}


def read_librispeech(text: str, settings: GivenSettings) -> dict[str, Tiers]:
    """LibriSpeech, per line: `id ",GO,,DO," "0.49,0.89,1.27,1.38,1.49"`: words, "" for silence; their ends."""
    tiers = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            with naming(number):
                id, words, ends = shlex.split(line)
                times = [0.0, *map(float, ends.split(","))]
                steps = zip(words.split(","), times[:-1], times[1:], strict=True)
                tiers[id] = Tiers([Label(word, start, end) for word, start, end in steps if end > start])
    return tiers


def read_json_lines(text: str, settings: GivenSettings) -> dict[str, Tiers]:
    """Lhotse supervisions, `alignment: {"word": [[symbol, start, duration, score], ...]}`, or words as in `.json`."""
    tiers = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            with naming(number):
                row = json.loads(line)
                if not isinstance(row, dict) or "id" not in row:
                    raise ValueError("need an object with the key 'id'")
                row_tiers = lhotse_tiers(row["alignment"]) if isinstance(row.get("alignment"), dict) else None
                if row_tiers is None and any(isinstance(row.get(key), list) for key in WORD_LISTS):
                    row_tiers = tiers_of_words(find_words(row))
                if row_tiers is not None:
                    tiers[str(row["id"])] = row_tiers
    return tiers


def lhotse_tiers(alignment: Mapping[str, Sequence[Any]]) -> Tiers | None:
    """The words and phones of one supervision of Lhotse; None where it has no words."""
    tiers = {
        name: [
            Label(str(symbol), float(start), float(start) + float(duration), *(map(score_of, rest[:1])))
            for symbol, start, duration, *rest in entries
        ]
        for name, entries in alignment.items()
        if name in ("word", "phone")
    }
    return Tiers(tiers["word"], tiers.get("phone"), "recording") if "word" in tiers else None


def score_of(number: Any) -> float | None:
    """A score of Lhotse, which may be null."""
    return None if number is None else float(number)


@contextmanager
def naming(line: int) -> Iterator[None]:
    """Errors of one line name it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"line {line}: {error}") from error


def select_tiers(tiers: Mapping[str, list[Label]], settings: GivenSettings) -> dict[str, Tiers]:
    """The words and phones tiers of a file by their names."""
    words = find_tier(tiers, settings.words_tier)
    if words is None:
        raise ValueError(f"no tier {settings.words_tier!r}; it has {sorted(tiers)}")
    return {UNNAMED: Tiers(words, find_tier(tiers, settings.phones_tier))}


def is_tier(tier: str, name: str) -> bool:
    """Whether a tier has a name, alone or as "SPEAKER - name"."""
    return tier == name or tier.endswith(f" - {name}")


def find_tier(tiers: Mapping[str, list[Label]], name: str) -> list[Label] | None:
    """The tier `name`, else all tiers "SPEAKER - name" together in order of time; None where there is neither."""
    if name in tiers:
        return in_order(tiers[name])
    labels = [tiers[tier] for tier in tiers if is_tier(tier, name)]
    return in_order(label for some in labels for label in some) if labels else None


def in_order(labels: Iterable[Label]) -> list[Label]:
    """Labels by their start."""
    return sorted(labels, key=lambda label: label.start)


READERS: dict[str, Callable[[str, GivenSettings], dict[str, Tiers]]] = {
    ".textgrid": read_textgrid,
    ".alignment.txt": read_librispeech,
    ".json": read_json,
    ".csv": read_csv,
    ".ctm": read_ctm,
    ".jsonl": read_json_lines,
}
"""End of the file's name, lower case, without .gz -> reader."""
