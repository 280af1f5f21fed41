"""Times of frames: kept where they can be true, bridged where they cannot, and the rate that follows from them."""

import numpy as np
import pytest

from dfflib.data.clips import Clip
from dfflib.data.video.clock import Clock
from dfflib.errors import DffError


def run(stamps, length=0.04, **options):
    clock = Clock(25, **options)
    for stamp in stamps:
        clock.add(stamp, length)
    return clock


COUNTED = [i / 25 for i in range(6)]


@pytest.mark.parametrize(
    "stamps, expected",
    [
        ([None] * 6, COUNTED),
        ([7.0 + t for t in COUNTED], COUNTED),
        ([0, 0.0395, 0.0805, 0.12, 0.1604, 0.2], COUNTED),  # rounded to milliseconds
        ([0, 0.04, None, None, 0.16, 0.2], COUNTED),
        ([95443.7, 95443.74, 95443.78, 0.02, 0.06, 0.1], COUNTED),  # the clock of a broadcast wraps around
        ([0, 0.04, 0.08, 5000, 5000.04, 5000.08], COUNTED),  # joined to another recording
        ([0, 0.04, 0.04, 0.08, 0.12], [0, 0.04, 0.06, 0.08, 0.12]),  # one twice: the next is right again
        ([0, 200, 400, 600], [0, 200, 400, 600]),  # slow, but no other clock
        ([0, 0.04, 9], [0, 0.04, 9]),
    ],
)
def test_times(stamps, expected):
    clock = run(stamps, 200 if 200 in stamps else 0.04, tick=0.001, longest=10)
    assert clock.times == pytest.approx(expected)
    assert clock.end > clock.times[-1]


def test_times_that_are_all_equal_are_counted():
    times = run([3.0] * 50).times
    assert (np.diff(times) > 0).all() and times[-1] == pytest.approx(49 / 25, abs=0.05)


def test_the_rate_is_that_of_the_times_where_they_disagree():
    assert run([None] * 6).fps == 25 == run([0, 0.041, 0.079, 0.121], tick=0.001).fps
    assert run([0, 0.5, 1.0]).fps == pytest.approx(2)


def test_the_last_frame_is_held():
    clock = run([5.0, 5.04])
    clock.hold(8.0)
    assert clock.end == pytest.approx(3.0)
    clock.hold(1e12)  # no header is believed anything
    assert clock.end == pytest.approx(3.0)


def test_clips_have_times():
    frames = np.zeros((4, 3, 2, 2), np.uint8)
    assert Clip("even", frames, 10).times == pytest.approx([0, 0.1, 0.2, 0.3])
    clip = Clip("uneven", frames, 10, times=[2.0, 2.1, 4.0, 8.0])
    assert clip.times == pytest.approx([0, 0.1, 2, 6]) and clip.fps == pytest.approx(0.5)
    part = clip.window(1, 4)
    assert part.times == pytest.approx([0, 1.9, 5.9]) and part.fps == pytest.approx(2 / 5.9)
    for times in ([0, 1, 2], [0, 1, 1, 2]):
        with pytest.raises(DffError, match=r"uneven has \d times for 4 frames: give one for each, rising"):
            Clip("uneven", frames, 10, times=times)
