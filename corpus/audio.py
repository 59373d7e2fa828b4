"""Audio files: how much sound they really hold, and their samples as mono float32 at 16 kHz."""

import ctypes
import errno
import io
import math
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soundfile

from corpus import files, mpeg
from corpus.containers import (
    Extent,
    LocalSource,
    RemoteSource,
    Source,
    extent,
    granule_before_end,
    skip_id3,
    streams,
)
from corpus.embedded import container_of, container_stamp, open_embedded
from corpus.records import SAMPLE_RATE, Reject, Unusable, Utterance

if TYPE_CHECKING:
    from torchaudio.transforms import Resample

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz
LARGEST_KERNEL = (
    1 << 24
)  # taps; a rate that shares no divisor with 16000, say 44101 Hz, would need gigabytes of them
SAMPLES_PER_READ = 1 << 22  # a header may claim any length: memory follows what is really there
NO_LENGTH = 1 << 50  # frames; libsndfile answers about 2**63 where a header does not say
HARMLESS = 0.06  # seconds by which declared and real length may differ: padding, an encoder's delay, rounding
FEWEST_FRAMES = 8  # MPEG frames in a row, for them not to be found in other data by chance
SEQUENTIAL = 2.0  # seconds that are decoded and dropped rather than sought

EXACT_SEEK = (
    *(
        "PCM_S8",
        "PCM_U8",
        "PCM_16",
        "PCM_24",
        "PCM_32",
        "FLOAT",
        "DOUBLE",
        "ULAW",
        "ALAW",
        "IMA_ADPCM",
        "MS_ADPCM",
    ),
    *("ALAC_16", "ALAC_20", "ALAC_24", "ALAC_32"),
)
"""Encodings in which libsndfile finds any sample with the value it has in the whole decode (tested). Opus, GSM 6.10,
G.721 and their like depend on all that came before: they are decoded from the start."""
LINEAR = {
    **{"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4},
    **{"FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1},
}
"""Encodings with the same number of bytes for every sample, and that number."""
DECLARED = re.compile(r"declared=(\d+)@(\d+)\b")
"""Matches the start of a `declared_stamp`."""
LISTED_SIZE = re.compile(r"(\d+)-")
"""Matches the bytes of a file in the stamp of its manifest row."""
LOSSLESS = ("FLAC", "WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "CAF", "SVX")


class Header(NamedTuple):
    """What an audio file holds, without decoding it."""

    frames: int
    sample_rate: int  # Hz
    channels: int
    bytes: int  # size of the file
    stamp: str = ""  # size and modification time, or a store's own mark: changes when the file does
    lossy: bool = False
    problem: Reject | None = None  # declared and real length differ by more than `HARMLESS`


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of an audio file and compare the length it declares with the bytes and frames that are there.

    `frames` is what is there. A difference that is not harmless is reported as `problem`.

    Raises:
        Reject: audio.missing, audio.unreadable, audio.empty.
    """
    recording = _open(path, whole=False)
    try:
        header = Header(
            recording.frames, recording.sample_rate, recording.channels, recording.source.size, recording.stamp,
            recording.lossy, recording.problem(),
        )  # fmt: skip
    finally:
        recording.close()
    if header.frames == 0 and not header.problem:
        raise Reject(
            "audio.empty", f"{path}: the header declares 0 frames, the file has {header.bytes} bytes"
        )
    if header.frames >= NO_LENGTH:
        raise Reject("audio.unreadable", f"{path}: the header does not declare its length; encode it again")
    return header


def probe(path: str | os.PathLike[str]) -> Header:
    """Read the header of an audio file, and refuse one whose length is not what it declares.

    Raises:
        Reject: audio.missing, audio.unreadable, audio.empty, audio.truncated, audio.length_mismatch.
    """
    header = read_header(path)
    if header.problem:
        raise header.problem
    return header


def decode(utterance: Utterance) -> np.ndarray:
    """Decode one utterance: average the channels or take the one it names, resample to 16 kHz.

    The samples are those of the same stretch of the whole recording, decoded. Nothing outside the utterance's own
    frames has an influence on the resampling.

    Returns:
        (utterance.samples,) float32, finite; the same bytes with any number of threads.

    Raises:
        Reject: audio.missing, audio.unreadable, audio.empty, audio.truncated, audio.not_finite.
    """
    with closing(Decoder()) as decoder:
        return decoder.decode(utterance)


class Decoder:
    """Decodes utterances one by one; of a recording's neighbouring stretches, in order, each sample once.

    It keeps the last recording open. For one thread.
    """

    def __init__(self) -> None:
        self._recording: _Sound | _Frames | None = None

    def decode(self, utterance: Utterance) -> np.ndarray:
        """As `corpus.audio.decode`."""
        if self._recording is None or self._recording.path != utterance.audio:
            self.close()
            self._recording = _open(utterance.audio, whole=True)
            problem = self._recording.problem(whole=True)
            if problem is not None:
                self.close()
                raise problem
        try:
            return _decode(self._recording, utterance)
        except BaseException:  # the position in the recording is not known any more
            self.close()
            raise

    def close(self) -> None:
        """Close the recording that is open."""
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.close()


def channels_differ(path: str | os.PathLike[str]) -> bool:
    """Whether two channels of a recording are different signals, say two speakers, and not one in two loudnesses.

    Up to four seconds around its middle are compared: the channels differ where their correlation is below 0.7.
    """
    with closing(_open(path, whole=True)) as recording:
        length = min(recording.frames, 4 * recording.sample_rate)
        block = recording.read((recording.frames - length) // 2, length).astype(np.float64)
    block -= block.mean(axis=0)
    energy = np.sqrt((block**2).sum(axis=0))
    if not (energy > 1e-4 * energy.max(initial=0.0)).all() or not energy.all():
        return bool(energy.any())  # speech on one channel, silence on another
    correlation = (block / energy).T @ (block / energy)
    return bool(np.abs(correlation).min() < 0.7)


def check_rate(path: str | os.PathLike[str], rate: int) -> None:
    """Refuse a sample rate (Hz) that no recording of speech has."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise Reject("audio.unreadable", f"{path}: need {LOWEST_RATE} to {HIGHEST_RATE} Hz, got {rate} Hz")


class Remote:
    """A file behind a URL for libsndfile, whose callbacks cannot raise: an error is kept and raised afterwards.

    Else a network that fails would pass for a recording that breaks off.
    """

    def __init__(self, path: str, file: Any):
        self.path, self._file = path, file
        self.error: Exception | None = None

    def read(self, count: int = -1) -> bytes:
        """Bytes from here on; none after an error."""
        try:
            position = self._file.tell()
            return files.with_retries(lambda: self._read_at(position, count))
        except Exception as error:  # each store has its own
            self.error = error
            return b""

    def _read_at(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        return self._file.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position in the file."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file.

        Raises:
            ValueError: it could not be read.
        """
        self._file.close()
        if self.error is not None:
            raise ValueError(f"{self.path}: cannot be read: {files.one_line(self.error)}") from self.error


class _Sound:
    """A recording that libsndfile reads: any stretch of it, with the samples of the whole decode."""

    def __init__(
        self, path: str, sound: soundfile.SoundFile, found: Extent, file: Any, source: Source, stamp: str
    ):
        self.path, self.source, self.stamp = path, source, stamp
        self.frames, self.sample_rate, self.channels = sound.frames, sound.samplerate, sound.channels
        kind, self._encoding = sound.format, sound.subtype
        self.lossy = kind not in LOSSLESS
        self._sound, self._file = sound, file
        self._extent = found
        if found.declared is not None and self._encoding in LINEAR and kind != "FLAC":
            each = LINEAR[self._encoding] * sound.channels
            # libsndfile reads some formats to the end of the file
            self.frames = min(self.frames, found.declared // each)
        if found.held is not None:
            self.frames = found.held
        self._position = 0

    def read(self, first: int, count: int) -> np.ndarray:
        """Frames [first, first + count), fewer where the file ends: (T, C) float32.

        Raises:
            Reject: audio.truncated or audio.unreadable, where the decoder fails.
        """
        try:
            if first != self._position:
                self._move(first)
            block = _read(self._sound, count)
        except soundfile.LibsndfileError as error:
            # a decoder that fails with the whole file read needed more of it
            remote = isinstance(self._file, Remote)
            at = self._file.tell() if remote else os.lseek(self._file.fileno(), 0, os.SEEK_CUR)
            reason = "audio.truncated" if at >= self.source.size else "audio.unreadable"
            raise Reject(reason, f"{self.path}: {error.error_string or 'broken audio data'}") from error
        self._position = first + len(block)
        return block

    def close(self) -> None:
        """Close the file."""
        self._sound.close()
        self._file.close()

    def _move(self, first: int) -> None:
        """Make `first` the next frame that is read."""
        if self._encoding in EXACT_SEEK and self._sound.seekable():
            self._sound.seek(first)
            return
        vorbis, ahead = self._encoding == "VORBIS", first - self._position
        if ahead < 0 or (vorbis and ahead > SEQUENTIAL * self.sample_rate and self._position):
            self._sound.close()
            self._sound = _sound(self.path, self._file)
            self._position, ahead = 0, first
        if (
            vorbis and not self._position
        ):  # once it was read, or near its end, libsndfile seeks to wrong samples
            start = min(first, granule_before_end(self.source))
            ahead = first - (self._sound.seek(start) if start else 0)
        while ahead > 0:
            ahead -= len(_read(self._sound, min(ahead, SAMPLES_PER_READ // self.channels))) or ahead

    def problem(self, whole: bool = False) -> Reject | None:
        """Where the length that the header declares is not what the file holds: that, with both lengths.

        Args:
            whole: look through the whole file, not at its header and its end alone.
        """
        extent = (streams(self.source, skip_id3(self.source)) if whole else None) or self._extent
        seconds = self.frames / self.sample_rate
        if extent.broken:
            return Reject("audio.truncated", f"{self.path}: {seconds:.3f} s are there, but {extent.broken}")
        if extent.second:
            after = f"a second stream starts at byte {extent.second} of {self.source.size}"
            return Reject("audio.length_mismatch", f"{self.path}: declares {seconds:.3f} s, but {after}")
        missing, size = extent.missing(self.source.size), self.source.size
        present = min(size - extent.start, size if extent.declared is None else extent.declared)
        each = seconds / max(1, present)  # seconds per byte
        if not self.frames and self._encoding in LINEAR:
            each = 1 / (LINEAR[self._encoding] * self.channels * self.sample_rate)
        if missing and (missing * each > HARMLESS or not self.frames):
            return Reject(
                "audio.truncated",
                f"{self.path}: declares {seconds + missing * each:.3f} s, holds {seconds:.3f} s: "
                f"{missing} bytes are missing",
            )
        if extent.unclaimed and (extent.unclaimed * each > HARMLESS or not self.frames):
            return Reject(
                "audio.length_mismatch",
                f"{self.path}: declares {seconds:.3f} s, holds {seconds + extent.unclaimed * each:.3f} s: "
                f"{extent.unclaimed} bytes follow that its header does not count",
            )
        exact = self._encoding in EXACT_SEEK and "ADPCM" not in self._encoding
        declared = extent.frames if extent.frames is not None and exact else self.frames
        if abs(declared - self.frames) > HARMLESS * self.sample_rate:
            return Reject(
                "audio.truncated"
                if extent.held is not None and declared > self.frames
                else "audio.length_mismatch",
                f"{self.path}: declares {declared / self.sample_rate:.3f} s, holds {seconds:.3f} s",
            )
        return None


class _Frames:
    """A recording of MPEG frames (MP3): any stretch of it, with the samples of the whole decode."""

    lossy = True

    def __init__(self, path: str, stream: mpeg.Stream, file: Any, source: Source, stamp: str):
        self.path, self.source, self.stamp, self._file = path, source, stamp, file
        self.frames, self.sample_rate, self.channels = (
            stream.frames,
            stream.kind.sample_rate,
            stream.kind.channels,
        )
        self._stream = stream
        self._sound: soundfile.SoundFile | None = None
        self._position = 0

    def read(self, first: int, count: int) -> np.ndarray:
        """As `_Sound.read`."""
        with _stderr_of_c_closed():
            try:
                ahead = first - self._position
                if self._sound is None or not 0 <= ahead <= SEQUENTIAL * self.sample_rate:
                    ahead = self._start(first)
                while ahead > 0:
                    ahead -= len(self._block(min(ahead, SAMPLES_PER_READ))) or ahead
                block = self._block(min(count, self.frames - first))
            except soundfile.LibsndfileError as error:
                raise Reject("audio.unreadable", f"{self.path}: {error.error_string}") from error
        self._position = first + len(block)
        return block

    def close(self) -> None:
        """Close the file."""
        if self._sound is not None:
            self._sound.close()
        self._file.close()

    def _start(self, first: int) -> int:
        """Start the decoder before frame `first` of the sound; return the frames that it decodes before it."""
        sample = self._stream.first + first
        start = mpeg.start_frame(self._stream, sample)
        file = mpeg.FrameFile(self.source, self._stream, start)
        self._sound = _Sequential(file, closefd=False)
        return mpeg.samples_before(self._stream, start, sample)

    def _block(self, count: int) -> np.ndarray:
        assert self._sound is not None
        return _read(self._sound, count)

    def problem(self, whole: bool = False) -> Reject | None:
        """As `_Sound.problem`."""
        stream = self._stream
        each = stream.kind.samples / self.sample_rate  # seconds per MPEG frame
        there = f"{stream.found} frames follow each other ({stream.found * each:.3f} s)"
        rest = 0.0  # seconds that the bytes after them could hold
        if stream.unclaimed:
            rest = stream.unclaimed * each * stream.found / (stream.positions[-1] - stream.positions[0])
        if rest > HARMLESS:
            there += f", then {stream.unclaimed} bytes that do not continue them (about {rest:.3f} s)"
        if stream.declared is not None and abs(stream.declared - stream.found) * each > HARMLESS:
            reason = "audio.truncated" if stream.declared > stream.found else "audio.length_mismatch"
            declares = f"its first frame declares {stream.declared} frames ({stream.declared * each:.3f} s)"
            return Reject(
                "audio.length_mismatch" if rest > HARMLESS else reason, f"{self.path}: {declares}, {there}"
            )
        return Reject("audio.length_mismatch", f"{self.path}: {there}") if rest > HARMLESS else None


def declared_stamp(frames: int, sample_rate: int, file: str = "") -> str:
    """The stamp of a recording whose header was not read: what its row declares, and the stamp of its file if known.

    >>> declared_stamp(16000, 8000, "20044-17")
    'declared=16000@8000 20044-17'
    """
    return f"declared={frames}@{sample_rate} {file}".strip()


def _check_declared(recording: "_Sound | _Frames", utterance: Utterance) -> None:
    """Compare a recording with what its manifest row declares, where its header was not read before.

    Raises:
        Reject: audio.truncated, audio.length_mismatch.
    """
    declared = DECLARED.match(utterance.audio_stamp)
    if declared is None:
        return
    frames, rate = int(declared[1]), int(declared[2])
    longer = recording.frames / recording.sample_rate - frames / rate  # seconds
    if recording.sample_rate != rate or abs(longer) > HARMLESS:
        short = recording.sample_rate == rate and longer < 0
        raise Reject(
            "audio.truncated" if short else "audio.length_mismatch",
            f"{utterance.audio}: its manifest row declares {frames} frames at {rate} Hz, "
            f"the file has {recording.frames} at {recording.sample_rate} Hz",
        )


def _decode(recording: "_Sound | _Frames", utterance: Utterance) -> np.ndarray:
    _check_declared(recording, utterance)
    path, rate = utterance.audio, utterance.sample_rate
    if recording.sample_rate != rate:
        raise Reject(
            "audio.unreadable", f"{path}: {recording.sample_rate} Hz, but its manifest row has {rate} Hz"
        )
    if (utterance.channel or 0) >= recording.channels:
        raise Reject(
            "manifest.bad_field",
            f"{path}: channel: need less than {recording.channels}, got {utterance.channel}",
        )
    last = utterance.first_frame + utterance.frames
    if recording.frames < last:
        raise Reject(
            "audio.truncated", f"{path}: {recording.frames} frames, but its manifest row has {last} frames"
        )
    listed = LISTED_SIZE.match(utterance.audio_stamp)
    if listed and int(listed[1]) != recording.source.size and container_of(path) == path:
        raise Reject(
            "audio.length_mismatch",
            f"{path}: {recording.source.size} bytes, {listed[1]} when it was listed; run `wordweave ingest` again",
        )
    blocks, position = [], utterance.first_frame
    while position < last:
        block = recording.read(position, min(last - position, SAMPLES_PER_READ // recording.channels))
        if len(block) == 0:
            done = position - utterance.first_frame
            raise Reject("audio.truncated", f"{path}: {done} of {utterance.frames} frames could be decoded")
        blocks.append(_mono(block, utterance.channel))
        position += len(block)
    waveform = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if rate != SAMPLE_RATE:
        waveform = _resample(waveform, rate, utterance.samples)
    if not np.isfinite(waveform).all():
        raise Reject("audio.not_finite", f"{path}: NaN or infinite samples")
    return waveform


def _open(path: str | os.PathLike[str], *, whole: bool) -> _Sound | _Frames:
    """Open a recording, or say what is wrong with it; `whole`: look at the headers in the whole file, not at a few."""
    name = os.fspath(path)
    embedded = open_embedded(name, whole=whole)
    if embedded is not None:
        if not embedded[1]:
            embedded[0].close()
            raise Reject("audio.empty", f"{path}: 0 bytes")
        file: Any = Remote(name, embedded[0])
        source: Source = RemoteSource(file, embedded[1])
        stamp = container_stamp(container_of(name))
    else:
        file, source, stamp = _fetch(name, whole) if files.is_url(name) else _open_local(name)
    try:
        offset = skip_id3(source)
        search = mpeg.scan if whole else mpeg.glance
        stream = search(source, offset) if mpeg.frame_length(source.at(offset, 4)) else None
        if stream is None:
            where = extent(source, offset)
            try:
                sound = _sound(name, file)
                if where is None:
                    sound.close()
                    raise Reject(
                        "audio.unreadable",
                        f"{path}: whether a file in format {sound.format} is complete cannot be checked; "
                        f"convert it to WAV or FLAC",
                    )
                recording: _Sound | _Frames = _Sound(name, sound, where, file, source, stamp)
            except Reject:
                if where is not None:
                    _check_extent(name, where, source.size)
                    raise
                stream = mpeg.scan(source, offset)  # frames may follow other bytes
                if stream is None or stream.found < FEWEST_FRAMES:
                    raise
        if stream is not None:
            recording = _Frames(name, stream, file, source, stamp)
        check_rate(path, recording.sample_rate)
    except BaseException:
        file.close()
        raise
    return recording


def _check_extent(path: str, extent: Extent, size: int) -> None:
    """Refuse a file that no decoder opens because it does not hold what it declares."""
    missing = extent.missing(size)
    if extent.broken or missing:
        lacks = extent.broken or f"{missing} of {extent.declared} bytes of audio are missing"
        raise Reject("audio.truncated", f"{path}: {lacks}")
    if extent.unclaimed:
        raise Reject(
            "audio.length_mismatch",
            f"{path}: declares {extent.declared} bytes of audio, and {extent.unclaimed} bytes more follow",
        )


def _fetch(path: str, whole: bool) -> tuple[Remote, Source, str]:
    """Open a file behind a URL that is there and not empty; what is wrong with the store is no reject.

    `whole`: it is decoded, and its store reads ahead; else its header is read, by small requests.
    """
    try:
        url: Any = files.to_path(path)
    except Unusable as error:
        if isinstance(error.__cause__, ValueError):  # no store has such addresses; else a package is missing
            raise Reject("audio.unreadable", str(error)) from error
        raise
    try:
        info = files.with_retries(lambda: url.fs.info(url.path))
        size = info.get("size")
        file: Any = None
        if size is None:  # the server does not say, and cannot seek either
            content = files.with_retries(lambda: url.fs.cat_file(url.path))
            file, size = io.BytesIO(content), len(content)
        elif size and not whole:
            file = files.Ranges(url, size)
        elif size:
            file = files.with_retries(lambda: url.fs.open(url.path, "rb", block_size=1 << 20))
    except Exception as error:  # each store has its own
        if files.is_missing(error):
            raise Reject("audio.missing", f"{path}: no such file") from error
        raise ValueError(f"{path}: cannot be read: {files.one_line(error)}") from error
    if not size:
        raise Reject("audio.empty", f"{path}: 0 bytes")
    remote = Remote(path, file)
    return remote, RemoteSource(remote, size), files.stamp_of(info)


def _open_local(path: str) -> tuple[Any, Source, str]:
    """Open a file that is there, readable and not empty, or say which of these it is not."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block
    except ValueError as error:  # a name with a null byte
        raise Reject("audio.missing", f"{path}: no such file") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise Reject("audio.missing", f"{path}: no such file") from error
        raise Reject("audio.unreadable", f"{path}: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise Reject("audio.missing", f"{path}: {what}")
    if status.st_size == 0:
        os.close(descriptor)
        raise Reject("audio.empty", f"{path}: 0 bytes")
    file = io.FileIO(descriptor)  # unbuffered: libsndfile shares the file position
    return file, LocalSource(descriptor, status.st_size), files.local_stamp(status)


def _sound(path: str, file: Any) -> soundfile.SoundFile:
    """Open the sound in a file; by its descriptor, so that no file name makes soundfile guess a format."""
    opened = file if isinstance(file, Remote) else file.fileno()
    file.seek(0)
    try:
        with _stderr_of_c_closed():
            sound = soundfile.SoundFile(opened, closefd=False)
            if sound.frames < NO_LENGTH:
                return sound
            sound.close()  # of an unknown length: libsndfile cannot seek
            file.seek(0)
            return _Sequential(opened, closefd=False)
    except soundfile.LibsndfileError as error:
        raise Reject("audio.unreadable", f"{path}: {error.error_string}") from error


class _Sequential(soundfile.SoundFile):
    """A sound that is read from start to end: soundfile seeks after every read where it can, which changes samples."""

    def seekable(self) -> bool:
        """No."""
        return False


def _read(sound: soundfile.SoundFile, count: int) -> np.ndarray:
    return sound.read(count, dtype="float32", always_2d=True)


def _mono(block: np.ndarray, channel: int | None) -> np.ndarray:
    """(T, C) -> (T,): one channel, or the mean of all."""
    if channel is not None or block.shape[1] == 1:
        return block[:, channel or 0]
    with np.errstate(all="ignore"):  # what is not finite is found at the end
        return block.mean(axis=1, dtype=np.float64).astype(np.float32)


_stderr_lock = threading.Lock()
_stderr_users: list[Any] = []


@contextmanager
def _stderr_of_c_closed() -> Iterator[None]:
    """Drop what C libraries print on stderr: libmpg123 prints about damaged frames, and libsndfile lets it.

    Python's own stderr is not touched. Only glibc lets the stream be replaced; elsewhere nothing is dropped.
    """
    stream, sink = _sink()
    if stream is None:
        yield
        return
    with _stderr_lock:
        if not _stderr_users:
            _stderr_users.append(stream.value)
            stream.value = sink
        _stderr_users.append(None)
    try:
        yield
    finally:
        with _stderr_lock:
            _stderr_users.pop()
            if len(_stderr_users) == 1:
                stream.value = _stderr_users.pop()


@lru_cache(maxsize=1)
def _sink() -> tuple[Any, Any]:
    """The C library's variable `stderr`, and an open stream to nowhere; None, None where it cannot be replaced."""
    try:
        libc = ctypes.CDLL(None)
        stream = ctypes.c_void_p.in_dll(libc, "stderr")
        libc.fopen.restype = ctypes.c_void_p
        return stream, libc.fopen(os.devnull.encode(), b"w")
    except (OSError, TypeError, ValueError):
        return None, None


@lru_cache(maxsize=16)
def _resampler(rate: int) -> "Resample":
    from torchaudio.transforms import Resample

    return Resample(
        rate, SAMPLE_RATE, lowpass_filter_width=64
    )  # 8.5 kHz at 44.1 kHz: -75 dB; with 6 only -11 dB


def _resample(waveform: np.ndarray, rate: int, samples: int) -> np.ndarray:
    # torchaudio computes the length it returns in float32, too short for some waveforms: give it the silence
    # that it assumes after the end, and cut off what that adds.
    padded = np.pad(waveform, (0, rate // 50))
    if rate * SAMPLE_RATE // math.gcd(rate, SAMPLE_RATE) ** 2 > LARGEST_KERNEL:
        import soxr

        return soxr.resample(padded, rate, SAMPLE_RATE, quality="VHQ")[:samples].copy()
    import torch

    with torch.inference_mode():
        return _resampler(rate)(torch.from_numpy(padded)).numpy()[:samples].copy()
