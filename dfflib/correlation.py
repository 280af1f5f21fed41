"""A small flow network with classical guesses inside. **Ours, not in the paper**, which predates its kind.

FlowNetS sees two frames as six channels and has to invent matching. Here both frames pass the same encoder, and from coarse to
fine, as in PWC-Net (Sun et al., CVPR 2018), what the coarser level found is taken out by warping before the next one looks:

1. strides 16 and 8: *correlation*. Features are compared with those of the key frame in a small window (FlowNetC, Dosovitskiy
   et al., ICCV 2015); the mean shift of the matches, weighted by how good they are, is a guess of large motions.
2. strides 16, 8 and 4, in rounds: *gradients*. Least squares in windows of two sizes (`dfflib.lucas_kanade`) give two guesses
   of what is left; the network blends them with the flow that it has, and adds a correction.

Little is left to learn, and so it learns fast: for a laptop that matters more than anything.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfflib.flow import FLOW_UNIT, conv
from dfflib.lucas_kanade import CELL, fit
from dfflib.warp import warp


class CorrelationFlowNet(nn.Module):
    """A flow network with the interface of ``FlowNetS``: six channels in, flow in units of 20 pixels out, coarse to fine.

    Args:
        inputs: 6 (two RGB frames, the current one first).
        outputs: 2 (x and y).
        width: factor on every channel count.
        radius: features are compared with those up to so many cells away, in each direction.
    """

    ENCODER = (16, 32, 48, 64)  # channels at strides 2, 4, 8, 16
    STRIDES = (16, 8, 4)  # levels of the flow
    ROUNDS = (1, 2, 3)  # of fitting and correcting, at each level
    WINDOWS = (7, 3)  # cells; flow is fitted to gradients in windows of these sides

    def __init__(self, inputs: int = 6, outputs: int = 2, width: float = 1.0, radius: int = 3):
        super().__init__()
        sizes = [max(4, round(channels * width)) for channels in self.ENCODER]
        hidden, previous = max(8, round(48 * width)), inputs // 2
        self.encoder = nn.ModuleList()
        for channels in sizes:
            self.encoder.append(nn.Sequential(conv(previous, channels, 3, 2), conv(channels, channels, 3)))
            previous = channels
        self.compare, self.refine, self.predict = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        fits = len(self.WINDOWS)
        for stride, channels in zip(self.STRIDES, sizes[:0:-1], strict=True):
            matches = (2 * radius + 1) ** 2 if stride > 4 else 0  # the finest level goes by gradients alone
            seen = channels + matches + (hidden + outputs if stride < self.STRIDES[0] else 0)
            self.compare.append(nn.Sequential(conv(seen, hidden, 1), conv(hidden, hidden, 3)))
            self.refine.append(nn.Sequential(conv(hidden + 5 * fits + outputs, hidden, 1), conv(hidden, hidden, 3)))
            self.predict.append(nn.Conv2d(hidden, outputs + 1 + fits, 3, 1, 1))
        self.stride, self.channels, self.radius = self.STRIDES[-1], hidden, radius
        self.sharpness = nn.Parameter(torch.full((len(self.STRIDES) - 1,), 10.0))  # of the match, where there is one
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(module.bias)
        for predict in self.predict:
            nn.init.normal_(predict.weight, std=1e-3)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Predict at every level.

        Args:
            x: ``(N, 6, H, W)``, any size.

        Returns:
            Flow at strides 16, 8 and 4 in units of 20 input pixels, the last ``(N, 2, ceil(H/4), ceil(W/4))``; and the
            features it was read from, ``(N, channels, ceil(H/4), ceil(W/4))``.
        """
        both = torch.cat(x.chunk(2, dim=1))  # one pass through the encoder for both frames
        images, pyramid = both.contiguous(), []
        for stage in self.encoder:
            both = stage(both)
            pyramid.append(both.chunk(2))
        predictions, hidden, flow = [], None, None
        for level, stride in enumerate(self.STRIDES):
            current, key = pyramid[-1 - level]
            unit = stride / FLOW_UNIT  # of one cell: inside a level, flow is in its cells
            if level:
                flow, hidden = (_double(m)[..., : current.shape[-2], : current.shape[-1]] for m in (flow * 2, hidden))
                seen = [current, hidden, flow * unit]
            else:
                flow, seen = current.new_zeros(len(current), 2, *current.shape[-2:]), [current]
            if level < len(self.sharpness):
                alike = correlation(_standard(current), _standard(warp(key, flow, "border")), self.radius)
                seen.append(alike * self.sharpness[level])
                flow = flow + expected_shift(seen[-1], self.radius)
            context = self.compare[level](torch.cat(seen, dim=1))
            pixel = stride // CELL  # a cell of this level is 4x4 pixels of these pictures
            pictures = (F.avg_pool2d(images, pixel, ceil_mode=True) if pixel > 1 else images).chunk(2)
            for _ in range(self.ROUNDS[level]):
                fits, trust = fit(*pictures, flow * CELL, self.WINDOWS)
                steps = [found / CELL - flow for found in fits]
                hidden = self.refine[level](torch.cat((context, *steps, 0.2 * trust, flow * unit), dim=1))
                answer = self.predict[level](hidden)
                share = answer[:, 2:].softmax(1)  # of the present flow, and of each fit
                flow = flow + answer[:, :2] + sum(share[:, n : n + 1] * step for n, step in enumerate(steps, start=1))
            predictions.append(flow * unit)
        return predictions, hidden


def correlation(current: Tensor, key: Tensor, radius: int) -> Tensor:
    """How alike each feature of the current frame is to those around the same place in the key frame.

    Args:
        current, key: ``(N, C, H, W)``.
        radius: R.

    Returns:
        ``(N, (2R+1)^2, H, W)``: sum over channels of ``current(p) * key(p + d)``, for every d, row by row; 0 outside.
    """
    side = 2 * radius + 1
    padded = F.pad(key, (radius,) * 4).permute(0, 2, 3, 1).contiguous()
    around = padded.unfold(1, side, 1).unfold(2, side, 1)  # (N, H, W, C, side, side), a view
    return torch.einsum("nchw,nhwcyx->nyxhw", current, around).flatten(1, 2)


def expected_shift(alike: Tensor, radius: int) -> Tensor:
    """Where the best match lies, softly: the mean of all shifts, weighted by the softmax of their likeness.

    Args:
        alike: ``(N, (2R+1)^2, H, W)``, as from `correlation`.
        radius: R.

    Returns:
        ``(N, 2, H, W)``, x and y in cells.
    """
    steps = torch.arange(-radius, radius + 1, device=alike.device, dtype=alike.dtype)
    weights = alike.softmax(1).unflatten(1, (len(steps), len(steps)))  # (N, y, x, H, W)
    return torch.stack(
        (torch.einsum("nyxhw,x->nhw", weights, steps), torch.einsum("nyxhw,y->nhw", weights, steps)), dim=1
    )


def _standard(features: Tensor) -> Tensor:
    """Features without their mean over the picture, of length one at every place: their product is a cosine."""
    return F.normalize(features - features.mean((2, 3), keepdim=True), dim=1, eps=1e-6)


def _double(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
