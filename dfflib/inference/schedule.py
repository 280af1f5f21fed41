"""Which frames are key frames."""

from numbers import Real

from dfflib.errors import DffError


class FixedInterval:
    """Every ``interval``-th frame is a key frame, from frame 0 on (paper, Algorithm 1).

    Args:
        interval: l, the key-frame duration; 1 makes every frame a key frame.
        num_frames: length of the video where it is known; an interval beyond it is refused, since then nothing but the
            first frame would ever be a key frame.

    Raises:
        DffError: interval below 1 or not whole, or beyond ``num_frames``.
    """

    def __init__(self, interval: int, num_frames: int | None = None):
        if isinstance(interval, bool) or not isinstance(interval, Real) or not interval >= 1 or interval % 1 != 0:
            raise DffError(f"key-frame interval is {interval!r}: choose a whole number of frames, 1 or more.")
        if num_frames is not None and interval > max(1, num_frames):
            raise DffError(
                f"key-frame interval is {interval}, but the video has only {num_frames} frame{'s' * (num_frames != 1)}: "
                f"choose an interval from 1 to {max(1, num_frames)}."
            )
        self.interval: int = int(interval)

    def is_key(self, index: int) -> bool:
        """Whether frame ``index`` (from 0) is a key frame."""
        return index % self.interval == 0

    def key_of(self, index: int) -> int:
        """The key frame that frame ``index`` looks back to; itself if it is one."""
        return index - index % self.interval
