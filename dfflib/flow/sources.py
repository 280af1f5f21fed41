"""Where the flow comes from: flow networks as Deep Feature Flow uses them, and sources without one.

Every source is called as ``source(key, current, size) -> (flow, scale)``: two image batches ``(N, 3, H, W)`` in [0, 1] and
the feature map's ``(h, w)``; the flow ``(N, 2, h, w)`` runs from the current frame to the key frame in feature cells, the
scale field is ``(N, C, h, w)``, or None where there is nothing to learn. So any source fits the same place in
``DeepFeatureFlow``, and an ablation is a change of one argument.

A key frame is asked about many times, so a call is two steps: ``encoded = source.encode_key(key)`` once an interval, and
``source.estimate(encoded, current, size)`` for every other frame.
"""

from collections.abc import Sequence
from typing import ClassVar, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dfflib.data.clips import Clip
from dfflib.flow.flownet import FLOW_UNIT, FlowNetS
from dfflib.machine import in_threads
from dfflib.warp import resample, resize_flow

MEAN_COLOUR = 0.45  # that flow networks do not see (the authors subtract the mean of their data)


class FlowSource(nn.Module):
    """What every source of flow answers to. One that has nothing to compute from the key frame alone keeps the frame."""

    def encode_key(self, key: Tensor):
        """All that can be computed from the key frame ``(N, 3, H, W)`` alone, once an interval."""
        return key

    def rows(self, encoded, rows: Sequence[int]):
        """Of what `encode_key` gave for N key frames, that of some of them: by number, in this order, repeated at will.

        As it stands, for a tensor of N rows or a tuple of such.
        """
        return tree_map(lambda maps: maps[list(rows)], encoded)

    def estimate(self, encoded, current: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Flow from current frames to the key frame, and the scale field; see ``forward``.

        Args:
            encoded: from `encode_key`, of a key frame for each current frame or of one for all.
            current: ``(N, 3, H, W)``.
            size: ``(h, w)`` of the feature map.
        """
        raise NotImplementedError

    def forward(self, key: Tensor, current: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Flow ``(N, 2, h, w)`` in feature cells, and scale field ``(N, C, h, w)`` or None; ``size = (h, w)``."""
        return self.estimate(self.encode_key(key), current, size)

    def at(self, clip: Clip, currents: Sequence[int], keys: Sequence[int]) -> "FlowSource":
        """The source to ask about frames of a clip, a current frame and its key frame for each row of the batch: this one,
        unless it reads ground truth."""
        return self

    def image_flow(self, key: Tensor, current: Tensor) -> Tensor:
        """Flow at image size, in pixels, ``(N, 2, H, W)``."""
        raise NotImplementedError

    @property
    def root(self) -> "FlowSource":
        """The source that estimates. One that only takes something out of another's estimate names that one, so that
        several of them can share it."""
        return self

    def kept(self, flow: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Of the flow and the scale field of `root`, what this source gives."""
        return flow, scale


class FlowNetwork(FlowSource):
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
        nn.init.zeros_(net.predict[-1].get_parameter("weight"))
        self.scale_head = nn.Conv2d(net.channels, feature_channels, 1, bias=False) if scale else None
        if self.scale_head is not None:
            nn.init.zeros_(self.scale_head.weight)

    @property
    def unit(self) -> float:
        """Feature cells per unit of the net's prediction (paper: 2.5)."""
        return FLOW_UNIT * self.input_stride / self.feature_stride

    def predictions(self, key: Tensor, current: Tensor) -> tuple[list[Tensor], Tensor]:
        """Flow at every level of the decoder, coarse to fine, each in **pixels of its own grid**; and the decoder's last map.

        The loss of flow pre-training compares all levels with the true flow.
        """
        levels, decoder = self._units(key, current)
        return [level * (FLOW_UNIT / stride) for level, stride in zip(levels, self.net.strides, strict=True)], decoder

    def _prepared(self, image: Tensor) -> Tensor:
        """Centred (the authors subtract the mean colour), and halved where the net sees frames of half size."""
        image = image - MEAN_COLOUR
        return F.avg_pool2d(image, self.input_stride, ceil_mode=True) if self.input_stride > 1 else image

    def _units(self, key: Tensor, current: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.net(self._prepared(torch.cat((current, key), dim=1)))

    def image_flow(self, key: Tensor, current: Tensor) -> Tensor:
        """Flow at image size, in pixels, ``(N, 2, H, W)``."""
        levels, _ = self._units(key, current)
        return resample(levels[-1], current.shape[-2:]) * (FLOW_UNIT * self.input_stride)

    def encode_key(self, key: Tensor):
        """What the net computes from the key frame alone."""
        return self.net.encode_key(self._prepared(key))

    def estimate(self, encoded, current: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Flow and scale field of current frames from an encoded key frame."""
        return self._at(self.net.estimate(encoded, self._prepared(current)), size)

    def forward(self, key: Tensor, current: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Flow ``(N, 2, h, w)`` in feature cells, and scale field ``(N, C, h, w)`` or None; ``size = (h, w)``."""
        return self._at(self._units(key, current), size)  # one pass for both frames: in training that is the faster way

    def _at(self, found: tuple[list[Tensor], Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """The net's answer on the feature grid.

        A cell of a strided network is its stride wide whatever the image's size, so the factor is `unit` and not a ratio
        of sizes, which rounding makes differ at odd ones.
        """
        levels, decoder = found
        flow = resample(levels[-1], size) * self.unit
        if self.scale_head is None:
            return flow, None
        if size[0] <= decoder.shape[-2] and size[1] <= decoder.shape[-1]:
            decoder = resample(decoder, size)  # a 1x1 without bias commutes with averaging, and costs less after it
        return flow, 1 + resample(self.scale_head(decoder), size)


class ZeroFlow(FlowSource):
    """No motion: the key frame's features are copied as they are. The baseline that any flow has to beat."""

    def image_flow(self, key: Tensor, current: Tensor) -> Tensor:
        """Zeros ``(N, 2, H, W)``."""
        return current.new_zeros(current.shape[0], 2, *current.shape[-2:])

    def estimate(self, encoded, current: Tensor, size: Sequence[int]) -> tuple[Tensor, None]:
        """Zeros ``(N, 2, h, w)``."""
        return current.new_zeros(current.shape[0], 2, *size), None


class ExactFlow(FlowSource):
    """The ground truth of a clip that has flow (`Clip.has_flow`) in the place of an estimate.

    It cannot be read from images: `at` gives the source for certain frames of a clip, and that one answers.

    Exact flow alone is *not* the best that warping can do. A pixel whose surface was hidden in the key frame is led to
    whatever hid it there, and shows that a second time: a ghost. With ``occlusion=True`` such pixels are led out of the
    picture instead, where the warp finds zeros.
    """

    OUTSIDE = 1e4  # pixels

    def __init__(self, occlusion: bool = False):
        super().__init__()
        self.occlusion = occlusion

    def at(self, clip: Clip, currents: Sequence[int], keys: Sequence[int]) -> "GivenFlow":
        """The exact flow from some frames of a clip to others, row by row.

        Raises:
            DffError: the clip has no flow.
        """
        flows = torch.zeros(len(keys), 2, *clip.size)
        for row, current, key in zip(flows, currents, keys, strict=True):
            row.copy_(clip.flow(current, key))
            if self.occlusion:
                row[:, clip.occluded(current, key)] = self.OUTSIDE
        return GivenFlow(flows)


class GivenFlow(FlowSource):
    """A flow that is known; the images are not looked at.

    A feature cell takes the flow of the pixel at its centre: a mean would mix the motions on both sides of an outline.

    Args:
        flow: at image size, in pixels, ``(N, 2, H, W)``.
    """

    def __init__(self, flow: Tensor):
        super().__init__()
        self.flow = flow

    def image_flow(self, key: Tensor, current: Tensor) -> Tensor:
        """The flow ``(N, 2, H, W)``, in pixels."""
        return self.flow

    def estimate(self, encoded, current: Tensor, size: Sequence[int]) -> tuple[Tensor, None]:
        """Flow ``(N, 2, h, w)`` in feature cells."""
        flow = self.flow.to(current)
        cells = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]]).view(1, 2, 1, 1)
        return F.interpolate(flow, size=tuple(size), mode="nearest-exact") * cells, None


class Ablated(FlowSource):
    """A flow source with its flow or its scale field taken out: which of the two does the work?

    Args:
        source: any flow source.
        flow: keep its flow; otherwise features stay where they are.
        scale: keep its scale field; otherwise S = 1.
    """

    def __init__(self, source: FlowSource, flow: bool = True, scale: bool = True):
        super().__init__()
        self.source, self.keep_flow, self.keep_scale = source, flow, scale

    def at(self, clip: Clip, currents: Sequence[int], keys: Sequence[int]) -> FlowSource:
        """The same, of the source for these frames."""
        source = self.source.at(clip, currents, keys)
        return self if source is self.source else Ablated(source, self.keep_flow, self.keep_scale)

    def encode_key(self, key: Tensor):
        """What the source computes from the key frame."""
        return self.root.encode_key(key)

    def rows(self, encoded, rows: Sequence[int]):
        """As the source does."""
        return self.root.rows(encoded, rows)

    def estimate(self, encoded, current: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """What is kept of the source's flow and scale."""
        return self.kept(*self.root.estimate(encoded, current, size))

    @property
    def root(self) -> FlowSource:
        """That of the source."""
        return self.source.root

    def kept(self, flow: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the source gives, without what is taken out here."""
        flow, scale = self.source.kept(flow, scale)
        return flow if self.keep_flow else torch.zeros_like(flow), scale if self.keep_scale else None


class DISFlow(FlowSource):
    """Classical dense inverse search flow by OpenCV (Kroeger et al., ECCV 2016), on the CPU; needs no training.

    Args:
        preset: ``"ultrafast"``, ``"fast"`` or ``"medium"``, OpenCV's; or one of ours, in smaller patches:
            ``"dense"``, down to single pixels, which serves pictures of half size better than ``"medium"`` serves whole ones,
            in the same time; ``"quick"``, down to every second one, a third of the work.
        input_stride: 1 for full-size frames, 2 for half: a quarter of the work, and half as fine.
    """

    PRESETS: ClassVar[dict[str, int]] = {"ultrafast": 0, "fast": 1, "medium": 2, "dense": 2, "quick": 2}
    OURS: ClassVar[dict[str, tuple[int, int]]] = {"dense": (0, 12), "quick": (1, 8)}  # finest scale, steps of descent
    SMALLEST = 32  # pixels: OpenCV may end the process with less, so smaller frames are enlarged first

    def __init__(self, preset: str = "medium", input_stride: int = 1):
        super().__init__()
        if preset not in self.PRESETS:
            raise ValueError(f"preset is {preset!r}: choose one of {', '.join(self.PRESETS)}.")
        self.preset, self.input_stride = preset, input_stride
        # OpenCV's objects by size of picture, for a small one changes their scales for good; a thread takes one for its work.
        self._idle: dict[tuple[int, ...], list[cv2.DISOpticalFlow]] = {}

    def image_flow(self, key: Tensor, current: Tensor) -> Tensor:
        """Flow from current to key at image size, in pixels, ``(N, 2, H, W)``."""
        return self._flow(self.encode_key(key), current, current.shape[-2:])

    def encode_key(self, key: Tensor) -> Tensor:
        """The key frames in grey."""
        return self.grey(key)

    def estimate(self, encoded: Tensor, current: Tensor, size: Sequence[int]) -> tuple[Tensor, None]:
        """Flow ``(N, 2, h, w)`` in feature cells."""
        return self._flow(encoded, current, size).to(current.dtype), None

    def _flow(self, keys: Tensor, current: Tensor, size: Sequence[int]) -> Tensor:
        """Flow on a grid of the given size, in its cells."""
        return resize_flow(self.between(keys, self.grey(current)).to(current.device), size)

    def between(self, keys: Tensor, currents: Tensor) -> Tensor:
        """Flow from pictures to key pictures, in their pixels, ``(N, 2, h, w)``.

        Args:
            keys: from `grey`, one for each current picture or one for all.
            currents: from `grey`.
        """
        pairs = list(zip(currents.numpy(), keys.expand_as(currents).numpy(), strict=True))
        flows = torch.from_numpy(np.concatenate(in_threads(self._estimated, pairs)))
        return resize_flow(flows.permute(0, 3, 1, 2).contiguous(), currents.shape[1:])

    def _estimated(self, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Flow ``(N, H, W, 2)`` from each current picture to its key picture; both are enlarged if they are small."""
        size, nothing = pairs[0][0].shape, cast(np.ndarray, None)  # no flow to start from
        factor = max(1, -(-self.SMALLEST // min(size)))
        if factor > 1:
            wide = (size[1] * factor, size[0] * factor)
            pairs = [(cv2.resize(current, wide), cv2.resize(key, wide)) for current, key in pairs]
        idle = self._idle.setdefault(size, [])
        try:
            method = idle.pop()
        except IndexError:  # all are at work
            method = self._new()
        found = np.stack([method.calc(current, key, nothing) for current, key in pairs])
        idle.append(method)
        return found

    def _new(self) -> cv2.DISOpticalFlow:
        flow = cv2.DISOpticalFlow.create(self.PRESETS[self.preset])
        if self.preset in self.OURS:
            finest, descents = self.OURS[self.preset]
            flow.setFinestScale(finest)
            flow.setPatchSize(5)
            flow.setPatchStride(3)
            flow.setGradientDescentIterations(descents)
        return flow

    def grey(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] in grey as OpenCV takes them, uint8 ``(N, h, w)`` on the CPU; halved if asked."""
        pictures = images.detach().float().permute(0, 2, 3, 1).cpu().contiguous()  # no copy of channels-last ones
        return torch.from_numpy(np.stack([self._picture(picture) for picture in pictures.numpy()]))

    def _picture(self, image: np.ndarray) -> np.ndarray:
        """The grey values of one image ``(H, W, 3)``."""
        grey, stride = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), self.input_stride
        if stride > 1:
            height, width = grey.shape
            rows, columns = -(-height // stride), -(-width // stride)  # the last cell of an odd side is its edge alone
            grey = cv2.copyMakeBorder(
                grey, 0, rows * stride - height, 0, columns * stride - width, cv2.BORDER_REPLICATE
            )
            grey = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA)
        return cv2.convertScaleAbs(np.maximum(grey, 0), alpha=255)  # rounded, and at most 255

    def __getstate__(self):
        return {**self.__dict__, "_idle": {}}
