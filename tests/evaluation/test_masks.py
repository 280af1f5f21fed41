"""Propagation of masks: exact where everything is known, ordered as it must be where it is not."""

import pytest
import torch

from dfflib.data.clips import Clip
from dfflib.data.shapes import ShapesClip
from dfflib.errors import DffError
from dfflib.evaluation.masks import carry, propagation
from dfflib.flow import DISFlow, ExactFlow, FlowNetwork, ZeroFlow
from dfflib.flow.flownet import FlowNetSR
from dfflib.metrics import region_similarity


def test_region_similarity_by_hand():
    one = torch.tensor([[True, True, False]])
    assert region_similarity(one, torch.tensor([[False, True, True]])) == pytest.approx(1 / 3)
    assert region_similarity(one, one) == 1 and region_similarity(~one & one, one & ~one) == 1
    assert region_similarity(one, one & False) == 0


def test_carrying_by_whole_pixels_is_exact():
    mask = torch.zeros(6, 9, dtype=torch.bool)
    mask[2:4, 3:6] = True
    flow = torch.zeros(1, 2, 6, 9)
    flow[:, 0], flow[:, 1] = -2, 1  # the current frame's content lay 2 to the left and 1 below
    assert torch.equal(carry(mask, flow), mask.roll((-1, 2), (0, 1)))
    assert not carry(mask, flow + 100).any()  # from outside: no object


def moving_square(length=9) -> Clip:
    """A square that moves right by 2 pixels a frame, on a textured picture that stands still."""
    rng = torch.Generator().manual_seed(0)
    back, front = (
        torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16, generator=rng), (48, 64), mode="bicubic")[0]
        for _ in range(2)
    )
    frames, masks = [], []
    for t in range(length):
        mask = torch.zeros(48, 64, dtype=torch.bool)
        mask[16:32, 10 + 2 * t : 26 + 2 * t] = True
        frames.append(torch.where(mask, front.roll(2 * t, -1), back).clamp(0, 1).mul(255).to(torch.uint8))
        masks.append(mask.long())
    return Clip("square", torch.stack(frames), masks=torch.stack(masks), class_names=("background", "object"))


def test_dis_beats_copying_and_copying_is_known_by_hand():
    table = propagation(
        [moving_square()], {"copy": ZeroFlow(), "DIS": DISFlow("medium")}, interval=5, chained=["DIS"], keys=3
    )
    j = table.pivot(index="method", columns="offset", values="value")
    for offset in range(5):  # squares 16 wide, 2 * offset apart
        assert j.loc["copy", offset] == pytest.approx(100 * (16 - 2 * offset) / (16 + 2 * offset), abs=1e-3)
    assert (j.loc["DIS", 1:] > j.loc["copy", 1:] + 1).all() and (
        j.loc["DIS, chained", 1:] > j.loc["copy", 1:] + 5
    ).all()
    assert j.loc["DIS", 1] == pytest.approx(j.loc["DIS, chained", 1])
    assert set(table["frames"]) == {3}


def test_exact_flow_shows_what_hid_a_pixel_a_second_time_unless_it_knows_of_occlusion():
    clips = [ShapesClip(2_000_000 + n, "medium", (96, 128), 14) for n in range(3)]
    sources = {"copy": ZeroFlow(), "exact": ExactFlow(), "knowing": ExactFlow(occlusion=True)}
    table = propagation(clips, sources, interval=6, chained=["exact"], keys=2)
    j = table.pivot_table(index="method", columns="offset", values="value")
    assert (j[0] == 100).all() and (j.loc["exact", 1:] > j.loc["copy", 1:]).all()
    assert (j.loc["knowing", 1:] > j.loc["exact", 1:]).all()  # fewer ghosts


def test_ghosts_by_hand():
    clip = ShapesClip(2_000_018, "medium", (96, 128), 14)
    i, k = 9, 5
    truth, start = clip.masks[i] > 0, clip.masks[k] > 0
    plain, knowing = (carry(start, source.at(clip, [i], [k]).flow) for source in (ExactFlow(), ExactFlow(True)))
    occluded = clip.occluded(i, k)
    assert not knowing[occluded].any() and torch.equal(knowing[~occluded], plain[~occluded])
    ghosts = plain & occluded & ~truth
    assert ghosts.sum() > 50


def test_a_network_is_a_source_like_any_other():
    net = FlowNetwork(FlowNetSR(6, 2, 0.05), 4, 4, 1, scale=False)
    table = propagation([moving_square(4)], {"net": net, "copy": ZeroFlow()}, interval=3, keys=1)
    j = table.pivot(index="method", columns="offset", values="value")
    assert torch.allclose(torch.tensor(j.loc["net"]), torch.tensor(j.loc["copy"]))  # untrained: no motion


def test_ignored_pixels_do_not_count():
    clip = moving_square(3)
    clip.masks = clip.masks.clone()
    clip.masks[1][:, 26:] = 255  # what copying gets wrong on the right is not judged
    table = propagation([clip], {"copy": ZeroFlow()}, interval=2, keys=1)
    assert table.set_index("offset")["value"][1] == pytest.approx(100 * 14 / 16)


def test_clips_that_cannot_be_used_are_one_sentence():
    clip = moving_square(4)
    with pytest.raises(DffError, match="no clip has 5 frames"):
        propagation([clip], {"copy": ZeroFlow()}, interval=5)
    sparse = Clip("sparse", clip.frames, masks=clip.masks, labelled=[1])
    with pytest.raises(DffError, match="sparse lacks masks for some of its 4 frames"):
        propagation([sparse], {"copy": ZeroFlow()}, interval=2)


def test_labels_that_are_no_masks_are_refused():
    mask = torch.ones(4, 4, dtype=torch.bool)
    for one, other in ((mask.long() * 255, mask), (mask, mask.float()), (mask, mask[0])):
        with pytest.raises(DffError, match="two bool masks"):
            region_similarity(one, other)
    for label in (7, -1):
        clip = moving_square()
        clip.masks[4, 0, 0] = label
        with pytest.raises(DffError, match=f"frame 4 of square holds the label {label}"):
            propagation([clip], {"copy": ZeroFlow()}, 3)
