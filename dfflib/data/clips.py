"""The clip: what every data set yields, whatever it is read from or rendered by.

A clip is a run of frames with whichever ground truth exists for it. Frames and masks are *sequences*: ``clip.frames[7]``
is one frame ``(3, H, W)`` uint8, ``clip.frames[[3, 7]]`` and ``clip.frames[3:8]`` are stacks ``(T, 3, H, W)``; masks are
int64 ``(H, W)`` and ``(T, H, W)`` with 255 = ignore. A tensor satisfies that contract, and so does a lazy reader that
decodes a frame when it is asked for: a two-hour video costs no more memory than a short one.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfflib.data.stacks import LazyStack, Stack
from dfflib.errors import DffError

SPLITS = ("train", "val", "test")
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


@dataclass
class Tracks:
    """Points that stick to surfaces.

    Attributes:
        points: ``(T, P, 2)`` float32, (x, y) in pixels, where the surface point lies in each frame, seen or not.
        visible: ``(T, P)`` bool: in view, and nothing in front.
        instances: ``(P,)`` int64, object that each point sits on, 0 = background.
    """

    points: Tensor
    visible: Tensor
    instances: Tensor


class Clip:
    """Frames, their rate, and the ground truth that exists.

    Ask ``has_boxes``, ``has_flow`` and ``has_tracks`` before ``boxes``, ``flow`` (also ``occluded``, ``out_of_view``,
    ``occlusion``) and ``track`` (also ``tracks``): a clip without them raises a `DffError`. Frames count from 0, or from the
    end if negative.

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
        frames: Stack,
        fps: float = 25.0,
        masks: Stack | None = None,
        labelled: Sequence[int] | None = None,
        class_names: Sequence[str] = (),
        instances: Stack | None = None,
        boxes: Callable[[int], Boxes] | None = None,
        times: Sequence[float] | np.ndarray | None = None,
    ):
        if len(frames) == 0:
            raise DffError(f"{name} has no frames: give a video or a folder with at least one image.")
        if not fps > 0:
            raise DffError(f"{name} has {fps} frames per second: give a number above 0.")
        self.name, self.frames, self.masks, self.fps = name, frames, masks, float(fps)
        self._times: np.ndarray | None = None
        if times is not None:
            seconds = np.asarray(times, dtype=np.float64) - times[0]
            if len(seconds) != len(frames) or bool(np.any(np.diff(seconds) <= 0)):
                raise DffError(f"{name} has {len(times)} times for {len(frames)} frames: give one for each, rising.")
            self._times, self.fps = seconds, agreed_rate(float(fps), seconds)
        self.labelled: Sequence[int] = range(len(frames) if masks is not None else 0) if labelled is None else labelled
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
        height, width = self.frames[0].shape[-2:]
        return height, width

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 for an unlabelled clip."""
        return len(self.class_names)

    def mask(self, index: int) -> Tensor:
        """Class labels of one frame, ``(H, W)`` int64.

        Raises:
            DffError: the clip has no masks.
        """
        if self.masks is None:
            raise DffError(f"{self.name} has no masks: ask for those of the frames in clip.labelled.")
        return self.masks[index]

    def instance_mask(self, index: int) -> Tensor:
        """Number of the object that each pixel of one frame belongs to, ``(H, W)`` int64.

        Raises:
            DffError: the clip has no instances.
        """
        if self.instances is None:
            raise DffError(f"{self.name} has no instances: ask for them where clip.instances is not None.")
        return self.instances[index]

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
        return self._boxes(self._index(index))

    @property
    def has_flow(self) -> bool:
        """True if ``flow``, ``occluded``, ``out_of_view`` and ``occlusion`` can be asked for."""
        return False

    def flow(self, i: int, k: int) -> Tensor:
        """Exact backward flow from frame i to frame k, ``(2, H, W)`` float32 in pixels: what pixel p of frame i shows lies at
        ``p + flow[:, p]`` in frame k, hidden or not."""
        raise self._lacks("flow", "has_flow")

    def occluded(self, i: int, k: int) -> Tensor:
        """Pixels of frame i that something covers in frame k, ``(H, W)`` bool; outside the picture too."""
        raise self._lacks("occlusion", "has_flow")

    def out_of_view(self, i: int, k: int) -> Tensor:
        """Pixels of frame i that moved out of the picture in frame k, ``(H, W)`` bool."""
        raise self._lacks("flow", "has_flow")

    def occlusion(self, i: int, k: int) -> Tensor:
        """Pixels of frame i that frame k does not show, ``(H, W)`` bool: occluded there, or out of view."""
        return self.occluded(i, k) | self.out_of_view(i, k)

    @property
    def has_tracks(self) -> bool:
        """True if ``track`` and ``tracks`` can be asked for."""
        return False

    def track(self, frame: int, points: Tensor) -> Tracks:
        """Follow the surface points that ``points`` lie on in one frame through the whole clip.

        Args:
            frame: index of the frame.
            points: ``(P, 2)``, (x, y) in pixels, anywhere.
        """
        raise self._lacks("tracks", "has_tracks")

    @property
    def tracks(self) -> Tracks:
        """Tracks of the points of a grid in the first frame, a sixteenth of the shorter side apart."""
        step = max(1, round(min(self.size) / 16))
        y, x = torch.meshgrid(*(torch.arange(step // 2, side, step) for side in self.size), indexing="ij")
        return self.track(0, torch.stack((x, y), -1).reshape(-1, 2).double())

    def _lacks(self, what: str, question: str) -> DffError:
        return DffError(f"{self.name} has no {what}: ask for it where clip.{question} is true.")

    def _index(self, index: int) -> int:
        """A frame counted from the start."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a clip of {len(self)} frames")
        return index % len(self)

    def window(self, start: int, stop: int, name: str = "") -> "Clip":
        """The frames ``start <= i < stop`` as a clip of their own, numbered from 0, with all ground truth; nothing is copied.

        Raises:
            DffError: there are no such frames.
        """
        if not 0 <= start < stop <= len(self):
            raise DffError(
                f"{self.name} has {len(self)} frames, so it has no window from {start} to {stop}: "
                f"choose 0 <= start < stop <= {len(self)}."
            )
        return _Window(self, start, stop, name or f"{self.name}[{start}:{stop}]")

    def in_memory(self) -> "Clip":
        """The same clip with its frames decoded once and kept (uint8). For short clips that are read many times."""
        kept = copy.copy(self)
        kept.frames = self.frames[:]
        return kept


class _Window(Clip):
    """Consecutive frames of a clip, which is asked for everything under its own numbers."""

    def __init__(self, whole: Clip, start: int, stop: int, name: str):
        def same(stack: Stack | None) -> LazyStack | None:
            """These frames of one of the stacks."""
            return None if stack is None else LazyStack(lambda i: stack[start + i], stop - start)

        super().__init__(
            name, LazyStack(lambda i: whole.frames[start + i], stop - start), whole.fps, same(whole.masks),
            [i - start for i in whole.labelled if start <= i < stop], whole.class_names, same(whole.instances),
            (lambda i: whole.boxes(start + i)) if whole.has_boxes else None,
            None if whole._times is None else whole._times[start:stop],
        )  # fmt: skip
        self.continuous = whole.continuous
        self._whole, self._start = whole, start

    def _number(self, index: int) -> int:
        """The number that the whole clip gives to a frame."""
        return self._start + self._index(index)

    @property
    def has_flow(self) -> bool:
        """As of the whole clip."""
        return self._whole.has_flow

    def flow(self, i: int, k: int) -> Tensor:
        """As of the whole clip."""
        return self._whole.flow(self._number(i), self._number(k))

    def occluded(self, i: int, k: int) -> Tensor:
        """As of the whole clip."""
        return self._whole.occluded(self._number(i), self._number(k))

    def out_of_view(self, i: int, k: int) -> Tensor:
        """As of the whole clip."""
        return self._whole.out_of_view(self._number(i), self._number(k))

    @property
    def has_tracks(self) -> bool:
        """As of the whole clip."""
        return self._whole.has_tracks

    def track(self, frame: int, points: Tensor) -> Tracks:
        """The whole clip's tracks, in these frames."""
        tracks, frames = self._whole.track(self._number(frame), points), slice(self._start, self._start + len(self))
        return Tracks(tracks.points[frames], tracks.visible[frames], tracks.instances)


def agreed_rate(stated: float, times: Sequence[float] | np.ndarray) -> float:
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
        DffError: the clip is too short to leave each split two frames, or gap or fractions make no sense.
    """
    if gap < 0 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise DffError(
            f"a gap of {gap} and splits of {fractions} do not cut a clip: choose a gap of 0 or more and splits that sum to 1."
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
    return {split: clip.window(*cut, name=f"{clip.name}/{split}") for split, cut in cuts.items()}


def pair_frames(clip: Clip, key: int, current: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Key and current frame as float images in [0, 1], each ``(1, 3, H, W)``."""
    both = clip.frames[[key, current]].float() / 255
    return both[:1], both[1:]
