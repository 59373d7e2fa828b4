import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from units.deduplicate import deduplicate, repeat

unit_sequences = st.lists(st.integers(0, 4), max_size=40).map(lambda units: np.array(units, np.int32))


@given(unit_sequences)
def test_repeat_undoes_deduplicate(units):
    back = repeat(*deduplicate(units))
    assert np.array_equal(back, units)
    assert back.dtype == units.dtype


@given(unit_sequences)
def test_no_two_neighbours_are_equal_and_lengths_sum_to_the_frames(units):
    kept, lengths = deduplicate(units)
    assert not (kept[1:] == kept[:-1]).any()
    assert lengths.sum() == len(units)
    assert (lengths > 0).all()


def test_nothing_deduplicates_to_nothing():
    kept, lengths = deduplicate(np.zeros(0, np.int16))
    assert kept.shape == lengths.shape == (0,)
    assert repeat(kept, lengths).shape == (0,)


def test_two_dimensional_units_are_refused():
    with pytest.raises(ValueError, match=r"units: need shape \(F,\), got \(2, 3\)"):
        deduplicate(np.zeros((2, 3), int))


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="need the same shape"):
        repeat(np.array([1, 2]), np.array([1]))
    with pytest.raises(ValueError, match="lengths: need >= 0, got -1"):
        repeat(np.array([1, 2]), np.array([1, -1]))
