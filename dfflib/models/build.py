"""Networks by name: every key-frame and flow network that a checkpoint or a recipe can ask for."""

import inspect
import numbers
import reprlib

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfflib.errors import DffError
from dfflib.flow import FlowNetwork
from dfflib.flow.correlation import CorrelationFlowNet
from dfflib.flow.flownet import FlowNetS, FlowNetSR
from dfflib.flow.inception import FlowNetInception
from dfflib.models.dff import DeepFeatureFlow
from dfflib.models.keyframe import FlowNetSegmenter, ResidualSegmenter, segmentation_head

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
        stride_in_1x1, frozen: of a ResNet, see ``dfflib.models.resnet.ResNetFeatures``.

    Raises:
        DffError: a value of another type, out of its range (`RANGES`), or a network that there is not.
    """
    check_arguments(locals())
    if feature_net == "residual":
        features = ResidualSegmenter(channels, task_blocks=task_blocks)
        task = segmentation_head(channels, num_classes)
    elif feature_net in RESNETS:
        from dfflib.models.resnet import ResNetFeatures  # importing torchvision takes seconds that no other model needs

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
