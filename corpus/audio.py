"""Audio files: what their header says, and their samples as mono float32 at 16 kHz."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soundfile

from corpus import files
from corpus.records import SAMPLE_RATE, Reject, Utterance

if TYPE_CHECKING:
    from torchaudio.transforms import Resample

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz
LARGEST_KERNEL = (
    1 << 24
)  # taps; a rate that shares no divisor with 16000, say 44101 Hz, needs gigabytes of them
SAMPLES_PER_READ = 1 << 22  # a header may claim any length: memory follows what is really there
NO_LENGTH = 1 << 50  # frames; libsndfile answers about 2**63 where a header does not say


class Header(NamedTuple):
    """What an audio file says of itself, without decoding it."""

    frames: int
    sample_rate: int  # Hz
    channels: int
    bytes: int  # size of the file
    bytes_missing: int = 0  # what the data chunk of a WAV promises beyond the end of the file


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of an audio file and report a WAV that breaks off as `bytes_missing`.

    A FLAC, Ogg or MP3 that breaks off is found by `decode`: their headers do not say how many bytes follow.

    Raises:
        Reject: audio.missing, audio.unreadable, audio.empty.
    """
    with _opened(path) as (file, size):
        missing = wav_bytes_missing(file, size)
        file.seek(0)
        with _sound(path, file) as sound:
            header = Header(sound.frames, sound.samplerate, sound.channels, size, missing)
    if header.frames == 0 and not missing:
        raise Reject("audio.empty", f"{path}: the header says 0 frames, the file has {size} bytes")
    if header.frames >= NO_LENGTH:
        raise Reject("audio.unreadable", f"{path}: the header does not say how long it is; encode it again")
    check_rate(path, header.sample_rate)
    return header


def probe(path: str | os.PathLike[str]) -> Header:
    """Read the header of an audio file, and refuse one that breaks off.

    Raises:
        Reject: audio.missing, audio.unreadable, audio.empty, audio.truncated.
    """
    header = read_header(path)
    if header.bytes_missing:
        raise Reject("audio.truncated", f"{path}: {header.bytes_missing} bytes of its data chunk are missing")
    return header


def decode(utterance: Utterance) -> np.ndarray:
    """Decode one utterance: average the channels, resample to 16 kHz.

    Nothing outside the utterance's own frames has an influence: a stretch of a long recording sounds as if it
    were a file of its own.

    Returns:
        (utterance.samples,) float32, finite; the same bytes with any number of threads.

    Raises:
        Reject: audio.missing, audio.unreadable, audio.empty, audio.truncated, audio.not_finite.
    """
    path, rate = utterance.audio, utterance.sample_rate
    with _opened(path) as (file, size), _sound(path, file) as sound:
        if sound.samplerate != rate:
            raise Reject(
                "audio.unreadable", f"{path}: {sound.samplerate} Hz, but its manifest row says {rate} Hz"
            )
        check_rate(path, rate)
        if sound.frames < utterance.first_frame + utterance.frames:
            raise Reject(
                "audio.truncated", f"{path}: {sound.frames} frames, fewer than its manifest row says"
            )
        try:
            if utterance.first_frame:
                sound.seek(utterance.first_frame)
            waveform = _read_mono(sound, utterance.frames)
        except soundfile.LibsndfileError as error:
            # a decoder that fails with the whole file taken in wanted more of it
            at = file.tell() if isinstance(file, Remote) else os.lseek(file.fileno(), 0, os.SEEK_CUR)
            ended = at >= size
            reason = "audio.truncated" if ended else "audio.unreadable"
            raise Reject(reason, f"{path}: {error.error_string or 'broken audio data'}") from error
    if len(waveform) < utterance.frames:
        raise Reject(
            "audio.truncated", f"{path}: {len(waveform)} of {utterance.frames} frames could be decoded"
        )
    if rate != SAMPLE_RATE:
        waveform = _resample(waveform, rate, utterance.samples)
    if not np.isfinite(waveform).all():
        raise Reject("audio.not_finite", f"{path}: NaN or infinite samples")
    return waveform


def wav_bytes_missing(file: Any, size: int) -> int:
    """Count the bytes that the data chunk of a RIFF WAV promises beyond the end of the file.

    libsndfile reads such a file as if it were shorter and says nothing. 0 for every other format, and for the
    lengths that programs write when they stream and cannot know better (0, and 0x7FFFF000 or more).
    """
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX") or head[8:] != b"WAVE":
        return 0
    position = 12
    for _ in range(1000):  # chunks; real files have a handful
        file.seek(position)
        chunk = file.read(8)
        length = int.from_bytes(chunk[4:], "little" if head[:4] == b"RIFF" else "big")
        if chunk[:4] == b"data":
            return 0 if length >= 0x7FFFF000 else max(0, position + 8 + length - size)
        position += 8 + length + length % 2
        if position >= size:
            break
    return 0


def check_rate(path: str | os.PathLike[str], rate: int) -> None:
    """Refuse a sample rate (Hz) that cannot be brought to 16 kHz in reasonable memory."""
    common = math.gcd(rate, SAMPLE_RATE)
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or rate * SAMPLE_RATE // common**2 > LARGEST_KERNEL:
        raise Reject(
            "audio.unreadable", f"{path}: cannot resample from {rate} Hz; bring it to 16000 Hz first"
        )


class Remote:
    """A file behind a URL for libsndfile, whose callbacks cannot raise: an error is kept and raised afterwards.

    Else a network that fails would pass for a recording that breaks off.
    """

    def __init__(self, file: Any):
        self._file = file
        self.error: Exception | None = None

    def read(self, count: int = -1) -> bytes:
        """Bytes from here on; none after an error."""
        try:
            return self._file.read(count)
        except Exception as error:  # each store has its own
            self.error = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The place in the file."""
        return self._file.tell()


@contextmanager
def _fetched(path: str) -> Iterator[tuple[Remote, int]]:
    """Open a file behind a URL that is there and not empty; what is wrong with the store is no reject."""
    found: Any = files.to_path(path)
    try:
        file = found.fs.open(found.path, "rb", block_size=1 << 20)
    except FileNotFoundError as error:
        raise Reject("audio.missing", f"{path}: no such file") from error
    with file:
        if not file.size:
            raise Reject("audio.empty", f"{path}: 0 bytes")
        remote = Remote(file)
        try:
            yield remote, file.size
        finally:
            if remote.error is not None:
                raise ValueError(f"{path}: cannot be read: {files.one_line(remote.error)}") from remote.error


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, int]]:
    """Open a file that is there, readable and not empty, or say which of these it is not."""
    if files.is_url(path):
        with _fetched(str(path)) as opened:
            yield opened
        return
    if not os.path.isfile(path):  # also refuses folders and pipes; a pipe would block
        raise Reject("audio.missing", f"{path}: {'a folder' if os.path.isdir(path) else 'no such file'}")
    try:
        # unbuffered: libsndfile shares the file position
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise Reject("audio.unreadable", f"{path}: {error.strerror}") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise Reject("audio.empty", f"{path}: 0 bytes")
        yield file, size


@contextmanager
def _sound(path: str | os.PathLike[str], file: Any) -> Iterator[soundfile.SoundFile]:
    """Open the sound in a file; by its descriptor, so that no file name makes soundfile guess a format."""
    try:
        sound = soundfile.SoundFile(file if isinstance(file, Remote) else file.fileno(), closefd=False)
    except soundfile.LibsndfileError as error:
        raise Reject("audio.unreadable", f"{path}: {error.error_string}") from error
    with sound:
        yield sound


def _read_mono(sound: soundfile.SoundFile, frames: int) -> np.ndarray:
    """Read up to `frames` frames, average the channels: (T,) float32, shorter where the file ends early."""
    blocks = []
    while frames > 0:
        block = sound.read(min(frames, SAMPLES_PER_READ // sound.channels), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        frames -= len(block)
        with np.errstate(all="ignore"):  # not finite is found at the end
            blocks.append(
                block[:, 0]
                if sound.channels == 1
                else block.mean(axis=1, dtype=np.float64).astype(np.float32)
            )
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


@lru_cache(maxsize=16)
def _resampler(rate: int) -> "Resample":
    from torchaudio.transforms import Resample

    return Resample(
        rate, SAMPLE_RATE, lowpass_filter_width=64
    )  # 8.5 kHz at 44.1 kHz: -75 dB; with 6 only -11 dB


def _resample(waveform: np.ndarray, rate: int, samples: int) -> np.ndarray:
    import torch

    # torchaudio computes the length it returns in float32, too short for some waveforms: give it the silence
    # that it assumes after the end, and cut off what that adds.
    padded = np.pad(waveform, (0, rate // 50))
    with torch.inference_mode():
        return _resampler(rate)(torch.from_numpy(padded)).numpy()[:samples].copy()
