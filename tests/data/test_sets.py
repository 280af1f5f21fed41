"""The intensity-threshold data set: splits apart in time, one normalisation, frames kept in memory."""

import pytest
import torch

from dfflib.data.clips import SPLITS
from dfflib.data.threshold import intensity_statistics, threshold_clip, threshold_set
from dfflib.data.video import sample_clip

SIDE = 36


def test_parts_are_apart_in_time_and_labelled():
    whole = sample_clip("carphone", SIDE)
    splits = {split: threshold_set(split, SIDE, ("carphone",))[0] for split in SPLITS}
    assert [len(splits[split]) for split in SPLITS] == [60, 15, 25]
    for split, start in (("train", 0), ("val", 70), ("test", 95)):
        clip = splits[split]
        assert (
            clip.name == f"carphone/{split}" and clip.num_classes == 2 and list(clip.labelled) == list(range(len(clip)))
        )
        assert torch.equal(clip.frames[0], whole.frames[start])
        assert torch.equal(clip.frames[len(clip) - 1], whole.frames[start + len(clip) - 1])
        assert isinstance(clip.masks, torch.Tensor) and clip.masks.dtype == torch.int64
        assert tuple(clip.masks.shape) == (len(clip), *clip.size) and clip.masks.unique().tolist() == [0, 1]


def test_every_part_is_normalised_by_the_train_part():
    train, test = (threshold_set(split, SIDE, ("carphone",))[0] for split in ("train", "test"))
    assert torch.equal(test.masks[3], threshold_clip(test, normalisation=intensity_statistics(train)).masks[3])


def test_asked_twice_it_is_the_same_set():
    assert threshold_set("val", SIDE, ("carphone",)) is threshold_set("val", SIDE, ("carphone",))


def test_unknown_part():
    with pytest.raises(ValueError, match="train, val, test"):
        threshold_set("training", SIDE)
