"""A flow network that corrects classical flow. **Ours, not in the paper**: the light one of the study.

Dense inverse search (`DISFlow`) takes a millisecond or less, and finds the fraction of a pixel where pictures are textured and
move a little. It fails at outlines, on small things that move far, and in what was hidden. So it is the guess, and a few
convolutions say what is wrong with it:

1. strides 4 and 2: features of both frames are compared along the present flow in a small window (FlowNetC, Dosovitskiy et al.,
   ICCV 2015). The mean shift of the matches, weighted by how good they are, is what the flow should be changed by; the network
   says by how much of it, after a wide look around, and adds a correction.
2. stride 1: what the guess and what the corrected flow would make of the key frame are both compared with the current frame.
   Every pixel of the result takes so much of the one and of the other as the network says, and a last correction.

Strides are those of the net's input. Few layers, all on small maps: what a light network saves in multiplications it must not
spend on the number of its operations.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfflib.flow.correlation import correlation, double, expected_shift, standard
from dfflib.flow.flownet import FLOW_UNIT, conv, initialise
from dfflib.flow.sources import MEAN_COLOUR, DISFlow
from dfflib.warp import warp


class RefinedFlowNet(nn.Module):
    """A flow network with the interface of ``FlowNetS``: six channels in, flow in units of 20 pixels out, coarse to fine.

    Args:
        inputs: 6 (two RGB frames, the current one first).
        outputs: 2 (x and y).
        width: factor on every channel count.
        radius: features are compared with those up to so many cells away, in each direction.
    """

    def __init__(self, inputs: int = 6, outputs: int = 2, width: float = 1.0, radius: int = 3):
        super().__init__()
        first, fine, coarse, hidden = (max(4, round(count * width)) for count in (16, 24, 48, 32))
        self.guess = DISFlow("dense")
        self.fine = nn.Sequential(conv(inputs // 2, first, 3), conv(first, fine, 3, 2), conv(fine, fine, 3))
        self.coarse = nn.Sequential(conv(fine, coarse, 3, 2), conv(coarse, coarse, 3))
        matches = (2 * radius + 1) ** 2
        seen = matches + coarse + 2 * outputs + 1
        self.look = nn.Sequential(
            conv(seen, coarse, 3), conv(coarse, coarse, 3, 1, 2), conv(coarse, coarse, 3, 1, 4), conv(coarse, coarse, 3)
        )
        self.bring = conv(coarse, hidden, 1)
        seen = matches + fine + hidden + 3 * outputs + 2
        self.decide = nn.Sequential(conv(seen, hidden, 1), conv(hidden, hidden, 3), conv(hidden, hidden, 3))
        # of both levels a correction and a share of the shift; of the fine one also for each of 2 x 2 pixels
        self.predict = nn.ModuleList((nn.Conv2d(coarse, outputs + 1, 3, 1, 1), nn.Conv2d(hidden, 5 * outputs + 5, 1)))
        self.sharpness = nn.Parameter(torch.full((2,), 10.0))  # of the match
        self.strides, self.channels, self.radius = (4, 2, 1), hidden, radius
        initialise(self, self.predict)
        with torch.no_grad():
            for head in self.predict:
                head.get_parameter("bias")[outputs] = -1  # little of the shift, until features are worth comparing

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Predict at every level.

        Args:
            x: ``(N, 6, H, W)``, any size, with the mean colour taken out.

        Returns:
            Flow at strides 4, 2 and 1 in units of 20 input pixels, the last ``(N, 2, H, W)``; and the features it was read
            from, ``(N, channels, ceil(H/2), ceil(W/2))``.
        """
        frames = torch.cat(x.chunk(2, dim=1))  # one pass through the encoder for both frames
        current, key = zip(*(maps.chunk(2) for maps in self.encode_key(frames)), strict=True)
        return self._estimate(key, current)

    def encode_key(self, key: Tensor) -> tuple[Tensor, ...]:
        """All that the key frames ``(N, 3, H, W)`` alone give: themselves, and their features at strides 2 and 4."""
        fine = self.fine(key)
        return key, fine, self.coarse(fine)

    def estimate(self, encoded: tuple[Tensor, ...], current: Tensor) -> tuple[list[Tensor], Tensor]:
        """As ``forward`` of both frames together, from what `encode_key` gave for the key frame (or one for all)."""
        return self._estimate(encoded, self.encode_key(current))

    def _estimate(self, keys: Sequence[Tensor], currents: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        (key, key_fine, key_coarse), (current, fine, coarse) = keys, currents
        with torch.no_grad():
            guess = self._classical(key, current)  # in input pixels
            guess_fine, guess_coarse = _shrink(guess, 2) / 2, _shrink(guess, 4) / 4  # in cells, as all flow below
        flow = guess_coarse
        alike, shift = self._matches(key_coarse, coarse, flow, 0)
        left = _mismatch(key, current, guess)
        seen = self.look(torch.cat((alike, coarse, flow * (4 / FLOW_UNIT), shift, 5 * _shrink(left, 4)), dim=1))
        change, share = self.predict[0](seen).split((2, 1), dim=1)
        flow = flow + change + share.sigmoid() * shift
        levels = [flow * (4 / FLOW_UNIT)]

        (rows, columns), size = fine.shape[-2:], guess.shape[-2:]
        flow, brought = (double(maps)[..., :rows, :columns] for maps in (flow * 2, self.bring(seen)))
        alike, shift = self._matches(key_fine, fine, flow, 1)
        corrected = _mismatch(key, current, double(flow.detach() * 2)[..., : size[0], : size[1]])
        units = torch.cat((flow, flow - guess_fine), dim=1) * (2 / FLOW_UNIT)
        compared = (alike, fine, brought, units, shift, 5 * _shrink(corrected, 2), 5 * _shrink(left, 2))
        seen = self.decide(torch.cat(compared, dim=1))
        change, share, parts, taken = self.predict[1](seen).split((2, 1, 8, 4), dim=1)
        flow = flow + change + share.sigmoid() * shift
        levels.append(flow * (2 / FLOW_UNIT))

        taken, parts = (F.pixel_shuffle(maps, 2)[..., : size[0], : size[1]] for maps in (taken.sigmoid(), parts))
        flow = torch.lerp(double(flow * 2)[..., : size[0], : size[1]], guess, taken) + parts
        return [*levels, flow / FLOW_UNIT], seen

    def _classical(self, key: Tensor, current: Tensor) -> Tensor:
        """The guess ``(N, 2, H, W)``; on the meta device, where work is counted, nothing, for OpenCV knows no tensors."""
        if current.is_meta:
            return current.new_zeros(len(current), 2, *current.shape[-2:])
        return self.guess.image_flow(key + MEAN_COLOUR, current + MEAN_COLOUR).to(current.dtype)

    def _matches(self, key: Tensor, current: Tensor, flow: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """How alike features are in the window around the flow, and where the best match lies."""
        alike = correlation(standard(warp(key, flow, "border")), standard(current), self.radius) * self.sharpness[level]
        return alike, expected_shift(alike, self.radius)


@torch.no_grad()
def _mismatch(key: Tensor, current: Tensor, flow: Tensor) -> Tensor:
    """How far the key frame looked up along a flow is from the current frame, ``(N, 1, H, W)``."""
    return (warp(key, flow, "border") - current).abs().mean(1, keepdim=True)


def _shrink(maps: Tensor, cell: int) -> Tensor:
    return F.avg_pool2d(maps, cell, ceil_mode=True)
