"""Synthetic voices for the training of encoders: the same seed gives the same sentences and voices."""

import json

import numpy as np
import soundfile

from units.pretraining import voices


def test_a_sentence_depends_on_its_generator_alone():
    words = ["tree", "house", "river", "apple"]
    one, same, other = (voices.sentence(np.random.default_rng(seed), words) for seed in (1, 1, 2))
    assert one == same != other
    assert one[0].isupper()
    assert one.endswith(".")
    assert {word.strip(".").lower() for word in one.split()} <= {*words, *voices.LINKS}


def test_espeak_utterances_are_written_with_a_manifest_of_their_voices(tmp_path):
    assert voices.main([str(tmp_path), "--espeak", "3", "--hibari", "0", "--seed", "5"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line["speaker"] for line in lines] == ["espeak000", "espeak001", "espeak002"]
    assert len({line["voice"] for line in lines}) > 1
    for line in lines:
        samples, rate = soundfile.read(tmp_path / line["audio"])
        assert len(samples) / rate > 2
        assert np.abs(samples).max() > 0.05
