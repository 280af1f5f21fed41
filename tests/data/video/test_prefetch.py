"""Prefetching: the same items, never too many, and an end that is told in its place."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfflib.data.video.prefetch import prefetch


def threads():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(), max_size=30), st.integers(1, 9))
def test_the_same_items_in_the_same_order(items, depth):
    assert list(prefetch(items, depth)) == items
    assert not threads()


@pytest.mark.parametrize("depth", [1, 4])
def test_never_more_than_depth_ahead_of_a_slow_caller(depth):
    fetched, lead = [], []

    def source():
        for n in range(30):
            fetched.append(n)
            yield n

    for n in prefetch(source(), depth):
        time.sleep(0.005)
        lead.append(len(fetched) - 1 - n)
    assert max(lead) <= depth + 1  # and the one that waits to be put


def test_an_error_comes_after_what_was_read_before_it():
    def source():
        yield from range(5)
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="the disk is gone"):
        for n in prefetch(source(), 2):
            got.append(n)
    assert got == [0, 1, 2, 3, 4] and not threads()


def test_leaving_early_stops_the_thread():
    closed = []

    def source():
        try:
            n = 0
            while True:
                yield (n := n + 1)
        finally:
            closed.append(True)

    stream = prefetch(source(), 3)
    assert next(stream) == 1
    stream.close()
    assert not threads()
