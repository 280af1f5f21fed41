"""The fixed-interval schedule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfflib.errors import DffError
from dfflib.inference.schedule import FixedInterval


@pytest.mark.parametrize(
    "interval", [0, -1, 2.5, True, False, float("nan"), float("inf"), "5", "five", None, [5], 0.0, -3.0]
)
def test_what_is_no_interval_is_refused_with_the_value(interval):
    with pytest.raises(DffError) as caught:
        FixedInterval(interval)
    assert f"interval is {interval!r}:" in str(caught.value) and "whole number" in str(caught.value)


@pytest.mark.parametrize("interval, frames", [(6, 5), (2, 1), (1000, 999)])
def test_an_interval_beyond_the_video_is_refused(interval, frames):
    with pytest.raises(DffError, match=f"interval is {interval}, .*only {frames} frame"):
        FixedInterval(interval, frames)


@pytest.mark.parametrize("interval, frames", [(5, 5), (1, 1), (1, 0), (10, None)])
def test_an_interval_up_to_the_length_is_taken(interval, frames):
    assert FixedInterval(interval, frames).interval == interval


@pytest.mark.parametrize("interval", [3.0, np.int64(3), np.float32(3)])
def test_whole_numbers_of_other_types_are_whole_numbers(interval):
    schedule = FixedInterval(interval)
    assert schedule.interval == 3 and type(schedule.interval) is int


@given(interval=st.integers(1, 40), frames=st.integers(1, 120))
def test_keys_are_the_papers_algorithm(interval, frames):
    schedule, key, since = FixedInterval(interval), None, None
    for index in range(frames):  # Algorithm 1: a counter that starts again after `interval` frames
        since = 0 if since is None or since + 1 == interval else since + 1
        key = index if since == 0 else key
        assert schedule.is_key(index) == (since == 0)
        assert schedule.key_of(index) == key
        assert 0 <= index - key < interval
    assert schedule.is_key(0)


def test_interval_1_makes_every_frame_a_key_frame():
    assert all(FixedInterval(1).is_key(i) for i in range(10))
