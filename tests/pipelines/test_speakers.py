"""The step `speakers`: voices of one recording get a speaker each, named as estimated; what is known stays."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from corpus import files, speaker_embeddings
from corpus.speaker_embeddings import SIZE, cluster_voices, embed
from pipelines import settings
from pipelines.build import build, dry_run
from pipelines.layout import part_names
from pipelines.steps import speakers
from tests.golden import tiny_settings
from tests.helpers.builds import members


def voices(*numbers, noise=0.0):
    """Embeddings of voices by number."""
    vectors = np.eye(SIZE)[list(numbers)] + noise * np.random.default_rng(0).normal(size=(len(numbers), SIZE))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_utterances_of_one_voice_are_one_cluster_and_short_ones_join_the_nearest():
    numbers = [3, 5, 3, 7, 5, 3]
    assert cluster_voices(voices(*numbers, noise=0.01), [5, 5, 5, 5, 5, 0.5], 0.7) == [0, 1, 0, 2, 1, 0]
    assert cluster_voices(voices(*numbers, noise=0.01), [5, 5, 5, 0.5, 0, 5], 0.7)[4] == -1
    assert cluster_voices(voices(1, 2), [0.2, 0.3], 0.7) == [-1, -1]
    assert cluster_voices(voices(), [], 0.7) == []


def test_a_build_names_the_voices_of_a_recording_and_grows(tmp_path, monkeypatch):
    def toy(wave):
        return voices(0 if np.abs(wave).mean() > 0.1 else 1)[0], len(wave) / 16_000

    monkeypatch.setattr(speakers, "embed", toy)
    monkeypatch.setattr(speakers, "identity", lambda: "toy")
    monkeypatch.setattr(speakers, "LEAST", 4.0)
    base = tiny_settings(tmp_path)
    corpus = files.to_path(base.corpus.source).parent
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    waves = [soundfile.read(corpus / f"{number}.wav", dtype="float32")[0][:48_000] for number in range(5)]
    loud = [1.0, 0.2, 1.0, 0.2, 1.0]  # two voices in turn
    soundfile.write(
        corpus / "talk.wav", np.concatenate([a * b for a, b in zip(waves, loud, strict=True)]), 16_000
    )
    for number, row in enumerate(rows[:5]):
        row |= {"audio": "talk.wav", "start": 3.0 * number, "end": 3.0 * number + 3, "speaker": None}
    rows[2]["speaker"] = "known"
    rows[5]["speaker"] = None  # alone in its recording
    (corpus / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = dataclasses.replace(base, speakers=settings.SpeakersSettings(enabled=True))
    build(tmp_path / "build", wanted)
    expected = {
        "u0": "estimated:u0", "u1": "estimated:u1", "u2": "known", "u3": "estimated:u1", "u4": "estimated:u0",
        "u5": None,
    }  # fmt: skip
    named = {
        row["id"]: row["speaker"]
        for name in part_names(tmp_path / "build")
        for row in files.read_table(tmp_path / "build" / "manifest" / name).to_pylist()
    }
    assert named == expected
    assert {
        key: one["json"]["speaker"] for key, one in members(tmp_path / "build", "speech").items()
    } == expected
    means = json.loads((tmp_path / "build" / "speakers.json").read_text())
    assert {"estimated:u0", "estimated:u1", "known"} <= means.keys()
    plans = dry_run(tmp_path / "build", wanted)
    assert not any(plan.todo or plan.waits for plan in plans)
    assert "speakers" in {plan.stage for plan in plans}


def test_a_voice_is_the_same_in_quiet_and_loud_speech(real_speech):
    try:
        speaker_embeddings.weights_path()
    except ValueError as error:
        pytest.skip(str(error))
    waves = [
        soundfile.read(real_speech / "dev" / "audio" / name, dtype="float32")[0]
        for name in ("lj-LJ001-0004.flac", "lj-LJ001-0008.flac", "jfk-whisper.flac")
    ]
    one, again, other = (embed(wave)[0] for wave in waves)
    assert one @ embed(0.3 * waves[0])[0] > 0.95
    assert one @ again > 0.7 > one @ other
    assert embed(np.zeros(16_000, np.float32))[1] == 0.0


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(speaker_embeddings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match="speakers: needs the package Resemblyzer; run `pip install --no-deps"
    ):
        speaker_embeddings.weights_path()
    with pytest.raises(ValueError, match=r"speakers\.similarity: need more than 0"):
        settings.SpeakersSettings(similarity=0.0)
