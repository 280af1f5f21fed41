"""Lucas and Kanade's fit against a naive solution window by window, and against shifts that are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfflib.flow.lucas_kanade import NOISE, PRIOR, fit


def waves(height, width, shift=(0.0, 0.0)):
    """A smooth picture of three colours, moved so that ``waves(shift)(p) = waves(0)(p + shift)``, float64."""
    y, x = torch.meshgrid(
        torch.arange(height).double() + shift[1], torch.arange(width).double() + shift[0], indexing="ij"
    )
    colours = [torch.sin(x / 3 + c) * torch.cos(y / 4 - c) + torch.sin((x + 2 * y) / 7 + 2 * c) for c in range(3)]
    return torch.stack(colours)[None] / 4


def naive(current, key, flow, side):
    """The same for one picture pair, by loops and numpy's solver; the flow is constant, and whole."""
    height, width = current.shape[-2:]
    dx, dy = (int(v) for v in flow[0, :, 0, 0])
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    now, moved = current[0].numpy(), key[0].numpy()[:, rows][:, :, columns]
    mean = np.pad((now + moved) / 2, ((0, 0), (1, 1), (1, 1)), mode="edge")
    gx, gy = (mean[:, 1:-1, 2:] - mean[:, 1:-1, :-2]) / 2, (mean[:, 2:, 1:-1] - mean[:, :-2, 1:-1]) / 2
    weight = 1 / (((now - moved) ** 2).sum(0) + NOISE)
    cells = -(-height // 4), -(-width // 4)
    result = np.zeros((2, *cells))
    for i in range(cells[0]):
        for j in range(cells[1]):
            matrix, right, count = np.zeros((2, 2)), np.zeros(2), 0
            for a in range(max(0, i - side // 2), min(cells[0], i + side // 2 + 1)):
                for b in range(max(0, j - side // 2), min(cells[1], j + side // 2 + 1)):
                    m, r, n = np.zeros((2, 2)), np.zeros(2), 0
                    for y in range(4 * a, min(height, 4 * a + 4)):
                        for x in range(4 * b, min(width, 4 * b + 4)):
                            g = np.stack((gx[:, y, x], gy[:, y, x]), 1)  # (colours, 2)
                            m += weight[y, x] * g.T @ g
                            r += weight[y, x] * g.T @ (now - moved)[:, y, x] + weight[y, x] * g.T @ g @ (dx, dy)
                            n += 1
                    matrix, right, count = matrix + m / n, right + r / n, count + 1
            matrix, right = matrix / count + PRIOR * np.eye(2), right / count + PRIOR * np.array((dx, dy))
            result[:, i, j] = np.linalg.solve(matrix, right)
    return torch.from_numpy(result)[None]


@settings(max_examples=8)
@given(st.integers(5, 18), st.integers(5, 18), st.sampled_from([1, 3, 5]), st.sampled_from([(0, 0), (1, -2), (-3, 1)]))
def test_fit_against_a_naive_solver(height, width, side, present):
    rng = torch.Generator().manual_seed(height * 100 + width)
    current, key = (torch.rand(1, 3, height, width, generator=rng, dtype=torch.float64) for _ in range(2))
    flow = torch.tensor(present, dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, -(-height // 4), -(-width // 4))
    [found], trust = fit(key, current, flow, (side,))
    torch.testing.assert_close(found, naive(current, key, flow, side))
    assert trust.shape == (1, 3, *found.shape[-2:]) and trust.isfinite().all()


@pytest.mark.parametrize("shift", [(0.4, -0.3), (-0.7, 0.2)])
def test_a_small_shift_is_found_to_a_fiftieth_of_a_pixel(shift):
    key, current = waves(40, 52), waves(40, 52, shift)
    flow = torch.zeros(1, 2, 10, 13, dtype=torch.float64)
    for _ in range(4):
        [flow], _ = fit(key, current, flow, (3,))
    inside = flow[0, :, 2:-2, 2:-2]
    wanted = torch.tensor(shift, dtype=torch.float64).view(2, 1, 1).expand_as(inside)
    torch.testing.assert_close(inside, wanted, atol=0.02, rtol=0)


def test_bumps_of_the_present_flow_are_smoothed_away():
    key = waves(48, 48)
    bumps = torch.zeros(1, 2, 12, 12, dtype=torch.float64)
    bumps[:, :, ::2, ::2] = 0.5
    [found], _ = fit(key, key, bumps, (7,))
    assert found[..., 3:-3, 3:-3].abs().mean() < 0.2 * bumps[..., 3:-3, 3:-3].abs().mean()


def test_the_present_flow_is_kept_where_there_is_nothing_to_see():
    grey = torch.full((2, 3, 17, 23), 0.5)
    flow = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    for found in fit(grey, grey, flow, (1, 3))[0]:
        torch.testing.assert_close(found, flow)


def test_shapes_dtypes_and_gradient():
    current, key = waves(33, 50).float().repeat(2, 1, 1, 1), waves(33, 50, (1.0, 0.0)).float().repeat(2, 1, 1, 1)
    flow = torch.zeros(2, 2, 9, 13, requires_grad=True)
    fits, trust = fit(key, current.contiguous(memory_format=torch.channels_last), flow, (7, 3, 1))
    assert [f.shape for f in fits] == [flow.shape] * 3 and trust.shape == (2, 9, 9, 13) and trust.dtype == torch.float32
    fits[0].sum().backward()
    assert flow.grad.isfinite().all() and flow.grad.abs().max() > 0 and not trust.requires_grad
