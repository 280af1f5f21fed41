"""How fast is Deep Feature Flow here? Parts and whole pipelines on this machine, beside what else one could run.

The accuracy of a network does not change its speed, so everything runs with untrained weights: the published pair needs no
download. All times of one table are from one run, each a median; ratios are formed within the run.
"""

import functools
import itertools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from dfflib import machine
from dfflib.data.video import VideoWriter, read_stream, sample_clip
from dfflib.errors import DffError
from dfflib.evaluation.flops import CLASSES, TABLE2_FLOWS
from dfflib.evaluation.timing import median_ms, medians_ms, parts, speedup
from dfflib.flow import DISFlow
from dfflib.inference.engine import Engine
from dfflib.inference.preparation import keep_memory, prepare
from dfflib.inference.schedule import FixedInterval
from dfflib.inference.stream import predictions, segment_video
from dfflib.limits import check
from dfflib.models.build import build
from dfflib.models.dff import DeepFeatureFlow
from dfflib.paths import run_dir
from dfflib.results import tidy, write_results
from dfflib.viz import save
from dfflib.viz.colours import look
from dfflib.viz.plots import plain_log_scale
from dfflib.warp import base_grid, warp

SIZE = (256, 512)  # rows and columns
INTERVALS = (1, 2, 5, 10, 20)
FLOWS = ("FlowNet", "FlowNet Half", "DIS, half size")  # beside ResNet-101
WARPS = ((1, 1024, 32, 64), (8, 256, 64, 128), (1, 19, 128, 256))  # shapes of feature maps
ALTERNATIVES = (
    "lraspp_mobilenet_v3_large",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
)
"""Segmenters of torchvision that one would run on every frame instead."""


@functools.cache
def model(flow: str, feature_net: str = "resnet101") -> DeepFeatureFlow:
    """ResNet-101 with one of `FLOWS`, for 19 classes, not trained and ready to run on the CPU."""
    torch.manual_seed(0)
    if flow in TABLE2_FLOWS:
        return build({"num_classes": CLASSES}, {"name": feature_net}, TABLE2_FLOWS[flow]).eval()
    return model("FlowNet Half", feature_net).with_flow(DISFlow("ultrafast", input_stride=2))


def made_video(path: str | os.PathLike, size: tuple[int, int], frames: int) -> Path:
    """A real clip at the size that is asked for, as an H.264 file; it runs back and forth if it is too short."""
    clip = sample_clip("bikes")
    with VideoWriter(path, clip.fps, size) as writer:
        for n in range(frames):
            turn = n % (2 * len(clip) - 2)
            picture = clip.frames[turn if turn < len(clip) else 2 * len(clip) - 2 - turn].permute(1, 2, 0).numpy()
            writer.write(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA))
    return Path(path)


def decode_ms(video: str | os.PathLike, count: int) -> float:
    """Milliseconds to decode one of the ``count`` frames of a video, read in order."""

    def read() -> None:
        """The whole video, once."""
        with read_stream(video) as stream:
            for _ in stream:
                pass

    return median_ms(read, 3, 1) / count


def painting_ms(engine: Engine, frames: list[Tensor], folder: Path, repeats: int = 9) -> dict[str, float]:
    """Milliseconds for a frame after its labels are known: ``overlay`` and ``write`` (H.264, of what was painted)."""
    results = predictions(engine, frames, FixedInterval(len(frames)), mode="batched")
    found, draw = [one.result for one in results], engine.model.task.draw
    painted = [draw(frame, result) for frame, result in zip(frames, found, strict=True)]
    count = 3 * len(painted)

    def write() -> None:
        """A whole file, once."""
        with VideoWriter(folder / "written.mp4", 25, painted[0].shape[:2]) as writer:
            for n in range(count):
                writer.write(painted[n % len(painted)])

    return {
        "overlay": median_ms(lambda: draw(frames[-1], found[-1]), repeats),
        "write": median_ms(write, 3, 1) / count,
    }


def warp_share(shape: tuple[int, int, int, int], device: str = "cpu", repeats: int = 9) -> dict[str, float]:
    """The warp against ``grid_sample`` and against a copy of the same bytes, milliseconds.

    Args:
        shape: ``(N, C, H, W)`` of the features, channels-last.

    Returns:
        ``copy``, ``warp`` and ``grid_sample``; ``warp, both ways`` and ``grid_sample, both ways`` with the backward pass.
    """
    torch.manual_seed(0)
    count, _, height, width = shape
    features = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)
    flow = 3 * torch.randn(count, 2, height, width, device=device)
    plain = features.contiguous()

    def sample(maps: Tensor, moved: Tensor) -> Tensor:
        """The warp as most code has it."""
        x, y = (base_grid(height, width, device) + moved).unbind(1)
        grid = torch.stack((2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
        return nn.functional.grid_sample(maps, grid, align_corners=True)

    def both_ways(function: Callable[[Tensor, Tensor], Tensor], maps: Tensor) -> Callable[[], None]:
        """Forward and backward, to features and flow."""
        leaves = [
            tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in (maps, flow)
        ]

        ones = torch.ones_like(function(*leaves))

        def run() -> None:
            """Once there and back."""
            torch.autograd.grad(function(*leaves), leaves, ones)

        return run

    ways = {"warp, both ways": both_ways(warp, features), "grid_sample, both ways": both_ways(sample, plain)}
    with torch.inference_mode():
        calls = {
            "copy": features.clone,
            "warp": lambda: warp(features, flow),
            "grid_sample": lambda: sample(plain, flow),
        }
        times = medians_ms(calls, repeats, in_a_row=5)
    return times | medians_ms(ways, repeats, in_a_row=5)


def alternative_ms(name: str, size: tuple[int, int], device: str = "cpu", repeats: int = 5) -> float:
    """Milliseconds for a frame through a segmenter of torchvision (19 classes, not trained), channels-last."""
    import torchvision.models.segmentation as zoo

    net = getattr(zoo, name)(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    net = net.to(device, memory_format=torch.channels_last)
    image = torch.rand(1, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return median_ms(lambda: net(image)["out"].argmax(1), repeats, 1)


def bench(
    size: tuple[int, int] = SIZE, interval: int = 10, device: str = "", threads: int = 0, out_dir: str | os.PathLike = "",
    flows: Iterable[str] = FLOWS, intervals: Iterable[int] = INTERVALS, frames: int = 40, repeats: int = 9,
    alternatives: Iterable[str] = ALTERNATIVES, feature_net: str = "resnet101", progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Measure everything, and write ``results/bench.csv`` and ``figures/bench.png`` below ``out_dir``.

    Args:
        size: rows and columns of the frames.
        interval: l of the parts.
        device: ``"cpu"`` or ``"cuda"``; empty takes a GPU where there is one.
        threads: of the CPU; 0 leaves PyTorch's number.
        out_dir: where to; empty writes nothing.
        flows: out of `FLOWS`.
        intervals: of whole pipelines; 1, the network on every frame, is always among them.
        frames: of the video that pipelines run on.
        repeats: of each small measurement; pipelines run three times.
        alternatives: out of `ALTERNATIVES`.
        feature_net: ``"resnet101"`` or ``"resnet50"``.
        progress: show a bar.

    Returns:
        Tidy rows. Methods ``FlowNet`` and so on: metrics as in `dfflib.evaluation.timing.parts` and `painting_ms`, ``fps``
        for each interval (whole pipeline, decoding and writing included), ``speedup_measured`` (fps over fps at l = 1) and
        ``speedup_predicted`` (eq. 7, from ``key`` and ``non-key``).
        Methods ``decode``; ``warp (shape)``; the alternatives, metric ``frame``.

    Raises:
        DffError: an interval that the video is too short for, threads beyond reason, no such device here, or ``out_dir``
            cannot be written to. All before anything is measured.
    """
    intervals = sorted({1, *intervals})
    for length in (interval, *intervals):
        FixedInterval(length, frames)  # refuses what is no interval, or too long
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DffError(f"device {device!r} was asked for, but PyTorch finds no GPU here: take cpu.")
    if threads:
        check("threads", threads)
    if str(out_dir):
        out_dir = run_dir("bench", out_dir)
    device = device or machine.device()
    if threads:
        torch.set_num_threads(threads)
    flows, alternatives = list(flows), list(alternatives)
    work = len(flows) * (1 + len(intervals)) + len(alternatives) + len(WARPS)
    with tqdm(total=work, disable=not progress, leave=False) as bar, tempfile.TemporaryDirectory() as name:
        videos = {n: made_video(Path(name) / f"{n}.mp4", size, n) for n in {frames, min(frames, 10)}}
        short, video = videos[min(videos)], videos[frames]  # the short one for the network on every frame
        with read_stream(video) as stream:
            pictures = list(itertools.islice(stream, max(2, interval)))
        rows = [_row("decode", "frame", decode_ms(video, frames))]
        rows += _warps(device, repeats, bar)
        for flow in flows:
            bar.set_description(flow)
            engine = Engine(prepare(model(flow, feature_net), device))
            times = parts(engine, pictures, repeats) | painting_ms(engine, pictures, Path(name), repeats)
            rows += [_row(flow, metric, value, of=interval) for metric, value in times.items()]
            bar.update()
            fps = _pipelines(engine, {n: short if n == 1 else video for n in intervals})
            rows += [row for n in intervals for row in _speed_rows(flow, n, fps[n], fps[1], times)]
            bar.update(len(intervals))
        for other in alternatives:
            rows.append(_row(other, "frame", alternative_ms(other, size, device, max(3, repeats // 2))))
            bar.update()
    table = tidy(pd.DataFrame(rows), "bench", f"bikes at {size[1]}x{size[0]}").assign(version=machine.versions())
    if out_dir:
        write_results(table, "bench", out_dir)
        save(figure(table), "bench", out_dir)
    return table


def _row(method: str, metric: str, value: float, unit: str = "ms", of: int | None = None) -> dict:
    """One number, in the columns of a result file that it knows."""
    return dict(method=method, metric=metric, value=value, unit=unit, interval=of)


def _warps(device: str, repeats: int, bar: tqdm) -> list[dict]:
    """What the warp takes at each size, and of what."""
    keep_memory()
    rows = []
    for shape in WARPS:
        rows += [_row(f"warp {shape}", kind, ms) for kind, ms in warp_share(shape, device, repeats).items()]
        bar.update()
    return rows


def _speed_rows(flow: str, interval: int, fps: float, every: float, times: dict[str, float]) -> list[dict]:
    """Of one pipeline: its speed, and how much faster than the network on every frame, by the clock and by eq. 7."""
    predicted = speedup(interval, times["non-key"] / times["key"])
    return [
        _row(flow, "fps", fps, "fps", interval),
        _row(flow, "speedup_measured", fps / every, "x", interval),
        _row(flow, "speedup_predicted", predicted, "x", interval),
    ]


def _pipelines(engine: Engine, videos: dict[int, Path], rounds: int = 3) -> dict[int, float]:
    """Frames per second from file to file by interval, medians; intervals take turns, for machines change meanwhile."""
    found: dict[int, list[float]] = {interval: [] for interval in videos}
    for _ in range(rounds):
        for interval, video in videos.items():
            done = segment_video(video, video.with_name("out.mp4"), interval, engine, progress=False)
            found[interval].append(done.fps)
    return {interval: statistics.median(fps) for interval, fps in found.items()}


def summary(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of `bench` as tables for a reader: ``parts``, ``pipelines``, ``warp`` and ``every frame``.

    ``parts`` has three columns more: ``whole``, a non-key frame from file to file; ``overhead``, the share of it that is
    neither flow nor task network, whether a part has a name for it or not; and ``r``, without unit both.
    """
    flows = [name for name in FLOWS if (table["method"] == name).any()]
    ours = table[table["method"].isin(flows)]
    times = ours[ours["unit"] == "ms"]
    times = times.pivot(index="method", columns="metric", values="value").loc[flows, times["metric"].unique()]
    times["decode"] = table.loc[table["method"] == "decode", "value"].iloc[0]
    times["whole"] = times[["decode", "non-key", "overlay", "write"]].sum(axis=1)
    times["overhead"] = 1 - times[["F", "N_task"]].sum(axis=1) / times["whole"]
    times["r"] = times["non-key"] / times["key"]
    whole = ours[ours["unit"] != "ms"].pivot(index=["method", "interval"], columns="metric", values="value").loc[flows]
    warps = table[table["method"].str.startswith("warp")].pivot(index="method", columns="metric", values="value")
    for kind in ("", ", both ways"):
        warps[f"share of grid_sample{kind}"] = warps[f"warp{kind}"] / warps[f"grid_sample{kind}"]
    warps["times a copy"] = warps["warp"] / warps["copy"]
    frame = table[table["method"].isin(ALTERNATIVES)].set_index("method")[["value"]]
    frame = frame.rename(columns={"value": "ms"}).assign(fps=1000 / frame["value"])
    return {"parts": times, "pipelines": whole, "warp": warps, "every frame": frame}


def figure(table: pd.DataFrame) -> Figure:
    """Frames per second against the interval, whole pipelines; measured, predicted, and what runs on every frame."""
    import matplotlib.pyplot as plt

    found = summary(table)
    fig, axis = plt.subplots(figsize=(8, 4.2))
    for n, name in enumerate(found["parts"].index):
        rows, (colour, _) = found["pipelines"].loc[name], look(name, n)
        axis.plot(rows.index, rows["fps"], "o-", color=colour, label=f"ResNet-101 + {name}")
        axis.plot(rows.index, rows["fps"].iloc[0] * rows["speedup_predicted"], ":", color=colour)
    for name, row in found["every frame"].iterrows():
        axis.axhline(row["fps"], color="darkgrey", linewidth=0.8)
        axis.annotate(f"{name}, network only", (rows.index[0], row["fps"]), va="bottom", fontsize=7, color="dimgrey")
    title = ", ".join(table[["dataset", "device"]].iloc[0])
    axis.set(xlabel="key-frame interval l", ylabel="frames per second", title=title)
    axis.set_xticks(rows.index)
    plain_log_scale(axis, "y")
    axis.legend(fontsize=8, loc="center right")
    return fig
