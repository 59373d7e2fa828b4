"""Folders of recordings, with a transcript or word times beside each where there are any."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from corpus import files
from corpus.adapters.base import AUDIO_ENDINGS, Intake, Row, Source, measured, walk
from corpus.records import Reject, Utterance

TRANSCRIPTS = (".normalized.txt", ".txt", ".lab", ".lbl", ".trn")
"""Endings of transcripts, in the order in which they are preferred."""

ALIGNMENTS = (".TextGrid", ".textgrid", ".json", ".ctm")
"""Endings of word times."""

LONGEST_TEXT = 1 << 20  # bytes


def read_folder(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read every recording below a folder, in alphabetic order; symbolic links are followed.

    The transcript is in a file of the same name that ends in `.txt`, `.normalized.txt` (LibriTTS) or `.lab`, word times
    in one that ends in `.TextGrid`, `.json` or `.ctm`; a recording without has no text. The id is the path below the
    source without its ending, with '-' between folders; the speaker is the topmost folder, where recordings are in
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
            known = Utterance(id=stem, audio=os.path.join(folder, file), frames=0, alignment=alignment)
            below = os.path.relpath(os.path.join(folder, stem), root).split(os.sep)
            yield from _with_text(name(known, below), _beside(folder, stem, there, TRANSCRIPTS), intake)


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
            content = Path(path).read_bytes()[: LONGEST_TEXT + 1]
            if len(content) > LONGEST_TEXT:
                fault = Reject(
                    "manifest.bad_field", f"{path}: need a transcript of at most {LONGEST_TEXT} bytes"
                )
            text = " ".join(content.decode("utf-8-sig").split())
        except UnicodeDecodeError as error:
            fault = Reject("manifest.bad_field", f"{path}: need UTF-8: {error.reason}")
        except OSError as error:
            fault = Reject("manifest.bad_field", f"{path}: cannot be read: {error.strerror}")
    yield from measured(replace(known, text=text), intake, reject=fault)


def _named_by_path(known: Utterance, below: list[str]) -> Utterance:
    return replace(known, id="-".join(below), speaker=below[0] if len(below) > 1 else None)


def _named_as_libritts(known: Utterance, below: list[str]) -> Utterance:
    return replace(known, speaker=known.id.split("_")[0], language="en", licence="CC-BY-4.0")


def _beside(folder: str, stem: str, names: set[str], endings: tuple[str, ...]) -> str | None:
    return next((os.path.join(folder, stem + ending) for ending in endings if stem + ending in names), None)


def _chained(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest
