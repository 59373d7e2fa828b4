"""What a machine has and lacks, one finding a line: `ok`, `lacks` (an option that cannot be used here) or `wrong`."""

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

from pipelines import build as steps
from pipelines.engines.google_client import client_missing, credentials_file
from pipelines.operations.cost_estimate import readable

PYTHON = (3, 11)
JAVA = 17  # the oldest that Spark 4 runs on
LEAST_MEMORY, LEAST_DISK = 2e9, 1e9  # bytes: a worker with a model; a small build


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str
    said: str


def examine(
    build: Path | None = None, looks: "dict[str, Callable[[], tuple[str, str]]] | None" = None
) -> Iterator[Finding]:
    """Look at everything; nothing that is found raises."""
    todo = dict(LOOKS if looks is None else looks)
    if build is not None:
        todo |= {"disk": lambda: disk(build), "build": lambda: health(build)}
    for name, look in todo.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # some packages print when they are imported
                state, said = look()
        except Exception as error:  # an import can fail in any way, and then that is the finding
            state, said = "wrong", f"{type(error).__name__}: {error}"
            said = str(error) if isinstance(error, ValueError) else said
        yield Finding(name, state, " ".join(said.split()))


def python() -> tuple[str, str]:
    """The interpreter."""
    state = "ok" if sys.version_info[:2] == PYTHON else "wrong"
    return state, f"{platform.python_version()} at {sys.executable}, need {PYTHON[0]}.{PYTHON[1]}"


def packages() -> tuple[str, str]:
    """Whether what the project requires is installed in versions it can work with."""
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in importlib.metadata.requires("wordweave") or []]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    bad = []
    for one in needed:
        found = version(one.name)
        if found is None or not one.specifier.contains(found, prereleases=True):
            bad.append(f"{one.name} {found or 'is missing'}, need {one.specifier}")
    told = f"wordweave {version('wordweave')}, {len(needed)} packages"
    return ("wrong", "; ".join(bad)) if bad else ("ok", f"{told}, all in versions it works with")


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
        return "lacks", f'no GPU that torch can use ({built}); units.device = "cpu" works'
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    told = ", ".join(f"{card.name} {readable(card.total_memory)}" for card in cards)
    return "ok", f"{told}, CUDA {torch.version.cuda}"


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
    found = version("apache-beam")
    return ("ok", f"apache-beam {found}") if found else ("wrong", "apache-beam is missing")


def spark() -> tuple[str, str]:
    """Java and PySpark."""
    found, java = version("pyspark"), java_version()
    missing = [] if found else ["pyspark (pip install 'wordweave[spark]')"]
    if java is None or java < JAVA:
        missing.append(f"Java {JAVA} or newer (got {java or 'none'})")
    return (
        ("lacks", f"--engine spark needs {' and '.join(missing)}")
        if missing
        else ("ok", f"pyspark {found}, Java {java}")
    )


def java_version() -> int | None:
    """The major version of `java`, from JAVA_HOME or the PATH; None where there is none."""
    home = os.environ.get("JAVA_HOME")
    program = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not program:
        return None
    try:
        said = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=60, check=True
        ).stderr
        return int(said.split('"')[1].split(".")[0])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None


def dataflow() -> tuple[str, str]:
    """The client of Dataflow, and credentials where Google's libraries look first."""
    missing = client_missing()
    if missing:
        return "lacks", f"--runner=DataflowRunner needs {missing} (pip install 'wordweave[dataflow]')"
    found = credentials_file()
    return (
        ("ok", f"client installed, credentials {found}")
        if found
        else (
            "lacks",
            "client installed, no credentials found; `gcloud auth application-default login`, or a cloud machine",
        )
    )


def storage() -> tuple[str, str]:
    """Object stores that fsspec can open."""
    known = {"s3://": "s3fs", "gs://": "gcsfs"}
    have = {scheme: importlib.util.find_spec(package) is not None for scheme, package in known.items()}
    lacking = [f"{scheme} (pip install {known[scheme]})" for scheme, there in have.items() if not there]
    told = ", ".join(["local files", *(scheme for scheme, there in have.items() if there)])
    return ("lacks", f"{told}; not {', '.join(lacking)}") if lacking else ("ok", told)


def pocketsphinx() -> tuple[str, str]:
    """The default aligner, with its model."""
    from aligners import load_aligner

    load_aligner("pocketsphinx")
    return "ok", f"pocketsphinx {version('pocketsphinx')}, English"


def mfa() -> tuple[str, str]:
    """The Montreal Forced Aligner, if it answers."""
    program = shutil.which("mfa")
    if program is None:
        return "lacks", 'no `mfa` on the PATH; align.backend = "mfa" cannot be used'
    try:
        said = subprocess.run([program, "version"], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return "wrong", f"`mfa version`: {error}"
    last = (said.stdout.strip() or said.stderr.strip() or "no output").splitlines()[-1]
    return (
        ("ok", f"mfa {last}")
        if said.returncode == 0
        else ("wrong", f"`mfa version` ended with {said.returncode}: {last}")
    )


def espeak() -> tuple[str, str]:
    """The voice of `wordweave synth`."""
    if importlib.util.find_spec("espeakng_loader") is None:
        return "lacks", "`wordweave synth` needs espeakng-loader (pip install 'wordweave[demo]')"
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
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return (
        "ok" if min(found) >= LEAST_MEMORY else "wrong"
    ), f"{readable(min(found))}, a worker needs about 1 GB and its model"


def disk(build: Path | None) -> tuple[str, str]:
    """Room where the build is, else here."""
    place = (build or Path.cwd()).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return ("ok" if free >= LEAST_DISK else "wrong"), f"{readable(free)} free at {place}"


def health(build: Path) -> tuple[str, str]:
    """How far a build is: finished parts of each table, failed ones, shards that stand in an index."""
    settings = steps.recall(build)
    names = steps.part_names(build)
    found = []
    for table in ("units", "words", *steps.expressive_tables(settings)):
        made = sum(steps.marker(build / table / name) is not None for name in names)
        failed = len(list((build / table).glob("*.failed")))
        found.append(f"{table} {made}/{len(names)}{f' ({failed} failed)' if failed else ''}")
    index = build / "shards" / "index.json"
    told = f"{len(names)} parts; {', '.join(found)}; {'shards indexed' if index.is_file() else 'no finished shards'}"
    return ("wrong" if "failed" in told else "ok"), told


LOOKS: dict[str, Callable[[], tuple[str, str]]] = {
    "python": python, "packages": packages, "torch": torch, "cuda": cuda, "faiss": faiss, "beam": beam, "spark": spark,
    "dataflow": dataflow, "storage": storage, "pocketsphinx": pocketsphinx, "mfa": mfa, "espeak": espeak,
    "cores": cores, "memory": memory, "disk": lambda: disk(None),
}  # fmt: skip
"""What is looked at, in this order."""
