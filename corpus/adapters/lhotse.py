"""Lhotse: cuts, or recordings with supervisions, in JSON Lines; and Shar, whose audio is in tars, read in place."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from corpus.adapters.base import Intake, Row, Source, measured, walk
from corpus.adapters.folder import local_folder
from corpus.adapters.jsonl import beside, declared_in, number_in, text_of_fields
from corpus.audio import Header, read_header
from corpus.embedded import members
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance
from corpus.text_files import open_text

LONGEST_LINE = 16 << 20  # bytes
Locate = Callable[[dict[str, Any]], str]
"""A recording -> where its audio is."""


def read_lhotse(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read a file of cuts, or of a folder its `*cuts*.jsonl.gz`, else `*recordings*` with `*supervisions*`.

    A cut with one supervision, or none, is an utterance with the cut's id, from its start to its end; of one with
    several, each supervision is an utterance. Without cuts each supervision is one, and each recording that has none. A
    recording that is the output of a command is rejected: wordweave runs no commands from data. Relative paths are
    those of the folder; where they are not there, of the present one.

    Raises:
        ValueError: there are no such files.
    """
    if os.path.isfile(source):
        return _cuts(Path(os.path.abspath(source)), intake)
    root = Path(local_folder(source))
    names = sorted(name for name in os.listdir(root) if re.search(r"\.jsonl(\.gz)?$", name))
    cuts = [name for name in names if "cuts" in name]
    if cuts:
        return (row for name in cuts for row in _cuts(root / name, intake))
    recordings = [name for name in names if "recordings" in name]
    if not recordings:
        raise ValueError(f"{source}: need *cuts*.jsonl.gz or *recordings*.jsonl.gz, found none")
    return (row for name in recordings for row in _supervised(root, name, names, intake))


def read_shar(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read a folder of Lhotse Shar: `cuts.000000.jsonl.gz` with `recording.000000.tar` beside it.

    Raises:
        ValueError: there is no such folder, or no cuts in it.
    """
    root = local_folder(source)
    found = [
        os.path.join(folder, name)
        for folder, names in walk(root)
        for name in names
        if re.fullmatch(r"cuts\.\d+\.jsonl(\.gz)?", name)
    ]
    if not found:
        raise ValueError(
            f"{source}: need cuts.000000.jsonl.gz with recording.000000.tar beside it, found none"
        )
    return (row for path in found for row in _shard(Path(path), intake))


def _shard(path: Path, intake: Intake) -> Iterator[Row]:
    number = path.name.split(".")[1]
    tar = path.parent / f"recording.{number}.tar"
    if not tar.is_file():
        raise ValueError(f"{path}: need {tar.name} beside it, there is none")
    audio = (one for one in members(str(tar)) if not one.name.endswith(".json"))
    for where, cut in _objects(path):
        member = next(audio, None)
        if isinstance(cut, Reject):
            yield RejectedRow(Utterance(id=where, audio="", frames=0), cut)
            continue
        found = member and os.path.splitext(member.name)[0].removesuffix(".nodata")

        def locate(
            recording: dict[str, Any], found: str | None = found, member: Any = member, cut: Any = cut
        ) -> str:
            if member is None or member.problem or found != cut.get("id"):
                raise Reject(
                    "audio.missing", f"{tar}: need the audio of cut {cut.get('id')!r} next, got {found!r}"
                )
            return member.address

        yield from _cut_rows(where, cut, intake, locate, read_header, relative=True)


def _cuts(path: Path, intake: Intake) -> Iterator[Row]:
    header_of = lru_cache(maxsize=16)(read_header)
    locate = _locator(path.parent)
    for where, cut in _objects(path):
        yield from _cut_rows(where, cut, intake, locate, header_of)


def _cut_rows(
    where: str,
    cut: dict[str, Any] | Reject,
    intake: Intake,
    locate: Locate,
    header_of: Callable[[str], Header],
    relative: bool = False,
) -> Iterator[Row]:
    """The utterances of a cut; `relative`: its audio begins where the cut does."""
    known = Utterance(id=where, audio="", frames=0)
    try:
        if isinstance(cut, Reject):
            raise cut
        known = replace(known, id=str(cut["id"]))
        if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut"):
            raise Reject("manifest.bad_field", f"type: need MonoCut or MultiCut, got {cut['type']!r}")
        known = replace(known, audio=locate(cut["recording"]))
        start = 0.0 if relative else number_in(cut, "start") or 0.0
        length = number_in(cut, "duration") or 0.0
        supervisions = cut.get("supervisions") or []
        pieces = [(cut["id"], start, length, supervisions[0] if supervisions else {})]
        if len(supervisions) > 1:
            pieces = [
                (one["id"], start + float(one["start"]), float(one["duration"]), one) for one in supervisions
            ]
        rows = [_utterance(known, *piece, cut.get("channel")) for piece in pieces]
        # of a Shar, the recording is that of the cut, with padding that its description does not count
        declared = (
            declared_in(_facts(cut["recording"])) if intake.probe == "declared" and not relative else None
        )
    except (KeyError, TypeError, ValueError) as error:
        fault = error if isinstance(error, Reject) else Reject("manifest.bad_field", f"{where}: {error!r}")
        yield RejectedRow(known, fault)
        return
    for utterance, begin, end in rows:
        yield from measured(utterance, intake, start=begin, end=end, declared=declared, header_of=header_of)


def _utterance(
    known: Utterance, id: str, start: float, length: float, supervision: dict[str, Any], channel: Any
) -> tuple[Utterance, float, float]:
    several = channel if isinstance(channel, list) else [channel]
    one = several[0] if len(several) == 1 and isinstance(several[0], int) else None
    found: dict[str, Any] = text_of_fields(supervision)
    return replace(known, id=str(id), channel=one, **found), start, start + length


def _facts(recording: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recording, with the number of its channels."""
    return {**recording, "channels": len(recording.get("channel_ids") or []) or None}


def _supervised(root: Path, name: str, names: list[str], intake: Intake) -> Iterator[Row]:
    """Supervisions in their order, then the recordings that have none."""
    header_of = lru_cache(maxsize=16)(read_header)
    recordings = {one["id"]: one for _, one in _objects(root / name) if isinstance(one, dict) and "id" in one}
    locate, seen = _locator(root), set()
    other = name.replace("recordings", "supervisions")
    for where, one in _objects(root / other) if other in names else ():
        cut: dict[str, Any] | Reject = one
        if isinstance(one, dict):
            seen.add(one.get("recording_id"))
            recording = recordings.get(
                one.get("recording_id"), {"id": one.get("recording_id"), "sources": []}
            )
            cut = {**one, "recording": recording, "supervisions": [one]}
            cut.pop("type", None)
        yield from _cut_rows(where, cut, intake, locate, header_of)
    for id, recording in recordings.items():
        if id not in seen:
            cut = {"id": id, "duration": recording.get("duration"), "recording": recording}
            yield from _cut_rows(str(id), cut, intake, locate, header_of)


def _locator(folder: Path) -> Locate:
    def locate(recording: dict[str, Any]) -> str:
        sources = recording.get("sources") or []
        if len(sources) != 1 or sources[0].get("type") not in ("file", "url"):
            kinds = ", ".join(str(one.get("type")) for one in sources) or "none"
            raise Reject(
                "audio.unreadable", f"{recording.get('id')}: need one source, a file or URL, got {kinds}"
            )
        name = str(sources[0]["source"])
        inside = beside(str(folder), name)
        return (
            inside
            if "://" in name or os.path.exists(inside) or not os.path.exists(name)
            else os.path.abspath(name)
        )

    return locate


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any] | Reject]]:
    """Place and object of every line."""
    with open_text(path) as file:
        for number, line in file.lines(LONGEST_LINE):
            where = f"{path.name}:{number}"
            try:
                found = json.loads(line or b"")
                yield where, found if isinstance(found, dict) else Reject("manifest.not_json", where)
            except (ValueError, RecursionError) as error:
                yield where, Reject("manifest.not_json", f"{where}: {error}")
