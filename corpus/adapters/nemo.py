"""NeMo manifests: JSON Lines with `audio_filepath`, `duration`, `offset` and `text`."""

from collections.abc import Iterator

from corpus.adapters.base import Intake, Row, Source
from corpus.adapters.jsonl import Fields, read_jsonl

NEMO = Fields(
    audio=("audio_filepath", "audio_file"),
    text=("text", "answer"),
    channel=("channel", "channel_selector"),
    id_required=False,
)


def read_nemo(source: Source, intake: Intake = Intake()) -> Iterator[Row]:  # noqa: B008
    """Read a NeMo manifest: as `read_jsonl`, with NeMo's names.

    A line without `id` is named after its recording and, of a stretch, its `offset` in milliseconds.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    return read_jsonl(source, intake, NEMO)
