"""NeMo manifests: JSON Lines with `audio_filepath`, `duration`, `offset` and `text`; the audio in files or in tars."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from corpus.adapters.base import Intake, Row, Source
from corpus.adapters.jsonl import Fields, beside, read_jsonl
from corpus.embedded import members
from corpus.records import Reject


def read_nemo(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read a NeMo manifest: as `read_jsonl`, with NeMo's names.

    A line without `id` is named after its recording and, of a stretch, its `offset` in milliseconds. A line with
    `shard_id` N is a member of `audio_N.tar` in the folder of the manifest, read in place.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    return read_jsonl(source, intake, NEMO)


def locate(folder: str, name: str, fields: dict[str, Any]) -> str:
    """The path of a recording, or its address in a tar."""
    shard = fields.get("shard_id")
    if shard is None:
        return beside(folder, name)
    path = beside(folder, f"audio_{shard}.tar")
    try:
        addresses = _addresses(path)
    except (OSError, ValueError) as error:
        raise Reject("audio.missing", str(error)) from error
    if name not in addresses:
        raise Reject("audio.missing", f"{path}: holds no {name}")
    return addresses[name]


@lru_cache(maxsize=4)
def _addresses(path: str) -> dict[str, str]:
    return {one.name: one.address for one in members(path) if not one.problem}


NEMO = Fields(
    audio=("audio_filepath", "audio_file"),
    text=("text", "answer"),
    channel=("channel", "channel_selector"),
    id_required=False,
    locate=locate,
)
