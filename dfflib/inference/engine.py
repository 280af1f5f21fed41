"""The engine: what happens to key frames, and to the frames between them.

What depends on the key frame alone, its features and its half of the flow network's input, is computed once an interval and
kept until the next key frames; nothing else is. What a result is (of segmentation: a label map) the model's task knows.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dfflib.data.video.reader import resized_shape
from dfflib.errors import DffError
from dfflib.inference.preparation import autocast
from dfflib.machine import in_threads
from dfflib.models.dff import DeepFeatureFlow, image_size

LABELS = ("full", "coarse")

MOST = 64  # frames of a batch
BATCH_BYTES = 2**28  # and of large frames so many as these bytes hold
HELD, HELD_BYTES = 256, 2**24  # frames that are held for whole intervals together, and bytes of them as decoded
RESULT_BYTES, IMAGE_BYTES = 12, 120  # of a frame: for each pixel of its result, and for each that the networks see


class _KeyFrames(NamedTuple):
    """What is kept of key frames: their shape, their features, and what the flow source computes from them alone."""

    shape: torch.Size
    features: Tensor
    encoded: Any


class Engine:
    """The state from key frames to the next ones, and the two things that happen to a frame.

    Args:
        model: in evaluation mode; `dfflib.inference.preparation.prepare` makes it fast.
        short_side: frames are reduced to this for the networks; results are of full size all the same.
        labels: ``"full"`` or ``"coarse"``, cheaper ones if the task has such (`dfflib.models.task.Segmentation.fast_results`).
        precision: see `dfflib.inference.preparation.autocast`.

    Raises:
        DffError: no such labels or precision; and later, a frame that is not uint8 ``(3, H, W)`` or of another size.
    """

    def __init__(
        self, model: DeepFeatureFlow, short_side: int | None = None, labels: str = "full", precision: str = "float32"
    ):
        if labels not in LABELS:
            raise DffError(f"there are no labels {labels!r}: choose one of {', '.join(LABELS)}.")
        self.model, self.short_side, self.labels = model, short_side, labels
        self.device = next(model.parameters()).device
        self.precision = precision
        autocast(self.device, precision)  # refuses what it does not know
        self._keys: _KeyFrames | None = None

    def key(self, frame: Tensor) -> Any:
        """Result for a key frame ``(3, H, W)`` uint8, which the next frames are propagated from."""
        return self.keys([frame])[0]

    @torch.inference_mode()
    def keys(self, frames: list[Tensor]) -> Any:
        """Results for key frames of one size, which the next frames are propagated from."""
        check_frames(frames, "the key frame")
        with autocast(self.device, self.precision):
            images = self.images(frames)
            features = self.model.extract(images)
            self._keys = _KeyFrames(frames[0].shape, features, self.model.flow_source.encode_key(images))
            return self.results(features, image_size(frames[0]))

    def others(self, frames: list[Tensor], rows: Sequence[int] = ()) -> Any:
        """Results for frames of one size by way of key frames.

        Args:
            frames: that are no key frames.
            rows: for each of them its key frame, by its place among the last ones that `keys` was given; unless given, it is
                the last of these.
        """
        if self._keys is None:
            raise DffError("there is no key frame yet: give one to Engine.key first.")
        check_frames(frames, "a frame", self._keys.shape)

        def work(part: list[tuple[Tensor, int]]) -> Any:
            """Results."""
            own, places = zip(*part, strict=True)
            features, encoded = self._for_each(places)
            flow, scale = self.model.flow_source.estimate(encoded, self.images(own), image_size(features))
            return self.results(self.model.move(features, flow, scale), image_size(own[0]))

        last = [len(self._keys.features) - 1] * len(frames)
        return _joined(self._shared_out(work, list(zip(frames, rows or last, strict=True))))

    def _for_each(self, rows: Sequence[int]) -> tuple[Tensor, Any]:
        """Features, and what the flow source has computed, of a key frame for each row: of one for all if it is the same."""
        assert self._keys is not None, "asked for after a key frame"
        _, features, encoded = self._keys
        rows = rows[:1] if len(set(rows)) == 1 else rows
        if len(features) == 1:
            return features, encoded
        return features[list(rows)], self.model.flow_source.rows(encoded, rows)

    @torch.inference_mode()
    def alone(self, frames: list[Tensor]) -> Any:
        """Results for frames of one size, each by itself: all of them are key frames that nothing is propagated from."""
        check_frames(frames, "a frame")
        with autocast(self.device, self.precision):
            return self.results(self.model.extract(self.images(frames)), image_size(frames[0]))

    def _shared_out(self, work: Callable[[list], Any], items: list) -> list:
        """What ``work(part)`` gives for the items of a batch: on a CPU for as many parts as there are threads, side by side.

        That is for light work, of many small operations; in a large network threads gain more by sharing each operation.
        """

        def inferred(part: list) -> Any:
            """Without gradients, in the engine's precision; every thread has to be told."""
            with torch.inference_mode(), autocast(self.device, self.precision):
                return work(part)

        if self.device.type != "cpu" or self.model.compiled:
            return [inferred(items)]
        return in_threads(inferred, items)

    def images(self, frames: Sequence[Tensor]) -> Tensor:
        """``(N, 3, h, w)`` in [0, 1], channels-last; never enlarged. What is done to a frame once, whatever it is used for."""
        size = image_size(frames[0])
        seen = self.seen(size)
        whole = seen == size
        images = torch.empty(len(frames), 3, *seen, device=self.device, memory_format=torch.channels_last)
        for image, frame in zip(images, frames, strict=True):  # each goes to its place: no copy of all of them
            if self.device.type == "cuda":
                frame = frame.pin_memory().to(self.device, non_blocking=True)
            if whole:
                torch.div(frame, 255, out=image)
            else:
                image.copy_(F.interpolate((frame / 255)[None], size=seen, mode="area")[0])
        return images

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size at which the networks see frames of ``size``, both ``(H, W)``."""
        if self.short_side is None or self.short_side >= min(size):
            return size
        return resized_shape(size, self.short_side)

    def most(self, size: tuple[int, int]) -> int:
        """How many frames of ``size`` go through the networks together."""
        each = RESULT_BYTES * math.prod(size) + IMAGE_BYTES * math.prod(self.seen(size))
        return min(max(BATCH_BYTES // each, 1), MOST)

    def together(self, size: tuple[int, int], interval: int) -> int:
        """How many intervals of frames of ``size`` are worked on together: so many key frames go through N in one batch."""
        held = min(HELD, HELD_BYTES // (3 * math.prod(size)))
        return max(min(self.most(size), held // interval), 1)

    def results(self, features: Tensor, size: tuple[int, int]) -> Any:
        """The task's results for features of frames of a size, on the CPU."""
        return self.model.task.fast_results(self.model.n_task(features), size, self.labels == "coarse")


def _joined(parts: Sequence) -> Any:
    """Rows of parts as one, tensors or lists."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else list(itertools.chain(*parts))


def check_frame(frame: Tensor, what: str, shape: tuple[int, ...] | None = None) -> None:
    """Refuse a frame that is not uint8 ``(3, H, W)``, or not of the given shape.

    Raises:
        DffError: it is not; ``what`` begins the sentence.
    """
    if not isinstance(frame, Tensor) or frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[0] != 3:
        kind = f"{frame.dtype} {tuple(frame.shape)}" if hasattr(frame, "dtype") else type(frame).__name__
        raise DffError(f"{what} is {kind}: give tensors (3, H, W) of uint8, as they were decoded.")
    if shape is not None and frame.shape != shape:
        sizes = [f"{width}x{height}" for _, height, width in (frame.shape, shape)]
        raise DffError(f"{what} has {sizes[0]} pixels but those before it have {sizes[1]}: give frames of one size.")


def check_frames(frames: Iterable[Tensor], what: str, shape: tuple[int, ...] | None = None) -> None:
    """Refuse frames as `check_frame` does, and such that are not all of one shape."""
    for frame in frames:
        check_frame(frame, what, shape)
        shape = frame.shape
