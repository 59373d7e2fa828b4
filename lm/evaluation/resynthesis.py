"""Resynthesis: how much of a recording its units, pitch and style tokens preserve.

Without a vocoder the tokens themselves are measured: bits per second; the F0 that pitch tokens decode to, against the
F0 they were made from; and, where a test set labels its recordings, how well units alone, and all tokens, predict the
label. With a vocoder, the bundled one or another, its output is measured too: F0, style tokens, and with a recogniser
the words. A measure that was not run has a reason and no number.

Source: Spirit LM (Nguyen et al. 2024, arXiv:2402.05755), table 9; F0 frame error of Chu & Alwan 2009.
"""

import contextlib
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
from lm.evaluation.external_tools import transcribe, vocode
from lm.evaluation.intervals import bootstrap, share
from lm.evaluation.sentiment import fit_classifier
from lm.evaluation.tasks.few_shot import error_rate, plain
from lm.evaluation.testset import TestItem
from lm.speaker import Speaker, name_of, read_audio
from shards.stream import merge
from units.deduplicate import deduplicate
from units.prosody.f0 import F0, extract
from units.vocoder import load_vocoder

GROSS = 0.2
"""A pitch that differs by more than this share of the true one is a gross error."""


@dataclass(frozen=True)
class Recording:
    """One recording to tokenize; text and label where they are known."""

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
        return read_audio(self.path)


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of a build; pitch and style are None where its speech has none."""

    units: Callable[[np.ndarray], np.ndarray]  # (T,) float32 -> (F,) int
    hop: int  # samples of a unit
    codes: int
    pitch: Any = None  # units.prosody.pitch.PitchTokenizer
    style: Any = None  # units.prosody.style.StyleTokenizer

    def rates(self) -> dict[str, tuple[float, int]]:
        """Tokens per second before deduplication, and the number of codes, by kind."""
        rates = {"units": (SAMPLE_RATE / self.hop, self.codes)}
        if self.pitch is not None:
            rates["pitch"] = (self.pitch.rate, self.pitch.codes)
        if self.style is not None:
            rates["style"] = (self.style.rate, self.style.codes)
        return rates


@dataclass
class TokenizedRecording:
    """A recording's tokens and what they were made from."""

    recording: Recording
    seconds: float
    f0: F0
    units: np.ndarray
    pitch: np.ndarray | None
    style: np.ndarray | None
    names: str = ""  # the merged stream
    frames: list[int] = field(default_factory=list)  # of each unit of it


def tokenize_recording(recording: Recording, tokenizers: Tokenizers) -> TokenizedRecording:
    """Tokens of a recording, as those of an unknown speaker."""
    wave = recording.samples()
    f0, units = extract(wave), tokenizers.units(wave)
    pitch = tokenizers.pitch.encode(f0) if tokenizers.pitch is not None else None
    style = tokenizers.style.encode(wave) if tokenizers.style is not None else None
    tokenized = TokenizedRecording(recording, len(wave) / SAMPLE_RATE, f0, units, pitch, style)
    rates = {f"{kind}_rate": rate for kind, (rate, _) in tokenizers.rates().items() if kind != "units"}
    tokenized.names = "".join(merge(units, pitch, style, unit_rate=SAMPLE_RATE / tokenizers.hop, **rates))
    tokenized.frames = [int(n) for n in deduplicate(units)[1]]
    return tokenized


def measure(
    recordings: Iterable[Recording],
    tokenizers: Tokenizers,
    *,
    name: str,
    version: str = "",
    vocoder: Speaker | str | None = None,
    no_vocoder: str = "a vocoder",
    recogniser: str | None = None,
) -> dict[str, Any]:
    """Measure what the tokens of some recordings preserve.

    Args:
        recordings: those of split train only train the classifier of labels.
        name, version: of their test set or build, for the result.
        vocoder: that makes recordings of the tokens; None: none, for the reason `no_vocoder`.
        recogniser: command, see `lm.evaluation.external_tools`.

    Returns:
        JSON-able: `rows`, each a measure with a value and its 95 % interval, or the reason why it was not run; bits per
        second by kind; F0 errors by kind.

    Raises:
        ValueError: there is no recording, or one cannot be used.
    """
    every = [tokenize_recording(one, tokenizers) for one in recordings]
    tests = [one for one in every if one.recording.split == "test"]
    if not tests:
        raise ValueError(f"{name}: need at least one recording of split test, got none")
    bits = bit_rates(tests, tokenizers)
    rows: list[dict[str, Any]] = [{"measure": "bits per second", **_exact(bits["nominal"])}]
    facts: dict[str, Any] = {"bits": bits}
    if tokenizers.pitch is None:
        rows.append(
            {"measure": "F0 frame error", "not_run": "this build has no pitch tokens; enable [pitch]"}
        )
    else:
        decoded = [tokenizers.pitch.decode(one.pitch, one.f0.mean) for one in tests]
        facts["f0"] = f0_errors([(one.f0, f0) for one, f0 in zip(tests, decoded, strict=True)])
        rows.append({"measure": "F0 frame error", **facts["f0"]["frame_error"]})
    rows += label_probe([one for one in every if one.recording.split == "train"], tests)
    if vocoder is None:
        rows += [
            {"measure": m, "not_run": f"needs {no_vocoder}"}
            for m in ("WER", "style agreement after a vocoder")
        ]
    else:
        made = resynthesise(tests, tokenizers, vocoder, recogniser)
        rows += [{**row, "vocoder": name_of(vocoder)} for row in made]
    common = {
        "task": "resynthesis",
        "testset": name,
        "version": version,
        "direction": "S",
        "items": len(tests),
    }
    return facts | {
        "seconds": sum(one.seconds for one in tests),
        "vocoder": name_of(vocoder),
        "recogniser": recogniser,
        "rows": [common | row for row in rows],
    }


def bit_rates(recordings: Sequence[TokenizedRecording], tokenizers: Tokenizers) -> dict[str, Any]:
    """Bits per second: `nominal` as the paper counts (rate times whole bits of a token), and `measured`, by kind and in
    total: the tokens that remain after deduplication times their unigram entropy.

    Source: Spirit LM, table 9: 25 x 9 + 12.5 x 6 + 1 x 7 = 307, 225 without pitch and style.
    """
    rates = tokenizers.rates()
    nominal = sum(rate * math.ceil(math.log2(codes)) for rate, codes in rates.values())
    seconds = sum(one.seconds for one in recordings)
    measured, per_second = {}, {}
    for kind in rates:
        streams = [getattr(one, kind) for one in recordings]
        # style tokens are never merged
        merged = [s if kind == "style" else deduplicate(np.asarray(s))[0] for s in streams]
        counts = np.array(list(Counter(int(t) for s in merged for t in s).values()), float)
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
    """Frames with a wrong voicing or a gross pitch error, in per cent of all frames, and the error of the others.

    Args:
        pairs: (true, estimated); the longer one is cut, by at most a token.

    Returns:
        `frame_error` with a 95 % interval over recordings, its two parts, and `cents`, the median error of frames that
        are voiced in both.
    """
    wrong, gross, frames, cents = [], [], [], []
    for true, estimated in pairs:
        n = min(len(true), len(estimated))
        voiced = true.voiced[:n], estimated.voiced[:n]
        both = voiced[0] & voiced[1]
        ratio = estimated.hertz[:n][both] / true.hertz[:n][both]
        wrong.append(int((voiced[0] != voiced[1]).sum()))
        gross.append(int((np.abs(ratio - 1) > GROSS).sum()))
        frames.append(n)
        cents.append(1200 * np.abs(np.log2(ratio)))
    errors, lengths = np.array(wrong) + np.array(gross), np.array(frames)
    if not lengths.sum():
        raise ValueError("F0: need recordings of at least one pitch token")
    low, high = bootstrap(errors[lengths > 0], lengths[lengths > 0])
    every = np.concatenate(cents)
    return {
        "frame_error": {"value": float(100 * errors.sum() / lengths.sum()), "low": low, "high": high},
        "voicing_error": float(100 * sum(wrong) / lengths.sum()),
        "gross_error": float(100 * sum(gross) / lengths.sum()),
        "cents": float(np.median(every)) if every.size else None,
        "frames": int(lengths.sum()),
    }


def label_probe(
    train: Sequence[TokenizedRecording], tests: Sequence[TokenizedRecording]
) -> list[dict[str, Any]]:
    """How well a classifier fitted on train predicts the labels of test: from units alone, and from all tokens."""
    labels = {one.recording.label for one in tests}
    known = {one.recording.label for one in train}
    name = "label predicted from tokens"
    if None in labels or not labels <= known or len(known) < 2:
        return [{"measure": name, "not_run": "needs recordings with labels, some of them of split train"}]
    rows = []
    for kind in ("units", "all tokens") if tests[0].names != _units_only(tests[0]) else ("units",):
        text = _units_only if kind == "units" else _all_tokens
        classify = fit_classifier([text(one) for one in train], [one.recording.label or "" for one in train])
        labelled = zip(classify([text(one) for one in tests]), tests, strict=True)
        right = [float(label == one.recording.label) for label, one in labelled]
        value, low, high = share(right, len(right))
        chance = 100 / len(labels)
        rows.append(
            {"measure": f"{name}: {kind}", "value": value, "low": low, "high": high, "chance": chance}
        )
    return rows


def _units_only(recording: TokenizedRecording) -> str:
    return "".join(f"[Hu{unit}]" for unit in deduplicate(recording.units)[0])


def _all_tokens(recording: TokenizedRecording) -> str:
    return recording.names


def resynthesise(
    recordings: Sequence[TokenizedRecording],
    tokenizers: Tokenizers,
    vocoder: Speaker | str,
    recogniser: str | None,
) -> list[dict[str, Any]]:
    """F0, style tokens and words of a vocoder's output, against those of the recordings."""
    pairs, same, seconds, outputs = [], [], [], []
    voices: list[tuple[np.ndarray, np.ndarray]] = []
    known = load_vocoder()  # the bundled one knows a voice by its mean spectrum
    with_text = [one for one in recordings if one.recording.text]
    with tempfile.TemporaryDirectory() as folder:
        for one in recordings:
            voiced = vocoder.like(one.recording.samples()) if isinstance(vocoder, Speaker) else vocoder
            path = vocode(
                voiced, one.names, Path(folder) / "vocoded.wav", frames=one.frames, hop=tokenizers.hop
            )
            wave = read_audio(path)
            pairs.append((one.f0, stretch(extract(wave), len(one.f0))))
            with contextlib.suppress(ValueError):  # no voiced speech, so no voice
                voices.append((known.voice_of(one.recording.samples()).bands, known.voice_of(wave).bands))
            if one.style is not None:
                again = tokenizers.style.encode(wave)
                n = min(len(again), len(one.style))
                same.append(int((again[:n] == one.style[:n]).sum()))
                seconds.append(len(one.style))
            if recogniser and one.recording.text:
                outputs.append(plain(transcribe(recogniser, path)))
    rows: list[dict[str, Any]] = [
        {"measure": "F0 frame error after a vocoder", **f0_errors(pairs)["frame_error"]}
    ]
    rows.append({"measure": "speaker agreement after a vocoder", **speaker_agreement(voices)})
    if same:
        low, high = bootstrap(np.array(same), np.array(seconds))
        value = float(100 * sum(same) / sum(seconds))
        rows.append({"measure": "style agreement after a vocoder", "value": value, "low": low, "high": high})
    else:
        rows.append(
            {"measure": "style agreement after a vocoder", "not_run": "this build has no style tokens"}
        )
    if not recogniser or not with_text:
        reason = (
            "needs a recogniser, named with --recogniser" if not recogniser else "needs recordings with text"
        )
        return [*rows, {"measure": "WER", "not_run": reason}]
    items = [TestItem(one.recording.id) for one in with_text]
    references = [plain(one.recording.text or "") for one in with_text]
    of_recordings = []
    with tempfile.TemporaryDirectory() as folder:
        for one in with_text:
            path = Path(folder) / "recording.wav"
            soundfile.write(path, one.recording.samples(), SAMPLE_RATE, subtype="FLOAT")
            of_recordings.append(plain(transcribe(recogniser, path)))
    for measure, texts in (("WER", outputs), ("WER of the recordings", of_recordings)):
        result = error_rate(items, references, texts, by="words")
        rows.append({"measure": measure, **{key: result[key] for key in ("value", "low", "high")}})
    return rows


def speaker_agreement(voices: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """How often the voice of an output is nearer to its own recording than to another, over all others, in per cent.

    Args:
        voices: (10,) components of the mean spectrum of a recording and of what a vocoder made of it
            (`units.vocoder.vocoder.Voice`).

    >>> near, far = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    >>> speaker_agreement([(near, 0.9 * near), (far, far)])["value"]
    100.0
    """
    if len(voices) < 2:
        return {"not_run": f"needs at least 2 recordings with voiced speech, got {len(voices)}"}
    shares = []
    for number, (own, output) in enumerate(voices):
        others = np.array([other for i, (other, _) in enumerate(voices) if i != number])
        away, here = np.linalg.norm(others - output, axis=1), np.linalg.norm(own - output)
        shares.append(float(((away > here) + 0.5 * (away == here)).mean()))
    low, high = bootstrap(np.array(shares), np.ones(len(shares)))
    return {"value": 100 * float(np.mean(shares)), "low": low, "high": high, "chance": 50.0}


def stretch(f0: F0, frames: int) -> F0:
    """F0 resampled to a number of frames: a vocoder may be faster or slower than the recording.

    >>> stretch(F0(np.array([1.0, 2.0], np.float32), np.array([True, False])), 4).hertz.tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    if not len(f0):
        raise ValueError("F0: the vocoder's output is empty")
    at = np.arange(frames) * len(f0) // max(frames, 1)
    return F0(f0.hertz[at], f0.voiced[at])


def _exact(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}
