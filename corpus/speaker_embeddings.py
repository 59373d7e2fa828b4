"""Voices of unknown speakers: an embedding of each utterance, and clusters of those of one recording.

The network and its weights are those of the package Resemblyzer (Apache-2.0), whose weights lie in its wheel; the
package is not imported, since its own imports are not needed.

Source: Wan et al. 2018, Generalized end-to-end loss for speaker verification; https://github.com/resemble-ai/Resemblyzer.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corpus.records import SAMPLE_RATE
from corpus.voice_activity import HOP, speech_frames

if TYPE_CHECKING:
    import torch

SIZE = 256
PARTIAL, STEP = 160, 77  # frames of 10 ms that the network sees at once, and between two such stretches
LEVEL = -30.0  # dBFS that all speech is brought to: the voice of loud speech is then that of quiet speech
SPEECH = 0.5  # probability from which on 32 ms are speech
LEAST = 1.6  # seconds of speech; of less a voice is uncertain


def weights_path() -> Path:
    """The file of the weights inside the package.

    Raises:
        ValueError: Resemblyzer is not installed.
    """
    found = importlib.util.find_spec("resemblyzer")
    if found is None or not found.submodule_search_locations:
        raise ValueError("speakers: needs the package Resemblyzer; run `pip install --no-deps Resemblyzer`")
    return Path(found.submodule_search_locations[0]) / "pretrained.pt"


@functools.cache
def identity() -> str:
    """Hash of the weights."""
    return hashlib.sha256(weights_path().read_bytes()).hexdigest()[:16]


@functools.cache
def load_network() -> "tuple[torch.nn.LSTM, torch.nn.Linear, torch.Tensor]":
    """The recurrent and the last layer, and the mel filters; read once per process."""
    import torch
    from torchaudio.functional import melscale_fbanks

    state = torch.load(weights_path(), map_location="cpu", weights_only=True)["model_state"]
    lstm, linear = torch.nn.LSTM(40, SIZE, 3, batch_first=True), torch.nn.Linear(SIZE, SIZE)
    lstm.load_state_dict({name[5:]: value for name, value in state.items() if name.startswith("lstm.")})
    linear.load_state_dict({name[7:]: value for name, value in state.items() if name.startswith("linear.")})
    filters = melscale_fbanks(201, 0.0, 8000.0, 40, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return lstm.eval(), linear.eval(), filters


def embed(wave: np.ndarray) -> tuple[np.ndarray, float]:
    """The voice of an utterance, (256,) float32 of length 1, and how many seconds of speech it is made of.

    Args:
        wave: (T,) float32 at 16 kHz.

    >>> embed(np.zeros(16_000, np.float32))[1]
    0.0
    """
    probability, _ = speech_frames([wave])
    speech = wave[np.repeat(probability >= SPEECH, HOP)[: len(wave)]]
    if not len(speech):
        return np.zeros(SIZE, np.float32), 0.0
    return embed_speech(speech), len(speech) / SAMPLE_RATE


def embed_speech(speech: np.ndarray) -> np.ndarray:
    """The voice of (T,) samples without pauses: the mean over overlapping stretches of 1.6 s, of length 1."""
    import torch

    lstm, linear, filters = load_network()
    level = 10 * np.log10(np.mean(speech.astype(np.float64) ** 2) + 1e-12)
    wave = torch.from_numpy(speech * np.float32(10 ** ((LEVEL - level) / 20)))
    with torch.inference_mode():
        spectrum = torch.stft(
            wave,
            400,
            160,
            window=torch.hann_window(400),
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        mel = (spectrum.abs() ** 2).T @ filters
        count = max(1, 1 + round((len(mel) - PARTIAL) / STEP)) if len(mel) > PARTIAL else 1
        mel = torch.nn.functional.pad(mel, (0, 0, 0, max(0, (count - 1) * STEP + PARTIAL - len(mel))))
        partials = torch.stack([mel[n * STEP : n * STEP + PARTIAL] for n in range(count)])
        _, (hidden, _) = lstm(partials)
        vectors = torch.relu(linear(hidden[-1]))
        mean = (vectors / (vectors.norm(dim=1, keepdim=True) + 1e-8)).mean(dim=0)
        return (mean / (mean.norm() + 1e-8)).numpy()


def cluster_voices(embeddings: np.ndarray, seconds: Sequence[float], similarity: float) -> list[int]:
    """Which utterances of a recording have the same voice: agglomerative clustering by mean cosine similarity.

    Args:
        embeddings: (N, 256), of length 1.
        seconds: of speech in each; those under 1.6 s join the nearest cluster once it is made.
        similarity: two clusters are one voice while the mean over their pairs is at least that.

    Returns:
        N numbers from 0 on, in the order in which the voices first occur; -1: none.

    >>> cluster_voices(np.eye(256)[[0, 1, 0]], [5.0, 5.0, 5.0], 0.7)
    [0, 1, 0]
    """
    long = [number for number, length in enumerate(seconds) if length >= LEAST]
    groups = [[number] for number in long]
    alike = embeddings[long] @ embeddings[long].T
    np.fill_diagonal(alike, -np.inf)
    while len(groups) > 1:
        one, other = sorted(int(place) for place in np.unravel_index(np.argmax(alike), alike.shape))
        if alike[one, other] < similarity:
            break
        sizes = len(groups[one]), len(groups[other])
        row = (sizes[0] * alike[one] + sizes[1] * alike[other]) / sum(sizes)
        row[one] = -np.inf
        alike[one], alike[:, one] = row, row
        alike = np.delete(np.delete(alike, other, 0), other, 1)
        groups[one] += groups.pop(other)
    labels = [-1] * len(seconds)
    centres = [np.mean(embeddings[group], axis=0) for group in groups]
    for number, group in enumerate(groups):
        for place in group:
            labels[place] = number
    for place, length in enumerate(seconds):
        if labels[place] < 0 and length > 0 and groups:
            labels[place] = int(np.argmax([embeddings[place] @ centre for centre in centres]))
    order: dict[int, int] = {}
    return [-1 if label < 0 else order.setdefault(label, len(order)) for label in labels]
