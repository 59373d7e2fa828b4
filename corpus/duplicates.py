"""Which documents repeat an earlier one, word for word or nearly so. What was seen is kept on disk, not in memory."""

import functools
import hashlib
import re
import sqlite3
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

GRAM = 5  # words
BANDS, ROWS = 16, 8
"""128 minimal hashes as 16 bands of 8: documents that share a band are compared."""

ALIKE = 0.8
"""Two documents are the same from this estimated Jaccard similarity of their sets of 5-word sequences on."""

_CHUNK = 1024  # shingles hashed at once
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64, Steele et al. 2014


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


def words_of(text: str) -> list[str]:
    """The words two documents are compared by: letters and digits in lower case, compatibility forms made one.

    >>> words_of("They went -- out, TOGETHER\\u00a0!")
    ['they', 'went', 'out', 'together']
    """
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def signature(text: str) -> np.ndarray:
    """MinHash of a document's set of 5-word sequences: (128,) uint64; a shorter document is one sequence.

    The share of equal values in two signatures estimates the Jaccard similarity of the sets, with a standard error
    of at most 0.045.

    Source: Broder 1997, On the resemblance and containment of documents.
    """
    hashes = np.array([_hash(word) for word in words_of(text)], dtype=np.uint64)
    grams = np.zeros(max(1, len(hashes) - GRAM + 1), dtype=np.uint64)
    for offset in range(min(GRAM, len(hashes))):
        grams = _mixed(grams + hashes[offset : offset + len(grams)])
    smallest = np.full(BANDS * ROWS, np.iinfo(np.uint64).max, dtype=np.uint64)
    factors, terms = _linear()
    for first in range(0, len(grams), _CHUNK):
        values = grams[first : first + _CHUNK, None] * factors + terms  # modulo 2^64
        np.minimum(smallest, values.min(axis=0), out=smallest)
    return smallest


def _exact(database: sqlite3.Connection, id: str, text: str) -> str | None:
    key = hashlib.sha256(" ".join(words_of(text)).encode()).digest()
    if database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, id)).rowcount:
        return None
    return database.execute("SELECT id FROM seen WHERE hash = ?", (key,)).fetchone()[0]


def _near(database: sqlite3.Connection, id: str, text: str) -> str | None:
    mine = signature(text)
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


def _bands(values: np.ndarray) -> list[int]:
    """(128,) -> one signed 64-bit hash per band, as SQLite holds integers."""
    rows = values.reshape(BANDS, ROWS).astype("<u8")
    digests = (hashlib.blake2b(bytes([band]) + row.tobytes(), digest_size=8) for band, row in enumerate(rows))
    return [int.from_bytes(digest.digest(), "little", signed=True) for digest in digests]


def _mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that leaves no pattern."""
    for shift, factor in zip((np.uint64(30), np.uint64(27)), _MIX, strict=True):
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> np.uint64(31))


@functools.lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


@functools.cache
def _linear() -> tuple[np.ndarray, np.ndarray]:
    """(128,) odd factors and terms of the 128 hash functions, always the same."""
    values = _mixed(np.arange(1, 2 * BANDS * ROWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return values[: BANDS * ROWS] | np.uint64(1), values[BANDS * ROWS :]
