"""The backend viter: what it is made of without the package, and the whole of it where the package is installed."""

import math
from pathlib import Path

import numpy as np
import pytest

from aligners import load_aligner, viter
from aligners.alignment import Phone, prepare
from aligners.goodness import Goodness, calibrate, fit_gaussians, frames_of, load_goodness, parts_of
from aligners.lexicon import Lexicon, read_dictionary, write_dictionary
from aligners.rough import cut_into_words, sounding, sounds_of
from aligners.score import boundary_errors
from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.records import SAMPLE_RATE, Unusable
from pipelines.steps.align import divide
from tests.helpers.mfa_model import write_mfa_model

RNG = np.random.default_rng(0)


def test_dictionaries_of_mfa_and_cmu_are_read(tmp_path):
    mfa = tmp_path / "mfa.dict"
    mfa.write_text("Haus\t0.99\t0.1\t1.2\t0.9\th aʊ s\nhaus\th aʊ z\n\nab\ta p\n", encoding="utf-8")
    assert read_dictionary(str(mfa)) == {"haus": [("h", "aʊ", "s"), ("h", "aʊ", "z")], "ab": [("a", "p")]}
    cmu = tmp_path / "cmu.dict"
    cmu.write_text(";;; comment\nREAD R IY D\nREAD(2) R EH D\n")
    assert read_dictionary(str(cmu)) == {"read": [("R", "IY", "D"), ("R", "EH", "D")]}
    cmu.write_text("ok OW\nempty\n")
    read_dictionary.cache_clear()
    with pytest.raises(ValueError, match=r"line 2: need a word and its phones, got 'empty'"):
        read_dictionary(str(cmu))


def test_pronunciations_use_the_phones_that_a_model_has(tmp_path):
    assert Lexicon("letters").pronunciations("straße") == [tuple("strasse")]
    assert Lexicon("letters", frozenset("abc")).pronunciations("bad") == []
    with_stress = frozenset({"K", "AE1", "T", "TH", "DH", "NG", "ZH"})
    assert Lexicon("english", with_stress).pronunciations("cat") == [("K", "AE1", "T")]
    assert Lexicon("english").pronunciations("слово") == []
    missing = write_dictionary(["cat", "слово", "cat"], Lexicon("english"), tmp_path / "d")
    assert (missing, (tmp_path / "d").read_text()) == (["слово"], "cat\tK AE T\n")


def test_letters_of_any_script_are_read_as_english_sounds():
    assert sounds_of("könnte", "de") == ("K", "ER", "N", "N", "T", "EH")
    assert all(sounds_of(word, code) for word, code in [("слово", "ru"), ("नमस्ते", "hi"), ("é", "fr")])


def test_a_recording_is_cut_into_its_words(spoken_corpus):
    utterance = next(iter(read_jsonl(spoken_corpus)))
    wave = np.concatenate([np.zeros(8000, np.float32), decode(utterance), np.zeros(8000, np.float32)])
    assert sounding(wave)[0] >= 8000
    item = prepare(utterance, wave)
    pieces = cut_into_words(item)
    assert [piece.spoken for piece in pieces] == [list(token.spoken) for token in item.tokens]
    assert 0.5 * item.seconds < sum(piece.seconds for piece in pieces) < item.seconds + 0.1 * len(pieces)
    silent = prepare(utterance, RNG.normal(0, 0.01, 3 * SAMPLE_RATE).astype(np.float32))
    assert [piece.spoken for piece in cut_into_words(silent)] == [silent.spoken]  # no path: kept whole


def tones(frequencies, seconds=0.3):
    """A tone per phone, one after the other."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    waves = [np.sin(2 * np.pi * frequency * time) for frequency in frequencies]
    return (0.3 * np.concatenate(waves) + RNG.normal(0, 0.01, len(time) * len(waves))).astype(np.float32)


def phones_of(names, seconds=0.3):
    return [Phone(name, place * seconds, (place + 1) * seconds) for place, name in enumerate(names)]


TONES = {"a": 300, "b": 900, "c": 2000}


def test_goodness_knows_which_phone_a_sound_is(tmp_path):
    orders = ["abcab", "cabba", "bacac", "acbcb"]
    goodness = fit_gaussians([(phones_of(order), tones([TONES[name] for name in order])) for order in orders])
    wave = tones([TONES[name] for name in "bca"])
    right = goodness.scores(phones_of("bca"), wave)
    wrong = goodness.scores(phones_of("cab"), wave)
    assert all(good / count > bad / count + 2 for (good, count), (bad, _) in zip(right, wrong, strict=True))
    assert goodness.scores([Phone("z", 0.0, 0.1)], wave) == [(0.0, 0)]
    words = [[(score / count, 1) for score, count in some] for some in (right, wrong)]
    calibrated = calibrate(goodness, words[:1] * 3, words[1:] * 3)
    assert calibrated.confidence(words[0][0][0], 1) > 0.7 > 0.3 > calibrated.confidence(words[1][0][0], 1)
    assert -12 < calibrated.minimum < -1
    calibrated.save(tmp_path / "g.safetensors")
    again = load_goodness(tmp_path / "g.safetensors")
    assert again.scores(phones_of("bca"), wave) == calibrated.scores(phones_of("bca"), wave)
    assert (again.minimum, again.phones) == (calibrated.minimum, ("a", "b", "c"))


def test_frames_and_thirds_of_phones_cover_them_once():
    assert frames_of(Phone("a", 0.0, 0.1), 100) == (0, 9)
    assert frames_of(Phone("a", 0.1, 0.1001), 100) == (9, 10)
    assert frames_of(Phone("a", 9.0, 9.1), 100)[1] <= 100
    assert [parts_of(count).tolist() for count in (1, 2, 4)] == [[0], [0, 1], [0, 0, 1, 2]]


def test_the_missing_package_and_model_are_named_with_the_way_out(monkeypatch, tmp_path):
    def absent(name):
        raise viter.PackageNotFoundError(name)

    monkeypatch.setattr(viter, "version", absent)
    with pytest.raises(Unusable, match=r"viter: not installed; it aligns any language .*pip install viter=="):
        load_aligner("viter", model=str(tmp_path))
    monkeypatch.setattr(viter, "version", lambda name: "9.9")
    with pytest.raises(Unusable, match=f"need version {viter.VERSION}, got 9.9"):
        load_aligner("viter", model=str(tmp_path))


@pytest.fixture(scope="module")
def pairs(spoken_corpus):
    return [(utterance, decode(utterance)) for utterance in list(read_jsonl(spoken_corpus))[:8]]


def test_a_model_of_its_own_keeps_the_contract_whatever_the_batch(fitted, pairs):
    from pipelines.settings import read_settings

    assert read_settings(fitted).align.options == {"model": str((fitted / "aligner").resolve())}
    aligner = load_aligner("viter", model=str(fitted / "aligner"), minimum_score=-math.inf)
    together = aligner.align(pairs, {})
    alone = [aligner.align([pair], {})[0] for pair in reversed(pairs)]
    assert together == alone[::-1]
    for (utterance, wave), result in zip(pairs, together, strict=True):
        assert result.reject is None, result.reject
        assert [word.text for word in result.words] == utterance.text.split()
        assert all(0 <= word.confidence <= 1 for word in result.words)
        assert result.phones
        assert result.phones[-1].end <= len(wave) / SAMPLE_RATE + 0.01


def test_bad_input_is_a_reject_and_a_word_without_pronunciation_costs_nothing(fitted, pairs):
    from dataclasses import replace

    aligner = load_aligner("viter", model=str(fitted / "aligner"), minimum_score=-math.inf)
    utterance, wave = pairs[0]
    batch = [
        (utterance, wave * 0),
        (utterance, wave[:500]),
        (replace(utterance, text="слово", language="de"), wave),
        (replace(utterance, text="слово " + utterance.text), wave),
        (utterance, wave),
    ]
    results = aligner.align(batch, {})
    assert [result.reject and result.reject.reason for result in results] == [
        "align.unalignable", "align.too_short", "align.out_of_vocabulary", None, None,
    ]  # fmt: skip
    assert results[3].quality["unknown_words"] == 1


@pytest.mark.slow
def test_a_model_in_the_layout_of_mfa_is_imported_and_aligns(fitted, spoken_corpus, tmp_path):
    import shutil

    from pipelines.operations.fit_aligner import fit_aligner

    speech = [(utterance, decode(utterance)) for utterance in read_jsonl(spoken_corpus)]
    spoken = load_aligner("pocketsphinx", phones=True, minimum_score=None).align(speech[:12], {})
    recordings = [(wave, one.phones) for (_, wave), one in zip(speech, spoken, strict=False)]
    build = shutil.copytree(fitted, tmp_path / "build")
    model = write_mfa_model(tmp_path / "own.zip", recordings)
    result = fit_aligner(build, source=model, dictionary="english")
    assert result["aligned"] == result["sample"] == 24
    card = viter.read_card(build / "aligner")
    assert card["imported"] == "own.zip"
    assert "AH" in card["phones"]
    others = speech[12:]
    aligned = load_aligner("viter", model=result["model"]).align(others)
    errors = [
        boundary_errors(true.words, one.words)
        for true, one in zip(load_aligner("given").align(others), aligned, strict=True)
    ]
    assert np.median(np.abs(np.concatenate(errors))) < 30


def test_what_is_no_model_of_mfa_is_refused_in_one_line_and_the_old_model_stays(fitted, tmp_path):
    from pipelines.operations.fit_aligner import fit_aligner

    before = viter.hash_model(fitted / "aligner")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(
        ValueError, match=r"broken\.zip: cannot be imported as an acoustic model of MFA"
    ) as raised:
        fit_aligner(fitted, source=tmp_path / "broken.zip", dictionary="letters")
    assert "\n" not in str(raised.value)
    assert viter.hash_model(fitted / "aligner") == before


def test_a_changed_model_is_refused_and_its_place_is_no_part_of_its_identity(fitted, tmp_path):
    import shutil

    shutil.copytree(fitted / "aligner", tmp_path / "copy")
    one, two = (
        load_aligner("viter", model=str(folder)) for folder in (fitted / "aligner", tmp_path / "copy")
    )
    assert one.identity == two.identity
    assert divide({"model": "a", "beam": 9.0}, one)[0] == (
        ("beam", 9.0),
    )  # what a task's key holds of the options
    with open(tmp_path / "copy" / viter.MODEL, "ab") as file:
        file.write(b"x")
    with pytest.raises(Unusable, match="not those of its card"):
        load_aligner("viter", model=str(tmp_path / "copy"))
    assert Path(fitted / "aligner" / viter.CARD).is_file()


def test_goodness_without_calibration_keeps_all():
    assert Goodness(("a",), np.zeros((3, 39)), np.ones((3, 39))).minimum == -math.inf
