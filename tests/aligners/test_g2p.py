"""Spelling -> phones."""

import numpy as np
import pytest

from aligners import g2p


def test_possessives_plurals_and_compounds_are_made_of_known_words():
    known = {
        "fireman": ("F", "AY"),
        "book": ("B", "UH", "K"),
        "binding": ("B", "AY"),
        "rose": ("R", "OW", "Z"),
    }.get
    assert g2p.pronounce_by_parts("fireman's", known) == ("F", "AY", "Z")
    assert g2p.pronounce_by_parts("books", known) == ("B", "UH", "K", "S")
    assert g2p.pronounce_by_parts("roses'", known) == ("R", "OW", "Z", "IH", "Z")
    assert g2p.pronounce_by_parts("bookbinding's", known) == ("B", "UH", "K", "B", "AY", "Z")
    assert g2p.pronounce_by_parts("rose", known) == ("R", "OW", "Z")


def test_only_letters_and_apostrophes_have_phones():
    assert [g2p.pronounce(word) for word in ("", "'", "日本", "x1", "señor")] == [None] * 5


@pytest.mark.parametrize("word", ["a", "q", "'tis", "aaaaaaaaaaaa", "zz", "b's", "o'o", "uuqxyy", "x" * 60])
def test_every_word_of_letters_has_phones(word):
    assert g2p.pronounce(word)


def test_the_bundled_model_errs_in_less_than_9_percent_of_held_out_phones():
    _, unknown = g2p.split(g2p.dictionary_path())
    error = g2p.evaluate(g2p.bundled(), unknown[::8])
    assert error["words"] > 500
    assert error["phone_error"] < 0.085


def test_the_bundled_file_is_small_and_says_where_it_comes_from():
    assert g2p.MODEL.stat().st_size < 1_000_000
    provenance = g2p.load(g2p.MODEL)[1]
    assert "cmudict" in provenance["from"]
    assert provenance["licence"] == "BSD-2-Clause"


def rhymes():
    """A toy language: every letter has one phone, but c is S before i and K elsewhere."""
    words = [f"{a}{b}{c}" for a in "bcdc" for b in "aioi" for c in "bcd"]
    phone = dict(zip("abdoi", ["AA", "B", "D", "OW", "IH"]))
    spoken = [
        tuple(
            ("S" if after == "i" else "K") if letter == "c" else phone[letter]
            for letter, after in zip(w, w[1:] + ".")
        )
        for w in words
    ]
    return list(zip(words, spoken))


def test_a_rule_that_needs_context_is_learned_and_survives_the_file(tmp_path):
    model = g2p.learn(g2p.align_letters(rhymes()))
    model.save(tmp_path / "toy.npz", {"made": "here"})
    read, provenance = g2p.load(tmp_path / "toy.npz")
    assert provenance == {"made": "here"}
    assert read.log_p.keys() == model.log_p.keys()
    assert np.allclose(
        [read.log_p[gram] for gram in model.log_p], list(model.log_p.values()), atol=g2p.STEP / 2
    )
    assert [read.decode(word) for word in ("cic", "aca", "dicid")] == [
        ("S", "IH", "K"),
        ("AA", "K", "AA"),
        ("D", "IH", "S", "IH", "D"),
    ]


def test_learning_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        g2p.learn(g2p.align_letters(rhymes())).save(tmp_path / name, {})
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert files[0].read_bytes() == files[1].read_bytes()


def test_probabilities_of_all_symbols_after_a_context_sum_to_one():
    model = g2p.learn(g2p.align_letters(rhymes()), ngrams=60)
    for context in [(0,), (), (1, 2), *list(model.log_backoff)[:20]]:
        total = sum(np.exp(model.score(context, symbol)) for symbol in range(len(model.graphones)))
        assert total == pytest.approx(1, abs=0.02)


def test_edits_counts_insertions_deletions_and_substitutions():
    assert g2p.edits(("A", "B", "C"), ("A", "X", "C", "D")) == 2
    assert g2p.edits((), ("A",)) == 1
