"""Every figure the notebooks show: one palette, one way to save, pictures of frames, labels, flow and features."""

import base64
import io
import os
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dfflib.paths import write_atomically
from dfflib.viz.colours import COLOURS, flow_to_rgb, to_image
from dfflib.warp import known

STYLE = {
    "figure.dpi": 110, "savefig.dpi": 110, "font.size": 10, "axes.titlesize": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
    "image.interpolation": "nearest",
}  # fmt: skip


def use_style() -> None:
    """Apply the workbook's matplotlib style."""
    plt.style.use(STYLE)


def save(fig: Figure, name: str, folder: str | os.PathLike) -> Path:
    """Write a figure to ``folder/figures/name.png`` (atomically) and return the path."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", bbox_inches="tight", facecolor="white", metadata={"Software": None})
    return write_atomically(Path(folder) / "figures" / f"{name}.png", buffer.getvalue())


def to_png(frame: Tensor | np.ndarray) -> bytes:
    """A frame as `to_image` takes it, as the bytes of a PNG file: the value of an ``ipywidgets.Image``.

    Notebook sliders redraw such an image. They use no ``Output`` widget (``interact`` makes one), because headless runs then
    exchange messages with the kernel in both directions, and some of them never end.
    """
    buffer = io.BytesIO()
    Image.fromarray(to_image(frame)).save(buffer, format="PNG")
    return buffer.getvalue()


def show(images, titles=(), columns: int | None = None, width: float = 11.0, caption: str = "") -> Figure:
    """Pictures side by side, without axes.

    Args:
        images: frames ``(3, H, W)``, label maps already coloured, or any ``(H, W[, 3])`` array.
        titles: one each.
        columns: pictures in a row; all in one row by default.
        width: of the figure, in inches.
        caption: printed under the figure; numbered captions are given by the notebooks.
    """
    images = [to_image(image) for image in images]
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    ratios = [
        max(image.shape[0] / image.shape[1] for image in images[row * columns : (row + 1) * columns])
        for row in range(rows)
    ]
    cell = width / columns
    title_room = 0.3 if titles else 0.05
    fig, axes = plt.subplots(
        rows, columns, figsize=(width, cell * sum(ratios) + rows * title_room), squeeze=False,
        height_ratios=[cell * ratio + title_room for ratio in ratios],
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for n, image in enumerate(images):
        axes.flat[n].imshow(image, cmap="gray")
        if n < len(titles):
            axes.flat[n].set_title(titles[n])
    fig.subplots_adjust(
        left=0, right=1, bottom=0.02, top=1 - title_room / fig.get_figheight(), wspace=0.03, hspace=0.15
    )
    if caption:
        fig.text(0.5, -0.01, caption, ha="center", va="top", fontsize=9, color=COLOURS["grey"], wrap=True)
    return fig


def draw_arrows(axis: plt.Axes, frame: Tensor, flow: Tensor, step: int = 16) -> None:
    """A frame with flow arrows on it: each starts at a current-frame pixel and ends where the key frame has it.

    Args:
        axis: to draw on.
        frame: current frame ``(3, H, W)``.
        flow: ``(2, H, W)``, current -> key, in pixels of the frame.
        step: pixels from arrow to arrow.
    """
    axis.imshow(to_image(frame))
    axis.set_axis_off()
    flow = flow.detach().cpu()
    flow = torch.where(known(flow), flow, torch.nan)  # which gets no arrow
    y, x = np.mgrid[step // 2 : flow.shape[1] : step, step // 2 : flow.shape[2] : step]
    axis.quiver(
        x, y, flow[0, y, x], flow[1, y, x], color="gold", angles="xy", scale_units="xy", scale=1, width=0.004,
        headwidth=4, edgecolor="black", linewidth=0.3,
    )  # fmt: skip


STATIONS = {
    "decode": "#dddddd", "image": "#bbbbbb", "N_feat": "#444444", "remember": "#8ab6d6", "F": "#2a6f97", "W": "#d1603d",
    "N_task": "#6a994e", "overlay": "#cfcfcf", "write": "#e8e8e8",
}  # fmt: skip
"""What happens to a frame, in order, each with its colour in `stations`."""


def stations(rows: dict[str, dict[str, float]], width: float = 9.0) -> Figure:
    """Where the time of a frame goes: a bar for each kind of frame, a piece for each station.

    Args:
        rows: kind of frame -> station (of `STATIONS`) -> milliseconds; from top to bottom.
        width: of the figure, in inches.
    """
    fig, axis = plt.subplots(figsize=(width, 0.9 + 0.45 * len(rows)))
    left = np.zeros(len(rows))
    for name, colour in STATIONS.items():
        times = np.array([found.get(name, 0.0) for found in rows.values()])
        if times.any():
            here = times.nonzero()[0]
            axis.barh(here, times[here], left=left[here], color=colour, label=name, edgecolor="white", linewidth=0.5)
        left += times
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.set(xlabel="median time (ms)")
    axis.grid(axis="y", visible=False)
    axis.legend(ncols=len(STATIONS), fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return fig


def system() -> Figure:
    """Figure 2 of the paper in boxes: the way of a key frame above, that of every other frame below."""
    fig, axis = plt.subplots(figsize=(11, 2.8))
    rows = (
        (1.0, ("key frame", "$N_{feat}$  (heavy)", "features", "$N_{task}$", "labels"), ("", "grey", "", "", "")),
        (0.0, ("current frame", "F  (light)", "warp W", "$N_{task}$", "labels"), ("", "blue", "orange", "", "")),
    )
    for y, names, colours in rows:
        for x, (name, colour) in enumerate(zip(names, colours, strict=True)):
            box = dict(boxstyle="round,pad=1", facecolor=COLOURS.get(colour, "whitesmoke"), edgecolor="black")
            ink = "white" if colour else "black"
            axis.annotate(name, (x, y), ha="center", va="center", color=ink, bbox=box, zorder=2)
            if x:
                axis.annotate(
                    "", (x, y), (x - 1, y), arrowprops=dict(arrowstyle="-|>", shrinkA=50, shrinkB=50), zorder=1
                )
    for start, end in (((2, 1), (2, 0)), ((0, 1), (1, 0))):
        axis.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", shrinkA=22, shrinkB=28), zorder=1)
    axis.set(xlim=(-0.5, 4.5), ylim=(-0.4, 1.4))
    axis.set_axis_off()
    return fig


def flow_key(max_motion: float, size: tuple[int, int] = (101, 101)) -> np.ndarray:
    """The colour wheel of ``flow_to_rgb`` as a picture: centre is no motion, the rim is ``max_motion`` pixels.

    Args:
        max_motion: as given to ``flow_to_rgb``.
        size: rows and columns, such as those of the pictures beside it; the wheel fills the shorter side.
    """
    half = [side / min(size) for side in size]
    y, x = torch.meshgrid(
        *(torch.linspace(-end, end, side) for end, side in zip(half, size, strict=True)), indexing="ij"
    )
    outside = x**2 + y**2 > 1
    wheel = flow_to_rgb(torch.where(outside, 0, torch.stack((x, y)) * max_motion), max_motion)
    wheel[outside.numpy()] = 255
    return wheel


def pca_rgb(features: Tensor, basis: tuple[Tensor, ...] | None = None) -> tuple[np.ndarray, tuple[Tensor, ...]]:
    """Feature maps as colours: the three strongest principal components become red, green and blue.

    Args:
        features: ``(C, h, w)``.
        basis: from an earlier call, so that several maps share one colour code; None makes one from these features.

    Returns:
        uint8 ``(h, w, 3)`` and the basis.
    """
    rows = features.detach().float().cpu().flatten(1).T  # (h * w, C)
    if basis is None:
        mean = rows.mean(0)
        _, _, axes = torch.linalg.svd(rows - mean, full_matrices=False)
        axes = F.pad(axes[:3].T, (0, max(0, 3 - len(axes))))  # (C, 3); fewer channels leave blue, then green, black
        projected = (rows - mean) @ axes
        low, high = projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0)
        basis = (mean, axes, low, high)
    mean, axes, low, high = basis
    colours = (((rows - mean) @ axes - low) / (high - low + 1e-9)).clamp(0, 1)
    return (colours.view(*features.shape[1:], -1) * 255).to(torch.uint8).numpy(), basis


def write_gif(path: str | Path, frames: list[np.ndarray], fps: float = 10.0, colours: int = 128) -> Path:
    """Write RGB frames ``(H, W, 3)`` uint8 as a looping animated GIF with one shared palette."""
    images = [Image.fromarray(frame) for frame in frames]
    sample = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 4)], axis=1))
    palette = sample.quantize(colours, method=Image.Quantize.MEDIANCUT)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    buffer = io.BytesIO()
    images[0].save(
        buffer, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, optimize=True
    )
    return write_atomically(path, buffer.getvalue())


def image_tag(path: str | Path) -> str:
    """A picture file as an element of a page with the picture inside: pages export animations in no other way."""
    path = Path(path)
    data = base64.b64encode(path.read_bytes()).decode()
    kind = path.suffix.lstrip(".").lower()
    return f'<img src="data:image/{kind};base64,{data}" alt="{escape(path.name)}" style="max-width: 100%">'


def maps(values, titles=(), unit: str = "", limit: float | None = None, columns: int | None = None, width: float = 11.0,
         caption: str = "", cmap: str = "magma") -> Figure:  # fmt: skip
    """Scalar maps side by side in one colour code, with its scale at the right.

    Args:
        values: maps ``(H, W)``, tensors or arrays, not negative.
        titles: one each.
        unit: written at the colour scale.
        limit: value of the brightest colour; None takes the largest value of all maps.
        columns, width, caption: as in `show`.
        cmap: of matplotlib.
    """
    values = [np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v, dtype=np.float32).squeeze() for v in values]
    limit = limit or max(np.max(v[np.isfinite(v)], initial=0) for v in values) or 1.0
    fig = show(values, titles, columns, width, caption)
    for axis in fig.axes[: len(values)]:
        axis.images[0].set(cmap=cmap, clim=(0, limit))
    fig.colorbar(fig.axes[0].images[0], ax=fig.axes, label=unit, fraction=0.025, pad=0.01)
    return fig
