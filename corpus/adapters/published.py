"""Published corpora whose transcripts are one table beside a folder of recordings."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from corpus import files
from corpus.adapters.base import Intake, Row, Source
from corpus.adapters.tables import Columns, read_table


def _ljspeech(cells: dict[str, str]) -> dict[str, str]:
    text = cells.get("normalised") or cells["text"]
    fields = {"id": cells["id"], "audio": f"wavs/{cells['id']}.wav", "text": text}
    return fields | {"speaker": "lj", "language": "en", "licence": "public domain"}


def _common_voice(cells: dict[str, str]) -> dict[str, str]:
    fields = {
        "id": os.path.splitext(cells["path"])[0],
        "audio": f"clips/{cells['path']}",
        "licence": "CC0-1.0",
    }
    names = {"sentence": "text", "client_id": "speaker", "locale": "language"}
    return fields | {name: cells[column] for column, name in names.items() if column in cells}


def _mls(cells: dict[str, str]) -> dict[str, str]:
    speaker, _, rest = cells["id"].partition("_")
    book = rest.partition("_")[0]
    audio = f"audio/{speaker}/{book}/{cells['id']}"
    return {
        "id": cells["id"],
        "audio": audio,
        "text": cells["text"],
        "speaker": speaker,
        "licence": "CC-BY-4.0",
    }


LJSPEECH = Columns("|", ("id", "text", "normalised"), quoted=False, fields=_ljspeech)
COMMON_VOICE = Columns("\t", quoted=False, fields=_common_voice)


def read_ljspeech(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read LJ Speech: `metadata.csv` (id|text|normalised text) and `wavs/ID.wav`.

    Raises:
        ValueError: there is no such folder, or no metadata.csv in it.
    """
    return read_table(_inside(source, "metadata.csv"), intake, LJSPEECH)


def read_common_voice(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read Common Voice: a table such as `validated.tsv` with `clips/` beside it; of a folder, `validated.tsv`.

    Raises:
        ValueError: there is no such table.
    """
    path = files.to_path(source)
    return read_table(_inside(source, "validated.tsv") if path.is_dir() else path, intake, COMMON_VOICE)


def read_mls(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read Multilingual LibriSpeech: `SPLIT/transcripts.txt` and `SPLIT/audio/SPEAKER/BOOK/ID.flac` (or .opus).

    The source is one split, or a folder of splits, which are read in alphabetic order.

    Raises:
        ValueError: there is no such folder, or no transcripts.txt in it.
    """
    path = files.to_path(source)
    if path.is_dir() and not (path / "transcripts.txt").is_file():
        splits = sorted(one for one in path.iterdir() if (one / "transcripts.txt").is_file())
        if splits:
            return itertools.chain.from_iterable(read_mls(split, intake) for split in splits)
    table = _inside(source, "transcripts.txt")
    ending = ".opus" if next(Path(path).glob("audio/*/*/*.opus"), None) else ".flac"

    def fields(cells: dict[str, str]) -> dict[str, str]:
        found = _mls(cells)
        return found | {"audio": found["audio"] + ending}

    return read_table(table, intake, Columns("\t", ("id", "text"), quoted=False, fields=fields))


def _inside(source: Source, name: str) -> str:
    """The table of a data set's folder."""
    path = files.to_path(source)
    if not (path / name).is_file():
        there = "none in it" if path.is_dir() else "no such folder"
        raise ValueError(f"{source}: need a folder with {name}, there is {there}")
    return str(path / name)
