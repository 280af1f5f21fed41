"""What one pixel gives away: at the level that tables are measured on, nothing of the class of a shape."""

import pytest

from dfflib.data.shapes import ShapesClip
from dfflib.data.shapes.scenes import SEEDS_PER_SPLIT
from dfflib.evaluation.dataset_statistics import one_pixel_miou


@pytest.fixture(scope="module")
def measured():
    """Of the best classifier that sees one pixel's colour, by level; scenes of the train and of the val part."""
    return {
        level: one_pixel_miou(*(
            [ShapesClip(first + n, level, (64, 64)) for n in range(count)]
            for first, count in ((0, 300), (SEEDS_PER_SPLIT, 150))
        ))
        for level in ("study", "medium")
    }  # fmt: skip


def test_at_the_study_level_colour_says_nothing_on_the_class_of_a_shape(measured):
    study = measured["study"]
    assert study["one pixel"] - study["one pixel, classes dealt"] < 2


def test_what_is_left_is_the_difference_between_shapes_and_background(measured):
    """Colours at full contrast stand out. Whoever knew every outline, and guessed classes, would have 19.2: an IoU of 1 for
    the background and of 1/13 for each of seven classes."""
    study = measured["study"]
    assert study["background"] < study["one pixel"] < 100 * (1 + 7 / 13) / 8


def test_the_same_classifier_reads_the_class_at_the_medium_level(measured):
    medium = measured["medium"]
    assert medium["one pixel"] - medium["one pixel, classes dealt"] > 8
    assert medium["one pixel"] - medium["background"] > 20
