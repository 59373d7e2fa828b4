"""The People's Speech as it was first published: JSON Lines of long recordings with the names of their clips."""

import json
from collections.abc import Iterator
from pathlib import Path

from corpus.adapters.base import Intake, Row, Source, measured
from corpus.adapters.jsonl import beside
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance
from corpus.text_files import open_text

LONGEST_LINE = 16 << 20  # bytes


def read_peoples_speech(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read a manifest of the People's Speech, `training_data` with `name`, `label` and `duration_ms` in each line.

    Clips are files below the folder of the manifest. The id of a clip is its name without ending, with '-' between
    folders. The copy at Hugging Face is Parquet: use the adapter `parquet`.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"{source}: need a file of JSON Lines, there is {'a folder' if path.is_dir() else 'none'}"
        )
    return _rows(path, intake)


def _rows(path: Path, intake: Intake) -> Iterator[Row]:
    with open_text(path) as file:
        for number, line in file.lines(LONGEST_LINE):
            where = f"{path.name}:{number}"
            try:
                clips = json.loads(line or b"")["training_data"]
                found = list(zip(clips["name"], clips["label"], clips["duration_ms"], strict=True))
            except (KeyError, TypeError, ValueError, RecursionError) as error:
                unknown = Utterance(id=where, audio="", frames=0)
                yield RejectedRow(
                    unknown, Reject("manifest.not_json", f"{where}: need training_data: {error!r}")
                )
                continue
            for name, label, milliseconds in found:
                id = name.rpartition(".")[0].replace("/", "-")
                audio = beside(str(path.parent.absolute()), name)
                known = Utterance(id=id, audio=audio, frames=0, text=label, language="en")
                yield from measured(known, intake, duration=milliseconds / 1000)
