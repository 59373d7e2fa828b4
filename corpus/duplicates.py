"""Which documents repeat an earlier one, word for word or nearly so. What was seen is kept on disk, not in memory."""

import functools
import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np

from corpus.minhash import band_keys, signatures, text_grams, words_of

BANDS = 16
"""128 minimal hashes as 16 bands of 8: documents that share a band are compared."""

ALIKE = 0.8
"""Two documents are the same from this estimated Jaccard similarity of their sets of 5-word sequences on."""


def finder(how: str, database: sqlite3.Connection) -> Callable[[str, str], str | None]:
    """A function (id, text) -> id of the earlier document it repeats, or None; it keeps those that repeat none.

    Args:
        how: "exact": the same words, whatever case, punctuation and spaces; "near": nearly the same, by MinHash.
        database: empty; it holds 32 bytes per document for "exact", about 1.5 kB for "near".

    Raises:
        ValueError: another `how`.
    """
    database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
    if how == "exact":
        database.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID")
        return functools.partial(_exact, database)
    if how == "near":
        database.execute("CREATE TABLE seen (number INTEGER PRIMARY KEY, id TEXT, signature BLOB)")
        database.execute(
            "CREATE TABLE bands (band INTEGER, number INTEGER, PRIMARY KEY (band, number)) WITHOUT ROWID"
        )
        return functools.partial(_near, database)
    raise ValueError(f"duplicates: need 'exact' or 'near', got {how!r}")


def open_database(path: Path) -> sqlite3.Connection:
    """A new database file."""
    path.unlink(missing_ok=True)
    return sqlite3.connect(path)


def _exact(database: sqlite3.Connection, id: str, text: str) -> str | None:
    key = hashlib.sha256(" ".join(words_of(text)).encode()).digest()
    if database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, id)).rowcount:
        return None
    return database.execute("SELECT id FROM seen WHERE hash = ?", (key,)).fetchone()[0]


def _near(database: sqlite3.Connection, id: str, text: str) -> str | None:
    mine = signatures([text_grams(text)])[0]
    bands = _bands(mine)
    candidates = database.execute(
        "SELECT id, signature FROM seen WHERE number IN "
        f"(SELECT number FROM bands WHERE band IN ({', '.join('?' * BANDS)})) ORDER BY number",
        bands,
    )
    for other, theirs in candidates:
        if np.count_nonzero(np.frombuffer(theirs, dtype="<u8") == mine) >= ALIKE * len(mine):
            return other
    row = "INSERT INTO seen (id, signature) VALUES (?, ?)"
    number = database.execute(row, (id, mine.astype("<u8").tobytes())).lastrowid
    database.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(band, number) for band in bands])
    return None


def _bands(mine: np.ndarray) -> list[int]:
    """(128,) -> one signed 64-bit key per band, as SQLite holds integers."""
    return band_keys(mine[None], BANDS)[0].astype("<i8").tolist()
