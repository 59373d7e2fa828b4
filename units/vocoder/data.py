"""Recordings as a vocoder is trained on them: their tokens at several shifts, F0, voice; and the crops of a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from corpus.keyed import generator
from corpus.records import SAMPLE_RATE
from units.deduplicate import deduplicate
from units.pretraining.train import Recording
from units.prosody.f0 import F0, extract
from units.vocoder.network import RUN, VOICE_BANDS, Tokens
from units.vocoder.signal import HOP, advance, log_mel, noise, per_sample, pulses

LEVEL = 0.05  # root mean square that a recording is brought to, and that the vocoder speaks at
BASE_HERTZ = 160.0  # F0 of a voice whose number is 0
ACTIVE = 3.5  # natural log under a recording's loudest frame, down to which frames count for its voice
SILENT = 1e-4  # root mean square below which a recording has no voice
EDGE = 3  # frames rendered before a crop, whose tails reach into it; 1 after it


@dataclass(frozen=True)
class Tokenizers:
    """What turns recordings into the tokens that a vocoder is made for.

    `encode` (T,) float32 -> (F,) units; `hop` samples of a unit; `pitch` a PitchTokenizer and `style` a StyleTokenizer,
    or None.
    """

    encode: Callable[[np.ndarray], np.ndarray]
    hop: int
    pitch: Any = None
    style: Any = None


@dataclass(frozen=True, eq=False)
class Example:
    """A recording and its tokens.

    Attributes:
        waveform: (T,) float32 at LEVEL.
        units: (F,) int64 units of the waveform from 160 s samples on, for each shift s.
        f0: of the waveform.
        contour: (J, 2) float32 F0 in Hz and voicing of its pitch tokens at frames of 10 ms, or None.
        style: (S, D) float32 centroids of its style tokens, one a second; D = 0 without a style tokenizer.
        spectrum: (80,) float32 mean log-mel of its active frames.
    """

    id: str
    speaker: str
    waveform: np.ndarray
    units: list[np.ndarray]
    f0: F0
    contour: np.ndarray | None
    style: np.ndarray
    spectrum: np.ndarray


def at_level(waveform: np.ndarray) -> np.ndarray:
    """(T,) float32 of mean 0 and root mean square LEVEL; silence stays as it is."""
    centred = waveform.astype(np.float64) - waveform.mean(dtype=np.float64) if len(waveform) else waveform
    power = float(np.mean(centred**2)) if len(waveform) else 0.0
    return (centred * (LEVEL / power**0.5 if power > SILENT**2 else 1.0)).astype(np.float32)


def mean_spectrum(waveform: np.ndarray) -> np.ndarray:
    """(80,) float32 mean log-mel of the frames within 30 dB of the loudest one."""
    mel = log_mel(torch.from_numpy(waveform)[None])[0].numpy()
    loudness = mel.mean(axis=1)
    return mel[loudness > loudness.max() - ACTIVE].mean(axis=0)


def frames_of(f0: F0, count: int, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """F0 in Hz and voicing at `count` frames of 10 ms from frame `shift` on, each (count,); held at the ends."""
    place = np.clip(2 * (np.arange(count) + shift) + 1, 0, len(f0) - 1)
    return f0.hertz[place], f0.voiced[place]


def pitch_contour(pitch: Any, tokens: np.ndarray, mean: float | None, count: int) -> np.ndarray:
    """(count, 2) float32 F0 in Hz and voicing of pitch tokens at frames of 10 ms."""
    decoded = pitch.decode(tokens, mean)
    return np.stack(frames_of(decoded, count), axis=1).astype(np.float32)


def make_examples(recordings: Sequence[Recording], tokenizers: Tokenizers, least: int) -> list[Example]:
    """Tokens of every recording of at least `least` units, at every shift by 10 ms within a unit."""
    kept = [r for r in recordings if len(r.waveform) // tokenizers.hop >= least and is_voice(r.waveform)]
    upsampling = tokenizers.hop // HOP
    style, pitch = tokenizers.style, tokenizers.pitch
    contours = [extract(at_level(r.waveform)) for r in kept]
    pooled, means = [], {}
    if style is not None:
        from units.prosody.style_features import pool

        pooled = [pool(r.waveform, f0) for r, f0 in zip(kept, contours, strict=True)]
        by_speaker: dict[str, list[np.ndarray]] = {}
        for recording, rows in zip(kept, pooled, strict=True):
            by_speaker.setdefault(recording.speaker, []).append(rows)
        means = {speaker: style.speaker_mean(rows) for speaker, rows in by_speaker.items() if speaker}
    examples = []
    for number, recording in enumerate(kept):
        waveform = at_level(recording.waveform)
        f0 = contours[number]
        frames = len(waveform) // HOP + 1
        contour = None if pitch is None else pitch_contour(pitch, pitch.encode(f0), f0.mean, frames)
        styles = np.zeros((1, 0), np.float32)
        if style is not None:
            styles = style.centroids[style.assign(pooled[number], means.get(recording.speaker))]
        units = [
            np.asarray(tokenizers.encode(waveform[HOP * shift :]), np.int64) for shift in range(upsampling)
        ]
        examples.append(
            Example(
                recording.id, recording.speaker, waveform, units, f0, contour, styles, mean_spectrum(waveform)
            )
        )
    return examples


def is_voice(waveform: np.ndarray) -> bool:
    """Whether there is more than silence."""
    return bool(len(waveform)) and float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) > SILENT


def fit_voices(spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (80,) and components (80, 10) of speakers' spectra (N, 80).

    (spectrum - mean) @ components has variance 1 in every component.
    """
    mean = spectra.mean(axis=0)
    _, scales, directions = np.linalg.svd(spectra - mean, full_matrices=False)
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    scales = scales / max(len(spectra), 1) ** 0.5
    components = np.zeros((len(mean), VOICE_BANDS))
    count = min(VOICE_BANDS, int((scales > 1e-3).sum()))
    components[:, :count] = directions[:count].T / scales[:count]
    return mean.astype(np.float32), components.astype(np.float32)


def place_in_run(units: np.ndarray) -> np.ndarray:
    """(F,) int64: 0 for the first of equal neighbours, 1 for the second, ...

    >>> place_in_run(np.array([5, 5, 7, 5])).tolist()
    [0, 1, 0, 0]
    """
    lengths = deduplicate(units)[1]
    return np.arange(len(units)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def style_frames(style: np.ndarray, hop: int, first: int, count: int, shift: int = 0) -> np.ndarray:
    """(S, D) at 1 Hz -> (count, D): in force at the middle of the units from `first` on."""
    seconds = ((np.arange(first, first + count) + 0.5) * hop + shift * HOP) / SAMPLE_RATE
    return style[np.clip(seconds.astype(int), 0, len(style) - 1)]


@dataclass
class Batch:
    """Crops of a step; B crops of N units, of which the middle M are rendered.

    `source` (B, N * upsampling, 2): true log2 of F0 over the voice's, and voicing. `excitation`, `breath`
    (B, 160 J + 160): pulses and noise of the J frames that are rendered. `target` (B, M * hop). `lengths` (B, R) of
    the runs `deduplicated` (B, R), 0 where there is none.
    """

    tokens: Tokens
    source: torch.Tensor
    excitation: torch.Tensor
    breath: torch.Tensor
    target: torch.Tensor
    deduplicated: torch.Tensor
    lengths: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """On a device."""
        tokens = Tokens(*(x.to(device) for x in vars(self.tokens).values()))
        return Batch(tokens, *(getattr(self, name).to(device) for name in list(vars(self))[1:]))


class Crops:
    """Examples, and where the batch of a step is cut from."""

    def __init__(
        self, examples: Sequence[Example], voices: dict[str, np.ndarray], weights: np.ndarray, settings: Any
    ):
        self.examples, self.voices, self.settings = list(examples), voices, settings
        self.ends = np.cumsum(weights)

    def batch(self, step: int, *, plain: bool = False) -> Batch:
        """The batch of a step; `plain`: nothing is dropped or disturbed."""
        s = self.settings
        rng = generator(s.seed, "vocoder step", str(step))
        rows = []
        for _ in range(s.batch):
            number = int(np.searchsorted(self.ends, rng.uniform(0, self.ends[-1]), side="right"))
            rows.append(self.row(self.examples[min(number, len(self.examples) - 1)], rng, plain))
        columns = [torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)]
        return Batch(Tokens(*columns[:5]), *columns[5:])

    def row(self, example: Example, rng: np.random.Generator, plain: bool) -> list[np.ndarray]:
        """One crop: the arrays of a batch, in order."""
        s = self.settings
        up, count, margin = s.network.upsampling, s.crop, s.margin
        shift = int(rng.integers(len(example.units)))
        units = example.units[shift]
        start = int(rng.integers(-margin, max(len(units) - count + margin, 0) + 1))
        cut = slice(start, start + count)
        padded = cut_padded(units, start, count, -1)
        runs = np.minimum(cut_padded(place_in_run(units), start, count, 0), RUN - 1)
        mean = example.f0.mean or BASE_HERTZ
        voice = np.append(self.voices[example.speaker], np.log2(mean / BASE_HERTZ)).astype(np.float32)
        hertz, voiced = frames_of(example.f0, count * up, cut.start * up + shift)
        source = np.stack([np.log2(hertz / mean), voiced], axis=1).astype(np.float32)
        pitch = np.zeros((count * up, 3), np.float32)
        if example.contour is not None and (plain or rng.random() >= s.pitch_dropout):
            place = np.clip(np.arange(count * up) + start * up + shift, 0, len(example.contour) - 1)
            contour = example.contour[place]
            pitch = np.stack(
                [np.log2(contour[:, 0] / mean), contour[:, 1], np.ones(len(place))], axis=1
            ).astype(np.float32)
        style = style_frames(example.style, up * HOP, start, count, shift).astype(np.float32)
        if not plain:
            padded = np.where(rng.random(count) < s.unit_dropout, -1, padded)
            voice[:-1] += rng.normal(0, s.voice_noise, VOICE_BANDS).astype(np.float32)
            style = style * np.float32(rng.random() >= s.style_dropout)
        first, frames = margin * up - EDGE, (count - 2 * margin) * up + EDGE + 1
        begin = HOP * first - HOP // 2
        path = per_sample(hertz, begin, HOP * frames + HOP)
        excitation = pulses(advance(path, rng.random()), path)
        breath = noise(int(rng.integers(10**8)), HOP * frames + HOP)
        sample = (start + margin) * up * HOP + shift * HOP
        target = cut_padded(example.waveform, sample, (count - 2 * margin) * up * HOP, 0)
        kept, lengths = deduplicate(units)
        at = int(rng.integers(max(len(kept) - count, 0) + 1))
        return [
            padded, runs, voice, style, pitch, source, excitation, breath, target,
            cut_padded(kept.astype(np.int64), at, count, -1),
            np.minimum(cut_padded(lengths.astype(np.int64), at, count, 0), RUN),
        ]  # fmt: skip


def cut_padded(array: np.ndarray, start: int, count: int, filler: int) -> np.ndarray:
    """(count, ...) rows from `start` on; `filler` beyond the ends.

    >>> cut_padded(np.array([1, 2, 3]), -1, 5, 0).tolist()
    [0, 1, 2, 3, 0]
    """
    part = array[max(start, 0) : max(start + count, 0)]
    before = min(max(-start, 0), count)
    return np.pad(part, (before, count - before - len(part)), constant_values=filler)
