"""The Shapes world: synthetic video whose ground truth is known exactly."""

from dfflib.data.clips import Tracks
from dfflib.data.shapes.clip import ShapesClip

__all__ = ["ShapesClip", "Tracks"]
