"""Where the flow comes from: FlowNetS and its reduced form, their wrapping as a flow network, and sources without one.

Every source is called as ``source(current, key, size) -> (flow, scale)``: two image batches ``(N, 3, H, W)`` in [0, 1] and
the feature map's ``(h, w)``; the flow ``(N, 2, h, w)`` runs from the current frame to the key frame in feature cells, the
scale field is ``(N, C, h, w)``, or None where there is nothing to learn. So any source fits the same place in
``DeepFeatureFlow``, and an ablation is a change of one argument.
"""

import cv2
import flowiz
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfflib.warp import resample, resize_flow

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in FlowNet
FLOW_UNIT = 20.0  # FlowNet predicts displacement / 20 of its own input pixels (the authors' explanation of x2.5)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, "same" padding (output size ceil(H / stride)), bias, LeakyReLU 0.1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
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
    ENCODER = (
        ("conv1", 7, 2, 64), ("conv2", 5, 2, 128), ("conv3", 5, 2, 256), ("conv3_1", 3, 1, 256), ("conv4", 3, 2, 512),
        ("conv4_1", 3, 1, 512), ("conv5", 3, 2, 512), ("conv5_1", 3, 1, 512), ("conv6", 3, 2, 1024), ("conv6_1", 3, 1, 1024),
    )  # fmt: skip
    # skip connection, channels of the deconvolution that meets it: the decoder, coarse to fine
    DECODER = (("conv5_1", 512), ("conv4_1", 256), ("conv3_1", 128), ("conv2", 64))
    PARAMETERS = {(6, 2): 38_676_514, (3, 2): 38_667_106}  # (inputs, outputs) at width 1, summed from the tables

    def __init__(self, inputs: int = 6, outputs: int = 2, width: float = 1.0):
        super().__init__()
        channels, previous = {}, inputs
        for name, kernel, stride, count in self.ENCODER:
            channels[name] = max(1, round(count * width))
            self.add_module(name, conv(previous, channels[name], kernel, stride))
            previous = channels[name]
        self.predict, self.upscore, self.deconv = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for skip, count in self.DECODER:
            count = max(1, round(count * width))
            self.predict.append(nn.Conv2d(previous, outputs, 3, 1, 1))
            self.upscore.append(nn.ConvTranspose2d(outputs, outputs, 4, 2, 1))
            self.deconv.append(deconv(previous, count))
            previous = channels[skip] + count + outputs
        self.predict.append(nn.Conv2d(previous, outputs, 3, 1, 1))
        self.channels = previous  # of the last concatenation: 194 in FlowNet
        self.stride = 4
        _initialise(self)
        expected = self.PARAMETERS.get((inputs, outputs)) if width == 1 else None
        count = sum(p.numel() for p in self.parameters())
        assert expected in (None, count), f"{count} parameters where the reference has {expected}"

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Predict at every level.

        Args:
            x: ``(N, inputs, H, W)``, any size.

        Returns:
            Predictions from coarse to fine, the last one ``(N, outputs, ceil(H/4), ceil(W/4))``; and the last decoder
            concatenation ``(N, channels, ceil(H/4), ceil(W/4))``, from which a scale field is read.
        """
        skips = {}
        for name, *_ in self.ENCODER:
            x = skips[name] = self.get_submodule(name)(x)
        predictions = []
        for level, (skip, _) in enumerate(self.DECODER):
            predictions.append(self.predict[level](x))
            skip = skips[skip]
            rows, columns = skip.shape[-2:]  # odd sizes: what was doubled is cropped to the skip map
            up = self.upscore[level](predictions[-1])[..., :rows, :columns]
            x = torch.cat((skip, self.deconv[level](x)[..., :rows, :columns], up), dim=1)
        predictions.append(self.predict[-1](x))
        return predictions, x


class FlowNetSR(FlowNetS):
    """The Julia prototype's "simple and reduced" FlowNetS: the encoder stops at stride 16, the decoder has two levels."""

    ENCODER = FlowNetS.ENCODER[:6]
    DECODER = (("conv3_1", 128), ("conv2", 64))
    PARAMETERS = {(6, 2): 6_637_138}


def _initialise(net: nn.Module) -> None:
    """He initialisation for LeakyReLU; biases zero; linear predictions start small."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
            nn.init.zeros_(module.bias)
    for predict in net.predict:
        nn.init.normal_(predict.weight, std=1e-3)


class FlowNetwork(nn.Module):
    """A flow network as Deep Feature Flow uses it: flow in feature cells, and the scale field (paper, section 3).

    Frames are concatenated **current first, key second**. With ``input_stride=2`` both are halved first, as in the paper.
    The net predicts displacement / 20 of its input pixels, so one unit is ``20 * input_stride / feature_stride`` feature
    cells: the 2.5 of the authors' code at half size and stride 16. The scale field is read from the decoder by a 1x1
    convolution whose weights start at 0 and whose bias stays at 1, so that it starts as a field of ones. The last flow
    layer starts at 0 too: an untrained model copies its features.

    Args:
        net: FlowNetS or FlowNetSR with 6 inputs and 2 outputs.
        feature_channels: C of the feature map, the scale field's channels.
        feature_stride: image pixels per feature cell.
        input_stride: 1 for full-size input, 2 for half.
        scale: with False there is no scale field (S = 1).
    """

    def __init__(
        self, net: FlowNetS, feature_channels: int, feature_stride: int, input_stride: int = 2, scale: bool = True
    ):
        super().__init__()
        self.net, self.feature_stride, self.input_stride = net, feature_stride, input_stride
        nn.init.zeros_(net.predict[-1].weight)
        self.scale_head = nn.Conv2d(net.channels, feature_channels, 1, bias=False) if scale else None
        if scale:
            nn.init.zeros_(self.scale_head.weight)

    @property
    def unit(self) -> float:
        """Feature cells per unit of the net's prediction (paper: 2.5)."""
        return FLOW_UNIT * self.input_stride / self.feature_stride

    def predictions(self, current: Tensor, key: Tensor) -> tuple[list[Tensor], Tensor]:
        """Flow at every level of the decoder, coarse to fine, each in **pixels of its own grid**; and the decoder's last map.

        The loss of flow pre-training compares all levels with the true flow.
        """
        levels, decoder = self._units(current, key)
        strides = [self.net.stride * 2**n for n in reversed(range(len(levels)))]  # of each level, in input pixels
        return [level * (FLOW_UNIT / stride) for level, stride in zip(levels, strides, strict=True)], decoder

    def _units(self, current: Tensor, key: Tensor) -> tuple[list[Tensor], Tensor]:
        pair = torch.cat((current, key), dim=1) - 0.45  # centred; the authors subtract the mean colour
        if self.input_stride > 1:
            pair = F.avg_pool2d(pair, self.input_stride, ceil_mode=True)
        return self.net(pair)

    def image_flow(self, current: Tensor, key: Tensor) -> Tensor:
        """Flow at image size, in pixels, ``(N, 2, H, W)``."""
        levels, _ = self._units(current, key)
        return resample(levels[-1], tuple(current.shape[-2:])) * (FLOW_UNIT * self.input_stride)

    def forward(self, current: Tensor, key: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Flow ``(N, 2, h, w)`` in feature cells, and scale field ``(N, C, h, w)`` or None; ``size = (h, w)``.

        A cell of a strided network is its stride wide whatever the image's size, so the factor is `unit` and not a ratio
        of sizes, which rounding makes differ at odd ones.
        """
        levels, decoder = self._units(current, key)
        flow = resample(levels[-1], size) * self.unit
        if self.scale_head is None:
            return flow, None
        if size[0] <= decoder.shape[-2] and size[1] <= decoder.shape[-1]:
            decoder = resample(decoder, size)  # a 1x1 without bias commutes with averaging, and costs less after it
        return flow, 1 + resample(self.scale_head(decoder), size)


class ZeroFlow(nn.Module):
    """No motion: the key frame's features are copied as they are. The baseline that any flow has to beat."""

    def image_flow(self, current: Tensor, key: Tensor) -> Tensor:
        """Zeros ``(N, 2, H, W)``."""
        return current.new_zeros(current.shape[0], 2, *current.shape[-2:])

    def forward(self, current: Tensor, key: Tensor, size: tuple[int, int]) -> tuple[Tensor, None]:
        """Zeros ``(N, 2, h, w)``."""
        return current.new_zeros(current.shape[0], 2, *size), None


class ExactFlow(nn.Module):
    """The true flow of a Shapes clip in the place of an estimate.

    It cannot be read from images, so `at` says which frames the next call is about. A feature cell takes the flow of the
    pixel at its centre: a mean would mix the motions on both sides of an outline.

    True flow alone is *not* the best that warping can do. A pixel whose surface was hidden in the key frame is led to
    whatever hid it there, and shows that a second time: a ghost. With ``occlusion=True`` such pixels are led out of the
    picture instead, where the warp finds zeros: the upper bound of every flow.
    """

    OUTSIDE = 1e4  # pixels

    def __init__(self, occlusion: bool = False):
        super().__init__()
        self.occlusion = occlusion

    def at(self, clip, current: int, keys: list[int]) -> "ExactFlow":
        """The next call is about these frames of ``clip``: one current frame, and a key frame for each row of the batch."""
        flows = torch.stack([clip.flow(current, k) for k in keys])
        if self.occlusion:
            hidden = torch.stack([clip.occluded(current, k) for k in keys])
            flows = torch.where(hidden[:, None], self.OUTSIDE, flows)
        self._flow = flows
        return self

    def image_flow(self, current: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """Flow at image size, in pixels, ``(N, 2, H, W)``, of the frames named last; the images are not looked at."""
        return self._flow

    def forward(self, current: Tensor, key: Tensor, size: tuple[int, int]) -> tuple[Tensor, None]:
        """Flow ``(N, 2, h, w)`` in feature cells."""
        flow = self._flow.to(current)
        cells = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]]).view(1, 2, 1, 1)
        return F.interpolate(flow, size=tuple(size), mode="nearest-exact") * cells, None


class Ablated(nn.Module):
    """A flow source with its flow or its scale field taken out: which of the two does the work?

    Args:
        source: any flow source.
        flow: keep its flow; otherwise features stay where they are.
        scale: keep its scale field; otherwise S = 1.
    """

    def __init__(self, source: nn.Module, flow: bool = True, scale: bool = True):
        super().__init__()
        self.source, self.keep_flow, self.keep_scale = source, flow, scale

    def forward(self, current: Tensor, key: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """What is kept of the source's flow and scale."""
        flow, scale = self.source(current, key, size)
        return flow if self.keep_flow else torch.zeros_like(flow), scale if self.keep_scale else None


class DISFlow(nn.Module):
    """Classical dense inverse search flow by OpenCV (Kroeger et al., ECCV 2016), on the CPU; needs no training.

    Args:
        preset: ``"ultrafast"``, ``"fast"`` or ``"medium"``.
    """

    PRESETS = {"ultrafast": 0, "fast": 1, "medium": 2}
    SMALLEST = 32  # pixels: OpenCV may end the process with less, so smaller frames are enlarged first

    def __init__(self, preset: str = "medium"):
        super().__init__()
        if preset not in self.PRESETS:
            raise ValueError(f"preset is {preset!r}: choose one of {', '.join(self.PRESETS)}.")
        self.preset = preset
        self._dis = None  # made when first used: the OpenCV object cannot be copied or pickled

    def image_flow(self, current: Tensor, key: Tensor) -> Tensor:
        """Flow from current to key at image size, in pixels, ``(N, 2, H, W)``."""
        if self._dis is None:
            self._dis = cv2.DISOpticalFlow_create(self.PRESETS[self.preset])
        height, width = current.shape[-2:]
        factor = max(1, -(-self.SMALLEST // min(height, width)))
        flows = []
        for pair in zip(_grey(current), _grey(key)):
            if factor > 1:
                pair = [cv2.resize(image, (width * factor, height * factor)) for image in pair]
            flows.append(torch.from_numpy(self._dis.calc(*pair, None)).permute(2, 0, 1))
        return resize_flow(torch.stack(flows).to(current.device, torch.float32), (height, width))

    def forward(self, current: Tensor, key: Tensor, size: tuple[int, int]) -> tuple[Tensor, None]:
        """Flow ``(N, 2, h, w)`` in feature cells."""
        return resize_flow(self.image_flow(current, key), size).to(current.dtype), None

    def __getstate__(self):
        return {**self.__dict__, "_dis": None}


def _grey(images: Tensor) -> np.ndarray:
    """Images in [0, 1] as contiguous uint8 grey values, ``(N, H, W)``."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
    grey = (images.detach().float() * weights).sum(1)
    return np.ascontiguousarray((grey * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy())


def end_point_error(flow: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean end-point error in pixels of the flow's grid: ``|flow - truth|`` averaged over valid pixels.

    Args:
        flow, truth: ``(N, 2, H, W)``.
        valid: bool, broadcastable to ``(N, 1, H, W)``; None counts every pixel.
    """
    error = (flow - truth).square().sum(1, keepdim=True).add(1e-12).sqrt()
    if valid is None:
        return error.mean()
    valid = valid.expand_as(error)
    return (error * valid).sum() / valid.sum().clamp(min=1)


def multiscale_loss(predictions: list[Tensor], truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Flow pre-training loss: end-point error at every decoder level, in image pixels, the finest counting most.

    FlowNet weighs its levels so too; each coarser level counts half of the next finer one.

    Args:
        predictions: from ``FlowNetwork.predictions``, coarse to fine, each in pixels of its own grid.
        truth: exact flow at image size, ``(N, 2, H, W)``; of any value, also NaN, where it is not valid.
        valid: pixels whose flow is known, bool ``(N, 1, H, W)``; None counts all. A cell of a coarse level counts if
            more than half of its pixels are valid, and its truth is their mean.
    """
    width = truth.shape[-1]
    losses = [end_point_error(p, *_shrunk(truth, valid, p.shape[-2:])) * (width / p.shape[-1]) for p in predictions]
    weights = [0.5**level for level in range(len(losses))][::-1]
    return sum(w * loss for w, loss in zip(weights, losses)) / sum(weights)


def _shrunk(truth: Tensor, valid: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """The true flow on a coarse grid, from valid pixels alone; and which cells have enough of them, or None for all."""
    if valid is None:
        return resize_flow(truth, size), None
    share = resample(valid.to(truth.dtype), size)
    known = resize_flow(torch.where(valid, truth, 0), size)  # 0 where unknown, so the mean needs dividing by the share
    return known / torch.where(share > 0, share, 1), share > 0.5


def flow_to_rgb(flow: Tensor, max_motion: float | None = None) -> Tensor:
    """Colour-code a flow field with flowiz: hue is direction, saturation is length.

    Args:
        flow: ``(2, H, W)``.
        max_motion: length in pixels that gets full saturation; None takes the longest vector of this field. Set it when
            several fields are shown side by side, or their colours cannot be compared.

    Returns:
        uint8 ``(H, W, 3)`` for ``imshow``.
    """
    field = flow.detach().float().cpu().permute(1, 2, 0).numpy().copy()
    if max_motion is not None:  # flowiz scales by the longest vector, so long ones are shortened to the limit
        length = np.linalg.norm(field, axis=-1, keepdims=True)
        field /= np.maximum(np.maximum(length, max_motion), 1e-9)
        # a hidden row carries one vector of full length, so that flowiz takes that as its unit
        field = np.pad(field, ((0, 1), (0, 0), (0, 0)))
        field[-1, 0] = (1.0, 0.0)
        return _flowiz_rgb(field)[:-1]
    return _flowiz_rgb(field)


def _flowiz_rgb(field: np.ndarray) -> np.ndarray:
    return flowiz.convert_from_flow(np.ascontiguousarray(field, dtype=np.float32))
