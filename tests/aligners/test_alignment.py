"""The promise of every aligner, tested with fake backends."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligners import BACKENDS, load_aligner
from aligners.alignment import Aligner, AlignerOutput, TimedWord, check
from corpus.records import Reject, Utterance

SECOND = np.zeros(16_000, np.float32)


@dataclass(frozen=True)
class NoSettings:
    pass


class Fake(Aligner):
    """Returns its function's result for the item."""

    name = "fake"
    settings = NoSettings()

    def __init__(self, answer):
        self.align_one = answer


def evenly(item):
    step = item.seconds / len(item.tokens)
    times = [
        TimedWord(" ".join(token.spoken), i * step, (i + 1) * step) for i, token in enumerate(item.tokens)
    ]
    return AlignerOutput(times)


def utterance(text, id="u"):
    return Utterance(id, "u.wav", 16_000, text=text)


def reasons(results):
    return [result.reject and result.reject.reason for result in results]


def test_words_carry_their_writing_and_what_was_spoken():
    (result,) = Fake(evenly).align([(utterance("Dr. Who paid $3.50, twice."), SECOND)])
    assert [(word.text, word.spoken) for word in result.words] == [
        ("Dr.", "doctor"),
        ("Who", "who"),
        ("paid", "paid"),
        ("$3.50,", "three dollars fifty"),
        ("twice.", "twice"),
    ]


def test_what_cannot_be_tried_never_reaches_the_backend():
    def never(item):
        raise AssertionError

    batch = [
        (utterance(None), SECOND),
        (utterance(" -- [noise] "), SECOND),
        (utterance("hi"), SECOND[:0]),
        (utterance("hi"), SECOND * np.nan),
    ]
    assert reasons(Fake(never).align(batch)) == [
        "text.missing",
        "text.empty",
        "align.too_short",
        "audio.not_finite",
    ]


def test_an_exception_costs_one_utterance_only():
    def sometimes(item):
        if item.utterance.id == "bad":
            raise RuntimeError("broken")
        if item.utterance.id == "none":
            raise Reject("align.unalignable")
        return evenly(item)

    batch = [(utterance("one two", id), SECOND) for id in ("a", "bad", "none", "b")]
    results = Fake(sometimes).align(batch)
    assert reasons(results) == [None, "align.backend_error", "align.unalignable", None]
    assert results[1].reject.detail == "RuntimeError: broken"


class WholeBatch(Fake):
    def __init__(self, answer):
        self.align_all = answer


def crash(items):
    raise MemoryError


@pytest.mark.parametrize(
    "answer", [crash, lambda items: [], lambda items: [evenly(items[0])] * 3, lambda items: None]
)
def test_a_backend_that_crashes_or_returns_another_number_of_results_rejects_the_batch(answer):
    batch = [(utterance("hi"), SECOND), (utterance(None), SECOND), (utterance("you"), SECOND)]
    results = WholeBatch(answer).align(batch)
    assert reasons(results) == ["align.backend_error", "text.missing", "align.backend_error"]


@pytest.mark.parametrize(
    "answer", [7, AlignerOutput([None]), AlignerOutput([TimedWord("hi", None, 1.0)]), AlignerOutput(None)]
)
def test_a_backend_that_returns_nonsense_rejects_the_utterance(answer):
    results = WholeBatch(lambda items: [answer, evenly(items[1])]).align([(utterance("hi"), SECOND)] * 2)
    assert reasons(results) == ["align.backend_error", None]


def test_an_empty_batch_gives_an_empty_list():
    assert WholeBatch(crash).align([]) == []


times = st.floats(-0.1, 1.2) | st.sampled_from([math.nan, math.inf, -math.inf])
answers = st.lists(st.builds(TimedWord, st.sampled_from(["one", "two"]), times, times), max_size=4)


@given(answers, st.sampled_from(["one", "one two", "two one two"]))
@settings(deadline=None, max_examples=300)
def test_whatever_a_backend_says_words_are_those_of_the_text_in_order_and_inside(answer, text):
    (result,) = Fake(lambda item: AlignerOutput(answer)).align([(utterance(text), SECOND)])
    if result.reject:
        assert result.words == ()
        assert result.reject.reason in ("align.token_mismatch", "align.bad_times")
        return
    assert " ".join(word.text for word in result.words) == text
    edges = [edge for word in result.words for edge in (word.start, word.end)]
    assert all(0 <= edge <= 1 for edge in edges)
    assert edges == sorted(edges)


@given(st.lists(st.floats(0.001, 0.5), min_size=2, max_size=8))
@settings(deadline=None)
def test_right_times_pass_unchanged(steps):
    edges = np.cumsum([0.0, *steps]).tolist()
    words = [TimedWord("w", a, b, 0.5) for a, b in pairwise(edges)]
    assert check(words, ["w"] * len(words), edges[-1]) == words


def test_overruns_of_25_ms_are_clipped_and_longer_ones_are_bad_times():
    assert check([TimedWord("a", -0.02, 0.52), TimedWord("b", 0.5, 1.02)], ["a", "b"], 1.0) == [
        TimedWord("a", 0.0, 0.5),
        TimedWord("b", 0.5, 1.0),
    ]
    for late in (
        [TimedWord("a", -0.03, 0.5)],
        [TimedWord("a", 0.5, 1.03)],
        [TimedWord("a", 0.5, 0.5)],
        [TimedWord("a", 0.6, 0.5)],
    ):
        with pytest.raises(Reject) as caught:
            check(late, ["a"], 1.0)
        assert caught.value.reason == "align.bad_times"


def test_a_mismatch_names_the_word():
    with pytest.raises(Reject, match="word 2: expected 'b', got 'nothing'"):
        check([TimedWord("a", 0, 1)], ["a", "b"], 1.0)
    with pytest.raises(Reject, match="word 2: expected 'nothing', got 'b'"):
        check([TimedWord("a", 0, 0.5), TimedWord("b", 0.5, 1)], ["a"], 1.0)


def test_unknown_backends_and_settings_are_refused_by_name():
    with pytest.raises(ValueError, match=r"aligner 'gentle': unknown backend; known: pocketsphinx,"):
        load_aligner("gentle")
    with pytest.raises(
        ValueError, match=r"aligner given: unknown settings \['tier'\]; known: \['words_tier'"
    ):
        load_aligner("given", tier="words")


def test_every_backend_has_its_name_and_a_description_of_one_line():
    for name, backend in BACKENDS.items():
        aligner, _ = backend.classes()
        assert aligner.name == name
        assert 10 < len(backend.description) < 80


def test_a_new_backend_is_one_entry_of_the_registry(monkeypatch):
    from aligners import Backend

    monkeypatch.setitem(
        BACKENDS, "fake", Backend("for this test", lambda: (lambda _: Fake(evenly), NoSettings))
    )
    (result,) = load_aligner("fake").align([(utterance("one two"), SECOND)])
    assert [word.text for word in result.words] == ["one", "two"]


def test_the_identity_changes_with_the_settings():
    plain, strict = load_aligner("pocketsphinx"), load_aligner("pocketsphinx", minimum_score=-10.0)
    assert plain.identity == load_aligner("pocketsphinx").identity != strict.identity
