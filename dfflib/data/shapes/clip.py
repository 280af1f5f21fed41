"""The Shapes world: synthetic video in which every label, and the motion between any two frames, is known exactly.

    clip = ShapesClip(seed=7, level="medium", size=(128, 128), num_frames=30)
    clip.frames[9], clip.masks[9], clip.instances[9], clip.boxes(9)     # what one frame shows
    clip.flow(9, 5), clip.occlusion(9, 5), clip.track(0, points)        # what became of it

Labels are read at pixel centres: a pixel belongs to the front-most layer that covers its centre. Its flow is that of the
layer. It is *occluded* in another frame where a layer in front of its own covers the point that it moved to, and *out of view*
where that point lies outside the picture (beyond the centres of the edge pixels, as in `dfflib.warp.in_view`).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from dfflib.data.clips import Boxes, Clip, Tracks
from dfflib.data.shapes.outlines import CLASS_NAMES, distance
from dfflib.data.shapes.scenes import EXTENT, UNITS, Level, Pose, draw_scene, get_level, split_of
from dfflib.data.stacks import LazyStack
from dfflib.errors import DffError

Made = TypeVar("Made")
KEPT_FRAMES = 4  # geometry of so many frames is kept in memory
BLUR_SAMPLES = 5  # pictures averaged while the shutter is open


Region = tuple[slice, slice, np.ndarray, np.ndarray]
"""Rows and columns of the picture that a shape can touch; there, its material, and the distance to its outline in pixels."""


@dataclass
class _Geometry:
    """What the pixel centres of one frame lie on."""

    poses: list[Pose]
    top: np.ndarray  # (H, W) int16: front-most layer
    material: np.ndarray  # (2, H, W) float64: point of that layer's material
    regions: list[Region | None]  # of each shape; None where it is out of the picture


class ShapesClip(Clip):
    """A clip of the Shapes world; everything is rendered when asked for, and is a pure function of the arguments.

    Args:
        seed: 0 to 999 999 train, from 1 000 000 validation, from 2 000 000 test; splits share no photograph.
        level: ``"easy"``, ``"medium"``, ``"hard"``, or a `Level` of your own (see `dfflib.data.shapes.scenes.get_level`).
        size: ``(height, width)`` in pixels; the world grows with the shorter side.
        num_frames: T; a longer clip of the same seed begins with the same frames.
        fps: nominal frame rate.

    Frames, masks and instances are as in every `Clip`. The number of an object is its place in depth: 1 is the rearmost.

    Raises:
        DffError: unknown level or seed, a size below 16 pixels, or no frames.
    """

    def __init__(
        self,
        seed: int,
        level: str | Level = "medium",
        size: tuple[int, int] = (128, 128),
        num_frames: int = 30,
        fps: float = 25.0,
    ):
        self.level = get_level(level)
        self.split = split_of(seed)
        if min(size) < 16 or num_frames < 1:
            raise DffError(
                f"the Shapes world has no clip of {num_frames} frames of {size[1]}x{size[0]} pixels: "
                f"ask for 1 frame or more, and for 16 pixels or more each way."
            )
        self._arguments = (seed, self.level, tuple(size), num_frames, fps)
        self.seed, self._size = seed, (int(size[0]), int(size[1]))
        self.scene = draw_scene(seed, self.level, self._size)
        self.classes = torch.tensor([layer.label for layer in self.scene.layers])  # of each object; 0 is background
        self._grid = np.mgrid[: self._size[0], : self._size[1]].astype(np.float64)[::-1]  # x, y of pixel centres
        self._kept: OrderedDict[tuple, Any] = OrderedDict()  # by what was asked for
        super().__init__(
            f"shapes-{self.level.name}-{seed}",
            LazyStack(self._frame, num_frames),
            fps,
            LazyStack(lambda i: self.classes[self._top(i)], num_frames),
            class_names=CLASS_NAMES,
            instances=LazyStack(self._top, num_frames),
            boxes=self._frame_boxes,
        )
        self.continuous = True

    def __reduce__(self):
        return ShapesClip, self._arguments  # so that workers of a DataLoader can be handed one

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return self._size

    # --- what one frame shows -----------------------------------------------------------------------------------------

    def _frame(self, index: int) -> Tensor:
        """Frame ``(3, H, W)`` uint8."""
        level, (height, width) = self.level, self._size
        if level.shutter:
            times = index + level.shutter * (np.arange(BLUR_SAMPLES) / (BLUR_SAMPLES - 1) - 0.5)
            picture: np.ndarray = reduce(np.add, (self._paint(self._geometry(time)) for time in times)) / BLUR_SAMPLES
        else:
            picture = self._paint(self._geometry(index))
        if level.blur:
            picture = cv2.GaussianBlur(picture, (0, 0), level.blur * min(self._size) / UNITS)
        if level.light:
            gain, slope_x, slope_y = self.scene.light(index)
            x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
            picture *= (1 + gain + slope_x * x + slope_y * y[:, None]).astype(np.float32)[..., None]
        if level.noise:
            rng = np.random.Generator(np.random.SFC64([self.seed, 2, index]))
            picture += level.noise * rng.standard_normal(picture.shape, dtype=np.float32)
        np.rint(picture, out=picture)
        return torch.from_numpy(np.clip(picture, 0, 255, out=picture).astype(np.uint8).transpose(2, 0, 1).copy())

    def _paint(self, geometry: _Geometry) -> np.ndarray:
        """Picture ``(H, W, 3)`` float32 in 0..255: layers from back to front, each with a soft edge a pixel wide."""
        back, *shapes = self.scene.layers
        material = geometry.poses[0].to_material(*self._grid)
        picture = _look_up(back.texture, material, back.extent)
        for layer, region in zip(shapes, geometry.regions, strict=True):
            if region is not None:
                rows, columns, material, beyond = region
                cover = np.clip(0.5 - beyond, 0, 1).astype(np.float32)[..., None]
                below = picture[rows, columns]
                picture[rows, columns] = below + cover * (_look_up(layer.texture, material, EXTENT) - below)
        return picture

    def _geometry(self, time: float) -> _Geometry:
        """Computed once for the frames asked for last; times between frames (motion blur) are not kept."""
        if time != int(time):
            return self._new_geometry(time)
        return self._recent(("geometry", int(time)), lambda: self._new_geometry(int(time)))

    def _new_geometry(self, time: float) -> _Geometry:
        poses = self.scene.poses(time, self._size)
        top, material = np.zeros(self._size, np.int16), poses[0].to_material(*self._grid)
        regions: list[Region | None] = []
        for number, (layer, pose) in enumerate(zip(self.scene.layers[1:], poses[1:], strict=True), start=1):
            rows, columns = _window(pose, self._size)
            if rows.start >= rows.stop or columns.start >= columns.stop:
                regions.append(None)
                continue
            point = pose.to_material(self._grid[0, rows, columns], self._grid[1, rows, columns])
            beyond = distance(layer.label, *point)
            inside = beyond < 0
            top[rows, columns][inside] = number
            material[:, rows, columns][:, inside] = point[:, inside]
            regions.append((rows, columns, point, beyond * np.sqrt(abs(np.linalg.det(pose.matrix)))))
        return _Geometry(poses, top, material, regions)

    def _recent(self, key: tuple, make: Callable[[], Made]) -> Made:
        """``make()``, or its result if it was among the last asked for."""
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > KEPT_FRAMES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _top(self, index: int) -> Tensor:
        return torch.from_numpy(self._geometry(index).top.astype(np.int64))

    def _frame_boxes(self, index: int) -> Boxes:
        """Modal boxes: around what is seen. ``occluded``: a part that would be in view is hidden by another shape."""
        geometry, found = self._geometry(index), []
        for number, region in enumerate(geometry.regions, start=1):
            if region is None:
                continue
            rows, columns, _, beyond = region
            seen = geometry.top[rows, columns] == number
            ys, xs = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            if len(ys):
                box = (columns.start + xs[0], rows.start + ys[0], columns.start + xs[-1] + 1, rows.start + ys[-1] + 1)
                found.append((box, number, bool(seen.sum() < (beyond < 0).sum())))
        boxes = torch.tensor(np.array([box for box, *_ in found], np.float32).reshape(-1, 4))
        numbers = torch.tensor([number for _, number, _ in found], dtype=torch.int64)
        hidden = torch.tensor([partly for *_, partly in found], dtype=torch.bool)
        return Boxes(boxes, self.classes[numbers], numbers, hidden)

    # --- what became of it in another frame ---------------------------------------------------------------------------

    @property
    def has_flow(self) -> bool:
        """True: the flow of every pixel is known."""
        return True

    def flow(self, i: int, k: int) -> Tensor:
        """As in every `Clip`, ``(2, H, W)`` float32: exact up to rounding."""
        return torch.from_numpy((self._landing(i, k) - self._grid).astype(np.float32))

    def out_of_view(self, i: int, k: int) -> Tensor:
        """As in every `Clip`, ``(H, W)`` bool."""
        return torch.from_numpy(~self._inside(*self._landing(i, k)))

    def occluded(self, i: int, k: int) -> Tensor:
        """As in every `Clip`, ``(H, W)`` bool."""
        i, k = self._index(i), self._index(k)
        if i == k:
            return torch.zeros(self._size, dtype=torch.bool)
        x, y = self._landing(i, k)
        return torch.from_numpy(self._covered(x, y, self._geometry(i).top, self.scene.poses(k, self._size)))

    @property
    def has_tracks(self) -> bool:
        """True: every point sticks to a surface."""
        return True

    def track(self, frame: int, points: Tensor) -> Tracks:
        """As in every `Clip`, through all frames."""
        start = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
        poses = self.scene.poses(self._index(frame), self._size)
        top, material = np.zeros(start.shape[1], np.int16), poses[0].to_material(*start)
        for number, (layer, pose) in enumerate(zip(self.scene.layers[1:], poses[1:], strict=True), start=1):
            point = pose.to_material(*start)
            inside = distance(layer.label, *point) < 0
            top[inside], material[:, inside] = number, point[:, inside]
        places, visible = [], []
        for time in range(len(self)):
            poses = self.scene.poses(time, self._size)
            x, y = start if time == self._index(frame) else self._moved(top, material, poses)
            places.append(np.stack((x, y), -1))
            visible.append(self._inside(x, y) & ~self._covered(x, y, top, poses))
        stacked = torch.from_numpy(np.stack(places).astype(np.float32))
        return Tracks(stacked, torch.from_numpy(np.stack(visible)), torch.from_numpy(top.astype(np.int64)))

    def _landing(self, i: int, k: int) -> np.ndarray:
        """Where in frame k the points under the pixel centres of frame i lie, ``(2, H, W)`` float64."""
        i, k = self._index(i), self._index(k)
        if i == k:
            return self._grid
        geometry = self._geometry(i)
        top, material = geometry.top, geometry.material
        return self._recent(("landing", i, k), lambda: self._moved(top, material, self.scene.poses(k, self._size)))

    def _moved(self, top: np.ndarray, material: np.ndarray, poses: list[Pose]) -> np.ndarray:
        """Points of the picture ``(2, ...)`` for material points of the layers ``top``."""
        place = poses[0].to_image(material)
        for number, pose in enumerate(poses[1:], start=1):
            own = top == number
            if own.any():
                place[:, own] = pose.to_image(material[:, own])
        return place

    def _covered(self, x: np.ndarray, y: np.ndarray, top: np.ndarray, poses: list[Pose]) -> np.ndarray:
        """Whether a layer in front of ``top`` covers the points; same shape as ``x``, bool."""
        covered = np.zeros(x.shape, bool)
        for number, (layer, pose) in enumerate(zip(self.scene.layers[1:], poses[1:], strict=True), start=1):
            (centre_x, centre_y), reach = pose.centre, pose.reach
            near = (top < number) & (np.abs(x - centre_x) < reach) & (np.abs(y - centre_y) < reach)
            if near.any():
                covered[near] |= distance(layer.label, *pose.to_material(x[near], y[near])) < 0
        return covered

    def _inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        height, width = self._size
        return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _window(pose: Pose, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the picture that a shape can touch, its soft edge included; empty if it is out of view."""
    low, high = np.floor(pose.centre - pose.reach - 1).astype(int), np.ceil(pose.centre + pose.reach + 2).astype(int)
    left, top = np.maximum(low, 0)
    right, bottom = np.minimum(high, size[::-1])
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _look_up(texture: np.ndarray, material: np.ndarray, extent: float) -> np.ndarray:
    """Texture at material points ``(2, h, w)``: float32 ``(h, w, 3)``, bilinear, reflected beyond the edge."""
    x, y = ((material / extent + 1) * ((len(texture) - 1) / 2)).astype(np.float32)
    return cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
