"""Tars of samples as webdataset writes them: files of one name and several endings, one after the other."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from corpus import files
from corpus.adapters.base import AUDIO_ENDINGS, Intake, Row, Source, measured, walk
from corpus.adapters.jsonl import text_of_fields
from corpus.embedded import Member, members, open_embedded
from corpus.manifest import RejectedRow
from corpus.records import Reject, Utterance

LONGEST_TEXT = 1 << 20  # bytes


def read_webdataset(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read a tar, or all tars below a folder: audio with `.txt` or `.json` of the same name; read in place.

    The id is the name in the tar without its endings, with '-' between folders. A `.json` may hold `text`, `speaker`,
    `language` and `licence`, under the names that `parquet` knows too. Links, and names that leave the archive, are
    rejected by name.

    Raises:
        ValueError: there is no tar, or one is compressed or cannot be read.
    """
    paths = archives(source)
    return (row for path in paths for row in _rows(path, intake))


def archives(source: Source) -> list[str]:
    """The tars of a source, in order.

    Raises:
        ValueError: there is none.
    """
    if files.is_url(source) or os.path.isfile(source):
        return [str(source) if files.is_url(source) else os.path.abspath(source)]
    found = [
        os.path.join(folder, name)
        for folder, names in walk(str(source))
        for name in names
        if name.endswith(".tar")
    ]
    if not found:
        raise ValueError(f"{source}: need a tar, or a folder with tars, found none")
    return found


def _rows(path: str, intake: Intake) -> Iterator[Row]:
    for key, group in groupby(members(path), key=lambda one: split_name(one.name)[0]):
        if not key:
            lost = Utterance(id=os.path.basename(path), audio=path, frames=0)
            yield from (
                RejectedRow(lost, Reject("audio.truncated", f"{path}: {one.problem}")) for one in group
            )
            continue
        sample = {split_name(one.name)[1].lower(): one for one in group}
        audio = next(
            (sample[ending] for ending in sample if f".{ending.split('.')[-1]}" in AUDIO_ENDINGS), None
        )
        if audio is None:
            continue
        known = Utterance(id=key.strip("/").replace("/", "-"), audio=audio.address, frames=0)
        if audio.problem:
            yield RejectedRow(known, Reject("audio.unreadable", f"{path}: {audio.name}: {audio.problem}"))
            continue
        fault = None
        try:
            known = replace(known, **_fields(sample))
        except Reject as reject:
            fault = reject
        yield from measured(known, intake, reject=fault)


def split_name(name: str) -> tuple[str, str]:
    """Key and ending of a member, at the first dot of its file name.

    >>> split_name("a.b/c.seg.flac")
    ('a.b/c', 'seg.flac')
    """
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending


def _fields(sample: dict[str, Member]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "json" in sample:
        try:
            found = json.loads(_read(sample["json"]))
        except (ValueError, RecursionError) as error:
            raise Reject("manifest.bad_field", f"{sample['json'].name}: need JSON: {error}") from error
        fields = text_of_fields(found) if isinstance(found, dict) else {}
    if "txt" in sample:
        fields["text"] = " ".join(_read(sample["txt"]).split())
    return fields


def _read(member: Member) -> str:
    opened = None if member.problem else open_embedded(member.address)
    if opened is None or opened[1] > LONGEST_TEXT:
        raise Reject(
            "manifest.bad_field", f"{member.name}: {member.problem or f'more than {LONGEST_TEXT} bytes'}"
        )
    with opened[0] as file:
        try:
            return file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Reject("manifest.bad_field", f"{member.name}: need UTF-8: {error.reason}") from error
