"""Mutated inputs over every reader of outside data: each is read, or refused in one line; nothing else may happen.

    make fuzz SECONDS=300            everything, in turn
    python -m tests.fuzz --target audio --seed 7 --seconds 20

A finding is an exception that is no refusal, a reader that takes longer than 20 seconds, or a crash of the process. The
input that caused it is kept below build/fuzz/, and its path printed. The same seed tries the same inputs.
"""

import argparse
import csv
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpus.keyed import generator
from corpus.records import Reject

REFUSALS = (ValueError, OSError)
"""What readers raise on purpose, `Reject` and `Unusable` among them; the command line prints it as one line."""

LONGEST = 20  # seconds that reading one input may take
NUMBERS = (
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"2147483648",
    b"18446744073709551616",
    b"0.0000001",
    b"null",
    b'""',
    b"[]",
)
BYTES = (
    b"\0",
    b"\xff",
    b"\n",
    b"\r",
    b"\xef\xbb\xbf",
    b"{",
    b"[",
    b'"',
    b"\xf0\x9f\x92\xa9",
    b"\x7f\xff\xff\xff",
)


@dataclass(frozen=True)
class Target:
    """One kind of reader: what makes good inputs, and what reads them."""

    make: Callable[[Path], list[Path]]  # writes good inputs into a folder; the files that are mutated
    read: Callable[[Path], object]  # is given the path of a mutated file; its neighbours are whole


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """A damaged copy: one to four changes of the kinds that disks, networks and people make."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        place = int(len(data) * rng.random() ** 2) if data else 0  # heads more often than tails
        length = int(rng.integers(1, 64))
        match int(rng.integers(9)):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << int(rng.integers(8))
            case 1:
                data[place : place + length] = rng.bytes(length)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                del data[place:]
            case 5:
                data[place:place] = BYTES[rng.integers(len(BYTES))]
            case 6:
                digits = [at for at in range(len(data[:4096])) if 48 <= data[at] < 58]
                if digits:
                    at = digits[rng.integers(len(digits))]
                    data[at : at + 1] = NUMBERS[rng.integers(len(NUMBERS))]
            case 7:
                data += data[: int(rng.integers(1 + len(data)))]
            case 8:
                other = int(rng.integers(1 + len(data)))
                data[place : place + length] = data[other : other + length]
    return bytes(data)


def run(
    name: str, *, seed: int, seconds: float = float("inf"), most: int = 1 << 62, keep: Path
) -> dict[str, int]:
    """Try mutated inputs of one target until time or number is up; counts of read and refused ones.

    Raises:
        AssertionError: a finding; its input is in `keep`.
    """
    target, counts = TARGETS[name], {"read": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        good = target.make(Path(folder))
        contents = [path.read_bytes() for path in good]
        number, started = 0, time.monotonic()
        while number < most and time.monotonic() - started < seconds:
            rng = generator(seed, f"fuzz {name}", str(number))
            index = int(rng.integers(len(good)))
            changed = mutate(contents[index], rng)
            good[index].write_bytes(changed)
            last = keep / f"{name}-{good[index].name}"
            keep.mkdir(parents=True, exist_ok=True)
            last.write_bytes(changed)  # there when the process crashes
            try:
                with limited(LONGEST):
                    target.read(good[index])
                counts["read"] += 1
            except REFUSALS as error:
                several_lines = "\n" in str(error) and not isinstance(
                    error, Reject
                )  # tables hold these in one line
                if isinstance(error, TimeoutError) or several_lines:
                    raise AssertionError(f"{name}, seed {seed}, input {number}: {error!r}: {last}") from error
                counts["refused"] += 1
            except Exception as error:
                raise AssertionError(f"{name}, seed {seed}, input {number}: {error!r}: {last}") from error
            good[index].write_bytes(contents[index])
            last.unlink()
            number += 1
    return counts


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End a block that takes too long with TimeoutError."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# What is read ---------------------------------------------------------------------------------------------------------


def make_audio(folder: Path) -> list[Path]:
    from tests.corpus.test_lengths import KINDS, content_of

    paths = []
    for container, encoding in KINDS:
        path = folder / f"{container}-{encoding}"
        path.write_bytes(content_of(container, encoding, 0.4))
        paths.append(path)
    return paths


def read_audio(path: Path) -> None:
    from corpus.audio import decode, read_header
    from corpus.records import Utterance

    header = read_header(path)
    if header.problem:
        raise header.problem
    utterance = Utterance("u", str(path), min(header.frames, 1 << 20), header.sample_rate)
    assert len(decode(utterance)) == utterance.samples


def make_manifests(folder: Path) -> list[Path]:
    import gzip

    import soundfile

    soundfile.write(folder / "a.wav", np.zeros((16000, 2)), 16000)
    rows = [
        {
            "id": f"u{number}",
            "audio": "a.wav",
            "text": "grüße",
            "start": 0.1,
            "end": 0.5,
            "channel": number % 2,
        }
        for number in range(5)
    ]
    lines = "\n".join(map(json.dumps, rows))
    contents = {
        "m.jsonl": lines.encode(),
        "m.json": json.dumps(rows).encode(),
        "m.u16": lines.encode("utf-16"),
        "m.gz": gzip.compress(lines.encode(), mtime=0),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def read_manifest(path: Path) -> None:
    from corpus.adapters import ADAPTERS
    from corpus.manifest import write_manifest

    with tempfile.TemporaryDirectory() as folder:
        write_manifest(ADAPTERS["jsonl"](path), Path(folder) / "manifest")


def make_tables(folder: Path) -> list[Path]:
    import soundfile

    soundfile.write(folder / "a.wav", np.zeros(16000), 16000)
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "audio", "text", "start"], *([f"u{n}", "a.wav", "x, y", 0.1] for n in range(5))]
        )
    (folder / "wav.scp").write_text("r a.wav\ns b.sph |\n")
    (folder / "segments").write_text("u1 r 0.1 0.5\nu2 r 0.5 -1\n")
    (folder / "text").write_text("u1 HELLO\nu2 THERE\n")
    return [folder / name for name in ("t.csv", "wav.scp", "segments", "text")]


def read_tables(path: Path) -> None:
    from corpus.adapters import ADAPTERS

    list(ADAPTERS["table"](path) if path.suffix == ".csv" else ADAPTERS["kaldi"](path.parent))


def make_documents(folder: Path) -> list[Path]:
    import bz2
    import gzip
    import lzma

    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = "\n".join(json.dumps({"text": f"Document {number}."}) for number in range(9)).encode()
    pq.write_table(pa.table({"text": ["one", "two", None]}), folder / "d.parquet")
    contents = {
        "d.jsonl": lines,
        "d.txt": "Ein Satz.\nNoch größer.\n".encode(),
        "d.gz": gzip.compress(lines, mtime=0),
        "d.bz2": bz2.compress(lines),
        "d.xz": lzma.compress(lines),
        "d.zst": pa.compress(lines, "zstd", asbytes=True),
        "d.u16": lines.decode().encode("utf-16"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in (*contents, "d.parquet")]


def read_document_file(path: Path) -> None:
    from corpus.documents import read_documents

    list(read_documents([path]))


def make_alignments(folder: Path) -> list[Path]:
    grid = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 1\n'
        "tiers? <exists>\nsize = 1\nitem []:\n"
        '    item [1]:\n        class = "IntervalTier"\n        name = "words"\n        xmin = 0\n        xmax = 1\n'
        "        intervals: size = 2\n        intervals [1]:\n            xmin = 0\n            xmax = 0.5\n"
        '            text = "hello"\n        intervals [2]:\n            xmin = 0.5\n            xmax = 1\n'
        '            text = "there"\n'
    )
    words = [
        {"word": "hello", "start": 0.1, "end": 0.4, "score": 0.9},
        {"word": "there", "start": 0.5, "end": 0.9},
    ]
    contents: dict[str, str | bytes] = {
        "a.TextGrid": grid,
        "b.TextGrid": grid.encode("utf-16"),
        "a.json": json.dumps({"segments": [{"start": 0, "end": 1, "words": words}]}),
        "b.json": json.dumps(words),
        "c.json": json.dumps({"words": [{"case": "success", **word} for word in words]}),
        "a.ctm": "u 1 0.1 0.3 hello 0.9\nu 1 0.5 0.4 there\n",
        "a.csv": "Begin,End,Label,Type,Speaker\n0.1,0.4,hello,words,s\n0.5,0.9,there,words,s\n",
        "84-1.alignment.txt": '84-1-0000 ",HELLO,,THERE," "0.1,0.4,0.5,0.9,1.0"\n',
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return [folder / name for name in contents]


def read_alignment(path: Path) -> None:
    from aligners import load_aligner
    from corpus.records import Utterance

    id = "84-1-0000" if path.name.startswith("84") else "u"
    utterance = Utterance(id, "a.wav", 16000, text="hello there", alignment=str(path))
    (result,) = load_aligner("given").align([(utterance, np.zeros(16000, np.float32))])
    if result.reject and result.reject.reason == "align.backend_error":
        raise RuntimeError(result.reject.detail)  # an exception that no reader raises on purpose
    if result.reject:
        raise result.reject


def make_shards(folder: Path) -> list[Path]:
    from tests.helpers.shards import toy_build

    build = toy_build(folder, utterances=6, per_shard=6)
    return [
        path
        for path in sorted((build / "shards").rglob("*"))
        if path.is_file() and path.name != "tokenizer.json"
    ]


def read_shards(path: Path) -> None:
    from shards.read import open_stream
    from shards.verify import verify
    from shards.vocabulary import Vocabulary

    build = next(folder.parent for folder in path.parents if folder.name == "shards")
    verify(str(build))
    Vocabulary.load(build / "shards")
    stream = open_stream(
        str(build), {"speech": 1.0, "interleaved": 1.0}, seed=0, sequence_length=64, rank=0, world_size=1
    )
    for _ in range(3):
        next(stream)


def make_configs(folder: Path) -> list[Path]:
    root = Path(__file__).resolve().parents[1] / "config"
    shutil.copytree(root, folder / "config")
    return sorted((folder / "config").glob("*.toml"))


def read_config(path: Path) -> None:
    from corpus.toml import read_toml
    from pipelines.settings import Settings

    read_toml(path, Settings)


def make_codebooks(folder: Path) -> list[Path]:
    from units.encoders import bundled_codebook
    from units.kmeans import Codebook

    centroids = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    Codebook(centroids, {"encoder": "toy"}).save(folder / "a.safetensors")
    np.save(folder / "a.npy", centroids)
    shutil.copy(bundled_codebook(), folder / "b.safetensors")
    return [folder / name for name in ("a.safetensors", "a.npy", "b.safetensors")]


def read_codebook(path: Path) -> None:
    from units.quantizers import load_codebook

    load_codebook(path)


def make_models(folder: Path) -> list[Path]:
    from lm.model import Model, preset

    Model(preset("tiny", 64)).save_pretrained(folder)
    return sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors"))


def read_model(path: Path) -> None:
    from lm.model import Model

    Model.from_pretrained(path.parent)


def make_encoders(folder: Path) -> list[Path]:
    from tests.helpers.hubert import LAYOUTS, random_hubert

    random_hubert(next(iter(LAYOUTS))).save_pretrained(folder)
    return sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors"))


def read_encoder(path: Path) -> None:
    from units.encoders import load_encoder

    load_encoder(str(path.parent))


TARGETS = {
    "audio": Target(make_audio, read_audio),
    "manifest": Target(make_manifests, read_manifest),
    "table": Target(make_tables, read_tables),
    "documents": Target(make_documents, read_document_file),
    "alignment": Target(make_alignments, read_alignment),
    "shards": Target(make_shards, read_shards),
    "config": Target(make_configs, read_config),
    "codebook": Target(make_codebooks, read_codebook),
    "model": Target(make_models, read_model),
    "encoder": Target(make_encoders, read_encoder),
}


def main() -> int:
    """Run the targets, each in a process of its own; 1 where there is a finding."""
    parser = argparse.ArgumentParser(description="Mutated inputs over every reader of outside data.")
    parser.add_argument("--seconds", type=float, default=300.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=None, help="default: the time of day")
    parser.add_argument("--target", choices=list(TARGETS), help="one alone, in this process")
    parser.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="where inputs of findings are kept"
    )
    requested = parser.parse_args()
    seed = int(time.time()) if requested.seed is None else requested.seed
    if requested.target:
        try:
            counts = run(requested.target, seed=seed, seconds=requested.seconds, keep=requested.keep)
        except AssertionError:
            traceback.print_exc()
            return 1
        print(f"{requested.target}: seed {seed}: {counts['read']} read, {counts['refused']} refused")
        return 0
    findings = 0
    for name in TARGETS:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            "--target",
            name,
            "--seed",
            str(seed),
            "--keep",
            str(requested.keep),
        ]
        done = subprocess.run([*command, "--seconds", str(requested.seconds / len(TARGETS))])
        if done.returncode:
            findings += 1
            print(f"{name}: seed {seed}: exit code {done.returncode}; the input is in {requested.keep}")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
