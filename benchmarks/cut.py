"""Cutting of joined speech: its speed, speech kept, cuts inside words, and words of a long transcript at their times.

    python -m benchmarks.cut MANIFEST [--minutes 60]

The clips of a manifest are joined with pauses of 0.3 to 8 s, of silence or noise of -45 or -28 dB. Words have the
times that the aligner `ctc` gives them in their clip alone. Without a transcript it is cut at pauses; then with the
text of the whole, with every 20th word replaced, and without the text of 20 clips in a row. Its utterances are
aligned alone: the share of right words whose start is within 100 ms of its time counts rejected utterances as wrong.
"""

import argparse
import difflib
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from aligners import load_aligner
from aligners.acoustics import COMPACT, load
from corpus.adapters import ADAPTERS
from corpus.audio import decode
from corpus.cutting import CutRules
from corpus.records import SAMPLE_RATE, Utterance
from pipelines.steps.cut import cut_utterance

MISSING = slice(40, 60)  # clips without text


class Clip(NamedTuple):
    """A clip in the recording: its text, and start and end of its words, in seconds of the recording."""

    text: str
    words: list[tuple[str, float, float]]


def join(manifest: Path, minutes: float, path: Path) -> list[Clip]:
    """Write the recording."""
    aligner = load_aligner("ctc")
    rows = [row for row in ADAPTERS["jsonl"](manifest) if isinstance(row, Utterance)]
    length = itertools.accumulate(row.seconds for row in rows)
    spoken = [
        (row, decode(row)) for row, end in zip(rows, length, strict=True) if end - row.seconds < minutes * 60
    ]
    results = list(aligner.align(spoken))
    spoken = [one for one, result in zip(spoken, results, strict=True) if result.words]
    aligned = [result for result in results if result.words]
    rng, clips, at = np.random.default_rng(0), [], 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        for number in itertools.cycle(range(len(spoken))):
            if at >= minutes * 60 * SAMPLE_RATE:
                return clips
            pause = rng.standard_normal(round(rng.uniform(0.3, 8) * SAMPLE_RATE))
            file.write((pause * rng.choice([0.0, 10 ** (-45 / 20), 10 ** (-28 / 20)])).astype(np.float32))
            begin = (at + len(pause)) / SAMPLE_RATE
            words = [(word.text, word.start + begin, word.end + begin) for word in aligned[number].words]
            clips.append(Clip(str(spoken[number][0].text).rstrip(" .,;") + ".", words))
            file.write(spoken[number][1])
            at += len(pause) + len(spoken[number][1])
    raise AssertionError


def cut(recording: Utterance) -> tuple[list[Utterance], float]:
    """The utterances of a recording, and CPU seconds."""
    started = time.process_time()
    rows = list(cut_utterance(recording, CutRules(), lambda: load(COMPACT, "cpu")))
    return [row for row in rows if isinstance(row, Utterance)], time.process_time() - started


def plain(word: str) -> str:
    """A word without case and punctuation."""
    return "".join(filter(str.isalnum, word.lower()))


def within(utterances: Sequence[Utterance], clips: Sequence[Clip], wrong: set[int]) -> tuple[float, float]:
    """Share of the right words of the transcript that start within 100 ms; of all, and of those not rejected."""
    true = [word for clip in clips for word in clip.words]
    found: list[tuple[str, float]] = []
    for utterance, result in zip(
        utterances, load_aligner("ctc").align((one, decode(one)) for one in utterances), strict=True
    ):
        begin = utterance.first_frame / utterance.sample_rate
        found += [(word.text, word.start + begin) for word in result.words]
    same = difflib.SequenceMatcher(
        None, [plain(w) for w, *_ in true], [plain(w) for w, _ in found], autojunk=False
    )
    pairs = [(a + k, b + k) for a, b, size in same.get_matching_blocks() for k in range(size)]
    near = [abs(true[one][1] - found[other][1]) <= 0.1 for one, other in pairs if one not in wrong]
    return sum(near) / (len(true) - len(wrong)), sum(near) / max(len(near), 1)


def variants(clips: Sequence[Clip]) -> Iterator[tuple[str, str, Sequence[Clip], set[int]]]:
    """Name, transcript, clips whose text it holds, and numbers of the words that are replaced."""
    yield "whole text", " ".join(clip.text for clip in clips), clips, set()
    words = [word for clip in clips for word, _, _ in clip.words]
    wrong = set(range(10, len(words), 20))
    replaced = [
        words[place * 7919 % len(words)] if place in wrong else word for place, word in enumerate(words)
    ]
    yield "every 20th word replaced", " ".join(replaced), clips, wrong
    left = [*clips[: MISSING.start], *clips[MISSING.stop :]]
    yield "20 clips missing", " ".join(clip.text for clip in left), left, set()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    requested = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.flac"
        clips = join(requested.manifest, requested.minutes, path)
        frames = soundfile.info(path).frames
        recording = Utterance("long", str(path), frames, language="en")
        utterances, seconds = cut(recording)
        spans = [
            (one.first_frame / SAMPLE_RATE, (one.first_frame + one.frames) / SAMPLE_RATE)
            for one in utterances
        ]
        words = [(start, end) for clip in clips for _, start, end in clip.words]
        inside = sum(max(0.0, min(end, b) - max(start, a)) for start, end in words for a, b in spans)
        cuts = sorted({edge for span in spans for edge in span})
        broken = sum(any(start + 0.02 < edge < end - 0.02 for start, end in words) for edge in cuts)
        print(
            f"| {frames / SAMPLE_RATE / 60:.0f} minutes, {len(words)} words, {len(utterances)} utterances | |"
        )
        print("|---|---|")
        print(f"| cutting at pauses, one core | {frames / SAMPLE_RATE / seconds:.0f} x real time |")
        print(f"| speech inside utterances | {inside / sum(end - start for start, end in words):.3%} |")
        print(f"| cuts inside words | {broken} of {len(cuts)}, {broken / len(cuts):.2%} |", flush=True)
        for name, text, kept, wrong in variants(clips):
            whole = Utterance("long", str(path), frames, language="en", text=text)
            started = time.process_time()
            rows = list(cut_utterance(whole, CutRules(), lambda: load(COMPACT, "cpu")))
            seconds = time.process_time() - started
            pieces = [row for row in rows if isinstance(row, Utterance)]
            holes = [
                row.utterance
                for row in rows
                if not isinstance(row, Utterance) and row.reject.reason == "cut.no_transcript"
            ]
            share, accepted = within(pieces, kept, wrong)
            lost = sum(one.seconds for one in holes)
            print(
                f"| {name}: right words within 100 ms, of those not rejected; holes; speed "
                f"| {share:.1%}, {accepted:.1%}; "
                f"{len(holes)} of {lost:.0f} s; {frames / SAMPLE_RATE / seconds:.0f} x real time |",
                flush=True,
            )


if __name__ == "__main__":
    main()
