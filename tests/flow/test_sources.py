"""The flow network's units and order, classical flow, losses and colours."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dfflib.data.clips import Clip
from dfflib.data.shapes import ShapesClip
from dfflib.errors import DffError
from dfflib.flow import Ablated, DISFlow, ExactFlow, FlowNetwork, ZeroFlow, end_point_error, multiscale_loss
from dfflib.flow.flownet import FlowNetS, FlowNetSR
from dfflib.flow.inception import FlowNetInception
from dfflib.viz import flow_to_rgb


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def texture(height, width, cycles=9):
    """A smooth random texture, float64 ``(height, width)`` as a function of real coordinates."""
    rng = np.random.default_rng(3)
    waves = rng.uniform(-0.5, 0.5, (cycles * 4, 2)), rng.uniform(0, 2 * np.pi, cycles * 4)

    def at(x, y):
        value = sum(np.sin(a * x + b * y + c) for (a, b), c in zip(*waves))
        return 0.5 + 0.06 * value

    return lambda dx, dy: at(*np.meshgrid(np.arange(width) + dx, np.arange(height) + dy))


def shifted_pair(height, width, dx, dy):
    """``(key, current)`` with ``current(p) = key(p + (dx, dy))``: the backward flow is (dx, dy) everywhere."""
    look = texture(height, width)
    key, current = look(0, 0), look(dx, dy)
    return tuple(torch.from_numpy(i).float().clamp(0, 1).expand(1, 3, -1, -1) for i in (key, current))


# ---------------------------------------------------------------------------------------------------- flow network


class Recorder(nn.Module):
    """In place of FlowNetS: keeps its input and predicts the same vector everywhere, at strides 8 and 4."""

    channels, strides = 5, (8, 4)

    def __init__(self, vector=(1.0, 1.0)):
        super().__init__()
        self.predict = nn.ModuleList([nn.Conv2d(1, 1, 1)])
        self.vector = torch.tensor(vector)

    def encode_key(self, key):
        return key

    def estimate(self, encoded, current):
        return self(torch.cat((current, encoded), dim=1))

    def forward(self, x):
        self.seen = x
        h, w = (-(-s // 4) for s in x.shape[-2:])
        fine = self.vector.view(1, 2, 1, 1).expand(len(x), 2, h, w)
        coarse = self.vector.view(1, 2, 1, 1).expand(len(x), 2, -(-h // 2), -(-w // 2))
        return [coarse, fine], torch.ones(len(x), self.channels, h, w)


def test_current_comes_first_and_key_second():
    current, key = images(2, 3, 16, 24), images(2, 3, 16, 24, seed=1)
    network = FlowNetwork(Recorder(), 7, 4, input_stride=1)
    network(key, current, (4, 6))
    seen = network.net.seen
    torch.testing.assert_close(seen[:, :3] - seen[:, 3:], current - key)
    assert not torch.equal(seen[:, :3], seen[:, 3:])


def test_half_size_input_is_the_mean_of_two_by_two():
    current, key = images(1, 3, 8, 12), images(1, 3, 8, 12, seed=1)
    network = FlowNetwork(Recorder(), 7, 4, input_stride=2)
    network(key, current, (2, 3))
    naive = current.view(1, 3, 4, 2, 6, 2).mean((3, 5))
    offset = (network.net.seen[:, :3] - naive).flatten()
    torch.testing.assert_close(offset, offset[:1].expand_as(offset))


@pytest.mark.parametrize("input_stride, feature_stride, unit", [(2, 16, 2.5), (1, 16, 1.25), (1, 4, 5.0), (2, 4, 10.0)])
def test_one_unit_of_prediction_in_feature_cells(input_stride, feature_stride, unit):
    network = FlowNetwork(Recorder((1.0, -2.0)), 7, feature_stride, input_stride)
    flow, _ = network(images(1, 3, 64, 96), images(1, 3, 64, 96), (64 // feature_stride, 96 // feature_stride))
    assert network.unit == unit
    torch.testing.assert_close(flow[0, 0], torch.full_like(flow[0, 0], unit))
    torch.testing.assert_close(flow[0, 1], torch.full_like(flow[0, 1], -2 * unit))


@pytest.mark.parametrize("size", [(97, 128), (33, 70), (5, 64)])
@pytest.mark.parametrize("input_stride", [1, 2])
def test_odd_sizes_do_not_change_the_unit(size, input_stride):
    """A cell is a stride wide, whatever the last one holds: 1 unit is exactly `unit` cells, along both axes."""
    network = FlowNetwork(Recorder(), 7, 4, input_stride)
    cells = (math.ceil(size[0] / 4), math.ceil(size[1] / 4))
    flow, scale = network(images(1, 3, *size), images(1, 3, *size), cells)
    assert flow.shape[-2:] == scale.shape[-2:] == cells
    torch.testing.assert_close(flow, torch.full_like(flow, 5.0 * input_stride))


def test_levels_are_in_pixels_of_their_own_grid():
    network = FlowNetwork(Recorder(), 7, 4, input_stride=1)
    levels, _ = network.predictions(images(1, 3, 32, 64), images(1, 3, 32, 64))
    assert [level.shape[-2:] for level in levels] == [(4, 8), (8, 16)]
    assert [level.unique().tolist() for level in levels] == [[2.5], [5.0]]  # 20 px at strides 8 and 4


@pytest.mark.parametrize("kind", [FlowNetS, FlowNetSR])
@pytest.mark.parametrize("input_stride", [1, 2])
def test_starts_with_zero_flow_and_a_field_of_ones(kind, input_stride):
    network = FlowNetwork(kind(6, 2, 0.03), 7, 16, input_stride)
    flow, scale = network(images(2, 3, 50, 67), images(2, 3, 50, 67, seed=1), (4, 5))
    assert flow.shape == (2, 2, 4, 5) and scale.shape == (2, 7, 4, 5)
    assert torch.equal(flow, torch.zeros_like(flow)) and torch.equal(scale, torch.ones_like(scale))


def test_the_scale_fields_bias_is_no_parameter():
    network = FlowNetwork(FlowNetSR(6, 2, 0.03), 7, 4)
    assert [n for n, _ in network.named_parameters() if n.startswith("scale")] == ["scale_head.weight"]
    assert network.scale_head.weight.shape == (7, network.net.channels, 1, 1)
    assert FlowNetwork(FlowNetSR(6, 2, 0.03), 7, 4, scale=False)(*[images(1, 3, 16, 16)] * 2, (4, 4))[1] is None


@pytest.mark.parametrize("input_stride", [1, 2])
@pytest.mark.parametrize("kind", [FlowNetSR, FlowNetS, FlowNetInception])
def test_an_encoded_key_frame_gives_the_same_flow(kind, input_stride):
    torch.manual_seed(0)
    network = FlowNetwork(kind(6, 2, 0.1), 7, 4, input_stride)
    torch.nn.init.normal_(network.net.predict[-1].weight)
    torch.nn.init.normal_(network.scale_head.weight)
    current, key = images(3, 3, 65, 70), images(1, 3, 65, 70, seed=1)
    whole = network(key.expand(3, -1, -1, -1), current, (17, 18))
    split = network.estimate(network.encode_key(key), current, (17, 18))
    for one, other in zip(whole, split, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_classical_flow_and_no_flow_encode_too():
    current, key = images(3, 3, 40, 50), images(1, 3, 40, 50, seed=1)
    for source in (DISFlow("fast"), ZeroFlow(), Ablated(DISFlow("fast"), flow=False)):
        whole, _ = source(key.expand(3, -1, -1, -1), current, (10, 13))
        assert torch.equal(whole, source.estimate(source.encode_key(key), current, (10, 13))[0])


def test_frames_exchanged_give_another_flow():
    torch.manual_seed(0)
    network = FlowNetwork(FlowNetSR(6, 2, 0.05), 4, 4, input_stride=1)
    nn.init.normal_(network.net.predict[-1].weight)
    a, b = images(1, 3, 32, 32), images(1, 3, 32, 32, seed=1)
    assert not torch.allclose(network(a, b, (8, 8))[0], network(b, a, (8, 8))[0], atol=1e-3)


def test_gradients_reach_every_weight_after_one_step():
    torch.manual_seed(0)
    network = FlowNetwork(FlowNetSR(6, 2, 0.05), 4, 4, input_stride=1)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    a, b = images(2, 3, 32, 48), images(2, 3, 32, 48, seed=1)

    def step():
        optimiser.zero_grad()
        flow, scale = network(a, b, (8, 12))
        ((flow - 1).square().mean() + (scale - 2).square().mean()).backward()
        got = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        optimiser.step()
        return got

    assert {"net.predict.2.weight", "net.predict.2.bias", "scale_head.weight"} <= step()
    assert step() == {n for n, _ in network.named_parameters()}
    flow, scale = network(a, b, (8, 12))
    assert flow.abs().max() > 0 and (scale - 1).abs().max() > 0


# ------------------------------------------------------------------------------------- sources that learn nothing


def test_zero_flow():
    flow, scale = ZeroFlow()(images(3, 3, 9, 11).double(), images(3, 3, 9, 11).double(), (2, 3))
    assert torch.equal(flow, torch.zeros(3, 2, 2, 3, dtype=torch.float64)) and scale is None


@pytest.mark.parametrize("preset", list(DISFlow.PRESETS))
@pytest.mark.parametrize("dx, dy", [(3.0, 0.0), (0.0, -2.0), (-2.5, 1.5)])
def test_dis_recovers_a_known_shift(preset, dx, dy):
    flow = DISFlow(preset).image_flow(*shifted_pair(72, 96, dx, dy))
    middle = flow[0, :, 16:-16, 16:-16]
    assert (middle - torch.tensor([dx, dy]).view(2, 1, 1)).norm(dim=0).mean() < 0.3
    torch.testing.assert_close(middle.flatten(1).median(1).values, torch.tensor([dx, dy]), atol=0.3, rtol=0)


def test_dis_gives_feature_cells():
    pair = shifted_pair(64, 96, 4.0, -2.0)
    flow, scale = DISFlow()(*pair, (16, 12))  # cells of 4 pixels down and 8 across
    assert flow.shape == (1, 2, 16, 12) and scale is None
    middle = flow[0, :, 4:-4, 3:-3].flatten(1).median(1).values
    torch.testing.assert_close(middle, torch.tensor([4 / 8, -2 / 4]), atol=0.08, rtol=0)


def test_dis_takes_batches_one_by_one():
    first, second = shifted_pair(48, 64, 2.0, 0.0), shifted_pair(48, 64, 0.0, 3.0)
    both = DISFlow().image_flow(*(torch.cat(frames) for frames in zip(first, second)))
    assert torch.equal(both[:1], DISFlow().image_flow(*first))
    assert torch.equal(both[1:], DISFlow().image_flow(*second))


@pytest.mark.parametrize("preset", list(DISFlow.PRESETS))
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 70), (16, 16), (17, 300), (24, 150), (31, 100), (300, 9)])
def test_dis_survives_small_and_narrow_frames(preset, size):
    flow, _ = DISFlow(preset)(images(1, 3, *size), images(1, 3, *size, seed=1), (2, 3))
    assert flow.shape == (1, 2, 2, 3) and flow.isfinite().all()


def test_dis_values_of_enlarged_frames_are_pixels_of_the_original():
    flow = DISFlow().image_flow(*shifted_pair(24, 40, 1.0, 0.0))  # enlarged twofold inside
    torch.testing.assert_close(
        flow[0, :, 8:-8, 8:-8].flatten(1).median(1).values, torch.tensor([1.0, 0.0]), atol=0.3, rtol=0
    )


def test_dis_is_copied_and_pickled_after_use():
    source, pair = DISFlow("fast"), shifted_pair(40, 48, 1.0, 1.0)
    flow = source.image_flow(*pair)
    for twin in (copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert twin.preset == "fast" and torch.equal(twin.image_flow(*pair), flow)
    assert source._idle  # the original keeps its own


@pytest.mark.parametrize("preset", list(DISFlow.PRESETS))
def test_dis_gives_the_same_with_any_number_of_threads(preset):
    key, current = (torch.rand(3, 3, 12, 16, generator=torch.Generator().manual_seed(n)) for n in range(2))
    key, current = (
        torch.nn.functional.interpolate(images, (96, 128), mode="bicubic").clamp(0, 1) for images in (key, current)
    )
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            source = DISFlow(preset)
            found += [
                source.image_flow(key, current),
                torch.cat([source.image_flow(key[n : n + 1], current[n : n + 1]) for n in range(3)]),
            ]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


def test_dis_gives_the_same_whatever_it_saw_before():
    """OpenCV's own object goes down to finer scales on a small picture, and stays there."""
    source, pair = DISFlow("fast"), shifted_pair(128, 128, 3.0, 1.0)
    source.image_flow(*shifted_pair(40, 40, 1.0, 0.0))
    assert torch.equal(source.image_flow(*pair), DISFlow("fast").image_flow(*pair))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (33, 40), (64, 71), (97, 35), (20, 31)])
def test_dis_looks_at_grey_values_of_cells(size, stride):
    pictures = 1.2 * images(3, 3, *size) - 0.1  # somewhat outside [0, 1], too
    for given in (pictures, pictures.to(memory_format=torch.channels_last)):
        found = DISFlow(input_stride=stride).grey(given).numpy()
        grey = (pictures.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        grey = F.avg_pool2d(grey, stride, ceil_mode=True)[:, 0]
        expected = (255 * grey).round().clamp(0, 255).byte().numpy()
        assert found.dtype == np.uint8 and found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).max() <= 1  # what was rounded, perhaps to the other side


def test_dis_takes_half_precision_and_unknown_presets_are_refused():
    flow, _ = DISFlow()(*(f.bfloat16() for f in shifted_pair(40, 48, 1.0, 1.0)), (10, 12))
    assert flow.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"'slow'.*ultrafast"):
        DISFlow("slow")


# ------------------------------------------------------------------------------------------------ losses and colours


def test_end_point_error_by_hand():
    flow, truth = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    truth[0, :, 0, 0] = torch.tensor([3.0, 4.0])
    flow[0, :, 0, 1] = torch.tensor([0.0, 1.0])
    assert end_point_error(flow, truth).item() == pytest.approx((5 + 1) / 2)
    assert end_point_error(flow, truth, torch.tensor([[[[True, False]]]])).item() == pytest.approx(5)
    assert end_point_error(flow, truth, torch.zeros(1, 1, 1, 2, dtype=torch.bool)).item() == 0


def test_end_point_error_has_a_finite_gradient_at_zero():
    flow = torch.zeros(1, 2, 3, 3, requires_grad=True)
    end_point_error(flow, torch.zeros(1, 2, 3, 3)).backward()
    assert flow.grad.isfinite().all()


def test_multiscale_loss_by_hand():
    truth = torch.zeros(1, 2, 8, 16)
    truth[:, 0] = 8.0  # 8 px right: 4, 2, 1 cells at strides 2, 4, 8
    exact = [torch.zeros(1, 2, 8 // s, 16 // s) for s in (8, 4, 2)]
    for level, value in zip(exact, (1.0, 2.0, 4.0)):
        level[:, 0] = value
    assert multiscale_loss(exact, truth).item() == pytest.approx(0, abs=1e-4)
    for wrong, weight in ((0, 1 / 7), (1, 2 / 7), (2, 4 / 7)):
        levels = [level.clone() for level in exact]
        levels[wrong][:, 1] += 1.0
        pixels = (8, 4, 2)[wrong]  # one cell is so many image pixels
        assert multiscale_loss(levels, truth).item() == pytest.approx(weight * pixels, rel=1e-3)


def test_multiscale_loss_of_what_the_network_predicts():
    """20 px everywhere is one unit of the net: its own levels must then cost nothing."""
    network = FlowNetwork(Recorder((1.0, 1.0)), 7, 4, input_stride=1)
    levels, _ = network.predictions(images(1, 3, 40, 56), images(1, 3, 40, 56))
    assert multiscale_loss(levels, torch.full((1, 2, 40, 56), 20.0)).item() == pytest.approx(0, abs=1e-3)


def test_one_vector_has_one_colour_in_every_field_with_a_limit():
    vector = torch.tensor([2.0, -1.0])
    slow, fast = numbers(2, 6, 7), 50 * numbers(2, 9, 5, seed=1)
    slow[:, 2, 3] = fast[:, 4, 1] = vector
    a, b = flow_to_rgb(slow, 8.0), flow_to_rgb(fast, 8.0)
    assert a.shape == (6, 7, 3) and b.shape == (9, 5, 3) and a.dtype == b.dtype == np.uint8
    assert np.abs(a[2, 3].astype(int) - b[4, 1].astype(int)).max() <= 1
    assert np.abs(flow_to_rgb(slow)[2, 3].astype(int) - flow_to_rgb(fast)[4, 1].astype(int)).max() > 20


def test_colours_saturate_at_the_limit_and_fade_to_white():
    directions = torch.tensor([[3.0, 30.0, 0.0, 1.5], [0.0, 0.0, 0.0, 0.0]]).view(2, 1, 4)
    at_limit, beyond, still, half = flow_to_rgb(directions, 3.0)[0].astype(int)
    assert np.abs(at_limit - beyond).max() <= 1 and (still == 255).all()
    assert at_limit.min() < half.min() < 255 and at_limit.max() == 255


@pytest.mark.parametrize("max_motion", [None, 0.0, 5.0])
@pytest.mark.filterwarnings("error")
def test_flow_without_motion_is_white_and_nothing_is_modified(max_motion):
    assert (flow_to_rgb(torch.zeros(2, 4, 5), max_motion) == 255).all()
    flow = 100 * numbers(2, 4, 5)
    flow[0, 0, 0] = 2e9  # flowiz blanks such values in place
    before = flow.clone()
    flow_to_rgb(flow, max_motion)
    assert torch.equal(flow, before)


def test_opposite_directions_differ_in_colour():
    field = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]).view(2, 1, 4)
    colours = flow_to_rgb(field, 1.0)[0]
    assert len(np.unique(colours, axis=0)) == 4
    # flowiz's wheel: red is to the right, as in the Middlebury colours
    assert colours[0].argmax() == 0


@pytest.mark.parametrize("keep_flow", [True, False])
@pytest.mark.parametrize("keep_scale", [True, False])
def test_ablated_takes_out_what_it_is_told(keep_flow, keep_scale):
    network = FlowNetwork(Recorder((1.0, -2.0)), 7, 4, input_stride=1)
    nn.init.constant_(network.scale_head.weight, 0.5)
    frames = images(1, 3, 16, 24), images(1, 3, 16, 24, seed=1)
    flow, scale = network(*frames, (4, 6))
    got_flow, got_scale = Ablated(network, keep_flow, keep_scale)(*frames, (4, 6))
    assert torch.equal(got_flow, flow if keep_flow else torch.zeros_like(flow)) and flow.abs().min() > 0
    assert (got_scale is None) if not keep_scale else torch.equal(got_scale, scale)


def test_ablations_of_ablations_share_one_estimate():
    network = FlowNetwork(Recorder((1.0, -2.0)), 7, 4, input_stride=1)
    both = Ablated(Ablated(network, scale=False), flow=False)
    assert both.root is network and network.root is network and ZeroFlow().root is not both
    frames = images(1, 3, 16, 24), images(1, 3, 16, 24, seed=1)
    flow, scale = network(*frames, (4, 6))
    for found in (both(*frames, (4, 6)), both.kept(flow, scale)):
        assert not found[0].any() and found[0].shape == flow.shape and found[1] is None
    assert network.kept(flow, scale) == (flow, scale)


def test_masked_loss_ignores_what_is_not_valid():
    truth, valid = numbers(2, 2, 16, 24), images(2, 1, 16, 24) > 0.3
    levels = [numbers(2, 2, 16 // s, 24 // s, seed=s).requires_grad_() for s in (8, 4, 2)]
    loss = multiscale_loss(levels, truth, valid)
    for junk in (1e9, math.nan, math.inf):
        assert torch.equal(multiscale_loss(levels, torch.where(valid, truth, junk), valid), loss)
    loss.backward()
    assert all(level.grad.isfinite().all() for level in levels)


def test_masked_loss_with_all_valid_is_the_loss_and_with_none_is_zero():
    truth, levels = numbers(2, 2, 15, 23), [numbers(2, 2, h, w) for h, w in ((2, 3), (4, 6), (8, 12))]
    everything = torch.ones(2, 1, 15, 23, dtype=torch.bool)
    torch.testing.assert_close(multiscale_loss(levels, truth, everything), multiscale_loss(levels, truth))
    assert torch.equal(multiscale_loss(levels, truth, None), multiscale_loss(levels, truth))
    assert multiscale_loss(levels, truth, ~everything) == 0


def test_a_coarse_cell_counts_if_more_than_half_of_it_is_valid():
    """Cells of 2x2 with 1, 2, 3 and 4 valid pixels; each valid one moves by (2, 0) pixels, so by 1 cell."""
    truth, valid = torch.full((1, 2, 2, 8), math.nan), torch.zeros(1, 1, 2, 8, dtype=torch.bool)
    for cell, count in enumerate((1, 2, 3, 4)):
        for n in range(count):
            valid[0, 0, n // 2, 2 * cell + n % 2] = True
    truth = torch.where(valid, torch.tensor([2.0, 0.0]).view(1, 2, 1, 1), truth)
    prediction = torch.zeros(1, 2, 1, 4)
    prediction[:, 0] = 1.0
    prediction[..., :2] = 100.0  # the cells with 1 and 2 do not count
    assert multiscale_loss([prediction], truth, valid).item() == pytest.approx(0, abs=1e-5)
    prediction[0, 1, 0, 3] = 3.0  # of the two that count, one is wrong by 3 cells, which are 6 pixels
    assert multiscale_loss([prediction], truth, valid).item() == pytest.approx(3.0, rel=1e-5)


def test_the_truth_of_a_coarse_cell_is_the_mean_of_its_valid_pixels():
    truth, valid = torch.zeros(1, 2, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    truth[0, 1] = torch.tensor([[1.0, 2.0], [9.0, 1000.0]])
    valid[0, 0, 1, 1] = False
    prediction = torch.zeros(1, 2, 1, 1)
    prediction[0, 1] = 4.0 / 2  # mean of 1, 2 and 9 pixels, in cells
    assert multiscale_loss([prediction], truth, valid).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -1e10, 1.666e9])
@pytest.mark.parametrize("max_motion", [None, 4.0])
@pytest.mark.filterwarnings("error")
def test_unknown_flow_is_grey_and_changes_no_other_colour(unknown, max_motion):
    flow = numbers(2, 6, 7)
    expected = flow_to_rgb(torch.where(torch.arange(42).view(6, 7) == 9, 0, flow), max_motion)
    flow[0, 1, 2] = unknown
    colours = flow_to_rgb(flow, max_motion)
    assert (colours[1, 2] == 128).all()
    colours[1, 2] = expected[1, 2]
    assert np.array_equal(colours, expected)


@pytest.mark.parametrize("unknown", [math.nan, math.inf, 1e10])
def test_unknown_truth_takes_no_part_in_errors_and_losses(unknown):
    flow, truth = numbers(1, 2, 8, 8).requires_grad_(), numbers(1, 2, 8, 8, seed=1)
    valid = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[0, 0, 2, 3] = False
    broken = torch.where(valid, truth, unknown)
    for measure in (end_point_error, lambda flow, *rest: multiscale_loss([flow], *rest)):
        expected = measure(flow, truth, valid)
        for given in (None, valid, torch.ones_like(valid)):
            assert torch.equal(measure(flow, broken, given), expected)
        (slope,) = torch.autograd.grad(measure(flow, broken), flow)
        assert slope.isfinite().all() and not slope[:, :, 2, 3].any()


def test_exact_flow_is_that_of_the_frames_asked_about():
    clip = ShapesClip(5, "medium", (32, 48), 8).window(1, 8)
    exact, plain = ExactFlow(), ZeroFlow()
    one, other = exact.at(clip, [5, 5], [4, 0]), exact.at(clip, [3], [2])
    images = torch.zeros(2, 3, 32, 48)
    assert torch.equal(one(images, images, (32, 48))[0], torch.stack([clip.flow(5, 4), clip.flow(5, 0)]))
    assert torch.equal(other.image_flow(images[:1], images[:1])[0], clip.flow(3, 2))
    left_out = Ablated(exact, flow=False).at(clip, [5], [4])
    assert not left_out(images[:1], images[:1], (32, 48))[0].any()
    assert plain.at(clip, [5], [4]) is plain and Ablated(plain).at(clip, [5], [4]).source is plain
    with pytest.raises(DffError, match="has no flow"):
        exact.at(Clip("plain", torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), [1], [0])
