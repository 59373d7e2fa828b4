"""GigaSpeech: `GigaSpeech.json`, one list of long recordings with their segments."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from corpus.adapters.base import Intake, Row, Source, measured
from corpus.audio import read_header
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance

PUNCTUATION = {" <COMMA>": ",", " <PERIOD>": ".", " <QUESTIONMARK>": "?", " <EXCLAMATIONPOINT>": "!"}
GARBAGE = re.compile(r"<(SIL|MUSIC|NOISE|OTHER)>")
BLOCK = 1 << 20  # characters read at once
LONGEST = 1 << 26  # characters of one recording's entry


def read_gigaspeech(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read GigaSpeech: the folder with `GigaSpeech.json` and `audio/`, or the file; one recording in memory at a time.

    Segments of silence, music, noise and other sound have an empty text, and are rejected with it.

    Raises:
        ValueError: there is no such file, or it has no list `audios`.
    """
    path = Path(source) / "GigaSpeech.json" if os.path.isdir(source) else Path(source)
    if not path.is_file():
        raise ValueError(f"{source}: need a folder with GigaSpeech.json, there is none")
    return _rows(path, intake)


def _rows(path: Path, intake: Intake) -> Iterator[Row]:
    header_of = lru_cache(maxsize=16)(read_header)
    for number, audio in enumerate(entries(path, "audios")):
        known = Utterance(id=f"{path.name}:{number}", audio="", frames=0, language="en")
        try:
            known = replace(known, audio=str(path.parent.absolute() / audio["path"]))
            segments = [_segment(known, one) for one in audio["segments"]]
        except (KeyError, TypeError, ValueError) as error:
            yield RejectedRow(known, Reject("manifest.bad_field", f"{known.id}: {error!r}"))
            continue
        for utterance, start, end in segments:
            yield from measured(utterance, intake, start=start, end=end, header_of=header_of)


def _segment(known: Utterance, segment: dict[str, Any]) -> tuple[Utterance, float, float]:
    text = GARBAGE.sub("", segment["text_tn"])
    for mark, sign in PUNCTUATION.items():
        text = text.replace(mark, sign)
    speaker = segment.get("speaker")
    named = replace(
        known, id=segment["sid"], text=text.strip(), speaker=None if speaker in (None, "N/A") else speaker
    )
    return named, float(segment["begin_time"]), float(segment["end_time"])


def entries(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of the list `name` in a JSON object, one at a time: the file may be larger than memory.

    Raises:
        ValueError: there is no such list, or it breaks off.
    """
    decoder, text, started = json.JSONDecoder(), "", False
    with path.open(encoding="utf-8") as file:
        while True:
            block = file.read(BLOCK)
            text += block
            if not started:
                match = re.search(rf'"{name}"\s*:\s*\[', text)
                if match:
                    started, text = True, text[match.end() :]
                elif block:
                    text = text[-100:]
                    continue
                else:
                    raise ValueError(f"{path}: need a list {name!r}, found none")
            while (text := text.lstrip(" \t\r\n,")) and not text.startswith("]"):
                try:
                    found, end = decoder.raw_decode(text)
                except ValueError:
                    break
                yield found
                text = text[end:]
            if text.startswith("]"):
                return
            if not block or len(text) > LONGEST:
                raise ValueError(f"{path}: the list {name!r} breaks off or is no JSON: {text[:40]!r}")
