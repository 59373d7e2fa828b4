"""Estimated speakers: clusters of voices against the true speakers, and what style tokens gain by them.

    python -m benchmarks.speakers [--style]

Recorded speech is looked for where WORDWEAVE_SPEECH says (default ../shared/speech). Clips of one to four speakers of
`dev/` are clustered as if they were one recording, 15 random choices each. With `--style`, emotion is read from style
tokens as in `benchmarks.style` (each actor left out of everything that is learned, one seed): relative to the mean of
the known speaker, of the speaker as estimated where two actors share a recording, and of the corpus.
"""

import argparse
import json
import random
import time
from typing import Any

import numpy as np
import soundfile

from benchmarks.pitch import SPEECH
from benchmarks.style import AROUSED, FIVE, classifier, fitted, read, recall
from corpus.records import SAMPLE_RATE
from corpus.speaker_embeddings import cluster_voices, embed

CLIPS = 10  # of each speaker


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--style", action="store_true", help="recall of emotions from style tokens")
    if parser.parse_args().style:
        print_recall(read(None))
    else:
        print_clusters()


def print_clusters() -> None:
    """Purity, completeness and right numbers of speakers, by the threshold."""
    lines = (SPEECH / "dev" / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    speakers = sorted({row["speaker"] for row in rows})
    chooser = random.Random(0)
    chosen = [
        row
        for speaker in speakers
        for own in [[row for row in rows if row["speaker"] == speaker]]
        if len(own) >= 4
        for row in chooser.sample(own, min(CLIPS, len(own)))
    ]
    waves = [soundfile.read(SPEECH / "dev" / row["audio"], dtype="float32")[0] for row in chosen]
    started = time.process_time()
    vectors, seconds = zip(*map(embed, waves), strict=True)
    spent = time.process_time() - started
    print(f"{sum(map(len, waves)) / SAMPLE_RATE / spent:.0f} x real time per core, {len(waves)} clips")
    names = np.array([row["speaker"] for row in chosen])
    for similarity in (0.6, 0.65, 0.7, 0.72, 0.74, 0.76, 0.8):
        scores = []
        chooser = random.Random(1)
        for count in (1, 2, 3, 4):
            for _ in range(15):
                places = np.flatnonzero(np.isin(names, chooser.sample(sorted(set(names)), count)))
                own = [seconds[place] for place in places]
                labels = np.array(cluster_voices(np.array(vectors)[places], own, similarity))
                scores.append((*score(labels, names[places]), labels.max() + 1 == count))
        purity, completeness, right = np.mean(scores, axis=0)
        print(
            f"similarity {similarity}: purity {purity:.3f}, completeness {completeness:.3f}, right number {right:.3f}"
        )


def score(labels: np.ndarray, names: np.ndarray) -> tuple[float, float]:
    """Shares of utterances: of the commonest speaker of their cluster, and in the largest cluster of their speaker."""

    def largest(one: np.ndarray, other: np.ndarray) -> float:
        return sum(np.unique(other[one == value], return_counts=True)[1].max() for value in set(one)) / len(
            one
        )

    return largest(labels, names), largest(names, labels)


def print_recall(rows: list[dict[str, Any]]) -> None:
    """Unweighted average recall of emotions and arousal from style tokens, by what the speaker's mean is."""
    acted = [row for row in rows if row["set"] == "emotion"]
    actors = sorted({row["speaker"] for row in acted})
    kinds = {
        "known": {row["id"]: row["speaker"] for row in acted},
        **{f"estimated ({one})": estimate(acted, actors, one) for one in (0.5, 0.6, 0.7)},
        "unknown": dict.fromkeys((row["id"] for row in acted), None),
    }
    answers: dict[tuple[str, str], tuple[list, list]] = {}
    for actor in actors:
        tokenizer = fitted([row for row in rows if row["speaker"] != actor], clusters=100, seed=0)
        for kind, names in kinds.items():
            means = {
                name: tokenizer.speaker_mean([row["seconds"] for row in acted if names[row["id"]] == name])
                for name in set(names.values()) - {None}
            }
            x = {
                row["id"]: tokenizer.centroids[
                    tokenizer.assign(row["seconds"], means.get(names[row["id"]]))
                ].mean(axis=0)
                for row in acted
            }
            for what, labels in (("emotion", {one: one for one in FIVE}), ("arousal", AROUSED)):
                used = [row for row in acted if row["emotion"] in labels]
                model = classifier().fit(
                    [x[row["id"]] for row in used if row["speaker"] != actor],
                    [labels[row["emotion"]] for row in used if row["speaker"] != actor],
                )
                true, predicted = answers.setdefault((kind, what), ([], []))
                held = [row for row in used if row["speaker"] == actor]
                true += [labels[row["emotion"]] for row in held]
                predicted += list(model.predict([x[row["id"]] for row in held]))
    for (kind, what), (true, predicted) in answers.items():
        print(f"{kind} speakers: {what} {recall(true, predicted):.3f}")


def estimate(acted: list[dict[str, Any]], actors: list[str], similarity: float) -> dict[str, str | None]:
    """The estimated speaker of each clip, where every two actors are one recording; however short their speech."""
    names: dict[str, str | None] = {}
    for pair in zip(actors[::2], actors[1::2], strict=True):
        own = [row for row in acted if row["speaker"] in pair]
        vectors, seconds = zip(*(embed(row["waveform"]) for row in own), strict=True)
        labels = cluster_voices(np.array(vectors), seconds, similarity)
        purity, completeness = score(np.array(labels), np.array([row["speaker"] for row in own]))
        print(
            f"{' and '.join(pair)}: {max(labels) + 1} clusters, purity {purity:.2f}, completeness {completeness:.2f}"
        )
        names |= {
            row["id"]: None if label < 0 else f"{pair[0]}-{label}"
            for row, label in zip(own, labels, strict=True)
        }
    return names


if __name__ == "__main__":
    main()
