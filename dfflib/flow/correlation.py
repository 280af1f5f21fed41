"""A small flow network with classical guesses inside. **Ours, not in the paper**, which predates its kind.

FlowNetS sees two frames as six channels and has to invent matching. Here both frames pass the same encoder, and from coarse to
fine, as in PWC-Net (Sun et al., CVPR 2018), what the coarser level found is taken out by warping before the next one looks:

1. strides 16 and 8: *correlation*. Features are compared with those of the key frame in a small window (FlowNetC, Dosovitskiy
   et al., ICCV 2015); the mean shift of the matches, weighted by how good they are, is a guess of large motions.
2. strides 16, 8 and 4, in rounds: *gradients*. Least squares in windows of two sizes (`dfflib.flow.lucas_kanade`) give two
   guesses of what is left; the network blends them with the flow that it has, and adds a correction.
3. stride 1: every pixel takes a mean of the nine cells around it, with weights that the network gives (RAFT, Teed and Deng,
   ECCV 2020). Bilinear weights would smear the outlines of what moves, by a cell to either side.

Little is left to learn, and so it learns fast: for a laptop that matters more than anything.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfflib.flow.flownet import FLOW_UNIT, conv, initialise
from dfflib.flow.lucas_kanade import CELL, fit
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
    ROUNDS = (2, 3, 3)  # of fitting and correcting, at each level
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
        self.strides, self.channels, self.radius = (*self.STRIDES, 1), hidden, radius
        cell = self.STRIDES[-1]
        self.share = nn.Sequential(conv(hidden, hidden, 3), nn.Conv2d(hidden, 9 * cell**2, 1))
        self.sharpness = nn.Parameter(torch.full((len(self.STRIDES) - 1,), 10.0))  # of the match, where there is one
        last = self.share[-1]
        initialise(self, (*self.predict, last))
        with torch.no_grad():  # what `convex` starts from is bilinear interpolation, or nearly
            last.get_parameter("bias").copy_(_tents(cell).clamp(min=0.01).log().flatten())

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Predict at every level.

        Args:
            x: ``(N, 6, H, W)``, any size.

        Returns:
            Flow at strides 16, 8, 4 and 1 in units of 20 input pixels, the last ``(N, 2, H, W)``; and the features it was read
            from, ``(N, channels, ceil(H/4), ceil(W/4))``.
        """
        frames = torch.cat(x.chunk(2, dim=1))  # one pass through the encoder for both frames
        current, key = zip(*(maps.chunk(2) for maps in self._encode(frames)), strict=True)
        return self._estimate(key, current)

    def encode_key(self, key: Tensor) -> tuple[Tensor, ...]:
        """All that the key frames ``(N, 3, H, W)`` alone give: themselves, and their features at every stride."""
        return self._encode(key)

    def estimate(self, encoded: tuple[Tensor, ...], current: Tensor) -> tuple[list[Tensor], Tensor]:
        """As ``forward`` of both frames together, from what `encode_key` gave for the key frame (or one for all)."""
        return self._estimate(encoded, self._encode(current))

    def _encode(self, frames: Tensor) -> tuple[Tensor, ...]:
        """The frames themselves, and their features at strides 2, 4, 8 and 16."""
        pyramid = [frames.contiguous()]
        for stage in self.encoder:
            pyramid.append(stage(pyramid[-1]))
        return tuple(pyramid)

    def _estimate(self, keys: Sequence[Tensor], currents: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        predictions, size, coarsest = [], currents[0].shape[-2:], currents[-1]
        flow = coarsest.new_zeros(len(coarsest), 2, *coarsest.shape[-2:])
        hidden: Tensor | None = None
        for level, stride in enumerate(self.STRIDES):
            current, key = currents[-1 - level], keys[-1 - level]
            unit = stride / FLOW_UNIT  # of one cell: inside a level, flow is in its cells
            seen = [current]
            if hidden is not None:  # from the level before
                flow, hidden = (double(m)[..., : current.shape[-2], : current.shape[-1]] for m in (flow * 2, hidden))
                seen += [hidden, flow * unit]
            if level < len(self.sharpness):
                alike = correlation(standard(warp(key, flow, "border")), standard(current), self.radius)
                seen.append(alike * self.sharpness[level])
                flow = flow + expected_shift(seen[-1], self.radius)
            context = self.compare[level](torch.cat(seen, dim=1))
            pixel = stride // CELL  # a cell of this level is 4x4 pixels of these pictures
            pictures = [
                F.avg_pool2d(frames[0], pixel, ceil_mode=True) if pixel > 1 else frames[0]
                for frames in (keys, currents)
            ]
            for _ in range(self.ROUNDS[level]):
                fits, trust = fit(pictures[0], pictures[1], flow * CELL, self.WINDOWS)
                steps = [found / CELL - flow for found in fits]
                hidden = self.refine[level](torch.cat((context, *steps, 0.2 * trust, flow * unit), dim=1))
                answer = self.predict[level](hidden)
                share = answer[:, 2:].softmax(1)  # of the present flow, and of each fit
                flow = flow + answer[:, :2] + sum(share[:, n : n + 1] * step for n, step in enumerate(steps, start=1))
            predictions.append(flow * unit)
        predictions.append(convex(predictions[-1], self.share(hidden))[..., : size[0], : size[1]])
        assert hidden is not None  # there is a level
        return predictions, hidden


def correlation(key: Tensor, current: Tensor, radius: int) -> Tensor:
    """How alike each feature of the current frame is to those around the same place in the key frame.

    Args:
        key, current: ``(N, C, H, W)``.
        radius: R.

    Returns:
        ``(N, (2R+1)^2, H, W)``: sum over channels of ``current(p) * key(p + d)``, for every d, row by row; 0 outside.
    """
    if not torch.is_grad_enabled():
        return _correlation_of_blocks(key, current, radius)
    side, (height, width) = 2 * radius + 1, current.shape[-2:]
    rows, around = current.permute(0, 2, 3, 1), F.pad(key, (radius,) * 4).permute(0, 2, 3, 1)
    found = []
    # A whole row against a row is one product, W x (W + 2R). Wanted is the band along its diagonal, which one more column
    # turns upright.
    for y in range(side):
        product = (rows @ around[:, y : y + height].transpose(2, 3)).flatten(2)
        band = F.pad(product, (0, width)).unflatten(2, (width, -1))
        found.append(band[..., :side])
    return torch.cat(found, dim=3).permute(0, 3, 1, 2)


def _correlation_of_blocks(key: Tensor, current: Tensor, radius: int, block: int = 4) -> Tensor:
    """The same faster, where no gradient is asked for: blocks of cells against all that is around them, in few products.

    Of a block's product with its surroundings, ``(block^2, (block + 2R)^2)``, the window of each cell is a view: one cell
    further on it starts one row of the product further down, and as much further right as the cell lies.
    """
    side, around, (height, width) = 2 * radius + 1, block + 2 * radius, current.shape[-2:]
    down, across = -(-height // block), -(-width // block)
    right, below = across * block - width, down * block - height  # to whole blocks
    cells, keys = current.permute(0, 2, 3, 1), key.permute(0, 2, 3, 1)
    cells = F.pad(cells, (0, 0, 0, right, 0, below)) if right or below else cells
    keys = F.pad(keys, (0, 0, radius, radius + right, radius, radius + below)).contiguous()
    cells = cells.unflatten(2, (across, block)).unflatten(1, (down, block)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    image, row, cell, one = keys.stride()
    strides = (image, block * row, block * cell, row, cell, one)
    windows = keys.as_strided((len(keys), down, across, around, around, keys.shape[3]), strides)
    product = (cells @ windows.flatten(3, 4).flatten(1, 2).transpose(2, 3)).unflatten(1, (down, across))

    image, row, cell, one = (product.stride(n) for n in (0, 1, 2, 3))
    strides = (image, row, block * one + around, cell, one + 1, around, 1)
    found = product.as_strided((len(product), down, block, across, block, side, side), strides)
    found = found.reshape(len(product), down * block, across * block, side**2)
    return found[:, :height, :width].permute(0, 3, 1, 2)


def expected_shift(alike: Tensor, radius: int) -> Tensor:
    """Where the best match lies, softly: the mean of all shifts, weighted by the softmax of their likeness.

    Args:
        alike: ``(N, (2R+1)^2, H, W)``, as from `correlation`.
        radius: R.

    Returns:
        ``(N, 2, H, W)``, x and y in cells.
    """
    steps = torch.arange(-radius, radius + 1, device=alike.device, dtype=alike.dtype)
    if not torch.is_grad_enabled():  # one product: faster, and the same to rounding
        shifts = torch.cartesian_prod(steps, steps).flip(1)
        return (alike.permute(0, 2, 3, 1).softmax(3) @ shifts).permute(0, 3, 1, 2)
    weights = alike.softmax(1).unflatten(1, (len(steps), len(steps)))  # (N, y, x, H, W)
    return torch.stack(
        (torch.einsum("nyxhw,x->nhw", weights, steps), torch.einsum("nyxhw,y->nhw", weights, steps)), dim=1
    )


def convex(maps: Tensor, share: Tensor) -> Tensor:
    """Enlarge maps: each new pixel is a mean of the 3x3 cells around its own cell, with weights of its own.

    Args:
        maps: ``(N, C, h, w)``; beyond the edge its cells repeat.
        share: ``(N, 9 * K^2, h, w)``, whose softmax over the nine cells are the weights: cell by cell (row by row), and for
            each the K x K pixels.

    Returns:
        ``(N, C, K * h, K * w)``.
    """
    (batch, channels, height, width), factor = maps.shape, math.isqrt(share.shape[1] // 9)
    weights = share.unflatten(1, (9, factor**2)).softmax(1)
    around = F.pad(maps, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
    fine = torch.einsum("nkphw,nchwk->ncphw", weights, around)
    return F.pixel_shuffle(fine.reshape(batch, channels * factor**2, height, width), factor)


def _tents(factor: int) -> Tensor:
    """Weights of bilinear interpolation from the nine cells around, ``(9, factor^2)``."""
    centres = (torch.arange(factor) + 0.5) / factor - 0.5
    along = (1 - (centres - torch.arange(-1, 2)[:, None]).abs()).clamp(min=0)  # (3, factor)
    return torch.einsum("ay,bx->abyx", along, along).reshape(9, factor**2)


def standard(features: Tensor) -> Tensor:
    """Features without their mean over the picture, of length one at every place: their product is a cosine."""
    return F.normalize(features - features.mean((2, 3), keepdim=True), dim=1, eps=1e-6)


def double(maps: Tensor) -> Tensor:
    """Maps ``(N, C, h, w)`` at twice the size, bilinearly."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
