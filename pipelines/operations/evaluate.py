"""Evaluate with a build's tokenizers: a model on test sets, and the tokens themselves on recordings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm.evaluation.datasets.synthetic import make_testsets
from lm.evaluation.evaluate import evaluate, identities, write_results
from lm.evaluation.generation import NEW_TOKENS, PROMPT_UNITS, measure_generation
from lm.evaluation.results import compare
from lm.evaluation.resynthesis import Recording, Tokenizers, measure
from lm.evaluation.tasks.base import DEFAULTS, TaskOptions
from lm.evaluation.tasks.sentiment_preservation import SHORT
from lm.evaluation.testset import read_testset, tokenize_recordings
from lm.generate import load
from pipelines.operations.vocode import speaker_of
from pipelines.settings import read_settings
from pipelines.steps.audio import sampled_speech
from pipelines.steps.codebook import open_models
from pipelines.steps.prosody import load_pitch, load_style
from pipelines.tokenize import describe_tokenizer, make_tokenizer
from shards.vocabulary import Vocabulary


def evaluate_model(
    build: Path,
    testsets: Sequence[Path] = (),
    *,
    model: Path | None = None,
    items: int = 100,
    options: TaskOptions = DEFAULTS,
    stop_recording: Path | None = None,
    vocoder: str | None = None,
    voice: str | None = None,
    output: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score a model in text, in speech and across, and write the results.

    Args:
        build: whose tokenizers encode the recordings.
        testsets: their folders; without any, synthetic ones are made in BUILD/evaluation.
        model: default BUILD/model/best.
        items: pairs in a synthetic test set.
        stop_recording: of the word "stop", for readings by example.
        vocoder, voice: that speak its answers, as for `pipelines.operations.vocode.speaker_of`.
        output: default BUILD/evaluation/results.json.

    Returns:
        As `lm.evaluation.evaluate.evaluate`, with `comparison` with the paper's numbers and the `path` of the JSON.
    """
    vocabulary = Vocabulary.load(build / "shards")
    read = [read_testset(folder) for folder in testsets]
    if not testsets:
        read = list(make_testsets(build / "evaluation" / "testsets", items=items, say=say).values())
        options = replace(options, new_tokens=options.new_tokens or SHORT)
    tokenize = make_tokenizer(build)
    speaker, lacking = speaker_of(build, vocoder, voice)
    options = replace(options, vocoder=speaker, no_vocoder=lacking)
    if stop_recording:
        options = replace(options, stop_tokens=tokenize(stop_recording))
    results = evaluate(
        model or build / "model" / "best", read, tokenize, vocabulary=vocabulary, options=options,
        facts=describe_tokenizer(build), say=say,
    )  # fmt: skip
    return _write(results, output or build / "evaluation" / "results.json")


def measure_continuations(
    build: Path,
    testset: Path,
    recogniser: str,
    *,
    model: Path | None = None,
    text_model: Path | None = None,
    prompt_units: int = PROMPT_UNITS,
    new_tokens: int = NEW_TOKENS,
    vocoder: str | None = None,
    voice: str | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure spoken continuations of a test set's contexts (`lm.evaluation.generation`), and write the results.

    Args:
        model: default BUILD/model/best.
        output: default BUILD/evaluation/generation.json.
    """
    read = read_testset(testset)
    directory = model or build / "model" / "best"
    loaded, vocabulary = load(directory)
    if vocabulary.hash != Vocabulary.load(build / "shards").hash:
        raise ValueError(f"{directory}: was trained with another vocabulary than that of {build}")
    speaker, lacking = speaker_of(build, vocoder, voice)
    speech_tokens = tokenize_recordings(read, read.in_split("test"), make_tokenizer(build))
    rows = measure_generation(
        loaded, vocabulary, read, speech_tokens, recogniser=recogniser, text_model=text_model,
        prompt_units=prompt_units, new_tokens=new_tokens,
        options=replace(DEFAULTS, vocoder=speaker, no_vocoder=lacking),
    )  # fmt: skip
    results = identities(directory, vocabulary, "cpu", describe_tokenizer(build)) | {"rows": rows}
    path = output or build / "evaluation" / "generation.json"
    write_results(path, results)
    return results | {"path": path}


def measure_tokens(
    build: Path,
    testset: Path | None = None,
    *,
    count: int = 50,
    vocoder: str | None = None,
    voice: str | None = None,
    recogniser: str | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure how much of recordings a build's tokens preserve (`lm.evaluation.resynthesis`), and write the results.

    Args:
        testset: its recordings; None: `count` utterances of the build.
        vocoder, voice: as for `pipelines.operations.vocode.speaker_of`.
        output: default BUILD/evaluation/resynthesis.json.
    """
    if testset is None:
        name, version = build.name, "own recordings"
        recordings = [
            Recording(one.id, text=one.text, wave=wave) for one, wave in sampled_speech(build, count, "units")
        ]
    else:
        read = read_testset(testset)
        name, version = read.name, read.version
        recordings = [
            Recording(item.id, read.folder / segment.audio, segment.text, item.label, item.split)
            for item in read.items
            for segment in item.context
            if segment.audio is not None
        ]
    settings = read_settings(build)
    encoder, codebook = open_models(build, settings)
    tokenizers = Tokenizers(
        lambda wave: codebook.assign(encoder.encode([wave])[0]),
        encoder.hop,
        Vocabulary.load(build / "shards").units,
        load_pitch(build, settings) if settings.pitch.enabled else None,
        load_style(build, settings) if settings.style.enabled else None,
    )
    speaker, lacking = speaker_of(build, vocoder, voice)
    results = measure(
        recordings, tokenizers, name=name, version=version, vocoder=speaker, no_vocoder=lacking,
        recogniser=recogniser,
    )  # fmt: skip
    return _write(results, output or build / "evaluation" / "resynthesis.json")


def _write(results: dict[str, Any], path: Path) -> dict[str, Any]:
    """Write results with the paper's numbers."""
    results["comparison"] = [line._asdict() for line in compare(results["rows"])]
    write_results(path, results)
    return results | {"path": path}
