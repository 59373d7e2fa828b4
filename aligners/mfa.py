"""Word times from the Montreal Forced Aligner, as its users have it: on PATH, in a conda environment or in a container.

It runs as a program, in a process group and with a root and temporary folder of its own. It exits with 0 though files
are missing, so that the truth is the set difference; its words are not the words it was given, so that they are matched
back. To install it: `aligners/data/mfa-environment.yaml` (conda) or `aligners/data/mfa.Dockerfile`. `wordweave mfa`
runs its commands for models and dictionaries.

Contract: MFA 3.3 to 3.4 (`align`), from 4.0 on `align_legacy`.
"""

import contextlib
import csv
import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import soundfile

from aligners.alignment import Aligner, AlignerInput, AlignerOutput
from aligners.given import GivenSettings, phones_of, read
from aligners.match import match
from corpus.records import SAMPLE_RATE, Reject

ANALYSIS = (
    *("overall_log_likelihood", "speech_log_likelihood", "phone_duration_deviation"),
    *("max_running_short_interval", "snr", "intensity_deviation"),
)
"""Columns of `alignment_analysis.csv`; 3.3 has not all of them."""

USAGE = 2  # exit status of a wrong command line, which no other choice of utterances cures
FAILURES = 6  # runs that may fail before a part is not divided any more
GRACE = 5.0  # seconds between the request to end and the end: a container must receive it
LOG_BYTES = 20_000  # how much of its output is kept: it may print without end
INSTALL = "try `conda env create -f aligners/data/mfa-environment.yaml` and command='conda run -n mfa mfa'"


@dataclass(frozen=True)
class MfaSettings:
    """Settings of the backend `mfa`.

    command: how to start it, for example "conda run -n mfa mfa". A container must see `scratch` under the same path.
    dictionary, acoustic_model, g2p_model: installed names or paths.
    beam, retry_beam: of the first run; wide_beam, wide_retry_beam: of the run on what the first left out.
    timeout_seconds, timeout_per_second: limit of one run = the first + the second x seconds of audio.
    single_speaker: one speaker for all, which lets one speaker's part use several jobs and turns adaptation off.
    scratch: where corpora and results live for a moment; the system's folder for temporary files by default.
    """

    command: str = "mfa"
    dictionary: str = "english_us_arpa"
    acoustic_model: str = "english_us_arpa"
    g2p_model: str | None = None
    beam: int = 10
    retry_beam: int = 40
    wide_beam: int = 100
    wide_retry_beam: int = 400
    jobs: int = 2
    single_speaker: bool = False
    timeout_seconds: float = 600.0
    timeout_per_second: float = 1.0
    scratch: str | None = None


class Run(NamedTuple):
    """How a program ended: exit status (None: it was stopped after its time), the end of what it printed."""

    status: int | None
    log: str


class Mfa(Aligner):
    """Forced alignment by MFA, a part at a time; see the module."""

    name = "mfa"
    measures = ANALYSIS
    batch_minutes = (
        300.0  # starting takes most of a minute, and speaker adaptation needs a speaker's speech in one batch
    )

    def __init__(self, settings: MfaSettings):
        self.settings = settings
        self.version = find_version(settings.command)

    def align_all(self, items: list[AlignerInput]) -> Sequence[AlignerOutput | Reject]:
        settings = self.settings
        results = self._attempt(items, settings.beam, settings.retry_beam)
        again = [place for place, result in enumerate(results) if is_missing(result)]
        if again:
            wide = self._attempt(
                [items[place] for place in again], settings.wide_beam, settings.wide_retry_beam
            )
            for place, result in zip(again, wide, strict=True):
                results[place] = result
        return results

    def _attempt(self, items: list[AlignerInput], beam: int, retry_beam: int) -> list[AlignerOutput | Reject]:
        """Some utterances with one beam. What a run that failed has not written is tried again in halves.

        So the one utterance that makes MFA hang or crash is found, and costs itself alone; where all fails, a few runs.
        """
        results: list[AlignerOutput | Reject] = [Reject("align.backend_error", "not tried")] * len(items)
        queue, failures = [list(range(len(items)))], 0
        while queue:
            places = queue.pop(0)
            found, ended = self._run([items[place] for place in places], beam, retry_beam)
            for place, result in zip(places, found, strict=True):
                results[place] = result
            left = [place for place in places if is_failure(results[place])]
            if has_failed(ended) and ended.status != USAGE and len(left) > 1 and failures < FAILURES:
                queue += [left[: len(left) // 2], left[len(left) // 2 :]]
                failures += 1
        return results

    def _run(
        self, items: list[AlignerInput], beam: int, retry_beam: int
    ) -> tuple[list[AlignerOutput | Reject], Run]:
        """One run of `mfa align`: one result per utterance, and how it ended."""
        with tempfile.TemporaryDirectory(
            prefix="wordweave-mfa-", dir=self.settings.scratch, ignore_cleanup_errors=True
        ) as name:
            folder = Path(name).resolve()
            for inner in ("corpus", "output", "temporary", "root"):
                (folder / inner).mkdir()
            link_models(folder / "root", os.environ)
            write_corpus(items, folder / "corpus")
            command = align_command(self.settings, self.version, folder, beam, retry_beam)
            seconds = sum(item.seconds for item in items)
            limit = self.settings.timeout_seconds + self.settings.timeout_per_second * seconds
            ended = run(command, limit, own_environment(folder / "root", os.environ), folder / "root")
            written = {
                path.stem.removesuffix("_aligned"): path
                for path in sorted((folder / "output").rglob("u*.json"))
            }
            quality = read_analysis(folder / "output" / "alignment_analysis.csv")
            missing = why_missing(ended, folder / "output" / "output_errors.txt")
            return [
                collect(item, written[stem], quality.get(stem, {})) if stem in written else missing
                for stem, item in ((stem_of(place), item) for place, item in enumerate(items))
            ], ended


def own_environment(root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with a root of its own: configuration, history and database in it are shared and mutable."""
    return {name: value for name, value in environment.items() if name != "MFA_PROFILE"} | {
        "MFA_ROOT_DIR": str(root)
    }


def has_failed(ended: Run) -> bool:
    """Whether a run ended as MFA should not: stopped, killed or with an error other than that nothing aligned."""
    return ended.status != 0 and not (ended.status == 1 and "NoAlignmentsError" in ended.log)


def is_failure(result: AlignerOutput | Reject) -> bool:
    """Whether an utterance has no result because a run failed."""
    return isinstance(result, Reject) and result.reason in ("align.timeout", "align.backend_error")


def is_missing(result: AlignerOutput | Reject) -> bool:
    """Whether a wider beam may help: MFA wrote nothing, but did not fail."""
    return isinstance(result, Reject) and result.reason == "align.unalignable"


def stem_of(place: int) -> str:
    """File name of an utterance: ids may hold anything, and MFA changes some characters."""
    return f"u{place:06d}"


def write_corpus(
    items: Sequence[AlignerInput],
    folder: Path,
    speakers: dict[str | None, Path] | None = None,
    first: int = 0,
) -> None:
    """One folder per speaker, a 16-bit WAV and a .lab with the spoken words per utterance.

    Args:
        items, folder: what to write, and where.
        speakers: folders of the speakers met before; filled.
        first: number of the first utterance, in its file name.
    """
    speakers = {} if speakers is None else speakers
    for place, item in enumerate(items, first):
        speaker = speakers.setdefault(item.utterance.speaker, folder / f"s{len(speakers):06d}")
        speaker.mkdir(exist_ok=True)
        soundfile.write(speaker / f"{stem_of(place)}.wav", item.waveform, SAMPLE_RATE, subtype="PCM_16")
        (speaker / f"{stem_of(place)}.lab").write_text(" ".join(item.spoken) + "\n", encoding="utf-8")


def link_models(root: Path, environment: Mapping[str, str]) -> None:
    """Let a root of our own see the models installed in the user's."""
    home = Path(environment.get("MFA_ROOT_DIR") or Path("~/Documents/MFA").expanduser())
    if (home / "pretrained_models").is_dir():
        (root / "pretrained_models").symlink_to(
            (home / "pretrained_models").resolve(), target_is_directory=True
        )


def align_command(settings: MfaSettings, version: str, folder: Path, beam: int, retry_beam: int) -> list[str]:
    """The command line of one run; `folder` holds corpus, output and temporary."""
    command = [*shlex.split(settings.command), "align_legacy" if int(version.split(".")[0]) >= 4 else "align"]
    command += [str(folder / "corpus"), settings.dictionary, settings.acoustic_model, str(folder / "output")]
    command += ["--output_format", "json", "--temporary_directory", str(folder / "temporary")]
    command += ["--beam", str(beam), "--retry_beam", str(retry_beam), "--num_jobs", str(settings.jobs)]
    command += ["--clean", "--overwrite", "--quiet"]
    if settings.single_speaker:
        command.append("--single_speaker")
    if settings.g2p_model:
        command += ["--g2p_model_path", settings.g2p_model]
    return command


def find_version(command: str) -> str:
    """What `mfa version` answers: having the program is not enough, from PyPI it installs without its Kaldi part.

    Raises:
        ValueError: it does not answer; says how to install it.
    """
    try:
        ended = run([*shlex.split(command), "version"], 120, os.environ)
    except OSError as error:
        raise ValueError(
            f"mfa.command {command!r}: cannot be started ({error.strerror}); {INSTALL}"
        ) from error
    found = re.search(r"\b[0-9]+\.[0-9]+(\.[0-9a-z]+)*", ended.log)
    if ended.status != 0 or not found:
        raise ValueError(f"mfa.command {command!r}: `version` failed ({last_line(ended.log)!r}); {INSTALL}")
    return found[0]


def run(
    command: Sequence[str], seconds: float, environment: Mapping[str, str], root: Path | None = None
) -> Run:
    """Run a program in a process group of its own; afterwards nothing of it is left running.

    Args:
        command, environment: what to run.
        seconds: limit.
        root: its MFA_ROOT_DIR where that is its own, by which what left the group is found.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )
    assert process.stdout is not None
    tail = bytearray()
    reader = threading.Thread(target=keep_tail, args=(process.stdout, tail), daemon=True)
    reader.start()
    status: int | None = None
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(
                process.pid, signal.SIGTERM
            )  # `docker run` hands it on; killed, it would leave its container
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if root:
            kill_strays(root)
        process.wait()
        reader.join(5)
        process.stdout.close()
    return Run(status, tail.decode("utf-8", "replace"))


def kill_strays(root: Path) -> None:
    """Kill what left the process group (a database server) and has our own root in its environment; on Linux only."""
    mine = str(os.getpid())
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if path.parent.name != mine and f"MFA_ROOT_DIR={root}".encode() in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


def keep_tail(stream: IO[bytes], tail: bytearray) -> None:
    """Read to the end, remember the last of it."""
    with contextlib.suppress(ValueError, OSError):
        while chunk := stream.read1(4096):  # type: ignore[attr-defined]
            tail += chunk
            del tail[:-LOG_BYTES]


def last_line(log: str) -> str:
    """The last line that says something, which for Python programs is the exception."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def why_missing(ended: Run, errors: Path) -> Reject:
    """Why MFA wrote nothing for an utterance; `errors` is where it notes what it could not export."""
    if ended.status is None:
        return Reject("align.timeout")
    if has_failed(ended):
        return Reject("align.backend_error", f"mfa ended with status {ended.status}: {last_line(ended.log)}")
    if errors.is_file() and (said := last_line(errors.read_text(encoding="utf-8", errors="replace"))):
        return Reject("align.backend_error", f"mfa could not export: {said}")
    return Reject("align.unalignable")


def collect(item: AlignerInput, path: Path, quality: dict[str, float]) -> AlignerOutput | Reject:
    """Match one file's labels to our words."""
    try:
        tiers = read(str(path), path.stem, GivenSettings())
        words = match(tiers.words, item.tokens, str(item.utterance.text))
    except Reject as reject:
        return reject
    return AlignerOutput(words, phones_of(tiers.phones or ()), quality)


def read_analysis(path: Path) -> dict[str, dict[str, float]]:
    """The numbers in `alignment_analysis.csv`, by file; read by header, for columns change from version to version."""
    if not path.is_file():
        return {}
    found = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {
                name: number(value)
                for name, value in row.items()
                if name not in ("file", "begin", "end", "speaker")
            }
            kept = {str(name): value for name, value in numbers.items() if value is not None}
            found[Path(row.get("file") or "").name] = kept
    return found


def number(text: object) -> float | None:
    """A finite number, else None."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


TOOLS: dict[str, tuple[str, ...]] = {
    "download": ("model", "download"),
    "g2p": ("g2p",),
    "train": ("train",),
    "validate": (
        "validate",
        "--ignore_acoustics",
    ),  # without it MFA trains a model for a check of the dictionary
}
"""MFA's own commands that bring and check models and dictionaries."""


def tool_command(start: str, tool: str, arguments: Sequence[str]) -> list[str]:
    """The MFA command line of one of TOOLS.

    >>> " ".join(tool_command("conda run -n mfa mfa", "download", ["acoustic", "english_us_arpa"]))
    'conda run -n mfa mfa model download acoustic english_us_arpa'
    """
    return [*shlex.split(start), *TOOLS[tool], *arguments]


def run_tool(command: Sequence[str]) -> None:
    """Run an MFA command in the foreground.

    Raises:
        ValueError: it cannot be started (the message says how to install MFA), or it failed.
    """
    try:
        status = subprocess.run(command, check=False).returncode
    except OSError as error:
        raise ValueError(
            f"mfa command {command[0]!r}: cannot be started ({error.strerror}); {INSTALL}"
        ) from error
    if status:
        raise ValueError(f"{shlex.join(command)}: exit status {status}")
