"""The small acoustic model that comes with wordweave."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aligners import compact, load_aligner
from aligners.acoustics import WindowSettings, load
from aligners.score import boundary_errors, summarise
from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.records import SAMPLE_RATE, Reject, Utterance

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


def test_between_frames_probabilities_go_straight():
    frames = np.random.default_rng(1).normal(size=(9, 3))
    made = compact.between(frames)
    assert made.shape == (36, 3)
    middles = (np.arange(36) + 0.5) / 4 - 0.5
    for column in range(3):
        assert np.allclose(made[:, column], np.interp(middles, np.arange(9), frames[:, column]))
    assert np.allclose(compact.between(frames[:1]), frames[[0, 0, 0, 0]])


def test_a_layer_of_another_encoder_is_refused(tmp_path, monkeypatch):
    card = json.loads(compact.CARD.read_text()) | {"encoder": "another"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(compact, "CARD", tmp_path / "card.json")
    compact.bundled.cache_clear()
    with pytest.raises(ValueError, match="belongs to encoder another"):
        compact.bundled()
    compact.bundled.cache_clear()


def test_a_layer_is_packed_with_how_often_phones_are_heard(tmp_path):
    heads = np.random.default_rng(0).normal(size=(40, 39)).astype(np.float32)
    save_file({"phones.weight": heads, "other": heads}, tmp_path / "heads.safetensors")
    (tmp_path / "phones.jsonl").write_text('{"id": "u", "phones": [["AA", 0.5, 1.5], ["B", 2.5, 4.5]]}\n')
    words = [str(tmp_path / name) for name in ("heads.safetensors", "phones.jsonl")]
    assert compact.main([*words, "--encoder", "mfcc", "--output", str(tmp_path / "made.safetensors")]) == 0
    made = load_file(tmp_path / "made.safetensors")
    assert np.allclose(made["directions"], heads, atol=2e-3)
    shares = dict(zip(compact.PHONES, np.exp(made["log_prior"]), strict=True))
    assert (shares["AA"] / shares["B"], shares["SIL"] / shares["B"]) == (
        pytest.approx(0.5, abs=0.01), pytest.approx(1.0, abs=0.01),
    )  # fmt: skip


def test_a_right_transcript_is_surer_than_a_wrong_one(spoken, aligned):
    wrong = [(replace(u, text=spoken[i - 3][0].text), wave) for i, (u, wave) in enumerate(spoken)]
    worse = [
        -1.0 if result.reject else result.quality["confidence"] for result in load_aligner("ctc").align(wrong)
    ]
    assert min(result.quality["confidence"] for result in aligned) > max(worse)


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
    found, given = load_aligner("ctc").align(batch), load_aligner("given").align(batch)
    pairs = [(a, b) for a, b in zip(given, found, strict=True) if not a.reject and not b.reject]
    assert len(pairs) >= 0.99 * len(batch)
    errors = summarise(np.concatenate([boundary_errors(a.words, b.words) for a, b in pairs]))
    print("ctc against MFA", errors)
    assert errors["boundaries"] > 1000
    assert errors["median_ms"] < 20, errors
    assert errors["within_100ms"] > 0.9, errors
