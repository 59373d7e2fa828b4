"""The layout of LibriSpeech: `.../SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac` with one transcript file per chapter."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from corpus import files
from corpus.adapters.base import AUDIO_ENDINGS, Intake, Row, Source, measured, walk
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance


def read_librispeech(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read a folder laid out like LibriSpeech.

    Transcripts come from `SPEAKER-CHAPTER.trans.txt` beside the audio (a line: id, space or tab, text); an audio file
    without a line has no text. Word times come from `SPEAKER-CHAPTER.alignment.txt` where it exists. Folders, and
    utterances within a folder, come in alphabetic order; symbolic links are followed.

    Source: Panayotov et al. 2015, LibriSpeech, ICASSP.

    Raises:
        ValueError: there is no such folder, or nothing of that layout in it.
    """
    if files.is_url(source):
        raise ValueError(
            f"{source}: the adapter librispeech reads a local folder; write a JSON Lines manifest"
        )
    source = Path(source)
    if not source.is_dir():
        raise ValueError(f"{source}: need a folder, there is {'a file' if source.exists() else 'none'}")
    if not any(_is_chapter(names) for _, names in walk(str(source))):
        raise ValueError(f"{source}: need *.trans.txt and audio files as in LibriSpeech, found none")
    chapters = (chapter for chapter in walk(str(source)) if _is_chapter(chapter[1]))
    return (row for folder, names in chapters for row in _chapter_rows(folder, names, intake))


def _is_chapter(names: list[str]) -> bool:
    return any(name.endswith(".trans.txt") or _is_audio(name) for name in names)


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in AUDIO_ENDINGS


def _chapter_rows(folder: str, names: list[str], intake: Intake) -> Iterator[Row]:
    recorded: dict[str, str] = {}
    texts: dict[str, str] = {}
    speaker = os.path.basename(os.path.dirname(folder))
    for name in names:
        if name.endswith(".trans.txt"):
            yield from _read_transcripts(os.path.join(folder, name), texts)
        elif _is_audio(name):
            id = _composed(os.path.splitext(name)[0])
            if id in recorded:
                path = os.path.join(folder, name)
                known = Utterance(id=name, audio=path, frames=0, speaker=speaker)
                twice = Reject("id.duplicate", f"{path}: {recorded[id]} has the same id")
                yield from measured(known, intake, reject=twice)
            else:
                recorded[id] = name
    for id in sorted(recorded.keys() | texts.keys()):
        known = Utterance(
            id=id,
            audio=os.path.join(folder, recorded.get(id, f"{id}.flac")),
            frames=0,
            text=texts.get(id),
            speaker=speaker,
            language="en",
            licence="CC-BY-4.0",
            alignment=_alignment(folder, names, id),
        )
        yield from measured(known, intake)


def _read_transcripts(path: str, texts: dict[str, str]) -> Iterator[Row]:
    """Add the lines of one file to `texts`; yield those that cannot be used."""
    name = os.path.basename(path)
    if not os.path.isfile(path):  # a pipe or a device may never end
        yield RejectedRow(
            Utterance(name, "", 0), Reject("manifest.bad_field", f"{path}: need an ordinary file")
        )
        return
    content = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")  # byte order mark
    for number, line in enumerate(content.splitlines(), start=1):
        unknown = Utterance(id=f"{name}:{number}", audio="", frames=0)
        try:
            id, _, text = line.decode("utf-8").strip().replace("\t", " ", 1).partition(" ")
        except UnicodeDecodeError as error:
            yield RejectedRow(unknown, Reject("manifest.bad_field", f"need UTF-8: {error}"))
            continue
        id, text = _composed(id), text.strip()
        if id in texts and texts[id] != text:
            yield RejectedRow(unknown, Reject("id.duplicate", f"{path}: a line before has the id {id!r}"))
        elif id:
            texts.setdefault(id, text)


def _composed(name: str) -> str:
    """A name with its accents as one character each: file systems and transcripts differ in that."""
    return unicodedata.normalize("NFC", name)


def _alignment(folder: str, names: list[str], id: str) -> str | None:
    """The alignment file of an utterance's chapter, if there is one."""
    name = f"{id.rpartition('-')[0]}.alignment.txt"
    return os.path.join(folder, name) if name in names else None
