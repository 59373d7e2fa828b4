"""Writing -> the words that are spoken, each with the way back to its stretch of the writing.

English is read out: numbers, money, abbreviations and symbols become words. Other languages are only lower-cased and
freed of punctuation. The rules are ours; inflect (MIT) spells the numbers.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple

import inflect

ENGLISH = frozenset({"en", "eng", "english"})

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
    }
)

BARE = frozenset({"dr", "mr", "mrs", "ms", "messrs", "jr", "sgt", "vs"})
"""Abbreviations that are no words and are read out without their full stop too (British style: "Mr Smith")."""

CONTRACTIONS = frozenset(
    {"'bout", "'cause", "'course", "'em", "'gain", "'kay", "'n", "'round", "'til", "'tis", "'twas"}
)
"""Words of the dictionary that begin with an apostrophe; before other words it is a quotation mark."""

SYMBOLS = {"&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals", "°": "degrees", "§": "section"}
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
}
MAGNITUDES = ("thousand", "million", "billion", "trillion")
LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "th", "þ": "th", "ı": "i"})
QUOTES = str.maketrans({mark: "'" for mark in "\u2018\u2019\u201b\u02bc\u02b9\u2032\uff07`\u00b4"})

CHUNK = re.compile(r"\s+")
MARKER = re.compile(r"\[[^\[\]]*\]|<[^<>]*>|\{[^{}]*\}")
BREAK = re.compile(r"(?:--+|[\u2012-\u2015\u2026]|\.\.+)")
NUMBER = r"[0-9]+(?:,[0-9]{3})+(?![0-9])|[0-9]+"


class Token(NamedTuple):
    """One word of the writing: how it is spoken, and its half-open range of characters in the original text."""

    spoken: tuple[str, ...]
    first: int
    last: int


def normalise(text: str, language: str = "en") -> tuple[Token, ...]:
    """Read a text out, word of the writing by word of the writing.

    Every letter and digit of the text lies in exactly one token's range; ranges are in order. What is not spoken
    (punctuation standing alone, markers such as [laughter] or <noise>) belongs to the token before it, or to the first.
    A token of several spoken words stays one token, so that the writing is never torn.

    Args:
        text: a transcript.
        language: "en", "en-US", "eng" and the like read numbers and abbreviations out; any other only lower-cases.

    Returns:
        Tokens whose spoken words are lower case; empty if nothing is spoken.

    >>> text = "Dr. Smith paid $3.50, [laughs] twice."
    >>> for spoken, first, last in normalise(text): print(spoken, repr(text[first:last]))
    ('doctor',) 'Dr.'
    ('smith',) 'Smith'
    ('paid',) 'paid'
    ('three', 'dollars', 'fifty') '$3.50, [laughs]'
    ('twice',) 'twice.'
    """
    read: Callable[..., list[str]] = read_english if is_english(language) else read_other
    chunks = list(split(text))
    tokens: list[Token] = []
    waiting = None  # where unspoken text before the first token began
    skip = False
    for place, (first, last, marker) in enumerate(chunks):
        if skip:
            skip = False
            continue
        following = text[slice(*chunks[place + 1][:2])] if place + 1 < len(chunks) else ""
        before = text[slice(*chunks[place - 1][:2])] if place else ""
        spoken = [] if marker else read(text[first:last], following, before)
        if spoken and is_english(language) and (amount := large_amount(text[first:last], following)):
            spoken, last, skip = amount, chunks[place + 1][1], True
        if spoken:
            tokens.append(Token(tuple(spoken), first if waiting is None else waiting, last))
            waiting = None
        elif tokens:
            tokens[-1] = tokens[-1]._replace(last=last)
        elif waiting is None:
            waiting = first
    return tuple(tokens)


def is_english(language: str) -> bool:
    """Whether a language tag means English.

    >>> is_english("en-GB"), is_english("English"), is_english("de")
    (True, True, False)
    """
    return re.split("[-_]", language.strip().lower())[0] in ENGLISH


def split(text: str) -> Iterator[tuple[int, int, bool]]:
    """(first, last, is marker) of every stretch between white space; also cut after dashes and ellipses inside one."""
    place = 0
    for marker in [*MARKER.finditer(text), None]:
        end = marker.start() if marker else len(text)
        while place < end:
            space = CHUNK.match(text, place, end)
            if space:
                place = space.end()
                continue
            gap = CHUNK.search(text, place, end)
            last = gap.start() if gap else end
            pause = BREAK.search(text, place + 1, last)
            if pause and any(char.isalnum() for char in text[pause.end() : last]):
                last = pause.end()
            yield place, last, False
            place = last
        if marker:
            yield marker.start(), marker.end(), True
            place = marker.end()


# --- English --------------------------------------------------------------------------------------------------------


def read_english(chunk: str, following: str = "", before: str = "") -> list[str]:
    """The spoken words of one stretch without white space, between two others.

    >>> read_english("forty-two"), read_english("1984"), read_english("café's"), read_english("(1st)")
    (['forty', 'two'], ['nineteen', 'eighty', 'four'], ["cafe's"], ['first'])
    >>> read_english("St.", "Paul"), read_english("St.", "and"), read_english("10:30"), read_english("50%")
    (['saint'], ['street'], ['ten', 'thirty'], ['fifty', 'percent'])
    """
    folded = fold(chunk)
    bare = folded.strip("\"'()[]{}<>,;:!?*_“”«»„¡¿")
    abbreviated = read_abbreviation(bare, following)
    if abbreviated:
        return abbreviated
    if before.lower().rstrip(".") in MONTHS and re.fullmatch("[1-9]|[12][0-9]|3[01]", bare):
        return ordinal(bare)
    spoken: list[str] = []
    place = 0
    while place < len(folded):
        for pattern, read in READERS:
            match = pattern.match(folded, place)
            if match:
                spoken += read(match)
                place = match.end()
                break
        else:
            place += 1
    return spoken or [word for word in re.findall(r"[^\W_]+", chunk.lower())]


def fold(chunk: str) -> str:
    """Lower case, without accents, apostrophes all alike; only lower-cased if no letter would survive that."""
    lowered = unicodedata.normalize("NFKD", chunk.translate(QUOTES).casefold()).casefold().translate(LETTERS)
    plain = "".join(char for char in lowered if unicodedata.category(char) not in ("Mn", "Cf"))
    plain = unicodedata.normalize("NFKC", plain.translate(QUOTES))
    return plain if any(map(str.isalnum, plain)) or not any(map(str.isalnum, chunk)) else chunk.lower()


def read_abbreviation(bare: str, following: str) -> list[str]:
    """Spoken form of an abbreviation, [] if it is none; `bare` is lower case without brackets and quotes."""
    stem = bare.rstrip(".")
    dotted = bare != stem
    if stem == "st" and dotted:
        return ["saint" if following[:1].isupper() else "street"]
    if stem in ("no", "nos") and dotted and following[:1].isdigit():
        return ["number" if stem == "no" else "numbers"]
    if stem in ("p", "pp") and dotted and following[:1].isdigit():
        return ["page" if stem == "p" else "pages"]
    if stem in ABBREVIATIONS and (dotted or stem in BARE):
        return ABBREVIATIONS[stem].split()
    if (
        re.fullmatch(r"(?:[a-z]\.)+[a-z]?(?:'s)?", bare) and len(bare) > 2
    ):  # initials: U.S., e.g., p.m., U.S.'s
        letters = re.findall("[a-z]", bare.removesuffix("'s"))
        return [*letters[:-1], letters[-1] + ("'s" if bare.endswith("'s") else "")]
    return []


def large_amount(chunk: str, following: str) -> list[str]:
    """ "$3.5" "million" is read as three point five million dollars."""
    match = re.fullmatch(rf"[\"'(]*([$£€¥])({NUMBER})(\.[0-9]+)?", fold(chunk))
    magnitude = re.fullmatch(r"([a-z]+)\W*", following.lower())
    if not match or not magnitude or magnitude[1] not in MAGNITUDES:
        return []
    return [*decimal(match[2], match[3]), magnitude[1], CURRENCIES[match[1]][1]]


@functools.cache
def engine() -> inflect.engine:
    """inflect's speller, made once: it takes a moment."""
    return inflect.engine()


def words_of(spelled: object) -> list[str]:
    return re.findall("[a-z]+", str(spelled).lower())


def cardinal(digits: str) -> list[str]:
    """A whole number; one with a leading zero, or longer than fifteen digits, digit by digit.

    >>> cardinal("1,024"), cardinal("007")
    (['one', 'thousand', 'twenty', 'four'], ['oh', 'oh', 'seven'])
    """
    plain = digits.replace(",", "")
    if len(plain) > 15 or (plain[0] == "0" and len(plain) > 1):
        return ["oh" if digit == "0" else words_of(engine().number_to_words(digit))[0] for digit in plain]
    return words_of(engine().number_to_words(plain, andword=""))


def ordinal(digits: str) -> list[str]:
    """
    >>> ordinal("21")
    ['twenty', 'first']
    """
    return words_of(engine().number_to_words(engine().ordinal(digits.replace(",", "")), andword=""))


def year(digits: str) -> list[str]:
    """
    >>> year("1905"), year("1900"), year("2007"), year("2024")
    (['nineteen', 'oh', 'five'], ['nineteen', 'hundred'], ['two', 'thousand', 'seven'], ['twenty', 'twenty', 'four'])
    """
    century, rest = digits[:2], digits[2:]
    if century[1] == "0" and rest[0] == "0":
        return cardinal(digits)
    if rest == "00":
        return [*cardinal(century), "hundred"]
    return cardinal(century) + cardinal(rest)


def number(digits: str) -> list[str]:
    """Four digits from 1100 to 2099 without a comma are a year."""
    return year(digits) if re.fullmatch("1[1-9][0-9]{2}|20[0-9]{2}", digits) else cardinal(digits)


def decimal(digits: str, fraction: str | None) -> list[str]:
    """
    >>> decimal("3", ".14")
    ['three', 'point', 'one', 'four']
    """
    if not fraction:
        return cardinal(digits)
    return [*cardinal(digits), "point", *(word for digit in fraction[1:] for word in cardinal(digit))]


def read_money(match: re.Match) -> list[str]:
    one, many, part, parts = CURRENCIES[match["currency"]]
    whole, fraction, scale = match["whole"], match["fraction"], match["scale"]
    if scale:
        return [*decimal(whole, fraction), {"k": "thousand", "m": "million", "bn": "billion"}[scale], many]
    if fraction and len(fraction) != 3:
        return [*decimal(whole, fraction), many]
    cents = int(fraction[1:]) if fraction else 0
    if not cents:
        return [*cardinal(whole), one if whole == "1" else many]
    if whole == "0":
        return [*cardinal(str(cents)), part if cents == 1 else parts]
    return [*cardinal(whole), one if whole == "1" else many, *cardinal(str(cents))]


def read_time(match: re.Match) -> list[str]:
    hour, minute = match[1], match[2]
    tail = [] if minute == "00" else cardinal(minute)
    return cardinal(hour) + (tail or ["o'clock"])


def read_plural(match: re.Match) -> list[str]:
    """1990s, '90s, 60s: the last word in the plural."""
    *start, last = number(match[1])
    if last.endswith("y"):
        return [*start, last[:-1] + "ies"]
    return [*start, last + ("es" if last.endswith("x") else "s")]


def read_word(match: re.Match) -> list[str]:
    """A run of letters and apostrophes; apostrophes at its ends are quotation marks but for known contractions."""
    word = match[0]
    if word not in CONTRACTIONS:
        word = word.strip("'")
    return ABBREVIATIONS[word].split() if word in BARE else [word]


READERS: list[tuple[re.Pattern, Callable[[re.Match], list[str]]]] = [
    (
        re.compile(
            rf"(?P<currency>[$£€¥])(?P<whole>{NUMBER})(?P<fraction>\.[0-9]+)?(?:(?P<scale>k|m|bn)(?![^\W_]))?"
        ),
        read_money,
    ),
    (re.compile(r"([0-9]{1,2}):([0-5][0-9])(?![0-9])"), read_time),
    (re.compile(rf"({NUMBER})(?:st|nd|rd|th)(?![^\W_])"), lambda match: ordinal(match[1])),
    (re.compile(r"'?((?:[0-9]{2})?[0-9]0)'?s(?![^\W_])"), read_plural),
    (
        re.compile(rf"(?<![^\W_])-({NUMBER})(\.[0-9]+)?(?![0-9-])"),
        lambda match: ["minus", *decimal(match[1], match[2])],
    ),
    (re.compile(rf"({NUMBER})(\.[0-9]+)"), lambda match: decimal(match[1], match[2])),
    (re.compile(NUMBER), lambda match: number(match[0])),
    (re.compile(r"#(?=[0-9])"), lambda match: ["number"]),
    (re.compile("[" + re.escape("".join(SYMBOLS)) + "]"), lambda match: [SYMBOLS[match[0]]]),
    (re.compile(r"(?:[^\W\d_]|'(?=[^\W\d_]))(?:[^\W0-9_]|'(?=[^\W\d_]))*"), read_word),
]


# --- other languages ------------------------------------------------------------------------------------------------


def read_other(chunk: str, following: str = "", before: str = "") -> list[str]:
    """Runs of letters, marks, digits and inner apostrophes, lower case, accents kept.

    >>> read_other("L’été,"), read_other("«Straße»")
    (["l'été"], ['straße'])
    """
    lowered = unicodedata.normalize("NFC", chunk.translate(QUOTES).lower())
    kept = "".join(char if char == "'" or unicodedata.category(char)[0] in "LMN" else " " for char in lowered)
    return [word for word in (word.strip("'") for word in kept.split()) if any(map(str.isalnum, word))]
