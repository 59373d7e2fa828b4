"""Programs that a user names: one that speaks speech tokens, one that writes down a recording.

Neither is shipped. A vocoder is a command that is called with the path of the WAV to write and gets JSON on stdin:
{"tokens": "[Pi1][Hu3]...", "units": [3, ...], "pitch": [1, ...], "style": []}, pitch and style one for every unit where
there are any; to speak a recording again also "frames", how long each unit was, and "hop", the samples of a frame. A
recogniser is a command that is called with the path of a WAV and prints its transcript.
"""

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from corpus.audio import probe
from corpus.records import Reject
from shards.stream import split

SECONDS = 600.0
"""A program that takes longer has failed."""


def speak(
    command: str, tokens: str, path: Path, *, frames: Sequence[int] | None = None, hop: int | None = None
) -> Path:
    """Let a vocoder speak a token string into a WAV at `path`.

    Args:
        frames, hop: how long each unit is to be, in frames of so many samples at 16 kHz; None: as the vocoder likes.

    Raises:
        ValueError: the program is not there, fails, or leaves no readable recording.
    """
    units, pitch, style = split(tokens)
    said: dict[str, object] = {"tokens": tokens, "units": units, "pitch": pitch or [], "style": style or []}
    if frames is not None:
        said |= {"frames": list(frames), "hop": hop}
    path.unlink(missing_ok=True)
    _run("vocoder", command, path, json.dumps(said))
    try:
        probe(path)
    except Reject as reject:
        raise ValueError(f"vocoder: {command}: left no usable recording ({reject.detail})") from reject
    return path


def write_down(command: str, path: Path) -> str:
    """Let a recogniser write down a recording.

    Raises:
        ValueError: the program is not there or fails.
    """
    return " ".join(_run("recogniser", command, path, "").split())


def _run(what: str, command: str, path: Path, given: str) -> str:
    words = shlex.split(command)
    if not words:
        raise ValueError(f"{what}: need a command, got {command!r}")
    try:
        done = subprocess.run(
            [*words, str(path)], input=given, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{what}: {command}: cannot be run ({error})") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{what}: {command}: exit code {done.returncode} ({last})")
    return done.stdout
