"""English spelling -> phones, for words that the pronunciation dictionary lacks.

A joint-sequence model: a word is a sequence of *graphones*, one letter with the zero to two phones it stands
for (`knight` = k: n:N i:AY g: h: t:T), and a pruned n-gram over graphones gives the probability of a sequence.
Learned from the dictionary inside the pocketsphinx wheel (cmudict, Carnegie Mellon University, 2-clause BSD
licence); nothing is downloaded. Measured: 6.8 % of phones and 28 % of words wrong on 6194 held-out words.

    python -m aligners.g2p              # learn again, write aligners/data/g2p-en.npz, print the held-out error
    python -m aligners.g2p --evaluate   # the held-out error of the bundled file

Sources: Bisani and Ney 2008, "Joint-sequence models for grapheme-to-phoneme conversion",
doi:10.1016/j.specom.2008.01.002 (the model); Witten and Bell 1991 (the smoothing); Seymore and Rosenfeld 1996,
"Scalable backoff language models" (the pruning).
"""

import argparse
import functools
import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np

MODEL = Path(__file__).parent / "data" / "g2p-en.npz"
ORDER = 7
NGRAMS = 400_000  # after pruning; 0.9 MB on disk
HELD_OUT = 20  # one word in N is held out of training
LONGEST_CHUNK = 2  # phones of one letter, as in x:K-S
BEAM = 12  # hypotheses kept per letter; 12 -> 48 changed no held-out error in the third digit
STEP = 1 / 8  # nats: log probabilities are stored in whole steps
LETTER_NAMES = {
    letter: tuple(phones.split())
    for letter, phones in {
        **{
            "a": "EY",
            "b": "B IY",
            "c": "S IY",
            "d": "D IY",
            "e": "IY",
            "f": "EH F",
            "g": "JH IY",
            "h": "EY CH",
        },
        **{
            "i": "AY",
            "j": "JH EY",
            "k": "K EY",
            "l": "EH L",
            "m": "EH M",
            "n": "EH N",
            "o": "OW",
            "p": "P IY",
        },
        **{"q": "K Y UW", "r": "AA R", "s": "EH S", "t": "T IY", "u": "Y UW", "v": "V IY", "x": "EH K S"},
        **{"w": "D AH B AH L Y UW", "y": "W AY", "z": "Z IY"},
    }.items()
}
VOICELESS = frozenset(["P", "T", "K", "F", "TH"])
SIBILANT = frozenset(["S", "Z", "SH", "ZH", "CH", "JH"])

Phones = tuple[str, ...]
Graphone = tuple[str, Phones]
Context = tuple[int, ...]


def pronounce(word: str) -> Phones | None:
    """The likeliest phones of a word, None where it has a character other than a-z and the apostrophe.

    Words without a vowel letter are spelled out. A possessive is its word and an S, Z or IH Z.

    >>> pronounce("blogosphere")
    ('B', 'L', 'AO', 'G', 'AH', 'S', 'F', 'IH', 'R')
    >>> pronounce("xqz")
    ('EH', 'K', 'S', 'K', 'Y', 'UW', 'Z', 'IY')
    >>> pronounce("слово") is None
    True
    """
    if not re.fullmatch("[a-z']*[a-z][a-z']*", word):
        return None
    if word.endswith("'s") and len(word) > 2:
        stem = pronounce(word[:-2])
        return stem and stem + plural(stem)
    letters = word.replace("'", "")
    if not set(letters) & set("aeiouy"):
        return tuple(phone for letter in letters for phone in LETTER_NAMES[letter])
    return bundled().decode(letters)


def pronounce_by_parts(word: str, known: Callable[[str], Phones | None]) -> Phones | None:
    """Phones of a word from those of its parts that are in the dictionary, else from its spelling.

    Tried in this order: possessive or plural of a known word ("fireman's"), a compound of two known words of
    at least four letters ("bookbinding" = book + binding), `pronounce`.

    Args:
        word: lower case.
        known: the phones of a word, None where it is unknown (a dictionary's `get`).

    >>> pronounce_by_parts("zyxel's", {"zyxel": ("Z", "AY", "S", "AH", "L")}.get)
    ('Z', 'AY', 'S', 'AH', 'L', 'Z')
    """
    listed = known(word)
    if listed:
        return listed
    for ending in ("'s", "s'", "s"):
        stem = (
            known(word.removesuffix(ending))
            if word.endswith(ending) and len(word) > len(ending) + 2
            else None
        )
        if stem and not (ending == "s" and word.endswith("ss")):
            return stem + plural(stem)
    if word.endswith("'s") and len(word) > 2:
        stem = pronounce_by_parts(word[:-2], known)
        return stem and stem + plural(stem)
    for cut in sorted(range(4, len(word) - 3), key=lambda cut: abs(2 * cut - len(word))):
        first, second = known(word[:cut]), known(word[cut:])
        if first and second:
            return first + second
    return pronounce(word)


def plural(stem: Phones) -> Phones:
    """The phones that a final s adds.

    >>> plural(("K", "AE", "T")), plural(("D", "AO", "G")), plural(("B", "AH", "S"))
    (('S',), ('Z',), ('IH', 'Z'))
    """
    if stem[-1] in SIBILANT:
        return ("IH", "Z")
    return ("S",) if stem[-1] in VOICELESS else ("Z",)


class Model:
    """A backoff n-gram over graphones; symbol 0 is the end (and, as context, the start) of a word."""

    def __init__(
        self, graphones: list[Graphone], log_p: dict[Context, float], log_backoff: dict[Context, float]
    ):
        self.graphones = graphones
        self.log_p = log_p
        self.log_backoff = log_backoff
        self.order = max(map(len, log_p))
        self.by_letter: dict[str, list[int]] = defaultdict(list)
        for symbol, (letter, _) in enumerate(graphones[1:], 1):
            self.by_letter[letter].append(symbol)

    def score(self, context: Context, symbol: int) -> float:
        """ln p(symbol | context), backing off to shorter contexts."""
        total = 0.0
        while True:
            log_p = self.log_p.get((*context, symbol))
            if log_p is not None:
                return total + log_p
            if not context:
                return total - 20.0
            total += self.log_backoff.get(context, 0.0)
            context = context[1:]

    def decode(self, letters: str) -> Phones:
        """Beam search, one letter a step; letters the model has never seen are silent."""
        beam: dict[Context, tuple[float, Phones]] = {(0,): (0.0, ())}
        keep = self.order - 1
        for letter in letters:
            grown: dict[Context, tuple[float, Phones]] = {}
            for context, (total, phones) in beam.items():
                for symbol in self.by_letter.get(letter, ()):
                    better = total + self.score(context, symbol)
                    after = (*context, symbol)[-keep:]
                    if after not in grown or better > grown[after][0]:
                        grown[after] = (better, phones + self.graphones[symbol][1])
            if grown:
                beam = dict(sorted(grown.items(), key=lambda item: (-item[1][0], item[0]))[:BEAM])
        ended = [
            (total + self.score(context, 0), phones) for context, (total, phones) in beam.items() if phones
        ]
        return (
            max(ended)[1]
            if ended
            else tuple(phone for letter in letters for phone in LETTER_NAMES.get(letter, ()))
        )

    def save(self, path: Path, provenance: dict) -> None:
        """Write the model as compressed arrays (npz, no pickle): n-grams sorted, so that equal prefixes compress."""
        graphones = [[letter, " ".join(phones)] for letter, phones in self.graphones]
        header = json.dumps({"graphones": graphones, "provenance": provenance}, sort_keys=True).encode()
        arrays = {"header": np.frombuffer(header, np.uint8)}
        for n in range(1, self.order + 1):
            grams = sorted(gram for gram in self.log_p if len(gram) == n)
            prefixes = {
                gram: row
                for row, gram in enumerate(sorted(gram for gram in self.log_p if len(gram) == n - 1))
            }
            # a row names its context by the distance to the row before: mostly 0 and 1
            parents = np.array([prefixes.get(gram[:-1], 0) for gram in grams])
            arrays[f"step{n}"] = np.diff(parents, prepend=0).astype(np.uint16)
            arrays[f"symbol{n}"] = np.array([gram[-1] for gram in grams], np.uint16)
            arrays[f"log_p{n}"] = quantise([self.log_p[gram] for gram in grams])
            arrays[f"log_backoff{n}"] = quantise([self.log_backoff.get(gram, 0.0) for gram in grams])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def quantise(logs: list[float]) -> np.ndarray:
    """(N,) ln values -> (N,) int8 steps: probabilities are at most 0, backoff weights may be a little above."""
    return np.clip(np.round(np.array(logs) / STEP), -128, 127).astype(np.int8)


def load(path: Path) -> tuple[Model, dict]:
    """Read what `Model.save` wrote: the model and its provenance."""
    with np.load(path, allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        graphones = [(letter, tuple(phones.split())) for letter, phones in header["graphones"]]
        log_p: dict[Context, float] = {}
        log_backoff: dict[Context, float] = {}
        before: list[Context] = [()]
        n = 1
        while f"symbol{n}" in arrays:
            parents = np.cumsum(arrays[f"step{n}"].astype(np.int64)).tolist()
            grams = [
                (*before[parent], symbol)
                for parent, symbol in zip(parents, arrays[f"symbol{n}"].tolist(), strict=True)
            ]
            log_p.update(zip(grams, (arrays[f"log_p{n}"].astype(float) * STEP).tolist(), strict=True))
            weights = (arrays[f"log_backoff{n}"].astype(float) * STEP).tolist()
            log_backoff.update((gram, weight) for gram, weight in zip(grams, weights, strict=True) if weight)
            before = grams
            n += 1
    return Model(graphones, log_p, log_backoff), header["provenance"]


@functools.cache
def bundled() -> Model:
    """The model that comes with wordweave, read once per process."""
    return load(MODEL)[0]


# --- training -------------------------------------------------------------------------------------------------------


def read_dictionary(path: Path) -> list[tuple[str, Phones]]:
    """(letters, phones) of every entry spelled with a-z, variants included; apostrophes are dropped."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        word = re.sub(r"\(\d+\)$", "", word)
        if re.fullmatch("[a-z']*[a-z][a-z']*", word):
            entries.append((word.replace("'", ""), tuple(phones)))
    return entries


def held_out(letters: str) -> bool:
    """Whether a word is kept for the test; by a hash, so that all variants of a word fall on one side."""
    return int(hashlib.sha256(letters.encode()).hexdigest(), 16) % HELD_OUT == 0


def align_letters(
    entries: list[tuple[str, Phones]], iterations: int = 6, sample: int = 30_000
) -> list[list[Graphone]]:
    """Cut every entry into graphones by expectation maximisation (probabilities of letter -> chunk).

    Entries that cannot be cut (fewer than half as many letters as phones: acronyms) are left out.
    """
    usable = [(letters, phones) for letters, phones in entries if len(phones) <= LONGEST_CHUNK * len(letters)]
    every = max(1, len(usable) // sample)
    p: dict[Graphone, float] = defaultdict(lambda: 1.0)
    for _ in range(iterations):
        counts: dict[Graphone, float] = defaultdict(float)
        for letters, phones in usable[::every]:
            expect(letters, phones, p, counts)
        totals: dict[str, float] = defaultdict(float)
        for (letter, _), count in counts.items():
            totals[letter] += count
        p = defaultdict(
            lambda: 1e-9, {graphone: count / totals[graphone[0]] for graphone, count in counts.items()}
        )
    return [cut(letters, phones, p) for letters, phones in usable]


def expect(letters: str, phones: Phones, p: dict[Graphone, float], counts: dict[Graphone, float]) -> None:
    """Add the expected number of times each graphone is used in one entry (forward-backward over letters x phones)."""
    L, N = len(letters), len(phones)
    forward = [[0.0] * (N + 1) for _ in range(L + 1)]
    forward[0][0] = 1.0
    arcs = []
    for i, letter in enumerate(letters):
        for j in range(max(0, N - LONGEST_CHUNK * (L - i)), min(N, LONGEST_CHUNK * i) + 1):
            if forward[i][j]:
                for k in range(j, min(N, j + LONGEST_CHUNK) + 1):
                    graphone = (letter, phones[j:k])
                    forward[i + 1][k] += forward[i][j] * p[graphone]
                    arcs.append((i, j, k, graphone))
    total = forward[L][N]
    if not total:
        return
    backward = [[0.0] * (N + 1) for _ in range(L + 1)]
    backward[L][N] = 1.0
    for i, j, k, graphone in reversed(arcs):
        through = p[graphone] * backward[i + 1][k]
        backward[i][j] += through
        counts[graphone] += forward[i][j] * through / total


def cut(letters: str, phones: Phones, p: dict[Graphone, float]) -> list[Graphone]:
    """The likeliest graphones of one entry (Viterbi)."""
    L, N = len(letters), len(phones)
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    for i, letter in enumerate(letters):
        row: dict[int, tuple[float, int]] = {}
        for j, (total, _) in best[i].items():
            for k in range(j, min(N, j + LONGEST_CHUNK) + 1):
                if N - k <= LONGEST_CHUNK * (L - i - 1):
                    candidate = (total + math.log(p[letter, phones[j:k]]), j)
                    if k not in row or candidate > row[k]:
                        row[k] = candidate
        best.append(row)
    graphones, k = [], N
    for i in range(L, 0, -1):
        j = best[i][k][1]
        graphones.append((letters[i - 1], phones[j:k]))
        k = j
    return graphones[::-1]


def learn(words: list[list[Graphone]], order: int = ORDER, ngrams: int = NGRAMS) -> Model:
    """Count, smooth (Witten-Bell, interpolated) and prune a graphone n-gram."""
    seen = Counter(graphone for word in words for graphone in word)
    graphones: list[Graphone] = [("", ()), *sorted(graphone for graphone, count in seen.items() if count > 2)]
    number = {graphone: symbol for symbol, graphone in enumerate(graphones)}
    counts: Counter[Context] = Counter()
    for word in words:
        if all(graphone in number for graphone in word):
            symbols = (0, *(number[graphone] for graphone in word), 0)
            for end in range(1, len(symbols)):
                counts.update(symbols[start : end + 1] for start in range(max(0, end - order + 1), end + 1))
    p = smooth(counts, len(graphones))
    return prune(graphones, counts, p, ngrams)


def smooth(counts: Counter[Context], symbols: int) -> dict[Context, float]:
    """n-gram -> probability of its last symbol after the others, each order interpolated with the one below."""
    followers: dict[Context, list[int]] = defaultdict(lambda: [0, 0])
    for gram, count in counts.items():
        followers[gram[:-1]][0] += count
        followers[gram[:-1]][1] += 1
    p: dict[Context, float] = {}
    for gram in sorted(counts, key=len):
        tokens, types = followers[gram[:-1]]
        lower = p[gram[1:]] if len(gram) > 1 else 1 / symbols
        p[gram] = (counts[gram] + types * lower) / (tokens + types)
    return p


def prune(graphones: list[Graphone], counts: Counter[Context], p: dict[Context, float], keep: int) -> Model:
    """Keep the n-grams whose loss would cost most (count x change of log probability), and all their prefixes."""
    cost = {gram: counts[gram] * abs(math.log(p[gram] / p[gram[1:]])) for gram in p if len(gram) > 1}
    kept: set[Context] = {gram for gram in p if len(gram) == 1}
    for gram in sorted(cost, key=lambda gram: (-cost[gram], gram)):
        if len(kept) >= keep:
            break
        kept.update(gram[:n] for n in range(2, len(gram) + 1) if gram[:n] in p)
    kept.add((0,))
    left: dict[Context, list[float]] = defaultdict(lambda: [1.0, 1.0])
    for gram in kept:
        if len(gram) > 1:
            left[gram[:-1]][0] -= p[gram]
            left[gram[:-1]][1] -= p[gram[1:]]
    log_p = {gram: math.log(p.get(gram, 1e-9)) for gram in kept}
    # a context may itself be pruned away as an n-gram only if nothing follows it: prefixes are always kept
    log_backoff = {gram: math.log(max(rest, 1e-6) / max(lower, 1e-6)) for gram, (rest, lower) in left.items()}
    return Model(graphones, log_p, log_backoff)


def edits(first: Phones, second: Phones) -> int:
    """Levenshtein distance."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def evaluate(model: Model, entries: Iterable[tuple[str, Phones]]) -> dict[str, float]:
    """Phone and word error against the nearest variant of every word."""
    variants: dict[str, list[Phones]] = defaultdict(list)
    for letters, phones in entries:
        variants[letters].append(phones)
    errors = phones_total = wrong = 0
    for letters, spoken in sorted(variants.items()):
        guess = model.decode(letters)
        distance, length = min((edits(guess, phones), len(phones)) for phones in spoken)
        errors, phones_total, wrong = errors + distance, phones_total + length, wrong + (distance > 0)
    return {"words": len(variants), "phone_error": errors / phones_total, "word_error": wrong / len(variants)}


def dictionary_path() -> Path:
    """The dictionary inside the pocketsphinx wheel."""
    from pocketsphinx import get_model_path

    return Path(get_model_path("en-us/cmudict-en-us.dict"))


def split(path: Path) -> tuple[list[tuple[str, Phones]], list[tuple[str, Phones]]]:
    """(entries to learn from, entries held out)."""
    entries = read_dictionary(path)
    return [e for e in entries if not held_out(e[0])], [e for e in entries if held_out(e[0])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m aligners.g2p", description="learn or evaluate the spelling model"
    )
    parser.add_argument("--evaluate", action="store_true", help="only measure the bundled file")
    parser.add_argument("--output", type=Path, default=MODEL)
    options = parser.parse_args()
    path = dictionary_path()
    known, unknown = split(path)
    if not options.evaluate:
        model = learn(align_letters(known))
        source = {
            "from": f"cmudict-en-us.dict of pocketsphinx {version('pocketsphinx')}, Carnegie Mellon University",
            "licence": "BSD-2-Clause",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "order": ORDER,
            "ngrams": NGRAMS,
            "held_out": f"one word in {HELD_OUT}, by sha256 of its letters",
        }
        model.save(options.output, source)
    model, provenance = load(options.output)
    print(
        json.dumps(
            {**evaluate(model, unknown), "bytes": options.output.stat().st_size, "provenance": provenance}
        )
    )
