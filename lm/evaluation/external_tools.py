"""A vocoder, and a speech recogniser that a user names.

A vocoder is a `lm.speaker.Speaker` (the bundled vocoder, or one in a directory) or a command that is called with the
path of the WAV to write and gets JSON on stdin: {"tokens": "[Pi1][Hu3]...", "units": [3, ...], "pitch": [1, ...],
"style": []}, with one pitch and style value per unit where there are any; to resynthesise a recording also "frames",
the length of each unit, and "hop", the samples of a frame. A recogniser is a command that is called with the path of a
WAV and prints its transcript.
"""

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from corpus.audio import probe
from corpus.records import Reject
from lm.speaker import Speaker
from shards.stream import split

SECONDS = 600.0
"""Time limit of one call."""


def vocode(
    vocoder: Speaker | str,
    tokens: str,
    path: Path,
    *,
    frames: Sequence[int] | None = None,
    hop: int | None = None,
) -> Path:
    """Synthesise a token string into a WAV at `path` with a vocoder.

    Args:
        frames, hop: length of each unit, in frames of `hop` samples at 16 kHz; None: as the vocoder chooses.

    Raises:
        ValueError: the program is missing, fails, or writes no readable recording; or the vocoder refuses a token.
    """
    if isinstance(vocoder, Speaker):
        vocoder.write(tokens, path, frames=frames)
        return path
    units, pitch, style = split(tokens)
    request: dict[str, object] = {
        "tokens": tokens,
        "units": units,
        "pitch": pitch or [],
        "style": style or [],
    }
    if frames is not None:
        request |= {"frames": list(frames), "hop": hop}
    path.unlink(missing_ok=True)
    _run("vocoder", vocoder, path, json.dumps(request))
    try:
        probe(path)
    except Reject as reject:
        raise ValueError(f"vocoder: {vocoder}: wrote no usable recording ({reject.detail})") from reject
    return path


def transcribe(command: str, path: Path) -> str:
    """A recogniser's transcript of a recording.

    Raises:
        ValueError: the program is missing or fails.
    """
    return " ".join(_run("recogniser", command, path, "").split())


def _run(kind: str, command: str, path: Path, stdin: str) -> str:
    arguments = shlex.split(command)
    if not arguments:
        raise ValueError(f"{kind}: need a command, got {command!r}")
    try:
        done = subprocess.run(
            [*arguments, str(path)], input=stdin, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{kind}: {command}: cannot be run ({error})") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{kind}: {command}: exit code {done.returncode} ({last})")
    return done.stdout
