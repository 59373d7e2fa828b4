"""Adapters: read a data set as its owner laid it out, and yield its utterances in its own order.

To add a layout, write a file with a function of its source that yields rows, and name it in ADAPTERS.
"""

from corpus.adapters.base import Adapter, ChannelCheck, Intake, MeasuredRow, Row
from corpus.adapters.folder import read_folder, read_libritts, read_vctk
from corpus.adapters.gigaspeech import read_gigaspeech
from corpus.adapters.jsonl import read_jsonl
from corpus.adapters.kaldi import read_kaldi
from corpus.adapters.lhotse import read_lhotse, read_shar
from corpus.adapters.librispeech import read_librispeech
from corpus.adapters.nemo import read_nemo
from corpus.adapters.parquet import read_parquet
from corpus.adapters.peoples_speech import read_peoples_speech
from corpus.adapters.published import read_common_voice, read_ljspeech, read_mls
from corpus.adapters.tables import read_table
from corpus.adapters.webdataset import read_webdataset

__all__ = [
    "ADAPTERS", "Adapter", "ChannelCheck", "Intake", "MeasuredRow", "Row", "read_jsonl", "read_librispeech"
]  # fmt: skip

ADAPTERS: dict[str, Adapter] = {
    "jsonl": Adapter(
        read_jsonl,
        "JSON Lines manifest: one object per line with id, audio, text and more",
        "a file of JSON Lines or a JSON array, plain or compressed; or a URL of one",
    ),
    "table": Adapter(
        read_table,
        "CSV or TSV with the columns of a manifest: audio, text, speaker and more",
        "a file whose first line names the columns",
    ),
    "folder": Adapter(
        read_folder,
        "folder of recordings with .txt, .lab, .srt, .vtt, .json, .TextGrid or nothing beside each",
        "a local folder; the topmost folders below it are the speakers",
    ),
    "librispeech": Adapter(
        read_librispeech,
        "LibriSpeech: SPEAKER/CHAPTER/*.flac with *.trans.txt",
        "a local folder with *.trans.txt files beside the audio",
        "openslr.org/12",
        "CC BY 4.0",
    ),
    "libritts": Adapter(
        read_libritts,
        "LibriTTS: SPEAKER/CHAPTER/*.wav with *.normalized.txt",
        "a local folder with a transcript beside each recording",
        "openslr.org/60",
        "CC BY 4.0",
    ),
    "mls": Adapter(
        read_mls,
        "Multilingual LibriSpeech: SPLIT/transcripts.txt and SPLIT/audio/",
        "a local folder of one language, or one of its splits",
        "openslr.org/94",
        "CC BY 4.0",
    ),
    "ljspeech": Adapter(
        read_ljspeech,
        "LJ Speech: metadata.csv and wavs/",
        "the folder LJSpeech-1.1",
        "keithito.com/LJ-Speech-Dataset",
        "public domain",
    ),
    "vctk": Adapter(
        read_vctk,
        "VCTK: wav48_silence_trimmed/ or wav48/ and txt/",
        "a local folder with both",
        "datashare.ed.ac.uk/handle/10283/3443",
        "CC BY 4.0",
    ),
    "common-voice": Adapter(
        read_common_voice,
        "Common Voice: validated.tsv (or another table) and clips/",
        "the folder of one language, or a table in it",
        "commonvoice.mozilla.org/datasets",
        "CC0 1.0",
    ),
    "kaldi": Adapter(
        read_kaldi,
        "Kaldi data directory: wav.scp with segments, text and utt2spk",
        "a local folder; commands in wav.scp are refused",
    ),
    "nemo": Adapter(
        read_nemo,
        "NeMo manifest: JSON Lines with audio_filepath, duration, offset and text",
        "a file; or a URL of one; lines with shard_id are in audio_N.tar beside it",
    ),
    "lhotse": Adapter(
        read_lhotse,
        "Lhotse: cuts, or recordings with supervisions, in JSON Lines",
        "a file of cuts, or a folder with *cuts*.jsonl.gz or *recordings*.jsonl.gz",
    ),
    "shar": Adapter(
        read_shar,
        "Lhotse Shar: cuts.000000.jsonl.gz with recording.000000.tar, read in place",
        "a local folder",
    ),
    "parquet": Adapter(
        read_parquet,
        "Parquet with the audio in a column, as Hugging Face data sets have it, read in place",
        "a file, or a folder with some",
        "huggingface.co/datasets",
    ),
    "webdataset": Adapter(
        read_webdataset,
        "tars of audio with .txt or .json of the same name, read in place",
        "a tar that is not compressed, or a folder with some",
    ),
    "gigaspeech": Adapter(
        read_gigaspeech,
        "GigaSpeech: GigaSpeech.json and audio/",
        "the folder, or the file",
        "github.com/SpeechColab/GigaSpeech",
        "Apache-2.0 for the texts; the audio is its owners'",
    ),
    "peoples-speech": Adapter(
        read_peoples_speech,
        "The People's Speech: a manifest with training_data, and FLAC files beside it",
        "a file of JSON Lines",
        "mlcommons.org/datasets/peoples-speech",
        "CC BY 4.0 and CC BY-SA 4.0",
    ),
}
"""Name -> adapter; the command line and the settings read this list."""
