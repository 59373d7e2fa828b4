"""Days, months and times of day as words."""

import re

from aligners.english.abbreviations import MONTHS, Around
from aligners.english.numerals import cardinal, number, ordinal

YEAR_CONTEXT = frozenset(
    {"in", "year", "since", "until", "till", "circa", "anno", "before", "after", "by", "of"}
)
"""Words after which 1010 to 1099 is a year."""


def read_date(bare: str, around: Around) -> list[str]:
    """Days and months in figures, and a day before or after its month."""
    if not bare[:1].isdigit():
        return []
    if match := re.fullmatch("([12][0-9]{3})-([01][0-9])-([0-3][0-9])", bare):
        return in_full(match[1], match[2], match[3])
    if match := re.fullmatch("([01]?[0-9])/([0-3]?[0-9])/([12][0-9]{3})", bare):
        return in_full(match[3], match[1], match[2])
    if re.fullmatch("[1-9]|[12][0-9]|3[01]", bare):
        if is_month(around.before):
            return ordinal(bare)
        if is_month(around.following.rstrip(",;:!?")):
            the = [] if around.before.lower() == "the" else ["the"]
            return [*the, *ordinal(bare), "of"]
    if re.fullmatch("10[1-9][0-9]", bare) and around.before.lower() in YEAR_CONTEXT:
        return cardinal(bare[:2]) + cardinal(bare[2:])
    return []


def is_month(word: str) -> bool:
    """Whether a word names a month; "may" and "march" in lower case are verbs."""
    month = word.lower().rstrip(".")
    return month in MONTHS and (month not in ("may", "march") or word[:1] == "M")


def in_full(year_digits: str, month: str, day: str) -> list[str]:
    """
    >>> " ".join(in_full("2001", "12", "25"))
    'december twenty fifth two thousand one'
    """
    names = list(MONTHS.values())[-12:]
    if not 1 <= int(month) <= 12 or not 1 <= int(day) <= 31:
        return []
    return [names[int(month) - 1], *ordinal(str(int(day))), *number(year_digits)]


def read_time(match: re.Match) -> list[str]:
    hour, minute = match[1], match[2]
    tail = [] if minute == "00" else cardinal(minute)
    half = list(match[3] or "")
    return cardinal(hour) + (tail + half or ["o'clock"])
