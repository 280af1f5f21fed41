"""The clip: what every data set yields, whatever it is read from or rendered by.

A clip is a run of frames with whichever ground truth exists for it. Frames and masks are *sequences*: ``clip.frames[7]``
is one frame ``(3, H, W)`` uint8, ``clip.frames[[3, 7]]`` and ``clip.frames[3:8]`` are stacks ``(T, 3, H, W)``; masks are
int64 ``(H, W)`` and ``(T, H, W)`` with 255 = ignore. A tensor satisfies that contract, and so does a lazy reader that
decodes a frame when it is asked for: a two-hour video costs no more memory than a short one.
"""

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfflib.errors import DffError

IGNORE = 255
"""Label of pixels that no loss and no metric counts."""

AGREEMENT = 0.02  # a stated frame rate holds as long as the times of the frames agree with it to this share


def check_labels(labels: Tensor, num_classes: int, what: str, ignore: bool = True) -> None:
    """Refuse labels that name no class: one too many would be counted as another pair of classes.

    Args:
        labels: whole numbers or bool, of any shape.
        num_classes: C; labels are 0 to C - 1.
        what: whose labels, to begin the sentence with.
        ignore: 255 is a label too.

    Raises:
        DffError: another label, or numbers that are not whole.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise DffError(f"{what} is {labels.dtype}: give labels as whole numbers, say by .long().")
    labels = labels.long()
    counted = labels[labels != IGNORE] if ignore else labels
    if not counted.numel():
        return
    found = [int(end) for end in counted.aminmax()]
    wrong = next((label for label in found if not 0 <= label < num_classes), None)
    if wrong is not None:
        classes = f"0 to {num_classes - 1}" + f", or {IGNORE} for pixels that do not count" * ignore
        raise DffError(f"{what} holds the label {wrong}: map its labels onto {classes}.")


class LazyStack:
    """A stack of tensors that are made one by one, on demand: ``stack[i]``, ``stack[a:b]``, ``stack[[i, j]]``.

    Indices may be negative, NumPy integers, or a 1-D array or tensor of whole numbers or of one bool per item, as for a
    tensor; an empty selection has shape ``(0, ...)``. A slice may also run backward.

    Args:
        make: index -> tensor; called with ``0 <= index < length``.
        length: number of items.
        close: frees what ``make`` holds, until it is called again.
    """

    def __init__(self, make: Callable[[int], Tensor], length: int, close: Callable[[], None] | None = None):
        self._make, self._length, self._close = make, length, close

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: int | slice | Sequence[int] | Tensor) -> Tensor:
        if isinstance(key, slice):
            key = range(*key.indices(self._length))
        elif isinstance(key, (Tensor, np.ndarray)):
            key = self._numbers(np.asarray(key))
        if not isinstance(key, Iterable):
            return self._make(self._inside(operator.index(key)))
        items = [self._make(self._inside(operator.index(i))) for i in key]
        return torch.stack(items) if items else self._make(0)[None][:0]

    def close(self) -> None:
        """Free what is open behind the items. Asking for one opens it again."""
        if self._close is not None:
            self._close()

    def _numbers(self, key: np.ndarray) -> int | list[int]:
        """Indices from an array: whole numbers, or one bool per item of the stack."""
        if key.ndim > 1 or key.dtype.kind not in "iub" or (key.dtype == bool and len(np.atleast_1d(key)) != len(self)):
            raise IndexError(f"{len(self)} frames have no index of shape {key.shape} and type {key.dtype}")
        return np.flatnonzero(key).tolist() if key.dtype == bool else key.tolist()

    def _inside(self, index: int) -> int:
        if not -self._length <= index < self._length:
            raise IndexError(f"frame {index} of a clip of {self._length} frames")
        return index % self._length


@dataclass
class Boxes:
    """The objects of one frame. Boxes are half open: ``x2`` and ``y2`` lie one pixel beyond the last column and row that
    the object touches, so that width is ``x2 - x1`` and torchvision's box operations need no ``+ 1``.

    Attributes:
        boxes: ``(n, 4)`` float32, ``(x1, y1, x2, y2)`` in pixels.
        labels: ``(n,)`` int64, class of each, as in ``Clip.class_names``.
        tracks: ``(n,)`` int64, number of the object, the same in every frame of the clip.
        occluded: ``(n,)`` bool, partly hidden by something else; None where the data set does not say.
        generated: ``(n,)`` bool, box interpolated by the annotators' tool (ImageNet VID); None where it does not apply.
    """

    boxes: Tensor
    labels: Tensor
    tracks: Tensor
    occluded: Tensor | None = None
    generated: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)


class Clip:
    """Frames, their rate, and the ground truth that exists.

    Attributes:
        name: short name, used in tables and file names.
        frames: uint8, ``(T, 3, H, W)`` when stacked.
        fps: frames per second; where ``times`` are given and disagree, their average.
        times: seconds at which each frame is shown, from the first, ``(T,)`` float64.
        masks: int64 class labels, ``(T, H, W)`` when stacked, or None; only the frames in ``labelled`` have one.
        labelled: indices of the frames that have a mask.
        class_names: name of each class, in label order.
        continuous: known to be one shot, without cuts.
        instances: int64 number of the object that each pixel belongs to, 0 = none, 255 = ignore, for the frames in
            ``labelled``; ``(T, H, W)`` when stacked, or None.
    """

    def __init__(
        self,
        name: str,
        frames,
        fps: float = 25.0,
        masks=None,
        labelled: Sequence[int] | None = None,
        class_names: Sequence[str] = (),
        instances=None,
        boxes: Callable[[int], Boxes] | None = None,
        times: Sequence[float] | None = None,
    ):
        if len(frames) == 0:
            raise DffError(f"{name} has no frames: give a video or a folder with at least one image.")
        if not fps > 0:
            raise DffError(f"{name} has {fps} frames per second: give a number above 0.")
        self._times = None if times is None else np.asarray(times, dtype=np.float64) - times[0]
        if times is not None and (len(times) != len(frames) or not (np.diff(self._times) > 0).all()):
            raise DffError(f"{name} has {len(times)} times for {len(frames)} frames: give one for each, rising.")
        self.name, self.frames, self.masks = name, frames, masks
        self.fps = float(fps) if times is None else agreed_rate(float(fps), self._times)
        self.labelled = (range(len(frames)) if masks is not None else range(0)) if labelled is None else labelled
        self.class_names, self.instances, self._boxes = tuple(class_names), instances, boxes
        self.continuous = False

    def __len__(self) -> int:
        return len(self.frames)

    def close(self) -> None:
        """Free what is open behind the frames: files, decoders and their threads. Asking for a frame opens them again."""
        if isinstance(self.frames, LazyStack):
            self.frames.close()

    def __enter__(self) -> "Clip":
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    @property
    def times(self) -> np.ndarray:
        """Seconds at which each frame is shown, from the first."""
        return np.arange(len(self)) / self.fps if self._times is None else self._times

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.frames[0].shape[-2:])

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 for an unlabelled clip."""
        return len(self.class_names)

    @property
    def has_boxes(self) -> bool:
        """True if ``boxes`` can be asked for."""
        return self._boxes is not None

    def boxes(self, index: int) -> Boxes:
        """The objects of one frame.

        Raises:
            DffError: the data set has no boxes.
        """
        if self._boxes is None:
            raise DffError(f"{self.name} has no boxes: ask for them where clip.has_boxes is true.")
        return self._boxes(range(len(self))[index])

    def window(self, start: int, stop: int, name: str = "") -> "Clip":
        """The frames ``start <= i < stop`` as a clip of their own, numbered from 0; nothing is copied."""
        if not 0 <= start < stop <= len(self):
            raise DffError(
                f"{self.name} has {len(self)} frames, so it has no window from {start} to {stop}: "
                f"choose 0 <= start < stop <= {len(self)}."
            )

        def part(stack):
            """The same stretch of one of the stacks."""
            return None if stack is None else LazyStack(lambda i: stack[start + i], stop - start)

        return Clip(
            name or f"{self.name}[{start}:{stop}]",
            part(self.frames),
            self.fps,
            part(self.masks),
            [i - start for i in self.labelled if start <= i < stop],
            self.class_names,
            part(self.instances),
            (lambda i: self.boxes(start + i)) if self.has_boxes else None,
            None if self._times is None else self._times[start:stop],
        )

    def in_memory(self) -> "Clip":
        """The same clip with its frames decoded once and kept (uint8). For short clips that are read many times."""
        kept = copy.copy(self)
        kept.frames = self.frames[:]
        return kept


def agreed_rate(stated: float, times: Sequence[float]) -> float:
    """Frames per second: ``stated``, unless the seconds of the frames say otherwise."""
    if len(times) < 2 or not times[-1] > times[0]:
        return stated
    measured = (len(times) - 1) / float(times[-1] - times[0])
    return stated if abs(measured - stated) <= AGREEMENT * stated else measured


def split_in_time(
    clip: Clip, fractions: tuple[float, float, float] = (0.6, 0.15, 0.25), gap: int = 10
) -> dict[str, Clip]:
    """Cut a clip into train / val / test, in that order in time, and drop ``gap`` frames at each cut.

    Neighbouring frames are nearly the same picture. Were they dealt out at random, every test frame would have a twin in
    the training set; the gap keeps the two apart by more frames than the usual key-frame interval.

    Raises:
        DffError: the clip is too short to leave each part two frames, or gap or fractions make no sense.
    """
    if gap < 0 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise DffError(
            f"a gap of {gap} and parts of {fractions} do not cut a clip: choose a gap of 0 or more and parts that sum to 1."
        )
    usable = len(clip) - 2 * gap
    train, val = round(usable * fractions[0]), round(usable * fractions[1])
    if min(train, val, usable - train - val) < 2:
        raise DffError(
            f"{clip.name} has {len(clip)} frames, too few to cut into train, val and test with gaps of {gap}: "
            f"use a longer clip or a smaller gap."
        )
    cuts = {
        "train": (0, train),
        "val": (train + gap, train + gap + val),
        "test": (train + val + 2 * gap, len(clip)),
    }
    return {part: clip.window(*cut, name=f"{clip.name}/{part}") for part, cut in cuts.items()}


def pair_frames(clip: Clip, key: int, current: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Key and current frame as float images in [0, 1], each ``(1, 3, H, W)``."""
    both = clip.frames[[key, current]].float() / 255
    return both[:1], both[1:]
