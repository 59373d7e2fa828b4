"""Folders of recordings, with a transcript or word times beside each where there are any."""

import html
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from corpus import files
from corpus.adapters.base import AUDIO_ENDINGS, Intake, Row, Source, measured, walk
from corpus.records import Reject, Utterance
from corpus.text_files import MARKS

TRANSCRIPTS = (".normalized.txt", ".txt", ".lab", ".lbl", ".trn", ".srt", ".vtt")
"""Endings of transcripts, in the order in which they are preferred."""

ALIGNMENTS = (".TextGrid", ".textgrid", ".json", ".ctm")
"""Endings of word times."""

LONGEST_TEXT = 1 << 20  # bytes


def read_folder(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read every recording below a folder, in alphabetic order; symbolic links are followed.

    The transcript is in a file of the same name that ends in `.txt`, `.normalized.txt` (LibriTTS), `.lab`, or in `.srt`
    or `.vtt`, of which the text is read and the times are not; word times are in one that ends in `.TextGrid`, `.json`
    or `.ctm`. A `.json` object with `text` is a transcript. A recording without has no text. The id is the path below
    the source without its ending, with '-' between folders; the speaker is the topmost folder, where recordings are in
    folders.

    Raises:
        ValueError: there is no such folder, or no recording in it.
    """
    root = local_folder(source)
    rows = _rows(root, intake, _named_by_path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{source}: need recordings ({', '.join(AUDIO_ENDINGS)}), found none")
    return _chained(first, rows)


def read_vctk(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read VCTK: `wav48_silence_trimmed/p225/p225_001_mic1.flac` (or `wav48/p225/p225_001.wav`) and
    `txt/p225/p225_001.txt`. Of two microphones the first is read.

    Raises:
        ValueError: there is no such folder, or none of these in it.
    """
    root = local_folder(source)
    audio = next(
        (name for name in ("wav48_silence_trimmed", "wav48", "wav") if os.path.isdir(f"{root}/{name}")), None
    )
    if audio is None:
        raise ValueError(f"{source}: need a folder wav48_silence_trimmed or wav48, found none")
    return _vctk_rows(root, os.path.join(root, audio), intake)


def local_folder(source: Source) -> str:
    """The absolute path of a folder on the local disk.

    Raises:
        ValueError: there is none.
    """
    if files.is_url(source):
        raise ValueError(f"{source}: this adapter reads a local folder; write a JSON Lines manifest")
    if not os.path.isdir(source):
        there = "a file" if os.path.exists(source) else "none"
        raise ValueError(f"{source}: need a folder, there is {there}")
    return os.path.abspath(source)


def read_libritts(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read LibriTTS: `.../SPEAKER/CHAPTER/SPEAKER_CHAPTER_000001_000000.wav` with `.normalized.txt` beside it.

    Raises:
        ValueError: there is no such folder, or no recording in it.
    """
    rows = _rows(local_folder(source), intake, _named_as_libritts)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{source}: need *.wav with *.normalized.txt as in LibriTTS, found none")
    return _chained(first, rows)


def _rows(root: str, intake: Intake, name: Callable[[Utterance, list[str]], Utterance]) -> Iterator[Row]:
    for folder, names in walk(root):
        there = set(names)
        for file in names:
            stem, ending = os.path.splitext(file)
            if ending.lower() not in AUDIO_ENDINGS:
                continue
            alignment = _beside(folder, stem, there, ALIGNMENTS)
            transcript = _beside(folder, stem, there, TRANSCRIPTS)
            if alignment and alignment.endswith(".json") and json_text(alignment) is not None:
                alignment, transcript = None, transcript or alignment
            known = Utterance(id=stem, audio=os.path.join(folder, file), frames=0, alignment=alignment)
            below = os.path.relpath(os.path.join(folder, stem), root).split(os.sep)
            yield from _with_text(name(known, below), transcript, intake)


def _vctk_rows(root: str, audio: str, intake: Intake) -> Iterator[Row]:
    for folder, names in walk(audio):
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() not in AUDIO_ENDINGS or stem.endswith("_mic2"):
                continue
            id, speaker = stem.removesuffix("_mic1"), os.path.basename(folder)
            text = os.path.join(root, "txt", speaker, f"{id}.txt")
            known = Utterance(
                id, os.path.join(folder, name), 0, speaker=speaker, language="en", licence="CC-BY-4.0"
            )
            yield from _with_text(known, text if os.path.isfile(text) else None, intake)


def _with_text(known: Utterance, path: str | None, intake: Intake) -> Iterator[Row]:
    fault, text = None, None
    if path is not None:
        try:
            content = read_ordinary(path, LONGEST_TEXT + 1)
            if len(content) > LONGEST_TEXT:
                fault = Reject(
                    "manifest.bad_field", f"{path}: need a transcript of at most {LONGEST_TEXT} bytes"
                )
            mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
            text = to_text(path, content[len(mark) :].decode(MARKS.get(mark, "utf-8")))
        except UnicodeDecodeError as error:
            fault = Reject("manifest.bad_field", f"{path}: need UTF-8, or UTF-16 with a mark: {error.reason}")
        except OSError as error:
            fault = Reject("manifest.bad_field", f"{path}: cannot be read: {error.strerror or error}")
    yield from measured(replace(known, text=text), intake, reject=fault)


def to_text(path: str, content: str) -> str:
    r"""The transcript in a file, on one line: of subtitles the spoken text, of JSON its `text`, else all of it.

    >>> to_text("a.srt", "1\n00:00:01,000 --> 00:00:02,500\n<i>They went</i>\nout.\n\n2\n")
    'They went out.'
    >>> to_text("a.vtt", "WEBVTT\n\nNOTE x\n\nid\n00:01.000 --> 00:02.000\n<v Anna>Hi &amp; bye\n")
    'Hi & bye'
    """
    if path.endswith((".srt", ".vtt")):
        content = " ".join(subtitles(content))
    elif path.endswith(".json"):
        content = json.loads(content)["text"]
    return " ".join(content.split())


def subtitles(content: str) -> Iterator[str]:
    """The text of each cue of SubRip or WebVTT, without markup."""
    for block in re.split(r"\n[ \t]*\n", content.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.split("\n")
        cue = next((place for place, line in enumerate(lines) if "-->" in line), None)
        if cue is not None:
            yield html.unescape(re.sub(r"<[^>]*>|\{\\[^}]*\}", "", " ".join(lines[cue + 1 :])))


def read_ordinary(path: str, most: int) -> bytes:
    """The first bytes of a file that is no pipe and no device: these may never end.

    Raises:
        OSError: it is one, or cannot be read.
    """
    if not os.path.isfile(path):
        raise OSError("need an ordinary file")
    with open(path, "rb") as file:
        return file.read(most)


def json_text(path: str) -> str | None:
    """The field `text` of a JSON object without word times; None where there is no such."""
    try:
        fields = json.loads(read_ordinary(path, LONGEST_TEXT).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    timed = {"words", "segments", "tiers", "word_segments", "alignments"}
    if not isinstance(fields, dict) or timed & fields.keys():
        return None
    return fields["text"] if isinstance(fields.get("text"), str) else None


def _named_by_path(known: Utterance, below: list[str]) -> Utterance:
    return replace(known, id="-".join(below), speaker=below[0] if len(below) > 1 else None)


def _named_as_libritts(known: Utterance, below: list[str]) -> Utterance:
    return replace(known, speaker=known.id.split("_")[0], language="en", licence="CC-BY-4.0")


def _beside(folder: str, stem: str, names: set[str], endings: tuple[str, ...]) -> str | None:
    return next((os.path.join(folder, stem + ending) for ending in endings if stem + ending in names), None)


def _chained(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest
