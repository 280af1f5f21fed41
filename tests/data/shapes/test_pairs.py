"""Pairs of the Shapes world: a pure function of their number, alike in every worker, and true."""

import pytest
import torch
from torch.utils.data import DataLoader

from dfflib.data.shapes.pairs import LATEST, ShapesPairs, as_batch
from dfflib.data.shapes.scenes import get_level
from dfflib.errors import DffError
from dfflib.warp import warp

SIZE = (40, 56)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_item_has_everything_about_two_frames():
    item = ShapesPairs("val", "hard", SIZE)[3]
    assert item["key"].shape == item["current"].shape == (3, *SIZE) and item["key"].dtype == torch.uint8
    assert item["labels"].shape == SIZE and item["labels"].dtype == torch.int64
    assert item["flow"].shape == (2, *SIZE) and item["flow"].dtype == torch.float32
    assert item["occluded"].shape == SIZE and item["occluded"].dtype == torch.bool
    assert item["interval"].dtype == torch.int64 and 0 <= item["interval"] < 10


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_alike_in_every_worker(workers):
    pairs = ShapesPairs("train", "medium", SIZE, length=6)
    clean = "forkserver" if workers else None  # a fork of this process may wait for ever for a lock of its threads
    loaded = list(DataLoader(pairs, batch_size=2, num_workers=workers, multiprocessing_context=clean))
    expected = [pairs[n] for n in range(6)]
    for n, item in enumerate(expected):
        assert same({name: values[n % 2] for name, values in loaded[n // 2].items()}, item)


def test_intervals_are_uniform_up_to_the_largest():
    pairs = ShapesPairs("train", get_level("easy", shapes=(0, 0), noise=0.0), (16, 16), max_interval=4, length=200)
    found = torch.bincount(torch.stack([pairs[n]["interval"] for n in range(200)]), minlength=4)
    assert len(found) == 4 and found.min() > 30


@pytest.mark.parametrize("interval", [0, 1, 9])
def test_a_fixed_interval(interval):
    pairs = ShapesPairs("test", get_level("medium", noise=0.0, light=0.0), SIZE, interval=interval)
    item = pairs[11]
    assert item["interval"] == interval
    moved = warp(item["key"][None].float(), item["flow"][None])[0]
    error = (moved - item["current"].float()).abs().mean(0)[~item["occluded"]]
    assert error.median() < 3
    if not interval:
        assert torch.equal(item["key"], item["current"]) and not item["flow"].any() and not item["occluded"].any()


def test_parts_share_no_seed():
    firsts = [ShapesPairs(split).first_seed for split in ("train", "val", "test")]
    assert firsts == [0, len(ShapesPairs()), 2 * len(ShapesPairs())]
    assert not same(ShapesPairs("train", size=SIZE)[0], ShapesPairs("val", size=SIZE)[0])


def test_a_batch_is_a_function_of_seed_and_step():
    pairs = ShapesPairs("train", "easy", SIZE)
    one, again, later = pairs.batch(3, 5, 7), pairs.batch(3, 5, 7), pairs.batch(3, 5, 8)
    assert torch.equal(one.current, again.current) and not torch.equal(one.current, later.current)
    assert one.current.dtype == torch.float32 and one.current.max() <= 1 and one.labels.shape == (3, *SIZE)
    assert one.is_key.dtype == torch.bool and one.flow.shape == (3, 2, *SIZE)


def test_collated_items_make_a_batch():
    pairs = ShapesPairs("train", "easy", SIZE, length=4)
    batch = as_batch(next(iter(DataLoader(pairs, batch_size=4))))
    assert torch.equal(batch.is_key, torch.stack([pairs[n]["interval"] == 0 for n in range(4)]))
    assert torch.equal(batch.key[2], pairs[2]["key"] / 255)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"split": "trial"}, "no split 'trial': choose one of train, val, test"),
        ({"length": 0}, "cannot have 0 pairs"),
        ({"max_interval": 0}, "pairs 0 frames apart cannot be drawn"),
        ({"max_interval": LATEST + 1}, f"pairs {LATEST + 1} frames apart cannot be drawn"),
        ({"interval": -1}, "pairs -1 frames apart cannot be drawn"),
        ({"interval": LATEST}, f"pairs {LATEST} frames apart"),
    ],
)
def test_impossible_pairs_are_refused(arguments, sentence):
    with pytest.raises(DffError, match=sentence):
        ShapesPairs(**arguments)


def test_numbers_outside_the_set_are_refused():
    with pytest.raises(IndexError, match="pair 5 of 5"):
        ShapesPairs(length=5)[5]
