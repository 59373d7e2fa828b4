"""Money, units and ranges of numbers as words."""

import re

from aligners.english.abbreviations import Around
from aligners.english.numerals import cardinal, decimal, plural

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

COUNTED = UNITS.keys() | FIXED_UNITS.keys()

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

NUMBER = r"[0-9]+(?:,[0-9]{3})+(?![0-9])|[0-9]+"

ATTACHED = "|".join(sorted(map(re.escape, COUNTED - {"in", "°"}), key=len, reverse=True))


def read_unit(bare: str, around: Around) -> list[str]:
    """A unit after its number: "5 kg", "98.6 °F", "3 in."."""
    stem = bare.rstrip(".")
    if stem not in COUNTED or bare == "in":
        return []
    counted = re.search(r"(?:^|[^\w.])([0-9][0-9,]*(?:\.[0-9]+)?)$", around.before.strip("\"'(*_"))
    return unit(stem, counted[1]) if counted else []


def unit(stem: str, count: str) -> list[str]:
    """A unit as it is read after a count; [] if it is none."""
    if stem in FIXED_UNITS:
        return FIXED_UNITS[stem].split()
    return [UNITS[stem] if count == "1" else plural([UNITS[stem]])[0]] if stem in UNITS else []


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
