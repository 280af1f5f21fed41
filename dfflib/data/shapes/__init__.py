"""The Shapes world: made-up video whose every truth is known exactly."""

from dfflib.data.shapes.clip import ShapesClip, Tracks

__all__ = ["ShapesClip", "Tracks"]
