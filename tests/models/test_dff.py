"""Deep Feature Flow: the three calls, every flow source, and what must be exact."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dfflib.errors import DffError
from dfflib.flow import DISFlow, ZeroFlow
from dfflib.flow.flownet import FlowNetS
from dfflib.models.build import NETWORKS, build
from dfflib.models.dff import DeepFeatureFlow
from dfflib.models.keyframe import PyramidSegmenter
from dfflib.warp import warp


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def small(seed=0, num_classes=2, features=None, **flow) -> DeepFeatureFlow:
    torch.manual_seed(seed)
    return build(dict(num_classes=num_classes), dict(channels=8) | (features or {}), dict(width=0.03) | flow).eval()


def stirred(model: DeepFeatureFlow) -> DeepFeatureFlow:
    """Flow and scale that are not at their start any more."""
    nn.init.normal_(model.flow_source.net.predict[-1].weight, std=0.05)
    if model.flow_source.scale_head is not None:
        nn.init.normal_(model.flow_source.scale_head.weight, std=0.05)
    return model


class Given(nn.Module):
    """A flow source that returns what it was given, in feature cells."""

    def __init__(self, dx=0.0, dy=0.0, scale=None):
        super().__init__()
        self.vector, self.scale, self.calls = torch.tensor([dx, dy]), scale, []

    def forward(self, key, current, size):
        self.calls.append((key, current, size))
        return self.vector.view(1, 2, 1, 1).expand(len(current), 2, *size), self.scale


KEY, CURRENT = images(2, 3, 41, 54), images(2, 3, 41, 54, seed=1)


@pytest.mark.parametrize("flow_net", list(NETWORKS["flow"]))
@pytest.mark.parametrize("scale", [True, False])
def test_forward_is_extract_propagate_predict(flow_net, scale):
    model = stirred(small(num_classes=3, name=flow_net, scale=scale))
    with torch.no_grad():
        features = model.extract(KEY)
        moved = model.propagate(features, KEY, CURRENT)
        logits = model.predict(moved, (41, 54))
        assert torch.equal(model(KEY, CURRENT), logits)
    assert features.shape == moved.shape == (2, model.feature_net.channels, 11, 14)
    assert logits.shape == (2, 3, 41, 54)
    assert not torch.allclose(moved, features)


@pytest.mark.parametrize("size", [(4, 4), (5, 4), (33, 47), (31, 64)])
@pytest.mark.parametrize("input_stride", [1, 2])
def test_odd_sizes(size, input_stride):
    model = stirred(small(input_stride=input_stride))
    with torch.no_grad():
        logits = model(images(1, 3, *size), images(1, 3, *size, seed=1))
    assert logits.shape == (1, 2, *size) and logits.isfinite().all()


@pytest.mark.parametrize("size", [(3, 40), (40, 3), (1, 1)])
def test_frames_below_the_stride_are_refused_with_one_sentence(size):
    model, frame = small(), images(1, 3, *size)
    for call in (model.extract, model.per_frame, lambda f: model(f, f)):
        with pytest.raises(DffError, match=f"{size[1]}x{size[0]} pixels.*stride of 4.*enlarge"):
            call(frame)


def test_untrained_is_exactly_copy_and_copy_is_exactly_per_frame_of_the_key():
    model = small()
    with torch.no_grad():
        expected, features = model.per_frame(KEY), model.extract(KEY)
        for same in (model, model.with_flow(ZeroFlow())):
            assert torch.equal(same.propagate(features, KEY, CURRENT), features)
            # the warp's result lies channels-last in memory, for which the head may sum in another order
            torch.testing.assert_close(same(KEY, CURRENT), expected, rtol=1e-5, atol=1e-7)
        assert not torch.equal(model.per_frame(CURRENT), expected)


def test_predict_is_the_head_and_bilinear_upsampling():
    model, features = small(num_classes=3), images(1, 8, 5, 6)
    scores = torch.einsum("kc,nchw->nkhw", model.task_net.weight[:, :, 0, 0], features)
    scores = scores + model.task_net.bias.view(1, -1, 1, 1)
    expected = F.interpolate(scores, (19, 23), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.predict(features, (19, 23)), expected)


@pytest.mark.parametrize("dx, dy", [(1, 0), (0, 1), (-2, 3)])
def test_whole_cell_flow_is_an_exact_shift(dx, dy):
    model, features = small().with_flow(Given(dx, dy)), images(2, 8, 11, 14)
    moved = model.propagate(features, KEY, CURRENT)
    expected = torch.zeros_like(features)
    for y in range(11):
        for x in range(14):
            if 0 <= y + dy < 11 and 0 <= x + dx < 14:
                expected[:, :, y, x] = features[:, :, y + dy, x + dx]
    assert torch.equal(moved, expected)


def test_padding_mode_reaches_the_warp():
    model, features = small().with_flow(Given(100.0, 0.0)), images(2, 8, 11, 14)
    assert not model.propagate(features, KEY, CURRENT).any()
    model.padding_mode = "border"
    assert torch.equal(model.propagate(features, KEY, CURRENT), features[..., -1:].expand_as(features))


def test_scale_multiplies_what_was_warped():
    scale, features = images(2, 8, 11, 14, seed=5), images(2, 8, 11, 14)
    plain = small().with_flow(Given(0.5, -0.25)).propagate(features, KEY, CURRENT)
    scaled = small().with_flow(Given(0.5, -0.25, scale)).propagate(features, KEY, CURRENT)
    torch.testing.assert_close(scaled, plain * scale, rtol=0, atol=0)


def test_the_flow_source_is_asked_from_current_to_key_at_the_features_size():
    source = Given()
    small().with_flow(source)(KEY, CURRENT)
    ((key, current, size),) = source.calls
    assert current is CURRENT and key is KEY and size == (11, 14)


def test_is_key_uses_the_features_as_they_are():
    model = stirred(small())
    is_key = torch.tensor([True, False])
    with torch.no_grad():
        mixed = model(KEY, CURRENT, is_key)
        torch.testing.assert_close(mixed[0], model.per_frame(KEY)[0])
        torch.testing.assert_close(mixed[1], model(KEY, CURRENT)[1])
        assert not torch.allclose(mixed[0], model(KEY, CURRENT)[0])


def test_with_flow_shares_networks_and_leaves_the_original_alone():
    model = stirred(small())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = model.flow_source
    other = model.with_flow(Given(1.0))
    assert type(other) is DeepFeatureFlow and other.padding_mode == model.padding_mode
    assert other.feature_net is model.feature_net and other.task_net is model.task_net
    assert model.flow_source is source and not isinstance(other.flow_source, type(source))
    assert list(model.state_dict()) == list(before)
    other.double()
    assert next(source.parameters()).dtype == torch.float32, ".to() of the other leaves the flow network"
    other.float()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert model.with_flow(source).state_dict().keys() == before.keys()


@pytest.mark.parametrize("training", [True, False])
def test_with_flow_keeps_the_mode(training):
    model = small().train(training)
    other = model.with_flow(ZeroFlow())
    assert other.training is training and model.training is training
    assert all(m.training is training for m in model.modules())
    other.flow_source.train(not training)
    assert model.flow_source.training is training


def test_dis_runs_in_place_of_the_network():
    with torch.no_grad():
        logits = small().with_flow(DISFlow("ultrafast"))(KEY, CURRENT)
    assert logits.shape == (2, 2, 41, 54) and logits.isfinite().all()


@pytest.mark.parametrize("source", ["net", "zero", "dis"])
def test_bfloat16_autocast(source):
    model = stirred(small())
    model = {"net": model, "zero": model.with_flow(ZeroFlow()), "dis": model.with_flow(DISFlow())}[source]
    expected = model(KEY, CURRENT).detach()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(KEY, CURRENT)
    logits.float().sum().backward()
    assert (logits.float() - expected).abs().max() < 0.05 * max(1.0, expected.abs().max())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_channels_last_gives_the_same():
    model = stirred(small())
    with torch.no_grad():
        expected = model(KEY, CURRENT)
        model = model.to(memory_format=torch.channels_last)
        got = model(*(f.to(memory_format=torch.channels_last) for f in (KEY, CURRENT)))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_task_loss_reaches_all_four_networks():
    model = stirred(small()).train()
    F.cross_entropy(model(KEY, CURRENT), torch.randint(2, (2, 41, 54))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_flow_levels_are_those_of_the_flow_network():
    model = stirred(small())
    levels = model.flow_levels(KEY, CURRENT)
    expected = model.flow_source.predictions(KEY, CURRENT)[0]
    assert len(levels) == 3 and all(torch.equal(a, b) for a, b in zip(levels, expected))


def test_build_puts_plain_values_where_they_belong():
    model = small(0, 5, dict(channels=12), name="flownet_s", input_stride=2)
    assert model.task_net.weight.shape == (5, 12, 1, 1) and type(model.flow_source.net) is FlowNetS
    assert model.flow_source.input_stride == 2 and model.flow_source.unit == 10
    assert model.flow_source.scale_head.out_channels == 12


def test_build_makes_a_pyramid():
    model = small(0, 5, dict(name="pyramid", channels=12, task_blocks=1))
    assert type(model.feature_net) is PyramidSegmenter and model.feature_net.channels == 12
    assert model.task_net.weight.shape == (5, 12, 1, 1) and model.flow_source.scale_head.out_channels == 12
    scores = model.per_frame(torch.rand(1, 3, 33, 50))
    assert scores.shape[:2] == (1, 5) and scores.isfinite().all()


def test_a_task_may_ask_that_scores_travel():
    config = dict(features=dict(channels=6), flow=dict(name="correlation", width=0.25, input_stride=2))
    model = stirred(build(dict(num_classes=3, scores_travel=True), **config)).double()
    assert model.flow_source.scale_head.out_channels == 3
    key, current = KEY.double(), CURRENT.double()
    flow, scale = model.flow_source(key, current, (11, 14))
    scores = F.conv2d(model.feature_net(key), model.task_net.weight)  # by hand: warp, scale, and then the bias
    expected = warp(scores, flow) * scale + model.task_net.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(model(key, current), model.task.scores(expected, (41, 54)))
    plain = build(dict(num_classes=3), **config).double()
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if "scale_head" not in n}, strict=False)
    torch.testing.assert_close(model.per_frame(key), plain.per_frame(key))  # N by itself is the same
    assert model.with_flow(ZeroFlow()).scores_travel and not plain.with_flow(ZeroFlow()).scores_travel


@pytest.mark.parametrize("config, said", [
    (dict(features=dict(name="resnet")), "no network 'resnet' for features: choose one of residual, pyramid, large_pyramid"),
    (dict(flow=dict(name="raft")), "no network 'raft' for flow: choose one of flownet_sr, "),
    (dict(features=dict(name="resnet50", channels=64)), "resnet50 takes no argument 'channels' for features: choose from "
                                                        "stride_in_1x1, frozen"),
    (dict(flow=dict(num_classes=3)), "flownet_sr takes no argument 'num_classes' for flow: choose from width, "),
    (dict(features=dict(task_blocks=7)), "task_blocks of features is 7: choose a whole number from 0 to 6"),
    (dict(features=dict(name="pyramid", task_blocks=3)), "task_blocks of features is 3: choose a whole number from 0 to 2"),
    (dict(task="segmentation"), "task is 'segmentation': give a dict"),
])  # fmt: skip
def test_networks_and_arguments_that_there_are_not(config, said):
    with pytest.raises(DffError, match=said):
        build(**config)


@pytest.mark.parametrize("name, splits", [("residual", (1, 4, 6)), ("pyramid", (1, 2))])
def test_where_n_is_split_changes_nothing_without_a_warp(name, splits):
    torch.manual_seed(0)
    whole = small(0, 3, dict(name=name))
    images = torch.rand(2, 3, 33, 48)
    for blocks in splits:
        split = small(1, 3, dict(name=name, task_blocks=blocks))
        split.load_state_dict(whole.state_dict())  # one checkpoint serves every split
        torch.testing.assert_close(split.per_frame(images), whole.per_frame(images))
        assert len(split.feature_net.finish) == blocks
        assert not torch.equal(split.extract(images), whole.extract(images))


@pytest.mark.parametrize("other", [lambda x: (x * 255).to(torch.uint8), lambda x: (x * 255).round(), lambda x: x.long(),
                                   lambda x: torch.where(x == x.max(), torch.nan, x), lambda x: (x - 0.45) / 0.1,
                                   lambda x: x[:, :1], lambda x: x[0]])  # fmt: skip
def test_what_is_no_image_is_refused(other):
    model = small()
    calls = (lambda x: model(x, CURRENT), lambda x: model(KEY, x), model.per_frame, model.extract)
    for call in calls:
        with pytest.raises(DffError, match="give"):
            call(other(KEY))
