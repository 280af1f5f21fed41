"""FlowNet Inception, the paper's smallest flow network (Table 8): FlowNet's encoder rebuilt from Inception blocks.

A block runs up to four branches side by side and concatenates them: 1x1 | 1x1, 3x3 | 1x1, 3x3, 3x3 | and, in a *Reduction*
block, max pooling then 1x1. Reduction blocks halve the map, in the last convolution of each branch.

The paper tabulates the encoder only. What it leaves open is chosen here after FlowNet:

* bias and LeakyReLU 0.1 after every convolution, none after pooling;
* skips from the last layer at each stride: conv5_2 (32), conv4_2 (16), conv3_3 (8), conv2 (4);
* feature deconvolutions to 256, 128, 64 and 32 channels: half of the coarsest map's 512, then halved level by level, as
  FlowNet goes from 1024 to 512, 256, 128 and 64. Flow is predicted and upsampled as there, at five levels.

At the size of Table 2 this decoder's deconvolutions take 2.6 G multiply-adds, beside 4.8 G of the encoder and 0.8 G of the
scale field. The published ratio leaves about 0.1 G for a decoder: the authors' must be much thinner than FlowNet's.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dfflib.flow.flownet import FlowNetS, conv


class Block(NamedTuple):
    """A row of Table 8: output channels of each convolution of each branch. With a pooling branch it is a Reduction block.

    Attributes:
        outputs: channels of the concatenation, the column "out".
        one: 1x1 branch, or None.
        three: 1x1 and 3x3 branch.
        five: 1x1, 3x3 and 3x3 branch (as wide as a 5x5).
        pool: 1x1 behind a 3x3 max pooling, or None.
    """

    outputs: int
    one: int | None
    three: tuple[int, int]
    five: tuple[int, int, int]
    pool: int | None = None

    @property
    def branches(self) -> list[tuple[int, ...]]:
        """Channels along each branch that is there, in the order of concatenation."""
        return [(b,) if isinstance(b, int) else b for b in self[1:] if b is not None]


class InceptionBlock(nn.Module):
    """One Inception or Reduction block.

    Args:
        inputs: input channels.
        block: its row of the table.
        width: factor on the channels of every convolution.
    """

    def __init__(self, inputs: int, block: Block, width: float = 1.0):
        super().__init__()
        last_stride = 1 if block.pool is None else 2
        self.branches, self.channels = nn.ModuleList(), 0
        for number, counts in enumerate(block.branches):
            layers: list[nn.Module] = []
            previous = inputs
            pooled = block.pool is not None and number == len(block.branches) - 1
            if pooled:
                layers.append(nn.MaxPool2d(3, 2, 1))
            for place, count in enumerate(counts):
                stride = last_stride if place == len(counts) - 1 and not pooled else 1
                layers.append(conv(previous, _scaled(count, width), 3 if place else 1, stride))
                previous = _scaled(count, width)
            self.branches.append(nn.Sequential(*layers))
            self.channels += previous

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` -> ``(N, channels, H, W)``, or ``ceil(H/2), ceil(W/2)`` from a Reduction block."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class FlowNetInception(FlowNetS):
    """FlowNet Inception: an Inception encoder to stride 64, a decoder like FlowNet's back to stride 4.

    Used as ``FlowNetS`` is, whose ``forward`` it inherits: predictions coarse to fine, and the last concatenation.

    Args:
        inputs: input channels, 6 for a pair of frames.
        outputs: predicted channels, 2 for flow.
        width: factor on every channel count; 1 is the published network.
    """

    # The encoder, row by row: name, and (kernel, stride, channels) of a convolution, channels of a pooling, or a block.
    ENCODER = (
        ("conv1", (7, 2, 32)),
        ("pool1", 32),
        ("conv2", Block(64, None, (24, 32), (24, 32, 32))),
        ("conv3_1", (3, 2, 128)),
        ("conv3_2", Block(128, 48, (32, 64), (8, 16, 16))),
        ("conv3_3", Block(128, 48, (48, 64), (12, 16, 16))),
        ("conv4_1", Block(256, 32, (112, 128), (28, 32, 32), 64)),
        ("conv4_2", Block(256, 96, (112, 128), (28, 32, 32))),
        ("conv5_1", Block(384, 48, (96, 192), (36, 48, 48), 96)),
        ("conv5_2", Block(384, 144, (96, 192), (36, 48, 48))),
        ("conv6_1", Block(512, 64, (192, 256), (48, 64, 64), 128)),
        ("conv6_2", Block(512, 192, (192, 256), (48, 64, 64))),
    )
    DECODER = (("conv5_2", 256), ("conv4_2", 128), ("conv3_3", 64), ("conv2", 32))

    def __init__(self, inputs: int = 6, outputs: int = 2, width: float = 1.0):
        nn.Module.__init__(self)  # not FlowNetS's, which would build its own encoder
        channels, previous = {}, inputs
        for name, row in self.ENCODER:
            layer: nn.Module
            if isinstance(row, Block):
                layer = block = InceptionBlock(previous, row, width)
                previous = block.channels
            elif isinstance(row, tuple):
                kernel, stride, count = row
                layer = conv(previous, _scaled(count, width), kernel, stride)
                previous = _scaled(count, width)
            else:
                layer = nn.MaxPool2d(3, 2, 1)
            self.add_module(name, layer)
            channels[name] = previous
        self._add_decoder(channels, previous, outputs, width)  # 98 channels in the end, in the published encoder


def _scaled(count: int, width: float) -> int:
    """A channel count of the table times the width factor, at least 1."""
    return max(1, round(count * width))
