"""Scenes of the Shapes world: what is in one, how it moves, and how hard it is to read. `ShapesClip` renders them.

A scene is a stack of layers, from the background to the front. Each layer is a flat, textured piece of *material* with its own
coordinates ``v``, and at any time ``t`` (in frames, whole or not) it lies in the picture at

    point = L(t) bend_t(v) + c(t)

where ``bend`` is a smooth non-rigid deformation (two waves that shear the material, one after the other, so that its
inverse is known in closed form) and ``L, c`` hold turning, growing, moving, and the camera. As both directions are exact, so is
everything derived from them: flow between any two frames, occlusion, tracks.

Lengths are in *units*: the shorter side of the picture is 128 units long whatever its size in pixels, so a seed
shows the same scene at every size.
"""

import colorsys
from dataclasses import dataclass, replace

import cv2
import numpy as np

from dfflib.data.clips import SPLITS
from dfflib.data.shapes import textures
from dfflib.data.shapes.outlines import CLASS_NAMES, REACH
from dfflib.errors import DffError

UNITS = 128.0  # length of the picture's shorter side
SEEDS_PER_SPLIT = 1_000_000
EXTENT = 1.4  # the texture of a shape covers -EXTENT .. EXTENT of its material coordinates
TEXELS_PER_PIXEL = 2.0
BENDS = 2.2  # wave number of the deformation, in radians per unit of material


@dataclass(frozen=True)
class Level:
    """How hard a scene is. Ranges are drawn from uniformly; speeds are root mean squares over time, of a typical object.

    Attributes:
        name: of the level.
        shapes: fewest and most shapes in a square picture; a picture twice as wide has twice as many.
        radius: smallest and largest radius, in units.
        speed: of a shape through the world, in units a frame; its spread over shapes is a factor of about 2.
        camera: speed of the camera's pan, in units a frame.
        turn: of shapes, in radians a frame; the camera rolls at a fifth of it.
        growth: of shapes and of the camera's zoom, in relative size a frame.
        bend: size of the non-rigid deformation, as a share of the radius.
        still_camera: probability that the camera stands still.
        contrast: 1: shapes have colours of their own; 0: a shape's mean colour is the background's.
        cue: probability that a shape wears its class's own colour and pattern; 0: appearance says nothing on class.
        shared: probability that a shape is cut from the very texture of the background.
        patterned: probability of a procedural texture, otherwise a photograph, where no class's own is worn.
        noise: standard deviation of the sensor noise, in grey levels.
        blur: standard deviation of the lens blur, in units.
        light: amplitude of the change of light, as a share of the brightness.
        shutter: part of the frame time during which the shutter is open; above 0, motion blurs.
    """

    name: str
    shapes: tuple[int, int]
    radius: tuple[float, float]
    speed: float
    camera: float
    turn: float
    growth: float
    bend: float
    still_camera: float
    contrast: float
    cue: float
    shared: float
    patterned: float
    noise: float
    blur: float
    light: float
    shutter: float


EASY = Level(
    "easy", shapes=(2, 3), radius=(22, 34), speed=0.9, camera=0.5, turn=0.01, growth=0.002, bend=0.0, still_camera=0.4,
    contrast=1.0, cue=1.0, shared=0.0, patterned=0.5, noise=1.0, blur=0.0, light=0.0, shutter=0.0,
)  # fmt: skip
MEDIUM = Level(
    "medium", shapes=(3, 5), radius=(18, 32), speed=2.0, camera=1.6, turn=0.03, growth=0.01, bend=0.06, still_camera=0.1,
    contrast=0.7, cue=0.5, shared=0.1, patterned=0.5, noise=3.0, blur=0.3, light=0.05, shutter=0.0,
)  # fmt: skip
HARD = Level(
    "hard", shapes=(5, 8), radius=(11, 28), speed=4.0, camera=2.4, turn=0.06, growth=0.02, bend=0.1, still_camera=0.05,
    contrast=0.4, cue=0.0, shared=0.35, patterned=0.5, noise=6.0, blur=0.5, light=0.15, shutter=0.5,
)  # fmt: skip
STUDY = Level(
    "study", shapes=(5, 8), radius=(9, 20), speed=1.2, camera=0.9, turn=0.03, growth=0.01, bend=0.04, still_camera=0.1,
    contrast=1.0, cue=0.0, shared=0.0, patterned=0.5, noise=2.0, blur=0.3, light=0.05, shutter=0.0,
)  # fmt: skip
"""What tables are measured on: clear pictures of many small shapes, whose outline alone tells the class."""
LEVELS = {level.name: level for level in (EASY, MEDIUM, HARD, STUDY)}


def split_of(seed: int) -> str:
    """Split that a seed belongs to: the first million train, the second validates, the third tests.

    Raises:
        DffError: outside these.
    """
    if not 0 <= seed < len(SPLITS) * SEEDS_PER_SPLIT:
        raise DffError(
            f"the Shapes world has no seed {seed}: choose one from 0 to {len(SPLITS) * SEEDS_PER_SPLIT - 1}."
        )
    return SPLITS[seed // SEEDS_PER_SPLIT]


def first_seed(split: str) -> int:
    """The first seed of a split.

    Raises:
        DffError: no such split.
    """
    if split not in SPLITS:
        raise DffError(f"the Shapes world has no split {split!r}: choose one of {', '.join(SPLITS)}.")
    return SPLITS.index(split) * SEEDS_PER_SPLIT


@dataclass(frozen=True)
class Curves:
    """Several smooth functions of time: ``base + sum_j amplitude_j sin(frequency_j t + phase_j)``, each array ``(n, j)``."""

    base: np.ndarray
    amplitude: np.ndarray
    frequency: np.ndarray
    phase: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, base, speed) -> "Curves":
        """Curves around ``base`` whose rate of change has the root mean square ``speed``: a slow swing and a quick one."""
        base, speed = np.asarray(base, float), np.asarray(speed, float)
        frequency = 2 * np.pi / np.stack((rng.uniform(50, 130, len(base)), rng.uniform(14, 30, len(base))), -1)
        share = np.array([0.9, 0.436])  # of the speed; squares sum to one
        return cls(
            base, np.sqrt(2) * share * speed[:, None] / frequency, frequency, rng.uniform(0, 2 * np.pi, (len(base), 2))
        )

    def __call__(self, time: float) -> np.ndarray:
        return self.base + (self.amplitude * np.sin(self.frequency * time + self.phase)).sum(-1)


@dataclass(frozen=True)
class Pose:
    """Where a layer lies at one time: ``point = matrix @ bend(v) + centre``, in pixels."""

    matrix: np.ndarray
    inverse: np.ndarray
    centre: np.ndarray
    bend: np.ndarray
    reach: float  # no point of the layer lies farther from the centre, in pixels

    def to_image(self, v: np.ndarray) -> np.ndarray:
        """Points of the picture ``(2, ...)`` from points of the material ``(2, ...)``; exact inverse of `to_material`."""
        x, y = v
        if self.bend.any():
            x = x + self.bend[0] * np.sin(BENDS * y)
            y = y + self.bend[1] * np.sin(BENDS * x)
        (a, b), (c, d) = self.matrix
        return np.stack((a * x + b * y + self.centre[0], c * x + d * y + self.centre[1]))

    def to_material(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Points of the material ``(2, ...)`` from points of the picture."""
        x, y = x - self.centre[0], y - self.centre[1]
        (a, b), (c, d) = self.inverse
        x, y = a * x + b * y, c * x + d * y
        if self.bend.any():
            y = y - self.bend[1] * np.sin(BENDS * x)
            x = x - self.bend[0] * np.sin(BENDS * y)
        return np.stack((x, y))


@dataclass(frozen=True)
class Layer:
    """A piece of the world: its shape, its motion, its look.

    Attributes:
        label: class, 0 for the background.
        radius: length of one unit of material along each axis, in units of the picture, ``(2,)``.
        curves: x, y (units), angle (radians), log of size, and the two bends, as functions of time.
        texture: ``(S, S, 3)`` float32.
        extent: the texture covers material coordinates from -extent to extent.
    """

    label: int
    radius: np.ndarray
    curves: Curves
    texture: np.ndarray
    extent: float = EXTENT


@dataclass(frozen=True)
class Scene:
    """Layers from the background to the front, and the camera.

    Attributes:
        layers: the background, then the shapes from back to front.
        camera: pan x, y (units), roll (radians), log of zoom.
        light: relative brightness and its slope across the picture.
        level: that it was drawn at.
    """

    layers: tuple[Layer, ...]
    camera: Curves
    light: Curves
    level: Level

    def poses(self, time: float, size: tuple[int, int]) -> list[Pose]:
        """Where every layer lies at a time, in a picture of ``(height, width)`` pixels."""
        pixels = min(size) / UNITS
        pan_x, pan_y, roll, zoom = self.camera(time)
        view = pixels * np.exp(zoom) * _turn(roll)
        middle = np.array([size[1] - 1, size[0] - 1]) / 2
        poses = []
        for layer in self.layers:
            values = layer.curves(time)
            (x, y, angle, growth), bend = values[:4], values[4:]
            matrix = view @ _turn(angle) * (np.exp(growth) * layer.radius)
            reach = np.inf if layer.label == 0 else np.linalg.norm(matrix, 2) * (REACH + np.abs(bend).sum())
            centre = view @ (np.array([x - pan_x, y - pan_y])) + middle
            poses.append(Pose(matrix, np.linalg.inv(matrix), centre, bend, reach))
        return poses


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def draw_scene(seed: int, level: Level, size: tuple[int, int]) -> Scene:
    """The scene of a seed: the same in every process, and the same world at every size.

    Args:
        seed: 0 to 2 999 999; says which split's photographs are used.
        level: how hard.
        size: ``(height, width)`` in pixels; sets the resolution of textures, and how far shapes spread.
    """
    split, pixels = split_of(seed), min(size) / UNITS
    rng = np.random.default_rng([seed, 0])
    moving = rng.random() >= level.still_camera
    pace = level.camera * _spread(rng) * moving
    turn, growth = 0.2 * level.turn * moving, 0.5 * level.growth * moving
    camera = Curves.draw(rng, np.zeros(4), [pace / 1.4, pace / 1.4, turn * _spread(rng), growth * _spread(rng)])
    light = Curves.draw(rng, np.zeros(3), np.array([0.06, 0.03, 0.03]) * level.light)
    reach = np.array([size[1], size[0]]) / pixels / 2
    background = _background(rng, level, split, pixels, 1.5 * reach.max())
    shapes = [
        _shape(np.random.default_rng([seed, 1, n]), level, split, pixels, reach, background)
        for n in range(round(rng.integers(level.shapes[0], level.shapes[1] + 1) * reach.max() / reach.min()))
    ]
    return Scene((background, *shapes), camera, light, level)


def _spread(rng: np.random.Generator) -> float:
    """A factor around 1: speeds differ from scene to scene and from shape to shape, a few are much faster."""
    return float(np.exp(np.clip(0.6 * rng.standard_normal(), -1.5, 1.2)))


def _background(rng: np.random.Generator, level: Level, split: str, pixels: float, extent: float) -> Layer:
    size = round(2 * extent * pixels * TEXELS_PER_PIXEL * 0.75)
    if rng.random() < 0.25 * level.patterned:
        look = textures.pattern(rng, "noise", 256, 256 / rng.uniform(4, 10))
        mean = _hsv(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.3, 0.7))
    else:
        look = textures.photo_patch(rng, split, size, (0.35, 1.0))
        mean = np.clip(cv2.mean(look)[:3] + 10 * rng.standard_normal(3), 50, 200)
    detail = np.clip(cv2.meanStdDev(look)[1].mean(), 25, 50)
    texture = textures.finish(textures.coloured(look, mean, detail, hue_kept=1.0), size, blur=1.0)
    still = Curves.draw(rng, np.zeros(6), np.zeros(6))
    return Layer(0, np.full(2, UNITS / 2), still, texture, extent / (UNITS / 2))


def _shape(rng: np.random.Generator, level: Level, split: str, pixels: float, reach: np.ndarray, back: Layer) -> Layer:
    label = int(rng.integers(1, len(CLASS_NAMES)))
    radius = rng.uniform(*level.radius)
    aspect = np.exp(rng.uniform(-0.12, 0.12))
    pace = level.speed * _spread(rng) / np.sqrt(2)
    bend = level.bend * 2 * np.pi / 60  # amplitude -> speed of a swing of about 60 frames
    curves = Curves.draw(
        rng,
        [*(rng.uniform(-1, 1, 2) * reach), rng.uniform(0, 2 * np.pi), 0, 0, 0],
        [pace, pace, level.turn * _spread(rng), level.growth * _spread(rng), bend, bend],
    )
    size = round(2 * EXTENT * radius * pixels * TEXELS_PER_PIXEL)
    own = rng.random() < level.cue
    shared = not own and rng.random() < level.shared
    hue = (label - 1) / (len(CLASS_NAMES) - 1) + rng.uniform(-0.03, 0.03) if own else rng.random()
    colour = _hsv(hue, rng.uniform(0.55, 0.95), rng.uniform(0.45, 0.95))
    kinds = textures.PATTERNS
    if shared:
        look = _cut(rng, back.texture, size)
    elif own or rng.random() < level.patterned:
        kind = kinds[label - 1] if own else kinds[rng.integers(len(kinds))]
        look = textures.pattern(rng, kind, 128, 128 / rng.uniform(3, 7))
    else:
        look = textures.photo_patch(rng, split, size, (0.25, 0.7))
    around = np.array(cv2.mean(back.texture)[:3])
    mean = np.clip(around + (0.3 * level.contrast if shared else level.contrast) * (colour - around), 30, 225)
    texture = textures.finish(textures.coloured(look, mean, rng.uniform(18, 40)), size, blur=1.0)
    return Layer(label, radius * np.array([aspect, 1 / aspect]), curves, texture)


def _cut(rng: np.random.Generator, texture: np.ndarray, size: int) -> np.ndarray:
    """A random square of a texture."""
    side = min(size, len(texture))
    top, left = rng.integers(len(texture) - side + 1, size=2)
    return texture[top : top + side, left : left + side]


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def get_level(level: str | Level, **changes) -> Level:
    """A level by name, or the given one; keyword arguments replace single settings, say ``light=0``.

    Raises:
        DffError: no such level.
    """
    if not isinstance(level, Level):
        if level not in LEVELS:
            raise DffError(f"the Shapes world has no level {level!r}: choose one of {', '.join(LEVELS)}.")
        level = LEVELS[level]
    return replace(level, **changes) if changes else level
