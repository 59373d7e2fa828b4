"""A text -> its stretches between white space, tags apart."""

import re
from collections.abc import Iterator
from itertools import pairwise

from aligners.markup import tags

CHUNK = re.compile("[\\s\u200b\u2060\ufeff]+")  # zero-width spaces separate words too
BREAK = re.compile(r"(?:--+|[\u2012-\u2015\u2026]|\.\.+)")
CHUNK_MARKS = re.compile(f"[\u200b\u2060\ufeff]|{BREAK.pattern}")
"""What splits a text beside white space."""
RANGE = re.compile("[0-9][\u2012\u2013][0-9]")
IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
AFTER_IDEOGRAPH = re.compile(f"{IDEOGRAPH.pattern}[^\\w]*")


def split(text: str) -> Iterator[tuple[int, int, bool]]:
    """(first, last, is tag) of every stretch between white space; also cut after dashes and ellipses inside one."""
    position = 0
    for tag in [*tags(text), None]:
        for first, last in untagged(text, position, tag[0] if tag else len(text)):
            yield first, last, False
        if tag:
            yield *tag, True
            position = tag[1]


def untagged(text: str, position: int, end: int) -> Iterator[tuple[int, int]]:
    """(first, last) of the stretches of text[position:end], which holds no tag."""
    while position < end:
        space = CHUNK.match(text, position, end)
        if space:
            position = space.end()
            continue
        gap = CHUNK.search(text, position, end)
        last = gap.start() if gap else end
        pause = BREAK.search(text, position + 1, last)
        if pause and RANGE.fullmatch(text, pause.start() - 1, pause.end() + 1):
            pause = None  # pages 10–12 are one word
        if pause and any(char.isalnum() for char in text[pause.end() : last]):
            last = pause.end()
        yield position, last
        position = last


def by_ideograph(text: str) -> Iterator[tuple[int, int, bool]]:
    """`split`, where every Chinese character is a chunk of its own: no spaces mark the ends of words.

    >>> [text[first:last] for text in ["他说hello,世界。"] for first, last, _ in by_ideograph(text)]
    ['他', '说', 'hello,', '世', '界。']
    """
    for first, last, marker in split(text):
        cuts = [] if marker else [match.start() for match in IDEOGRAPH.finditer(text, first, last)]
        ends = [match.end() for match in AFTER_IDEOGRAPH.finditer(text, first, last) if match.end() < last]
        edges = sorted({first, *cuts, *([] if marker else ends), last})
        yield from ((a, b, marker) for a, b in pairwise(edges))
