"""The small acoustic model that comes with wordweave."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from aligners import compact, load_aligner
from aligners.acoustics import WindowSettings, load
from aligners.score import boundary_errors, summarise
from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.records import SAMPLE_RATE, Reject, Utterance
from units.encoders import load_encoder

NOISE = np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLE_RATE).astype(np.float32)


@pytest.fixture(scope="module")
def spoken(spoken_corpus):
    return [(utterance, decode(utterance)) for utterance in list(read_jsonl(spoken_corpus))[:8]]


@pytest.fixture(scope="module")
def aligned(spoken):
    return load_aligner("ctc").align(spoken)


def test_it_works_with_no_download_and_finds_words_where_they_are(spoken, aligned):
    assert [result.reject for result in aligned] == [None] * len(spoken)
    truth = load_aligner("given").align(spoken)
    errors = summarise(np.concatenate([boundary_errors(a.words, b.words) for a, b in zip(truth, aligned)]))
    print("ctc against true times", errors)
    assert errors["median_ms"] < 30, errors
    assert errors["within_100ms"] > 0.9, errors


def test_every_10_ms_has_probabilities():
    acoustics = load("compact", "cpu")
    (output,) = acoustics.log_probs([NOISE], WindowSettings(20.0, 2.0, 1))
    (cut,) = acoustics.log_probs([NOISE], WindowSettings(1.0, 2.0, 1))
    assert output.shape == cut.shape
    assert output.shape[1] == len(compact.PHONES)
    assert abs(output.shape[0] - 500) <= 8
    assert np.allclose(np.exp(output.astype(np.float32)).sum(1), 1, atol=1e-2)


def test_a_network_of_another_encoder_is_refused(tmp_path, monkeypatch):
    card = json.loads(compact.CARD.read_text()) | {"encoder": "another"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(compact, "CARD", tmp_path / "card.json")
    compact.bundled.cache_clear()
    with pytest.raises(ValueError, match="belongs to encoder another"):
        compact.bundled()
    compact.bundled.cache_clear()


def test_a_quarter_has_the_phone_that_is_spoken_in_its_middle():
    class Grid:
        centre, hop = 320, 640

    labels = compact.quarter_labels([("AA", 0.0, 0.02), ("B", 0.046, 0.06)], 2, Grid())
    assert [[compact.PHONES[place] for place in frame] for frame in labels] == [
        ["AA", "AA", "SIL", "SIL"],
        ["SIL", "B", "SIL", "SIL"],
    ]


def test_a_network_learns_the_phones_of_quarters_from_frames_and_their_neighbours():
    rng = np.random.default_rng(0)
    frames = [rng.normal(size=(3_000, 6)).astype(np.float32) for _ in range(8)]
    labels = []
    for one in frames:  # the first half of a frame depends on the frame, the second half by the next one
        own, following = one[:, 0] > 0, np.append(one[1:, 1] > 0, one[-1, 1] > 0)
        labels.append(np.stack([own, own, following, following], axis=1).astype(np.int64))
    network = compact.PhoneNetwork(**compact.train(frames[:7], labels[:7], seed=0))
    guesses = network.scores(frames[7]).argmax(axis=1).reshape(-1, 4)
    assert (guesses == labels[7]).mean() > 0.9
    assert np.allclose(np.exp(network.scores(frames[7])).sum(axis=1), 1, atol=1e-4)


def test_training_writes_a_network_of_its_encoder_and_how_often_phones_occur(spoken_corpus, tmp_path):
    ids = [utterance.id for utterance in list(read_jsonl(spoken_corpus))[:2]]
    lines = [{"id": id, "phones": [["AA", 0.5, 1.5], ["B", 2.5, 4.5]]} for id in ids]
    (tmp_path / "phones.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [str(spoken_corpus), str(tmp_path / "phones.jsonl"), "--encoder", "mfcc"]
    assert compact.main([*words, "--output", str(tmp_path / "made.safetensors")]) == 0
    made = load_file(tmp_path / "made.safetensors")
    assert made["hidden"].shape == (3 * 39, compact.HIDDEN)
    shares = dict(zip(compact.PHONES, np.exp(made["log_prior"].astype(np.float64)), strict=True))
    assert shares["AA"] / shares["B"] == pytest.approx(0.5, abs=0.05)
    card = json.loads((tmp_path / "made.json").read_text())
    assert card["encoder"] == load_encoder("mfcc").identity
    assert "of 2 speakers" in card["targets"]


def test_a_right_transcript_is_surer_than_a_wrong_one(spoken, aligned):
    wrong = [(replace(u, text=spoken[i - 3][0].text), wave) for i, (u, wave) in enumerate(spoken)]
    worse = [
        -1.0 if result.reject else result.quality["confidence"] for result in load_aligner("ctc").align(wrong)
    ]
    assert min(result.quality["confidence"] for result in aligned) > max(worse)


@pytest.mark.parametrize("room", [0.0, 1e-4])
def test_a_long_pause_beside_the_words_moves_none_of_them(spoken, aligned, room):
    noise = np.random.default_rng(0)
    quiet = lambda seconds: noise.normal(0, room, seconds * SAMPLE_RATE).astype(np.float32)  # noqa: E731
    utterance, wave = spoken[0]
    whole = np.concatenate([quiet(30), wave, quiet(25)])
    (result,) = load_aligner("ctc").align([(replace(utterance, frames=len(whole)), whole)])
    assert result.reject is None, result.reject
    apart = [word.start - 30 - alone.start for word, alone in zip(result.words, aligned[0].words)]
    assert np.median(np.abs(apart)) < 0.03
    assert np.max(np.abs(apart)) < 0.2


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("hello", {"language": "de"}, "align.language"),
        ("слово", {}, "align.out_of_vocabulary"),
        ("a" * 400, {}, "align.out_of_vocabulary"),
        ("word " * 400, {}, "align.too_short"),
        ("", {}, "text.empty"),
    ],
)
def test_what_cannot_be_aligned_is_rejected(text, fields, expected):
    (result,) = load_aligner("ctc").align([(Utterance("u", "u.wav", len(NOISE), text=text, **fields), NOISE)])
    assert result.reject.reason == expected


def test_words_are_spelled_by_dictionary_and_by_spelling():
    assert [compact.PHONES[place] for place in compact.spell("thought")] == ["TH", "AO", "T"]
    assert len(compact.spell("zyxelian")) > 4
    with pytest.raises(Reject):
        compact.spell("日本")


def test_real_speech_of_a_speaker_it_never_heard_is_aligned_near_mfa(real_speech):
    manifest = real_speech / "dev" / "manifest.jsonl"
    graded = [
        u for u in read_jsonl(manifest) if isinstance(u, Utterance) and (u.alignment or "").endswith("Grid")
    ]
    batch = [(utterance, decode(utterance)) for utterance in graded]
    aligned, given = load_aligner("ctc").align(batch), load_aligner("given").align(batch)
    pairs = [(a, b) for a, b in zip(given, aligned, strict=True) if not a.reject and not b.reject]
    assert len(pairs) >= 0.99 * len(batch)
    errors = summarise(np.concatenate([boundary_errors(a.words, b.words) for a, b in pairs]))
    print("ctc against MFA", errors)
    assert errors["boundaries"] > 1000
    assert errors["median_ms"] < 20, errors
    assert errors["within_100ms"] > 0.9, errors
