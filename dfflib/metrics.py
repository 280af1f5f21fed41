"""How well labels agree: mean intersection over union from counts, and the region similarity J of masks."""

import torch
from torch import Tensor

from dfflib.data.clips import IGNORE, check_labels
from dfflib.errors import DffError


class ConfusionMatrix:
    """Counts of (true class, predicted class), gathered over many label maps; pixels labelled 255 do not count."""

    def __init__(self, num_classes: int, counts: Tensor | None = None):
        self.num_classes = num_classes
        if counts is None:
            counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.counts = counts  # rows: ground truth, columns: prediction

    def update(self, prediction: Tensor, ground_truth: Tensor) -> None:
        """Add label maps of equal shape; see `count_pairs`."""
        self.counts += count_pairs(prediction[None], ground_truth[None], self.num_classes)[0]

    def iou(self) -> Tensor:
        """Intersection over union of each class, in [0, 1]; NaN where a class is neither present nor predicted."""
        hit = self.counts.diag().double()
        return hit / (self.counts.sum(0) + self.counts.sum(1) - hit)

    def miou(self) -> float:
        """Mean IoU over the classes that occur, in [0, 1]."""
        return self.iou().nanmean().item()

    def accuracy(self) -> float:
        """Share of correct pixels, in [0, 1]."""
        return (self.counts.diag().sum() / self.counts.sum().clamp(min=1)).item()


def count_pairs(predictions: Tensor, ground_truth: Tensor, num_classes: int) -> Tensor:
    """How often each true class was predicted as each class, for several predictions of the same ground truth.

    Args:
        predictions: ``(L, ...)``, whole numbers 0 to C - 1.
        ground_truth: ``(1, ...)`` or ``(L, ...)``; 255 does not count.
        num_classes: C.

    Returns:
        ``(L, C, C)`` int64, rows ground truth, columns prediction.

    Raises:
        DffError: shapes that do not fit, or a label that is no class.
    """
    if predictions.shape[1:] != ground_truth.shape[1:] or len(ground_truth) not in (1, len(predictions)):
        raise DffError(
            f"predictions {tuple(predictions.shape)} and labels {tuple(ground_truth.shape)} do not lie on the same pixels: "
            f"give both as (L, H, W), or the labels as (1, H, W)."
        )
    check_labels(predictions, num_classes, "a prediction", ignore=False)
    check_labels(ground_truth, num_classes, "the truth")
    first = torch.arange(len(predictions), device=predictions.device).view(-1, *[1] * (predictions.ndim - 1))
    joint = (first * num_classes + ground_truth) * num_classes + predictions
    if (ignored := ground_truth == IGNORE).any():
        joint = joint[~ignored.expand_as(joint)]
    counts = torch.bincount(joint.flatten().cpu(), minlength=len(predictions) * num_classes**2)
    return counts.view(-1, num_classes, num_classes)


def region_similarity(mask: Tensor, ground_truth: Tensor) -> float:
    """J of two masks ``(H, W)`` bool: intersection over union; 1 if both are empty.

    Raises:
        DffError: other numbers than bool, whose bits would be counted, or two shapes.
    """
    if mask.dtype != torch.bool or ground_truth.dtype != torch.bool or mask.shape != ground_truth.shape:
        raise DffError(
            f"J compares two bool masks of one shape, got {mask.dtype} {tuple(mask.shape)} and {ground_truth.dtype} "
            f"{tuple(ground_truth.shape)}: choose the object's pixels first, say by labels == 1."
        )
    union = (mask | ground_truth).sum()
    return ((mask & ground_truth).sum() / union).item() if union else 1.0
