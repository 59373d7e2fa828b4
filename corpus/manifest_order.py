"""The order of a manifest's rows: a build that is given more recordings leaves the old ones in their parts.

Rows that an earlier manifest held keep its order and its parts; new ones follow at the end, wherever they are in the
source. So ten recordings more touch the last part alone, and a source that only grew at its end gives the manifest that
it would give to an empty build.
"""

import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from corpus import files

Row = dict[str, Any]


class Order:
    """The rows of a source, put into the order of an earlier manifest; kept in a file, not in memory.

    Rows are identified by their id; of several with one id, the first counts.
    """

    def __init__(self, folder: Path, parts: list[str], database: Path):
        self.parts = len(parts)
        self.matched = 0  # rows that the earlier manifest held too
        self._database = sqlite3.connect(database)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE old (id TEXT, nth INT, part INT, row INT, PRIMARY KEY (id, nth)) WITHOUT ROWID;"
            "CREATE TABLE fresh (part INT, row INT, content TEXT, PRIMARY KEY (part, row)) WITHOUT ROWID;"
            "CREATE TABLE seen (who INT, id TEXT, times INT, PRIMARY KEY (who, id)) WITHOUT ROWID"
        )
        for number, table in enumerate(files.read_tables(folder, parts, ["id"])):
            ids = table.column("id").to_pylist()
            positions = [(id, self._nth(0, id), number, row) for row, id in enumerate(ids)]
            self._database.executemany("INSERT INTO old VALUES (?, ?, ?, ?)", positions)

    def fill(self, rows: Iterable[Row]) -> "Order":
        """Take in the rows of the source."""
        for number, row in enumerate(rows):
            key = (row["id"], self._nth(1, row["id"]))
            old = self._database.execute("SELECT part, row FROM old WHERE id = ? AND nth = ?", key).fetchone()
            self.matched += old is not None
            position = old or (self.parts, number)
            self._database.execute("INSERT INTO fresh VALUES (?, ?, ?)", (*position, json.dumps(row)))
        return self

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with the number of its old part; new ones last, with the number after the last old part's."""
        for part, content in self._database.execute("SELECT part, content FROM fresh ORDER BY part, row"):
            yield part, json.loads(content)

    def whole(self) -> Iterator[list[Row]]:
        """The rows of each old part but the last; one that is empty now is kept while one after it is not."""
        number = 0
        kept = itertools.takewhile(lambda numbered: numbered[0] < self.parts - 1, self.rows())
        for part, group in itertools.groupby(kept, key=lambda numbered: numbered[0]):
            yield from ([] for _ in range(number, part))
            yield [row for _, row in group]
            number = part + 1
        if next(self.rest(), None) is not None:
            yield from ([] for _ in range(number, self.parts - 1))

    def rest(self) -> Iterator[Row]:
        """The rows of the last old part and the new ones."""
        query = "SELECT content FROM fresh WHERE part >= ? ORDER BY part, row"
        return (json.loads(content) for (content,) in self._database.execute(query, (self.parts - 1,)))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _nth(self, who: int, id: str) -> int:
        """How often this id came before."""
        query = (
            "INSERT INTO seen VALUES (?, ?, 0) ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times"
        )
        return self._database.execute(query, (who, id)).fetchone()[0]
