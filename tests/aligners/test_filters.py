"""What every backend must refuse, and must not: wrong transcripts, and speech that the transcript lacks."""

from dataclasses import replace

import numpy as np
import pytest

from aligners import load_aligner
from corpus.adapters import read_jsonl
from corpus.audio import decode
from tests.helpers.fake_mfa import teach, write_fake_mfa

BACKENDS = ("pocketsphinx", "ctc", "given", "viter", "mfa")


@pytest.fixture(scope="module")
def pairs(spoken_corpus):
    utterances = [utterance for utterance in read_jsonl(spoken_corpus) if utterance.seconds > 2]
    return [(utterance, decode(utterance)) for utterance in utterances[:4]]


@pytest.fixture(params=BACKENDS)
def aligner(request, pairs, tmp_path):
    if request.param == "viter":
        pytest.importorskip("viter")
        return load_aligner("viter", model=str(request.getfixturevalue("fitted") / "aligner"))
    if request.param == "mfa":  # a stub, with the likelihoods of the real one
        settings, _ = write_fake_mfa(tmp_path, "recognises")
        given = load_aligner("given").align(pairs)
        teach(tmp_path, [(wave, one.words) for (_, wave), one in zip(pairs, given, strict=True)])
        return load_aligner("mfa", **settings)
    return load_aligner(request.param)


def test_right_transcripts_are_kept(aligner, pairs):
    assert [result.reject for result in aligner.align(pairs)] == [None] * len(pairs)


def test_transcripts_of_other_recordings_are_rejected(aligner, pairs):
    swapped = [(replace(u, text=other.text), wave) for (u, wave), (other, _) in zip(pairs, pairs[::-1])]
    assert all(result.reject for result in aligner.align(swapped))


def test_a_second_recording_that_the_transcript_lacks_is_rejected(aligner, pairs):
    longer = [
        (replace(u, frames=len(wave) + len(other)), np.concatenate([wave, other]))
        for (u, wave), (_, other) in zip(pairs, pairs[::-1])
    ]
    results = aligner.align(longer)
    assert all(result.reject for result in results)
    assert {result.reject.reason for result in results} <= {"align.low_quality", "align.unalignable"}
