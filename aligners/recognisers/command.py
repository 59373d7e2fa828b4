"""Speech to text by a command.

It is called with the path of a WAV as its last argument, and prints the transcript, or {"text": "...", "words":
[{"text": "...", "confidence": 0.9}]}; or, with {list} in its arguments, with a file that lists several, and prints
such an object in a line for each.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import wave as wave_file
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aligners.recognisers.transcript import RecognisedWord, Recording, Transcript, batched
from corpus import files
from corpus.records import SAMPLE_RATE, Reject

OUTPUT = 1 << 16  # bytes of a command's output; it is ended beyond
LIST = "{list}"
"""In a command: the path of a file with the path of a WAV in each line."""
CALL = 16  # recordings in such a file, unless it is set


@dataclass(frozen=True)
class CommandRecogniser:
    """A program, called once for each recording or for several; a call that takes too long is ended, with all that it
    started.

    A call for several that fails is repeated with each half of them, so that a recording has the result that it has
    alone.
    """

    command: str
    timeout: float = 120.0  # seconds of a call
    batch: int = CALL  # recordings in a list, all of one language

    def __post_init__(self) -> None:
        try:
            program = shlex.split(self.command)[0]
        except (ValueError, IndexError) as error:
            raise ValueError(f"transcribe: need a command, got {self.command!r}") from error
        if shutil.which(program) is None:
            raise ValueError(f"transcribe: no program {program!r}, in the command {self.command!r}")

    @property
    def identity(self) -> str:
        """The command, and the size and content of the files that it names."""
        digest = hashlib.sha256(self.command.encode())
        for argument in shlex.split(self.command):
            path = Path(argument)
            if path.is_file():
                digest.update(path.read_bytes())
        return f"command-{digest.hexdigest()[:16]}"

    def transcribe(self, recordings: Sequence[Recording]) -> list[Transcript | Reject]:
        """One result for each recording, in order; one that the command cannot transcribe is a Reject."""
        results: dict[int, Transcript | Reject] = {}
        order = sorted(range(len(recordings)), key=lambda at: recordings[at].language or "")
        for _, group in itertools.groupby(order, key=lambda at: recordings[at].language):
            for places in batched(group, self.batch if LIST in self.command else 1):
                found = self._transcribe_list([recordings[at] for at in places])
                results.update(zip(places, found, strict=True))
        return [results[at] for at in range(len(recordings))]

    def _transcribe_list(self, recordings: Sequence[Recording]) -> list[Transcript | Reject]:
        """The results of one call; where it fails, of a call for each half."""
        found = self._call(recordings)
        if not isinstance(found, Reject):
            return found
        if len(recordings) == 1:
            return [found]
        middle = len(recordings) // 2
        return [*self._transcribe_list(recordings[:middle]), *self._transcribe_list(recordings[middle:])]

    def _call(self, recordings: Sequence[Recording]) -> list[Transcript | Reject] | Reject:
        """What one call gives, or why it gives nothing that can be used; the recordings have one language."""
        words, many = shlex.split(self.command), LIST in self.command
        with tempfile.TemporaryDirectory(prefix="wordweave-") as folder:
            names = [f"{number:05d}.wav" for number in range(len(recordings))] if many else ["recording.wav"]
            paths = [f"{folder}/{name}" for name in names]
            for path, recording in zip(paths, recordings, strict=True):
                write_wav(Path(path), recording.waveform)
            if many:
                listing = Path(folder) / "list.txt"
                listing.write_text("".join(f"{path}\n" for path in paths))
                words = [word.replace(LIST, str(listing)) for word in words]
            else:
                words += paths
            output = self._output(words, recordings[0].language, OUTPUT * len(recordings))
        if isinstance(output, Reject):  # the name of the folder is another one each time
            return Reject(output.reason, output.detail.replace(f"{folder}/", ""))
        return parse_answers(output, paths, self.command) if many else [parse_output(output, self.command)]

    def _output(self, words: Sequence[str], language: str | None, most: int) -> bytes | Reject:
        """What the program prints, at most `most` bytes, or why it is not used."""
        environment = {**os.environ, "WORDWEAVE_LANGUAGE": language or ""}
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                return Reject("transcribe.failed", f"{self.command}: {error.strerror}")
            output, reject = read_output(process, self.command, self.timeout, most)
            if reject is None and process.returncode:
                errors.seek(0)
                last = errors.read(OUTPUT).decode(errors="replace").strip().splitlines()[-1:] or [
                    "no message"
                ]
                reason = f"exit code {process.returncode} ({last[0][:200]})"
                reject = Reject("transcribe.failed", f"{self.command}: {reason}")
        return reject or output


def write_wav(path: Path, waveform: np.ndarray) -> None:
    """Write (T,) float32 at 16 kHz as 16 bits."""
    with wave_file.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())


def read_output(
    process: subprocess.Popen, command: str, timeout: float, most: int = OUTPUT
) -> tuple[bytes, Reject | None]:
    """What a program prints before it ends; one that takes too long or prints too much is ended, and named."""
    import selectors
    import time

    assert process.stdout is not None
    output, deadline = b"", time.monotonic() + timeout
    reject = None
    with selectors.DefaultSelector() as selector, process.stdout as pipe:
        selector.register(pipe, selectors.EVENT_READ)
        while reject is None:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                reject = Reject("transcribe.timeout", f"{command}: took longer than {timeout:g} s")
                break
            piece = os.read(pipe.fileno(), OUTPUT)
            if not piece:
                break
            output += piece
            if len(output) > most:
                reject = Reject("transcribe.failed", f"{command}: printed more than {most} bytes")
        if reject is None:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                reject = Reject("transcribe.timeout", f"{command}: took longer than {timeout:g} s")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever it started, too
        process.wait()
    return output, reject


NEED = '{"text": "...", "words": [{"text": "...", "confidence": 0.9}]}'


def parse_output(output: bytes, command: str) -> Transcript | Reject:
    """A transcript from what a command prints, in UTF-8: text, or a JSON object.

    >>> parse_output(b'{"words": [{"text": "hi", "confidence": 0.5}, {"text": "you"}]}', "x").confidence
    0.5
    """
    try:
        text = output.decode()
    except UnicodeDecodeError as error:
        return Reject("transcribe.failed", f"{command}: need UTF-8: {error}")
    if text.lstrip().startswith("{"):
        return parse_object(text, command, f"text, or {NEED}")
    return Transcript(tuple(RecognisedWord(word, None) for word in text.split()))


def parse_object(text: str, command: str, need: str = NEED) -> Transcript | Reject:
    """A transcript from a JSON object; `need` is named where it is none."""
    try:
        record = json.loads(text)
        words = [{"text": record["text"]}] if record.get("words") is None else record["words"]
        return Transcript(tuple(word for one in words for word in recognised_words(**one)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"need {need}, got {text.strip()[:100]!r} ({files.one_line(error)})"
        return Reject("transcribe.failed", f"{command}: {reason}")


def recognised_words(text: str, confidence: float | None = None, **_: Any) -> Iterator[RecognisedWord]:
    """The words of a text, which have one confidence.

    Raises:
        ValueError: the text is none that UTF-8 can hold, or the confidence none.
    """
    if not isinstance(text, str):
        raise ValueError(f"text: need a string, got {text!r}")
    text.encode()
    if confidence is not None and not 0 <= float(confidence) <= 1:
        raise ValueError(f"confidence: need 0 to 1, got {confidence}")
    for word in text.split():
        yield RecognisedWord(word, None if confidence is None else float(confidence))


def parse_answers(output: bytes, paths: Sequence[str], command: str) -> list[Transcript | Reject] | Reject:
    """The transcripts of a list, from a JSON object in each line: in order, or each with the "id" of its recording.

    An id is the path as listed, or the name of the file without its ending.

    >>> answers = b'{"id": "1", "text": "you"}\\n{"id": "0", "text": "hi"}\\n'
    >>> [one.text for one in parse_answers(answers, ["/tmp/0.wav", "/tmp/1.wav"], "x")]
    ['hi', 'you']
    """
    try:
        lines = [line for line in output.decode().split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        return Reject("transcribe.failed", f"{command}: need UTF-8: {error}")
    places = {name: place for place, path in enumerate(paths) for name in (path, Path(path).stem)}
    named: dict[int, str] = {}
    for line in lines:
        try:
            id = json.loads(line).get("id")
            place = len(named) if id is None else places[id]
        except KeyError:
            return Reject("transcribe.failed", f"{command}: need an id of the list, got {id!r}"[:300])
        except (ValueError, TypeError, AttributeError, RecursionError):
            reason = f"need a JSON object like {NEED} in each line, got {line[:100]!r}"
            return Reject("transcribe.failed", f"{command}: {reason}")
        if place in named:
            return Reject(
                "transcribe.failed", f"{command}: need one line for each recording, got two for {id!r}"
            )
        named[place] = line
    if len(lines) != len(paths):
        need = f"need a line for each recording of the list, {len(paths)}, got {len(lines)}"
        return Reject("transcribe.failed", f"{command}: {need}")
    return [parse_object(named[place], command) for place in range(len(paths))]
