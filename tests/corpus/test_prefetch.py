import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.prefetch import prefetch


@given(st.lists(st.integers()), st.integers(1, 5))
def test_the_items_and_their_order_do_not_change(items, depth):
    assert list(prefetch(iter(items), depth)) == items


def test_the_next_items_are_made_while_one_is_worked_on():
    made = [threading.Event() for _ in range(5)]

    def items():
        for number, event in enumerate(made):
            event.set()
            yield number

    fetched = prefetch(items(), depth=2)
    assert next(fetched) == 0
    assert made[1].wait(10)
    assert made[2].wait(10)
    assert not made[3].wait(0.1)  # two at most


def test_an_exception_comes_in_the_place_of_its_item():
    def items():
        yield 1
        raise ValueError("the second one")

    fetched = prefetch(items(), depth=3)
    assert next(fetched) == 1
    with pytest.raises(ValueError, match="the second one"):
        next(fetched)


def test_a_consumer_that_stops_ends_the_thread():
    before = threading.active_count()
    fetched = prefetch(iter(range(10**9)), depth=2)
    next(fetched)
    fetched.close()
    assert threading.active_count() == before
