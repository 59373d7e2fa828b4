import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.interleave import interleave, interleave_spans, speech_tokens, text_tokens
from shards.sequence import make_document, parse_spans
from shards.strategies import (
    STRATEGIES,
    draw_spans,
    make_strategy,
    parameters_of,
    span_generator,
    strategy_of,
)
from shards.stream import merge_ids, split
from shards.utterance import TokenizedUtterance
from tests.helpers.shards import toy_utterance, toy_vocabulary

NAMES = st.sampled_from(sorted(STRATEGIES))
ONCE = sorted(STRATEGIES.keys() - {"word", "concatenated"})


def spans_of(utterance, name, seed):
    return draw_spans(utterance.words, name, span_generator(seed, 0, utterance.id))


def frames_of_words(utterance):
    """The slow, obvious rule: a frame goes to the word whose stretch, to the middles of the gaps, holds its centre."""
    result = [[] for _ in range(utterance.words)]
    for frame in range(len(utterance.units)):
        centre = utterance.unit_centre + frame / utterance.unit_rate
        word = 0
        while (
            word + 1 < utterance.words and centre >= (utterance.ends[word] + utterance.starts[word + 1]) / 2
        ):
            word += 1
        result[word].append(frame)
    return result


def deduplicated(values):
    return [value for i, value in enumerate(values) if i == 0 or value != values[i - 1]]


@given(NAMES, st.integers(1, 80), st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_every_word_comes_in_order_exactly_once_per_promise(name, words, seed):
    spans = draw_spans(words, name, span_generator(seed, 0, "x"))
    words_of_spans = [word for span in spans for word in range(span.first, span.last)]
    if name == "word":
        assert words_of_spans == [word for word in range(words) for _ in (0, 1)]
    elif name == "concatenated":
        assert words_of_spans == [*range(words), *range(words)]
    else:
        assert words_of_spans == list(range(words))
    assert all(one.speech != other.speech for one, other in itertools.pairwise(spans))
    assert all(span.first < span.last for span in spans)


@given(NAMES, st.integers(1, 60), st.integers(0, 10**6))
@settings(deadline=None, max_examples=100)
def test_parsed_spans_hold_the_words_and_units_of_the_utterance(name, words, seed):
    utterance = toy_utterance(words, seed)
    vocabulary = utterance.vocabulary
    spans = spans_of(utterance, name, seed)
    tokens = interleave(utterance, name, span_generator(seed, 0, utterance.id))
    parsed = parse_spans(make_document(tokens, vocabulary), vocabulary)
    assert [span.speech for span in parsed] == [span.speech for span in spans]
    frames = frames_of_words(utterance)
    for span, result in zip(spans, parsed):
        if span.speech:
            own = [int(utterance.units[k]) for word in frames[span.first : span.last] for k in word]
            assert [int(id) - vocabulary.first_unit for id in result.ids] == deduplicated(own)
        else:
            cuts = utterance.text_cuts
            assert result.ids.tolist() == utterance.text[cuts[span.first] : cuts[span.last]].tolist()
    marker = {
        (False, False): "[Text]",
        (True, False): "[Speech]",
        (False, True): "[ASR]",
        (True, True): "[TTS]",
    }
    assert [result.marker for result in parsed] == [marker[span.speech, span.task] for span in spans]
    assert sum(vocabulary.kind(tokens) == 1) + sum(vocabulary.kind(tokens) == 5) == len(spans)


@given(st.sampled_from(ONCE), st.integers(1, 60), st.integers(0, 10**6))
@settings(deadline=None, max_examples=50)
def test_a_speech_span_with_prosody_begins_with_style_and_pitch(name, words, seed):
    utterance = toy_utterance(words, seed, expressive=True)
    spans = spans_of(utterance, name, seed)
    parsed = parse_spans(interleave_spans(utterance, spans), utterance.vocabulary)
    for span, result in zip(spans, parsed):
        first, last = (int(utterance.unit_cuts[i]) for i in (span.first, span.last))
        names = utterance.vocabulary.decode(result.ids)
        if span.speech and first < last:
            assert [name[:3] for name in names[:3]] == ["[St", "[Pi", "[Hu"]
            own = utterance.units[first:last].tolist()
            assert [int(name[3:-1]) for name in names if name[:3] == "[Hu"] == deduplicated(own)


@given(
    st.sampled_from(ONCE),
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.tuples(st.sampled_from([6.25, 12.5, 25.0, 40.0, 7.3]), st.sampled_from([0.5, 1.0, 4.0])),
)
@settings(deadline=None, max_examples=100)
def test_every_unit_has_the_pitch_and_style_of_its_own_time_at_any_rates(name, words, seed, rates):
    utterance = toy_utterance(words, seed, expressive=True, pitch_rate=rates[0], style_rate=rates[1])
    spans = spans_of(utterance, name, seed)
    parsed = parse_spans(interleave_spans(utterance, spans), utterance.vocabulary)
    for span, result in zip(spans, parsed):
        frames = range(*(int(utterance.unit_cuts[i]) for i in (span.first, span.last)))
        if not span.speech or not frames:
            continue
        runs = [k for k in frames if k == frames[0] or utterance.units[k] != utterance.units[k - 1]]
        units, pitch, style = split(utterance.vocabulary.decode(result.ids))
        assert units == utterance.units[runs].tolist()
        for values, own, rate in ((pitch, utterance.pitch, rates[0]), (style, utterance.style, rates[1])):
            times = np.arange(len(own)) / rate
            assert values == [own[np.flatnonzero(times <= k / utterance.unit_rate)[-1]] for k in runs]


@given(st.integers(1, 60), st.integers(0, 10**6))
@settings(deadline=None, max_examples=50)
def test_frames_belong_to_the_word_that_holds_their_centre(words, seed):
    utterance = toy_utterance(words, seed)
    cuts = utterance.unit_cuts
    assert [list(range(a, b)) for a, b in itertools.pairwise(cuts)] == frames_of_words(utterance)


def test_a_centre_exactly_between_two_words_belongs_to_the_later():
    times = {
        "starts": [0.0, 2.0, 3.0],
        "ends": [1.0, 3.0, 4.0],
        "seconds": 5.0,
        "unit_rate": 1.0,
        "unit_centre": 0.5,
    }
    ids = {
        "units": [0, 1, 2, 3, 4],
        "text": [1, 2, 3],
        "text_ends": [1, 2, 3],
        "vocabulary": toy_vocabulary(),
    }
    # centres 0.5, 1.5, 2.5, 3.5, 4.5; the words meet at 1.5 and at 3.0
    assert TokenizedUtterance(id="x", **times, **ids).unit_cuts.tolist() == [0, 1, 3, 5]


def test_spirit_draws_spans_within_its_bounds_and_all_of_them():
    seen = {False: set(), True: set()}
    firsts = 0
    for seed in range(400):
        spans = draw_spans(200, "spirit", span_generator(seed, 0, "x"))
        firsts += spans[0].speech
        for span in spans[:-1]:
            seen[span.speech].add(span.last - span.first)
    assert seen == {False: set(range(10, 31)), True: set(range(5, 16))}
    assert 150 < firsts < 250


def test_spirit_span_lengths_are_uniform():
    lengths = [
        s.last - s.first
        for seed in range(300)
        for s in draw_spans(3000, "spirit", span_generator(seed, 0, ""))[:-1]
        if s.speech
    ]
    counts = np.bincount(lengths, minlength=16)[5:]
    assert counts.min() > 0.94 * len(lengths) / 11
    assert counts.max() < 1.06 * len(lengths) / 11


def test_a_short_utterance_is_one_truncated_span():
    assert all(len(draw_spans(5, "spirit", span_generator(seed, 0, "x"))) == 1 for seed in range(50))


@pytest.mark.parametrize(
    ("strategy", "share"),
    [
        (make_strategy("poisson"), 0.3),
        (make_strategy("poisson", ratio=0.47, mean_words=3), 0.47),
        (make_strategy("poisson", ratio=0.9), 0.9),
        (make_strategy("binomial"), 0.5),
        (make_strategy("continuation"), 0.5),
    ],
)
@pytest.mark.parametrize("words", [30, 31])
def test_the_share_of_spoken_words_is_met_within_one_per_cent(strategy, share, words):
    spoken = 0
    for seed in range(4000):
        spans = draw_spans(words, strategy, span_generator(seed, 0, "x"))
        spoken += sum(span.last - span.first for span in spans if span.speech)
    assert abs(spoken / (4000 * words) - share) < 0.01


def test_poisson_speaks_every_word_equally_often():
    spoken = np.zeros(30)
    for seed in range(3000):
        for span in draw_spans(30, "poisson", span_generator(seed, 0, "x")):
            spoken[span.first : span.last] += span.speech
    assert np.abs(spoken / 3000 - 0.3).max() < 0.04


def test_the_task_markers_need_a_vocabulary_that_has_them():
    utterance = toy_utterance(5)
    plain = TokenizedUtterance(
        **{f: getattr(utterance, f) for f in utterance.__dataclass_fields__ if f != "vocabulary"},
        vocabulary=toy_vocabulary(tasks=False),
    )
    with pytest.raises(ValueError, match=r"tasks=True"):
        interleave(plain, "concatenated", span_generator(0, 0, "x"))


def test_the_draw_depends_on_seed_epoch_and_id_alone():
    draws = {
        (s, e, k): span_generator(s, e, k).integers(2**62) for s in (0, 1) for e in (0, 1) for k in ("a", "b")
    }
    assert len(set(draws.values())) == 8
    assert span_generator(1, 1, "b").integers(2**62) == draws[1, 1, "b"]
    assert span_generator(1, 11, "a").integers(2**62) != span_generator(11, 1, "a").integers(2**62)


def test_unimodal_builders_are_marker_and_stream():
    utterance = toy_utterance(8)
    vocabulary = utterance.vocabulary
    assert text_tokens(utterance).tolist() == [vocabulary.text_marker, *utterance.text]
    units = merge_ids(utterance.units, vocabulary=vocabulary, unit_rate=25.0)
    assert speech_tokens(utterance).tolist() == [vocabulary.speech_marker, *units]
    assert make_document([5], vocabulary).tolist() == [vocabulary.bos, 5, vocabulary.eos]
    assert make_document([5], vocabulary, eos=False).tolist() == [vocabulary.bos, 5]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("and", "need a marker first"),
        ("[Hu3][Text] a", "need a marker first"),
        ("[Text] a[Hu3]", "cannot hold"),
        ("[Speech] a", "cannot hold"),
        ("[Speech][Hu1][Speech][Hu2]", "must switch"),
        ("[Text] a[ASR] b", "must switch"),
        ("[Text] a<s>[Text] b", "must switch"),
    ],
)
def test_parse_refuses_a_sequence_that_no_strategy_writes(text, rule):
    vocabulary = toy_vocabulary()
    with pytest.raises(ValueError, match=rule):
        parse_spans(vocabulary.encode(text), vocabulary)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("units", [501], "units: need"),
        ("units", [-1], "units: need"),
        ("text", [10**6, 1, 2], "text: need ids"),
        ("text_ends", [1, 1, 2], "text_ends"),
        ("text_ends", [2, 1, 3], "text_ends"),
        ("starts", [0.0, 0.1], "words: need"),
        ("starts", [0.0, 0.9, 0.5], "word times"),
        ("ends", [0.0, 0.5, 0.9], "word times"),
        ("ends", [0.2, 0.5, float("nan")], "word times"),
        ("unit_rate", 0.0, "unit_rate"),
    ],
)
def test_an_impossible_utterance_cannot_be_made(field, value, rule):
    times = {"starts": [0.0, 0.3, 0.6], "ends": [0.2, 0.5, 0.9], "seconds": 1.0}
    fields = times | {
        "id": "u1",
        "units": [1, 2, 3],
        "unit_rate": 25.0,
        "unit_centre": 0.02,
        "text": [1, 2, 3],
    }
    fields |= {"text_ends": [1, 2, 3], "vocabulary": toy_vocabulary()}
    TokenizedUtterance(**fields)
    with pytest.raises(ValueError, match=rule):
        TokenizedUtterance(**(fields | {field: value}))


@pytest.mark.parametrize(
    ("name", "parameters", "rule"),
    [
        ("spirits", {}, "strategy 'spirits': need one of spirit, poisson"),
        ("spirit", {"text_words": (0, 3)}, r"spirit: text_words: need .*got \[0, 3\]"),
        ("spirit", {"speech_words": [5, 4]}, "spirit: speech_words"),
        ("spirit", {"speech_words": [5]}, "spirit: speech_words"),
        ("poisson", {"ratio": 1.5}, "poisson: ratio: need"),
        ("poisson", {"mean_words": float("inf")}, "poisson: mean_words: need"),
        ("binomial", {"trials": 0}, "binomial: trials: need at least 1, got 0"),
        ("spirit", {"ratio": 0.5}, "spirit: unknown parameter 'ratio'; known: text_words, speech_words"),
        ("word", {"trials": 3}, "word: unknown parameter 'trials'; known: none"),
    ],
)
def test_an_impossible_strategy_is_refused(name, parameters, rule):
    with pytest.raises(ValueError, match=rule):
        make_strategy(name, **parameters)


def test_an_utterance_without_words_has_no_spans():
    with pytest.raises(ValueError, match="at least 1 word"):
        draw_spans(0, "spirit", span_generator(0, 0, ""))


def test_a_strategy_is_described_by_its_name_and_its_own_parameters_alone():
    described = {name: asdict(make_strategy(name)) for name in STRATEGIES}
    assert described == {
        "spirit": {"name": "spirit", "text_words": (10, 30), "speech_words": (5, 15)},
        "poisson": {"name": "poisson", "ratio": 0.3, "mean_words": 10.0},
        "binomial": {"name": "binomial", "trials": 39, "probability": 0.1},
        "word": {"name": "word"},
        "concatenated": {"name": "concatenated"},
        "continuation": {"name": "continuation"},
        "none": {"name": "none"},
    }


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_comes_back_from_the_json_of_a_sample(name):
    strategy = make_strategy(name)
    of_all = {"text_words": [1, 9], "ratio": 0.9, "trials": 7}  # as in schema 1
    assert strategy_of(json.loads(json.dumps(asdict(strategy)))) == strategy
    own = {key: value for key, value in of_all.items() if key in parameters_of(name)}
    assert strategy_of({"name": name, **of_all}) == make_strategy(name, **own)
