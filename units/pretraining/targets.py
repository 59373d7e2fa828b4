"""What pre-training predicts: clusters of mel features, of an encoder's own features, or phones that were given.

Labels lie on a grid of 10 ms, so that a crop may begin anywhere and at any speed: `Labels.at` looks up the label at a
time of the recording.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchaudio

from corpus.keyed import generator
from corpus.records import SAMPLE_RATE
from units import kmeans
from units.encoders import Encoder
from units.mfcc import FRAME, SHIFT, mel_cepstra

UNKNOWN = -100
"""The label of a frame without one; cross-entropy passes over it."""
ITERATIONS = 15  # of k-means
AVERAGED = 5  # 10 ms frames averaged for one label, as units/mfcc.py does at 25 Hz
LEAST = FRAME + 8 * SHIFT  # samples of the shortest recording that has every kind of feature
MELS = 40
CONTEXT = 4  # 10 ms frames from the middle to the neighbours that log-mel features are stacked with
KINDS = ("mfcc", "logmel", "own", "phones", "teacher")


@dataclass(frozen=True)
class Labels:
    """Labels of recordings for one kind of target: `of[i]` is (F,) int16, one per 10 ms, of recording i."""

    name: str
    classes: int
    of: list[np.ndarray]

    def at(self, recording: int, positions: np.ndarray) -> np.ndarray:
        """(N,) int64 labels of a recording at positions in samples; UNKNOWN outside it."""
        labels = self.of[recording]
        indices = np.round((positions - FRAME // 2) / SHIFT).astype(np.int64)
        known = (indices >= -1) & (indices <= len(labels))  # half a window beyond either end is still sound
        chosen = labels[np.clip(indices, 0, len(labels) - 1)] if len(labels) else np.zeros(len(indices))
        return np.where(known & (len(labels) > 0), chosen, UNKNOWN).astype(np.int64)


def grid_centres(samples: int) -> np.ndarray:
    """Samples in the middle of the 10 ms frames of a recording."""
    return FRAME // 2 + SHIFT * np.arange(max(0, (samples - FRAME) // SHIFT + 1))


def mfcc_features(waveform: np.ndarray) -> np.ndarray:
    """(F, 39) cepstra and differences every 10 ms, mean 0 and variance 1 per recording, averaged over 50 ms."""
    cepstra = mel_cepstra(waveform).T
    first = torchaudio.functional.compute_deltas(cepstra)
    features = torch.cat([cepstra, first, torchaudio.functional.compute_deltas(first)]).T.numpy()
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    return averaged(features).astype(np.float32)


def logmel_features(waveform: np.ndarray) -> np.ndarray:
    """(F, 120) log-mel energies every 10 ms, mean 0 per recording, averaged over 50 ms, beside those 40 ms away."""
    samples = torch.from_numpy(np.ascontiguousarray(waveform))[None] * 32768
    mels = torchaudio.compliance.kaldi.fbank(
        samples, num_mel_bins=MELS, sample_frequency=SAMPLE_RATE, dither=0.0
    )
    features = averaged((mels - mels.mean(dim=0)).numpy())
    padded = np.pad(features, ((CONTEXT, CONTEXT), (0, 0)), mode="edge")
    return np.concatenate([padded[i : i + len(features)] for i in (0, CONTEXT, 2 * CONTEXT)], axis=1)


def averaged(features: np.ndarray) -> np.ndarray:
    """(F, D) -> (F, D): each frame the mean of the five around it.

    >>> averaged(np.array([[0.0], [5.0], [0.0]])).ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    half = AVERAGED // 2
    padded = np.pad(features, ((half, half), (0, 0)), mode="edge")
    return np.mean([padded[i : i + len(features)] for i in range(AVERAGED)], axis=0)


def own_features(encoder: Encoder, waveform: np.ndarray) -> np.ndarray:
    """(F, D) features of an encoder, mean 0 per recording, each repeated over the 10 ms steps it is nearest to."""
    (features,) = encoder.encode([waveform])
    if not len(features):
        return np.zeros((0, encoder.dimension), np.float32)
    features = features - features.mean(axis=0)
    frames = np.round((grid_centres(len(waveform)) - encoder.centre) / encoder.hop).astype(np.int64)
    return features[np.clip(frames, 0, len(features) - 1)]


def half_whitening(features: np.ndarray, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and matrix (D, d) onto the principal directions, each scaled by variance^-1/4.

    Full whitening lets the weakest directions speak as loud as the strongest: phone information fell by a fifth.
    """
    mean = features.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((features - mean).T.astype(np.float64)))
    order = np.argsort(-values)[:dimension]
    scale = np.maximum(values[order], 1e-8) ** -0.25
    return mean, (vectors[:, order] * scale).astype(np.float32)


def cluster(
    name: str,
    features: Sequence[np.ndarray],
    *,
    clusters: int,
    seed: int,
    learn_from: Sequence[int],
    limit: int,
) -> Labels:
    """k-means labels of every frame; centroids learnt from some recordings only, on one frame in four (25 Hz)."""
    sampled = np.concatenate([features[i][2::4] for i in learn_from])
    if len(sampled) > limit:
        sampled = sampled[
            np.sort(generator(seed, "target frames", name).choice(len(sampled), limit, replace=False))
        ]
    if name == "logmel":
        mean, matrix = half_whitening(sampled, 40)
        sampled = (sampled - mean) @ matrix
        features = [(frames - mean) @ matrix for frames in features]
    codebook = kmeans.fit(sampled, clusters=clusters, seed=seed, iterations=ITERATIONS, device="cpu")
    return Labels(name, clusters, [codebook.assign(frames).astype(np.int16) for frames in features])


def read_phones(path: str | Path) -> dict[str, list[tuple[str, float, float]]]:
    """Phones (name, start, end in seconds) by id, from lines {"id": ..., "phones": [[name, start, end], ...]}."""
    phones_of = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                phones_of[row["id"]] = [
                    (str(name), float(start), float(end)) for name, start, end in row["phones"]
                ]
            except (ValueError, KeyError, TypeError) as error:
                form = '{"id": ..., "phones": [[name, start, end], ...]}'
                raise ValueError(f"{path}: line {number}: need {form}, got {line[:80]!r}") from error
    return phones_of


def count_phones(path: str | Path) -> int:
    """Classes of the target `phones`: different phones of a file, and silence."""
    return 1 + len({name for phones in read_phones(path).values() for name, _, _ in phones})


def phone_labels(path: str | Path, ids: Sequence[str], waveforms: Sequence[np.ndarray]) -> Labels:
    """Phones as labels, from a file of lines {"id": ..., "phones": [[name, start, end], ...]}, times in seconds.

    Silence between phones is a class of its own; a recording without a line has no labels.

    Raises:
        ValueError: a line is not of that form, or no line names one of the recordings.
    """
    phones_of = read_phones(path)
    if not phones_of.keys() & set(ids):
        raise ValueError(f"{path}: need phones of at least one recording to train on, got none")
    names = sorted({name for phones in phones_of.values() for name, _, _ in phones})
    number_of = {name: 1 + i for i, name in enumerate(names)}
    labels = []
    for id, waveform in zip(ids, waveforms, strict=True):
        row_labels = np.zeros(
            max(0, (len(waveform) - FRAME) // SHIFT + 1) if phones_of.get(id) else 0, np.int16
        )
        for name, start, end in phones_of.get(id, []):
            first, last = (int(np.ceil((t * SAMPLE_RATE - FRAME / 2) / SHIFT)) for t in (start, end))
            row_labels[max(0, first) : max(0, last)] = number_of[name]
        labels.append(row_labels)
    return Labels("phones", 1 + len(names), labels)
