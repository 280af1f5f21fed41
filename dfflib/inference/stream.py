"""Video in, predictions out, in constant memory: Algorithm 1 of the paper as an engine, for files and for live sources.

Two modes that give every frame the same result, to rounding:

* *online*: a frame's result comes out before the next frame is read. For a camera.
* *batched*: the key frames of several intervals go through the feature network together, and so do the frames between them
  through the flow and task networks. For a file.

A non-key frame costs the flow network on that frame, one warp and the task network (`dfflib.inference.engine`). What a result
is (of segmentation: a label map), and how it is drawn, the model's task knows.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from dfflib.data.video import VideoStream, VideoWriter, read_stream
from dfflib.data.video.prefetch import prefetch
from dfflib.data.video.writer import FASTEST, FORMATS, part_of
from dfflib.errors import DffError
from dfflib.flow import DISFlow, FlowSource, ZeroFlow
from dfflib.inference.engine import Engine, check_frame
from dfflib.inference.preparation import prepare
from dfflib.inference.schedule import FixedInterval
from dfflib.models import checkpoints
from dfflib.models.dff import DeepFeatureFlow, image_size
from dfflib.paths import CHECKPOINTS, output_file

SHIPPED = CHECKPOINTS / "joint_s0.safetensors"
MODES = ("online", "batched")
FLOW_SOURCES: dict[str, Callable[[], FlowSource | None]] = {
    "network": lambda: None,
    "dis": lambda: DISFlow("fast"),
    "dis-half": lambda: DISFlow("ultrafast", input_stride=2),
    "zero": ZeroFlow,
}
"""What moves the features: the model's own network, OpenCV's DIS at full and at half size, or nothing."""

DEFAULT_INTERVAL = 5
AHEAD = 8  # frames decoded ahead of the networks


@dataclass(frozen=True)
class Prediction:
    """One frame of the stream: its number, the frame ``(3, H, W)`` uint8, the task's result for it (of segmentation: labels
    ``(H, W)`` int64), and whether it was a key frame."""

    index: int
    frame: Tensor
    result: Any
    is_key: bool


@dataclass(frozen=True)
class Segmented:
    """What `segment_video` did: the file, how much, how fast, how the input ended if it ended badly, and what to know of it."""

    out: Path
    frames: int
    key_frames: int
    seconds: float
    problem: str | None
    remarks: tuple[str, ...] = ()

    @property
    def fps(self) -> float:
        """Frames per second, decoding and writing included."""
        return self.frames / max(self.seconds, 1e-9)


def predictions(
    model: DeepFeatureFlow | Engine, frames: Iterable[Tensor], schedule: FixedInterval, short_side: int | None = None,
    mode: str = "online",
) -> Iterator[Prediction]:  # fmt: skip
    """Results for frames as they come (Algorithm 1).

    Args:
        model: in evaluation mode, or an `Engine` with options of its own.
        frames: uint8 ``(3, H, W)``, all of one size.
        schedule: says which frames are key frames.
        short_side: frames are reduced to this for the networks; results are of full size all the same.
        mode: ``"online"`` or ``"batched"``.

    Yields:
        One `Prediction` a frame, in order.

    Raises:
        DffError: no such mode, or a frame of another kind or size, which its number names; those before it have results.
    """
    if mode not in MODES:
        raise DffError(f"there is no mode {mode!r}: choose one of {', '.join(MODES)}.")
    engine = model if isinstance(model, Engine) else Engine(model, short_side)
    return _results(engine, frames, schedule, mode == "online")


def _results(engine: Engine, frames: Iterable[Tensor], schedule: FixedInterval, online: bool) -> Iterator[Prediction]:
    for group in _groups(engine, frames, schedule, online):
        yield from _predicted(engine, group, schedule)
        del group  # or its frames would be held while the next ones are read


def _groups(
    engine: Engine, frames: Iterable[Tensor], schedule: FixedInterval, online: bool
) -> Iterator[dict[int, Tensor]]:
    """Frames by their numbers: whole intervals, or a part of one, or one frame; and all that there are before an error."""
    group: dict[int, Tensor] = {}
    shape, most, together = None, 1, 1
    try:
        for index, frame in enumerate(frames):
            check_frame(frame, f"frame {index}", shape)
            if shape is None and not online:
                size = image_size(frame)
                most, together = engine.most(size), engine.together(size, schedule.interval)
            shape, group[index] = frame.shape, frame
            del frame  # or it would be held while the next one is read
            if (index + 1) % (schedule.interval * together) == 0 or (together == 1 and len(group) == most):
                yield group
                group = {}
    except Exception:
        yield group
        raise
    yield group


def _predicted(engine: Engine, group: dict[int, Tensor], schedule: FixedInterval) -> Iterator[Prediction]:
    """Predictions for a group: its key frames go through the networks together, then the others, so many at a time."""
    if not group:
        return
    keys = {index: n for n, index in enumerate(filter(schedule.is_key, group))}
    others, most = [index for index in group if index not in keys], engine.most(image_size(next(iter(group.values()))))
    run = engine.alone if schedule.interval == 1 else engine.keys
    of_keys = iter(run([group[index] for index in keys]) if keys else ())
    batches = (others[n : n + most] for n in range(0, len(others), most))
    of_others = itertools.chain.from_iterable(
        engine.others([group[n] for n in batch], [keys.get(schedule.key_of(n), -1) for n in batch]) for batch in batches
    )
    for index, frame in group.items():
        yield Prediction(index, frame, next(of_keys if index in keys else of_others), index in keys)


def flow_source(name: str) -> FlowSource | None:
    """The flow source of a name in `FLOW_SOURCES`; None for the model's own.

    Raises:
        DffError: there is none of that name.
    """
    if name not in FLOW_SOURCES:
        raise DffError(f"there is no flow source {name!r}: choose one of {', '.join(FLOW_SOURCES)}.")
    return FLOW_SOURCES[name]()


def default_out(video: str | os.PathLike) -> Path:
    """Where the overlay of a video goes unless told: ``<name>_dff.mp4`` in the working directory."""
    return Path(f"{Path(os.path.realpath(video)).stem}_dff.mp4")


def segment_video(
    video: str | os.PathLike, out: str | os.PathLike | None = None, interval: int = DEFAULT_INTERVAL,
    checkpoint: str | os.PathLike | Engine | None = None, flow: str = "network", short_side: int | None = None,
    progress: bool = True, mode: str = "batched", labels: str = "full", precision: str = "auto", compile: bool = False,
    fps: float | None = None,
) -> Segmented:  # fmt: skip
    """Segment a video file or a folder of frames, and write it with its results painted over (H.264), without its sound.

    Each frame is shown when it is shown in the video, and pixels keep their shape. While it is written, the file is called
    ``NAME.part.mp4``; if something stops the work, it stays so, and an earlier file of the final name stays, too.

    Args:
        video: file or folder.
        out: ``.mp4`` to write; None means `default_out`.
        interval: l, frames from key frame to key frame; beyond the length of the video only its first frame is one.
        checkpoint: weights; None takes the shipped, jointly trained ones. Or an `Engine` that is ready: it has its own flow,
            size, labels and precision, and those given here are not looked at.
        flow: one of `FLOW_SOURCES`.
        short_side: frames are reduced to this for the networks; None takes the size that the weights were trained at.
        progress: show a bar.
        mode: ``"batched"`` or ``"online"``.
        labels: ``"full"`` or ``"coarse"``, see `Engine`.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"``.
        compile: see `dfflib.inference.preparation.prepare`.
        fps: frames per second of a folder (25 unless given), or of a file in place of the times that it states.

    Returns:
        What was done; ``problem`` is set when the video ended badly. Everything readable before that is in the file.

    Raises:
        DffError: no such video or checkpoint, no frames, a bad interval, or frames smaller than the network's stride; or
            ``out`` is the video or the checkpoint, or cannot be written.
        KeyboardInterrupt: as it came, and says where the frames so far are.
    """
    source = flow_source(flow)
    schedule = FixedInterval(interval)  # a bad interval fails before anything is loaded
    engine = checkpoint if isinstance(checkpoint, Engine) else None
    file = SHIPPED if checkpoint is None or isinstance(checkpoint, Engine) else checkpoint
    if not engine and short_side is None:
        short_side = checkpoints.describe(file)[1].get("short_side")
    inputs = [video] if engine else [video, file]
    out = output_file(default_out(video) if out is None else out, inputs, FORMATS)
    if os.path.realpath(part_of(out)) == os.path.realpath(video):
        raise DffError(f"{video} is where {out} is kept while it is written: rename it, or name another file to write.")
    with read_stream(video, fps=fps) as stream:
        if not engine:
            model = checkpoints.load_segmenter(file)
            model = prepare(model if source is None else model.with_flow(source), compile=compile)
            engine = Engine(model, short_side, labels, precision)
        began = time.perf_counter()
        count, keys = _paint(engine, stream, schedule, mode, out, Path(video).name if progress else None)
        remarks = list(stream.remarks)
        if interval > max(count, DEFAULT_INTERVAL):
            remarks.append(
                f"{video} has only {count} frames, fewer than the key-frame interval of {interval}: one key frame."
            )
        return Segmented(out, count, keys, time.perf_counter() - began, stream.problem, tuple(remarks))


def _paint(
    engine: Engine, stream: VideoStream, schedule: FixedInterval, mode: str, out: Path, name: str | None
) -> tuple[int, int]:
    """Write a stream with its results painted over; returns the numbers of frames and of key frames. A name shows a bar."""
    keys, fps, draw = 0, min(stream.fps, FASTEST), engine.model.task.draw
    frames = prefetch(stream, AHEAD)
    bar = tqdm(
        frames, total=stream.num_frames, desc=name, unit="frame", disable=name is None, leave=False, mininterval=1.0
    )
    # Whatever happens, the bar is gone before an error is told, and nobody decodes any more when the file is closed.
    with contextlib.closing(frames), bar:
        results = predictions(engine, bar, schedule, mode=mode)
        first = next(results)  # whatever is wrong with the frames shows now, before anything is written
        writer = VideoWriter(out, fps, stream.size, stream.pixel_aspect)
        try:
            with writer:
                for found in itertools.chain([first], results):
                    writer.write(draw(found.frame, found.result), stream.times[found.index])
                    keys += found.is_key
                writer.close(stream.duration)
        except (DffError, KeyboardInterrupt) as stop:
            if not writer.part.exists():
                raise
            said = str(stop).rstrip(".") or "stopped"
            raise type(stop)(f"{said}; the {writer.num_frames} frames until then are in {writer.part}.") from None
    return writer.num_frames, keys
