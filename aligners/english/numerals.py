"""English numbers as words."""

import re

SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()  # noqa: SIM905
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
THOUSANDS = """thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion
    decillion""".split()  # noqa: SIM905
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
LONGEST = 3 * (1 + len(THOUSANDS))  # digits


def below_thousand(value: int) -> list[str]:
    """
    >>> below_thousand(342), below_thousand(0)
    (['three', 'hundred', 'forty', 'two'], [])
    """
    hundreds, rest = divmod(value, 100)
    words = [SMALL[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(TENS[rest // 10 - 2])
        rest %= 10
    return [*words, SMALL[rest]] if rest else words


def spell(value: int) -> list[str]:
    """A whole number of at most 36 digits."""
    groups = [value // 1000**power % 1000 for power in range(1 + len(THOUSANDS))]
    words = [
        word
        for group, name in reversed(list(zip(groups, ["", *THOUSANDS], strict=True)))
        if group
        for word in [*below_thousand(group), name]
    ]
    return list(filter(None, words)) or ["zero"]


def cardinal(digits: str) -> list[str]:
    """A whole number; one with a leading zero, or longer than fifteen digits, digit by digit.

    >>> cardinal("1,024"), cardinal("007")
    (['one', 'thousand', 'twenty', 'four'], ['oh', 'oh', 'seven'])
    """
    plain = digits.replace(",", "")
    if len(plain) > 15 or (plain[0] == "0" and len(plain) > 1):
        return ["oh" if digit == "0" else SMALL[int(digit)] for digit in plain]
    return spell(int(plain))


def ordinal(digits: str) -> list[str]:
    """
    >>> ordinal("21"), ordinal("40")
    (['twenty', 'first'], ['fortieth'])
    """
    plain = digits.replace(",", "")
    *start, last = spell(int(plain)) if len(plain) <= LONGEST else cardinal(plain)
    return [*start, ORDINALS.get(last) or (last[:-1] + "ie" if last.endswith("y") else last) + "th"]


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


def plural(words: list[str]) -> list[str]:
    """The last word in the plural.

    >>> plural(["nineteen", "sixty"]), plural(["six"]), plural(["one", "half"])
    (['nineteen', 'sixties'], ['sixes'], ['one', 'halves'])
    """
    *start, last = words
    if last.endswith("lf"):
        return [*start, last[:-1] + "ves"]
    if last.endswith("y"):
        return [*start, last[:-1] + "ies"]
    return [*start, last + ("es" if last.endswith("x") else "s")]


def fraction(above: str, below: str) -> list[str]:
    """
    >>> fraction("1", "2"), fraction("3", "4"), fraction("5", "8"), fraction("1", "3")
    (['one', 'half'], ['three', 'quarters'], ['five', 'eighths'], ['one', 'third'])
    """
    part = {"2": ["half"], "4": ["quarter"]}.get(below) or ordinal(below)
    return cardinal(above) + (part if above == "1" else plural(part))


def digits_of(text: str) -> list[str]:
    """Digit by digit, as telephone numbers are.

    >>> digits_of("555-01")
    ['five', 'five', 'five', 'oh', 'one']
    """
    return [word for digit in text if digit.isdigit() for word in cardinal("0" + digit)[1:]]


ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100, "d": 500, "m": 1000}
_CANONICAL = re.compile("m{0,3}(cm|cd|d?c{0,3})(xc|xl|l?x{0,3})(ix|iv|v?i{0,3})")


def roman(text: str) -> int | None:
    """The value of a Roman numeral in lower case, None if it is none.

    >>> roman("xiv"), roman("iiii"), roman("mix"), roman("")
    (14, None, 1009, None)
    """
    if not text or not _CANONICAL.fullmatch(text):
        return None
    values = [ROMAN[letter] for letter in text]
    return sum(-one if one < after else one for one, after in zip(values, [*values[1:], 0], strict=True))
