"""Golden hashes under tests/data: a change of bytes without a raised version fails. `make golden` remakes them.

Each golden file holds the version of what it covers, and the sha256 of everything that was made.
"""

import dataclasses
import hashlib
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile

from corpus.manifest import VERSION as MANIFEST_VERSION
from pipelines.build import build, make_run
from pipelines.execution.engine import Engine
from pipelines.settings import (
    AlignSettings,
    CorpusSettings,
    InterleaveSettings,
    PitchSettings,
    Settings,
    ShardsSettings,
    StyleSettings,
    TextSettings,
    UnitsSettings,
)
from shards.read import ORDER, open_stream
from shards.strategies import STRATEGIES
from shards.write import SCHEMA, STREAMS
from tests.helpers.shards import toy_build

DATA = Path(__file__).parent / "data"
WORDS = "they went out on a cold grey morning and found the boat still tied to its post".split()  # noqa: SIM905


def hash_files(folder: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file in a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }


def shard_hashes(folder: Path) -> dict[str, Any]:
    """Of tiny builds of every strategy and one with pitch and style, and of what the loader gives from each."""
    made: dict[str, Any] = {"version": [SCHEMA, ORDER], "files": {}, "streams": {}}
    for name in (*STRATEGIES, "prosody"):
        strategy = name if name in STRATEGIES else "spirit"
        build = toy_build(
            folder / name, utterances=7, per_shard=5, strategy=strategy, expressive=name == "prosody"
        )
        mixture = dict.fromkeys(STREAMS, 1)
        stream = open_stream(build, mixture, seed=5, sequence_length=700, lanes=4, buffer=4)
        digest = hashlib.sha256()
        for packed in itertools.islice(stream, 40):  # several epochs
            for array in packed:
                digest.update(array.tobytes())
        made["files"] |= {f"{name}/{path}": sha256 for path, sha256 in hash_files(build).items()}
        made["streams"][name] = digest.hexdigest()
    return made


def tiny_corpus(folder: Path) -> Path:
    """A manifest of six recordings of harmonic sounds, with transcripts and word times."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(6):
        words = WORDS[number : number + 12]
        times = 0.25 * np.arange(len(words) + 1)
        pitch = np.repeat(rng.uniform(90, 220, len(words)), 4000)
        phase = 2 * np.pi * np.cumsum(pitch) / 16_000
        wave = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
        wave = wave + 0.05 * rng.normal(size=len(wave))
        soundfile.write(
            folder / f"{number}.wav", np.round(wave / np.abs(wave).max() * 20_000).astype(np.int16), 16_000
        )
        entries = [[start, start + 0.25, word] for start, word in zip(times.tolist(), words, strict=False)]
        (folder / f"{number}.json").write_text(
            json.dumps({"tiers": {"words": {"type": "interval", "entries": entries}}})
        )
        rows.append({
            "id": f"u{number}", "audio": f"{number}.wav", "text": " ".join(words), "speaker": f"s{number % 3}",
            "alignment": f"{number}.json",
        })  # fmt: skip
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


def tiny_settings(folder: Path) -> Settings:
    """Settings of a build with every step; its codebook is drawn, not fitted: k-means is not exact on every CPU."""
    np.save(folder / "codebook.npy", np.random.default_rng(0).normal(size=(40, 39)).astype(np.float32))
    return dataclasses.replace(
        Settings(),
        corpus=CorpusSettings(source=str(tiny_corpus(folder / "corpus")), part_minutes=0.1),
        units=UnitsSettings(encoder="mfcc", clusters=40, codebook=str(folder / "codebook.npy")),
        pitch=PitchSettings(enabled=True),
        style=StyleSettings(enabled=True),
        align=AlignSettings(backend="given"),
        text=TextSettings(size=300),
        interleave=InterleaveSettings(text_words=[2, 3], speech_words=[2, 4]),
        shards=ShardsSettings(samples=3, valid=0.2, hold_out_by="hash"),
    )


def build_hashes(folder: Path, engine: Engine | None = None) -> dict[str, Any]:
    """Of a tiny build, step by step: what each table holds but for paths and times of files, and the shards' bytes.

    F0 itself is left out: its last bits depend on the CPU. The tokens made from it are in.
    """
    settings = tiny_settings(folder)
    build(folder / "build", settings, engine)
    run = make_run(folder / "build", settings)
    hashes: dict[str, Any] = {}
    versions: dict[str, int] = {}
    for step in run.steps:
        if step.tasks is None:
            continue
        versions[step.name] = step.tasks(run)[0].version
        if step.table and step.name != "prosody":
            hashes[step.name] = table_hash(folder / "build" / step.table)
    hashes["ingest"] = table_hash(folder / "build" / "manifest")
    shards = {
        name: digest for name, digest in hash_files(folder / "build" / "shards").items() if ".tar" in name
    }
    hashes["interleave"] = {name: digest for name, digest in shards.items() if not name.endswith(".done")}
    return {"version": versions | {"ingest": MANIFEST_VERSION}, "steps": hashes}


def table_hash(folder: Path) -> str:
    """sha256 of the rows of all parts of a table, without the columns that name files or hold their times."""
    rows = [
        {
            name: value
            for name, value in row.items()
            if name not in ("audio", "audio_stamp", "alignment", "alignment_stamp")
        }
        for path in sorted(folder.glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert rows
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


GOLDEN: dict[str, Callable[[Path], dict[str, Any]]] = {
    "shards.json": shard_hashes,
    "build.json": build_hashes,
}


def remake() -> int:
    """Write the golden files that changed; refuse one whose version was not raised."""
    refused = 0
    for name, make in GOLDEN.items():
        with tempfile.TemporaryDirectory() as folder:
            made = make(Path(folder))
        path = DATA / name
        old = json.loads(path.read_bytes()) if path.exists() else None
        if old is not None and old != made and old["version"] == made["version"]:
            print(
                f"{path}: bytes changed at version {made['version']}: raise it, or remove the file",
                file=sys.stderr,
            )
            refused = 1
        else:
            path.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    return refused


if __name__ == "__main__":
    sys.exit(remake())
