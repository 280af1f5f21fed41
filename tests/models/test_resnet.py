"""ResNet feature networks: as published, and with torchvision's weights as torchvision computes them."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dfflib.errors import DffError
from dfflib.models.build import build
from dfflib.models.keyframe import Normalise
from dfflib.models.resnet import ResNetFeatures

FC = 2048 * 1000 + 1000
REDUCE = 2048 * 1024 * 9 + 1024
TORCHVISION = {50: 25_557_032, 101: 44_549_160}  # parameters as torchvision documents them, classifier included
CONV3X3 = {50: 16, 101: 33}


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def on_meta(*args, **kwargs) -> ResNetFeatures:
    with torch.device("meta"):
        return ResNetFeatures(*args, **kwargs)


META = on_meta(50)


@pytest.fixture(scope="module")
def reference():
    """torchvision's ResNet-50 with random weights and statistics, in evaluation mode."""
    torch.manual_seed(0)
    net = torchvision.models.resnet50(weights=None)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.3, 0.7)
        nn.init.normal_(norm.bias, std=0.1)
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return net.eval()


@pytest.fixture(scope="module")
def loaded(reference):
    """Ours, with the reference's weights."""
    net = ResNetFeatures(50)
    odd = net.load_state_dict(reference.state_dict(), strict=False)
    assert odd.unexpected_keys == ["fc.weight", "fc.bias"] and odd.missing_keys == ["reduce.weight", "reduce.bias"]
    return net


def stage_outputs(net, x):
    """What leaves conv1's stem and conv2 to conv4."""
    seen, hooks = {}, []
    for name in ("bn1", "layer1", "layer2", "layer3"):

        def keep(module, args, output, name=name):
            seen[name] = output.clone()

        hooks.append(net.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return seen


# -------------------------------------------------------------------------------------------------------- as published


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_parameter_counts(depth, stride_in_1x1):
    net = on_meta(depth, stride_in_1x1)
    count = sum(p.numel() for p in net.parameters())
    assert count == TORCHVISION[depth] - FC + REDUCE == {50: 42_383_424, 101: 61_375_552}[depth]


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_strides_and_dilations(depth, stride_in_1x1):
    net = on_meta(depth, stride_in_1x1)
    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    three = {n: m for n, m in layers.items() if m.kernel_size == (3, 3) and n != "reduce"}
    assert len(three) == CONV3X3[depth]
    for name, layer in three.items():
        expected = (2, 2) if name.startswith("layer4") else (1, 1)
        assert layer.dilation == layer.padding == expected, name
    place = "conv1" if stride_in_1x1 else "conv2"
    halving = {n for n, m in layers.items() if m.stride == (2, 2)}
    blocks = ("layer2.0", "layer3.0")
    assert halving == {"conv1", *(f"{b}.{place}" for b in blocks), *(f"{b}.downsample.0" for b in blocks)}
    assert net.reduce.dilation == net.reduce.padding == (6, 6) and net.reduce.weight.shape == (1024, 2048, 3, 3)
    assert (net.stride, net.channels) == (16, 1024)


@settings(max_examples=20)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_sizes_round_up_at_stride_16(height, width):
    with torch.no_grad():
        features = META(torch.empty(1, 3, height, width, device="meta"))
    assert features.shape == (1, 1024, math.ceil(height / 16), math.ceil(width / 16))


def test_the_new_convolution_starts_as_published():
    torch.manual_seed(0)
    net = ResNetFeatures(50)
    assert net.reduce.weight.std().item() == pytest.approx(0.01, rel=0.01) and not net.reduce.bias.any()
    assert abs(net.reduce.weight.mean()) < 1e-5


def test_a_real_forward_at_an_odd_size_ends_in_a_relu(loaded):
    with torch.no_grad():
        features = loaded(images(1, 3, 65, 97))
    assert features.shape == (1, 1024, 5, 7) and features.isfinite().all()
    assert features.min() == 0 and features.max() > 0


def test_an_untrained_network_keeps_its_scale():
    torch.manual_seed(0)
    net = ResNetFeatures(101)
    with torch.no_grad():
        features = net(images(1, 3, 33, 33))
    assert 0.01 < features.std() < 10


def test_receptive_field_of_conv5_is_that_of_its_dilations(loaded):
    """Three 3x3 at dilation 2 and one at 6 reach 2 + 2 + 2 + 6 cells to each side."""
    x = images(1, 1024, 27, 27).requires_grad_()
    out = loaded.reduce(loaded.layer4(x))
    (grad,) = torch.autograd.grad(out[0, :8, 13, 13].sum(), x)
    touched = grad[0].abs().amax(0).nonzero()
    assert touched.amin(0).tolist() == [1, 1] and touched.amax(0).tolist() == [25, 25]


def test_stored_statistics_also_in_training(loaded):
    x = images(2, 3, 33, 40)
    before = {n: b.clone() for n, b in loaded.named_buffers()}
    with torch.no_grad():
        expected = loaded.eval()(x)
        model = nn.Sequential(loaded).train()
        assert loaded.training and torch.equal(model(x), expected)
    assert all(torch.equal(b, before[n]) for n, b in loaded.named_buffers())
    loaded.eval()


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_stages_get_no_gradient_and_all_others_do(reference, frozen):
    net = ResNetFeatures(50, frozen=frozen)
    net.load_state_dict(reference.state_dict(), strict=False)
    nn.Sequential(net).requires_grad_(True).train()  # as a training stage does
    out = net(images(1, 3, 33, 33))
    (out * images(*out.shape, seed=1)).sum().backward()
    without = {n for n, p in net.named_parameters() if p.grad is None}
    early = {n for n, _ in net.named_parameters() if n.startswith(("conv1", "bn1", "layer1"))}
    assert without == (early if frozen else set()) and len(early) > 30
    assert all(p.grad.any() for n, p in net.named_parameters() if n not in without)


@pytest.mark.parametrize("depth", [18, 152, "101"])
def test_other_depths_are_refused(depth):
    with pytest.raises(DffError, match=f"{depth}.*50, 101"):
        ResNetFeatures(depth)


# ----------------------------------------------------------------------------------------------- torchvision's weights


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 70)])
def test_conv1_to_conv4_equal_torchvisions_own_forward(reference, loaded, size):
    x = images(1, 3, *size)
    expected, got = stage_outputs(reference, Normalise()(x)), stage_outputs(loaded.eval(), x)
    assert len(got) == 4
    for name, features in expected.items():
        assert torch.equal(got[name], features), name


def test_the_authors_place_of_the_stride_computes_something_else(loaded):
    """Same names and shapes, so nothing fails where weights are of the other network."""
    net = ResNetFeatures(50, stride_in_1x1=True).eval()
    net.load_state_dict(loaded.state_dict())
    x = images(1, 3, 64, 64)
    a, b = stage_outputs(net, x), stage_outputs(loaded, x)
    assert torch.equal(a["layer1"], b["layer1"]) and not torch.allclose(a["layer2"], b["layer2"], rtol=0.1)


# ------------------------------------------------------------------------------------------------------------ as a system


@pytest.mark.parametrize("flow_net, width", [("flownet_s", 0.05), ("flownet_inception", 0.1)])
def test_build_assembles_the_published_system_and_it_starts_as_a_copy(flow_net, width):
    torch.manual_seed(0)
    model = build(
        dict(num_classes=19), dict(name="resnet50", frozen=True), dict(name=flow_net, width=width, input_stride=2)
    ).eval()
    assert model.flow_source.unit == 2.5 and model.flow_source.scale_head.out_channels == 1024
    assert model.task_net.weight.shape == (19, 1024, 1, 1) and model.feature_net.frozen
    key, current = images(1, 3, 65, 97), images(1, 3, 65, 97, seed=1)
    with torch.no_grad():
        features = model.extract(key)
        assert features.shape == (1, 1024, 5, 7)
        assert torch.equal(model.propagate(features, key, current), features)
        assert model(key, current).shape == (1, 19, 65, 97)
    with pytest.raises(DffError, match="stride of 16"):
        model.extract(images(1, 3, 15, 40))


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_build_passes_depth_and_place_of_the_stride(depth, stride_in_1x1):
    with torch.device("meta"):
        model = build(features=dict(name=f"resnet{depth}", stride_in_1x1=stride_in_1x1), flow=dict(width=0.05))
    net = model.feature_net
    assert type(net) is ResNetFeatures and (net.depth, net.stride_in_1x1, net.frozen) == (depth, stride_in_1x1, False)
