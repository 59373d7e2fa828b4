"""Near-duplicates among many utterances: time, peak memory, and recall and precision on planted ones.

    python -m benchmarks.duplicates [--utterances 100000] [--workers 2]

Units and transcripts are random with the statistics of speech: 501 units of which neighbours depend on each other, and
words by Zipf's law, which repeat phrases. One utterance in 20 repeats an earlier one with a share of its runs of units
and of its words replaced. Decoding and encoding are not part of it: the tables of units and hashes are there.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.build_memory import peak

ROWS = 60  # of a part: ten minutes
CHANGED = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
"""Shares of runs and words replaced in planted duplicates, in turn."""


def make_tables(build: Path, count: int) -> None:
    """Write manifest, units and hashes of `count` utterances, and what was planted as planted.json."""
    from corpus.manifest import SCHEMA, SUMMARY, VERSION
    from pipelines.steps.duplicates import HASHES
    from pipelines.steps.units import UNITS

    rng = np.random.default_rng(0)
    next_units = rng.integers(0, 501, (501, 8))  # each unit is followed by one of eight, most of the time
    ranks = 1 / np.arange(1, 20_001)
    ranks /= ranks.sum()
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    planted: dict[str, dict] = {}
    listed = []
    for folder in ("manifest", "units", "hashes"):
        (build / folder).mkdir(parents=True)
    for part, first in enumerate(range(0, count, ROWS)):
        rows, units, hashes = [], [], []
        for number in range(first, min(first + ROWS, count)):
            runs, words = speech(rng, next_units, ranks)
            if number % 20 == 19:
                share = CHANGED[number // 20 % len(CHANGED)]
                original = int(rng.integers(0, len(kept)))
                runs, words = (replaced(rng, one, share) for one in kept[original])
                alike = [jaccard(*pair) for pair in zip(kept[original], (runs, words), strict=True)]
                planted[f"u{number}"] = {"share": share, "units": alike[0], "text": alike[1]}
            else:
                kept.append((runs, words))
            frames = np.repeat(runs, rng.integers(1, 4, len(runs)))
            rows.append(manifest_row(f"u{number}", " ".join(f"w{word}" for word in words), len(frames) * 320))
            units.append(frames.astype(np.int16))
            hashes.append(hashlib.sha256(frames.tobytes()).hexdigest()[:32])
        name = f"part-{part:05d}.parquet"
        ids, nothing = [row["id"] for row in rows], pa.nulls(len(rows), pa.string())
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), build / "manifest" / name)
        write(
            build / "units" / name, [ids, pa.array(units, UNITS.field("units").type), nothing, nothing], UNITS
        )
        write(build / "hashes" / name, [ids, hashes, nothing, nothing], HASHES)
        listed.append(
            {
                "name": name,
                "rows": len(rows),
                "samples": sum(row["samples"] for row in rows),
                "sha256": f"{part:064x}",
            }
        )
    summary = {"version": VERSION, "parts": listed, "origin": "u0", "settings": {}}
    (build / "manifest" / SUMMARY).write_text(json.dumps(summary))
    (build / "planted.json").write_text(json.dumps(planted))


def speech(
    rng: np.random.Generator, next_units: np.ndarray, ranks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Runs of units and words of one utterance of about ten seconds."""
    length = int(rng.integers(100, 350))
    runs = np.empty(length, np.int64)
    runs[0] = rng.integers(0, 501)
    choices, jumps = rng.integers(0, 8, length), rng.random(length) < 0.2
    anywhere = rng.integers(0, 501, length)
    for place in range(1, length):
        runs[place] = anywhere[place] if jumps[place] else next_units[runs[place - 1], choices[place]]
    return runs, rng.choice(len(ranks), int(rng.integers(10, 40)), p=ranks)


def replaced(rng: np.random.Generator, values: np.ndarray, share: float) -> np.ndarray:
    """A share of the values replaced."""
    return np.where(rng.random(len(values)) < share, rng.permutation(values), values)


def jaccard(*sequences: np.ndarray) -> float:
    """True similarity of the sets of 3-grams of two sequences, equal neighbours counted once as in units."""
    sets = [
        {
            tuple(gram)
            for gram in np.lib.stride_tricks.sliding_window_view(one[np.diff(one, prepend=-1) != 0], 3)
        }
        for one in sequences
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def manifest_row(id: str, text: str, samples: int) -> dict:
    """A row of the manifest."""
    from corpus.manifest import SCHEMA

    row = dict.fromkeys(SCHEMA.names)
    return row | {
        "id": id, "key": id, "audio": f"{id}.wav", "first_frame": 0, "frames": samples, "sample_rate": 16_000,
        "samples": samples, "text": text, "audio_stamp": "", "alignment_stamp": "",
    }  # fmt: skip


def write(path: Path, columns: list, schema: pa.Schema) -> None:
    """A part of a table with its done marker."""
    pq.write_table(pa.Table.from_arrays([pa.array(one) for one in columns], schema=schema), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".done").write_text(json.dumps({"key": "", "sha256": digest}))


def search(build: Path, workers: int) -> None:
    """Look for duplicates, as the step does."""
    from pipelines import settings
    from pipelines.engines.registry import make_engine
    from pipelines.steps.base import Run
    from pipelines.steps.duplicates import DUPLICATES_STEP, HASHES_STEP
    from pipelines.steps.units import UNITS_STEP

    wanted = settings.replace(settings.Settings(), "duplicates", enabled=True)
    steps = (UNITS_STEP, HASHES_STEP, DUPLICATES_STEP)
    DUPLICATES_STEP.run(Run(build, wanted, make_engine("beam", workers, {}, ()), steps, print))


def count(build: Path) -> None:
    """Print recall by the share that was replaced, and precision."""
    from pipelines.settings import DuplicatesSettings

    planted = json.loads((build / "planted.json").read_text())
    lines = (build / "report" / "duplicates.jsonl").read_text().splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    for kind in ("units", "text"):
        found = {id: row[kind] for id, row in rows.items() if kind in row}
        right = {id for id, of in found.items() if id in planted}
        shares = []
        for share in CHANGED:
            ids = [id for id, one in planted.items() if one["share"] == share]
            shares.append(f"{share:.0%} {sum(id in right for id in ids) / max(1, len(ids)):.3f}")
        least = getattr(DuplicatesSettings(), f"{kind}_similarity")
        at_least = []
        for similarity in (least, least + 0.1, least + 0.2):
            true = {id for id, one in planted.items() if one[kind] >= similarity}
            at_least.append(f"{similarity:.1f} {len(true & right) / max(1, len(true)):.4f} of {len(true)}")
        print(f"{kind}: precision {len(right) / max(1, len(found)):.4f} of {len(found)} found")
        print(
            f"  recall by least true similarity {', '.join(at_least)}; by share replaced {', '.join(shares)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    requested = parser.parse_args()
    if requested.search:
        search(requested.search, requested.workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "build"
        make_tables(build, requested.utterances)
        words = [sys.executable, "-m", "benchmarks.duplicates", "--search", str(build)]
        memory, seconds = peak([*words, "--workers", str(requested.workers)])
        stored = (
            sum(path.stat().st_size for path in (build / "repeats").rglob("*.parquet")) / requested.utterances
        )
        print(
            f"{requested.utterances} utterances, {requested.workers} workers: {seconds:.1f} s, peak {memory:.0f} MiB, "
            f"{stored:.0f} bytes kept per utterance"
        )
        count(build)


if __name__ == "__main__":
    main()
