"""What a submission to Dataflow needs of this machine, found without importing Beam."""

import importlib.util
import os
from pathlib import Path

CLIENT = {
    "google.cloud.dataflow": "google-cloud-dataflow-client",
    "google.cloud.storage": "google-cloud-storage",
    "google_auth_httplib2": "google-auth-httplib2",
    "apitools": "google-apitools",
}
"""Module -> package that a submission imports; apache-beam[gcp] has them."""


def client_missing() -> str:
    """Names of the packages that a submission needs and this machine lacks."""
    missing = []
    for module, package in CLIENT.items():
        try:
            there = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # of a parent
            there = False
        if not there:
            missing.append(package)
    return ", ".join(missing)


def credentials_file() -> str | None:
    """Where Google's libraries find credentials without asking the network: a file that is named or usual."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    home = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    usual = Path(home) / "application_default_credentials.json"
    return named or (str(usual) if usual.is_file() else None)
