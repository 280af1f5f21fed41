"""Times of parts, on a clock that the test turns itself: no assertion depends on how fast this machine is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfflib.evaluation import timing
from dfflib.flow import ZeroFlow
from dfflib.inference.engine import Engine
from dfflib.models.build import build

SMALL = dict(task=dict(num_classes=3), features=dict(channels=8), flow=dict(width=0.03))


class Clock:
    """Seconds that pass only when something says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def slow(self, function, seconds):
        """The function, taking that long for each frame of its (last) argument."""

        def call(*args):
            self.now += seconds * (len(args[-1]) if isinstance(args[-1], (list, tuple)) else 1)
            return function(*args)

        return call


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def engine():
    return timing.ready(build(**SMALL).eval())


def test_median_of_known_times(clock):
    lasts = iter([9, 9, 9, 0.005, 0.001, 0.002, 0.004, 0.003])  # the first three warm up
    assert timing.median_ms(lambda: clock.slow(int, next(lasts))("0"), repeats=5) == pytest.approx(3)


def test_calls_take_turns(clock):
    order = []
    calls = {
        name: lambda name=name: order.append(name) or clock.slow(int, len(name) / 1000)("0") for name in ("a", "bbb")
    }
    assert timing.medians_ms(calls, 3, 1) == pytest.approx({"a": 1, "bbb": 3}) and order == ["a", "bbb"] * 4


def test_speedup():
    assert timing.speedup(1, 0.1) == 1 and timing.speedup(10, 0) == 10 and timing.speedup(7, 1) == 1
    assert timing.speedup(10, 1 / 46) == pytest.approx(10 / (1 + 9 / 46))


@given(st.integers(1, 100), st.floats(0.001, 1))
def test_speedup_lies_between_one_and_both_its_bounds(interval, r):
    assert 1 - 1e-9 <= timing.speedup(interval, r) <= min(interval, 1 / r) + 1e-9


def test_measured_speedup_is_eq_7_on_a_clock_that_runs_true(clock, engine, monkeypatch):
    monkeypatch.setattr(engine, "key", clock.slow(engine.key, 0.010))
    monkeypatch.setattr(engine, "others", clock.slow(engine.others, 0.002))
    found = timing.measured_speedup(engine, timing.random_frames(5, (16, 20)), key_ms=10.0)
    assert found == pytest.approx(timing.speedup(5, 0.2))


def test_parts_are_per_frame(clock, engine, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # this clock is not for two threads at once
    for name, seconds in (("key", 0.010), ("others", 0.002), ("images", 0.001)):
        monkeypatch.setattr(engine, name, clock.slow(getattr(engine, name), seconds))
    monkeypatch.setattr(engine.model, "extract", clock.slow(engine.model.extract, 0.007))
    times = timing.parts(engine, timing.random_frames(4, (33, 40)), repeats=3)
    stations = ["image", "N_feat", "remember", "F", "W", "N_task", "N_task, coarse"]
    assert list(times) == [*stations, "key", "non-key", "non-key online"]
    expected = {"image": 1, "N_feat": 7, "key": 10 + 1 + 7, "non-key": 2 + 1, "non-key online": 2 + 1}
    assert {name: times[name] for name in expected} == pytest.approx(expected)


def test_stations_of_a_kind_are_what_it_is_made_of():
    model = build(**SMALL).eval()
    kinds = timing.by_kind(timing.parts(Engine(model), timing.random_frames(2, (24, 30)), repeats=1))
    assert list(kinds["non-key frame"]) == ["image", "F", "W", "N_task"]
    assert list(kinds["key frame"]) == ["image", "N_feat", "remember", "N_task"]


def test_parts_of_any_flow_source_and_real_times():
    model = build(**SMALL).eval()
    frames = timing.random_frames(2, (24, 30))
    assert frames[0].shape == (3, 24, 30) and frames[0].dtype == torch.uint8 and len(frames) == 2
    for chosen in (model, model.with_flow(ZeroFlow())):
        assert min(timing.parts(Engine(chosen), frames, repeats=1).values()) > 0
    assert next(model.parameters()).requires_grad, "the model itself is left as it is"
