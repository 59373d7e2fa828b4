"""Audio + words -> word times. One file per backend; `alignment.py` holds what all of them promise.

>>> load_aligner("given").name
'given'
"""

from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aligners.alignment import Aligner

BACKENDS = {"pocketsphinx": "Pocketsphinx", "given": "Given", "ctc": "Ctc", "mfa": "Mfa"}
"""Backend, which is also the name of its file -> its class; its settings are the class's name + Settings."""


def load_aligner(name: str, **settings: Any) -> "Aligner":
    """An aligner by name.

    Args:
        name: one of BACKENDS.
        **settings: fields of the backend's settings, for example `minimum_score=None`.

    Raises:
        ValueError: no such backend or setting; names the known ones.
    """
    if name not in BACKENDS:
        raise ValueError(f"aligner {name!r}: no such backend; known: {sorted(BACKENDS)}")
    backend = import_module(f"aligners.{name}")
    record = getattr(backend, f"{BACKENDS[name]}Settings")
    known = [field.name for field in fields(record)]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ValueError(f"aligner {name}: has no settings {unknown}; it knows {known}")
    return getattr(backend, BACKENDS[name])(record(**settings))
