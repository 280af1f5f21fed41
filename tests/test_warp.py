"""The warp against an independent double sum, against the paper's formulas, and at every edge we could think of."""

import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dfflib.warp import (  # fmt: skip
    PADDING_MODES,
    _integers,
    _neighbours,
    base_grid,
    compose,
    forward_backward_check,
    in_view,
    known,
    resample,
    resize_flow,
    warp,
)

warp_module = importlib.import_module("dfflib.warp")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIZES = ((5, 7), (1, 6), (6, 1), (1, 1), (2, 3))


def numbers(*shape, seed=0, scale=1.0, dtype=torch.float64):
    """Seeded normal numbers, made on the CPU."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def between_pixels(*shape, seed=0, scale=3.0):
    """Flow whose targets stay at least 0.1 px away from whole pixels, where G has its kinks."""
    flow = numbers(*shape, seed=seed, scale=scale)
    return flow.floor() + 0.1 + 0.8 * (flow - flow.floor())


def hat(distance):
    """g of the paper's eq. 2."""
    return max(0.0, 1.0 - abs(distance))


def naive_warp(features, flow, padding_mode="zeros"):
    """Eq. 1-2 word by word, in python floats: every output pixel sums over *all* pixels q of the map."""
    batch, (channels, height, width) = max(len(features), len(flow)), features.shape[1:]
    rows, columns = flow.shape[-2:]
    out = torch.zeros(batch, channels, rows, columns, dtype=torch.float64)
    for n in range(batch):
        image, field = features[n % len(features)].double(), flow[n % len(flow)].double()
        for y in range(rows):
            for x in range(columns):
                px, py = x + field[0, y, x].item(), y + field[1, y, x].item()
                if padding_mode == "border":
                    px, py = min(max(px, 0.0), width - 1.0), min(max(py, 0.0), height - 1.0)
                for qy in range(height):
                    for qx in range(width):
                        out[n, :, y, x] += hat(qx - px) * hat(qy - py) * image[:, qy, qx]
    return out


def grid_sample_warp(features, flow, padding_mode="zeros"):
    """The same look-up by torch's own sampler, with the grid divided by W-1 and aligned corners."""
    height, width = features.shape[-2:]
    point = base_grid(*flow.shape[-2:], dtype=flow.dtype) + flow
    grid = torch.stack((point[:, 0] * 2 / (width - 1) - 1, point[:, 1] * 2 / (height - 1) - 1), dim=-1)
    return F.grid_sample(features, grid, mode="bilinear", padding_mode=padding_mode, align_corners=True)


def similarity(angle, zoom, height, width, dtype=torch.float64):
    """Flow of a rotation by ``angle`` degrees and a zoom about the centre of the map."""
    grid = base_grid(height, width, dtype=dtype)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=dtype).view(1, 2, 1, 1)
    c, s = zoom * math.cos(math.radians(angle)), zoom * math.sin(math.radians(angle))
    matrix = torch.tensor([[c, -s], [s, c]], dtype=dtype)
    return torch.einsum("ij,njhw->nihw", matrix, grid - centre) + centre - grid


def constant(dx, dy, height, width, dtype=torch.float64):
    """The same displacement everywhere."""
    return torch.tensor([dx, dy], dtype=dtype).view(1, 2, 1, 1).expand(1, 2, height, width).contiguous()


# --- the sum itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_double_sum(size, padding_mode):
    features, flow = numbers(2, 3, *size), numbers(2, 2, *size, seed=1, scale=2.0)
    torch.testing.assert_close(
        warp(features, flow, padding_mode), naive_warp(features, flow, padding_mode), rtol=0, atol=1e-12
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 6), width=st.integers(1, 6), rows=st.integers(1, 5), columns=st.integers(1, 5),
    batches=st.sampled_from([(1, 1), (2, 2), (1, 2), (2, 1)]), channels=st.integers(1, 3),
    scale=st.sampled_from([0.0, 0.3, 2.0, 10.0]), padding_mode=st.sampled_from(PADDING_MODES), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_double_sum_for_any_shape(
    height, width, rows, columns, batches, channels, scale, padding_mode, seed
):
    features = numbers(batches[0], channels, height, width, seed=seed)
    flow = numbers(batches[1], 2, rows, columns, seed=seed + 1, scale=scale)
    out = warp(features, flow, padding_mode)
    assert out.shape == (max(batches), channels, rows, columns) and out.dtype == features.dtype
    torch.testing.assert_close(out, naive_warp(features, flow, padding_mode), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("size", [(5, 7), (2, 2), (9, 4), (33, 61)])
def test_agrees_with_grid_sample(size, padding_mode):
    features, flow = numbers(2, 3, *size), numbers(2, 2, *size, seed=1, scale=4.0)
    expected = grid_sample_warp(features, flow, padding_mode)
    torch.testing.assert_close(warp(features, flow, padding_mode), expected, rtol=0, atol=1e-12)
    rounded = warp(features.float(), flow.float(), padding_mode)
    torch.testing.assert_close(rounded.double(), expected, rtol=0, atol=2e-5)


def test_gradients_agree_with_grid_sample():
    results = []
    for op in (warp, grid_sample_warp):
        features, flow = numbers(2, 3, 6, 8).requires_grad_(), between_pixels(2, 2, 6, 8, seed=1).requires_grad_()
        op(features, flow).square().sum().backward()
        results.append((features.grad, flow.grad))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


# --- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("batches", [(2, 2), (1, 2), (2, 1)])
def test_gradcheck(padding_mode, batches):
    features = numbers(batches[0], 2, 4, 5).requires_grad_()
    flow = between_pixels(batches[1], 2, 4, 5, seed=1, scale=1.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, m: warp(f, m, padding_mode), (features, flow), atol=1e-6)


def published_flow_gradient(features, flow, upstream):
    """Eq. 4 by hand: dL/dM(p) = sum_c upstream_c(p) sum_q dG(q, p + dp)/d(dp) f_c(q), for one image.

    dg(q, p)/dp of g = max(0, 1 - |q - p|) is 0 where |q - p| >= 1, +1 where q >= p and -1 where q < p.
    """
    (channels, height, width), gradient = features.shape, torch.zeros_like(flow)

    def slope(q, p):
        return 0.0 if abs(q - p) >= 1 else (1.0 if q >= p else -1.0)

    for y in range(flow.shape[1]):
        for x in range(flow.shape[2]):
            px, py = x + flow[0, y, x].item(), y + flow[1, y, x].item()
            for qy in range(height):
                for qx in range(width):
                    for c in range(channels):
                        pull = upstream[c, y, x] * features[c, qy, qx]
                        gradient[0, y, x] += pull * slope(qx, px) * hat(qy - py)
                        gradient[1, y, x] += pull * hat(qx - px) * slope(qy, py)
    return gradient


@pytest.mark.parametrize("size", [(4, 5), (1, 4), (1, 1)])
def test_flow_gradient_is_the_published_one(size):
    features, flow = numbers(3, *size), between_pixels(2, *size, seed=1, scale=1.0)
    upstream = numbers(3, *size, seed=2)
    expected = published_flow_gradient(features, flow, upstream)
    flow.requires_grad_()
    warp(features[None], flow[None]).backward(upstream[None])
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(flow.grad, expected, rtol=0, atol=1e-12)


def test_flow_gradient_passes_through_a_scale_field():
    # eq. 4 has S in front: f_i = S * W(f_k, M), so the gradient that reaches M is that of W with S times upstream
    features, flow, scale = numbers(3, 4, 5), between_pixels(2, 4, 5, seed=1, scale=1.0), numbers(3, 4, 5, seed=3)
    expected = published_flow_gradient(features, flow, scale)
    flow.requires_grad_()
    (scale * warp(features[None], flow[None])[0]).sum().backward()
    torch.testing.assert_close(flow.grad, expected, rtol=0, atol=1e-12)


def test_derivative_at_whole_pixels_is_that_of_the_right_hand_piece():
    features, flow = numbers(1, 1, 5, 6), torch.zeros(1, 2, 5, 6, dtype=torch.float64).requires_grad_()
    warp(features, flow).sum().backward()
    padded = F.pad(features, (0, 1, 0, 1))[0, 0]
    torch.testing.assert_close(flow.grad[0, 0], padded[:-1, 1:] - padded[:-1, :-1])
    torch.testing.assert_close(flow.grad[0, 1], padded[1:, :-1] - padded[:-1, :-1])


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_no_gradient_reaches_the_flow_far_outside(padding_mode):
    features, flow = numbers(1, 2, 5, 6).requires_grad_(), constant(1e4, -1e4, 5, 6).requires_grad_()
    warp(features, flow, padding_mode).sum().backward()
    assert torch.count_nonzero(flow.grad) == 0
    # zeros: nothing is read; border: the one corner pixel is read by all
    assert features.grad.sum() == (0 if padding_mode == "zeros" else 2 * 30)


# --- exact cases ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (37, 301)])
def test_zero_flow_is_exactly_the_identity(size, dtype, padding_mode):
    features = numbers(2, 3, *size, dtype=dtype)
    for flow_dtype in {dtype, torch.float32}:
        flow = torch.zeros(2, 2, *size, dtype=flow_dtype)
        out = warp(features, flow, padding_mode)
        assert out.dtype == dtype and torch.equal(out, features)
        assert torch.equal(warp(features, -flow, padding_mode), features)  # minus zero too


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    dx=st.integers(-9, 9), dy=st.integers(-9, 9), height=st.integers(1, 9), width=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES), padding_mode=st.sampled_from(PADDING_MODES),
)  # fmt: skip
def test_whole_pixel_shifts_are_exact(dx, dy, height, width, dtype, padding_mode):
    features = numbers(1, 2, height, width, dtype=dtype)
    y, x = torch.arange(height) + dy, torch.arange(width) + dx
    expected = features[:, :, y.clamp(0, height - 1)][..., x.clamp(0, width - 1)]
    if padding_mode == "zeros":  # what enters is zero
        inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
        expected = expected * inside
    assert torch.equal(warp(features, constant(dx, dy, height, width, dtype), padding_mode), expected)


def test_shift_by_one_by_eye():
    features = torch.tensor([[1.0, 2.0, 3.0]]).view(1, 1, 1, 3)
    right, half = constant(1, 0, 1, 3, torch.float32), constant(0.5, 0, 1, 3, torch.float32)
    assert warp(features, right).flatten().tolist() == [2, 3, 0]  # content moves left, a zero enters
    assert warp(features, right, "border").flatten().tolist() == [2, 3, 3]
    assert warp(features, half).flatten().tolist() == [1.5, 2.5, 1.5]
    assert warp(features, -half, "border").flatten().tolist() == [1, 1.5, 2.5]


def test_first_channel_of_flow_is_x():
    ramp = base_grid(4, 6)
    moved = warp(ramp, constant(1, 2, 4, 6, torch.float32), "border")
    assert torch.equal(moved[0, 0, :, :5], ramp[0, 0, :, 1:]) and torch.equal(moved[0, 1, :2], ramp[0, 1, 2:])


def test_zeros_fade_over_one_pixel_and_border_repeats():
    ones = torch.ones(1, 1, 1, 5, dtype=torch.float64)
    for distance in (0.0, 0.25, 0.75, 1.0, 1.5):
        flow = constant(-distance, 0, 1, 5)
        assert warp(ones, flow)[0, 0, 0, 0] == max(0.0, 1 - distance)
        assert torch.equal(warp(ones, flow, "border"), ones)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_coordinates_come_back_as_coordinates(padding_mode):
    # a linear ramp is reproduced exactly by bilinear weights wherever the point is in view
    grid, flow = base_grid(23, 31, dtype=torch.float64), similarity(11, 0.9, 23, 31)
    out, inside = warp(grid, flow, padding_mode), in_view(flow)
    assert inside.any()
    torch.testing.assert_close(out * inside, (grid + flow) * inside, rtol=0, atol=1e-12)


# --- layouts, batches, precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_each_image_of_a_batch_is_warped_by_its_own_flow(padding_mode):
    features, flow = numbers(3, 2, 5, 7), numbers(3, 2, 5, 7, seed=1, scale=2.0)
    out = warp(features, flow, padding_mode)
    for n in range(3):
        assert torch.equal(out[n : n + 1], warp(features[n : n + 1], flow[n : n + 1], padding_mode))
    assert torch.equal(warp(features[:1], flow), warp(features[:1].expand(3, -1, -1, -1), flow))
    assert torch.equal(warp(features, flow[:1]), warp(features, flow[:1].expand(3, -1, -1, -1)))


def test_memory_layout_changes_nothing_and_the_result_is_channels_last():
    features, flow = numbers(2, 3, 6, 8), numbers(2, 2, 6, 8, seed=1, scale=2.0)
    expected = warp(features, flow)
    for layout in (
        features.to(memory_format=torch.channels_last),
        features.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat((features, features), 3)[..., :8],
        features.flip(0).contiguous().flip(0),
    ):
        out = warp(layout, flow.transpose(2, 3).contiguous().transpose(2, 3))
        assert torch.equal(out, expected)
        assert out.is_contiguous(memory_format=torch.channels_last)
    leaf = features.to(memory_format=torch.channels_last).requires_grad_()
    warp(leaf, flow).square().sum().backward()
    plain = features.clone().requires_grad_()
    warp(plain, flow).square().sum().backward()
    torch.testing.assert_close(leaf.grad, plain.grad, rtol=0, atol=1e-12)


def test_inputs_are_left_alone():
    features, flow = numbers(1, 2, 4, 5), numbers(1, 2, 4, 5, seed=1)
    copies = features.clone(), flow.clone()
    warp(features, flow).add_(1)
    assert torch.equal(features, copies[0]) and torch.equal(flow, copies[1])


@pytest.mark.parametrize("dtype, unit", [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_features_stay_within_rounding(dtype, unit):
    features = numbers(1, 4, 40, 300, dtype=dtype)
    flow = numbers(1, 2, 40, 300, seed=1, scale=5.0, dtype=torch.float32)
    exact = warp(features.double(), flow.double())
    # four products with weights rounded once, summed: a few roundings of numbers up to the largest feature
    error = (warp(features, flow).double() - exact).abs().max()
    assert 0 < error < 3 * unit * features.double().abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_flow_is_added_to_exact_positions(dtype):
    # positions formed in bfloat16 would be wrong by up to two pixels near x = 500
    flow = numbers(1, 2, 3, 600, scale=2.0, dtype=dtype)
    features = numbers(1, 2, 3, 600)
    torch.testing.assert_close(warp(features, flow), warp(features, flow.double()), rtol=0, atol=2e-4)
    assert torch.equal(
        warp(base_grid(3, 600), constant(3, 0, 3, 600, dtype), "border")[0, 0, 0, :597], torch.arange(3.0, 600)
    )


def test_half_precision_trains():
    features = numbers(2, 4, 6, 8, dtype=torch.bfloat16).requires_grad_()
    flow = between_pixels(2, 2, 6, 8, seed=1).to(torch.bfloat16).requires_grad_()
    warp(features, flow).float().square().sum().backward()
    exact = [features.detach().double().requires_grad_(), flow.detach().double().requires_grad_()]
    warp(*exact).square().sum().backward()
    for ours, reference in ((features, exact[0]), (flow, exact[1])):
        assert ours.grad.dtype == torch.bfloat16
        assert F.cosine_similarity(ours.grad.double().flatten(), reference.grad.flatten(), 0) > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_gpu_agrees_with_cpu(padding_mode):
    results = []
    for device in ("cpu", "cuda"):
        features = numbers(2, 5, 17, 23).to(device).requires_grad_()
        flow = between_pixels(2, 2, 17, 23, seed=1).to(device).requires_grad_()
        out = warp(features, flow, padding_mode)
        out.square().sum().backward()
        results.append([t.detach().cpu() for t in (out, features.grad, flow.grad)])
        assert torch.equal(warp(features, torch.zeros_like(flow)), features)
    for cpu, gpu in zip(*results):
        torch.testing.assert_close(cpu, gpu, rtol=1e-9, atol=1e-9)


# --- strange flows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [60000.0, -60000.0, 1e30, -1e30, math.inf, -math.inf])
def test_huge_and_infinite_flow_reads_zeros_or_the_edge(value, dtype):
    features = numbers(2, 3, 5, 7)
    flow = torch.full((2, 2, 5, 7), value, dtype=torch.float64).to(dtype)
    assert torch.count_nonzero(warp(features, flow)) == 0
    corner = features[..., -1:, -1:] if value > 0 else features[..., :1, :1]
    assert torch.equal(warp(features, flow, "border"), corner.expand_as(features))


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_a_nan_in_the_flow_stays_where_it_is(padding_mode):
    features, flow = numbers(1, 2, 5, 6), numbers(1, 2, 5, 6, seed=1)
    clean = warp(features, flow, padding_mode)
    for channel in (0, 1):
        broken = flow.clone()
        broken[0, channel, 2, 3] = math.nan
        out = warp(features, broken, padding_mode)
        assert out[0, :, 2, 3].isnan().all()
        out[0, :, 2, 3] = clean[0, :, 2, 3]
        assert torch.equal(out, clean)
        assert not forward_backward_check(broken, torch.zeros_like(flow))[0][0, 0, 2, 3]


@pytest.mark.parametrize(
    "features, flow",
    [
        ((2, 3, 4), (1, 2, 4, 4)), ((1, 2, 3, 4), (2, 3, 4)), ((1, 2, 3, 4), (1, 3, 3, 4)), ((2, 2, 3, 4), (3, 2, 3, 4)),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(features, flow):
    with pytest.raises(ValueError, match=r"warp takes features|batch sizes differ"):
        warp(torch.zeros(features), torch.zeros(flow))


@pytest.mark.parametrize("padding_mode", ["reflection", "", None])
def test_unknown_padding_is_refused_by_name(padding_mode):
    with pytest.raises(ValueError, match="choose one of zeros, border"):
        warp(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), padding_mode)


# --- resizing ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(*[st.integers(1, 20)] * 4)
def test_a_constant_flow_stays_constant_at_any_size(height, width, rows, columns):
    out = resize_flow(constant(6, -4, height, width), (rows, columns))
    torch.testing.assert_close(
        out, constant(6 * columns / width, -4 * rows / height, rows, columns), rtol=1e-12, atol=0
    )


def test_halving_a_flow_is_average_pooling_and_half_the_values():
    flow = numbers(2, 2, 8, 12)
    torch.testing.assert_close(resize_flow(flow, (4, 6)), F.avg_pool2d(flow, 2) / 2, rtol=0, atol=1e-14)
    # stride 16 at once is the paper's repeated halving
    flow, steps = numbers(1, 2, 32, 48), numbers(1, 2, 32, 48)
    for size in ((16, 24), (8, 12), (4, 6), (2, 3)):
        steps = resize_flow(steps, size)
    torch.testing.assert_close(resize_flow(flow, (2, 3)), steps, rtol=0, atol=1e-13)


def test_its_own_size_returns_the_flow_and_eight_pixels_are_half_a_cell():
    flow = constant(8, 0, 32, 48)
    assert resize_flow(flow, (32, 48)) is flow and resample(flow, (32, 48)) is flow
    assert torch.equal(resize_flow(flow, (2, 3)), constant(0.5, 0, 2, 3))


def test_enlarging_and_shrinking_again_returns_the_flow():
    flow = similarity(8, 1.1, 9, 11)
    back = resize_flow(resize_flow(flow, (36, 44)), (9, 11))
    inner = (..., slice(1, -1), slice(1, -1))  # bilinear enlargement repeats the edge
    torch.testing.assert_close(back[inner], flow[inner], rtol=0, atol=1e-12)
    there = resize_flow(resize_flow(similarity(8, 1.1, 36, 44), (9, 11)), (36, 44))
    torch.testing.assert_close(there[..., 4:-4, 4:-4], similarity(8, 1.1, 36, 44)[..., 4:-4, 4:-4], rtol=0, atol=1e-12)


def test_axes_are_scaled_separately():
    out = resize_flow(constant(6, 6, 10, 10), (5, 20))
    torch.testing.assert_close(out, constant(12, 3, 5, 20), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(16, 20), (8, 10)])
def test_warping_with_a_resized_flow_agrees_with_warping_at_full_size(size):
    # a linear ramp survives averaging and bilinear look-up, so both orders must agree wherever all points are in view
    ramp, flow = base_grid(32, 40, dtype=torch.float64), similarity(6, 0.97, 32, 40)
    full = resample(warp(ramp, flow, "border"), size)
    small = warp(resample(ramp, size), resize_flow(flow, size), "border")
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(small[inner], full[inner], rtol=0, atol=1e-9)
    unscaled = warp(resample(ramp, size), resample(flow, size), "border")
    assert (unscaled[inner] - full[inner]).abs().max() > 0.5  # the trap: values left in image pixels


def test_resizing_is_differentiable_and_keeps_the_dtype():
    flow = numbers(1, 2, 6, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: resize_flow(f, (3, 4)), (flow,))
    for dtype in DTYPES:
        assert resize_flow(numbers(1, 2, 6, 9, dtype=dtype), (3, 4)).dtype == dtype


# --- composition and consistency -----------------------------------------------------------------------------------


def test_translations_add_exactly():
    first, second = constant(2, -1, 7, 9), constant(-5, 3, 7, 9)
    assert torch.equal(compose(first, second), constant(-3, 2, 7, 9))
    zero = torch.zeros_like(first)
    assert torch.equal(compose(first, zero), first) and torch.equal(compose(zero, second), second)


@pytest.mark.parametrize("one, two", [((10, 1.0), (7, 1.0)), ((0, 0.9), (0, 0.95)), ((6, 0.9), (-9, 1.05))])
def test_affine_flows_chain_as_their_matrices_do(one, two):
    first, second = similarity(*one, 25, 31), similarity(*two, 25, 31)
    expected = similarity(one[0] + two[0], one[1] * two[1], 25, 31)
    inside = in_view(first)  # there the second flow, which is linear, is read without error
    assert inside.float().mean() > 0.7
    torch.testing.assert_close(compose(first, second) * inside, expected * inside, rtol=0, atol=1e-12)


def test_composition_is_associative_in_view():
    a, b, c = similarity(5, 0.95, 25, 31), similarity(-8, 0.9, 25, 31), constant(1.5, -0.5, 25, 31)
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    inside = in_view(a) & in_view(compose(a, b))
    torch.testing.assert_close(left * inside, right * inside, rtol=0, atol=1e-11)
    # a flow with curvature is interpolated at other points on the two ways: close, not equal
    wave = 0.8 * torch.sin(base_grid(25, 31, dtype=torch.float64).flip(1) / 5)
    left, right = compose(compose(a, b), wave), compose(a, compose(b, wave))
    inside &= warp(in_view(b).double(), a) > 1 - 1e-9  # no value that the edge has clipped is read
    assert inside.float().mean() > 0.7
    assert 1e-6 < ((left - right) * inside).abs().max() < 0.01


def test_warping_twice_is_warping_by_the_composition():
    features = base_grid(25, 31, dtype=torch.float64)
    first, second = similarity(4, 0.9, 25, 31), similarity(-7, 0.92, 25, 31)
    # frame j = warp(k, second), frame i = warp(j, first)
    torch.testing.assert_close(
        warp(warp(features, second), first), warp(features, compose(first, second)), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("shift", [(3, 2), (-4, 0), (0.5, -2.25)])
def test_a_translation_is_consistent_except_where_it_leaves_the_image(shift):
    there = constant(*shift, 12, 15)
    consistent, error = forward_backward_check(there, -there)
    x, y = base_grid(12, 15)[0, 0] + shift[0], base_grid(12, 15)[0, 1] + shift[1]
    assert torch.equal(consistent[0, 0], (x >= 0) & (x <= 14) & (y >= 0) & (y <= 11))
    assert torch.equal(consistent, in_view(there)) and error.max() == 0


def test_a_made_up_occlusion_is_found():
    # a 6 x 6 square stands in front of a still background; in the key frame it is 4 px further right
    height, width = 20, 30
    there, back = torch.zeros(2, 1, 2, height, width)
    there[0, 0, 8:14, 8:14] = 4  # current -> key, on the square's place in the current frame
    back[0, 0, 8:14, 12:18] = -4  # key -> current, on its place in the key frame
    consistent, error = forward_backward_check(there, back)
    hidden = torch.zeros(height, width, dtype=torch.bool)
    hidden[8:14, 14:18] = True  # background seen now, behind the square in the key frame
    assert torch.equal(~consistent[0, 0], hidden)
    assert torch.equal(error[0, 0] > 0, hidden) and error.max() == 4


def test_thresholds_of_the_check():
    there = constant(10, 0, 4, 40)
    for wrong, kept in ((0.5, True), (1.4, True), (1.7, False)):  # limit: 0.01 * (100 + 100) + 0.5, about 1.58 px
        consistent, error = forward_backward_check(there, -there + constant(wrong, 0, 4, 40))
        assert consistent[0, 0, 0, 0] == kept and error[0, 0, 0, 0] == pytest.approx(wrong)
    strict, _ = forward_backward_check(there, -there + constant(0.1, 0, 4, 40), alpha=0.0, beta=0.001)
    assert not strict.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_edge_pixels_are_in_view(dtype):
    still = torch.zeros(1, 2, 3, 400, dtype=dtype)
    assert in_view(still).all() and in_view(still).shape == (1, 1, 3, 400)
    still[:, 0] = 0.25  # only the last column leaves; in bfloat16 399.25 would round
    assert torch.equal(~in_view(still)[0, 0], base_grid(3, 400)[0, 0] == 399)


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (2, 40, 9, 4), (3, 1, 1, 1)])
def test_gradients_are_those_of_the_plain_sum(shape, dtype, padding_mode):
    """Against PyTorch's own gradient of the same look-up, table of rows and weights alike."""
    torch.manual_seed(0)
    features = torch.randn(shape, dtype=dtype, requires_grad=True)
    flow = (2.5 * torch.randn(shape[0], 2, *shape[2:], dtype=dtype)).requires_grad_()
    pull = torch.randn(shape, dtype=dtype)
    found = torch.autograd.grad(warp(features, flow, padding_mode), (features, flow), pull)

    corner, weight, _ = _neighbours(flow, *shape[2:], padding_mode, torch.int32)
    rows = features.flatten(2).transpose(1, 2)  # (N, H * W, C)
    near = torch.stack([table[index.flatten()].view(*index.shape, -1) for table, index in zip(rows, corner)])
    plain = (near * weight[..., None]).sum(3).permute(0, 3, 1, 2)
    expected = torch.autograd.grad(plain, (features, flow), pull)
    tolerance = dict(rtol=1e-5, atol=1e-5) if dtype == torch.float32 else {}
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, **tolerance)


def test_a_graph_that_is_kept_gives_the_same_gradient_twice():
    features, flow = torch.randn(1, 4, 6, 5, requires_grad=True), torch.randn(1, 2, 6, 5, requires_grad=True)
    loss = warp(features, flow).square().sum()
    first = torch.autograd.grad(loss, (features, flow), retain_graph=True)
    second = torch.autograd.grad(loss, (features, flow))
    assert all(torch.equal(one, other) for one, other in zip(first, second))


@pytest.mark.parametrize("wanted", ["features", "flow"])
def test_a_gradient_to_one_of_the_two_alone(wanted):
    both = {"features": torch.randn(2, 4, 6, 5), "flow": torch.randn(2, 2, 6, 5)}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in both.items()}
    (expected,) = torch.autograd.grad(warp(**leaves).square().sum(), leaves[wanted])
    alone = both | {wanted: both[wanted].clone().requires_grad_()}
    (found,) = torch.autograd.grad(warp(**alone).square().sum(), alone[wanted])
    assert torch.equal(found, expected)


def test_there_is_no_second_derivative_and_nobody_gets_a_wrong_one():
    flow = torch.randn(1, 2, 3, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(warp(torch.randn(1, 1, 3, 3), flow).sum(), flow, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        slope.sum().backward()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_feature_reaches_the_points_that_it_has_a_weight_in(bad):
    features, still = numbers(2, 3, 5, 7), torch.zeros(2, 2, 5, 7, dtype=torch.float64)
    features[..., 0, 0] = features[..., -1, -1] = features[..., 0, -1] = features[..., -1, 0] = bad
    for flow in (still + 100, still - 7, still - 1e30):
        for wanted in (False, True):
            assert torch.count_nonzero(warp(features.clone().requires_grad_(wanted), flow.clone())) == 0
    for mode in PADDING_MODES:
        assert torch.equal(warp(features, still, mode).isfinite(), features.isfinite())
    moved = warp(features, still - 1)  # only the first corner stays in view
    assert (
        torch.equal(moved[..., 1:, 1:].isfinite(), features[..., :-1, :-1].isfinite()) and moved[..., 0, :].any() == 0
    )
    flow = (still + 100).requires_grad_()
    warp(features, flow).sum().backward()
    assert torch.count_nonzero(flow.grad) == 0


def test_nothing_to_warp_is_nothing_and_what_is_no_map_is_refused():
    for count, flows, size in ((0, 0, (3, 4)), (0, 1, (3, 4)), (2, 2, (0, 4))):
        features, flow = torch.zeros(count, 2, 3, 4, requires_grad=True), torch.zeros(flows, 2, *size).requires_grad_()
        out = warp(features, flow)
        out.sum().backward()
        assert out.shape == (count, 2, *size) and not features.grad.any() and not flow.grad.any()
    for shape in ((1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)):
        with pytest.raises(ValueError, match="one channel and one cell"):
            warp(torch.zeros(shape, requires_grad=True), torch.zeros(1, 2, 3, 4))
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match="floating-point"):
            warp(torch.zeros(1, 1, 3, 4).to(dtype), torch.zeros(1, 2, 3, 4))


def test_row_numbers_are_wide_enough(monkeypatch):
    assert _integers(2**31 - 1, 4) == torch.int32
    assert _integers(2**31, 4) == _integers(4, 2**29) == torch.int64
    found, counted = [], torch.bincount
    monkeypatch.setattr(warp_module, "_integers", lambda cells, points: torch.int64)
    monkeypatch.setattr(torch, "bincount", lambda rows, **kw: (found.append(rows.dtype), counted(rows, **kw))[1])
    features = numbers(1, 2, 3, 4).requires_grad_()
    warp(features, numbers(1, 2, 3, 4)).sum().backward()
    assert found == [torch.int64]


def test_known_flow():
    flow = torch.zeros(1, 2, 1, 6)
    flow[0, 0, 0] = torch.tensor([0, 1e8, 1e10, 1.666e9, math.nan, -math.inf])
    for one in (flow, flow.flip(1)):
        assert known(one)[0, 0, 0].tolist() == [True, True, False, False, False, False]
    assert not known(flow.half())[0, 0, 0, 2:].any()
