"""Fit an acoustic model for the backend `viter` on a build's own transcribed speech."""

import heapq
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from aligners.alignment import AlignerInput
from aligners.lexicon import ENGLISH, LETTERS
from aligners.mfa import write_corpus
from aligners.normalise import is_english
from aligners.rough import cut_into_words
from aligners.viter import fit_model, import_viter
from corpus import files
from corpus.keyed import fraction
from pipelines.layout import part_names
from pipelines.operations.mfa_corpus import utterances_of

FOLDER = "aligner"
"""Of a build, where its model is."""
SAMPLE = 200  # utterances that phone statistics and limits are fitted on


def fit_aligner(
    build: Path,
    *,
    dictionary: str | None = None,
    source: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a model, or import one, and put it into the build; an interrupted run leaves the old one.

    Args:
        build: a local build with a manifest.
        dictionary: "english", "letters" or the path of a dictionary in the format of MFA or CMU; None: "english" where
            all of the speech is English, else "letters".
        source: an acoustic model of MFA (.zip) to be imported.
        seed: of the training and of the choice of the sample.
        say: gets progress.

    Returns:
        The model's folder, and numbers of its card.

    Raises:
        ValueError: nothing is transcribed, or it cannot be trained on.
    """
    import_viter()
    if files.is_url(build):
        raise ValueError(f"{build}: an aligner is fitted on a local build")
    unfinished = files.unfinished_name(build / FOLDER)
    files.remove_folder(unfinished)
    unfinished.mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory(prefix="wordweave-corpus-") as name:
            speech = write_speech(build, Path(name), seed, dictionary)
            if not speech.utterances:
                raise ValueError(f"{build}: no utterance with a transcript; run `wordweave ingest` first")
            say(
                f"fit aligner: {speech.utterances} utterances, {len(speech.words)} words, {speech.dictionary}"
            )
            card = fit_model(
                Path(name), sorted(speech.words), speech.sample, unfinished,
                dictionary=speech.dictionary, source=source, minutes=speech.seconds / 60, seed=seed, progress=say,
            )  # fmt: skip
        if (build / FOLDER).is_dir():
            shutil.rmtree(build / FOLDER)
        os.replace(unfinished, build / FOLDER)
    finally:
        files.remove_folder(unfinished)
    numbers = ("dictionary", "words", "without_pronunciation", "aligned", "sample", "minimum_score")
    return {"model": str((build / FOLDER).resolve()), "utterances": speech.utterances} | {
        name: card[name] for name in numbers if name in card
    }


class Speech(NamedTuple):
    """What was written for the training: words, a sample of utterances, the dictionary, how many, and how long."""

    words: set[str]
    sample: list[AlignerInput]
    dictionary: str
    utterances: int
    seconds: float


def write_speech(build: Path, folder: Path, seed: int, dictionary: str | None) -> Speech:
    """Write all transcribed speech as WAV and .lab files; with letters as phones, word by word (`aligners.rough`)."""
    if dictionary is None:
        dictionary = ENGLISH if all(map(is_english, languages(build))) else LETTERS
    words: set[str] = set()
    sample: list[tuple[float, int, AlignerInput]] = []  # a heap: the next to leave has the highest fraction
    speakers: dict[str | None, Path] = {}
    utterances = files_written = 0
    seconds = 0.0
    for name in part_names(build):
        items, _ = utterances_of(build, name)
        pieces = [
            piece for item in items for piece in (cut_into_words(item) if dictionary == LETTERS else [item])
        ]
        write_corpus(pieces, folder, speakers, files_written)
        files_written += len(pieces)
        for item in items:
            utterances += 1
            seconds += item.seconds
            words.update(item.spoken)
            entry = (-fraction(seed, "fit aligner", item.utterance.id), utterances, item)
            if len(sample) < SAMPLE:
                heapq.heappush(sample, entry)
            else:
                heapq.heappushpop(sample, entry)
    chosen = [item for _, _, item in sorted(sample, reverse=True)]
    return Speech(words, chosen, dictionary, utterances, seconds)


def languages(build: Path) -> set[str]:
    """The languages of a build's transcribed utterances; English where none is named."""
    languages_present: set[str] = set()
    for name in part_names(build):
        table = files.read_table(build / "manifest" / name, columns=["language", "text", "reject"])
        languages_present |= {
            row["language"] or "en" for row in table.to_pylist() if row["text"] and row["reject"] is None
        }
    return languages_present
