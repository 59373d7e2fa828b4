"""The k-means lab around a build: foreign codebooks, the sample, the sweep, the card, half precision, reading ahead."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.stage import ahead


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(), max_size=20))
def test_reading_ahead_changes_neither_items_nor_order(items):
    assert list(ahead(iter(items))) == items


def test_one_item_is_made_while_the_one_before_is_worked_on_and_no_more():
    made, second = [], threading.Event()

    def items():
        for i in range(4):
            made.append(i)
            if i == 1:
                second.set()
            yield i

    reading = ahead(items())
    assert next(reading) == 0
    assert second.wait(5)  # without anybody asking for it
    time.sleep(0.05)
    assert made == [0, 1]
    assert list(reading) == [1, 2, 3]


def test_what_goes_wrong_ahead_is_said_in_its_turn():
    def items():
        yield 1
        raise ValueError("no third")

    reading = ahead(items())
    assert next(reading) == 1
    with pytest.raises(ValueError, match="no third"):
        next(reading)


def test_a_reader_that_stops_early_leaves_no_thread():
    reading = ahead(iter(range(100)))
    next(reading)
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
