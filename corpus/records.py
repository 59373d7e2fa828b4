"""The records that all folders use, and the one list of reasons for which an utterance leaves the pipeline."""

from dataclasses import dataclass

SAMPLE_RATE = 16_000
"""Hz. Every waveform inside wordweave is mono float32 at this rate; hours are counted in its samples."""

REASONS = {
    "manifest.not_json": "the manifest line is not a JSON object",
    "manifest.missing_field": "the manifest line lacks a required field",
    "manifest.bad_field": "a field of the manifest line has the wrong type or value",
    "licence.excluded": "the licence is not one of those that the settings allow, or is not known",
    "split.excluded": "the split of the source is not one of those that the settings allow, or is not known",
    "id.unsafe": "the id has characters a shard key cannot hold (letters, digits, '_' and '-' are safe)",
    "id.duplicate": "the id occurred before",
    "audio.missing": "there is no such audio file",
    "audio.unreadable": "the audio file cannot be decoded",
    "audio.empty": "the audio file has no samples",
    "audio.truncated": "the audio file holds fewer samples than it or its manifest line declares",
    "audio.length_mismatch": "the audio is longer or shorter than its header or its manifest line declares",
    "audio.not_finite": "the audio holds NaN or infinite samples",
    "audio.too_short": "the utterance is shorter than the configured minimum",
    "audio.too_long": "the utterance is longer than the configured maximum",
    "cut.silence": "cut away: silence, or little above it",
    "cut.noise": "cut away: music or noise without speech",
    "cut.no_transcript": "cut away: speech of which the transcript lacks the text",
    "cut.too_short": "cut away: speech shorter than the shortest utterance, with no room around it",
    "transcribe.failed": "the recogniser cannot transcribe the recording",
    "transcribe.timeout": "the recogniser took longer than allowed",
    "transcribe.empty": "the recogniser found no words",
    "transcribe.confidence": "the mean confidence of the recogniser's words is outside the configured bounds",
    "transcribe.agreement": "the agreement of the two recognisers is outside the configured bounds",
    "transcribe.speech_share": "the recogniser found words, but too little of the recording is speech",
    "transcribe.repetition": "the recogniser repeats itself",
    "transcribe.words_per_second": "the recogniser found more or fewer words than can be spoken in that time",
    "text.missing": "there is no transcript",
    "text.empty": "the transcript holds no words",
    "text.language": "the document is not in one of the languages that are kept",
    "text.duplicate": "the document repeats an earlier one",
    "align.language": "the aligner does not know the language of the transcript",
    "align.out_of_vocabulary": "a word has no pronunciation, for instance because it is in another script",
    "align.too_short": "the audio is too short for its transcript",
    "align.unalignable": "the aligner found no path: transcript and audio do not fit",
    "align.token_mismatch": "the aligner returned other words than it was given",
    "align.bad_times": "the word times are not finite, not in order or outside the recording",
    "align.missing": "there is no alignment file for the utterance",
    "align.unreadable": "the alignment file cannot be read",
    "align.low_quality": "the alignment scored below the configured minimum",
    "align.timeout": "the aligner took longer than allowed",
    "align.backend_error": "the aligner failed",
    "quality.clipping": "too many or too few samples are clipped, by the configured filter",
    "quality.dc_offset": "the mean of the samples is outside the configured bounds",
    "quality.bandwidth": "the highest frequency with sound of its own is outside the configured bounds",
    "quality.snr": "the level of the speech over the noise is outside the configured bounds",
    "quality.speech_share": "the share of speech in the recording is outside the configured bounds",
    "quality.loudness": "the loudness is outside the configured bounds",
    "quality.words_per_second": "the words of the transcript per second are outside the configured bounds",
    "quality.characters_per_second": "the letters of the transcript per second are outside the configured bounds",
    "quality.repetition": "the share of repeated word sequences in the transcript is outside the configured bounds",
    "quality.language_score": "the transcript's probability of its declared language is outside the bounds",
    "quality.dnsmos_speech": "the predicted opinion of the speech is outside the configured bounds",
    "quality.dnsmos_background": "the predicted opinion of the background is outside the configured bounds",
    "quality.dnsmos_overall": "the predicted opinion of the whole is outside the configured bounds",
    "quality.aligner_confidence": "the aligner's mean confidence is outside the configured bounds",
    "duplicate.audio": "an earlier utterance has the same audio",
    "duplicate.units": "an earlier utterance has nearly the same units",
    "duplicate.text": "an earlier utterance has nearly the same text",
    "duplicate.evaluation": "the utterance is in an evaluation set, by its audio, units or text",
    "units.too_short": "the audio is shorter than one unit frame",
    "units.failed": "the encoder cannot use the audio, or its output is not finite",
}
"""Reason code -> what is true of an utterance that carries it."""


class Reject(ValueError):
    """One utterance cannot be used; the stage that catches it writes `reason` and `detail` into its row and continues.

    >>> Reject("audio.missing", "a.wav").reason
    'audio.missing'
    """

    def __init__(self, reason: str, detail: str = ""):
        if reason not in REASONS:
            raise KeyError(f"reason {reason!r}: not in corpus.records.REASONS")
        super().__init__(f"{reason}: {detail or REASONS[reason]}")
        self.reason = reason
        self.detail = detail or REASONS[reason]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reject) and (self.reason, self.detail) == (other.reason, other.detail)

    def __hash__(self) -> int:
        return hash((self.reason, self.detail))

    def __reduce__(self) -> tuple:  # an exception must survive the trip from a worker process
        return Reject, (self.reason, self.detail)


class Unusable(ValueError):
    """A location or an engine that cannot be used as requested: reported before any work, exit code 2."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One stretch of a recording with an id: one row of the manifest.

    `first_frame` and `frames` count in the recording's own `sample_rate` (Hz); `samples` is the length after resampling
    to 16 kHz, ceil(frames * 16000 / sample_rate), and is what hours are counted in.
    """

    id: str
    audio: str
    frames: int
    sample_rate: int = SAMPLE_RATE
    first_frame: int = 0
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    licence: str | None = None
    alignment: str | None = None  # path of word times that came with the data, for the aligner `given`
    channel: int | None = None  # of the recording, from 0 on; None: the mean of all
    audio_stamp: str = (
        ""  # size and modification time of the file, or what its store calls a version, or its sha256
    )
    alignment_stamp: str = ""
    source: str | None = None  # URL or name of the corpus it comes from
    source_split: str | None = None  # of that corpus: "train", "test-clean"

    def __post_init__(self) -> None:
        if self.frames < 0 or self.first_frame < 0 or self.sample_rate <= 0:
            raise ValueError(
                f"utterance {self.id!r}: need frames >= 0, first_frame >= 0 and sample_rate > 0, "
                f"got {self.frames}, {self.first_frame} and {self.sample_rate}"
            )

    @property
    def samples(self) -> int:
        """Length in samples at 16 kHz."""
        return -(-self.frames * SAMPLE_RATE // self.sample_rate)

    @property
    def seconds(self) -> float:
        """Length in seconds at 16 kHz."""
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Word:
    """One spoken word and its half-open interval [start, end), in seconds of its utterance.

    `text` is the original writing ("$3.50,"), `spoken` what the aligner was given ("three dollars fifty"); `confidence`
    is in [0, 1] or None where the aligner has none.
    """

    text: str
    start: float
    end: float
    spoken: str = ""
    confidence: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"word {self.text!r}: need 0 <= start < end, got [{self.start}, {self.end}) s")
