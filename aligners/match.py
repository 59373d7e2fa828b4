"""Labels that another program wrote -> the words we asked for."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from aligners.alignment import TimedWord
from aligners.normalise import Token, fold
from corpus.records import Reject

SILENCE = frozenset(
    {"", "sil", "<sil>", "sp", "<sp>", "<eps>", "<p>", "<s>", "</s>", "pau", "<bracketed>", "[bracketed]"}
)
UNKNOWN = frozenset({"<unk>", "[unk]", "<oov>", "<spoken_noise>", "spn", "<spn>", "<cutoff>"})
"""Labels that stand for a word the other program did not know."""


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
    numbers of labels are nearest to the numbers of spoken words is taken. Silences are skipped.

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
    spoken = [label for label in labels if label.text.strip().lower() not in SILENCE]
    keys = [None if label.text.strip().lower() in UNKNOWN else letters(label.text) for label in spoken]
    # ways[i]: number of labels used by the first i tokens -> (cost, labels used by the first i - 1)
    ways: list[dict[int, tuple[int, int]]] = [{0: (0, 0)}]
    for token in tokens:
        wanted = {letters("".join(token.spoken)), letters(text[token.first : token.last])}
        row: dict[int, tuple[int, int]] = {}
        for used, (cost, _) in sorted(ways[-1].items()):
            for after in takes(keys, used, wanted):
                way = (cost + abs(after - used - len(token.spoken)), used)
                if after not in row or way < row[after]:
                    row[after] = way
        if not row:
            at = max(ways[-1])
            got = repr(spoken[at].text) if at < len(spoken) else "no more labels"
            raise Reject(
                "align.token_mismatch", f"{text[token.first : token.last]!r}: the alignment has {got}"
            )
        ways.append(row)
    if len(spoken) not in ways[-1]:
        raise Reject("align.token_mismatch", f"the alignment goes on with {spoken[max(ways[-1])].text!r}")
    times: list[TimedWord] = []
    last = len(spoken)
    for token, row in zip(reversed(tokens), reversed(ways), strict=False):
        first = row[last][1]
        parts = spoken[first:last]
        scores = [part.confidence for part in parts if part.confidence is not None]
        times.append(
            TimedWord(" ".join(token.spoken), parts[0].start, parts[-1].end, min(scores) if scores else None)
        )
        last = first
    return times[::-1]


def takes(keys: Sequence[str | None], used: int, wanted: set[str]) -> list[int]:
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


def letters(text: str) -> str:
    """The letters and digits of a label, lower case, accents folded.

    >>> letters("Zoë's,")
    'zoes'
    """
    return "".join(char for char in fold(text) if char.isalnum())
