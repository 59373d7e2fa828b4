"""Audio + words -> word times. One file per backend; `alignment.py` holds the contract that all of them keep.

>>> load_aligner("given").name
'given'
"""

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from aligners.alignment import Aligner


class Backend(NamedTuple):
    """A backend of the registry: what it is good for, in one line, and a function that imports (class, settings)."""

    description: str
    classes: "Callable[[], tuple[Callable[[Any], Aligner], type]]"


def load_pocketsphinx() -> "tuple[Callable[[Any], Aligner], type]":
    from aligners.pocketsphinx import Pocketsphinx, PocketsphinxSettings

    return Pocketsphinx, PocketsphinxSettings


def load_given() -> "tuple[Callable[[Any], Aligner], type]":
    from aligners.given import Given, GivenSettings

    return Given, GivenSettings


def load_ctc() -> "tuple[Callable[[Any], Aligner], type]":
    from aligners.ctc import Ctc, CtcSettings

    return Ctc, CtcSettings


def load_mfa() -> "tuple[Callable[[Any], Aligner], type]":
    from aligners.mfa import Mfa, MfaSettings

    return Mfa, MfaSettings


def load_viter() -> "tuple[Callable[[Any], Aligner], type]":
    from aligners.viter import Viter, ViterSettings

    return Viter, ViterSettings


BACKENDS: dict[str, Backend] = {
    "pocketsphinx": Backend("English, nothing to download", load_pocketsphinx),
    "given": Backend("times that came with the data: TextGrid, CTM, CSV, JSON", load_given),
    "ctc": Backend("CTC acoustic models; a small English one is bundled", load_ctc),
    "viter": Backend("any language, with a model fitted on the build or imported from MFA", load_viter),
    "mfa": Backend("the Montreal Forced Aligner, installed separately", load_mfa),
}
"""Every backend by name; the command line and the settings read this."""


def load_aligner(name: str, **settings: Any) -> "Aligner":
    """An aligner by name.

    Args:
        name: one of BACKENDS.
        **settings: fields of the backend's settings, for example `minimum_score=None`.

    Raises:
        ValueError: unknown backend or setting (the message names the known ones), or a tool or model is missing.
    """
    if name not in BACKENDS:
        raise ValueError(f"aligner {name!r}: unknown backend; known: {', '.join(BACKENDS)}")
    aligner, record = BACKENDS[name].classes()
    known = [field.name for field in fields(record)]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ValueError(f"aligner {name}: unknown settings {unknown}; known: {known}")
    return aligner(record(**settings))
