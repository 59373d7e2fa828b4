"""Long transcripts: each word is found, and what recording or transcript lacks is said."""

import numpy as np
import pytest

from aligners.acoustics import AcousticModel
from aligners.anchors import align_long, longest_chain, shared
from corpus.records import SAMPLE_RATE, Reject

LETTERS = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz", start=1)}
FRAMES = 6  # of each letter, 10 ms each
RNG = np.random.default_rng(7)
WORDS = ["".join(RNG.choice(list(LETTERS), size)) for size in RNG.integers(2, 9, 420)]


def spell(word, language):
    if not word.isascii():
        raise Reject("align.out_of_vocabulary", word)
    return [LETTERS[letter] for letter in word]


def log_probs_of(words, wrong=0.25):
    """A quarter of the letters are recognised as others; two frames of silence follow each word."""
    rng = np.random.default_rng(1)
    path, starts = [], []
    for word in words:
        starts.append(len(path))
        for letter in word:
            path += [int(rng.integers(1, 27)) if rng.random() < wrong else LETTERS[letter]] * FRAMES
        path += [0, 0]
    scores = np.full((len(path), 27), -6.0) + rng.normal(0, 0.3, (len(path), 27))
    scores[np.arange(len(path)), path] = -0.1
    return scores.astype(np.float32), np.array(starts)


def align(sound, text):
    """Words of the text at the times of the words of the sound, as one stretch that begins after a second."""
    scores, starts = log_probs_of(sound)
    model = AcousticModel(lambda waves, settings: iter([scores]), spell, 0, None, 160, 160, 0.0, edge=0.0)
    result = align_long([(SAMPLE_RATE, np.zeros(len(scores) * 160, np.float32))], " ".join(text), "en", model)
    return result, SAMPLE_RATE + starts * 160


def errors(result, true_starts):
    return np.abs([one.start - true_starts[one.token] for one in result.placed]) / SAMPLE_RATE


def test_every_word_of_minutes_is_at_its_place():
    result, starts = align(WORDS, WORDS)
    assert [one.token for one in result.placed] == list(range(len(WORDS)))
    assert (errors(result, starts) < 0.25).mean() > 0.98
    assert not any(one.hole for one in result.placed)


def test_a_missing_paragraph_is_one_hole_and_the_rest_stays_right():
    kept = [*range(150), *range(230, len(WORDS))]
    result, starts = align(WORDS, [WORDS[place] for place in kept])
    assert not result.dropped
    assert (errors(result, starts[kept]) < 0.25).mean() > 0.97
    (hole,) = [one.token for one in result.placed if one.hole]
    assert abs(hole - 149) <= 2


def test_a_paragraph_that_nobody_speaks_is_dropped():
    extra = ["".join(np.random.default_rng(9).choice(list(LETTERS), 6)) for _ in range(60)]
    result, starts = align(WORDS, [*WORDS[:200], *extra, *WORDS[200:]])
    assert set(range(200, 260)) <= set(result.dropped)
    assert len(result.dropped) < 80
    places = {**{n: n for n in range(200)}, **{n + 60: n for n in range(200, len(WORDS))}}
    found = [abs(one.start - starts[places[one.token]]) / SAMPLE_RATE for one in result.placed]
    assert (np.array(found) < 0.25).mean() > 0.97


def test_wrong_words_move_no_others():
    rng = np.random.default_rng(3)
    wrong = rng.random(len(WORDS)) < 0.05
    text = [WORDS[int(rng.integers(len(WORDS)))] if bad else word for word, bad in zip(WORDS, wrong)]
    result, starts = align(WORDS, text)
    right = np.array([not wrong[one.token] for one in result.placed])
    assert (errors(result, starts)[right] < 0.25).mean() > 0.97


def test_words_that_cannot_be_spelled_are_left_to_their_neighbours():
    text = [*WORDS[:5], "你好", *WORDS[5:]]
    result, _ = align(WORDS, text)
    assert 5 not in {one.token for one in result.placed}
    assert not result.dropped


def test_a_transcript_of_another_recording_is_refused():
    with pytest.raises(Reject, match="no words in common"):
        align(WORDS, ["".join(reversed(word)) for word in reversed(WORDS)])


def test_tokens_that_are_everywhere_are_no_anchors():
    same = np.tile(np.arange(1, 4), 100)
    assert len(shared(same, same)) == 0


def test_the_longest_chain_leaves_out_what_runs_against_it():
    true = np.stack([np.arange(50), np.arange(50) + 5], axis=1)
    false = np.array([[10, 2], [20, 60], [30, 1]])
    chain = longest_chain(np.concatenate([false, true]))
    assert np.array_equal(chain, true)
