"""The correlation network: its parts against naive references, and that it finds a shift before it has learnt anything much."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfflib.flow import FlowNetwork
from dfflib.flow.correlation import CorrelationFlowNet, convex, correlation, expected_shift


@settings(max_examples=20)
@given(st.integers(1, 2), st.integers(1, 5), st.integers(1, 6), st.integers(1, 7), st.integers(0, 3))
def test_correlation_against_a_naive_loop(batch, channels, height, width, radius):
    rng = torch.Generator().manual_seed(height)
    current, key = (torch.randn(batch, channels, height, width, generator=rng, dtype=torch.float64) for _ in range(2))
    found = correlation(key, current, radius)
    with torch.no_grad():
        torch.testing.assert_close(correlation(key, current, radius), found)  # takes another way
    expected = torch.zeros_like(found)
    side = 2 * radius + 1
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            for y in range(height):
                for x in range(width):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        product = current[:, :, y, x] * key[:, :, y + dy, x + dx]
                        expected[:, (dy + radius) * side + dx + radius, y, x] = product.sum(1)
    torch.testing.assert_close(found, expected)


@settings(max_examples=20)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
def test_convex_upsampling_against_a_naive_loop(batch, channels, height, width, factor):
    rng = torch.Generator().manual_seed(width)
    maps = torch.randn(batch, channels, height, width, generator=rng, dtype=torch.float64)
    share = torch.randn(batch, 9 * factor**2, height, width, generator=rng, dtype=torch.float64)
    found = convex(maps, share)
    assert found.shape == (batch, channels, factor * height, factor * width)
    for y in range(factor * height):
        for x in range(factor * width):
            (row, dy), (column, dx) = divmod(y, factor), divmod(x, factor)
            weights = share[:, dy * factor + dx :: factor**2, row, column].softmax(1)  # of the nine cells
            expected = 0
            for n, (a, b) in enumerate((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
                cell = maps[:, :, min(max(row + a, 0), height - 1), min(max(column + b, 0), width - 1)]
                expected = expected + weights[:, n, None] * cell
            torch.testing.assert_close(found[:, :, y, x], expected)


def test_the_finest_level_starts_out_bilinear():
    net = CorrelationFlowNet(width=0.5)
    flow = torch.randn(1, 2, 6, 7)
    start = convex(flow, net.share[-1].bias.detach().view(1, -1, 1, 1).expand(-1, -1, 6, 7))
    bilinear = torch.nn.functional.interpolate(flow, scale_factor=4, mode="bilinear", align_corners=False)
    assert (start - bilinear).abs().mean() < 0.1 * bilinear.abs().mean()


@pytest.mark.parametrize("shift", [(0, 0), (2, -1), (-3, 3)])
def test_the_expected_shift_is_where_the_match_is(shift):
    x, y = shift
    alike = torch.zeros(1, 49, 2, 5)
    alike[:, (y + 3) * 7 + x + 3] = 100.0
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(expected_shift(alike, 3)[0, :, 1, 2], torch.tensor([float(x), float(y)]))
    assert not expected_shift(torch.zeros(1, 49, 2, 5), 3).abs().max() > 1e-6  # no match: no motion


def test_random_features_match_a_shifted_copy_of_themselves():
    rng = torch.Generator().manual_seed(0)
    key = torch.nn.functional.normalize(torch.randn(1, 32, 12, 14, generator=rng), dim=1)
    current = key.roll((1, -2), (2, 3))  # current(p) = key(p + (2, -1))
    shift = expected_shift(correlation(key, current, 3) * 20, 3)[0, :, 4:-4, 4:-4]
    torch.testing.assert_close(shift.mean((1, 2)), torch.tensor([2.0, -1.0]), atol=0.1, rtol=0)


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (17, 130), (64, 64)])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_and_levels(size, batch):
    net = CorrelationFlowNet(width=0.5)
    predictions, hidden = net(torch.rand(batch, 6, *size))
    for stride, flow in zip((16, 8, 4, 1), predictions, strict=True):
        assert flow.shape == (batch, 2, -(-size[0] // stride), -(-size[1] // stride))
    assert hidden.shape == (batch, net.channels, *predictions[-2].shape[-2:])


def test_it_takes_the_place_of_flownet():
    source = FlowNetwork(CorrelationFlowNet(width=0.5), feature_channels=9, feature_stride=4, input_stride=1)
    flow, scale = source(torch.rand(2, 3, 33, 50), torch.rand(2, 3, 33, 50), (9, 13))
    assert flow.shape == (2, 2, 9, 13) and torch.equal(scale, torch.ones(2, 9, 9, 13))
    levels = source.predictions(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))[0]
    assert len(levels) == 4
    sum(level.sum() for level in levels).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for n, p in source.named_parameters() if "scale_head" not in n
    )


def test_equal_frames_give_hardly_any_flow():
    torch.manual_seed(0)
    source = FlowNetwork(CorrelationFlowNet(), 4, 4, 1, scale=False)
    frame = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 24), (96, 96), mode="bicubic")
    still, moved = (source(key, frame, (24, 24))[0] for key in (frame, frame.roll(8, 3)))
    assert still.abs().mean() < 0.5 * moved.abs().mean()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    net = CorrelationFlowNet(width=0.25).to(dtype)
    predictions, _ = net(torch.rand(1, 6, 32, 32, dtype=dtype))
    assert all(p.dtype == dtype and p.isfinite().all() for p in predictions)


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_an_encoded_key_frame_gives_the_same_flow(size):
    net = CorrelationFlowNet(width=0.5).eval()
    current, key = torch.rand(3, 3, *size), torch.rand(1, 3, *size)
    together, hidden = net(torch.cat((current, key.expand(3, -1, -1, -1)), dim=1))
    found, same = net.estimate(net.encode_key(key), current)
    for one, other in zip((*together, hidden), (*found, same), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
