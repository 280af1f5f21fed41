"""Timestamps: at how many seconds each frame is shown.

A container states a presentation timestamp for each frame, on a clock that starts anywhere. `Clock` turns them into
seconds from the first frame, and makes sure that they rise. Damaged files have timestamps that stand still, run backward
or jump by hours, and recordings that were joined start their clock anew: then the next frame follows the last one at the
frame rate. Where a file has no timestamps at all, frames are counted at its frame rate.
"""

import itertools
from pathlib import Path

import av
from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream

from dfflib.data.clips import agreed_rate
from dfflib.data.video.container import has_flag, open_container, stated_rate, time_base

SHORTEST = 1e-6  # seconds between two frames; less is rounding
LONGEST = 30 * 3600.0
"""Seconds between two frames beyond which a time counts as damaged, as in FFmpeg."""
BROADCAST_LONGEST = 10.0
"""The same for broadcasts, whose clocks wrap around and start anew where recordings are joined."""


class Clock:
    """Times of frames that come one after the other.

    Args:
        fps: frames per second where the times say nothing else.
        tick: seconds, the unit of the times: one so close to a whole number of frames at ``fps`` was rounded, and is
            mended.
        longest: seconds between two frames; a longer pause, unless the frames come slowly, is no pause but another clock.

    Attributes:
        times: seconds of each frame so far from the first.
        end: seconds at which the last of them ends.
    """

    def __init__(self, fps: float, tick: float = 0.0, longest: float = LONGEST):
        self.times: list[float] = []
        self.end = 0.0
        self._stated, self._tick, self._longest = float(fps), tick, longest
        self._zero: float | None = None  # what the file calls the time of the first frame
        self._out_of_order = False

    @property
    def fps(self) -> float:
        """Frames per second: what was stated, or what the times say if they disagree."""
        return agreed_rate(self._stated, self.times)

    def add(self, stamp: float | None, length: float = 0.0) -> None:
        """One more frame.

        Args:
            stamp: its time in seconds on the clock of the file, None if it has none. One that is not after the frame
                before is moved to just after it; if that happens twice in a row, or the clock has jumped, the file's clock
                is set anew, so that the frame follows the last.
            length: seconds that the frame is shown, 0 if the file does not say.
        """
        if stamp is not None and self._zero is None:
            self._zero = stamp - self.end
        if self._zero is None:
            self.times.append(len(self.times) / self._stated)
            self.end = len(self.times) / self._stated
            return
        time = self.end if stamp is None else stamp - self._zero
        if self.times:
            last, step = self.times[-1], self.end - self.times[-1]
            late = time - last
            wrong = not SHORTEST < late <= max(self._longest, 3 * step)
            if wrong and stamp is not None and (self._out_of_order or abs(late) > 1):
                self._zero, time = stamp - self.end, self.end
            elif wrong:
                time = last + step / 2
            self._out_of_order = wrong
            time = self._on_grid(time, last)
            length = length or time - last
        self.times.append(time)
        self.end = time + (length or 1 / self._stated)

    def hold(self, end: float) -> None:
        """Show the last frame until ``end``, in seconds on the clock of the file, if that is later."""
        if self._zero is not None and end - self._zero < self.end + LONGEST:
            self.end = max(self.end, end - self._zero)

    def _on_grid(self, time: float, last: float) -> float:
        near = round(time * self._stated) / self._stated
        return near if last < near and abs(near - time) <= self._tick else time


def stream_clock(container: InputContainer, stream: VideoStream, path: Path) -> Clock:
    """The clock for the frames of an open file."""
    joined = has_flag(container, Flags.ts_discont)
    rate = stated_rate(stream) or _measured_rate(path)
    return Clock(rate, min(float(time_base(stream)), 0.01), BROADCAST_LONGEST if joined else LONGEST)


def _measured_rate(path: Path, packets: int = 64) -> float:
    """Frames per second of the first packets of a file that states no rate: browsers record such."""
    container, stream, fps = open_container(path)
    with container:
        try:
            times = [
                float(p.pts * p.time_base)
                for p in itertools.islice(container.demux(stream), packets)
                if p.pts is not None
            ]
        except av.FFmpegError:
            times = []
    return agreed_rate(fps, sorted(times))


def shown_at(container: InputContainer, frame: av.VideoFrame) -> float | None:
    """Seconds at which a file says that a decoded frame is shown, on its own clock; None if it does not say."""
    if has_flag(container, Flags.no_timestamps):
        return None
    # AVI knows no order of showing: its times are those of decoding, one picture after the other
    stamp = frame.dts if container.format.name == "avi" else frame.pts
    return None if stamp is None or frame.time_base is None else float(stamp * frame.time_base)


def shown_for(frame: av.VideoFrame) -> float:
    """Seconds that a file says that a decoded frame is shown; 0 if it does not say."""
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
