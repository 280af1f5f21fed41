"""Which packet of a file makes its frame number i, and where to start decoding to get it.

A frame's number is its place among all frames that the file gives when it is decoded from its start. Containers keep no
such number, and their times do not tell it everywhere: H.264 with B-frames in AVI has decoding times only, a program
stream has other times after a seek, some packets make no frame and some half a frame. Hence packets are counted as they
lie in the file, and the number of a packet goes through the decoder in the place of its time. Which packet is shown when
is read off the times where a file of that kind can be trusted and its first frames prove it; else the file is decoded
once from start to end. Where a seek has landed is told by the packet's place in the file, never by its time.
"""

import contextlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import av
import numpy as np

TRIAL = 16  # frames, more than any codec reorders
TRUSTED = ("mov", "matroska", "flv", "avi")  # others have times in part, or packets of other than one frame
SOUGHT_BY_PTS = ("mov", "matroska", "mxf")  # the others keep decoding times in their indices


class Packet(NamedTuple):
    """What the index needs of a packet: its times (units of the stream, None where unknown) and its place in the file."""

    pts: int | None
    dts: int | None
    place: tuple[int, int]
    is_key: bool
    is_discard: bool


class Key(NamedTuple):
    """A key frame: its number, that of its packet, and the time to seek to it by."""

    frame: int
    packet: int
    time: int


def numbered_frames(packets: Iterable[av.Packet], number: int = 0) -> Iterator[av.VideoFrame]:
    """The frames that can be decoded from packets; ``frame.pts`` is the number of its packet, the first being ``number``."""
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
            yield from frames


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

    def __init__(self, container, stream, reopen: Callable[[], tuple]):
        packets, visible = _scan(container, stream)
        told = _order_by_times(container, stream, packets) if visible else []
        self.first, order, clean = _decode(reopen, told)
        self.by_times = order == told
        self.seekable = len(set(order)) == len(order)
        self.rank = np.full(len(packets), -1)
        self.rank[order] = range(len(order))
        self._length = len(order)
        times = [packets[number].pts for number in order]
        # sorted, since a file without presentation times has the same times in decoding order
        self.seconds = None if None in times else np.sort(np.array(times)) * float(stream.time_base)
        self.plain = self.by_times and len(order) == len(packets) and not _any_leading(packets)

        by_pts = _kind(container) in SOUGHT_BY_PTS
        places = Counter(packet.place for packet in packets)
        self._keys: list[Key] = []
        self._packets: dict[tuple[int, int], int] = {}
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


def _kind(container) -> str:
    return container.format.name.split(",")[0]


def _scan(container, stream) -> tuple[list[Packet], bool]:
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


def _order_by_times(container, stream, packets: list[Packet]) -> list[int]:
    """Packets in the order of their presentation times; empty if these cannot be relied on."""
    codec = stream.codec_context
    shown = [number for number, packet in enumerate(packets) if not packet.is_discard]
    times = [packets[number].pts for number in shown]
    if not (_kind(container) in TRUSTED or codec.codec.intra_only) or None in times or len(set(times)) < len(times):
        return []
    if codec.reorder_depth and times == sorted(times):  # decoding times pose as presentation times
        return []
    if codec.name == "h264" and codec.field_order > 1:  # interlaced: a packet may be one field, half a frame
        return []
    return sorted(shown, key=lambda number: packets[number].pts)


def _decode(reopen: Callable[[], tuple], told: list[int]) -> tuple[av.VideoFrame | None, list[int], set[int]]:
    """First frame, packets in the order shown, and those of key frames: as told if the first frames come in that order."""
    container, stream = reopen()
    first, order, clean = None, [], set()
    for frame in numbered_frames(container.demux(stream)):
        first = frame if first is None else first
        order.append(frame.pts)
        if frame.key_frame:
            clean.add(frame.pts)
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
        elif key is not None and packet.pts < key:
            return True
    return False
