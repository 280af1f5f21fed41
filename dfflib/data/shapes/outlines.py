"""Outlines of the shape classes, as signed distance functions (the usual exact ones: I. Quilez, *2D distance functions*).

Coordinates are those of the shape's material: every shape is centred on the origin and lies within `REACH` of it.
"""

import numpy as np

REACH = 1.25
CLASS_NAMES = ("background", "disc", "square", "triangle", "star", "cross", "ring", "heart")


def distance(label: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance of points to the outline of a class, negative inside, in units of material.

    Args:
        label: class, 1 to 7.
        x, y: coordinates, of any shape.
    """
    return OUTLINES[CLASS_NAMES[label]](x, y)


def _disc(x, y):
    return np.hypot(x, y) - 0.85


def _square(x, y):
    x, y = np.abs(x) - 0.72, np.abs(y) - 0.72
    return np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0)


def _triangle(x, y, half=1.05):
    root = np.sqrt(3)
    x, y = np.abs(x) - half, y + half / root
    beyond = x + root * y > 0
    x, y = np.where(beyond, (x - root * y) / 2, x), np.where(beyond, (-root * x - y) / 2, y)
    return -np.hypot(x - np.clip(x, -2 * half, 0), y) * np.sign(y)


def _star(x, y, outer=1.2, inner=0.5):
    cos, sin = np.cos(np.pi / 5), np.sin(np.pi / 5)
    x = np.abs(x)
    fold = 2 * np.maximum(cos * x - sin * y, 0)
    x, y = x - fold * cos, y + fold * sin
    fold = 2 * np.maximum(-cos * x - sin * y, 0)
    x, y = np.abs(x + fold * cos), y + fold * sin - outer
    edge_x, edge_y = inner * sin, inner * cos - 1
    along = np.clip((x * edge_x + y * edge_y) / (edge_x**2 + edge_y**2), 0, outer)
    return np.hypot(x - edge_x * along, y - edge_y * along) * np.sign(y * edge_x - x * edge_y)


def _cross(x, y, long=0.95, wide=0.34):
    x, y = np.abs(x), np.abs(y)
    x, y = np.maximum(x, y), np.minimum(x, y)
    outside = np.maximum(x - long, y - wide)
    corner = np.where(outside > 0, x - long, wide - x), np.where(outside > 0, y - wide, -outside)
    return np.sign(outside) * np.hypot(np.maximum(corner[0], 0), np.maximum(corner[1], 0))


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.66) - 0.24


def _heart(x, y, scale=1.6):
    x, y = np.abs(x) / scale, y / scale + 0.55
    lobe = np.hypot(x - 0.25, y - 0.75) - np.sqrt(2) / 4
    side = np.maximum(x + y, 0) / 2
    point = np.sqrt(np.minimum(x**2 + (y - 1) ** 2, (x - side) ** 2 + (y - side) ** 2)) * np.sign(x - y)
    return scale * np.where(x + y > 1, lobe, point)


OUTLINES = {
    "disc": _disc, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross, "ring": _ring, "heart": _heart,
}  # fmt: skip
