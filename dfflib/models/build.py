"""Models from plain values, one dict for each of the three networks, as recipes have them and checkpoints store them.

For example::

    build(task={"num_classes": 3}, features={"name": "residual", "channels": 32}, flow={"name": "correlation", "width": 0.75})
"""

import reprlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfflib.errors import DffError
from dfflib.flow import FlowNetwork
from dfflib.flow.correlation import CorrelationFlowNet
from dfflib.flow.flownet import FlowNetS, FlowNetSR
from dfflib.flow.inception import FlowNetInception
from dfflib.flow.refined import RefinedFlowNet
from dfflib.models.arguments import Argument, check_value
from dfflib.models.dff import DeepFeatureFlow
from dfflib.models.keyframe import LargePyramidSegmenter, PyramidSegmenter, ResidualSegmenter
from dfflib.models.task import Segmentation, Task

Config = dict[str, dict[str, Any]]
"""``{"task": {...}, "features": {...}, "flow": {...}}``: of each network its name and arguments."""


class Network(NamedTuple):
    """A network by name: what makes it, and which arguments it takes."""

    make: Callable[..., Any]
    arguments: dict[str, Argument]


def _resnet(depth: int, **arguments: bool) -> nn.Module:
    from dfflib.models.resnet import ResNetFeatures  # importing torchvision takes seconds that no other model needs

    return ResNetFeatures(depth, **arguments)


def _flow(
    net: Callable[..., Any], channels: int, stride: int, width: float, input_stride: int, scale: bool
) -> FlowNetwork:
    return FlowNetwork(net(6, 2, width), channels, stride, input_stride, scale)


_SIZE = {"channels": Argument(64, (2, 4096)), "task_blocks": Argument(0, (0, 6))}
_PUBLISHED = {"stride_in_1x1": Argument(False), "frozen": Argument(False)}
_FLOW = {"width": Argument(0.375, (0.01, 8)), "input_stride": Argument(1, (1, 16)), "scale": Argument(True)}
NETWORKS: dict[str, dict[str, Network]] = {
    "task": {"segmentation": Network(Segmentation, Segmentation.arguments)},
    "features": {
        "residual": Network(ResidualSegmenter, _SIZE),
        "pyramid": Network(PyramidSegmenter, _SIZE | {"task_blocks": Argument(0, (0, 2))}),
        "large_pyramid": Network(LargePyramidSegmenter, _SIZE | {"task_blocks": Argument(0, (0, 2))}),
        "resnet50": Network(partial(_resnet, 50), _PUBLISHED),
        "resnet101": Network(partial(_resnet, 101), _PUBLISHED),
    },
    "flow": {
        "flownet_sr": Network(partial(_flow, FlowNetSR), _FLOW),
        "flownet_s": Network(partial(_flow, FlowNetS), _FLOW),
        "flownet_inception": Network(partial(_flow, FlowNetInception), _FLOW),
        "correlation": Network(partial(_flow, CorrelationFlowNet), _FLOW),
        "refined": Network(partial(_flow, RefinedFlowNet), _FLOW),
    },
}
"""Every network that a recipe or a checkpoint can ask for; the first of each part is the default."""


def build(
    task: dict[str, Any] | None = None, features: dict[str, Any] | None = None, flow: dict[str, Any] | None = None
) -> DeepFeatureFlow:
    """Assemble a model. Each dict has the ``name`` of a network in `NETWORKS` and its arguments; what is left out has its
    default.

    Args:
        task: N_task, ``"segmentation"`` with ``num_classes`` (2) and ``scores_travel`` (False; scores are carried in place of
            features).
        features: N_feat, ``"residual"`` (compact) with ``channels`` (64) of the feature map, and ``task_blocks`` (0), how many
            of its last blocks belong to N_task; ``"pyramid"`` (four scales, stride 2) or ``"large_pyramid"`` with the same; or
            as published ``"resnet50"`` or ``"resnet101"`` (1024 channels at stride 16) with ``stride_in_1x1`` and ``frozen``,
            see `dfflib.models.resnet.ResNetFeatures`.
        flow: F and S, ``"flownet_sr"``, ``"flownet_s"`` (width 0.5 is the paper's FlowNet Half), ``"flownet_inception"``,
            ``"correlation"`` or ``"refined"`` (DIS flow, corrected); with ``width`` (0.375), a factor on channels,
            ``input_stride`` (1; 2 halves the frames) and ``scale`` (True; with the scale field or without).

    Raises:
        DffError: a network that there is not, an argument that it does not take, a value of another type or out of its range.
    """
    config = complete({"task": task or {}, "features": features or {}, "flow": flow or {}})
    made = {part: partial(NETWORKS[part][given.pop("name")].make, **given) for part, given in config.items()}
    purpose, feature_net = made["task"](), made["features"]()
    task_net = purpose.network(feature_net.channels)
    moved = task_net.out_channels if purpose.scores_travel else feature_net.channels
    flow_source = made["flow"](moved, feature_net.stride)
    return DeepFeatureFlow(feature_net, task_net, flow_source, task=purpose)


def task_of(config: Config) -> Task:
    """The task of a described model, which is not built."""
    arguments = complete(config)["task"]
    return NETWORKS["task"][arguments.pop("name")].make(**arguments)


def complete(config: object) -> Config:
    """A description of a model with every network named and every argument given, whoever gave it: a caller, or a file.

    Raises:
        DffError: as `build`.
    """
    if not isinstance(config, dict):
        raise DffError(f"a model is described by {type(config).__name__} and no dict.")
    for part in config:
        if part not in NETWORKS:
            raise DffError(f"a model has no part {ascii(part)[:80]}: choose from {', '.join(NETWORKS)}.")
    return {part: _complete(part, config.get(part, {})) for part in NETWORKS}


def _complete(part: str, given: object) -> dict[str, Any]:
    """One network's name and all of its arguments."""
    if not isinstance(given, dict):
        raise DffError(f"{part} is {reprlib.repr(given)}: give a dict of a network's name and arguments.")
    networks = NETWORKS[part]
    name = given.get("name", next(iter(networks)))
    if not isinstance(name, str) or name not in networks:
        raise DffError(f"there is no network {reprlib.repr(name)} for {part}: choose one of {', '.join(networks)}.")
    takes = networks[name].arguments
    for argument, value in given.items():
        if argument not in ("name", *takes):
            raise DffError(
                f"{name} takes no argument {ascii(argument)[:80]} for {part}: choose from {', '.join(takes)}."
            )
        if argument != "name":
            default, limits = takes[argument]
            check_value(f"{argument} of {part}", value, type(default), limits)
    return {"name": name} | {argument: given.get(argument, default) for argument, (default, _) in takes.items()}


def outline(config: Config) -> dict[str, Tensor]:
    """Names, shapes and types of the tensors of a model, whose weights take no memory: what `build` of the same description
    would have as its ``state_dict``."""
    with _NoMemory():
        return build(**config).state_dict()


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
