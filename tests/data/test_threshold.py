"""Intensity-threshold labels against a naive recomputation, and on the real clips."""

import math

import pytest
import torch

from dfflib.data.clips import Clip, split_in_time
from dfflib.data.threshold import BLUR, CLASS_NAMES, THRESHOLD, intensity, intensity_statistics, threshold_clip
from dfflib.data.video import SAMPLE_NAMES, sample_clip


def noise_clip(length=5, size=(9, 12), seed=0, low=0, high=256, name="noise") -> Clip:
    rng = torch.Generator().manual_seed(seed)
    return Clip(name, torch.randint(low, high, (length, 3, *size), generator=rng).to(torch.uint8), 30.0)


def naive_grey(frame):
    """ITU-R 601 on bytes, rounded to a byte, in [0, 1]."""
    red, green, blue = frame.double()
    return (0.299 * red + 0.587 * green + 0.114 * blue).round() / 255


def naive_blur(grey, sigma=1.0):
    """A Gaussian in python, mirrored at the border without repeating the edge pixel."""
    reach = 4
    weights = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    height, width = grey.shape
    out = torch.zeros_like(grey)

    def mirror(i, n):
        while not 0 <= i < n:
            i = -i if i < 0 else 2 * (n - 1) - i
        return i

    for y in range(height):
        for x in range(width):
            for dy, wy in zip(range(-reach, reach + 1), weights):
                for dx, wx in zip(range(-reach, reach + 1), weights):
                    out[y, x] += wy * wx * grey[mirror(y + dy, height), mirror(x + dx, width)]
    return out / sum(weights) ** 2


def test_the_constants_are_the_prototypes():
    assert THRESHOLD == 0.1 and CLASS_NAMES == ("background", "object")


def test_intensity_is_blurred_grey():
    frame = noise_clip().frames[0]
    torch.testing.assert_close(intensity(frame, 0.0).double(), naive_grey(frame), atol=1.01 / 255, rtol=0)
    got, expected = intensity(frame), naive_blur(naive_grey(frame), BLUR)
    assert got.dtype == torch.float32 and got.shape == (9, 12)
    torch.testing.assert_close(got.double(), expected, atol=1 / 255, rtol=0)


def test_statistics_are_those_of_all_pixels():
    clip = noise_clip(7)
    values = torch.stack([naive_blur(naive_grey(clip.frames[i])) for i in range(7)])
    mean, std = intensity_statistics(clip)
    assert mean == pytest.approx(values.mean().item(), abs=1e-3) and std == pytest.approx(values.std().item(), abs=1e-3)


def test_long_clips_are_sampled_evenly():
    ramp = torch.arange(160).to(torch.uint8)[:, None, None, None].expand(160, 3, 4, 4)
    mean, _ = intensity_statistics(Clip("ramp", ramp), num_frames=16)
    assert mean * 255 == pytest.approx(sum(range(0, 160, 10)) / 16, abs=0.1)


@pytest.mark.parametrize("normalisation", [None, (0.4, 0.05)])
@pytest.mark.parametrize("threshold", [0.1, -0.5, 1.0])
def test_labels_equal_a_naive_recomputation(normalisation, threshold):
    clip = noise_clip()
    greys = torch.stack([naive_blur(naive_grey(clip.frames[i])) for i in range(len(clip))])
    mean, std = normalisation or (greys.mean().item(), greys.std().item())
    score = (greys - mean) / std
    labels = threshold_clip(clip, threshold, normalisation).masks[:]
    sure = (score - threshold).abs() > 0.005 / std  # a rounding of grey values to bytes cannot decide these
    assert labels.dtype == torch.int64 and sure.float().mean() > 0.7
    assert torch.equal(labels[sure], (score > threshold).long()[sure])


def test_a_labelled_clip_keeps_the_clips_frames_and_labels_all():
    clip = noise_clip()
    labelled = threshold_clip(clip)
    assert labelled.frames is clip.frames and labelled.name == "noise" and labelled.fps == 30.0
    assert list(labelled.labelled) == list(range(5)) and labelled.class_names == CLASS_NAMES
    assert labelled.num_classes == 2 and len(labelled.masks) == 5 and labelled.masks[2].shape == (9, 12)
    assert torch.equal(labelled.masks[[3]][0], labelled.masks[3])


def test_labels_are_made_when_asked_for():
    asked = []

    class Watched:
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            asked.append(index)
            return torch.zeros(3, 6, 6, dtype=torch.uint8)

    labelled = threshold_clip(Clip("watched", Watched()), normalisation=(0.5, 0.1))
    assert asked == []
    labelled.masks[700]
    assert set(asked) <= {0, 700}


def test_the_normalisation_that_is_passed_is_used():
    dark, bright = noise_clip(high=100), noise_clip(low=150, name="bright")
    own = threshold_clip(bright).masks[:].float().mean()
    theirs = threshold_clip(bright, normalisation=intensity_statistics(dark)).masks[:].float().mean()
    assert 0.2 < own < 0.8 and theirs == 1, "by the dark clip's measure everything is bright"


def test_a_flat_clip_is_background_at_every_grey_level():
    """Rounding must not make objects of it."""
    with_objects = []
    for level in range(256):
        clip = Clip("flat", torch.full((4, 3, 10, 12), level, dtype=torch.uint8))
        if threshold_clip(clip).masks[0].any():
            with_objects.append(level)
    assert with_objects == []


@pytest.mark.parametrize("name", SAMPLE_NAMES)
def test_both_classes_occur_on_the_real_clips(name):
    splits = split_in_time(sample_clip(name, 144))
    normalisation = intensity_statistics(splits["train"])
    for split, clip in splits.items():
        labelled = threshold_clip(clip, normalisation=normalisation)
        share = labelled.masks[[0, len(clip) // 2, len(clip) - 1]].float().mean((1, 2))
        assert ((share > 0.02) & (share < 0.98)).any(), (split, share.tolist())
        assert 0.05 < share.mean() < 0.95, (split, share.tolist())
