"""H.264 files that browsers play, written frame by frame."""

import math
import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from torch import Tensor

from dfflib.errors import DffError, system_error
from dfflib.paths import temporary

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
QUALITY = "20"
"""x264's constant rate factor: hard to tell from the source."""
SPEED = {"preset": "ultrafast", "x264-params": "mbtree=1:rc-lookahead=10:aq-mode=1:cabac=1:deblock=0,0"}
"""The fastest preset with what costs it little and saves much: two fifths of the time of ``veryfast`` at the same quality, and
files two fifths larger; the preset alone would double them."""
BT601_LIMITED = 6, 1
"""Matrix and range in FFmpeg's numbers. What readers that ignore the tags assume too: right everywhere."""


class VideoWriter:
    """Write frames to an H.264 file (yuv420p, index in front): ``with VideoWriter(path, fps, size) as video: ...``.

    Frames go to a hidden file beside ``path`` that takes its name at the end. The end may be an exception or Ctrl-C:
    what was written until then is a file that plays. Where nothing was written, whatever was at ``path`` before is left
    alone. H.264 in yuv420p has even sides only; of an odd side the last row or column is repeated.

    Args:
        path: ends in .mp4, .m4v, .mov or .mkv; its folder is created when missing.
        fps: frames per second, 0.01 to 1000.
        size: height and width of the frames.

    Raises:
        DffError: the file cannot be written there, or a value above is out of range.
    """

    def __init__(self, path: str | os.PathLike, fps: float, size: tuple[int, int]):
        self.path, self.fps, self.size = Path(path).expanduser(), float(fps), (int(size[0]), int(size[1]))
        self.num_frames = 0
        if self.path.is_dir():
            raise DffError(f"{self.path} is a folder: give the name of a file in it, such as {self.path / 'out.mp4'}.")
        if self.path.suffix.lower() not in FORMATS:
            raise DffError(f"{self.path} has no name for a video: let it end in {', '.join(FORMATS)}.")
        if not (math.isfinite(self.fps) and 0.01 <= self.fps <= 1000):
            raise DffError(f"{fps} frames per second cannot be written: choose 0.01 to 1000.")
        if not all(1 <= side <= 16384 for side in self.size):
            size = f"{self.size[1]}x{self.size[0]}"
            raise DffError(f"frames of {size} pixels cannot be written: choose sides of 1 to 16384.")
        self._part = temporary(self.path)
        self._container = None
        self._open()

    def _open(self) -> None:
        kind = FORMATS[self.path.suffix.lower()]
        options = {} if kind == "matroska" else {"movflags": "faststart"}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._part.absolute()), "w", format=kind, options=options)
        except OSError as error:
            raise system_error(error, self.path, "written") from None
        stream = self._container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001))
        stream.height, stream.width = (side + side % 2 for side in self.size)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": QUALITY, **SPEED}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT601_LIMITED[0]
        context.color_range = BT601_LIMITED[1]
        self._stream = stream

    def write(self, frame: Tensor | np.ndarray) -> None:
        """Add one frame, uint8, ``(3, H, W)`` or ``(H, W, 3)``.

        Raises:
            DffError: the frame's size or type is not the file's, or the disk is full.
        """
        if self._container is None:
            raise DffError(f"{self.path} is closed: write its frames inside the with block.")
        frame = frame.detach().cpu().numpy() if isinstance(frame, Tensor) else np.asarray(frame)
        if frame.shape == (3, *self.size):
            frame = frame.transpose(1, 2, 0)
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise DffError(
                f"frame {self.num_frames} of {self.path} is {frame.dtype} of shape {frame.shape}, but the file takes "
                f"uint8 of shape (3, {self.size[0]}, {self.size[1]}): resize or convert the frame before writing it."
            )
        height, width = self.size
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        # OpenCV's I420 is BT.601 in limited range; FFmpeg's own conversion gives the same and takes ten times as long
        picture = av.VideoFrame.from_ndarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), format="yuv420p")
        picture.pts = self.num_frames
        picture.time_base = 1 / self._stream.codec_context.framerate
        self._mux(picture)
        self.num_frames += 1

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except OSError as error:
            raise system_error(error, self.path, "written on") from None

    def close(self) -> None:
        """Finish the file and give it its name. Closing twice is harmless.

        Raises:
            DffError: not one frame was written, or the disk is full.
        """
        if self._container is None:
            return
        container = self._container
        try:
            if self.num_frames:
                self._mux(None)
            self._container = None
            container.close()
            if not self.num_frames:
                raise DffError(f"no frame was written to {self.path}: give it at least one.")
            os.replace(self._part, self.path)
        except OSError as error:
            raise system_error(error, self.path, "finished") from None
        finally:
            self._container = None
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            self.close()
        except DffError:
            if kind is None:  # else the first failure is the one to tell
                raise
