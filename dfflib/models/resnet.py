"""ResNet-50 and ResNet-101 as feature networks, as published: stride 16, dilated conv5, 1024 channels (paper, section 4).

Modules carry torchvision's names, so its ImageNet weights fit by ``load_state_dict(..., strict=False)``. Two details set the
authors' network (MSRA's "v1") apart from torchvision's ("v1.5"):

* Halving, in the first block of conv3 and conv4: v1 halves in the first 1x1 convolution, v1.5 in the 3x3 that follows.
  Weights are trained for one of the two and lose accuracy in the other, without any error. Weights at hand are mostly
  torchvision's, so its place is our default; ``stride_in_1x1=True`` is the authors', and what Table 2 counts.
* Dilation of the first 3x3 convolution of conv5, which torchvision leaves at 1. The paper dilates all of conv5 by 2, and so
  do we. For v1 weights this changes nothing (their 3x3 ran on the halved grid); for v1.5 weights training adapts one layer.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from dfflib.errors import DffError
from dfflib.models.keyframe import Normalise

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # bottlenecks in conv2 to conv5, torchvision's layer1 to layer4
STAGES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


class ResNetFeatures(nn.Module):
    """The published N_feat: ResNet up to conv5 at stride 16, and a new 3x3 convolution (dilation 6, ReLU) to 1024 channels.

    Batch norm always uses its stored statistics, also in training, as the authors do: batches of one pair have no good ones
    of their own. Until ImageNet weights are loaded they are mean 0 and variance 1, and each block starts as its shortcut
    (last norm of a block at 0), or values would grow with depth.

    Args:
        depth: 50 or 101.
        stride_in_1x1: where conv3 and conv4 halve: False as torchvision's weights need it, True as the authors have it.
        frozen: conv1 and conv2 (the authors' "res2"), norms included, get no gradient. For training from ImageNet weights.

    Raises:
        DffError: another depth.
    """

    stride, channels = 16, 1024
    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, depth: int = 101, stride_in_1x1: bool = False, frozen: bool = False):
        super().__init__()
        if depth not in BLOCKS:
            raise DffError(f"there is no ResNet of depth {depth!r} here: choose one of {', '.join(map(str, BLOCKS))}.")
        self.depth, self.stride_in_1x1, self.frozen = depth, stride_in_1x1, frozen
        self.normalise = Normalise()
        body = ResNet(
            Bottleneck, list(BLOCKS[depth]), num_classes=1, zero_init_residual=True,
            replace_stride_with_dilation=[False, False, True],
        )  # fmt: skip
        for name in STAGES:
            self.add_module(name, body.get_submodule(name))
        first = cast(Bottleneck, self.layer4[0]).conv2  # torchvision dilates from the second block on
        first.dilation = first.padding = (2, 2)
        if stride_in_1x1:
            for stage in (self.layer2, self.layer3):
                block = cast(Bottleneck, stage[0])
                block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
        self.reduce = nn.Conv2d(2048, self.channels, 3, padding=6, dilation=6)
        nn.init.normal_(self.reduce.weight, std=0.01)
        nn.init.zeros_(self.reduce.get_parameter("bias"))
        self.train(self.training)

    def train(self, mode: bool = True) -> "ResNetFeatures":
        """As every module's, but batch norm stays in evaluation mode: it uses stored statistics and never updates them."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] -> features ``(N, 1024, ceil(H/16), ceil(W/16))``, after a ReLU."""
        # Not by requires_grad, which a training stage sets for the whole model.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = F.relu(self.bn1(self.conv1(self.normalise(images))), inplace=True)
            x = self.layer1(F.max_pool2d(x, 3, 2, 1))
        x = self.layer4(self.layer3(self.layer2(x)))
        return F.relu(self.reduce(x), inplace=True)
