"""Which utterances are held out: a rule chosen once and kept."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from corpus import files
from corpus.keyed import fraction
from pipelines.layout import SPLIT, origin, part_names
from pipelines.steps.base import Run


@dataclass(frozen=True)
class Split:
    """The held-out rule of a build: whole speakers by name, everything without one of them by hash of its id."""

    speakers: tuple[str, ...]  # held-out speakers; empty when utterances are held out by hash
    share: float  # of utterances (and documents) held out by hash
    seed: int
    smallest: str = ""  # this id is held out where no hash falls below the share

    @functools.cached_property
    def speaker_set(self) -> frozenset[str]:
        """The held-out speakers, for lookups: there may be tens of thousands."""
        return frozenset(self.speakers)

    def split_of(self, name: str, speaker: str | None = None) -> str:
        """The split of an utterance or document: "train" or "valid"."""
        if self.speakers and speaker is not None:
            return "valid" if speaker in self.speaker_set else "train"
        return "valid" if name == self.smallest or hash_fraction(self.seed, name) < self.share else "train"


def hash_fraction(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on (seed, name) alone."""
    return fraction(seed, "split", name)


def choose_held_out(
    rows: Iterable[tuple[str, str | None, int]], *, by: str, share: float, seed: int
) -> Split:
    """Choose what is held out from (id, speaker, samples) of the usable utterances, in one pass and bounded memory.

    By speaker: speakers in the order of their hash are held out while their total hours stay within the share; one that
    would exceed it is passed over. Where no speaker fits, or there are fewer than two, utterances are held out by hash
    instead. By hash: an utterance is held out when its hash falls below the share; at least one is.

    >>> choose_held_out([("a", "s", 9), ("b", "t", 1)], by="speaker", share=0.2, seed=0).speakers
    ('t',)
    """
    hours: dict[str, int] = {}
    total, smallest, least = 0, "", 2.0
    for name, speaker, samples in rows:
        total += samples
        if speaker is not None:
            hours[speaker] = hours.get(speaker, 0) + samples
        value = hash_fraction(seed, name)
        if value < least:
            smallest, least = name, value
    speakers, filled = [], 0
    if by == "speaker" and len(hours) > 1 and share > 0:
        for speaker in sorted(hours, key=lambda speaker: hash_fraction(seed, speaker)):
            if filled + hours[speaker] <= share * total:
                speakers.append(speaker)
                filled += hours[speaker]
    return Split(tuple(sorted(speakers)), share, seed, smallest if share > 0 and least >= share else "")


def held_out(run: Run) -> Split:
    """The held-out rule, chosen from the manifest alone and written to split.json.

    Once chosen it is kept, whatever recordings come later, as long as its settings are the same and it holds out
    something: what a model was not trained on stays so.
    """
    build, shards = run.folder, run.settings.shards

    def usable() -> Iterator[tuple[str, str | None, int]]:
        paths = [f"manifest/{name}" for name in part_names(build)]
        for table in files.read_tables(build, paths, ["id", "speaker", "samples", "reject"]):
            for row in table.to_pylist():
                if row["reject"] is None:
                    yield row["id"], row["speaker"], row["samples"]

    settings = {"by": shards.hold_out_by, "share": shards.valid, "seed": shards.seed, "origin": origin(build)}
    path = build / SPLIT
    try:
        fields = json.loads(path.read_bytes())
        earlier = Split(tuple(fields["speakers"]), fields["share"], fields["seed"], fields["smallest"])
        same = {name: fields.get(name) for name in settings} == settings
        if same and (
            not earlier.share
            or any(earlier.split_of(name, speaker) == "valid" for name, speaker, _ in usable())
        ):
            return earlier
    except (OSError, ValueError, KeyError):  # none yet, or of an earlier version
        pass
    split = choose_held_out(usable(), by=shards.hold_out_by, share=shards.valid, seed=shards.seed)
    files.write(path, json.dumps({**dataclasses.asdict(split), **settings}, indent=1).encode())
    return split
