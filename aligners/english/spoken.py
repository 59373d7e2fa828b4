"""The spoken words of an English text without their places: how most words are read is looked up."""

import re
from functools import lru_cache

from aligners.chunks import CHUNK_MARKS, untagged
from aligners.english.abbreviations import ABBREVIATIONS, BEFORE_NUMBERS, MONTHS, NUMBERED, RULERS
from aligners.english.amounts import COUNTED, CURRENCY_CODES, MAGNITUDES
from aligners.english.dates import YEAR_CONTEXT
from aligners.english.read import AROUND_SIGNS, large_amount, needs_neighbours, read_english, spaced_amount
from aligners.markup import spoken_in, tags, unescape

PLAIN = re.compile(r"[\"(]*([A-Za-z]?[a-z]+)[\"'),;:!?.]*")
"""Letters with punctuation around them, not all in capitals; group 1 is how they are read, in lower case, unless: """
NEVER_PLAIN = frozenset({"st", "www", *BEFORE_NUMBERS, *COUNTED, *ABBREVIATIONS})
TELLING = frozenset(
    {"the", *MONTHS, *YEAR_CONTEXT, *NUMBERED, *RULERS, *CURRENCY_CODES, *MAGNITUDES, "am", "pm"}
)
"""Words that may change how the stretch before or after them is read."""
MOST_READ = 1 << 18  # stretches whose reading is kept, about 60 MB
MOST_BETWEEN = 1 << 16  # of those that are read with their neighbours, about 40 MB

UNREAD = "?"
"""In place of a reading: the stretch alone is not enough."""


class Readings(dict[str, str]):
    """Stretch between white space -> its spoken words, or `UNREAD`."""

    def __missing__(self, chunk: str) -> str:
        if len(self) > MOST_READ:
            self.clear()
        reading = self[chunk] = read_alone(chunk)
        return reading


_readings = Readings()


def read_alone(chunk: str) -> str:
    """The spoken words of a stretch; `UNREAD` where they may depend on its neighbours, or it is to be cut at a dash.

    >>> [read_alone(chunk) for chunk in ("forty-two,", "St.", "XIV", "10:30", "oh--no")]
    ['forty two', '?', '?', '?', '?']
    """
    match = PLAIN.fullmatch(chunk)
    if match and (word := match[1].lower()) not in NEVER_PLAIN:
        return word
    if (CHUNK_MARKS.search(chunk) and len(parts(chunk)) != 1) or needs_neighbours(chunk):
        return UNREAD
    return " ".join(read_english(chunk))


def parts(chunk: str) -> list[str]:
    """The stretches of one between white space: it is cut after dashes, ellipses and zero-width spaces."""
    return [chunk[first:last] for first, last in untagged(chunk, 0, len(chunk))]


def spoken_english(text: str) -> list[str]:
    """The spoken words of an English text, those of all tokens of `normalise`; some strings hold several.

    >>> spoken_english("Dr. Smith paid $3.50, [laughs] twice.")
    ['doctor', 'smith', 'paid', 'three dollars fifty', 'twice']
    """
    text = unescape(text).text
    chunks: list[str] = []
    readings: list[str] = []
    unread: list[int] = []  # places in both
    laughed: dict[int, str] = {}  # place of a tag -> what is spoken in it
    position = 0
    for first, last in [*tags(text), (len(text), len(text))]:
        pieces = text[position:first].split()
        read = list(map(_readings.__getitem__, pieces))
        places = find_unread(read)
        if any(CHUNK_MARKS.search(pieces[place]) for place in places):
            pieces, read = cut(pieces, read, places)
            places = find_unread(read)
        unread += [len(chunks) + place for place in places]
        chunks += pieces
        readings += read
        if last > first:
            if inside := spoken_in(text[first:last]):
                laughed[len(chunks)] = text[first + inside[0] : first + inside[1]]
                unread.append(len(chunks))
            chunks.append(text[first:last])
            readings.append("")
        position = last
    read_others(chunks, readings, unread, laughed)
    return list(filter(None, readings))


def find_unread(readings: list[str]) -> list[int]:
    """Where a reading is missing."""
    places = [-1]
    for _ in range(readings.count(UNREAD)):  # several times as fast as looking at each in Python
        places.append(readings.index(UNREAD, places[-1] + 1))
    return places[1:]


def cut(pieces: list[str], read: list[str], places: list[int]) -> tuple[list[str], list[str]]:
    """Pieces between white space and their readings, those that hold several stretches replaced by these."""
    chunks: list[str] = []
    readings: list[str] = []
    position = 0
    for place in places:
        if CHUNK_MARKS.search(pieces[place]):
            several = parts(pieces[place])
            chunks += pieces[position:place] + several
            readings += read[position:place] + [_readings[part] for part in several]
            position = place + 1
    return chunks + pieces[position:], readings + read[position:]


def read_others(chunks: list[str], readings: list[str], places: list[int], laughed: dict[int, str]) -> None:
    """Read at these places what depends on its neighbours, as `normalise` does."""
    joined = -1  # the stretch that the one before was read with
    for place in places:
        if place == joined:
            continue
        before = as_neighbour(chunks[place - 1]) if place else ""
        following = as_neighbour(chunks[place + 1]) if place + 1 < len(chunks) else ""
        if place in laughed:
            readings[place] = " ".join(read_english(laughed[place], following, before))
            continue
        readings[place], with_next = read_between(chunks[place], following, before)
        if with_next:
            joined = place + 1
            readings[joined] = ""


@lru_cache(MOST_BETWEEN)
def as_neighbour(chunk: str) -> str:
    """A stretch as far as it may change how the one beside it is read: of most words the first character."""
    word = chunk.strip(AROUND_SIGNS).lower()
    return chunk[:1] if word.isalpha() and word not in TELLING else chunk


@lru_cache(MOST_BETWEEN)
def read_between(chunk: str, following: str, before: str) -> tuple[str, bool]:
    """The spoken words of a stretch between two others, and whether they are those of the following one too."""
    amount = large_amount(chunk, following) or spaced_amount(chunk, following)
    return " ".join(amount or read_english(chunk, following, before)), bool(amount)
