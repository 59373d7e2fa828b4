"""One stretch of English writing without white space -> the words that are spoken."""

import re
import unicodedata
from collections.abc import Callable

from aligners.english.abbreviations import BEFORE_NUMBERS, Around, read_abbreviation, read_roman, read_word
from aligners.english.amounts import (
    ATTACHED,
    COUNTED,
    CURRENCIES,
    CURRENCY_CODES,
    MAGNITUDES,
    NUMBER,
    SYMBOLS,
    read_measure,
    read_money,
    read_range,
    read_unit,
)
from aligners.english.dates import read_date, read_time
from aligners.english.numerals import cardinal, decimal, digits_of, fraction, number, ordinal, plural, roman

LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "th", "þ": "th", "ı": "i"})
QUOTES = str.maketrans(
    {mark: "'" for mark in "\u2018\u2019\u201b\u02bc\u02b9\u2032\uff07`\u00b4"}
    | {"\u2033": '"', "\u2212": "-", "\u2116": "#"}
)
VULGAR = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅕": "1/5",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅝": "5/8",
    "⅞": "7/8",
}
AROUND_SIGNS = "\"'()[],.;:!?"
ADDRESS = re.compile(
    r"(?:www\.|https?://)[a-z0-9./_-]+|[a-z0-9._-]+@[a-z0-9.-]+|[a-z0-9-]+\.(?:com|org|net|edu|gov)"
)
WHOLE = re.compile(f"([0-9]*)([{''.join(VULGAR)}])")


def read_english(chunk: str, following: str = "", before: str = "") -> list[str]:
    """The spoken words of one stretch without white space, between two others.

    >>> read_english("forty-two"), read_english("1984"), read_english("café's"), read_english("(1st)")
    (['forty', 'two'], ['nineteen', 'eighty', 'four'], ["cafe's"], ['first'])
    >>> read_english("St.", "Paul"), read_english("St.", "and"), read_english("10:30"), read_english("50%")
    (['saint'], ['street'], ['ten', 'thirty'], ['fifty', 'percent'])
    """
    chunk, folded, bare = prepare(chunk)
    around = Around(chunk, before, following)
    for read in (read_unit, read_abbreviation, read_roman, read_date, read_in_place):
        if reading := read(bare, around):
            return reading
    return read_out(folded) or [word for word in re.findall(r"[^\W_]+", chunk.lower())]


def prepare(chunk: str) -> tuple[str, str, str]:
    """A stretch without fillers and signs for fractions, the same folded, and that without brackets and quotes."""
    if chunk[:1] in ("%", "&"):
        chunk = re.sub(r"^(?:%|&[-~+])(?=[^\W\d_])", "", chunk)  # fillers of LDC and CHILDES: %um, &-um
    if not chunk.isascii():
        chunk = WHOLE.sub(
            lambda match: f"{match[1]} and {VULGAR[match[2]]}" if match[1] else VULGAR[match[2]], chunk
        )
    folded = fold(chunk)
    return chunk, folded, folded.strip("\"'()[]{}<>,;:!?*_“”«»„¡¿")


def needs_neighbours(chunk: str) -> bool:
    """Whether the spoken words of a stretch may depend on those before and after it.

    >>> [chunk for chunk in "Forty-two St. in in. No. XIV AND 1984 USD".split() if needs_neighbours(chunk)]
    ['St.', 'in.', 'No.', 'XIV', '1984', 'USD']
    """
    _, folded, bare = prepare(chunk)
    stem, sign = bare.rstrip("."), chunk.strip(AROUND_SIGNS)
    return (
        (stem in COUNTED and bare != "in")
        or (bare != stem and (stem in BEFORE_NUMBERS or stem in ("st", "ft")))
        or roman(stem.removesuffix("'s")) is not None
        or re.search("[0-9]", folded) is not None
        or bare == "#"
        or sign in CURRENCIES
        or sign.lower() in CURRENCY_CODES
    )


def read_out(folded: str) -> list[str]:
    """The spoken words of a folded stretch from left to right: the first of `READERS` that fits, at every place."""
    spoken: list[str] = []
    position = 0
    while start := SPOKEN.search(folded, position):
        position = start.start()
        for pattern, reader in WORD_READERS if folded[position].isalpha() else READERS:
            if match := pattern.match(folded, position):
                spoken += reader(match)
                position = match.end()
                break
        else:
            position += 1
    return spoken


def fold(chunk: str) -> str:
    """Lower case, without accents, apostrophes all alike; only lower-cased if no letter would survive that."""
    if chunk.isascii():
        return chunk.lower().replace("`", "'")
    lowered = unicodedata.normalize("NFKD", chunk.translate(QUOTES).casefold()).casefold().translate(LETTERS)
    plain = "".join(char for char in lowered if unicodedata.category(char) not in ("Mn", "Cf"))
    plain = unicodedata.normalize("NFKC", plain.translate(QUOTES))
    return plain if any(map(str.isalnum, plain)) or not any(map(str.isalnum, chunk)) else chunk.lower()


def read_in_place(bare: str, around: Around) -> list[str]:
    """Addresses on the internet, telephone numbers, and hours before "a.m."."""
    if ADDRESS.fullmatch(bare):
        words = re.findall(
            r"[a-z]+|[0-9]+|[.@/]", bare.rstrip("./").removeprefix("https://").removeprefix("http://")
        )
        spoken = {".": ["dot"], "@": ["at"], "/": ["slash"]}
        words = [part for word in words for part in (["w"] * 3 if word == "www" else [word])]
        return [
            part
            for word in words
            for part in spoken.get(word) or (digits_of(word) if word.isdigit() else [word])
        ]
    if not (bare[:1].isdigit() or bare[:1] in ("+", "#")):
        return []
    if re.fullmatch(r"(?:\+?1-)?(?:[0-9]{3}-)?[0-9]{3}-[0-9]{4}", bare.rstrip(".")):
        return digits_of(bare)
    if (
        re.fullmatch("[0-9]{3}", bare)
        and around.chunk[:1] == "("
        and re.match("[0-9]{3}-[0-9]{4}", around.following)
    ):
        return digits_of(bare)
    if bare == "#" and around.following[:1].isdigit():
        return ["number"]
    hour = re.fullmatch("([0-9]{1,2}):00", bare)
    return cardinal(hour[1]) if hour and re.match(r"[ap]\.?m\b", around.following.lower()) else []


def large_amount(chunk: str, following: str) -> list[str]:
    """ "$3.5" "million" is read as three point five million dollars."""
    match = re.fullmatch(rf"[\"'(]*([$£€¥₹])({NUMBER})(\.[0-9]+)?", fold(chunk))
    magnitude = re.fullmatch(r"([a-z]+)\W*", following.lower())
    if not match or not magnitude or magnitude[1] not in MAGNITUDES:
        return []
    return [*decimal(match[2], match[3]), magnitude[1], CURRENCIES[match[1]][1]]


def spaced_amount(chunk: str, following: str) -> list[str]:
    """An amount whose currency is written with a space: "5 €", "€ 5", "5 EUR", "USD 5"."""
    pair = [part.strip(AROUND_SIGNS) for part in (chunk, following)]
    signs = [
        CURRENCY_CODES.get(part.lower(), part) if part.isupper() or part in CURRENCIES else part
        for part in pair
    ]
    amounts = [re.fullmatch(rf"(?:{NUMBER})(?:[.,][0-9]{{1,2}})?", part) for part in pair]
    if signs[0] in CURRENCIES and amounts[1]:
        return read_english(signs[0] + pair[1])
    if signs[1] in CURRENCIES and amounts[0]:
        return read_english(pair[0] + signs[1])
    return []


READERS: list[tuple[re.Pattern, Callable[[re.Match], list[str]]]] = [
    (
        re.compile(
            rf"(?P<currency>[$£€¥₹])(?P<whole>{NUMBER})(?P<fraction>\.[0-9]+)?(?:(?P<scale>k|m|bn)(?![^\W_]))?"
        ),
        read_money,
    ),
    (
        re.compile(
            rf"(?P<whole>{NUMBER})(?P<fraction>[.,][0-9]{{1,2}}(?![0-9]))?(?P<scale>k|m|bn)?(?P<currency>[$£€¥₹])(?![0-9])"
        ),
        read_money,
    ),
    (re.compile(r"([0-9]{1,2}):([0-5][0-9])([ap]m\b)?(?![0-9])"), read_time),
    (re.compile(rf"({NUMBER})(?:st|nd|rd|th)(?![^\W_])"), lambda match: ordinal(match[1])),
    (re.compile(r"'?([0-9]+)'?s(?![^\W_])"), lambda match: plural(number(match[1]))),
    (
        re.compile(r"([0-9]+)'([0-9]{1,2})(?:\"|'')?"),
        lambda match: [*cardinal(match[1]), "foot", *cardinal(match[2])],
    ),
    (
        re.compile(r"(?<![0-9/])([1-9]|1[0-5])[/\u2044]([2-9]|10|12|16)(?![0-9/])"),
        lambda match: (
            fraction(match[1], match[2])
            if int(match[1]) < int(match[2])
            else cardinal(match[1]) + cardinal(match[2])
        ),
    ),
    (re.compile(rf"({NUMBER})(\.[0-9]+)?({ATTACHED})(?![^\W_])"), read_measure),
    (re.compile(r"(?<=[0-9$£€¥₹])[-\u2012\u2013](?=[$£€¥₹0-9])"), read_range),
    (re.compile(r"(?<![^\W_])\.([0-9]+)"), lambda match: decimal("0", f".{match[1]}")[1:]),
    (
        re.compile(rf"(?<![^\W_])(?<![$£€¥₹])-({NUMBER})(\.[0-9]+)?(?![0-9-])"),
        lambda match: ["minus", *decimal(match[1], match[2])],
    ),
    (re.compile(rf"({NUMBER})(\.[0-9]+)"), lambda match: decimal(match[1], match[2])),
    (re.compile(NUMBER), lambda match: number(match[0])),
    (re.compile(r"#(?=[0-9])"), lambda match: ["number"]),
    (re.compile("[" + re.escape("".join(SYMBOLS)) + "]"), lambda match: [SYMBOLS[match[0]]]),
    (re.compile(r"(?:[^\W\d_]|'(?=[^\W\d_]))(?:[^\W0-9_]|'(?=[^\W\d_]))*"), read_word),
]
"""What is read in which way; the first that fits is taken."""
WORD_READERS = READERS[-1:]
"""Those that fit at a letter."""
SPOKEN = re.compile(rf"[^\W_]|[$€£¥₹'#.\-\u2012\u2013{re.escape(''.join(SYMBOLS))}]")
"""Characters at which any of them fits."""
