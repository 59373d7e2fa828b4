"""Adapters: read a data set as its owner laid it out, and yield its utterances in its own order.

To add a layout, write a file with a function of its source that yields rows, and name it in ADAPTERS.
"""

from corpus.adapters.base import Adapter, ChannelCheck, Intake, Row
from corpus.adapters.jsonl import read_jsonl
from corpus.adapters.librispeech import read_librispeech

__all__ = ["ADAPTERS", "Adapter", "ChannelCheck", "Intake", "Row", "read_jsonl", "read_librispeech"]

ADAPTERS: dict[str, Adapter] = {
    "jsonl": Adapter(
        read_jsonl,
        "JSON Lines manifest: one object per line with id, audio, text and more",
        "a file: JSON Lines or a JSON array, plain or compressed; or a URL of one",
    ),
    "librispeech": Adapter(
        read_librispeech,
        "LibriSpeech folder: SPEAKER/CHAPTER/*.flac with *.trans.txt",
        "a local folder with *.trans.txt files beside the audio",
        "openslr.org/12",
        "CC BY 4.0",
    ),
}
"""Name -> adapter; the command line and the settings read this list."""
