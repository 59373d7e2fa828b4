"""Recordings of tokens: of an utterance of a build, of a token string, of a model's prompts and answers."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from corpus import files
from corpus.records import SAMPLE_RATE
from lm.evaluation.external_tools import vocode
from lm.speaker import BUNDLED, Speaker, name_of, open_speaker
from pipelines.layout import finished_part, part_names
from pipelines.settings import read_settings
from pipelines.steps.codebook import codebook_path
from pipelines.steps.prosody import load_pitch, load_style
from shards.stream import merge
from units.deduplicate import deduplicate
from units.quantizers import load_codebook

ANSWER = re.compile(r"(?:\[(?:Hu|Pi|St)\d+\])+")


def speaker_of(
    build: Path, vocoder: str | None = None, voice: str | Path | None = None
) -> tuple[Speaker | str | None, str]:
    """The vocoder for a build's tokens, and what is lacking where there is none.

    Args:
        vocoder: "bundled", a directory, or a command; None: the bundled one, if the build's units are those it was
            made for.
        voice: a name of one of its voices, or a recording; None: its first.

    Raises:
        ValueError: it is named and cannot be used.
    """
    settings = read_settings(build)
    pitch = load_pitch(build, settings) if settings.pitch.enabled else None
    style = load_style(build, settings) if settings.style.enabled else None
    identity = {
        "codebook": load_codebook(codebook_path(build, settings)).hash,
        "pitch": pitch.hash if pitch else None,
        "style": style.hash if style else None,
    }
    try:
        return open_speaker(vocoder or BUNDLED, voice, pitch_tokenizer=pitch, **identity), "a vocoder"
    except ValueError as error:
        if vocoder is not None or voice is not None:
            raise
        return None, f"a vocoder for these units ({error})"


def stored_tokens(build: Path, utterance: str) -> tuple[str, list[int]]:
    """The token string of an utterance of a build, and the length of each of its units in frames.

    Raises:
        ValueError: there is none of that id, or it was rejected.
    """
    settings = read_settings(build)
    for name in part_names(build):
        ids = files.read_table(build / "manifest" / name, columns=["id"])["id"].to_pylist()
        if utterance not in ids:
            continue
        row = ids.index(utterance)
        found = files.read_table(build / "units" / name).take([row]).to_pylist()[0]
        if found["reject"] is not None or found["units"] is None:
            raise ValueError(f"{utterance}: has no units: {found['reject']}")
        units = np.array(found["units"])
        streams = {"unit_rate": SAMPLE_RATE / finished_part(build, "units", name, "units")["hop"]}
        for kind in ("pitch", "style"):
            if getattr(settings, kind).enabled:
                streams[kind] = np.array(
                    files.read_table(build / kind / name).take([row]).to_pylist()[0][kind]
                )
                streams[f"{kind}_rate"] = finished_part(build, kind, name, kind)["rate"]
        names = merge(units, **streams)
        return "".join(names), [int(n) for n in deduplicate(units)[1]]
    raise ValueError(f"{utterance}: not in {build}; see {build}/report/rejects.jsonl")


def vocode_tokens(
    tokens: str, output: Path, *, vocoder: str | None = None, voice: str | None = None
) -> dict[str, Any]:
    """Write a token string as a WAV.

    Args:
        vocoder, voice: as for `speaker_of`.

    Raises:
        ValueError: no unit, a token that is none or out of range, a vocoder or a voice that cannot be used.
    """
    return write_wav(open_speaker(vocoder or BUNDLED, voice), tokens, output)


def vocode_utterance(
    build: Path, utterance: str, output: Path, *,
    vocoder: str | None = None, voice: str | None = None, predict_lengths: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write an utterance of a build, from its tokens, as a WAV; unit lengths are those of the recording."""
    speaker, lacking = speaker_of(build, vocoder, voice)
    if speaker is None:
        raise ValueError(f"{build}: needs {lacking}")
    tokens, frames = stored_tokens(build, utterance)
    return write_wav(speaker, tokens, output, None if predict_lengths else frames)


def write_wav(
    speaker: Speaker | str | None, tokens: str, output: Path, frames: list[int] | None = None
) -> dict[str, Any]:
    """The result line of a WAV."""
    assert speaker is not None
    vocode(speaker, tokens, output, frames=frames)
    return {
        "wav": str(output),
        "seconds": round(soundfile.info(output).duration, 3),
        "vocoder": name_of(speaker),
    }


def write_answers(answers: Sequence[dict[str, Any]], folder: Path, speaker: Speaker | str) -> list[str]:
    """Every speech span of prompts and answers as a WAV file of its own; their names, in order.

    `prompt-1-to-text.wav` is the speech of the first prompt, `answer-1-to-text-2.wav` that of the second answer to it;
    the spans of one that holds several end in -a, -b, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[str] = []

    def write(name: str, tokens: str) -> None:
        spans = [span for span in ANSWER.findall(tokens) if "[Hu" in span]
        for number, span in enumerate(spans):
            suffix = f"-{'abcdefghijklmnopqrstuvwxyz'[number % 26]}" if len(spans) > 1 else ""
            vocode(speaker, span, folder / f"{name}{suffix}.wav")
            written.append(f"{name}{suffix}.wav")

    prompts: list[Any] = []
    counts: list[int] = []
    for answer in answers:
        key = [answer["prompt"], answer["to"]]
        if key not in prompts:
            prompts.append(key)
            counts.append(0)
            spoken = "".join(content for kind, content in answer["prompt"] if kind == "speech")
            write(f"prompt-{len(prompts)}-to-{answer['to']}", spoken)
        number = prompts.index(key)
        counts[number] += 1
        write(f"answer-{number + 1}-to-{answer['to']}-{counts[number]}", answer["tokens"])
    return written
