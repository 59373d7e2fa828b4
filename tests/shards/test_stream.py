import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.stream import merge, merge_ids, merge_spans, split
from tests.helpers.shards import toy_vocabulary

VALUES = st.lists(st.integers(0, 3), max_size=60)
RATES = st.sampled_from([24.99, 25.0, 50.0, 12.5, 6.25, 100 / 3, 7.0])
ALL_RATES = st.tuples(RATES, RATES, st.sampled_from([0.5, 1.0, 3.0]))


def slow_merge(units, pitch, style, unit_rate, pitch_rate=12.5, style_rate=1.0):
    """SPEC 4.1, step by step: emit with times, concatenate style, pitch, units, sort stably on time alone."""
    emitted = [(i / style_rate, f"[St{value}]") for i, value in enumerate(style)]
    for name, values, rate in (("Pi", pitch, pitch_rate), ("Hu", units, unit_rate)):
        for i, value in enumerate(values):
            if i == 0 or values[i - 1] != value:
                emitted.append((i / rate, f"[{name}{value}]"))
    return [token for _, token in sorted(emitted, key=lambda item: item[0])]


@given(VALUES, VALUES, st.lists(st.integers(0, 99), max_size=6), ALL_RATES)
@settings(deadline=None, max_examples=100)
def test_merge_is_the_stable_sort_of_the_specification_at_any_rates(units, pitch, style, rates):
    unit_rate, pitch_rate, style_rate = rates
    result = merge(units, pitch, style, unit_rate=unit_rate, pitch_rate=pitch_rate, style_rate=style_rate)
    assert result == slow_merge(units, pitch, style, *rates)


def test_the_paper_s_example_comes_out_of_merge():
    # "[SPEECH][St10][Pi0][Hu28][Hu22][Pi14][Hu15][Pi32][Hu78][Hu234][Hu468]", units at 24.99 Hz, pitch at 12.5 Hz
    units = [28, 22, 15, 15, 78, 234, 468]
    pitch = [0, 14, 32, 32]
    expected = "[St10][Pi0][Hu28][Hu22][Pi14][Hu15][Pi32][Hu78][Hu234][Hu468]"
    assert "".join(merge(units, pitch, [10], unit_rate=24.99)) == expected
    assert "".join(merge(units, pitch, [10], unit_rate=25.0)) == expected


def test_split_gives_the_documented_vector():
    units, pitch, style = split("[St81][Hu78][Pi13][Hu42][Hu81][Hu159][Hu316][Pi3][Hu259]")
    assert units == [78, 42, 81, 159, 316, 259]
    assert pitch == [13, 13, 13, 13, 13, 3]
    assert style == [81] * 6


def test_units_alone_are_their_runs_and_have_no_pitch():
    assert split(merge([5, 5, 9, 9, 5], unit_rate=25.0)) == ([5, 9, 5], None, None)


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=80),
    st.lists(st.integers(0, 63), min_size=1, max_size=40),
)
@settings(deadline=None, max_examples=100)
def test_split_gives_back_the_runs_and_the_pitch_in_force(units, pitch):
    kept = [i for i in range(len(units)) if i == 0 or units[i] != units[i - 1]]
    result, pitches, style = split(merge(units, pitch, unit_rate=24.99))
    assert result == [units[i] for i in kept]
    assert style is None
    # at equal rates in step, pitch p is in force from frame 2p on
    assert pitches == [pitch[min(i // 2, len(pitch) - 1)] for i in kept]


@pytest.mark.parametrize(
    "bad",
    [
        "[Hu1]x",
        "x[Hu1]",
        "[Hu1][Hu]",
        "[Hu01]",
        "[Ab1]",
        "[Hu1] [Hu2]",
        "[Hu1]\0",
        "[[Hu1]",
        "]",
        ["[Hu1]", "Hu2"],
        ["[Text]"],
    ],
)
def test_split_refuses_other_than_speech_tokens(bad):
    with pytest.raises(ValueError, match="stream: need"):
        split(bad)


@pytest.mark.parametrize("bad", [[-1], [1.5], [[1], [2]], [True]])
def test_merge_refuses_other_than_token_values(bad):
    with pytest.raises(ValueError, match="stream: need integers >= 0"):
        merge([1, 2], bad, unit_rate=25.0)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_merge_refuses_a_rate_that_gives_no_times(rate):
    with pytest.raises(ValueError, match="rate: need more than 0 Hz"):
        merge([1, 2], unit_rate=rate)


@given(VALUES, VALUES, st.lists(st.integers(0, 99), max_size=6), RATES)
@settings(deadline=None, max_examples=50)
def test_merge_keeps_all_runs_in_the_order_of_time(units, pitch, style, rate):
    runs = lambda values: sum(i == 0 or value != values[i - 1] for i, value in enumerate(values))  # noqa: E731
    tokens = merge(units, pitch, style, unit_rate=rate)
    counts = [sum(token.startswith(f"[{kind}") for token in tokens) for kind in ("Hu", "Pi", "St")]
    assert counts == [runs(units), runs(pitch), len(style)]
    places = {"Hu": 0, "Pi": 0, "St": 0}
    starts = {
        "Hu": [i / rate for i in range(len(units)) if i == 0 or units[i] != units[i - 1]],
        "Pi": [i / 12.5 for i in range(len(pitch)) if i == 0 or pitch[i] != pitch[i - 1]],
        "St": [float(i) for i in range(len(style))],
    }
    times = []
    for token in tokens:
        kind = token[1:3]
        times.append(starts[kind][places[kind]])
        places[kind] += 1
    assert times == sorted(times)


def test_a_list_and_a_string_split_alike():
    tokens = merge([1, 2, 3], [4, 5], [6], unit_rate=25.0)
    assert split(tokens) == split("".join(tokens))


@given(VALUES, VALUES, st.lists(st.integers(0, 99), max_size=6))
@settings(deadline=None, max_examples=50)
def test_ids_are_those_of_the_names(units, pitch, style):
    vocabulary = toy_vocabulary(64, 100)
    rates = {"unit_rate": 25.0, "pitch_rate": 10.0, "style_rate": 2.0}
    ids = merge_ids(np.array(units), np.array(pitch), np.array(style), vocabulary=vocabulary, **rates)
    assert vocabulary.decode(ids) == merge(units, pitch, style, **rates)


def slow_span(units, pitch, style, first, last, unit_rate, pitch_rate, style_rate):
    """A span [first, last), value by value: style and pitch from those in force at its first frame to its end."""
    if first == last:
        return []
    begin = first / unit_rate
    end = np.inf if (first, last) == (0, len(units)) else last / unit_rate
    emitted = []
    for kind, values, rate in (("St", style, style_rate), ("Pi", pitch, pitch_rate)):
        in_force = max(i for i in range(len(values)) if i / rate <= begin)
        for i in range(in_force, len(values)):
            repeated = kind == "Pi" and i > in_force and values[i] == values[i - 1]
            if (i / rate < end or i == in_force) and not repeated:
                emitted.append((max(i / rate, begin), f"[{kind}{values[i]}]"))
    for frame in range(first, last):
        if frame == first or units[frame] != units[frame - 1]:
            emitted.append((frame / unit_rate, f"[Hu{units[frame]}]"))
    return [token for _, token in sorted(emitted, key=lambda item: item[0])]


@given(st.integers(0, 10**6), st.integers(1, 120), st.integers(1, 120), ALL_RATES)
@settings(deadline=None, max_examples=200)
def test_a_span_repeats_the_style_and_pitch_in_force_at_any_rates(seed, one, two, rates):
    rng = np.random.default_rng(seed)
    first, last = sorted((one - 1, two))
    seconds = 120 / rates[0]
    units, pitch = rng.integers(0, 3, 120), rng.integers(0, 3, 1 + int(seconds * rates[1]))
    style = rng.integers(0, 100, 1 + int(seconds * rates[2]))
    vocabulary = toy_vocabulary(64, 100)
    named = dict(zip(("unit_rate", "pitch_rate", "style_rate"), rates, strict=True))
    ids = merge_ids(units, pitch, style, vocabulary=vocabulary, first=first, last=last, **named)
    assert vocabulary.decode(ids) == slow_span(units, pitch, style, first, last, *rates)


def test_ids_of_pitch_and_style_need_their_rates():
    fixed = {"vocabulary": toy_vocabulary(64, 100), "unit_rate": 25.0}
    units = np.array([1, 2, 3])
    assert len(merge_ids(units, **fixed)) == 3
    for last in (2, 3):
        with pytest.raises(ValueError, match="pitch_rate: need more than 0 Hz, got None"):
            merge_ids(units, units, last=last, **fixed)
        with pytest.raises(ValueError, match="style_rate: need more than 0 Hz, got None"):
            merge_ids(units, None, units, last=last, **fixed)


@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.sampled_from([(12.5, 1.0), (12.5, 3.0), (25.0, 0.5), (7.0, 1.3)]),
)
@settings(deadline=None, max_examples=100)
def test_merge_spans_gives_what_merge_ids_gives_for_each_span(seed, utterances, rates):
    rng = np.random.default_rng(seed)
    vocabulary = toy_vocabulary(64, 100)
    units = [rng.integers(0, 3, int(rng.integers(1, 60))) for _ in range(utterances)]
    pitch = [rng.integers(0, 2, int(rng.integers(0, 40))) for _ in range(utterances)]  # may end early or late
    style = [rng.integers(0, 2, int(rng.integers(0, 6))) for _ in range(utterances)]
    owners = rng.integers(0, utterances, 12)
    cuts = np.sort([rng.integers(0, len(units[owner]) + 1, 2) for owner in owners], axis=1)
    cuts[0] = 0, len(units[owners[0]])  # a whole one
    fixed = {"vocabulary": vocabulary, "unit_rate": 25.0, "pitch_rate": rates[0], "style_rate": rates[1]}
    for streams in ((pitch, style), (pitch, None), (None, style)):
        ids, counts = merge_spans(units, *streams, owners, cuts[:, 0], cuts[:, 1], **fixed)
        result = np.split(ids, np.cumsum(counts)[:-1])
        for owner, (first, last), one in zip(owners, cuts, result):
            own = [None if stream is None else stream[owner] for stream in streams]
            assert one.tolist() == merge_ids(units[owner], *own, first=first, last=last, **fixed).tolist()
