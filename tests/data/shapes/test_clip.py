"""The Shapes world: every kind of ground truth against the pictures, against itself, and against a naive reference."""

import hashlib
import itertools
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import masks_to_boxes

from dfflib.data.shapes import ShapesClip
from dfflib.data.shapes.outlines import CLASS_NAMES, distance
from dfflib.data.shapes.scenes import HARD, LEVELS, MEDIUM
from dfflib.errors import DffError
from dfflib.warp import compose, in_view, warp

CLEAN = replace(MEDIUM, noise=0.0, light=0.0, blur=0.0)  # what differs between frames is motion alone
STILL = replace(CLEAN, speed=0.0, camera=0.0, turn=0.0, growth=0.0, bend=0.0)
ROOT = Path(__file__).parents[3]
SEEDS = (3, 1_000_004, 2_000_005, 2_000_011)


def alike_around(instances: torch.Tensor, radius: int = 2) -> torch.Tensor:
    """Pixels whose whole neighbourhood belongs to one object, so that no soft edge is near; (H, W) bool."""
    padded = F.pad(instances[None, None].float(), (radius,) * 4, mode="replicate")
    side = 2 * radius + 1
    return (F.max_pool2d(padded, side, 1) == -F.max_pool2d(-padded, side, 1))[0, 0]


def lookup_error(frame: torch.Tensor) -> torch.Tensor:
    """Bound of what bilinear interpolation can be wrong by, pixel by pixel: an eighth of the second differences per axis,
    the largest within two pixels, doubled since the picture between the pixels bends more than its samples; (H, W)."""
    x = F.pad((frame[..., 2:] - 2 * frame[..., 1:-1] + frame[..., :-2]).abs(), (1, 1))
    y = F.pad((frame[..., 2:, :] - 2 * frame[..., 1:-1, :] + frame[..., :-2, :]).abs(), (0, 0, 1, 1))
    return 2 * F.max_pool2d((x + y)[None] / 8, 5, 1, 2)[0].amax(0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("offset", [1, 4, -3])
def test_the_exact_flow_carries_one_frame_onto_another(seed, offset):
    clip = ShapesClip(seed, CLEAN, (96, 128), 16)
    i, k = 8, 8 - offset
    current, key = clip.frames[i].float(), clip.frames[k].float()
    flow = clip.flow(i, k)[None]
    plain = warp(alike_around(clip.instances[k])[None, None].float(), flow)[0, 0] > 0.999
    clear = ~clip.occlusion(i, k) & alike_around(clip.instances[i]) & plain
    assert clear.float().mean() > 0.3
    residual = (warp(key[None], flow)[0] - current).abs().amax(0)
    bound = (
        warp(lookup_error(key)[None, None], flow, "border")[0, 0] + 1.5
    )  # two roundings to whole grey levels, and a half
    assert (residual <= bound)[clear].float().mean() > 0.998
    assert residual[clear].mean() < 2.5
    # The test can fail: a flow that is wrong by a quarter of a pixel leaves clearly more.
    wrong = (warp(key[None], flow + 0.25)[0] - current).abs().amax(0)
    assert wrong[clear].mean() > 1.3 * residual[clear].mean()


@pytest.mark.parametrize("level", ["medium", "hard"])
@pytest.mark.parametrize("seed", SEEDS)
def test_occlusion_against_the_objects_that_the_other_frame_shows(seed, level):
    """Naive reference: look at the pixel nearest to the landing point; it shows another object exactly if occluded."""
    clip = ShapesClip(seed, level, (80, 101), 12)
    i, k = 10, 3
    flow, occluded, outside = clip.flow(i, k), clip.occluded(i, k), clip.out_of_view(i, k)
    torch.testing.assert_close(outside, ~in_view(flow[None])[0, 0])
    assert torch.equal(clip.occlusion(i, k), occluded | outside)
    here, there, plain = clip.instances[i], clip.instances[k], alike_around(clip.instances[k], 1)
    judged = 0
    for y in range(0, 80, 3):
        for x in range(0, 101, 3):
            if outside[y, x]:
                continue
            to_x, to_y = round(x + flow[0, y, x].item()), round(y + flow[1, y, x].item())
            if plain[to_y, to_x]:
                judged += 1
                assert (there[to_y, to_x] != here[y, x]) == occluded[y, x], (x, y)
                assert there[to_y, to_x] >= here[y, x] or not occluded[y, x]  # only what is in front can hide it
    assert judged > 150


@pytest.mark.parametrize("seed", SEEDS)
def test_flows_chain(seed):
    clip = ShapesClip(seed, CLEAN, (96, 96), 12)
    i, j, k = 9, 6, 2
    direct, chained = clip.flow(i, k), compose(clip.flow(i, j)[None], clip.flow(j, k)[None])[0]
    plain = warp(alike_around(clip.instances[j])[None, None].float(), clip.flow(i, j)[None])[0, 0] > 0.999
    clear = ~clip.occlusion(i, j) & plain
    error = (direct - chained).norm(dim=0)[clear]
    assert (
        clear.float().mean() > 0.3 and error.max() < 0.05
    )  # layers move smoothly; bending is what bilinear reading misses


@pytest.mark.parametrize("seed", SEEDS)
def test_flow_there_and_back_cancels_exactly_where_tracked(seed):
    clip = ShapesClip(seed, "hard", (65, 97), 10)
    points = torch.tensor([[3.25, 4.5], [50.0, 30.0], [96.0, 64.0], [20.7, 60.1]])
    tracks = clip.track(7, points)
    torch.testing.assert_close(tracks.points[7], points)
    back = clip.track(2, tracks.points[2])
    unhidden = tracks.visible[2]
    torch.testing.assert_close(back.points[7][unhidden], points[unhidden], atol=1e-4, rtol=0)
    assert torch.equal(back.instances[unhidden], tracks.instances[unhidden])


@pytest.mark.parametrize("seed", SEEDS)
def test_tracks_agree_with_flow_and_occlusion(seed):
    clip = ShapesClip(seed, "medium", (72, 90), 9)
    y, x = torch.meshgrid(torch.arange(0, 72, 5), torch.arange(0, 90, 5), indexing="ij")
    x, y = x.flatten(), y.flatten()
    tracks = clip.track(4, torch.stack((x, y), -1).float())
    assert torch.equal(tracks.instances, clip.instances[4][y, x])
    for t in range(9):
        moved = torch.stack((x, y), -1) + clip.flow(4, t)[:, y, x].T
        torch.testing.assert_close(tracks.points[t], moved, atol=1e-4, rtol=0)
        assert torch.equal(tracks.visible[t], ~clip.occlusion(4, t)[y, x])


def test_tracks_of_the_grid_start_in_the_first_frame():
    clip = ShapesClip(8, "medium", (64, 96), 5)
    tracks = clip.tracks
    assert tracks.points.shape == (5, 16 * 24, 2) and tracks.visible.shape == (5, 16 * 24)
    assert tracks.visible[0].all() and not tracks.visible[1:].all()
    assert tracks.points.dtype == torch.float32


@pytest.mark.parametrize("level", LEVELS)
def test_boxes_enclose_what_is_seen(level):
    partly = 0
    for seed in range(4):
        clip = ShapesClip(seed, level, (63, 94), 20)
        for i in (0, 13):
            instances, boxes = clip.instances[i], clip.boxes(i)
            present = instances.unique()[1:] if (instances == 0).any() else instances.unique()
            assert torch.equal(boxes.tracks, present) and len(boxes) == len(present)
            if len(present):
                expected = masks_to_boxes(instances == present[:, None, None])
                expected[:, 2:] += 1  # torchvision's are inclusive, ours half open
                assert torch.equal(boxes.boxes, expected)
            assert torch.equal(boxes.labels, clip.classes[present])
            partly += int(boxes.occluded.sum())
    assert level == "easy" or partly > 0


def test_masks_are_the_classes_of_the_instances():
    clip = ShapesClip(2_000_001, "hard", (50, 61), 6)
    assert torch.equal(clip.masks[3], clip.classes[clip.instances[3]])
    assert (
        clip.class_names == CLASS_NAMES
        and clip.masks[3].dtype == torch.int64
        and clip.masks[3].max() < len(CLASS_NAMES)
    )


def test_labels_are_those_of_the_frontmost_shape_at_the_pixel_centre():
    clip = ShapesClip(5, "hard", (40, 57), 4)
    poses = clip.scene.poses(2, clip.size)
    instances = clip.instances[2]
    for y, x in np.random.default_rng(0).integers(0, (40, 57), (300, 2)):
        front = 0
        for number, (layer, pose) in enumerate(zip(clip.scene.layers, poses)):
            if number and distance(layer.label, *pose.to_material(np.float64(x), np.float64(y))) < 0:
                front = number
        assert instances[y, x] == front


def test_edges_are_soft_and_labels_sit_in_their_middle():
    """A white disc on black: the picture's brightness is the disc's area, to the hundredth, so edges cover the right share."""
    clip = next(c for c in (ShapesClip(s, replace(STILL, shapes=(1, 1)), (128, 128), 1) for s in range(300))
                if c.scene.layers[1].label == 1 and len(c.boxes(0)) and not _touches_edge(c))  # fmt: skip
    back, disc = clip.scene.layers
    white = replace(disc, texture=np.full_like(disc.texture, 255))
    clip.scene = replace(clip.scene, layers=(replace(back, texture=np.zeros_like(back.texture)), white))
    picture = clip.frames[0][0].double() / 255
    area = np.pi * 0.85**2 * np.prod(disc.radius)
    assert picture.sum().item() == pytest.approx(area, rel=0.01)
    assert clip.masks[0].bool().sum().item() == pytest.approx(area, rel=0.02)
    assert ((picture > 0.02) & (picture < 0.98)).sum() > 50  # there are soft pixels
    assert torch.equal(picture > 0.5 + 1 / 255, clip.masks[0].bool() & (picture > 0.5 + 1 / 255))


def _touches_edge(clip: ShapesClip) -> bool:
    x1, y1, x2, y2 = clip.boxes(0).boxes[0]
    return x1 <= 1 or y1 <= 1 or x2 >= clip.size[1] - 1 or y2 >= clip.size[0] - 1


def test_nothing_changes_where_nothing_moves():
    clip = ShapesClip(9, STILL, (64, 80), 12)
    for i in (4, 11):
        assert torch.equal(clip.masks[i], clip.masks[0]) and torch.equal(clip.frames[i], clip.frames[0])
        assert clip.flow(i, 0).abs().max() < 1e-5 and not clip.occlusion(i, 0).any()


def test_a_frame_has_no_flow_to_itself():
    clip = ShapesClip(10, "hard", (33, 47), 5)
    assert not clip.flow(3, 3).any() and not clip.occlusion(3, 3).any()
    assert torch.equal(clip.flow(-1, 0), clip.flow(4, 0))
    with pytest.raises(IndexError, match="frame 5 of a clip of 5 frames"):
        clip.flow(5, 0)


def test_objects_enter_and_leave():
    entering = leaving = 0
    for seed in range(6):
        clip = ShapesClip(seed, "medium", (64, 64), 60)
        seen = [set(clip.boxes(i).tracks.tolist()) for i in (0, 20, 40, 59)]
        entering += sum(len(b - a) for a, b in itertools.pairwise(seen))
        leaving += sum(len(a - b) for a, b in itertools.pairwise(seen))
    assert entering and leaving


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2_999_999),
    level=st.sampled_from(list(LEVELS)),
    height=st.integers(16, 70),
    width=st.integers(16, 70),
)
def test_any_seed_size_and_level_gives_whole_clips(seed, level, height, width):
    clip = ShapesClip(seed, level, (height, width), 4)
    assert clip.frames[:].shape == (4, 3, height, width) and clip.frames[0].dtype == torch.uint8
    assert clip.masks[1:3].shape == (2, height, width) and clip.size == (height, width)
    flow = clip.flow(3, 0)
    assert flow.shape == (2, height, width) and flow.dtype == torch.float32 and flow.isfinite().all()
    assert clip.occlusion(3, 0).shape == (height, width)


def fingerprint(clip: ShapesClip) -> str:
    parts = [
        clip.frames[:],
        clip.masks[:],
        clip.flow(3, 0),
        clip.occlusion(3, 0),
        clip.boxes(2).boxes,
        clip.tracks.points,
    ]
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()


@pytest.mark.parametrize("level", ["medium", "hard"])
def test_the_same_bytes_in_another_process(level):
    code = f"from tests.data.shapes.test_clip import *; print(fingerprint(ShapesClip(77, {level!r}, (49, 66), 4)))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    ).stdout.split()[-1]
    assert found == fingerprint(ShapesClip(77, level, (49, 66), 4))


def test_frames_do_not_depend_on_the_order_they_are_asked_for_or_on_the_length():
    clip, longer = ShapesClip(12, "hard", (40, 40), 6), ShapesClip(12, "hard", (40, 40), 50)
    backward = [clip.frames[i] for i in reversed(range(6))][::-1]
    assert torch.equal(torch.stack(backward), longer.frames[:6])


def test_the_world_is_the_same_at_every_size():
    small, large = ShapesClip(2_000_003, CLEAN, (64, 96), 8), ShapesClip(2_000_003, CLEAN, (192, 288), 8)
    assert (small.masks[5] == large.masks[5][1::3, 1::3]).float().mean() > 0.99
    ratio = large.flow(5, 1)[:, 1::3, 1::3].norm(dim=0).mean() / small.flow(5, 1).norm(dim=0).mean()
    assert ratio.item() == pytest.approx(3, rel=0.02)
    blurred = F.avg_pool2d(large.frames[5].float(), 3)
    assert (blurred - small.frames[5].float()).abs().mean() < 8


def test_light_noise_blur_and_shutter_change_the_picture_and_nothing_else():
    plain = ShapesClip(14, CLEAN, (48, 48), 6)
    for change in ({"noise": 5.0}, {"light": 0.3}, {"blur": 1.0}, {"shutter": 0.8}):
        other = ShapesClip(14, replace(CLEAN, **change), (48, 48), 6)
        assert (other.frames[4].float() - plain.frames[4].float()).abs().mean() > 0.3, change
        assert torch.equal(other.masks[4], plain.masks[4]) and torch.equal(other.flow(4, 1), plain.flow(4, 1))


def test_clips_survive_pickling():
    clip = ShapesClip(15, HARD, (32, 40), 5, fps=12.0)
    copy = pickle.loads(pickle.dumps(clip))
    assert torch.equal(copy.frames[3], clip.frames[3]) and copy.fps == 12.0 and len(copy) == 5


def test_windows_keep_boxes_and_instances():
    clip = ShapesClip(16, "medium", (40, 40), 10)
    window = clip.window(4, 8)
    assert torch.equal(window.instances[1], clip.instances[5]) and torch.equal(
        window.boxes(1).boxes, clip.boxes(5).boxes
    )
    assert torch.equal(window.in_memory().frames[-1], clip.frames[7])


@pytest.mark.parametrize("size, frames", [((15, 40), 5), ((40, 40), 0)])
def test_impossible_clips_are_refused(size, frames):
    with pytest.raises(DffError, match="ask for 1 frame or more, and for 16 pixels or more"):
        ShapesClip(0, "easy", size, frames)
