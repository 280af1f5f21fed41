"""Flow from image gradients, by least squares in a window: Lucas and Kanade (1981), the older half of a good flow network.

Where the current frame is brighter than the key frame along the flow, and the picture gets brighter to the right, the flow
should have led farther to the right. One pixel gives one such equation for two unknowns; all pixels of a window give many::

    sum_p w g g^T  u  =  sum_p w g (g . f + I_i - I_k(p + f))          u: one flow for the whole window

Matching features finds the cell; gradients find the fraction of it, to a tenth of a pixel where there is texture. The window
is fitted with a *flow*, not with a correction of the present one: so bumps of the present flow are smoothed away, except where
the picture defends them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dfflib.warp import warp

NOISE = 0.003  # squared difference of colours that noise alone explains; a pixel that differs more counts less
PRIOR = 0.01  # weight of the present flow in every window: what is kept where the picture is flat
CELL = 4  # pixels of a cell, each way


def fit(key: Tensor, current: Tensor, flow: Tensor, windows: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Flow that explains the change from key to current best, in windows of several sizes around every cell of 4x4 pixels.

    Args:
        key, current: ``(N, C, H, W)``, colours of range 1.
        flow: present flow, ``(N, 2, ceil(H/4), ceil(W/4))`` in pixels. A gradient passes through it as through a filter that
            the pictures steer.
        windows: sides of the windows, in cells, odd.

    Returns:
        A flow like ``flow`` for each window; and how much to trust them, ``(N, 3 * len(windows), h, w)`` without gradient:
        logarithms of the texture across and along x, and of the mean squared difference that the present flow leaves.
    """
    height, width = current.shape[-2:]
    fine = F.interpolate(flow, scale_factor=CELL, mode="bilinear", align_corners=False)[..., :height, :width]
    with torch.no_grad():
        moved = warp(key, fine, "border")
        change = current - moved
        x, y = _gradient((moved + current) / 2)
        left = change.square().sum(1, keepdim=True)
        weight = 1 / (left + NOISE)
        xx, xy, yy = (weight * (a * b).sum(1, keepdim=True) for a, b in ((x, x), (x, y), (y, y)))
        xt, yt = (weight * (a * change).sum(1, keepdim=True) for a in (x, y))
        texture = _cells(torch.cat((xx, xy, yy, left), dim=1))
    across, along = fine[:, :1], fine[:, 1:]
    wanted = _cells(torch.cat((xt + xx * across + xy * along, yt + xy * across + yy * along), dim=1))
    sums = torch.cat((texture, wanted), dim=1)
    fits, trust = [], []
    for side in windows:
        xx, xy, yy, left, right_x, right_y = _window(sums, side).split(1, dim=1)
        xx, yy = xx + PRIOR, yy + PRIOR
        right_x, right_y = right_x + PRIOR * flow[:, :1], right_y + PRIOR * flow[:, 1:]
        determinant = xx * yy - xy * xy  # above PRIOR squared, by the inequality of Cauchy and Schwarz
        solution = torch.cat((yy * right_x - xy * right_y, xx * right_y - xy * right_x), dim=1) / determinant
        fits.append(solution)
        trust.append(torch.cat((xx, yy, left + NOISE), dim=1).detach().log())
    return fits, torch.cat(trust, dim=1)


def _gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, each ``(N, C, H, W)``."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return x, y


def _cells(maps: Tensor) -> Tensor:
    """Means over cells of 4x4 pixels; those at the right and lower edge may be smaller."""
    return F.avg_pool2d(maps, CELL, ceil_mode=True)


def _window(maps: Tensor, side: int) -> Tensor:
    """Means over windows of ``side`` x ``side`` cells, cut off at the edges."""
    return maps if side == 1 else F.avg_pool2d(maps, side, 1, side // 2, count_include_pad=False)
