"""Statistics of data sets, on clips whose numbers are known."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from dfflib.data.clips import Clip
from dfflib.data.shapes import ShapesClip
from dfflib.data.shapes.scenes import get_level
from dfflib.errors import DffError
from dfflib.evaluation.dataset_statistics import (
    QUANTILES,
    class_frequencies,
    dis_motion,
    exact_motion,
    kinds_of_pixel,
    motion_by_offset,
    motion_quantiles,
    one_pixel_miou,
    render_rate,
)


def test_class_frequencies_count_pixels_and_frames():
    masks = torch.tensor([[[0, 0], [1, 255]], [[0, 0], [0, 0]]])
    clip = Clip("two", torch.zeros(2, 3, 2, 2, dtype=torch.uint8), masks=masks, class_names=("a", "b", "c"))
    found = class_frequencies([clip, clip])
    expected = pd.DataFrame({
        "class": ["a", "b", "c"], "pixels": [12, 2, 0], "share": [12 / 14, 2 / 14, 0.0], "frames": [1.0, 0.5, 0.0],
    })  # fmt: skip
    pd.testing.assert_frame_equal(found, expected)


def test_only_labelled_frames_count():
    masks = torch.tensor([[[0, 0]], [[1, 1]], [[1, 1]], [[1, 1]]])
    clip = Clip(
        "four", torch.zeros(4, 3, 1, 2, dtype=torch.uint8), masks=masks, labelled=[1, 2], class_names=("a", "b")
    )
    assert class_frequencies([clip])["pixels"].tolist() == [0, 4]
    assert class_frequencies([clip], step=2)["pixels"].tolist() == [0, 2]


def sliding(speed: int, size=(64, 96)) -> Clip:
    """A smooth random picture that slides right by ``speed`` pixels a frame."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 40)).astype(np.float32))
    wide = torch.nn.functional.interpolate(coarse, (size[0], 400), mode="bicubic").clamp(0, 255)[0]
    frames = [wide[..., 100 - speed * t : 100 - speed * t + size[1]] for t in range(12)]
    return Clip("sliding", torch.stack(frames).to(torch.uint8))


@pytest.mark.parametrize("speed", [1, 3])
def test_dis_measures_a_sliding_picture(speed):
    clip = sliding(speed)
    flow = dis_motion(clip, 6, 4)
    assert flow.shape == (2, *clip.size)
    assert flow[0, 10:-10, 15:-15].median().item() == pytest.approx(-2 * speed, abs=0.3)
    assert flow[1, 10:-10, 15:-15].abs().median().item() < 0.3
    rows = motion_quantiles([clip], (1, 2), pairs=2)
    middle = rows[rows["quantile"] == 0.5].set_index("offset")["value"]
    assert middle[1] == pytest.approx(2 * speed, abs=0.5)  # in units: the shorter side of 64 pixels is 128 units long
    assert middle[2] == pytest.approx(4 * speed, abs=0.8)


def test_quantiles_of_exact_flow_grow_and_do_not_depend_on_the_size():
    small, large = ([ShapesClip(s, "medium", size, 12) for s in range(3)] for size in ((48, 48), (96, 96)))
    one, other = (motion_quantiles(clips, (1, 5), exact_motion, 2) for clips in (small, large))
    assert list(one.columns) == ["offset", "quantile", "value"] and len(one) == 2 * len(QUANTILES)
    np.testing.assert_allclose(one["value"], other["value"], rtol=0.1)
    wide = one.pivot(index="quantile", columns="offset", values="value")
    assert (wide[5] > wide[1]).all() and wide[1].is_monotonic_increasing


def test_clips_that_are_too_short_are_left_out():
    assert motion_quantiles([ShapesClip(0, "easy", (16, 16), 3)], (5,), exact_motion).empty


def test_render_rate_is_a_rate_and_leaves_threads_as_they_were():
    threads = cv2.getNumThreads()
    assert render_rate("easy", (16, 16), clips=3, frames=2) > 0
    assert cv2.getNumThreads() == threads


@pytest.mark.parametrize("i, k", [(9, 4), (6, 6)])
def test_kinds_of_pixel_share_the_frame(i, k):
    clip = ShapesClip(2_000_018, "medium", (65, 96), 12)
    kinds = kinds_of_pixel(clip, i, k)
    assert torch.equal(sum(mask.int() for mask in kinds.values()), torch.ones(65, 96, dtype=torch.int32))
    covered, outside, outline, _ = kinds.values()
    assert torch.equal(covered | outside, clip.occlusion(i, k)) and torch.equal(outside, clip.out_of_view(i, k))
    assert (covered.any() and outside.any()) if i != k else not (covered | outside).any()
    labels = clip.masks[i]
    for y, x in torch.nonzero(~clip.occlusion(i, k))[::37].tolist():  # by the definition, pixel by pixel
        window = labels[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
        assert outline[y, x] == (len(window.unique()) > 1)


def test_motion_by_offset_is_exact_where_the_clip_knows_it():
    clip = ShapesClip(5, "study", (48, 64), 10)
    found = motion_by_offset([clip], (1, 5), pairs=2).set_index(["metric", "offset"])
    assert found["unit"].to_dict() == {
        ("displacement", 1): "% of width", ("unseen", 1): "%", ("displacement", 5): "% of width", ("unseen", 5): "%",
    }  # fmt: skip
    lengths = [100 / 64 * clip.flow(i, i - 5).norm(dim=0).mean().item() for i in (5, 9)]
    assert found["value"]["displacement", 5] == pytest.approx(np.mean(lengths))
    hidden = [100 * clip.occlusion(i, i - 5).float().mean().item() for i in (5, 9)]
    assert found["value"]["unseen", 5] == pytest.approx(np.mean(hidden)) and np.mean(hidden) > 0


def test_a_pan_moves_alike_at_every_size_and_uncovers_a_margin():
    pan = get_level("study", shapes=(0, 0), turn=0.0, growth=0.0, still_camera=0.0)
    small, large = (ShapesClip(5, pan, size, 10) for size in ((48, 48), (96, 96)))
    x, y = (large.flow(9, 0).mean((1, 2)) / 96).abs().tolist()
    for clip, coarse in ((small, 2.5), (large, 1.2)):
        displacement, unseen = motion_by_offset([clip], (9,), pairs=1)["value"]
        assert displacement == pytest.approx(100 * np.hypot(x, y), rel=1e-3)
        assert unseen == pytest.approx(100 * (x + y - x * y), abs=coarse), "to whole rows and columns"


def test_real_video_has_dis_flow_and_does_not_know_what_is_hidden():
    found = motion_by_offset([sliding(2)], (2,), pairs=2).set_index("metric")["value"]
    assert found["displacement"] == pytest.approx(100 * 4 / 96, abs=0.8) and np.isnan(found["unseen"])


@pytest.mark.parametrize("measure", [motion_by_offset, motion_quantiles])
def test_no_pair_lies_across_a_cut(measure, monkeypatch):
    seen = []

    def flow(key, current, size):
        seen.append((key.mean().item(), current.mean().item()))
        return [torch.zeros(1, 2, *size)]

    monkeypatch.setattr("dfflib.evaluation.dataset_statistics.DISFlow", lambda preset: flow)
    frames = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
    frames[5:] = 255
    measure([Clip("cut", frames)], (1, 6), pairs=12)
    assert seen and all(key == current for key, current in seen)


def flat(colours: list[int], labels: list[int]) -> Clip:
    """One row of pixels, each an object of its own, grey as given."""
    grey, label = torch.tensor(colours, dtype=torch.uint8), torch.tensor(labels)
    objects = torch.where((label > 0) & (label < 255), torch.arange(1, len(labels) + 1), label)
    return Clip(
        "flat",
        grey.expand(1, 3, 1, -1),
        masks=label[None, None],
        instances=objects[None, None],
        class_names=("bg", "a", "b"),
    )


def test_one_pixel_is_enough_where_colour_tells_the_class_and_ignored_pixels_do_not_count():
    clip = flat([0, 0, 120, 240, 240], [0, 0, 1, 2, 255])
    found = one_pixel_miou([clip], [clip])
    assert found["one pixel"] == 100 and found["background"] == pytest.approx(100 * 0.5 / 3)


def test_where_colour_tells_objects_from_the_background_alone_dealing_classes_anew_changes_nothing():
    rng = np.random.default_rng(3)
    clips = [flat([0] * 100 + [240] * 100, [0] * 100 + rng.integers(1, 3, 100).tolist()) for _ in range(40)]
    found = one_pixel_miou(clips[:20], clips[20:])
    assert found["background"] < found["one pixel"] == pytest.approx(found["one pixel, classes dealt"], abs=3)


def test_classes_cannot_be_read_from_pixels_that_are_not_there():
    with pytest.raises(DffError, match="there are 0 clips to train on and 1 to validate: give one or more of each"):
        one_pixel_miou([], [flat([0], [0])])
