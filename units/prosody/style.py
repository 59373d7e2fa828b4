"""Style tokens: how speech is spoken, one token per second.

    features of each second ── minus speaker's mean ── probabilities of a few known styles ── nearest of 100 ── token

A token depends on its own second and a little before it, on nothing after it, so that a change of style within a
recording shows. Subtracting the speaker's mean removes what is constant in a voice (its level of F0, its timbre).

Many of the features carry no information about style. So what is clustered are the square roots of the probabilities of
a few styles by a small linear classifier, as the paper's features were tuned to predict style before they were
clustered. Their distance (Hellinger's) is 0 for seconds with equal probabilities of each style.

Source: SPEC 3 for rate, number of tokens and order of steps; features, normalisation and classifier are our own.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from units import kmeans
from units.kmeans import Codebook
from units.logistic import fit_logistic
from units.prosody.f0 import F0
from units.prosody.style_features import FEATURES, pool
from units.prosody.wav2vec2_style import TOKEN_RATE, Wav2Vec2Style
from units.tensor_files import read_artifact, write_artifact
from units.threads import one_thread

FORMAT = "wordweave style 3"
BUNDLED = Path(__file__).parents[1] / "data" / "style.safetensors"
CODES = 100
ENOUGH = 16.0  # voiced seconds of a speaker from which on only their own mean counts
ITERATIONS = 15  # of k-means
RESTARTS = 20  # of k-means, the lowest inertia is kept: seeds differ by several points of recall otherwise
STRENGTH = 0.03  # of the windows relative to the penalty on the classifier's slopes


@dataclass(frozen=True, eq=False)
class StyleClassifier:
    """Probabilities of C styles for a second: multinomial logistic regression of scaled features.

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
        corpus_mean: (27,) float32 mean over speakers of the features, used for unknown speakers.
        deviation: (27,) float32 of features around their speaker's mean.
        classifier: maps a second to known styles; None: scaled features are clustered themselves.
        codebook: centroids (100, D) of embeddings; D = C styles, or 27.
        provenance: a JSON-able dict: data, seed, attribution.
    """

    corpus_mean: np.ndarray
    deviation: np.ndarray
    classifier: StyleClassifier | None
    codebook: Codebook
    provenance: dict[str, Any] = field(default_factory=dict)

    rate = TOKEN_RATE
    """Hz."""

    def __post_init__(self) -> None:
        for name, array in (("corpus_mean", self.corpus_mean), ("deviation", self.deviation)):
            if array.shape != (len(FEATURES),) or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(
                    f"style {name}: need {len(FEATURES)} finite float32 numbers, got {array.dtype} {array.shape}"
                )
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
        for array in self._arrays().values():
            digest.update(array.astype("<f4").tobytes())
        return digest.hexdigest()

    def encode(
        self, waveform: np.ndarray, speaker_mean: np.ndarray | None = None, *, f0: F0 | None = None
    ) -> np.ndarray:
        """Style tokens of a recording.

        Args:
            waveform: (T,) float32 at 16 kHz.
            speaker_mean: (27,) mean of the speaker's features, from `speaker_mean`; default: the corpus's.
            f0: of this waveform; default: extracted.

        Returns:
            (S,) int16, S = seconds, the last started one included. Unvoiced seconds get the token nearest to the
            speaker's mean.
        """
        return self.assign(pool(waveform, f0), speaker_mean)

    def assign(self, features: np.ndarray, speaker_mean: np.ndarray | None = None) -> np.ndarray:
        """(S, 27) features from `pool` -> (S,) int16 tokens."""
        return self.codebook.assign(self.embed(features, speaker_mean)).astype(np.int16)

    def embed(self, features: np.ndarray, speaker_mean: np.ndarray | None = None) -> np.ndarray:
        """(S, 27) features -> (S, D) float32 embeddings, whose distances are those of styles."""
        mean = self.corpus_mean if speaker_mean is None else np.asarray(speaker_mean, np.float32)
        scaled = scale(features, mean, self.deviation)
        return scaled if self.classifier is None else self.classifier.roots(scaled)

    def speaker_mean(self, features: Iterable[np.ndarray]) -> np.ndarray:
        """(27,) mean of a speaker's features; with less than 16 s of voiced speech shrunk towards the corpus's.

        The mean of a few seconds contains their style: subtracting it is worse than subtracting none.

        >>> tokenizer = load()
        >>> bool((tokenizer.speaker_mean([]) == tokenizer.corpus_mean).all())
        True
        """
        return shrink(*sum_voiced(features), self.corpus_mean)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the provenance in its metadata, all of it or nothing."""
        record = {"format": FORMAT, "features": list(FEATURES), "provenance": self.provenance}
        if self.classifier is not None:
            record["styles"] = list(self.classifier.names)
        write_artifact(path, self._arrays(), record)

    def _arrays(self) -> dict[str, np.ndarray]:
        """Everything that decides a token."""
        arrays = {"corpus_mean": self.corpus_mean, "deviation": self.deviation}
        if self.classifier is not None:
            arrays |= {"slopes": self.classifier.slopes, "offsets": self.classifier.offsets}
        return arrays | {"centroids": np.array(self.centroids)}


def scale(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(S, 27) float32 distances from the mean in deviations, at most 3; 0 for unvoiced seconds."""
    return np.nan_to_num(np.clip((features - mean) / deviation, -3, 3)).astype(np.float32)


def sum_voiced(features: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """(27,) float64 sum of the features of voiced seconds, and their number."""
    sums, count = np.zeros(len(FEATURES)), 0
    for rows in features:
        voiced = rows[np.isfinite(rows[:, 0])]
        sums += voiced.sum(axis=0, dtype=np.float64)
        count += len(voiced)
    return sums, count


def shrink(sums: np.ndarray, count: int, corpus_mean: np.ndarray) -> np.ndarray:
    """(27,) float32 mean of `count` seconds, shrunk towards the corpus mean where they are fewer than ENOUGH."""
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
        raise ValueError(f"{path}: need a whole style codebook, {error} is missing") from error
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
    """Cluster seconds of speech by style. The same features and seed give the same centroids.

    Args:
        features: (S, 27) of each recording, from `pool`; windows may overlap.
        speakers: of each recording, None where unknown.
        styles: name of the style of each recording (an emotion, ...), None where unknown: a classifier of them is
            fitted, and seconds are clustered by its probabilities. Recordings without a style contribute at most as
            many windows as those with one, or plain reading would get most of the codes.
        like: use scale and classifier of this tokenizer, instead of `styles`. Without either, scaled features are
            clustered.
        clusters: K.
        seed: of the k-means and of the choice among recordings without a style.

    Raises:
        ValueError: fewer voiced windows than clusters, or styles of one kind only.
    """
    by_speaker: dict[str, tuple[np.ndarray, int]] = {}
    for rows, speaker in zip(features, speakers, strict=True):
        sums, count = sum_voiced([rows])
        before = by_speaker.get(speaker or "", (np.zeros(len(FEATURES)), 0))
        by_speaker[speaker or ""] = before[0] + sums, before[1] + count
    speaker_means = [sums / count for sums, count in by_speaker.values() if count]
    if not speaker_means:
        raise ValueError("style: need recordings with voiced speech, got none")
    corpus_mean = np.mean(speaker_means, axis=0).astype(np.float32)
    means = {name: shrink(sums, count, corpus_mean) for name, (sums, count) in by_speaker.items() if name}
    centred = [
        rows[np.isfinite(rows[:, 0])] - means.get(name or "", corpus_mean)
        for rows, name in zip(features, speakers, strict=True)
    ]
    every = np.concatenate(centred)
    if styles is not None:
        labelled = [x for x, name in zip(centred, styles, strict=True) if name is not None]
        others = [x for x, name in zip(centred, styles, strict=True) if name is None]
        every = np.concatenate([*labelled, sample_rows(others, sum(map(len, labelled)), seed)])
    if len(every) < clusters:
        raise ValueError(
            f"style: need at least {clusters} voiced windows for {clusters} clusters, got {len(every)}"
        )
    zero = np.zeros(len(FEATURES), np.float32)
    deviation = np.maximum(every.std(axis=0), 1e-6).astype(np.float32) if like is None else like.deviation
    classifier = None if like is None else like.classifier
    if styles is not None:
        classifier = fit_classifier([scale(x, zero, deviation) for x in centred], styles)
    embeddings = scale(every, zero, deviation)
    if classifier is not None:
        embeddings = classifier.roots(embeddings)
    book = kmeans.fit(embeddings, clusters=clusters, seed=seed, iterations=ITERATIONS, restarts=RESTARTS)
    record = {
        "clusters": clusters, "seed": seed, "windows": len(every), "recordings_used": len(features),
        "speakers_used": len(means), "data": book.provenance["data"], "inertia": book.provenance["inertia"],
        "styles": list(classifier.names) if classifier else [],
    }  # fmt: skip
    return StyleTokenizer(
        corpus_mean, deviation, classifier, Codebook(book.centroids), {**record, **(provenance or {})}
    )


def sample_rows(features: Sequence[np.ndarray], count: int, seed: int) -> np.ndarray:
    """At most `count` of all rows, chosen at random, (N, 27)."""
    every = np.concatenate([np.zeros((0, len(FEATURES)), np.float32), *features])
    return every[np.sort(np.random.default_rng(seed).permutation(len(every))[:count])]


def fit_classifier(
    features: Sequence[np.ndarray], styles: Sequence[str | None], *, strength: float = STRENGTH
) -> StyleClassifier:
    """Multinomial logistic regression in which each style has the same weight, whatever its number of rows.

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
    slopes = slopes / deviation[:, None]
    offsets = offsets - mean @ slopes
    offsets -= offsets.mean()
    return StyleClassifier(tuple(names), slopes.astype(np.float32), offsets.astype(np.float32))
