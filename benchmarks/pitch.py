"""What pitch tokens keep of F0 on speakers left out of training, and what pitch and style cost beside units.

    python -m benchmarks.pitch                     # the bundled tokenizer on the speakers left out
    python -m benchmarks.pitch --train FOLDER      # train it anew: FOLDER/pitch.safetensors and pitch.json
    python -m benchmarks.pitch --cost              # CPU time beside a base-size HuBERT with random weights

Recorded speech is looked for where WORDWEAVE_SPEECH says (default ../shared/speech). A speaker is left out of training
if the SHA-256 of the name, as a number, is divisible by 10. The other quantizer has 64 codes at the same 12.5 Hz: code
0 for tokens that are mostly unvoiced, 63 quantiles of the mean of the voiced frames' (F0 - speaker's mean) for the
others; it is decoded as steps, or as straight lines between the middles of neighbouring voiced tokens.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from units.prosody import pitch, pitch_training  # noqa: E402
from units.prosody.f0 import F0, extract  # noqa: E402
from units.prosody.f0 import identity as f0_identity  # noqa: E402

PER_TOKEN = pitch.PitchSettings().per_token  # F0 frames
SPEECH = Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech"))
ATTRIBUTION = [
    "LibriSpeech ASR corpus, V. Panayotov, G. Chen, D. Povey, S. Khudanpur, ICASSP 2015, CC BY 4.0",
    "The LJ Speech Dataset, K. Ito, L. Johnson, public domain",
    "A Database of German Emotional Speech (EmoDB), F. Burkhardt et al., Interspeech 2005, CC0-1.0",
    "recordings of PhilippMatthes/dc_tts and speechbrain/speechbrain, Apache-2.0; inaugural address of J. F. Kennedy",
]


def left_out(speaker: str) -> bool:
    """Whether a speaker is kept from training."""
    return int(hashlib.sha256(speaker.encode()).hexdigest(), 16) % 10 == 0


def read_rows(
    cache: Path | None, sets: tuple[str, ...] = ("unlabelled", "dev", "emotion")
) -> list[dict[str, Any]]:
    """Manifest rows of the recorded speech with their F0; F0 is kept in `cache` as .npy where one is given."""
    rows = []
    for name in sets:
        for line in (SPEECH / name / "manifest.jsonl").read_text().splitlines():
            row = json.loads(line)
            row |= {"set": name, "path": SPEECH / name / row["audio"]}
            kept = cache / f"{row['id']}.npy" if cache else None
            if kept and kept.exists():
                hertz, voiced = np.load(kept, allow_pickle=False)
                row["f0"] = F0(hertz.astype(np.float32), voiced > 0.5)
            else:
                row["f0"] = extract(soundfile.read(row["path"], dtype="float32")[0])
                if kept:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    np.save(kept, np.stack([row["f0"].hertz, row["f0"].voiced.astype(np.float32)]))
            rows.append(row)
    means = speaker_means(rows)
    return [{**row, "mean": means[row["speaker"]]} for row in rows]


def speaker_means(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Mean F0 of each speaker's voiced frames, Hz."""
    sums: dict[str, tuple[float, int]] = {}
    for row in rows:
        voiced = row["f0"].hertz[row["f0"].voiced]
        total, count = sums.get(row["speaker"], (0.0, 0))
        sums[row["speaker"]] = total + float(voiced.sum(dtype=np.float64)), count + len(voiced)
    return {speaker: total / count if count else None for speaker, (total, count) in sums.items()}


def token_means(row: dict[str, Any]) -> np.ndarray:
    """(P,) mean of F0 - speaker's mean over the voiced frames of each token, NaN where most are unvoiced."""
    f0, tokens = row["f0"], len(row["f0"]) // PER_TOKEN
    shape = tokens, PER_TOKEN
    voiced = f0.voiced[: tokens * PER_TOKEN].reshape(shape)
    level = (f0.hertz[: tokens * PER_TOKEN] - (row["mean"] or f0.mean or 0)).reshape(shape)
    count = voiced.sum(axis=1)
    means = (level * voiced).sum(axis=1) / np.maximum(count, 1)
    return np.where(count * 2 >= PER_TOKEN, means, np.nan)


def quantiles(rows: list[dict[str, Any]], codes: int) -> np.ndarray:
    """Levels (Hz above the speaker's mean) that the other quantizer's codes stand for."""
    values = np.concatenate([token_means(row) for row in rows])
    values = np.sort(values[np.isfinite(values)])
    return np.array([np.median(part) for part in np.array_split(values, codes)])


def quantized(row: dict[str, Any], levels: np.ndarray, *, lines: bool) -> F0:
    """What the other quantizer gives back."""
    means = token_means(row)
    spoken = np.isfinite(means)
    voiced = np.repeat(spoken, PER_TOKEN)
    base = row["mean"] or row["f0"].mean or 0
    if not spoken.any():
        return F0(np.full(len(voiced), max(base, 1.0), np.float32), voiced)
    codes = np.abs(means[spoken][:, None] - levels).argmin(axis=1)
    tokens = np.flatnonzero(spoken)
    if lines:
        middles = tokens * PER_TOKEN + (PER_TOKEN - 1) / 2
        hertz = np.interp(np.arange(len(voiced)), middles, levels[codes])
    else:
        held = np.zeros(len(means))
        held[tokens] = levels[codes]
        hertz = np.repeat(held, PER_TOKEN)
    return F0((hertz + base).astype(np.float32), voiced)


def errors(rows: list[dict[str, Any]], decoded: list[F0]) -> dict[str, float]:
    """Median cents and gross errors (> 20 %) on frames voiced in both, voicing errors and FFE on all frames."""
    cents, gross, wrong, frames = [], 0, 0, 0
    for row, decoded_row in zip(rows, decoded, strict=True):
        n = len(decoded_row)
        true, voiced = row["f0"].hertz[:n], row["f0"].voiced[:n]
        both = voiced & decoded_row.voiced
        ratio = decoded_row.hertz[both] / true[both]
        cents.append(np.abs(1200 * np.log2(ratio)))
        gross += int((np.abs(ratio - 1) > 0.2).sum())
        wrong += int((voiced != decoded_row.voiced).sum())
        frames += n
    both_frames = sum(map(len, cents))
    return {
        "median cents": float(np.median(np.concatenate(cents))),
        "mean cents": float(np.mean(np.concatenate(cents))),
        "gross > 20 %": gross / both_frames,
        "voicing": wrong / frames,
        "FFE": (wrong + gross) / frames,
    }


def compare(tokenizer: pitch.PitchTokenizer, rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Errors on the speakers left out, of the tokenizer and of the other quantizer, and how many codes are used."""
    train = [row for row in rows if not left_out(row["speaker"])]
    test = [row for row in rows if left_out(row["speaker"])]
    levels = quantiles(train, pitch.CODES - 1)
    tokens = [tokenizer.encode(row["f0"], row["mean"]) for row in test]
    decoded = [
        tokenizer.decode(t, row["mean"] or row["f0"].mean) for t, row in zip(tokens, test, strict=True)
    ]
    counts = np.bincount(np.concatenate(tokens), minlength=tokenizer.codes)
    share = counts[counts > 0] / counts.sum()
    table = {
        "VQ-VAE": errors(test, decoded),
        "quantiles, steps": errors(test, [quantized(row, levels, lines=False) for row in test]),
        "quantiles, lines": errors(test, [quantized(row, levels, lines=True) for row in test]),
    }
    table["VQ-VAE"] |= {
        "codes used": int((counts > 0).sum()),
        "perplexity": float(2 ** -(share * np.log2(share)).sum()),
    }
    speakers = {row["speaker"] for row in test}
    minutes = sum(map(len, (row["f0"] for row in test))) / 200 / 60
    print(f"left out: {len(speakers)} speakers, {len(test)} clips, {minutes:.1f} minutes")
    return table


def show(table: dict[str, dict[str, float]]) -> None:
    """Print a table of errors."""
    names = ["median cents", "mean cents", "gross > 20 %", "voicing", "FFE", "codes used", "perplexity"]
    print(f"\n{'':20}" + "".join(f"{name:>14}" for name in names))
    for kind, result in table.items():
        cells = [result.get(name) for name in names]
        print(f"{kind:20}" + "".join(f"{'' if x is None else f'{x:.4g}':>14}" for x in cells))


def train(rows: list[dict[str, Any]], folder: Path, **recipe: Any) -> pitch.PitchTokenizer:
    """Train on the speakers that are not left out, and write the model with its provenance."""
    kept = [row for row in rows if not left_out(row["speaker"])]
    listed = "\n".join(
        sorted(f"{row['id']} {hashlib.sha256(row['path'].read_bytes()).hexdigest()}" for row in kept)
    )
    result = {
        "command": "python -m benchmarks.pitch --train units/data",
        "f0": f0_identity(),
        "recordings": hashlib.sha256(listed.encode()).hexdigest(),
        "clips": len(kept),
        "speakers": len({row["speaker"] for row in kept}),
        "left out": "speakers whose SHA-256, as a number, is divisible by 10",
        "attribution": ATTRIBUTION,
    }
    start = time.process_time()
    tokenizer = pitch_training.fit([(row["f0"], row["mean"]) for row in kept], provenance=result, **recipe)
    print(f"trained in {time.process_time() - start:.0f} s of CPU time", file=sys.stderr)
    tokenizer.save(folder / "pitch.safetensors")
    (folder / "pitch.json").write_text(json.dumps(tokenizer.provenance, indent=1) + "\n")
    return tokenizer


def cost(seconds: float, repeats: int) -> None:
    """CPU time of units, F0, pitch and style for the same recordings, in one run, one thread."""
    import tempfile

    import torch
    from transformers import HubertConfig, HubertModel
    from transformers.utils import logging

    from units.encoders import load_encoder
    from units.prosody import style
    from units.verify import fast_half_types

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    waveforms, total = [], 0.0
    for path in sorted((SPEECH / "unlabelled" / "audio").glob("*.flac")):
        waveforms.append(soundfile.read(path, dtype="float32")[0])
        total += len(waveforms[-1]) / 16_000
        if total >= seconds:
            break
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        plain = HubertModel(HubertConfig()).eval()
        plain.save_pretrained(folder)
        half = "bfloat16" in fast_half_types(torch.device("cpu"))  # elsewhere it takes minutes
        dtypes = ("float32", "bfloat16") if half else ("float32",)
        encoders = {dtype: load_encoder(folder, dtype=dtype) for dtype in dtypes}
    by_transformers = torch.inference_mode()(plain)  # one by one, as one has units without wordweave
    tokenizer, styles = pitch.load(), style.load()
    contours = [extract(waveform) for waveform in waveforms]
    runs: dict[str, Callable[[], Any]] = {
        **{f"units, {dtype}": lambda one=one: one.encode(waveforms) for dtype, one in encoders.items()},
        "units, transformers": lambda: [by_transformers(torch.from_numpy(w)[None]) for w in waveforms],
        "F0": lambda: [extract(waveform) for waveform in waveforms],
        "pitch from F0": lambda: [tokenizer.encode(f0) for f0 in contours],
        "style from F0": lambda: [styles.encode(w, f0=f0) for w, f0 in zip(waveforms, contours, strict=True)],
    }
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name] = min(times[name], time.process_time() - start)
    print(f"{len(waveforms)} recordings, {total:.0f} s, one thread, best of {repeats} by CPU time")
    for name, spent in times.items():
        print(f"{name:20}{total / spent:8.1f} x real time{spent / times['units, float32']:10.1%} of units")
    together = sum(times[name] for name in ("F0", "pitch from F0", "style from F0"))
    for name in (*(f"units, {dtype}" for dtype in dtypes), "units, transformers"):
        print(f"pitch and style add {together / times[name]:.1%} to {name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, metavar="FOLDER", help="train anew and write there")
    parser.add_argument("--cache", type=Path, help="folder that keeps F0 between runs")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--seconds", type=float, default=120, help="of speech for --cost")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if not (SPEECH / "dev" / "manifest.jsonl").exists():
        sys.exit(f"no recorded speech at {SPEECH}; set WORDWEAVE_SPEECH")
    if arguments.cost:
        cost(arguments.seconds, arguments.repeats)
        return
    rows = read_rows(arguments.cache)
    recipe = {"steps": arguments.steps} if arguments.steps else {}
    tokenizer = train(rows, arguments.train, **recipe) if arguments.train else pitch.load()
    show(compare(tokenizer, rows))


if __name__ == "__main__":
    main()
