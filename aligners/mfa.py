"""Word times from the Montreal Forced Aligner, on PATH, in a conda environment or in a container.

It runs as a program, in a process group and with a root and temporary folder of its own. It may exit with 0
although files are missing, so that every expected file is looked for; its words are not those of its input, so that
they are matched back. To install it: `aligners/data/mfa-environment.yaml` (conda) or `aligners/data/mfa.Dockerfile`.
`wordweave mfa` runs its commands for models and dictionaries.

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

import numpy as np
import soundfile

from aligners import guard
from aligners.alignment import Aligner, AlignerInput, AlignerOutput
from aligners.given import GivenSettings, phones_of, read
from aligners.match import match
from corpus.records import SAMPLE_RATE, Reject, Unusable

ANALYSIS = (
    *("overall_log_likelihood", "speech_log_likelihood", "phone_duration_deviation", "snr"),
    "intensity_deviation",
)
"""Columns of `alignment_analysis.csv` that are used; versions have different ones. Not `max_running_short_interval`:
MFA never resets it, so that it depends on the order of the utterances."""

USAGE = 2  # exit status of a wrong command line, which no other choice of utterances repairs
FAILURES = 6  # failed runs after which a part is not divided further
NOT_STARTED = 127  # exit status of the guard where the program cannot be started
SHORTEST = 0.1  # seconds: MFA makes no features of less, and fails for all utterances of the run
LOG_BYTES = 20_000  # how much of its output is kept: it may print without end
KINDS = {"dictionary": "dictionary", "acoustic_model": "acoustic", "g2p_model": "g2p"}
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
EXCEPTION = re.compile(r"(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b:?")
INSTALL = "try `conda env create -f aligners/data/mfa-environment.yaml` and command='conda run -n mfa mfa'"


@dataclass(frozen=True)
class MfaSettings:
    """Settings of the backend `mfa`.

    command: how to start it, for example "conda run -n mfa mfa". A container must see `scratch` under the same path.
    dictionary, acoustic_model, g2p_model: installed names or paths.
    beam, retry_beam: of the first run; wide_beam, wide_retry_beam: of the run on what the first left out.
    timeout_seconds, timeout_per_second: limit of one run = the first + the second x seconds of audio.
    single_speaker: one speaker for all, which lets one speaker's part use several jobs and turns adaptation off.
    likelihood_margin: an utterance is rejected whose log likelihood per frame is lower than the median of its batch by
        more than this; None keeps all. The retry beam aligns wrong transcripts too. Measured with MFA 3.4.3 and a small
        model: 249 right ones have at least -49.6, 20 wrong ones at most -58.4.
    minimum_likelihood: lowest log likelihood per frame, whatever the median; None keeps all. It sees a batch in which
        most transcripts are wrong.
    scratch: folder for corpora and results of a run; default the system's folder for temporary files.
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
    likelihood_margin: float | None = 8.0
    minimum_likelihood: float | None = -56.0
    scratch: str | None = None


class ProcessResult(NamedTuple):
    """Exit status of a program (None: stopped after its time) and the end of its output."""

    status: int | None
    log: str


class Mfa(Aligner):
    """Forced alignment by MFA, a part at a time; see the module."""

    name = "mfa"
    measures = ANALYSIS
    batch_minutes = 120.0  # half a gigabyte; speaker adaptation needs a speaker's speech in one batch
    joins_parts = True  # a start takes 20 to 35 s

    def __init__(self, settings: MfaSettings):
        self.settings = settings
        self.version = find_version(settings.command)
        check_models(settings)

    def align_all(self, items: list[AlignerInput]) -> Sequence[AlignerOutput | Reject]:
        settings = self.settings
        long_enough = [index for index, item in enumerate(items) if item.seconds >= SHORTEST]
        results: list[AlignerOutput | Reject] = [
            Reject("align.unalignable", f"{item.seconds:.3f} s: MFA needs {SHORTEST} s") for item in items
        ]
        if not long_enough:
            return results
        narrow = self._attempt([items[index] for index in long_enough], settings.beam, settings.retry_beam)
        for index, result in zip(long_enough, narrow, strict=True):
            results[index] = result
        again = [index for index in long_enough if is_missing(results[index])]
        if again:
            wide = self._attempt(
                [items[index] for index in again], settings.wide_beam, settings.wide_retry_beam
            )
            for index, result in zip(again, wide, strict=True):
                results[index] = result
        return reject_unlikely(results, settings.likelihood_margin, settings.minimum_likelihood)

    def _attempt(self, items: list[AlignerInput], beam: int, retry_beam: int) -> list[AlignerOutput | Reject]:
        """Some utterances with one beam. What a run that failed has not written is tried again in halves.

        So the one utterance that makes MFA hang or crash is found, and only that one is lost.
        """
        results: list[AlignerOutput | Reject] = [Reject("align.backend_error", "not tried")] * len(items)
        queue, failures = [list(range(len(items)))], 0
        while queue:
            indices = queue.pop(0)
            attempted, ended = self._run([items[index] for index in indices], beam, retry_beam)
            for index, result in zip(indices, attempted, strict=True):
                results[index] = result
            left = [index for index in indices if is_failure(results[index])]
            if has_failed(ended) and ended.status != USAGE and len(left) > 1 and failures < FAILURES:
                queue += [left[: len(left) // 2], left[len(left) // 2 :]]
                failures += 1
        return results

    def _run(
        self, items: list[AlignerInput], beam: int, retry_beam: int
    ) -> tuple[list[AlignerOutput | Reject], ProcessResult]:
        """One run of `mfa align`: one result per utterance, and how the program ended."""
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
            ended = run(command, limit, own_environment(folder / "root", os.environ), folder)
            written = {
                path.stem.removesuffix("_aligned"): path
                for path in sorted((folder / "output").rglob("u*.json"))
            }
            quality = read_analysis(folder / "output" / "alignment_analysis.csv")
            errors = read_export_errors(folder / "output" / "output_errors.txt", folder)
            results: list[AlignerOutput | Reject] = []
            for index, item in enumerate(items):
                stem = stem_of(index)
                if stem in written:
                    results.append(collect(item, written[stem], quality.get(stem, {})))
                elif stem in errors:
                    results.append(Reject("align.backend_error", f"mfa could not export: {errors[stem]}"))
                else:
                    results.append(why_failed(ended, folder))
            return results, ended


def own_environment(root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with a root of its own: configuration, history and database in it are shared and mutable."""
    kept = {name: value for name, value in environment.items() if name != "MFA_PROFILE"}
    return terminal(kept) | {"MFA_ROOT_DIR": str(root)}


def reject_unlikely(
    results: Sequence[AlignerOutput | Reject], margin: float | None, minimum: float | None
) -> list[AlignerOutput | Reject]:
    """Results, where those whose likelihood is far below the median of the others are rejected with their measures."""
    scores = [
        None if isinstance(result, Reject) else result.quality.get("overall_log_likelihood")
        for result in results
    ]
    known = [score for score in scores if score is not None]
    limit = max(
        -math.inf if margin is None or not known else float(np.median(known)) - margin,
        -math.inf if minimum is None else minimum,
    )
    checked = list(results)
    for index, (result, score) in enumerate(zip(results, scores, strict=True)):
        if score is not None and score < limit and not isinstance(result, Reject):
            detail = f"log likelihood per frame {score:.1f} is below {limit:.1f}"
            checked[index] = AlignerOutput((), None, result.quality, Reject("align.low_quality", detail))
    return checked


def has_failed(ended: ProcessResult) -> bool:
    """Whether a run ended as MFA should not: stopped, killed or with an error other than that nothing aligned."""
    return ended.status != 0 and not (ended.status == 1 and "NoAlignmentsError" in ended.log)


def is_failure(result: AlignerOutput | Reject) -> bool:
    """Whether an utterance has no result because a run failed."""
    return isinstance(result, Reject) and result.reason in ("align.timeout", "align.backend_error")


def is_missing(result: AlignerOutput | Reject) -> bool:
    """Whether a wider beam may help: MFA wrote nothing, but did not fail."""
    return isinstance(result, Reject) and result.reason == "align.unalignable"


def stem_of(index: int) -> str:
    """File name of an utterance: ids may hold anything, and MFA changes some characters."""
    return f"u{index:06d}"


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
    for index, item in enumerate(items, first):
        speaker = speakers.setdefault(item.utterance.speaker, folder / f"s{len(speakers):06d}")
        speaker.mkdir(exist_ok=True)
        soundfile.write(speaker / f"{stem_of(index)}.wav", item.waveform, SAMPLE_RATE, subtype="PCM_16")
        (speaker / f"{stem_of(index)}.lab").write_text(" ".join(item.spoken) + "\n", encoding="utf-8")


def link_models(root: Path, environment: Mapping[str, str]) -> None:
    """Make the models in the user's root visible in another one, each by its own link: MFA writes beside them."""
    for path in sorted((mfa_home(environment) / "pretrained_models").glob("*/*")):
        folder = root / "pretrained_models" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).symlink_to(path.resolve(), target_is_directory=path.is_dir())


def mfa_home(environment: Mapping[str, str]) -> Path:
    """The user's MFA root."""
    return Path(environment.get("MFA_ROOT_DIR") or Path("~/Documents/MFA").expanduser())


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
    """What `mfa version` prints: the program alone proves nothing, from PyPI it installs without its Kaldi part.

    Raises:
        Unusable: it fails; the message says how to install it.
    """
    ended = ask_mfa(command, ["version"])
    match = re.search(r"\b[0-9]+\.[0-9]+(\.[0-9a-z]+)*", ended.log)
    if ended.status != 0 or not match:
        raise Unusable(f"mfa.command {command!r}: `version` failed ({message_of(ended.log)}); {INSTALL}")
    return match[0]


def check_models(settings: MfaSettings) -> None:
    """Refuse a dictionary or model that does not exist, before any work.

    A name is looked for among the installed models, and only then by MFA itself, which takes half a minute.

    Raises:
        Unusable: names the setting and the command that downloads the model.
    """
    wanted = {"dictionary": settings.dictionary, "acoustic_model": settings.acoustic_model}
    if settings.g2p_model:
        wanted["g2p_model"] = settings.g2p_model
    for setting, name in wanted.items():
        kind = KINDS[setting]
        if is_path(name):
            if not Path(name).exists():
                raise Unusable(f"mfa.{setting} {name!r}: no such file")
        elif not any((mfa_home(os.environ) / "pretrained_models" / kind).glob(f"{name}*")):
            ended = ask_mfa(settings.command, ["model", "inspect", kind, name])
            if ended.status != 0:
                way_out = f"run `wordweave mfa download {kind} {name}`"
                raise Unusable(f"mfa.{setting} {name!r}: {message_of(ended.log)}; {way_out}")


def is_path(name: str) -> bool:
    """Whether a model is named by its path.

    >>> is_path("english_us_arpa"), is_path("my.dict"), is_path("models/german.zip")
    (False, True, True)
    """
    return "/" in name or Path(name).suffix.lower() in (".dict", ".txt", ".yaml", ".zip")


def ask_mfa(command: str, arguments: Sequence[str]) -> ProcessResult:
    """Run a short command of MFA.

    Raises:
        Unusable: it cannot be started; the message says how to install it.
    """
    with tempfile.TemporaryDirectory(prefix="wordweave-mfa-") as folder:
        ended = run([*shlex.split(command), *arguments], 300, terminal(os.environ), Path(folder))
    if ended.status == NOT_STARTED:
        raise Unusable(f"mfa.command {command!r}: {message_of(ended.log)}; {INSTALL}")
    return ended


def terminal(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with a wide terminal without colours: MFA wraps its messages at 80 columns."""
    return {**environment, "COLUMNS": "1000", "NO_COLOR": "1", "TERM": "dumb"}


def run(
    command: Sequence[str], seconds: float, environment: Mapping[str, str], folder: Path
) -> ProcessResult:
    """ProcessResult a program in a process group of its own; afterwards nothing of it is left running.

    Args:
        command, environment: what to run.
        seconds: limit.
        folder: deleted if this process is killed meanwhile.
    """
    process = guard.start(command, folder, environment)
    assert process.stdin is not None
    assert process.stdout is not None
    tail = bytearray()
    reader = threading.Thread(target=keep_tail, args=(process.stdout, tail), daemon=True)
    reader.start()
    status: int | None = None
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        guard.end_group(
            process.pid, signal.SIGTERM
        )  # `docker run` hands it on; killed, it would leave its container
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(guard.GRACE)
    finally:
        guard.end_group(process.pid, signal.SIGKILL)
        guard.kill_strays(folder)
        process.stdin.close()
        process.wait()
        reader.join(5)
        process.stdout.close()
    return ProcessResult(status, tail.decode("utf-8", "replace"))


def keep_tail(stream: IO[bytes], tail: bytearray) -> None:
    """Read a stream to its end and keep the last bytes."""
    with contextlib.suppress(ValueError, OSError):
        while chunk := stream.read1(4096):  # type: ignore[attr-defined]
            tail += chunk
            del tail[:-LOG_BYTES]


def message_of(log: str) -> str:
    """The line of a log that tells the error, without colours, boxes and the advice after it.

    MFA draws usage errors in a box, and prints exceptions as Python does, with hints below them.

    >>> message_of("Usage: mfa align\\n╭─ Error ────╮\\n│ Invalid value for 'X':   │\\n│ no such file  │\\n╰────╯")
    "Invalid value for 'X': no such file"
    >>> message_of("Traceback\\nValueError: bad\\n\\nPlease run `mfa model download`.")
    'ValueError: bad'
    """
    lines = [ANSI.sub("", line).strip() for line in log.splitlines()]
    box = [line.strip("│┃| ") for line in lines if re.match("[│┃]", line)]
    if box:
        return " ".join(filter(None, box))[-300:]
    errors = [index for index, line in enumerate(lines) if EXCEPTION.match(line)]
    if errors:
        text = lines[errors[-1]]
        following = next(filter(None, lines[errors[-1] + 1 :]), "")
        return (f"{text} {following}" if text.endswith(":") else text)[:300]
    nonempty = [line for line in lines if line]
    return nonempty[-1][:300] if nonempty else "no output"


def why_failed(ended: ProcessResult, folder: Path) -> Reject:
    """The reason of an utterance without a result, from a run as a whole; never a path that differs from run to run."""
    if ended.status is None:
        return Reject("align.timeout")
    message = message_of(ended.log).replace(str(folder), "…")
    if "FeatureGenerationError" in ended.log:
        return Reject("align.unalignable", message)
    if has_failed(ended):
        return Reject("align.backend_error", f"mfa: exit status {ended.status}: {message}")
    return Reject("align.unalignable")


def read_export_errors(path: Path, folder: Path) -> dict[str, str]:
    """What MFA could not export, by file: blocks of the file's name, a colon and an exception.

    Args:
        path: output_errors.txt, which need not exist.
        folder: of the run, left out of the messages.
    """
    if not path.is_file():
        return {}
    errors: dict[str, str] = {}
    stem = ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        begin = re.match(r"\W*(?:.*/)?(u[0-9]{6})\b[^:]*:\s*(.*)", line.strip())
        if begin:
            stem = begin[1]
        message = begin[2] if begin else line.strip()
        if stem and message:  # of a traceback the last line is the exception
            errors[stem] = message.replace(str(folder), "…")[:300]
    return errors


def collect(item: AlignerInput, path: Path, quality: dict[str, float]) -> AlignerOutput | Reject:
    """Match one file's labels to the words of the transcript."""
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
    scores = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {name: number(row.get(name)) for name in ANALYSIS}
            scores[Path(row.get("file") or "").name] = {
                name: value for name, value in numbers.items() if value is not None
            }
    return scores


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
    """ProcessResult an MFA command in the foreground.

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
