"""The clip: lazy stacks index like tensors, windows and splits cut where they say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfflib.data.clips import Clip, split_in_time
from dfflib.data.shapes import ShapesClip
from dfflib.data.stacks import LazyStack
from dfflib.errors import DffError

LENGTH = 7
TENSOR = torch.arange(LENGTH * 6).reshape(LENGTH, 1, 2, 3)
STACK = LazyStack(lambda i: TENSOR[i], LENGTH)

indices = st.integers(-LENGTH, LENGTH - 1)
bounds = st.none() | st.integers(-2 * LENGTH, 2 * LENGTH)


def numbered(length: int, **kwargs) -> Clip:
    """A clip whose frame i holds the value i."""
    return Clip("numbered", torch.arange(length, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 5), **kwargs)


@given(key=indices | st.builds(slice, bounds, bounds, st.none() | st.integers(1, 9)) | st.lists(indices))
def test_indexing_equals_a_tensors(key):
    assert torch.equal(STACK[key], TENSOR[key])


@given(key=st.lists(indices, min_size=1))
def test_arrays_and_tensors_index_too(key):
    assert torch.equal(STACK[torch.tensor(key)], TENSOR[key])
    assert torch.equal(STACK[np.array(key)], TENSOR[key])
    assert torch.equal(STACK[np.int64(key[0])], TENSOR[key[0]])
    assert torch.equal(STACK[torch.tensor(key[0])], TENSOR[key[0]])


@given(chosen=st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH))
def test_bools_choose(chosen):
    assert torch.equal(STACK[torch.tensor(chosen)], TENSOR[torch.tensor(chosen)])
    assert torch.equal(STACK[np.array(chosen)], TENSOR[torch.tensor(chosen)])


def test_a_range_and_a_slice_run_backward():
    assert torch.equal(STACK[::-1], TENSOR.flip(0))
    assert torch.equal(STACK[range(5, 1, -2)], TENSOR[[5, 3]])


@pytest.mark.parametrize(
    "key", [LENGTH, -LENGTH - 1, [0, LENGTH], np.array([[0]]), torch.tensor([True]), np.array([0.5])]
)
def test_what_is_outside_raises_index_error(key):
    with pytest.raises(IndexError):
        STACK[key]


def test_a_float_is_no_index():
    with pytest.raises(TypeError):
        STACK[1.0]


def test_only_what_is_asked_for_is_made():
    made = []
    stack = LazyStack(lambda i: made.append(i) or torch.zeros(1), 1000)
    stack[[3, -1]]
    assert made == [3, 999] and len(stack) == 1000


@given(data=st.data(), length=st.integers(1, 30))
def test_windows_of_windows(data, length):
    clip = numbered(length, masks=torch.arange(length)[:, None, None].expand(-1, 4, 5), labelled=range(0, length, 3))
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    window = clip.window(start, stop)
    assert torch.equal(window.frames[:], clip.frames[start:stop])
    assert torch.equal(window.masks[:], clip.masks[start:stop])
    assert [start + i for i in window.labelled] == [i for i in range(start, stop) if i % 3 == 0]
    inner = window.window(len(window) - 1, len(window))
    assert len(inner) == 1 and inner.frames[0][0, 0, 0] == stop - 1
    assert window.size == (4, 5) and window.fps == clip.fps


@pytest.mark.parametrize("start, stop", [(-1, 3), (0, 11), (4, 4), (5, 4)])
def test_no_window_outside(start, stop):
    with pytest.raises(DffError, match=r"has 10 frames.*choose 0 <= start < stop <= 10"):
        numbered(10).window(start, stop)


def test_empty_clips_and_rates_are_refused():
    with pytest.raises(DffError, match="no frames"):
        numbered(0)
    for fps in (0, -25, float("nan")):
        with pytest.raises(DffError, match="frames per second"):
            numbered(3, fps=fps)


def test_in_memory_decodes_each_frame_once():
    made = []
    clip = Clip("lazy", LazyStack(lambda i: made.append(i) or torch.full((3, 2, 2), i, dtype=torch.uint8), 5), fps=10)
    kept = clip.in_memory()
    kept.frames[2], kept.frames[:]
    assert made == [0, 1, 2, 3, 4] and isinstance(kept.frames, torch.Tensor) and kept.fps == 10


def test_a_clip_closes_what_is_behind_its_frames():
    closed = []
    stack = LazyStack(lambda i: torch.full((3, 2, 2), i, dtype=torch.uint8), 5, lambda: closed.append(True))
    with Clip("lazy", stack) as clip:
        clip.window(1, 3).close()  # a part leaves the whole open
        assert closed == [] and clip.frames[4][0, 0, 0] == 4
    assert closed == [True]
    numbered(3).close()


@given(length=st.integers(20, 120), gap=st.integers(0, 12))
def test_splits_keep_order_and_gaps(length, gap):
    clip = numbered(length)
    try:
        parts = split_in_time(clip, gap=gap)
    except DffError:
        assert length - 2 * gap < 14  # 15% of which would be under two frames
        return
    frames = {part: parts[part].frames[:][:, 0, 0, 0].tolist() for part in ("train", "val", "test")}
    assert frames["train"][0] == 0 and frames["test"][-1] == length - 1
    assert frames["val"][0] - frames["train"][-1] == gap + 1 == frames["test"][0] - frames["val"][-1]
    assert sum(map(len, frames.values())) == length - 2 * gap
    assert parts["val"].name == "numbered/val"


def test_splits_that_make_no_sense():
    with pytest.raises(DffError, match=r"too few to cut.*longer clip or a smaller gap"):
        split_in_time(numbered(25))
    with pytest.raises(DffError, match="gap of -1"):
        split_in_time(numbered(100), gap=-1)
    with pytest.raises(DffError, match="sum to 1"):
        split_in_time(numbered(100), (0.5, 0.5, 0.5))


def test_a_clip_without_ground_truth_says_so():
    clip = numbered(3)
    assert not clip.has_flow and not clip.has_tracks and not clip.has_boxes
    asked = {
        "boxes": lambda: clip.boxes(0), "masks": lambda: clip.mask(0), "instances": lambda: clip.instance_mask(0),
        "flow": lambda: clip.flow(1, 0), "occlusion": lambda: clip.occlusion(1, 0), "tracks": lambda: clip.tracks,
    }  # fmt: skip
    for what, ask in asked.items():
        with pytest.raises(DffError, match=rf"numbered has no {what}: ask for .*\.$"):
            ask()


def test_a_window_keeps_all_ground_truth_under_its_own_numbers():
    whole = ShapesClip(3, "medium", (40, 56), 9)
    part = whole.window(1, 9).window(1, 7)  # frames 2 to 7
    assert part.has_flow and part.has_tracks and part.has_boxes and part.continuous and part.fps == whole.fps
    assert torch.equal(part.instance_mask(3), whole.instance_mask(5)) and torch.equal(part.mask(-1), whole.mask(7))
    assert torch.equal(part.boxes(-1).boxes, whole.boxes(7).boxes)
    for ask in (Clip.flow, Clip.occluded, Clip.out_of_view, Clip.occlusion):
        name = ask.__name__
        assert torch.equal(getattr(part, name)(-1, 1), getattr(whole, name)(7, 3))
    points = torch.tensor([[20.0, 11.0], [3.0, 30.0]])
    found, expected = part.track(2, points), whole.track(4, points)
    assert torch.equal(found.points, expected.points[2:8]) and torch.equal(found.visible, expected.visible[2:8])
    assert torch.equal(found.instances, expected.instances) and len(part.tracks.points) == 6
    for call in (lambda: part.flow(6, 0), lambda: part.boxes(-7), lambda: part.track(6, points)):
        with pytest.raises(IndexError, match="of a clip of 6 frames"):
            call()
