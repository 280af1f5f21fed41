"""Which packet of a file makes frame number i, and from which key frame to decode to get it.

A container holds *packets* (compressed frames) in decoding order, which B-frames make differ from the order of showing.
Frame numbers count the order of showing and are written nowhere, so they are found once, when a file is opened: by
sorting the packets' presentation timestamps, where the first decoded frames prove that these can be trusted, else by
decoding the whole file. (H.264 in AVI has decoding times only; in some formats a packet makes no frame, or half of one.)
While decoding, each packet's number travels through the decoder in the place of its timestamp. After a seek, the packet
that it landed on is recognised by its position and size in the file, since timestamps may change after a seek.
"""

import contextlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from dfflib.data.video.container import time_base

TRIAL = 16  # frames, more than any codec reorders
TRUSTED = ("mov", "matroska", "flv", "avi")  # others have times in part, or packets of other than one frame
SOUGHT_BY_PTS = ("mov", "matroska", "mxf")  # the others keep decoding times in their indices


Reopen = Callable[[], tuple[InputContainer, VideoStream]]
"""Opens the file once more."""


class Packet(NamedTuple):
    """What the index needs of a packet: its times (units of the stream, None where unknown) and its place in the file."""

    pts: int | None
    dts: int | None
    place: tuple[int | None, int]
    is_key: bool
    is_discard: bool


class Key(NamedTuple):
    """A key frame: its number, that of its packet, and the time to seek to it by."""

    frame: int
    packet: int
    time: int


def numbered_frames(packets: Iterable[av.Packet], number: int = 0) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames that can be decoded from packets, each with the number of its packet, the first being ``number``; -1 where
    the decoder does not say."""
    with contextlib.suppress(av.FFmpegError):  # the file is cut short
        for packet in packets:
            if packet.size:
                packet.pts = number
                number += 1
            try:
                frames = packet.decode()
            except av.EOFError:
                return
            except (av.FFmpegError, ValueError):  # a damaged packet makes no frame
                continue
            yield from ((-1 if frame.pts is None else frame.pts, frame) for frame in frames)


class FrameIndex:
    """The frames of one stream, in the order in which they are shown.

    Args:
        container, stream: freshly opened; read to their end here.
        reopen: opens both once more.

    Attributes:
        rank: number of the frame that each packet makes, -1 for none; packets are numbered in the order of the file.
        by_times: True if the times tell the order, False if it was found by decoding everything.
        plain: True if, moreover, packet and frame are one, and none is shown before the key frame that it follows.
        seekable: False where frames can only be counted from the start.
        first: the first frame, decoded; None if there is none.
        seconds: time at which each frame is shown, float64; None where the file does not say.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, reopen: Reopen):
        packets, visible = _scan(container, stream)
        told = _order_by_times(container, stream, packets) if visible else []
        self.first, order, clean = _decode(reopen, told)
        self.by_times = order == told
        self.seekable = len(set(order)) == len(order) and -1 not in order
        self.rank = np.full(len(packets), -1)
        self.rank[order] = range(len(order))
        self._length = len(order)
        times = [packets[number].pts if number >= 0 else None for number in order]
        # sorted, since a file without presentation times has the same times in decoding order
        self.seconds = None if None in times else np.sort(np.array(times)) * float(time_base(stream))
        self.plain = self.by_times and len(order) == len(packets) and not _any_leading(packets)

        by_pts = _kind(container) in SOUGHT_BY_PTS
        places = Counter(packet.place for packet in packets)
        self._keys: list[Key] = []
        self._packets: dict[tuple[int | None, int], int] = {}
        for number, packet in enumerate(packets):
            # decoders know better than packets which frames stand alone
            if packet.is_key and self.rank[number] >= 0 and (self.by_times or number in clean):
                time = packet.pts if by_pts or packet.dts is None else packet.dts
                if time is not None:
                    self._keys.append(Key(int(self.rank[number]), number, time))
                if places[packet.place] == 1:
                    self._packets[packet.place] = number
        self._keys.sort()

    def __len__(self) -> int:
        return self._length

    def keys_before(self, frame: int) -> list[Key]:
        """Key frames from which a frame can be reached: the nearest first, then ever farther ones."""
        near, step, found = bisect_right(self._keys, frame, key=lambda key: key.frame) - 1, 1, []
        while near >= 0:
            found.append(self._keys[near])
            near, step = near - step, 2 * step
        return found

    def packet_number(self, packet: av.Packet) -> int | None:
        """The number of a packet to start from, known by its place in the file; None for any other."""
        return self._packets.get((packet.pos, packet.size))


def _kind(container: InputContainer) -> str:
    return container.format.name.split(",")[0]


def _scan(container: InputContainer, stream: VideoStream) -> tuple[list[Packet], bool]:
    """All packets, and False if some are known to make no frame of their own."""
    packets, visible, codec = [], True, stream.codec_context.name
    with contextlib.suppress(av.FFmpegError):  # the file is cut short: what came before counts
        for packet in container.demux(stream):
            if packet.size:
                place = packet.pos, packet.size
                packets.append(Packet(packet.pts, packet.dts, place, packet.is_keyframe, packet.is_discard))
                if codec == "vp8":
                    visible &= bool(memoryview(packet)[0] & 16)  # show_frame; alternate references are not shown
                elif codec == "mpeg4":
                    visible &= packet.size > 12  # less holds only the word that nothing was coded
    return packets, visible


def _order_by_times(container: InputContainer, stream: VideoStream, packets: list[Packet]) -> list[int]:
    """Packets in the order of their presentation times; empty if these cannot be relied on."""
    codec = stream.codec_context
    shown = [number for number, packet in enumerate(packets) if not packet.is_discard]
    times = [pts for number in shown if (pts := packets[number].pts) is not None]
    if not (_kind(container) in TRUSTED or codec.codec.intra_only) or len(set(times)) < len(shown):
        return []
    if codec.reorder_depth and times == sorted(times):  # decoding times pose as presentation times
        return []
    if codec.name == "h264" and codec.field_order > 1:  # interlaced: a packet may be one field, half a frame
        return []
    return [number for _, number in sorted(zip(times, shown, strict=True))]


def _decode(reopen: Reopen, told: list[int]) -> tuple[av.VideoFrame | None, list[int], set[int]]:
    """First frame, packets in the order shown, and those of key frames: as told if the first frames come in that order."""
    container, stream = reopen()
    first: av.VideoFrame | None = None
    order: list[int] = []
    clean: set[int] = set()
    for number, frame in numbered_frames(container.demux(stream)):
        first = frame if first is None else first
        order.append(number)
        if frame.key_frame:
            clean.add(number)
        if len(order) == TRIAL and order == told[:TRIAL]:
            order = told
            break
    container.close()
    return first, order, clean


def _any_leading(packets: list[Packet]) -> bool:
    """True if a frame is shown before the key frame that it follows in the file (open GOP)."""
    key = None
    for packet in packets:
        if packet.is_key:
            key = packet.pts
        elif key is not None and packet.pts is not None and packet.pts < key:
            return True
    return False
