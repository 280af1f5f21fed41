"""What each part of Deep Feature Flow computes, counted without computing it; and Table 2 of the paper from these counts.

Counted with PyTorch's own ``FlopCounterMode`` on the *meta device*, where tensors have shapes and no memory: 1024x2048 pixels
through ResNet-101 take a second. The unit is one **multiply-add** (2 FLOPs). What counts: convolutions, transposed
convolutions and matrix products. What does not: biases, norms, activations, pooling, resampling, concatenation. The counter
does not know the warp's table look-up (``embedding_bag``), so W is counted by formula.
"""

import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from dfflib.errors import DffError
from dfflib.flow import FlowNetwork
from dfflib.models.build import build
from dfflib.models.dff import DeepFeatureFlow

SIZE = (1024, 2048)  # rows and columns of a Cityscapes frame, for which Table 2 is counted here
CLASSES = 19  # of Cityscapes

# The networks of Table 2 as arguments of dfflib.models.build.build; the authors' ResNets halve in the 1x1 convolutions.
TABLE2_FEATURES: dict[str, dict[str, Any]] = {
    name: {"name": name, "stride_in_1x1": True} for name in ("resnet50", "resnet101")
}
TABLE2_FLOWS: dict[str, dict[str, Any]] = {
    "FlowNet": {"name": "flownet_s", "width": 1.0, "input_stride": 2},
    "FlowNet Half": {"name": "flownet_s", "width": 0.5, "input_stride": 2},
    "FlowNet Inception": {"name": "flownet_inception", "width": 1.0, "input_stride": 2},
}


def component_flops(model: DeepFeatureFlow, size: tuple[int, int] = SIZE) -> dict[str, int]:
    """Multiply-adds of each component for one frame.

    Args:
        model: on any device, also built under ``torch.device("meta")``; it is not changed, and its weights are not read.
        size: ``(rows, columns)`` of the frame.

    Returns:
        ``"N_feat"``: the feature network, on a key frame, and the task network where its scores travel. ``"F"``: flow network
        **and scale field** S, whose 1x1 convolution counts at the feature map's size, as the authors run it (without bias it
        commutes with averaging, so the result is the same wherever it runs). ``"W"``: per value of the warped map 4 for the
        bilinear sum, and 1 for the product with S where there is one. ``"N_task"``: the task network, without the upsampling of
        its scores, which the paper does not describe.

    Raises:
        DffError: the size is below one feature cell; or the flow source is no network, so that its work cannot be counted.
    """
    stride = cast(int, model.feature_net.stride)
    if len(size) != 2 or min(size) < stride:
        raise DffError(
            f"size is {tuple(size)}: give rows and columns of at least the network's stride of {stride} pixels."
        )
    image = torch.empty(1, 3, *size, device="meta")
    features, counted = _run(model.feature_net, image)
    if model.scores_travel:  # N_task's products are made of a key frame, and carried
        features, more = _run(model.task_net, features)
        counted += more
    cells = tuple(features.shape[-2:])
    flow, has_scale = _flow_flops(model.flow_source, image, cells)
    return {
        "N_feat": counted,
        "F": flow,
        "W": (4 + has_scale) * features.numel(),
        "N_task": _run(model.n_task, features)[1],
    }


def inverse_r(model: DeepFeatureFlow, size: tuple[int, int] = SIZE) -> float:
    """How many times cheaper a non-key frame is than a key frame: 1/r, as in Table 2 of the paper, by multiply-adds.

    ``r = (O(F) + O(S) + O(W) + O(N_task)) / (O(N_feat) + O(N_task))``, all terms of eq. 5; see `component_flops` for what
    each one includes. Arguments and errors are the same.
    """
    parts = component_flops(model, size)
    return (parts["N_feat"] + parts["N_task"]) / (parts["F"] + parts["W"] + parts["N_task"])


def table2_model(features: str, flow: str) -> DeepFeatureFlow:
    """A cell of Table 2: the model of a feature network in `TABLE2_FEATURES` and a flow network in `TABLE2_FLOWS`."""
    return build({"num_classes": CLASSES}, TABLE2_FEATURES[features], TABLE2_FLOWS[flow])


def table2(size: tuple[int, int] = SIZE) -> dict[tuple[str, str], float]:
    """Table 2 of the paper from our networks: 1/r for each feature network and flow network, ``(name, name) -> 1/r``.

    The Inception column depends on a decoder that the paper does not give; see ``dfflib.flow.inception`` for ours.
    """
    ratios = {}
    for cell in itertools.product(TABLE2_FEATURES, TABLE2_FLOWS):
        with torch.device("meta"):
            model = table2_model(*cell)
        ratios[cell] = inverse_r(model, size)
    return ratios


def _flow_flops(source: nn.Module, image: Tensor, cells: tuple[int, int]) -> tuple[int, bool]:
    """Multiply-adds of a flow source with its scale field, and whether it has one."""
    if isinstance(source, FlowNetwork):
        rows, columns = (-(-side // source.input_stride) for side in image.shape[-2:])
        counted = _run(source.net, torch.empty(1, 6, rows, columns, device="meta"))[1]
        head = source.scale_head
        return counted + (0 if head is None else head.weight.numel() * cells[0] * cells[1]), head is not None
    try:
        (_, scale), counted = _run(source, image, image, cells)
    except NotImplementedError as error:  # of tensors without data, which leave PyTorch here
        raise DffError(
            f"the work of {type(source).__name__} is done outside PyTorch and cannot be counted: give a model whose flow "
            f"source is a network."
        ) from error
    return counted, scale is not None


def _run(module: nn.Module, *args) -> tuple:
    """What a module returns for meta tensors, and its multiply-adds; its own weights stay where and as they are."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = functional_call(module, weights, args)
    return output, counter.get_total_flops() // 2
