"""Which utterances are held out, and what became of each: two rules that every later step shares."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Split:
    """The held-out rule of a build: whole speakers by name, everything without one of them by hash of its id."""

    speakers: tuple[str, ...]  # held-out speakers; empty when utterances are held out by hash
    share: float  # of utterances (and documents) held out by hash
    seed: int
    smallest: str = ""  # this id is held out where no hash falls below the share

    def of(self, name: str, speaker: str | None = None) -> str:
        """The split of an utterance or document: "train" or "valid"."""
        if self.speakers and speaker is not None:
            return "valid" if speaker in self.speakers else "train"
        return "valid" if name == self.smallest or draw(self.seed, name) < self.share else "train"


def draw(seed: int, name: str) -> float:
    """A number in [0, 1) that hangs on (seed, name) alone.

    >>> draw(0, "a") == draw(0, "a") != draw(1, "a")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}|split|{name}".encode()).digest()[:8], "big") / 2**64


def choose(rows: Iterable[tuple[str, str | None, int]], *, by: str, share: float, seed: int) -> Split:
    """Choose what is held out from (id, speaker, samples) of the usable utterances, in one pass and bounded memory.

    By speaker: speakers in the order of their hash are held out while their hours together stay within the share; one
    that would exceed it is passed over. Where no speaker fits, or there are fewer than two, utterances are held out by
    hash instead. By hash: an utterance is held out when its hash falls below the share; at least one is.

    >>> choose([("a", "s", 9), ("b", "t", 1)], by="speaker", share=0.2, seed=0).speakers
    ('t',)
    """
    hours: dict[str, int] = {}
    total, smallest, least = 0, "", 2.0
    for name, speaker, samples in rows:
        total += samples
        if speaker is not None:
            hours[speaker] = hours.get(speaker, 0) + samples
        value = draw(seed, name)
        if value < least:
            smallest, least = name, value
    held, filled = [], 0
    if by == "speaker" and len(hours) > 1 and share > 0:
        for speaker in sorted(hours, key=lambda speaker: draw(seed, speaker)):
            if filled + hours[speaker] <= share * total:
                held.append(speaker)
                filled += hours[speaker]
    return Split(tuple(sorted(held)), share, seed, smallest if share > 0 and least >= share else "")


FATES = ("interleaved", "speech", "rejected")


def fates(
    manifest: pa.Table, units: pa.Table, words: pa.Table, *, unaligned: str
) -> list[tuple[str, str | None, str | None, str | None]]:
    """What became of each row: (fate, stage, reason, detail), the first stage that rejected it named.

    "interleaved": in every stream. "speech": no usable word times, but units, and the build keeps such recordings.
    "rejected": in no shard.
    """
    found: list[tuple[str, str | None, str | None, str | None]] = []
    columns = [
        (stage, table.column("reject").to_pylist(), table.column("detail").to_pylist())
        for stage, table in (("ingest", manifest), ("units", units), ("align", words))
    ]
    for row in range(manifest.num_rows):
        first = next(((stage, codes[row], said[row]) for stage, codes, said in columns if codes[row]), None)
        if first is None:
            found.append(("interleaved", None, None, None))
        elif first[0] == "align" and unaligned == "speech":
            found.append(("speech", *first))
        else:
            found.append(("rejected", *first))
    return found
