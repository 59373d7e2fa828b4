"""One table for any encoders on any speech with phones: information, purity, stability, use of the codebook, speed.

Every encoder gets a codebook of its own, fitted on the same speech with the same seeds: the table compares features.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus.keyed import generator
from corpus.records import SAMPLE_RATE
from pipelines.reports.words_kept import word_errors
from units import kmeans
from units.abx import Token, abx, triphones
from units.encoders import BUNDLED, Encoder, codebook_name, load_encoder
from units.logistic import fit_logistic
from units.phone_discovery import UndefinedMeasure, phone_discovery
from units.pretraining.augment import with_noise
from units.pretraining.targets import half_whitening, logmel_features
from units.quality import describe, phone_quality, phones_at_frames

GAIN = 6.0  # dB, up and down
SHIFTS = (10, 20)  # milliseconds
PROBE_FRAMES = 10_000  # that the phone probe is fitted on, at most
PROBE_ITERATIONS = 100
PROBE_STRENGTH = 1.0  # of the data against the penalty
LOGMEL = "logmel"  # the baseline of HuBERT papers' kind: log-mel with context, half-whitened; no encoder of a build
MAX_FRAMES = 200_000

Phones = list[tuple[str, float, float]]


@dataclass(frozen=True)
class LabelledUtterance:
    """An utterance to score: (T,) float32 at 16 kHz, its phones in seconds, its speaker, its transcript if known."""

    waveform: np.ndarray
    phones: Phones
    speaker: str
    text: str = ""


@dataclass(frozen=True)
class Logmel:
    """Log-mel energies with context at 25 Hz, on the frames of the encoder `mfcc`; (F, 120), whitened by `compare`."""

    frame_rate: float = 25.0
    hop: int = 640
    centre: int = 360
    minimum: int = 720

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(F, 120) float32 each."""
        return [
            logmel_features(wave)[1 :: self.hop // 160][: (len(wave) - self.minimum) // self.hop + 1]
            if len(wave) >= self.minimum
            else np.zeros((0, 120), np.float32)
            for wave in waveforms
        ]


def compare(
    encoders: Sequence[str],
    fit_on: Sequence[np.ndarray],
    score_on: Sequence[LabelledUtterance],
    *,
    clusters: int = 501,
    seeds: Sequence[int] = (0,),
    noise: Sequence[float] = (20.0, 10.0),
    tokens: Sequence[Token] | None = None,
    recogniser: str | None = None,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Score encoders.

    Args:
        encoders: names as `load_encoder` takes them, "name@4" for layer 4, "logmel" for that baseline. One with a
            codebook in its folder gets a second row with that.
        fit_on: (T,) float32 waveforms at 16 kHz that every codebook is fitted on, at most 200,000 frames.
        score_on: utterances with phones, of other speakers.
        clusters: of each codebook.
        seeds: of k-means; numbers are means over them, `spread` holds half of largest minus smallest.
        noise: signal-to-noise ratios, dB, of white noise, for the share of units that stay.
        tokens: for ABX, their utterances numbered as in `score_on`; None: the triphones of its phones.
        recogniser: for word errors of resynthesis (`pipelines.reports.words_kept`); None: they are left out.

    Returns:
        One JSON-able row per encoder: `encoder`, `codebook`, `frame_rate`, `pnmi`, `pnmi_shuffled`, `xpnmi`,
        `phone_purity`, `cluster_purity`, `phone_probe` (share of the phones that a linear classifier of the features
        gets right for speakers it was not fitted on; silence between phones does not count), `same_at_20_db` ...,
        `same_at_gain` (the worse of +6 and -6 dB), `same_at_10_ms`, `same_at_20_ms` (units kept when the recording
        begins so much later), `phone_error`, `boundary_*` and `unit_boundary_*` (as `units.phone_discovery` defines
        them), `abx_within` and `abx_across` (of features by angles), `abx_units_within` and `abx_units_across` (of
        units, equal or not; all are shares of wrong triples, as `units.abx` defines them), `word_error` and
        `word_error_recorded` (per cent, with the codebook of the bundled vocoder), `bitrate` and
        `bitrate_deduplicated` (bits/s), `entropy` (bits), `used`, `times_real_time` (features, of processor time on one
        thread), `spread`.
    """
    rows = []
    if tokens is None:
        tokens = triphones([item.phones for item in score_on], [item.speaker for item in score_on])
    for spec in encoders:
        encoder = open_encoder(spec)
        begun = time.process_time()
        features = encoder.encode(fit_on)
        speed = sum(map(len, fit_on)) / 16_000 / max(time.process_time() - begun, 1e-9)
        shown = views(encoder, [item.waveform for item in score_on], noise)
        change: Callable[[np.ndarray], np.ndarray] = lambda frames: frames  # noqa: E731
        sample = subsample_frames(np.concatenate(features))
        if isinstance(encoder, Logmel):
            mean, matrix = half_whitening(sample, 40)
            change = lambda frames, mean=mean, matrix=matrix: (frames - mean) @ matrix  # type: ignore[misc]  # noqa: E731
        books = [kmeans.fit(change(sample), clusters=clusters, seed=seed, device="cpu") for seed in seeds]
        common: dict[str, Any] = {"encoder": spec, "times_real_time": speed}
        clean = [change(frames) for frames in shown["clean"]]
        common |= phone_probe(encoder, clean, score_on) | abx_errors(encoder, clean, tokens)
        scored = [score(encoder, book, shown, score_on, change, tokens) for book in books]
        rows.append(common | {"codebook": f"fitted, {clusters}"} | mean_of(scored))
        report(rows[-1])
        if path := codebook_of(spec):
            book = kmeans.load(path)
            book.check(encoder)
            where = "bundled" if path.parent in BUNDLED.values() else "in its folder"
            row = common | {"codebook": f"{where}, {book.clusters}"}
            rows.append(row | mean_of([score(encoder, book, shown, score_on, change, tokens)]))
            if recogniser:
                units = [book.assign(frames) for frames in shown["clean"]]
                rows[-1] |= word_errors(
                    book.hash,
                    units,
                    [item.waveform for item in score_on],
                    [item.text for item in score_on],
                    recogniser,
                )
            report(rows[-1])
    return rows


def open_encoder(spec: str) -> Any:
    """The encoder that a name with an optional layer means."""
    if spec == LOGMEL:
        return Logmel()
    name, at, layer = spec.rpartition("@")
    if at and layer.isdigit():
        return load_encoder(name, int(layer))
    return load_encoder(spec)


def codebook_of(spec: str) -> Path | None:
    """The codebook in the folder of an encoder, bundled or not, where there is one.

    >>> [codebook_of(spec) is not None for spec in ("compact", "compact-1@3", "compact-1@2", "mfcc")]
    [True, True, False, False]
    """
    name, at, layer = spec.rpartition("@")
    if not (at and layer.isdigit()):
        name, layer = spec, ""
    path = Path(BUNDLED.get(name, name)) / codebook_name(int(layer) if layer else None)
    return path if path.exists() else None


def subsample_frames(features: np.ndarray) -> np.ndarray:
    """At most `MAX_FRAMES` of the frames, always the same."""
    if len(features) <= MAX_FRAMES:
        return features
    chosen = generator(0, "codebook frames").choice(len(features), MAX_FRAMES, replace=False)
    return features[np.sort(chosen)]


def views(
    encoder: Any, waveforms: Sequence[np.ndarray], noise: Sequence[float]
) -> dict[str, list[np.ndarray]]:
    """Features of the waveforms as they are, in noise, at other gains, and without their first milliseconds."""
    shown = {"clean": encoder.encode(waveforms)}
    for snr in noise:
        shown[f"same_at_{snr:g}_db"] = encoder.encode(
            [with_noise(w, snr, i) for i, w in enumerate(waveforms)]
        )
    for sign in (1, -1):
        gain = np.float32(10 ** (sign * GAIN / 20))
        shown[f"gain{sign}"] = encoder.encode([wave * gain for wave in waveforms])
    for shift in SHIFTS:
        shown[f"same_at_{shift}_ms"] = encoder.encode(
            [wave[shift * SAMPLE_RATE // 1000 :] for wave in waveforms]
        )
    return shown


def score(
    encoder: Encoder | Logmel,
    book: kmeans.Codebook,
    shown: dict[str, list[np.ndarray]],
    items: Sequence[LabelledUtterance],
    change: Callable[[np.ndarray], np.ndarray],
    tokens: Sequence[Token] = (),
) -> dict[str, float]:
    """The numbers of one codebook."""
    units = {name: [book.assign(change(frames)) for frames in features] for name, features in shown.items()}
    clean = units["clean"]
    phones = [
        phones_at_frames(item.phones, frames=len(assigned), centre=encoder.centre, hop=encoder.hop)
        for item, assigned in zip(items, clean, strict=True)
    ]
    quality = phone_quality(clean, phones, speakers=[item.speaker for item in items])
    names = ("pnmi", "pnmi_shuffled", "xpnmi", "phone_purity", "cluster_purity")
    result = {name: quality[name] for name in names if name in quality}
    same = {name: share_kept(clean, changed) for name, changed in units.items() if name != "clean"}
    result |= {name: value for name, value in same.items() if not name.startswith("gain")}
    result["same_at_gain"] = min(value for name, value in same.items() if name.startswith("gain"))
    use = describe(clean, clusters=book.clusters, frame_rate=encoder.frame_rate)
    result |= {
        name: use[name] for name in ("entropy", "used", "frame_rate", "bitrate", "bitrate_deduplicated")
    }
    return result | phone_errors(encoder, clean, items) | abx_errors(encoder, clean, tokens, "identical")


def abx_errors(
    encoder: Encoder | Logmel,
    frames: Sequence[np.ndarray],
    tokens: Sequence[Token],
    distance: str = "angular",
) -> dict[str, float]:
    """The errors of `abx` by the names of columns; without those that these tokens do not define."""
    try:
        errors = abx(frames, tokens, hop=encoder.hop, centre=encoder.centre, distance=distance)
    except UndefinedMeasure:
        return {}
    prefix = "abx" if distance == "angular" else "abx_units"
    return {f"{prefix}_{name}": errors[name] for name in ("within", "across") if name in errors}


def phone_errors(
    encoder: Encoder | Logmel, units: Sequence[np.ndarray], items: Sequence[LabelledUtterance]
) -> dict[str, float]:
    """The scores of `phone_discovery` by the names of columns; {} where these phones do not define them."""
    try:
        scores = phone_discovery(
            units, [item.phones for item in items], hop=encoder.hop, centre=encoder.centre
        )
    except UndefinedMeasure:
        return {}
    for kind, prefix in (("segmentation", ""), ("unit_segmentation", "unit_")):
        for name, value in scores.pop(kind).items():
            scores[f"{prefix}boundary_{name}"] = value
    return scores


def share_kept(clean: Sequence[np.ndarray], changed: Sequence[np.ndarray]) -> float:
    """Share of frames with the same unit, over the frames that both have.

    >>> share_kept([np.array([1, 2, 3])], [np.array([1, 5])])
    0.5
    """
    same = [one[: len(other)] == other[: len(one)] for one, other in zip(clean, changed, strict=True)]
    return float(np.mean(np.concatenate(same)))


def phone_probe(
    encoder: Any, features: Sequence[np.ndarray], items: Sequence[LabelledUtterance]
) -> dict[str, float]:
    """Accuracy of a logistic regression from features to phones, fitted on every other speaker and scored on the rest.

    Returns:
        {"phone_probe": share of frames}, both ways round; {} where there are fewer than two speakers.
    """
    speakers = sorted({item.speaker for item in items})
    if len(speakers) < 2:
        return {}
    labels = np.concatenate(
        [
            phones_at_frames(item.phones, frames=len(frames), centre=encoder.centre, hop=encoder.hop)
            for item, frames in zip(items, features, strict=True)
        ]
    )
    fold = np.repeat(
        [speakers.index(item.speaker) % 2 for item in items], [len(frames) for frames in features]
    )
    inputs = np.concatenate(features).astype(np.float64)
    right = total = 0
    for held_out in (0, 1):
        known = np.flatnonzero((fold != held_out) & (labels != ""))
        if len(known) > PROBE_FRAMES:
            known = np.sort(generator(0, "phone probe").choice(known, PROBE_FRAMES, replace=False))
        names, classes = np.unique(labels[known], return_inverse=True)
        scored = (fold == held_out) & (labels != "")
        total += int(scored.sum())
        if len(names) < 2:
            continue
        mean, deviation = inputs[known].mean(axis=0), np.maximum(inputs[known].std(axis=0), 1e-6)
        scale = deviation * np.sqrt(inputs.shape[1])  # so that one strength fits every number of dimensions
        slopes, offsets = fit_logistic(
            (inputs[known] - mean) / scale, classes, strength=PROBE_STRENGTH, iterations=PROBE_ITERATIONS
        )
        guesses = ((inputs[scored] - mean) / scale @ slopes + offsets).argmax(axis=1)
        right += int((names[guesses] == labels[scored]).sum())
    return {"phone_probe": right / max(total, 1)}


def mean_of(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over k-means seeds, and how far they lie apart."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    mean: dict[str, Any] = {name: float(np.mean([row[name] for row in rows])) for name in names}
    spread = {
        name: (max(r[name] for r in rows) - min(r[name] for r in rows)) / 2
        for name in ("pnmi", "xpnmi")
        if name in rows[0]
    }
    return mean | {"spread": spread, "seeds": len(rows)}


COLUMNS = {
    "encoder": "encoder", "codebook": "codebook", "xpnmi": "xPNMI", "pnmi": "PNMI", "pnmi_shuffled": "shuffled",
    "phone_purity": "phone purity", "cluster_purity": "cluster purity", "phone_probe": "phone probe",
    "same_at_20_db": "same, 20 dB", "same_at_10_db": "same, 10 dB", "same_at_gain": "same, +-6 dB",
    "same_at_10_ms": "same, 10 ms", "same_at_20_ms": "same, 20 ms", "word_error": "word error, %",
    "word_error_recorded": "of recordings, %", "phone_error": "phone error",
    "phone_error_one_to_one": "phone error, 1:1", "boundary_f1": "boundary F1", "boundary_r_value": "R-value",
    "abx_within": "ABX within", "abx_across": "ABX across", "abx_units_within": "ABX of units, within",
    "abx_units_across": "ABX of units, across", "bitrate": "bits/s", "entropy": "entropy", "used": "used",
    "times_real_time": "x real time",
}  # fmt: skip


def as_table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    rows = list(rows)
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    lines = [" | ".join(COLUMNS[name] for name in names), "|".join("---" for _ in names)]
    lines += [" | ".join(shown_value(name, row.get(name, "")) for name in names) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def shown_value(name: str, value: Any) -> str:
    """A cell."""
    if not isinstance(value, float):
        return str(value)
    return (
        f"{value:.0f}"
        if name in ("used", "times_real_time", "bitrate")
        else f"{value:.1f}"
        if name.startswith("word_error")
        else f"{value:.2f}"
        if name == "entropy"
        else f"{value:.3f}"
    )


def brief_row(row: dict[str, Any]) -> str:
    """A row for who waits."""
    numbers = "  ".join(
        f"{name} {row[name]:.3f}" for name in ("xpnmi", "pnmi", "same_at_20_db") if name in row
    )
    return f"compare: {row['encoder']} ({row['codebook']})  {numbers}"
