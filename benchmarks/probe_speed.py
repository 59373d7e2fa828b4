"""Microseconds to read the header of a recording and check its length, beside libsndfile's time to open it.

    python -m benchmarks.probe_speed

The sixth fastest of 600 calls counts: other work on the machine does not. Then the stage `probe` on one core, of files
in a folder: rows listed, headers read, rows written, in CPU time.
"""

import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from corpus.adapters import ADAPTERS, Intake
from corpus.audio import read_header
from pipelines.execution.task import Task
from pipelines.steps.probe import ProbeHeaders, to_records, write_records

CALLS = 600
KINDS: dict[str, dict[str, object]] = {
    "WAV": {"format": "WAV"},
    "FLAC": {"format": "FLAC"},
    "MP3, constant bit rate": {"format": "MP3", "bitrate_mode": "CONSTANT"},
    "MP3, variable bit rate": {"format": "MP3", "bitrate_mode": "VARIABLE"},
    "Ogg Vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "Ogg Opus": {"format": "OGG", "subtype": "OPUS"},
}


def microseconds(call: Callable[[], object]) -> float:
    """Time of one call."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times)[5] * 1e6


def main() -> None:
    """Print a table."""
    print("| 12 s at 16 kHz | opened by libsndfile | header read and length checked | ratio |")
    print("|---|---:|---:|---:|")
    noise = np.random.default_rng(0).standard_normal(12 * 16000) / 20
    with tempfile.TemporaryDirectory() as folder:
        for name, options in KINDS.items():
            content = io.BytesIO()
            soundfile.write(content, noise, 16000, **options)
            files = {name: content.getvalue()}
            if "variable" in name:
                start = content.getvalue().index(b"LAME")
                files["MP3 without a tag"] = content.getvalue()[
                    content.getvalue().index(b"\xff\xf3", start) :
                ]
            for label, data in files.items():
                path = Path(folder) / "recording"
                path.write_bytes(data)
                alone = microseconds(lambda path=path: open_alone(path))  # type: ignore[misc]
                ours = microseconds(lambda path=path: read_header(path))  # type: ignore[misc]
                print(f"| {label} | {alone:.0f} us | {ours:.0f} us | {ours / alone:.2f} |")
    print(f"\nthe stage `probe`, one core: {files_per_second():.0f} files/s")


def files_per_second(count: int = 4000) -> float:
    """Files of the stage `probe` in a second of CPU time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = io.BytesIO()
        soundfile.write(content, np.zeros(16000), 16000, format="WAV")
        with (folder / "source.jsonl").open("w") as lines:
            for number in range(count):
                (folder / f"{number}.wav").write_bytes(content.getvalue())
                row = {"id": f"u{number}", "audio": f"{number}.wav", "text": "they went out", "speaker": "s"}
                lines.write(json.dumps(row) + "\n")
        stage = ProbeHeaders(0.05, "average", False)
        rows = list(ADAPTERS["jsonl"].unmeasured(folder / "source.jsonl", Intake()))
        write_records(folder / "listed", [record for row in rows for record in to_records(row, Intake())])
        task = Task("", ("listed",), "", 0)
        started = time.process_time()
        stage.make(folder, task, folder / "probed")
        return count / (time.process_time() - started)


def open_alone(path: Path) -> None:
    """Open and close a recording as `soundfile` does."""
    with open(path, "rb", buffering=0) as file, soundfile.SoundFile(file.fileno(), closefd=False):
        pass


if __name__ == "__main__":
    main()
