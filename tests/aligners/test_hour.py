"""Long continuous speech in one call, in a process of its own: every word found, memory bounded.

A quarter of an hour, for time's sake; WORDWEAVE_LONG_SECONDS=3600 makes it an hour.
"""

import json
import os
import subprocess
import sys

import pytest

HOUR = """
import json, resource, sys
import numpy as np
from aligners import load_aligner
from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.records import Utterance
from tests.helpers.memory import peak_memory

name, manifest, seconds = sys.argv[1:]
spoken = [(utterance, decode(utterance)) for utterance in list(read_jsonl(manifest))[:6]]
samples, order, at = int(seconds) * 16_000, [], 0
while at < samples:
    order.append(len(order) % len(spoken))
    at += len(spoken[order[-1]][1])
whole, starts, at = np.empty(at, np.float32), [], 0
for place in order:
    wave = spoken[place][1]
    whole[at : at + len(wave)] = wave
    starts.append(at / 16_000)
    at += len(wave)
text = " ".join(spoken[place][0].text for place in order)
settings = {"minimum_score": None} if name == "pocketsphinx" else {}
aligner = load_aligner(name, **settings)
(result,) = aligner.align([(Utterance("long", "long.wav", len(whole), text=text), whole)])
truth = load_aligner("given").align(spoken)
true = [word.start + start for place, start in zip(order, starts) for word in truth[place].words]
errors = np.abs(np.array([word.start for word in result.words]) - np.array(true[: len(result.words)]))
print(json.dumps({
    "reject": str(result.reject), "words": [len(result.words), len(true)], "seconds": len(whole) / 16_000,
    "within_100ms": float(np.mean(errors <= 0.1)), "median_ms": float(np.median(errors)) * 1000,
    "peak_MiB": peak_memory(),
    "cpu_seconds": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ctc", "pocketsphinx"])
def test_long_speech_is_aligned_in_one_call_under_a_gigabyte(spoken_corpus, name):
    seconds = os.environ.get("WORDWEAVE_LONG_SECONDS", "900")
    done = subprocess.run(
        [sys.executable, "-c", HOUR, name, str(spoken_corpus), seconds],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(name, result)
    assert result["words"][0] == result["words"][1] > 2 * float(seconds), result
    assert result["within_100ms"] > 0.95, result
    assert result["peak_MiB"] * 2**20 < 1e9, result
