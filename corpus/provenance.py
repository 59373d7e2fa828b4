"""The versions that results depend on beside their settings: Python, this project, its packages, its commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "wordweave", "torch", "torchaudio", "apache-beam", "faiss-cpu", "pocketsphinx", "webdataset", "numpy", "pyarrow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Package -> version, with `python`.

    >>> versions()["python"].startswith("3.")
    True
    """
    result = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            result[name] = "not installed"
    return result


def commit() -> str | None:
    """The commit of the code that runs, if it runs from a repository."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None
