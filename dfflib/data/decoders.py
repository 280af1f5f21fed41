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

import bisect
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from dfflib.data.wholeness import is_whole
from dfflib.errors import DffError


def open_container(path: Path):
    """Open a file with PyAV: ``(container, video stream, average frames per second)``.

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
    videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not videos or container.format.name == "tty":  # FFmpeg draws text files as terminals
        sound, text = bool(container.streams.audio), container.format.name == "tty"
        container.close()
        if sound:
            raise DffError(f"{path} has sound but no pictures: give a file with a video track.")
        raise _cannot_open(path, b"", None) if text else no_frames(path)
    stream = videos[0]
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
    """RGB pixels ``(H, W, 3)`` of a decoded frame, turned as the file says (90, 180 or 270 degrees)."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def pixel_aspect(stream, frame: av.VideoFrame) -> Fraction:
    """Width of a pixel by its height, as the frame is shown; 1 where the file says nothing or nonsense."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
    if not 0.01 <= aspect <= 100:
        return Fraction(1)
    lying = math.isfinite(frame.rotation) and round(frame.rotation / 90) % 2
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
            if packet.stream_index != stream.index:
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


HERE, START = "here", "start"
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
        self._reader = decord.VideoReader(str(path.absolute()), num_threads=min(4, os.cpu_count() or 1))

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, index: int) -> np.ndarray:
        """Frame ``index`` as ``(H, W, 3)`` uint8. Call `rest` after the last one."""
        try:
            return self._reader[index].asnumpy()
        except Exception as error:  # decord's own errors, IndexError, StopIteration: all mean the same to the user
            raise undecodable(self._path, index, len(self)) from error

    def agrees_with(self, other: "AvFrames") -> bool:
        """True if both count the same frames and see the same first one.

        decord returns garbled arrays for some frames narrower than 96 pixels, and green ones where a codec is too new.
        """
        if len(self) != len(other):
            return False
        ours, theirs = self.read(0), other.read(0)
        self.rest()
        return ours.shape == theirs.shape and np.abs(ours.astype(np.int16) - theirs).mean() < 4

    def rest(self) -> None:
        """Stop decoding ahead and free what was decoded."""
        try:
            self._reader.seek(0)
        except Exception:  # a broken file; the next read says so
            pass


class AvFrames:
    """Any frame of a file by its number, by PyAV: fast in order, a seek to the key frame before it otherwise."""

    def __init__(self, path: Path):
        self._path = path
        self._container, self._stream, self.fps = open_container(path)
        self.cut_short = cut_short(self._stream, path)
        self._leading = False
        self._times, self._keys = self._index()
        self._restart()

    def __len__(self) -> int:
        return len(self._times)

    def _index(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Presentation time of every frame, sorted, and (presentation, decoding) times of the key frames."""
        times, keys = [], []
        try:
            for packet in self._container.demux(self._stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                times.append(packet.pts)
                if packet.pts is None:
                    continue
                self._leading |= not packet.is_keyframe and bool(keys) and packet.pts < keys[-1][0]
                if packet.is_keyframe:
                    keys.append((packet.pts, packet.dts if packet.dts is not None else packet.pts))
        except av.FFmpegError:
            pass  # a file that is cut short: what came before counts
        # without usable times (raw streams) frames are counted from the start instead
        self._timed = None not in times and len(set(times)) == len(times)
        return (sorted(times) if self._timed else list(range(len(times)))), sorted(keys)

    @property
    def seconds(self) -> np.ndarray | None:
        """Presentation time of every frame, or None where the file has no usable times."""
        return np.asarray(self._times) * float(self._stream.time_base) if self._timed else None

    def decord_can_seek(self) -> bool:
        """False where decord was found to land on wrong frames: transport streams and the like, and open GOPs.

        In an open GOP frames are shown before the key frame that they follow in the file and cannot do without the one
        before.
        """
        known = self._container.format.name.split(",")[0] in ("mov", "matroska")
        return known and self._timed and not self._leading and not self.cut_short

    def read(self, index: int) -> np.ndarray:
        """Frame ``index`` as ``(H, W, 3)`` uint8, upright.

        Raises:
            DffError: the frame cannot be decoded.
        """
        for start in self._starts(index):
            try:
                if start is not HERE:
                    self._restart(None if start is START else start)
                frame = self._advance(index)
            except av.FFmpegError:  # this seek failed, the next may not
                continue
            if frame is not None:
                return upright(frame)
        raise undecodable(self._path, index, len(self))

    def _starts(self, index: int) -> list[int | str]:
        """Where to decode from, best first: on from HERE, a decoding time to seek to, START."""
        if not self._timed:
            return [HERE, START] if self._next <= index else [START]
        near = bisect.bisect_right(self._keys, (self._times[index], float("inf"))) - 1
        here = self._next <= index and (near < 0 or self._times[self._next] >= self._keys[near][0])
        # a seek may land after the wanted key frame, so the key frame before that one is the second choice
        seeks = [self._keys[k][1] for k in (near, near - 1) if k > 0]
        return [HERE] * here + seeks + [START] * (near < 2)

    def _restart(self, time: int | None = None) -> None:
        self._next = len(self)  # nowhere, until the seek has worked
        if time is None:
            self._container.close()
            self._container, self._stream, _ = open_container(self._path)
            self._next = 0
        else:
            self._container.seek(time, stream=self._stream, backward=True)
        self._frames = decode_in_order(self._container, self._stream, self._path, lambda sentence: None)

    def _advance(self, index: int) -> av.VideoFrame | None:
        """Decode up to frame ``index``; None if it does not come. ``_next`` is the number of the frame to come."""
        for frame in self._frames:
            number = self._number(frame)
            if number is None:
                continue
            self._next = number + 1
            if number == index:
                return frame
            if number > index:
                return None
        self._next = len(self)
        return None

    def _number(self, frame: av.VideoFrame) -> int | None:
        if not self._timed:
            return self._next
        at = bisect.bisect_left(self._times, frame.pts)
        return at if at < len(self._times) and self._times[at] == frame.pts else None

    def rest(self) -> None:
        """Nothing runs in the background."""


def undecodable(path: Path, index: int, length: int) -> DffError:
    """The error for one frame of a damaged file."""
    return DffError(
        f"frame {index} of {path} (0 to {length - 1}) cannot be decoded: the file is damaged or cut short there, "
        f"so copy or download it again, or use the frames before it."
    )
