"""Two decoders behind one interface, and why there are two.

decord finds any frame of most files exactly and fast. But it decodes ahead on a thread of its own, without limit: a slow
reader (a network on a CPU) gets the whole film into memory. (Measured with decord 0.6 on 2000 frames of 854x480 and a
pause of 50 ms a frame: 2.2 GB after 150 frames.) So random access goes to decord, with a seek to the start right after,
which empties its queue; and reading in order goes to PyAV, which decodes one frame when it is asked for one (0.06 GB on
the same film).

PyAV also does the random access wherever decord has no wheel (macOS on Arm), cannot open a file or would return wrong
frames (``AvFrames.decord_can_seek``, ``DecordFrames.agrees_with``). Both number frames in the order in which they are
shown, and both turn rotated phone videos upright; the tests hold them equal frame by frame.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from dfflib.data.video import orientation
from dfflib.data.video.container import cut_short, open_container, remarks, upright
from dfflib.data.video.frame_index import FrameIndex, Key, numbered_frames
from dfflib.errors import DffError

THREADS = 2  # a clip: whoever opens thirty gets sixty
ATTEMPTS = 3  # to decode a frame from ever farther back, before it is called damaged
NOWHERE = sys.maxsize
HERE, START = Key(-1, -1, -1), Key(-1, 0, 0)
"""Places to decode from, beside key frames: where the decoder stands, and the start of the file."""


class DecordFrames:
    """Any frame of a file by its number, by decord. Fails where decord is not installed or cannot open the file.

    Use it only for a file that `decord_can_seek`: in others it returns wrong frames without a word.
    """

    def __init__(self, path: Path):
        import decord  # not at the top: there is no wheel for some machines

        decord.logging.set_level(decord.logging.QUIET)
        self._path = path
        self._reader = decord.VideoReader(str(path.absolute()), num_threads=min(THREADS, os.cpu_count() or 1))

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, index: int) -> np.ndarray:
        """Frame ``index`` as ``(H, W, 3)`` uint8. Call `rest` after the last one."""
        try:
            return self._reader[index].asnumpy()
        except Exception as error:  # decord's own errors, IndexError, StopIteration: all mean the same to the user
            raise undecodable(self._path, index, len(self)) from error

    def agrees_with(self, other: "AvFrames") -> bool:
        """True if both count the same frames and see the same in them: the first one, and those that decord seeks to.

        decord returns garbled arrays for some frames narrower than 96 pixels, green ones where a codec is too new, and
        half of a picture from key frames that refresh it bit by bit.
        """
        if len(self) != len(other):
            return False
        for index in other.samples():
            ours, theirs = self.read(index), other.read(index)
            if ours.shape != theirs.shape or np.abs(ours.astype(np.int16) - theirs).mean() >= 4:
                return False
        self.rest()
        return True

    def rest(self) -> None:
        """Stop decoding ahead and free what was decoded."""
        with contextlib.suppress(Exception):  # a broken file: the next read says so
            self._reader.seek(0)

    def close(self) -> None:
        """Free the decoder. The object is of no use after that."""
        self._reader = None


class AvFrames:
    """Any frame of a file by its number, by PyAV: fast in order, a seek to the key frame before it otherwise.

    The file is open from the first `read` to `close`; a later `read` opens it again.

    Attributes:
        fps: frames per second.
        seconds: time at which each frame is shown, float64 ``(T,)``; None where the file does not say.
        size: height and width of the first frame, upright.
        remarks: sentences on what the reader should know about these pictures, see `remarks`.
    """

    def __init__(self, path: Path):
        self._path = path
        self._converter = VideoReformatter()
        self._opened: tuple[InputContainer, VideoStream] | None = None
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())  # each with the number of its packet
        self._next = NOWHERE  # number of the frame to come
        container, stream, self.fps = open_container(path, THREADS)
        self.cut_short, self.remarks = cut_short(stream, path), remarks(stream, path)
        self._one_track = len(container.streams.video) == 1
        self._kind = container.format.name.split(",")[0]
        self._index = FrameIndex(container, stream, lambda: open_container(path, THREADS)[:2])
        container.close()
        first, self._index.first = self._index.first, None
        self.seconds, self.size, self._orientation = self._index.seconds, (0, 0), orientation.UPRIGHT
        if first is not None:
            self.size, self._orientation = upright(first).shape[:2], orientation.of_frame(first)

    def __len__(self) -> int:
        return len(self._index)

    def decord_can_seek(self) -> bool:
        """False where decord was found to land on wrong frames, or to turn them the wrong way.

        That is in transport streams and the like, in open GOPs (frames are shown before the key frame that they follow
        in the file, and cannot do without the one before), among several tracks, and where a file is mirrored.
        """
        plain = self._index.plain and self._one_track and not orientation.is_mirrored(self._orientation)
        return self._kind in ("mov", "matroska") and plain and not self.cut_short

    def samples(self) -> list[int]:
        """Frames to compare with another decoder: the first one, and the key frame in the middle."""
        keys = self._index.keys_before(len(self) // 2)
        return sorted({0, *(key.frame for key in keys[:1])})

    def read(self, index: int) -> np.ndarray:
        """Frame ``index`` as ``(H, W, 3)`` uint8, upright.

        Raises:
            DffError: the frame cannot be decoded.
        """
        tried = 0
        for start in self._starts(index):
            if start is not HERE and not self._begin(start):
                continue
            frame = self._advance(index)
            if frame is not None:
                return upright(frame, self._converter)
            tried += 1
            if tried == ATTEMPTS and self._index.by_times:  # else the file was decoded once, so the frame exists
                break
        raise undecodable(self._path, index, len(self))

    def _starts(self, index: int) -> list[Key]:
        """Where to decode from, best first: on from HERE, a key frame to seek to, START."""
        keys = self._index.keys_before(index) if self._index.seekable else []
        here = self._next <= index and (not keys or self._next >= keys[0].frame)
        return [HERE] * here + [key for key in keys if key.packet > 0] + [START]

    def _begin(self, start: Key) -> bool:
        """Go to START or to a key frame; False if the seek lands behind it."""
        self._next, self._frames = NOWHERE, iter(())
        if self._opened is None or start is START:
            self.close()
            self._opened = open_container(self._path, THREADS)[:2]
        container, stream = self._opened
        if start is START:
            self._next, self._frames = 0, numbered_frames(container.demux(stream))
            return True
        with contextlib.suppress(av.FFmpegError):
            container.seek(start.time, stream=stream)
            packets = container.demux(stream)
            for packet in packets:
                number = self._index.packet_number(packet)
                if number is not None:
                    self._frames = numbered_frames(itertools.chain([packet], packets), number)
                    return number <= start.packet
        return False

    def _advance(self, index: int) -> av.VideoFrame | None:
        """Decode up to frame ``index``; None if it does not come."""
        for packet, frame in self._frames:
            number = int(self._index.rank[packet]) if self._index.seekable else self._next
            self._next = max(number + 1, 0)
            if number == index:
                return frame
            if number > index:
                return None
        self._next = NOWHERE
        return None

    def rest(self) -> None:
        """Nothing runs ahead of the reader."""

    def close(self) -> None:
        """Close the file and end the threads that decode it."""
        self._next, self._frames = NOWHERE, iter(())
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[0].close()

    __del__ = close  # PyAV's objects refer to each other in a circle: without this they wait for the garbage collector


def undecodable(path: Path, index: int, length: int) -> DffError:
    """The error for one frame of a damaged file."""
    return DffError(
        f"frame {index} of {path} (0 to {length - 1}) cannot be decoded: the file is damaged or cut short there, "
        f"so copy or download it again, or use the frames before it."
    )
