"""Accuracy and speed."""

from dfflib.evaluation.offsets import average_over_offsets, by_offset, default_methods, evaluated_frames

__all__ = ["average_over_offsets", "by_offset", "default_methods", "evaluated_frames"]
