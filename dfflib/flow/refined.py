"""A flow network that corrects classical flow. **Ours, not in the paper**: the light one of the study.

Dense inverse search (`DISFlow`) takes a third of a millisecond, and finds the fraction of a pixel where pictures are textured
and move a little. It fails at outlines, on small things that move far, and in what was hidden. So it is the guess, and a few
convolutions say what is wrong with it:

1. strides 4 and 2: features of both frames are compared along the present flow in a small window (FlowNetC, Dosovitskiy et al.,
   ICCV 2015). The mean shift of the matches, weighted by how good they are, is what the flow should be changed by; the network
   says by how much of it, after a wide look around, and adds a correction.
   At stride 2, what the guess and what the corrected flow would make of the key frame are both compared with the current frame.
2. stride 1: the result is fitted to the pictures (`dfflib.flow.variational`), which finds the fraction of a pixel.

Strides are those of the net's input. Few layers, all on maps of stride 2 and coarser: what a light network saves in
multiplications it must not spend on the number of its operations, or on large maps that are merely looked at.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfflib.flow.correlation import correlation, double, expected_shift, standard
from dfflib.flow.flownet import FLOW_UNIT, conv, initialise
from dfflib.flow.sources import MEAN_COLOUR, DISFlow
from dfflib.flow.variational import fitted
from dfflib.warp import warp


class RefinedFlowNet(nn.Module):
    """A flow network with the interface of ``FlowNetS``: six channels in, flow in units of 20 pixels out, coarse to fine.

    Args:
        inputs: 6 (two RGB frames, the current one first).
        outputs: 2 (x and y).
        width: factor on every channel count.
        radii: at strides 4 and 2, features are compared with those up to so many cells away, in each direction.
    """

    def __init__(self, inputs: int = 6, outputs: int = 2, width: float = 1.0, radii: tuple[int, int] = (3, 3)):
        super().__init__()
        first, fine, coarse, hidden = (max(4, round(count * width)) for count in (16, 24, 48, 32))
        self.guess = DISFlow("quick")
        self.fine = nn.Sequential(conv(inputs // 2, first, 3, 2), conv(first, fine, 3), conv(fine, fine, 3))
        self.coarse = nn.Sequential(conv(fine, coarse, 3, 2), conv(coarse, coarse, 3))
        matches = [(2 * radius + 1) ** 2 for radius in radii]
        seen = matches[0] + coarse + 2 * outputs + 1
        self.look = nn.Sequential(
            conv(seen, coarse, 3), conv(coarse, coarse, 3, 1, 2), conv(coarse, coarse, 3, 1, 4), conv(coarse, coarse, 3)
        )
        self.bring = conv(coarse, hidden, 1)
        seen = matches[1] + fine + hidden + 3 * outputs + 2
        self.decide = nn.Sequential(conv(seen, hidden, 1), conv(hidden, hidden, 3), conv(hidden, hidden, 3))
        # of each level a correction, and a share of the shift
        self.predict = nn.ModuleList((nn.Conv2d(coarse, outputs + 1, 3, 1, 1), nn.Conv2d(hidden, outputs + 1, 1)))
        self.sharpness = nn.Parameter(torch.full((2,), 10.0))  # of the match
        self.strides, self.channels, self.radii = (4, 2, 1), hidden, radii
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
        """All that the key frames ``(N, 3, H, W)`` alone give: in grey as OpenCV takes them, uint8 ``(N, h, w)``, unless on the
        meta device; in colours at stride 2; and their features at strides 2 and 4."""
        fine = self.fine(key)
        grey = key.new_empty(len(key), *key.shape[-2:]) if key.is_meta else self.guess.grey(key + MEAN_COLOUR)
        return grey, _shrink(key, 2), fine, self.coarse(fine)

    def estimate(self, encoded: tuple[Tensor, ...], current: Tensor) -> tuple[list[Tensor], Tensor]:
        """As ``forward`` of both frames together, from what `encode_key` gave for the key frame (or one for all)."""
        return self._estimate(encoded, self.encode_key(current))

    def _estimate(self, keys: Sequence[Tensor], currents: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        (key_grey, key, key_fine, key_coarse), (grey, current, fine, coarse) = keys, currents
        with torch.no_grad():
            guess = self._classical(key_grey, grey).to(current.dtype)  # in input pixels
            guess_fine = _shrink(guess, 2) / 2  # in cells, as all flow below
            left = _mismatch(key, current, guess_fine)
        flow = _shrink(guess_fine, 2) / 2
        alike, shift = self._matches(key_coarse, coarse, flow, 0)
        seen = self.look(_joined(alike, coarse, flow * (4 / FLOW_UNIT), shift, 5 * _shrink(left, 2)))
        change, share = self.predict[0](seen).split((2, 1), dim=1)
        flow = flow + change + share.sigmoid() * shift
        levels = [flow * (4 / FLOW_UNIT)]

        (rows, columns), size = fine.shape[-2:], guess.shape[-2:]
        flow, brought = (double(maps)[..., :rows, :columns] for maps in (flow * 2, self.bring(seen)))
        alike, shift = self._matches(key_fine, fine, flow, 1)
        units = (flow * (2 / FLOW_UNIT), (flow - guess_fine) * (2 / FLOW_UNIT))
        seen = self.decide(_joined(alike, fine, brought, *units, shift, 5 * _mismatch(key, current, flow), 5 * left))
        change, share = self.predict[1](seen).split((2, 1), dim=1)
        flow = flow + change + share.sigmoid() * shift
        levels.append(flow * (2 / FLOW_UNIT))

        flow = double(flow * 2)[..., : size[0], : size[1]]
        if not flow.is_meta:
            found = fitted(flow, key_grey, grey)
            flow = flow + (found - flow.detach()) if flow.requires_grad else found  # the gradient passes by
        return [*levels, flow / FLOW_UNIT], seen

    def _classical(self, key: Tensor, current: Tensor) -> Tensor:
        """The guess ``(N, 2, H, W)``; on the meta device, where work is counted, nothing, for OpenCV knows no tensors."""
        if current.is_meta:
            return current.new_zeros(len(current), 2, *current.shape[-2:])
        return self.guess.between(key, current)

    def _matches(self, key: Tensor, current: Tensor, flow: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """How alike features are in the window around the flow, and where the best match lies."""
        radius = self.radii[level]
        alike = correlation(standard(warp(key, flow, "border")), standard(current), radius) * self.sharpness[level]
        return alike, expected_shift(alike, radius)


@torch.no_grad()
def _mismatch(key: Tensor, current: Tensor, flow: Tensor) -> Tensor:
    """How far the key frame looked up along a flow is from the current frame, ``(N, 1, H, W)``."""
    return (warp(key, flow, "border") - current).abs().mean(1, keepdim=True)


def _joined(*maps: Tensor) -> Tensor:
    """Maps one after the other, channels-last as convolutions read them, however each of them lies."""
    return torch.cat([each.permute(0, 2, 3, 1) for each in maps], dim=3).permute(0, 3, 1, 2)


def _shrink(maps: Tensor, cell: int) -> Tensor:
    return F.avg_pool2d(maps, cell, ceil_mode=True)
