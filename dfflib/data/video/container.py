"""A video file as FFmpeg opens it (by PyAV): what its header says, its frames in order, and whether it was all there.

`open_container` opens a file, or says in one sentence why it is no video. `decode_in_order` yields all frames that can be
decoded, skips damaged packets, and reports at the end what was lost. A file counts as cut short when its structure says
so (`completeness`), or when its packets end before the duration that the header states. `remarks` warns of pictures that a
viewer would see otherwise: interlaced, HDR, or on a second track.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import Container, InputContainer
from av.format import Flags
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from dfflib.data.video import orientation
from dfflib.data.video.completeness import is_complete
from dfflib.errors import DffError

HDR = {16: "PQ", 18: "HLG"}  # by FFmpeg's number of the transfer function


def open_container(path: Path, threads: int = 0) -> tuple[InputContainer, VideoStream, float]:
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


def has_flag(container: InputContainer, flag: Flags) -> bool:
    """What FFmpeg knows of all files of a format, such as that their clocks jump."""
    return bool(container.format.flags & cast(int, flag.value))  # PyAV's stubs call the number a flag, too


def time_base(stream: VideoStream) -> Fraction:
    """Seconds, the unit of a stream's times."""
    return stream.time_base or Fraction(1, av.time_base)


def stated_rate(stream: VideoStream) -> float | None:
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


def upright(frame: av.VideoFrame, converter: VideoReformatter | None = None) -> np.ndarray:
    """RGB pixels ``(H, W, 3)`` of a decoded frame, turned and mirrored as the file says.

    A converter that is kept for the next frames saves what FFmpeg prepares for each of them otherwise. On one thread: to
    start more takes several times as long as to convert a small picture, and the decoder has its own.
    """
    rgb = (converter or VideoReformatter()).reformat(frame, format="rgb24", threads=1)
    return orientation.turned(rgb.to_ndarray(), orientation.of_frame(frame))


def remarks(stream: VideoStream, path: Path) -> list[str]:
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


def _pictures(container: Container) -> list[VideoStream]:
    """The video streams of a container without cover art."""
    return [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]


def pixel_aspect(stream: VideoStream, frame: av.VideoFrame) -> Fraction:
    """Width of a pixel by its height, as the frame is shown; 1 where the file says nothing or nonsense."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
    if not 0.01 <= aspect <= 100:
        return Fraction(1)
    lying = orientation.of_frame(frame)[0] == 0
    return Fraction(1) / aspect if lying else Fraction(aspect)


def decode_in_order(
    container: InputContainer, stream: VideoStream, path: Path, problem: Callable[[str], None]
) -> Iterator[av.VideoFrame]:
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
            if isinstance(frame, av.VideoFrame):
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


def _one_picture_a_packet(container: InputContainer, stream: VideoStream) -> bool:
    """True where every packet is a picture that is shown: not in codecs with hidden pictures, nor where fields are apart."""
    context, kind = stream.codec_context, container.format.name.split(",")[0]
    whole = context.field_order <= 1 and kind in ("mov", "matroska", "avi")
    return whole and context.name in ("h264", "hevc", "mpeg4", "mjpeg")


def cut_short(stream: VideoStream, path: Path) -> bool:
    """True if the file is shorter than it says itself, or its index points beyond its end."""
    entries = stream.index_entries
    last = entries[len(entries) - 1] if entries else None
    return is_complete(path) is False or (last is not None and last.pos + last.size > path.stat().st_size)


FEW = 3  # frames that a file may lack at the end before it counts as cut short: muxers round


def stated_end(container: InputContainer, stream: VideoStream, sound: bool = False) -> float | None:
    """Seconds at which the header says that the pictures end, on the clock of the file; None where it does not say.

    With ``sound``, that pictures or sound end, where no end of the pictures is stated.
    """
    first = "matroska" not in container.format.name  # there the duration counts from 0, not from the first frame
    if stream.duration:
        return float((stream.duration + first * (stream.start_time or 0)) * time_base(stream))
    if container.duration and (sound or not container.streams.audio):
        return (container.duration + first * max(0, container.start_time or 0)) / av.time_base
    return None


def stated_length(stream: VideoStream) -> int | None:
    """Frames that the header states, or that follow from it; None where it does not say."""
    if stream.frames:
        return max(stream.frames, len(stream.index_entries or ()))  # some headers state one frame whatever follows
    seconds = float((stream.duration or 0) * time_base(stream))
    return round(seconds * (stated_rate(stream) or 0)) or None


def states_its_end(container: InputContainer, stream: VideoStream, path: Path) -> bool:
    """True if it can be told from the file whether it is whole: plain streams and broadcasts state no length."""
    if is_complete(path) is not None:
        return True
    if has_flag(container, Flags.ts_discont) or has_flag(container, Flags.no_timestamps):
        return False
    return bool(stream.duration or container.duration)


def _ends_early(container: InputContainer, stream: VideoStream, path: Path, end: float) -> bool:
    """True if the last packet ends, at ``end`` seconds, before the time that the header states; not asked of whole files."""
    if is_complete(path):
        return False
    stated = stated_end(container, stream, sound=True)
    return stated is not None and stated - end > FEW / min(stated_rate(stream) or 25, 100)
