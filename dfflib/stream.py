"""Video in, predictions out, frame by frame in constant memory: Algorithm 1 of the paper as a generator.

Online and causal: a frame's labels come out before the next frame is read, so a live source works as well as a file.
Only the key frame and its features are kept.
"""

import itertools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from dfflib import checkpoints
from dfflib.colours import overlay
from dfflib.data.video import read_stream, resized_shape
from dfflib.data.video_writer import VideoWriter
from dfflib.dff import DeepFeatureFlow
from dfflib.errors import DffError
from dfflib.flow import DISFlow, ZeroFlow
from dfflib.paths import CHECKPOINTS
from dfflib.schedule import FixedInterval

SHIPPED = CHECKPOINTS / "joint_s0.safetensors"
FLOW_SOURCES = ("network", "dis", "zero")


@dataclass(frozen=True)
class Prediction:
    """One frame of the stream: its number, the frame ``(3, H, W)`` uint8, labels ``(H, W)`` int64, and whether it was a key."""

    index: int
    frame: Tensor
    labels: Tensor
    is_key: bool


@dataclass(frozen=True)
class Segmented:
    """What `segment_video` did: the file, how much, how fast, and how the input ended if it ended badly."""

    out: Path
    frames: int
    key_frames: int
    seconds: float
    problem: str | None

    @property
    def fps(self) -> float:
        """Frames per second, decoding and writing included."""
        return self.frames / max(self.seconds, 1e-9)


@torch.inference_mode()
def predictions(
    model: DeepFeatureFlow, frames: Iterable[Tensor], schedule: FixedInterval, short_side: int | None = None
) -> Iterator[Prediction]:
    """Segment frames as they come (Algorithm 1).

    Args:
        model: in evaluation mode.
        frames: uint8 ``(3, H, W)``, all of one size.
        schedule: says which frames are key frames.
        short_side: frames are reduced to this for the networks; labels come out at full size all the same.

    Yields:
        One `Prediction` a frame.
    """
    device = next(model.parameters()).device
    key = features = None
    for index, frame in enumerate(frames):
        size = tuple(frame.shape[-2:])
        image = _network_input(frame.to(device), short_side)
        is_key = schedule.is_key(index)
        if is_key:
            key, features = image, model.extract(image)
            current = features
        else:
            current = model.propagate(features, key, image)
        yield Prediction(index, frame, model.predict(current, size).argmax(1)[0].cpu(), is_key)


def _network_input(frame: Tensor, short_side: int | None) -> Tensor:
    """``(1, 3, h, w)`` in [0, 1], channels-last; never enlarged."""
    image = frame[None].to(memory_format=torch.channels_last).float() / 255
    if short_side is None or short_side >= min(frame.shape[-2:]):
        return image
    return F.interpolate(image, size=resized_shape(tuple(frame.shape[-2:]), short_side), mode="area")


def default_out(video: str | os.PathLike) -> Path:
    """Where the overlay of a video goes unless told: ``<name>_dff.mp4`` in the working directory."""
    return Path(f"{Path(video).resolve().stem}_dff.mp4")


def segment_video(
    video: str | os.PathLike, out: str | os.PathLike | None = None, interval: int = 5,
    checkpoint: str | os.PathLike | None = None, flow: str = "network", short_side: int | None = None,
    progress: bool = True,
) -> Segmented:  # fmt: skip
    """Segment a video file or a folder of frames, and write it with its labels painted over (H.264).

    Args:
        video: file or folder.
        out: ``.mp4`` to write; None means `default_out`.
        interval: l, frames from key frame to key frame.
        checkpoint: weights; None takes the shipped, jointly trained model.
        flow: ``"network"``, ``"dis"`` (OpenCV) or ``"zero"`` (features are copied).
        short_side: frames are reduced to this for the networks; None takes the size that the model was trained at.
        progress: show a bar.

    Returns:
        What was done; ``problem`` is set when the video ended badly. Everything readable before that is in the file.

    Raises:
        DffError: no such video or checkpoint, no frames, a bad interval, or frames smaller than the network's stride.
    """
    if flow not in FLOW_SOURCES:
        raise DffError(f"there is no flow source {flow!r}: choose one of {', '.join(FLOW_SOURCES)}.")
    FixedInterval(interval)  # a bad interval fails before anything is loaded
    checkpoint = SHIPPED if checkpoint is None else checkpoint
    _, about = checkpoints.describe(checkpoint)
    out = default_out(video) if out is None else Path(out)
    short_side = about.get("short_side") if short_side is None else short_side
    with read_stream(video) as stream:
        schedule = FixedInterval(interval, stream.num_frames)
        model = checkpoints.load_segmenter(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
        if flow != "network":
            model = model.with_flow(DISFlow("fast") if flow == "dis" else ZeroFlow())
        began, count, keys = time.perf_counter(), 0, 0
        bar = tqdm(
            stream, total=stream.num_frames, desc=Path(video).name, unit="frame", disable=not progress, leave=False,
            mininterval=1.0,
        )  # fmt: skip
        with bar:  # whatever happens, it is gone before an error is told
            results = predictions(model, bar, schedule, short_side)
            first = next(results)  # whatever is wrong with the frames shows now, before anything is written
            with VideoWriter(out, stream.fps, stream.size) as writer:
                for result in itertools.chain([first], results):
                    writer.write(overlay(result.frame, result.labels))
                    count, keys = count + 1, keys + result.is_key
        return Segmented(out, count, keys, time.perf_counter() - began, stream.problem)
