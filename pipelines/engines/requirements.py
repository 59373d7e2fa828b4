"""What a build's bytes hang on beside its settings: versions of Python, this project and its packages; and Java."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess

from corpus.records import Unusable

PACKAGES = (
    "wordweave", "torch", "torchaudio", "apache-beam", "faiss-cpu", "pocketsphinx", "webdataset", "numpy", "pyarrow",
)  # fmt: skip
JAVA = 17  # pyspark 4 needs it


def versions() -> dict[str, str]:
    """Package -> version, with `python`.

    >>> versions()["python"].startswith("3.")
    True
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def same_versions(driver: dict[str, str]) -> str:
    """On a worker: nothing, where it runs on what the driver runs on.

    Raises:
        Unusable: it does not; names the first difference.
    """
    here = versions()
    for name, version in driver.items():
        if here[name] != version:
            raise Unusable(
                f"workers need the driver's versions, it has {name} {version}, "
                f"a worker on {platform.node()} has {name} {here[name]}"
            )
    return platform.node()


def java() -> str:
    """The path of a Java that is new enough.

    Raises:
        Unusable: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=os.path.join(home, "bin") if home else None)
    way_out = f"install a JDK {JAVA} or newer, or set JAVA_HOME"
    if found is None:
        raise Unusable(f"java: none {f'in JAVA_HOME={home}' if home else 'on PATH'}; {way_out}")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    number = re.search(r'version "(\d+)', said)
    if number is None or int(number[1]) < JAVA:
        raise Unusable(f"java: {found} is version {number[1] if number else 'unknown'}; {way_out}")
    return found
