"""The settings of a build: one frozen dataclass per section of the TOML file."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus import files
from corpus.cutting import CutRules
from corpus.quality import (
    MEASURES,
    TRANSCRIPT_MAXIMUM,
    TRANSCRIPT_MEASURES,
    TRANSCRIPT_MINIMUM,
    Filter,
    make_filters,
)
from corpus.toml import fill, load_toml, one_of, write_toml
from shards.strategies import STRATEGIES, Strategy, make_strategy, parameters_of
from units.encoders import BUNDLED, bundled_codebook


@dataclass(frozen=True)
class CorpusSettings:
    """[corpus]: the source, and which utterances are kept."""

    adapter: str = "jsonl"
    source: str = ""  # manifest file or dataset folder
    part_minutes: float = 10.0  # of audio per part, the unit of work; the first ones are shorter
    min_seconds: float = 0.3
    max_seconds: float = 40.0
    ids: str = "strict"  # ids a shard key cannot hold: "strict" rejects them, "escape" rewrites them
    channels: str = "average"  # of recordings with several: their mean, or one utterance for each, "separate"
    checksum: bool = False  # notice changed files by their content, not by size and modification time
    probe: str = "headers"  # read them all; "declared": not of rows that carry frames and sample_rate
    duration_tolerance: float = (
        0.05  # seconds that a file may be shorter than declared; 6 times that for MP3, Ogg
    )
    licence: str = ""  # of recordings of which the source states none
    source_name: str = ""  # URL or name of the corpus, for recordings of which the source states none
    licences: list[str] = field(default_factory=list)  # reject recordings with another licence, or none
    splits: list[str] = field(
        default_factory=list
    )  # reject recordings of another split of the source, or none
    speaker_salt: str = ""  # file with a salt: speakers are then named by salted hashes
    keep_unaligned: bool = False  # keep recordings without usable word times in the speech stream

    def __post_init__(self) -> None:
        one_of("corpus.ids", self.ids, ("strict", "escape"))
        one_of("corpus.channels", self.channels, ("average", "separate"))
        one_of("corpus.probe", self.probe, ("headers", "declared"))
        if self.checksum and self.probe == "declared":
            raise ValueError("corpus.probe: need 'headers' where corpus.checksum = true reads every file")
        if not self.duration_tolerance >= 0:
            raise ValueError(f"corpus.duration_tolerance: need at least 0, got {self.duration_tolerance}")
        if not self.part_minutes > 0:
            raise ValueError(f"corpus.part_minutes: need more than 0, got {self.part_minutes}")
        if not 0 < self.min_seconds < self.max_seconds:
            raise ValueError(
                f"corpus: need 0 < min_seconds < max_seconds, got {self.min_seconds} and {self.max_seconds}"
            )


@dataclass(frozen=True)
class CutSettings:
    """[cut]: long recordings to utterances, at pauses; lengths are seconds."""

    enabled: bool = False  # cut recordings longer than max_seconds
    min_seconds: float = 1.0
    max_seconds: float = 30.0
    pause: float = 1.0  # a longer pause ends an utterance, and its middle is cut away
    padding: float = 0.25  # kept before and after speech at such a pause
    threshold: float = 0.5  # probability of speech from which on 32 ms are speech
    model: str = "compact"  # of the aligner ctc; finds the words of long transcripts
    device: str = "cpu"

    def __post_init__(self) -> None:
        try:
            self.rules  # noqa: B018
        except ValueError as error:
            raise ValueError(f"cut: {error}") from error

    @property
    def rules(self) -> CutRules:
        """The rules that these settings name."""
        return CutRules(self.min_seconds, self.max_seconds, self.pause, self.padding, self.threshold)


@dataclass(frozen=True)
class TranscribeSettings:
    """[transcribe]: text for utterances that have none, by a recogniser; `aligners.recognisers` describes them."""

    enabled: bool = False  # transcribe utterances without text
    model: str = ""  # directory or hub name of a recogniser in Hugging Face format
    command: str = (
        ""  # or a command that is called with the path of a WAV, or "{list}" of them, and prints text
    )
    second_model: str = ""  # a second recogniser, to measure how far the two agree
    second_command: str = ""
    dtype: str = "float32"  # of the models; or "bfloat16", "float16"
    device: str = "cpu"
    batch: int = 0  # pieces of at most 30 s at once; 0: 1 on a CPU, 16 on a GPU, 16 recordings in a list
    timeout: float = 120.0  # seconds for one call of a command
    minimum: dict[str, float] = field(
        default_factory=dict
    )  # measure of the transcript -> lowest value with which it is used; speech_share 0.1 unless it is set
    maximum: dict[str, float] = field(
        default_factory=dict
    )  # measure -> highest value; repetition 0.4 and words_per_second 8 unless they are set

    def __post_init__(self) -> None:
        one_of("transcribe.dtype", self.dtype, ("float32", "bfloat16", "float16"))
        if self.batch < 0 or not self.timeout > 0:
            raise ValueError(
                f"transcribe: need batch >= 0 and timeout > 0, got {self.batch} and {self.timeout}"
            )
        if self.enabled and bool(self.model) == bool(self.command):
            got = "both" if self.model else "neither"
            raise ValueError(f"transcribe: need a model or a command, got {got}")
        if self.second_model and self.second_command:
            raise ValueError("transcribe: need second_model or second_command, got both")
        try:
            filters = self.filters
        except ValueError as error:
            raise ValueError(f"transcribe: {error}") from error
        if any(one.measure == "agreement" for one in filters) and not self.has_second:
            raise ValueError(
                "transcribe: a filter on agreement needs a second recogniser; set second_model or second_command"
            )

    @property
    def has_second(self) -> bool:
        """Whether a second recogniser is named."""
        return bool(self.second_model or self.second_command)

    @property
    def has_command(self) -> bool:
        """Whether one of the recognisers is a command."""
        return bool(self.command or self.second_command)

    @property
    def filters(self) -> tuple[Filter, ...]:
        """The rules that a transcript must meet."""
        minimum, maximum = TRANSCRIPT_MINIMUM | self.minimum, TRANSCRIPT_MAXIMUM | self.maximum
        return make_filters(minimum, maximum, TRANSCRIPT_MEASURES, "transcribe")


@dataclass(frozen=True)
class QualitySettings:
    """[quality]: measures of sound and text, and filters on them; `corpus.quality` lists the measures."""

    enabled: bool = False  # measure every utterance
    dnsmos: bool = False  # also predict opinion scores; needs the extra dnsmos
    minimum: dict[str, float] = field(default_factory=dict)  # measure -> lowest value that is kept
    maximum: dict[str, float] = field(default_factory=dict)  # measure -> highest value that is kept

    def __post_init__(self) -> None:
        try:
            filters = self.filters
        except ValueError as error:
            raise ValueError(f"quality: {error}") from error
        if filters and not self.enabled:
            raise ValueError(f"quality: a filter on {filters[0].measure} needs enabled = true")
        for one in filters:
            if MEASURES[one.measure].extra == "dnsmos" and not self.dnsmos:
                raise ValueError(f"quality: a filter on {one.measure} needs dnsmos = true")

    @property
    def filters(self) -> tuple[Filter, ...]:
        """The filters that these settings name."""
        return make_filters(self.minimum, self.maximum)


@dataclass(frozen=True)
class SpeakersSettings:
    """[speakers]: speakers of recordings that name none, by their voices."""

    enabled: bool = False  # cluster the utterances of each recording by voice; needs the package Resemblyzer
    similarity: float = 0.7  # mean cosine of two clusters from which on they are one voice

    def __post_init__(self) -> None:
        if not 0 < self.similarity < 1:
            raise ValueError(f"speakers.similarity: need more than 0 and less than 1, got {self.similarity}")


@dataclass(frozen=True)
class UnitsSettings:
    """[units]: audio to discrete units."""

    encoder: str = (
        "compact"  # or "compact-1", "mfcc", or a directory or hub name of a HuBERT, wav2vec2 or Whisper
    )
    layer: int = -1  # transformer block whose output is taken; -1 is the last one
    dtype: str = "float32"  # or "bfloat16", "float16"; "auto": half precision if next to no unit differs here
    device: str = "cpu"
    clusters: int = 501
    seed: int = 0
    fit_hours: float = 20.0  # audio sampled for k-means
    fit_frames: int = 200_000  # frames sampled from that audio
    seeding: str = "afk-mc2"  # of k-means; or "k-means++", "random"
    restarts: int = 1  # k-means from N seedings, of which the best is kept
    codebook: str = ""  # an existing codebook; empty: the build's, else the bundled one, else fit one
    trust_pickle: bool = False  # let that file run code while it is read: pickles of scikit-learn need it

    @property
    def is_bundled(self) -> bool:
        """Whether the codebook inside the package was made for these settings."""
        if self.encoder not in BUNDLED or (self.clusters, self.codebook) != (501, ""):
            return False
        return bundled_codebook(self.layer_or_last, self.encoder).exists()

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
    """[pitch]: F0 to pitch tokens, 12.5 per second."""

    enabled: bool = False  # put [Pi] tokens into speech
    model: str = (
        ""  # an existing model, or the folder of the released one; empty: the build's, else the bundled one
    )
    fit_hours: float = 20.0  # audio sampled for `fit pitch`
    steps: int = 9_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fit_hours <= 0 or self.steps < 1:
            raise ValueError(
                f"pitch: need fit_hours > 0 and steps >= 1, got {self.fit_hours} and {self.steps}"
            )


@dataclass(frozen=True)
class StyleSettings:
    """[style]: style tokens, one per second."""

    enabled: bool = False  # put [St] tokens into speech
    codebook: str = (
        ""  # an existing codebook or wav2vec2 classifier; empty: the build's, else the bundled one
    )
    clusters: int = 100
    fit_hours: float = 50.0  # audio sampled for `fit style`
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
    second_backend: str = ""  # another backend, to measure how far its word times are from the first's
    second_backend_options: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, list[float]] = field(
        default_factory=dict
    )  # measure of aligners.quality -> [min, max]; utterances outside are rejected


@dataclass(frozen=True)
class DuplicatesSettings:
    """[duplicates]: utterances that repeat an earlier one, or one of an evaluation set."""

    enabled: bool = False  # look for them and report them
    remove: list[str] = field(
        default_factory=list
    )  # reject what is the same by "audio", "units", "text", or is in an "evaluation" set
    evaluation: list[str] = field(default_factory=list)  # test sets, manifests or files of text
    units_similarity: float = (
        0.5  # of the sets of 3-grams of units, from which on two utterances are the same
    )
    text_similarity: float = 0.7  # of the sets of 3-word sequences

    def __post_init__(self) -> None:
        for name in self.remove:
            one_of("duplicates.remove", name, ("audio", "units", "text", "evaluation"))
        for name in ("units_similarity", "text_similarity"):
            if not 0.3 <= getattr(self, name) <= 1:
                raise ValueError(f"duplicates.{name}: need 0.3 to 1, got {getattr(self, name)}")
        if not self.enabled and (self.remove or self.evaluation):
            raise ValueError(
                "duplicates.enabled: need true to remove anything or to compare with evaluation sets"
            )


@dataclass(frozen=True)
class TextSettings:
    """[text]: the text side of the vocabulary, and documents for the text stream."""

    tokenizer: str = (
        ""  # tokenizer.json, a Hugging Face tokenizer directory or a SentencePiece model; empty: train a BPE
    )
    size: int = 1000  # of the trained BPE
    documents: list[str] = field(
        default_factory=list
    )  # text files, one document per line, JSONL with "text", or Parquet with a column "text"; or folders of them
    one_document: str = "line"  # of plain text, or "file"
    languages: list[str] = field(default_factory=list)  # of documents, such as ["en"]; empty: any
    duplicates: str = "keep"  # documents; "exact" rejects those of the same words, "near" nearly the same
    normalisation: str = (
        "spoken"  # lower case without punctuation, as the released model's strings; or "original"
    )

    def __post_init__(self) -> None:
        one_of("text.normalisation", self.normalisation, ("spoken", "original"))
        one_of("text.one_document", self.one_document, ("line", "file"))
        if odd := [name for name in self.languages if not re.fullmatch("[a-z]{2,3}", name)]:
            raise ValueError(f"text.languages: need codes such as 'en', got {odd[0]!r}")
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
            self.make_strategy()
        except ValueError as error:
            raise ValueError(f"interleave: {error}") from error
        own = parameters_of(self.strategy)
        others = {name for strategy in STRATEGIES for name in parameters_of(strategy)} - set(own)
        for name in sorted(others):
            item = self.__dataclass_fields__[name]
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            if getattr(self, name) != default:
                raise ValueError(
                    f"interleave.{name}: need one of the parameters of strategy {self.strategy} "
                    f"({', '.join(own) or 'none'}); remove {name} or choose another strategy"
                )

    def make_strategy(self) -> Strategy:
        """The strategy that these settings name."""
        return make_strategy(
            self.strategy, **{name: getattr(self, name) for name in parameters_of(self.strategy)}
        )


@dataclass(frozen=True)
class ShardsSettings:
    """[shards]: how samples are put into tars, and what is held out."""

    samples: int = 1000  # samples per shard
    valid: float = 0.05  # share of the hours held out
    hold_out_by: str = "speaker"  # whole speakers, or utterances by "hash"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("shards.hold_out_by", self.hold_out_by, ("speaker", "hash"))
        if self.samples < 1:
            raise ValueError(f"shards.samples: need at least 1, got {self.samples}")
        if not 0 <= self.valid < 1:
            raise ValueError(f"shards.valid: need 0 <= valid < 1, got {self.valid}")


@dataclass(frozen=True)
class Settings:
    """A whole build."""

    build: str = ""
    corpus: CorpusSettings = CorpusSettings()
    cut: CutSettings = CutSettings()
    transcribe: TranscribeSettings = TranscribeSettings()
    quality: QualitySettings = QualitySettings()
    speakers: SpeakersSettings = SpeakersSettings()
    units: UnitsSettings = UnitsSettings()
    pitch: PitchSettings = PitchSettings()
    style: StyleSettings = StyleSettings()
    align: AlignSettings = AlignSettings()
    duplicates: DuplicatesSettings = DuplicatesSettings()
    text: TextSettings = TextSettings()
    interleave: InterleaveSettings = InterleaveSettings()
    shards: ShardsSettings = ShardsSettings()


RENAMED: dict[tuple[str, str], str] = {
    ("corpus", "unaligned"): "keep_unaligned",
    ("pitch", "use"): "enabled",
    ("style", "use"): "enabled",
    ("align", "second"): "second_backend",
    ("align", "second_options"): "second_backend_options",
    ("text", "writing"): "normalisation",
    ("shards", "by"): "hold_out_by",
}
"""Earlier names of settings, read as the present ones: files written before the first release stay usable."""


def read_file(path: Path) -> Settings:
    """Settings from a TOML file.

    Raises:
        ValueError: the file cannot be read, or holds an unknown key, a wrong type or a wrong value.
    """
    table = load_toml(path)
    for (section, old), new in RENAMED.items():
        values = table.get(section)
        if isinstance(values, dict) and old in values and new not in values:
            value = values.pop(old)
            values[new] = {"reject": False, "speech": True}.get(value, value) if old == "unaligned" else value
    try:
        return fill(Settings, table)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def read_settings(build: Path) -> Settings:
    """The settings a build was made with.

    Raises:
        ValueError: there is no build, or its settings cannot be read.
    """
    path = build / "settings.toml"
    if not path.is_file():
        raise ValueError(
            f"{build}: no build here (no settings.toml); start one with `wordweave ingest` or `wordweave build`"
        )
    return read_file(path)


def write_settings(build: Path, settings: Settings) -> None:
    """Write the settings into the build they make."""
    files.write(build / "settings.toml", write_toml(settings).encode())


def replace(settings: Settings, section: str, **changes: Any) -> Settings:
    """The settings with some values of one section changed; the values are checked again."""
    changed = dataclasses.replace(getattr(settings, section), **changes)
    return dataclasses.replace(settings, **{section: changed})
