"""Quality of an utterance: measures of its sound and of its text, each one number on a fixed scale.

`MEASURES` is their registry: settings, the step `quality`, filters and `wordweave preview` read it. A measure that does
not exist for an utterance (no text, no speech, too short) is None, and no filter then applies.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpus import voice_activity
from corpus.duplicates import words_of
from corpus.records import SAMPLE_RATE, Reject
from corpus.voice_activity import speech_frames

SPEECH = 0.5  # probability from which on a frame is speech
WINDOW = 512  # samples of a spectrum: bins of 31.25 Hz
SPECTRA = 4096  # computed at once
FLOOR = 50.0  # dB below the strongest band: weaker bands are outside the bandwidth
IMAGE = 6.0  # dB: a band that follows its mirror image this closely is its copy
NARROW = 4000.0  # Hz: the bandwidth of a sample rate of 8 kHz
PLATEAU = 5  # per cent of the peak: width of the amplitudes that clipping fills
GRAM = 3  # words
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of scripts that are written without spaces; each counts as a word."""
DNSMOS_SECONDS = 9.01  # what its network sees
DNSMOS_CURVES = {
    "speech": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}
"""Polynomials, highest power first, from the outputs of the network to mean opinion scores."""


class Subject:
    """An utterance that is measured; what several measures need is computed once.

    Args:
        waveform: (T,) float32, 16 kHz.
        text, language: its transcript, and the language that its manifest declares.
    """

    def __init__(self, waveform: np.ndarray, text: str | None = None, language: str | None = None):
        self.waveform = waveform
        self.text = text
        self.language = language
        self.seconds = len(waveform) / SAMPLE_RATE

    @cached_property
    def voice(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every 32 ms whether it is speech, and its level in dB of full scale."""
        probability, level = speech_frames([self.waveform])
        return probability >= SPEECH, level

    @cached_property
    def words(self) -> list[str]:
        """The words of the text."""
        return tokens_of(self.text or "")

    @cached_property
    def languages(self) -> dict[str, float]:
        """Language tag -> probability that the text is in it; none without words."""
        return language_probabilities(self.text) if self.text and self.words else {}

    @cached_property
    def dnsmos(self) -> dict[str, float]:
        """The three scores of DNSMOS P.835."""
        return dnsmos(self.waveform)


def tokens_of(text: str) -> list[str]:
    """The words that texts are compared and counted by; of scripts without spaces, the letters.

    >>> tokens_of("They went -- out!"), tokens_of("你好 world")
    (['they', 'went', 'out'], ['你', '好', 'world'])
    """
    return words_of(UNSPACED.sub(r" \g<0> ", text))


def clipping(subject: Subject) -> float | None:
    """Share of samples that clipping put at one amplitude, at any level and after resampling.

    Fewer samples have an amplitude, the larger it is; clipping puts many near one. The measure is the excess of the
    fullest band of amplitudes, 5 % of the peak wide and above half of it, over the band below. Meant for speech: a pure
    tone has most of its samples near its peak too. Source: ours; of 91 real recordings 95 % have less than 0.0003; with
    1 % of the samples clipped at 44.1 kHz, 95 % have at least 0.005.
    """
    excess = 0.0
    for side in (subject.waveform, -subject.waveform):
        peak = float(np.max(side, initial=0.0))
        if peak <= 0:
            continue
        counts = np.histogram(side, 100, (0.0, peak))[0]
        below = np.concatenate([[0], np.cumsum(counts)])
        tops = np.arange(50 + 2 * PLATEAU, 101)
        band = below[tops] - below[tops - PLATEAU]
        excess += max(0, int(np.max(band - (below[tops - PLATEAU] - below[tops - 2 * PLATEAU]))))
    return excess / len(subject.waveform)


def dc_offset(subject: Subject) -> float | None:
    """Distance of the mean from 0, full scale being 1."""
    return abs(float(np.mean(subject.waveform, dtype=np.float64)))


def bandwidth(subject: Subject) -> float | None:
    """Highest frequency with sound of its own, Hz.

    The highest within 50 dB of the strongest, in the mean spectrum; but 4000, where the band above follows the one
    below 4 kHz as its mirror image does: what a poor converter makes of a recording at 8 kHz. Source: ours.
    """
    wave = np.pad(subject.waveform, (0, max(0, WINDOW - len(subject.waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[:: WINDOW // 2]
    window = np.hanning(WINDOW).astype(np.float32)
    total = np.zeros(WINDOW // 2 + 1)
    near = []
    for first in range(0, len(frames), SPECTRA):
        power = np.abs(np.fft.rfft(frames[first : first + SPECTRA] * window)) ** 2
        total += power.sum(axis=0)
        near.append(power[:, 128 - 18 : 128 + 19])
    if not total.any():
        return None
    around = np.concatenate(near)
    loudest = np.argsort(-around.sum(axis=1), kind="stable")[: max(8, len(around) // 4)]
    levels = 10 * np.log10(around[loudest] + 1e-9)
    apart = levels[:, :20:-1] - levels[:, :16]  # 4094 Hz to 4563 Hz, less their images
    if np.median(apart.std(axis=0)) < IMAGE:
        return NARROW
    smooth = np.convolve(total, np.ones(5) / 5, "same")
    highest = np.flatnonzero(smooth >= smooth.max() * 10 ** (-FLOOR / 10))[-1]
    return min(float(highest + 1), WINDOW / 2) * SAMPLE_RATE / WINDOW


def snr(subject: Subject) -> float | None:
    """Level of the speech over that of the noise, dB, the noise being the quietest tenth of the recording."""
    speech, level = subject.voice
    if not speech.any():
        return None
    power = 10 ** (level.astype(np.float64) / 10)
    noise = float(np.mean(np.sort(power)[: max(1, len(power) // 10)]))
    clean = float(np.mean(power[speech])) - noise
    return max(0.0, 10 * math.log10(max(clean, noise * 1e-3) / noise))


def speech_share(subject: Subject) -> float | None:
    """Share of the recording in which somebody speaks."""
    return float(np.mean(subject.voice[0]))


def loudness(subject: Subject) -> float | None:
    """Integrated loudness, LUFS; None under 0.4 s, and where nothing is louder than -70 LUFS.

    Source: ITU-R BS.1770-4, with one channel.
    """
    power = k_weighted(subject.waveform) ** 2
    block, hop = SAMPLE_RATE * 2 // 5, SAMPLE_RATE // 10
    sums = np.concatenate([[0.0], np.cumsum(power)])
    starts = np.arange(0, len(power) - block + 1, hop)
    energy = np.maximum(sums[starts + block] - sums[starts], 1e-30) / block
    for gate in (-70.0, None):
        if gate is None:
            gate = units_of_loudness(energy.mean()) - 10
        energy = energy[units_of_loudness(energy) > gate]
        if not len(energy):
            return None
    return float(units_of_loudness(energy.mean()))


def units_of_loudness(energy: Any) -> Any:
    """LUFS of the mean square of K-weighted sound."""
    return -0.691 + 10 * np.log10(energy)


def k_weighted(waveform: np.ndarray) -> np.ndarray:
    """(T,) -> (T,) float64: the sound through the two filters of BS.1770, a shelf and a high-pass filter."""
    size = (len(waveform) // SAMPLE_RATE + 2) * SAMPLE_RATE  # room for what the filters add after the end
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = np.ones(len(z), complex)
    for above, below in k_filters(SAMPLE_RATE):
        response *= np.polyval(above[::-1], z) / np.polyval(below[::-1], z)
    return np.fft.irfft(np.fft.rfft(waveform, size) * response, size)[: len(waveform)]


@functools.cache
def k_filters(rate: int) -> list[tuple[list[float], list[float]]]:
    """Numerator and denominator of each filter at a sample rate; at 48 kHz those of the recommendation's tables.

    Source: De Man 2014, Evaluation of implementations of the EBU R128 loudness measurement.
    """
    k, q = math.tan(math.pi * 1681.974450955533 / rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    shelf = [high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]
    k2, q2 = math.tan(math.pi * 38.13547087602444 / rate), 0.5003270373238773
    divisors = [[1 + c / p + c * c, 2 * (c * c - 1), 1 - c / p + c * c] for c, p in ((k, q), (k2, q2))]
    return [([x / divisors[0][0] for x in shelf], [x / divisors[0][0] for x in divisors[0]]),
            ([1.0, -2.0, 1.0], [x / divisors[1][0] for x in divisors[1]])]  # fmt: skip


def words_per_second(subject: Subject) -> float | None:
    """Words of the text per second of the recording."""
    return len(subject.words) / subject.seconds if subject.words else None


def characters_per_second(subject: Subject) -> float | None:
    """Letters and digits of the text per second of the recording."""
    return sum(map(len, subject.words)) / subject.seconds if subject.words else None


def repetition(subject: Subject) -> float | None:
    """Share of the three-word sequences of the text that repeat an earlier one.

    >>> repetition(Subject(np.zeros(16_000), "thank you thank you thank you"))
    0.5
    """
    grams = list(zip(*(subject.words[offset:] for offset in range(GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else None


def language_score(subject: Subject) -> float | None:
    """Probability that the text is in the declared language; None where py3langid does not know that language."""
    declared = re.split(r"[-_]", (subject.language or "").lower())[0]
    return subject.languages.get(declared)


@functools.cache
def language_identifier() -> Any:
    """The identifier of py3langid, loaded once per process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def most_probable_language(text: str) -> str:
    """The tag of the language that a text is most probably in.

    >>> most_probable_language("Der Lappen liegt auf dem Eisschrank, und morgen kommt er weg.")
    'de'
    """
    return str(language_identifier().classify(text)[0])


def language_probabilities(text: str) -> dict[str, float]:
    """Language tag -> probability, most probable first.

    >>> next(iter(language_probabilities("Der Lappen liegt auf dem Eisschrank, und morgen kommt er weg.")))
    'de'
    """
    return {language: float(share) for language, share in language_identifier().rank(text)}


def dnsmos_path() -> Path:
    """The network of DNSMOS P.835 inside the package speechmos.

    Raises:
        ValueError: speechmos or onnxruntime is not installed.
    """
    found = importlib.util.find_spec(
        "speechmos"
    )  # not imported: it imports packages that it does not require
    if found is None or not found.submodule_search_locations or not importlib.util.find_spec("onnxruntime"):
        raise ValueError(
            "quality.dnsmos: needs speechmos and onnxruntime; run `pip install 'wordweave[dnsmos]'`"
        )
    return Path(found.submodule_search_locations[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"


@functools.cache
def dnsmos_session() -> Any:
    """The network, loaded once per process; on one thread, so that its values are the same everywhere."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(dnsmos_path(), options, providers=["CPUExecutionProvider"])


def dnsmos(waveform: np.ndarray) -> dict[str, float]:
    """Mean opinion scores from 1 to 5 of speech, background and both, as a network predicts them.

    A recording shorter than 9.01 s is repeated; of a longer one, windows begin every second, and scores are averaged.
    Source: Reddy et al. 2022, DNSMOS P.835, arXiv:2110.01763.
    """
    size = int(DNSMOS_SECONDS * SAMPLE_RATE)
    wave = np.clip(waveform, -1, 1).astype(np.float32)
    while len(wave) < size:
        wave = np.concatenate([wave, wave])
    count = int(len(wave) // SAMPLE_RATE - DNSMOS_SECONDS) + 1
    windows = [wave[first * SAMPLE_RATE :][:size] for first in range(count)]
    raw = [dnsmos_session().run(None, {"input_1": window[None]})[0][0] for window in windows]
    scores = {
        name: [float(np.polyval(curve, row[column])) for row in raw]
        for column, (name, curve) in enumerate(DNSMOS_CURVES.items())
    }
    return {name: float(np.mean(values)) for name, values in scores.items()}


class Measure(NamedTuple):
    """One measure: what it means, its unit, how it is computed, and the range that its histograms show."""

    meaning: str
    unit: str
    low: float
    high: float
    of: Callable[[Subject], float | None] | None = None  # None: the step `align` measures it
    extra: str = ""  # the setting that enables it


MEASURES: dict[str, Measure] = {
    "clipping": Measure("share of samples that are clipped", "", 0, 0.02, clipping),
    "dc_offset": Measure("distance of the mean from 0, of full scale", "", 0, 0.02, dc_offset),
    "bandwidth": Measure("highest frequency with sound of its own", "Hz", 0, 8000, bandwidth),
    "snr": Measure("level of speech over the quietest tenth of the recording", "dB", 0, 80, snr),
    "speech_share": Measure("share of the recording in which somebody speaks", "", 0, 1, speech_share),
    "loudness": Measure("integrated loudness (ITU-R BS.1770)", "LUFS", -50, 0, loudness),
    "words_per_second": Measure("words of the text per second", "/s", 0, 8, words_per_second),
    "characters_per_second": Measure("letters of the text per second", "/s", 0, 40, characters_per_second),
    "repetition": Measure("share of three-word sequences that repeat an earlier one", "", 0, 1, repetition),
    "language_score": Measure("probability that the text is in its declared language", "", 0, 1, language_score),
    "dnsmos_speech": Measure(
        "predicted opinion of the speech (DNSMOS P.835)", "", 1, 5, lambda one: one.dnsmos["speech"], "dnsmos"
    ),
    "dnsmos_background": Measure(
        "predicted opinion of the background", "", 1, 5, lambda one: one.dnsmos["background"], "dnsmos"
    ),
    "dnsmos_overall": Measure(
        "predicted opinion of the whole", "", 1, 5, lambda one: one.dnsmos["overall"], "dnsmos"
    ),
    "aligner_confidence": Measure("mean confidence of the aligner's words", "", 0, 1),
}  # fmt: skip
"""Every measure that filters know, in the order in which filters decide; `quality.NAME` is the reason of its filter."""


def measured_names(*, dnsmos: bool) -> tuple[str, ...]:
    """The measures that the step `quality` computes."""
    return tuple(name for name, one in MEASURES.items() if one.of and (dnsmos or one.extra != "dnsmos"))


def measure(subject: Subject, names: Sequence[str]) -> dict[str, float | None]:
    """Measure an utterance; values have six digits, so that limits of a few digits mean what they say."""
    values = {name: function(subject) for name in names if (function := MEASURES[name].of)}
    return {name: None if value is None else float(f"{value:.6g}") for name, value in values.items()}


def model_versions(*, dnsmos: bool) -> tuple[tuple[str, str], ...]:
    """What decides the measures besides this code: packages and models with versions or hashes.

    Raises:
        ValueError: one of them is not installed.
    """
    models = {"silero-vad": voice_activity.identity(), "py3langid": importlib.metadata.version("py3langid")}
    if dnsmos:
        digest = hashlib.sha256(dnsmos_path().read_bytes()).hexdigest()[:16]
        models["dnsmos"] = f"{digest}-{importlib.metadata.version('onnxruntime')}"
    return tuple(models.items())


TRANSCRIPT_MEASURES: dict[str, Measure] = {
    "confidence": Measure("mean confidence of the recogniser's words", "", 0, 1),
    "agreement": Measure("agreement of two recognisers: 1 - word errors per word of the longer", "", 0, 1),
    **{name: MEASURES[name] for name in ("speech_share", "repetition", "words_per_second")},
}
"""Measures of what the step `transcribe` makes of a recording; `transcribe.NAME` is the reason of its filter."""
TRANSCRIPT_MINIMUM = {"speech_share": 0.1}
TRANSCRIPT_MAXIMUM = {"repetition": 0.4, "words_per_second": 8.0}
"""Bounds that settings may set otherwise: text where nobody speaks, loops, more words than can be spoken."""


class Filter(NamedTuple):
    """The values of a measure that an utterance may have: from `low` to `high`, both included."""

    measure: str
    low: float = -math.inf
    high: float = math.inf
    step: str = "quality"  # or "transcribe", for a transcript

    def reject(self, values: Mapping[str, float | None]) -> Reject | None:
        """Why an utterance with these values is dropped; None where the measure does not exist for it.

        >>> Filter("snr", low=10).reject({"snr": 3.0})
        Reject('quality.snr: snr 3 dB, need at least 10')
        """
        value = values.get(self.measure)
        if value is None or self.low <= value <= self.high:
            return None
        bound = f"at least {self.low:g}" if value < self.low else f"at most {self.high:g}"
        unit = f" {(MEASURES | TRANSCRIPT_MEASURES)[self.measure].unit}".rstrip()
        return Reject(f"{self.step}.{self.measure}", f"{self.measure} {value:g}{unit}, need {bound}")


def make_filters(
    minimum: Mapping[str, float],
    maximum: Mapping[str, float],
    known: Mapping[str, Measure] = MEASURES,
    step: str = "quality",
) -> tuple[Filter, ...]:
    """The filters of bounds by measure, in the order of the known measures.

    Raises:
        ValueError: an unknown measure, or a minimum above the maximum.
    """
    if unknown := sorted({*minimum, *maximum} - known.keys()):
        raise ValueError(f"unknown measure {unknown[0]!r}; known: {', '.join(known)}")
    filters = tuple(
        Filter(name, minimum.get(name, -math.inf), maximum.get(name, math.inf), step)
        for name in known
        if name in minimum or name in maximum
    )
    for one in filters:
        if not one.low <= one.high:
            raise ValueError(f"{one.measure}: need minimum <= maximum, got {one.low:g} and {one.high:g}")
    return filters
