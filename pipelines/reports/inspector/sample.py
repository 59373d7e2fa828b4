"""The utterances that can be inspected: their audio, words, tokens, F0 and interleaved sequence, ready for the page."""

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
import soundfile

from corpus import files
from corpus.audio import Decoder
from corpus.quality import MEASURES
from corpus.records import REASONS, SAMPLE_RATE
from pipelines.layout import INDEX, SPEAKERS
from pipelines.reports.inspector.overview import Place, read_measures
from pipelines.steps.audio import decode_row
from pipelines.steps.base import Run
from pipelines.steps.interleave import WriteShard, shard_stage, token_rates
from pipelines.steps.outcomes import Outcome, read_outcomes
from pipelines.steps.prosody import load_pitch, read_speakers, row_f0
from pipelines.steps.quality import TABLE as QUALITY
from pipelines.steps.split import held_out
from shards.show import spans_of
from shards.strategies import draw_spans, span_generator
from shards.vocabulary import Vocabulary
from units.prosody.f0 import F0

SECONDS = 40
"""Of an utterance that are shown and can be played."""
PEAKS = 100
"""Of the waveform, per second."""
F0_HERTZ = 50
"""Values of F0 per second; F0 is measured 200 times per second."""

Detail = dict[str, Any]


class Reader:
    """Reads everything about single utterances of a finished build."""

    def __init__(self, run: Run):
        self.run = run
        self.tables = [str(step.table) for step in run.steps if step.table]
        self.stage: WriteShard | None = None
        if (run.build / INDEX).is_file():
            self.stage = shard_stage(run, held_out(run))
            self.vocabulary = Vocabulary.load(run.build / "shards")
        self.pitch = load_pitch(run.build, run.settings) if "pitch" in self.tables else None
        self.speakers = read_speakers(run.build / SPEAKERS) if "prosody" in self.tables else {}

    def read(self, places: Mapping[Place, list[str]]) -> Iterator[tuple[Place, Detail, bytes | None]]:
        """The details of these utterances and their audio, FLAC or None, part by part.

        Args:
            places: where each utterance is -> the names of its strata.
        """
        parts: dict[str, list[int]] = {}
        for name, number in sorted(places):
            parts.setdefault(name, []).append(number)
        for name, numbers in parts.items():
            tables = {
                table: files.read_table(self.run.build / table / name) for table in ("manifest", *self.tables)
            }
            results = read_outcomes(self.run.build, name)
            rows = {table: read.take(numbers).to_pylist() for table, read in tables.items()}
            with closing(Decoder()) as decoder:
                for index, number in enumerate(numbers):
                    row = {table: entries[index] for table, entries in rows.items()}
                    wave, problem = self.decode(row["manifest"], decoder)
                    detail = self.detail(row, results[number], wave)
                    detail |= {"strata": places[name, number], "problem": problem}
                    if self.stage is not None and results[number][0] == "interleaved":
                        members = {
                            column: tables[table].column(column)[number].values
                            for table, column in self.stage.members
                        }
                        detail["spans"] = self.spans(row, members)
                    yield (name, number), detail, None if wave is None else to_flac(wave)

    def decode(self, row: Mapping[str, Any], decoder: Decoder) -> tuple[np.ndarray | None, str | None]:
        """The shown part of a recording, or why there is none; what ingest rejected is tried too."""
        try:
            frames = min(row["frames"], SECONDS * row["sample_rate"])
            _, wave, reject = decode_row({**row, "frames": frames, "reject": None}, decoder)
        except (
            ValueError,
            OSError,
            TypeError,
        ) as error:  # a row that ingest rejected need not be an utterance
            return None, files.one_line(error)
        return wave, str(reject) if reject else None

    def detail(self, row: Mapping[str, Any], outcome: Outcome, wave: np.ndarray | None) -> Detail:
        """What the page shows of one utterance, JSON-able."""
        manifest, words = row["manifest"], row["words"]["words"] or []
        kind, _step, reason, explanation = outcome
        seconds = manifest["samples"] / SAMPLE_RATE
        detail: Detail = {
            **{name: manifest[name] for name in ("id", "text", "speaker", "language", "licence")},
            "seconds": seconds,
            "shown": min(seconds, SECONDS) if wave is None else len(wave) / SAMPLE_RATE,
            "outcome": kind,
            "reason": reason,
            "meaning": reason and REASONS.get(reason, "a reason of a step of your own"),
            "detail": explanation,
            "measures": read_measures(row["words"]["quality"]),
            "words": [
                [
                    word["text"],
                    round(word["start"], 3),
                    round(word["end"], 3),
                    *map(rounded, (word["confidence"], word["apart_ms"])),
                ]
                for word in words
            ],
            "peaks": None if wave is None else peaks(wave),
        }
        rates = token_rates(self.run)
        hop, centre = rates.hop / SAMPLE_RATE, rates.centre / SAMPLE_RATE
        detail["units"] = track(row["units"]["units"], 1 / hop, centre - hop / 2)
        if "pitch" in row:
            detail["pitch"] = track(row["pitch"]["pitch"], rates.pitch)
        if "style" in row:
            detail["style"] = track(row["style"]["style"], rates.style)
        if "prosody" in row:
            detail |= self.contours(row)
        if QUALITY in row:
            detail["quality"] = described_measures(row[QUALITY])
        return detail

    def contours(self, row: Mapping[str, Any]) -> Detail:
        """F0 as measured, and as decoded from the pitch tokens for the mean of the speaker."""
        f0 = row_f0(row["prosody"])
        if f0 is None:
            return {}
        found: Detail = {"f0": hertz_of(f0)}
        tokens = row.get("pitch", {}).get("pitch")
        if self.pitch is not None and tokens:
            mean = self.speakers.get(row["manifest"]["speaker"] or "", {}).get("pitch_mean") or f0.mean
            shown = np.array(tokens[: int(SECONDS * self.pitch.rate) + 1])
            found["f0_tokens"] = hertz_of(self.pitch.decode(shown, mean))
        return found

    def spans(self, row: Mapping[str, Any], members: dict[str, Any]) -> list[Detail]:
        """The spans of the materialised sequence, with the tokens of each."""
        assert self.stage is not None
        timed = row["words"]["words"]
        example = self.stage.speech_sample(
            self.vocabulary, "interleaved", row["manifest"], timed, members, {}
        )
        spans = draw_spans(
            len(timed), self.stage.strategy, span_generator(self.stage.seed, 0, example["__key__"])
        )
        return [
            {
                "first": span.first,
                "last": span.last,
                "speech": span.speech,
                "marker": shown.marker,
                "tokens": shown.tokens,
            }
            for span, shown in zip(spans, spans_of(example, self.vocabulary), strict=True)
        ]


def described_measures(row: Mapping[str, Any]) -> list[list[Any]]:
    """Name, value, unit and meaning of each measure that the step `quality` has of an utterance.

    >>> described_measures({"id": "a", "snr": 21.5, "loudness": None, "text_language": "en"})[0]
    ['snr', 21.5, 'dB', 'level of speech over the quietest tenth of the recording']
    """
    described = {name: (one.unit, one.meaning) for name, one in MEASURES.items()}
    described["text_language"] = ("", "most probable language of the text")
    return [[name, row[name], *more] for name, more in described.items() if row.get(name) is not None]


def rounded(value: float | None) -> float | None:
    """Three decimals; None for what is not a finite number."""
    return None if value is None or not math.isfinite(value) else round(value, 3)


def track(tokens: list[int] | None, rate: float, start: float = 0.0) -> Detail | None:
    """Tokens with their rate (Hz) and the start of the first one (seconds), as far as they are shown."""
    if tokens is None:
        return None
    return {"rate": rate, "start": start, "values": tokens[: int(SECONDS * rate) + 1]}


def hertz_of(f0: F0) -> Detail:
    """F0 in Hz, F0_HERTZ values per second; None where it is unvoiced."""
    step = 200 // F0_HERTZ
    pairs = zip(f0.hertz[::step].tolist(), f0.voiced[::step].tolist(), strict=True)
    values = [round(hertz) if voiced else None for hertz, voiced in pairs]
    return {"rate": F0_HERTZ, "values": values[: SECONDS * F0_HERTZ + 1]}


def peaks(wave: np.ndarray) -> list[float]:
    """Largest magnitudes of the waveform, PEAKS per second, relative to full scale.

    >>> peaks(np.array([0.5] * 160 + [-0.25] * 100, np.float32))
    [0.5, 0.25]
    """
    size = SAMPLE_RATE // PEAKS
    padded = np.pad(np.abs(wave), (0, -len(wave) % size))
    return [round(value, 3) for value in padded.reshape(-1, size).max(axis=1).tolist()]


def to_flac(wave: np.ndarray) -> bytes:
    """16-bit FLAC of a waveform at 16 kHz."""
    content = io.BytesIO()
    pcm = np.round(np.clip(wave, -1, 1 - 2**-15) * 2**15).astype(np.int16)
    soundfile.write(content, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return content.getvalue()
