"""Shots: the stretches of a video between two cuts. Nothing can be propagated across a cut, so pairs stay inside a shot."""

import bisect

import torch.nn.functional as F

from dfflib.data.clips import Clip

CUT = 0.15
"""Mean absolute change of a thumbnail, in [0, 1], from which two frames count as cut apart. In the three sample clips cuts
measure 0.19 to 0.33, the fastest motion 0.08."""


class Shots:
    """First frames of the shots of a clip, found by comparing neighbouring thumbnails.

    Args:
        clip: any clip; every frame is read once, unless it is known to be continuous.
        cut: threshold on the mean absolute difference of 24x32 thumbnails.
    """

    def __init__(self, clip: Clip, cut: float = CUT):
        self.starts, previous = [0], None
        for index in range(0 if clip.continuous else len(clip)):
            thumbnail = F.adaptive_avg_pool2d(clip.frames[index].float() / 255, (24, 32))
            if previous is not None and (thumbnail - previous).abs().mean() > cut:
                self.starts.append(index)
            previous = thumbnail

    def start_of(self, index: int) -> int:
        """First frame of the shot that holds frame ``index``."""
        return self.starts[bisect.bisect_right(self.starts, index) - 1]

    def __len__(self) -> int:
        return len(self.starts)
