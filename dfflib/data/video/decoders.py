"""Two decoders behind one interface, and why there are two.

decord finds any frame of most files exactly and fast. But it decodes ahead on a thread of its own, with no bound:
whoever reads in order and takes their time (a network on a CPU) gets the whole film into memory. Measured (decord
0.6) on 2000 frames of 854x480, the reader pausing 50 ms a frame: 2.2 GB after 150 frames, by ``next()``, ``[]`` and
``get_batch`` alike, and with one thread too. A seek empties its queue. Hence:

- jumps go to decord, and a seek back to the start follows at once, so that nothing is decoded ahead while nobody reads
  (same film: flat, about 0.1 GB for the process);
- reading in order goes to PyAV, which decodes when it is asked (flat, 0.06 GB) and, unlike blocks of decord's frames
  with a seek after each, decodes every frame once, however far apart the key frames of the file are.

PyAV also does the jumps wherever decord has no wheel (macOS on Arm), cannot open a file or is not to be trusted with
it (``AvFrames.decord_can_seek``, ``DecordFrames.agrees_with``). Both number frames in the order in which they are
shown, and both turn rotated phone videos upright; the tests hold them equal frame by frame.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from dfflib.data.video import orientation
from dfflib.data.video.frame_index import FrameIndex, Key, numbered_frames
from dfflib.data.video.wholeness import is_whole
from dfflib.errors import DffError

THREADS = 2  # a clip: whoever opens thirty gets sixty
ATTEMPTS = 3  # to decode a frame from ever farther back, before it is called damaged
HERE, START, NOWHERE = "here", "start", sys.maxsize
HDR = {16: "PQ", 18: "HLG"}  # by FFmpeg's number of the transfer function


def open_container(path: Path, threads: int = 0):
    """Open a file with PyAV: ``(container, video stream, average frames per second)``.

    Of several video streams it is the default one. ``threads`` decode it, 0: as many as there are cores.

    Raises:
        DffError: not a readable file, not a video, cut short before its index, or without pictures.
    """
    head = b""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
        # an absolute path, lest FFmpeg take the "12" of 12:30.mp4 for a protocol
        container = av.open(str(path.absolute()))
    except (OSError, av.FFmpegError, ValueError) as error:
        if not head and not isinstance(error, PermissionError):
            raise DffError(f"{path} is empty (0 bytes): copy or download the video again.") from None
        raise _cannot_open(path, head, error) from None
    videos = _pictures(container)
    if not videos or container.format.name == "tty":  # FFmpeg draws text files as terminals
        sound, text = bool(container.streams.audio), container.format.name == "tty"
        container.close()
        if sound:
            raise DffError(f"{path} has sound but no pictures: give a file with a video track.")
        raise _cannot_open(path, b"", None) if text else no_frames(path)
    stream = next((s for s in videos if s.disposition & av.stream.Disposition.default), videos[0])
    stream.codec_context.thread_count = threads
    # several frames at a time is fastest, but then a break in the file takes the frames before it along
    stream.thread_type = "SLICE" if cut_short(stream, path) else "AUTO"
    return container, stream, stated_rate(stream) or 25.0


def stated_rate(stream) -> float | None:
    """Frames per second that the header states; None if it does not, or states the clock of the file instead."""
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    return next((float(rate) for rate in rates if rate and 0 < rate < 1000), None)


def _cannot_open(path: Path, head: bytes, error: Exception | None) -> DffError:
    if isinstance(error, PermissionError):
        return DffError(f"{path} may not be read: give yourself permission to read it, or copy it.")
    if head[4:8] == b"ftyp":
        return DffError(
            f"{path} is cut short or damaged (its index, the moov atom, is missing): copy, download or record it again."
        )
    return DffError(
        f"{path} is not a video that can be read: give an mp4, mov, mkv, webm or avi file, or a folder of images."
    )


def no_frames(path: Path) -> DffError:
    """The error for a video, otherwise well formed, without one frame that can be decoded."""
    return DffError(f"{path} has no frames that can be decoded: give a video with at least one frame.")


def upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB pixels ``(H, W, 3)`` of a decoded frame, turned and mirrored as the file says."""
    return orientation.turned(frame.to_ndarray(format="rgb24"), orientation.of_frame(frame))


def remarks(stream, path: Path) -> list[str]:
    """Sentences on what a viewer would see otherwise: interlaced pictures, high dynamic range, a second track."""
    found, context = [], stream.codec_context
    if context.field_order > 1:  # 0: unknown, 1: progressive
        found.append(
            f"{path} is interlaced, and its frames are read as they are, combed where something moves: "
            f"deinterlace it before, for instance by `ffmpeg -i IN -vf bwdif OUT`."
        )
    if context.color_trc in HDR:
        found.append(
            f"{path} is HDR video ({HDR[context.color_trc]}), which is not tone-mapped, so its colours come out pale: "
            f"convert it to SDR (BT.709) before, if the network should see what a viewer sees."
        )
    tracks = _pictures(stream.container)
    if len(tracks) > 1:
        found.append(
            f"{path} has {len(tracks)} video tracks: number {tracks.index(stream) + 1}, the default one, is read; "
            f"copy another into a file of its own to read that."
        )
    return found


def _pictures(container) -> list:
    """The video streams of a container without cover art."""
    return [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]


def pixel_aspect(stream, frame: av.VideoFrame) -> Fraction:
    """Width of a pixel by its height, as the frame is shown; 1 where the file says nothing or nonsense."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
    if not 0.01 <= aspect <= 100:
        return Fraction(1)
    lying = orientation.of_frame(frame)[0] == 0
    return Fraction(1) / aspect if lying else Fraction(aspect)


def decode_in_order(container, stream, path: Path, problem: Callable[[str], None]) -> Iterator[av.VideoFrame]:
    """All frames that can be decoded, each when asked for; ``problem`` is called with a sentence if that was not all.

    A packet that cannot be decoded is left out and counted, and decoding goes on with the next one.
    """
    count, pictures, lost, broken_at, end, partial = 0, 0, 0, None, 0.0, False
    packets = container.demux(stream, *container.streams.audio)  # sound tells, too, how far the file goes
    while True:
        packet = None
        try:
            packet = next(packets, None)
            if packet is None:
                break
            if packet.size:
                partial = packet.is_corrupt
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:  # not stream_index, which the packets that flush lack
                continue
            pictures += packet.size > 0 and not packet.is_discard
            frames = packet.decode()
        except av.EOFError:
            break
        except (av.FFmpegError, ValueError):
            broken_at = count if broken_at is None else broken_at
            lost += 1
            if packet is None or packet.size == 0:
                break
            continue
        for frame in frames:
            yield frame
            count += 1
    silent = pictures - count if _one_picture_a_packet(container, stream) else 0  # decoders leave out without a word
    sentence = _loss(path, count, max(lost, silent) if lost or silent > FEW else 0, broken_at)
    if cut_short(stream, path) or partial or _ends_early(container, stream, path, end):
        stated = f" of {stream.frames}" if stream.frames > count else ""
        sentence = (
            f"{path} is cut short: it ends after {count}{stated} frames; copy or download it again to get the rest."
        )
    if sentence:
        problem(sentence)


def _loss(path: Path, count: int, lost: int, broken_at: int | None) -> str:
    """The sentence on packets that could not be decoded; empty if there were none."""
    if not lost:
        return ""
    packets = "1 packet" if lost == 1 else f"{lost} packets"
    first = f", the first after {broken_at} frames" if broken_at is not None else ""
    return (
        f"{path} is damaged: {packets} could not be decoded{first}, and {count} frames could; "
        f"copy or download it again to get them all."
    )


def _one_picture_a_packet(container, stream) -> bool:
    """True where every packet is a picture that is shown: not in codecs with hidden pictures, nor where fields are apart."""
    context, kind = stream.codec_context, container.format.name.split(",")[0]
    whole = context.field_order <= 1 and kind in ("mov", "matroska", "avi")
    return whole and context.name in ("h264", "hevc", "mpeg4", "mjpeg")


def cut_short(stream, path: Path) -> bool:
    """True if the file is shorter than it says itself, or its index points beyond its end."""
    entries = stream.index_entries
    last = entries[len(entries) - 1] if entries else None
    return is_whole(path) is False or (last is not None and last.pos + last.size > path.stat().st_size)


FEW = 3  # frames that a file may lack at the end before it counts as cut short: muxers round


def stated_end(container, stream, sound: bool = False) -> float | None:
    """Seconds at which the header says that the pictures end, on the clock of the file; None where it does not say.

    With ``sound``, that pictures or sound end, where no end of the pictures is stated.
    """
    first = "matroska" not in container.format.name  # there the duration counts from 0, not from the first frame
    if stream.duration:
        return float((stream.duration + first * (stream.start_time or 0)) * stream.time_base)
    if container.duration and (sound or not container.streams.audio):
        return (container.duration + first * max(0, container.start_time or 0)) / av.time_base
    return None


def stated_length(stream) -> int | None:
    """Frames that the header states, or that follow from it; None where it does not say."""
    if stream.frames:
        return max(stream.frames, len(stream.index_entries or ()))  # some headers state one frame whatever follows
    return (
        round(float(stream.duration * stream.time_base) * (stated_rate(stream) or 0)) or None
        if stream.duration
        else None
    )


def states_its_end(container, stream, path: Path) -> bool:
    """True if it can be told from the file whether it is whole: plain streams and broadcasts state no length."""
    if is_whole(path) is not None:
        return True
    silent = (av.format.Flags.ts_discont | av.format.Flags.no_timestamps).value
    return not container.format.flags & silent and bool(stream.duration or container.duration)


def _ends_early(container, stream, path: Path, end: float) -> bool:
    """True if the last packet ends, at ``end`` seconds, before the time that the header states; not asked of whole files."""
    if is_whole(path):
        return False
    stated = stated_end(container, stream, sound=True)
    return stated is not None and stated - end > FEW / min(stated_rate(stream) or 25, 100)


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
        try:
            self._reader.seek(0)
        except Exception:  # a broken file; the next read says so
            pass

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
        self._path, self._container, self._stream = path, None, None
        self._frames, self._next = iter(()), NOWHERE
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
                return upright(frame)
            tried += 1
            if tried == ATTEMPTS and self._index.by_times:  # else the file was decoded once, so the frame exists
                break
        raise undecodable(self._path, index, len(self))

    def _starts(self, index: int) -> list:
        """Where to decode from, best first: on from HERE, a key frame to seek to, START."""
        keys = self._index.keys_before(index) if self._index.seekable else []
        here = self._next <= index and (not keys or self._next >= keys[0].frame)
        return [HERE] * here + [key for key in keys if key.packet > 0] + [START]

    def _begin(self, start: Key | str) -> bool:
        """Go to START or to a key frame; False if the seek lands behind it."""
        self._next, self._frames = NOWHERE, iter(())
        if self._container is None or start is START:
            self.close()
            self._container, self._stream, _ = open_container(self._path, THREADS)
        if start is START:
            self._next, self._frames = 0, numbered_frames(self._container.demux(self._stream))
            return True
        with contextlib.suppress(av.FFmpegError):
            self._container.seek(start.time, stream=self._stream)
            packets = self._container.demux(self._stream)
            for packet in packets:
                number = self._index.packet_number(packet)
                if number is not None:
                    self._frames = numbered_frames(itertools.chain([packet], packets), number)
                    return number <= start.packet
        return False

    def _advance(self, index: int) -> av.VideoFrame | None:
        """Decode up to frame ``index``; None if it does not come. ``_next`` is the number of the frame to come."""
        for frame in self._frames:
            number = int(self._index.rank[frame.pts]) if self._index.seekable else self._next
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
        container, self._container, self._stream = self._container, None, None
        if container is not None:
            container.close()

    __del__ = close  # PyAV's objects refer to each other in a circle: without this they wait for the garbage collector


def undecodable(path: Path, index: int, length: int) -> DffError:
    """The error for one frame of a damaged file."""
    return DffError(
        f"frame {index} of {path} (0 to {length - 1}) cannot be decoded: the file is damaged or cut short there, "
        f"so copy or download it again, or use the frames before it."
    )
