"""The network that corrects classical flow: what it starts from, what it makes of any size, and what an encoded key gives."""

import pytest
import torch

from dfflib.data.shapes import ShapesClip
from dfflib.flow import DISFlow, FlowNetwork, end_point_error, multiscale_loss
from dfflib.flow.refined import RefinedFlowNet
from dfflib.models.build import build


def source(**options) -> FlowNetwork:
    torch.manual_seed(0)
    return FlowNetwork(RefinedFlowNet(width=0.5), 8, 2, **{"input_stride": 2} | options).eval()


def pair(size=(64, 96), apart=2):
    clip = ShapesClip(1_000_003, "study", size, 12)
    return clip.frames[9 - apart][None] / 255, clip.frames[9][None] / 255, clip.flow(9, 9 - apart)[None]


def test_an_untrained_network_says_nearly_what_classical_flow_says():
    key, current, truth = pair()
    with torch.no_grad():
        flow = source().image_flow(key, current)
    guess = DISFlow("quick", input_stride=2).image_flow(key, current)
    apart = (flow - guess).norm(dim=1).mean()
    assert apart < 0.5 * guess.norm(dim=1).mean()
    assert end_point_error(flow, truth) < truth.norm(dim=1).mean()


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (35, 64), (40, 37)])
@pytest.mark.parametrize("batch", [1, 3])
def test_levels_have_their_sizes_whatever_the_picture(size, batch):
    levels, seen = RefinedFlowNet(width=0.25)(torch.rand(batch, 6, *size) - 0.45)
    for level, stride in zip(levels, (4, 2, 1), strict=True):
        half = [-(-side // 2) for side in size]
        expected = {1: size, 2: tuple(half), 4: tuple(-(-side // 2) for side in half)}[stride]
        assert level.shape == (batch, 2, *expected)
    assert seen.shape[-2:] == tuple(-(-side // 2) for side in size) and all(level.isfinite().all() for level in levels)


def test_a_key_frame_is_encoded_once_for_many():
    flow_source = source()
    frames = torch.cat([pair(apart=n)[0] for n in (1, 2, 3)])
    key = pair(apart=5)[0]
    with torch.no_grad():
        together, scale = flow_source(key.expand(3, -1, -1, -1), frames, (32, 48))
        encoded = flow_source.encode_key(key)
        apart, _ = flow_source.estimate(encoded, frames, (32, 48))
        rows, _ = flow_source.estimate(flow_source.rows(encoded, [0, 0]), frames[1:], (32, 48))
    assert scale.shape == (3, 8, 32, 48)
    # the last fit to the pictures makes more of what was rounded differently
    torch.testing.assert_close(apart, together, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(rows, together[1:], atol=2e-3, rtol=1e-3)


def test_it_learns_from_true_flow_and_every_weight_takes_part():
    torch.manual_seed(1)
    net = FlowNetwork(RefinedFlowNet(width=0.5), 8, 2, 2)
    key, current, truth = pair((64, 64), 5)
    optimizer, losses = torch.optim.Adam(net.net.parameters(), 1e-3), []
    for _ in range(30):
        loss = multiscale_loss(net.predictions(key, current)[0], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.net.parameters())


def test_its_work_is_counted_without_that_of_opencv():
    from dfflib.evaluation.flops import component_flops

    with torch.device("meta"):
        model = build(features=dict(name="pyramid", channels=8), flow=dict(name="refined", width=1.0, input_stride=2))
    assert 2e7 < component_flops(model, (128, 128))["F"] < 1e8
