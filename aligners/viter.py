"""Word times from viter: Gaussian mixture models by Kaldi's recipe, fitted on a build or imported from MFA.

For any language: `wordweave fit aligner BUILD` trains a model on the build's own transcribed speech, with a
pronunciation dictionary or with letters as phones, or imports an acoustic model of the Montreal Forced Aligner. viter
(MIT, a wheel of 6 MB) gives no scores: confidence and the filter of wrong transcripts come from `aligners.goodness`.

Every utterance is a speaker of its own, so that no result depends on its neighbours; a word without a pronunciation is
aligned as noise and does not cost the utterance.
"""

import contextlib
import hashlib
import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from aligners.alignment import Aligner, AlignerInput, AlignerOutput, Phone, TimedWord, backend_error
from aligners.goodness import Goodness, calibrate, fit_gaussians, load_goodness
from aligners.lexicon import ENGLISH, LETTERS, Lexicon, write_dictionary
from aligners.match import Label, match
from aligners.rough import sounding
from corpus.records import SAMPLE_RATE, Reject, Unusable

VERSION = "0.5.1"
MODEL, GOODNESS, CARD, DICTIONARY = "model.viter", "goodness.safetensors", "card.json", "dictionary.txt"
"""Files of a model's folder."""
SHORTEST = 0.1  # seconds
SHORT_GAP = 0.1  # seconds: a shorter gap between words is a closure or a breath, and is divided between them
TRIPHONE_MINUTES = 10.0  # of speech from which on phones in context are trained
UNKNOWN = frozenset({"sil", "spn"})
INSTALL = f"aligns any language with a model of its own; install it with `pip install viter=={VERSION}`"
FIT = "fit one with `wordweave fit aligner BUILD`"


@dataclass(frozen=True)
class ViterSettings:
    """Settings of the backend `viter`.

    model: folder that `wordweave fit aligner` wrote.
    beam, retry_beam: of the search; None: viter's own.
    minimum_score: an utterance whose mean goodness per frame is lower is rejected; None: the model's own limit,
        -inf: keep all.
    """

    model: str = ""
    beam: float | None = None
    retry_beam: float | None = None
    minimum_score: float | None = None


class Viter(Aligner):
    """Forced alignment by viter; see the module."""

    name = "viter"
    measures = ("score_per_frame", "lowest_word_score", "unknown_words")
    moves_boundaries = True
    outside_identity = ("model",)  # its path; the version holds its hash

    def __init__(self, settings: ViterSettings):
        self.settings = settings
        import_viter()
        self.folder = Path(settings.model)
        if not settings.model or not (self.folder / CARD).is_file():
            raise Unusable(f"viter.model {settings.model!r}: no model of an aligner there; {FIT}")
        self.card = read_card(self.folder)
        self.lexicon = lexicon_of(self.folder, self.card)
        self.goodness = load_goodness(self.folder / GOODNESS)
        self.version = f"2-{VERSION}-{self.card['sha256'][:16]}"

    def align_all(self, items: list[AlignerInput]) -> Sequence[AlignerOutput | Reject]:
        with opened_model(self.folder / MODEL, self.lexicon, items) as align:
            return [self._result(item, align) for item in items]

    def _result(self, item: AlignerInput, align: "Align") -> AlignerOutput | Reject:
        try:
            words, phones = align(item, self.settings)
            return self._judged(item, words, phones)
        except Reject as reject:
            return reject
        except Exception as error:
            return backend_error(error)

    def _judged(self, item: AlignerInput, words: list[Label], phones: list[list[Phone]]) -> AlignerOutput:
        """Words with their confidence; a reject where the sounds do not fit the phones."""
        scored = word_scores(self.goodness, phones, item.waveform)
        judged = [score for score, count in scored if count]
        quality = {"unknown_words": float(sum(not count for _, count in scored))}
        if judged:
            quality |= {"score_per_frame": float(np.mean(judged)), "lowest_word_score": min(judged)}
        minimum = self.settings.minimum_score
        limit = self.goodness.minimum if minimum is None else minimum
        if judged and quality["score_per_frame"] < limit:
            detail = f"score per frame {quality['score_per_frame']:.2f} is below {limit:.2f}"
            return AlignerOutput((), None, quality, Reject("align.low_quality", detail))
        labels = [
            word._replace(confidence=self.goodness.confidence(score, count) if count else 0.5)
            for word, (score, count) in zip(words, scored, strict=True)
        ]
        times: list[TimedWord] = match(labels, item.tokens, str(item.utterance.text))
        return AlignerOutput(times, [phone for some in phones for phone in some], quality)


def word_scores(
    goodness: Goodness, phones: Sequence[Sequence[Phone]], waveform: np.ndarray
) -> list[tuple[float, int]]:
    """(mean score per frame, number of phones) of every word; 0 phones for one that is not judged."""
    flat = goodness.scores([phone for some in phones for phone in some], waveform)
    scored, index = [], 0
    for some in phones:
        parts = flat[index : index + len(some)]
        index += len(some)
        frames = sum(count for _, count in parts)
        known = sum(count > 0 for _, count in parts)
        scored.append((sum(score for score, _ in parts) / frames if frames else 0.0, known))
    return scored


Align = Callable[[AlignerInput, ViterSettings], tuple[list[Label], list[list[Phone]]]]
"""An utterance -> its words as labels, and the phones of each. Raises Reject."""


@contextlib.contextmanager
def opened_model(model: Path, lexicon: Lexicon, items: Sequence[AlignerInput]) -> Iterator[Align]:
    """A loaded model with the pronunciations of the words of some utterances.

    The dictionary of one batch is enough: measured, a larger one changes no time.
    """
    viter = import_viter()
    with tempfile.TemporaryDirectory(prefix="wordweave-viter-") as folder:
        words = [word for item in items for word in item.spoken]
        dictionary = Path(folder) / DICTIONARY
        missing = set(write_dictionary(words, lexicon, dictionary))
        with quiet():
            loaded = viter.Model(str(model), dict=str(dictionary))

        def align(item: AlignerInput, settings: ViterSettings) -> tuple[list[Label], list[list[Phone]]]:
            if item.seconds < SHORTEST:
                raise Reject("align.too_short", f"{item.seconds:.3f} s, need {SHORTEST} s")
            if not set(item.spoken) - missing:
                raise Reject(
                    "align.out_of_vocabulary", f"no word has a pronunciation, {item.spoken[0]!r} first"
                )
            return align_one(loaded, item, settings)

        yield align


def align_one(
    model: Any, item: AlignerInput, settings: ViterSettings
) -> tuple[list[Label], list[list[Phone]]]:
    """One utterance by a loaded model; raises Reject where no path is found."""
    first, last = sounding(item.waveform)  # digital silence spoils the mean that features are normalised by
    waveform = np.ascontiguousarray(item.waveform[first:last], np.float32)
    beams = {"beam": settings.beam, "retry_beam": settings.retry_beam}
    try:
        with quiet():
            segments = model.align(waveform, " ".join(item.spoken), sample_rate=SAMPLE_RATE, **beams)
    except Exception as error:
        raise Reject("align.unalignable", str(error)[:200]) from error
    except BaseException as error:  # a panic of Rust's is not an Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise Reject("align.unalignable", f"viter: {error}"[:200]) from error
    lead = first / SAMPLE_RATE
    words = close_gaps([Label(word.label, word.start + lead, word.end + lead) for word in segments.words])
    if [word.text.lower() for word in words] != item.spoken:
        raise Reject("align.token_mismatch", f"{len(item.spoken)} words in, {len(words)} out")
    phones = [
        [Phone(phone.label, phone.start + lead, phone.end + lead) for phone in word.phones]
        for word in segments.words
    ]
    return words, [[phone for phone in some if phone.text not in UNKNOWN] for some in phones]


def close_gaps(words: list[Label]) -> list[Label]:
    """Words with short gaps between them divided.

    Measured against human labels of German: 90 % of onsets are within 50 ms, not 86 %.

    >>> [(word.start, word.end) for word in close_gaps([Label("a", 0.0, 1.0), Label("b", 1.0625, 2.0)])]
    [(0.0, 1.03125), (1.03125, 2.0)]
    """
    closed = list(words)
    for index in range(1, len(words)):
        before, word = closed[index - 1], closed[index]
        if 0 < word.start - before.end < SHORT_GAP:
            middle = (before.end + word.start) / 2
            closed[index - 1 : index + 1] = [before._replace(end=middle), word._replace(start=middle)]
    return closed


def import_viter() -> Any:
    """The package, in the version whose results are measured.

    Raises:
        Unusable: it is missing, or of another version; the message says how to get it.
    """
    try:
        installed = version("viter")
    except PackageNotFoundError:
        raise Unusable(f"viter: not installed; it {INSTALL}") from None
    if installed != VERSION:
        raise Unusable(f"viter: need version {VERSION}, got {installed}; it {INSTALL}")
    import viter

    return viter


_STDERR = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on file descriptor 2 meanwhile: viter prints its progress there, utterance by utterance."""
    with _STDERR, open(os.devnull, "wb") as nothing:
        kept = os.dup(2)
        try:
            os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


# --- fitting --------------------------------------------------------------------------------------------------------


def lexicon_of(folder: Path, card: Mapping[str, Any]) -> Lexicon:
    """The lexicon that a model was fitted with."""
    kind = str(folder / DICTIONARY) if card["dictionary"] == DICTIONARY else card["dictionary"]
    return Lexicon(kind, frozenset(card["phones"]))


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a model's folder, checked against its files.

    Raises:
        Unusable: a file is missing or was changed.
    """
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    if hash_model(folder) != card.get("sha256"):
        raise Unusable(f"{folder}: its files are not those of its card; {FIT}")
    return card


def hash_model(folder: Path) -> str:
    """SHA-256 of the model, its phone statistics and its dictionary."""
    digest = hashlib.sha256()
    for name in (MODEL, GOODNESS, DICTIONARY):
        if (folder / name).is_file():
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()


def fit_model(
    corpus: Path,
    words: Sequence[str],
    sample: Sequence[AlignerInput],
    folder: Path,
    *,
    dictionary: str,
    source: Path | None = None,
    minutes: float,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a model on a corpus, or import one, and measure its phones on a sample.

    Args:
        corpus: WAV and .lab files, one folder per speaker (`aligners.mfa.write_corpus`).
        words: all words of it.
        sample: utterances that the phone statistics and limits are fitted on.
        folder: an empty folder for the result.
        dictionary: "english", "letters" or the path of a dictionary.
        source: an acoustic model of MFA (.zip) to be imported instead of training.
        minutes: of speech in the corpus.
        seed: of the training.
        progress: gets a line now and then.

    Returns:
        The card.

    Raises:
        ValueError: the dictionary or model cannot be used, or too little can be aligned.
    """
    viter = import_viter()
    kept = dictionary
    if dictionary not in (ENGLISH, LETTERS):
        (folder / DICTIONARY).write_bytes(Path(dictionary).read_bytes())
        kept = DICTIONARY
    with tempfile.TemporaryDirectory(prefix="wordweave-viter-") as scratch:
        written = Path(scratch) / DICTIONARY
        missing = write_dictionary(words, Lexicon(dictionary), written)
        if source:
            model = import_model(viter, source, folder)
        else:
            model = train(
                viter, corpus, written, folder / MODEL, seed, progress, simple=minutes < TRIPHONE_MINUTES
            )
    phones = sorted({phone.rsplit("_", 1)[0] for phone in model.phones} - UNKNOWN)
    card: dict[str, Any] = {"viter": VERSION, "dictionary": kept, "phones": phones}
    card |= {"seed": seed, "imported": source.name if source else None, "words": len(set(words))}
    lexicon = lexicon_of(folder, card)
    goodness, numbers = fit_goodness(folder / MODEL, lexicon, sample)
    goodness.save(folder / GOODNESS)
    card |= {"without_pronunciation": len(missing), **numbers, "sha256": hash_model(folder)}
    (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def train(
    viter: Any,
    corpus: Path,
    dictionary: Path,
    path: Path,
    seed: int,
    progress: Callable[[str], None],
    *,
    simple: bool,
) -> Any:
    """Train by MFA's schedule, without speaker adaptation: an utterance must not depend on its neighbours.

    `simple` is without phones in context, which a few minutes of speech cannot teach.
    """
    reported = -10

    def report(state: Mapping[str, Any]) -> None:
        nonlocal reported
        percent = int(100 * state["fraction"])
        if percent >= reported + 10:
            reported = percent
            progress(f"fit aligner: {percent} %, {state['stage']}")

    try:
        return viter.train(
            str(corpus), str(path), dict=str(dictionary), cpu=True, seed=seed, quiet=True, no_sat=True, no_tri=simple,
            progress=report,
        )  # fmt: skip
    except viter.ViterError as error:
        raise ValueError(f"viter cannot train on this speech: {error}") from error


def import_model(viter: Any, source: Path, folder: Path) -> Any:
    """Convert an acoustic model of MFA."""
    try:
        with quiet():
            return viter.import_mfa(str(source), str(folder / MODEL))
    except viter.ViterError as error:
        raise ValueError(f"{source}: cannot be imported as an acoustic model of MFA: {error}") from error


def fit_goodness(
    model: Path, lexicon: Lexicon, sample: Sequence[AlignerInput]
) -> tuple[Goodness, dict[str, Any]]:
    """Phone statistics of a sample, and limits from the same recordings with each other's transcripts."""
    settings = ViterSettings()
    swapped = swap_transcripts(sample)

    def aligned(items: Sequence[AlignerInput]) -> list[tuple[AlignerInput, list[list[Phone]]]]:
        alignments = []
        with opened_model(model, lexicon, items) as align:
            for item in items:
                with contextlib.suppress(Reject):
                    alignments.append((item, align(item, settings)[1]))
        return alignments

    right, wrong = aligned(sample), aligned(swapped)
    if len(right) < max(2, len(sample) // 2):
        raise ValueError(
            f"viter aligns {len(right)} of {len(sample)} utterances: do transcripts and dictionary fit?"
        )
    goodness = fit_gaussians(
        [([phone for some in phones for phone in some], item.waveform) for item, phones in right]
    )

    def scores(some: list[tuple[AlignerInput, list[list[Phone]]]]) -> list[list[tuple[float, int]]]:
        return [
            [one for one in word_scores(goodness, phones, item.waveform) if one[1]] for item, phones in some
        ]

    numbers = {
        "sample": len(sample),
        "aligned": len(right),
        "swapped_aligned": len(wrong),
        "swapped": len(swapped),
    }
    if len(wrong) < 2:
        return goodness, numbers
    goodness = calibrate(goodness, scores(right), scores(wrong))
    return goodness, {
        **numbers,
        "minimum_score": round(goodness.minimum, 3) if math.isfinite(goodness.minimum) else None,
    }


def swap_transcripts(items: Sequence[AlignerInput]) -> list[AlignerInput]:
    """Every recording with the transcript of the next one that has another; none where all have the same."""
    count = len(items)
    swapped = []
    for index, item in enumerate(items):
        others = (items[(index + step) % count] for step in range(1, count))
        other = next((one for one in others if one.spoken != item.spoken), None)
        if other:
            swapped.append(item._replace(tokens=other.tokens))
    return swapped
