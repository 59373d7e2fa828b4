"""What the page of the steps says beside what the code knows: inputs, outputs, sections of the settings, "
"reasons, cost."""

from typing import NamedTuple


class Note(NamedTuple):
    """The notes of one step."""

    reads: str
    writes: str
    cost: str
    settings: tuple[str, ...] = ()  # sections
    reasons: tuple[str, ...] = ()  # first words of the codes it gives
    summary: str = ""


NOTES = {
    "ingest": Note(
        "a data set as its owner laid it out, read by an adapter; headers of the recordings, not their sound",
        "`manifest/part-00000.parquet`, one row per utterance, and `text/`, one row per document",
        "one small read per recording, in the driver: a disk's or a store's latency, not computation",
        ("corpus", "text"),
        ("manifest", "id", "licence", "split", "audio", "text"),
    ),
    "cut": Note(
        "recordings longer than `[cut] max_seconds`, if `[cut] enabled`",
        "the manifest again, a row for each utterance and each piece that is cut away",
        "hundreds of times real time per core: decoding and a small detector of speech",
        ("cut",),
        ("cut",),
    ),
    "transcribe": Note(
        "utterances without text, if `[transcribe]` is enabled",
        "`untranscribed/transcripts/`: words, confidence and measures; the manifest again, with their text",
        "with Whisper tiny about 8 times real time per core; a GPU pays here",
        ("transcribe",),
        ("transcribe",),
    ),
    "speakers": Note(
        "the sound of utterances without speaker, if `[speakers] enabled`",
        "the manifest again, with the speaker `estimated:ID` for each voice of a recording",
        "more than 100 times real time per core: a small recurrent network",
        ("speakers",),
    ),
    "quality": Note(
        "the sound and the transcript of each utterance, if `[quality]` is enabled",
        "`quality/part-00000.parquet`, a column for each measure; filters on them drop utterances",
        "hundreds of times real time per core; shares the decoding with `units`; with `dnsmos` a few times real time",
        ("quality",),
        ("quality",),
    ),
    "fit units": Note(
        "features of frames sampled from all parts by (seed, id), at most `fit_frames` of `fit_hours`",
        "`codebooks/units.safetensors`; nothing where a codebook is bundled, imported or named in the settings",
        "encoding `fit_hours` of audio once, then k-means: seconds to minutes, in the driver",
    ),
    "units": Note(
        "the sound of each utterance, the encoder and the codebook",
        "`units/part-00000.parquet`, one int16 unit per frame",
        "with a large encoder the largest part of a build: about 100 times real time per core with `compact`, 5 "
        "with HuBERT base; a GPU pays here",
        ("units",),
        ("units",),
    ),
    "hashes": Note(
        "the sound of each utterance, if `[duplicates] enabled`",
        "`hashes/part-00000.parquet`, a hash of the decoded audio at 16 bits",
        "nothing beside the decoding, which it shares with `units`",
        ("duplicates",),
    ),
    "prosody": Note(
        "the sound of each utterance, if `[pitch]` or `[style]` is enabled",
        "`prosody/part-00000.parquet`: F0 and voicing every 5 ms, 27 style features every second",
        "tens of times real time per core; shares the decoding with `units`",
    ),
    "pitch": Note(
        "the prosody table and the mean F0 of each speaker (`speakers.json`)",
        "`pitch/part-00000.parquet`, 12.5 tokens per second with the bundled model",
        "hundreds of times real time per core",
        ("pitch",),
    ),
    "style": Note(
        "the prosody table and the mean features of each speaker; the sound, for a wav2vec2 classifier",
        "`style/part-00000.parquet`, one token per second",
        "hundreds of times real time per core",
        ("style",),
    ),
    "align": Note(
        "the sound and the transcript of each utterance",
        "`words/part-00000.parquet`: written and spoken form, start and end of each word, confidence, and the "
        "measures of the utterance",
        "tens of times real time per core; the largest part of a build with a small encoder",
        ("align",),
        ("align",),
    ),
    "duplicates": Note(
        "hashes, units and texts of the utterances that no step before rejects, and the evaluation sets",
        "`duplicates/part-00000.parquet`: for each utterance the first one that it repeats; "
        "`report/duplicates.jsonl`; its fingerprints in `repeats/`",
        "a minute for 100 000 utterances on two cores",
        ("duplicates",),
        ("duplicate",),
    ),
    "interleave": Note(
        "all tables, the text documents, and what is held out (`split.json`)",
        "`shards/`: the three streams, `vocabulary.json` and `index.json`; `tokenizer/`, if one is trained",
        "thousands of utterances per second and core",
        ("interleave", "shards", "text"),
    ),
    "report": Note(
        "all tables and the index of the shards",
        "`report/`: `report.json`, `rejects.jsonl` and the [inspector](../inspector.md)",
        "a second or two, and a few more for a hundred thousand utterances, in the driver",
    ),
    "card": Note(
        "the units, and some utterances that are encoded and aligned again",
        "`codebooks/units.json` and a page of plots",
        "tens of seconds, in the driver; more with a large encoder on a CPU",
    ),
}
"""Step -> its notes."""
