"""FlowNetS, the flow network of the paper (Dosovitskiy et al., ICCV 2015; paper, Tables 6 and 7), and its reduced form.

How a flow network is used by Deep Feature Flow, its units and the scale field, is written in `dfflib.flow`.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in FlowNet
FLOW_UNIT = 20.0  # FlowNet predicts displacement / 20 of its own input pixels (the authors' explanation of x2.5)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, "same" padding (output size ceil(H / stride)), bias, LeakyReLU 0.1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel - 1) // 2, dilation),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


def deconv(inputs: int, outputs: int) -> nn.Sequential:
    """4x4 transposed convolution that doubles the size, bias, LeakyReLU 0.1."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))


class FlowNetS(nn.Module):
    """FlowNet "Simple": an encoder to stride 64 and a decoder back to stride 4 (paper, Tables 6 and 7).

    The published channel counts are those of ``width=1``; ``width=0.5`` is the paper's FlowNet Half. With 6 inputs (two
    frames) it estimates flow; with 3 inputs and a class per output it is the key-frame model of the Julia prototype.

    Args:
        inputs: input channels, 6 for a pair of frames, 3 for one.
        outputs: predicted channels, 2 for flow.
        width: factor on every channel count.
    """

    # name, kernel, stride, channels: the encoder, row by row
    ENCODER: tuple[tuple, ...] = (
        ("conv1", 7, 2, 64), ("conv2", 5, 2, 128), ("conv3", 5, 2, 256), ("conv3_1", 3, 1, 256), ("conv4", 3, 2, 512),
        ("conv4_1", 3, 1, 512), ("conv5", 3, 2, 512), ("conv5_1", 3, 1, 512), ("conv6", 3, 2, 1024), ("conv6_1", 3, 1, 1024),
    )  # fmt: skip
    # skip connection, channels of the deconvolution that meets it: the decoder, coarse to fine
    DECODER: tuple[tuple[str, int], ...] = (("conv5_1", 512), ("conv4_1", 256), ("conv3_1", 128), ("conv2", 64))
    PARAMETERS: ClassVar[dict[tuple[int, int], int]] = {
        (6, 2): 38_676_514,
        (3, 2): 38_667_106,
    }  # (inputs, outputs) at width 1, summed from the tables

    def __init__(self, inputs: int = 6, outputs: int = 2, width: float = 1.0):
        super().__init__()
        channels, previous = {}, inputs
        for name, kernel, stride, count in self.ENCODER:
            channels[name] = max(1, round(count * width))
            self.add_module(name, conv(previous, channels[name], kernel, stride))
            previous = channels[name]
        self._add_decoder(channels, previous, outputs, width)
        expected = self.PARAMETERS.get((inputs, outputs)) if width == 1 else None
        count = sum(p.numel() for p in self.parameters())
        assert expected in (None, count), f"{count} parameters where the reference has {expected}"

    def _add_decoder(self, channels: dict[str, int], previous: int, outputs: int, width: float) -> None:
        """Build the decoder, and initialise everything.

        Args:
            channels: of each layer of the encoder, by name.
            previous: channels of its last layer.
            outputs, width: as of the network.
        """
        self.predict, self.upscore, self.deconv = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for skip, at_width_1 in self.DECODER:
            count = max(1, round(at_width_1 * width))
            self.predict.append(nn.Conv2d(previous, outputs, 3, 1, 1))
            self.upscore.append(nn.ConvTranspose2d(outputs, outputs, 4, 2, 1))
            self.deconv.append(deconv(previous, count))
            previous = channels[skip] + count + outputs
        self.predict.append(nn.Conv2d(previous, outputs, 3, 1, 1))
        self.channels = previous  # of the last concatenation: 194 in FlowNet
        initialise(self, self.predict)

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each prediction, coarse to fine: every step of the decoder doubles the size, up to 4."""
        return tuple(4 * 2**n for n in range(len(self.DECODER), -1, -1))

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Predict at every level.

        Args:
            x: ``(N, inputs, H, W)``, any size.

        Returns:
            Predictions from coarse to fine, the last one ``(N, outputs, ceil(H/4), ceil(W/4))``; and the last decoder
            concatenation ``(N, channels, ceil(H/4), ceil(W/4))``, from which a scale field is read.
        """
        return self._from_first(self.get_submodule(self.ENCODER[0][0])(x))

    @property
    def _first(self) -> nn.Conv2d:
        """The first convolution, which sees both frames."""
        layer = self.get_submodule(f"{self.ENCODER[0][0]}.0")
        assert isinstance(layer, nn.Conv2d)
        return layer

    def encode_key(self, key: Tensor) -> Tensor:
        """What the key frame alone gives to the first layer: a convolution of both frames is a sum of one for each.

        Args:
            key: ``(N, 3, H, W)``, prepared as ``forward``'s input is.

        Returns:
            ``(N, channels of conv1, ceil(H/2), ceil(W/2))``.
        """
        first = self._first
        return F.conv2d(key, first.weight[:, key.shape[1] :], None, first.stride, first.kernel_size[0] // 2)

    def estimate(self, encoded: Tensor, current: Tensor) -> tuple[list[Tensor], Tensor]:
        """As ``forward`` of both frames together, from what `encode_key` gave for the key frame (or one for all)."""
        first = self._first
        weight = first.weight[:, : current.shape[1]]
        x = F.conv2d(current, weight, first.bias, first.stride, first.kernel_size[0] // 2)
        return self._from_first(F.leaky_relu(x + encoded, NEGATIVE_SLOPE))

    def _from_first(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The rest of ``forward``, from the output of the first layer on."""
        skips = {self.ENCODER[0][0]: x}
        for name, *_ in self.ENCODER[1:]:
            x = skips[name] = self.get_submodule(name)(x)
        predictions = []
        for level, (name, _) in enumerate(self.DECODER):
            predictions.append(self.predict[level](x))
            skip = skips[name]
            rows, columns = skip.shape[-2:]  # odd sizes: what was doubled is cropped to the skip map
            up = self.upscore[level](predictions[-1])[..., :rows, :columns]
            x = torch.cat((skip, self.deconv[level](x)[..., :rows, :columns], up), dim=1)
        predictions.append(self.predict[-1](x))
        return predictions, x


class FlowNetSR(FlowNetS):
    """The Julia prototype's "simple and reduced" FlowNetS: the encoder stops at stride 16, the decoder has two levels."""

    ENCODER = FlowNetS.ENCODER[:6]
    DECODER = (("conv3_1", 128), ("conv2", 64))
    PARAMETERS: ClassVar[dict[tuple[int, int], int]] = {(6, 2): 6_637_138}


def initialise(net: nn.Module, heads: Iterable[nn.Module]) -> None:
    """He initialisation for LeakyReLU; biases zero; linear predictions (``heads``) start small."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for head in heads:
        assert isinstance(head, nn.Conv2d)
        nn.init.normal_(head.weight, std=1e-3)
