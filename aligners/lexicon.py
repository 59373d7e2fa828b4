"""Words -> pronunciations: a dictionary file, English by its spelling, or the letters of a word as its phones."""

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aligners.g2p import Phones, dictionary_path, pronounce_by_parts

ENGLISH, LETTERS = "english", "letters"
VARIANT = re.compile(r"\([0-9]+\)$")
STRESS = ("1", "0", "2")


@dataclass(frozen=True)
class Lexicon:
    """Pronunciations of words.

    kind: "english" (the dictionary of the pocketsphinx wheel; other words by their spelling), "letters" (every letter
        is a phone, for languages without a dictionary), or the path of a dictionary in the format of MFA or CMU.
    inventory: phones that the acoustic model has; pronunciations with others are left out. Empty: any.
    """

    kind: str
    inventory: frozenset[str] = frozenset()

    def pronunciations(self, word: str) -> list[Phones]:
        """Pronunciations of a word in lower case, [] where there is none."""
        pronunciations = self._listed(word) if self.kind != LETTERS else [letters_of(word)]
        return [phones for phones in map(self._in_inventory, pronunciations) if phones]

    def _listed(self, word: str) -> list[Phones]:
        entries = read_dictionary(str(dictionary_path()) if self.kind == ENGLISH else self.kind)
        if word in entries:
            return entries[word]
        if self.kind != ENGLISH and not self._has_english_phones():
            return []
        known = lambda part: next(iter(entries.get(part, ())), None)  # noqa: E731
        phones = pronounce_by_parts(word, known) if len(word) <= 50 else None
        return [phones] if phones else []

    def _has_english_phones(self) -> bool:
        """Whether the model has the phones of the spelling model, with or without marks of stress."""
        return {"TH", "DH", "NG", "ZH"} <= self.inventory and bool({"AE", "AE1"} & self.inventory)

    def _in_inventory(self, phones: Phones) -> Phones | None:
        """Phones as the model names them, with a mark of stress where it has them only so; None where it lacks one."""
        if not self.inventory:
            return phones
        named = []
        for phone in phones:
            forms = (phone, *(phone + mark for mark in STRESS), phone.rstrip("012"))
            name = next((form for form in forms if form in self.inventory), None)
            if name is None:
                return None
            named.append(name)
        return tuple(named)


def letters_of(word: str) -> Phones:
    """The letters of a word, marks with the letter they stand on.

    >>> letters_of("don't"), letters_of("nação"), letters_of("की")
    (('d', 'o', 'n', 't'), ('n', 'a', 'ç', 'ã', 'o'), ('की',))
    """
    letters: list[str] = []
    for char in unicodedata.normalize("NFC", word.casefold()):
        if unicodedata.category(char)[0] == "M" and letters:
            letters[-1] += char
        elif char.isalnum():
            letters.append(char)
    return tuple(letters)


@functools.lru_cache(maxsize=4)
def read_dictionary(path: str) -> dict[str, list[Phones]]:
    """A pronunciation dictionary, words in lower case.

    MFA: word, up to four probabilities and phones, between tabs. CMU: word, "(2)" for variants, and phones, between
    spaces.

    Raises:
        ValueError: no such file, or a line without phones; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as a pronunciation dictionary ({error})") from error
    entries: dict[str, list[Phones]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(";;;"):
            continue
        word, *rest = line.split("\t") if "\t" in line else line.split(maxsplit=1)
        phones = tuple(" ".join(rest).split())
        while phones and is_number(phones[0]):
            phones = phones[1:]
        if not phones:
            raise ValueError(f"{path}: line {number}: need a word and its phones, got {line[:60]!r}")
        entries.setdefault(VARIANT.sub("", word.strip().lower()), []).append(phones)
    return entries


def is_number(text: str) -> bool:
    """Whether a field is a probability: "0.99", "1", "1e-3"."""
    return re.fullmatch(r"[0-9]*\.?[0-9]+(e-?[0-9]+)?", text) is not None


def write_dictionary(words: Sequence[str], lexicon: Lexicon, path: Path) -> list[str]:
    """Write the pronunciations of words in MFA's format; the words that have none."""
    missing = []
    with path.open("w", encoding="utf-8") as file:
        for word in sorted(set(words)):
            pronunciations = lexicon.pronunciations(word)
            for phones in dict.fromkeys(pronunciations):
                file.write(f"{word}\t{' '.join(phones)}\n")
            if not pronunciations:
                missing.append(word)
    return missing
