"""A small flow network that compares features explicitly. **Ours, not in the paper**, which predates its kind.

FlowNetS sees two frames as six channels and has to invent matching. Here both frames pass the same encoder, and at each
level the features of the current frame are compared with those of the key frame in a small window (*correlation*: FlowNetC,
Dosovitskiy et al., ICCV 2015), after these have been warped along the coarser level's flow (PWC-Net, Sun et al., CVPR 2018).
The mean shift of the matches, weighted by how good they are, is a first guess of the flow; the network corrects it. Little is
left to learn, and so it learns fast: for a laptop that matters more than anything.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfflib.flow import FLOW_UNIT, conv
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

    def __init__(self, inputs: int = 6, outputs: int = 2, width: float = 1.0, radius: int = 3):
        super().__init__()
        sizes = [max(4, round(channels * width)) for channels in self.ENCODER]
        hidden, previous = max(8, round(48 * width)), inputs // 2
        self.encoder = nn.ModuleList()
        for channels in sizes:
            self.encoder.append(nn.Sequential(conv(previous, channels, 3, 2), conv(channels, channels, 3)))
            previous = channels
        self.compare, self.predict = nn.ModuleList(), nn.ModuleList()
        for level, channels in enumerate(reversed(sizes[1:])):  # strides 16, 8, 4
            seen = (2 * radius + 1) ** 2 + channels + (hidden + outputs if level else 0)
            self.compare.append(nn.Sequential(conv(seen, hidden, 1), conv(hidden, hidden, 3), conv(hidden, hidden, 3)))
            self.predict.append(nn.Conv2d(hidden, outputs, 3, 1, 1))
        self.stride, self.channels, self.radius = 4, hidden, radius
        self.sharpness = nn.Parameter(torch.full((len(self.predict),), 10.0))  # of the match, at each level
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
        pyramid = []
        for stage in self.encoder:
            both = stage(both)
            pyramid.append(both.chunk(2))
        predictions, hidden = [], None
        for level, (current, key) in enumerate(reversed(pyramid[1:])):
            seen = [current]
            if level:
                rows, columns = current.shape[-2:]
                flow = _double(predictions[-1])[..., :rows, :columns]
                cells = flow * (
                    FLOW_UNIT / (self.stride * 2 ** (2 - level))
                )  # pixels of the input -> cells of this level
                key = warp(key, cells, "border")
                seen += [_double(hidden)[..., :rows, :columns], flow]
            alike = correlation(_standard(current), _standard(key), self.radius) * self.sharpness[level]
            hidden = self.compare[level](torch.cat([*seen, alike], dim=1))
            unit = self.stride * 2 ** (2 - level) / FLOW_UNIT  # of one cell
            guess = expected_shift(alike, self.radius) * unit + (flow if level else 0)
            predictions.append(guess + self.predict[level](hidden))
        return predictions, hidden


def correlation(current: Tensor, key: Tensor, radius: int) -> Tensor:
    """How alike each feature of the current frame is to those around the same place in the key frame.

    Args:
        current, key: ``(N, C, H, W)``.
        radius: R.

    Returns:
        ``(N, (2R+1)^2, H, W)``: sum over channels of ``current(p) * key(p + d)``, for every d, row by row; 0 outside.
    """
    height, width = current.shape[-2:]
    padded = F.pad(key, (radius,) * 4)
    shifts = [(y, x) for y in range(2 * radius + 1) for x in range(2 * radius + 1)]
    return torch.stack([(current * padded[..., y : y + height, x : x + width]).sum(1) for y, x in shifts], dim=1)


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
