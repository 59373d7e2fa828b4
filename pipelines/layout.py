"""Names and paths of a build: its tables, their parts, models and notes; and one task per part."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from corpus import files
from corpus.manifest import VERSION
from pipelines.execution.task import Stage, Task, key_function, make_task, read_marker

CODEBOOK = "codebooks/units.safetensors"
DTYPE = "codebooks/dtype.json"
FRAMES = "frames"
"""The table of frames sampled for k-means, removed once its codebook is fitted."""
COUNTS = "counts"
"""The table of word counts, removed once the text tokenizer is trained on them."""
SUMS = "sums"
"""The table from which speakers are held out, removed once they are chosen."""
SPEAKERS = "speakers.json"
SPLIT = "split.json"
INDEX = "shards/index.json"
TOKENIZER = "tokenizer/tokenizer.json"
RECORDINGS = "recordings"
"""The folder of recordings that are to be cut: their manifest, and where each is cut."""
VOICES = "voices"
"""The folder of utterances whose speakers are to be estimated: their manifest, and embeddings of their voices."""
REPEATS = "repeats"
"""The folder of what the step `duplicates` compares: fingerprints, their exchange, matches and verdicts."""
UNTRANSCRIBED = "untranscribed"
"""The folder of utterances that are to be transcribed: their manifest, and their transcripts."""
SMALL_FOLDERS = (
    f"{RECORDINGS}/manifest",
    f"{UNTRANSCRIBED}/manifest",
    f"{VOICES}/manifest",
    "manifest",
    "text",
    "codebooks",
    "tokenizer",
)
"""What a dry run copies, with `SPEAKERS` and `SPLIT`: the steps then decide as they do in a build."""


class Part(NamedTuple):
    """One file of a table, as the table's summary lists it."""

    name: str
    samples: int  # at 16 kHz
    sha256: str


class Parts(Sequence[Part]):
    """The parts of a table, in order, in 90 bytes each: a million of them as objects would be half a gigabyte."""

    def __init__(self, names: list[str], samples: list[int], digests: list[str]):
        self._names, self._samples, self._digests = (
            np.array(names, "S"),
            np.array(samples, np.int64),
            np.array(digests, "S"),
        )

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> list[Part]: ...
    def __getitem__(self, index: int | slice) -> Part | list[Part]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return Part(self._names[index].decode(), int(self._samples[index]), self._digests[index].decode())

    def __len__(self) -> int:
        return len(self._names)

    def names(self) -> Iterator[str]:
        """Their names."""
        return (name.decode() for name in self._names)


def parts(build: Path, table: str = "manifest") -> Parts:
    """The parts of the manifest or text table in order.

    Raises:
        ValueError: the summary is missing, broken or of another version, in one line.
    """

    names: list[str] = []
    samples: list[int] = []
    digests: list[str] = []

    def keep(entry: dict[str, Any]) -> Any:  # as each is read
        if "sha256" not in entry:
            return entry
        names.append(entry["name"])
        samples.append(entry["samples"])
        digests.append(entry["sha256"])
        return None

    try:
        summary = json.loads(files.read(build / table / f"{table}.json").decode(), object_hook=keep)
        version, listed = summary.get("version"), Parts(names, samples, digests)
        if len(summary["parts"]) != len(listed):
            raise ValueError("a part without its sha256")
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{build}: no finished {table} here; run `wordweave {maker(build)}` first"
        ) from error
    if table == "manifest" and version != VERSION:
        raise ValueError(
            f"{build}: its manifest is of version {version}, need {VERSION}; run `wordweave ingest` again"
        )
    return listed


def maker(build: Path) -> str:
    """The command that makes the manifest which is not there: that of the last step before it which has its own."""
    for folder, step in ((VOICES, "speakers"), (UNTRANSCRIBED, "transcribe"), (RECORDINGS, "cut")):
        if (build / folder / "manifest" / "manifest.json").is_file():
            return step
    return "ingest"


def part_names(build: Path, table: str = "manifest") -> list[str]:
    """Names of a table's parts, in order."""
    return list(parts(build, table).names())


def finished_parts(build: Path, table: str, command: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(part name, done marker) of every part of a table in order; on an object store many are read at the same time.

    Raises:
        ValueError: a part is not finished; names the command that makes it.
    """
    listed = parts(build)
    contents = files.read_each(build, (f"{table}/{name}.done" for name in listed.names()))
    for name, content in zip(listed.names(), contents, strict=True):
        try:
            yield name, json.loads(content or b"")
        except ValueError:
            raise ValueError(
                f"{table}/{name}: not finished; run `wordweave {command} {build}` first"
            ) from None


def part_hashes(build: Path, table: str, command: str) -> Iterator[str]:
    """The sha256 of each part of a finished table, in order."""
    return (marker.get("sha256", "") for _, marker in finished_parts(build, table, command))


def finished_part(build: Path, table: str, name: str, command: str) -> dict[str, Any]:
    """The done marker of a part.

    Raises:
        ValueError: the part is not finished; names the command that makes it.
    """
    marker = read_marker(build / table / name)
    if marker is None:
        raise ValueError(f"{table}/{name}: not finished; run `wordweave {command} {build}` first")
    return marker


def part_tasks(build: Path, stage: Stage, table: str) -> list[Task]:
    """One task per manifest part."""
    key_of = key_function(stage)
    return [
        Task(
            f"{table}/{part.name}", (f"manifest/{part.name}",), key_of(part.sha256), part.samples,
            hashes=(part.sha256,),
        )
        for part in parts(build)
    ]  # fmt: skip


def table_tasks(
    build: Path, stage: Stage, table: str, source: str, command: str, arguments: Iterable[tuple]
) -> list[Task]:
    """One task per finished part of the table `source`, each with its own arguments."""
    listed = parts(build)
    hashes: Iterable[str] = (part.sha256 for part in listed)
    if source != "manifest":
        hashes = part_hashes(build, source, command)
    return [
        make_task(stage, f"{table}/{part.name}", {f"{source}/{part.name}": digest}, part.samples, own)
        for part, digest, own in zip(listed, hashes, arguments, strict=True)
    ]


def origin(build: Path) -> str:
    """The id of a build's corpus, set by its first ingest: what is fitted or chosen once is kept while it is the same.

    It does not change when recordings are added or removed; a source that shares no recording with the one before has
    another.
    """
    content = files.read(build / "manifest" / "manifest.json")
    return str(json.loads(content, object_hook=lambda entry: entry.get("origin", 0)))


def corpus_hash(build: Path) -> str:
    """sha256 over manifest and text: shows whether something that is kept was fitted on the present corpus."""
    digests: Iterable[str] = [part.sha256 for table in ("manifest", "text") for part in parts(build, table)]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()
