"""Style tokens: how something is said, one token a second, from few numbers that anyone can compute.

    F0, spectra every 10 ms ── pooled around each second ── minus speaker's mean ── how like each of a few known
    styles ── nearest of 100 ── token

Each token sees its own second and a little before it, nothing that comes later, so that a change of style inside a
recording shows. What a voice is like whatever it says (its level of F0, its timbre) is taken away with the speaker's
mean; the recording level does not enter at all.

Many of the features say nothing about style. What is clustered are the roots of the probabilities of a few styles that
a small linear classifier reads from them, as the paper's features were tuned to predict style before they were
clustered. Their distance (Hellinger's) is 0 for seconds that are equally like each style.

Source: SPEC 3 for rate, number of tokens and order of steps; features, normalisation and classifier are ours.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corpus.records import SAMPLE_RATE
from units import kmeans
from units.kmeans import Codebook
from units.logistic import fit_logistic
from units.prosody.f0 import F0, extract
from units.prosody.wav2vec2_style import TOKEN_RATE, Wav2Vec2Style
from units.tensor_files import read_artifact, write_artifact
from units.threads import one_thread
from units.waveform import check_waveform

FORMAT = "wordweave style 3"
BUNDLED = Path(__file__).parents[1] / "data" / "style.safetensors"
CODES = 100
CONTEXT = 0.6  # seconds a token sees before its own second
ENOUGH = 16.0  # seconds of a speaker with a voice in them that make his mean count
ITERATIONS = 15  # of k-means
RESTARTS = 20  # of k-means, the lowest inertia is kept: seeds differ by several points of recall otherwise
STRENGTH = 0.03  # of the windows against the penalty on the classifier's slopes

FEATURES = (
    "f0_median", "f0_p10", "f0_p90", "f0_range", "f0_deviation", "f0_slope_size", "f0_slope",
    "alpha", "alpha_deviation", "hammarberg", "slope_0_500", "slope_500_1500", "centroid", "h1_h2", "above_4k",
    "energy_deviation", "energy_range", "energy_change",
    "flux", "flux_deviation", "peaks", "modulation", "cepstral_change",
    "f0_roughness", "energy_roughness", "periodicity", "periodicity_deviation",
)  # fmt: skip
"""What is pooled over a window: F0 in semitones, spectral tilt, movement of energy, tempo, roughness."""

_SHIFT = 160  # samples from frame to frame
_SIZE = 640  # samples of a frame: two periods of the lowest voices
_FFT = 1024
_BLOCK = 6_000  # frames transformed at a time: bounded memory
_LAGS = SAMPLE_RATE // 50 + 1


@lru_cache(maxsize=1)
def _tables() -> dict[str, np.ndarray]:
    """Constant matrices, float32."""
    hertz = np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT
    window = np.hanning(_SIZE)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, _FFT)) ** 2)[:_LAGS]
    mel = np.linspace(0, 2595 * np.log10(1 + 7600 / 700), 26)
    edges = 700 * (10 ** (mel / 2595) - 1)
    lower, middle, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.clip(
        np.minimum((hertz - lower) / (middle - lower), (upper - hertz) / (upper - middle)), 0, None
    )
    bands = len(bank)
    cosines = np.cos(np.pi / bands * np.arange(1, 13)[:, None] * (np.arange(bands) + 0.5)) * np.sqrt(
        2 / bands
    )
    tables = {
        "hertz": hertz,
        "window": window,
        # autocorrelation at a lag is a row times the power spectrum; the window's own decay is divided out
        "lags": np.cos(2 * np.pi * np.outer(np.arange(_LAGS), np.arange(_FFT // 2 + 1)) / _FFT)
        * np.where((hertz == 0) | (hertz == hertz[-1]), 1, 2)
        / (own / own[0])[:, None],
        "bank": bank.T,
        "cosines": cosines.T,
    }
    return {name: np.ascontiguousarray(table, np.float32) for name, table in tables.items()}


def describe(waveform: np.ndarray, f0: F0) -> dict[str, np.ndarray]:
    """Frames of 40 ms every 10 ms, each centred on its time: what is pooled later, (frames,) float64 each.

    `voiced` says where there is a voice; `loud` where there is sound: not 45 dB below the loudest frame.
    """
    tables = _tables()
    frames = len(waveform) // _SHIFT + 1
    take = np.minimum(np.arange(frames) * (_SHIFT // 80), len(f0) - 1)
    hertz, voiced = f0.hertz[take].astype(np.float64), f0.voiced[take]
    lags = np.clip(np.rint(SAMPLE_RATE / hertz), 1, _LAGS - 1).astype(int)
    loudest = float(np.abs(waveform).max(initial=0.0))
    padded = np.pad(waveform / (loudest or 1.0), (_SIZE // 2, _SIZE)).astype(np.float32)
    pieces = [
        _spectral(padded, start, min(frames, start + _BLOCK), hertz, lags, tables)
        for start in range(0, frames, _BLOCK)
    ]
    found = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    cepstra = found.pop("cepstra")
    bands = found.pop("bands")
    found["cepstral_change"] = _norm(_difference(cepstra, 2))
    found["flux"] = np.maximum(_difference(bands, 1), 0).mean(axis=1)
    energy = found["energy"]
    found["loud"] = (energy > energy.max(initial=-math.inf) - 45) & (loudest > 0)
    found["voiced"] = voiced & found["loud"]
    found["semitones"] = 12 * np.log2(hertz / 100)
    return {name: x if x.dtype == bool else x.astype(np.float64) for name, x in found.items()}


def _spectral(
    padded: np.ndarray,
    start: int,
    stop: int,
    hertz: np.ndarray,
    lags: np.ndarray,
    tables: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Frames [start, stop): spectral tilt and what movement is taken from."""
    views = np.lib.stride_tricks.sliding_window_view(padded, _SIZE)[start * _SHIFT : stop * _SHIFT : _SHIFT]
    spectrum = torch.fft.rfft(torch.from_numpy(views * tables["window"]), _FFT)
    power = (spectrum.real.square() + spectrum.imag.square() + 1e-10).numpy()
    bin = SAMPLE_RATE / _FFT
    level = 10 * np.log10(power[:, : round(5000 / bin)])  # nothing above is asked for its level

    def band(low: float, high: float) -> slice:
        return slice(round(low / bin), round(high / bin))

    def slope(part: slice) -> np.ndarray:
        x = tables["hertz"][part] / 1000
        x = x - x.mean()
        return level[:, part] @ x / (x @ x)

    total = power.sum(axis=1)
    rows = np.arange(stop - start)
    first = np.rint(hertz[start:stop] / bin).astype(int)
    harmonic = [
        np.max([level[rows, np.minimum(k * first + i, level.shape[1] - 1)] for i in (-1, 0, 1)], axis=0)
        for k in (1, 2)
    ]
    bands = np.log(power @ tables["bank"] + np.float32(1e-8))
    return {
        "energy": 10 * np.log10(total),
        "alpha": 10 * np.log10(power[:, band(1000, 5000)].sum(axis=1) / power[:, band(50, 1000)].sum(axis=1)),
        "hammarberg": level[:, band(0, 2000)].max(axis=1) - level[:, band(2000, 5000)].max(axis=1),
        "slope_0_500": slope(band(0, 500)),
        "slope_500_1500": slope(band(500, 1500)),
        "centroid": np.log2(power @ tables["hertz"] / total),
        "h1_h2": harmonic[0] - harmonic[1],
        "above_4k": 10 * np.log10(power[:, band(4000, 8000)].sum(axis=1) / total),
        "periodicity": np.einsum("fk,fk->f", tables["lags"][lags[start:stop]], power)
        / np.einsum("k,fk->f", tables["lags"][0], power),
        "bands": bands,
        "cepstra": bands @ tables["cosines"],
    }


def _difference(x: np.ndarray, reach: int) -> np.ndarray:
    """Change per frame over `reach` frames to either side; the ends repeat."""
    padded = np.concatenate([x[:1]] * reach + [x] + [x[-1:]] * reach)
    return (padded[2 * reach :] - padded[: -2 * reach]) / (2 * reach)


def _norm(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(x).sum(axis=1))


def windows(samples: int, *, hop: float = 1.0) -> np.ndarray:
    """(S, 2) first and last + 1 frame (10 ms) that each token sees; S = seconds, the started one included.

    A token sees what is before its second, not what comes after. One near the end sees at least the last second: a
    rest of a few frames has no style of its own. A `hop` of less than a second gives windows in between, for training.

    >>> windows(36_000).tolist()
    [[0, 100], [40, 200], [125, 226]]
    """
    frames = samples // _SHIFT + 1
    second, context = SAMPLE_RATE // _SHIFT, round(CONTEXT * SAMPLE_RATE / _SHIFT)
    starts = np.arange(0, -(-samples // _SHIFT), round(hop * second))
    stops = np.minimum(starts + second, frames)
    starts = np.maximum(np.minimum(starts - context, stops - second - 1), 0)
    return np.stack([starts, stops], axis=1)


def pool(waveform: np.ndarray, f0: F0 | None = None, *, hop: float = 1.0) -> np.ndarray:
    """The features of each second of a recording: (S, 27) float32; a second without a voice in it is NaN.

    Args:
        waveform: (T,) float32 at 16 kHz.
        f0: of this waveform; default: extracted.
        hop: seconds from window to window.
    """
    waveform = check_waveform(waveform)
    f0 = extract(waveform) if f0 is None else f0
    if len(f0) != len(waveform) // 80 + 1:
        raise ValueError(
            f"f0: need {len(waveform) // 80 + 1} frames for {len(waveform)} samples, got {len(f0)}"
        )
    places = windows(len(waveform), hop=hop)
    found = np.full((len(places), len(FEATURES)), np.nan, np.float32)
    if not f0.voiced.any():
        return found
    frames = describe(waveform, f0)
    for row, (start, stop) in enumerate(places):
        one = _pool({name: x[start:stop] for name, x in frames.items()})
        if one is not None:
            found[row] = one
    return found


def _pool(x: dict[str, np.ndarray]) -> list[float] | None:
    """The 27 numbers of one window, or None where fewer than 8 frames (80 ms) are voiced."""
    voiced, loud = x["voiced"], x["loud"]
    if voiced.sum() < 8:
        return None
    pitch, energy = x["semitones"][voiced], x["energy"][loud]
    low, median, high = np.percentile(pitch, (10, 50, 90))
    within = voiced[1:] & voiced[:-1]
    steps = np.diff(x["semitones"])[within]
    steps = steps[np.abs(steps) < 3]  # an octave jump of the extractor is no movement
    bends = np.diff(x["semitones"], 2)[voiced[2:] & voiced[1:-1] & voiced[:-2]]
    bends = bends[np.abs(bends) < 3]
    time = np.flatnonzero(voiced) * 0.01
    time = time - time.mean()
    slope = float(time @ pitch / max(time @ time, 1e-6))
    inside = loud[1:] & loud[:-1]
    change = np.diff(x["energy"])[inside]
    around = loud[2:] & loud[1:-1] & loud[:-2]
    rough = np.diff(x["energy"], 2)[around]
    bottom, top = np.percentile(energy, (10, 90))
    smooth = np.convolve(x["energy"].clip(energy.max() - 45), np.ones(5) / 5, "valid")
    inner = smooth[1:-1]
    peaks = ((inner > smooth[:-2]) & (inner >= smooth[2:]) & (inner > np.median(energy))).sum()
    spectrum = np.abs(np.fft.rfft((smooth - smooth.mean()) * np.hanning(len(smooth)), 400))  # 0.25 Hz a bin
    seconds = len(voiced) / 100
    return [
        median, low, high, high - low, pitch.std(), mean(np.abs(steps)), slope,
        mean(x["alpha"][voiced]), x["alpha"][voiced].std(), mean(x["hammarberg"][voiced]),
        mean(x["slope_0_500"][voiced]), mean(x["slope_500_1500"][voiced]), mean(x["centroid"][voiced]),
        mean(x["h1_h2"][voiced]), mean(x["above_4k"][voiced]),
        energy.std(), top - bottom, mean(np.abs(change)),
        mean(x["flux"][loud]), x["flux"][loud].std(), peaks / seconds,
        float(np.log(spectrum[12:33].sum() + 1e-3) - np.log(spectrum[1:81].sum() + 1e-3)),
        mean(x["cepstral_change"][loud]),
        mean(np.abs(bends)), mean(np.abs(rough)), mean(x["periodicity"][voiced]), x["periodicity"][voiced].std(),
    ]  # fmt: skip


def mean(x: np.ndarray) -> float:
    """Mean, 0 of nothing."""
    return float(x.mean()) if len(x) else 0.0


# Tokens ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StyleClassifier:
    """How like each of C styles a second is: multinomial logistic regression of scaled features.

    `names` (C,) of the styles; `slopes` (27, C) and `offsets` (C,) float32.
    """

    names: tuple[str, ...]
    slopes: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        shape = len(FEATURES), len(self.names)
        if len(self.names) < 2 or self.slopes.shape != shape or self.offsets.shape != shape[1:]:
            raise ValueError(f"style classifier: need slopes of shape {shape}, got {self.slopes.shape}")
        if not (np.isfinite(self.slopes).all() and np.isfinite(self.offsets).all()):
            raise ValueError("style classifier: need finite slopes and offsets")

    def roots(self, features: np.ndarray) -> np.ndarray:
        """(S, 27) scaled features -> (S, C) float32 square roots of probabilities: rows of length 1."""
        scores = features @ self.slopes + self.offsets
        odds = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-math.inf))
        return np.sqrt(odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class StyleTokenizer:
    """Seconds of speech to style tokens.

    Attributes:
        corpus_mean: (27,) float32 mean over speakers of the features: what stands in for an unknown speaker's mean.
        deviation: (27,) float32 of features around their speaker's mean.
        classifier: what places a second among known styles; None: seconds are placed by their scaled features.
        codebook: centroids (100, D) of places; D = C styles, or 27.
        provenance: a JSON-able dict: data, seed, attribution.
    """

    corpus_mean: np.ndarray
    deviation: np.ndarray
    classifier: StyleClassifier | None
    codebook: Codebook
    provenance: dict[str, Any] = field(default_factory=dict)

    rate = TOKEN_RATE
    """Hz."""
    takes_f0 = True

    def __post_init__(self) -> None:
        for name in ("corpus_mean", "deviation"):
            array = np.asarray(getattr(self, name), np.float32)
            if array.shape != (len(FEATURES),) or not np.isfinite(array).all():
                raise ValueError(
                    f"style {name}: need {len(FEATURES)} finite numbers, got shape {array.shape}"
                )
            object.__setattr__(self, name, array)
        size = len(FEATURES if self.classifier is None else self.classifier.names)
        if self.codebook.dimension != size or not (self.deviation > 0).all():
            raise ValueError(f"style: need deviations above 0 and centroids of {size} numbers")

    @property
    def codes(self) -> int:
        """Number of different tokens."""
        return self.codebook.clusters

    @property
    def centroids(self) -> np.ndarray:
        """(100, D) float32: distances between tokens are distances between these."""
        return self.codebook.centroids

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides a token."""
        digest = hashlib.sha256("|".join(FEATURES).encode())
        for array in self._tensors().values():
            digest.update(array.astype("<f4").tobytes())
        return digest.hexdigest()

    def encode(
        self, waveform: np.ndarray, speaker_mean: np.ndarray | None = None, *, f0: F0 | None = None
    ) -> np.ndarray:
        """Style tokens of a recording.

        Args:
            waveform: (T,) float32 at 16 kHz.
            speaker_mean: (27,) mean of the speaker's features, from `speaker_mean`; default: the corpus's.
            f0: of this waveform, where it is there already.

        Returns:
            (S,) int16, S = seconds, the last started one included. Seconds without a voice get the token nearest to
            the speaker's mean.
        """
        return self.assign(pool(waveform, f0), speaker_mean)

    def assign(self, features: np.ndarray, speaker_mean: np.ndarray | None = None) -> np.ndarray:
        """(S, 27) features from `pool` -> (S,) int16 tokens."""
        return self.codebook.assign(self.place(features, speaker_mean)).astype(np.int16)

    def place(self, features: np.ndarray, speaker_mean: np.ndarray | None = None) -> np.ndarray:
        """(S, 27) features -> (S, D) float32 places, as distances see them."""
        mean = self.corpus_mean if speaker_mean is None else np.asarray(speaker_mean, np.float32)
        found = scaled(features, mean, self.deviation)
        return found if self.classifier is None else self.classifier.roots(found)

    def speaker_mean(self, features: Iterable[np.ndarray]) -> np.ndarray:
        """(27,) mean of a speaker's features; with less than 16 s of voiced speech shrunk towards the corpus's.

        A mean of a clip or two takes the style away with the voice: it is worse than none.

        >>> tokenizer = load()
        >>> bool((tokenizer.speaker_mean([]) == tokenizer.corpus_mean).all())
        True
        """
        return shrunk(*total(features), self.corpus_mean)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the provenance in its metadata, all of it or nothing."""
        said = {"format": FORMAT, "features": list(FEATURES), "provenance": self.provenance}
        if self.classifier is not None:
            said["styles"] = list(self.classifier.names)
        write_artifact(path, self._tensors(), said)

    def _tensors(self) -> dict[str, np.ndarray]:
        """Everything that decides a token."""
        found = {"corpus_mean": self.corpus_mean, "deviation": self.deviation}
        if self.classifier is not None:
            found |= {"slopes": self.classifier.slopes, "offsets": self.classifier.offsets}
        return found | {"centroids": np.array(self.centroids)}


def scaled(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(S, 27) float32 distances from the mean in deviations, at most 3; 0 where there is no voice."""
    return np.nan_to_num(np.clip((features - mean) / deviation, -3, 3)).astype(np.float32)


def total(features: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """(27,) float64 sum of the features of voiced seconds, and their number."""
    sums, count = np.zeros(len(FEATURES)), 0
    for found in features:
        spoken = found[np.isfinite(found[:, 0])]
        sums += spoken.sum(axis=0, dtype=np.float64)
        count += len(spoken)
    return sums, count


def shrunk(sums: np.ndarray, count: int, corpus_mean: np.ndarray) -> np.ndarray:
    """(27,) float32 mean of `count` seconds, drawn towards the corpus mean where they are less than ENOUGH."""
    own = sums / max(count, 1)
    share = min(1.0, count / ENOUGH)
    return (share * own + (1 - share) * corpus_mean).astype(np.float32)


def load(path: str | Path | None = None) -> "StyleTokenizer | Wav2Vec2Style":
    """The bundled tokenizer, one that `StyleTokenizer.save` wrote, or a classifier in Hugging Face format (a folder).

    Raises:
        ValueError: no such file, or not a whole one of these; names it.
    """
    path = BUNDLED if path is None or str(path) == "" else Path(path)
    if path.is_dir():
        return Wav2Vec2Style(path)
    arrays, record = read_artifact(path, FORMAT, kind="style codebook", command="wordweave fit style")
    try:
        if record.get("features") != list(FEATURES):
            raise ValueError(f"need the features {', '.join(FEATURES)}, got {record.get('features')}")
        classifier = None
        if "styles" in record:
            classifier = StyleClassifier(tuple(record["styles"]), arrays["slopes"], arrays["offsets"])
        return StyleTokenizer(
            arrays["corpus_mean"],
            arrays["deviation"],
            classifier,
            Codebook(arrays["centroids"]),
            record["provenance"],
        )
    except KeyError as error:
        raise ValueError(f"{path}: need a whole style codebook, it lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def fit(
    features: Sequence[np.ndarray],
    speakers: Sequence[str | None],
    *,
    styles: Sequence[str | None] | None = None,
    like: StyleTokenizer | None = None,
    clusters: int = CODES,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> StyleTokenizer:
    """Cluster seconds of speech by how they are said. The same features and seed give the same centroids.

    Args:
        features: (S, 27) of each recording, from `pool`; windows may overlap.
        speakers: of each recording, None where unknown.
        styles: name of the style of each recording (an emotion, ...), None where unknown: a classifier of them is
            fitted, and seconds are clustered by what it says. Of recordings without a style no more windows are
            clustered than of those with one, or reading aloud would take most of the codes.
        like: take scale and classifier of this tokenizer, in place of `styles`. Without either, seconds are clustered
            by their scaled features.
        clusters: K.

    Raises:
        ValueError: fewer voiced windows than clusters, or styles of one kind only.
    """
    by_speaker: dict[str, tuple[np.ndarray, int]] = {}
    for found, speaker in zip(features, speakers, strict=True):
        sums, count = total([found])
        before = by_speaker.get(speaker or "", (np.zeros(len(FEATURES)), 0))
        by_speaker[speaker or ""] = before[0] + sums, before[1] + count
    known = [sums / count for sums, count in by_speaker.values() if count]
    if not known:
        raise ValueError("style: need recordings with a voice in them, got none")
    corpus_mean = np.mean(known, axis=0).astype(np.float32)
    means = {name: shrunk(sums, count, corpus_mean) for name, (sums, count) in by_speaker.items() if name}
    away = [
        found[np.isfinite(found[:, 0])] - means.get(name or "", corpus_mean)
        for found, name in zip(features, speakers, strict=True)
    ]
    every = np.concatenate(away)
    if styles is not None:
        acted = [x for x, name in zip(away, styles, strict=True) if name is not None]
        others = [x for x, name in zip(away, styles, strict=True) if name is None]
        every = np.concatenate([*acted, some(others, sum(map(len, acted)), seed)])
    if len(every) < clusters:
        raise ValueError(
            f"style: need at least {clusters} voiced windows for {clusters} clusters, got {len(every)}"
        )
    nothing = np.zeros(len(FEATURES), np.float32)
    deviation = np.maximum(every.std(axis=0), 1e-6).astype(np.float32) if like is None else like.deviation
    classifier = None if like is None else like.classifier
    if styles is not None:
        classifier = fit_classifier([scaled(x, nothing, deviation) for x in away], styles)
    places = scaled(every, nothing, deviation)
    if classifier is not None:
        places = classifier.roots(places)
    book = kmeans.fit(places, clusters=clusters, seed=seed, iterations=ITERATIONS, restarts=RESTARTS)
    said = {
        "clusters": clusters, "seed": seed, "windows": len(every), "recordings_used": len(features),
        "speakers_used": len(means), "data": book.provenance["data"], "inertia": book.provenance["inertia"],
        "styles": list(classifier.names) if classifier else [],
    }  # fmt: skip
    return StyleTokenizer(
        corpus_mean, deviation, classifier, Codebook(book.centroids), {**said, **(provenance or {})}
    )


def some(features: Sequence[np.ndarray], count: int, seed: int) -> np.ndarray:
    """At most `count` rows of all, drawn at random, (N, 27)."""
    every = np.concatenate([np.zeros((0, len(FEATURES)), np.float32), *features])
    return every[np.sort(np.random.default_rng(seed).permutation(len(every))[:count])]


def fit_classifier(
    features: Sequence[np.ndarray], styles: Sequence[str | None], *, strength: float = STRENGTH
) -> StyleClassifier:
    """Multinomial logistic regression, each style counting the same however much there is of it.

    Args:
        features: (S, 27) scaled features of each recording.
        styles: of each recording; None: left out.
        strength: of the data against the penalty on slopes of standardised features (C of scikit-learn).
    """
    kept = [(x, name) for x, name in zip(features, styles, strict=True) if name is not None and len(x)]
    names = sorted({name for _, name in kept})
    if len(names) < 2:
        raise ValueError(f"styles: need recordings of at least two, got {names}")
    stacked = np.concatenate([x for x, _ in kept]).astype(np.float64)
    mean, deviation = stacked.mean(axis=0), np.maximum(stacked.std(axis=0), 1e-6)
    y = np.array([names.index(name) for own, name in kept for _ in own])
    with one_thread():
        slopes, offsets = fit_logistic((stacked - mean) / deviation, y, strength=strength, balanced=True)
    found = slopes / deviation[:, None]
    shift = offsets - mean @ found
    return StyleClassifier(tuple(names), found.astype(np.float32), (shift - shift.mean()).astype(np.float32))
