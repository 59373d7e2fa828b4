"""Style tokens on acted emotional speech, each speaker left out of everything that is learned.

    python -m benchmarks.style                     # leave one speaker out: emotion, arousal, speaker, seams
    python -m benchmarks.style --train FOLDER      # fit the bundled codebook: FOLDER/style.safetensors, style.json

Recorded speech is looked for where WORDWEAVE_SPEECH says (default ../shared/speech): `emotion/` is EmoDB, 80 German
clips of 2 s of six actors; `unlabelled/` and `dev/` are read speech. For each actor the codebook (with the classifier
that places seconds in it) and the classifiers that read its tokens come from all other speakers; what is taken of the
actor is the mean over all clips, which needs no labels.

- emotion: five classes (neutral, angry, fear, happy, bored), arousal: angry, happy, fear against neutral, bored, sad;
  unweighted average recall (UAR) over all clips. A clip is the mean of its tokens' centroids, the classifier logistic
  regression. Beside it the same classifier on histograms of units (k-means of MFCC), and on the features themselves.
- speaker: of six actors, from tokens (mean of centroids), by folds over the clips.
- seams: two clips of one actor are joined into one waveform and tokenised again; the distance of centroids across the
  join (two seconds against two, or one against one) tells joins of two emotions from joins of one: area under the ROC.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from benchmarks.pitch import ATTRIBUTION, SPEECH, read_rows  # noqa: E402
from units import kmeans  # noqa: E402
from units.encoders import load_encoder  # noqa: E402
from units.prosody import style  # noqa: E402
from units.prosody.f0 import F0  # noqa: E402
from units.prosody.f0 import identity as f0_identity  # noqa: E402
from units.prosody.style_features import pool  # noqa: E402

FIVE = ("neutral", "angry", "fear", "happy", "bored")
AROUSED = {"angry": 1, "happy": 1, "fear": 1, "neutral": 0, "bored": 0, "sad": 0}
HOP = {"emotion": 0.25, "dev": 0.5, "unlabelled": 0.5}  # seconds between the windows that are clustered


def classifier(C: float = 0.1) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=C, max_iter=3000, class_weight="balanced")
    return make_pipeline(StandardScaler(), regression)


def recall(true: list, predicted: list) -> float:
    from sklearn.metrics import recall_score

    return float(recall_score(true, predicted, average="macro"))


def read(cache: Path | None) -> list[dict[str, Any]]:
    """Rows with their features per second (`seconds`) and per training window (`windows`)."""
    rows = read_rows(cache)
    for row in rows:
        row["waveform"] = soundfile.read(row["path"], dtype="float32")[0]
        row["windows"] = pool(row["waveform"], row["f0"], hop=HOP[row["set"]])
        row["seconds"] = pool(row["waveform"], row["f0"])
    return rows


def fitted(
    rows: list[dict[str, Any]], *, clusters: int, seed: int, placed: bool = True
) -> style.StyleTokenizer:
    """A tokenizer from these rows; seconds are placed among the emotions, or by their features alone."""
    styles = [row.get("emotion") for row in rows] if placed else None
    return style.fit(
        [row["windows"] for row in rows],
        [row["speaker"] for row in rows],
        styles=styles,
        clusters=clusters,
        seed=seed,
    )


def joined(left: dict[str, Any], right: dict[str, Any]) -> tuple[np.ndarray, F0]:
    """Two clips as one recording; F0 is that of the clips, 5 ms of the first one's last frame dropped."""
    waveform = np.concatenate([left["waveform"], right["waveform"]])
    n, cut = len(waveform) // 80 + 1, len(left["waveform"]) // 80
    hertz = np.concatenate([left["f0"].hertz[:cut], right["f0"].hertz])[:n]
    voiced = np.concatenate([left["f0"].voiced[:cut], right["f0"].voiced])[:n]
    return waveform, F0(hertz, voiced)


Seam = tuple[dict[str, Any], dict[str, Any], np.ndarray]


def read_seams(rows: list[dict[str, Any]]) -> list[Seam]:
    """Every two clips of one actor, and the features of the four seconds of both in one waveform."""
    acted = [row for row in rows if row["set"] == "emotion"]
    return [
        (left, right, pool(*joined(left, right)))
        for left in acted
        for right in acted
        if left is not right and left["speaker"] == right["speaker"]
    ]


def leave_one_out(
    rows: list[dict[str, Any]], units: dict[str, np.ndarray], joins: list[Seam], **settings: Any
) -> dict[str, float]:
    """Every number of the table, for one seed."""
    from sklearn.metrics import roc_auc_score

    acted = [row for row in rows if row["set"] == "emotion"]
    answers: dict[str, tuple[list, list]] = {}
    seams = []

    def ask(name: str, x: dict[str, np.ndarray], train: list, test: list, label: Any) -> None:
        model = classifier().fit([x[row["id"]] for row in train], [label(row) for row in train])
        true, predicted = answers.setdefault(name, ([], []))
        true += [label(row) for row in test]
        predicted += list(model.predict([x[row["id"]] for row in test]))

    for speaker in sorted({row["speaker"] for row in acted}):
        tokenizer = fitted([row for row in rows if row["speaker"] != speaker], **settings)
        means = {
            name: tokenizer.speaker_mean([row["seconds"] for row in acted if row["speaker"] == name])
            for name in {row["speaker"] for row in acted}
        }
        assigned_by_id = {row["id"]: tokenizer.assign(row["seconds"], means[row["speaker"]]) for row in acted}
        tokens = {
            name: tokenizer.centroids[assigned].mean(axis=0) for name, assigned in assigned_by_id.items()
        }
        own = {
            row["id"]: tokenizer.embed(row["seconds"], means[row["speaker"]]).mean(axis=0) for row in acted
        }
        train = [row for row in acted if row["speaker"] != speaker]
        test = [row for row in acted if row["speaker"] == speaker]
        for name, x in (("tokens", tokens), ("features", own), ("units", units)):
            five = [[row for row in part if row["emotion"] in FIVE] for part in (train, test)]
            ask(f"{name} emotion", x, *five, lambda row: row["emotion"])
            two = [[row for row in part if row["emotion"] in AROUSED] for part in (train, test)]
            ask(f"{name} arousal", x, *two, lambda row: AROUSED[row["emotion"]])
        for left, right, features in joins:
            if left["speaker"] != speaker:
                continue
            places = tokenizer.centroids[tokenizer.assign(features, means[speaker])]
            wide = np.linalg.norm(places[:2].mean(axis=0) - places[2:4].mean(axis=0))
            near = np.linalg.norm(places[1] - places[2])
            crossing = AROUSED.get(left["emotion"]) != AROUSED.get(right["emotion"])
            seams.append((left["emotion"] != right["emotion"], crossing, wide, near))
    differs, crossing, wide, near = (np.array(column) for column in zip(*seams, strict=True))
    clear = crossing | ~differs
    whole = fitted(rows, **settings)
    voices = {
        name: whole.speaker_mean([row["seconds"] for row in acted if row["speaker"] == name])
        for name in {row["speaker"] for row in acted}
    }
    for kind, means in (("speaker", voices), ("speaker, corpus mean", {})):
        x = {
            row["id"]: whole.centroids[whole.assign(row["seconds"], means.get(row["speaker"]))].mean(axis=0)
            for row in acted
        }
        for fold in range(5):
            parts = [
                [row for i, row in enumerate(acted) if (i % 5 == fold) == held] for held in (False, True)
            ]
            ask(kind, x, *parts, lambda row: row["speaker"])
    return {name: recall(*result) for name, result in answers.items()} | {
        "seam AUC, 2 s": float(roc_auc_score(differs, wide)),
        "seam AUC, 1 s": float(roc_auc_score(differs, near)),
        "seam AUC, arousal-crossing, 2 s": float(roc_auc_score(differs[clear], wide[clear])),
        "codes used by read speech": len(
            np.unique(
                np.concatenate([whole.assign(row["seconds"]) for row in rows if row["set"] != "emotion"])
            )
        ),
    }


def unit_histograms(rows: list[dict[str, Any]], clusters: int, seed: int) -> dict[str, np.ndarray]:
    """Share of each unit in a clip; units are k-means of MFCC on the read speech."""
    encoder = load_encoder("mfcc")
    read_speech = [row["waveform"] for row in rows if row["set"] != "emotion"]
    features = np.concatenate(encoder.encode(read_speech))
    chosen = np.random.default_rng(seed).permutation(len(features))[:50_000]
    book = kmeans.fit(features[chosen], clusters=clusters, seed=seed)
    acted = [row for row in rows if row["set"] == "emotion"]
    unit_lists = [book.assign(x) for x in encoder.encode([row["waveform"] for row in acted])]
    return {
        row["id"]: np.bincount(units, minlength=clusters) / len(units)
        for row, units in zip(acted, unit_lists, strict=True)
    }


def train(rows: list[dict[str, Any]], folder: Path, *, clusters: int, seed: int) -> None:
    """Fit on all recordings and write the codebook with its provenance."""
    listed = "\n".join(
        sorted(f"{row['id']} {hashlib.sha256(row['path'].read_bytes()).hexdigest()}" for row in rows)
    )
    result = {
        "command": "python -m benchmarks.style --train units/data",
        "f0": f0_identity(),
        "recordings": hashlib.sha256(listed.encode()).hexdigest(),
        "clips": len(rows),
        "attribution": ATTRIBUTION,
    }
    tokenizer = style.fit(
        [row["windows"] for row in rows],
        [row["speaker"] for row in rows],
        styles=[row.get("emotion") for row in rows],
        clusters=clusters,
        seed=seed,
        provenance=result,
    )
    tokenizer.save(folder / "style.safetensors")
    (folder / "style.json").write_text(json.dumps(tokenizer.provenance, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--train", type=Path, metavar="FOLDER", help="fit the bundled codebook and write there"
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps F0 between runs")
    parser.add_argument("--clusters", type=int, default=style.CODES)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of k-means to average over")
    arguments = parser.parse_args()
    if not (SPEECH / "emotion" / "manifest.jsonl").exists():
        sys.exit(f"no recorded speech at {SPEECH}; set WORDWEAVE_SPEECH")
    rows = read(arguments.cache)
    if arguments.train:
        train(rows, arguments.train, clusters=arguments.clusters, seed=0)
        return
    start = time.process_time()
    units, joins = unit_histograms(rows, arguments.clusters, 0), read_seams(rows)
    table(rows, units, joins, clusters=arguments.clusters, seeds=arguments.seeds)
    print(f"{time.process_time() - start:.0f} s of CPU time")


def table(
    rows: list[dict[str, Any]], units: dict[str, np.ndarray], joins: list[Seam], *, clusters: int, seeds: int
) -> None:
    """Print every number for both kinds of place, mean over seeds (least to most)."""
    kinds = [
        [
            leave_one_out(rows, units, joins, clusters=clusters, seed=seed, placed=placed)
            for seed in range(seeds)
        ]
        for placed in (True, False)
    ]
    print(f"80 clips, 6 speakers, {clusters} codes, mean of {seeds} seeds (least to most)")
    print(f"{'':34}{'placed among styles':>26}{'by features alone':>26}")
    for name in kinds[0][0]:
        cells = []
        for kind in kinds:
            values = [run[name] for run in kind]
            cells.append(f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        print(f"{name:34}" + "".join(f"{cell:>26}" for cell in cells))
    print("\nchance: emotion 0.20, arousal 0.50, speaker 0.17")


if __name__ == "__main__":
    main()
