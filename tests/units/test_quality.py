import json
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from units.quality import describe, phone_quality, phones_at_frames

unit_lists = st.lists(st.lists(st.integers(0, 6), max_size=30).map(np.array), min_size=1, max_size=5)


@settings(deadline=None)
@given(unit_lists.filter(lambda units: sum(map(len, units)) > 0))
def test_counts_of_the_card_add_up(units):
    card = describe(units, clusters=7, frame_rate=50.0)
    frames = sum(map(len, units))
    assert card["frames"] == frames
    assert card["seconds"] == frames / 50
    assert card["used"] + card["dead"] == 7
    assert card["used"] == len(set(np.concatenate(units).tolist()))
    assert sum(card["run_lengths"]["histogram"]) == round(card["kept"] * frames)
    assert 0 <= card["entropy"] <= np.log2(max(1, card["used"])) + 1e-9
    assert card["counts"] == [int((np.concatenate(units) == unit).sum()) for unit in range(7)]
    runs = [len(list(run)) for sequence in units for _, run in groupby(sequence.tolist())]
    assert card["run_lengths"]["mean"] == pytest.approx(np.mean(runs))
    assert card["run_lengths"]["median"] == np.median(runs)
    assert card["run_lengths"]["longest"] == max(runs)
    assert card["run_lengths"]["histogram"] == [sum(min(run, 20) == n for run in runs) for n in range(1, 21)]
    assert json.loads(json.dumps(card)) == card


def test_uniform_units_cost_their_logarithm():
    units = [np.arange(8).repeat(3)]
    card = describe(units, clusters=8, frame_rate=25.0)
    assert card["entropy"] == pytest.approx(3)
    assert card["perplexity"] == pytest.approx(8)
    assert card["bitrate"] == pytest.approx(75)
    assert card["bitrate_deduplicated"] == pytest.approx(25)
    assert card["run_lengths"] == {
        "mean": 3.0,
        "median": 3.0,
        "longest": 3,
        "histogram": [0, 0, 8] + [0] * 17,
    }


def test_runs_do_not_reach_across_utterances():
    card = describe([np.array([1, 1]), np.array([1, 1])], clusters=2, frame_rate=25.0)
    assert card["run_lengths"]["longest"] == 2


def test_units_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"units: need ids in \[0, 5\), got 0 to 5"):
        describe([np.array([0, 5])], clusters=5, frame_rate=25.0)
    with pytest.raises(ValueError, match="units: need at least one frame"):
        describe([np.zeros(0, int)], clusters=5, frame_rate=25.0)


def speech(seed, frames, accuracy):
    """Units that equal the phone with probability `accuracy`, for two speakers."""
    rng = np.random.default_rng(seed)
    phones = [rng.integers(0, 10, frames) for _ in range(2)]
    units = [np.where(rng.random(frames) < accuracy, phone, rng.integers(0, 10, frames)) for phone in phones]
    return units, [np.array([f"p{phone}" for phone in sequence]) for sequence in phones]


def test_units_equal_to_phones_are_perfect_and_random_ones_are_at_the_floor():
    perfect = phone_quality(*speech(0, 3000, 1), speakers=["x", "y"])
    assert perfect["pnmi"] == pytest.approx(1)
    assert perfect["phone_purity"] == perfect["cluster_purity"] == 1
    assert perfect["unit_nats_given_phone"] == pytest.approx(0)
    assert perfect["xpnmi"] > 0.99
    random = phone_quality(*speech(0, 3000, 0), speakers=["x", "y"])
    assert random["pnmi"] == pytest.approx(random["pnmi_shuffled"], abs=0.002)
    assert random["xpnmi"] < 0.001
    half = phone_quality(*speech(0, 3000, 0.5), speakers=["x", "y"])
    assert random["xpnmi"] < half["xpnmi"] < half["pnmi"] < 1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000))
def test_pnmi_is_that_of_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    units, phones = speech(seed, 60, 0.3)
    unit, phone = np.concatenate(units), np.concatenate(phones)
    counts = np.unique(phone, return_counts=True)[1] / len(phone)
    expected = metrics.mutual_info_score(phone, unit) / -(counts * np.log(counts)).sum()
    assert phone_quality(units, phones)["pnmi"] == pytest.approx(expected, abs=1e-9)


def test_a_unit_that_means_another_phone_for_each_speaker_helps_nobody_else():
    rng = np.random.default_rng(0)
    units = [rng.integers(0, 4, 1000) for _ in range(2)]
    phones = [np.array(list("abcd"))[units[0]], np.array(list("dcba"))[units[1]]]
    quality = phone_quality(units, phones, speakers=["x", "y"])
    assert quality["pnmi"] > 0.4
    assert quality["xpnmi"] < 0


def test_frames_without_a_phone_do_not_count():
    quality = phone_quality([np.array([0, 1, 2])], [np.array(["a", "", "b"])])
    assert quality["frames"] == 2
    assert quality["phones"] == 2
    assert "xpnmi" not in quality


def test_phones_that_do_not_fit_their_units_are_refused():
    with pytest.raises(ValueError, match="need equal lengths"):
        phone_quality([np.array([0, 1])], [np.array(["a"])])
    with pytest.raises(ValueError, match="need at least one frame with a phone"):
        phone_quality([np.array([0])], [np.array([""])])


def test_a_frame_has_the_phone_at_its_centre_and_gaps_have_none():
    phones = [("a", 0.0225, 0.0625), ("b", 0.07, 0.11)]  # centres: 22.5, 62.5, 102.5, 142.5 ms
    assert phones_at_frames(phones, frames=4, centre=360, hop=640).tolist() == ["a", "", "b", ""]
    assert phones_at_frames([], frames=2, centre=360, hop=640).tolist() == ["", ""]
    assert phones_at_frames(phones, frames=0, centre=360, hop=640).tolist() == []
