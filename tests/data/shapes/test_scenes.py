"""Scenes: exact inverses, smooth motion at the speed asked for, splits that share nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfflib.data.shapes import textures
from dfflib.data.shapes.scenes import HARD, LEVELS, MEDIUM, Curves, draw_scene, get_level, split_of
from dfflib.errors import DffError


@given(seed=st.integers(0, 2_999_999), time=st.floats(0, 500), level=st.sampled_from(list(LEVELS)))
def test_to_image_undoes_to_material(seed, time, level):
    size = (48, 70)
    points = np.random.default_rng(seed).uniform(-20, 90, (2, 50))
    for pose in draw_scene(seed, LEVELS[level], size).poses(time, size):
        np.testing.assert_allclose(pose.to_image(pose.to_material(*points)), points, atol=1e-9)


def test_curves_move_at_the_speed_asked_for():
    rng = np.random.default_rng(0)
    curves = Curves.draw(rng, np.zeros(400), np.full(400, 1.5))
    times = np.arange(0, 2000, 7.3)
    rate = np.stack([(curves(t + 1e-3) - curves(t)) / 1e-3 for t in times])
    assert np.sqrt((rate**2).mean()) == pytest.approx(1.5, rel=0.03)


def test_a_scene_is_a_function_of_its_seed():
    one, again, other = (draw_scene(seed, MEDIUM, (64, 64)) for seed in (5, 5, 6))
    assert all(np.array_equal(a.texture, b.texture) for a, b in zip(one.layers, again.layers))
    assert not np.array_equal(one.layers[0].texture, other.layers[0].texture)


def test_parts_are_split_by_seed_and_use_their_own_photographs(monkeypatch):
    asked, real = [], textures.photograph
    monkeypatch.setattr(textures, "photograph", lambda name: (asked.append(name), real(name))[1])
    for first, split in ((0, "train"), (1_000_000, "val"), (2_000_000, "test")):
        assert split_of(first) == split_of(first + 999_999) == split
        asked.clear()
        for seed in range(first, first + 12):
            draw_scene(seed, MEDIUM, (32, 32))
        assert asked and set(asked) <= set(textures.PHOTOGRAPHS[split])


@pytest.mark.parametrize("seed", [-1, 3_000_000])
def test_seeds_outside_the_parts_are_refused(seed):
    with pytest.raises(DffError, match=f"no seed {seed}: choose one from 0 to 2999999"):
        split_of(seed)


def test_levels_by_name_and_with_changes():
    assert get_level("hard") is HARD
    assert get_level(MEDIUM, light=0.0).light == 0 and MEDIUM.light > 0
    with pytest.raises(DffError, match="no level 'extreme': choose one of easy, medium, hard"):
        get_level("extreme")


def test_at_the_easy_level_appearance_tells_the_class_and_at_the_hard_level_not():
    def hues(level):
        found = {}
        for seed in range(60):
            for layer in draw_scene(seed, get_level(level, contrast=1.0, shared=0.0), (32, 32)).layers[1:]:
                red, green, blue = layer.texture.mean((0, 1))
                angle = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
                found.setdefault(layer.label, []).append(np.exp(1j * angle))
        return {
            label: np.abs(np.mean(values)) for label, values in found.items()
        }  # 1: all alike, 0: all over the circle

    assert min(hues("easy").values()) > 0.9
    assert np.mean(list(hues("hard").values())) < 0.5
