"""Counted work: Table 2 of the paper, counts by hand, and that counting neither computes nor changes anything."""

import math

import pytest
import torch
from torch import nn

from dfflib.errors import DffError
from dfflib.evaluation import flops
from dfflib.evaluation.flops import component_flops, inverse_r, table2
from dfflib.flow import Ablated, DISFlow, FlowNetwork, ZeroFlow
from dfflib.flow.correlation import CorrelationFlowNet
from dfflib.models.build import build

PUBLISHED = {
    ("resnet50", "FlowNet"): 9.20, ("resnet50", "FlowNet Half"): 33.56, ("resnet50", "FlowNet Inception"): 68.97,
    ("resnet101", "FlowNet"): 12.71, ("resnet101", "FlowNet Half"): 46.30, ("resnet101", "FlowNet Inception"): 95.24,
}  # fmt: skip


def published(feature_net, flow_net, **more):
    with torch.device("meta"):
        return build(dict(num_classes=19), flops.TABLE2_FEATURES[feature_net], flops.TABLE2_FLOWS[flow_net] | more)


@pytest.fixture(scope="module")
def ratios():
    return table2()


@pytest.mark.parametrize("pair", [p for p in PUBLISHED if "Inception" not in p[1]], ids=" ".join)
def test_table_2_within_three_percent(ratios, pair):
    assert ratios[pair] == pytest.approx(PUBLISHED[pair], rel=0.03)


@pytest.mark.parametrize("feature_net", ["resnet50", "resnet101"])
def test_inception_is_the_cheapest(ratios, feature_net):
    """Its decoder is not published, so neither is the exact ratio."""
    full, half, inception = (ratios[feature_net, name] for name in flops.TABLE2_FLOWS)
    assert full < half < inception < math.inf
    assert set(ratios) == set(PUBLISHED)


def test_the_published_inception_ratio_is_that_of_the_tabulated_encoder():
    """Encoder, flow prediction and scale field, without any deconvolution, already cost what Table 2 allows."""
    model = published("resnet101", "FlowNet Inception")
    net, parts, deconvolutions = model.flow_source.net, component_flops(model), 0
    for stride, layer in zip((64, 32, 16, 8), net.deconv):
        deconvolutions += layer[0].weight.numel() * (512 // stride) * (1024 // stride)
    rest = parts["F"] - deconvolutions + parts["W"] + parts["N_task"]
    assert (parts["N_feat"] + parts["N_task"]) / rest == pytest.approx(95.24, rel=0.02)


def test_torchvisions_place_of_the_stride_costs_a_little_more(ratios):
    for pair in [p for p in PUBLISHED if "Inception" not in p[1]]:
        with torch.device("meta"):
            model = build(dict(num_classes=19), dict(name=pair[0]), flops.TABLE2_FLOWS[pair[1]])
        ours = inverse_r(model)
        assert 1.005 < ours / ratios[pair] < 1.02 and ours == pytest.approx(PUBLISHED[pair], rel=0.03)


def by_hooks(module, *args):
    """Multiply-adds of every convolution, from the shapes that really pass it."""
    total, hooks = [0], []

    def count(layer, inputs, output):
        cells = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        total[0] += layer.weight.numel() * cells[:, 0].numel()

    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            hooks.append(layer.register_forward_hook(count))
    with torch.no_grad():
        result = module(*args)
    for hook in hooks:
        hook.remove()
    return result, total[0]


@pytest.mark.parametrize("flow_net", ["flownet_s", "flownet_sr", "flownet_inception"])
@pytest.mark.parametrize("scale", [True, False])
def test_counts_equal_those_of_a_real_forward(flow_net, scale):
    """At stride 4 and full-size input nothing is resampled, so what is counted is what runs."""
    model = build(dict(num_classes=3), dict(channels=8), dict(name=flow_net, width=0.05, scale=scale)).eval()
    x = torch.rand(1, 3, 33, 50)
    parts = component_flops(model, (33, 50))
    features, counted = by_hooks(model.feature_net, x)
    assert parts["N_feat"] == counted
    assert parts["F"] == by_hooks(model.flow_source, x, x, tuple(features.shape[-2:]))[1]
    assert parts["N_task"] == by_hooks(model.task_net, features)[1] == 3 * 8 * 9 * 13
    assert parts["W"] == (5 if scale else 4) * 8 * 9 * 13


def test_first_layers_by_hand():
    """7x7 from 3 to 64 channels at half of 1024x2048; all of a 1x1 head at a sixteenth."""
    model = published("resnet50", "FlowNet")
    model.feature_net = nn.Sequential(model.feature_net.conv1)
    model.feature_net.stride = 2
    model.task_net = nn.Conv2d(64, 19, 1, device="meta")
    model.flow_source = ZeroFlow()
    parts = component_flops(model, (1024, 2048))
    assert parts == {
        "N_feat": 49 * 3 * 64 * 512 * 1024,
        "F": 0,
        "W": 4 * 64 * 512 * 1024,
        "N_task": 64 * 19 * 512 * 1024,
    }
    assert inverse_r(model) == (parts["N_feat"] + parts["N_task"]) / (parts["W"] + parts["N_task"])


def test_the_scale_field_counts_at_the_features_size():
    with_scale, without = (component_flops(published("resnet50", "FlowNet", scale=s)) for s in (True, False))
    assert with_scale["F"] - without["F"] == 194 * 1024 * 64 * 128
    assert with_scale["W"] - without["W"] == 1024 * 64 * 128


def test_half_size_input_rounds_up():
    whole, odd = (component_flops(published("resnet50", "FlowNet Half"), s) for s in ((64, 96), (63, 95)))
    assert whole["F"] == odd["F"] and whole["N_task"] == odd["N_task"] == 1024 * 19 * 4 * 6


def test_counting_needs_no_memory_and_changes_nothing():
    model = build(features=dict(channels=8), flow=dict(width=0.03)).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    parts = component_flops(model, (100_000, 200_000))  # activations of terabytes
    assert parts["N_feat"] > 9e12
    assert model.training and all(m.training for m in model.modules())
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[n], before[n]) for n in before)
    assert model(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)).device.type == "cpu"


def test_other_models_can_be_counted():
    model = build(features=dict(channels=8), flow=dict(width=0.05))
    plain, ablated = (
        component_flops(model, (64, 64)),
        component_flops(model.with_flow(Ablated(model.flow_source)), (64, 64)),
    )
    assert plain == ablated
    own = FlowNetwork(CorrelationFlowNet(width=0.25), 8, 4, input_stride=1)
    assert component_flops(model.with_flow(own), (64, 64))["F"] > 0


def test_classical_flow_is_refused():
    with pytest.raises(DffError, match=r"DISFlow is done outside PyTorch.*network"):
        inverse_r(build(features=dict(channels=8), flow=dict(width=0.03)).with_flow(DISFlow()), (64, 64))


@pytest.mark.parametrize("size", [(8, 64), (64, 0), (-5, 7), (64,)])
def test_sizes_below_a_cell_are_refused(size):
    with pytest.raises(DffError, match=r"size is .*stride of 16"):
        component_flops(published("resnet50", "FlowNet Half"), size)
