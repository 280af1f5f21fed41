"""Real video in and out: files, folders of images, streams."""

from dfflib.data.video.reader import SAMPLE_NAMES, VideoStream, open_video, read_stream, sample_clip
from dfflib.data.video.writer import VideoWriter

__all__ = ["SAMPLE_NAMES", "VideoStream", "VideoWriter", "open_video", "read_stream", "sample_clip"]
