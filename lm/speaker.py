"""A vocoder with a voice: token strings to recordings. The bundled one, one in a directory, or a command."""

import contextlib
import copy
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from corpus import files
from corpus.audio import decode, probe
from corpus.records import SAMPLE_RATE, Reject, Utterance
from shards.stream import split
from units.vocoder import load_vocoder
from units.vocoder.vocoder import Vocoder

BUNDLED = "bundled"
"""The name of the vocoder inside the package, where a vocoder is asked for."""
_TOKEN = re.compile(r"\[(Hu|Pi|St)(\d+)\]")


class Speaker:
    """A vocoder and a voice of it. `name` says which vocoder spoke: for results."""

    def __init__(self, vocoder: Any, voice: str | Path | None = None, name: str = BUNDLED):
        self.vocoder = vocoder
        path = Path(voice or "")
        recorded = path.is_file()
        if recorded and not isinstance(vocoder, Vocoder):
            raise ValueError(f"voice {voice}: this vocoder has its own voices only; name one of them")
        self.voice = vocoder.voice_of(read_audio(path), voice) if recorded else vocoder.voice(voice)
        self.named = voice is not None
        self.name = f"{name} ({vocoder.hash[:12]})"

    def like(self, wave: np.ndarray) -> "Speaker":
        """The same vocoder with the voice of a recording, (T,) float32 at 16 kHz.

        It keeps its voice if one was named, if the vocoder has its own voices only, or if there is no voice in it.
        """
        if self.named or not isinstance(self.vocoder, Vocoder):
            return self
        twin = copy.copy(self)
        with contextlib.suppress(ValueError):
            twin.voice = self.vocoder.voice_of(wave)
        return twin

    def pieces(self, tokens: str, frames: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """The waveform of a token string, piece by piece; `frames`: the length of each unit."""
        units, pitch, style = split(tokens)
        if not isinstance(self.vocoder, Vocoder):
            yield from self.vocoder.stream(units, pitch, style, self.voice, frames)
            return
        every = np.asarray(units, np.int64)
        lengths = self.vocoder.run_lengths(every, None if frames is None else np.asarray(frames))
        rate = SAMPLE_RATE / self.vocoder.hop
        tokenizer = self.vocoder.pitch
        if tokenizer is None and pitch is not None:
            raise ValueError("vocoder: its pitch tokenizer is not at hand; leave the pitch tokens out")
        at_pitch = at_rate(tokens, "Pi", lengths, rate / tokenizer.rate) if tokenizer is not None else None
        at_style = at_rate(tokens, "St", lengths, rate)
        yield from self.vocoder.stream_frames(np.repeat(every, lengths), at_pitch, at_style, self.voice)

    def write(self, tokens: str, path: str | Path, *, frames: Sequence[int] | None = None) -> float:
        """Write a WAV, all of it or nothing; its seconds. Memory does not grow with its length.

        Raises:
            ValueError: there is no unit, or one that the vocoder does not know.
        """
        path = Path(path)
        path, pieces = Path(path), self.pieces(tokens, frames)
        first = next(pieces)  # refused before anything is written
        rate = getattr(self.vocoder, "sample_rate", SAMPLE_RATE)
        with files.writing(path) as temporary:
            try:
                with soundfile.SoundFile(temporary, "w", rate, 1, "PCM_16", format="WAV") as file:
                    for piece in itertools.chain([first], pieces):
                        file.write(np.clip(piece, -1, 1))
                    return file.frames / rate
            except soundfile.LibsndfileError as error:
                raise ValueError(f"{path}: cannot be written: {error}") from error


def at_rate(tokens: str, kind: str, lengths: np.ndarray, ratio: float) -> np.ndarray | None:
    """Pitch ("Pi") or style ("St") tokens of a merged stream at their own rate, or None where there are none.

    In the stream a token comes before the first unit that begins with it or after it. With the lengths of units their
    times are known, but for tokens that fell into one unit and were fewer than there is room for: those were repeated,
    and are spread evenly.

    Args:
        lengths: (N,) of the units, in frames.
        ratio: frames from one token to the next.

    >>> at_rate("[Pi1][Hu5][Pi2][Pi3][Hu6]", "Pi", np.array([4, 2]), 2.0).tolist()
    [1, 2, 3]
    """
    starts = np.concatenate([[-1], np.cumsum(lengths) - lengths, [int(lengths.sum()) - 1]])
    slots = np.ceil(np.arange(math.ceil(lengths.sum() / ratio)) * ratio)
    edges = np.searchsorted(slots, starts, side="right")  # slots in (start of a unit, start of the next one]
    gaps: list[list[int]] = [[]]
    for name, value in _TOKEN.findall(tokens):
        if name == kind:
            gaps[-1].append(int(value))
        elif name == "Hu":
            gaps.append([])
    if not any(gaps):
        return None
    values, current = [], next(gap[0] for gap in gaps if gap)
    for gap, first, last in zip(gaps, edges[:-1], edges[1:], strict=True):
        room, choices = int(last - first), [current, *gap]
        values += [choices[(i + 1) * len(choices) // (room + 1)] for i in range(room)]
        current = choices[-1]
    return np.array(values)


def wav_bytes(wave: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """(T,) float32 -> a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(wave, -1, 1), rate, subtype="PCM_16", format="WAV")
    return file.getvalue()


def open_speaker(
    vocoder: str | None,
    voice: str | Path | None = None,
    *,
    pitch_tokenizer: Any = None,
    **identity: str | None,
) -> Speaker | str | None:
    """What `--vocoder` names: "bundled", a directory, or a command, which is returned as it is; None stays None.

    Args:
        pitch_tokenizer: of the pitch tokens; default: the bundled one.
        identity: `encoder`, `codebook`, `pitch`, `style`: hashes of what the tokens come from.

    Raises:
        ValueError: it cannot be loaded, has no such voice, or was made for other tokens.
    """
    if vocoder is None or not (vocoder == BUNDLED or Path(vocoder).is_dir()):
        if vocoder is not None and voice is not None:
            raise ValueError(f"voice {voice}: a vocoder that is a command has its own; leave it out")
        return vocoder
    opened = load_vocoder(None if vocoder == BUNDLED else vocoder, pitch=pitch_tokenizer)
    opened.check(**identity)
    return Speaker(opened, voice, BUNDLED if vocoder == BUNDLED else Path(vocoder).name)


def name_of(vocoder: Speaker | str | None) -> str | None:
    """Which vocoder speaks."""
    return vocoder.name if isinstance(vocoder, Speaker) else vocoder


def read_audio(path: Path) -> np.ndarray:
    """Samples of a recording, (T,) float32 at 16 kHz."""
    try:
        header = probe(path)
        return decode(Utterance(path.stem, str(path), header.frames, header.sample_rate))
    except Reject as reject:
        raise ValueError(f"{path}: {reject.reason}: {reject.detail}") from reject
