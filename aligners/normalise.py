"""A transcript -> the words that are spoken, each with its range of characters in the original text.

English numbers, money, abbreviations and symbols become words. Other languages are only lower-cased and freed of
punctuation. Tags and HTML entities are those of `markup`, in every language. The rules are our own.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain, pairwise
from typing import NamedTuple

from aligners.markup import spoken_in, tags, unescape
from aligners.numerals import cardinal, decimal, digits_of, fraction, number, ordinal, plural, roman

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

UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "kg": "kilogram", "g": "gram",
    "mg": "milligram", "l": "liter", "ml": "milliliter", "lb": "pound", "lbs": "pound", "oz": "ounce", "yd": "yard",
    "yds": "yard", "mi": "mile", "hr": "hour", "hrs": "hour", "min": "minute", "mins": "minute", "sec": "second",
    "secs": "second", "kw": "kilowatt", "kb": "kilobyte", "mb": "megabyte", "gb": "gigabyte", "tb": "terabyte",
}  # fmt: skip
"""Unit after a number -> spoken, for one of it."""
FIXED_UNITS = {
    "mph": "miles per hour", "km/h": "kilometers per hour", "kmh": "kilometers per hour", "m/s": "meters per second",
    "hz": "hertz", "khz": "kilohertz", "mhz": "megahertz", "ghz": "gigahertz", "ft": "feet", "in": "inches",
    "°c": "degrees celsius", "°f": "degrees fahrenheit", "°": "degrees", "am": "a m", "pm": "p m", "¢": "cents",
}  # fmt: skip
"""The same for any number; "in" needs its full stop, for it is a word."""

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
YEAR_CONTEXT = frozenset(
    {"in", "year", "since", "until", "till", "circa", "anno", "before", "after", "by", "of"}
)
"""Words after which 1010 to 1099 is a year."""

BARE = frozenset({"dr", "mr", "mrs", "ms", "messrs", "jr", "sgt", "vs"})
"""Abbreviations that are no words, so that they are expanded without a full stop too (British style: "Mr Smith")."""

CONTRACTIONS = frozenset(
    {"'bout", "'cause", "'course", "'em", "'gain", "'kay", "'n", "'round", "'til", "'tis", "'twas"}
)
"""Words of the dictionary that begin with an apostrophe; before other words it is a quotation mark."""

SYMBOLS = {
    "&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals", "°": "degrees", "§": "section", "×": "times",
}  # fmt: skip
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
}
CURRENCY_CODES = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹"}
MAGNITUDES = ("thousand", "million", "billion", "trillion")
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
WHOLE = re.compile(f"([0-9]*)([{''.join(VULGAR)}])")

CHUNK = re.compile("[\\s\u200b\u2060\ufeff]+")  # zero-width spaces separate words too
BREAK = re.compile(r"(?:--+|[\u2012-\u2015\u2026]|\.\.+)")
CHUNK_MARKS = re.compile(f"[\u200b\u2060\ufeff]|{BREAK.pattern}")
"""What splits a text beside white space."""
RANGE = re.compile("[0-9][\u2012\u2013][0-9]")
IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
AFTER_IDEOGRAPH = re.compile(f"{IDEOGRAPH.pattern}[^\\w]*")
NUMBER = r"[0-9]+(?:,[0-9]{3})+(?![0-9])|[0-9]+"


PLAIN = re.compile(r"[\"(]*((?:[A-Za-z]?[a-z]+|I(?='(?:m|d|ll|ve)\b))(?:['-][a-z]+)*)([\"'),;:!?.]*)")
"""A stretch of letters with punctuation around it, not all in capitals; the word is group 1."""
WITH_NEIGHBOURS = frozenset({"st", "ft", "www", *BEFORE_NUMBERS, *UNITS, *FIXED_UNITS})
"""How these are read depends on what is before or after them."""
NEVER_PLAIN = WITH_NEIGHBOURS | ABBREVIATIONS.keys()
MOST_READ = 1 << 18  # stretches whose reading is kept
_read_alone: dict[str, tuple[str, ...]] = {}


class Token(NamedTuple):
    """One word of the writing: how it is spoken, and its half-open range of characters in the original text."""

    spoken: tuple[str, ...]
    first: int
    last: int


def normalise(text: str, language: str = "en") -> tuple[Token, ...]:
    """Split a text into words and their spoken forms.

    Every letter and digit of the text lies in exactly one token's range; ranges are in order and count characters of
    the original text. What is not spoken (punctuation between spaces, tags such as [laughter] or <noise>, speaker
    prefixes) belongs to the token before it, or to the first. A token of several spoken words remains one token.

    Args:
        text: a transcript.
        language: with "en", "en-US", "eng" and the like numbers and abbreviations become words.

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
    english = is_english(language)
    read: Callable[..., list[str]] = read_english if english else read_other
    unescaped = unescape(text)
    original, text = text, unescaped.text
    chunks = list(split(text) if english else by_ideograph(text))
    tokens: list[Token] = []
    waiting = None  # where unspoken text before the first token began
    skip = False
    for index, (first, last, marker) in enumerate(chunks):
        if skip:
            skip = False
            continue
        following = text[slice(*chunks[index + 1][:2])] if index + 1 < len(chunks) else ""
        before = text[slice(*chunks[index - 1][:2])] if index else ""
        chunk = text[first:last]
        inside = spoken_in(chunk) if marker else (0, len(chunk))
        spoken = read(chunk[slice(*inside)], following, before) if inside else []
        if (
            english
            and not marker
            and (amount := large_amount(chunk, following) or spaced_amount(chunk, following))
        ):
            spoken, last, skip = amount, chunks[index + 1][1], True
        if spoken:
            tokens.append(Token(tuple(spoken), first if waiting is None else waiting, last))
            waiting = None
        elif tokens:
            tokens[-1] = tokens[-1]._replace(last=last)
        elif waiting is None:
            waiting = first
    if unescaped.places is None:
        return tuple(tokens)
    return cover(original, [Token(t.spoken, *map(unescaped.original, t[1:])) for t in tokens])


def spoken_words(text: str, language: str = "en") -> list[str]:
    """The spoken words of a text, those of all tokens of `normalise`, 30 times as fast for English of many words.

    How most words are read does not depend on their neighbours: they are looked up.

    >>> spoken_words("Dr. Smith paid $3.50, [laughs] twice.")
    ['doctor', 'smith', 'paid', 'three', 'dollars', 'fifty', 'twice']
    """
    if not is_english(language):
        return [word for token in normalise(text, language) for word in token.spoken]
    text = unescape(text).text
    chunks: list[str] = []
    markers: set[int] = set()
    position = 0
    for first, last in [*tags(text), (len(text), len(text))]:
        between = text[position:first]
        pieces = between.split()
        if CHUNK_MARKS.search(between):
            pieces = [
                part for piece in pieces for part in ((piece,) if piece in _read_alone else _unmarked(piece))
            ]
        chunks += pieces
        if last > first:
            markers.add(len(chunks))
            chunks.append(text[first:last])
        position = last
    if len(_read_alone) > MOST_READ:
        _read_alone.clear()
    readings: list[tuple[str, ...] | None] = list(map(_read_alone.get, chunks))
    if markers or None in readings:
        _read_others(chunks, markers, readings)
    return list(chain.from_iterable(filter(None, readings)))


def _unmarked(piece: str) -> list[str]:
    """The stretches of a piece without white space."""
    if not CHUNK_MARKS.search(piece):
        return [piece]
    return [piece[first:last] for first, last in untagged(piece, 0, len(piece))]


def _read_others(chunks: list[str], markers: set[int], readings: list[tuple[str, ...] | None]) -> None:
    """Read what is not known, or is a tag, as `normalise` does."""
    skip = -1  # the chunk that the one before was read with
    for index in sorted({*markers, *(index for index, one in enumerate(readings) if one is None)}):
        chunk = chunks[index]
        if index == skip:
            readings[index] = ()
            continue
        if index in markers:
            inside = spoken_in(chunk)
            chunk = chunk[slice(*inside)] if inside else ""
        elif (reading := read_alone(chunk)) is not None:
            readings[index] = _read_alone[chunk] = reading
            continue
        before = chunks[index - 1] if index else ""
        if chunk == "I" and re.sub(r"\W", "", before.lower()) not in NUMBERED:
            readings[index] = ("i",)
            continue
        following = chunks[index + 1] if index + 1 < len(chunks) else ""
        if index in markers:
            readings[index] = tuple(read_english(chunk, following, before) if chunk else ())
            continue
        readings[index], with_next = _read_in_context(chunk, following, before)
        if with_next:
            skip = index + 1
            readings[skip] = ()


@lru_cache(MOST_READ)
def _read_in_context(chunk: str, following: str, before: str) -> tuple[tuple[str, ...], bool]:
    """The spoken words of a stretch between two others, and whether they are those of the following one too."""
    amount = large_amount(chunk, following) or spaced_amount(chunk, following)
    return tuple(amount or read_english(chunk, following, before)), bool(amount)


def read_alone(chunk: str) -> tuple[str, ...] | None:
    """The spoken words of a stretch of letters; None where they may depend on what is before or after it.

    >>> read_alone("forty-two,"), read_alone("St."), read_alone("XIV"), read_alone("10:30")
    (('forty', 'two'), None, None, None)
    """
    match = PLAIN.fullmatch(chunk)
    if match is None:
        return None
    bare = match[1].lower()
    if bare.isalpha() and bare not in NEVER_PLAIN:
        return (bare,)
    bare += "." * ("." in match[2])
    return None if bare.rstrip(".") in WITH_NEIGHBOURS and bare != "in" else tuple(read_english(chunk))


def cover(text: str, tokens: list[Token]) -> tuple[Token, ...]:
    """Tokens whose ranges also hold the entities between them: those before the first, and those after each."""
    covered = []
    for index, token in enumerate(tokens):
        first = token.first if index or not any(map(str.isalnum, text[: token.first])) else 0
        after = tokens[index + 1].first if index + 1 < len(tokens) else len(text)
        gap = text[token.last : after].rstrip()
        last = token.last + (len(gap) if any(map(str.isalnum, gap)) else 0)
        covered.append(Token(token.spoken, first, last))
    return tuple(covered)


def is_english(language: str) -> bool:
    """Whether a language tag means English.

    >>> is_english("en-GB"), is_english("English"), is_english("de")
    (True, True, False)
    """
    return re.split("[-_]", language.strip().lower())[0] in ENGLISH


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


# --- English --------------------------------------------------------------------------------------------------------


def read_english(chunk: str, following: str = "", before: str = "") -> list[str]:
    """The spoken words of one stretch without white space, between two others.

    >>> read_english("forty-two"), read_english("1984"), read_english("café's"), read_english("(1st)")
    (['forty', 'two'], ['nineteen', 'eighty', 'four'], ["cafe's"], ['first'])
    >>> read_english("St.", "Paul"), read_english("St.", "and"), read_english("10:30"), read_english("50%")
    (['saint'], ['street'], ['ten', 'thirty'], ['fifty', 'percent'])
    """
    chunk = re.sub(r"^(?:%|&[-~+])(?=[^\W\d_])", "", chunk)  # fillers of LDC and CHILDES: %um, &-um
    chunk = WHOLE.sub(
        lambda match: f"{match[1]} and {VULGAR[match[2]]}" if match[1] else VULGAR[match[2]], chunk
    )
    folded = fold(chunk)
    bare = folded.strip("\"'()[]{}<>,;:!?*_“”«»„¡¿")
    for read in (read_unit, read_abbreviation, read_roman, read_date, read_in_place):
        if reading := read(bare, Around(chunk, before, following)):
            return reading
    spoken: list[str] = []
    position = 0
    while position < len(folded):
        for pattern, reader in READERS:
            match = pattern.match(folded, position)
            if match:
                spoken += reader(match)
                position = match.end()
                break
        else:
            position += 1
    return spoken or [word for word in re.findall(r"[^\W_]+", chunk.lower())]


def fold(chunk: str) -> str:
    """Lower case, without accents, apostrophes all alike; only lower-cased if no letter would survive that."""
    lowered = unicodedata.normalize("NFKD", chunk.translate(QUOTES).casefold()).casefold().translate(LETTERS)
    plain = "".join(char for char in lowered if unicodedata.category(char) not in ("Mn", "Cf"))
    plain = unicodedata.normalize("NFKC", plain.translate(QUOTES))
    return plain if any(map(str.isalnum, plain)) or not any(map(str.isalnum, chunk)) else chunk.lower()


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
    if (
        re.fullmatch(r"(?:[a-z]\.)+[a-z]?(?:'s)?", bare) and len(bare) > 2
    ):  # initials: U.S., e.g., p.m., U.S.'s
        letters = re.findall("[a-z]", bare.removesuffix("'s"))
        return [*letters[:-1], letters[-1] + ("'s" if bare.endswith("'s") else "")]
    return []


def read_unit(bare: str, around: Around) -> list[str]:
    """A unit after its number: "5 kg", "98.6 °F", "3 in."."""
    counted = re.search(r"(?:^|[^\w.])([0-9][0-9,]*(?:\.[0-9]+)?)$", around.before.strip("\"'(*_"))
    stem = bare.rstrip(".")
    if not counted or (stem == "in" and bare == stem):
        return []
    return unit(stem, counted[1])


def unit(stem: str, count: str) -> list[str]:
    """A unit as it is read after a count; [] if it is none."""
    if stem in FIXED_UNITS:
        return FIXED_UNITS[stem].split()
    return [UNITS[stem] if count == "1" else plural([UNITS[stem]])[0]] if stem in UNITS else []


def read_roman(bare: str, around: Around) -> list[str]:
    """A Roman numeral in capitals after a word that requires one."""
    stem = bare.rstrip(".").removesuffix("'s")
    value = roman(stem)
    before = re.sub(r"\W", "", around.before.lower())
    if value is None or re.sub("[^A-Za-z]", "", around.chunk.removesuffix("s")) != stem.upper():
        return []
    last = "'s" if bare.rstrip(".").endswith("'s") else ""
    if before in NUMBERED:
        words = cardinal(str(value))
    elif before in RULERS and around.before[:1].isupper() and stem not in ("i", "l", "c", "d", "m"):
        words = ["the", *ordinal(str(value))]
    else:
        return []
    return [*words[:-1], words[-1] + last]


def read_date(bare: str, around: Around) -> list[str]:
    """Days and months in figures, and a day before or after its month."""
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


def read_in_place(bare: str, around: Around) -> list[str]:
    """Addresses on the internet, telephone numbers, and hours before "a.m."."""
    if re.fullmatch(
        r"(?:www\.|https?://)[a-z0-9./_-]+|[a-z0-9._-]+@[a-z0-9.-]+|[a-z0-9-]+\.(?:com|org|net|edu|gov)", bare
    ):
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
    pair = [part.strip("\"'()[],.;:!?") for part in (chunk, following)]
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


def read_money(match: re.Match) -> list[str]:
    """An amount with its currency before or after it."""
    one, many, part, parts = CURRENCIES[match["currency"]]
    whole, fraction, scale = match["whole"], (match["fraction"] or "").replace(",", "."), match["scale"]
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
    half = list(match[3] or "")
    return cardinal(hour) + (tail + half or ["o'clock"])


def read_measure(match: re.Match) -> list[str]:
    """5kg, 7am, 20°C."""
    return decimal(match[1], match[2]) + unit(match[3], match[1] + (match[2] or ""))


def read_range(match: re.Match) -> list[str]:
    """The hyphen between two numbers, where the second is more: pages 10-12, 1990-1995, $3-$4."""
    following = re.match(rf"[$£€¥₹]?({NUMBER})", match.string[match.end() :])
    before = re.search(rf"({NUMBER})(?:\.[0-9]+)?[$£€¥₹]?$", match.string[: match.start()])
    if not following or not before:
        return []
    low, high = (int(number[1].replace(",", "")) for number in (before, following))
    return ["to"] if low < high else []


def read_word(match: re.Match) -> list[str]:
    """A run of letters and apostrophes; apostrophes at its ends are quotation marks but for known contractions."""
    word = match[0]
    if word not in CONTRACTIONS:
        word = word.strip("'")
    return ABBREVIATIONS[word].split() if word in BARE else [word]


ATTACHED = "|".join(
    sorted(map(re.escape, (UNITS.keys() | FIXED_UNITS.keys()) - {"in", "°"}), key=len, reverse=True)
)

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


# --- other languages ------------------------------------------------------------------------------------------------


def read_other(chunk: str, following: str = "", before: str = "") -> list[str]:
    """Runs of letters, marks, digits and inner apostrophes, lower case, accents kept.

    >>> read_other("L’été,"), read_other("«Straße»")
    (["l'été"], ['straße'])
    """
    lowered = unicodedata.normalize("NFC", chunk.translate(QUOTES).lower())
    lowered = "".join(
        char for char in lowered if unicodedata.category(char) != "Cf"
    )  # soft hyphens, direction marks
    kept = "".join(char if char == "'" or unicodedata.category(char)[0] in "LMN" else " " for char in lowered)
    return [word for word in (word.strip("'") for word in kept.split()) if any(map(str.isalnum, word))]
