"""H.264 files that browsers play, written frame by frame, each frame at its own time."""

import contextlib
import math
import os
import sys
from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import cv2
import numpy as np
from av.container import OutputContainer
from torch import Tensor

from dfflib.errors import DffError, system_error

if sys.platform != "win32":
    import fcntl

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
QUALITY = "20"
"""x264's constant rate factor: hard to tell from the source."""
SPEED = {"preset": "ultrafast", "x264-params": "mbtree=1:rc-lookahead=10:aq-mode=1:cabac=1:deblock=0,0"}
"""The fastest preset with what costs it little and saves much: two fifths of the time of ``veryfast`` at the same quality, and
files two fifths larger; the preset alone would double them."""
BT601_LIMITED = 6, 1
"""Matrix and range in FFmpeg's numbers. What readers that ignore the tags assume too: right everywhere."""
SLOWEST, FASTEST = 1e-5, 1000
"""Frames per second: a picture a day is written, and a time base of milliseconds tells a thousand apart."""


class VideoWriter:
    """Write frames to an H.264 file (yuv420p, index in front): ``with VideoWriter(path, fps, size) as video: ...``.

    Frames go to ``part``, the file ``NAME.part.mp4`` beside ``NAME.mp4``, which takes its final name when all are written.
    After an exception or Ctrl-C it keeps the name ``part``: a file that plays, and never poses as the whole; what was at
    ``path`` before is left alone. The next writer of ``path`` starts ``part`` anew. H.264 in yuv420p has even sides only;
    of an odd side the last row or column is repeated.

    Args:
        path: ends in .mp4, .m4v, .mov or .mkv; its folder is created when missing.
        fps: frames per second, 0.00001 to 1000: the times of frames that are written without one.
        size: height and width of the frames.
        pixel_aspect: width of a pixel by its height.

    Raises:
        DffError: the file cannot be written there, or a value above is out of range.
    """

    def __init__(
        self, path: str | os.PathLike, fps: float, size: tuple[int, int], pixel_aspect: Fraction = Fraction(1)
    ):
        self.path, self.fps, self.size = Path(path).expanduser(), float(fps), (int(size[0]), int(size[1]))
        self.part, self.num_frames = part_of(self.path), 0
        if self.path.is_dir():
            raise DffError(f"{self.path} is a folder: give the name of a file in it, such as {self.path / 'out.mp4'}.")
        if self.path.suffix.lower() not in FORMATS:
            raise DffError(f"{self.path} has no name for a video: let it end in {', '.join(FORMATS)}.")
        if not (math.isfinite(self.fps) and SLOWEST <= self.fps <= FASTEST):
            raise DffError(f"{fps} frames per second cannot be written: choose {SLOWEST:.5f} to {FASTEST}.")
        if not all(1 <= side <= 16384 for side in self.size):
            raise DffError(
                f"frames of {self.size[1]}x{self.size[0]} pixels cannot be written: choose sides of 1 to 16384."
            )
        slow = 1 / Fraction(1 / self.fps).limit_denominator(1001)
        self._rate = Fraction(self.fps).limit_denominator(1001) if self.fps >= 0.01 else slow
        self._failed = False
        self._open(pixel_aspect)

    def _open(self, pixel_aspect: Fraction) -> None:
        kind = FORMATS[self.path.suffix.lower()]
        options = {} if kind == "matroska" else {"movflags": "faststart"}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._held()
            container = av.open(str(self.part.absolute()), "w", format=kind, options=options)
        except OSError as error:
            raise system_error(error, self.path, "written") from None
        self._container: OutputContainer | None = container
        stream = container.add_stream("libx264", rate=self._rate)
        stream.height, stream.width = (side + side % 2 for side in self.size)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": QUALITY, **SPEED}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT601_LIMITED[0]
        context.color_range = BT601_LIMITED[1]
        if pixel_aspect != 1:
            context.sample_aspect_ratio = pixel_aspect
        # The encoder counts frames; their times are the container's affair. Whole frames of a constant rate are whole ticks.
        fine = math.ceil(math.log2(max(1, 10000 / self._rate.numerator)))
        self._tick = Fraction(1, 1000 if kind == "matroska" else self._rate.numerator << fine)
        stream.time_base = self._tick
        self._stream = stream
        self._packets: deque[av.Packet] = deque()  # encoded, but not muxed yet
        self._starts: deque[int] = deque()  # when each of these is shown, in ticks
        self._last = -1  # when the last frame is shown
        self._step: int | None = None  # and how long the one before it was

    def _held(self) -> BinaryIO:
        """The file of the name ``part``, locked for this writer alone (not on Windows): two would write into one."""
        file = open(self.part, "ab")  # noqa: SIM115  the caller closes it
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise DffError(
                f"{self.path} is being written by another process: wait for it, or give another name."
            ) from None
        except OSError:
            pass  # a file system without locks
        return file

    def write(self, frame: Tensor | np.ndarray, time: float | None = None) -> None:
        """Add one frame, uint8, ``(3, H, W)`` or ``(H, W, 3)``.

        Args:
            frame: the picture.
            time: seconds from the start at which it is shown; None means its number divided by ``fps``. One that does
                not come after the frame before is moved to just after it: a stray time shall not end an hour's work.

        Raises:
            DffError: the frame's size or type is not the file's, the time is no number, or the disk is full.
        """
        container = self._container
        if container is None:
            raise DffError(f"{self.path} is closed: write its frames inside the with block.")
        frame = frame.detach().cpu().numpy() if isinstance(frame, Tensor) else np.asarray(frame)
        if frame.shape == (3, *self.size):
            frame = frame.transpose(1, 2, 0)
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise DffError(
                f"frame {self.num_frames} of {self.path} is {frame.dtype} of shape {frame.shape}, but the file takes "
                f"uint8 of shape (3, {self.size[0]}, {self.size[1]}): resize or convert the frame before writing it."
            )
        start = self._ticks(self.num_frames / self._rate if time is None else time)
        height, width = self.size
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        # OpenCV's I420 is BT.601 in limited range; FFmpeg's own conversion gives the same and takes ten times as long
        planes = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), np.uint8)
        picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        picture.pts = self.num_frames
        picture.time_base = 1 / self._stream.codec_context.framerate
        if self.num_frames:
            self._step = start - self._last
        self._last = start
        self._starts.append(start)
        self._mux(container, picture)
        self.num_frames += 1

    def _ticks(self, time: float | Fraction) -> int:
        """Seconds in units of the container, after the last frame."""
        if not math.isfinite(time):
            raise DffError(f"frame {self.num_frames} of {self.path} has the time {time}: give seconds from the start.")
        return max(self._last + 1, math.floor(Fraction(time) / self._tick + Fraction(1, 2)))

    def _mux(self, container: OutputContainer, picture: av.VideoFrame | None) -> None:
        """Encode, and pass on what is encoded once it is known for how long it is shown."""
        try:
            self._packets.extend(self._stream.encode(picture))
            while self._packets and len(self._starts) > 1:
                packet, start = self._packets.popleft(), self._starts.popleft()
                packet.time_base = self._tick
                packet.pts = packet.dts = start  # the preset has no B-frames: the order of decoding is that of showing
                packet.duration = self._starts[0] - start
                container.mux(packet)
        except OSError as error:
            self._failed = True
            raise system_error(error, self.path, "written on") from None

    def close(self, end: float | None = None) -> None:
        """Finish the file and give it its name. Closing twice is harmless.

        Args:
            end: seconds from the start at which the last frame ends; None: it is shown as long as the one before it.

        Raises:
            DffError: not one frame was written, or the disk is full.
        """
        self._finish(self.path, end)

    def _finish(self, name: Path, end: float | None = None) -> None:
        if self._container is None:
            return
        container, self._container, playable = self._container, None, False
        try:
            if not self.num_frames:
                raise DffError(f"no frame was written to {self.path}: give it at least one.")
            try:
                if not self._failed:
                    self._starts.append(self._end(end))
                    self._mux(container, None)
            finally:
                container.close()
            playable = not self._failed
            if playable:
                with open(self.part, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self.part, name)
        except OSError as error:
            playable = False
            raise system_error(error, self.path, "finished") from None
        finally:
            self._lock.close()
            if not playable:
                self.part.unlink(missing_ok=True)

    def _end(self, end: float | None) -> int:
        if end is not None:
            return self._ticks(end)
        at_rate = self._ticks(self.num_frames / self._rate)
        return at_rate if self._step is None else self._last + self._step

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, value, traceback) -> None:
        if kind is None:
            self.close()
        else:  # the first failure is the one to tell
            with contextlib.suppress(DffError):
                self._finish(self.part)


def part_of(path: Path) -> Path:
    """Where `VideoWriter` keeps what is not whole: ``NAME.part.mp4`` beside ``NAME.mp4``."""
    return path.with_name(f"{path.stem}.part{path.suffix}")
