"""What transcripts hold beside words: tags for noise, silence and unknown speech, HTML entities, speaker prefixes.

One list for reading transcripts (`normalise`) and labels of other programs (`match`). A tag is never spoken. Sources:

| where | tags |
|---|---|
| Kaldi, MFA | `<eps>` `<unk>` `<spoken_noise>` `!SIL` `SIL` `SPN` `NSN` `<bracketed>` `<cutoff>` `<laugh>` `[noise]` |
| LDC | `{laugh}` `<noise>` `[skip]` `((  ))` `#`; `((perhaps))` and `%um` are spoken |
| CHILDES | `&=laughs` `xxx` `yyy` `www` `(.)` `(1.5)` `*CHI:`; `&-um` and `&~gaga` are spoken |
| Switchboard | `[noise]` `[vocalized-noise]` `[laughter]` `[silence]`; the word of `[laughter-mean]` is spoken |
| Common Voice, Whisper and the like | `[UNK]` `<|en|>` `<|0.00|>` `[BLANK_AUDIO]` `[inaudible]` |
| subtitles | `<i>` `{\\an8}` `(laughs)` `*coughs*` `[MUSIC]` `♪` `>>` `JOHN:` |
| labels of aligners (Praat, BAS, HTK, Festival) | `""` `sil` `sp` `spn` `pau` `<p:>` `<usb>` `#` `-` `...` |
"""

import html
import re
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

PAUSE_LABELS = frozenset({
    "sil", "sp", "pau", "ssil", "silence", "pause", "<sil>", "<sp>", "<silence>", "<pause>", "<eps>", "<p>", "<p:>",
    "<s>", "</s>", "<usb>", "<nib>", "<bracketed>", "[bracketed]", "!sil", "!enter", "!exit", "!null", "sent-start",
    "sent-end", "nsn", "<nsn>", "<noise>", "<laugh>", "<laughter>", "<breath>", "[sil]", "[silence]", "_", "h#",
})  # fmt: skip
"""Labels of aligners, lower case, that stand for no word, beside those without a letter or digit."""
UNKNOWN_LABELS = frozenset({
    "<unk>", "[unk]", "<oov>", "[oov]", "<spoken_noise>", "spn", "<spn>", "<cutoff>", "<unknown>", "[inaudible]",
})  # fmt: skip
"""Labels of aligners, lower case, that stand for a word which the other program did not know."""

BARE_TAGS = frozenset({"SIL", "SPN", "NSN", "!SIL", "!NULL", "!ENTER", "!EXIT", "xxx", "yyy", "www"})
"""Tags without brackets, in this case only: "sil" and "XXX" may be words."""

EVENTS = frozenset(
    """
    applause applauds applauding beep beeping bell bleep breath breathes breathing breaths buzz buzzing chatter
    chattering cheer cheering cheers chuckle chuckles chuckling clap clapping claps click clicking clicks cough coughing
    coughs cries cross-talk crosstalk cry crying exhale exhales exhaling foreign gasp gasping gasps giggle giggles
    giggling grunt grunting grunts gulp gulps hum humming hums inaudible indistinct inhale inhales inhaling
    laugh laughing laughs laughter lipsmack lip-smack moan moaning moans mumble mumbles mumbling music muffled noise
    noises pause pauses phone ringing rings scoff scoffs scream screaming screams shout shouting shouts sigh sighing
    sighs silence singing sings smack sniff sniffing sniffles sniffs snort snorting snorts sob sobbing sobs static
    throat-clearing unclear unintelligible vocalized-noise wheezing whimpers whisper whispering whispers whistle
    whistles whistling yawn yawning yawns yell yelling yells
    """.split()  # noqa: SIM905
)
MODIFIERS = frozenset(
    """
    a and at audience background breathing brief by clears continues crowd door fades faint heavily heavy in light
    lightly line lip long loud loudly nervously off on playing plays quietly short slams soft softly speaks speaking
    speech the throat together voices
    """.split()  # noqa: SIM905
)
"""Words that stand beside those of `EVENTS` in descriptions such as "(clears throat)"."""
DESCRIPTIONS = frozenset({"clears throat", "clearing throat", "door slams", "speaking foreign language"})

ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
BRACKETED = re.compile(r"\[[^\[\]]*\]|<[^<>]*>|\{[^{}]*\}")
SPOKEN_TAG = re.compile(r"[\[<](?:laughter|laugh|laughing)-([^\W\d_][^\s\[\]<>]*)[\]>]", re.IGNORECASE)
"""A word spoken while laughing; the word is group 1."""
DESCRIBED = re.compile(r"\(([^()]*)\)|\*([^*\s][^*]*)\*|\+\+([^+]+)\+\+|&=\S+|<\|[^|<>]*\|>")
ROLES = (
    "Interviewer",
    "Interviewee",
    "Narrator",
    "Moderator",
    "Host",
    "Guest",
    "Caller",
    "Speaker",
    "Audience",
)
PREFIX = re.compile(
    r"""[\n\r\u2028\u2029.?!>\])][\s>\u200b-]*                        # at the start of a line, a sentence or a turn
        ( \*?[A-Z](?:\.?[0-9]{1,2})?                                  # A: B1: A.1:
        | \*[A-Z]{3}                                                  # CHILDES
        | (?:SPEAKER|Speaker|speaker|SPK|spk)[_\ ]?[0-9A-Z]{1,3}
        | (?:ROLES|Q|A)
        | [A-Z][A-Z.'-]+(?:\ [A-Z][A-Z.'-]*){0,2}                     # JOHN: MRS. SMITH:
        ):(?=\s+\S)""".replace("ROLES", "|".join(ROLES)),
    re.VERBOSE,
)
"""Who speaks, before what is spoken; the name is group 1. To be looked for with a line end before the text."""
PREFIX_END = re.compile(rf":(?=\s)(?:(?<=[A-Z0-9.'-]:)|{'|'.join(f'(?<={role}:)' for role in ROLES)})")
"""How each of them ends: this is found quickly, and missing in most texts."""


def is_pause(label: str) -> bool:
    """Whether a label of an aligner stands for no word.

    >>> [is_pause(label) for label in ("", "SIL", "(.)", "<p:>", "[laughter]", "<unk>", "it's")]
    [True, True, True, True, True, False, False]
    """
    plain = label.strip().lower()
    if plain in UNKNOWN_LABELS:
        return False
    return (
        plain in PAUSE_LABELS or not any(map(str.isalnum, plain)) or (is_tag(plain) and not spoken_in(plain))
    )


def is_unknown(label: str) -> bool:
    """Whether a label stands for a word that the other program did not know."""
    return label.strip().lower() in UNKNOWN_LABELS


def is_tag(chunk: str) -> bool:
    """Whether a stretch of a text is a tag as a whole.

    >>> [is_tag(chunk) for chunk in ("[noise]", "(laughs loudly)", "(one)", "SIL", "!SIL", "&=laughs", "(0.5)")]
    [True, True, False, True, True, True, True]
    """
    chunk = chunk.strip()
    if chunk in BARE_TAGS or BRACKETED.fullmatch(chunk):
        return True
    match = DESCRIBED.fullmatch(chunk)
    return bool(match) and is_description(match)  # type: ignore[arg-type]


def is_description(match: re.Match[str]) -> bool:
    """Whether a match of `DESCRIBED` describes a sound; other words in brackets are spoken.

    Times in brackets, "(0.5)", are pauses; text in `++` `++`, after `&=` or in `<|` `|>` is a tag by its form.
    """
    inner = match[1] if match[1] is not None else match[2]
    return inner is None or describes(inner)


@lru_cache(1 << 14)
def describes(inner: str) -> bool:
    """Whether what is in brackets or between asterisks describes a sound."""
    words = re.findall(r"[\w-]+", inner.lower())
    if re.fullmatch(r"\s*[0-9]*\.[0-9]+\s*", inner) or " ".join(words) in DESCRIPTIONS:
        return True
    return (
        bool(words)
        and any(word in EVENTS for word in words)
        and all(word in EVENTS | MODIFIERS for word in words)
    )


def spoken_in(tag: str) -> tuple[int, int] | None:
    """Where in a tag a spoken word lies, None where nothing of it is spoken.

    >>> spoken_in("[laughter-mean]"), spoken_in("[vocalized-noise]"), spoken_in("[laughter]")
    ((10, 14), None, None)
    """
    match = SPOKEN_TAG.fullmatch(tag)
    return match.span(1) if match else None


def tags(text: str) -> list[tuple[int, int]]:
    """(first, last) of everything in a text that is not spoken as a whole, in order: tags and speaker prefixes.

    >>> text = "A: yes (laughs) [noise] (one) SIL xxx"
    >>> [text[first:last] for first, last in tags(text)]
    ['A:', '(laughs)', '[noise]', 'SIL', 'xxx']
    """
    # most texts hold none of the signs: looking for these is quicker
    spans: list[tuple[int, int]] = []
    if any(sign in text for sign in "[<{"):
        spans += [match.span() for match in BRACKETED.finditer(text)]
    if any(sign in text for sign in ("(", "*", "++", "&=", "<|")):
        spans += [match.span() for match in DESCRIBED.finditer(text) if is_description(match)]
    if any(map(text.__contains__, BARE_TAGS)):
        spans += [match.span() for match in re.finditer(r"(?<!\S)\S+(?!\S)", text) if match[0] in BARE_TAGS]
    names = speakers(text)
    loud = bool(names) and text == text.upper()  # in capitals throughout, a name in capitals proves nothing
    spans += [
        (first, last) for first, last, name in names if not (loud and re.fullmatch(r"[A-Z][A-Z.' -]+", name))
    ]
    kept: list[tuple[int, int]] = []
    for first, last in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or first >= kept[-1][1]:
            kept.append((first, last))
    return kept


def speakers(text: str) -> list[tuple[int, int, str]]:
    """(first, last, name) of everything in a text that looks as if it named who speaks.

    >>> speakers("JOHN: hello. A: hi")
    [(0, 5, 'JOHN'), (13, 15, 'A')]
    """
    if not PREFIX_END.search(text):
        return []
    return [(match.start(1) - 1, match.end() - 1, match[1]) for match in PREFIX.finditer(f"\n{text}")]


class Unescaped(NamedTuple):
    """A text without HTML entities, and for every character (and the end) its place in the original."""

    text: str
    places: list[int] | None

    def original(self, position: int) -> int:
        """Place in the original text of a place in `text`."""
        return position if self.places is None else self.places[position]


def unescape(text: str) -> Unescaped:
    """Replace HTML entities, once.

    >>> unescape("don&#39;t &amp;amp;").text
    "don't &amp;"
    """
    if "&" not in text:
        return Unescaped(text, None)
    matches = [match for match in ENTITY.finditer(text) if html.unescape(match[0]) != match[0]]
    if not matches:
        return Unescaped(text, None)
    pieces: list[str] = []
    places: list[int] = []
    edges = [(0, 0), *(match.span() for match in matches), (len(text), len(text))]
    for (_, begin), (end, after) in pairwise(edges):
        pieces.append(text[begin:end])
        places += range(begin, end)
        replaced = html.unescape(text[end:after])
        pieces.append(replaced)
        places += [end] * len(replaced)
    return Unescaped("".join(pieces), [*places, len(text)])
