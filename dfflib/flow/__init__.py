"""Where flow comes from: networks, classical methods, ground truth."""

from dfflib.flow.losses import end_point_error, multiscale_loss
from dfflib.flow.sources import Ablated, DISFlow, ExactFlow, FlowNetwork, FlowSource, ZeroFlow

__all__ = [
    "Ablated",
    "DISFlow",
    "ExactFlow",
    "FlowNetwork",
    "FlowSource",
    "ZeroFlow",
    "end_point_error",
    "multiscale_loss",
]
