"""Golden hashes under tests/data: a change of bytes without a raised version fails. `make golden` remakes them.

Each golden file holds the version of what it covers, and the sha256 of everything that was made.
"""

import hashlib
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.read import ORDER, open_stream
from shards.strategies import STRATEGIES
from shards.write import SCHEMA, STREAMS
from tests.helpers.shards import toy_build

DATA = Path(__file__).parent / "data"


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


GOLDEN: dict[str, Callable[[Path], dict[str, Any]]] = {"shards.json": shard_hashes}


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
