"""Names and paths of a build: its tables, their parts, models and notes; and one task per part."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from corpus import files
from corpus.manifest import VERSION
from pipelines.execution.task import Stage, Task, key_function, make_task, marker_path, read_marker

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


def parts(build: Path, table: str = "manifest") -> list[Part]:
    """The parts of the manifest or text table in order.

    Raises:
        ValueError: the summary is missing, broken or of another version, in one line.
    """

    def small(entry: dict[str, Any]) -> Any:  # as each is read: a million dicts are half a gigabyte
        return Part(entry["name"], entry["samples"], entry["sha256"]) if "sha256" in entry else entry

    try:
        summary = json.loads(files.read(build / table / f"{table}.json"), object_hook=small)
        version, listed = summary.get("version"), summary["parts"]
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{build}: no finished {table} here; run `wordweave ingest` first") from error
    if table == "manifest" and version != VERSION:
        raise ValueError(
            f"{build}: its manifest is of version {version}, need {VERSION}; run `wordweave ingest` again"
        )
    return listed


def part_names(build: Path, table: str = "manifest") -> list[str]:
    """Names of a table's parts, in order."""
    return [part.name for part in parts(build, table)]


def source_hashes(build: Path, table: str) -> dict[str, str]:
    """Path of each part of the manifest or text table -> its sha256."""
    return {f"{table}/{part.name}": part.sha256 for part in parts(build, table)}


def finished_parts(build: Path, table: str, command: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(part name, done marker) of every part of a table in order; on an object store many are read at the same time.

    Raises:
        ValueError: a part is not finished; names the command that makes it.
    """
    names = part_names(build)
    contents = files.read_each(build, (f"{marker_path(Path(table) / name)}" for name in names))
    for name, content in zip(names, contents, strict=True):
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
    if source == "manifest":
        hashes = {part.name: part.sha256 for part in listed}
    else:
        hashes = dict(zip(part_names(build), part_hashes(build, source, command), strict=True))
    return [
        make_task(
            stage, f"{table}/{part.name}", {f"{source}/{part.name}": hashes[part.name]}, part.samples, own
        )
        for part, own in zip(listed, arguments, strict=True)
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
