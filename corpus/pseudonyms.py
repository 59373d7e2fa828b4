"""Salted hashes in place of speaker names."""

import hashlib
from pathlib import Path

from corpus import files

SHORTEST = 16  # bytes


def read_salt(path: Path) -> bytes:
    """The salt in a file, without white space around it.

    Raises:
        ValueError: there is no such file, or it is too short to keep anybody from trying all names.
    """
    try:
        salt = files.read(path).strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"corpus.speaker_salt: {files.one_line(error)}") from error
    if len(salt) < SHORTEST:
        raise ValueError(
            f"corpus.speaker_salt: {path}: need at least {SHORTEST} bytes, got {len(salt)}; "
            "`openssl rand -hex 32` makes some"
        )
    return salt


def pseudonym(name: str, salt: bytes) -> str:
    """A name that only the salt leads to; the same for the same name and salt.

    >>> pseudonym("1089", b"0123456789abcdef"), pseudonym("1089", b"another salt of mine")
    ('s-ca0f790ea31f6efff635', 's-5850a4beb69de76481e1')
    """
    key = hashlib.sha256(salt).digest()
    return "s-" + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), key=key, digest_size=10).hexdigest()
