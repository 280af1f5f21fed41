"""Pictures of ground truth: the right size, and the right pixels painted."""

import numpy as np
import pytest
import torch

from dfflib.data.clips import Clip
from dfflib.data.shapes import ShapesClip
from dfflib.viz import overlay
from dfflib.viz.ground_truth import OCCLUDED, OUT_OF_VIEW, VIEWS, draw_boxes, labelled, tint, truth


@pytest.fixture(scope="module")
def clip() -> ShapesClip:
    return ShapesClip(2_000_009, "medium", (48, 67), 12)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("i, k", [(9, 4), (4, 9), (5, 5)])
def test_every_view_is_a_picture(clip, view, i, k):
    picture = truth(clip, i, k, view, scale=2)
    assert picture.shape == (96, 134, 3) and picture.dtype == np.uint8
    assert picture.std() > 0 or (view == "flow" and i == k)  # no motion is plain white


def test_an_unknown_view_is_refused(clip):
    with pytest.raises(ValueError, match="view is 'depth': choose one of frame, classes"):
        truth(clip, 0, 0, "depth")


def test_hidden_pixels_are_tinted_and_others_grey(clip):
    frame = torch.zeros(3, 4, 5, dtype=torch.uint8)
    occluded, outside = torch.zeros(4, 5, dtype=torch.bool), torch.zeros(4, 5, dtype=torch.bool)
    occluded[1, 2] = occluded[0, 0] = outside[0, 0] = True
    picture = tint(frame, occluded, outside)
    assert (picture[1, 2] == (0.75 * np.array(OCCLUDED)).astype(np.uint8)).all()
    assert (picture[0, 0] == (0.75 * np.array(OUT_OF_VIEW)).astype(np.uint8)).all()
    assert picture.any(-1).sum() == 2


def test_boxes_are_drawn_around_their_objects(clip):
    boxes = clip.boxes(6)
    picture = draw_boxes(torch.zeros(3, 48, 67, dtype=torch.uint8), boxes, clip.class_names, scale=3)
    for x1, y1, x2, y2 in (boxes.boxes * 3).int().tolist():
        assert picture[(y1 + y2) // 2, x1].any() or picture[(y1 + y2) // 2, x2 - 1].any()


def test_tracks_show_whether_a_point_was_seen(clip):
    picture = truth(clip, 9, 4, "tracks", scale=4)
    assert (picture == 255).all(-1).any()  # white: seen in the other frame
    assert clip.track(9, torch.tensor([[4.0, 4.0]])).points.shape == (12, 1, 2)


def test_a_labelled_frame_of_any_clip(clip):
    assert np.array_equal(labelled(clip), overlay(clip.frames[6], clip.masks[6]))
    sparse = Clip("sparse", clip.frames, masks=clip.masks, labelled=[2], class_names=clip.class_names)
    assert np.array_equal(labelled(sparse), overlay(clip.frames[2], clip.masks[2]))
    boxed = Clip("boxed", clip.frames, class_names=clip.class_names, boxes=clip.boxes)
    assert np.array_equal(labelled(boxed), draw_boxes(clip.frames[6], clip.boxes(6), clip.class_names, 1))
