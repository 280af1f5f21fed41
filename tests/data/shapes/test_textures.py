"""Textures: disjoint photographs, statistics that were asked for, the same for the same seed."""

import itertools

import numpy as np
import pytest

from dfflib.data.shapes import textures
from dfflib.errors import DffError


def test_no_photograph_serves_two_parts_and_all_are_installed():
    for one, other in itertools.combinations(textures.PHOTOGRAPHS.values(), 2):
        assert not set(one) & set(other)
    for names in textures.PHOTOGRAPHS.values():
        for name in names:
            image = textures.photograph(name)
            assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) <= textures.LARGEST


def test_a_missing_photograph_is_one_sentence():
    with pytest.raises(DffError, match=r"absent.png is missing or damaged: install scikit-image again"):
        textures.photograph("absent.png")


@pytest.mark.parametrize("kind", textures.PATTERNS)
def test_patterns_vary_and_repeat_with_their_seed(kind):
    one, again, other = (textures.pattern(np.random.default_rng(seed), kind, 96, 20.0) for seed in (1, 1, 2))
    assert one.shape == (96, 96) and one.dtype == np.float32 and np.isfinite(one).all()
    assert one.std() > 0.2 and np.array_equal(one, again) and not np.array_equal(one, other)


def test_an_unknown_pattern_is_refused():
    with pytest.raises(ValueError, match="pattern is 'plaid'"):
        textures.pattern(np.random.default_rng(0), "plaid", 32, 8.0)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_colouring_gives_the_mean_and_the_deviation_asked_for(channels):
    texture = np.random.default_rng(3).standard_normal((64, 64, *channels)).astype(np.float32) * 7 + 90
    result = textures.coloured(texture, np.array([120.0, 100.0, 140.0]), detail=20, hue_kept=1.0)
    np.testing.assert_allclose(result.mean((0, 1)), [120, 100, 140], atol=0.5)
    np.testing.assert_allclose(result.std((0, 1)), 20, rtol=0.05)
    flat = textures.coloured(np.zeros((8, 8, *channels), np.float32), np.array([10.0, 20.0, 30.0]), detail=20)
    np.testing.assert_allclose(flat, np.broadcast_to([10, 20, 30], (8, 8, 3)), atol=1e-3)


def test_photo_patches_have_the_size_asked_for_and_come_from_their_part(monkeypatch):
    asked, real = set(), textures.photograph
    monkeypatch.setattr(textures, "photograph", lambda name: (asked.add(name), real(name))[1])
    rng = np.random.default_rng(0)
    for size in (33, 300):
        patch = textures.photo_patch(rng, "val", size, (0.2, 1.0))
        assert patch.shape == (size, size, 3) and patch.dtype == np.float32
    for _ in range(30):
        textures.photo_patch(rng, "val", 16, (0.2, 1.0))
    assert asked == set(textures.PHOTOGRAPHS["val"])
