"""Deep Feature Flow: a feature network on key frames, a flow network and a warp on all others, one task network for both.

The paper's Algorithm 1 in three calls::

    features = model.extract(key)                            # f_k = N_feat(I_k)               key frames only
    features = model.propagate(features, key, current)       # f_i = W(f_k, F(I_k, I_i), S)    all other frames
    logits = model.predict(features, size)                   # y_i = N_task(f_i)               every frame
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfflib.errors import DffError
from dfflib.flow import FlowSource
from dfflib.models.task import Segmentation, Task
from dfflib.warp import warp


class DeepFeatureFlow(nn.Module):
    """The system of Figure 2 of the paper.

    Args:
        feature_net: N_feat, images ``(N, 3, H, W)`` -> features ``(N, C, h, w)``; has ``stride`` and ``channels``, and
            ``finish`` if some of its layers belong to N_task.
        task_net: N_task, features -> what the task makes scores of; for segmentation class scores ``(N, classes, h, w)``.
        flow_source: F and S, ``(key, current, (h, w)) -> (flow, scale or None)``: see ``dfflib.flow``.
        padding_mode: what the warp finds outside the map; ``"zeros"`` as in the paper.
        task: what the scores are for; None means segmentation.

    Attributes:
        scores_travel: scores are carried in place of features, without their bias, which is added afterwards (the last row of
            the paper's Table 5), as the task asks. Where N_task is one 1x1 convolution and there is no scale field this gives
            the same result, to rounding, and takes less: few maps of scores are moved, and not many of features.
    """

    # Networks of many kinds, which share attributes and methods but no class.
    feature_net: Any
    task_net: Any
    flow_source: Any

    def __init__(
        self, feature_net: nn.Module, task_net: nn.Module, flow_source: FlowSource, padding_mode: str = "zeros",
        task: Task | None = None,
    ):  # fmt: skip
        super().__init__()
        self.feature_net, self.task_net, self.flow_source = feature_net, task_net, flow_source
        self.padding_mode, self.task = padding_mode, task or Segmentation()
        self.scores_travel = self.task.scores_travel
        self.compiled = False  # its networks, by `dfflib.inference.preparation.prepare`

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
        features = self.feature_net(key)
        return F.conv2d(features, self.task_net.weight) if self.scores_travel else features

    def propagate(self, features: Tensor, key: Tensor, current: Tensor) -> Tensor:
        """Carry key-frame features to the current frame (eq. 3): warp along the flow, times the scale field.

        Args:
            features: of the key frame, ``(N, C, h, w)``.
            key, current: the two frames, ``(N, 3, H, W)``.

        Raises:
            DffError: the current frame is no image in [0, 1].
        """
        check_images(current)
        return self.move(features, *self.flow_source(key, current, tuple(features.shape[-2:])))

    def move(self, features: Tensor, flow: Tensor, scale: Tensor | None) -> Tensor:
        """Warp features along a flow, times the scale field if there is one (eq. 3); flow in feature cells.

        Features of one key frame serve any number of flows: ``(1 or N, C, h, w)`` and ``(N, 2, h, w)``.
        """
        moved = warp(features, flow, self.padding_mode)
        return moved if scale is None else moved * scale

    @property
    def n_task(self) -> nn.Module:
        """N_task: features to scores on the same grid. With a split N, its last layers come first."""
        if self.scores_travel:
            return _AddBias(self.task_net.bias)
        finish = getattr(self.feature_net, "finish", None)
        return nn.Sequential(finish, self.task_net) if finish else self.task_net

    def predict(self, features: Tensor, size: tuple[int, int]) -> Any:
        """Scores for images of a size, as the task has them: for segmentation ``(N, classes, *size)``."""
        return self.task.scores(self.n_task(features), size)

    def forward(self, key: Tensor, current: Tensor, is_key: Tensor | None = None) -> Any:
        """Scores of the current frame by way of the key frame's features, as `predict` gives them.

        Args:
            key, current: ``(N, 3, H, W)``.
            is_key: bool ``(N,)``; where True, i = k and the features are used as they are (training pairs, section 4).
        """
        features = self.extract(key)
        moved = self.propagate(features, key, current)
        if is_key is not None:
            moved = torch.where(is_key.view(-1, 1, 1, 1), features, moved)
        return self.predict(moved, image_size(current))

    def flow_levels(self, key: Tensor, current: Tensor) -> list[Tensor]:
        """Flow at every level of the flow network, for its pre-training; see ``FlowNetwork.predictions``."""
        return self.flow_source.predictions(key, current)[0]

    def per_frame(self, images: Tensor) -> Any:
        """Scores of N alone, without propagation: the paper's *Frame* baseline."""
        return self.predict(self.extract(images), image_size(images))

    def with_flow(self, flow_source: FlowSource) -> "DeepFeatureFlow":
        """The same networks (shared, not copied) with another flow source: every ablation in one line."""
        other = copy.copy(self)
        other._modules = {**self._modules, "flow_source": flow_source}
        other.scores_travel = self.task.scores_travel
        return other


class _AddBias(nn.Module):
    """What is left of a 1x1 convolution whose products were carried."""

    def __init__(self, bias: Tensor):
        super().__init__()
        self.bias = bias

    def forward(self, scores: Tensor) -> Tensor:
        """``(N, C, h, w)`` -> the same shape."""
        return scores + self.bias.view(1, -1, 1, 1)


def image_size(images: Tensor) -> tuple[int, int]:
    """Rows and columns of images ``(..., H, W)``."""
    return images.shape[-2], images.shape[-1]


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
    if not (low >= -0.5 and high <= 1.5):  # NaN as well
        raise DffError(
            f"images hold values from {low:g} to {high:g}: give them in [0, 1], frames / 255, not normalised in any other way."
        )
