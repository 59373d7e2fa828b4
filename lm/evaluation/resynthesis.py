"""What tokens keep of a recording: units, pitch and style taken back to what they stand for.

Without a vocoder the tokens alone are measured: bits per second; the F0 that pitch tokens decode to, against the F0
they were made from; and, where a pack labels its recordings, how well units alone, and all tokens, tell the label. A
vocoder that the user names adds what comes out of it: F0 again, style tokens again, and with a recogniser the words.
What was not run is said and never a number.

Source: Spirit LM (Nguyen et al. 2024, arXiv:2402.05755), table 9; F0 frame error of Chu & Alwan 2009.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from corpus.records import SAMPLE_RATE
from lm.evaluation.external_tools import speak, write_down
from lm.evaluation.sentiment import heard, learn
from lm.evaluation.tasks.choice import interval
from lm.evaluation.tasks.few_shot import error_rate, plain, resampled
from lm.evaluation.testset import Item
from shards.stream import PITCH_RATE, STYLE_RATE, merge
from units.deduplicate import deduplicate
from units.prosody.f0 import F0, extract

GROSS = 0.2
"""A pitch further off than this share of the true one is a gross error."""


@dataclass(frozen=True)
class Recording:
    """One recording to take apart; text and label where they are known."""

    id: str
    path: Path | None = None
    text: str | None = None
    label: str | None = None
    split: str = "test"
    wave: np.ndarray | None = None  # (T,) float32 at 16 kHz, in place of a path

    def samples(self) -> np.ndarray:
        """(T,) float32 at 16 kHz."""
        if self.wave is not None:
            return self.wave
        assert self.path is not None
        return heard(self.path)


@dataclass(frozen=True)
class Tokenizers:
    """What a build makes its tokens with; pitch and style are None where its speech has none."""

    units: Callable[[np.ndarray], np.ndarray]  # (T,) float32 -> (F,) int
    hop: int  # samples of a unit
    codes: int
    pitch: Any = None  # units.prosody.pitch.PitchTokenizer
    style: Any = None  # units.prosody.style.StyleTokenizer

    def rates(self) -> dict[str, tuple[float, int]]:
        """Tokens per second before deduplication, and how many different ones, by kind."""
        found = {"units": (SAMPLE_RATE / self.hop, self.codes)}
        if self.pitch is not None:
            found["pitch"] = (PITCH_RATE, self.pitch.codes)
        if self.style is not None:
            found["style"] = (STYLE_RATE, self.style.codes)
        return found


@dataclass
class Kept:
    """A recording's tokens and what they were made from."""

    recording: Recording
    seconds: float
    f0: F0
    units: np.ndarray
    pitch: np.ndarray | None
    style: np.ndarray | None
    names: str = ""  # the merged stream
    frames: list[int] = field(default_factory=list)  # of each unit of it


def take_apart(recording: Recording, tokenizers: Tokenizers) -> Kept:
    """Tokens of a recording, measured as of an unknown speaker."""
    wave = recording.samples()
    f0, units = extract(wave), tokenizers.units(wave)
    pitch = tokenizers.pitch.encode(f0) if tokenizers.pitch is not None else None
    style = tokenizers.style.encode(wave) if tokenizers.style is not None else None
    kept = Kept(recording, len(wave) / SAMPLE_RATE, f0, units, pitch, style)
    kept.names = "".join(merge(units, pitch, style, unit_rate=SAMPLE_RATE / tokenizers.hop))
    kept.frames = [int(n) for n in deduplicate(units)[1]]
    return kept


def check(
    recordings: Iterable[Recording],
    tokenizers: Tokenizers,
    *,
    name: str,
    version: str = "",
    vocoder: str | None = None,
    recogniser: str | None = None,
) -> dict[str, Any]:
    """Measure what the tokens of some recordings keep.

    Args:
        recordings: those of split train are only learned from, to tell labels.
        name, version: of the pack or build they are from, for the result.

    Returns:
        JSON-able: `rows`, each a measure with a value and its 95 % interval, or why it was not run; bits per second by
        kind; F0 errors by kind.

    Raises:
        ValueError: no recording, or one that cannot be used.
    """
    every = [take_apart(one, tokenizers) for one in recordings]
    tests = [one for one in every if one.recording.split == "test"]
    if not tests:
        raise ValueError(f"{name}: has no recording to take apart")
    bits = bit_rates(tests, tokenizers)
    rows: list[dict[str, Any]] = [{"measure": "bits per second", **_exact(bits["nominal"])}]
    facts: dict[str, Any] = {"bits": bits}
    if tokenizers.pitch is None:
        rows.append(
            {"measure": "F0 frame error", "not_run": "this build keeps no pitch; set [pitch] use = true"}
        )
    else:
        decoded = [tokenizers.pitch.decode(one.pitch, one.f0.mean) for one in tests]
        facts["f0"] = f0_errors([(one.f0, made) for one, made in zip(tests, decoded, strict=True)])
        rows.append({"measure": "F0 frame error", **facts["f0"]["frame_error"]})
    rows += told_labels([one for one in every if one.recording.split == "train"], tests)
    if vocoder is None:
        missing = "needs a vocoder; none is shipped"
        rows += [{"measure": m, "not_run": missing} for m in ("WER", "style agreement after a vocoder")]
    else:
        rows += spoken_again(tests, tokenizers, vocoder, recogniser)
    said = {"task": "resynthesis", "pack": name, "version": version, "direction": "S", "items": len(tests)}
    return facts | {
        "seconds": sum(one.seconds for one in tests),
        "vocoder": vocoder,
        "recogniser": recogniser,
        "rows": [said | row for row in rows],
    }


def bit_rates(kept: Sequence[Kept], tokenizers: Tokenizers) -> dict[str, Any]:
    """Bits per second: `nominal` as the paper counts (rate times whole bits of a token), and what the tokens need.

    `measured` is, by kind and in all, the tokens that are left after deduplication times their unigram entropy.

    Source: Spirit LM, table 9: 25 x 9 + 12.5 x 6 + 1 x 7 = 307, 225 without pitch and style.
    """
    rates = tokenizers.rates()
    nominal = sum(rate * math.ceil(math.log2(codes)) for rate, codes in rates.values())
    seconds = sum(one.seconds for one in kept)
    measured, per_second = {}, {}
    for kind in rates:
        streams = [getattr(one, kind) for one in kept]
        left = [
            s if kind == "style" else deduplicate(np.asarray(s))[0] for s in streams
        ]  # style is never merged
        counts = np.array(list(Counter(int(t) for s in left for t in s).values()), float)
        shares = counts / max(counts.sum(), 1)
        per_second[kind] = float(counts.sum() / seconds)
        measured[kind] = float(per_second[kind] * -(shares * np.log2(shares)).sum())
    return {
        "nominal": float(nominal),
        "measured": sum(measured.values()),
        "by_kind": measured,
        "tokens_per_second": per_second,
    }


def f0_errors(pairs: Sequence[tuple[F0, F0]]) -> dict[str, Any]:
    """Frames with a wrong voicing or a gross pitch error, in per cent of all frames, and how far off the others are.

    Args:
        pairs: (true, estimated); the longer one is cut, by up to a token.

    Returns:
        `frame_error` with a 95 % interval over recordings, its two parts, and `cents`, the median distance of frames
        that are voiced in both.
    """
    wrong, gross, frames, cents = [], [], [], []
    for true, made in pairs:
        n = min(len(true), len(made))
        voiced = true.voiced[:n], made.voiced[:n]
        both = voiced[0] & voiced[1]
        ratio = made.hertz[:n][both] / true.hertz[:n][both]
        wrong.append(int((voiced[0] != voiced[1]).sum()))
        gross.append(int((np.abs(ratio - 1) > GROSS).sum()))
        frames.append(n)
        cents.append(1200 * np.abs(np.log2(ratio)))
    errors, lengths = np.array(wrong) + np.array(gross), np.array(frames)
    if not lengths.sum():
        raise ValueError("F0: the recordings are shorter than a pitch token")
    low, high = resampled(errors[lengths > 0], lengths[lengths > 0])
    every = np.concatenate(cents)
    return {
        "frame_error": {"value": float(100 * errors.sum() / lengths.sum()), "low": low, "high": high},
        "voicing_error": float(100 * sum(wrong) / lengths.sum()),
        "gross_error": float(100 * sum(gross) / lengths.sum()),
        "cents": float(np.median(every)) if every.size else None,
        "frames": int(lengths.sum()),
    }


def told_labels(train: Sequence[Kept], tests: Sequence[Kept]) -> list[dict[str, Any]]:
    """How well a classifier learned on train tells the labels of test: from units alone, and from all tokens."""
    labels = {one.recording.label for one in tests}
    known = {one.recording.label for one in train}
    measure = "label told by tokens"
    if None in labels or not labels <= known or len(known) < 2:
        return [{"measure": measure, "not_run": "needs recordings with labels, some of them of split train"}]
    rows = []
    for what in ("units", "all tokens") if tests[0].names != _units_only(tests[0]) else ("units",):
        text = _units_only if what == "units" else _all
        judge = learn([text(one) for one in train], [one.recording.label or "" for one in train])
        said = judge([text(one) for one in tests])
        right = [float(a == one.recording.label) for a, one in zip(said, tests, strict=True)]
        value, low, high = interval(right, len(right))
        chance = 100 / len(labels)
        rows.append(
            {"measure": f"{measure}: {what}", "value": value, "low": low, "high": high, "chance": chance}
        )
    return rows


def _units_only(kept: Kept) -> str:
    return "".join(f"[Hu{unit}]" for unit in deduplicate(kept.units)[0])


def _all(kept: Kept) -> str:
    return kept.names


def spoken_again(
    kept: Sequence[Kept], tokenizers: Tokenizers, vocoder: str, recogniser: str | None
) -> list[dict[str, Any]]:
    """What comes out of a vocoder: F0, style tokens and words, against those of the recordings."""
    pairs, same, seconds, said = [], [], [], []
    with_text = [one for one in kept if one.recording.text]
    with tempfile.TemporaryDirectory() as folder:
        for one in kept:
            path = speak(
                vocoder, one.names, Path(folder) / "spoken.wav", frames=one.frames, hop=tokenizers.hop
            )
            wave = heard(path)
            pairs.append((one.f0, stretched(extract(wave), len(one.f0))))
            if one.style is not None:
                again = tokenizers.style.encode(wave)
                n = min(len(again), len(one.style))
                same.append(int((again[:n] == one.style[:n]).sum()))
                seconds.append(len(one.style))
            if recogniser and one.recording.text:
                said.append(plain(write_down(recogniser, path)))
    rows: list[dict[str, Any]] = [
        {"measure": "F0 frame error after a vocoder", **f0_errors(pairs)["frame_error"]}
    ]
    if same:
        low, high = resampled(np.array(same), np.array(seconds))
        value = float(100 * sum(same) / sum(seconds))
        rows.append({"measure": "style agreement after a vocoder", "value": value, "low": low, "high": high})
    else:
        rows.append(
            {"measure": "style agreement after a vocoder", "not_run": "this build keeps no style tokens"}
        )
    if not recogniser or not with_text:
        why = "needs a recogniser; none is shipped" if not recogniser else "needs recordings with text"
        return [*rows, {"measure": "WER", "not_run": why}]
    items = [Item(one.recording.id) for one in with_text]
    written = [plain(one.recording.text or "") for one in with_text]
    heard_first = []
    with tempfile.TemporaryDirectory() as folder:
        for one in with_text:
            path = Path(folder) / "recording.wav"
            soundfile.write(path, one.recording.samples(), SAMPLE_RATE, subtype="FLOAT")
            heard_first.append(plain(write_down(recogniser, path)))
    for measure, texts in (("WER", said), ("WER of the recordings", heard_first)):
        found = error_rate(items, written, texts, by="words")
        rows.append({"measure": measure, **{key: found[key] for key in ("value", "low", "high")}})
    return rows


def stretched(f0: F0, frames: int) -> F0:
    """F0 at so many frames: a vocoder may speak faster or slower than the recording did.

    >>> stretched(F0(np.array([1.0, 2.0], np.float32), np.array([True, False])), 4).hertz.tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    if not len(f0):
        raise ValueError("F0: nothing was spoken")
    at = np.arange(frames) * len(f0) // max(frames, 1)
    return F0(f0.hertz[at], f0.voiced[at])


def _exact(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}
