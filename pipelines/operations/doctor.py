"""The installation of this machine, one finding per line: `ok`, `missing` (an optional feature) or `wrong`."""

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.records import Unusable
from pipelines.build import wanted_steps
from pipelines.engines.requirements import JAVA, credentials_file, find_java, missing_google_packages
from pipelines.execution.task import read_marker
from pipelines.layout import INDEX, part_names
from pipelines.operations.cost_estimate import readable
from pipelines.settings import read_settings

MIN_MEMORY, MIN_DISK = 2e9, 1e9  # bytes: a worker with a model; a small build


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    state: str
    detail: str


def examine(
    build: Path | None = None, checks: "dict[str, Callable[[], tuple[str, str]]] | None" = None
) -> Iterator[Finding]:
    """Run every check; a check that raises is a finding."""
    todo = dict(CHECKS if checks is None else checks)
    if build is not None:
        todo |= {"disk": lambda: disk(build), "build": lambda: health(build)}
    for name, check in todo.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # some packages print when they are imported
                state, detail = check()
        except Exception as error:  # an import can fail in any way, and then that is the finding
            state, detail = "wrong", f"{type(error).__name__}: {error}"
            detail = str(error) if isinstance(error, ValueError) else detail
        yield Finding(name, state, " ".join(detail.split()))


def python() -> tuple[str, str]:
    """The interpreter."""
    from packaging.specifiers import SpecifierSet

    supported = importlib.metadata.metadata("wordweave")["Requires-Python"]
    state = "ok" if SpecifierSet(supported).contains(platform.python_version()) else "wrong"
    return state, f"{platform.python_version()} at {sys.executable}, need {supported}"


def packages() -> tuple[str, str]:
    """Whether what the project requires is installed in versions it can work with."""
    from packaging.requirements import Requirement

    listed = [Requirement(line) for line in importlib.metadata.requires("wordweave") or []]
    needed = [one for one in listed if one.marker is None or one.marker.evaluate({"extra": ""})]
    bad = []
    for one in needed:
        installed = version(one.name)
        if installed is None or not one.specifier.contains(installed, prereleases=True):
            bad.append(f"{one.name} {installed or 'is missing'}, need {one.specifier}")
    if bad:
        return "wrong", "; ".join(bad)
    return "ok", f"wordweave {version('wordweave')}, {len(needed)} packages, all in supported versions"


def version(name: str) -> str | None:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch() -> tuple[str, str]:
    """torch and torchaudio load, and belong together."""
    import torch
    import torchaudio

    pair = torch.__version__.split("+")[0], torchaudio.__version__.split("+")[0]
    together = "ok" if pair[0] == pair[1] else "wrong"
    return together, f"torch {torch.__version__}, torchaudio {torchaudio.__version__}"


def cuda() -> tuple[str, str]:
    """A GPU that torch can use."""
    import torch

    if not torch.cuda.is_available():
        built = (
            f"torch is built for CUDA {torch.version.cuda}"
            if torch.version.cuda
            else "torch is built without CUDA"
        )
        return "missing", f'no GPU that torch can use ({built}); units.device = "cpu" works'
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = ", ".join(f"{card.name} {readable(card.total_memory)}" for card in cards)
    return "ok", f"{names}, CUDA {torch.version.cuda}"


def faiss() -> tuple[str, str]:
    """k-means, on a GPU if there is one."""
    import faiss

    count = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return (
        "ok",
        f"faiss {faiss.__version__}, {f'{count} GPUs' if count else 'on the CPU'}",
    )


def beam() -> tuple[str, str]:
    """The default engine."""
    installed = version("apache-beam")
    return ("ok", f"apache-beam {installed}") if installed else ("wrong", "apache-beam is missing")


def spark() -> tuple[str, str]:
    """Java and PySpark."""
    installed, java = version("pyspark"), find_java()[1]
    missing = [] if installed else ["pyspark (pip install 'wordweave[spark]')"]
    if java is None or java < JAVA:
        missing.append(f"Java {JAVA} or newer (got {java or 'none'})")
    return (
        ("missing", f"--engine spark needs {' and '.join(missing)}")
        if missing
        else ("ok", f"pyspark {installed}, Java {java}")
    )


def dataflow() -> tuple[str, str]:
    """The client of Dataflow, and credentials where Google's libraries look first."""
    missing = missing_google_packages()
    if missing:
        return "missing", f"--runner=DataflowRunner needs {missing} (pip install 'wordweave[dataflow]')"
    credentials = credentials_file()
    return (
        ("ok", f"client installed, credentials {credentials}")
        if credentials
        else (
            "missing",
            "client installed, no credentials found; `gcloud auth application-default login`, or a cloud machine",
        )
    )


def storage() -> tuple[str, str]:
    """Object stores that fsspec can open."""
    known = {"s3://": "s3fs", "gs://": "gcsfs"}
    have = {scheme: importlib.util.find_spec(package) is not None for scheme, package in known.items()}
    missing = [
        f"{scheme} (pip install {known[scheme]})" for scheme, installed in have.items() if not installed
    ]
    usable = ", ".join(["local files", *(scheme for scheme, installed in have.items() if installed)])
    return ("missing", f"{usable}; not {', '.join(missing)}") if missing else ("ok", usable)


def pocketsphinx() -> tuple[str, str]:
    """The default aligner, with its model."""
    from aligners import load_aligner

    load_aligner("pocketsphinx")
    return "ok", f"pocketsphinx {version('pocketsphinx')}, English"


def mfa() -> tuple[str, str]:
    """The Montreal Forced Aligner, if it answers."""
    program = shutil.which("mfa")
    if program is None:
        return "missing", 'no `mfa` on the PATH; align.backend = "mfa" cannot be used'
    try:
        answer = subprocess.run(
            [program, "version"], capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return "wrong", f"`mfa version`: {error}"
    last = (answer.stdout.strip() or answer.stderr.strip() or "no output").splitlines()[-1]
    return (
        ("ok", f"mfa {last}")
        if answer.returncode == 0
        else ("wrong", f"`mfa version` ended with {answer.returncode}: {last}")
    )


def package(name: str, find: Callable[[], Any]) -> tuple[str, str]:
    """A package that an option needs; `find` raises Unusable or ValueError where it is missing."""
    try:
        find()
    except (Unusable, ValueError) as error:
        return "missing", str(error)
    return "ok", f"{name} {version(name)}"


def viter() -> tuple[str, str]:
    """The aligner for any language."""
    from aligners.viter import import_viter

    return package("viter", import_viter)


def speakers() -> tuple[str, str]:
    """The weights with which `[speakers]` tells voices apart."""
    from corpus.speaker_embeddings import weights_path

    return package("Resemblyzer", weights_path)


def dnsmos() -> tuple[str, str]:
    """The networks of `[quality] dnsmos`."""
    from corpus.quality import dnsmos_path

    return package("speechmos", dnsmos_path)


def espeak() -> tuple[str, str]:
    """The voice of `wordweave synth`."""
    if importlib.util.find_spec("espeakng_loader") is None:
        return "missing", "`wordweave synth` needs espeakng-loader (pip install 'wordweave[demo]')"
    import ctypes

    import espeakng_loader

    ctypes.CDLL(espeakng_loader.get_library_path())
    return "ok", f"espeakng-loader {version('espeakng-loader')}"


def cores() -> tuple[str, str]:
    """Cores this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (
        "ok",
        f"{count} cores: up to --workers {count}; OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}",
    )


def memory() -> tuple[str, str]:
    """Memory this process may use: the machine's, or what its control group allows."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return (
        "ok" if min(limits) >= MIN_MEMORY else "wrong"
    ), f"{readable(min(limits))}, a worker needs about 1 GB and its model"


def disk(build: Path | None) -> tuple[str, str]:
    """Room where the build is, else here."""
    folder = (build or Path.cwd()).resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return ("ok" if free >= MIN_DISK else "wrong"), f"{readable(free)} free at {folder}"


def health(build: Path) -> tuple[str, str]:
    """The progress of a build: finished and failed parts of each table, and whether its shards are indexed."""
    steps = wanted_steps(read_settings(build))
    names, progress, failures = part_names(build), [], 0
    for table in (step.table for step in steps if step.table):
        done = sum(read_marker(build / table / name) is not None for name in names)
        failed = len(list((build / table).glob("*.failed")))
        failures += failed
        progress.append(f"{table} {done}/{len(names)}{f' ({failed} failed)' if failed else ''}")
    shards = "shards indexed" if (build / INDEX).is_file() else "no finished shards"
    return ("wrong" if failures else "ok"), f"{len(names)} parts; {', '.join(progress)}; {shards}"


CHECKS: dict[str, Callable[[], tuple[str, str]]] = {
    "python": python, "packages": packages, "torch": torch, "cuda": cuda, "faiss": faiss, "beam": beam, "spark": spark,
    "dataflow": dataflow, "storage": storage, "pocketsphinx": pocketsphinx, "viter": viter, "mfa": mfa,
    "speakers": speakers, "dnsmos": dnsmos, "espeak": espeak, "cores": cores, "memory": memory,
    "disk": lambda: disk(None),
}  # fmt: skip
"""The checks, in this order."""
