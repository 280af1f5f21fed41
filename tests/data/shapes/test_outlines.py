"""Outlines: signed distances against the nearest point of an outline traced by brute force."""

import numpy as np
import pytest

from dfflib.data.shapes.outlines import CLASS_NAMES, OUTLINES, REACH, distance

LABELS = range(1, len(CLASS_NAMES))


def grid(side: int = 801) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[-1.5 : 1.5 : side * 1j, -1.5 : 1.5 : side * 1j]
    return x, y


def test_every_class_but_the_background_has_an_outline():
    assert tuple(OUTLINES) == CLASS_NAMES[1:]
    assert len(CLASS_NAMES) >= 7  # six shapes and the background


@pytest.mark.parametrize("label", LABELS)
def test_distance_is_the_way_to_the_nearest_point_of_the_outline(label):
    x, y = grid()
    inside = distance(label, x, y) < 0
    edge = (inside[1:, 1:] != inside[:-1, 1:]) | (inside[1:, 1:] != inside[1:, :-1])
    outline = np.stack((x[1:, 1:][edge], y[1:, 1:][edge]))
    points = np.random.default_rng(0).uniform(-1.4, 1.4, (2, 600))
    nearest = np.linalg.norm(points[:, :, None] - outline[:, None], axis=0).min(1)
    found = distance(label, *points)
    close = nearest < 0.15  # only distances near the outline are used, for the soft edge
    assert close.sum() > 50
    np.testing.assert_allclose(np.abs(found[close]), nearest[close], atol=0.012)


@pytest.mark.parametrize("label", LABELS)
def test_shapes_lie_within_reach_and_are_about_equally_large(label):
    x, y = grid()
    inside = distance(label, x, y) < 0
    assert np.hypot(x, y)[inside].max() <= REACH
    assert 1.3 < inside.mean() * 9 < 2.4  # area in square units of material
    assert abs(x[inside].mean()) < 0.1 and abs(y[inside].mean()) < 0.25  # about centred
