"""A corpus small enough to train on in minutes, made so that interleaving can show what it does.

Short stories of one topic each (`corpus.synthetic.grammar.short_story`): some spoken with a transcript, some only
spoken, some only written, so that a model meets a topic's words in speech and in writing, and learns that they are the
same where the two are aligned or nowhere. Or stories in a mood, which words or the voice alone tell (`moody_story`).
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from corpus.files import write_lines
from corpus.keyed import generator
from corpus.synthetic.grammar import MOODS, TOPICS, moody_story, recall_story, short_story
from corpus.synthetic.speech import speak_all, speaker_by

KINDS = ("topics", "moods", "recall")
RATES = (165, 195)  # words a minute: brisk, for fewer units per word


def speak_miniature(
    folder: Path,
    *,
    transcribed: int,
    untranscribed: int,
    text_only: int,
    voices: int,
    seed: int,
    kind: str = "topics",
    topics: int = len(TOPICS),
    synthesiser: str = "espeak",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a corpus: `manifest.jsonl`, `audio/*.flac` and `text.txt`. The same arguments give the same bytes.

    Args:
        transcribed, untranscribed: recordings with and without a transcript.
        text_only: stories in text.txt, none of them spoken.
        voices: speakers, who take turns.
        topics: how many of TOPICS stories are on: fewer are learnt sooner.
        synthesiser: who speaks: "espeak", or "hibari" for stories without moods.
        kind: "topics", "moods", or "recall": half of the stories on a topic, half of who has what.

    Returns:
        The path of manifest.jsonl, which is written last.
    """
    recordings = transcribed + untranscribed
    if kind not in KINDS or not 2 <= topics <= len(TOPICS):
        raise ValueError(
            f"stories: need one of {', '.join(KINDS)} and 2 to {len(TOPICS)} topics, got {kind!r} and {topics}"
        )
    if min(transcribed, untranscribed, text_only) < 0 or recordings < 1 or voices < 1:
        raise ValueError(
            "stories: need transcribed, untranscribed, text_only >= 0, a recording and a voice, "
            f"got {transcribed}, {untranscribed}, {text_only} and {voices} voices"
        )
    if synthesiser != "espeak" and kind == "moods":
        raise ValueError(f"stories: need the synthesiser espeak for moods, got {synthesiser!r}")
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    speakers = [speaker_by(synthesiser, number, seed, RATES) for number in range(voices)]
    lines, spoken = [], set[str]()
    for number in range(recordings):
        voice = speakers[number % voices]
        text, mood = make_text(kind, seed, "speech", number, topics)
        spoken.add(text)
        name = f"{voice['speaker']}-{number:05d}"
        # not in one block each: transcripts lie evenly over voices and parts
        with_text = (number + 1) * transcribed // recordings > number * transcribed // recordings
        lines.append(
            {
                "id": name,
                "audio": f"audio/{name}.flac",
                "text": text,
                "with_text": with_text,
                **voice,
                **spoken_as(voice, mood),
            }
        )
    for done, seconds in enumerate(speak_all(folder, lines), start=1):
        lines[done - 1]["duration_s"] = seconds
        if progress:
            progress(done, len(lines))
    unspoken = (text for text in stories(kind, seed, "text", topics) if text not in spoken)
    write_lines(folder / "text.txt", itertools.islice(unspoken, text_only))
    write_lines(folder / "manifest.jsonl", (json.dumps(_row(line)) for line in lines))
    return folder / "manifest.jsonl"


def make_text(kind: str, seed: int, stream: str, number: int, topics: int = len(TOPICS)) -> tuple[str, str]:
    """The text of one story, and the mood it is spoken in ("neutral" for stories on a topic)."""
    rng = generator(seed, f"{stream} story", f"{kind} {number}")
    if kind == "topics":
        return short_story(rng, list(TOPICS)[rng.integers(topics)]).text, "neutral"
    if kind == "recall":
        recalled = recall_story(rng)
        return f"{recalled.context} {recalled.ending}" if number % 2 else short_story(rng).text, "neutral"
    story = moody_story(rng)
    # in half of them the words tell the mood, and these are spoken in any mood
    if rng.random() < 0.5:
        return f"{story.worded} {story.ending}", list(MOODS)[rng.integers(len(MOODS))]
    return f"{story.plain} {story.ending}", story.mood


def stories(kind: str, seed: int, stream: str, topics: int = len(TOPICS)) -> Iterator[str]:
    """Stories without end."""
    number = 0
    while True:
        yield make_text(kind, seed, stream, number, topics)[0]
        number += 1


def spoken_as(voice: dict[str, Any], mood: str) -> dict[str, Any]:
    """How a voice of espeak-ng sounds in a mood: rate, pitch and range, as `speak_all` takes them; others have none."""
    if "synthesiser" in voice:
        return {}
    manner = MOODS[mood]
    return {
        "rate": round(voice["rate"] * manner.rate),
        "pitch": min(99, max(0, voice["pitch"] + manner.pitch)),
        "range": manner.range,
    }


def _row(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the manifest, without the transcript where there is to be none."""
    kept = {name: value for name, value in line.items() if name != "with_text"}
    if not line["with_text"]:
        kept["spoken_text"] = kept.pop("text")  # for a person who reads it; no adapter does
    return kept | {"lang": "en", "license": "CC0-1.0"}
