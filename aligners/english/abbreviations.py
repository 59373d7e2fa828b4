"""Abbreviations, initials and Roman numerals as words."""

import re
from typing import NamedTuple

from aligners.english.numerals import cardinal, ordinal, roman

TITLES = {
    "dr": "doctor",
    "mr": "mister",
    "mrs": "missus",
    "ms": "miz",
    "messrs": "messers",
    "prof": "professor",
    "rev": "reverend",
    "hon": "honorable",
    "gen": "general",
    "col": "colonel",
    "capt": "captain",
    "maj": "major",
    "lt": "lieutenant",
    "sgt": "sergeant",
    "cpl": "corporal",
    "gov": "governor",
    "sen": "senator",
    "rep": "representative",
    "pres": "president",
}
"""Abbreviation, written with a full stop -> spoken."""

MONTHS = {
    "jan": "january",
    "feb": "february",
    "aug": "august",
    "sept": "september",
    "oct": "october",
    "nov": "november",
    "dec": "december",
    **{name: name for name in ["january", "february", "march", "april", "may", "june", "july", "august"]},
    **{name: name for name in ["september", "october", "november", "december"]},
}
"""After one of these a number up to 31 is the day: "Jan. 5" is read january fifth."""

ABBREVIATIONS = (
    TITLES
    | MONTHS
    | {
        "jr": "junior",
        "sr": "senior",
        "esq": "esquire",
        "vs": "versus",
        "etc": "et cetera",
        "ave": "avenue",
        "blvd": "boulevard",
        "dept": "department",
        "inc": "incorporated",
        "ltd": "limited",
        "co": "company",
        "corp": "corporation",
        "approx": "approximately",
        "vol": "volume",
        "chap": "chapter",
        "ft": "feet",
        "mt": "mount",
        "bros": "brothers",
        "univ": "university",
        "misc": "miscellaneous",
        "asst": "assistant",
        "supt": "superintendent",
        "wm": "william",
        "chas": "charles",
        "geo": "george",
        "jas": "james",
        "tues": "tuesday",
        "thurs": "thursday",
        "ph.d": "p h d",
    }
)

BEFORE_NUMBERS = {
    "no": "number",
    "nos": "numbers",
    "p": "page",
    "pp": "pages",
    "fig": "figure",
    "sec": "section",
    "ch": "chapter",
}
"""Abbreviation with a full stop before a number -> spoken."""

NUMBERED = frozenset({
    "chapter", "part", "volume", "book", "section", "act", "scene", "war", "article", "class", "type", "phase",
    "figure", "table", "appendix", "level", "stage", "vol", "ch", "chap", "pt", "bk", "fig", "sec", "art",
})  # fmt: skip
"""Words after which a Roman numeral is a number: Chapter XIV, World War II."""
RULERS = frozenset({
    "henry", "louis", "edward", "george", "charles", "james", "william", "richard", "philip",
    "john", "paul", "pius", "leo", "gregory", "innocent", "clement", "benedict", "elizabeth",
    "frederick", "ferdinand", "napoleon", "nicholas", "alexander", "peter", "catherine", "ivan", "otto",
    "ramses", "rameses", "ptolemy", "darius", "xerxes", "constantine", "theodosius", "urban", "sixtus",
    "julius", "alfonso", "umberto", "victor", "wilhelm", "francis", "joseph", "leopold", "christian",
    "gustav", "gustavus", "mohammed", "mehmed", "murad", "selim", "boniface", "robert", "david",
    "malcolm", "haakon", "juan", "carlos", "mary", "emmanuel", "emanuel", "pedro",
})  # fmt: skip
"""Names after which a Roman numeral is an ordinal: Henry VIII is read Henry the eighth."""

BARE = frozenset({"dr", "mr", "mrs", "ms", "messrs", "jr", "sgt", "vs"})
"""Abbreviations that are no words, so that they are expanded without a full stop too (British style: "Mr Smith")."""

CONTRACTIONS = frozenset(
    {"'bout", "'cause", "'course", "'em", "'gain", "'kay", "'n", "'round", "'til", "'tis", "'twas"}
)
"""Words of the dictionary that begin with an apostrophe; before other words it is a quotation mark."""


INITIALS = re.compile(r"(?=...)(?:[a-z]\.)+[a-z]?(?:'s)?")
"""U.S., e.g., p.m., U.S.'s"""


class Around(NamedTuple):
    """A stretch as it is written, and the ones before and after it."""

    chunk: str
    before: str
    following: str


def read_abbreviation(bare: str, around: Around) -> list[str]:
    """Spoken form of an abbreviation, [] if it is none; `bare` is lower case without brackets and quotes."""
    following = around.following
    stem = bare.rstrip(".")
    dotted = bare != stem
    if stem == "st" and dotted:
        return ["saint" if following[:1].isupper() else "street"]
    if stem == "ft" and dotted and following[:1].isupper() and not around.before[-1:].isdigit():
        return ["fort"]
    if stem in BEFORE_NUMBERS and dotted and following[:1].isdigit():
        return [BEFORE_NUMBERS[stem]]
    if stem in ABBREVIATIONS and (dotted or stem in BARE):
        return ABBREVIATIONS[stem].split()
    if INITIALS.fullmatch(bare):
        letters = re.findall("[a-z]", bare.removesuffix("'s"))
        return [*letters[:-1], letters[-1] + ("'s" if bare.endswith("'s") else "")]
    return []


def read_roman(bare: str, around: Around) -> list[str]:
    """A Roman numeral in capitals after a word that requires one."""
    stem = bare.rstrip(".").removesuffix("'s")
    value = roman(stem)
    if value is None or re.sub("[^A-Za-z]", "", around.chunk.removesuffix("s")) != stem.upper():
        return []
    before = re.sub(r"\W", "", around.before.lower())
    last = "'s" if bare.rstrip(".").endswith("'s") else ""
    if before in NUMBERED:
        words = cardinal(str(value))
    elif before in RULERS and around.before[:1].isupper() and stem not in ("i", "l", "c", "d", "m"):
        words = ["the", *ordinal(str(value))]
    else:
        return []
    return [*words[:-1], words[-1] + last]


def read_word(match: re.Match) -> list[str]:
    """A run of letters and apostrophes; apostrophes at its ends are quotation marks but for known contractions."""
    word = match[0]
    if word not in CONTRACTIONS:
        word = word.strip("'")
    return ABBREVIATIONS[word].split() if word in BARE else [word]
