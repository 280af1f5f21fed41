"""Feature networks: sizes round up, normalisation is inside, features are what the head expects."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dfflib.models.keyframe import (
    FlowNetSegmenter,
    LargePyramidSegmenter,
    Normalise,
    PyramidSegmenter,
    ResidualSegmenter,
)  # fmt: skip
from dfflib.models.task import Segmentation

torch.manual_seed(0)
NETS = {
    "residual": ResidualSegmenter(8, (1, 2)).eval(),
    "pyramid": PyramidSegmenter(8).eval(),
    "large_pyramid": LargePyramidSegmenter(8).eval(),
    "flownet_s": FlowNetSegmenter(3, 0.03).eval(),
}


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(name=st.sampled_from(list(NETS)), height=st.integers(4, 50), width=st.integers(4, 50))
def test_sizes_round_up_at_the_stride(name, height, width):
    net = NETS[name]
    with torch.no_grad():
        features = net(images(1, 3, height, width))
    assert net.stride == (2 if "pyramid" in name else 4)
    assert features.shape == (1, net.channels, math.ceil(height / net.stride), math.ceil(width / net.stride))


def test_channels():
    assert NETS["residual"].channels == 8 and ResidualSegmenter().channels == 64
    assert NETS["pyramid"].channels == 8 and PyramidSegmenter().channels == 32
    assert [stage[0].out_channels for stage in NETS["large_pyramid"].halve] == [12, 16, 16]
    assert NETS["flownet_s"].channels == 3, "the prototype propagates scores, one map per class"
    assert sum(isinstance(m, nn.Conv2d) for m in ResidualSegmenter(8, (1, 2, 4)).modules()) == 2 + 2 * 3


@pytest.mark.parametrize("name", ["residual", "pyramid", "large_pyramid"])
def test_features_come_out_of_a_relu_and_scores_do_not(name):
    with torch.no_grad():
        features, scores = (NETS[n](images(2, 3, 40, 40)) for n in (name, "flownet_s"))
    assert features.min() == 0 and features.max() > 0 and scores.min() < 0


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_pyramid_split_before_its_last_blocks_finishes_as_the_whole_does(blocks):
    split = PyramidSegmenter(8, blocks).eval()
    split.load_state_dict(NETS["pyramid"].state_dict())  # names of parameters do not depend on the split
    frames = images(2, 3, 37, 45)
    with torch.no_grad():
        features = split(frames)
        torch.testing.assert_close(split.finish(features), NETS["pyramid"](frames))
    assert len(split.finish) == blocks and features.shape == (2, 8, 19, 23) and features.min() >= 0


@pytest.mark.parametrize("blocks", [-1, 3])
def test_a_pyramid_cannot_be_split_elsewhere(blocks):
    with pytest.raises(ValueError, match=f"task_blocks is {blocks}: choose 0 to 2"):
        PyramidSegmenter(8, blocks)


def test_a_pyramid_sees_far_more_than_a_residual_network_of_as_many_blocks():
    """A change in a corner of the frame reaches features that far away, through stride 16."""
    frame = images(1, 3, 256, 256)
    other = frame.clone()
    other[..., :8, :8] = 1 - other[..., :8, :8]
    with torch.no_grad():
        reach = [
            net.stride * torch.nonzero((net(frame) - net(other)).abs().amax((0, 1)).gt(0).any(0)).max().item()
            for net in (PyramidSegmenter(8).eval(), ResidualSegmenter(8, (1,) * 12).eval())
        ]
    assert reach[0] > reach[1] + 40  # pixels


def test_normalisation_is_that_of_imagenet_per_channel():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    white = Normalise()(torch.ones(1, 3, 2, 2))[0, :, 0, 0]
    torch.testing.assert_close(white, torch.tensor([(1 - m) / s for m, s in zip(mean, std)]))
    assert not Normalise().state_dict(), "constants are no weights"


@pytest.mark.parametrize("name", list(NETS))
def test_normalisation_is_inside(name):
    net, seen = NETS[name], []
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    frame = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    with torch.no_grad():
        net(frame)
    hook.remove()
    assert seen[0].abs().max() < 1e-6, "the mean colour arrives as zero"


def test_normalisation_moves_with_the_network():
    assert NETS["residual"].normalise.mean.dtype == torch.float32
    net = ResidualSegmenter(4, ()).double().eval()
    assert net(images(1, 3, 8, 8).double()).dtype == torch.float64


def test_a_residual_block_is_the_identity_where_its_branch_is_zero():
    net = ResidualSegmenter(6, (2,)).eval()
    block, x = net.blocks[0], images(1, 6, 5, 7)
    nn.init.zeros_(block.conv2.weight)
    torch.testing.assert_close(block(x), x)
    assert block.conv1.dilation == block.conv1.padding == (2, 2)


def test_head_is_one_1x1_convolution():
    head = Segmentation(5).network(8)
    assert type(head) is nn.Conv2d and head.weight.shape == (5, 8, 1, 1) and not head.bias.any()


@pytest.mark.parametrize("name", list(NETS))
def test_every_weight_learns(name):
    torch.manual_seed(0)
    net = {
        "residual": lambda: ResidualSegmenter(8, (1, 2)),
        "pyramid": lambda: PyramidSegmenter(8),
        "large_pyramid": lambda: LargePyramidSegmenter(8),
        "flownet_s": lambda: FlowNetSegmenter(2, 0.03),
    }[name]()
    out = net(images(2, 3, 64, 64))
    (out * torch.randn(out.shape)).sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
