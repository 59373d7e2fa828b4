"""Word times that came with the data. Format by file name: Praat TextGrid (long or short)."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from praatio import textgrid
from praatio.utilities.errors import PraatioException

from aligners.alignment import Aligner, Found, Item, Phone
from aligners.match import SILENCE, Label, match
from corpus.records import Reject


@dataclass(frozen=True)
class GivenSettings:
    """Settings of the backend `given`.

    words_tier, phones_tier: names of the tiers (TextGrid, MFA); a tier "SPEAKER - words" is found as "words" too.
    origin: what the file's times count from, "utterance", or "recording" where one file covers a long recording.
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


class Given(Aligner):
    """Reads `utterance.alignment`; see the module."""

    name = "given"

    def __init__(self, settings: GivenSettings):
        self.settings = settings

    def align_one(self, item: Item) -> Found:
        tiers = read(item.utterance.alignment, item.utterance.id, self.settings)
        offset = (
            item.utterance.first_frame / item.utterance.sample_rate
            if self.settings.origin == "recording"
            else 0.0
        )
        words = match(shift(tiers.words, offset, item.seconds), item.tokens, str(item.utterance.text))
        phones = None
        if tiers.phones is not None:
            labels = shift(tiers.phones, offset, item.seconds)
            phones = [Phone(label.text, label.start, label.end) for label in labels if is_phone(label)]
        return Found(words, phones, {})


def is_phone(label: Label) -> bool:
    """Whether a label of the phones tier is a phone, not a silence."""
    return label.text.lower() not in SILENCE and 0 <= label.start < label.end


def shift(labels: Sequence[Label], offset: float, seconds: float) -> list[Label]:
    """Labels counted from `offset`; with an offset or a longer file, those with their middle outside are left out."""
    moved = [label._replace(start=label.start - offset, end=label.end - offset) for label in labels]
    return [label for label in moved if offset == 0 or 0 <= (label.start + label.end) / 2 < seconds]


def read(path: str | None, id: str, settings: GivenSettings) -> Tiers:
    """Read an alignment file.

    Raises:
        Reject: align.missing, align.unreadable.
    """
    if path is None:
        raise Reject("align.missing", "the manifest names no alignment file")
    if not os.path.isfile(path):
        raise Reject("align.missing", f"{path}: no such file")
    reader = READERS.get("".join(Path(path).suffixes[-1:]).lower())
    if reader is None:
        raise Reject("align.unreadable", f"{path}: unknown format; known: {sorted(READERS)}")
    try:
        return reader(path, id, settings)
    except Reject:
        raise
    except (PraatioException, ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise Reject("align.unreadable", f"{path}: {type(error).__name__}: {error}"[:300]) from error


def read_textgrid(path: str, id: str, settings: GivenSettings) -> Tiers:
    """Praat TextGrid through praatio, UTF-8 or UTF-16, long or short."""
    grid = textgrid.openTextgrid(
        path, includeEmptyIntervals=False, reportingMode="silence", duplicateNamesMode="rename"
    )
    tiers = {
        name: [Label(label, start, end) for start, end, label in grid.getTier(name).entries]
        for name in grid.tierNames
    }
    return pick(tiers, path, settings)


def pick(tiers: dict[str, list[Label]], path: str, settings: GivenSettings) -> Tiers:
    """The words and phones tiers of a file by their names."""
    words = named(tiers, settings.words_tier)
    if words is None:
        raise Reject("align.unreadable", f"{path}: no tier {settings.words_tier!r}; it has {sorted(tiers)}")
    return Tiers(words, named(tiers, settings.phones_tier))


def named(tiers: dict[str, list[Label]], name: str) -> list[Label] | None:
    """The tier `name`, else all tiers "SPEAKER - name" together in order of time; None where there is neither."""
    if name in tiers:
        return tiers[name]
    found = [labels for tier, labels in tiers.items() if tier.endswith(f" - {name}")]
    return (
        sorted((label for labels in found for label in labels), key=lambda label: label.start)
        if found
        else None
    )


READERS: dict[str, Callable[[str, str, GivenSettings], Tiers]] = {".textgrid": read_textgrid}
"""Suffix of the file name -> reader."""
