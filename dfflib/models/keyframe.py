"""Feature networks for key frames.

The published split (paper, section 4): the feature network N_feat is everything up to the feature map, the task network
N_task a single 1x1 convolution. The Julia prototype propagates the scores themselves: there N_task learns nothing, which is
the last row of the paper's Table 5.
"""

import itertools
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfflib.flow.flownet import FlowNetS

# Mean and standard deviation of natural images, per RGB channel (ImageNet): the input normalisation of the field.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Images in [0, 1] to roughly zero mean and unit variance per channel. Lives inside the network, as a contract."""

    mean: Tensor
    std: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> the same shape."""
        return (images - self.mean) / self.std


class FlowNetSegmenter(nn.Module):
    """The Julia prototype's key-frame model: FlowNetS with 3 inputs and one output per class, used as a segmenter.

    Its output, class scores at stride 4, is what gets propagated.

    Args:
        num_classes: scores per pixel.
        width: factor on FlowNetS's channel counts (1 = as in the prototype, 38.7 M parameters).
    """

    stride = 4

    def __init__(self, num_classes: int = 2, width: float = 1.0):
        super().__init__()
        self.normalise, self.net, self.channels = Normalise(), FlowNetS(3, num_classes, width), num_classes

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] -> scores ``(N, num_classes, ceil(H/4), ceil(W/4))``."""
        return self.net(self.normalise(images))[0][-1]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al., 2016), optionally dilated."""

    def __init__(self, channels: int, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same shape."""
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True))), inplace=True)


class ResidualSegmenter(nn.Module):
    """A compact residual feature network for laptops: stride 4, dilated instead of pooled further down.

    Args:
        channels: C of the feature map.
        dilations: one residual block for each.
        task_blocks: so many of the last blocks belong to N_task: they run on every frame, after the warp (paper, Table 5).
            Names of parameters do not depend on it, so one checkpoint serves every split.
    """

    stride = 4

    def __init__(self, channels: int = 64, dilations: tuple[int, ...] = (1, 1, 2, 2, 4, 4), task_blocks: int = 0):
        super().__init__()
        if not 0 <= task_blocks <= len(dilations):
            raise ValueError(f"task_blocks is {task_blocks}: choose 0 to {len(dilations)}, the number of blocks.")
        self.channels, self.split = channels, len(dilations) - task_blocks
        self.normalise = Normalise()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(channels // 2), nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.blocks = nn.Sequential(*(ResidualBlock(channels, d) for d in dilations))

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] -> features ``(N, C, ceil(H/4), ceil(W/4))``, after a ReLU as in the paper."""
        return self.blocks[: self.split](self.stem(self.normalise(images)))

    @property
    def finish(self) -> nn.Sequential:
        """The blocks that belong to N_task: ``(N, C, h, w)`` -> the same shape."""
        return self.blocks[self.split :]


class PyramidSegmenter(nn.Module):
    """A feature network that looks at four scales and answers at stride 2 (U-Net, Ronneberger et al., 2015; FPN, Lin et al.,
    2017): down to stride 16, where context is cheap, and up again, adding what was seen at each stride.

    Args:
        channels: C of the feature map at stride 2; `TIMES` says how many times as many the coarser ones have.
        task_blocks: so many of the last blocks at stride 2 belong to N_task, as in `ResidualSegmenter`.
    """

    stride = 2
    TIMES: ClassVar[tuple[float, ...]] = (1, 2, 3, 4)  # channels at strides 2, 4, 8 and 16
    DOWN: ClassVar[tuple[int, ...]] = (1, 2, 2, 2)  # residual blocks at strides 2, 4, 8 and 16 on the way down
    UP: ClassVar[tuple[int, ...]] = (2, 2, 1)  # at 2, 4 and 8 on the way up

    def __init__(self, channels: int = 32, task_blocks: int = 0):
        super().__init__()
        if not 0 <= task_blocks <= self.UP[0]:
            raise ValueError(f"task_blocks is {task_blocks}: choose 0 to {self.UP[0]}, the number of blocks.")
        self.channels, self.split = channels, self.UP[0] - task_blocks
        sizes = [int(channels * times) for times in self.TIMES]
        self.normalise, self.stem = Normalise(), _halve(3, channels)
        self.halve = nn.ModuleList(_halve(*pair) for pair in itertools.pairwise(sizes))
        self.down = nn.ModuleList(_blocks(width, count) for width, count in zip(sizes, self.DOWN, strict=True))
        self.join = nn.ModuleList(nn.Conv2d(wide, width, 1, bias=False) for width, wide in itertools.pairwise(sizes))
        self.up = nn.ModuleList(_blocks(width, count) for width, count in zip(sizes, self.UP, strict=False))

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] -> features ``(N, C, ceil(H/2), ceil(W/2))``, after a ReLU as in the paper."""
        maps = [self.down[0](self.stem(self.normalise(images)))]
        for halve, blocks in zip(self.halve, self.down[1:], strict=True):
            maps.append(blocks(halve(maps[-1])))
        x = maps.pop()
        for level in reversed(range(len(maps))):
            coarse = F.interpolate(self.join[level](x), size=maps[level].shape[-2:], mode="bilinear")
            x = F.relu(maps[level] + coarse, inplace=True)
            x = self.up[level](x) if level else cast(nn.Sequential, self.up[0])[: self.split](x)
        return x

    @property
    def finish(self) -> nn.Sequential:
        """The blocks that belong to N_task: ``(N, C, h, w)`` -> the same shape."""
        return cast(nn.Sequential, self.up[0])[self.split :]


class LargePyramidSegmenter(PyramidSegmenter):
    """The same with more of its work where outlines are seen: more blocks at strides 2 and 4, and fewer channels further down,
    where most of the weights would be."""

    TIMES = (1, 1.5, 2, 2)
    DOWN = (2, 3, 2, 2)


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution with stride 2, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))
