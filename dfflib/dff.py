"""Deep Feature Flow: a feature network on key frames, a flow network and a warp on all others, one task network for both.

The paper's Algorithm 1 in three calls::

    features = model.extract(key)                            # f_k = N_feat(I_k)               key frames only
    features = model.propagate(features, key, current)       # f_i = W(f_k, F(I_k, I_i), S)    all other frames
    logits = model.predict(features, size)                   # y_i = N_task(f_i)               every frame
"""

import copy
import inspect
import numbers
import reprlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfflib.correlation import CorrelationFlowNet
from dfflib.errors import DffError
from dfflib.flow import FlowNetwork
from dfflib.flownet import FlowNetS, FlowNetSR
from dfflib.inception import FlowNetInception
from dfflib.keyframe import FlowNetSegmenter, ResidualSegmenter, segmentation_head
from dfflib.warp import warp


class DeepFeatureFlow(nn.Module):
    """The system of Figure 2 of the paper.

    Args:
        feature_net: N_feat, images ``(N, 3, H, W)`` -> features ``(N, C, h, w)``; has ``stride`` and ``channels``, and
            ``finish`` if some of its layers belong to N_task.
        task_net: N_task, features -> class scores ``(N, classes, h, w)``.
        flow_source: F and S, ``(current, key, (h, w)) -> (flow, scale or None)``: see ``dfflib.flow``.
        padding_mode: what the warp finds outside the map; ``"zeros"`` as in the paper.
    """

    def __init__(
        self, feature_net: nn.Module, task_net: nn.Module, flow_source: nn.Module, padding_mode: str = "zeros"
    ):
        super().__init__()
        self.feature_net, self.task_net, self.flow_source = feature_net, task_net, flow_source
        self.padding_mode = padding_mode

    def extract(self, key: Tensor) -> Tensor:
        """Features of a key frame: ``(N, 3, H, W)`` in [0, 1] -> ``(N, C, ceil(H/stride), ceil(W/stride))``.

        Raises:
            DffError: the frame is smaller than one feature cell, or no image in [0, 1].
        """
        check_images(key)
        height, width = key.shape[-2:]
        stride = self.feature_net.stride
        if min(height, width) < stride:
            raise DffError(
                f"frames of {width}x{height} pixels are smaller than the network's stride of {stride}: "
                f"enlarge them to at least {stride} pixels a side."
            )
        return self.feature_net(key)

    def propagate(self, features: Tensor, key: Tensor, current: Tensor) -> Tensor:
        """Carry key-frame features to the current frame (eq. 3): warp along the flow, times the scale field.

        Args:
            features: of the key frame, ``(N, C, h, w)``.
            key, current: the two frames, ``(N, 3, H, W)``.

        Raises:
            DffError: the current frame is no image in [0, 1].
        """
        check_images(current)
        return self.move(features, *self.flow_source(current, key, tuple(features.shape[-2:])))

    def move(self, features: Tensor, flow: Tensor, scale: Tensor | None) -> Tensor:
        """Warp features along a flow, times the scale field if there is one (eq. 3); flow in feature cells.

        Features of one key frame serve any number of flows: ``(1 or N, C, h, w)`` and ``(N, 2, h, w)``.
        """
        moved = warp(features, flow, self.padding_mode)
        return moved if scale is None else moved * scale

    @property
    def n_task(self) -> nn.Module:
        """N_task: features to class scores on the same grid. With a split N, its last layers come first."""
        finish = getattr(self.feature_net, "finish", ())
        return nn.Sequential(finish, self.task_net) if len(finish) else self.task_net

    def predict(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Class scores at image size: N_task, then bilinear upsampling to ``(N, classes, *size)``."""
        return F.interpolate(self.n_task(features), size=tuple(size), mode="bilinear", align_corners=False)

    def forward(self, key: Tensor, current: Tensor, is_key: Tensor | None = None) -> Tensor:
        """Scores of the current frame by way of the key frame's features, ``(N, classes, H, W)``.

        Args:
            key, current: ``(N, 3, H, W)``.
            is_key: bool ``(N,)``; where True, i = k and the features are used as they are (training pairs, section 4).
        """
        features = self.extract(key)
        moved = self.propagate(features, key, current)
        if is_key is not None:
            moved = torch.where(is_key.view(-1, 1, 1, 1), features, moved)
        return self.predict(moved, current.shape[-2:])

    def flow_levels(self, key: Tensor, current: Tensor) -> list[Tensor]:
        """Flow at every level of the flow network, for its pre-training; see ``FlowNetwork.predictions``."""
        return self.flow_source.predictions(current, key)[0]

    def per_frame(self, images: Tensor) -> Tensor:
        """Scores of N alone, without propagation: the paper's *Frame* baseline."""
        return self.predict(self.extract(images), images.shape[-2:])

    def with_flow(self, flow_source: nn.Module) -> "DeepFeatureFlow":
        """The same networks (shared, not copied) with another flow source: every ablation in one line."""
        other = copy.copy(self)
        other._modules = {**self._modules, "flow_source": flow_source}
        return other


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images: normalisation is inside the networks, which see bytes as a white-out.

    Raises:
        DffError: another shape, whole numbers, or values clearly outside [0, 1] (training on a GPU does not wait for those).
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise DffError(
            f"images are {images.dtype} {tuple(images.shape)}: give floating-point images (N, 3, H, W) in [0, 1], say "
            f"frames / 255."
        )
    if images.is_meta or (images.is_cuda and torch.is_grad_enabled()) or not images.numel():
        return
    low, high = (end.item() for end in images.detach().aminmax())
    if not (-0.5 <= low and high <= 1.5):  # NaN as well
        raise DffError(
            f"images hold values from {low:g} to {high:g}: give them in [0, 1], frames / 255, not normalised in any other way."
        )


FEATURE_NETS = ("residual", "flownet_s")
RESNETS = {"resnet50": 50, "resnet101": 101}  # the published feature networks, by depth
FLOW_NETS = {
    "flownet_s": FlowNetS, "flownet_sr": FlowNetSR, "flownet_inception": FlowNetInception, "correlation": CorrelationFlowNet,
}  # fmt: skip
RANGES = {
    "num_classes": (1, 255),  # label 255 means: does not count
    "channels": (2, 4096), "width": (0.01, 8), "flow_width": (0.01, 8), "flow_input_stride": (1, 16), "task_blocks": (0, 6),
}  # fmt: skip
"""Least and largest value of each number that `build` takes."""

KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a line of text"}


def build(
    num_classes: int = 2, feature_net: str = "residual", channels: int = 64, width: float = 1.0,
    flow_net: str = "flownet_sr", flow_width: float = 0.375, flow_input_stride: int = 1, scale: bool = True,
    stride_in_1x1: bool = False, frozen: bool = False, task_blocks: int = 0,
) -> DeepFeatureFlow:  # fmt: skip
    """Assemble a model from plain values, as checkpoints store them.

    Args:
        num_classes: classes to tell apart.
        feature_net: ``"residual"`` (compact, a 1x1 head as N_task) or ``"flownet_s"`` (the prototype: scores propagate);
            ``"resnet50"`` or ``"resnet101"`` (as published: 1024 channels at stride 16, the same head).
        channels: feature channels of the residual network.
        width: channel factor of ``"flownet_s"`` as feature network.
        flow_net: ``"flownet_sr"``, ``"flownet_s"`` (width 0.5 is the paper's FlowNet Half) or ``"flownet_inception"``.
        flow_width: channel factor of the flow network.
        flow_input_stride: 1 for frames at full size, 2 for half size.
        scale: with the scale field or without.
        task_blocks: of the residual network, how many of its last blocks belong to N_task.
        stride_in_1x1, frozen: of a ResNet, see ``dfflib.resnet.ResNetFeatures``.

    Raises:
        DffError: a value of another type, out of its range (`RANGES`), or a network that there is not.
    """
    check_arguments(locals())
    if feature_net == "residual":
        features = ResidualSegmenter(channels, task_blocks=task_blocks)
        task = segmentation_head(channels, num_classes)
    elif feature_net in RESNETS:
        from dfflib.resnet import ResNetFeatures  # importing torchvision takes seconds that no other model needs

        features = ResNetFeatures(RESNETS[feature_net], stride_in_1x1, frozen)
        task = segmentation_head(features.channels, num_classes)
    else:
        features = FlowNetSegmenter(num_classes, width)
        task = nn.Identity()
    net = FLOW_NETS[flow_net](6, 2, flow_width)
    return DeepFeatureFlow(
        features, task, FlowNetwork(net, features.channels, features.stride, flow_input_stride, scale)
    )


def check_arguments(arguments: dict) -> None:
    """Refuse what `build` cannot take, whoever asks: a caller, or the header of a file.

    Raises:
        DffError: an unknown name, a value of another type or out of its range, or a network that there is not.
    """
    known = inspect.signature(build).parameters
    for name, value in arguments.items():
        if name not in known:
            raise DffError(f"a model has no argument {ascii(name)[:80]}: choose from {', '.join(known)}.")
        check_value(name, value, type(known[name].default), RANGES.get(name))
    feature_net, flow_net = (arguments.get(name, known[name].default) for name in ("feature_net", "flow_net"))
    if feature_net not in (*FEATURE_NETS, *RESNETS) or flow_net not in FLOW_NETS:
        raise DffError(
            f"there is no model with feature network {feature_net!r} and flow network {flow_net!r}: choose from "
            f"{', '.join((*FEATURE_NETS, *RESNETS))} and {', '.join(FLOW_NETS)}."
        )


def check_value(name: str, value: object, kind: type, limits: tuple[float, float] | None = None) -> None:
    """Refuse a value that is not of a kind, or a number out of its limits.

    Args:
        name: for the message.
        value: anything.
        kind: ``bool``, ``int``, ``float`` (which takes whole numbers too) or ``str`` (one line, of 200 characters at most).
        limits: least and largest number; None takes any, NaN too.

    Raises:
        DffError: it does not fit.
    """
    fits = isinstance(value, {int: numbers.Integral, float: numbers.Real}.get(kind, kind))
    if kind is not bool and isinstance(value, bool):  # which is an int to Python
        fits = False
    if fits and kind is str:
        fits = len(value) <= 200 and value.isprintable()
    if fits and limits:
        fits = limits[0] <= value <= limits[1]
    if not fits:
        span = f" from {limits[0]} to {limits[1]}" if limits else ""
        raise DffError(f"{name} is {reprlib.repr(value)}: choose {KINDS[kind]}{span}.")


def outline(**arguments) -> dict[str, Tensor]:
    """Names, shapes and types of the tensors of a model, whose weights take no memory: what `build` of the same arguments
    would have as its ``state_dict``."""
    with _NoMemory():
        return build(**arguments).state_dict()


class _NoMemory(TorchFunctionMode):
    """New layers get weights on the meta device, where filling them does nothing.

    ``torch.device("meta")`` would do, were it not for the ten seconds that PyTorch then takes to import its compiler.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.empty:
            return torch.empty(*args, **kwargs | {"device": "meta"})
        filled = args[0] if args else kwargs.get("tensor")
        in_place = function.__name__.endswith("_") and not function.__name__.startswith("_")
        return filled if in_place and getattr(filled, "is_meta", False) else function(*args, **kwargs)


def prototype(num_classes: int = 2) -> DeepFeatureFlow:
    """The Julia prototype as it was: FlowNetS as segmenter, FlowNetSR on full-size frames, no scale field."""
    return build(num_classes, "flownet_s", flow_net="flownet_sr", flow_width=1.0, flow_input_stride=1, scale=False)
