"""What a model is for: the task's network, its loss and metric, and what its results are, how they count, how they are drawn.

A model carries its task. Trainer, engine, checkpoints and the evaluation by offset ask it, and know none by name: another task
is a class like `Segmentation`, and its line in `dfflib.models.build.NETWORKS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfflib.data.clips import IGNORE, Clip, check_labels
from dfflib.data.pairs import Batch
from dfflib.errors import DffError
from dfflib.metrics import ConfusionMatrix
from dfflib.models.arguments import Argument
from dfflib.viz import overlay

MOST_CLASSES = 256  # that a byte tells apart


class Counts(Protocol):
    """Results counted over many frames."""

    def update(self, results: Any, truths: Any, /) -> None:
        """Count N results against the ground truths of the same frames, or against other results for them."""

    @property
    def score(self) -> float:
        """The one number that training is validated by."""

    def values(self) -> dict[str, tuple[float, str]]:
        """Metric -> value and unit, as tables show them."""


class Task(ABC):
    """A task. *Scores* are what its loss takes; *results*, N of them that can be counted and sliced, what its users get.

    Attributes:
        arguments: of the class, as a model's description gives them (``dfflib.models.build.build(task={...})``).
        unit: of `Counts.score`.
        agreement: metric of `Counts.values` -> its name where results are counted against those of every frame by itself.
        scores_travel: what is carried from frame to frame is what N_task gives, not features; see
            `dfflib.models.dff.DeepFeatureFlow`.
    """

    arguments: ClassVar[dict[str, Argument]] = {}
    scores_travel: bool = False
    unit: ClassVar[str]
    agreement: ClassVar[dict[str, str]]

    @abstractmethod
    def network(self, channels: int) -> nn.Module:
        """N_task for features of so many channels."""

    @abstractmethod
    def scores(self, output: Any, size: tuple[int, int]) -> Any:
        """What N_task gives, for images of a size ``(H, W)``."""

    @abstractmethod
    def loss(self, scores: Any, batch: Batch) -> Tensor:
        """How wrong scores are for the current frames of a batch, as one number."""

    @abstractmethod
    def results(self, scores: Any) -> Any:
        """The N results of scores, where they were computed."""

    def fast_results(self, output: Any, size: tuple[int, int], coarse: bool = False) -> Any:
        """Results for a user, on the CPU, from what N_task gives; ``coarse``, cheaper ones where a task has such."""
        return self.results(self.scores(output, size))

    @abstractmethod
    def counts(self, clips: Sequence[Clip] = ()) -> Counts:
        """Nothing counted yet, for results on some clips, or on batches of training.

        Raises:
            DffError: the clips are labelled for something else.
        """

    @abstractmethod
    def ground_truths(self, batch: Batch) -> Any:
        """Those of the current frames of a batch."""

    @abstractmethod
    def ground_truth(self, clip: Clip, index: int) -> Any:
        """That of a labelled frame, as one of a batch."""

    @abstractmethod
    def draw(self, frame: Tensor, result: Any) -> np.ndarray:
        """A frame ``(3, H, W)`` uint8 with its result painted over, uint8 ``(H, W, 3)``."""


class LabelCounts(ConfusionMatrix):
    """Label maps counted pixel by pixel, on the CPU."""

    def update(self, results: Tensor, truths: Tensor) -> None:
        """Add label maps ``(N, H, W)`` of both."""
        super().update(results.cpu(), truths.cpu())

    @property
    def score(self) -> float:
        """Mean IoU in [0, 1]."""
        return self.miou()

    def values(self) -> dict[str, tuple[float, str]]:
        """Mean IoU and share of correct pixels, in percent."""
        return {"miou": (100 * self.miou(), "%"), "pixel_accuracy": (100 * self.accuracy(), "%")}


class Segmentation(Task):
    """A class for every pixel. Scores are ``(N, classes, H, W)``, results label maps ``(N, H, W)`` int64.

    Args:
        num_classes: classes to tell apart.
        scores_travel: class scores are carried from frame to frame, and the scale field is theirs.
    """

    arguments: ClassVar = {"num_classes": Argument(2, (1, IGNORE)), "scores_travel": Argument(False)}
    unit = "mIoU"
    agreement: ClassVar = {"miou": "agreement_miou", "pixel_accuracy": "agreement"}

    def __init__(self, num_classes: int = 2, scores_travel: bool = False):
        self.num_classes, self.scores_travel = num_classes, scores_travel

    def network(self, channels: int) -> nn.Conv2d:
        """One 1x1 convolution from features to class scores (paper, section 4)."""
        head = nn.Conv2d(channels, self.num_classes, 1)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.get_parameter("bias"))
        return head

    def scores(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Class scores enlarged bilinearly."""
        return F.interpolate(output, size=tuple(size), mode="bilinear", align_corners=False)

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the pixels that are labelled."""
        return F.cross_entropy(scores, self.ground_truths(batch), ignore_index=IGNORE)

    def results(self, scores: Tensor) -> Tensor:
        """The best class of every pixel."""
        return scores.argmax(1)

    def fast_results(self, output: Tensor, size: tuple[int, int], coarse: bool = False) -> Tensor:
        """Label maps; coarse ones are of the best class of every feature cell, enlarged: cheaper, with outlines as stairs."""
        if not coarse:
            return best_classes(output, size).cpu()
        cells = output.argmax(1)[:, None].float()
        return F.interpolate(cells, size=size, mode="nearest-exact")[:, 0].long().cpu()

    def counts(self, clips: Sequence[Clip] = ()) -> LabelCounts:
        """A confusion matrix, of the classes of the clips or of the model."""
        if not clips:
            return LabelCounts(self.num_classes)
        most = max(clips, key=lambda clip: clip.num_classes)
        if self.num_classes > most.num_classes:
            raise DffError(
                f"the model tells {self.num_classes} classes apart, but {most.name} has {most.num_classes}: choose "
                f"a checkpoint trained for these classes."
            )
        return LabelCounts(most.num_classes)

    def ground_truths(self, batch: Batch) -> Tensor:
        """Label maps ``(N, H, W)``."""
        assert batch.labels is not None, "batches of this task have labels"
        return batch.labels

    def ground_truth(self, clip: Clip, index: int) -> Tensor:
        """The label map ``(1, H, W)``."""
        assert clip.masks is not None, "labelled frames have masks"
        labels = clip.mask(index)[None]
        check_labels(labels, clip.num_classes, f"the mask of frame {index} of {clip.name}")
        return labels

    def draw(self, frame: Tensor, result: Tensor) -> np.ndarray:
        """Classes as tints with outlines."""
        return overlay(frame, result)


def best_classes(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Class of every pixel, ``(N, H, W)`` int64: enlarge the scores bilinearly, take the largest, the first of equal ones.

    Equal to ``interpolate`` and ``argmax`` to rounding. On a CPU this is most of a non-key frame once the flow is cheap, so
    OpenCV enlarges there, one class of one picture at a time, and each class is compared with the best before it: all that is
    touched fits into the cache, where the scores at full size are the largest maps of all.

    Args:
        scores: ``(N, classes, h, w)``, channels-last or not.
        size: rows and columns of the result.
    """
    labels = torch.empty(len(scores), *size, dtype=torch.int64, device=scores.device)
    if scores.is_cuda or scores.dtype == torch.float64 or scores.shape[1] > MOST_CLASSES:
        for one, found in zip(scores.split(1), labels, strict=True):
            found.copy_(F.interpolate(one, size=size, mode="bilinear").max(1).indices[0])
        return labels
    best, score = np.empty((2, *size), np.float32)
    index, better = np.empty((2, *size), np.uint8)
    for maps, found in zip(scores.detach().float().contiguous().numpy(), labels.numpy(), strict=True):
        cv2.resize(maps[0], size[::-1], dst=best)
        index[:] = 0
        for number, cells in enumerate(maps[1:], 1):
            cv2.resize(cells, size[::-1], dst=score)
            np.greater(score, best, out=better.view(bool))
            np.maximum(score, best, out=best)
            np.maximum(index, np.multiply(better, number, out=better), out=index)  # numbers rise
        found[:] = index
    return labels
