"""Microseconds to read the header of a recording and check its length, beside libsndfile's time to open it.

    python -m benchmarks.probe_speed

The sixth fastest of 600 calls counts: other work on the machine does not.
"""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from corpus.audio import read_header

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


def open_alone(path: Path) -> None:
    """Open and close a recording as `soundfile` does."""
    with open(path, "rb", buffering=0) as file, soundfile.SoundFile(file.fileno(), closefd=False):
        pass


if __name__ == "__main__":
    main()
