"""FlowNet Inception against Table 8, typed a second time; its decoder; and flow networks at stride 16 as published."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dfflib.flow import FlowNetwork, multiscale_loss
from dfflib.flow.flownet import FlowNetS
from dfflib.flow.inception import Block, FlowNetInception, InceptionBlock
from dfflib.models.build import build

TABLE_8 = """
conv1   | 7x7 conv     | 2 | 32  |     |         |          |
pool1   | 3x3 max pool | 2 | 32  |     |         |          |
conv2   | Inception    | 1 | 64  | -   | 24-32   | 24-32-32 |
conv3_1 | 3x3 conv     | 2 | 128 |     |         |          |
conv3_2 | Inception    | 1 | 128 | 48  | 32-64   | 8-16-16  |
conv3_3 | Inception    | 1 | 128 | 48  | 48-64   | 12-16-16 |
conv4_1 | Reduction    | 2 | 256 | 32  | 112-128 | 28-32-32 | 64
conv4_2 | Inception    | 1 | 256 | 96  | 112-128 | 28-32-32 |
conv5_1 | Reduction    | 2 | 384 | 48  | 96-192  | 36-48-48 | 96
conv5_2 | Inception    | 1 | 384 | 144 | 96-192  | 36-48-48 |
conv6_1 | Reduction    | 2 | 512 | 64  | 192-256 | 48-64-64 | 128
conv6_2 | Inception    | 1 | 512 | 192 | 192-256 | 48-64-64 |
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in TABLE_8.strip().splitlines()]
BLOCKS = [row for row in ROWS if row[1] in ("Inception", "Reduction")]
TINY = FlowNetInception(6, 2, 0.05).eval()


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def branches(row):
    """Channels along each branch of a row of the table."""
    return [[int(c) for c in cell.split("-")] for cell in row[4:] if cell not in ("", "-")]


@pytest.fixture(scope="module")
def net():
    return FlowNetInception()


@pytest.mark.parametrize("row", BLOCKS, ids=[r[0] for r in BLOCKS])
def test_out_is_the_sum_of_branches(row):
    assert sum(branch[-1] for branch in branches(row)) == int(row[3])
    block = dict(FlowNetInception.ENCODER)[row[0]]
    assert block.outputs == int(row[3]) == InceptionBlock(5, block).channels
    assert [list(b) for b in block.branches] == branches(row)
    assert (block.pool is not None) == (row[1] == "Reduction")


def test_layers_equal_the_table(net):
    assert [name for name, _ in net.ENCODER] == [row[0] for row in ROWS]
    previous = 6
    for name, kind, stride, out, *_ in ROWS:
        layer, stride, out = net.get_submodule(name), int(stride), int(out)
        if "pool" in kind:
            assert type(layer) is nn.MaxPool2d and layer.kernel_size == 3 and layer.stride == stride
        elif "conv" in kind:
            kernel = int(kind[0])
            assert layer[0].weight.shape == (out, previous, kernel, kernel) and layer[0].stride == (stride, stride)
        else:
            check_block(layer, branches(next(r for r in ROWS if r[0] == name)), previous, kind == "Reduction")
        x = layer(torch.zeros(1, previous, 9, 12))
        assert x.shape == (1, out, math.ceil(9 / stride), math.ceil(12 / stride))
        previous = out


def check_block(block, table, inputs, reduction):
    """Every branch: 1x1 first, 3x3 after, stride 2 once in each branch of a Reduction and nowhere else."""
    assert len(block.branches) == len(table)
    for number, (branch, counts) in enumerate(zip(block.branches, table)):
        pools = [m for m in branch if isinstance(m, nn.MaxPool2d)]
        layers, previous = [m[0] for m in branch if isinstance(m, nn.Sequential)], inputs
        assert len(pools) == (reduction and number == len(table) - 1) and len(layers) == len(counts)
        for place, (layer, count) in enumerate(zip(layers, counts)):
            kernel = 3 if place else 1
            assert layer.weight.shape == (count, previous, kernel, kernel) and layer.bias is not None
            previous = count
        strides = [p.stride for p in pools] + [layer.stride[0] for layer in layers]
        assert math.prod(strides) == (2 if reduction else 1)
        assert pools or set(strides[:-1]) <= {1}, "halved in the last convolution"


def test_parameter_count_equals_the_sum_over_the_table(net):
    total, previous, out_of = 0, 6, {}
    for row in ROWS:
        name, kind, out = row[0], row[1], int(row[3])
        chains = [[out]] if "conv" in kind else branches(row)
        for chain in chains:
            seen = previous
            for place, count in enumerate(chain):
                kernel = int(kind[0]) if "conv" in kind else 3 if place else 1
                total, seen = total + kernel**2 * seen * count + count, count
        previous = out_of[name] = out
    assert sum(p.numel() for n, p in net.named_parameters() if n.startswith(("conv", "pool"))) == total
    for skip, count in (("conv5_2", 256), ("conv4_2", 128), ("conv3_3", 64), ("conv2", 32)):
        total += 9 * previous * 2 + 2 + 16 * 2 * 2 + 2 + 16 * previous * count + count
        previous = out_of[skip] + count + 2
    total += 9 * previous * 2 + 2
    assert sum(p.numel() for p in net.parameters()) == total == 6_496_022
    assert net.channels == previous == 98 and net.strides == (64, 32, 16, 8, 4)


def test_reduction_block_by_hand():
    block = InceptionBlock(3, Block(11, 2, (4, 3), (2, 2, 5), 1)).double()
    x = images(2, 3, 7, 10).double() - 0.5

    def run(x, layer, stride=1):
        x = F.conv2d(x, layer[0].weight, layer[0].bias, stride, layer[0].kernel_size[0] // 2)
        return torch.where(x > 0, x, 0.1 * x)

    one, three, five, (_, pooled) = block.branches
    padded = F.pad(x, (1, 1, 1, 1), value=-math.inf).unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))
    expected = [
        run(x, one[0], 2),
        run(run(x, three[0]), three[1], 2),
        run(run(run(x, five[0]), five[1]), five[2], 2),
        run(padded, pooled),
    ]
    torch.testing.assert_close(block(x), torch.cat(expected, 1))


@settings(max_examples=30)
@given(height=st.integers(4, 70), width=st.integers(4, 70))
def test_every_level_rounds_up(height, width):
    with torch.no_grad():
        predictions, decoder = TINY(torch.zeros(1, 6, height, width))
    sizes = [(math.ceil(height / s), math.ceil(width / s)) for s in (64, 32, 16, 8, 4)]
    assert [p.shape for p in predictions] == [(1, 2, *size) for size in sizes]
    assert decoder.shape == (1, TINY.channels, *sizes[-1])


@pytest.mark.parametrize("width", [0.25, 0.5, 2.0])
def test_width_scales_every_count(width):
    net = FlowNetInception(6, 2, width)
    assert net.conv1[0].out_channels == 32 * width and net.conv6_2.channels == 512 * width
    assert [d[0].out_channels for d in net.deconv] == [256 * width, 128 * width, 64 * width, 32 * width]
    assert net.channels == (64 + 32) * width + 2


def test_every_weight_learns():
    torch.manual_seed(0)
    network = FlowNetwork(FlowNetInception(6, 2, 0.25), 5, 16)
    frames = images(2, 3, 70, 90), images(2, 3, 70, 90, seed=1)
    nn.init.normal_(network.net.predict[-1].weight)
    levels, _decoder = network.predictions(*frames)
    loss = multiscale_loss(levels, 9 * images(2, 2, 70, 90)) + network(*frames, (5, 6))[1].square().mean()
    loss.backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


# --------------------------------------------------------------------------------- at stride 16, as the paper runs it


@pytest.mark.parametrize("make", [lambda: FlowNetS(6, 2, 0.05), lambda: FlowNetInception(6, 2, 0.1)])
def test_starts_as_a_copy_in_units_of_two_and_a_half_cells(make):
    network = FlowNetwork(make(), 7, feature_stride=16, input_stride=2)
    flow, scale = network(images(2, 3, 65, 97), images(2, 3, 65, 97, seed=1), (5, 7))
    assert network.unit == 2.5
    assert torch.equal(flow, torch.zeros(2, 2, 5, 7)) and torch.equal(scale, torch.ones(2, 7, 5, 7))


@pytest.mark.parametrize("make", [lambda: FlowNetS(6, 2, 0.05), lambda: FlowNetInception(6, 2, 0.1)])
def test_stride_16_as_published(make):
    """Half-size frames, so predictions at stride 8 of the image, which are averaged two by two to stride 16 (the paper).

    The authors' code averages the decoder's last map before its two convolutions. For the 1x1 of the scale field, which has no
    bias of its own, that is the same; for the 3x3 of the flow it is not, and there we do as the paper writes.
    """
    torch.manual_seed(0)
    network, frames = FlowNetwork(make(), 7, 16, 2), (images(2, 3, 64, 96), images(2, 3, 64, 96, seed=1))
    nn.init.normal_(network.scale_head.weight)
    nn.init.normal_(network.net.predict[-1].weight)
    with torch.no_grad():
        flow, scale = network(*frames, (4, 6))
        halved = F.avg_pool2d(torch.cat(frames[::-1], 1) - 0.45, 2)  # as published: current first
        predictions, decoder = network.net(halved)
        assert predictions[-1].shape == (2, 2, 8, 12)
        pooled = F.avg_pool2d(decoder, 2)
        torch.testing.assert_close(flow, 2.5 * F.avg_pool2d(predictions[-1], 2))
        torch.testing.assert_close(scale, 1 + network.scale_head(pooled), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(flow, 2.5 * network.net.predict[-1](pooled), rtol=0.01)


def test_build_knows_it():
    model = build(dict(num_classes=3), dict(channels=8), dict(name="flownet_inception", width=0.1, input_stride=2))
    assert type(model.flow_source.net) is FlowNetInception and model.flow_source.unit == 10
    key, current = images(1, 3, 41, 54), images(1, 3, 41, 54, seed=1)
    with torch.no_grad():
        features = model.eval().extract(key)
        assert torch.equal(model.propagate(features, key, current), features)
        assert model(key, current).shape == (1, 3, 41, 54)
