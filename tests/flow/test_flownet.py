"""FlowNetS and FlowNetSR against the published tables, layer by layer."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dfflib.flow.flownet import FlowNetS, FlowNetSR

# Typed from the sheet of the prototype (and Tables 6 and 7 of the paper): kernel, stride, output channels.
ENCODER = {
    "conv1": (7, 2, 64), "conv2": (5, 2, 128), "conv3": (5, 2, 256), "conv3_1": (3, 1, 256), "conv4": (3, 2, 512),
    "conv4_1": (3, 1, 512), "conv5": (3, 2, 512), "conv5_1": (3, 1, 512), "conv6": (3, 2, 1024), "conv6_1": (3, 1, 1024),
}  # fmt: skip
SHEETS = {
    FlowNetS: (list(ENCODER), [1024, 1024, 768, 384, 192], [512, 256, 128, 64]),
    FlowNetSR: (list(ENCODER)[:6], [512, 384, 192], [128, 64]),
}
"""Encoder rows; channels that meet each prediction, less the n upsampled ones (none at the first); deconvolutions."""


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def parameters_by_hand(net, inputs, outputs):
    """Weights plus biases, summed row by row from the sheet."""
    rows, meeting, deconvs = SHEETS[net]
    total, previous = 0, inputs
    for name in rows:
        kernel, _, channels = ENCODER[name]
        total, previous = total + kernel**2 * previous * channels + channels, channels
    for level, channels in enumerate(meeting):
        seen = channels + (outputs if level else 0)
        total += 9 * seen * outputs + outputs
        if level < len(deconvs):
            total += 16 * seen * deconvs[level] + deconvs[level]
            total += 16 * outputs * outputs + outputs
    return total


@pytest.fixture(scope="module")
def full_nets():
    return {(FlowNetS, 6): FlowNetS(6, 2), (FlowNetS, 3): FlowNetS(3, 2), (FlowNetSR, 6): FlowNetSR(6, 2)}


@pytest.mark.parametrize("kind, inputs", [(FlowNetS, 6), (FlowNetS, 3), (FlowNetSR, 6)])
def test_layers_equal_the_sheet(full_nets, kind, inputs):
    net, (rows, meeting, deconvs) = full_nets[kind, inputs], SHEETS[kind]
    previous = inputs
    for name in rows:
        convolution, activation = net.get_submodule(name)
        kernel, stride, channels = ENCODER[name]
        assert convolution.weight.shape == (channels, previous, kernel, kernel), name
        assert convolution.stride == (stride, stride) and convolution.padding == ((kernel - 1) // 2,) * 2, name
        assert convolution.bias is not None and convolution.dilation == (1, 1) and convolution.groups == 1
        assert type(activation) is nn.LeakyReLU and activation.negative_slope == 0.1
        previous = channels
    assert not hasattr(net, "conv7") and hasattr(net, "conv6") == (kind is FlowNetS)
    assert len(net.predict) == len(meeting) and len(net.deconv) == len(net.upscore) == len(deconvs)
    for level, channels in enumerate(meeting):
        seen = channels + (2 if level else 0)
        predict = net.predict[level]
        assert predict.weight.shape == (2, seen, 3, 3) and predict.padding == (1, 1) and predict.bias is not None
        if level < len(deconvs):
            deconv, activation = net.deconv[level]
            up = net.upscore[level]
            assert deconv.weight.shape == (seen, deconvs[level], 4, 4) and up.weight.shape == (2, 2, 4, 4)
            for layer in (deconv, up):
                assert layer.stride == (2, 2) and layer.padding == (1, 1) and layer.bias is not None
            assert type(activation) is nn.LeakyReLU and activation.negative_slope == 0.1
            assert type(up) is nn.ConvTranspose2d  # linear
    assert net.channels == meeting[-1] + 2 == 194


@pytest.mark.parametrize(
    "kind, inputs, count", [(FlowNetS, 6, 38_676_514), (FlowNetS, 3, 38_667_106), (FlowNetSR, 6, 6_637_138)]
)
def test_parameter_counts_equal_the_sum_over_the_sheet(full_nets, kind, inputs, count):
    assert sum(p.numel() for p in full_nets[kind, inputs].parameters()) == parameters_by_hand(kind, inputs, 2) == count


def test_encoder_weights_are_the_24_million_of_the_paper(full_nets):
    names = tuple(ENCODER)
    weights = [p for n, p in full_nets[FlowNetS, 6].named_parameters() if n.startswith(names) and n.endswith("weight")]
    assert round(sum(p.numel() for p in weights) / 1e6, 2) == 24.05


def test_half_width_halves_every_count():
    net = FlowNetS(6, 2, 0.5)
    assert [net.get_submodule(n)[0].out_channels for n in ENCODER] == [c // 2 for _, _, c in ENCODER.values()]
    assert [d[0].out_channels for d in net.deconv] == [256, 128, 64, 32]


def naive_forward(net, x, names, skips):
    """The sheet's data flow with plain functional calls, another reading of it than the library's loop."""
    maps = {}
    for name in names:
        layer = net.get_submodule(name)[0]
        x = nn.functional.conv2d(x, layer.weight, layer.bias, ENCODER[name][1], ENCODER[name][0] // 2)
        maps[name] = x = torch.where(x > 0, x, 0.1 * x)
    out = []
    for level, skip in enumerate((*skips, None)):
        p = net.predict[level]
        out.append(nn.functional.conv2d(x, p.weight, p.bias, padding=1))
        if skip is None:
            return out
        h, w = maps[skip].shape[-2:]
        d, u = net.deconv[level][0], net.upscore[level]
        moved = nn.functional.conv_transpose2d(x, d.weight, d.bias, 2, 1)
        up = nn.functional.conv_transpose2d(out[-1], u.weight, u.bias, 2, 1)
        x = torch.cat([maps[skip], torch.where(moved > 0, moved, 0.1 * moved)[:, :, :h, :w], up[:, :, :h, :w]], 1)


@pytest.mark.parametrize(
    "kind, skips", [(FlowNetS, ("conv5_1", "conv4_1", "conv3_1", "conv2")), (FlowNetSR, ("conv3_1", "conv2"))]
)
def test_forward_equals_the_sheets_data_flow(kind, skips):
    torch.manual_seed(0)
    net, x = kind(6, 2, 0.06).double(), numbers(2, 6, 45, 70).double()
    for bias in (p for n, p in net.named_parameters() if n.endswith("bias")):
        nn.init.normal_(bias)
    with torch.no_grad():
        got, expected = net(x)[0], naive_forward(net, x, SHEETS[kind][0], skips)
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b)


TINY = {kind: kind(6, 2, 0.02).eval() for kind in (FlowNetS, FlowNetSR)}


@settings(max_examples=40)
@given(kind=st.sampled_from(list(TINY)), height=st.integers(4, 70), width=st.integers(4, 70))
def test_every_level_rounds_up(kind, height, width):
    with torch.no_grad():
        predictions, decoder = TINY[kind](torch.zeros(1, 6, height, width))
    strides = (64, 32, 16, 8, 4) if kind is FlowNetS else (16, 8, 4)
    assert [p.shape[-2:] for p in predictions] == [(math.ceil(height / s), math.ceil(width / s)) for s in strides]
    assert decoder.shape[-2:] == predictions[-1].shape[-2:] and decoder.shape[1] == TINY[kind].channels
