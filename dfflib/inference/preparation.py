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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._pytree import tree_map

from dfflib.errors import DffError
from dfflib.models.dff import DeepFeatureFlow

PRECISIONS = ("auto", "float32", "bfloat16")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KINDS: dict[type, str] = {nn.Conv2d: "convolution", nn.ConvTranspose2d: "convolution_transpose"}  # that can be packed
KEPT, OLD_LIMIT = 2**30, 2**25  # bytes; an older glibc takes no larger threshold than the second


def prepare(model: DeepFeatureFlow, device: str | torch.device | None = None, compile: bool = False) -> DeepFeatureFlow:
    """A copy of a model for inference: batch norm folded into convolutions, weights as kernels read them, nothing to train.

    Weights are channels-last, and on a CPU packed (`pack`), unless the networks are compiled.

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
    ready.scores_travel = ready.scores_travel or can_carry_scores(ready)
    ready.compiled = compile
    if compile:
        ready.feature_net.forward = _compiled(ready.feature_net)
        if hasattr(ready.flow_source, "net"):
            ready.flow_source.net.estimate = _compiled(ready.flow_source.net, "estimate")
    elif device.type == "cpu":
        pack(ready)
    return ready


def can_carry_scores(model: DeepFeatureFlow) -> bool:
    """Is carrying scores the same as carrying features (`DeepFeatureFlow.scores_travel`), and fewer maps? Where N_task is one
    1x1 convolution and what moves features has no scale field."""
    head, source = model.n_task, getattr(model.flow_source, "root", None)
    if not isinstance(head, nn.Conv2d) or head.kernel_size != (1, 1) or head.bias is None:
        return False
    return getattr(source, "scale_head", None) is None and head.out_channels < head.in_channels


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


def pack(model: nn.Module) -> nn.Module:
    """Lay the weights of every convolution out as the CPU's kernels read them, in place, and once instead of at every call.

    For a large layer on a small map that is as much work as the convolution itself: of FlowNet's time on one pair of frames
    it was more than a quarter. A leaky ReLU that follows in a ``Sequential`` becomes part of the convolution. The weights
    take twice their memory: the layers keep theirs, for what the kernels do not know (`Packed`).
    """
    if not torch.backends.mkldnn.is_available():
        return model
    slopes: dict[nn.Module, float] = {}
    for module in model.modules():
        for (_, layer), (after, activation) in itertools.pairwise(list(module.named_children())):
            if isinstance(module, nn.Sequential) and type(layer) in KINDS and isinstance(activation, nn.LeakyReLU):
                slopes[layer] = activation.negative_slope
                setattr(module, after, nn.Identity())
    for module in model.modules():
        if type(module) in KINDS and not isinstance(module.forward, Packed):
            module.forward = Packed(module, slopes.get(module, 1.0))
    return model


class Packed:
    """The ``forward`` of a convolution of packed weights, and of the leaky ReLU after it.

    How they have to lie depends on the size of the input, and what lies wrongly runs at a tenth of the speed. So weights are
    packed when a size is first seen, and kept once for all the sizes that want them alike.

    The kernels are those of ``torch.compile``, and know neither gradients nor autocast: whatever is not plain float32 on the
    CPU, the layer computes as it always did. Weights that are loaded into the layer later go unnoticed.

    Args:
        layer: as it will be called; it keeps its weights.
        slope: of the leaky ReLU; 1 is none.
    """

    def __init__(self, layer: Any, slope: float = 1.0):
        self.layer, self.slope, self.kind = layer, slope, KINDS[type(layer)]
        self.packed: dict[tuple[int, ...], Tensor] = {}  # by shape of the input and number of threads
        padding = (layer.padding, layer.output_padding) if layer.transposed else (layer.padding,)
        self.shape = (*padding, layer.stride, layer.dilation, layer.groups)
        self.activation = ("none", [], "") if slope == 1 else ("leaky_relu", [slope], "")

    def __getstate__(self) -> dict[str, Any]:
        """All but the packed weights, which cannot be copied."""
        return self.__dict__ | {"packed": {}}

    def weight(self, shape: torch.Size) -> Tensor:
        """The weights as an input of this shape wants them."""
        ops, size = torch.ops.mkldnn, (*shape, torch.get_num_threads())
        if size not in self.packed:
            weight = getattr(ops, f"_reorder_{self.kind}_weight")(self.layer.weight.detach(), *self.shape, shape)
            layout = ops._get_mkldnn_serialized_md
            alike = (w for w in list(self.packed.values()) if torch.equal(layout(w), layout(weight)))
            self.packed[size] = next(alike, weight)
        return self.packed[size]

    def __call__(self, x: Tensor) -> Tensor:
        """As the layer, and then the leaky ReLU."""
        plain = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if plain and not x.requires_grad and x.dim() == 4 and x.numel():
            call = getattr(torch.ops.mkldnn, f"_{self.kind}_pointwise")
            return call(x, self.weight(x.shape), self.layer.bias, *self.shape, *self.activation)
        x = type(self.layer).forward(self.layer, x)
        return F.leaky_relu(x, self.slope)


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
