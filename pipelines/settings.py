"""What a build is asked for: one frozen dataclass per section of the TOML file, read and written here."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus.toml import one_of, read_toml, write_toml
from shards.strategies import Strategy, make_strategy, numbers_of
from units.encoders import bundled_codebook


@dataclass(frozen=True)
class CorpusSettings:
    """[corpus]: what comes in, and which utterances may stay."""

    adapter: str = "jsonl"
    source: str = ""  # manifest file or dataset folder
    part_minutes: float = 10.0  # of audio per part, the unit of work; the first ones are shorter
    min_seconds: float = 0.3
    max_seconds: float = 40.0
    ids: str = "strict"  # ids a shard key cannot hold: "strict" rejects them, "escape" rewrites them
    unaligned: str = (
        "reject"  # recordings without usable word times: "reject", or keep in the "speech" stream
    )
    channels: str = "average"  # of recordings with several: their mean, or one utterance for each, "separate"
    checksum: bool = False  # notice changed files by their content, not by size and modification time
    duration_tolerance: float = 0.05  # seconds that a file may be shorter than declared; 6 times that for MP3, Ogg

    def __post_init__(self) -> None:
        one_of("corpus.ids", self.ids, ("strict", "escape"))
        one_of("corpus.channels", self.channels, ("average", "separate"))
        if not self.duration_tolerance >= 0:
            raise ValueError(f"corpus.duration_tolerance: need at least 0, got {self.duration_tolerance}")
        one_of("corpus.unaligned", self.unaligned, ("reject", "speech"))
        if not self.part_minutes > 0:
            raise ValueError(f"corpus.part_minutes: need more than 0, got {self.part_minutes}")
        if not 0 < self.min_seconds < self.max_seconds:
            raise ValueError(
                f"corpus: need 0 < min_seconds < max_seconds, got {self.min_seconds} and {self.max_seconds}"
            )


@dataclass(frozen=True)
class UnitsSettings:
    """[units]: audio to discrete units."""

    encoder: str = "compact"  # or "mfcc", or a directory or hub name in Hugging Face HuBERT format
    layer: int = -1  # transformer block whose output is taken; -1 is the last one
    dtype: str = "float32"  # or "bfloat16", "float16"; "auto": bfloat16 if next to no unit differs here
    device: str = "cpu"
    clusters: int = 501
    seed: int = 0
    fit_hours: float = 20.0  # audio drawn for k-means
    fit_frames: int = 200_000  # frames drawn from that audio
    seeding: str = "afk-mc2"  # of k-means; or "k-means++", "random"
    restarts: int = 1  # k-means from so many seedings, of which the best is kept
    codebook: str = (
        ""  # a finished one, of ours or of others; empty: the build's, else the bundled one, else fit one
    )
    trust_pickle: bool = False  # let that file run code while it is read: scikit-learn's need it

    @property
    def is_bundled(self) -> bool:
        """Whether the codebook inside the package was made for what is asked."""
        asked = (self.encoder, self.clusters, self.codebook)
        return asked == ("compact", 501, "") and bundled_codebook(self.layer_or_last).exists()

    @property
    def layer_or_last(self) -> int | None:
        """The layer as encoders take it: None is the last one."""
        return None if self.layer < 0 else self.layer

    def __post_init__(self) -> None:
        one_of("units.dtype", self.dtype, ("float32", "bfloat16", "float16", "auto"))
        one_of("units.seeding", self.seeding, ("afk-mc2", "k-means++", "random"))
        if self.restarts < 1 or not 0 <= self.seed < 2**31 - 1:
            raise ValueError(
                f"units: need restarts >= 1 and 0 <= seed < 2**31 - 1, got {self.restarts} and {self.seed}"
            )
        if self.clusters < 2:
            raise ValueError(f"units.clusters: need at least 2, got {self.clusters}")
        if self.clusters > 32_767:
            raise ValueError(f"units.clusters: need at most 32767, units are 16 bits, got {self.clusters}")
        if self.fit_hours <= 0 or self.fit_frames < self.clusters:
            raise ValueError(
                f"units: need fit_hours > 0 and fit_frames >= clusters ({self.clusters}), "
                f"got {self.fit_hours} and {self.fit_frames}"
            )


@dataclass(frozen=True)
class PitchSettings:
    """[pitch]: F0 to pitch tokens, 12.5 a second."""

    use: bool = False  # put [Pi] tokens into speech
    model: str = (
        ""  # a finished one, of ours or (a folder) the released one; empty: the build's, else the bundled one
    )
    fit_hours: float = 20.0  # audio drawn for `fit pitch`
    steps: int = 9_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fit_hours <= 0 or self.steps < 1:
            raise ValueError(
                f"pitch: need fit_hours > 0 and steps >= 1, got {self.fit_hours} and {self.steps}"
            )


@dataclass(frozen=True)
class StyleSettings:
    """[style]: how it is said, one token a second."""

    use: bool = False  # put [St] tokens into speech
    codebook: str = (
        ""  # a finished one, or (a folder) a wav2vec2 classifier; empty: the build's, else the bundled one
    )
    clusters: int = 100
    fit_hours: float = 50.0  # audio drawn for `fit style`
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clusters < 2 or self.fit_hours <= 0:
            raise ValueError(
                f"style: need clusters >= 2 and fit_hours > 0, got {self.clusters} and {self.fit_hours}"
            )


@dataclass(frozen=True)
class AlignSettings:
    """[align]: words to times."""

    backend: str = "pocketsphinx"
    options: dict[str, Any] = field(default_factory=dict)  # the backend's own settings
    second: str = ""  # another backend, which says how far its word times are from those of the first
    second_options: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, list[float]] = field(
        default_factory=dict
    )  # measure of aligners.quality -> [least, most]; utterances outside are rejected


@dataclass(frozen=True)
class TextSettings:
    """[text]: the text side of the vocabulary, and documents for the text stream."""

    tokenizer: str = (
        ""  # tokenizer.json, a Hugging Face tokenizer directory or a SentencePiece model; empty: train a BPE
    )
    size: int = 1000  # of the trained BPE
    documents: list[str] = field(
        default_factory=list
    )  # text files, one document a line, JSONL with "text", or Parquet with a column "text"
    duplicates: str = "keep"  # documents; "exact" rejects those of the same words, "near" nearly the same
    writing: str = (
        "spoken"  # "spoken": lower case without punctuation, as the released model's strings; or "original"
    )

    def __post_init__(self) -> None:
        one_of("text.writing", self.writing, ("spoken", "original"))
        one_of("text.duplicates", self.duplicates, ("keep", "exact", "near"))
        if self.size < 300:
            raise ValueError(
                f"text.size: need at least 300 (256 bytes and the special tokens), got {self.size}"
            )


@dataclass(frozen=True)
class InterleaveSettings:
    """[interleave]: how words and units are put into one sequence; `shards.strategies` describes each strategy."""

    strategy: str = "spirit"
    text_words: list[int] = field(default_factory=lambda: [10, 30])
    speech_words: list[int] = field(default_factory=lambda: [5, 15])
    ratio: float = 0.3
    mean_words: float = 10.0
    trials: int = 39
    probability: float = 0.1
    seed: int = 0
    eos: bool = True  # end each document with the tokenizer's end symbol
    tasks: bool = False  # markers [ASR] and [TTS] in the vocabulary, whatever the strategy

    def __post_init__(self) -> None:
        try:
            self.drawn()
        except ValueError as error:
            raise ValueError(f"interleave: {error}") from error

    def drawn(self) -> Strategy:
        """The strategy these settings name."""
        return make_strategy(
            self.strategy, **{name: getattr(self, name) for name in numbers_of(self.strategy)}
        )


@dataclass(frozen=True)
class ShardsSettings:
    """[shards]: how examples are put into tars, and what is held out."""

    samples: int = 1000  # examples per shard
    valid: float = 0.05  # share of the hours held out
    by: str = "speaker"  # hold out whole speakers, or utterances by "hash"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("shards.by", self.by, ("speaker", "hash"))
        if self.samples < 1:
            raise ValueError(f"shards.samples: need at least 1, got {self.samples}")
        if not 0 <= self.valid < 1:
            raise ValueError(f"shards.valid: need 0 <= valid < 1, got {self.valid}")


@dataclass(frozen=True)
class Settings:
    """A whole build."""

    build: str = ""
    corpus: CorpusSettings = CorpusSettings()
    units: UnitsSettings = UnitsSettings()
    pitch: PitchSettings = PitchSettings()
    style: StyleSettings = StyleSettings()
    align: AlignSettings = AlignSettings()
    text: TextSettings = TextSettings()
    interleave: InterleaveSettings = InterleaveSettings()
    shards: ShardsSettings = ShardsSettings()


def read(path: Path) -> Settings:
    """Read a TOML file; unknown sections and keys and wrong types are refused by name."""
    return read_toml(path, Settings)


def write(settings: Settings) -> str:
    """The TOML text that `read` gives back as equal settings."""
    return write_toml(settings)


def replace(settings: Settings, section: str, **changes: Any) -> Settings:
    """The settings with some values of one section changed; the values are checked again."""
    changed = dataclasses.replace(getattr(settings, section), **changes)
    return dataclasses.replace(settings, **{section: changed})
