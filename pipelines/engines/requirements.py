"""What engines need of this machine and of their workers, found without importing Beam or Spark."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from corpus.provenance import versions
from corpus.records import Unusable

JAVA = 17  # the oldest that Spark 4 runs on
GOOGLE_CLIENT = {
    "google.cloud.dataflow": "google-cloud-dataflow-client",
    "google.cloud.storage": "google-cloud-storage",
    "google_auth_httplib2": "google-auth-httplib2",
    "apitools": "google-apitools",
}
"""Module -> package that a submission to Dataflow imports; apache-beam[gcp] has them."""


def check_versions(driver: dict[str, str]) -> str:
    """On a worker: its name, where it runs the driver's versions.

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


def find_java() -> tuple[str | None, int | None]:
    """The `java` of JAVA_HOME or the PATH, and its major version; None for what is unknown."""
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=os.path.join(home, "bin") if home else None)
    if program is None:
        return None, None
    try:
        answer = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return program, None
    number = re.search(r'version "(\d+)', answer.stderr)
    return program, int(number[1]) if number else None


def java() -> str:
    """The path of a Java that is new enough.

    Raises:
        Unusable: there is none.
    """
    program, version = find_java()
    home = os.environ.get("JAVA_HOME")
    way_out = f"install a JDK {JAVA} or newer, or set JAVA_HOME"
    if program is None:
        raise Unusable(f"java: none {f'in JAVA_HOME={home}' if home else 'on PATH'}; {way_out}")
    if version is None or version < JAVA:
        raise Unusable(f"java: {program} is version {version or 'unknown'}; {way_out}")
    return program


def missing_google_packages() -> str:
    """Names of the packages that a submission to Dataflow needs and this machine lacks."""
    missing = []
    for module, package in GOOGLE_CLIENT.items():
        try:
            present = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # of a parent
            present = False
        if not present:
            missing.append(package)
    return ", ".join(missing)


def credentials_file() -> str | None:
    """Where Google's libraries find credentials without the network: a file that is named, or the usual one."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    home = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    usual = Path(home) / "application_default_credentials.json"
    return named or (str(usual) if usual.is_file() else None)
