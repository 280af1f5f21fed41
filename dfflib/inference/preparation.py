"""A model made ready to run fast: the same predictions to rounding, from fewer and better-fitting operations.

What pays, on which machine, is measured by ``dfflib bench``; the defaults are what paid where it was measured.
"""

import contextlib
import copy
import ctypes
import itertools
import platform
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._pytree import tree_map

from dfflib.errors import DffError
from dfflib.models.dff import DeepFeatureFlow

PRECISIONS = ("auto", "float32", "bfloat16")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT, OLD_LIMIT = 2**30, 2**25  # bytes; an older glibc takes no larger threshold than the second


def prepare(model: DeepFeatureFlow, device: str | torch.device | None = None, compile: bool = False) -> DeepFeatureFlow:
    """A copy of a model for inference: batch norm folded into convolutions, weights channels-last, nothing to train.

    Args:
        model: any; it is left as it is.
        device: where to; None takes a GPU where there is one.
        compile: hand the feature and flow networks to ``torch.compile`` (on a GPU with CUDA graphs). The first frames of
            every size then take long; where compiling fails, a warning says why and they run as they are.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    keep_memory()
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    fold_batch_norm(ready)
    ready = ready.to(device).to(memory_format=torch.channels_last)
    if compile:
        ready.feature_net.forward = _compiled(ready.feature_net)
        if hasattr(ready.flow_source, "net"):
            ready.flow_source.net.estimate = _compiled(ready.flow_source.net, "estimate")
    return ready


def keep_memory() -> bool:
    """Let this process keep large blocks of memory that it frees, for the next frame; True where that can be asked for.

    The C library of Linux gives them back to the system at once, and that has to clear every page of them when the network
    asks for the same blocks again, a frame later: time that belongs to no layer, and is missing when layers are timed alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    adjust = ctypes.CDLL(None).mallopt
    kept = [adjust(M_TRIM_THRESHOLD, KEPT), adjust(M_MMAP_THRESHOLD, KEPT) or adjust(M_MMAP_THRESHOLD, OLD_LIMIT)]
    return all(kept)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution before it, in place: in evaluation both are one affine map.

    *Before it* goes by the order in which a module's layers are registered, which in these networks is the order in which
    they run.
    """
    for module in model.modules():
        layers = list(module.named_children())
        for (name, layer), (after, norm) in itertools.pairwise(layers):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, after, nn.Identity())
    return model


def autocast(device: torch.device, precision: str = "auto") -> contextlib.AbstractContextManager:
    """The context that networks run in.

    ``"auto"`` is bfloat16 where the hardware multiplies matrices of it (most GPUs, CPUs with AMX), and float32 elsewhere:
    a CPU that only emulates bfloat16 was measured two to five times *slower* with it.

    Raises:
        DffError: no such precision.
    """
    if precision not in PRECISIONS:
        raise DffError(f"there is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
        precision = "bfloat16" if fast else "float32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _compiled(module: nn.Module, method: str = "forward") -> Callable[..., Any]:
    """A compiled method that falls back to the plain one, once and for all, when compiling fails."""
    plain = getattr(module, method)
    graphs = next(module.parameters()).is_cuda
    fast, works = torch.compile(plain, mode="reduce-overhead" if graphs else None, dynamic=False), True

    def call(*args: Any) -> Any:
        """The compiled method while it works, else the plain one."""
        nonlocal works
        if works:
            try:
                found = fast(*args)
                return tree_map(torch.clone, found) if graphs else found  # the next call writes where this one wrote
            except Exception as error:  # no compiler on the machine, or an operation that it does not know
                works = False
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                warnings.warn(
                    f"{type(module).__name__} runs without torch.compile, which failed: {reason}", stacklevel=2
                )
        return plain(*args)

    return call
