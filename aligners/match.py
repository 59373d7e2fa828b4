"""Labels that another program wrote -> the words of the transcript."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from aligners.alignment import TimedWord
from aligners.english.amounts import CURRENCIES, SYMBOLS
from aligners.english.read import fold
from aligners.markup import is_pause, is_unknown, spoken_in, tags
from aligners.normalise import Token
from corpus.records import Reject

SKIPPED = 100  # cost of a label that belongs to no token, more than any other way to read it


class Label(NamedTuple):
    """A label and its interval, seconds; confidence in [0, 1] where the file has one."""

    text: str
    start: float
    end: float
    confidence: float | None = None


def match(labels: Sequence[Label], tokens: Sequence[Token], text: str) -> list[TimedWord]:
    """Give every token the interval of its labels.

    Aligners split what we keep whole (`forty-two` -> `forty` `two`, `SJC's` -> `s` `j` `c` `'s`) and write `<unk>`
    for words they lack. A token therefore takes one or more neighbouring labels whose letters and digits, joined,
    are those of its spoken words or of its writing; `<unk>` stands for any letters. Of several ways, the one whose
    numbers of labels are nearest to the numbers of spoken words is chosen. Pauses are skipped, and `<unk>` too where
    the text has a tag, which no token stands for.

    Args:
        labels: in order of time.
        tokens: of `text`.

    Raises:
        Reject: align.token_mismatch, naming the first word that has no labels.

    >>> from aligners.normalise import normalise
    >>> labels = [Label("forty", 0.1, 0.4), Label("two", 0.4, 0.6), Label("", 0.6, 0.9), Label("<unk>", 0.9, 1.3)]
    >>> [(word.start, word.end) for word in match(labels, normalise("forty-two Zyxels"), "forty-two Zyxels")]
    [(0.1, 0.6), (0.9, 1.3)]
    """
    spoken = [label for label in labels if not is_pause(label.text) or is_symbol(label.text, text)]
    keys = [None if is_unknown(label.text) else letters(label.text) for label in spoken]
    written = blank_tags(text)
    may_skip = written != text and None in keys
    # ways[i]: number of labels used by the first i tokens -> (cost, labels used before and after its own)
    ways: list[dict[int, tuple[int, int, int]]] = [{0: (0, 0, 0)}]
    for token in tokens:
        wanted = {letters("".join(token.spoken)), letters(written[token.first : token.last])}
        row: dict[int, tuple[int, int, int]] = {}
        before = sorted((used, cost, used) for used, (cost, _, _) in ways[-1].items())
        for first, cost, used in skips(keys, before) if may_skip else before:
            for after in label_ends(keys, first, wanted):
                way = (cost + abs(after - first - len(token.spoken)), used, first)
                if after not in row or way < row[after]:
                    row[after] = way
        if not row:
            at = max(ways[-1])
            got = repr(spoken[at].text) if at < len(spoken) else "no more labels"
            raise Reject(
                "align.token_mismatch", f"{text[token.first : token.last]!r}: the alignment has {got}"
            )
        ways.append(row)
    ends = {used for used in ways[-1] if used == len(spoken) or (may_skip and set(keys[used:]) == {None})}
    if not ends:
        raise Reject("align.token_mismatch", f"the alignment continues with {spoken[max(ways[-1])].text!r}")
    times: list[TimedWord] = []
    last = max(ends)
    for token, row in zip(reversed(tokens), reversed(ways), strict=False):
        _, used, first = row[last]
        parts = spoken[first:last]
        scores = [part.confidence for part in parts if part.confidence is not None]
        times.append(
            TimedWord(" ".join(token.spoken), parts[0].start, parts[-1].end, min(scores) if scores else None)
        )
        last = used
    return times[::-1]


def skips(keys: Sequence[str | None], before: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """(labels used, cost, labels used before) with every number of unknown labels skipped."""
    ranges = []
    for first, cost, used in before:
        ranges.append((first, cost, used))
        while first < len(keys) and keys[first] is None:
            first, cost = first + 1, cost + SKIPPED
            ranges.append((first, cost, used))
    return ranges


def label_ends(keys: Sequence[str | None], used: int, wanted: set[str]) -> list[int]:
    """Numbers of labels used after one more token whose letters are one of `wanted`."""
    longest = max(map(len, wanted))
    pattern, length, ends = "", 0, []
    for after in range(used + 1, len(keys) + 1):
        key = keys[after - 1]
        pattern += ".+" if key is None else re.escape(key)
        length += 1 if key is None else len(key)
        if length > longest:
            break
        if any(re.fullmatch(pattern, word) for word in wanted):
            ends.append(after)
    return ends


def blank_tags(text: str) -> str:
    """A text with spaces in place of its tags.

    >>> blank_tags("hi <unk> there")
    'hi       there'
    """
    for first, last in tags(text):
        inside = spoken_in(text[first:last]) or (0, 0)
        kept = text[first + inside[0] : first + inside[1]]
        text = text[:first] + " " * inside[0] + kept + " " * (last - first - inside[1]) + text[last:]
    return text


def is_symbol(label: str, text: str) -> bool:
    """Whether a label is a sign of the text that is read as a word: "&", "%", "€"."""
    return label.strip() in SYMBOLS.keys() | CURRENCIES.keys() and label.strip() in text


def letters(text: str) -> str:
    """The letters and digits of a label, lower case, accents folded.

    >>> letters("Zoë's,")
    'zoes'
    """
    return "".join(char for char in fold(text) if char.isalnum())
