"""What a student learns from a teacher: features of clean, whole recordings, averaged over a few of its frames.

Any speech encoder that `load_encoder` reads from a directory can teach: HuBERT, wav2vec2, Whisper. Its features are
computed once and kept in half precision in teacher-features.npy (138 MB an hour at 50 Hz and 384 numbers), so that a
run that resumes begins at once.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus.records import SAMPLE_RATE
from units import kmeans
from units.encoders import Encoder, load_encoder
from units.pretraining.targets import ITERATIONS, Labels, grid_centres

FEATURES = "teacher-features.npy"
AT_ONCE = 16  # recordings encoded together


@dataclass(frozen=True)
class TeacherSettings:
    """Who teaches, and what of it is learnt."""

    path: str = ""  # directory in Hugging Face format; nothing is downloaded
    layer: int = -1  # transformer block whose output is learnt; -1: the last one
    window: tuple[float, ...] = (
        0.25,
        0.5,
        0.25,
    )  # weights of neighbouring frames of the teacher, summing to 1
    weight: float = 1.0  # of the regression onto its features in the loss
    standardise: bool = False  # every dimension to mean 0 and variance 1 over the training speech
    initialise: bool = False  # start from its own weights, where teacher and network have the same sizes

    def __post_init__(self) -> None:
        if not self.path:
            return
        if not Path(self.path).is_dir():
            raise ValueError(f"teacher.path: need a directory in Hugging Face format, got {self.path!r}")
        if len(self.window) % 2 != 1 or abs(sum(self.window) - 1) > 1e-6:
            raise ValueError(
                f"teacher.window: need an odd number of weights that sum to 1, got {self.window}"
            )
        if self.weight < 0:
            raise ValueError(f"teacher.weight: need at least 0, got {self.weight}")


@dataclass(frozen=True)
class TeacherFeatures:
    """Averaged features of each recording, (F, D) float16, frame k centred at `centre + k * hop`."""

    of: list[np.ndarray]
    centre: int
    hop: int
    mean: np.ndarray
    scale: np.ndarray

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.mean)

    def at(self, recording: int, positions: np.ndarray) -> np.ndarray:
        """(N,) positions in samples of a recording -> (N, D) float32, interpolated; the outermost beyond the ends."""
        features = self.of[recording]
        if not len(features):
            return np.zeros((len(positions), self.dimension), np.float32)
        indices = np.clip((positions - self.centre) / self.hop, 0, len(features) - 1)
        low = np.floor(indices).astype(np.int64)
        share = (indices - low)[:, None].astype(np.float32)
        high = np.minimum(low + 1, len(features) - 1)
        values = features[low].astype(np.float32) * (1 - share) + features[high].astype(np.float32) * share
        return (values - self.mean) * self.scale

    def subset(self, recordings: Sequence[int]) -> "TeacherFeatures":
        """Those of some recordings."""
        return TeacherFeatures([self.of[i] for i in recordings], self.centre, self.hop, self.mean, self.scale)


def load_teacher(settings: TeacherSettings) -> Encoder:
    """The teacher as an encoder."""
    return load_encoder(Path(settings.path), None if settings.layer < 0 else settings.layer)


def teach(
    waveforms: Sequence[np.ndarray],
    settings: TeacherSettings,
    folder: Path,
    *,
    data: str,
    learn_from: Sequence[int],
) -> TeacherFeatures:
    """Features of all recordings, from `folder` where they were computed before.

    Args:
        waveforms: (T,) float32 at 16 kHz each.
        data: hash of the waveforms.
        learn_from: recordings that mean and variance are taken from.
    """
    teacher = load_teacher(settings)
    key = {"teacher": teacher.identity, "data": data, "window": list(settings.window)}
    features = cached_features(waveforms, teacher, settings.window, folder / FEATURES, key)
    mean, scale = np.zeros(teacher.dimension, np.float32), np.ones(teacher.dimension, np.float32)
    if settings.standardise:
        count = sum(len(features[i]) for i in learn_from)
        sums = sum(features[i].sum(axis=0, dtype=np.float64) for i in learn_from)
        squares = sum((features[i].astype(np.float64) ** 2).sum(axis=0) for i in learn_from)
        mean = (sums / count).astype(np.float32)
        scale = (1 / np.sqrt(np.maximum(squares / count - (sums / count) ** 2, 1e-8))).astype(np.float32)
    return TeacherFeatures(features, teacher.centre, teacher.hop, mean, scale)


def cached_features(
    waveforms: Sequence[np.ndarray],
    teacher: Encoder,
    window: Sequence[float],
    path: Path,
    key: dict[str, Any],
) -> list[np.ndarray]:
    """Views of one (frames of all, D) float16 file; computed and written where it is not there or of something else."""
    record = path.with_suffix(".json")
    counts = [max(0, (len(wave) - teacher.minimum) // teacher.hop + 1) for wave in waveforms]
    text = json.dumps(key, sort_keys=True)
    if not (path.exists() and record.exists() and record.read_text(encoding="utf-8") == text):
        unfinished = path.with_name(f".{path.name}.unfinished")
        shape = (sum(counts), teacher.dimension)
        whole = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
        start = 0
        for first in range(0, len(waveforms), AT_ONCE):
            for frames in teacher.encode(waveforms[first : first + AT_ONCE]):
                whole[start : start + len(frames)] = average(frames, window)
                start += len(frames)
        whole.flush()
        del whole
        os.replace(unfinished, path)
        record.write_text(text, encoding="utf-8")
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.split(stored, np.cumsum(counts)[:-1])


def average(frames: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """(F, D) -> (F, D): each frame the weighted mean of those around it; the outermost are repeated.

    >>> average(np.array([[0.0], [4.0], [0.0]]), (0.25, 0.5, 0.25)).ravel().tolist()
    [1.0, 2.0, 1.0]
    """
    half = len(window) // 2
    padded = np.pad(frames, ((half, half), (0, 0)), mode="edge" if len(frames) else "constant")
    return sum(weight * padded[i : i + len(frames)] for i, weight in enumerate(window))  # type: ignore[return-value]


def teacher_clusters(
    features: TeacherFeatures,
    lengths: Sequence[int],
    *,
    clusters: int,
    seed: int,
    learn_from: Sequence[int],
    limit: int,
) -> Labels:
    """k-means labels of the teacher's features every 10 ms; centroids learnt from some recordings only.

    Args:
        lengths: samples of each recording.
        limit: frames that the centroids are learnt from, at most.
    """
    seconds = sum(lengths[i] for i in learn_from) / SAMPLE_RATE
    every = 4 * max(
        1, int(np.ceil(seconds * 25 / limit))
    )  # of the 10 ms grid: 25 Hz, or fewer where that is too many
    sampled = np.concatenate([features.at(i, grid_centres(lengths[i])[2::every]) for i in learn_from])
    codebook = kmeans.fit(sampled, clusters=clusters, seed=seed, iterations=ITERATIONS, device="cpu")
    labels = [
        codebook.assign(features.at(i, grid_centres(length))).astype(np.int16)
        for i, length in enumerate(lengths)
    ]
    return Labels("teacher", clusters, labels)
